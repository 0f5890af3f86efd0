//! Inference: the norms folded into the weights, the whole network a few images at a time.
//!
//! With running statistics a batch norm is linear, so it becomes part of the convolution before it, and residual and
//! ReLU its epilogue. One thread takes a few images through the whole network, so activations never leave its cache and
//! no thread waits for another. An image's features don't depend on the batch or its place in it.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::nn::graph::{EmbeddingPart, NORM_EPSILON, Representation};
use crate::nn::ops::buffers::AlignedBuffer;
use crate::nn::ops::convolution::{Epilogue, Residual};
use crate::nn::ops::geometry::split_evenly;
use crate::nn::ops::{Kernel, pooling, thread_count};

use super::plan::{BlockPlan, NetworkPlan, UnitPlan};
use super::weights::ForwardWeights;

/// Pixels of the last activation that one piece of work should have.
const LAST_PIXELS: usize = 256;

/// A network's weights with the norms folded in, packed.
#[derive(Debug)]
pub(super) struct FoldedWeights {
    units: Vec<(ForwardWeights, Vec<f32>)>,
}

impl FoldedWeights {
    pub(super) fn new(kernel: Kernel, plan: &NetworkPlan, values: &[f32], buffers: &[f32]) -> Self {
        let units: Vec<_> = plan.units().collect();
        let fold = |unit: &UnitPlan| {
            let (mean, variance) = (&buffers[unit.running_mean.clone()], &buffers[unit.running_var.clone()]);
            let (gamma, beta) = (&values[unit.gamma.clone()], &values[unit.beta.clone()]);
            let channels = 0..unit.channels();
            let scale: Vec<f32> = channels
                .clone()
                .map(|channel| gamma[channel] / (variance[channel] + NORM_EPSILON).sqrt())
                .collect();
            let bias = channels.map(|channel| beta[channel] - mean[channel] * scale[channel]).collect();
            let mut packed = ForwardWeights::new(kernel, unit);
            packed.pack(&values[unit.weight.clone()], Some(&scale));
            (packed, bias)
        };
        Self { units: units.into_par_iter().map(fold).collect() }
    }
}

/// Buffers of one piece of work: two activations a stage are alive at a time.
#[derive(Debug)]
struct Activations {
    images: AlignedBuffer,
    stem: AlignedBuffer,
    pooled: AlignedBuffer,
    winners: Vec<u8>,
    /// Of each stage: what its blocks take in and give out, and what lies between their convolutions.
    stages: Vec<[AlignedBuffer; 2]>,
}

impl Activations {
    fn new(plan: &NetworkPlan, image_count: usize) -> Self {
        let stage = |part: &EmbeddingPart| {
            let len = image_count * plan.blocks[part.block].conv2.activation.image_len();
            [AlignedBuffer::zeroed(len), AlignedBuffer::zeroed(len)]
        };
        let pooled_len = plan.pool.map_or(0, |pool| pool.output.image_len());
        Self {
            images: AlignedBuffer::zeroed(image_count * plan.stem.input.image_len()),
            stem: AlignedBuffer::zeroed(image_count * plan.stem.activation.image_len()),
            pooled: AlignedBuffer::zeroed(image_count * pooled_len),
            winners: vec![
                0;
                image_count * plan.pool.map_or(0, |pool| pool.output.with_border(0).image_len())
            ],
            stages: plan.embedding.iter().map(stage).collect(),
        }
    }
}

/// Activation buffers between calls, one set for each piece of work that ran at the same time.
#[derive(Debug, Default)]
pub(super) struct ActivationCache {
    free: Mutex<Vec<Activations>>,
}

impl ActivationCache {
    fn take(&self, plan: &NetworkPlan) -> Activations {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| Activations::new(plan, longest_piece(plan)))
    }

    fn put(&self, activations: Activations) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(activations);
    }

    /// Sets of buffers that are waiting for work.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn longest_piece(plan: &NetworkPlan) -> usize {
    LAST_PIXELS.div_ceil(plan.last_activation().pixel_count())
}

/// What `representation` makes of dense NHWC images, one row of `width` numbers an image.
pub(super) fn represent(
    plan: &NetworkPlan,
    weights: &FoldedWeights,
    cache: &ActivationCache,
    images: &[f32],
    representation: Representation,
    width: usize,
) -> Vec<f32> {
    let image_len = plan.stem.input.with_border(0).image_len();
    let image_count = images.len() / image_len;
    let mut rows = vec![0.0; image_count * width];
    // A small batch is cut finer, so that every thread has something to do.
    let longest = longest_piece(plan).min(image_count.div_ceil(thread_count()));
    let mut rest = &mut rows[..];
    let mut pieces = Vec::new();
    for piece in split_evenly(image_count, longest) {
        let (target, tail) = rest.split_at_mut(piece.len() * width);
        rest = tail;
        pieces.push((&images[piece.start * image_len..piece.end * image_len], target));
    }
    pieces.into_par_iter().for_each(|(images, rows)| {
        let mut activations = cache.take(plan);
        let piece = Piece { plan, weights, image_count: images.len() / image_len };
        piece.run(images, &mut activations);
        match representation {
            Representation::Features => piece.average_last(&activations, rows),
            Representation::Embedding => piece.embed(&activations, rows),
        }
        cache.put(activations);
    });
    rows
}

