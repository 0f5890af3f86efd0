//! Forward passes over many images in eval mode: what embedding, `v`, evaluation and scoring share.
//!
//! The loader fills the next batch while the backbone computes. An item's row doesn't depend on its batch, so batch and shard sizes are
//! free to choose.

use std::ops::ControlFlow;

use candle_core::Device;

use super::training::batch_tensor;
use super::{LearnerError, Result, StepHook, check};
use crate::domain::settings::ImageShape;
use crate::nn::NnError;
use crate::nn::checkpoint::{Checkpoint, ModelKind};
use crate::nn::device::backbone_for;
use crate::nn::graph::Representation;
use crate::nn::parameters::ParameterStore;
use crate::pretext::Pretext;
use crate::vision::{BatchLoader, Pool, Sample};

/// Images in a batch of inference: a batch ends with some cores waiting for the last piece, so small images come many at a time; large
/// ones are bounded by memory. A power of two, so that all views of an item lie in one batch.
fn batch_size(shape: ImageShape) -> usize {
    let fitting = (BATCH_NUMBERS / shape.byte_count().max(1)).clamp(32, 1024);
    1 << fitting.ilog2()
}

/// Numbers of a batch of small images.
const BATCH_NUMBERS: usize = 1 << 20;

/// Refuses a model that isn't f′.
pub(super) fn check_pretext(model: &Checkpoint) -> Result<()> {
    match model.manifest.kind {
        ModelKind::Pretext => Ok(()),
        ModelKind::Downstream => {
            Err(LearnerError::Model("it is a downstream model, a pretext model is needed".to_owned()))
        }
    }
}

/// Hands `consume` what `representation` makes of `samples`, one row each, batch after batch, in their order.
pub(super) fn for_each_row(
    device: &Device,
    model: &Checkpoint,
    representation: Representation,
    pool: &Pool,
    samples: &[Sample],
    hook: &mut dyn StepHook,
    mut consume: impl FnMut(&[Sample], &[f32]) -> Result<()>,
) -> Result<()> {
    if pool.shape() != model.manifest.image {
        let (found, expected) = (pool.shape(), model.manifest.image);
        return Err(LearnerError::Model(format!("it sees images of {expected:?}, these are {found:?}")));
    }
    let network = backbone_for(device, model.architecture());
    let loader = BatchLoader::new(pool, &model.manifest.normalization);
    let batch_size = batch_size(pool.shape());
    let total = samples.len().div_ceil(batch_size) as u64;
    let mut done = 0;
    let flow = loader.for_each(samples, batch_size, |batch| {
        let mut take = || {
            check(hook.step(done, total))?;
            let images = batch_tensor(batch, pool, device)?;
            let rows = network.represent(&model.backbone, &images, representation)?;
            let rows = rows.flatten_all().and_then(|rows| rows.to_vec1::<f32>());
            consume(batch.samples, &rows.map_err(NnError::from)?)?;
            done += 1;
            Ok(())
        };
        take().map_or_else(ControlFlow::Break, ControlFlow::Continue)
    });
    if let ControlFlow::Break(error) = flow {
        return Err(error);
    }
    check(hook.step(total, total))
}

/// Hands `consume` the items of `pool` in their order, batch after batch: their upright samples, the rows of the model's representation, and
/// with a `task` and its head the pretext loss of each; without one the losses are empty.
pub(super) fn for_each_item(
    device: &Device,
    model: &Checkpoint,
    task: Option<(&dyn Pretext, &ParameterStore)>,
    pool: &Pool,
    hook: &mut dyn StepHook,
    mut consume: impl FnMut(&[Sample], &[f32], &[f32]) -> Result<()>,
) -> Result<()> {
    let representation = model.manifest.representation;
    let Some((task, head)) = task else {
        let samples: Vec<Sample> = (0..pool.len()).map(Sample::upright).collect();
        return for_each_row(device, model, representation, pool, &samples, hook, |samples, rows| {
            consume(samples, rows, &[])
        });
    };
    if representation != Representation::Features {
        let frozen = "its backbone is the pretext model's, and so are the losses of its items";
        return Err(LearnerError::Model(frozen.to_owned()));
    }
    let samples: Vec<Sample> = (0..pool.len()).flat_map(|index| task.scoring_samples(index)).collect();
    let view_count = samples.len().checked_div(pool.len()).unwrap_or(1);
    // All views of an item must come in one batch for its loss to be taken over them.
    debug_assert_eq!(batch_size(pool.shape()) % view_count, 0);
    let feature_count = model.architecture().feature_count;
    for_each_row(device, model, representation, pool, &samples, hook, |samples, features| {
        let losses = task.item_losses(head, features)?;
        let upright: Vec<Sample> = samples.iter().step_by(view_count).copied().collect();
        let views = features.chunks_exact(view_count * feature_count);
        let own: Vec<f32> = views.flat_map(|views| &views[..feature_count]).copied().collect();
        consume(&upright, &own, &losses)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_large_for_small_images_and_bounded_for_large_ones() {
        let sizes = [(8, 1), (28, 1), (32, 3), (224, 3)];
        let batches = sizes.map(|(size, channels)| batch_size(ImageShape { size, channels }));
        assert_eq!(batches, [1024, 1024, 256, 32]);
    }
}
