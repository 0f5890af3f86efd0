//! The backward pass: gradients of all parameters from the gradient of the features and a tape.
//!
//! It mirrors the forward pass: a batch norm's gradient needs sums over the whole batch, so each pass takes its part of
//! the batch through "gradient of the convolution's output, of the weight, of the input, gate by the ReLU, sum for the
//! norms before" on one thread. Weights' gradients are summed on the way or after the pass (`weight_sum`).

use rayon::prelude::*;

use crate::nn::ops::Kernel;
use crate::nn::ops::batch_norm::{GradientLine, GradientSums};
use crate::nn::ops::buffers::AlignedBuffer;
use crate::nn::ops::geometry::split_evenly;
use crate::nn::ops::pooling;

use super::batch::{Batch, Span, split, split_mut};
use super::forward::{Origin, Place, activation_at, block_inputs};
use super::part::{Gate, PartJob, Sums, UnitJob};
use super::plan::{NetworkPlan, UnitPlan};
use super::tape::{GradientScratch, Tape};
use super::weight_sum::{add_partials, partial_len, sum_regions};
use super::weights::GradientWeights;

/// Runs the backward pass; `gradient` is that of the features, `[N, D]`. Gives the gradient of the flat values.
pub(super) fn backward(
    kernel: Kernel,
    plan: &NetworkPlan,
    values: &[f32],
    gradient: &[f32],
    tape: &Tape,
    scratch: &mut GradientScratch,
) -> Vec<f32> {
    let (batch, parts) = (tape.batch, tape.batch.parts());
    let sums = vec![Vec::new(); tape.units.len()];
    let mut pass =
        Backward { kernel, plan, values, tape, batch, parts, sums, flat: vec![0.0; plan.parameter_count] };
    pass.pack_weights(&mut scratch.packed);
    let inputs = block_inputs(plan);
    pass.spread_features(gradient, inputs[plan.blocks.len()], &mut scratch.outer);
    for (block, (input, origin)) in plan.blocks.iter().zip(&inputs).rev() {
        let GradientScratch { outer, inner, next, convolved, shortcut, partial, packed } = scratch;
        let mut workspace = Workspace { gradients: [convolved, shortcut], partial, packed };
        let step = Step {
            units: vec![(&block.conv2, outer)],
            input: Place::Unit(block.conv1.index),
            identity: None,
            origin: Some(Origin::plain(&block.conv1)),
        };
        pass.run(&step, Some(inner), &mut workspace);
        let downsample = block.downsample.iter().map(|unit| (unit, &**outer));
        let step = Step {
            units: std::iter::once((&block.conv1, &**inner)).chain(downsample).collect(),
            input: *input,
            identity: if block.downsample.is_some() { None } else { Some(outer) },
            origin: *origin,
        };
        pass.run(&step, Some(next), &mut workspace);
        std::mem::swap(outer, next);
    }
    let GradientScratch { outer, next, convolved, shortcut, partial, packed, .. } = scratch;
    if plan.pool.is_some() {
        pass.unpool(outer, next);
        std::mem::swap(outer, next);
    }
    let step = Step { units: vec![(&plan.stem, outer)], input: Place::Images, identity: None, origin: None };
    pass.run(&step, None, &mut Workspace { gradients: [convolved, shortcut], partial, packed });
    pass.flat
}

/// One pass of the backward: convolutions that read the same activation.
struct Step<'a> {
    /// Each convolution with the gated gradient of its normalised output.
    units: Vec<(&'a UnitPlan, &'a [f32])>,
    /// The activation that they read.
    input: Place,
    /// A further gradient of that activation: the gated one of a block whose shortcut it is.
    identity: Option<&'a [f32]>,
    /// What made the activation, for the gate and its norms' sums; `None` for images and a pooled one.
    origin: Option<Origin<'a>>,
}

/// Scratch that every pass uses.
struct Workspace<'a> {
    /// Gradients of up to two convolutions' outputs.
    gradients: [&'a mut AlignedBuffer; 2],
    partial: &'a mut AlignedBuffer,
    packed: &'a [GradientWeights],
}

struct Backward<'a> {
    kernel: Kernel,
    plan: &'a NetworkPlan,
    values: &'a [f32],
    tape: &'a Tape,
    batch: Batch,
    parts: Vec<Span>,
    /// Of each unit's norm, one a batch-norm group, filled by the pass that gates its gradient.
    sums: Vec<Vec<GradientSums>>,
    flat: Vec<f32>,
}

