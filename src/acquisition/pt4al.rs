//! PT4AL: the pool sorted by pretext loss is cut into parts, one a round; in the round's part the least confident items are asked.
//!
//! Paper: J. S. K. Yi, M. Seo, J. Park, D.-G. Choi, "PT4AL: using self-supervised pretext tasks for active learning", ECCV 2022,
//! section 3.3. The authors' code sorts the losses as strings, here they are numbers. The parts are those of labelled and unlabelled items
//! together, so they stay the same from round to round. When a part runs out, the next ones follow.

use crate::domain::content_hash::ContentHash;
use crate::domain::strategy::PretextOrder;

use super::order::tie_numbers;
use super::{AcquisitionError, Candidates, Ranked};

/// `count` candidates for `round`, the first of which is 1; their score is `u`.
pub(super) fn pick(
    candidates: &Candidates<'_>,
    part_count: u32,
    order: PretextOrder,
    count: usize,
    seed: u64,
    round: u32,
) -> Result<Vec<Ranked>, AcquisitionError> {
    let missing = |column| AcquisitionError::Missing { strategy: "pt4al", column };
    let uncertainty = candidates.uncertainty.ok_or(missing("uncertainties"))?;
    let losses = candidates.pretext_loss.ok_or(missing("pretext losses"))?;
    let labeled_losses = match candidates.labeled_pretext_loss {
        Some(losses) => losses,
        None if candidates.labeled_hashes.is_empty() => &[],
        None => return Err(missing("labelled pretext losses")),
    };
    let part_count = part_count.max(1);
    let labeled =
        labeled_losses.iter().zip(candidates.labeled_hashes).map(|(&loss, &hash)| (loss, hash, None));
    let unlabeled = losses.iter().zip(candidates.hashes).enumerate();
    let items = unlabeled.map(|(index, (&loss, &hash))| (loss, hash, Some(index))).chain(labeled).collect();
    let current = round.saturating_sub(1) % part_count;
    let ties = tie_numbers(candidates.hashes, seed, round);
    let mut rows: Vec<(u32, usize)> = parts(items, part_count, order)
        .into_iter()
        .map(|(part, index)| ((part + part_count - current) % part_count, index))
        .collect();
    rows.sort_unstable_by(|&(a_turn, a), &(b_turn, b)| {
        let by_uncertainty = || uncertainty[b].total_cmp(&uncertainty[a]);
        let by_tie = || (ties[a], candidates.hashes[a]).cmp(&(ties[b], candidates.hashes[b]));
        a_turn.cmp(&b_turn).then_with(by_uncertainty).then_with(by_tie)
    });
    let ranked = rows.into_iter().take(count);
    Ok(ranked.map(|(_, index)| Ranked { index, score: Some(f64::from(uncertainty[index])) }).collect())
}

/// The part of each candidate.
fn parts(
    mut items: Vec<(f32, ContentHash, Option<usize>)>,
    part_count: u32,
    order: PretextOrder,
) -> Vec<(u32, usize)> {
    items.sort_unstable_by(|(a_loss, a_hash, _), (b_loss, b_hash, _)| {
        let by_loss = match order {
            PretextOrder::HardestFirst => b_loss.total_cmp(a_loss),
            PretextOrder::EasiestFirst => a_loss.total_cmp(b_loss),
        };
        by_loss.then_with(|| a_hash.cmp(b_hash))
    });
    let item_count = items.len() as u64;
    let placed = (0u64..).zip(items).filter_map(|(place, (.., index))| {
        // Below part_count, since place is below item_count.
        let part = (place * u64::from(part_count) / item_count) as u32;
        index.map(|index| (part, index))
    });
    placed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(round: u32, count: usize, order: PretextOrder) -> Vec<usize> {
        let hashes: Vec<_> = (0..6u8).map(|item| ContentHash([item; 32])).collect();
        // Labelled 100 and 6. By number: 100, 30 | 20, 10 | 9, 8 | 7, 6; as strings 9 would stand first and 10 behind 20.
        let candidates = Candidates {
            hashes: &hashes,
            uncertainty: Some(&[0.1, 0.5, 0.9, 0.2, 0.3, 0.4]),
            pretext_loss: Some(&[9.0, 10.0, 8.0, 20.0, 30.0, 7.0]),
            labeled_hashes: &[ContentHash([8; 32]), ContentHash([9; 32])],
            labeled_pretext_loss: Some(&[100.0, 6.0]),
            ..Candidates::default()
        };
        let picks = pick(&candidates, 4, order, count, 7, round).unwrap();
        picks.iter().map(|pick| pick.index).collect()
    }

    #[test]
    fn each_round_asks_the_least_confident_of_its_part() {
        assert_eq!(picked(1, 1, PretextOrder::HardestFirst), [4]);
        assert_eq!(picked(2, 2, PretextOrder::HardestFirst), [1, 3]);
        assert_eq!(picked(3, 1, PretextOrder::HardestFirst), [2]);
        assert_eq!(picked(4, 1, PretextOrder::HardestFirst), [5]);
        assert_eq!(picked(1, 1, PretextOrder::EasiestFirst), [5]);
    }

    #[test]
    fn a_part_that_runs_out_is_followed_by_the_next_and_rounds_start_over() {
        assert_eq!(picked(3, 6, PretextOrder::HardestFirst), [2, 0, 5, 4, 1, 3]);
        assert_eq!(picked(5, 2, PretextOrder::HardestFirst), picked(1, 2, PretextOrder::HardestFirst));
    }
}
