//! Holds the native backbone to candle's own operations, to itself (determinism) and to its memory bounds.

use candle_core::{Device, Tensor};
use rand::Rng;

use super::*;
use crate::domain::seed::StreamKey;
use crate::domain::settings::{BackboneKind, ImageShape};
use crate::nn::candle_backbone::CandleBackbone;

fn random(count: usize, name: &str) -> Vec<f32> {
    let mut stream = StreamKey::new(5, name).stream();
    (0..count).map(|_| stream.random_range(-1.0..1.0)).collect()
}

/// Weights of the usual scale, norms away from 1 and 0, and running statistics.
fn store(architecture: &Architecture) -> ParameterStore {
    let mut store = ParameterStore::for_backbone(architecture);
    let drawn = random(architecture.parameter_count, "weights");
    for unit in architecture.units() {
        let conv = &unit.conv;
        let bound = (6.0 / (conv.kernel * conv.kernel * conv.in_channels) as f32).sqrt();
        for index in unit.weight.clone() {
            store.values[index] = bound * drawn[index];
        }
        for index in unit.gamma.start..unit.beta.end {
            store.values[index] += 0.3 * drawn[index];
        }
    }
    for (buffer, drawn) in store.buffers.iter_mut().zip(random(architecture.buffer_count, "buffers")) {
        *buffer += 0.2 * drawn;
    }
    store
}

fn head(feature_count: usize) -> ParameterStore {
    let mut head = ParameterStore::of_plain(&[("fc.weight", &[3, feature_count]), ("fc.bias", &[3])]);
    head.values = random(3 * feature_count + 3, "head");
    head
}

fn batch(count: usize, image: ImageShape) -> Tensor {
    let (size, channels) = (image.size as usize, image.channels as usize);
    let numbers = random(count * size * size * channels, "images");
    Tensor::from_vec(numbers, (count, size, size, channels), &Device::Cpu).expect("sizes agree")
}

/// A loss that weighs every feature differently, so that no gradient cancels.
fn weighted_squares(features: &Tensor, head: &[Tensor]) -> candle_core::Result<Tensor> {
    let logits = super::super::ops::linear::linear(features, &head[0], &head[1])?;
    let count = logits.elem_count();
    let weights = Tensor::from_vec(random(count, "loss"), logits.shape(), &Device::Cpu)?;
    logits.sqr()?.mul(&weights)?.sum_all()
}

/// Largest difference, relative to the largest expected number.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-6_f32, |scale, value| scale.max(value.abs()));
    found.iter().zip(expected).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs())) / scale
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|tensor| tensor.to_vec1()).expect("f32")
}

fn networks() -> Vec<(Architecture, usize)> {
    let net = |size, channels, widths: &[usize]| {
        Architecture::residual(BackboneKind::Small, ImageShape { size, channels }, widths)
    };
    vec![
        (net(9, 1, &[3, 10, 17]), 5),
        (net(8, 3, &[16, 32]), 4),
        (net(11, 3, &[5, 20]), 1),
        (net(66, 3, &[4, 6]), 2),
    ]
}

#[test]
fn forward_and_all_gradients_agree_with_candle() {
    for (architecture, count) in networks() {
        let (store, head, images) = (store(&architecture), head(architecture.feature_count), batch(count, architecture.image));
        let groups = if count % 2 == 0 { 2 } else { 1 };
        let candle = CandleBackbone::new(Device::Cpu, architecture.clone());
        let expected = candle.step_gradients(&store, &head, &images, groups, &mut weighted_squares).expect("a step");
        let evaluated = candle.features(&store, &images, Mode::Eval).expect("a pass").0;
        for kernel in Kernel::available() {
            let native = NativeBackbone::with_kernel(architecture.clone(), kernel);
            let found = native.step_gradients(&store, &head, &images, groups, &mut weighted_squares).expect("a step");
            let name = format!("{kernel:?} {:?} {:?}", architecture.image, architecture.feature_count);
            assert!((found.loss - expected.loss).abs() < 1e-4 * expected.loss.abs().max(1.0), "{name}: loss");
            assert!(error(&numbers(&found.features), &numbers(&expected.features)) < 1e-5, "{name}: features");
            assert!(error(&found.statistics.values, &expected.statistics.values) < 1e-5, "{name}: statistics");
            assert!(error(&found.head, &expected.head) < 1e-4, "{name}: head");
            for unit in architecture.units() {
                for range in [&unit.weight, &unit.gamma, &unit.beta] {
                    let worst = error(&found.backbone[range.clone()], &expected.backbone[range.clone()]);
                    assert!(worst < 2e-4, "{name} {} {range:?}: {worst:e}", unit.conv_name);
                }
            }
            let inferred = native.features(&store, &images, Mode::Eval).expect("a pass").0;
            assert!(error(&numbers(&inferred), &numbers(&evaluated)) < 1e-5, "{name}: inference");
        }
    }
}

