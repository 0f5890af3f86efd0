//! K-means over unit vectors, the same on every machine and thread count.
//!
//! Private to `acquisition`. Seeding by k-means++ (`plus_plus`), then Lloyd's iterations until nothing moves, 20 at most. Points come in the
//! order of their content hashes; rows are worked on in chunks of a fixed size, and every sum runs in row order, so the result is equal to
//! the bit however many threads help.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::plus_plus;
use super::points::{Metric, Points};
use super::standing::CHUNK_ROWS;

const ITERATION_COUNT_MAX: usize = 20;
const TILE_ROWS: usize = 512;

/// Rows laid out so that one row's dot products with all of them are taken together.
///
/// A tile of rows is kept dimension by dimension, small enough for the second-level cache; the loop over its columns is one that the
/// compiler turns into vector instructions, without a fused multiply-add that would round differently elsewhere.
pub(super) struct Panels {
    // Per tile [dimensions, rows of the tile].
    values: Vec<f32>,
    dimension_count: usize,
    row_count: usize,
}

impl Panels {
    /// Lays out `rows`, each `dimension_count` long.
    pub(super) fn new<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, dimension_count: usize) -> Self {
        let row_count = rows.len();
        let mut values = vec![0.0; row_count * dimension_count];
        for (index, row) in rows.enumerate() {
            let tile_start = index / TILE_ROWS * TILE_ROWS;
            let width = TILE_ROWS.min(row_count - tile_start);
            let tile = &mut values[tile_start * dimension_count..];
            for (dimension, &value) in row.iter().enumerate() {
                tile[dimension * width + index - tile_start] = value;
            }
        }
        Self { values, dimension_count, row_count }
    }

    /// Writes the dot product of `row` with every row into `out`, in their order.
    pub(super) fn dots(&self, row: &[f32], out: &mut Vec<f32>) {
        out.clear();
        out.resize(self.row_count, 0.0);
        let tiles = self.values.chunks(TILE_ROWS * self.dimension_count);
        for (tile, sums) in tiles.zip(out.chunks_mut(TILE_ROWS)) {
            let (quads, rest) = row.as_chunks::<4>();
            let (quad_columns, rest_columns) = tile.split_at(quads.len() * 4 * sums.len());
            for (quad, columns) in quads.iter().zip(quad_columns.chunks_exact(4 * sums.len())) {
                add_quad(*quad, columns, sums);
            }
            for (&value, column) in rest.iter().zip(rest_columns.chunks_exact(sums.len())) {
                for (sum, column) in sums.iter_mut().zip(column) {
                    *sum += value * column;
                }
            }
        }
    }
}

/// Adds four dimensions at once, so that the sums are loaded and stored a quarter as often.
fn add_quad([a, b, c, d]: [f32; 4], columns: &[f32], sums: &mut [f32]) {
    let (ab, cd) = columns.split_at(2 * sums.len());
    let (a_column, b_column) = ab.split_at(sums.len());
    let (c_column, d_column) = cd.split_at(sums.len());
    let columns = a_column.iter().zip(b_column).zip(c_column.iter().zip(d_column));
    for (sum, ((a_value, b_value), (c_value, d_value))) in sums.iter_mut().zip(columns) {
        *sum += (a * a_value + b * b_value) + (c * c_value + d * d_value);
    }
}

/// Assigns each point to one of at most `count` clusters; clusters may stay empty when points coincide.
pub(super) fn assign(points: &Points, count: usize, stream: &mut ChaCha8Rng) -> Vec<u32> {
    let mut centres = seed(points, count, stream);
    let mut assignment = vec![0u32; points.len()];
    for _ in 0..ITERATION_COUNT_MAX {
        let nearest = nearest(points, &centres);
        let moved = nearest != assignment;
        assignment = nearest;
        if !moved {
            break;
        }
        recentre(points, &assignment, &mut centres);
    }
    assignment
}

/// Values of at most `count` rows drawn by k-means++, one behind the other.
pub(super) fn seed(points: &Points, count: usize, stream: &mut ChaCha8Rng) -> Vec<f32> {
    let first = stream.random_range(0..points.len());
    let draws = plus_plus::draw(points, first, count, stream);
    draws.iter().flat_map(|&(row, _)| points.row(row)).copied().collect()
}

