//! When a project has learned enough: the target is reached with confidence, or further rounds bring nothing.
//!
//! Pure. Looked at after each training, over the measurements so far, oldest first; the budget's end is the supervisor's own business.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field_error::FieldError;
use super::interval::{Interval, normal_quantile};
use super::project::FinishReason;

/// Measured items below which neither rule decides.
const ITEM_COUNT_MIN: u64 = 50;

/// When to stop before the budget is spent; nothing by default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoppingRules {
    /// Stop once the accuracy is above this with `confidence`; 0 to 1, both excluded.
    pub target_accuracy: Option<f64>,
    /// How sure the target must be, 0.5 to 0.999, over all rounds together: looking often doesn't make it easier.
    pub confidence: f64,
    /// Stop once the best of this many last rounds is less than `plateau_gain` above the best before; 1 to 100.
    pub plateau_rounds: Option<u32>,
    /// The gain that is worth going on for, 0 to 0.5.
    pub plateau_gain: f64,
}

impl Default for StoppingRules {
    fn default() -> Self {
        Self { target_accuracy: None, confidence: 0.95, plateau_rounds: None, plateau_gain: 0.005 }
    }
}

/// An accuracy that was measured: on the test split, or on random items.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// 0 to 1.
    pub accuracy: f64,
    /// Items that it was counted over.
    pub item_count: u64,
}

impl StoppingRules {
    /// Adds an error for each field outside its limits.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        let mut within = |field: &str, right: bool, detail: &str| {
            if !right {
                errors.push(FieldError::new(field, detail));
            }
        };
        let target = self.target_accuracy.is_none_or(|target| target > 0.0 && target < 1.0);
        within("stopping.target_accuracy", target, "must be above 0 and below 1, or null");
        let confidence = (0.5..=0.999).contains(&self.confidence);
        within("stopping.confidence", confidence, "must be 0.5 to 0.999");
        let rounds = self.plateau_rounds.is_none_or(|rounds| (1..=100).contains(&rounds));
        within("stopping.plateau_rounds", rounds, "must be 1 to 100, or null");
        within("stopping.plateau_gain", (0.0..=0.5).contains(&self.plateau_gain), "must be 0 to 0.5");
    }

    /// Why to stop now, if there is a reason.
    #[must_use]
    pub fn judge(&self, measurements: &[Measurement]) -> Option<FinishReason> {
        if self.has_reached_target(measurements) {
            return Some(FinishReason::Target);
        }
        self.has_levelled_off(measurements).then_some(FinishReason::Plateau)
    }

    /// The lower bound of the newest measurement reaches the target.
    ///
    /// Look number k may err with probability α·6/(π²·k²); these add up to α = 1 − confidence however often one looks (union bound).
    fn has_reached_target(&self, measurements: &[Measurement]) -> bool {
        let (Some(target), Some(last)) = (self.target_accuracy, measurements.last()) else {
            return false;
        };
        let looks = measurements.len() as f64;
        let error = (1.0 - self.confidence) * 6.0 / (std::f64::consts::PI * looks).powi(2);
        let z = normal_quantile(1.0 - error);
        last.item_count >= ITEM_COUNT_MIN
            && Interval::wilson_at(last.accuracy, last.item_count, z)
                .is_some_and(|bounds| bounds.low >= target)
    }

    fn has_levelled_off(&self, measurements: &[Measurement]) -> bool {
        let Some(rounds) = self.plateau_rounds.and_then(|rounds| usize::try_from(rounds).ok()) else {
            return false;
        };
        if measurements.len() <= rounds || measurements.iter().any(|one| one.item_count < ITEM_COUNT_MIN) {
            return false;
        }
        let (before, last) = measurements.split_at(measurements.len() - rounds);
        let best = |part: &[Measurement]| part.iter().map(|one| one.accuracy).fold(0.0, f64::max);
        best(last) - best(before) < self.plateau_gain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(accuracies: &[f64], item_count: u64) -> Vec<Measurement> {
        accuracies.iter().map(|&accuracy| Measurement { accuracy, item_count }).collect()
    }

    #[test]
    fn a_target_must_be_reached_with_confidence_and_not_by_luck() {
        let rules = StoppingRules { target_accuracy: Some(0.9), ..Default::default() };
        assert_eq!(rules.judge(&measured(&[0.85, 0.905], 1000)), None);
        assert_eq!(rules.judge(&measured(&[0.85, 0.93], 1000)), Some(FinishReason::Target));
        assert_eq!(rules.judge(&measured(&[0.93], 100)), None);
        // Seven in ten of a few items say nothing, nor do all of forty.
        assert_eq!(rules.judge(&measured(&[1.0], 40)), None);
        // By hand: look 1 has α = .0304, z = 1.875; 921 of 1000 has the lower bound .9035, while look 30 (z = 3.98) has .8801.
        assert_eq!(rules.judge(&measured(&[0.921], 1000)), Some(FinishReason::Target));
        assert_eq!(rules.judge(&measured(&[0.921; 30], 1000)), None);
    }

    #[test]
    fn a_plateau_is_rounds_without_gain() {
        let rules = StoppingRules { plateau_rounds: Some(2), ..Default::default() };
        assert_eq!(rules.judge(&measured(&[0.8, 0.85], 1000)), None);
        assert_eq!(rules.judge(&measured(&[0.8, 0.85, 0.852, 0.853], 1000)), Some(FinishReason::Plateau));
        assert_eq!(rules.judge(&measured(&[0.8, 0.85, 0.852, 0.856], 1000)), None);
        assert_eq!(rules.judge(&measured(&[0.8, 0.85, 0.84, 0.85], 20)), None);
    }

    #[test]
    fn without_rules_nothing_stops_and_wrong_limits_are_named() {
        assert_eq!(StoppingRules::default().judge(&measured(&[0.999; 9], 100_000)), None);
        let wrong = StoppingRules {
            target_accuracy: Some(1.0),
            confidence: 0.2,
            plateau_rounds: Some(0),
            plateau_gain: -1.0,
        };
        let mut errors = Vec::new();
        wrong.validate(&mut errors);
        assert_eq!(errors.len(), 4);
    }
}
