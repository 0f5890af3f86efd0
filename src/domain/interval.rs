//! Bounds of a fraction that was counted, and the quantiles of the normal distribution behind them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The two-sided 95 % point of the normal distribution.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// Bounds within which a true value lies with the stated confidence, 95 % unless told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Interval {
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

impl Interval {
    /// The 95 % Wilson score interval of `accuracy` over `count` trials; none without trials.
    #[must_use]
    pub fn wilson(accuracy: f64, count: u64) -> Option<Self> {
        Self::wilson_at(accuracy, count, Z_95)
    }

    /// The Wilson score interval (E. B. Wilson, JASA 22:209, 1927) at `z` standard deviations; none without trials.
    #[must_use]
    pub fn wilson_at(accuracy: f64, count: u64, z: f64) -> Option<Self> {
        if count == 0 {
            return None;
        }
        let n = count as f64;
        let centre = (accuracy + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let half = z / (1.0 + z * z / n) * (accuracy * (1.0 - accuracy) / n + z * z / (4.0 * n * n)).sqrt();
        Some(Self { low: (centre - half).max(0.0), high: (centre + half).min(1.0) })
    }
}

/// The value that a standard normal variable stays below with `probability` (0 to 1, both excluded).
///
/// P. J. Acklam's rational approximation; its relative error is below 1.2e-9.
#[must_use]
pub fn normal_quantile(probability: f64) -> f64 {
    const A: [f64; 6] = [
        -39.696_830_286_653_8,
        220.946_098_424_520_5,
        -275.928_510_446_968_7,
        138.357_751_867_269,
        -30.664_798_066_147_16,
        2.506_628_277_459_239,
    ];
    const B: [f64; 6] = [
        -54.476_098_798_224_06,
        161.585_836_858_040_9,
        -155.698_979_859_886_6,
        66.801_311_887_719_72,
        -13.280_681_552_885_72,
        1.0,
    ];
    const C: [f64; 6] = [
        -0.007_784_894_002_430_293,
        -0.322_396_458_041_136_5,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 5] = [
        0.007_784_695_709_041_462,
        0.322_467_129_070_039_8,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
        1.0,
    ];
    let polynomial = |factors: &[f64], x: f64| factors.iter().fold(0.0, |sum, factor| sum * x + factor);
    let probability = probability.clamp(f64::MIN_POSITIVE, 1.0 - f64::EPSILON);
    let tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        polynomial(&C, q) / polynomial(&D, q)
    };
    if probability < 0.024_25 {
        tail(probability)
    } else if probability > 1.0 - 0.024_25 {
        -tail(1.0 - probability)
    } else {
        let q = probability - 0.5;
        polynomial(&A, q * q) * q / polynomial(&B, q * q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // statsmodels.stats.proportion.proportion_confint(80, 100, method="wilson") = (0.7111708, 0.8666331)
    #[test]
    fn the_interval_is_wilsons() {
        let interval = Interval::wilson(0.8, 100).expect("a hundred trials");
        assert!(
            (interval.low - 0.711_170_8).abs() < 1e-6 && (interval.high - 0.866_633_1).abs() < 1e-6,
            "{interval:?}"
        );
        let certain = Interval::wilson(1.0, 10).expect("ten trials");
        assert!(certain.high <= 1.0 && certain.low < 1.0);
        assert_eq!(Interval::wilson(0.5, 0), None);
    }

    // scipy.stats.norm.ppf([.5, .975, .995, .001, .99999])
    #[rstest::rstest]
    #[case(0.5, 0.0)]
    #[case(0.975, 1.959_963_984_5)]
    #[case(0.995, 2.575_829_303_5)]
    #[case(0.001, -3.090_232_306_2)]
    #[case(0.999_99, 4.264_890_793_9)]
    fn quantiles_are_those_of_the_tables(#[case] probability: f64, #[case] expected: f64) {
        let found = normal_quantile(probability);
        assert!((found - expected).abs() < 1e-7, "{found}");
    }
}
