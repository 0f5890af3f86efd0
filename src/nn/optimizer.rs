//! Optimizers over flat parameters: SGD with momentum, and AdamW, each with state that can be saved; and the recipe of a training.
//!
//! A rule, its step count and its state vectors; the passes over the vectors are `nn::ops::optimizer`, elementwise, so neither order nor
//! thread count changes a bit. Weight decay reaches every number, as in PyTorch without parameter groups. Owned by the training loop.

use super::ops::optimizer::{AdamWStep, SgdStep, adamw_step, sgd_step};
use super::{NnError, Result};

/// A rule with its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// `m ← μ·m + g + w·p;  p ← p − η·m`, or with Nesterov's look ahead `p ← p − η·(g + w·p + μ·m)` (as in PyTorch, Sutskever et al. 2013).
    Sgd {
        /// μ, 0 to 1.
        momentum: f32,
        /// w, added to the gradient as `w·p`.
        weight_decay: f32,
        /// Whether the step looks ahead.
        nesterov: bool,
    },
    /// Adam with decoupled decay (Loshchilov & Hutter 2019).
    AdamW {
        /// Decay of the mean of gradients.
        beta1: f32,
        /// Decay of the mean of squared gradients.
        beta2: f32,
        /// Added to the root.
        epsilon: f32,
        /// w: `p ← p·(1 − η·w)` before the step.
        weight_decay: f32,
    },
}

impl Rule {
    /// Flat vectors of state that the rule keeps.
    #[must_use]
    pub fn state_count(&self) -> usize {
        match self {
            Self::Sgd { .. } => 1,
            Self::AdamW { .. } => 2,
        }
    }
}

/// How the parameters of a training move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Rule of the optimizers of backbone and head.
    pub rule: Rule,
    /// Peak learning rate of the backbone.
    pub peak_rate: f32,
    /// Learning rate of the head as a multiple of the backbone's.
    pub head_rate_factor: f32,
    /// Share of the steps in which the rate climbs to its peak.
    pub warm_up_fraction: f32,
}

/// A rule at work on one flat vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    rule: Rule,
    step_count: u64,
    state: Vec<Vec<f32>>,
}

impl Optimizer {
    /// Starts a rule on `value_count` numbers.
    #[must_use]
    pub fn new(rule: Rule, value_count: usize) -> Self {
        Self { rule, step_count: 0, state: vec![vec![0.0; value_count]; rule.state_count()] }
    }

    /// Takes a saved state up again.
    ///
    /// # Errors
    /// State vectors of another number or length than the rule needs.
    pub fn resume(rule: Rule, value_count: usize, step_count: u64, state: Vec<Vec<f32>>) -> Result<Self> {
        if state.len() != rule.state_count() || state.iter().any(|vector| vector.len() != value_count) {
            return Err(NnError::OptimizerState { expected: (rule.state_count(), value_count) });
        }
        Ok(Self { rule, step_count, state })
    }

    /// Steps taken so far.
    #[must_use]
    pub fn step_count(&self) -> u64 {
        self.step_count
    }

    /// The state vectors, to be saved and given to `resume`.
    #[must_use]
    pub fn state(&self) -> &[Vec<f32>] {
        &self.state
    }

    /// Moves `values` against `gradients` with learning rate `rate`; all three have the length of `new`.
    pub fn step(&mut self, values: &mut [f32], gradients: &[f32], rate: f32) {
        self.step_count += 1;
        match (self.rule, self.state.as_mut_slice()) {
            (Rule::Sgd { momentum, weight_decay, nesterov }, [velocity]) => {
                let step = SgdStep { learning_rate: rate, momentum, weight_decay, nesterov };
                sgd_step(values, gradients, velocity, &step);
            }
            (Rule::AdamW { beta1, beta2, epsilon, weight_decay }, [mean, square]) => {
                let number = u32::try_from(self.step_count).unwrap_or(u32::MAX);
                let step = AdamWStep { learning_rate: rate, beta1, beta2, epsilon, weight_decay, number };
                adamw_step(values, gradients, mean, square, &step);
            }
            _ => unreachable!("the state has as many vectors as its rule keeps"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SGD: Rule = Rule::Sgd { momentum: 0.9, weight_decay: 0.01, nesterov: true };
    const PLAIN: Rule = Rule::Sgd { momentum: 0.9, weight_decay: 0.01, nesterov: false };
    const ADAMW: Rule = Rule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };

    /// Three steps from p = (1, −2) with the gradient p² + 1, as in the script beside each test.
    fn run(rule: Rule) -> Vec<f32> {
        let mut optimizer = Optimizer::new(rule, 2);
        let mut values = vec![1.0, -2.0];
        for _ in 0..3 {
            let gradients: Vec<_> = values.iter().map(|v| v * v + 1.0).collect();
            optimizer.step(&mut values, &gradients, 0.1);
        }
        values
    }

    /// The same three steps in f64, written as PyTorch's documentation states the algorithms.
    fn reference(rule: Rule) -> Vec<f64> {
        let one = |start: f64| {
            let (mut p, mut m, mut v) = (start, 0.0, 0.0);
            for t in 1..=3 {
                let g = p * p + 1.0;
                match rule {
                    Rule::Sgd { nesterov, .. } => {
                        let g = g + 0.01 * p;
                        m = 0.9 * m + g;
                        p -= 0.1 * if nesterov { g + 0.9 * m } else { m };
                    }
                    Rule::AdamW { .. } => {
                        p -= 0.1 * 0.1 * p;
                        m = 0.9 * m + 0.1 * g;
                        v = 0.999 * v + 0.001 * g * g;
                        let (mean, square) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.999f64.powi(t)));
                        p -= 0.1 * mean / (square.sqrt() + 1e-8);
                    }
                }
            }
            p
        };
        vec![one(1.0), one(-2.0)]
    }

    #[test]
    fn every_rule_moves_as_pytorch_documents_it() {
        for rule in [SGD, PLAIN, ADAMW] {
            for (found, expected) in run(rule).iter().zip(reference(rule)) {
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-4 * expected.abs().max(1.0),
                    "{found} for {expected}"
                );
            }
        }
    }

    #[test]
    fn a_resumed_optimizer_goes_on_to_the_bit() {
        for rule in [SGD, ADAMW] {
            let gradients = [0.3, -0.7, 0.1];
            let mut whole = Optimizer::new(rule, 3);
            let mut values = vec![1.0, 2.0, 3.0];
            whole.step(&mut values, &gradients, 0.1);
            let saved = (whole.step_count(), whole.state().to_vec(), values.clone());
            whole.step(&mut values, &gradients, 0.05);
            let mut resumed = Optimizer::resume(rule, 3, saved.0, saved.1).unwrap();
            let mut again = saved.2;
            resumed.step(&mut again, &gradients, 0.05);
            assert_eq!(again, values);
            assert_eq!(resumed, whole);
        }
    }

    #[test]
    fn state_of_another_length_is_refused() {
        let error = Optimizer::resume(SGD, 3, 1, vec![vec![0.0; 2]]).unwrap_err();
        assert!(error.to_string().contains('3'), "{error}");
    }
}
