//! What further labels will bring: a power law through the points of a learning curve, with its uncertainty.
//!
//! accuracy(n) = a − b·n^(−c), the form that learning curves follow (J. Hestness et al., arXiv 1712.00409). Instead of one best fit every
//! (a, c) of a grid is weighed by how well it explains the points, b being its own least-squares value; a prediction is the mixture of all.
//! Three points bound little, and the interval says so. Pure, no draws: the same points give the same prediction.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::interval::{Interval, Z_95};

/// Points below which nothing is predicted.
pub const POINT_COUNT_MIN: usize = 3;

/// What two trainings on equal counts differ by, beside the noise of the measurement.
const TRAINING_DEVIATION: f64 = 0.005;

/// A measured accuracy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    /// Labelled items that the model learned from, above 0.
    pub label_count: u32,
    /// Its accuracy, 0 to 1.
    pub accuracy: f64,
    /// Standard deviation of the measurement, at least 0.
    pub deviation: f64,
}

impl CurvePoint {
    /// A point from `accuracy` over `count` items, at least 1.
    #[must_use]
    pub fn counted(label_count: u32, accuracy: f64, count: u64) -> Self {
        // The bounds keep their width where every guess was right.
        let deviation = Interval::wilson(accuracy, count)
            .map_or(0.5, |interval| (interval.high - interval.low) / (2.0 * Z_95));
        Self { label_count, accuracy, deviation }
    }
}

/// A predicted accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PredictedAccuracy {
    /// Mean of the prediction, 0 to 1.
    pub accuracy: f64,
    /// Where it lies with 95 % probability, as far as the power law holds.
    pub interval: Interval,
}

/// A weighed set of power laws.
#[derive(Clone, Debug)]
pub struct LearningCurve {
    laws: Vec<Law>,
}

/// One law and the weight that the points give it.
#[derive(Clone, Copy, Debug)]
struct Law {
    limit: f64,
    scale: f64,
    exponent: f64,
    weight: f64,
}

impl LearningCurve {
    /// Weighs the laws by the points; `None` with fewer than three different label counts.
    #[must_use]
    pub fn fit(points: &[CurvePoint]) -> Option<Self> {
        let mut counts: Vec<u32> = points.iter().map(|point| point.label_count).filter(|n| *n > 0).collect();
        counts.sort_unstable();
        counts.dedup();
        if counts.len() < POINT_COUNT_MIN {
            return None;
        }
        let points: Vec<&CurvePoint> = points.iter().filter(|point| point.label_count > 0).collect();
        let mut laws = Vec::new();
        for exponent in (1..=30).map(|step| f64::from(step) * 0.05) {
            for limit in (0..=200).map(|step| f64::from(step) * 0.005) {
                laws.extend(explain(&points, limit, exponent));
            }
        }
        let least = laws.iter().map(|(_, misfit)| *misfit).fold(f64::INFINITY, f64::min);
        // Points that scatter more than their deviations say make every law less certain.
        let freedom = (points.len() as f64 - 3.0).max(1.0);
        let scatter = (least / freedom).max(1.0);
        let mut laws: Vec<Law> = laws
            .into_iter()
            .map(|(law, misfit)| Law {
                weight: law.weight * (-(misfit - least) / (2.0 * scatter)).exp(),
                ..law
            })
            .filter(|law| law.weight > 1e-9)
            .collect();
        let total: f64 = laws.iter().map(|law| law.weight).sum();
        laws.iter_mut().for_each(|law| law.weight /= total);
        Some(Self { laws })
    }

    /// The accuracy of a model that learns from `label_count` items, above 0.
    #[must_use]
    pub fn predict(&self, label_count: u32) -> PredictedAccuracy {
        let n = f64::from(label_count.max(1));
        self.mix(|law| (law.limit - law.scale * n.powf(-law.exponent)).clamp(0.0, 1.0))
    }

    /// The accuracy that no number of labels gets beyond.
    #[must_use]
    pub fn limit(&self) -> PredictedAccuracy {
        self.mix(|law| law.limit)
    }