/// Scales a part of an embedding to unit length; one of zeros stays.
fn scale_to_unit(part: &mut [f32]) {
    let length = part.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        part.iter_mut().for_each(|value| *value /= length);
    }
}

#[derive(Clone, Copy)]
struct Piece<'a> {
    plan: &'a NetworkPlan,
    weights: &'a FoldedWeights,
    image_count: usize,
}

impl Piece<'_> {
    /// Leaves the output of each stage in its first buffer.
    fn run(self, images: &[f32], activations: &mut Activations) {
        let Activations { images: bordered, stem, pooled, winners, stages } = activations;
        let count = self.image_count;
        let bordered = &mut bordered[..count * self.plan.stem.input.image_len()];
        self.plan.stem.input.copy_from_dense(images, bordered);
        self.convolve(&self.plan.stem, bordered, stem, Residual::None, true);
        let stem = &stem[..count * self.plan.stem.activation.image_len()];
        let first: &[f32] = match self.plan.pool {
            None => stem,
            Some(plan) => {
                let pooled = &mut pooled[..count * plan.output.image_len()];
                let winners = &mut winners[..count * plan.output.with_border(0).image_len()];
                plan.pool.forward(stem, plan.input, plan.output, pooled, winners);
                pooled
            }
        };
        self.run_stages(first, stages);
    }

    /// Features of the images that ran, `[N, D]`.
    fn average_last(self, activations: &Activations, features: &mut [f32]) {
        let layout = self.plan.last_activation();
        if let Some([last, _]) = activations.stages.last() {
            pooling::average(&last[..self.image_count * layout.image_len()], layout, features);
        }
    }

    /// Embeddings of the images that ran, `[N, E]`.
    fn embed(self, activations: &Activations, embeddings: &mut [f32]) {
        let parts = &self.plan.embedding;
        let width: usize = parts.iter().map(EmbeddingPart::count).sum();
        for (index, embedding) in embeddings.chunks_exact_mut(width).enumerate() {
            let mut rest = embedding;
            for (part, [output, _]) in parts.iter().zip(&activations.stages) {
                let (cells, tail) = rest.split_at_mut(part.count());
                rest = tail;
                let layout = self.plan.blocks[part.block].conv2.activation;
                let image = &output[index * layout.image_len()..][..layout.image_len()];
                pooling::average_cells(image, layout, part.grid, cells);
                scale_to_unit(cells);
            }
        }
    }

    fn run_stages(self, first: &[f32], stages: &mut [[AlignedBuffer; 2]]) {
        let mut start = 0;
        for (stage, part) in self.plan.embedding.iter().enumerate() {
            let blocks = &self.plan.blocks[start..=part.block];
            start = part.block + 1;
            let (before, rest) = stages.split_at_mut(stage);
            let [outer, inner] = &mut rest[0];
            let input = before.last().map_or(first, |[last, _]| last);
            for (position, block) in blocks.iter().enumerate() {
                let input = (position == 0).then_some(input);
                self.run_block(block, input, outer, inner);
            }
        }
    }

    /// A block that reads `input`, or where that is `None` works on `outer` in place.
    fn run_block(self, block: &BlockPlan, input: Option<&[f32]>, outer: &mut [f32], inner: &mut [f32]) {
        let residual = match (input, &block.downsample) {
            (Some(input), Some(downsample)) => {
                self.convolve(&block.conv1, input, inner, Residual::None, true);
                self.convolve(downsample, input, outer, Residual::None, false);
                Residual::Target
            }
            (Some(input), None) => {
                self.convolve(&block.conv1, input, inner, Residual::None, true);
                Residual::Images(input)
            }
            (None, _) => {
                self.convolve(&block.conv1, outer, inner, Residual::None, true);
                Residual::Target
            }
        };
        self.convolve(&block.conv2, inner, outer, residual, true);
    }

    fn convolve(
        self,
        unit: &UnitPlan,
        input: &[f32],
        output: &mut [f32],
        residual: Residual<'_>,
        relu: bool,
    ) {
        let (packed, bias) = &self.weights.units[unit.index];
        let output = &mut output[..self.image_count * unit.activation.image_len()];
        let residual = match residual {
            Residual::Images(images) => Residual::Images(&images[..output.len()]),
            other => other,
        };
        let input = &input[..self.image_count * unit.input.image_len()];
        packed.convolve(&unit.folded, input, output, Epilogue { bias: Some(bias), residual, relu });
    }
}
