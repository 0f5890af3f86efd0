//! `v` of a shard of the pool: the pretext loss of each item under the frozen f′ and its head g, computed once per pretext model and kept
//! (Eq. 1 of Shi & Zhou 2023).

use candle_core::Device;

use super::inference::{check_pretext, for_each_item};
use super::tables::PretextLossTable;
use super::{Result, StepHook};
use crate::nn::checkpoint::Checkpoint;
use crate::pretext;
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
    let task = pretext::for_settings(&model.manifest.pretext);
    let mut table =
        PretextLossTable { run: model.manifest.run.clone(), rows: Vec::with_capacity(pool.len()) };
    for_each_item(device, model, Some((task.as_ref(), &model.head)), pool, hook, |samples, _, losses| {
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

    #[test]
    fn an_item_s_loss_does_not_depend_on_its_shard() {
        let (pool, _) = fixture::pool(90, "embed");
        let model = fixture::pretext(&pool);
        let whole = pretext_losses(&Device::Cpu, &model, &pool, &mut go_on).unwrap();
        let shard = Pool::from_pixels(fixture::SHAPE, &[*pool.hash(71)], pool.pixels(71).to_vec()).unwrap();
        let part = pretext_losses(&Device::Cpu, &model, &shard, &mut go_on).unwrap();
        assert_eq!((part.rows.len(), part.rows[0]), (1, whole.rows[71]));
        assert_eq!(whole.rows.len(), 90);
        assert!(whole.rows.iter().all(|(_, loss)| loss.is_finite() && *loss >= 0.0));
        let different = whole.rows.iter().any(|(_, loss)| *loss != whole.rows[0].1);
        assert!(different, "{:?}", whole.rows[0]);
    }
}
