//! Heads over pooled features: the linear one of classifiers, `fc.weight` [C, D] and `fc.bias` [C] as in torchvision, and the projections of
//! contrastive tasks, which may have a hidden layer (`fc.0` and `fc.2`, as in MoCo v2's published code).
//!
//! On a CPU the product is `nn::ops::linear`, whose sums have a fixed order, since candle's matmul takes its threads from the environment
//! and so has no place on the reproducible path; on other devices it is a matmul. A row's logits don't depend on its neighbours.

use candle_core::{Device, Result, Tensor};

use super::backbone::{Backbone, StepGradients};
use super::candle_backbone::relu;
use super::loss::cross_entropy;
use super::mixup::Mixture;
use super::ops::linear;
use super::parameters::ParameterStore;

/// Rows of plain features that go through the product at a time.
const ROWS_PER_PRODUCT: usize = 8192;

/// A head of zeros for `feature_count` features and `class_count` classes.
#[must_use]
pub fn linear(feature_count: usize, class_count: usize) -> ParameterStore {
    ParameterStore::of_plain(&[("fc.weight", &[class_count, feature_count]), ("fc.bias", &[class_count])])
}

/// A projection head of zeros from `feature_count` features to `width` numbers, with or without a hidden layer as wide as the features.
#[must_use]
pub fn projection(feature_count: usize, width: usize, has_hidden_layer: bool) -> ParameterStore {
    if !has_hidden_layer {
        return linear(feature_count, width);
    }
    ParameterStore::of_plain(&[
        ("fc.0.weight", &[feature_count, feature_count]),
        ("fc.0.bias", &[feature_count]),
        ("fc.2.weight", &[width, feature_count]),
        ("fc.2.bias", &[width]),
    ])
}

/// Number of classes of a linear head.
#[must_use]
pub fn class_count(head: &ParameterStore) -> usize {
    head.slice("fc.bias").map_or(0, <[f32]>::len)
}

/// Logits [N, C] of `features` [N, D] under the head's tensors (weight [C, D], bias [C]), with history.
///
/// # Errors
/// Shapes that don't fit, or the device's.
pub fn logits(features: &Tensor, head: &[Tensor]) -> Result<Tensor> {
    match head {
        [weight, bias] => layer(features, weight, bias),
        _ => candle_core::bail!("a linear head has a weight and a bias, not {} tensors", head.len()),
    }
}

/// Projections [N, W] of `features` [N, D] under the tensors of a projection head, each of length 1, with history.
///
/// # Errors
/// Shapes that don't fit, or the device's.
pub fn project(features: &Tensor, head: &[Tensor]) -> Result<Tensor> {
    let projected = match head {
        [weight, bias] => layer(features, weight, bias)?,
        [hidden_weight, hidden_bias, weight, bias] => {
            layer(&relu(&layer(features, hidden_weight, hidden_bias)?)?, weight, bias)?
        }
        _ => candle_core::bail!("a projection head has one or two layers, not {} tensors", head.len()),
    };
    // The addend keeps the gradient of a projection of zeros finite.
    let length = (projected.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()?;
    projected.broadcast_div(&length)
}

/// The head's tensors in the order of their ranges, without history.
///
/// # Errors
/// The device's.
pub fn tensors(head: &ParameterStore, device: &Device) -> Result<Vec<Tensor>> {
    let ranges = head.value_ranges();
    ranges
        .map(|range| Tensor::from_slice(&head.values[range.range.clone()], range.shape.as_slice(), device))
        .collect()
}

/// `x · weightᵀ + bias`.
pub(super) fn layer(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        linear::linear(x, weight, bias)
    } else {
        x.matmul(&weight.t()?)?.broadcast_add(bias)
    }
}

