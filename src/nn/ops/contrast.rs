//! InfoNCE over a queue of keys, loss and gradient in one pass, as a candle operation.
//!
//! The similarities of a batch with its queue are far more numbers than the features, so a chain of elementwise operations over them would cost
//! as much as a part of the network. Two products on the compute pool and one walk over each row instead; every sum has a fixed order.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::Kernel;
use super::linear::{floats, multiply_matrix, with_floats};
use super::pack::PackedMatrix;
use super::threads::install;

/// Independent sums of a row.
const LANES: usize = 16;

/// Mean loss of `queries` [N, W] against their own `keys` [N, W] and `queue` [K, W], a scalar that is differentiable in the queries, and how many
/// queries are closest to their own key. All have length 1, so that products are cosines.
///
/// # Errors
/// Shapes that don't fit, or tensors that are not f32 on the CPU.
pub fn info_nce(
    queries: &Tensor,
    keys: &Tensor,
    queue: &Tensor,
    temperature: f32,
) -> Result<(Tensor, usize)> {
    let (shape, queue_shape) = (queries.dims2()?, queue.dims2()?);
    if keys.dims2()? != shape || queue_shape.1 != shape.1 {
        bail!("info_nce: queries are {shape:?}, keys {:?}, the queue {queue_shape:?}", keys.dims());
    }
    let (queries, keys, queue) = (queries.contiguous()?, keys.contiguous()?, queue.contiguous()?);
    let judged = with_floats(&queries, |queries| {
        with_floats(&keys, |keys| {
            with_floats(&queue, |queue| Ok(judge(queries, keys, queue, shape.1, temperature)))
        })
    })?;
    let correct_count = judged.correct_count;
    let operation = InfoNce { loss: judged.loss, gradient: Mutex::new(judged.gradient) };
    Ok((queries.apply_op1(operation)?, correct_count))
}

/// What a batch came to.
struct Judged {
    loss: f32,
    correct_count: usize,
    /// Of the loss by the queries, [N, W].
    gradient: Vec<f32>,
}

fn judge(queries: &[f32], keys: &[f32], queue: &[f32], width: usize, temperature: f32) -> Judged {
    let (count, queue_len) = (queries.len() / width, queue.len() / width);
    let kernel = Kernel::best();
    let mut packed = PackedMatrix::new(kernel, width, queue_len);
    packed.pack_columns(queue);
    let mut weights = multiply_matrix(queries, &packed, None); // [N, K]: cosines, then their parts of the gradient
    let scale = 1.0 / (count as f32 * temperature);
    let pairs = queries.par_chunks_exact(width).zip(keys.par_chunks_exact(width));
    let rows = pairs.zip(weights.par_chunks_exact_mut(queue_len.max(1)));
    let own: Vec<OwnKey> = install(|| {
        rows.map(|((query, key), row)| {
            let cosine = query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>();
            weigh_row(cosine, row, temperature, scale)
        })
        .collect()
    });
    let mut packed = PackedMatrix::new(kernel, queue_len, width);
    packed.pack_rows(queue, None);
    let mut gradient = multiply_matrix(&weights, &packed, None);
    for ((gradient, key), own) in gradient.chunks_exact_mut(width).zip(keys.chunks_exact(width)).zip(&own) {
        gradient.iter_mut().zip(key).for_each(|(gradient, key)| *gradient += own.weight * key);
    }
    let loss = own.iter().map(|own| f64::from(own.loss)).sum::<f64>() / count as f64;
    let correct_count = own.iter().filter(|own| own.is_nearest).count();
    Judged { loss: loss as f32, correct_count, gradient }
}

/// What a query's own key came to.
struct OwnKey {
    loss: f32,
    /// Its part of the gradient.
    weight: f32,
    is_nearest: bool,
}

/// Turns a row of cosines into its parts of the gradient.
fn weigh_row(own: f32, row: &mut [f32], temperature: f32, scale: f32) -> OwnKey {
    let largest = row.iter().copied().fold(own, f32::max);
    let mut sums = [0.0; LANES];
    for part in row.chunks_mut(LANES) {
        for (sum, cosine) in sums.iter_mut().zip(part) {
            *cosine = ((*cosine - largest) / temperature).exp();
            *sum += *cosine;
        }
    }
    let of_own = ((own - largest) / temperature).exp();
    let total = of_own + sums.iter().sum::<f32>();
    let factor = scale / total;
    row.iter_mut().for_each(|weight| *weight *= factor);
    OwnKey {
        loss: total.ln() - (own - largest) / temperature,
        weight: of_own * factor - scale,
        is_nearest: own >= largest,
    }
}

/// The operation behind [`info_nce`]: what it gives back was computed with its inputs.
struct InfoNce {
    loss: f32,
    gradient: Mutex<Vec<f32>>,
}

impl CustomOp1 for InfoNce {
    fn name(&self) -> &'static str {
        "info_nce"
    }

    fn cpu_fwd(&self, queries: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        floats(queries, layout)?;
        Ok((CpuStorage::F32(vec![self.loss]), Shape::from(())))
    }

    fn bwd(&self, queries: &Tensor, _result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let factor = gradient.to_scalar::<f32>()?;
        let own = self.gradient.lock().unwrap_or_else(PoisonError::into_inner);
        let scaled: Vec<f32> = own.iter().map(|value| value * factor).collect();
        Ok(Some(Tensor::from_vec(scaled, queries.shape(), &Device::Cpu)?))
    }
}
