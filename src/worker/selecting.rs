//! Selecting: the random slice, the strategy's choice and the spare items behind it, from the tables of all shards.
//!
//! The random items are drawn first, from all candidates, and taken out before the rule ranks the rest; so they are an honest sample. What is
//! chosen depends on contents, seed and round alone, not on shards or the order of rows.

use std::collections::HashSet;

use tokio::task::spawn_blocking;

use super::attempt::Attempt;
use super::materials::failed;
use super::publication::Publication;
use super::tables::{index_by_hash, load_embeddings, load_scores};
use super::{BodyError, Worker};
use crate::acquisition::{self, AcquisitionError, Candidates, Embeddings, Pick};
use crate::domain::content_hash::ContentHash;
use crate::domain::project::ClassIndex;
use crate::domain::strategy::{Strategy, UncertaintyMeasure};
use crate::learner::{EmbeddingTable, ScoreRow, ScoreTable};
use crate::rounds::request::{ChosenItem, SelectRequest, Selection, from_json, to_json};
use crate::store::job::JobRow;
use crate::store::pool::{self, PoolItem};
use crate::store::task::Suggestion;

/// Chooses the batch of a round.
pub(super) async fn select(
    worker: &Worker,
    job: &JobRow,
    attempt: &Attempt,
) -> Result<(), BodyError> {
    let request: SelectRequest = from_json("request", &job.request)?;
    let project = worker.materials.project(job.project).await?;
    let mut connection = worker.store.acquire().await?;
    let candidates = pool::list_candidates(&mut connection, project.id, request.round).await?;
    let labeled = pool::list_labeled(&mut connection, project.id).await?;
    drop(connection);
    let embeddings = load_embeddings(&worker.blob, &request.embeddings).await?;
    let scores = load_scores(&worker.blob, &request.scores).await?;
    let seed = project.settings.seed;
    let choosing = spawn_blocking(move || {
        let table = CandidateTable::join(&request, candidates, labeled, embeddings, scores);
        table.choose(&request, seed)
    });
    let selection = choosing.await?.map_err(failed)?;
    attempt
        .finish(&to_json(&selection), &Publication::Outcome)
        .await
}

/// The candidates of a round, column by column; all columns have a row for each item.
struct CandidateTable {
    items: Vec<PoolItem>,
    hashes: Vec<ContentHash>,
    scores: Option<Vec<ScoreRow>>,
    uncertainty: Option<Vec<f32>>,
    predicted: Option<Vec<ClassIndex>>,
    losses: Option<Vec<f32>>,
    embeddings: Option<Vec<f32>>,
    labeled_hashes: Vec<ContentHash>,
    labeled_embeddings: Option<Vec<f32>>,
    dimension_count: usize,
}

impl CandidateTable {
    /// Brings items and tables together; an item that a needed table lacks, since it came after, waits for the next round.
    fn join(
        request: &SelectRequest,
        mut items: Vec<PoolItem>,
        mut labeled: Vec<PoolItem>,
        embeddings: Option<EmbeddingTable>,
        scores: Option<ScoreTable>,
    ) -> Self {
        let embedded = index_by_hash(
            embeddings
                .iter()
                .flat_map(|table| table.hashes.iter().copied()),
        );
        let scored = index_by_hash(
            scores
                .iter()
                .flat_map(|table| table.rows.iter().map(|row| row.hash)),
        );
        items.retain(|item| {
            (embeddings.is_none() || embedded.contains_key(&item.hash))
                && (request.model_version.is_none() || scored.contains_key(&item.hash))
        });
        let candidates: HashSet<ContentHash> = items.iter().map(|item| item.hash).collect();
        labeled
            .retain(|item| embedded.contains_key(&item.hash) && !candidates.contains(&item.hash));
        let rows = |items: &[PoolItem]| -> Vec<usize> {
            items
                .iter()
                .filter_map(|item| embedded.get(&item.hash).copied())
                .collect()
        };
        let features = |items: &[PoolItem]| {
            let table = embeddings.as_ref()?;
            Some(
                rows(items)
                    .into_iter()
                    .flat_map(|row| table.embedding(row))
                    .copied()
                    .collect::<Vec<f32>>(),
            )
        };
        let score_rows = scores.as_ref().map(|table| {
            let row = |item: &PoolItem| scored.get(&item.hash).map(|row| table.rows[*row]);
            items.iter().filter_map(row).collect::<Vec<ScoreRow>>()
        });
        let measure = measure_of(&request.strategy);
        let column = |of: &dyn Fn(&ScoreRow) -> f32| {
            score_rows
                .as_ref()
                .map(|rows| rows.iter().map(of).collect())
        };
        Self {
            uncertainty: column(&|row| row.uncertainty.by(measure)),
            predicted: score_rows
                .as_ref()
                .map(|rows| rows.iter().map(ScoreRow::predicted).collect()),
            losses: embeddings
                .as_ref()
                .and_then(|table| table.losses.as_ref())
                .map(|losses| rows(&items).into_iter().map(|row| losses[row]).collect()),
            embeddings: features(&items),
            labeled_embeddings: features(&labeled),
            labeled_hashes: labeled.iter().map(|item| item.hash).collect(),
            dimension_count: embeddings.as_ref().map_or(1, |table| table.feature_count),
            hashes: items.iter().map(|item| item.hash).collect(),
            scores: score_rows,
            items,
        }
    }