/// Logits `[N, C]` of plain features `[N, D]` on the CPU.
///
/// # Errors
/// Features that aren't whole rows of the head's length.
pub fn logits_of(features: &[f32], head: &ParameterStore) -> Result<Vec<f32>> {
    let class_count = class_count(head);
    let weight = head.slice("fc.weight").unwrap_or_default();
    let bias = head.slice("fc.bias").unwrap_or_default();
    let feature_count = weight.len().checked_div(class_count).unwrap_or(0);
    if feature_count == 0 || !features.len().is_multiple_of(feature_count) {
        candle_core::bail!("{} features don't fit a head of {class_count} × {feature_count}", features.len());
    }
    let weight = Tensor::from_slice(weight, (class_count, feature_count), &Device::Cpu)?;
    let bias = Tensor::from_slice(bias, class_count, &Device::Cpu)?;
    let mut logits = Vec::with_capacity(features.len() / feature_count * class_count);
    for rows in features.chunks(ROWS_PER_PRODUCT * feature_count) {
        let rows = Tensor::from_slice(rows, (rows.len() / feature_count, feature_count), &Device::Cpu)?;
        logits.extend(linear::linear(&rows, &weight, &bias)?.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(logits)
}

/// A training pass of a classifier.
#[derive(Clone, Debug)]
pub struct ClassifiedStep {
    /// Loss and gradients.
    pub gradients: StepGradients,
    /// Answers that were judged.
    pub answer_count: usize,
    /// Right answers among the batch, under batch statistics.
    pub correct_count: usize,
}

/// Mean cross-entropy of a linear head against `targets`, one class an image, and its gradients; no parameter is changed.
///
/// # Errors
/// The backbone's, or a number of targets that isn't the batch's.
pub fn classified_step(
    backbone: &dyn Backbone,
    parameters: &ParameterStore,
    head: &ParameterStore,
    images: &Tensor,
    targets: &[u32],
) -> super::Result<ClassifiedStep> {
    step(backbone, parameters, head, images, targets, &|logits| cross_entropy(logits, targets))
}

/// `classified_step` on images that `mixture` blends; an answer is right when it names the class of the larger share.
///
/// # Errors
/// The backbone's, or a mixture or a number of targets that isn't the batch's.
pub fn mixed_step(
    backbone: &dyn Backbone,
    parameters: &ParameterStore,
    head: &ParameterStore,
    images: &Tensor,
    targets: &[u32],
    mixture: &Mixture,
) -> super::Result<ClassifiedStep> {
    let images = mixture.blend(images)?;
    step(backbone, parameters, head, &images, targets, &|logits| mixture.loss(logits, targets))
}

/// A pass under a loss of the logits [N, C].
fn step(
    backbone: &dyn Backbone,
    parameters: &ParameterStore,
    head: &ParameterStore,
    images: &Tensor,
    targets: &[u32],
    loss: &dyn Fn(&Tensor) -> Result<Tensor>,
) -> super::Result<ClassifiedStep> {
    let mut answers = Vec::new();
    let mut judge = |features: &Tensor, head: &[Tensor]| {
        let logits = logits(features, head)?;
        answers = logits.argmax(1)?.to_vec1::<u32>()?;
        loss(&logits)
    };
    let gradients = backbone.step_gradients(parameters, head, images, 1, &mut judge)?;
    let correct_count = answers.iter().zip(targets).filter(|(answer, target)| answer == target).count();
    Ok(ClassifiedStep { gradients, answer_count: targets.len(), correct_count })
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::domain::seed::StreamKey;

    fn random(count: usize, name: &str) -> Vec<f32> {
        let mut stream = StreamKey::new(1, name).stream();
        (0..count).map(|_| stream.random_range(-1.0..1.0)).collect()
    }

    #[test]
    fn plain_logits_are_those_of_the_definition_and_of_the_operation_to_the_bit() {
        let (count, feature_count, class_count) = (ROWS_PER_PRODUCT + 30, 37, 3);
        let mut head = linear(feature_count, class_count);
        head.values = random(head.values.len(), "head");
        let features = random(count * feature_count, "features");
        let found = logits_of(&features, &head).unwrap();
        let (weight, bias) = (head.slice("fc.weight").unwrap(), head.slice("fc.bias").unwrap());
        for row in [0, 1, ROWS_PER_PRODUCT, count - 1] {
            for class in 0..class_count {
                let terms = features[row * feature_count..]
                    .iter()
                    .zip(&weight[class * feature_count..][..feature_count]);
                let expected = bias[class] + terms.map(|(x, w)| x * w).sum::<f32>();
                assert!((found[row * class_count + class] - expected).abs() < 1e-4);
            }
        }
        let tensors = [
            Tensor::from_slice(weight, (class_count, feature_count), &Device::Cpu).unwrap(),
            Tensor::from_slice(bias, class_count, &Device::Cpu).unwrap(),
        ];
        let batch = Tensor::from_slice(&features, (count, feature_count), &Device::Cpu).unwrap();
        let together = logits(&batch, &tensors).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(found, together);
        assert!(logits_of(&features[1..], &head).is_err());
    }
}