    fn mix(&self, value_of: impl Fn(&Law) -> f64) -> PredictedAccuracy {
        let mut values: Vec<(f64, f64)> = self.laws.iter().map(|law| (value_of(law), law.weight)).collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let accuracy = values.iter().map(|(value, weight)| value * weight).sum();
        let quantile = |share: f64| {
            let mut sum = 0.0;
            let reached = values.iter().find(|(_, weight)| {
                sum += weight;
                sum >= share
            });
            reached.or(values.last()).map_or(accuracy, |(value, _)| *value)
        };
        PredictedAccuracy { accuracy, interval: Interval { low: quantile(0.025), high: quantile(0.975) } }
    }
}

/// The law of this limit and exponent, its scale at three places of its own uncertainty (Gauss–Hermite), each with its misfit χ².
fn explain(points: &[&CurvePoint], limit: f64, exponent: f64) -> Vec<(Law, f64)> {
    let (mut xx, mut xz) = (0.0, 0.0);
    let each = || {
        points.iter().map(|point| {
            let weight = 1.0 / (point.deviation.powi(2) + TRAINING_DEVIATION.powi(2));
            (f64::from(point.label_count).powf(-exponent), limit - point.accuracy, weight)
        })
    };
    for (x, z, weight) in each() {
        xx += weight * x * x;
        xz += weight * x * z;
    }
    let (best, deviation) = (xz / xx, (1.0 / xx).sqrt());
    // Accuracy never falls with more labels. The best scale's misfit stands for all three: the places carry their probability.
    let misfit = each().map(|(x, z, weight)| weight * (z - best.max(0.0) * x).powi(2)).sum();
    [(-3.0f64.sqrt(), 1.0 / 6.0), (0.0, 2.0 / 3.0), (3.0f64.sqrt(), 1.0 / 6.0)]
        .into_iter()
        .map(|(place, weight)| {
            let scale = (best + place * deviation).max(0.0);
            (Law { limit, scale, exponent, weight }, misfit)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(counts: &[u32], limit: f64, scale: f64, exponent: f64) -> Vec<CurvePoint> {
        let accuracy = |n: u32| limit - scale * f64::from(n).powf(-exponent);
        counts.iter().map(|&n| CurvePoint::counted(n, accuracy(n), 10_000)).collect()
    }

    #[test]
    fn a_law_without_noise_is_found_again_and_its_truth_lies_in_the_interval() {
        let curve = LearningCurve::fit(&points(&[100, 200, 300, 400, 500, 600, 700, 800], 0.95, 2.0, 0.5));
        let curve = curve.expect("eight points");
        for (n, truth) in [(1000, 0.95 - 2.0 / 1000f64.sqrt()), (2000, 0.95 - 2.0 / 2000f64.sqrt())] {
            let predicted = curve.predict(n);
            assert!((predicted.accuracy - truth).abs() < 0.01, "{predicted:?} for {truth}");
            assert!(predicted.interval.low < truth && truth < predicted.interval.high, "{predicted:?}");
        }
    }

    #[test]
    fn the_further_ahead_the_less_certain() {
        let curve = LearningCurve::fit(&points(&[100, 200, 300, 400], 0.9, 3.0, 0.6)).expect("four points");
        let width = |n| {
            let interval = curve.predict(n).interval;
            interval.high - interval.low
        };
        assert!(width(500) < width(1000) && width(1000) < width(4000));
        let steps: Vec<f64> = [500, 600, 800, 1600].map(|n| curve.predict(n).accuracy).to_vec();
        assert!(steps.is_sorted(), "{steps:?}");
        assert!(curve.limit().interval.high <= 1.0);
    }

    #[test]
    fn few_measured_items_bound_less_than_many() {
        let sparse: Vec<_> = points(&[100, 200, 300, 400], 0.9, 3.0, 0.6)
            .into_iter()
            .map(|point| CurvePoint::counted(point.label_count, point.accuracy, 20))
            .collect();
        let width = |points: &[CurvePoint]| {
            let interval = LearningCurve::fit(points).expect("four points").predict(600).interval;
            interval.high - interval.low
        };
        assert!(width(&sparse) > 3.0 * width(&points(&[100, 200, 300, 400], 0.9, 3.0, 0.6)));
    }

    #[test]
    fn two_counts_predict_nothing() {
        assert!(LearningCurve::fit(&points(&[100, 200], 0.9, 3.0, 0.6)).is_none());
        assert!(LearningCurve::fit(&points(&[100, 200, 200], 0.9, 3.0, 0.6)).is_none());
    }
}