/// The nearest of `centres` to each point, the first of equals.
pub(super) fn nearest(points: &Points, centres: &[f32]) -> Vec<u32> {
    let dimension_count = points.dimension_count();
    let panels = Panels::new(centres.chunks_exact(dimension_count), dimension_count);
    let half_norms: Vec<f32> = centres
        .chunks_exact(dimension_count)
        .map(|centre| centre.iter().map(|c| c * c).sum::<f32>() / 2.0)
        .collect();
    let chunk_values = CHUNK_ROWS * dimension_count;
    let nearest_of = |rows: &[f32]| {
        let mut dots = Vec::new();
        let nearest: Vec<u32> = rows
            .chunks_exact(dimension_count)
            .map(|row| {
                panels.dots(row, &mut dots);
                // |x − c|² is smallest where x·c − |c|²/2 is largest; the first of equals wins.
                let mut best = (0, f32::NEG_INFINITY);
                for (index, (dot, half_norm)) in (0..).zip(dots.iter().zip(&half_norms)) {
                    if dot - half_norm > best.1 {
                        best = (index, dot - half_norm);
                    }
                }
                best.0
            })
            .collect();
        nearest
    };
    points.values().par_chunks(chunk_values).map(nearest_of).collect::<Vec<_>>().concat()
}

fn recentre(points: &Points, assignment: &[u32], centres: &mut [f32]) {
    let dimension_count = points.dimension_count();
    let mut sums = vec![0.0f64; centres.len()];
    let mut counts = vec![0u32; centres.len() / dimension_count];
    for (row, &cluster) in assignment.iter().enumerate() {
        counts[cluster as usize] += 1;
        let sum = &mut sums[cluster as usize * dimension_count..][..dimension_count];
        for (sum, &value) in sum.iter_mut().zip(points.row(row)) {
            *sum += f64::from(value);
        }
    }
    let members = counts.iter().zip(sums.chunks_exact(dimension_count));
    for (centre, (&count, sum)) in centres.chunks_exact_mut(dimension_count).zip(members) {
        // An empty cluster keeps its centre.
        if count > 0 {
            for (centre, sum) in centre.iter_mut().zip(sum) {
                *centre = (sum / f64::from(count)) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::seed::StreamKey;

    fn on_circle(degrees: &[f32]) -> Points {
        let rows: Vec<[f32; 2]> =
            degrees.iter().map(|d| [d.to_radians().cos(), d.to_radians().sin()]).collect();
        Points::unit(rows.iter().map(|row| &row[..]), 2)
    }

    fn partition(assignment: &[u32]) -> Vec<Vec<usize>> {
        let mut clusters = std::collections::BTreeMap::<u32, Vec<usize>>::new();
        for (row, &cluster) in assignment.iter().enumerate() {
            clusters.entry(cluster).or_default().push(row);
        }
        let mut clusters: Vec<_> = clusters.into_values().collect();
        clusters.sort();
        clusters
    }

    #[test]
    fn separate_groups_are_found_whatever_the_seed() {
        let points = on_circle(&[0.0, 1.0, 2.0, 90.0, 91.0, 180.0, 182.0]);
        for seed in 0..20 {
            let assignment = assign(&points, 3, &mut StreamKey::new(seed, "clusters").stream());
            assert_eq!(partition(&assignment), [vec![0, 1, 2], vec![3, 4], vec![5, 6]], "seed {seed}");
        }
    }

    #[test]
    fn coinciding_points_give_fewer_clusters_than_asked() {
        let points = on_circle(&[10.0, 10.0, 200.0]);
        let assignment = assign(&points, 3, &mut StreamKey::new(1, "clusters").stream());
        assert_eq!(partition(&assignment), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn the_result_is_equal_to_the_bit_on_one_thread_and_on_many() {
        let mut stream = StreamKey::new(3, "points").stream();
        let values: Vec<f32> = (0..5000 * 20).map(|_| stream.random::<f32>() - 0.5).collect();
        let points = Points::unit(values.chunks_exact(20), 20);
        let on_threads = |thread_count| {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(thread_count).build().unwrap();
            threads.install(|| assign(&points, 37, &mut StreamKey::new(1, "clusters").stream()))
        };
        assert_eq!(on_threads(1), on_threads(3));
    }

    #[test]
    fn panels_give_the_dot_products_of_every_row() {
        // More rows than a tile holds, and dimensions that are no multiple of four.
        let rows: Vec<[f32; 6]> = (0..1100u16)
            .map(|row| [0, 1, 2, 3, 4, 5].map(|column| f32::from(row % 50) * column as f32))
            .collect();
        let panels = Panels::new(rows.iter().map(|row| &row[..]), 6);
        let mut dots = vec![];
        panels.dots(&rows[3], &mut dots);
        let expected: Vec<f32> = (0..1100u16).map(|row| 3.0 * f32::from(row % 50) * 55.0).collect();
        assert_eq!(dots, expected);
    }
}
