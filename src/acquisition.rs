//! Acquisition: which items of the pool are asked next.
//!
//! `select` is pure: the same candidates, seed and round give the same picks on every machine, in whatever order the candidates come and
//! on however many threads (work is cut into fixed chunks, sums run in the order of content hashes). One file a strategy; scores come
//! from `learner`, nothing here knows a network. Method: Shi & Zhou 2023, Algorithm 1 lines 5–6. Called by `worker`, `simulate` and `replay`
//! from threads that may block; large pools use rayon's global threads.

mod badge;
mod bald;
mod clusters;
mod core_set;
mod coverage_shift;
mod deep_active;
mod farthest;
mod members;
mod neighbourhood;
mod order;
mod plus_plus;
mod points;
mod pretext;
mod probcover;
mod projection;
mod pt4al;
mod random;
mod scale;
mod spread;
mod standing;
mod typiclust;
mod uncertainty;

use crate::domain::content_hash::ContentHash;
use crate::domain::project::ClassIndex;
use crate::domain::strategy::Strategy;

/// Numbers of a magnitude that no sound model gives; their squares would overflow in sums.
const VALUE_MAX: f32 = 1e15;

/// Rows of numbers, one an item: embeddings, features, probabilities.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// f32 `[N, width]`.
    pub values: &'a [f32],
    /// Numbers in a row, at least 1.
    pub width: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.width..][..self.width]
    }

    fn rows(self) -> std::slice::ChunksExact<'a, f32> {
        self.values.chunks_exact(self.width.max(1))
    }

    fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }
}

/// The unlabelled items that may be asked, column by column; a strategy needs only some of the columns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidates<'a> {
    /// Content hashes, all different; the other columns have as many rows.
    pub hashes: &'a [ContentHash],
    /// `u` of each item by the strategy's measure, in [0, 1].
    pub uncertainty: Option<&'a [f32]>,
    /// `v` of each item under the pretext model that the strategy names, at least 0.
    pub pretext_loss: Option<&'a [f32]>,
    /// Class that the model predicts.
    pub predicted: Option<&'a [ClassIndex]>,
    /// The model's distribution over the classes, `[N, C]`.
    pub probabilities: Option<Rows<'a>>,
    /// What the model's head sees, `[N, D]`.
    pub features: Option<Rows<'a>>,
    /// Mutual information of prediction and weights under dropout, in nats, at least 0.
    pub mutual_information: Option<&'a [f32]>,
    /// Pretext embedding.
    pub embeddings: Option<Rows<'a>>,
    /// Content hashes of the items that are labelled already, for strategies that look where labels lie.
    pub labeled_hashes: &'a [ContentHash],
    /// Their `v` under the frozen pretext model.
    pub labeled_pretext_loss: Option<&'a [f32]>,
    /// Their features.
    pub labeled_features: Option<Rows<'a>>,
    /// Their pretext embeddings.
    pub labeled_embeddings: Option<Rows<'a>>,
    /// Classes that the project has; 0 when nobody counted them.
    pub class_count: usize,
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
    /// A value that is no number, or beyond 1e15.
    #[error(
        "{column} of item {hash} is not a finite number of sane size: the model that scored it has diverged"
    )]
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
    let largest = |scores: Vec<f64>| order::largest(&scores, candidates.hashes, count, seed, round);
    let ranked = match *strategy {
        Strategy::DeepActive { lambda, normalization, diversity, .. } => {
            deep_active::pick(candidates, lambda, normalization, diversity, count, seed, round)?
        }
        Strategy::Uncertainty { .. } => largest(uncertainty::score(candidates)?),
        Strategy::Pretext {} => largest(pretext::score(candidates)?),
        Strategy::Random {} => random::draw(candidates.hashes, count, seed, round),
        Strategy::Typical {} | Strategy::Typiclust {} => typiclust::pick(candidates, count, seed, round)?,
        Strategy::Probcover { purity } => probcover::pick(candidates, purity, count, seed, round)?,
        Strategy::CoreSet {} => core_set::pick(candidates, count, seed, round)?,
        Strategy::Badge {} => badge::pick(candidates, count, seed, round)?,
        Strategy::Bald { .. } => largest(bald::score(candidates)?),
        Strategy::Pt4al { parts, order } => pt4al::pick(candidates, parts, order, count, seed, round)?,
        Strategy::CoverageShift { diversity, .. } => {
            coverage_shift::pick(candidates, diversity, count, seed, round)?
        }
    };
    Ok(ranked.into_iter().map(|ranked| candidates.pick(ranked)).collect())
}

