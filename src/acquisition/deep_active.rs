//! Deep active sampling: `I(x) = u(x) + λ·v(x)`, the K largest.
//!
//! Paper: H. Shi, H. Zhou, "Deep active sampling with self-supervised learning", Frontiers of Computer Science 17(4):174323, 2023,
//! Eq. 1. The paper doesn't publish u, v or λ; ours are normalised uncertainty, the frozen pretext model's loss, and 1. `diversity`, which
//! the paper doesn't have, chooses for coverage among the best (`spread`).

use crate::domain::strategy::Normalization;

use super::{AcquisitionError, Candidates, Ranked};
use super::{order, scale, spread};

/// The `count` candidates of the largest scores, or those that cover most among the `diversity · count` largest.
pub(super) fn pick(
    candidates: &Candidates<'_>,
    lambda: f64,
    normalization: Normalization,
    diversity: f64,
    count: usize,
    seed: u64,
    round: u32,
) -> Result<Vec<Ranked>, AcquisitionError> {
    let scores = score(candidates, lambda, normalization)?;
    let listed_count = spread::shortlist_count(count, diversity);
    let shortlist = order::largest(&scores, candidates.hashes, listed_count, seed, round);
    spread::choose(candidates, "deep_active", shortlist, &[], count, seed, round)
}

/// Eq. 1 for each candidate, `u` and `v` brought to one scale first.
fn score(
    candidates: &Candidates<'_>,
    lambda: f64,
    normalization: Normalization,
) -> Result<Vec<f64>, AcquisitionError> {
    let missing = |column| AcquisitionError::Missing { strategy: "deep_active", column };
    let u = candidates.uncertainty.ok_or(missing("uncertainties"))?;
    let v = candidates.pretext_loss.ok_or(missing("pretext losses"))?;
    let (u, v) = match normalization {
        Normalization::Rank => (scale::rank(u), scale::rank(v)),
        Normalization::ClassRank => {
            let predicted = candidates.predicted.ok_or(missing("predicted classes"))?;
            (scale::rank(u), scale::rank_within(v, predicted))
        }
        Normalization::MinMax => (scale::min_max(u), scale::min_max(v)),
        Normalization::Raw => {
            let raw = |values: &[f32]| values.iter().copied().map(f64::from).collect();
            (raw(u), raw(v))
        }
    };
    Ok(u.iter().zip(&v).map(|(u, v)| u + lambda * v).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::content_hash::ContentHash;
    use crate::domain::project::ClassIndex;

    fn scores(lambda: f64, normalization: Normalization) -> Vec<f64> {
        let hashes: Vec<_> = (0..5u8).map(|item| ContentHash([item; 32])).collect();
        let predicted = [0, 0, 1, 1, 1].map(ClassIndex);
        let candidates = Candidates {
            hashes: &hashes,
            uncertainty: Some(&[0.0, 0.25, 0.5, 0.75, 1.0]),
            pretext_loss: Some(&[8.0, 4.0, 2.0, 1.0, 0.0]),
            predicted: Some(&predicted),
            ..Candidates::default()
        };
        score(&candidates, lambda, normalization).unwrap()
    }

    #[test]
    fn ranks_are_added_with_their_weight() {
        // u ranks 0, ¼, ½, ¾, 1; v ranks 1, ¾, ½, ¼, 0.
        assert_eq!(scores(1.0, Normalization::Rank), [1.0; 5]);
        assert_eq!(scores(2.0, Normalization::Rank), [2.0, 1.75, 1.5, 1.25, 1.0]);
        assert_eq!(scores(0.0, Normalization::Rank), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(scores(-1.0, Normalization::Rank), [-1.0, -0.5, 0.0, 0.5, 1.0]);
    }

    #[test]
    fn each_normalization_is_the_one_computed_by_hand() {
        // v within class 0: 1, 0; within class 1: 1, ½, 0.
        assert_eq!(scores(1.0, Normalization::ClassRank), [1.0, 0.25, 1.5, 1.25, 1.0]);
        assert_eq!(scores(1.0, Normalization::MinMax), [1.0, 0.75, 0.75, 0.875, 1.0]);
        assert_eq!(scores(0.5, Normalization::Raw), [4.0, 2.25, 1.5, 1.25, 1.0]);
    }
}
