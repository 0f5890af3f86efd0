//! A deterministic linear layer for the heads, as a candle operation.
//!
//! candle's own matrix product takes its threads from `RAYON_NUM_THREADS` and may split its sums by them; this one is
//! our product on the compute pool, with a fixed order of every sum. CPU tensors of f32 only.

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use super::Kernel;
use super::convolution::{Epilogue, multiply};
use super::geometry::Window;
use super::pack::PackedMatrix;
use super::threads::install;
use super::weight_gradient::{OutputGradient, Part, add_weight_gradient};

/// Rows of one piece of work.
const ROW_SPAN: usize = 32;

/// Rows of the weight's gradient in one piece of work.
const DEPTH_SPAN: usize = 96;

/// `x · weightᵀ + bias` with x `[N, D]`, weight `[C, D]` as in PyTorch and bias `[C]`; gives `[N, C]`.
///
/// Differentiable in all three. Errors when shapes don't fit or a tensor is not f32 on the CPU.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Linear { kernel: Kernel::best() })
}

/// The operation behind [`linear`].
#[derive(Clone, Copy, Debug)]
struct Linear {
    kernel: Kernel,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, depth) = x_layout.shape().dims2()?;
        let (width, weight_depth) = weight_layout.shape().dims2()?;
        if weight_depth != depth || bias_layout.shape().dims1()? != width {
            bail!(
                "linear: x is [{rows}, {depth}], weight [{width}, {weight_depth}], bias {:?}",
                bias_layout.shape()
            );
        }
        let (x, weight, bias) =
            (floats(x, x_layout)?, floats(weight, weight_layout)?, floats(bias, bias_layout)?);
        let mut packed = PackedMatrix::new(self.kernel, depth, width);
        packed.pack_columns(weight);
        let product = multiply_matrix(x, &packed, Some(bias));
        Ok((CpuStorage::F32(product), (rows, width).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (width, depth) = weight.dims2()?;
        let gradient = gradient.contiguous()?;
        let (of_x, of_weight, of_bias) = with_floats(x, |x| {
            with_floats(weight, |weight| {
                with_floats(&gradient, |gradient| {
                    let mut packed = PackedMatrix::new(self.kernel, width, depth);
                    packed.pack_rows(weight, None);
                    let of_x = multiply_matrix(gradient, &packed, None);
                    Ok((
                        of_x,
                        weight_gradient(self.kernel, x, gradient, depth, width),
                        column_sums(gradient, width),
                    ))
                })
            })
        })?;
        Ok((
            Some(Tensor::from_vec(of_x, x.shape(), &Device::Cpu)?),
            Some(Tensor::from_vec(of_weight, weight.shape(), &Device::Cpu)?),
            Some(Tensor::from_vec(of_bias, width, &Device::Cpu)?),
        ))
    }
}

/// `rows · matrix + bias` for a row-major matrix of rows.
pub(super) fn multiply_matrix(rows: &[f32], matrix: &PackedMatrix, bias: Option<&[f32]>) -> Vec<f32> {
    let (depth, width) = (matrix.depth(), matrix.width());
    let window = Window::matrix(depth, width);
    let mut product = vec![0.0; rows.len() / depth * width];
    let spans = rows.par_chunks(ROW_SPAN * depth).zip(product.par_chunks_mut(ROW_SPAN * width));
    install(|| {
        spans.for_each(|(rows, product)| {
            multiply(rows, &window, matrix, product, Epilogue { bias, ..Epilogue::default() });
        });
    });
    product
}

/// `gradientᵀ · x`, `[width, depth]`.
fn weight_gradient(kernel: Kernel, x: &[f32], gradient: &[f32], depth: usize, width: usize) -> Vec<f32> {
    let window = Window::matrix(width, depth);
    let mut sum = vec![0.0; width * depth];
    install(|| {
        sum.par_chunks_mut(DEPTH_SPAN * depth).enumerate().for_each(|(span, sum)| {
            let first = span * DEPTH_SPAN;
            let part = Part { depths: first..first + sum.len() / depth, columns: 0..depth };
            add_weight_gradient(
                kernel,
                gradient,
                &window,
                OutputGradient { images: x, width: depth },
                &part,
                sum,
            );
        });
    });
    sum
}

fn column_sums(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; width];
    for row in rows.chunks_exact(width) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// The floats of a contiguous CPU tensor inside an operation.
pub(in crate::nn) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("the native kernels take contiguous f32 tensors"),
    }
}

/// Calls `work` with the floats of a contiguous f32 tensor on the CPU.
pub(in crate::nn) fn with_floats<R>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => work(floats(storage, layout)?),
        _ => bail!("the native kernels run on the CPU; the tensor is elsewhere"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    fn wave(rows: usize, columns: usize, step: f32) -> Tensor {
        let values: Vec<f32> = (0..rows * columns).map(|index| (index as f32 * step).sin()).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).expect("a tensor")
    }

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        let largest = a.sub(b).and_then(|difference| difference.abs()?.max_all()?.to_scalar::<f32>());
        largest.expect("same shapes")
    }

    #[test]
    fn the_layer_and_its_gradients_match_candles_own_product() -> Result<()> {
        for (rows, depth, width) in [(1, 1, 1), (3, 7, 10), (65, 64, 33), (40, 128, 200)] {
            let x = Var::from_tensor(&wave(rows, depth, 0.37))?;
            let weight = Var::from_tensor(&wave(width, depth, 0.11))?;
            let bias = Var::from_tensor(&wave(1, width, 0.5).flatten_all()?)?;
            let target = wave(rows, width, 0.23);
            let ours = linear(&x, &weight, &bias)?;
            let theirs = x.matmul(&weight.t()?)?.broadcast_add(&bias)?;
            assert!(difference(&ours, &theirs) < 1e-4);
            let ours = ((ours - &target)?.sqr()?.sum_all()?).backward()?;
            let theirs = ((theirs - &target)?.sqr()?.sum_all()?).backward()?;
            for var in [&x, &weight, &bias] {
                let (ours, theirs) = (ours.get(var).expect("tracked"), theirs.get(var).expect("tracked"));
                let scale = theirs.abs()?.max_all()?.to_scalar::<f32>()?.max(1.0);
                assert!(difference(ours, theirs) < 1e-5 * scale);
            }
        }
        Ok(())
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() -> Result<()> {
        let (weight, bias) = (wave(10, 64, 0.3), Tensor::zeros(10, candle_core::DType::F32, &Device::Cpu)?);
        let x = wave(50, 64, 0.7);
        let together = linear(&x, &weight, &bias)?.to_vec2::<f32>()?;
        for row in [0, 17, 49] {
            let alone = linear(&x.narrow(0, row, 1)?, &weight, &bias)?.to_vec2::<f32>()?;
            assert_eq!(alone[0], together[row]);
        }
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() -> Result<()> {
        let bias = Tensor::zeros(2, candle_core::DType::F32, &Device::Cpu)?;
        assert!(linear(&wave(2, 3, 0.1), &wave(2, 4, 0.1), &bias).is_err());
        Ok(())
    }
}
