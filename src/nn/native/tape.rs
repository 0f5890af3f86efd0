//! What a training pass keeps: activations, statistics, packed weights and gradient scratch, reused from step to step.
//!
//! A tape serves any batch up to its capacity and is owned by one pass at a time; the backbone keeps returned tapes. A
//! border is zero from the allocation on, because passes write pixels only, except in the scratch that layers share,
//! whose writers clear it.

use crate::nn::ops::Kernel;
use crate::nn::ops::batch_norm::{Application, Moments};
use crate::nn::ops::buffers::AlignedBuffer;

use super::batch::Batch;
use super::plan::{NetworkPlan, UnitPlan};
use super::weights::{ForwardWeights, GradientWeights};

/// One batch-norm group's statistics of a layer, as the kernels use them.
#[derive(Clone, Debug)]
pub(super) struct GroupNorm {
    pub mean: Vec<f32>,
    pub inverse_deviation: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

impl GroupNorm {
    pub(super) fn new(moments: &Moments, gamma: &[f32], beta: &[f32], epsilon: f32) -> Self {
        let inverse = |channel: usize| 1.0 / (moments.biased_variance(channel) + f64::from(epsilon)).sqrt();
        let channels = 0..gamma.len();
        let inverse_deviation: Vec<f32> = channels.clone().map(|channel| inverse(channel) as f32).collect();
        let mean: Vec<f32> = moments.mean.iter().map(|mean| *mean as f32).collect();
        let scale: Vec<f32> =
            channels.clone().map(|channel| gamma[channel] * inverse_deviation[channel]).collect();
        let shift = channels.map(|channel| beta[channel] - mean[channel] * scale[channel]).collect();
        Self { mean, inverse_deviation, scale, shift }
    }

    pub(super) fn application<'a>(&'a self, residual: Option<&'a [f32]>, relu: bool) -> Application<'a> {
        Application { scale: &self.scale, shift: &self.shift, residual, relu }
    }
}

/// What is kept of one convolution unit.
#[derive(Debug)]
pub(super) struct UnitTape {
    /// The convolution's output, dense.
    pub convolved: AlignedBuffer,
    /// The normalised output, with its border.
    pub activation: AlignedBuffer,
    /// One a batch-norm group.
    pub norms: Vec<GroupNorm>,
    /// The weight, packed for the forward product.
    pub packed: ForwardWeights,
}

impl UnitTape {
    fn new(kernel: Kernel, plan: &UnitPlan, capacity: usize) -> Self {
        Self {
            convolved: AlignedBuffer::zeroed(capacity * plan.convolved().image_len()),
            activation: AlignedBuffer::zeroed(capacity * plan.activation.image_len()),
            norms: Vec::new(),
            packed: ForwardWeights::new(kernel, plan),
        }
    }
}

/// What the ImageNet stem's pooling keeps.
#[derive(Debug)]
pub(super) struct PoolTape {
    pub activation: AlignedBuffer,
    pub winners: Vec<u8>,
}

/// Everything that one training pass keeps.
#[derive(Debug)]
pub(super) struct Tape {
    capacity: usize,
    /// The batch that the last forward pass saw.
    pub batch: Batch,
    /// The images, with the stem's border.
    pub images: AlignedBuffer,
    pub units: Vec<UnitTape>,
    pub pool: Option<PoolTape>,
    /// Scratch of the backward pass, made at its first use.
    pub scratch: Option<GradientScratch>,
}

impl Tape {
    pub(super) fn new(kernel: Kernel, plan: &NetworkPlan, capacity: usize) -> Self {
        Self {
            capacity,
            batch: Batch { image_count: 0, group_count: 1 },
            images: AlignedBuffer::zeroed(capacity * plan.stem.input.image_len()),
            units: plan.units().map(|unit| UnitTape::new(kernel, unit, capacity)).collect(),
            pool: plan.pool.map(|pool| PoolTape {
                activation: AlignedBuffer::zeroed(capacity * pool.output.image_len()),
                winners: vec![0; capacity * pool.output.with_border(0).image_len()],
            }),
            scratch: None,
        }
    }

    /// Images that the buffers hold at most.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The scratch of the backward pass, taken out so that it can be written while the tape is read.
    pub(super) fn take_scratch(&mut self, kernel: Kernel, plan: &NetworkPlan) -> GradientScratch {
        self.scratch.take().unwrap_or_else(|| GradientScratch::new(kernel, plan, self.capacity))
    }
}

/// Buffers of the backward pass that the layers share.
#[derive(Debug)]
pub(super) struct GradientScratch {
    /// Gradient of the activation that a block gives out, dense; gated in place.
    pub outer: AlignedBuffer,
    /// Gradient of the activation between a block's convolutions, dense; gated in place.
    pub inner: AlignedBuffer,
    /// Gradient of the activation that a block takes in, dense.
    pub next: AlignedBuffer,
    /// Gradient of a convolution's output, with its border.
    pub convolved: AlignedBuffer,
    /// The same of a downsampling convolution.
    pub shortcut: AlignedBuffer,
    /// Partial sums of a weight's gradient.
    pub partial: AlignedBuffer,
    /// Each unit's weight, packed for the input's gradient.
    pub packed: Vec<GradientWeights>,
}

impl GradientScratch {
    fn new(kernel: Kernel, plan: &NetworkPlan, capacity: usize) -> Self {
        let largest = |len: fn(&UnitPlan) -> usize| capacity * plan.units().map(len).max().unwrap_or(0);
        let activation = || AlignedBuffer::zeroed(largest(|unit| unit.convolved().image_len()));
        let gradient = || AlignedBuffer::zeroed(largest(|unit| unit.gradient.image_len()));
        Self {
            outer: activation(),
            inner: activation(),
            next: activation(),
            convolved: gradient(),
            shortcut: gradient(),
            partial: AlignedBuffer::default(),
            packed: plan.units().map(|unit| GradientWeights::new(kernel, unit)).collect(),
        }
    }
}
