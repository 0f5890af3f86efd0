//! Per-channel mean and standard deviation, measured on the pool and carried in every checkpoint's manifest.
//!
//! Measured over at most 10,000 items drawn by content hash, with integer sums, so the result depends neither on the pool's order nor on
//! threads.

use serde::{Deserialize, Serialize};

use crate::domain::seed::StreamKey;

use super::pool::Pool;

/// Items that are measured at most.
const SAMPLE_COUNT_MAX: usize = 10_000;

/// Smallest standard deviation that is used: a constant channel must not blow up noise.
const STD_MIN: f64 = 1.0 / 255.0;

/// How u8 pixels become network input: `(pixel / 255 − mean) / std`, channel by channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    /// Mean of each channel, 0 to 1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel on the same scale, at least 1/255.
    pub std: Vec<f32>,
}

impl Normalization {
    /// Measures `pool`; an empty pool gives mean ½ and deviation ½.
    #[must_use]
    pub fn measure(pool: &Pool, seed: u64) -> Self {
        let channel_count = pool.shape().channels as usize;
        let mut sums = vec![0u64; channel_count];
        let mut squares = vec![0u64; channel_count];
        let sample = sample_indices(pool, seed);
        for &index in &sample {
            for pixel in pool.pixels(index).chunks_exact(channel_count) {
                for ((&value, sum), square) in pixel.iter().zip(&mut sums).zip(&mut squares) {
                    *sum += u64::from(value);
                    *square += u64::from(value) * u64::from(value);
                }
            }
        }
        let size = pool.shape().size as usize;
        let count = (sample.len() * size * size) as f64;
        if sample.is_empty() {
            return Self { mean: vec![0.5; channel_count], std: vec![0.5; channel_count] };
        }
        let mean: Vec<f64> = sums.iter().map(|&sum| sum as f64 / count / 255.0).collect();
        let deviation = |(&square, mean): (&u64, &f64)| {
            let variance = square as f64 / count / (255.0 * 255.0) - mean * mean;
            variance.max(0.0).sqrt().max(STD_MIN) as f32
        };
        let std = squares.iter().zip(&mean).map(deviation).collect();
        Self { mean: mean.iter().map(|&mean| mean as f32).collect(), std }
    }

    /// The same rule as one multiplication and one addition a value: `(scale, bias)` of a channel; unknown channels are left as they are.
    #[must_use]
    pub fn scale_and_bias(&self, channel: usize) -> (f32, f32) {
        match (self.mean.get(channel), self.std.get(channel)) {
            (Some(mean), Some(std)) => (1.0 / (255.0 * std), -mean / std),
            _ => (1.0, 0.0),
        }
    }
}

fn sample_indices(pool: &Pool, seed: u64) -> Vec<usize> {
    if pool.len() <= SAMPLE_COUNT_MAX {
        return (0..pool.len()).collect();
    }
    let key = StreamKey::new(seed, "normalization");
    let mut keyed: Vec<_> =
        (0..pool.len()).map(|index| (key.clone().with_content(pool.hash(index)).number(), index)).collect();
    keyed.select_nth_unstable(SAMPLE_COUNT_MAX - 1);
    keyed.truncate(SAMPLE_COUNT_MAX);
    keyed.into_iter().map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::content_hash::ContentHash;
    use crate::domain::settings::ImageShape;

    #[test]
    fn mean_and_deviation_are_those_computed_by_hand() {
        let shape = ImageShape { size: 8, channels: 3 };
        // Two images: red 0 and 255 (mean 0.5, deviation 0.5), green always 51 (0.2, floored), blue 102 and 204 (0.6, 0.2).
        let pixels = [[0, 51, 102].repeat(64), [255, 51, 204].repeat(64)].concat();
        let pool = Pool::from_pixels(shape, &[ContentHash([1; 32]), ContentHash([2; 32])], pixels).unwrap();
        let normalization = Normalization::measure(&pool, 7);
        let close = |a: &[f32], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&normalization.mean, [0.5, 0.2, 0.6]), "{normalization:?}");
        assert!(close(&normalization.std, [0.5, 1.0 / 255.0, 0.2]), "{normalization:?}");
        let (scale, bias) = normalization.scale_and_bias(2);
        assert!((204.0 * scale + bias - 1.0).abs() < 1e-5);
    }

    #[test]
    fn the_sample_of_a_large_pool_does_not_depend_on_its_order() {
        let shape = ImageShape { size: 8, channels: 1 };
        let hashes: Vec<_> = (0..10_500u32).map(|i| ContentHash::of_file(&i.to_le_bytes())).collect();
        let pixels = |order: &[usize]| order.iter().flat_map(|&i| [(i % 251) as u8; 64]).collect();
        let forward: Vec<_> = (0..hashes.len()).collect();
        let backward: Vec<_> = forward.iter().rev().copied().collect();
        let measure = |order: &[usize]| {
            let hashes: Vec<_> = order.iter().map(|&i| hashes[i]).collect();
            Normalization::measure(&Pool::from_pixels(shape, &hashes, pixels(order)).unwrap(), 7)
        };
        assert_eq!(measure(&forward), measure(&backward));
    }
}
