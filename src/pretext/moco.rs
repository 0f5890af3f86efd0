//! MoCo: tell the views of an image from those of all others (He et al. 2020, arXiv:1911.05722; v2: Chen et al. 2020, arXiv:2003.04297).
//!
//! A mini-batch holds two distorted views of each image: queries for the network that is trained, keys for its momentum encoder, which
//! also fill a queue that queries are told apart from. Batch norm is split into groups, and a key never shares its group with the images
//! that its query shares one with: else the network tells pairs by their statistics. Recipe: MoCo's on CIFAR-10 (batch 512, rate 0.06, weight decay
//! 5e-4, half a cosine). `v` compares the pairs of views of an item under both frozen encoders in eval mode with the frozen queue without the
//! item's own keys; its views are keyed by seed and content hash, so it depends on image and model alone.

use candle_core::Tensor;

use super::{EpochPlan, Judge, Pretext, plain_features};
use crate::domain::content_hash::ContentHash;
use crate::domain::moco::{MocoSettings, MocoVersion};
use crate::domain::seed::StreamKey;
use crate::domain::settings::ImageShape;
use crate::nn::backbone::{Backbone, Mode};
use crate::nn::checkpoint::Checkpoint;
use crate::nn::contrast::{item_losses, training_loss};
use crate::nn::head::{ClassifiedStep, project};
use crate::nn::momentum::{KeyQueue, MomentumEncoder, project_plain};
use crate::nn::optimizer::{Recipe, Rule};
use crate::nn::parameters::{NORM_MOMENTUM, ParameterStore};
use crate::nn::{NnError, Result};
use crate::vision::{Distortion, Pool, Sample, Views};

/// Numbers of a projection.
const PROJECTION_WIDTH: usize = 128;

/// Batch of the recipe, for which its learning rate holds; with fewer images the rate falls in proportion.
const RECIPE_BATCH: usize = 512;

/// Images in a mini-batch by default when they are larger than `SMALL_SIZE`: what the memory of an ordinary machine holds.
const LARGE_IMAGE_BATCH: usize = 128;

/// Largest edge of a small image in pixels.
const SMALL_SIZE: u32 = 64;

/// Mini-batches that a pass over a small pool should have at least, as long as they keep `SMALLEST_BATCH` images.
const STEPS_PER_EPOCH: usize = 32;

/// Images in a mini-batch by default, in small pools.
const SMALLEST_BATCH: usize = 64;

/// Groups of batch norm at most, as in the recipe.
const GROUP_COUNT_MAX: usize = 8;

/// Pairs of views that `v` is the mean over.
const PAIR_COUNT: u32 = 4;

/// View numbers in training.
const QUERY_VIEW: u32 = 1;
const KEY_VIEW: u32 = 2;

/// The contrastive task.
#[derive(Clone, Copy, Debug)]
pub struct Moco {
    settings: MocoSettings,
}

impl Moco {
    /// The task under these settings.
    #[must_use]
    pub fn new(settings: MocoSettings) -> Self {
        Self { settings }
    }

    fn distortion(&self, shape: ImageShape) -> Distortion {
        Distortion::contrastive(shape, self.settings.version == MocoVersion::V2 && shape.size > SMALL_SIZE)
    }

    /// Mini-batches of a pass over `item_count` images, and images in each: nearly all are seen, in equal batches that batch norm's groups divide.
    fn cut(&self, shape: ImageShape, item_count: usize) -> (usize, usize) {
        let fitting = || {
            let largest = if shape.size > SMALL_SIZE { LARGE_IMAGE_BATCH } else { RECIPE_BATCH };
            (item_count / STEPS_PER_EPOCH).clamp(SMALLEST_BATCH, largest)
        };
        let longest = self.settings.batch_size.map_or_else(fitting, |size| size as usize);
        let batch_count = item_count.div_ceil(longest.max(1)).max(1);
        let equal = item_count / batch_count;
        (batch_count, equal - equal % group_count(equal))
    }

    /// Keys that are kept beside a pool: few of its items should find their own key among them.
    fn queue_size(&self, item_count: usize) -> usize {
        (self.settings.queue_size as usize).min((item_count / 2).max(1))
    }
}

/// Batch-norm groups of a mini-batch of `count` images: of 8 images and more where there are enough.
fn group_count(count: usize) -> usize {
    match count {
        0..4 => 1,
        4..32 => 2,
        32..64 => 4,
        _ => GROUP_COUNT_MAX,
    }
}

/// Which row of the keys shows the image of query `place`: keys are dealt out over the groups, so that a group of keys has as many of each
/// group of queries.
fn key_row(place: usize, count: usize) -> usize {
    let groups = group_count(count);
    place % groups * (count / groups) + place / groups
}

