//! The measures of uncertainty: `u(x)` of Eq. 1, each in [0, 1] with 1 the most uncertain.
//!
//! Entropy `H(p) / ln C`, margin `1 − (p₁ − p₂)`, least confidence `(1 − p₁)·C / (C − 1)`; p₁ ≥ p₂ are the two largest probabilities.

use crate::domain::strategy::UncertaintyMeasure;

/// All three measures of one distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uncertainty {
    /// Normalised entropy.
    pub entropy: f32,
    /// One minus the margin.
    pub margin: f32,
    /// Scaled least confidence.
    pub least_confidence: f32,
}

impl Uncertainty {
    /// Measures a distribution over two or more classes; with fewer there is nothing to be uncertain about.
    #[must_use]
    pub fn of(probabilities: &[f32]) -> Self {
        let count = probabilities.len() as f32;
        if probabilities.len() < 2 {
            return Self { entropy: 0.0, margin: 0.0, least_confidence: 0.0 };
        }
        let entropy: f32 = probabilities.iter().filter(|&&p| p > 0.0).map(|&p| -p * p.ln()).sum();
        let (mut first, mut second) = (0.0f32, 0.0f32);
        for &probability in probabilities {
            if probability > first {
                (first, second) = (probability, first);
            } else {
                second = second.max(probability);
            }
        }
        Self {
            entropy: (entropy / count.ln()).clamp(0.0, 1.0),
            margin: (1.0 - (first - second)).clamp(0.0, 1.0),
            least_confidence: ((1.0 - first) * count / (count - 1.0)).clamp(0.0, 1.0),
        }
    }

    /// The one that a strategy asks for.
    #[must_use]
    pub fn by(&self, measure: UncertaintyMeasure) -> f32 {
        match measure {
            UncertaintyMeasure::Entropy => self.entropy,
            UncertaintyMeasure::Margin => self.margin,
            UncertaintyMeasure::LeastConfidence => self.least_confidence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Uncertainty, expected: [f32; 3]) {
        let found = [found.entropy, found.margin, found.least_confidence];
        let near = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6);
        assert!(near, "{found:?} for {expected:?}");
    }

    #[test]
    fn the_measures_agree_on_both_ends_and_are_those_computed_by_hand_between() {
        close(Uncertainty::of(&[0.25; 4]), [1.0, 1.0, 1.0]);
        close(Uncertainty::of(&[0.0, 1.0, 0.0, 0.0]), [0.0, 0.0, 0.0]);
        // H = ½ ln 2 + 2·¼ ln 4 = 1.5 ln 2; ln 4 = 2 ln 2.
        close(Uncertainty::of(&[0.5, 0.25, 0.25, 0.0]), [0.75, 0.75, 0.5 * 4.0 / 3.0]);
        close(Uncertainty::of(&[0.4, 0.4, 0.2, 0.0]), [0.760_964, 1.0, 0.8]);
    }

    #[test]
    fn measures_are_chosen_by_name() {
        let measured = Uncertainty { entropy: 0.1, margin: 0.2, least_confidence: 0.3 };
        assert_eq!(measured.by(UncertaintyMeasure::Entropy), 0.1);
        assert_eq!(measured.by(UncertaintyMeasure::Margin), 0.2);
        assert_eq!(measured.by(UncertaintyMeasure::LeastConfidence), 0.3);
    }
}
