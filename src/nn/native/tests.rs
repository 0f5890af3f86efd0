//! Holds the native backbone to candle's own operations, to itself (determinism) and to its memory bounds.

mod reference;

use candle_core::{Device, Tensor};
use rand::Rng;

use super::*;
use crate::domain::seed::StreamKey;
use crate::domain::settings::{BackboneKind, ImageShape};
use crate::nn::candle_backbone::CandleBackbone;
use crate::nn::ops::geometry::Layout;
use crate::nn::parameters::NamedTensor;

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
        let norm = unit.gamma.start..unit.beta.end;
        for (value, drawn) in store.values[norm.clone()].iter_mut().zip(&drawn[norm]) {
            *value += 0.3 * drawn;
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
        (net(10, 1, &[32, 48]), 3),
        // A large weight (summed by columns) beside a small one in one pass.
        (net(6, 1, &[144, 160]), 2),
        (net(11, 3, &[5, 20]), 1),
        (net(66, 3, &[4, 6]), 2),
    ]
}

#[test]
fn forward_and_all_gradients_agree_with_candle() {
    for (architecture, count) in networks() {
        let (store, head, images) =
            (store(&architecture), head(architecture.feature_count), batch(count, architecture.image));
        let groups = if count % 2 == 0 { 2 } else { 1 };
        let candle = CandleBackbone::new(Device::Cpu, architecture.clone());
        let expected =
            candle.step_gradients(&store, &head, &images, groups, &mut weighted_squares).expect("a step");
        let evaluated = candle.features(&store, &images, Mode::Eval).expect("a pass").0;
        let expected_embeddings =
            candle.represent(&store, &images, Representation::Embedding).expect("a pass");
        for kernel in Kernel::available() {
            let native = NativeBackbone::with_kernel(architecture.clone(), kernel);
            let found =
                native.step_gradients(&store, &head, &images, groups, &mut weighted_squares).expect("a step");
            let name = format!("{kernel:?} {:?} {:?}", architecture.image, architecture.feature_count);
            assert!((found.loss - expected.loss).abs() < 1e-4 * expected.loss.abs().max(1.0), "{name}: loss");
            assert!(
                error(&numbers(&found.features), &numbers(&expected.features)) < 1e-5,
                "{name}: features"
            );
            assert!(
                error(&found.statistics.values, &expected.statistics.values) < 1e-5,
                "{name}: statistics"
            );
            assert!(error(&found.head, &expected.head) < 1e-4, "{name}: head");
            for unit in architecture.units() {
                for range in [&unit.weight, &unit.gamma, &unit.beta] {
                    let worst = error(&found.backbone[range.clone()], &expected.backbone[range.clone()]);
                    assert!(worst < 2e-4, "{name} {} {range:?}: {worst:e}", unit.conv_name);
                }
            }
            let inferred = native.features(&store, &images, Mode::Eval).expect("a pass").0;
            assert!(error(&numbers(&inferred), &numbers(&evaluated)) < 1e-5, "{name}: inference");
            let embedded = native.represent(&store, &images, Representation::Embedding).expect("a pass");
            assert_eq!(embedded.dims(), expected_embeddings.dims());
            let worst = error(&numbers(&embedded), &numbers(&expected_embeddings));
            assert!(worst < 1e-5, "{name}: embedding {worst:e}");
        }
    }
}

