//! Monte Carlo dropout before the head: how much a prediction depends on which features are there (BALD).
//!
//! Y. Gal, Z. Ghahramani, "Dropout as a Bayesian approximation", ICML 2016. A mask drops features of every item alike and the others are scaled
//! up, so a mask is a head of its own, T masks cost T heads, and an item's value doesn't depend on its shard; batch norm stays in eval mode,
//! since the backbone runs once. The head wasn't trained under dropout. Masks are drawn by seed, round and number. Called by `score`.

use rand::Rng;

use super::Result;
use crate::domain::seed::StreamKey;
use crate::domain::strategy::Dropout;
use crate::nn::checkpoint::Checkpoint;
use crate::nn::parameters::ParameterStore;
use crate::nn::{NnError, head, loss::softmax};

/// One head for each mask.
pub(super) struct MaskedHeads {
    heads: Vec<ParameterStore>,
    class_count: usize,
}

impl MaskedHeads {
    /// Masks the head of a downstream model.
    pub(super) fn new(model: &Checkpoint, dropout: Dropout) -> Self {
        let class_count = model.manifest.class_count.max(1);
        let feature_count = model.architecture().width(model.manifest.representation);
        let round = u64::from(model.manifest.round.unwrap_or(0));
        let key = StreamKey::new(model.manifest.seed, "dropout").with_number(round);
        let heads = (0..dropout.passes).map(|pass| {
            let mut stream = key.clone().with_number(u64::from(pass)).stream();
            let scale = (1.0 / (1.0 - dropout.fraction)) as f32;
            let mask: Vec<f32> = (0..feature_count)
                .map(|_| if stream.random::<f64>() < dropout.fraction { 0.0 } else { scale })
                .collect();
            let mut masked = model.head.clone();
            // `fc.weight` [C, D] stands in front of `fc.bias`.
            for row in masked.values.chunks_exact_mut(feature_count).take(class_count) {
                row.iter_mut().zip(&mask).for_each(|(weight, factor)| *weight *= factor);
            }
            masked
        });
        Self { heads: heads.collect(), class_count }
    }

    /// `H(mean p) − mean H(p)` of each row of `features` `[n, D]`, in nats.
    pub(super) fn mutual_information(&self, features: &[f32]) -> Result<Vec<f32>> {
        let mut sums: Vec<f64> = Vec::new();
        let mut entropies: Vec<f64> = Vec::new();
        for masked in &self.heads {
            let mut probabilities = head::logits_of(features, masked).map_err(NnError::from)?;
            sums.resize(probabilities.len(), 0.0);
            entropies.resize(probabilities.len() / self.class_count, 0.0);
            for (row, sum) in probabilities.chunks_exact_mut(self.class_count).zip(&mut entropies) {
                softmax(row);
                *sum += entropy(row.iter().copied().map(f64::from));
            }
            sums.iter_mut().zip(&probabilities).for_each(|(sum, &p)| *sum += f64::from(p));
        }
        let count = self.heads.len().max(1) as f64;
        let rows = sums.chunks_exact(self.class_count).zip(&entropies);
        let information = rows.map(|(sums, entropies)| {
            let of_mean = entropy(sums.iter().map(|sum| sum / count));
            (of_mean - entropies / count).max(0.0) as f32
        });
        Ok(information.collect())
    }
}

fn entropy(probabilities: impl Iterator<Item = f64>) -> f64 {
    probabilities.filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(biases: &[[f32; 2]]) -> MaskedHeads {
        let of = |bias: &[f32; 2]| {
            let mut store = head::linear(1, 2);
            store.values = vec![0.0, 0.0, bias[0], bias[1]];
            store
        };
        MaskedHeads { heads: biases.iter().map(of).collect(), class_count: 2 }
    }

    #[test]
    fn heads_that_disagree_while_sure_inform_most() {
        // Two heads sure of different classes: H(½, ½) − 0 = ln 2. Two that are unsure alike: ln 2 − ln 2.
        let disagreeing = heads(&[[60.0, 0.0], [0.0, 60.0]]).mutual_information(&[1.0]).unwrap();
        assert!((disagreeing[0] - 2f32.ln()).abs() < 1e-6);
        assert_eq!(heads(&[[0.0, 0.0], [0.0, 0.0]]).mutual_information(&[1.0, 2.0]).unwrap(), [0.0, 0.0]);
        // p = (¾, ¼) and (½, ½): H(⅝, ⅜) − ½ (H(¾, ¼) + ln 2) = 0.661563 − ½ (0.562335 + 0.693147).
        let mixed = heads(&[[3f32.ln(), 0.0], [0.0, 0.0]]).mutual_information(&[1.0]).unwrap();
        assert!((mixed[0] - 0.033_822).abs() < 1e-5, "{mixed:?}");
    }
}