/// Whether the first K picks of a longer selection may differ from a selection of K.
#[must_use]
pub fn depends_on_count(strategy: &Strategy) -> bool {
    match *strategy {
        Strategy::DeepActive { diversity, .. } => diversity > 1.0,
        Strategy::Typical {} | Strategy::Typiclust {} | Strategy::CoverageShift { .. } => true,
        _ => false,
    }
}

/// Whether a strategy reads the pretext embeddings of candidates and labelled items.
#[must_use]
pub fn reads_embeddings(strategy: &Strategy) -> bool {
    match *strategy {
        Strategy::DeepActive { diversity, .. } => diversity > 1.0,
        Strategy::Typical {}
        | Strategy::Typiclust {}
        | Strategy::Probcover { .. }
        | Strategy::CoverageShift { .. } => true,
        _ => false,
    }
}

/// Whether a strategy reads what a downstream model thinks of the candidates.
#[must_use]
pub fn reads_scores(strategy: &Strategy) -> bool {
    !matches!(
        strategy,
        Strategy::Pretext {}
            | Strategy::Random {}
            | Strategy::Typical {}
            | Strategy::Typiclust {}
            | Strategy::Probcover { .. }
    )
}

/// A candidate's row and the score that put it there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ranked {
    index: usize,
    score: Option<f64>,
}