#[test]
fn training_twice_gives_the_same_bits() {
    let architecture = Architecture::residual(BackboneKind::Small, ImageShape { size: 12, channels: 3 }, &[16, 24]);
    let images = batch(9, architecture.image);
    let train = || {
        let (mut store, mut head) = (store(&architecture), head(architecture.feature_count));
        let mut momentum = vec![0.0; store.values.len()];
        let native = NativeBackbone::new(architecture.clone());
        let step = crate::nn::ops::optimizer::SgdStep {
            learning_rate: 0.01,
            momentum: 0.9,
            weight_decay: 1e-4,
            nesterov: true,
        };
        for _ in 0..4 {
            let found = native.step_gradients(&store, &head, &images, 1, &mut weighted_squares).expect("a step");
            crate::nn::ops::optimizer::sgd_step(&mut store.values, &found.backbone, &mut momentum, &step);
            head.values.iter_mut().zip(&found.head).for_each(|(value, gradient)| *value -= 0.01 * gradient);
            store.update_running(&found.statistics, 0.1);
        }
        (store, head)
    };
    assert_eq!(train(), train());
}

#[test]
fn an_images_features_do_not_depend_on_its_batch() {
    for (architecture, _) in networks() {
        let (store, images) = (store(&architecture), batch(7, architecture.image));
        let native = NativeBackbone::new(architecture);
        let together = native.features(&store, &images, Mode::Eval).expect("a pass").0.to_vec2::<f32>().expect("f32");
        for index in [0, 3, 6] {
            let alone = native.features(&store, &images.narrow(0, index, 1).expect("in range"), Mode::Eval);
            assert_eq!(alone.expect("a pass").0.to_vec2::<f32>().expect("f32")[0], together[index]);
        }
    }
}

#[test]
fn buffers_are_reused_from_step_to_step() {
    let (architecture, count) = networks().swap_remove(1);
    let (store, head) = (store(&architecture), head(architecture.feature_count));
    let native = NativeBackbone::new(architecture.clone());
    for step in 0..20 {
        let images = batch(if step % 3 == 0 { count } else { count / 2 }, architecture.image);
        native.step_gradients(&store, &head, &images, 1, &mut weighted_squares).expect("a step");
        native.features(&store, &images, Mode::TrainWithoutTape { groups: 1 }).expect("a pass");
        native.features(&store, &images, Mode::Eval).expect("a pass");
        assert_eq!(native.tapes.lock().expect("not poisoned").len(), 1);
        assert!(native.activations.len() <= crate::nn::ops::thread_count());
    }
    assert_eq!(native.tapes.lock().expect("not poisoned")[0].capacity(), count);
}

#[test]
fn a_batch_that_groups_do_not_divide_is_refused() {
    let (architecture, _) = networks().swap_remove(0);
    let (store, images) = (store(&architecture), batch(5, architecture.image));
    let native = NativeBackbone::new(architecture);
    let refused = native.features(&store, &images, Mode::Train { groups: 2 }).unwrap_err();
    assert!(refused.to_string().contains("2 equal groups"), "{refused}");
}
