//! Cheap lower bounds of distances: what is left of them in a few principal directions.
//!
//! Private to `acquisition`. A projection onto orthonormal directions makes no distance longer, and the features of trained networks vary in few
//! directions, so most distances that can't matter are known not to from 32 numbers instead of hundreds. The directions come from subspace
//! iteration over a sample; they decide how fast a search is, never what it finds.

use rayon::prelude::*;

use super::points::{dot, squared_distance};

const DIRECTION_COUNT: usize = 32;
const SAMPLE_COUNT: usize = 2048;
const ITERATION_COUNT: usize = 4;

/// Keeps rounded numbers below what they bound: a factor, and a share of the largest squared length.
const FACTOR: f32 = 0.998;
const SLACK: f32 = 1e-6;

/// Rows in the principal directions.
pub(super) struct Projection {
    // [N, DIRECTION_COUNT]
    values: Vec<f32>,
    slack: f32,
}

impl Projection {
    /// Projects `count` rows of `width` numbers; `None` when that would cost more than it spares.
    pub(super) fn of<'a>(
        row: impl Fn(usize) -> &'a [f32] + Sync,
        count: usize,
        width: usize,
    ) -> Option<Self> {
        if width < 2 * DIRECTION_COUNT || count < SAMPLE_COUNT {
            return None;
        }
        let step = count / SAMPLE_COUNT;
        let sample: Vec<&[f32]> = (0..SAMPLE_COUNT).map(|place| row(place * step)).collect();
        let (mean, directions) = principal_directions(&sample, width);
        let projected: Vec<([f32; DIRECTION_COUNT], f32)> = (0..count)
            .into_par_iter()
            .with_min_len(256)
            .map_init(Vec::new, |centred: &mut Vec<f32>, index| {
                centred.clear();
                centred.extend(row(index).iter().zip(&mean).map(|(value, mean)| value - mean));
                let mut coordinates = [0.0; DIRECTION_COUNT];
                for (coordinate, direction) in coordinates.iter_mut().zip(directions.chunks_exact(width)) {
                    *coordinate = dot(centred, direction);
                }
                (coordinates, dot(centred, centred))
            })
            .collect();
        let largest = projected.iter().map(|(_, squared_length)| *squared_length).fold(0.0, f32::max);
        let values = projected.into_iter().flat_map(|(coordinates, _)| coordinates).collect();
        Some(Self { values, slack: SLACK * largest })
    }

    /// Never above the squared distance of two rows.
    pub(super) fn squared_distance_at_least(&self, a: usize, b: usize) -> f32 {
        let row = |index: usize| &self.values[index * DIRECTION_COUNT..][..DIRECTION_COUNT];
        squared_distance(row(a), row(b)) * FACTOR - self.slack
    }
}

/// Mean of the sample and orthonormal directions `[DIRECTION_COUNT, width]` in which it varies most, more or less.
fn principal_directions(sample: &[&[f32]], width: usize) -> (Vec<f32>, Vec<f32>) {
    let mut mean = vec![0.0f32; width];
    for row in sample {
        mean.iter_mut().zip(*row).for_each(|(sum, value)| *sum += value / sample.len() as f32);
    }
    let centred: Vec<f32> =
        sample.iter().flat_map(|row| row.iter().zip(&mean).map(|(value, mean)| value - mean)).collect();
    let step = sample.len() / DIRECTION_COUNT;
    let mut directions: Vec<f32> =
        centred.chunks_exact(width).step_by(step).take(DIRECTION_COUNT).flatten().copied().collect();
    orthonormalise(&mut directions, width);
    for _ in 0..ITERATION_COUNT {
        directions = directions
            .par_chunks_exact(width)
            .flat_map_iter(|direction| {
                let mut turned = vec![0.0f32; width];
                for row in centred.chunks_exact(width) {
                    let weight = dot(row, direction);
                    turned.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
                }
                turned
            })
            .collect();
        orthonormalise(&mut directions, width);
    }
    (mean, directions)
}

/// Gram-Schmidt, twice over for the sake of rounding; a direction that the others span becomes 0.
fn orthonormalise(directions: &mut [f32], width: usize) {
    for index in 0..directions.len() / width {
        let (before, rest) = directions.split_at_mut(index * width);
        let direction = &mut rest[..width];
        let length = dot(direction, direction).sqrt();
        scale(direction, length, 0.0);
        for _ in 0..2 {
            for other in before.chunks_exact(width) {
                let share = dot(direction, other);
                direction.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
            }
        }
        let length = dot(direction, direction).sqrt();
        scale(direction, length, 1e-4);
    }
}

fn scale(direction: &mut [f32], length: f32, least: f32) {
    let factor = if length > least { 1.0 / length } else { 0.0 };
    direction.iter_mut().for_each(|value| *value *= factor);
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::domain::seed::StreamKey;

    #[test]
    fn bounds_are_never_above_distances_and_near_them_where_few_directions_matter() {
        let mut stream = StreamKey::new(6, "rows").stream();
        let mut draw = |scale: f32| (stream.random::<f32>() - 0.5) * scale;
        let (width, count) = (96, 5000);
        let axes: Vec<f32> = (0..8 * width).map(|_| draw(1.0)).collect();
        let mut values = Vec::new();
        for _ in 0..count {
            let weights: Vec<f32> = (0..8).map(|_| draw(10.0)).collect();
            for column in 0..width {
                let along: f32 = (0..8).map(|axis| weights[axis] * axes[axis * width + column]).sum();
                values.push(100.0 + along + draw(0.1));
            }
        }
        let row = |index: usize| &values[index * width..][..width];
        let projection = Projection::of(row, count, width).unwrap();
        let mut close_count = 0;
        for a in 0..100 {
            for b in 0..100 {
                let bound = projection.squared_distance_at_least(a, b * 49);
                let distance = squared_distance(row(a), row(b * 49));
                assert!(bound <= distance, "{bound} above {distance}");
                close_count += u32::from(bound > 0.9 * distance);
            }
        }
        assert!(close_count > 9_500, "{close_count}");
    }

    #[test]
    fn narrow_rows_and_small_pools_are_left_alone_and_coinciding_rows_have_bounds_too() {
        let values = vec![1.0; 3000 * 64];
        let row = |index: usize| &values[index * 64..][..64];
        assert!(Projection::of(row, 2000, 64).is_none());
        let narrow = |index: usize| &values[index * 8..][..8];
        assert!(Projection::of(narrow, 3000, 8).is_none());
        assert!(Projection::of(row, 3000, 64).unwrap().squared_distance_at_least(1, 2) <= 0.0);
    }
}
