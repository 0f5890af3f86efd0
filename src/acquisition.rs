//! Acquisition: which items of the pool are asked next.
//!
//! `select` is pure: the same candidates, seed and round give the same picks on every machine, in whatever order the candidates come and
//! on however many threads (work is cut into fixed chunks, sums run in the order of content hashes). One file a strategy; scores come
//! from `learner`, nothing here knows a network. Method: Shi & Zhou 2023, Algorithm 1 lines 5–6. Called by `worker`, `simulate` and `replay`
//! from threads that may block; large pools use rayon's global threads.

mod clusters;
mod deep_active;
mod order;
mod pretext;
mod random;
mod scale;
mod typical;
mod uncertainty;

use crate::domain::content_hash::ContentHash;
use crate::domain::project::ClassIndex;
use crate::domain::strategy::Strategy;

/// Embeddings of the pretext model, one row of `dimension_count` values an item.
#[derive(Clone, Copy, Debug)]
pub struct Embeddings<'a> {
    /// f32 `[N, D]`.
    pub values: &'a [f32],
    /// D, at least 1.
    pub dimension_count: usize,
}

/// The unlabelled items that may be asked, column by column; a strategy needs only some of the columns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidates<'a> {
    /// Content hashes, all different; the other columns have as many rows.
    pub hashes: &'a [ContentHash],
    /// `u` of each item by the strategy's measure, in [0, 1].
    pub uncertainty: Option<&'a [f32]>,
    /// `v` of each item under the frozen pretext model, at least 0.
    pub pretext_loss: Option<&'a [f32]>,
    /// Class that the model predicts.
    pub predicted: Option<&'a [ClassIndex]>,
    /// Pretext embedding.
    pub embeddings: Option<Embeddings<'a>>,
    /// Content hashes of the items that are labelled already; only `typical` looks at them.
    pub labeled_hashes: &'a [ContentHash],
    /// Their pretext embeddings.
    pub labeled_embeddings: Option<Embeddings<'a>>,
}

/// One item to ask, with what made it stand out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    /// Row among the candidates.
    pub index: usize,
    /// What the strategy ranked by; `None` when it drew at random.
    pub score: Option<f64>,
    /// `u`, when the candidates have it.
    pub uncertainty: Option<f64>,
    /// `v`, when the candidates have it.
    pub pretext_loss: Option<f64>,
}

/// Why nothing can be selected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquisitionError {
    /// The strategy needs a column that isn't there.
    #[error("strategy '{strategy}' needs the candidates' {column}, which were not computed")]
    Missing {
        /// Name of the strategy.
        strategy: &'static str,
        /// The column.
        column: &'static str,
    },
    /// Columns of different lengths.
    #[error("{column} has {found} values where {expected} are expected")]
    Length {
        /// The column.
        column: &'static str,
        /// Values it has.
        found: usize,
        /// Values it should have.
        expected: usize,
    },
    /// A value that is no number.
    #[error("{column} of item {hash} is not a finite number: the model that scored it has diverged")]
    NotFinite {
        /// The column.
        column: &'static str,
        /// The item.
        hash: ContentHash,
    },
}

/// Picks up to `count` candidates by `strategy`, best first; all of them when there are no more than `count`.
///
/// Equal scores are ordered by a number drawn from seed, round and content hash.
pub fn select(
    strategy: &Strategy,
    candidates: &Candidates<'_>,
    count: usize,
    seed: u64,
    round: u32,
) -> Result<Vec<Pick>, AcquisitionError> {
    candidates.check()?;
    let ranked = match *strategy {
        Strategy::DeepActive { lambda, normalization, .. } => {
            let scores = deep_active::score(candidates, lambda, normalization)?;
            order::largest(&scores, candidates.hashes, count, seed, round)
        }
        Strategy::Uncertainty { .. } => {
            let scores = uncertainty::score(candidates)?;
            order::largest(&scores, candidates.hashes, count, seed, round)
        }
        Strategy::Pretext {} => {
            let scores = pretext::score(candidates)?;
            order::largest(&scores, candidates.hashes, count, seed, round)
        }
        Strategy::Random {} => random::draw(candidates.hashes, count, seed, round),
        Strategy::Typical {} => typical::pick(candidates, count, seed, round)?,
    };
    Ok(ranked.into_iter().map(|ranked| candidates.pick(ranked)).collect())
}

/// A candidate's row and the score that put it there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ranked {
    index: usize,
    score: Option<f64>,
}

