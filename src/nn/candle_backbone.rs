//! The backbone in candle's own operations: what runs on CUDA, and the reference that the native kernels are held to on a CPU.
//!
//! Each trained tensor is one variable in the store's HWIO layout, permuted inside the graph, so gradients come back as the store lies.
//! Around candle 0.11: its max-pool's backward is wrong, so the pool is a maximum over shifted views; its ReLU passes the gradient
//! at exactly zero, so ours is a mask; its batch norm writes statistics in the forward pass, so ours returns them.
//! One thread at a time calls it.

use candle_core::{D, Device, Tensor, Var};

use super::backbone::{Backbone, LossFn, Mode, StepGradients, check_batch};
use super::graph::{
    Architecture, BasicBlock, ConvUnit, EmbeddingPart, MaxPoolShape, NORM_EPSILON, Representation,
};
use super::ops::pooling::cell_pixels;
use super::parameters::{BatchStatistics, NamedRange, ParameterStore};
use super::{NnError, Result};

/// A graph on a device of candle.
#[derive(Debug)]
pub struct CandleBackbone {
    device: Device,
    architecture: Architecture,
}

impl CandleBackbone {
    /// A backbone that computes `architecture` on `device`.
    #[must_use]
    pub fn new(device: Device, architecture: Architecture) -> Self {
        Self { device, architecture }
    }
}

impl Backbone for CandleBackbone {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn features(
        &self,
        parameters: &ParameterStore,
        images: &Tensor,
        mode: Mode,
    ) -> Result<(Tensor, Option<BatchStatistics>)> {
        check_batch(&self.architecture, images, mode)?;
        let tensors = value_tensors(parameters, &self.device)?;
        let mut pass = Pass::new(&self.device, parameters, &tensors, mode);
        let features = average(&pass.run(&self.architecture, images)?)?;
        let statistics = pass.into_statistics(&self.architecture)?;
        Ok((features.detach(), statistics))
    }

    fn represent(
        &self,
        parameters: &ParameterStore,
        images: &Tensor,
        representation: Representation,
    ) -> Result<Tensor> {
        if representation == Representation::Features {
            return Ok(self.features(parameters, images, Mode::Eval)?.0);
        }
        check_batch(&self.architecture, images, Mode::Eval)?;
        let tensors = value_tensors(parameters, &self.device)?;
        let mut pass = Pass::new(&self.device, parameters, &tensors, Mode::Eval);
        let mut x = pass.stem(&self.architecture, images)?;
        let mut parts = Vec::new();
        for (index, block) in self.architecture.blocks.iter().enumerate() {
            x = pass.block(block, x)?;
            if let Some(part) = self.architecture.embedding.iter().find(|part| part.block == index) {
                parts.push(embed_part(&x, part)?);
            }
        }
        Ok(Tensor::cat(&parts, 1)?.detach())
    }

    fn step_gradients(
        &self,
        parameters: &ParameterStore,
        head: &ParameterStore,
        images: &Tensor,
        groups: usize,
        loss: &mut LossFn<'_>,
    ) -> Result<StepGradients> {
        let mode = Mode::Train { groups };
        check_batch(&self.architecture, images, mode)?;
        let variables = value_variables(parameters, &self.device)?;
        let head_variables = value_variables(head, &self.device)?;
        let mut pass = Pass::new(&self.device, parameters, &variables, mode);
        let features = average(&pass.run(&self.architecture, images)?)?;
        let statistics = pass.into_statistics(&self.architecture)?;
        let scalar = loss(&features, &head_variables)?;
        let gradients = scalar.backward()?;
        let flat = |store: &ParameterStore, variables: &[Tensor]| -> Result<Vec<f32>> {
            let mut numbers = vec![0.0; store.values.len()];
            for (range, variable) in store.value_ranges().zip(variables) {
                if let Some(gradient) = gradients.get(variable) {
                    let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
                    numbers[range.range.clone()].copy_from_slice(&gradient);
                }
            }
            Ok(numbers)
        };
        Ok(StepGradients {
            loss: scalar.to_scalar::<f32>()?,
            features: features.detach(),
            backbone: flat(parameters, &variables)?,
            head: flat(head, &head_variables)?,
            statistics: statistics.unwrap_or_else(|| BatchStatistics { values: parameters.buffers.clone() }),
        })
    }
}

