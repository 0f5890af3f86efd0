//! What one thread does with its part of the batch in a pass of the backward.
//!
//! The part is worked through span by span, so that the gradient of a convolution's output is still in the cache when
//! the weight's and the input's gradients read it.

use std::ops::Range;

use crate::nn::ops::Kernel;
use crate::nn::ops::batch_norm::{GradientLine, GradientSums, apply_gradient, gate_and_sum};
use crate::nn::ops::convolution::Residual;
use crate::nn::ops::geometry::Layout;
use crate::nn::ops::winograd::ChannelPart;

use super::plan::UnitPlan;
use super::weight_sum::add_weight_gradient;
use super::weights::GradientWeights;

/// The sums of the norms that made an activation.
#[derive(Debug)]
pub(super) struct Sums {
    pub main: GradientSums,
    pub downsample: Option<GradientSums>,
}

impl Sums {
    fn merge(&mut self, other: &Self) {
        self.main.merge(&other.main);
        if let (Some(own), Some(other)) = (&mut self.downsample, &other.downsample) {
            own.merge(other);
        }
    }
}

/// How the gradient of a part's activation is gated by its ReLU and summed for the norms that made it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate<'a> {
    /// Of the activation.
    pub layout: Layout,
    pub activation: &'a [f32],
    /// Mean and convolution output of the main branch.
    pub main: (&'a [f32], &'a [f32]),
    /// The same of a downsampling shortcut.
    pub downsample: Option<(&'a [f32], &'a [f32])>,
}

impl Gate<'_> {
    /// Gates the gradient of all images of the part.
    pub(super) fn run_all(&self, kernel: Kernel, gradient: &mut [f32]) -> Sums {
        let count = self.activation.len() / self.layout.image_len();
        self.run(kernel, gradient, 0..count)
    }

    /// Gates `gradient`, which is that of the images in `range`.
    fn run(&self, kernel: Kernel, gradient: &mut [f32], range: Range<usize>) -> Sums {
        let activation = images(self.activation, self.layout, &range);
        let dense = self.layout.with_border(0);
        let (mean, convolved) = self.main;
        let convolved = images(convolved, dense, &range);
        let main = gate_and_sum(kernel, gradient, Some(activation), convolved, mean, self.layout);
        let downsample = self.downsample.map(|(mean, convolved)| {
            gate_and_sum(kernel, gradient, None, images(convolved, dense, &range), mean, dense)
        });
        Sums { main, downsample }
    }
}

/// A convolution in a part's pass.
#[derive(Debug)]
pub(super) struct UnitJob<'a> {
    pub unit: &'a UnitPlan,
    pub line: &'a GradientLine,
    /// Gated gradient of the normalised output, dense.
    pub gated: &'a [f32],
    /// Output of the convolution, dense.
    pub convolved: &'a [f32],
    /// Where the gradient of that output goes.
    pub gradient: &'a mut [f32],
    /// The part's sum of the weight's gradient; empty when it is summed otherwise.
    pub partial: &'a mut [f32],
    /// The weight, packed for the input's gradient.
    pub packed: &'a GradientWeights,
}

/// A part of the batch in one pass.
#[derive(Debug)]
pub(super) struct PartJob<'a> {
    /// Images of the part that are worked through together.
    pub spans: Vec<Range<usize>>,
    pub units: Vec<UnitJob<'a>>,
    /// The activation that the convolutions read.
    pub input: &'a [f32],
    /// A further gradient of that activation, dense.
    pub identity: Option<&'a [f32]>,
    /// Where the activation's gradient goes, dense; `None` for images.
    pub target: Option<&'a mut [f32]>,
    pub gate: Option<Gate<'a>>,
}

impl PartJob<'_> {
    /// Does the pass for the part; gives the norms' sums when there is a gate.
    pub(super) fn run(mut self, kernel: Kernel) -> Option<Sums> {
        let mut sums: Option<Sums> = None;
        self.units.iter_mut().for_each(|job| job.partial.fill(0.0));
        for span in std::mem::take(&mut self.spans) {
            for position in 0..self.units.len() {
                self.run_unit(kernel, position, &span);
            }
            let (Some(gate), Some(target)) = (&self.gate, &mut self.target) else {
                continue;
            };
            let found = gate.run(kernel, images_mut(target, gate.layout.with_border(0), &span), span);
            match &mut sums {
                Some(sums) => sums.merge(&found),
                None => sums = Some(found),
            }
        }
        sums
    }

    fn run_unit(&mut self, kernel: Kernel, position: usize, span: &Range<usize>) {
        let job = &mut self.units[position];
        let unit = job.unit;
        let dense = unit.convolved();
        let gradient = images_mut(job.gradient, unit.gradient, span);
        let (gated, convolved) = (images(job.gated, dense, span), images(job.convolved, dense, span));
        apply_gradient(kernel, gated, convolved, job.line, unit.gradient, gradient);
        if !job.partial.is_empty() {
            let input = images(self.input, unit.input, span);
            let all = ChannelPart { inputs: 0..unit.geometry.in_channels, outputs: 0..unit.channels() };
            add_weight_gradient(kernel, unit, input, gradient, &all, job.partial);
        }
        let Some(target) = &mut self.target else {
            return;
        };
        let input = unit.geometry.input();
        let target = images_mut(target, input, span);
        // The first convolution sets the gradient of the input, a further one adds to it.
        let residual = match (position, self.identity) {
            (0, Some(identity)) => Residual::Images(images(identity, input, span)),
            (0, None) => Residual::None,
            _ => Residual::Target,
        };
        job.packed.spread(unit, gradient, target, residual);
    }
}

fn images<'a>(buffer: &'a [f32], layout: Layout, range: &Range<usize>) -> &'a [f32] {
    &buffer[range.start * layout.image_len()..range.end * layout.image_len()]
}

fn images_mut<'a>(buffer: &'a mut [f32], layout: Layout, range: &Range<usize>) -> &'a mut [f32] {
    &mut buffer[range.start * layout.image_len()..range.end * layout.image_len()]
}