#[test]
fn training_twice_gives_the_same_bits() {
    let architecture =
        Architecture::residual(BackboneKind::Small, ImageShape { size: 12, channels: 3 }, &[16, 24]);
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
            let found =
                native.step_gradients(&store, &head, &images, 1, &mut weighted_squares).expect("a step");
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
        let together =
            native.features(&store, &images, Mode::Eval).expect("a pass").0.to_vec2::<f32>().expect("f32");
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

/// The loss of the f64 reference: Σ weight · feature.
fn weighted_sum(features: &Tensor, weights: &[f32]) -> candle_core::Result<Tensor> {
    features.mul(&Tensor::from_slice(weights, features.shape(), &Device::Cpu)?)?.sum_all()
}

/// The native gradient for the loss Σ weight · feature.
fn native_gradient(
    native: &NativeBackbone,
    store: &ParameterStore,
    images: &Tensor,
    weights: &[f32],
) -> Vec<f32> {
    let empty = ParameterStore::of_plain(&[]);
    let mut loss = |features: &Tensor, _: &[Tensor]| weighted_sum(features, weights);
    native.step_gradients(store, &empty, images, 1, &mut loss).expect("a step").backbone
}

/// Which ReLUs were open in the last training pass, in the order of the forward pass.
fn native_masks(native: &NativeBackbone) -> Vec<Vec<bool>> {
    let tapes = native.tapes.lock().expect("not poisoned");
    let tape = tapes.last().expect("a tape");
    let open = |index: usize, layout: Layout| -> Vec<bool> {
        let images =
            tape.units[index].activation.chunks_exact(layout.image_len()).take(tape.batch.image_count);
        images
            .flat_map(|image| {
                (0..layout.height).flat_map(move |y| &image[layout.row_start(y)..][..layout.row_len()])
            })
            .map(|value| *value > 0.0)
            .collect()
    };
    let plan = &native.plan;
    let blocks = plan.blocks.iter().flat_map(|block| [&block.conv1, &block.conv2]);
    std::iter::once(&plan.stem).chain(blocks).map(|unit| open(unit.index, unit.activation)).collect()
}

/// Largest error of any tensor's gradient, relative to that tensor's largest number.
fn worst_tensor(architecture: &Architecture, found: &[f32], expected: &[f64]) -> f32 {
    let expected: Vec<f32> = expected.iter().map(|value| *value as f32).collect();
    let ranges = architecture.units().flat_map(|unit| [&unit.weight, &unit.gamma, &unit.beta]);
    ranges.map(|range| error(&found[range.clone()], &expected[range.clone()])).fold(0.0, f32::max)
}

fn flip_count(a: &[Vec<bool>], b: &[Vec<bool>]) -> usize {
    a.iter().flatten().zip(b.iter().flatten()).filter(|(a, b)| a != b).count()
}

/// Settles the question of docs/results/gradient-accuracy.md: a value that f64 puts within rounding of zero is moved
/// across it by f32, its ReLU opens or closes, and gradients differ by its whole share; with equal masks they agree.
#[test]
fn a_relu_that_rounding_flips_explains_a_large_gradient_error_entirely() {
    let architecture =
        Architecture::residual(BackboneKind::Small, ImageShape { size: 6, channels: 3 }, &[8, 16]);
    let images = batch(2, architecture.image);
    let pixels = numbers(&images);
    let weights = random(2 * architecture.feature_count, "feature weights");
    let unit = architecture.blocks[3].conv1.clone();
    let mut worst_flipped = 0.0_f32;
    for kernel in Kernel::available() {
        let mut flips = 0;
        for place in 0..24 {
            let mut store = store(&architecture);
            // Move a channel's shift so that one value of the last block's inner ReLU is zero to within an f32's digits.
            let before = reference::run(&architecture, &store, &pixels, &weights, None);
            let channel = place % unit.conv.out_channels;
            let at = place / unit.conv.out_channels * unit.conv.out_channels + channel;
            store.values[unit.beta.start + channel] -= before.inputs[7][at] as f32;
            let native = NativeBackbone::with_kernel(architecture.clone(), kernel);
            let found = native_gradient(&native, &store, &images, &weights);
            let masks = native_masks(&native);
            let own = reference::run(&architecture, &store, &pixels, &weights, None);
            let same = reference::run(&architecture, &store, &pixels, &weights, Some(&masks));
            let with_same_masks = worst_tensor(&architecture, &found, &same.gradient);
            assert!(with_same_masks < 2e-5, "{kernel:?} {place}: {with_same_masks:e}");
            if flip_count(&masks, &own.masks) > 0 {
                flips += 1;
                worst_flipped = worst_flipped.max(worst_tensor(&architecture, &found, &own.gradient));
            }
        }
        assert!(flips > 0, "{kernel:?}: no value was moved across zero");
    }
    assert!(worst_flipped > 1e-2, "a flip changes a gradient by its whole share, not by {worst_flipped:e}");
}

// Expected numbers: src/nn/ops/reference.py, section "network".
#[test]
fn a_network_matches_pytorch() {
    let architecture =
        Architecture::residual(BackboneKind::Small, ImageShape { size: 9, channels: 1 }, &[4, 6]);
    let wave = |len: usize, step: f64, phase: f64| -> Vec<f32> {
        (0..len).map(|index| (0.5 * (step * index as f64 + phase).sin()) as f32).collect()
    };
    let mut store = ParameterStore::for_backbone(&architecture);
    let mut tensors = store.export();
    let mut unit = 0;
    for NamedTensor { name, shape, values } in &mut tensors {
        let len = shape.iter().product();
        if shape.len() == 4 {
            *values = wave(len, 1.3, 0.2 + f64::from(unit));
        } else if name.ends_with(".weight") {
            *values = wave(len, 0.8, 0.5 + f64::from(unit)).iter().map(|value| 1.0 + value).collect();
        } else if name.ends_with(".bias") {
            *values = wave(len, 1.1, 0.4 + f64::from(unit));
        }
        unit += i32::from(name.ends_with("running_var"));
    }
    store.import(&tensors).expect("the same names");
    let images = Tensor::from_vec(wave(3 * 81, 0.7, 0.1), (3, 9, 9, 1), &Device::Cpu).expect("sizes agree");
    let native = NativeBackbone::new(architecture);
    let empty = ParameterStore::of_plain(&[]);
    let weights = wave(18, 0.9, 0.3);
    let mut loss = |features: &Tensor, _: &[Tensor]| weighted_sum(features, &weights);
    let step = native.step_gradients(&store, &empty, &images, 1, &mut loss).expect("a step");
    let features = [
        1.300323, 1.124615, 0.676109, 0.602443, 0.712705, 0.858129, 1.299206, 1.118262, 0.709686, 0.657397,
        0.814624, 0.960203, 1.290314, 1.08936, 0.702455, 0.627005, 0.824382, 0.992219,
    ];
    assert!(error(&numbers(&step.features), &features) < 1e-5);
    let mut gradients = store.clone();
    gradients.values = step.backbone;
    let gradients = gradients.export();
    for (name, expected) in [
        ("conv1.weight", [-0.090942, -0.520889, 1.01079]),
        ("bn1.bias", [0.112587, -0.086841, 0.033649]),
        ("layer1.0.conv2.weight", [-0.322461, -0.078716, -0.033919]),
        ("layer2.0.downsample.0.weight", [-0.046429, 0.01362, 0.041878]),
        ("layer2.1.bn2.weight", [-0.216495, 0.399808, -0.243206]),
    ] {
        let found = &gradients.iter().find(|tensor| tensor.name == name).expect("a tensor").values;
        let picked = [found[0], found[found.len() / 2], found[found.len() - 1]];
        assert!(error(&picked, &expected) < 2e-5, "{name}: {picked:?} for {expected:?}");
    }
}

/// The experiment of docs/results/gradient-accuracy.md, printed: `cargo test -p gleaner --release --lib -- --ignored
/// gradient_accuracy_of_resnet18 --nocapture`.
#[test]
#[ignore = "an experiment of minutes, for docs/results/gradient-accuracy.md"]
fn gradient_accuracy_of_resnet18() {
    let architecture = Architecture::new(BackboneKind::Resnet18, ImageShape { size: 32, channels: 3 });
    let store = store(&architecture);
    for draw in 0..4 {
        let count = 4;
        let pixels = random(count * 32 * 32 * 3, &format!("images {draw}"));
        let images = Tensor::from_slice(&pixels, (count, 32, 32, 3), &Device::Cpu).expect("sizes agree");
        let weights = random(count * architecture.feature_count, &format!("weights {draw}"));
        let own = reference::run(&architecture, &store, &pixels, &weights, None);
        for kernel in Kernel::available() {
            let native = NativeBackbone::with_kernel(architecture.clone(), kernel);
            let found = native_gradient(&native, &store, &images, &weights);
            let masks = native_masks(&native);
            let same = reference::run(&architecture, &store, &pixels, &weights, Some(&masks));
            println!(
                "draw {draw} {:8} relus {} flipped {} error against f64 {:.1e}, with the same masks {:.1e}",
                kernel.name(),
                masks.iter().map(Vec::len).sum::<usize>(),
                flip_count(&masks, &own.masks),
                worst_tensor(&architecture, &found, &own.gradient),
                worst_tensor(&architecture, &found, &same.gradient),
            );
        }
    }
}

#[test]
fn gradients_match_sums_in_f64() {
    for (architecture, count) in
        networks().into_iter().filter(|(architecture, _)| architecture.max_pool.is_none())
    {
        let (store, images) = (store(&architecture), batch(count, architecture.image));
        let weights = random(count * architecture.feature_count, "feature weights");
        for kernel in Kernel::available() {
            let native = NativeBackbone::with_kernel(architecture.clone(), kernel);
            let found = native_gradient(&native, &store, &images, &weights);
            let masks = native_masks(&native);
            let expected = reference::run(&architecture, &store, &numbers(&images), &weights, Some(&masks));
            let worst = worst_tensor(&architecture, &found, &expected.gradient);
            assert!(worst < 5e-5, "{kernel:?} {:?}: {worst:e}", architecture.image);
            let features: Vec<f32> = expected.features.iter().map(|value| *value as f32).collect();
            let got =
                numbers(&native.features(&store, &images, Mode::Train { groups: 1 }).expect("a pass").0);
            assert!(error(&got, &features) < 1e-5, "{kernel:?}");
        }
    }
}
