//! Rotation: predict by how many quarter turns an image was rotated (RotNet, Gidaris et al. 2018, arXiv:1803.07728).
//!
//! The rotations of an image share one crop and flip and stand in one mini-batch, so that batch norm sees each image upright, lying and
//! upside down. The loss of an item is the mean over its four rotations, `v(x) = ¼ Σ_r −ln softmax(g(f′(R_r x)))_r`, without any
//! augmentation, hence a function of the image and the weights alone.

use candle_core::Tensor;
use rand::seq::SliceRandom;

use super::{EpochPlan, Judge, Pretext};
use crate::domain::content_hash::ContentHash;
use crate::domain::seed::StreamKey;
use crate::domain::settings::ImageShape;
use crate::nn::backbone::Backbone;
use crate::nn::checkpoint::Checkpoint;
use crate::nn::head::{self, ClassifiedStep};
use crate::nn::loss::negative_log_likelihood;
use crate::nn::optimizer::{Recipe, Rule};
use crate::nn::{NnError, Result};
use crate::vision::{Augmentation, Pool, Sample, Views};

/// Quarter turns that are told apart.
const TURN_COUNT: u8 = 4;

/// Views in a mini-batch: 32 images in all four rotations, or 128 in one.
const BATCH_SIZE: usize = 128;

/// RotNet's, with the step decay replaced by half a cosine after a short warm-up.
const RECIPE: Recipe = Recipe {
    rule: Rule::Sgd { momentum: 0.9, weight_decay: 5e-4, nesterov: true },
    peak_rate: 0.1,
    head_rate_factor: 1.0,
    warm_up_fraction: 0.05,
};

/// The rotation task.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    rotations_per_image: u8,
}

impl Rotation {
    /// Shows `rotations_per_image` (1 to 4) different rotations of each image in a pass; fewer than 4 are drawn at random.
    #[must_use]
    pub fn new(rotations_per_image: u32) -> Self {
        let rotations_per_image = rotations_per_image.clamp(1, u32::from(TURN_COUNT)) as u8;
        Self { rotations_per_image }
    }

    /// The turns under which an image is shown in a pass.
    fn draw_turns(self, key: &StreamKey, hash: &ContentHash) -> Vec<u8> {
        let mut turns: Vec<u8> = (0..TURN_COUNT).collect();
        if self.rotations_per_image < TURN_COUNT {
            turns.shuffle(&mut key.clone().with_content(hash).stream());
            turns.truncate(usize::from(self.rotations_per_image));
        }
        turns
    }
}

impl Pretext for Rotation {
    fn answer_count(&self) -> usize {
        usize::from(TURN_COUNT)
    }

    fn recipe(&self, _pool: &Pool) -> Recipe {
        RECIPE
    }

    fn plan_epoch(&self, pool: &Pool, order: &[usize], seed: u64, epoch: u32) -> EpochPlan {
        let key = StreamKey::new(seed, "rotation.turns").with_number(u64::from(epoch));
        let views = |&index: &usize| {
            let turns = self.draw_turns(&key, pool.hash(index));
            turns.into_iter().map(move |quarter_turns| Sample { quarter_turns, ..Sample::upright(index) })
        };
        // All rotations of an image lie in one mini-batch, so its size is a multiple of their count.
        let images_per_batch = BATCH_SIZE / usize::from(self.rotations_per_image);
        EpochPlan {
            samples: order.iter().flat_map(views).collect(),
            batch_size: images_per_batch * usize::from(self.rotations_per_image),
            views: Views::Cropped(
                Augmentation::crop_and_flip(pool.shape()),
                StreamKey::new(seed, "rotation.augment").with_number(u64::from(epoch)),
            ),
        }
    }

    fn train_step(
        &self,
        backbone: &dyn Backbone,
        model: &mut Checkpoint,
        _pool: &Pool,
        samples: &[Sample],
        images: &Tensor,
    ) -> Result<ClassifiedStep> {
        let turns: Vec<u32> = samples.iter().map(|sample| u32::from(sample.quarter_turns)).collect();
        head::classified_step(backbone, &model.backbone, &model.head, images, &turns)
    }

