//! K-means over unit vectors, the same on every machine and thread count.
//!
//! Private to `acquisition`. Seeding: D. Arthur, S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007; then Lloyd's
//! iterations until nothing moves, 20 at most. Points come in the order of their content hashes; rows are worked on in chunks of a
//! fixed size, and every sum runs in row order, so the result is equal to the bit however many threads help.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

const ITERATION_COUNT_MAX: usize = 20;
const CHUNK_ROWS: usize = 1024;
const TILE_ROWS: usize = 512;
const LANES: usize = 16;

/// Rows of equal length, scaled to unit length (a zero row stays zero).
pub(super) struct Points {
    values: Vec<f32>,
    dimension_count: usize,
}

impl Points {
    /// Scales `rows` to unit length.
    pub(super) fn unit<'a>(rows: impl Iterator<Item = &'a [f32]>, dimension_count: usize) -> Self {
        let mut values = Vec::new();
        for row in rows {
            let norm = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
            let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
            values.extend(row.iter().map(|&value| (f64::from(value) * scale) as f32));
        }
        Self { values, dimension_count }
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.values.len() / self.dimension_count
    }

    /// One row.
    pub(super) fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dimension_count..][..self.dimension_count]
    }

    /// Length of a row.
    pub(super) fn dimension_count(&self) -> usize {
        self.dimension_count
    }
}

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

/// k-means++: each further centre is a point drawn with a probability proportional to its squared distance from the nearest centre.
fn seed(points: &Points, count: usize, stream: &mut ChaCha8Rng) -> Vec<f32> {
    let mut distances = vec![f32::INFINITY; points.len()];
    let mut chosen = stream.random_range(0..points.len());
    let mut centres = points.row(chosen).to_vec();
    while centres.len() < count * points.dimension_count {
        let centre = points.row(chosen);
        let sums: Vec<f64> = distances
            .par_chunks_mut(CHUNK_ROWS)
            .enumerate()
            .map(|(chunk, distances)| {
                for (offset, distance) in distances.iter_mut().enumerate() {
                    let row = points.row(chunk * CHUNK_ROWS + offset);
                    *distance = distance.min(squared_distance(row, centre));
                }
                distances.iter().copied().map(f64::from).sum()
            })
            .collect();
        let total: f64 = sums.iter().sum();
        if total <= 0.0 {
            // Every point coincides with a centre.
            break;
        }
        chosen = locate(&distances, &sums, stream.random::<f64>() * total);
        centres.extend_from_slice(points.row(chosen));
    }
    centres
}

/// The row at which the running sum of `weights` passes `target`; `sums` are the sums of its chunks.
fn locate(weights: &[f32], sums: &[f64], mut target: f64) -> usize {
    let mut last = 0;
    for (chunk, &sum) in sums.iter().enumerate() {
        if sum > 0.0 && (target < sum || chunk + 1 == sums.len()) {
            for (offset, &weight) in weights.iter().skip(chunk * CHUNK_ROWS).take(CHUNK_ROWS).enumerate() {
                if weight > 0.0 {
                    last = chunk * CHUNK_ROWS + offset;
                    target -= f64::from(weight);
                    if target < 0.0 {
                        return last;
                    }
                }
            }
            return last;
        }
        target -= sum;
    }
    last
}

fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += (a - b) * (a - b);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum();
    sums.iter().sum::<f32>() + rest
}

fn nearest(points: &Points, centres: &[f32]) -> Vec<u32> {
    let dimension_count = points.dimension_count;
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
    points.values.par_chunks(chunk_values).map(nearest_of).collect::<Vec<_>>().concat()
}

fn recentre(points: &Points, assignment: &[u32], centres: &mut [f32]) {
    let dimension_count = points.dimension_count;
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