/// The mean over all pixels: [N, C, H, W] to [N, C].
fn average(images: &Tensor) -> candle_core::Result<Tensor> {
    images.flatten_from(2)?.mean(D::Minus1)
}

/// A stage's part of the embedding, [N, cells × C], from its output [N, C, H, W].
fn embed_part(images: &Tensor, part: &EmbeddingPart) -> candle_core::Result<Tensor> {
    let cell = |place: usize| {
        let rows = cell_pixels(part.size, part.grid, place / part.grid);
        let columns = cell_pixels(part.size, part.grid, place % part.grid);
        average(&images.narrow(2, rows.start, rows.len())?.narrow(3, columns.start, columns.len())?)
    };
    let cells = (0..part.grid * part.grid).map(cell).collect::<candle_core::Result<Vec<_>>>()?;
    let cells = Tensor::cat(&cells, 1)?;
    let length = cells.sqr()?.sum_keepdim(1)?.sqrt()?;
    // A part of zeros stays one.
    cells.broadcast_div(&length.maximum(f32::MIN_POSITIVE)?)
}

/// The inside shape of a trained tensor: HWIO for a convolution, else PyTorch's.
fn inside_shape(range: &NamedRange) -> Vec<usize> {
    match *range.shape.as_slice() {
        [out_channels, in_channels, height, width] => {
            vec![height, width, in_channels, out_channels]
        }
        _ => range.shape.clone(),
    }
}

fn value_tensors(store: &ParameterStore, device: &Device) -> Result<Vec<Tensor>> {
    let tensor = |range: &NamedRange| {
        Ok(Tensor::from_slice(&store.values[range.range.clone()], inside_shape(range), device)?)
    };
    store.value_ranges().map(tensor).collect()
}

fn value_variables(store: &ParameterStore, device: &Device) -> Result<Vec<Tensor>> {
    let variable = |tensor: Tensor| Ok(Var::from_tensor(&tensor)?.into_inner());
    value_tensors(store, device)?.into_iter().map(variable).collect()
}

/// One walk through the graph.
struct Pass<'a> {
    device: &'a Device,
    buffers: &'a [f32],
    /// The trained tensors of the units in order, three each: weight, gamma, beta.
    tensors: std::slice::Iter<'a, Tensor>,
    mode: Mode,
    /// Batch mean and unbiased variance of each unit walked so far.
    seen: Vec<Tensor>,
}

impl<'a> Pass<'a> {
    fn new(device: &'a Device, store: &'a ParameterStore, tensors: &'a [Tensor], mode: Mode) -> Self {
        Self { device, buffers: &store.buffers, tensors: tensors.iter(), mode, seen: Vec::new() }
    }

    /// The last stage's output, [N, D, H, W].
    fn run(&mut self, architecture: &Architecture, images: &Tensor) -> Result<Tensor> {
        let first = self.stem(architecture, images)?;
        architecture.blocks.iter().try_fold(first, |x, block| self.block(block, x))
    }

    fn stem(&mut self, architecture: &Architecture, images: &Tensor) -> Result<Tensor> {
        let images = images.permute((0, 3, 1, 2))?.contiguous()?; // [N, C, H, W]
        let x = relu(&self.unit(&architecture.stem, &images)?)?;
        match &architecture.max_pool {
            Some(pool) => max_pool(&x, pool),
            None => Ok(x),
        }
    }

