//! A batch chosen for coverage among the best m·K: pointwise top-K picks near-duplicates, which teach the same thing twice.
//!
//! Private to `acquisition`: `deep_active` and `coverage_shift` use it. Farthest first (`farthest`) over the pretext embedding at unit length,
//! beginning with the best item, or away from items that are in the batch already.

use super::order::tie_numbers;
use super::points::Points;
use super::{AcquisitionError, Candidates, Ranked, farthest};

/// How many of the best to choose among.
pub(super) fn shortlist_count(count: usize, diversity: f64) -> usize {
    (count as f64 * diversity.max(1.0)).ceil() as usize
}

/// Chooses `count` of `shortlist` (best first, without those of `batch`); they keep their scores.
pub(super) fn choose(
    candidates: &Candidates<'_>,
    strategy: &'static str,
    shortlist: Vec<Ranked>,
    batch: &[Ranked],
    count: usize,
    seed: u64,
    round: u32,
) -> Result<Vec<Ranked>, AcquisitionError> {
    if shortlist.len() <= count {
        return Ok(shortlist);
    }
    let embeddings =
        candidates.embeddings.ok_or(AcquisitionError::Missing { strategy, column: "embeddings" })?;
    let listed_count = shortlist.len();
    let members: Vec<Ranked> = shortlist.iter().chain(batch).copied().collect();
    let points = Points::unit(members.iter().map(|member| embeddings.row(member.index)), embeddings.width);
    let hashes: Vec<_> = shortlist.iter().map(|member| candidates.hashes[member.index]).collect();
    let ties = tie_numbers(&hashes, seed, round);
    let tie = |row: usize| (ties[row], hashes[row]);
    let first = if batch.is_empty() { shortlist.first().copied() } else { None };
    let first = first.into_iter().take(count);
    let mut centres: Vec<usize> = (listed_count..members.len()).collect();
    if batch.is_empty() {
        centres.push(0);
    }
    let rest = farthest::pick(&points, listed_count, centres, count - first.len(), tie);
    Ok(first.chain(rest.into_iter().map(|(row, _)| members[row])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acquisition::Rows;
    use crate::domain::content_hash::ContentHash;

    fn chosen(batch: &[usize], count: usize) -> Vec<usize> {
        let hashes: Vec<_> = (0..5u8).map(|item| ContentHash([item; 32])).collect();
        let degrees = [0.0f32, 1.0, 40.0, 90.0, 180.0];
        let values: Vec<f32> =
            degrees.iter().flat_map(|d| [d.to_radians().cos(), d.to_radians().sin()]).collect();
        let candidates = Candidates {
            hashes: &hashes,
            embeddings: Some(Rows { values: &values, width: 2 }),
            ..Candidates::default()
        };
        let ranked = |&index: &usize| Ranked { index, score: Some(index as f64) };
        let batch: Vec<_> = batch.iter().map(ranked).collect();
        let shortlist = [0, 1, 2, 3].iter().map(ranked).collect();
        let chosen = choose(&candidates, "test", shortlist, &batch, count, 7, 1).unwrap();
        assert!(chosen.iter().all(|ranked| ranked.score == Some(ranked.index as f64)));
        chosen.iter().map(|ranked| ranked.index).collect()
    }

    #[test]
    fn the_best_and_then_the_farthest_are_chosen() {
        assert_eq!(chosen(&[], 1), [0]);
        // The near-duplicate at 1° is left out.
        assert_eq!(chosen(&[], 3), [0, 3, 2]);
        assert_eq!(chosen(&[], 4), [0, 1, 2, 3]);
    }

    #[test]
    fn what_is_in_the_batch_already_is_kept_away_from() {
        // From 180°: 0° lies 180° away, then 90° 90° away.
        assert_eq!(chosen(&[4], 2), [0, 3]);
    }

    #[test]
    fn a_shortlist_is_a_multiple_of_the_batch() {
        assert_eq!(
            (shortlist_count(10, 1.0), shortlist_count(10, 2.55), shortlist_count(0, 5.0)),
            (10, 26, 0)
        );
    }
}
