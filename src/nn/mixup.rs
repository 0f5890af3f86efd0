//! Mixup: a mini-batch whose images are blended in pairs, and the loss that goes with them (Zhang et al. 2018, arXiv:1710.09412).
//!
//! A draw is one share for the whole batch and a partner for each image: `x̃_i = s·x_i + (1 − s)·x_p(i)`, and the loss is
//! `s·CE(ỹ_i, y_i) + (1 − s)·CE(ỹ_i, y_p(i))`. Shares are folded to `[½, 1]`, which changes no pair and no weight when all pairs are drawn alike,
//! and lets an answer be called right when it names the image's own class. Called by `learner` on the thread that owns the device.

use candle_core::{Result, Tensor};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_distr::{Beta, Distribution};

use super::loss::cross_entropy;

/// Which images of a mini-batch are blended, and how much.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// Place in the batch of each image's partner; its own place leaves the image as it is.
    partners: Vec<u32>,
    /// Share of the image itself, ½ to 1.
    share: f64,
}

impl Mixture {
    /// Draws a mixture of `count` images with a share from Beta(`alpha`, `alpha`), alpha above 0; 1 is uniform, less is closer to the images themselves.
    ///
    /// # Panics
    /// If `alpha` isn't a positive number.
    #[must_use]
    pub fn draw(count: usize, alpha: f64, stream: &mut impl Rng) -> Self {
        let shares = Beta::new(alpha, alpha).expect("a positive concentration");
        let share: f64 = shares.sample(stream);
        let mut partners: Vec<u32> = (0..count as u32).collect();
        partners.shuffle(stream);
        Self { partners, share: share.max(1.0 - share) }
    }

    /// The blended images; `images` is [N, H, W, C].
    ///
    /// # Errors
    /// A batch of another size than was drawn for, or the device's.
    pub fn blend(&self, images: &Tensor) -> Result<Tensor> {
        let partners = Tensor::new(self.partners.as_slice(), images.device())?;
        (images * self.share)? + (images.index_select(&partners, 0)? * (1.0 - self.share))?
    }

    /// Mean loss of the blended images' logits [N, C] against the classes of both images, a scalar with history.
    ///
    /// # Errors
    /// Shapes that don't fit, or the device's.
    pub fn loss(&self, logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
        let partner = |&place: &u32| targets.get(place as usize).copied();
        let Some(partners) = self.partners.iter().map(partner).collect::<Option<Vec<u32>>>() else {
            candle_core::bail!("a mixture of {} images has {} classes", self.partners.len(), targets.len());
        };
        (cross_entropy(logits, targets)? * self.share)?
            + (cross_entropy(logits, &partners)? * (1.0 - self.share))?
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::domain::seed::StreamKey;

    fn stream(number: u64) -> impl Rng {
        StreamKey::new(7, "mixup").with_number(number).stream()
    }

    #[test]
    fn images_and_loss_are_the_weighted_means_of_the_pair() {
        let mixture = Mixture { partners: vec![1, 0], share: 0.75 };
        let images = Tensor::new(&[[[[4f32]]], [[[8.0]]]], &Device::Cpu).unwrap();
        let blended = mixture.blend(&images).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(blended, [5.0, 7.0]);
        let logits = Tensor::new(&[[1f32, 2.0, 3.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let loss = mixture.loss(&logits, &[2, 0]).unwrap().to_scalar::<f32>().unwrap();
        // −ln softmax([1, 2, 3]) = 2.4076, 1.4076, 0.4076; the second row is ln 3 whatever its class.
        let first = 0.75 * 0.407_605_96 + 0.25 * 2.407_606;
        assert!((loss - (first + 3f32.ln()) / 2.0).abs() < 1e-6, "{loss}");
        assert!(mixture.loss(&logits, &[2]).is_err());
    }

    #[test]
    fn a_draw_pairs_every_image_once_and_an_image_keeps_the_larger_share() {
        for number in 0..50 {
            let mixture = Mixture::draw(16, 0.4, &mut stream(number));
            let mut partners = mixture.partners.clone();
            partners.sort_unstable();
            assert!(partners.into_iter().eq(0..16));
            assert!((0.5..=1.0).contains(&mixture.share), "{}", mixture.share);
        }
        assert_eq!(Mixture::draw(16, 0.4, &mut stream(1)), Mixture::draw(16, 0.4, &mut stream(1)));
    }

    #[test]
    fn shares_are_spread_as_their_distribution_says() {
        // A share of Beta(1, 1) folded to [½, 1] has mean ¾; of Beta(0.4, 0.4) 0.8398 (numerical integration).
        for (alpha, expected) in [(1.0, 0.75), (0.4, 0.8398)] {
            let shares: Vec<f64> =
                (0..4000).map(|number| Mixture::draw(1, alpha, &mut stream(number)).share).collect();
            let mean = shares.iter().sum::<f64>() / shares.len() as f64;
            assert!((mean - expected).abs() < 0.01, "{mean} for alpha {alpha}");
        }
    }
}
