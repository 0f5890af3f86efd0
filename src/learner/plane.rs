//! A pool in two dimensions: the plane in which its embeddings vary most (principal component analysis).
//!
//! PCA rather than t-SNE or UMAP: it is linear, so it costs one pass, repeats to the bit, has nothing to tune, and an item keeps its place
//! from round to round; what lies apart in the plane lies apart in truth, since a projection makes no distance longer. The axes come
//! from power iteration over the rows of the smallest content hashes, which are a random sample whatever the order of imports.

use super::tables::EmbeddingTable;

/// Rows that the axes are found from.
const SAMPLE_COUNT: usize = 2048;

const ITERATION_COUNT: usize = 100;

/// An axis that turns by less than this in an iteration has been found.
const STILL: f64 = 1e-10;

/// Two orthonormal axes through the mean of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    mean: Vec<f64>,
    axes: [Vec<f64>; 2],
    /// Standard deviation along the first axis, which is length 1 in the plane.
    unit: f64,
    /// Fractions of the sample's variance that lie along each axis.
    pub explained: [f64; 2],
}

impl Plane {
    /// Finds the plane of a table; `None` for fewer than three rows or rows without numbers.
    #[must_use]
    pub fn fit(table: &EmbeddingTable) -> Option<Self> {
        let (sample, width) = (sample_rows(table), table.feature_count);
        if sample.len() < 3 || width == 0 {
            return None;
        }
        let mut mean = vec![0.0; width];
        for &row in &sample {
            mean.iter_mut().zip(table.embedding(row)).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        mean.iter_mut().for_each(|sum| *sum /= sample.len() as f64);
        let centred: Vec<f64> = sample
            .iter()
            .flat_map(|&row| {
                table.embedding(row).iter().zip(&mean).map(|(value, mean)| f64::from(*value) - mean)
            })
            .collect();
        let total = dot(&centred, &centred);
        let (first, first_variance) = find_axis(&centred, width, None);
        let (second, second_variance) = find_axis(&centred, width, Some(&first));
        let fraction = |variance: f64| if total > 0.0 { variance / total } else { 0.0 };
        let deviation = (first_variance / sample.len() as f64).sqrt();
        Some(Self {
            mean,
            axes: [first, second],
            unit: if deviation > 0.0 { deviation } else { 1.0 },
            explained: [fraction(first_variance), fraction(second_variance)],
        })
    }

    /// Where an embedding of the table's width lies, in standard deviations along the first axis.
    #[must_use]
    pub fn place(&self, embedding: &[f32]) -> [f32; 2] {
        self.axes.each_ref().map(|axis| {
            let along = embedding.iter().zip(&self.mean).zip(axis);
            let sum: f64 = along.map(|((value, mean), axis)| (f64::from(*value) - mean) * axis).sum();
            (sum / self.unit) as f32
        })
    }
}

/// The rows of the smallest content hashes, in their order.
fn sample_rows(table: &EmbeddingTable) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..table.len()).collect();
    if rows.len() > SAMPLE_COUNT {
        rows.select_nth_unstable_by_key(SAMPLE_COUNT, |&row| table.hashes[row]);
        rows.truncate(SAMPLE_COUNT);
    }
    rows.sort_by_key(|&row| table.hashes[row]);
    rows
}

/// The direction in which the rows vary most, at right angles to `other`, and their squared length along it; zeros when they don't vary.
fn find_axis(centred: &[f64], width: usize, other: Option<&[f64]>) -> (Vec<f64>, f64) {
    let longest = centred.chunks_exact(width).max_by(|a, b| dot(a, a).total_cmp(&dot(b, b)));
    // A direction of its own in each column, for rows that all lie along `other`.
    let mut axis: Vec<f64> = longest
        .into_iter()
        .flatten()
        .zip(1..)
        .map(|(value, column)| value + 1e-6 / f64::from(column))
        .collect();
    straighten(&mut axis, other);
    let mut squared_length = 0.0;
    for _ in 0..ITERATION_COUNT {
        let mut turned = vec![0.0; width];
        for row in centred.chunks_exact(width) {
            let along = dot(row, &axis);
            turned.iter_mut().zip(row).for_each(|(sum, value)| *sum += along * value);
        }
        squared_length = dot(&turned, &axis);
        straighten(&mut turned, other);
        let still = 1.0 - dot(&turned, &axis) < STILL;
        axis = turned;
        if still {
            break;
        }
    }
    if squared_length <= 0.0 {
        return (vec![0.0; width], 0.0);
    }
    // Both ends of an axis are as good; the larger component points up, so that it is always the same one.
    let largest = axis.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or_default();
    if largest < 0.0 {
        axis.iter_mut().for_each(|value| *value = -*value);
    }
    (axis, squared_length)
}

