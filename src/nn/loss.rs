//! Losses: cross-entropy with history for training, and its plain forms for scoring.
//!
//! All are computed through the log-sum-exp with the maximum taken out, so no logit overflows. Callers are `pretext` and `learner`.

use candle_core::{Result, Tensor};

/// Mean cross-entropy of logits [N, C] against one class each (u32 [N]), a scalar with history.
///
/// # Errors
/// Shapes that don't fit, or the device's.
pub fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    candle_nn::loss::cross_entropy(logits, &Tensor::new(targets, logits.device())?)
}

/// `−ln softmax(logits)[target]` of one row, in nats; 0 or more.
#[must_use]
pub fn negative_log_likelihood(logits: &[f32], target: usize) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - top).exp()).sum();
    (sum.ln() - (logits[target] - top)).max(0.0)
}

/// Turns a row of logits into probabilities that sum to 1, in place.
pub fn softmax(logits: &mut [f32]) {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for logit in logits.iter_mut() {
        *logit = (*logit - top).exp();
        sum += *logit;
    }
    logits.iter_mut().for_each(|probability| *probability /= sum);
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn cross_entropy_is_pytorchs_and_its_gradient_softmax_minus_one_hot() {
        // torch.nn.functional.cross_entropy(torch.tensor([[1., 2., 3.], [0., 0., 0.]]), torch.tensor([2, 0])) = 0.7531
        let logits = Var::new(&[[1f32, 2.0, 3.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let loss = cross_entropy(&logits, &[2, 0]).unwrap();
        let expected = (0.407_605_96 + 3f32.ln()) / 2.0;
        assert!((loss.to_scalar::<f32>().unwrap() - expected).abs() < 1e-6);
        let gradient = loss.backward().unwrap().get(&logits).unwrap().to_vec2::<f32>().unwrap();
        let expected = [[0.045_015_3, 0.122_364_2, -0.167_379_5], [-1.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0]];
        for (found, expected) in gradient.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
        }
    }

    #[test]
    fn huge_logits_neither_overflow_nor_turn_negative() {
        let logits = Var::new(&[[1000f32, -1000.0]], &Device::Cpu).unwrap();
        let loss = cross_entropy(&logits, &[1]).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 2000.0);
        let gradient = loss.backward().unwrap().get(&logits).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(gradient, [[1.0, -1.0]]);
        assert_eq!(negative_log_likelihood(&[1000.0, -1000.0], 0), 0.0);
        assert_eq!(negative_log_likelihood(&[1000.0, -1000.0], 1), 2000.0);
        let mut row = [1000.0, 1000.0, -1000.0];
        softmax(&mut row);
        assert_eq!(row, [0.5, 0.5, 0.0]);
    }
}
