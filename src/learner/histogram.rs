//! How scores spread over a pool: bins and their counts.
//!
//! `u` lies in [0, 1] and gets even bins. Pretext losses are heavy-tailed (on CIFAR-10 the median is 0.015 and the largest 4.4), so even bins
//! would hold all of them in the first: bins of `v` are even in the logarithm.

/// Bins of every histogram.
pub const BIN_COUNT: usize = 40;

/// Below this share of the largest value a logarithmic bin says nothing; smaller values lie in the first bin.
const LEAST_FRACTION: f64 = 1e-5;

/// The ends of the bins from `low` to `high`, evenly spaced: one more than there are bins.
#[must_use]
pub fn linear_edges(low: f64, high: f64) -> Vec<f64> {
    let step = (high - low) / BIN_COUNT as f64;
    (0..=BIN_COUNT).map(|edge| low + step * edge as f64).collect()
}

/// The ends of bins that are even in the logarithm and hold all of `values`; `None` when none is above zero.
#[must_use]
pub fn logarithmic_edges(values: &[f32]) -> Option<Vec<f64>> {
    let positive = values.iter().copied().filter(|value| value.is_finite() && *value > 0.0).map(f64::from);
    let (least, most) =
        positive.fold((f64::INFINITY, 0.0f64), |(least, most), value| (least.min(value), most.max(value)));
    if most <= 0.0 {
        return None;
    }
    let least = least.max(most * LEAST_FRACTION).min(most * 0.5);
    Some(linear_edges(least.ln(), most.ln()).into_iter().map(f64::exp).collect())
}

/// How many of `values` lie in each bin; those beyond the ends lie in the outermost, and what is no number in none.
#[must_use]
pub fn count_bins(edges: &[f64], values: impl Iterator<Item = f64>) -> Vec<u64> {
    let mut counts = vec![0; edges.len().saturating_sub(1)];
    for value in values.filter(|value| value.is_finite()) {
        let bin = edges.partition_point(|edge| *edge <= value).saturating_sub(1);
        let last = counts.len().saturating_sub(1);
        if let Some(count) = counts.get_mut(bin.min(last)) {
            *count += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_lies_in_one_bin_the_ends_in_the_outermost() {
        let edges = linear_edges(0.0, 1.0);
        let values = [0.0, 0.01, 0.5, 0.999, 1.0, 1.7, -3.0, f64::NAN];
        let counts = count_bins(&edges, values.into_iter());
        assert_eq!((counts.len(), counts.iter().sum::<u64>()), (BIN_COUNT, 7));
        assert_eq!((counts[0], counts[20], counts[39]), (3, 1, 3));
    }

    #[test]
    fn losses_over_four_powers_of_ten_spread_over_the_bins() {
        let values: Vec<f32> = (0..1000).map(|place| 10f32.powf(place as f32 / 250.0 - 3.0)).collect();
        let edges = logarithmic_edges(&values).expect("positive losses");
        let counts = count_bins(&edges, values.iter().copied().map(f64::from));
        assert!(counts.iter().all(|count| (20..=32).contains(count)), "{counts:?}");
    }

    #[test]
    fn losses_of_zero_alone_have_no_bins_and_equal_ones_have() {
        assert_eq!(logarithmic_edges(&[0.0, f32::NAN]), None);
        let edges = logarithmic_edges(&[2.0, 2.0]).expect("bins");
        assert_eq!(count_bins(&edges, [2.0, 2.0].into_iter())[BIN_COUNT - 1], 2);
    }
}
