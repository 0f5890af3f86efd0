//! Scales on which `u` and `v` can be added: ranks and the unit interval.
//!
//! Private to `acquisition`. Raw pretext losses are heavy-tailed (median 0.015, largest 4.4 on CIFAR-10), so ranks are the default.

use std::collections::BTreeMap;

use crate::domain::project::ClassIndex;

/// Ranks scaled to [0, 1], 1 the largest; equals share their mean rank, and a lone value or all-equal values lie at ½.
pub(super) fn rank(values: &[f32]) -> Vec<f64> {
    let rows: Vec<usize> = (0..values.len()).collect();
    let mut ranks = vec![0.0; values.len()];
    rank_rows(values, rows, &mut ranks);
    ranks
}

/// As `rank`, but each item is ranked among those of its own class.
pub(super) fn rank_within(values: &[f32], classes: &[ClassIndex]) -> Vec<f64> {
    let mut rows_of = BTreeMap::<ClassIndex, Vec<usize>>::new();
    for (row, &class) in classes.iter().enumerate() {
        rows_of.entry(class).or_default().push(row);
    }
    let mut ranks = vec![0.0; values.len()];
    for rows in rows_of.into_values() {
        rank_rows(values, rows, &mut ranks);
    }
    ranks
}

/// `(x − min) / (max − min)`; 0 when all are equal.
pub(super) fn min_max(values: &[f32]) -> Vec<f64> {
    let (min, max) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), &value| {
        (min.min(value.into()), max.max(value.into()))
    });
    let span = max - min;
    values.iter().map(|&value| if span > 0.0 { (f64::from(value) - min) / span } else { 0.0 }).collect()
}

fn rank_rows(values: &[f32], mut rows: Vec<usize>, ranks: &mut [f64]) {
    let last = rows.len().saturating_sub(1) as f64;
    rows.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut start = 0;
    for equals in rows.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = start as f64 + (equals.len() - 1) as f64 / 2.0;
        let scaled = if last > 0.0 { mean / last } else { 0.5 };
        for &row in equals {
            ranks[row] = scaled;
        }
        start += equals.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_share_their_mean_rank() {
        // Sorted: 1, 2, 2, 5, 9 → ranks 0, 1.5, 1.5, 3, 4 of 4.
        assert_eq!(rank(&[2.0, 9.0, 1.0, 2.0, 5.0]), [0.375, 1.0, 0.0, 0.375, 0.75]);
        assert_eq!(rank(&[3.0, 3.0, 3.0]), [0.5; 3]);
        assert_eq!(rank(&[3.0]), [0.5]);
        assert_eq!(rank(&[-0.0, 0.0]), [0.5, 0.5]);
        assert_eq!(rank(&[]), [] as [f64; 0]);
    }

    #[test]
    fn ranks_within_a_class_do_not_see_the_others() {
        let classes = [0, 1, 0, 1, 0].map(ClassIndex);
        assert_eq!(rank_within(&[0.1, 7.0, 0.3, 8.0, 0.2], &classes), [0.0, 0.0, 1.0, 1.0, 0.5]);
    }

    #[test]
    fn min_max_spans_the_unit_interval() {
        assert_eq!(min_max(&[2.0, 4.0, 3.0]), [0.0, 1.0, 0.5]);
        assert_eq!(min_max(&[2.0, 2.0]), [0.0, 0.0]);
    }
}
