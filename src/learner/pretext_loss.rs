//! `v` of a shard of the pool: the pretext loss of each item under the frozen f′ and its head g, computed once per pretext model and kept
//! (Eq. 1 of Shi & Zhou 2023).

use candle_core::Device;

use super::inference::{check_pretext, for_each_item};
use super::tables::PretextLossTable;
use super::{Result, StepHook};
use crate::nn::checkpoint::Checkpoint;
use crate::vision::Pool;

/// `v` of each item; rows come in the pool's order.
///
/// # Errors
/// A model that isn't a pretext model or sees other images, a stop, or a device that fails.
pub fn pretext_losses(
    device: &Device,
    model: &Checkpoint,
    pool: &Pool,
    hook: &mut dyn StepHook,
) -> Result<PretextLossTable> {
    check_pretext(model)?;
    let mut table =
        PretextLossTable { run: model.manifest.run.clone(), rows: Vec::with_capacity(pool.len()) };
    for_each_item(device, model, Some(model), pool, hook, |samples, _, losses| {
        let hashes = samples.iter().map(|sample| *pool.hash(sample.index));
        table.rows.extend(hashes.zip(losses.iter().copied()));
        Ok(())
    })?;
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::fixture::{self, go_on};
    use crate::learner::{DropCheckpoints, pretrain};
    use crate::nn::momentum::KeyQueue;

    fn check_shards(pool: &Pool, model: &Checkpoint) -> PretextLossTable {
        let whole = pretext_losses(&Device::Cpu, model, pool, &mut go_on).unwrap();
        let picked = [71usize, 3];
        let hashes = picked.map(|index| *pool.hash(index));
        let pixels = picked.into_iter().flat_map(|index| pool.pixels(index).to_vec()).collect();
        let shard = Pool::from_pixels(fixture::SHAPE, &hashes, pixels).unwrap();
        let part = pretext_losses(&Device::Cpu, model, &shard, &mut go_on).unwrap();
        assert_eq!(part.rows, [whole.rows[71], whole.rows[3]]);
        assert_eq!(whole.rows.len(), 90);
        assert!(whole.rows.iter().all(|(_, loss)| loss.is_finite() && *loss >= 0.0));
        let different = whole.rows.iter().any(|(_, loss)| *loss != whole.rows[0].1);
        assert!(different, "{:?}", whole.rows[0]);
        whole
    }

    #[test]
    fn an_item_s_loss_does_not_depend_on_its_shard() {
        let (pool, _) = fixture::pool(90, "embed");
        check_shards(&pool, &fixture::pretext(&pool));
    }

    fn contrastive(pool: &Pool) -> Checkpoint {
        let settings = fixture::moco_settings();
        pretrain(&Device::Cpu, pool, &[], &settings, None, &mut DropCheckpoints, &mut go_on).unwrap()
    }

    #[test]
    fn a_contrastive_loss_needs_the_stored_model_alone() {
        let (pool, _) = fixture::pool(90, "embed");
        let model = contrastive(&pool);
        let whole = check_shards(&pool, &model);
        // Another machine has the bytes only.
        let stored = Checkpoint::from_bytes(&model.to_bytes().unwrap()).unwrap();
        assert_eq!(check_shards(&pool, &stored), whole);
        // 45 keys of batches of 30 are kept: near the loss of guessing among them at most.
        assert!(whole.rows.iter().all(|(_, loss)| *loss < 46f32.ln() + 1.0), "{:?}", whole.rows);
    }

    #[test]
    fn an_item_s_own_key_does_not_count() {
        let (pool, _) = fixture::pool(90, "embed");
        let mut model = contrastive(&pool);
        let before = pretext_losses(&Device::Cpu, &model, &pool, &mut go_on).unwrap();
        let momentum = model.momentum.as_mut().unwrap();
        let owners: Vec<_> = momentum.queue.items().iter().flatten().copied().collect();
        assert_eq!(owners.len(), 45);
        // The first item's keys are turned into another item's: for both the loss changes, for the rest it doesn't.
        let (first, other) = (owners[0], *pool.hash(0));
        assert_ne!(first, other);
        let queue = &momentum.queue;
        let items = queue.items().iter().map(|item| if *item == Some(first) { Some(other) } else { *item });
        let changed =
            KeyQueue::from_parts(queue.width(), queue.keys().to_vec(), items.collect(), queue.next());
        momentum.queue = changed.unwrap();
        let after = pretext_losses(&Device::Cpu, &model, &pool, &mut go_on).unwrap();
        for ((hash, before), (_, after)) in before.rows.iter().zip(&after.rows) {
            match *hash {
                hash if hash == first => assert!(after > before, "one more key to be told from"),
                hash if hash == other => assert!(after < before, "one key less to be told from"),
                _ => assert_eq!(after, before),
            }
        }
    }
}
