//! Embeddings and pretext losses of a shard of the pool under the frozen f′: computed once per pretext model and kept.

use candle_core::Device;

use super::inference::{BATCH_SIZE, for_each_features};
use super::tables::EmbeddingTable;
use super::{LearnerError, Result, StepHook};
use crate::nn::checkpoint::{Checkpoint, ModelKind};
use crate::pretext;
use crate::vision::{Pool, Sample};

/// The features of each item as it stands, and its `v`.
///
/// # Errors
/// A model that isn't a pretext model or sees other images, a stop, or a device that fails.
pub fn embed(device: &Device, model: &Checkpoint, pool: &Pool, hook: &mut dyn StepHook) -> Result<EmbeddingTable> {
    if model.manifest.kind != ModelKind::Pretext {
        return Err(LearnerError::Model("it is a downstream model, embeddings come from the pretext model".to_owned()));
    }
    let task = pretext::for_settings(&model.manifest.pretext);
    let samples: Vec<Sample> = (0..pool.len()).flat_map(|index| task.scoring_samples(index)).collect();
    let view_count = samples.len().checked_div(pool.len()).unwrap_or(1);
    // All views of an item must come in one batch for its loss to be taken over them.
    debug_assert_eq!(BATCH_SIZE % view_count, 0);
    let feature_count = model.architecture().feature_count;
    let mut table = EmbeddingTable::new(model.manifest.run.clone(), feature_count);
    for_each_features(device, model, pool, &samples, hook, |samples, features| {
        let losses = task.item_losses(&model.head, features)?;
        let items = samples.chunks_exact(view_count).zip(features.chunks_exact(view_count * feature_count));
        for ((samples, features), loss) in items.zip(losses) {
            table.push(*pool.hash(samples[0].index), loss, &features[..feature_count]);
        }
        Ok(())
    })?;
    Ok(table)
}
