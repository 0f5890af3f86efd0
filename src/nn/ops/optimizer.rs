//! SGD with momentum, AdamW and the running mean of a momentum encoder, each one fused pass over flat parameters.
//!
//! The state is plain vectors beside the parameters, so a checkpoint can hold it. Elementwise, hence the same bits for
//! any number of threads. Semantics are PyTorch's `SGD(nesterov=…)` and `AdamW`.

use rayon::prelude::*;

use super::threads::install;

/// Floats of one piece of work.
const PIECE: usize = 1 << 15;

/// The constants of one SGD step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdStep {
    /// Learning rate.
    pub learning_rate: f32,
    /// Momentum, 0 for none.
    pub momentum: f32,
    /// Coefficient of ½‖parameters‖² in the loss.
    pub weight_decay: f32,
    /// Whether the step looks ahead along the momentum (Nesterov).
    pub nesterov: bool,
}

/// One step of SGD in place; `momentum` starts as zeros.
///
/// # Panics
/// When the lengths differ.
pub fn sgd_step(parameters: &mut [f32], gradient: &[f32], momentum: &mut [f32], step: &SgdStep) {
    assert_eq!(
        (parameters.len(), parameters.len()),
        (gradient.len(), momentum.len()),
        "one slot a parameter"
    );
    let pieces =
        parameters.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE)).zip(momentum.par_chunks_mut(PIECE));
    install(|| {
        pieces.for_each(|((parameters, gradient), momentum)| {
            for ((parameter, gradient), momentum) in parameters.iter_mut().zip(gradient).zip(momentum) {
                let gradient = gradient + step.weight_decay * *parameter;
                *momentum = step.momentum * *momentum + gradient;
                let direction = if step.nesterov { gradient + step.momentum * *momentum } else { *momentum };
                *parameter -= step.learning_rate * direction;
            }
        });
    });
}

/// The constants of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub learning_rate: f32,
    /// Decay of the gradient's running mean.
    pub beta1: f32,
    /// Decay of the squared gradient's running mean.
    pub beta2: f32,
    /// Added to the root, against division by zero.
    pub epsilon: f32,
    /// Decoupled decay: each step multiplies the parameters by 1 − learning rate · this.
    pub weight_decay: f32,
    /// Number of this step, from 1.
    pub number: u32,
}

/// One step of AdamW in place; `mean` and `square` start as zeros.
///
/// # Panics
/// When the lengths differ or the step's number is 0.
pub fn adamw_step(
    parameters: &mut [f32],
    gradient: &[f32],
    mean: &mut [f32],
    square: &mut [f32],
    step: &AdamWStep,
) {
    let len = parameters.len();
    assert_eq!((len, len, len), (gradient.len(), mean.len(), square.len()), "one slot a parameter");
    assert!(step.number > 0, "steps are counted from 1");
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(f64::from(step.number));
    let rate = (f64::from(step.learning_rate) / correction(step.beta1)) as f32;
    let root_scale = (1.0 / correction(step.beta2).sqrt()) as f32;
    let keep = 1.0 - step.learning_rate * step.weight_decay;
    let state = mean.par_chunks_mut(PIECE).zip(square.par_chunks_mut(PIECE));
    let pieces = parameters.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE)).zip(state);
    install(|| {
        pieces.for_each(|((parameters, gradient), (mean, square))| {
            let state = mean.iter_mut().zip(square);
            for ((parameter, gradient), (mean, square)) in parameters.iter_mut().zip(gradient).zip(state) {
                *mean = step.beta1 * *mean + (1.0 - step.beta1) * gradient;
                *square = step.beta2 * *square + (1.0 - step.beta2) * gradient * gradient;
                *parameter = *parameter * keep - rate * *mean / (square.sqrt() * root_scale + step.epsilon);
            }
        });
    });
}

/// Moves `follower` towards `leader` in place: `f ← momentum·f + (1 − momentum)·l`.
///
/// # Panics
/// When the lengths differ.
pub fn follow(follower: &mut [f32], leader: &[f32], momentum: f32) {
    assert_eq!(follower.len(), leader.len(), "one leader a follower");
    let pieces = follower.par_chunks_mut(PIECE).zip(leader.par_chunks(PIECE));
    install(|| {
        pieces.for_each(|(follower, leader)| {
            for (follower, leader) in follower.iter_mut().zip(leader) {
                *follower = momentum * *follower + (1.0 - momentum) * leader;
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(got: &[f32], expected: &[f32]) {
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{got} for {expected}");
        }
    }

    // Expected numbers: src/nn/ops/reference.py, section "optimizers".
    #[test]
    fn three_sgd_steps_match_pytorch() {
        let cases = [
            (false, [0.714_134_75, -2.128_919_8, 1.057_717_4]),
            (true, [0.590_209_96, -2.184_807_3, 1.299_492_4]),
        ];
        for (nesterov, expected) in cases {
            let step = SgdStep { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01, nesterov };
            let (mut parameters, mut momentum) = ([1.0, -2.0, 0.5], [0.0; 3]);
            for _ in 0..3 {
                sgd_step(&mut parameters, &[0.5, 0.25, -1.0], &mut momentum, &step);
            }
            assert_close(&parameters, &expected);
        }
    }

    #[test]
    fn three_adamw_steps_match_pytorch() {
        let (mut parameters, mut mean, mut square) = ([1.0, -2.0, 0.5], [0.0; 3], [0.0; 3]);
        for number in 1..=3 {
            let step = AdamWStep {
                learning_rate: 0.01,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.1,
                number,
            };
            let gradient = [0.5, 0.25 * number as f32, -1.0];
            adamw_step(&mut parameters, &gradient, &mut mean, &mut square, &step);
        }
        assert_close(&parameters, &[0.967_033_1, -2.023_208_4, 0.528_471_5]);
    }
}
