//! Rows of numbers and the distances between them.
//!
//! Private to `acquisition`. Sums run over sixteen lanes in a fixed order, without a fused multiply-add that would round differently
//! elsewhere, so a distance is the same to the bit on every machine and whichever of the two rows comes first.

use super::Rows;
use super::projection::Projection;

const LANES: usize = 16;

/// Something that has distances between its rows.
pub(super) trait Metric: Sync {
    /// Number of rows.
    fn len(&self) -> usize;

    /// Squared distance of two rows, finite and at least 0.
    fn squared_distance(&self, a: usize, b: usize) -> f32;

    /// A squared distance that is cheap and never above the true one.
    fn squared_distance_at_least(&self, _a: usize, _b: usize) -> f32 {
        0.0
    }
}

/// Rows of equal length, scaled to unit length (a zero row stays zero).
pub(super) struct Points {
    values: Vec<f32>,
    dimension_count: usize,
}

impl Points {
    /// Scales `rows`, each `dimension_count` long, to unit length.
    pub(super) fn unit<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, dimension_count: usize) -> Self {
        let mut values = Vec::with_capacity(rows.len() * dimension_count);
        for row in rows {
            let norm = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
            let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
            values.extend(row.iter().map(|&value| (f64::from(value) * scale) as f32));
        }
        Self { values, dimension_count }
    }

    /// One row.
    pub(super) fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dimension_count..][..self.dimension_count]
    }

    /// All rows, one behind the other.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Length of a row.
    pub(super) fn dimension_count(&self) -> usize {
        self.dimension_count
    }
}

impl Metric for Points {
    fn len(&self) -> usize {
        self.values.len() / self.dimension_count
    }

    fn squared_distance(&self, a: usize, b: usize) -> f32 {
        squared_distance(self.row(a), self.row(b))
    }
}

/// Candidates and, behind them, the items that are labelled already, as they lie in the caller's memory.
pub(super) struct Joined<'a> {
    candidates: Rows<'a>,
    labeled: Rows<'a>,
    projection: Option<Projection>,
}

impl<'a> Joined<'a> {
    /// Joins rows of one width.
    pub(super) fn new(candidates: Rows<'a>, labeled: Rows<'a>) -> Self {
        let mut joined = Self { candidates, labeled, projection: None };
        joined.projection = Projection::of(|index| joined.row(index), joined.len(), candidates.width);
        joined
    }

    fn row(&self, index: usize) -> &'a [f32] {
        let candidate_count = self.candidates.len();
        if index < candidate_count {
            self.candidates.row(index)
        } else {
            self.labeled.row(index - candidate_count)
        }
    }
}

impl Metric for Joined<'_> {
    fn len(&self) -> usize {
        self.candidates.len() + self.labeled.len()
    }

    fn squared_distance(&self, a: usize, b: usize) -> f32 {
        squared_distance(self.row(a), self.row(b))
    }

    fn squared_distance_at_least(&self, a: usize, b: usize) -> f32 {
        self.projection.as_ref().map_or(0.0, |projection| projection.squared_distance_at_least(a, b))
    }
}

/// `|a − b|²`.
pub(super) fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    sum_over(a, b, |a, b| (a - b) * (a - b))
}

/// `a·b`.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_over(a, b, |a, b| a * b)
}

#[inline(always)]
fn sum_over(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += term(a, b);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(&a, &b)| term(a, b)).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_and_products_are_those_computed_by_hand_past_the_last_whole_lane() {
        // 18 numbers: one group of lanes and a rest of two.
        let a: Vec<f32> = (0..18u8).map(f32::from).collect();
        let b: Vec<f32> = (0..18u8).map(|value| f32::from(value) + 2.0).collect();
        assert_eq!(squared_distance(&a, &b), 18.0 * 4.0);
        // Σ i² + 2 Σ i = 1785 + 306.
        assert_eq!(dot(&a, &b), 2091.0);
    }

    #[test]
    fn rows_are_scaled_to_unit_length_and_zero_stays_zero() {
        let rows = [[3.0, 4.0], [0.0, 0.0]];
        let points = Points::unit(rows.iter().map(|row| &row[..]), 2);
        assert_eq!((points.row(0), points.row(1)), (&[0.6, 0.8][..], &[0.0, 0.0][..]));
    }
}
