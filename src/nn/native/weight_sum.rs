//! The gradient of a unit's weight: the form it takes, and how its sum over the batch is cut.
//!
//! A small weight has a partial sum a part of the batch, which the part's thread adds to while the gradients are in its
//! cache. A large one is cut into regions of channels, each summed over the whole batch by one thread after the pass.
//! Both cuts depend on the layer and the batch alone, and what they give is combined in a fixed order.

use std::ops::Range;

use rayon::prelude::*;

use crate::nn::ops::Kernel;
use crate::nn::ops::buffers::AlignedBuffer;
use crate::nn::ops::weight_gradient::{self, OutputGradient, Part};
use crate::nn::ops::winograd::ChannelPart;

use super::plan::{Route, UnitPlan};

/// Weights up to this length get one partial sum a part of the batch; a core's cache holds that much.
const PARTIAL_LEN_MAX: usize = 200_000;

/// Output channels of a region in the direct form.
const DIRECT_OUTPUTS: usize = 32;

/// Input and output channels of a region in Winograd's form, whose transforms of a block fill a core's cache.
const WINOGRAD_INPUTS: usize = 128;
const WINOGRAD_OUTPUTS: usize = 64;

/// Floats of the weight that one piece of work combines.
const CHUNK: usize = 4096;

/// Length of each part's partial sum of a weight's gradient; 0 for one that is summed by regions.
pub(super) fn partial_len(unit: &UnitPlan) -> usize {
    let len = unit.geometry.weight_len();
    if len <= PARTIAL_LEN_MAX { len } else { 0 }
}

/// Adds the gradient of the weight between the channels of `part` to `sum`, in the unit's form.
///
/// A direct sum takes all inputs.
pub(super) fn add_weight_gradient(
    kernel: Kernel,
    unit: &UnitPlan,
    input: &[f32],
    gradient: &[f32],
    part: &ChannelPart,
    sum: &mut [f32],
) {
    match &unit.weight_gradient {
        Route::Winograd(form) => form.add_weight_gradient(kernel, input, gradient, part, sum),
        Route::Direct(window) => {
            debug_assert_eq!(part.inputs, 0..unit.geometry.in_channels);
            let part = Part { depths: 0..unit.geometry.depth(), columns: part.outputs.clone() };
            let gradient = OutputGradient { images: gradient, width: unit.channels() };
            weight_gradient::add_weight_gradient(kernel, input, window, gradient, &part, sum);
        }
    }
}

/// Adds the parts' sums, in their order, to the weight's gradient.
pub(super) fn add_partials(partials: &[f32], target: &mut [f32]) {
    let len = target.len();
    target.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, sum)| {
        for partial in partials.chunks_exact(len) {
            for (sum, value) in sum.iter_mut().zip(&partial[chunk * CHUNK..]) {
                *sum += value;
            }
        }
    });
}

/// Sums the gradient of a large weight over the whole batch, region by region, into `target`.
pub(super) fn sum_regions(
    kernel: Kernel,
    unit: &UnitPlan,
    input: &[f32],
    gradient: &[f32],
    scratch: &mut AlignedBuffer,
    target: &mut [f32],
) {
    let width = unit.channels();
    let taps = target.len() / (unit.geometry.in_channels * width);
    scratch.reserve_len(target.len());
    let mut rest = &mut scratch[..target.len()];
    let mut regions = Vec::new();
    for part in regions_of(unit) {
        let (sum, tail) = rest.split_at_mut(taps * part.inputs.len() * part.outputs.len());
        rest = tail;
        regions.push((part, sum));
    }
    regions.par_iter_mut().for_each(|(part, sum)| {
        sum.fill(0.0);
        add_weight_gradient(kernel, unit, input, gradient, part, sum);
    });
    target.par_chunks_mut(width).enumerate().for_each(|(row, target)| {
        let (tap, input) = (row / unit.geometry.in_channels, row % unit.geometry.in_channels);
        for (part, sum) in regions.iter().filter(|(part, _)| part.inputs.contains(&input)) {
            let row = tap * part.inputs.len() + input - part.inputs.start;
            let columns = part.outputs.len();
            target[part.outputs.clone()].copy_from_slice(&sum[row * columns..][..columns]);
        }
    });
}

fn regions_of(unit: &UnitPlan) -> Vec<ChannelPart> {
    let (inputs, outputs) = (unit.geometry.in_channels, unit.channels());
    let (input_span, output_span) = match unit.weight_gradient {
        Route::Direct(_) => (inputs, DIRECT_OUTPUTS),
        Route::Winograd(_) => (WINOGRAD_INPUTS, WINOGRAD_OUTPUTS),
    };
    let spans = |count: usize, span: usize| -> Vec<Range<usize>> {
        (0..count).step_by(span).map(|first| first..(first + span).min(count)).collect()
    };
    let columns = spans(outputs, output_span);
    let region = |inputs: &Range<usize>, outputs: &Range<usize>| ChannelPart {
        inputs: inputs.clone(),
        outputs: outputs.clone(),
    };
    spans(inputs, input_span)
        .iter()
        .flat_map(|inputs| columns.iter().map(move |outputs| region(inputs, outputs)))
        .collect()
}

#[cfg(test)]
mod tests {
    use rayon::ThreadPoolBuilder;

    use super::*;
    use crate::domain::settings::{BackboneKind, ImageShape};
    use crate::nn::graph::Architecture;
    use crate::nn::native::plan::NetworkPlan;

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|index| (step * index as f32).sin()).collect()
    }

    #[test]
    fn regions_of_a_large_weight_give_the_same_bits_on_any_number_of_threads() {
        let image = ImageShape { size: 6, channels: 1 };
        let plan = NetworkPlan::new(&Architecture::residual(BackboneKind::Small, image, &[144, 160]));
        let units: Vec<_> = plan.units().filter(|unit| partial_len(unit) == 0).collect();
        assert!(units.iter().any(|unit| matches!(unit.weight_gradient, Route::Direct(_))));
        assert!(units.iter().any(|unit| matches!(unit.weight_gradient, Route::Winograd(_))));
        for unit in units {
            let mut input = vec![0.0; 3 * unit.input.image_len()];
            let dense = wave(3 * unit.geometry.input().image_len(), 0.7);
            unit.input.copy_from_dense(&dense, &mut input);
            let mut gradient = vec![0.0; 3 * unit.gradient.image_len()];
            unit.gradient.copy_from_dense(&wave(3 * unit.convolved().image_len(), 0.9), &mut gradient);
            let sum_on = |thread_count| {
                let pool = ThreadPoolBuilder::new().num_threads(thread_count).build().expect("a pool");
                let mut target = vec![f32::NAN; unit.geometry.weight_len()];
                let mut scratch = AlignedBuffer::default();
                pool.install(|| {
                    sum_regions(Kernel::best(), unit, &input, &gradient, &mut scratch, &mut target);
                });
                target
            };
            let alone = sum_on(1);
            assert_eq!(alone, sum_on(3));
            let mut whole = vec![0.0; alone.len()];
            let all = ChannelPart { inputs: 0..unit.geometry.in_channels, outputs: 0..unit.channels() };
            add_weight_gradient(Kernel::best(), unit, &input, &gradient, &all, &mut whole);
            assert_eq!(alone, whole, "a region's sums don't depend on the cut");
        }
    }
}
