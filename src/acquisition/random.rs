//! The baseline: K items uniformly at random, without replacement.
//!
//! Each item draws one number from seed, round and its content hash, and the K smallest are asked; so the sample doesn't depend on the
//! order of the pool, and a few items more or less change it little.

use crate::domain::content_hash::ContentHash;
use crate::domain::seed::StreamKey;

use super::Ranked;

/// `count` rows drawn uniformly, in random order.
pub(super) fn draw(hashes: &[ContentHash], count: usize, seed: u64, round: u32) -> Vec<Ranked> {
    let key = StreamKey::new(seed, "random").with_number(u64::from(round));
    let number = |hash: &ContentHash| key.clone().with_content(hash).number();
    let mut rows: Vec<_> = hashes.iter().enumerate().map(|(row, hash)| (number(hash), hash, row)).collect();
    rows.sort_unstable();
    rows.truncate(count);
    rows.into_iter().map(|(_, _, index)| Ranked { index, score: None }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_drawn_about_equally_often() {
        let hashes: Vec<_> = (0..20u8).map(|item| ContentHash([item; 32])).collect();
        let mut drawn = [0u32; 20];
        for round in 0..2000 {
            draw(&hashes, 5, 7, round).iter().for_each(|ranked| drawn[ranked.index] += 1);
        }
        // 2000 · 5/20 = 500 each; five standard deviations are 97.
        assert!(drawn.iter().all(|&count| (403..=597).contains(&count)), "{drawn:?}");
    }
}
