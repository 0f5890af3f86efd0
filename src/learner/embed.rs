//! Embeddings and pretext losses of a shard of the pool under the frozen f′: computed once per pretext model and kept.
//!
//! Embeddings alone cost one view an item where `v` costs four: they are all that the first batch needs, so `v` may follow while people
//! label it.

use candle_core::Device;

use super::inference::for_each_item;
use super::tables::EmbeddingTable;
use super::{LearnerError, Result, StepHook};
use crate::nn::checkpoint::{Checkpoint, ModelKind};
use crate::pretext;
use crate::vision::Pool;

/// What is wanted of each item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbedScope {
    /// Its embedding.
    Embeddings,
    /// Its embedding and its `v`; the embeddings are the same to the bit.
    EmbeddingsAndLosses,
}

/// The features of each item as it stands, and its `v` if `scope` asks for it; rows come in the pool's order.
///
/// # Errors
/// A model that isn't a pretext model or sees other images, a stop, or a device that fails.
pub fn embed(
    device: &Device,
    model: &Checkpoint,
    pool: &Pool,
    scope: EmbedScope,
    hook: &mut dyn StepHook,
) -> Result<EmbeddingTable> {
    if model.manifest.kind != ModelKind::Pretext {
        return Err(LearnerError::Model(
            "it is a downstream model, embeddings come from the pretext model".to_owned(),
        ));
    }
    let task = pretext::for_settings(&model.manifest.pretext);
    let with_losses = scope == EmbedScope::EmbeddingsAndLosses;
    let feature_count = model.architecture().feature_count;
    let mut table = EmbeddingTable::new(model.manifest.run.clone(), feature_count, with_losses);
    let task = with_losses.then_some((task.as_ref(), &model.head));
    for_each_item(device, model, task, pool, hook, |samples, features, losses| {
        for (place, (sample, features)) in
            samples.iter().zip(features.chunks_exact(feature_count)).enumerate()
        {
            let loss = losses.get(place).copied().unwrap_or(0.0);
            table.push(*pool.hash(sample.index), loss, features);
        }
        Ok(())
    })?;
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::fixture::{self, go_on};
    use crate::vision::PoolRow;

    #[test]
    fn an_item_s_row_does_not_depend_on_its_shard() {
        let (pool, _) = fixture::pool(90, "embed");
        let model = fixture::pretext(&pool);
        let scope = EmbedScope::EmbeddingsAndLosses;
        let whole = embed(&Device::Cpu, &model, &pool, scope, &mut go_on).unwrap();
        let alone = embed(&Device::Cpu, &model, &pool, EmbedScope::Embeddings, &mut go_on).unwrap();
        assert_eq!((&alone.embeddings, alone.losses), (&whole.embeddings, None));
        let picked = [71usize, 3, 40];
        let hashes: Vec<_> = picked.iter().map(|&index| *pool.hash(index)).collect();
        let pixels = picked.iter().flat_map(|&index| pool.pixels(index).to_vec()).collect();
        let shard = Pool::from_pixels(fixture::SHAPE, &hashes, pixels).unwrap();
        let part = embed(&Device::Cpu, &model, &shard, scope, &mut go_on).unwrap();
        let (part_losses, whole_losses) = (part.losses.as_ref().unwrap(), whole.losses.as_ref().unwrap());
        for (row, &index) in picked.iter().enumerate() {
            assert_eq!(part.hashes[row], whole.hashes[index]);
            assert_eq!(part_losses[row], whole_losses[index]);
            assert_eq!(part.embedding(row), whole.embedding(index));
        }
        assert!(whole_losses.iter().all(|&loss| loss.is_finite() && loss >= 0.0));
    }

    #[test]
    fn an_empty_shard_is_an_empty_table() {
        let (pool, _) = fixture::pool(20, "embed");
        let model = fixture::pretext(&pool);
        let empty = Pool::new(fixture::SHAPE, vec![], Vec::<PoolRow>::new()).unwrap();
        let table = embed(&Device::Cpu, &model, &empty, EmbedScope::Embeddings, &mut go_on).unwrap();
        assert!(table.is_empty());
    }
}
