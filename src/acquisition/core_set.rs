//! Core-set selection: the items farthest from everything that is labelled or picked already.
//!
//! Paper: O. Sener, S. Savarese, "Active learning for convolutional neural networks: a core-set approach", ICLR 2018, Algorithm 1
//! (k-center greedy) on the Euclidean distance of the features before the head. Without a label the first pick is drawn.

use super::order::tie_numbers;
use super::points::{Joined, Metric};
use super::{AcquisitionError, Candidates, Ranked, Rows, check_length, farthest};

/// `count` candidates; their score is the distance to the nearest labelled or picked item, absent for a drawn first one.
pub(super) fn pick(
    candidates: &Candidates<'_>,
    count: usize,
    seed: u64,
    round: u32,
) -> Result<Vec<Ranked>, AcquisitionError> {
    let missing = |column| AcquisitionError::Missing { strategy: "core_set", column };
    let features = candidates.features.ok_or(missing("features"))?;
    let labeled = match candidates.labeled_features {
        Some(labeled) => labeled,
        None if candidates.labeled_hashes.is_empty() => Rows { values: &[], width: features.width },
        None => return Err(missing("labelled features")),
    };
    check_length("labelled feature's row", labeled.width, features.width)?;
    let joined = Joined::new(features, labeled);
    let candidate_count = candidates.hashes.len();
    let ties = tie_numbers(candidates.hashes, seed, round);
    let tie = |row: usize| (ties[row], candidates.hashes[row]);
    let picks =
        farthest::pick(&joined, candidate_count, (candidate_count..joined.len()).collect(), count, tie);
    let ranked = picks.into_iter().map(|(index, squared_distance)| Ranked {
        index,
        score: squared_distance.map(|squared| f64::from(squared).sqrt()),
    });
    Ok(ranked.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::content_hash::ContentHash;

    #[test]
    fn the_farthest_from_labels_and_picks_comes_next() {
        let hashes: Vec<_> = (0..5u8).map(|item| ContentHash([item; 32])).collect();
        // A label at the origin; distances 1, 5, 10, 13, 2.
        let values = [1.0, 0.0, 3.0, 4.0, 6.0, 8.0, 5.0, 12.0, 0.0, 2.0];
        let candidates = Candidates {
            hashes: &hashes[..],
            features: Some(Rows { values: &values, width: 2 }),
            labeled_hashes: &[ContentHash([9; 32])],
            labeled_features: Some(Rows { values: &[0.0, 0.0], width: 2 }),
            ..Candidates::default()
        };
        let picks = pick(&candidates, 3, 7, 1).unwrap();
        // After (5, 12): (3, 4) is 5 from the label; (6, 8) is √17 from (5, 12), the others are nearer to the label.
        let expected = [(3, 13.0), (1, 5.0), (2, 17f64.sqrt())];
        for (pick, (index, score)) in picks.iter().zip(expected) {
            assert_eq!(pick.index, index);
            assert!((pick.score.unwrap() - score).abs() < 1e-6, "{picks:?}");
        }
        let unlabeled = Candidates { labeled_hashes: &[], labeled_features: None, ..candidates };
        assert_eq!(pick(&unlabeled, 3, 7, 1).unwrap()[0].score, None);
        let without = Candidates { labeled_features: None, ..candidates };
        assert!(matches!(pick(&without, 3, 7, 1), Err(AcquisitionError::Missing { .. })));
    }
}
