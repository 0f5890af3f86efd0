//! Forward passes over many images in eval mode: what embedding, `v`, evaluation and scoring share.
//!
//! The loader fills the next batch while the backbone computes. An item's row doesn't depend on its batch, so batch and shard sizes are
//! free to choose.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};

use super::training::batch_tensor;
use super::{LearnerError, Result, StepHook, check};
use crate::domain::content_hash::ContentHash;
use crate::domain::settings::ImageShape;
use crate::nn::backbone::Backbone;
use crate::nn::checkpoint::{Checkpoint, ModelKind};
use crate::nn::device::backbone_for;
use crate::nn::graph::Representation;
use crate::nn::{self, NnError};
use crate::pretext::{self, Judge};
use crate::vision::{BatchLoader, Pool, Sample, Views};

/// Images in a batch of inference: a batch ends with some cores waiting for the last piece, so small images come many at a time; large
/// ones are bounded by memory.
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
    consume: impl FnMut(&[Sample], &[f32]) -> Result<()>,
) -> Result<()> {
    let look = Look { device, model, pool, views: Views::Plain, batch_size: batch_size(pool.shape()) };
    let represent = |network: &dyn Backbone, _: &[Sample], images: &Tensor| {
        let rows = network.represent(&model.backbone, images, representation)?;
        rows.flatten_all().and_then(|rows| rows.to_vec1::<f32>()).map_err(NnError::from)
    };
    look.at_each(samples, &represent, hook, consume)
}

/// Images under a frozen model, and how they are looked at.
struct Look<'a> {
    device: &'a Device,
    model: &'a Checkpoint,
    pool: &'a Pool,
    views: Views,
    batch_size: usize,
}

/// What a network makes of the images [N, H, W, C] of some samples, row by row.
type RepresentFn<'a> = dyn Fn(&dyn Backbone, &[Sample], &Tensor) -> nn::Result<Vec<f32>> + 'a;

impl Look<'_> {
    /// Hands `consume` what `represent` makes of `samples`, batch after batch.
    fn at_each(
        self,
        samples: &[Sample],
        represent: &RepresentFn<'_>,
        hook: &mut dyn StepHook,
        mut consume: impl FnMut(&[Sample], &[f32]) -> Result<()>,
    ) -> Result<()> {
        let Self { device, model, pool, views, batch_size } = self;
        if pool.shape() != model.manifest.image {
            let (found, expected) = (pool.shape(), model.manifest.image);
            return Err(LearnerError::Model(format!("it sees images of {expected:?}, these are {found:?}")));
        }
        let network = backbone_for(device, model.architecture());
        let loader = BatchLoader::new(pool, &model.manifest.normalization).with_views(views);
        let total = samples.len().div_ceil(batch_size) as u64;
        let mut done = 0;
        let flow = loader.for_each(samples, batch_size, |batch| {
            let mut take = || {
                check(hook.step(done, total))?;
                let images = batch_tensor(batch, pool, device)?;
                consume(batch.samples, &represent(network.as_ref(), batch.samples, &images)?)?;
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
}

/// Hands `consume` the items of `pool` in their order, batch after batch: their upright samples, the rows of the model's representation, and
/// with a pretext model, whose task and head then judge the features, the pretext loss of each; without one the losses are empty.
pub(super) fn for_each_item(
    device: &Device,
    model: &Checkpoint,
    pretext: Option<&Checkpoint>,
    pool: &Pool,
    hook: &mut dyn StepHook,
    mut consume: impl FnMut(&[Sample], &[f32], &[f32]) -> Result<()>,
) -> Result<()> {
    let representation = model.manifest.representation;
    let Some(pretext) = pretext else {
        let samples: Vec<Sample> = (0..pool.len()).map(Sample::upright).collect();
        return for_each_row(device, model, representation, pool, &samples, hook, |samples, rows| {
            consume(samples, rows, &[])
        });
    };
    if representation != Representation::Features {
        let frozen = "its backbone is the pretext model's, and so are the losses of its items";
        return Err(LearnerError::Model(frozen.to_owned()));
    }
    let (task, judge) = (pretext::for_settings(&pretext.manifest.pretext), Judge::of(pretext));
    let samples: Vec<Sample> = (0..pool.len()).flat_map(|index| task.scoring_samples(index)).collect();
    let view_count = samples.len().checked_div(pool.len()).unwrap_or(1);
    let views = task.scoring_views(pool.shape(), pretext.manifest.seed);
    // All views of an item come in one batch, since its loss is taken over them.
    let item_count = (batch_size(pool.shape()) / view_count).max(1);
    let look = Look { device, model, pool, views, batch_size: item_count * view_count };
    let feature_count = model.architecture().feature_count;
    let represent = |network: &dyn Backbone, samples: &[Sample], images: &Tensor| {
        task.scoring_features(network, &model.backbone, judge, samples, images)
    };
    look.at_each(&samples, &represent, hook, |samples, features| {
        let upright: Vec<Sample> = samples.iter().step_by(view_count).copied().collect();
        let items: Vec<ContentHash> = upright.iter().map(|sample| *pool.hash(sample.index)).collect();
        let losses = task.item_losses(judge, &items, features)?;
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
