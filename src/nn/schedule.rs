//! Learning-rate schedules as pure functions of the step.

use serde::{Deserialize, Serialize};

/// Linear warm-up to a peak, then half a cosine down to zero (Loshchilov & Hutter 2017).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Largest learning rate.
    pub peak: f32,
    /// Steps until the peak is reached.
    pub warm_up_step_count: u64,
    /// Steps in all; from here on the rate is 0.
    pub step_count: u64,
}

impl Schedule {
    /// Learning rate of step `step`, the first being 0.
    #[must_use]
    pub fn rate(&self, step: u64) -> f32 {
        if step < self.warm_up_step_count {
            return self.peak * (step + 1) as f32 / self.warm_up_step_count as f32;
        }
        let decay_step_count = self.step_count.saturating_sub(self.warm_up_step_count).max(1);
        let done = ((step - self.warm_up_step_count) as f64 / decay_step_count as f64).min(1.0);
        (f64::from(self.peak) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_climbs_in_a_line_and_falls_in_a_cosine() {
        let schedule = Schedule { peak: 0.4, warm_up_step_count: 4, step_count: 104 };
        let rates: Vec<_> = [0, 3, 4, 54, 104, 500].map(|step| schedule.rate(step)).to_vec();
        for (found, expected) in rates.iter().zip([0.1, 0.4, 0.4, 0.2, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{rates:?}");
        }
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_stays_finite() {
        let schedule = Schedule { peak: 0.1, warm_up_step_count: 8, step_count: 2 };
        assert!((0..10).all(|step| schedule.rate(step).is_finite()));
    }
}
