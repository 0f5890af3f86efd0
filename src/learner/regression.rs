//! Multinomial logistic regression by L-BFGS: the convex fit behind `fine_tune.mode = head`.
//!
//! Minimises `(1/n)·Σ −ln softmax(W·z + b)_y + (κ/2n)·‖W‖²` from zero; two-loop recursion (Nocedal 1980) with a backtracking line search under
//! Armijo's condition. Sums run over fixed pieces that are added in their order, so a fit repeats to the bit for any thread count.

use rayon::prelude::*;

use super::{Result, StepHook, check};
use crate::nn::ops;

/// Steps at most.
pub(super) const ITERATION_COUNT_MAX: u64 = 200;

/// Pairs of steps and slope changes that are remembered.
const MEMORY: usize = 10;

/// The largest component of the slope at which the fit is finished.
const SLOPE_MIN: f64 = 1e-4;

/// Items in one piece of a sum.
const ITEMS_PER_PIECE: usize = 256;

/// A training set and its penalty.
pub(super) struct Regression {
    /// Standardised embeddings, [n, D].
    pub inputs: Vec<f32>,
    /// One class an item.
    pub classes: Vec<usize>,
    /// D.
    pub feature_count: usize,
    /// C.
    pub class_count: usize,
    /// κ: the penalty of the whole set, so that more labels weaken it.
    pub penalty: f64,
}

/// The outcome of a fit.
pub(super) struct Fit {
    /// [C, D + 1], the bias last in each row.
    pub weights: Vec<f64>,
    /// Mean loss of the training set in nats, without the penalty.
    pub loss: f64,
    /// Right answers on the training set, 0 to 1.
    pub accuracy: f64,
}

impl Fit {
    /// Class probabilities of one standardised embedding, [C].
    pub(super) fn probabilities(&self, input: &[f32], class_count: usize) -> Vec<f32> {
        let width = self.weights.len() / class_count.max(1);
        let odds = self.weights.chunks_exact(width).map(|weights| {
            let products = weights.iter().zip(input).map(|(weight, value)| weight * f64::from(*value));
            products.sum::<f64>() + weights[width - 1]
        });
        let mut odds: Vec<f64> = odds.collect();
        let top = odds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        odds.iter_mut().for_each(|odds| *odds = (*odds - top).exp());
        let total: f64 = odds.iter().sum();
        odds.iter().map(|odds| (odds / total) as f32).collect()
    }
}

/// The objective at one place.
#[derive(Clone)]
struct Value {
    objective: f64,
    loss: f64,
    correct_count: usize,
    slope: Vec<f64>,
}

impl Regression {
    /// Fits the weights; the hook is asked once an iteration.
    pub(super) fn fit(&self, hook: &mut dyn StepHook) -> Result<Fit> {
        let mut weights = vec![0.0; self.class_count * (self.feature_count + 1)];
        let mut value = self.evaluate(&weights);
        let mut history = History::default();
        for iteration in 0..ITERATION_COUNT_MAX {
            check(hook.step(iteration, ITERATION_COUNT_MAX))?;
            if value.slope.iter().all(|slope| slope.abs() < SLOPE_MIN) {
                break;
            }
            let direction = history.direction(&value.slope);
            let Some((next_weights, next_value)) = self.search(&weights, &value, &direction) else {
                break;
            };
            history.push(difference(&next_weights, &weights), difference(&next_value.slope, &value.slope));
            (weights, value) = (next_weights, next_value);
        }
        check(hook.step(ITERATION_COUNT_MAX, ITERATION_COUNT_MAX))?;
        let accuracy = value.correct_count as f64 / self.classes.len().max(1) as f64;
        Ok(Fit { weights, loss: value.loss, accuracy })
    }

    /// Halves the step until the objective falls enough; `None` when it no longer does, which is the end of the precision.
    fn search(&self, weights: &[f64], value: &Value, direction: &[f64]) -> Option<(Vec<f64>, Value)> {
        let descent = inner(&value.slope, direction);
        let mut step = 1.0;
        for _ in 0..30 {
            let tried: Vec<f64> = weights.iter().zip(direction).map(|(w, d)| w + step * d).collect();
            let found = self.evaluate(&tried);
            if found.objective <= value.objective + 1e-4 * step * descent {
                return Some((tried, found));
            }
            step *= 0.5;
        }
        None
    }

    fn evaluate(&self, weights: &[f64]) -> Value {
        let count = self.classes.len().max(1) as f64;
        let pieces: Vec<Value> = ops::install(|| {
            let inputs = self.inputs.par_chunks(ITEMS_PER_PIECE * self.feature_count);
            inputs
                .zip(self.classes.par_chunks(ITEMS_PER_PIECE))
                .map(|(x, y)| self.sum_piece(weights, x, y))
                .collect()
        });
        let mut sum = Value { objective: 0.0, loss: 0.0, correct_count: 0, slope: vec![0.0; weights.len()] };
        for piece in pieces {
            sum.loss += piece.loss / count;
            sum.correct_count += piece.correct_count;
            sum.slope.iter_mut().zip(&piece.slope).for_each(|(sum, piece)| *sum += piece / count);
        }
        let pull = self.penalty / count;
        let mut square = 0.0;
        let width = self.feature_count + 1;
        for (place, (slope, weight)) in sum.slope.iter_mut().zip(weights).enumerate() {
            // The bias goes free.
            if place % width != self.feature_count {
                square += weight * weight;
                *slope += pull * weight;
            }
        }
        sum.objective = sum.loss + 0.5 * pull * square;
        sum
    }