    fn block(&mut self, block: &BasicBlock, x: Tensor) -> Result<Tensor> {
        let inner = relu(&self.unit(&block.conv1, &x)?)?;
        let outer = self.unit(&block.conv2, &inner)?;
        let shortcut = match &block.downsample {
            Some(unit) => self.unit(unit, &x)?,
            None => x,
        };
        Ok(relu(&(outer + shortcut)?)?)
    }

    fn unit(&mut self, unit: &ConvUnit, x: &Tensor) -> Result<Tensor> {
        let mut next = || {
            let missing = || NnError::MissingTensor { name: format!("{}.weight", unit.conv_name) };
            self.tensors.next().ok_or_else(missing)
        };
        let (weight, gamma, beta) = (next()?, next()?, next()?);
        let weight = weight.permute((3, 2, 0, 1))?.contiguous()?; // HWIO to OIHW
        let y = x.conv2d(&weight, unit.conv.padding, unit.conv.stride, 1, 1)?;
        match self.mode {
            Mode::Eval => self.norm_by_running(unit, &y, gamma, beta),
            Mode::Train { groups } | Mode::TrainWithoutTape { groups } => {
                self.norm_by_batch(&y, gamma, beta, groups)
            }
        }
    }

    fn norm_by_running(&self, unit: &ConvUnit, y: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<Tensor> {
        let buffer = |range: std::ops::Range<usize>| Tensor::new(&self.buffers[range], self.device);
        let mean = buffer(unit.running_mean.clone())?;
        let var = buffer(unit.running_var.clone())?;
        let scale = gamma.div(&(var + f64::from(NORM_EPSILON))?.sqrt()?)?;
        let shift = (beta - mean.mul(&scale)?)?;
        let channels = unit.conv.out_channels;
        let as_channels = |tensor: Tensor| tensor.reshape((1, channels, 1, 1));
        Ok(y.broadcast_mul(&as_channels(scale)?)?.broadcast_add(&as_channels(shift)?)?)
    }

    fn norm_by_batch(&mut self, y: &Tensor, gamma: &Tensor, beta: &Tensor, groups: usize) -> Result<Tensor> {
        let (count, channels, height, width) = y.dims4()?;
        let grouped = y.reshape((groups, count / groups, channels, height * width))?;
        let mean = grouped.mean_keepdim((1, 3))?; // [G, 1, C, 1]
        let centred = grouped.broadcast_sub(&mean)?;
        let var = centred.sqr()?.mean_keepdim((1, 3))?;
        let seen_count = (count / groups * height * width) as f64;
        let unbiased = (&var * (seen_count / (seen_count - 1.0).max(1.0)))?;
        for statistic in [&mean, &unbiased] {
            self.seen.push(statistic.detach().reshape((groups, channels))?.mean(0)?);
        }
        let inverse = (var + f64::from(NORM_EPSILON))?.sqrt()?.recip()?;
        let as_channels = |tensor: &Tensor| tensor.reshape((1, 1, channels, 1));
        let scale = inverse.broadcast_mul(&as_channels(gamma)?)?;
        let normed = centred.broadcast_mul(&scale)?.broadcast_add(&as_channels(beta)?)?;
        Ok(normed.reshape((count, channels, height, width))?)
    }

    /// The statistics in the order of the buffers: units are walked conv1, conv2, downsample, as they are laid out.
    fn into_statistics(self, architecture: &Architecture) -> Result<Option<BatchStatistics>> {
        if self.mode == Mode::Eval {
            return Ok(None);
        }
        let values = Tensor::cat(&self.seen, 0)?.to_vec1::<f32>()?;
        debug_assert_eq!(values.len(), architecture.buffer_count);
        Ok(Some(BatchStatistics { values }))
    }
}

/// ReLU whose gradient at exactly zero is zero, as PyTorch's is.
pub(super) fn relu(x: &Tensor) -> candle_core::Result<Tensor> {
    let mask = x.gt(0.0f32)?.to_dtype(x.dtype())?.detach();
    x.mul(&mask)
}

/// Max-pool 3×3, stride 2, padding 1 of something that a ReLU made non-negative, so that zeros may pad.
fn max_pool(x: &Tensor, pool: &MaxPoolShape) -> Result<Tensor> {
    let rows = max_over_windows(x, 2, pool)?;
    max_over_windows(&rows, 3, pool)
}

/// Maximum of three neighbours along `axis` at every second place: the window's two axes are taken one after the other.
fn max_over_windows(x: &Tensor, axis: usize, pool: &MaxPoolShape) -> Result<Tensor> {
    let (out, end) = (pool.out_size, 2 * pool.out_size + 2);
    let padded = x.pad_with_zeros(axis, 1, end - 1 - pool.in_size)?;
    let mut dims = padded.dims().to_vec();
    dims.splice(axis..=axis, [out + 1, 2]);
    let pairs = padded.reshape(dims)?; // the places 2i and 2i + 1 lie beside each other on axis + 1
    let view = |start: usize, parity: usize| {
        pairs.narrow(axis, start, out)?.narrow(axis + 1, parity, 1)?.squeeze(axis + 1)
    };
    Ok(view(0, 0)?.maximum(&view(0, 1)?)?.maximum(&view(1, 0)?)?)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::domain::seed::StreamKey;
    use crate::domain::settings::{BackboneKind, ImageShape};

    fn random(count: usize, name: &str) -> Vec<f32> {
        let mut stream = StreamKey::new(1, name).stream();
        (0..count).map(|_| stream.random_range(-1.0..1.0)).collect()
    }

    fn tiny(size: u32, channels: u32) -> (CandleBackbone, ParameterStore) {
        let image = ImageShape { size, channels };
        let architecture = Architecture::residual(BackboneKind::Small, image, &[4, 6]);
        let mut store = ParameterStore::for_backbone(&architecture);
        for (value, drawn) in store.values.iter_mut().zip(random(architecture.parameter_count, "weights")) {
            *value += 0.5 * drawn;
        }
        (CandleBackbone::new(Device::Cpu, architecture), store)
    }

    fn batch(count: usize, size: usize, channels: usize) -> Tensor {
        let numbers = random(count * size * size * channels, "images");
        Tensor::from_vec(numbers, (count, size, size, channels), &Device::Cpu).expect("sizes agree")
    }

    /// A loss that weighs every feature differently, so that no gradient cancels.
    fn weighted_sum(features: &Tensor, head: &[Tensor]) -> candle_core::Result<Tensor> {
        let logits = features.matmul(&head[0].t()?)?.broadcast_add(&head[1])?;
        let count = logits.elem_count();
        let weights = Tensor::from_vec(random(count, "loss"), logits.shape(), &Device::Cpu)?;
        logits.sqr()?.mul(&weights)?.sum_all()
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let (backbone, store) = tiny(9, 1);
        let images = batch(4, 9, 1);
        let mut head = ParameterStore::of_plain(&[("fc.weight", &[3, 6]), ("fc.bias", &[3])]);
        head.values = random(21, "head");
        let step = |store: &ParameterStore, head: &ParameterStore| {
            backbone.step_gradients(store, head, &images, 1, &mut weighted_sum).expect("a step")
        };
        let found = step(&store, &head);
        let delta = 1e-2;
        for index in (0..store.values.len()).step_by(97) {
            let (mut up, mut down) = (store.clone(), store.clone());
            up.values[index] += delta;
            down.values[index] -= delta;
            let expected = (step(&up, &head).loss - step(&down, &head).loss) / (2.0 * delta);
            let gradient = found.backbone[index];
            assert!(
                (gradient - expected).abs() < 0.05 * (1.0 + expected.abs()),
                "{index}: {gradient} for {expected}"
            );
        }
        for index in 0..head.values.len() {
            let (mut up, mut down) = (head.clone(), head.clone());
            up.values[index] += delta;
            down.values[index] -= delta;
            let expected = (step(&store, &up).loss - step(&store, &down).loss) / (2.0 * delta);
            let gradient = found.head[index];
            assert!(
                (gradient - expected).abs() < 0.02 * (1.0 + expected.abs()),
                "{index}: {gradient} for {expected}"
            );
        }
    }

    #[test]
    fn eval_with_the_batch_statistics_gives_the_training_features() {
        let (backbone, mut store) = tiny(8, 3);
        let images = batch(5, 8, 3);
        let (trained, statistics) =
            backbone.features(&store, &images, Mode::Train { groups: 1 }).expect("a pass");
        let statistics = statistics.expect("training returns statistics");
        store.update_running(&statistics, 1.0);
        // Eval divides by the unbiased variance, training by the biased one; bring it back for the comparison.
        for unit in backbone.architecture().units() {
            let seen_count = (5 * unit.conv.out_size * unit.conv.out_size) as f32;
            store.buffers[unit.running_var.clone()]
                .iter_mut()
                .for_each(|var| *var *= (seen_count - 1.0) / seen_count);
        }
        let (evaluated, none) = backbone.features(&store, &images, Mode::Eval).expect("a pass");
        assert!(none.is_none());
        let difference =
            (trained - evaluated).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("one number");
        assert!(difference < 1e-4, "{difference}");
    }

    #[test]
    fn each_group_is_normed_by_itself() {
        let (backbone, store) = tiny(8, 1);
        let images = batch(6, 8, 1);
        let (together, _) =
            backbone.features(&store, &images, Mode::TrainWithoutTape { groups: 2 }).expect("a pass");
        let half = images.narrow(0, 3, 3).expect("the second half");
        let (alone, _) = backbone.features(&store, &half, Mode::Train { groups: 1 }).expect("a pass");
        let difference = (together.narrow(0, 3, 3).expect("the second half") - alone)
            .and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>())
            .expect("one number");
        assert!(difference < 1e-5, "{difference}");
        let error = backbone.features(&store, &images, Mode::Train { groups: 4 }).unwrap_err();
        assert!(error.to_string().contains("4 equal groups"), "{error}");
    }