impl Backward<'_> {
    fn pack_weights(&self, packed: &mut [GradientWeights]) {
        // The images get no gradient, so the stem's weight isn't packed.
        let units: Vec<_> = self.plan.units().zip(packed).skip(1).collect();
        units.into_par_iter().for_each(|(unit, packed)| packed.pack(unit, &self.values[unit.weight.clone()]));
    }

    /// The gradient of the last activation, gated.
    fn spread_features(
        &mut self,
        gradient: &[f32],
        (_, origin): (Place, Option<Origin<'_>>),
        target: &mut [f32],
    ) {
        let (kernel, layout) = (self.kernel, self.plan.last_activation());
        let targets = split_mut(&self.parts, target, layout.with_border(0).image_len());
        let gradients = split(&self.parts, gradient, layout.channels);
        let jobs: Vec<_> = targets.into_iter().zip(gradients).zip(self.gates(origin)).collect();
        let sums = jobs.into_par_iter().map(|((target, gradient), gate)| {
            pooling::average_gradient(gradient, layout, target);
            gate.map(|gate| gate.run_all(kernel, target))
        });
        let sums = sums.collect();
        self.keep_sums(origin, sums);
    }

    /// The gradient of the stem's activation from that of the pooled one, gated.
    fn unpool(&mut self, gradient: &[f32], target: &mut [f32]) {
        let (kernel, stem) = (self.kernel, &self.plan.stem);
        let (Some(plan), Some(pooled)) = (self.plan.pool, &self.tape.pool) else {
            return;
        };
        let output_len = plan.output.with_border(0).image_len();
        let origin = Some(Origin::plain(stem));
        let targets = split_mut(&self.parts, target, plan.input.with_border(0).image_len());
        let gradients = split(&self.parts, gradient, output_len);
        let winners = split(&self.parts, &pooled.winners, output_len);
        let jobs: Vec<_> =
            targets.into_iter().zip(gradients.into_iter().zip(winners)).zip(self.gates(origin)).collect();
        let sums = jobs.into_par_iter().map(|((target, (gradient, winners)), gate)| {
            plan.pool.backward(gradient, winners, plan.input, plan.output, target);
            gate.map(|gate| gate.run_all(kernel, target))
        });
        let sums = sums.collect();
        self.keep_sums(origin, sums);
    }

    /// Runs one pass: the weights' gradients into the flat one, the gated gradient of the input into `target`.
    fn run(&mut self, step: &Step<'_>, target: Option<&mut [f32]>, workspace: &mut Workspace<'_>) {
        let lines: Vec<_> = step.units.iter().map(|(unit, _)| self.lines(unit)).collect();
        let kernel = self.kernel;
        let partials_len: usize = step.units.iter().map(|(unit, _)| partial_len(unit)).sum();
        workspace.partial.reserve_len(partials_len * self.parts.len());
        let sums = {
            let jobs = self.jobs(step, &lines, target, workspace);
            jobs.into_par_iter().map(|job| job.run(kernel)).collect()
        };
        self.keep_sums(step.origin, sums);
        self.add_all_partials(step, workspace.partial);
        // Only now may the large weights use the scratch that held the small ones' partial sums.
        for (position, (unit, _)) in step.units.iter().enumerate() {
            if partial_len(unit) == 0 {
                let count = self.batch.image_count;
                let input = &activation_at(self.tape, step.input)[..count * unit.input.image_len()];
                let gradient = &workspace.gradients[position][..count * unit.gradient.image_len()];
                let target = &mut self.flat[unit.weight.clone()];
                sum_regions(self.kernel, unit, input, gradient, workspace.partial, target);
            }
        }
    }

    fn add_all_partials(&mut self, step: &Step<'_>, partials: &[f32]) {
        let mut first = 0;
        for (unit, _) in &step.units {
            let len = partial_len(unit) * self.parts.len();
            if len > 0 {
                add_partials(&partials[first..first + len], &mut self.flat[unit.weight.clone()]);
                first += len;
            }
        }
    }

    /// The work of each part.
    fn jobs<'b>(
        &'b self,
        step: &Step<'b>,
        lines: &'b [Vec<GradientLine>],
        target: Option<&'b mut [f32]>,
        workspace: &'b mut Workspace<'_>,
    ) -> Vec<PartJob<'b>> {
        let parts = &self.parts;
        let main = step.units[0].0;
        let (input, input_len) = (activation_at(self.tape, step.input), main.input.image_len());
        let target_len = main.input.with_border(0).image_len();
        let mut targets = target.map(|target| split_mut(parts, target, target_len).into_iter());
        let mut jobs: Vec<_> = parts
            .iter()
            .zip(self.gates(step.origin))
            .map(|(part, gate)| PartJob {
                spans: split_evenly(part.images.len(), main.span_len),
                units: Vec::with_capacity(step.units.len()),
                input: &input[part.images.start * input_len..part.images.end * input_len],
                identity: step
                    .identity
                    .map(|images| &images[part.images.start * target_len..part.images.end * target_len]),
                target: targets.as_mut().and_then(Iterator::next),
                gate,
            })
            .collect();
        let mut rest = &mut workspace.partial[..];
        for ((position, (unit, gated)), gradient) in
            step.units.iter().enumerate().zip(&mut workspace.gradients)
        {
            let tape = &self.tape.units[unit.index];
            let gated = split(parts, gated, unit.convolved().image_len());
            let convolved = split(parts, &tape.convolved, unit.convolved().image_len());
            let gradients = split_mut(parts, gradient, unit.gradient.image_len());
            let slices = gated.into_iter().zip(convolved).zip(gradients);
            for ((job, part), ((gated, convolved), gradient)) in jobs.iter_mut().zip(parts).zip(slices) {
                let (partial, tail) = rest.split_at_mut(partial_len(unit));
                rest = tail;
                job.units.push(UnitJob {
                    unit,
                    line: &lines[position][part.group],
                    gated,
                    convolved,
                    gradient,
                    partial,
                    packed: &workspace.packed[unit.index],
                });
            }
        }
        jobs
    }

    /// For each part, how the gradient of an activation is gated and summed.
    fn gates<'b>(&'b self, origin: Option<Origin<'b>>) -> Vec<Option<Gate<'b>>> {
        let gate = |part: &Span| {
            let origin = origin?;
            let summed = |unit: &UnitPlan| {
                let (tape, len) = (&self.tape.units[unit.index], unit.convolved().image_len());
                let convolved = &tape.convolved[part.images.start * len..part.images.end * len];
                (tape.norms[part.group].mean.as_slice(), convolved)
            };
            let layout = origin.main.activation;
            let activation = &self.tape.units[origin.main.index].activation;
            Some(Gate {
                layout,
                activation: &activation
                    [part.images.start * layout.image_len()..part.images.end * layout.image_len()],
                main: summed(origin.main),
                downsample: origin.downsample.map(summed),
            })
        };
        self.parts.iter().map(gate).collect()
    }

    /// Combines the parts' sums, in their order.
    fn keep_sums(&mut self, origin: Option<Origin<'_>>, parts: Vec<Option<Sums>>) {
        let Some(origin) = origin else { return };
        for unit in std::iter::once(origin.main).chain(origin.downsample) {
            self.sums[unit.index] = vec![GradientSums::empty(unit.channels()); self.batch.group_count];
        }
        for (part, sums) in self.parts.iter().zip(parts.into_iter().flatten()) {
            self.sums[origin.main.index][part.group].merge(&sums.main);
            if let (Some(unit), Some(sums)) = (origin.downsample, &sums.downsample) {
                self.sums[unit.index][part.group].merge(sums);
            }
        }
    }

    /// The line of each group's norm; writes the gradients of γ and β on the way.
    fn lines(&mut self, unit: &UnitPlan) -> Vec<GradientLine> {
        let count = (self.batch.group_len() * unit.convolved().pixel_count()) as f64;
        let gamma = &self.values[unit.gamma.clone()];
        let groups = self.sums[unit.index].iter().zip(&self.tape.units[unit.index].norms);
        for channel in 0..unit.channels() {
            let inverse = |norm: &super::tape::GroupNorm| f64::from(norm.inverse_deviation[channel]);
            let of_gamma: f64 =
                groups.clone().map(|(sums, norm)| sums.centered[channel] * inverse(norm)).sum();
            let of_beta: f64 = groups.clone().map(|(sums, _)| sums.gradient[channel]).sum();
            self.flat[unit.gamma.start + channel] = of_gamma as f32;
            self.flat[unit.beta.start + channel] = of_beta as f32;
        }
        groups
            .map(|(sums, norm)| GradientLine::new(sums, count, gamma, &norm.mean, &norm.inverse_deviation))
            .collect()
    }
}