impl Candidates<'_> {
    fn check(&self) -> Result<(), AcquisitionError> {
        check_column("uncertainty", self.uncertainty, self.hashes)?;
        check_column("pretext loss", self.pretext_loss, self.hashes)?;
        if let Some(predicted) = self.predicted {
            check_length("predicted class", predicted.len(), self.hashes.len())?;
        }
        check_embeddings("embedding", self.embeddings, self.hashes)?;
        check_embeddings("labelled embedding", self.labeled_embeddings, self.labeled_hashes)
    }

    fn pick(&self, ranked: Ranked) -> Pick {
        let value = |column: Option<&[f32]>| {
            column.and_then(|values| values.get(ranked.index)).copied().map(f64::from)
        };
        Pick {
            index: ranked.index,
            score: ranked.score,
            uncertainty: value(self.uncertainty),
            pretext_loss: value(self.pretext_loss),
        }
    }
}

fn check_length(column: &'static str, found: usize, expected: usize) -> Result<(), AcquisitionError> {
    if found == expected { Ok(()) } else { Err(AcquisitionError::Length { column, found, expected }) }
}

fn check_column(
    column: &'static str,
    values: Option<&[f32]>,
    hashes: &[ContentHash],
) -> Result<(), AcquisitionError> {
    let Some(values) = values else { return Ok(()) };
    check_length(column, values.len(), hashes.len())?;
    match values.iter().zip(hashes).find(|(value, _)| !value.is_finite()) {
        Some((_, &hash)) => Err(AcquisitionError::NotFinite { column, hash }),
        None => Ok(()),
    }
}