    fn choose(mut self, request: &SelectRequest, seed: u64) -> Result<Selection, AcquisitionError> {
        let round = request.round.unsigned_abs();
        let random = self.pick(&Strategy::Random {}, request.random_count, seed, round)?;
        let (query_count, spare_count) = (request.query_count, request.spare_count);
        let mut ranking;
        // Clusters depend on how many are wanted, so the spare ones must not be among those that make the batch.
        if matches!(request.strategy, Strategy::Typical {}) {
            ranking = self.pick(&request.strategy, query_count, seed, round)?;
            ranking.extend(self.pick(&request.strategy, spare_count, seed, round)?);
        } else {
            ranking = self.pick(
                &request.strategy,
                query_count.saturating_add(spare_count),
                seed,
                round,
            )?;
        }
        Ok(Selection { random, ranking })
    }

    /// Picks by a strategy and takes what it picked out of the candidates.
    fn pick(
        &mut self,
        strategy: &Strategy,
        count: u32,
        seed: u64,
        round: u32,
    ) -> Result<Vec<ChosenItem>, AcquisitionError> {
        let picks = acquisition::select(strategy, &self.candidates(), count as usize, seed, round)?;
        let chosen = picks.iter().map(|pick| self.describe(pick)).collect();
        self.remove(&picks.iter().map(|pick| pick.index).collect());
        Ok(chosen)
    }

    fn candidates(&self) -> Candidates<'_> {
        let embeddings = |values| Embeddings {
            values,
            dimension_count: self.dimension_count,
        };
        Candidates {
            hashes: &self.hashes,
            uncertainty: self.uncertainty.as_deref(),
            pretext_loss: self.losses.as_deref(),
            predicted: self.predicted.as_deref(),
            embeddings: self.embeddings.as_deref().map(embeddings),
            labeled_hashes: &self.labeled_hashes,
            labeled_embeddings: self.labeled_embeddings.as_deref().map(embeddings),
        }
    }

    fn describe(&self, pick: &Pick) -> ChosenItem {
        let suggest = |row: &ScoreRow| {
            let likely = row.top.iter().filter(|(_, probability)| *probability > 0.0);
            likely
                .map(|(class, probability)| Suggestion {
                    class: *class,
                    probability: *probability,
                })
                .collect()
        };
        ChosenItem {
            item: self.items[pick.index].id,
            score: pick.score,
            uncertainty: pick.uncertainty,
            pretext_loss: pick.pretext_loss,
            suggestions: self
                .scores
                .as_ref()
                .map(|rows| suggest(&rows[pick.index]))
                .unwrap_or_default(),
        }
    }

    fn remove(&mut self, gone: &HashSet<usize>) {
        fn keep<T>(column: &mut Vec<T>, gone: &HashSet<usize>, width: usize) {
            let mut place = 0;
            column.retain(|_| {
                place += 1;
                !gone.contains(&((place - 1) / width))
            });
        }
        let width = self.dimension_count;
        keep(&mut self.items, gone, 1);
        keep(&mut self.hashes, gone, 1);
        self.scores
            .iter_mut()
            .for_each(|column| keep(column, gone, 1));
        self.uncertainty
            .iter_mut()
            .for_each(|column| keep(column, gone, 1));
        self.predicted
            .iter_mut()
            .for_each(|column| keep(column, gone, 1));
        self.losses
            .iter_mut()
            .for_each(|column| keep(column, gone, 1));
        self.embeddings
            .iter_mut()
            .for_each(|column| keep(column, gone, width));
    }
}

