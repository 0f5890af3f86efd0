//! Orders that repeat: the K largest scores, ties broken by a number drawn from seed, round and content hash.
//!
//! Private to `acquisition`. Neither the rows' order nor their ids decide anything.

use std::cmp::Ordering;

use crate::domain::content_hash::ContentHash;
use crate::domain::seed::StreamKey;

use super::Ranked;

/// The rows of the `count` largest finite `scores`, largest first.
pub(super) fn largest(
    scores: &[f64],
    hashes: &[ContentHash],
    count: usize,
    seed: u64,
    round: u32,
) -> Vec<Ranked> {
    let ties = tie_numbers(hashes, seed, round);
    let mut rows: Vec<usize> = (0..scores.len()).collect();
    let compare = |&a: &usize, &b: &usize| -> Ordering {
        let by_score = scores[b].total_cmp(&scores[a]);
        by_score.then(ties[a].cmp(&ties[b])).then_with(|| hashes[a].cmp(&hashes[b]))
    };
    if count < rows.len() && count > 0 {
        rows.select_nth_unstable_by(count - 1, compare);
    }
    rows.truncate(count);
    rows.sort_unstable_by(compare);
    rows.into_iter().map(|index| Ranked { index, score: Some(scores[index]) }).collect()
}

/// The number of each item that decides between equals; the smaller one goes first.
pub(super) fn tie_numbers(hashes: &[ContentHash], seed: u64, round: u32) -> Vec<u64> {
    let key = StreamKey::new(seed, "tie").with_number(u64::from(round));
    hashes.iter().map(|hash| key.clone().with_content(hash).number()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_equals_by_their_drawn_number() {
        let hashes: Vec<_> = (0..4u8).map(|item| ContentHash([item; 32])).collect();
        let ranked = largest(&[0.5, 0.9, 0.5, 0.1], &hashes, 3, 7, 1);
        let rows: Vec<_> = ranked.iter().map(|ranked| ranked.index).collect();
        let ties = tie_numbers(&hashes, 7, 1);
        let equals = if ties[0] < ties[2] { [0, 2] } else { [2, 0] };
        assert_eq!(rows, [1, equals[0], equals[1]]);
        assert_eq!(ranked[0].score, Some(0.9));
    }

    #[test]
    fn negative_zero_and_zero_are_not_told_apart_by_chance() {
        // Scores that differ only in the sign of zero are still totally ordered, so the order repeats.
        let hashes: Vec<_> = (0..2u8).map(|item| ContentHash([item; 32])).collect();
        assert_eq!(largest(&[-0.0, 0.0], &hashes, 1, 7, 1)[0].index, 1);
    }
}
