//! The training forward pass: convolutions with batch statistics, everything kept on a tape.
//!
//! A batch norm's statistics need the whole batch, so the network is a chain of passes over it. Each pass takes a span
//! of images through "apply the last norms, convolve, take the new moments" on one thread, while the span is in its
//! cache; each activation is written once and read while it is hot.

use rayon::prelude::*;

use crate::nn::graph::NORM_EPSILON;
use crate::nn::ops::Kernel;
use crate::nn::ops::batch_norm::{Moments, apply, moments};
use crate::nn::ops::buffers::AlignedBuffer;
use crate::nn::ops::convolution::Epilogue;
use crate::nn::ops::geometry::Layout;
use crate::nn::ops::pooling;
use crate::nn::parameters::BatchStatistics;

use super::batch::{Batch, Span, split, split_mut};
use super::plan::{BlockPlan, NetworkPlan, UnitPlan};
use super::tape::{GroupNorm, Tape};
use super::weights::ForwardWeights;

/// Which stored activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A unit's.
    Unit(usize),
    /// The ImageNet stem's pooled one.
    Pool,
    /// The images themselves.
    Images,
}

/// How an activation comes from convolution outputs: `relu(norm(main) + shortcut)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub main: &'a UnitPlan,
    /// A shortcut with its own convolution and norm.
    pub downsample: Option<&'a UnitPlan>,
    /// A shortcut that is an activation itself.
    pub identity: Option<Place>,
}

impl<'a> Origin<'a> {
    /// `relu(norm(unit))`.
    pub(super) fn plain(unit: &'a UnitPlan) -> Self {
        Self { main: unit, downsample: None, identity: None }
    }

    /// What a block gives out; `input` is what it takes in.
    pub(super) fn block(block: &'a BlockPlan, input: Place) -> Self {
        let identity = if block.downsample.is_some() { None } else { Some(input) };
        Self { main: &block.conv2, downsample: block.downsample.as_ref(), identity }
    }
}

/// What feeds each block: its place, and its origin unless it is already there (pooled).
pub(super) fn block_inputs(plan: &NetworkPlan) -> Vec<(Place, Option<Origin<'_>>)> {
    let mut inputs = vec![match plan.pool {
        Some(_) => (Place::Pool, None),
        None => (Place::Unit(plan.stem.index), Some(Origin::plain(&plan.stem))),
    }];
    for block in &plan.blocks {
        let input = inputs[inputs.len() - 1].0;
        inputs.push((Place::Unit(block.conv2.index), Some(Origin::block(block, input))));
    }
    inputs
}

/// Runs the training forward pass, leaving on the tape what the backward pass needs.
///
/// `images` is dense NHWC; gives the features and the statistics of the batch.
pub(super) fn forward(
    kernel: Kernel,
    plan: &NetworkPlan,
    values: &[f32],
    images: &[f32],
    batch: Batch,
    tape: &mut Tape,
) -> (Vec<f32>, BatchStatistics) {
    tape.batch = batch;
    let mut pass = Forward { kernel, plan, values, batch, tape, statistics: vec![0.0; plan.buffer_count] };
    pass.pack_weights();
    pass.run_stem(images);
    if plan.pool.is_some() {
        pass.run_pool();
    }
    let mut inputs = block_inputs(plan);
    let (_, last_origin) = inputs.pop().expect("one more input than blocks");
    for (block, (place, origin)) in plan.blocks.iter().zip(inputs) {
        let convolutions: Vec<_> = std::iter::once(&block.conv1).chain(&block.downsample).collect();
        pass.run(origin, place, &convolutions);
        pass.run(Some(Origin::plain(&block.conv1)), Place::Unit(block.conv1.index), &[&block.conv2]);
    }
    let features = pass.run_average(last_origin);
    (features, BatchStatistics { values: pass.statistics })
}

struct Forward<'a> {
    kernel: Kernel,
    plan: &'a NetworkPlan,
    values: &'a [f32],
    batch: Batch,
    tape: &'a mut Tape,
    statistics: Vec<f32>,
}

impl<'a> Forward<'a> {
    fn pack_weights(&mut self) {
        let values = self.values;
        let units: Vec<_> = self.plan.units().zip(&mut self.tape.units).collect();
        units.into_par_iter().for_each(|(plan, unit)| unit.packed.pack(&values[plan.weight.clone()], None));
    }