    #[test]
    fn the_max_pool_takes_the_largest_of_nine_and_sends_the_gradient_there() {
        for size in [5usize, 6] {
            let pool = MaxPoolShape { channels: 1, in_size: size, out_size: size.div_ceil(2) };
            let numbers: Vec<f32> = random(size * size, "pool").iter().map(|v| v.abs()).collect();
            let image =
                Var::from_vec(numbers.clone(), (1, 1, size, size), &Device::Cpu).expect("sizes agree");
            let pooled = max_pool(&image, &pool).expect("a pool");
            let gradient = pooled.sum_all().and_then(|sum| sum.backward()).expect("a backward pass");
            let mut expected_gradient = vec![0.0; size * size];
            let mut expected = Vec::new();
            for row in 0..pool.out_size {
                for column in 0..pool.out_size {
                    let places = (0..9).filter_map(|tap| {
                        let (y, x) =
                            ((2 * row + tap / 3).checked_sub(1)?, (2 * column + tap % 3).checked_sub(1)?);
                        (y < size && x < size).then_some(y * size + x)
                    });
                    let largest =
                        places.max_by(|&a, &b| numbers[a].total_cmp(&numbers[b])).expect("nine places");
                    expected.push(numbers[largest]);
                    expected_gradient[largest] += 1.0;
                }
            }
            let found =
                |tensor: &Tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("numbers");
            assert_eq!(found(&pooled), expected);
            assert_eq!(found(gradient.get(&image).expect("a gradient")), expected_gradient);
        }
    }

    #[test]
    fn a_batch_of_another_size_is_refused_with_both_shapes() {
        let (backbone, store) = tiny(8, 1);
        let error = backbone.features(&store, &batch(2, 9, 1), Mode::Eval).unwrap_err();
        assert!(
            error.to_string().contains("[2, 9, 9, 1]") && error.to_string().contains("[N, 8, 8, 1]"),
            "{error}"
        );
    }
}