fn check_embeddings(
    column: &'static str,
    embeddings: Option<Embeddings<'_>>,
    hashes: &[ContentHash],
) -> Result<(), AcquisitionError> {
    let Some(Embeddings { values, dimension_count }) = embeddings else {
        return Ok(());
    };
    check_length(column, values.len(), hashes.len() * dimension_count.max(1))?;
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(AcquisitionError::NotFinite { column, hash: hashes[at / dimension_count.max(1)] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any};
    use proptest::{prop_assert_eq, proptest};
    use rand::seq::SliceRandom;

    use super::*;
    use crate::domain::seed::StreamKey;
    use crate::domain::strategy::{Normalization, UncertaintyMeasure};

    fn hash(item: u32) -> ContentHash {
        ContentHash::of_file(&item.to_le_bytes())
    }

    fn every_strategy() -> Vec<Strategy> {
        let deep = |lambda, normalization| Strategy::DeepActive {
            lambda,
            normalization,
            uncertainty: UncertaintyMeasure::Margin,
        };
        vec![
            deep(1.0, Normalization::Rank),
            deep(-0.5, Normalization::ClassRank),
            deep(2.0, Normalization::MinMax),
            deep(0.0, Normalization::Raw),
            Strategy::Uncertainty { measure: UncertaintyMeasure::Entropy },
            Strategy::Pretext {},
            Strategy::Random {},
            Strategy::Typical {},
        ]
    }

    /// Columns of `items` in their order; values repeat, so that ties matter.
    fn picked(strategy: &Strategy, items: &[u32], count: usize, seed: u64, round: u32) -> Vec<ContentHash> {
        let hashes: Vec<_> = items.iter().map(|&item| hash(item)).collect();
        let uncertainty: Vec<_> = items.iter().map(|item| (item % 5) as f32 / 5.0).collect();
        let pretext_loss: Vec<_> = items.iter().map(|item| (item % 7) as f32).collect();
        let predicted: Vec<_> = items.iter().map(|item| ClassIndex((item % 3) as u16)).collect();
        let values: Vec<_> = items
            .iter()
            .flat_map(|&item| {
                let number = StreamKey::new(1, "test").with_number(u64::from(item)).number();
                [(item % 4) as f32 * 3.0, (number % 1000) as f32 / 500.0, 1.0]
            })
            .collect();
        let labeled: Vec<_> = (1000..1003).map(hash).collect();
        let labeled_values = [0.0, 1.0, 1.0, 9.0, 1.0, 1.0, 0.0, 0.5, 1.0];
        let candidates = Candidates {
            hashes: &hashes,
            uncertainty: Some(&uncertainty),
            pretext_loss: Some(&pretext_loss),
            predicted: Some(&predicted),
            embeddings: Some(Embeddings { values: &values, dimension_count: 3 }),
            labeled_hashes: &labeled,
            labeled_embeddings: Some(Embeddings { values: &labeled_values, dimension_count: 3 }),
        };
        let picks = select(strategy, &candidates, count, seed, round).unwrap();
        picks.iter().map(|pick| hashes[pick.index]).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn picks_do_not_depend_on_the_order_of_the_candidates(shuffle_seed in any::<u64>(), count in 1usize..70) {
            let items: Vec<u32> = (0..60).collect();
            let mut shuffled = items.clone();
            shuffled.shuffle(&mut StreamKey::new(shuffle_seed, "shuffle").stream());
            for strategy in every_strategy() {
                let expected = picked(&strategy, &items, count, 7, 2);
                prop_assert_eq!(&picked(&strategy, &shuffled, count, 7, 2), &expected, "{:?}", strategy);
                prop_assert_eq!(expected.len(), count.min(60));
                let mut distinct = expected;
                distinct.sort_unstable();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), count.min(60), "{:?} picked an item twice", strategy);
            }
        }
    }

    #[test]
    fn seed_and_round_change_how_ties_fall() {
        let items: Vec<u32> = (0..60).collect();
        for strategy in every_strategy() {
            let first = picked(&strategy, &items, 20, 7, 2);
            assert_eq!(first, picked(&strategy, &items, 20, 7, 2));
            assert_ne!(first, picked(&strategy, &items, 20, 8, 2), "{strategy:?}");
            assert_ne!(first, picked(&strategy, &items, 20, 7, 3), "{strategy:?}");
        }
    }

    #[test]
    fn no_candidates_and_no_count_give_no_picks() {
        for strategy in every_strategy() {
            assert_eq!(picked(&strategy, &[], 5, 7, 1), vec![]);
            assert_eq!(picked(&strategy, &[1, 2, 3], 0, 7, 1), vec![]);
            assert_eq!(picked(&strategy, &[4], 5, 7, 1), vec![hash(4)]);
        }
    }

    #[test]
    fn picks_carry_the_values_they_were_ranked_by() {
        let hashes = [hash(1), hash(2)];
        let candidates = Candidates {
            hashes: &hashes,
            uncertainty: Some(&[0.25, 0.5]),
            pretext_loss: Some(&[2.0, 1.0]),
            ..Candidates::default()
        };
        let strategy = Strategy::Uncertainty { measure: UncertaintyMeasure::Entropy };
        let picks = select(&strategy, &candidates, 1, 7, 1).unwrap();
        let expected = Pick { index: 1, score: Some(0.5), uncertainty: Some(0.5), pretext_loss: Some(1.0) };
        assert_eq!(picks, [expected]);
    }

    #[test]
    fn missing_short_and_diverged_columns_are_errors() {
        let hashes = [hash(1), hash(2)];
        let bare = Candidates { hashes: &hashes, ..Candidates::default() };
        for strategy in every_strategy() {
            let outcome = select(&strategy, &bare, 1, 7, 1);
            let needs_nothing = matches!(strategy, Strategy::Random {});
            assert_eq!(outcome.is_ok(), needs_nothing, "{strategy:?}: {outcome:?}");
        }
        let error = select(&Strategy::Pretext {}, &bare, 1, 7, 1).unwrap_err().to_string();
        assert_eq!(error, "strategy 'pretext' needs the candidates' pretext losses, which were not computed");
        let short = Candidates { uncertainty: Some(&[0.5]), ..bare };
        let error = select(&Strategy::Random {}, &short, 1, 7, 1).unwrap_err();
        assert!(matches!(error, AcquisitionError::Length { found: 1, expected: 2, .. }));
        for wrong in [f32::NAN, f32::INFINITY] {
            let diverged = Candidates { pretext_loss: Some(&[0.5, wrong]), ..bare };
            let error = select(&Strategy::Pretext {}, &diverged, 1, 7, 1).unwrap_err();
            assert_eq!(error, AcquisitionError::NotFinite { column: "pretext loss", hash: hash(2) });
            let values = [0.0, 1.0, wrong, 0.0];
            let embeddings = Some(Embeddings { values: &values, dimension_count: 2 });
            let error =
                select(&Strategy::Typical {}, &Candidates { embeddings, ..bare }, 1, 7, 1).unwrap_err();
            assert_eq!(error, AcquisitionError::NotFinite { column: "embedding", hash: hash(2) });
        }
    }
}