fn without_momentum() -> NnError {
    NnError::Checkpoint("it is no model of MoCo: it has no key encoder".to_owned())
}

impl Pretext for Moco {
    fn answer_count(&self) -> usize {
        PROJECTION_WIDTH
    }

    fn recipe(&self, pool: &Pool) -> Recipe {
        let (_, batch_size) = self.cut(pool.shape(), pool.len());
        Recipe {
            rule: Rule::Sgd { momentum: 0.9, weight_decay: 5e-4, nesterov: false },
            peak_rate: 0.06 * batch_size as f32 / RECIPE_BATCH as f32,
            head_rate_factor: 1.0,
            warm_up_fraction: 0.0,
        }
    }

    fn start_momentum(
        &self,
        backbone: &ParameterStore,
        head: &ParameterStore,
        pool: &Pool,
        seed: u64,
    ) -> Option<MomentumEncoder> {
        let key = StreamKey::new(seed, "moco.queue");
        let queue = KeyQueue::random(PROJECTION_WIDTH, self.queue_size(pool.len()), key);
        Some(MomentumEncoder::new(backbone, head, queue))
    }

    fn plan_epoch(&self, pool: &Pool, order: &[usize], seed: u64, epoch: u32) -> EpochPlan {
        let (batch_count, batch_size) = self.cut(pool.shape(), order.len());
        let mut samples = Vec::with_capacity(2 * batch_count * batch_size);
        for images in order.chunks_exact(batch_size.max(1)).take(batch_count) {
            let view = |index: usize, view: u32| Sample { view, ..Sample::upright(index) };
            samples.extend(images.iter().map(|&index| view(index, QUERY_VIEW)));
            let first_key = samples.len();
            samples.resize(first_key + images.len(), Sample::upright(0));
            for (place, &index) in images.iter().enumerate() {
                samples[first_key + key_row(place, images.len())] = view(index, KEY_VIEW);
            }
        }
        let key = StreamKey::new(seed, "moco.augment").with_number(u64::from(epoch));
        EpochPlan {
            samples,
            batch_size: 2 * batch_size,
            views: Views::Distorted(self.distortion(pool.shape()), key),
        }
    }

    fn train_step(
        &self,
        backbone: &dyn Backbone,
        model: &mut Checkpoint,
        pool: &Pool,
        samples: &[Sample],
        images: &Tensor,
    ) -> Result<ClassifiedStep> {
        let count = samples.len() / 2;
        let groups = group_count(count);
        let momentum = model.momentum.as_mut().ok_or_else(without_momentum)?;
        momentum.follow(&model.backbone, &model.head, self.settings.momentum as f32);
        let key_images = images.narrow(0, count, count)?;
        let mode = Mode::TrainWithoutTape { groups };
        let (features, statistics) = backbone.features(&momentum.backbone, &key_images, mode)?;
        if let Some(statistics) = statistics {
            momentum.backbone.update_running(&statistics, NORM_MOMENTUM);
        }
        let dealt = project_plain(&features, &momentum.head)?; // [N, W], as the keys were dealt out
        let rows: Vec<u32> = (0..count).map(|place| key_row(place, count) as u32).collect();
        let keys = dealt.index_select(&Tensor::new(rows, dealt.device())?, 0)?;
        let mut correct_count = 0;
        let mut loss = |features: &Tensor, head: &[Tensor]| {
            let queries = project(features, head)?;
            let temperature = self.settings.temperature_in_use();
            let (loss, correct) = training_loss(&queries, &keys, &momentum.queue, temperature)?;
            correct_count = correct;
            Ok(loss)
        };
        let query_images = images.narrow(0, 0, count)?;
        let gradients =
            backbone.step_gradients(&model.backbone, &model.head, &query_images, groups, &mut loss)?;
        let keys = keys.flatten_all()?.to_vec1::<f32>()?;
        momentum.queue.push(&keys, samples[..count].iter().map(|sample| *pool.hash(sample.index)));
        Ok(ClassifiedStep { gradients, answer_count: count, correct_count })
    }

    fn scoring_views(&self, shape: ImageShape, seed: u64) -> Views {
        Views::Distorted(self.distortion(shape), StreamKey::new(seed, "moco.score"))
    }

    fn scoring_samples(&self, index: usize) -> Vec<Sample> {
        (0..=2 * PAIR_COUNT).map(|view| Sample { view, ..Sample::upright(index) }).collect()
    }