    fn scoring_views(&self, _shape: ImageShape, _seed: u64) -> Views {
        Views::Plain
    }

    fn scoring_samples(&self, index: usize) -> Vec<Sample> {
        (0..TURN_COUNT).map(|quarter_turns| Sample { quarter_turns, ..Sample::upright(index) }).collect()
    }

    fn item_losses(&self, judge: Judge<'_>, _items: &[ContentHash], features: &[f32]) -> Result<Vec<f32>> {
        let logits = head::logits_of(features, judge.head).map_err(NnError::from)?;
        let turn_count = usize::from(TURN_COUNT);
        let mean = |views: &[f32]| {
            let rows = views.chunks_exact(turn_count).enumerate();
            rows.map(|(turn, row)| negative_log_likelihood(row, turn)).sum::<f32>() / f32::from(TURN_COUNT)
        };
        Ok(logits.chunks_exact(turn_count * turn_count).map(mean).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: u8) -> Pool {
        let hashes: Vec<_> = (0..count).map(|item| ContentHash::of_file(&[item])).collect();
        let shape = ImageShape { size: 8, channels: 1 };
        Pool::from_pixels(shape, &hashes, vec![0; 64 * usize::from(count)]).unwrap()
    }

    #[test]
    fn four_rotations_of_an_image_stand_beside_each_other() {
        let plan = Rotation::new(4).plan_epoch(&pool(40), &(0..40).rev().collect::<Vec<_>>(), 7, 0);
        assert_eq!((plan.samples.len(), plan.batch_size, plan.batch_count()), (160, 128, 2));
        let first: Vec<_> = plan.samples[..4].iter().map(|s| (s.index, s.quarter_turns)).collect();
        assert_eq!(first, [(39, 0), (39, 1), (39, 2), (39, 3)]);
    }

    #[test]
    fn the_fast_mode_draws_one_rotation_by_content_and_epoch() {
        let pool = pool(200);
        let order: Vec<_> = (0..200).collect();
        let turns = |order: &[usize], epoch| {
            let samples = Rotation::new(1).plan_epoch(&pool, order, 7, epoch).samples;
            let mut turns = vec![0; 200];
            samples.iter().for_each(|sample| turns[sample.index] = sample.quarter_turns);
            (samples.len(), turns)
        };
        let backwards: Vec<_> = order.iter().rev().copied().collect();
        assert_eq!(turns(&order, 0), turns(&backwards, 0));
        assert_ne!(turns(&order, 0), turns(&order, 1));
        let (count, drawn) = turns(&order, 0);
        let counts: Vec<_> = (0..4).map(|turn| drawn.iter().filter(|&&t| t == turn).count()).collect();
        assert_eq!(count, 200);
        assert!(counts.iter().all(|&count| count > 25), "{counts:?}");
    }

    #[test]
    fn an_item_s_loss_is_the_mean_over_its_four_rotations() {
        // Features of length 4 through an identity head are the logits themselves.
        let mut head = head::linear(4, 4);
        for turn in 0..4 {
            head.values[turn * 4 + turn] = 1.0;
        }
        let certain = |turn: usize| (0..4).map(move |t| if t == turn { 50.0 } else { 0.0 });
        let right = (0..4).flat_map(certain);
        let unsure = std::iter::repeat_n(0.0, 16);
        let upside_down = [2, 3, 0, 1].into_iter().flat_map(certain);
        let features: Vec<f32> = right.chain(unsure).chain(upside_down).collect();
        let judge = Judge { head: &head, momentum: None };
        let losses = Rotation::new(1).item_losses(judge, &[], &features).unwrap();
        let expected = [0.0, 4f32.ln(), 50.0];
        assert!(
            losses.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-4),
            "{losses:?}"
        );
    }
}
