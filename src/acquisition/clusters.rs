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
            let norm = row
                .iter()
                .map(|&value| f64::from(value) * f64::from(value))
                .sum::<f64>()
                .sqrt();
            let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
            values.extend(row.iter().map(|&value| (f64::from(value) * scale) as f32));
        }
        Self {
            values,
            dimension_count,
        }
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

/// Rows laid out so that one row's dot products with sixteen of them are taken at once.
pub(super) struct Panels {
    // [ceil(rows / 16), dimensions, 16], zero beyond the last row.
    values: Vec<f32>,
    dimension_count: usize,
    row_count: usize,
}

impl Panels {
    /// Lays out `rows`, each `dimension_count` long.
    pub(super) fn new<'a>(
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
        dimension_count: usize,
    ) -> Self {
        let row_count = rows.len();
        let mut values = vec![0.0; row_count.div_ceil(LANES) * LANES * dimension_count];
        for (index, row) in rows.enumerate() {
            let panel = &mut values[index / LANES * LANES * dimension_count..];
            for (dimension, &value) in row.iter().enumerate() {
                panel[dimension * LANES + index % LANES] = value;
            }
        }
        Self {
            values,
            dimension_count,
            row_count,
        }
    }

    /// Writes the dot product of `row` with every row into `out`, in their order.
    pub(super) fn dots(&self, row: &[f32], out: &mut Vec<f32>) {
        out.clear();
        for panel in self.values.chunks_exact(LANES * self.dimension_count) {
            let mut sums = [0.0f32; LANES];
            for (&value, column) in row.iter().zip(panel.as_chunks::<LANES>().0) {
                for lane in 0..LANES {
                    sums[lane] += value * column[lane];
                }
            }
            out.extend_from_slice(&sums);
        }
        out.truncate(self.row_count);
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
            for (offset, &weight) in weights
                .iter()
                .skip(chunk * CHUNK_ROWS)
                .take(CHUNK_ROWS)
                .enumerate()
            {
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
        for lane in 0..LANES {
            let difference = a[lane] - b[lane];
            sums[lane] += difference * difference;
        }
    }
    let rest: f32 = a_rest
        .iter()
        .zip(b_rest)
        .map(|(a, b)| (a - b) * (a - b))
        .sum();
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
    points
        .values
        .par_chunks(chunk_values)
        .map(nearest_of)
        .collect::<Vec<_>>()
        .concat()
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
        let rows: Vec<[f32; 2]> = degrees
            .iter()
            .map(|d| [d.to_radians().cos(), d.to_radians().sin()])
            .collect();
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
            assert_eq!(
                partition(&assignment),
                [vec![0, 1, 2], vec![3, 4], vec![5, 6]],
                "seed {seed}"
            );
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
        let values: Vec<f32> = (0..5000 * 20)
            .map(|_| stream.random::<f32>() - 0.5)
            .collect();
        let points = Points::unit(values.chunks_exact(20), 20);
        let on_threads = |thread_count| {
            let threads = rayon::ThreadPoolBuilder::new()
                .num_threads(thread_count)
                .build()
                .unwrap();
            threads.install(|| assign(&points, 37, &mut StreamKey::new(1, "clusters").stream()))
        };
        assert_eq!(on_threads(1), on_threads(3));
    }

    #[test]
    fn panels_give_the_dot_products_of_every_row() {
        let rows: Vec<Vec<f32>> = (0..21)
            .map(|row| (0..5).map(|column| (row * column) as f32).collect())
            .collect();
        let panels = Panels::new(rows.iter().map(|row| &row[..]), 5);
        let mut dots = vec![];
        panels.dots(&rows[3], &mut dots);
        let expected: Vec<f32> = (0..21).map(|row| (3 * row * 30) as f32).collect();
        assert_eq!(dots, expected);
    }
}