impl Candidates<'_> {
    fn check(&self) -> Result<(), AcquisitionError> {
        let (hashes, labeled) = (self.hashes, self.labeled_hashes);
        let column = |values| Rows { values, width: 1 };
        check_rows("uncertainty", self.uncertainty.map(column), hashes)?;
        check_rows("pretext loss", self.pretext_loss.map(column), hashes)?;
        check_rows("mutual information", self.mutual_information.map(column), hashes)?;
        check_rows("labelled pretext loss", self.labeled_pretext_loss.map(column), labeled)?;
        if let Some(predicted) = self.predicted {
            check_length("predicted class", predicted.len(), hashes.len())?;
        }
        check_rows("class probability", self.probabilities, hashes)?;
        check_rows("feature", self.features, hashes)?;
        check_rows("labelled feature", self.labeled_features, labeled)?;
        check_rows("embedding", self.embeddings, hashes)?;
        check_rows("labelled embedding", self.labeled_embeddings, labeled)
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

fn check_rows(
    column: &'static str,
    rows: Option<Rows<'_>>,
    hashes: &[ContentHash],
) -> Result<(), AcquisitionError> {
    let Some(Rows { values, width }) = rows else { return Ok(()) };
    check_length(column, values.len(), hashes.len() * width.max(1))?;
    match values.iter().position(|value| value.is_nan() || value.abs() > VALUE_MAX) {
        Some(at) => Err(AcquisitionError::NotFinite { column, hash: hashes[at / width.max(1)] }),
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
    use crate::domain::strategy::{Normalization, PretextModel, PretextOrder, UncertaintyMeasure};

    fn hash(item: u32) -> ContentHash {
        ContentHash::of_file(&item.to_le_bytes())
    }

    fn every_strategy() -> Vec<Strategy> {
        let deep = |lambda, normalization, diversity| Strategy::DeepActive {
            lambda,
            normalization,
            uncertainty: UncertaintyMeasure::Margin,
            diversity,
            pretext_model: PretextModel::Frozen,
        };
        vec![
            deep(1.0, Normalization::Rank, 1.0),
            deep(-0.5, Normalization::ClassRank, 1.0),
            deep(2.0, Normalization::MinMax, 1.0),
            deep(0.0, Normalization::Raw, 1.0),
            deep(1.0, Normalization::Rank, 2.5),
            Strategy::Uncertainty { measure: UncertaintyMeasure::Entropy },
            Strategy::Pretext {},
            Strategy::Random {},
            Strategy::Typical {},
            Strategy::Typiclust {},
            Strategy::Probcover { purity: 0.9 },
            Strategy::CoreSet {},
            Strategy::Badge {},
            Strategy::Bald { passes: 20, dropout: 0.5 },
            Strategy::Pt4al { parts: 3, order: PretextOrder::HardestFirst },
            Strategy::CoverageShift { uncertainty: UncertaintyMeasure::Margin, diversity: 2.0 },
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
        let probabilities: Vec<_> = items
            .iter()
            .flat_map(|item| {
                let sure = 0.4 + (item % 6) as f32 / 10.0;
                let mut row = [(1.0 - sure) / 2.0; 3];
                row[(item % 3) as usize] = sure;
                row
            })
            .collect();
        let labeled: Vec<_> = (1000..1003).map(hash).collect();
        let labeled_values = [0.0, 1.0, 1.0, 9.0, 1.0, 1.0, 0.0, 0.5, 1.0];
        let candidates = Candidates {
            hashes: &hashes,
            uncertainty: Some(&uncertainty),
            pretext_loss: Some(&pretext_loss),
            predicted: Some(&predicted),
            probabilities: Some(Rows { values: &probabilities, width: 3 }),
            features: Some(Rows { values: &values, width: 3 }),
            mutual_information: Some(&uncertainty),
            embeddings: Some(Rows { values: &values, width: 3 }),
            labeled_hashes: &labeled,
            labeled_pretext_loss: Some(&[0.5, 1.5, 2.5]),
            labeled_features: Some(Rows { values: &labeled_values, width: 3 }),
            labeled_embeddings: Some(Rows { values: &labeled_values, width: 3 }),
            class_count: 3,
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
    fn a_strategy_that_reads_no_scores_chooses_without_them_and_the_others_ask_for_them() {
        let hashes: Vec<_> = (0..30).map(hash).collect();
        let values: Vec<f32> = (0..60u8).map(f32::from).collect();
        let candidates = Candidates {
            hashes: &hashes,
            pretext_loss: Some(&values[..30]),
            embeddings: Some(Rows { values: &values, width: 2 }),
            class_count: 3,
            ..Candidates::default()
        };
        for strategy in every_strategy() {
            let chosen = select(&strategy, &candidates, 5, 7, 2);
            assert_eq!(chosen.is_err(), reads_scores(&strategy), "{strategy:?}: {chosen:?}");
        }
    }

    #[test]
    fn a_selection_begins_with_every_shorter_one_where_it_says_so() {
        let items: Vec<u32> = (0..60).collect();
        for strategy in every_strategy().into_iter().filter(|strategy| !depends_on_count(strategy)) {
            let long = picked(&strategy, &items, 30, 7, 2);
            assert_eq!(picked(&strategy, &items, 12, 7, 2), long[..12], "{strategy:?}");
        }
    }

    #[test]
    fn seed_and_round_change_how_ties_fall() {
        let items: Vec<u32> = (0..60).collect();
        // The distances of these candidates differ, so that nothing is left to chance where the farthest comes first.
        let has_ties = |strategy: &Strategy| match *strategy {
            Strategy::DeepActive { diversity, .. } => diversity <= 1.0,
            Strategy::CoreSet {} => false,
            _ => true,
        };
        for strategy in every_strategy().into_iter().filter(has_ties) {
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
        for wrong in [f32::NAN, f32::INFINITY, -1e16] {
            let diverged = Candidates { pretext_loss: Some(&[0.5, wrong]), ..bare };
            let error = select(&Strategy::Pretext {}, &diverged, 1, 7, 1).unwrap_err();
            assert_eq!(error, AcquisitionError::NotFinite { column: "pretext loss", hash: hash(2) });
            let values = [0.0, 1.0, wrong, 0.0];
            let embeddings = Some(Rows { values: &values, width: 2 });
            let error =
                select(&Strategy::Typical {}, &Candidates { embeddings, ..bare }, 1, 7, 1).unwrap_err();
            assert_eq!(error, AcquisitionError::NotFinite { column: "embedding", hash: hash(2) });
        }
    }
}
