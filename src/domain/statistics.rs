//! Means with their intervals and paired comparisons, for figures that claim something.
//!
//! Pure. Intervals and tests are Student's, two-sided at 95 %: a handful of seeds is all that there is, so normal tails would claim too much.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean over runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half the length of its 95 % interval; `None` of a single run.
    pub half_width: Option<f64>,
    /// Runs.
    pub count: usize,
}

impl Estimate {
    /// The mean of `values`; `None` without any.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let half_width = (count > 1).then(|| {
            let error = (variance(values) / count as f64).sqrt();
            error * students_t(count - 1).inverse_cdf(0.975)
        });
        Some(Self { mean, half_width, count })
    }

    /// Whether the interval leaves 0 out; a single run shows nothing.
    #[must_use]
    pub fn is_significant(&self) -> bool {
        self.half_width.is_some_and(|half_width| self.mean.abs() > half_width)
    }

    /// The ends of the interval.
    #[must_use]
    pub fn interval(&self) -> Option<(f64, f64)> {
        self.half_width.map(|half_width| (self.mean - half_width, self.mean + half_width))
    }
}

/// The variance that a sample shows of what it is drawn from (divided by n − 1); 0 of fewer than two values.
#[must_use]
pub fn variance(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64
}

fn students_t(freedom: usize) -> StudentsT {
    StudentsT::new(0.0, 1.0, freedom.max(1) as f64).expect("a positive number of degrees of freedom")
}

/// Mean height of a curve: the area under it by trapezoids, divided by its length; the height itself of a single point.
#[must_use]
pub fn mean_height(points: &[(f64, f64)]) -> Option<f64> {
    let (first, last) = (points.first()?, points.last()?);
    if points.len() == 1 {
        return Some(first.1);
    }
    let area: f64 =
        points.windows(2).map(|pair| (pair[1].0 - pair[0].0) * (pair[0].1 + pair[1].1) / 2.0).sum();
    Some(area / (last.0 - first.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_student_s() {
        // scipy.stats.t.interval(0.95, 4, loc=3, scale=scipy.stats.sem([1, 2, 3, 4, 5])) = (1.0367568, 4.9632432)
        let estimate = Estimate::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let (low, high) = estimate.interval().unwrap();
        assert!((low - 1.036_756_8).abs() < 1e-6 && (high - 4.963_243_2).abs() < 1e-6, "{estimate:?}");
        assert!(estimate.is_significant());
        assert!(!Estimate::of(&[-1.0, 1.0, 0.5]).unwrap().is_significant());
        let single = Estimate::of(&[2.0]).unwrap();
        assert_eq!((single.mean, single.half_width, single.is_significant()), (2.0, None, false));
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn the_variance_is_the_sample_s() {
        // numpy.var([1, 2, 3, 4, 5], ddof=1) = 2.5
        assert_eq!(variance(&[1.0, 2.0, 3.0, 4.0, 5.0]), 2.5);
        assert_eq!((variance(&[3.0]), variance(&[])), (0.0, 0.0));
    }

    #[test]
    fn the_area_is_weighted_by_the_distance_of_budgets() {
        // (0.5 + 0.7)/2 · 100 + (0.7 + 0.8)/2 · 300 = 60 + 225, over 400.
        let points = [(100.0, 0.5), (200.0, 0.7), (500.0, 0.8)];
        assert!((mean_height(&points).unwrap() - 0.7125).abs() < 1e-12);
        assert_eq!(mean_height(&points[..1]), Some(0.5));
        assert_eq!(mean_height(&[]), None);
    }
}
