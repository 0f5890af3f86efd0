//! A graph compiled for the native kernels: layouts, index tables and places in the flat parameters.
//!
//! Made once a backbone, immutable, shared by all its passes. Activations keep the border that the next convolution
//! pads with, so no pass copies an image to pad it; convolution outputs and gradients of activations are dense.

use std::ops::Range;

use crate::nn::graph::{Architecture, BasicBlock, ConvUnit, EmbeddingPart, MaxPoolShape};
use crate::nn::ops::geometry::{Geometry, GradientClass, Layout, Window};
use crate::nn::ops::pooling::MaxPool;
use crate::nn::ops::winograd::{self, Winograd};

/// The border of every activation behind the stem: what 3 × 3 convolutions pad with.
const BORDER: usize = 1;

/// Output pixels that a piece of work should have, so that a panel of weights is used often enough while it is cached.
const SPAN_PIXELS: usize = 128;

/// Output pixels of a Winograd block.
const WINOGRAD_SPAN_PIXELS: usize = 16 * winograd::BLOCK;

/// How a convolution is computed.
#[derive(Debug)]
pub(super) enum Route {
    /// The direct sum over gathered windows.
    Direct(Window),
    /// Winograd's form.
    Winograd(Winograd),
}

impl Route {
    /// In Winograd's form where that `pays`.
    fn new(geometry: &Geometry, input: Layout, output: Layout, pays: bool) -> Self {
        if pays {
            Self::Winograd(Winograd::new(geometry, input, output))
        } else {
            Self::Direct(geometry.forward_window(input, output))
        }
    }
}

/// A convolution unit with its tables.
#[derive(Debug)]
pub(super) struct UnitPlan {
    /// Its place in the order of the architecture's units, hence in a tape.
    pub index: usize,
    pub geometry: Geometry,
    /// Of the activation that it reads.
    pub input: Layout,
    /// Of its normalised output.
    pub activation: Layout,
    /// Of the gradient of its convolution's output.
    pub gradient: Layout,
    /// From the input to the dense convolution output: training.
    pub forward: Route,
    /// From the input to the activation: inference, with the norm folded into the weight.
    pub folded: Route,
    /// From the input to the gradient's layout: the gradient of the weight.
    pub weight_gradient: Route,
    /// From the gradient to the dense gradient of the input, as a direct sum.
    pub classes: Vec<GradientClass>,
    /// The same in Winograd's form, where that pays.
    pub backward: Option<Winograd>,
    /// Images that one thread should take through the convolution together.
    pub span_len: usize,
    pub weight: Range<usize>,
    pub gamma: Range<usize>,
    pub beta: Range<usize>,
    pub running_mean: Range<usize>,
    pub running_var: Range<usize>,
}

impl UnitPlan {
    fn new(unit: &ConvUnit, index: usize, input_border: usize, activation_border: usize) -> Self {
        let conv = &unit.conv;
        let geometry = Geometry {
            height: conv.in_size,
            width: conv.in_size,
            in_channels: conv.in_channels,
            out_channels: conv.out_channels,
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding,
        };
        let input = geometry.input().with_border(input_border);
        let activation = geometry.output().with_border(activation_border);
        let gradient = geometry.output().with_border(geometry.gradient_border());
        let winograd = Winograd::pays(&geometry);
        let reversed =
            Geometry { in_channels: geometry.out_channels, out_channels: geometry.in_channels, ..geometry };
        Self {
            index,
            geometry,
            input,
            activation,
            gradient,
            forward: Route::new(&geometry, input, geometry.output(), winograd),
            folded: Route::new(&geometry, input, activation, winograd),
            weight_gradient: Route::new(&geometry, input, gradient, Winograd::pays_for_weight(&geometry)),
            classes: geometry.gradient_classes(gradient, geometry.input()),
            backward: winograd.then(|| Winograd::new(&reversed, gradient, geometry.input())),
            span_len: if winograd { WINOGRAD_SPAN_PIXELS } else { SPAN_PIXELS }
                .div_ceil(geometry.output().pixel_count()),
            weight: unit.weight.clone(),
            gamma: unit.gamma.clone(),
            beta: unit.beta.clone(),
            running_mean: unit.running_mean.clone(),
            running_var: unit.running_var.clone(),
        }
    }

    /// The dense layout of the convolution's output.
    pub(super) fn convolved(&self) -> Layout {
        self.geometry.output()
    }

    /// Channels of the output.
    pub(super) fn channels(&self) -> usize {
        self.geometry.out_channels
    }
}

/// A residual block with its tables.
#[derive(Debug)]
pub(super) struct BlockPlan {
    pub conv1: UnitPlan,
    pub conv2: UnitPlan,
    pub downsample: Option<UnitPlan>,
}

/// The ImageNet stem's pooling.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolPlan {
    pub pool: MaxPool,
    /// Of the stem's activation.
    pub input: Layout,
    /// Of the pooled activation.
    pub output: Layout,
}

/// A whole network with its tables.
#[derive(Debug)]
pub(super) struct NetworkPlan {
    pub stem: UnitPlan,
    pub pool: Option<PoolPlan>,
    pub blocks: Vec<BlockPlan>,
    /// Stages and their parts of the embedding.
    pub embedding: Vec<EmbeddingPart>,
    pub feature_count: usize,
    pub parameter_count: usize,
    pub buffer_count: usize,
}

impl NetworkPlan {
    pub(super) fn new(architecture: &Architecture) -> Self {
        let stem_border = if architecture.max_pool.is_some() { 0 } else { BORDER };
        let stem = UnitPlan::new(&architecture.stem, 0, architecture.stem.conv.padding, stem_border);
        let pool = architecture.max_pool.as_ref().map(|shape| pool_plan(shape, stem.activation));
        let mut index = 1;
        let blocks = architecture.blocks.iter().map(|block| block_plan(block, &mut index)).collect();
        Self {
            stem,
            pool,
            blocks,
            embedding: architecture.embedding.clone(),
            feature_count: architecture.feature_count,
            parameter_count: architecture.parameter_count,
            buffer_count: architecture.buffer_count,
        }
    }

    /// The units in the architecture's order, which is the order of their indices.
    pub(super) fn units(&self) -> impl Iterator<Item = &UnitPlan> {
        let blocks = self.blocks.iter();
        let of_blocks =
            blocks.flat_map(|block| [&block.conv1, &block.conv2].into_iter().chain(&block.downsample));
        std::iter::once(&self.stem).chain(of_blocks)
    }

    /// The layout of the last activation, which is averaged into the features.
    pub(super) fn last_activation(&self) -> Layout {
        match (self.blocks.last(), &self.pool) {
            (Some(block), _) => block.conv2.activation,
            (None, Some(pool)) => pool.output,
            (None, None) => self.stem.activation,
        }
    }
}

fn pool_plan(shape: &MaxPoolShape, input: Layout) -> PoolPlan {
    let output =
        Layout { height: shape.out_size, width: shape.out_size, channels: shape.channels, border: BORDER };
    PoolPlan { pool: MaxPool::STEM, input, output }
}

fn block_plan(block: &BasicBlock, index: &mut usize) -> BlockPlan {
    let mut plan = |unit: &ConvUnit| {
        let plan = UnitPlan::new(unit, *index, BORDER, BORDER);
        *index += 1;
        plan
    };
    BlockPlan {
        conv1: plan(&block.conv1),
        conv2: plan(&block.conv2),
        downsample: block.downsample.as_ref().map(plan),
    }
}