    fn run_stem(&mut self, images: &[f32]) {
        let (kernel, stem) = (self.kernel, &self.plan.stem);
        let spans = self.batch.spans(stem.span_len);
        let mut bordered = std::mem::take(&mut self.tape.images);
        let mut outputs = Outputs::take(&[stem], &spans, self.tape);
        {
            let dense = split(&spans, images, stem.input.with_border(0).image_len());
            let jobs = dense.into_iter().zip(split_mut(&spans, &mut bordered, stem.input.image_len()));
            let jobs: Vec<_> = jobs.zip(outputs.jobs(&spans, self.tape)).collect();
            jobs.into_par_iter().for_each(|((dense, bordered), convolutions)| {
                stem.input.copy_from_dense(dense, bordered);
                convolutions.into_iter().for_each(|convolution| convolution.run(kernel, bordered));
            });
        }
        self.tape.images = bordered;
        self.put_back(outputs, &spans);
    }

    /// Applies the stem's norm and pools.
    fn run_pool(&mut self) {
        let (kernel, stem) = (self.kernel, &self.plan.stem);
        let (Some(plan), Some(mut pooled)) = (self.plan.pool, self.tape.pool.take()) else {
            return;
        };
        let spans = self.batch.spans(stem.span_len);
        let mut activation = std::mem::take(&mut self.tape.units[stem.index].activation);
        {
            let norming = normings(&spans, stem, &mut activation, self.tape);
            let maxima = split_mut(&spans, &mut pooled.activation, plan.output.image_len());
            let winners = split_mut(&spans, &mut pooled.winners, plan.output.with_border(0).image_len());
            let jobs: Vec<_> = norming.into_iter().zip(maxima.into_iter().zip(winners)).collect();
            jobs.into_par_iter().for_each(|(norming, (maxima, winners))| {
                let activation = norming.run(kernel, None, true);
                plan.pool.forward(activation, plan.input, plan.output, maxima, winners);
            });
        }
        self.tape.units[stem.index].activation = activation;
        self.tape.pool = Some(pooled);
    }

