//! The moments of each channel: what a norm divides by and what running statistics keep.
//!
//! Two-pass within an image and combined across images and spans by Chan's update in f64 (Chan, Golub, LeVeque 1983), so
//! a large mean costs no digits of the variance.

use super::{MAX_LANES, STREAMS, total};
use crate::nn::ops::Kernel;
use crate::nn::ops::geometry::Layout;
use crate::nn::ops::simd::{Simd, Task, run};

/// Count, mean and sum of squared deviations, a channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Values a channel.
    pub count: f64,
    /// Mean a channel.
    pub mean: Vec<f64>,
    /// Σ (x − mean)², a channel.
    pub squares: Vec<f64>,
}

impl Moments {
    /// The moments of nothing.
    pub fn empty(channels: usize) -> Self {
        Self { count: 0.0, mean: vec![0.0; channels], squares: vec![0.0; channels] }
    }

    /// Adds the moments of further values.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0.0 {
            return;
        }
        let total = self.count + other.count;
        let (share, weight) = (other.count / total, self.count * other.count / total);
        let own = self.mean.iter_mut().zip(&mut self.squares);
        for ((mean, squares), (other_mean, other_squares)) in own.zip(other.mean.iter().zip(&other.squares)) {
            let difference = other_mean - *mean;
            *mean += difference * share;
            *squares += other_squares + difference * difference * weight;
        }
        self.count = total;
    }

    /// The variance that normalises (divided by the count), of one channel.
    pub fn biased_variance(&self, channel: usize) -> f64 {
        self.squares[channel] / self.count
    }

    /// The variance that running statistics keep (divided by count − 1), of one channel.
    pub fn unbiased_variance(&self, channel: usize) -> f64 {
        self.squares[channel] / (self.count - 1.0).max(1.0)
    }
}

/// The moments of each channel over dense images.
///
/// # Panics
/// When the length is not a whole number of images.
pub fn moments(kernel: Kernel, images: &[f32], layout: Layout) -> Moments {
    assert_eq!(layout.border, 0, "moments are taken of dense images");
    assert!(images.len().is_multiple_of(layout.image_len()), "a whole number of images");
    let mut sum = Moments::empty(layout.channels);
    let mut part = Moments::empty(layout.channels);
    part.count = layout.pixel_count() as f64;
    for image in images.chunks_exact(layout.image_len()) {
        // SAFETY: the image is a whole number of pixels of `channels` floats; both vectors have one slot a channel.
        unsafe {
            run(kernel, ImageMoments { image, channels: layout.channels, part: &mut part });
        };
        sum.merge(&part);
    }
    sum
}

struct ImageMoments<'a> {
    image: &'a [f32],
    channels: usize,
    part: &'a mut Moments,
}

impl Task for ImageMoments<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let count = self.part.count;
        for channel in (0..self.channels).step_by(S::LANES) {
            let lanes = (self.channels - channel).min(S::LANES);
            let mut means = [0.0; MAX_LANES];
            // SAFETY: `lanes` channels from `channel` on exist in every pixel; `means` has room for a vector.
            let (deviations, squares) = unsafe {
                let (sums, _) = self.sum_around::<S>(channel, lanes, S::zero());
                for lane in 0..lanes {
                    means[lane] = (sums[lane] / count) as f32;
                }
                self.sum_around::<S>(channel, lanes, S::load(means.as_ptr()))
            };
            for lane in 0..lanes {
                // The first mean is rounded: what the deviations add up to takes its error out of both again.
                let rest = deviations[lane] / count;
                self.part.mean[channel + lane] = f64::from(means[lane]) + rest;
                self.part.squares[channel + lane] = (squares[lane] - deviations[lane] * rest).max(0.0);
            }
        }
    }
}

impl ImageMoments<'_> {
    /// Σ (x − center) and Σ (x − center)² of up to a vector of channels.
    #[inline(always)]
    unsafe fn sum_around<S: Simd>(
        &self,
        channel: usize,
        lanes: usize,
        center: S::Vector,
    ) -> ([f64; MAX_LANES], [f64; MAX_LANES]) {
        let pixel_count = self.image.len() / self.channels;
        // SAFETY: pixel `pixel_count - 1` is the last of the image and has `lanes` channels from `channel` on.
        unsafe {
            let mut sums = [S::zero(); STREAMS];
            let mut squares = [S::zero(); STREAMS];
            let mut from = self.image.as_ptr().add(channel);
            for _ in 0..pixel_count / STREAMS {
                for stream in 0..STREAMS {
                    let value = S::sub(S::load_up_to(from.add(stream * self.channels), lanes), center);
                    sums[stream] = S::add(sums[stream], value);
                    squares[stream] = S::mul_add(value, value, squares[stream]);
                }
                from = from.wrapping_add(STREAMS * self.channels);
            }
            for rest in 0..pixel_count % STREAMS {
                let value = S::sub(S::load_up_to(from.add(rest * self.channels), lanes), center);
                sums[0] = S::add(sums[0], value);
                squares[0] = S::mul_add(value, value, squares[0]);
            }
            (total::<S>(&sums), total::<S>(&squares))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::values;
    use super::*;

    fn reference_moments(images: &[f32], channels: usize) -> (Vec<f64>, Vec<f64>) {
        let count = (images.len() / channels) as f64;
        let of =
            |channel: usize| images.iter().skip(channel).step_by(channels).map(|value| f64::from(*value));
        let means: Vec<f64> = (0..channels).map(|channel| of(channel).sum::<f64>() / count).collect();
        let squares = (0..channels)
            .map(|channel| of(channel).map(|value| (value - means[channel]).powi(2)).sum())
            .collect();
        (means, squares)
    }

    #[test]
    fn moments_keep_their_digits_under_a_large_mean() {
        for channels in [1, 3, 16, 17, 40] {
            let layout = Layout::dense(5, 7, channels);
            let images: Vec<f32> =
                values(3 * layout.image_len(), 7).iter().map(|value| 1000.0 + 0.01 * value).collect();
            let (means, squares) = reference_moments(&images, channels);
            for kernel in Kernel::available() {
                let got = moments(kernel, &images, layout);
                assert_eq!(got.count, 105.0);
                for channel in 0..channels {
                    assert!((got.mean[channel] - means[channel]).abs() < 1e-6, "{kernel:?}");
                    let error = (got.squares[channel] / squares[channel] - 1.0).abs();
                    assert!(error < 1e-4, "{kernel:?} {channels}: variance off by {error:e}");
                }
            }
        }
    }

    #[test]
    fn a_constant_channel_has_no_variance() {
        let layout = Layout::dense(4, 4, 3);
        for kernel in Kernel::available() {
            let got = moments(kernel, &vec![0.1; 2 * layout.image_len()], layout);
            assert!(got.squares.iter().all(|square| *square < 1e-12), "{kernel:?} {got:?}");
        }
    }
}