    fn sum_piece(&self, weights: &[f64], inputs: &[f32], classes: &[usize]) -> Value {
        let width = self.feature_count + 1;
        let mut sum = Value { objective: 0.0, loss: 0.0, correct_count: 0, slope: vec![0.0; weights.len()] };
        let mut row = vec![0.0; self.feature_count];
        let mut odds = vec![0.0; self.class_count];
        for (input, &class) in inputs.chunks_exact(self.feature_count).zip(classes) {
            row.iter_mut().zip(input).for_each(|(wide, &value)| *wide = f64::from(value));
            for (odds, weights) in odds.iter_mut().zip(weights.chunks_exact(width)) {
                *odds = weights[self.feature_count] + inner(&row, &weights[..self.feature_count]);
            }
            let top = odds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            sum.correct_count += usize::from(odds[class] == top);
            let own = odds[class];
            let total: f64 = odds
                .iter_mut()
                .map(|odds| {
                    *odds = (*odds - top).exp();
                    *odds
                })
                .sum();
            sum.loss += total.ln() + top - own;
            for (place, (odds, slope)) in odds.iter().zip(sum.slope.chunks_exact_mut(width)).enumerate() {
                let error = odds / total - f64::from(u8::from(place == class));
                slope.iter_mut().zip(&row).for_each(|(slope, value)| *slope += error * value);
                slope[self.feature_count] += error;
            }
        }
        sum
    }
}

/// The last steps and what they did to the slope.
#[derive(Default)]
struct History {
    pairs: Vec<(Vec<f64>, Vec<f64>)>,
}

impl History {
    fn push(&mut self, step: Vec<f64>, change: Vec<f64>) {
        // A pair without curvature would make the approximation indefinite.
        if inner(&step, &change) > 1e-12 {
            if self.pairs.len() == MEMORY {
                self.pairs.remove(0);
            }
            self.pairs.push((step, change));
        }
    }

    /// The two-loop recursion: minus the approximate inverse Hessian times the slope.
    fn direction(&self, slope: &[f64]) -> Vec<f64> {
        let mut direction: Vec<f64> = slope.iter().map(|slope| -slope).collect();
        let mut factors = Vec::with_capacity(self.pairs.len());
        for (step, change) in self.pairs.iter().rev() {
            let factor = inner(step, &direction) / inner(step, change);
            add_scaled(&mut direction, -factor, change);
            factors.push(factor);
        }
        if let Some((step, change)) = self.pairs.last() {
            let scale = inner(step, change) / inner(change, change);
            direction.iter_mut().for_each(|value| *value *= scale);
        }
        for ((step, change), factor) in self.pairs.iter().zip(factors.into_iter().rev()) {
            let correction = factor - inner(change, &direction) / inner(step, change);
            add_scaled(&mut direction, correction, step);
        }
        direction
    }
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    // Eight independent sums let the compiler use vector registers without changing the order between runs.
    let mut sums = [0.0; 8];
    let (a_lanes, b_lanes) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_lanes.remainder().iter().zip(b_lanes.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_lanes.zip(b_lanes) {
        sums.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (x, y))| *sum += x * y);
    }
    sums.iter().sum::<f64>() + rest
}

fn add_scaled(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use rand::Rng;

    use super::*;
    use crate::domain::seed::StreamKey;
    use crate::learner::{LearnerError, Stopped};

    /// Three noisy classes on a plane.
    fn regression(penalty: f64) -> Regression {
        let mut stream = StreamKey::new(1, "regression").stream();
        let (mut inputs, mut classes) = (Vec::new(), Vec::new());
        for item in 0..600 {
            let class = item % 3;
            let angle = class as f32 * 2.1;
            let mut noise = || stream.random_range(-1.0f32..1.0);
            inputs.extend([angle.cos() + noise(), angle.sin() + noise()]);
            classes.push(class);
        }
        Regression { inputs, classes, feature_count: 2, class_count: 3, penalty }
    }

    fn go_on(_: u64, _: u64) -> ControlFlow<Stopped> {
        ControlFlow::Continue(())
    }

    #[test]
    fn the_fit_ends_where_no_direction_descends() {
        let regression = regression(1.0);
        let fit = regression.fit(&mut go_on).unwrap();
        let value = regression.evaluate(&fit.weights);
        assert!(value.slope.iter().all(|slope| slope.abs() < 1e-3), "{:?}", value.slope);
        assert!(fit.accuracy > 0.75 && fit.loss < 0.6, "{} {}", fit.accuracy, fit.loss);
        // Finite differences: the objective rises on both sides of every weight.
        for place in 0..fit.weights.len() {
            for delta in [-0.1, 0.1] {
                let mut moved = fit.weights.clone();
                moved[place] += delta;
                assert!(regression.evaluate(&moved).objective > value.objective);
            }
        }
    }

    #[test]
    fn a_stronger_penalty_gives_smaller_weights() {
        let norm = |penalty| {
            let fit = regression(penalty).fit(&mut go_on).unwrap();
            fit.weights.iter().map(|w| w * w).sum::<f64>()
        };
        assert!(norm(100.0) < 0.5 * norm(1.0));
    }

    #[test]
    fn a_hook_stops_the_fit() {
        let mut hook = |done: u64, _: u64| {
            if done == 2 { ControlFlow::Break(Stopped) } else { ControlFlow::Continue(()) }
        };
        assert!(matches!(regression(1.0).fit(&mut hook), Err(LearnerError::Stopped)));
    }
}