/// Takes what lies along `other` out of a direction, and gives it length 1.
fn straighten(direction: &mut [f64], other: Option<&[f64]>) {
    if let Some(other) = other {
        let along = dot(direction, other);
        direction.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
    }
    let length = dot(direction, direction).sqrt();
    if length > 0.0 {
        direction.iter_mut().for_each(|value| *value /= length);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::domain::content_hash::ContentHash;
    use crate::domain::seed::StreamKey;

    /// Rows that vary by 9 along one diagonal, by 3 along the other, and by 0.1 elsewhere.
    fn table(count: u32) -> EmbeddingTable {
        let mut stream = StreamKey::new(3, "rows").stream();
        let mut table = EmbeddingTable::new("run".to_owned(), 4);
        for row in 0..count {
            let mut draw = |scale: f32| (stream.random::<f32>() - 0.5) * scale;
            let (long, short) = (draw(9.0), draw(3.0));
            let embedding = [5.0 + long + short, long - short, draw(0.1), draw(0.1)];
            table.push(ContentHash::of_file(&row.to_le_bytes()), &embedding);
        }
        table
    }

    #[test]
    fn the_axes_are_those_along_which_the_rows_vary_most() {
        let plane = Plane::fit(&table(3000)).expect("three rows and more");
        let diagonal = 0.5f64.sqrt();
        for (axis, wanted) in plane.axes.iter().zip([[diagonal, diagonal], [diagonal, -diagonal]]) {
            let along: f64 = axis.iter().zip(wanted).map(|(a, b)| a * b).sum();
            assert!(along.abs() > 0.999, "{axis:?}");
        }
        assert!(dot(&plane.axes[0], &plane.axes[1]).abs() < 1e-9);
        assert!(plane.explained[0] > 0.85 && plane.explained[1] > 0.08, "{:?}", plane.explained);
    }

    #[test]
    fn the_order_of_imports_changes_nothing() {
        let table = table(3000);
        let mut turned = EmbeddingTable::new(table.run.clone(), 4);
        for row in (0..table.len()).rev() {
            turned.push(table.hashes[row], table.embedding(row));
        }
        assert_eq!(Plane::fit(&table), Plane::fit(&turned));
    }

    #[test]
    fn length_1_is_a_standard_deviation_and_the_mean_lies_in_the_middle() {
        let table = table(2000);
        let plane = Plane::fit(&table).expect("a plane");
        let places: Vec<_> = (0..table.len()).map(|row| plane.place(table.embedding(row))[0]).collect();
        let mean = places.iter().sum::<f32>() / 2000.0;
        let variance = places.iter().map(|place| (place - mean).powi(2)).sum::<f32>() / 2000.0;
        assert!(mean.abs() < 1e-3 && (variance - 1.0).abs() < 1e-3, "{mean} {variance}");
    }

    #[test]
    fn rows_that_are_all_alike_lie_in_one_place_and_two_have_no_plane() {
        let mut table = EmbeddingTable::new("run".to_owned(), 3);
        for row in 0..5u8 {
            table.push(ContentHash([row; 32]), &[1.0, 2.0, 3.0]);
        }
        let plane = Plane::fit(&table).expect("a plane");
        assert_eq!((plane.explained, plane.place(&[1.0, 2.0, 3.0])), ([0.0, 0.0], [0.0, 0.0]));
        let mut two = EmbeddingTable::new("run".to_owned(), 3);
        (0..2u8).for_each(|row| two.push(ContentHash([row; 32]), &[f32::from(row), 0.0, 0.0]));
        assert_eq!(Plane::fit(&two), None);
    }
}
