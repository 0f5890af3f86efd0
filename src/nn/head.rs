//! The linear head: class logits from pooled features, `fc.weight` [C, D] and `fc.bias` [C] as in torchvision.
//!
//! `logits` is a candle operation with its own loops on a CPU, since candle's matmul takes its threads from the environment and so has no
//! place on the reproducible path; on other devices it is a matmul. `logits_of` is the same product on plain slices, for scoring. Every
//! sum runs in a fixed order, row by row.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::parameters::ParameterStore;

/// Independent sums of a dot product; wide enough for the widest vector registers.
const LANES: usize = 16;

/// Rows of features that one parallel piece of `logits_of` takes.
const ROWS_PER_PIECE: usize = 512;

/// A head of zeros for `feature_count` features and `class_count` classes.
#[must_use]
pub fn linear(feature_count: usize, class_count: usize) -> ParameterStore {
    ParameterStore::of_plain(&[("fc.weight", &[class_count, feature_count]), ("fc.bias", &[class_count])])
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
    let [weight, bias] = head else {
        candle_core::bail!("a linear head has a weight and a bias, not {} tensors", head.len());
    };
    if features.device().is_cpu() {
        features.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Linear)
    } else {
        features.matmul(&weight.t()?)?.broadcast_add(bias)
    }
}

/// Logits `[N, C]` of plain features `[N, D]`, in parallel over rows; a row's result doesn't depend on its neighbours.
#[must_use]
pub fn logits_of(features: &[f32], head: &ParameterStore) -> Vec<f32> {
    let class_count = class_count(head);
    let weight = head.slice("fc.weight").unwrap_or_default();
    let bias = head.slice("fc.bias").unwrap_or_default();
    let Some(feature_count) = weight.len().checked_div(class_count).filter(|&count| count > 0) else {
        return Vec::new();
    };
    let mut logits = vec![0.0; features.len() / feature_count * class_count];
    logits
        .par_chunks_mut(ROWS_PER_PIECE * class_count)
        .zip(features.par_chunks(ROWS_PER_PIECE * feature_count))
        .for_each(|(logits, features)| multiply(features, weight, bias, logits));
    logits
}

/// `logits[n][c] = bias[c] + features[n] · weight[c]`.
fn multiply(features: &[f32], weight: &[f32], bias: &[f32], logits: &mut [f32]) {
    let feature_count = weight.len() / bias.len();
    for (row, out) in features.chunks_exact(feature_count).zip(logits.chunks_exact_mut(bias.len())) {
        for ((class, &shift), logit) in weight.chunks_exact(feature_count).zip(bias).zip(out) {
            *logit = shift + dot(row, class);
        }
    }
}

/// Inner product in `LANES` sums that are added in a fixed tree.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_lanes.remainder().iter().zip(b_lanes.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0] + rest
}

/// `to += factor · from`.
fn add_scaled(to: &mut [f32], factor: f32, from: &[f32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

/// The CPU operation behind `logits`.
struct Linear;

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear-head"
    }

    fn cpu_fwd(
        &self,
        features: &CpuStorage,
        features_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (count, feature_count) = features_layout.shape().dims2()?;
        let (class_count, width) = weight_layout.shape().dims2()?;
        if width != feature_count || bias_layout.shape().dims() != [class_count] || class_count == 0 || width == 0 {
            candle_core::bail!("a head of {class_count} × {width} doesn't fit {feature_count} features");
        }
        let features = contiguous(features, features_layout)?;
        let (weight, bias) = (contiguous(weight, weight_layout)?, contiguous(bias, bias_layout)?);
        let mut logits = vec![0.0; count * class_count];
        multiply(features, weight, bias, &mut logits);
        Ok((CpuStorage::F32(logits), (count, class_count).into()))
    }

    fn bwd(
        &self,
        features: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _logits: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let device = features.device();
        let numbers = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let (feature_values, weight_values) = (numbers(features)?, numbers(weight)?);
        let gradient = numbers(gradient)?;
        let (class_count, feature_count) = weight.dims2()?;
        let mut to_features = vec![0.0; feature_values.len()];
        let mut to_weight = vec![0.0; weight_values.len()];
        let mut to_bias = vec![0.0; class_count];
        for ((row, gradients), out) in feature_values
            .chunks_exact(feature_count)
            .zip(gradient.chunks_exact(class_count))
            .zip(to_features.chunks_exact_mut(feature_count))
        {
            for (class, &slope) in gradients.iter().enumerate() {
                let span = class * feature_count..(class + 1) * feature_count;
                add_scaled(out, slope, &weight_values[span.clone()]);
                add_scaled(&mut to_weight[span], slope, row);
                to_bias[class] += slope;
            }
        }
        Ok((
            Some(Tensor::from_vec(to_features, features.shape(), device)?),
            Some(Tensor::from_vec(to_weight, weight.shape(), device)?),
            Some(Tensor::from_vec(to_bias, bias.shape(), device)?),
        ))
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("a contiguous {:?} tensor is needed, not {:?}", DType::F32, storage.dtype()),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use rand::Rng;

    use super::*;
    use crate::domain::seed::StreamKey;

    fn random(count: usize, name: &str) -> Vec<f32> {
        let mut stream = StreamKey::new(1, name).stream();
        (0..count).map(|_| stream.random_range(-1.0..1.0)).collect()
    }

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
    }

    #[test]
    fn logits_and_their_gradients_are_those_of_a_matmul() {
        let (count, feature_count, class_count) = (5, 37, 3);
        let variable = |name: &str, shape: &[usize]| {
            Var::from_vec(random(shape.iter().product(), name), shape, &Device::Cpu).unwrap()
        };
        let features = variable("features", &[count, feature_count]);
        let head = [variable("weight", &[class_count, feature_count]), variable("bias", &[class_count])];
        let tensors = [head[0].as_tensor().clone(), head[1].as_tensor().clone()];
        let ours = logits(&features, &tensors).unwrap();
        let theirs = features.matmul(&tensors[0].t().unwrap()).unwrap().broadcast_add(&tensors[1]).unwrap();
        let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(close(&numbers(&ours), &numbers(&theirs)));
        let gradients = |logits: &Tensor| logits.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let (ours, theirs) = (gradients(&ours), gradients(&theirs));
        for variable in [&features, &head[0], &head[1]] {
            assert!(close(&numbers(ours.get(variable).unwrap()), &numbers(theirs.get(variable).unwrap())));
        }
    }

    #[test]
    fn plain_logits_equal_those_of_the_operation_to_the_bit() {
        let (count, feature_count, class_count) = (1030, 64, 10);
        let mut head = linear(feature_count, class_count);
        head.values = random(head.values.len(), "head");
        let features = random(count * feature_count, "features");
        let tensors = [
            Tensor::from_slice(head.slice("fc.weight").unwrap(), (class_count, feature_count), &Device::Cpu).unwrap(),
            Tensor::from_slice(head.slice("fc.bias").unwrap(), class_count, &Device::Cpu).unwrap(),
        ];
        let batch = Tensor::from_slice(&features, (count, feature_count), &Device::Cpu).unwrap();
        let expected = logits(&batch, &tensors).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(logits_of(&features, &head), expected);
        assert_eq!(class_count, super::class_count(&head));
    }
}