    /// Makes the activation at `place` from its origin, if it isn't there, and convolves it by each of `convolutions`.
    fn run(&mut self, origin: Option<Origin<'a>>, place: Place, convolutions: &[&'a UnitPlan]) {
        let kernel = self.kernel;
        let spans = self.batch.spans(convolutions[0].span_len);
        let layout = convolutions[0].input;
        let mut activation = take_activation(self.tape, place);
        let mut shortcut = origin.and_then(|origin| origin.downsample).map(|unit| self.take_shortcut(unit));
        let mut outputs = Outputs::take(convolutions, &spans, self.tape);
        {
            let origins = origins(origin, &spans, shortcut.as_mut(), self.tape);
            let activations = split_mut(&spans, &mut activation, layout.image_len());
            let jobs = origins.into_iter().zip(activations).zip(outputs.jobs(&spans, self.tape));
            let jobs: Vec<_> = jobs.collect();
            jobs.into_par_iter().for_each(|((origin, activation), convolutions)| {
                if let Some(origin) = origin {
                    origin.run(kernel, activation);
                }
                convolutions.into_iter().for_each(|convolution| convolution.run(kernel, activation));
            });
        }
        put_activation(self.tape, place, activation);
        self.put_shortcut(origin, shortcut);
        self.put_back(outputs, &spans);
    }

    /// Makes the last activation and averages it into the features.
    fn run_average(&mut self, origin: Option<Origin<'a>>) -> Vec<f32> {
        let kernel = self.kernel;
        let layout = self.plan.last_activation();
        let spans = self.batch.parts();
        let place = origin.map_or(Place::Pool, |origin| Place::Unit(origin.main.index));
        let mut features = vec![0.0; self.batch.image_count * self.plan.feature_count];
        let mut activation = take_activation(self.tape, place);
        let mut shortcut = origin.and_then(|origin| origin.downsample).map(|unit| self.take_shortcut(unit));
        {
            let origins = origins(origin, &spans, shortcut.as_mut(), self.tape);
            let activations = split_mut(&spans, &mut activation, layout.image_len());
            let targets = split_mut(&spans, &mut features, layout.channels);
            let jobs: Vec<_> = origins.into_iter().zip(activations.into_iter().zip(targets)).collect();
            jobs.into_par_iter().for_each(|(origin, (activation, features))| {
                if let Some(origin) = origin {
                    origin.run(kernel, activation);
                }
                pooling::average(activation, layout, features);
            });
        }
        put_activation(self.tape, place, activation);
        self.put_shortcut(origin, shortcut);
        features
    }

    fn take_shortcut(&mut self, unit: &UnitPlan) -> AlignedBuffer {
        std::mem::take(&mut self.tape.units[unit.index].activation)
    }

    fn put_shortcut(&mut self, origin: Option<Origin<'_>>, shortcut: Option<AlignedBuffer>) {
        if let (Some(unit), Some(shortcut)) = (origin.and_then(|origin| origin.downsample), shortcut) {
            self.tape.units[unit.index].activation = shortcut;
        }
    }

    /// Returns the outputs to the tape and turns their moments into norms and statistics.
    fn put_back(&mut self, outputs: Outputs<'_>, spans: &[Span]) {
        for (unit, (buffer, parts)) in
            outputs.units.iter().zip(outputs.buffers.into_iter().zip(outputs.moments))
        {
            let mut groups = vec![Moments::empty(unit.channels()); self.batch.group_count];
            for (span, part) in spans.iter().zip(&parts) {
                groups[span.group].merge(part);
            }
            self.keep_statistics(unit, &groups);
            let (gamma, beta) = (&self.values[unit.gamma.clone()], &self.values[unit.beta.clone()]);
            let tape = &mut self.tape.units[unit.index];
            tape.norms =
                groups.iter().map(|group| GroupNorm::new(group, gamma, beta, NORM_EPSILON)).collect();
            tape.convolved = buffer;
        }
    }

    fn keep_statistics(&mut self, unit: &UnitPlan, groups: &[Moments]) {
        let share = 1.0 / groups.len() as f64;
        for channel in 0..unit.channels() {
            let mean: f64 = groups.iter().map(|group| group.mean[channel]).sum();
            let variance: f64 = groups.iter().map(|group| group.unbiased_variance(channel)).sum();
            self.statistics[unit.running_mean.start + channel] = (mean * share) as f32;
            self.statistics[unit.running_var.start + channel] = (variance * share) as f32;
        }
    }
}

fn take_activation(tape: &mut Tape, place: Place) -> AlignedBuffer {
    match (place, &mut tape.pool) {
        (Place::Unit(index), _) => std::mem::take(&mut tape.units[index].activation),
        (Place::Images, _) => std::mem::take(&mut tape.images),
        (Place::Pool, Some(pool)) => std::mem::take(&mut pool.activation),
        (Place::Pool, None) => unreachable!("only networks that pool have this place"),
    }
}

fn put_activation(tape: &mut Tape, place: Place, activation: AlignedBuffer) {
    match (place, &mut tape.pool) {
        (Place::Unit(index), _) => tape.units[index].activation = activation,
        (Place::Images, _) => tape.images = activation,
        (Place::Pool, Some(pool)) => pool.activation = activation,
        (Place::Pool, None) => unreachable!("only networks that pool have this place"),
    }
}

/// Reads an activation of the tape.
pub(super) fn activation_at(tape: &Tape, place: Place) -> &[f32] {
    match (place, &tape.pool) {
        (Place::Unit(index), _) => &tape.units[index].activation,
        (Place::Images, _) => &tape.images,
        (Place::Pool, Some(pool)) => &pool.activation,
        (Place::Pool, None) => unreachable!("only networks that pool have this place"),
    }
}

/// The convolution outputs of one pass, out of the tape while it is written.
struct Outputs<'a> {
    units: Vec<&'a UnitPlan>,
    buffers: Vec<AlignedBuffer>,
    /// One a span, for each unit.
    moments: Vec<Vec<Moments>>,
}

