//! Embeddings of a shard of the pool under the frozen f′: computed once per pretext model and kept.
//!
//! One view an item, the image as it stands: all that the first batch needs. `v`, which costs four, follows in `pretext_loss` while people
//! label.

use candle_core::Device;

use super::inference::{check_pretext, for_each_row};
use super::tables::EmbeddingTable;
use super::{Result, StepHook};
use crate::nn::checkpoint::Checkpoint;
use crate::nn::graph::Representation;
use crate::vision::{Pool, Sample};

/// The embedding of each item as it stands; rows come in the pool's order.
///
/// # Errors
/// A model that isn't a pretext model or sees other images, a stop, or a device that fails.
pub fn embed(
    device: &Device,
    model: &Checkpoint,
    pool: &Pool,
    hook: &mut dyn StepHook,
) -> Result<EmbeddingTable> {
    check_pretext(model)?;
    let samples: Vec<Sample> = (0..pool.len()).map(Sample::upright).collect();
    let width = model.architecture().width(Representation::Embedding);
    let mut table = EmbeddingTable::new(model.manifest.run.clone(), width);
    for_each_row(device, model, Representation::Embedding, pool, &samples, hook, |samples, rows| {
        for (sample, embedding) in samples.iter().zip(rows.chunks_exact(width)) {
            table.push(*pool.hash(sample.index), embedding);
        }
        Ok(())
    })?;
    Ok(table)
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;
    use crate::domain::project::ClassIndex;
    use crate::learner::fixture::{self, go_on};
    use crate::learner::{DropCheckpoints, pretrain};
    use crate::vision::PoolRow;

    /// Shares of items of `asked` whose nearest neighbour, and whose ten nearest by vote, in `known` are of their class.
    fn neighbour_accuracy(known: &Described, asked: &Described) -> [f64; 2] {
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let right = |(row, answer): (&Vec<f32>, &ClassIndex)| {
            let mut near: Vec<_> =
                known.rows.iter().map(|other| distance(row, other)).zip(&known.classes).collect();
            near.select_nth_unstable_by(10, |a, b| a.0.total_cmp(&b.0));
            near.truncate(10);
            near.sort_by(|a, b| a.0.total_cmp(&b.0));
            let votes = |class: &ClassIndex| near.iter().filter(|(_, other)| *other == class).count();
            let voted = near.iter().rev().max_by_key(|(_, class)| votes(class)).map(|(_, class)| *class);
            [usize::from(near[0].1 == answer), usize::from(voted == Some(answer))]
        };
        let counts = asked.rows.par_iter().zip(&asked.classes).map(right);
        counts
            .reduce(|| [0, 0], |a, b| [a[0] + b[0], a[1] + b[1]])
            .map(|count| count as f64 / asked.rows.len() as f64)
    }

    /// Images with their classes.
    type Labeled = (Pool, Vec<ClassIndex>);

    struct Described {
        rows: Vec<Vec<f32>>,
        classes: Vec<ClassIndex>,
    }

    impl Described {
        fn by_embedding(model: &Checkpoint, (pool, classes): &Labeled) -> Self {
            let table = embed(&Device::Cpu, model, pool, &mut go_on).unwrap();
            Self {
                rows: (0..table.len()).map(|row| table.embedding(row).to_vec()).collect(),
                classes: classes.clone(),
            }
        }

        fn by_features(model: &Checkpoint, (pool, classes): &Labeled) -> Self {
            let samples: Vec<Sample> = (0..pool.len()).map(Sample::upright).collect();
            let mut rows = Vec::new();
            let device = Device::Cpu;
            for_each_row(
                &device,
                model,
                Representation::Features,
                pool,
                &samples,
                &mut go_on,
                |_, features| {
                    rows.extend(features.chunks_exact(64).map(<[f32]>::to_vec));
                    Ok(())
                },
            )
            .unwrap();
            Self { rows, classes: classes.clone() }
        }

        fn by_pixels((pool, classes): &Labeled) -> Self {
            let row = |index| pool.pixels(index).iter().map(|&pixel| f32::from(pixel)).collect();
            Self { rows: (0..pool.len()).map(row).collect(), classes: classes.clone() }
        }
    }

    fn pretext_of_one_rotation(pool: &Pool) -> Checkpoint {
        let mut settings = fixture::settings();
        settings.pretext.rotations_per_image = 1;
        settings.image = pool.shape();
        pretrain(&Device::Cpu, pool, &[], &settings, None, &mut DropCheckpoints, &mut go_on).unwrap()
    }

    #[test]
    fn neighbours_by_all_stages_are_better_than_by_the_last_one() {
        let (pool, test) = (fixture::fashion_mnist("train", 3000), fixture::fashion_mnist("t10k", 500));
        let model = pretext_of_one_rotation(&pool.0);
        let all = neighbour_accuracy(
            &Described::by_embedding(&model, &pool),
            &Described::by_embedding(&model, &test),
        );
        let last = neighbour_accuracy(
            &Described::by_features(&model, &pool),
            &Described::by_features(&model, &test),
        );
        assert!(
            all[0] > last[0] + 0.02 && all[1] > last[1] + 0.02,
            "{all:?} by all stages, {last:?} by the last"
        );
    }

    #[test]
    #[ignore = "a pass over the 60,000 images: an experiment of minutes, for docs/results/loop.md"]
    fn neighbours_after_one_pass_beat_raw_pixels() {
        let (pool, test) = (fixture::fashion_mnist("train", 60_000), fixture::fashion_mnist("t10k", 2000));
        let model = pretext_of_one_rotation(&pool.0);
        let of = |described: &dyn Fn(&Labeled) -> Described| {
            neighbour_accuracy(&described(&pool), &described(&test))
        };
        let by_pixels = of(&Described::by_pixels);
        let by_features = of(&|images| Described::by_features(&model, images));
        let by_embedding = of(&|images| Described::by_embedding(&model, images));
        eprintln!(
            "nearest, ten nearest: {by_pixels:?} pixels, {by_features:?} features, {by_embedding:?} embedding"
        );
        assert!(by_embedding[0] > by_pixels[0] && by_embedding[1] > by_pixels[1]);
    }

    #[test]
    fn an_item_s_row_does_not_depend_on_its_shard() {
        let (pool, _) = fixture::pool(90, "embed");
        let model = fixture::pretext(&pool);
        let whole = embed(&Device::Cpu, &model, &pool, &mut go_on).unwrap();
        let picked = [71usize, 3, 40];
        let hashes: Vec<_> = picked.iter().map(|&index| *pool.hash(index)).collect();
        let pixels = picked.iter().flat_map(|&index| pool.pixels(index).to_vec()).collect();
        let shard = Pool::from_pixels(fixture::SHAPE, &hashes, pixels).unwrap();
        let part = embed(&Device::Cpu, &model, &shard, &mut go_on).unwrap();
        for (row, &index) in picked.iter().enumerate() {
            assert_eq!(part.hashes[row], whole.hashes[index]);
            assert_eq!(part.embedding(row), whole.embedding(index));
        }
    }

    #[test]
    fn an_empty_shard_is_an_empty_table() {
        let (pool, _) = fixture::pool(20, "embed");
        let model = fixture::pretext(&pool);
        let empty = Pool::new(fixture::SHAPE, vec![], Vec::<PoolRow>::new()).unwrap();
        assert!(embed(&Device::Cpu, &model, &empty, &mut go_on).unwrap().is_empty());
    }
}