    fn scoring_features(
        &self,
        backbone: &dyn Backbone,
        parameters: &ParameterStore,
        judge: Judge<'_>,
        samples: &[Sample],
        images: &Tensor,
    ) -> Result<Vec<f32>> {
        let momentum = judge.momentum.ok_or_else(without_momentum)?;
        let (keys, queries): (Vec<u32>, Vec<u32>) =
            (0..samples.len() as u32).partition(|&row| is_key(samples[row as usize].view));
        let width = backbone.architecture().feature_count;
        let mut features = vec![0.0; samples.len() * width];
        for (encoder, rows) in [(parameters, queries), (&momentum.backbone, keys)] {
            if rows.is_empty() {
                continue;
            }
            let picked = images.index_select(&Tensor::new(rows.as_slice(), images.device())?, 0)?;
            let found = plain_features(backbone, encoder, &picked)?;
            for (row, found) in rows.into_iter().zip(found.chunks_exact(width)) {
                features[row as usize * width..][..width].copy_from_slice(found);
            }
        }
        Ok(features)
    }

    fn item_losses(&self, judge: Judge<'_>, items: &[ContentHash], features: &[f32]) -> Result<Vec<f32>> {
        let momentum = judge.momentum.ok_or_else(without_momentum)?;
        let view_count = 2 * PAIR_COUNT as usize + 1;
        let width = features.len() / (items.len() * view_count).max(1);
        let rows = || (0..).zip(features.chunks_exact(width.max(1)));
        let project_views = |head: &ParameterStore, wanted: &dyn Fn(u32) -> bool| {
            let picked = rows().filter(|(row, _)| wanted((row % view_count) as u32));
            let picked: Vec<f32> = picked.flat_map(|(_, row)| row).copied().collect();
            let picked = Tensor::from_vec(picked, ((), width), &candle_core::Device::Cpu)?;
            project_plain(&picked, head)
        };
        let queries = project_views(judge.head, &|view| view > 0 && !is_key(view))?;
        let keys = project_views(&momentum.head, &is_key)?;
        let temperature = self.settings.temperature_in_use() as f32;
        Ok(item_losses(&queries, &keys, &momentum.queue, temperature, items)?)
    }
}

/// Whether a scoring view is the key encoder's: of each pair the first is the query.
fn is_key(view: u32) -> bool {
    view > 0 && view.is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::settings::ImageShape;

    const SHAPE: ImageShape = ImageShape { size: 8, channels: 1 };

    fn pool(count: u32) -> Pool {
        let hashes: Vec<_> = (0..count).map(|item| ContentHash::of_file(&item.to_le_bytes())).collect();
        Pool::from_pixels(SHAPE, &hashes, vec![0; 64 * count as usize]).unwrap()
    }

    #[test]
    fn a_mini_batch_holds_two_views_of_each_image_and_deals_the_keys_out() {
        let order: Vec<_> = (0..600).rev().collect();
        let settings = MocoSettings { batch_size: Some(256), ..MocoSettings::default() };
        let plan = Moco::new(settings).plan_epoch(&pool(600), &order, 7, 0);
        // Three batches of 200 images, in eight groups of 25.
        assert_eq!((plan.batch_size, plan.batch_count(), plan.samples.len()), (400, 3, 1200));
        let batch = &plan.samples[400..800];
        assert!(batch[..200].iter().zip(&order[200..]).all(|(s, &index)| (s.index, s.view) == (index, 1)));
        for place in 0..200 {
            let key = batch[200 + key_row(place, 200)];
            assert_eq!((key.index, key.view), (order[200 + place], 2));
        }
        // Of the 25 images that share the statistics of a query, at most 4 share those of a key.
        let query_group = |index: usize| (order[200] - index) / 25;
        for keys in batch[200..].chunks(25) {
            for group in 0..8 {
                let shared = keys.iter().filter(|key| query_group(key.index) == group).count();
                assert!((3..=4).contains(&shared), "{shared}");
            }
        }
    }

    #[test]
    fn small_pools_get_small_batches_and_queues() {
        let moco = Moco::new(MocoSettings::default());
        let large = ImageShape { size: 224, channels: 3 };
        assert_eq!(moco.cut(SHAPE, 60_000), (118, 504));
        assert_eq!(moco.cut(large, 60_000), (469, 120));
        assert_eq!(moco.cut(SHAPE, 10_000), (33, 296));
        assert_eq!(moco.cut(SHAPE, 70), (2, 32));
        assert_eq!([1, 3, 5].map(|count| moco.cut(SHAPE, count)), [(1, 1), (1, 3), (1, 4)]);
        assert_eq!([60_000, 1000, 1].map(|count| moco.queue_size(count)), [4096, 500, 1]);
        for count in 1..300 {
            let (batch_count, size) = moco.cut(SHAPE, count);
            assert!(size > 0 && size.is_multiple_of(group_count(size)) && batch_count * size <= count);
        }
    }
}