impl<'a> Outputs<'a> {
    fn take(units: &[&'a UnitPlan], spans: &[Span], tape: &mut Tape) -> Self {
        let take = |unit: &&UnitPlan| std::mem::take(&mut tape.units[unit.index].convolved);
        Self {
            units: units.to_vec(),
            buffers: units.iter().map(take).collect(),
            moments: vec![vec![Moments::default(); spans.len()]; units.len()],
        }
    }

    /// For each span, its share of every convolution.
    fn jobs<'b>(&'b mut self, spans: &[Span], tape: &'b Tape) -> Vec<Vec<Convolving<'b>>> {
        let mut jobs: Vec<Vec<_>> = spans.iter().map(|_| Vec::with_capacity(self.units.len())).collect();
        for (unit, (buffer, moments)) in self.units.iter().zip(self.buffers.iter_mut().zip(&mut self.moments))
        {
            let packed = &tape.units[unit.index].packed;
            let outputs = split_mut(spans, buffer, unit.convolved().image_len());
            for (job, (convolved, moments)) in jobs.iter_mut().zip(outputs.into_iter().zip(moments)) {
                job.push(Convolving { unit, packed, convolved, moments });
            }
        }
        jobs
    }
}

/// One convolution of one span.
struct Convolving<'a> {
    unit: &'a UnitPlan,
    packed: &'a ForwardWeights,
    convolved: &'a mut [f32],
    moments: &'a mut Moments,
}

impl Convolving<'_> {
    fn run(self, kernel: Kernel, input: &[f32]) {
        self.packed.convolve(&self.unit.forward, input, self.convolved, Epilogue::default());
        *self.moments = moments(kernel, self.convolved, self.unit.convolved());
    }
}

/// One norm of one span, about to be applied.
struct Norming<'a> {
    layout: Layout,
    norm: &'a GroupNorm,
    convolved: &'a [f32],
    activation: &'a mut [f32],
}

impl<'a> Norming<'a> {
    fn run(self, kernel: Kernel, residual: Option<&[f32]>, relu: bool) -> &'a [f32] {
        apply(kernel, self.convolved, self.norm.application(residual, relu), self.layout, self.activation);
        self.activation
    }
}

fn normings<'b>(
    spans: &[Span],
    unit: &UnitPlan,
    activation: &'b mut [f32],
    tape: &'b Tape,
) -> Vec<Norming<'b>> {
    let stored = &tape.units[unit.index];
    let convolved = split(spans, &stored.convolved, unit.convolved().image_len());
    let activations = split_mut(spans, activation, unit.activation.image_len());
    let slices = convolved.into_iter().zip(activations).zip(spans);
    let norming = |((convolved, activation), span): ((&'b [f32], &'b mut [f32]), &Span)| Norming {
        layout: unit.activation,
        norm: &stored.norms[span.group],
        convolved,
        activation,
    };
    slices.map(norming).collect()
}

/// The making of one span's activation.
struct Making<'a> {
    layout: Layout,
    norm: &'a GroupNorm,
    convolved: &'a [f32],
    downsample: Option<Norming<'a>>,
    identity: Option<&'a [f32]>,
}

impl Making<'_> {
    fn run(self, kernel: Kernel, activation: &mut [f32]) {
        let residual = match self.downsample {
            Some(downsample) => Some(downsample.run(kernel, None, false)),
            None => self.identity,
        };
        apply(kernel, self.convolved, self.norm.application(residual, true), self.layout, activation);
    }
}

/// For each span, how its activation is made; `None` where it is already there.
fn origins<'b>(
    origin: Option<Origin<'b>>,
    spans: &[Span],
    shortcut: Option<&'b mut AlignedBuffer>,
    tape: &'b Tape,
) -> Vec<Option<Making<'b>>> {
    let Some(origin) = origin else {
        return spans.iter().map(|_| None).collect();
    };
    let main = &tape.units[origin.main.index];
    let convolved = split(spans, &main.convolved, origin.main.convolved().image_len());
    let layout = origin.main.activation;
    let mut downsamples = match (origin.downsample, shortcut) {
        (Some(unit), Some(activation)) => normings(spans, unit, activation, tape),
        _ => Vec::new(),
    }
    .into_iter();
    let identity = origin.identity.map(|place| split(spans, activation_at(tape, place), layout.image_len()));
    let making = |(index, (span, convolved)): (usize, (&Span, &'b [f32]))| {
        Some(Making {
            layout,
            norm: &main.norms[span.group],
            convolved,
            downsample: downsamples.next(),
            identity: identity.as_ref().map(|identity| identity[index]),
        })
    };
    spans.iter().zip(convolved).enumerate().map(making).collect()
}