fn measure_of(strategy: &Strategy) -> UncertaintyMeasure {
    match strategy {
        Strategy::DeepActive { uncertainty, .. } => *uncertainty,
        Strategy::Uncertainty { measure } => *measure,
        Strategy::Pretext {} | Strategy::Random {} | Strategy::Typical {} => {
            UncertaintyMeasure::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{ItemId, SegmentId};
    use crate::learner::EmbeddingTable;

    fn item(place: u8, class: Option<ClassIndex>) -> PoolItem {
        let hash = ContentHash::of_file(&[place]);
        PoolItem {
            id: ItemId::generate(),
            hash,
            segment: SegmentId::generate(),
            segment_row: 0,
            class,
        }
    }

    fn request(strategy: Strategy, model_version: Option<i32>) -> SelectRequest {
        SelectRequest {
            round: 2,
            strategy,
            model_version,
            random_count: 3,
            query_count: 5,
            spare_count: 4,
            embeddings: Vec::new(),
            scores: Vec::new(),
        }
    }

    fn tables(items: &[PoolItem]) -> (EmbeddingTable, ScoreTable) {
        let mut embeddings = EmbeddingTable::new("a".repeat(64), 2, true);
        let mut scores = ScoreTable {
            run: "b".repeat(64),
            rows: Vec::new(),
        };
        for (place, item) in (0u8..).zip(items) {
            embeddings.push(
                item.hash,
                f32::from(place),
                &[f32::from(place % 4), f32::from(place % 3) + 0.5],
            );
            let certain = 0.5 + f32::from(place) / 100.0;
            scores
                .rows
                .push(ScoreRow::of(item.hash, &[certain, 1.0 - certain]));
        }
        (embeddings, scores)
    }

    fn choose(items: &[PoolItem], request: &SelectRequest) -> Selection {
        let (embeddings, scores) = tables(items);
        let scores = request.model_version.map(|_| scores);
        CandidateTable::join(
            request,
            items.to_vec(),
            Vec::new(),
            Some(embeddings),
            scores,
        )
        .choose(request, 7)
        .unwrap()
    }

    #[test]
    fn random_items_are_drawn_first_and_no_item_is_chosen_twice() {
        let items: Vec<_> = (0..30).map(|place| item(place, None)).collect();
        for strategy in [
            Strategy::default(),
            Strategy::Random {},
            Strategy::Typical {},
            Strategy::Pretext {},
        ] {
            let selection = choose(&items, &request(strategy, Some(1)));
            assert_eq!(
                (selection.random.len(), selection.ranking.len()),
                (3, 9),
                "{strategy:?}"
            );
            let chosen: HashSet<_> = selection
                .random
                .iter()
                .chain(&selection.ranking)
                .map(|item| item.item)
                .collect();
            assert_eq!(chosen.len(), 12, "{strategy:?}");
            let same_random: Vec<_> =
                choose(&items, &request(Strategy::Pretext {}, Some(1))).random;
            let ids =
                |chosen: &[ChosenItem]| chosen.iter().map(|item| item.item).collect::<Vec<_>>();
            assert_eq!(ids(&selection.random), ids(&same_random), "{strategy:?}");
        }
    }

    #[test]
    fn the_ranking_is_the_strategys_and_carries_its_values_and_guesses() {
        let items: Vec<_> = (0..30).map(|place| item(place, None)).collect();
        let strategy = Strategy::Uncertainty {
            measure: UncertaintyMeasure::Margin,
        };
        let selection = choose(
            &items,
            &SelectRequest {
                random_count: 0,
                ..request(strategy, Some(1))
            },
        );
        let expected: Vec<_> = items[..9].iter().map(|item| item.id).collect();
        assert_eq!(
            selection
                .ranking
                .iter()
                .map(|item| item.item)
                .collect::<Vec<_>>(),
            expected
        );
        let first = &selection.ranking[0];
        assert_eq!(
            (first.pretext_loss, first.suggestions.len()),
            (Some(0.0), 2)
        );
        assert_eq!(first.suggestions[0].class, ClassIndex(0));
    }

    #[test]
    fn an_item_without_a_score_or_an_embedding_waits_for_the_next_round() {
        let mut items: Vec<_> = (0..10).map(|place| item(place, None)).collect();
        let (embeddings, mut scores) = tables(&items);
        scores.rows.pop();
        let unscored = items[9].id;
        items.push(item(77, None));
        let request = SelectRequest {
            random_count: 0,
            spare_count: 50,
            ..request(Strategy::default(), Some(1))
        };
        let table =
            CandidateTable::join(&request, items, Vec::new(), Some(embeddings), Some(scores));
        let selection = table.choose(&request, 7).unwrap();
        assert_eq!(selection.ranking.len(), 9);
        assert!(selection.ranking.iter().all(|item| item.item != unscored));
    }
}
