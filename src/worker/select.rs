//! The body of a select job: chooses the next batch from the tables of embeddings and scores (Algorithm 1, line 6).
//!
//! Candidates are what the database says may be asked, as far as the tables cover it. The random share is drawn first, from a stream of its own,
//! and the rule ranks what is left; so the honest curve's sample doesn't depend on the rule.

use std::collections::{HashMap, HashSet};

use crate::acquisition::{Candidates, Embeddings, Pick, select};
use crate::domain::content_hash::ContentHash;
use crate::domain::project::ClassIndex;
use crate::domain::strategy::{Strategy, UncertaintyMeasure};
use crate::learner::{EmbeddingTable, PretextLossTable, ScoreRow, ScoreTable};
use crate::rounds::request::{ChosenItem, SelectRequest, Selection, from_json, to_json};
use crate::store::job::JobRow;
use crate::store::pool::{self, PoolItem};
use crate::store::project::ProjectRow;
use crate::store::task::Suggestion;

use super::finish::Finished;
use super::{BodyError, Workshop};

pub(super) async fn run(
    workshop: &Workshop,
    project: &ProjectRow,
    row: &JobRow,
) -> Result<Finished, BodyError> {
    let request: SelectRequest = from_json("request", &row.request)?;
    let (items, labeled) = {
        let mut connection = workshop.store.acquire().await?;
        let items = pool::list_candidates(&mut connection, project.id, request.round).await?;
        (items, pool::list_labeled(&mut connection, project.id).await?)
    };
    let embeddings = workshop.materials.load_tables(&request.embeddings).await?;
    let losses = load_losses(workshop, &request.pretext_losses).await?;
    let scores = load_scores(workshop, &request.scores).await?;
    let seed = project.settings.seed;
    let selection = tokio::task::spawn_blocking(move || {
        let labeled: Vec<_> = labeled.into_iter().map(|item| item.hash).collect();
        choose(&request, seed, items, &labeled, embeddings.as_ref(), losses.as_ref(), scores.as_ref())
    });
    Ok(Finished::Outcome(to_json(&selection.await.map_err(BodyError::failed)??)))
}

async fn load_losses(workshop: &Workshop, keys: &[String]) -> Result<Option<PretextLossTable>, BodyError> {
    let mut joined: Option<PretextLossTable> = None;
    for key in keys {
        let bytes = workshop.blob.get(key).await?;
        let shard = PretextLossTable::from_bytes(&bytes)
            .map_err(|error| BodyError::Failed(format!("{key}: {error}")))?;
        match &mut joined {
            None => joined = Some(shard),
            Some(table) => table.append(&shard).map_err(BodyError::failed)?,
        }
    }
    Ok(joined)
}

async fn load_scores(workshop: &Workshop, keys: &[String]) -> Result<Option<ScoreTable>, BodyError> {
    let mut joined: Option<ScoreTable> = None;
    for key in keys {
        let bytes = workshop.blob.get(key).await?;
        let shard =
            ScoreTable::from_bytes(&bytes).map_err(|error| BodyError::Failed(format!("{key}: {error}")))?;
        match &mut joined {
            None => joined = Some(shard),
            Some(table) => table.append(&shard).map_err(BodyError::failed)?,
        }
    }
    Ok(joined)
}

/// The columns of the candidates, owned, in one order.
#[derive(Default)]
struct Columns {
    items: Vec<PoolItem>,
    hashes: Vec<ContentHash>,
    losses: Option<Vec<f32>>,
    embeddings: Vec<f32>,
    uncertainty: Vec<f32>,
    predicted: Vec<ClassIndex>,
    scores: Vec<Option<ScoreRow>>,
    feature_count: usize,
    has_scores: bool,
}

fn choose(
    request: &SelectRequest,
    seed: u64,
    items: Vec<PoolItem>,
    labeled: &[ContentHash],
    embeddings: Option<&EmbeddingTable>,
    losses: Option<&PretextLossTable>,
    scores: Option<&ScoreTable>,
) -> Result<Selection, BodyError> {
    let Some(embeddings) = embeddings else {
        return Ok(Selection::default());
    };
    let rows: HashMap<_, _> = embeddings.hashes.iter().enumerate().map(|(row, hash)| (*hash, row)).collect();
    let columns = gather(request, items, embeddings, &rows, losses, scores);
    let round = request.round.unsigned_abs();
    let random =
        pick(&Strategy::Random {}, &columns, &Labeled::default(), request.random_count, seed, round)?;
    let drawn: HashSet<usize> = random.iter().map(|pick| pick.index).collect();
    let rest = columns.without(&drawn);
    let labeled = Labeled::gather(labeled, embeddings, &rows);
    Ok(Selection {
        random: random.iter().map(|pick| columns.describe(pick)).collect(),
        ranking: rank(request, &rest, &labeled, seed)?,
    })
}

/// The rule's choice with the spare items behind it.
///
/// Clusters depend on how many are wanted, so `typical` chooses the spare ones separately: the batch is the same whatever is asked ahead.
fn rank(
    request: &SelectRequest,
    columns: &Columns,
    labeled: &Labeled,
    seed: u64,
) -> Result<Vec<ChosenItem>, BodyError> {
    let round = request.round.unsigned_abs();
    let (query_count, spare_count) = (request.query_count, request.spare_count);
    if !matches!(request.strategy, Strategy::Typical {}) {
        let count = query_count.saturating_add(spare_count);
        let picks = pick(&request.strategy, columns, labeled, count, seed, round)?;
        return Ok(picks.iter().map(|pick| columns.describe(pick)).collect());
    }
    let batch = pick(&request.strategy, columns, labeled, query_count, seed, round)?;
    let rest = columns.without(&batch.iter().map(|pick| pick.index).collect());
    let spare = pick(&request.strategy, &rest, labeled, spare_count, seed, round)?;
    let spare = spare.iter().map(|pick| rest.describe(pick));
    Ok(batch.iter().map(|pick| columns.describe(pick)).chain(spare).collect())
}

/// Embeddings of what is labelled already, for strategies that look where the pool is covered.
#[derive(Default)]
struct Labeled {
    hashes: Vec<ContentHash>,
    embeddings: Vec<f32>,
}

impl Labeled {
    fn gather(labeled: &[ContentHash], table: &EmbeddingTable, rows: &HashMap<ContentHash, usize>) -> Self {
        let mut gathered = Self::default();
        for hash in labeled {
            if let Some(row) = rows.get(hash) {
                gathered.hashes.push(*hash);
                gathered.embeddings.extend_from_slice(table.embedding(*row));
            }
        }
        gathered
    }
}

fn pick(
    strategy: &Strategy,
    columns: &Columns,
    labeled: &Labeled,
    count: u32,
    seed: u64,
    round: u32,
) -> Result<Vec<Pick>, BodyError> {
    let dimension_count = columns.feature_count;
    let candidates = Candidates {
        hashes: &columns.hashes,
        uncertainty: columns.has_scores.then_some(&columns.uncertainty),
        pretext_loss: columns.losses.as_deref(),
        predicted: columns.has_scores.then_some(&columns.predicted),
        embeddings: Some(Embeddings { values: &columns.embeddings, dimension_count }),
        labeled_hashes: &labeled.hashes,
        labeled_embeddings: Some(Embeddings { values: &labeled.embeddings, dimension_count }),
    };
    select(strategy, &candidates, count as usize, seed, round).map_err(BodyError::failed)
}

/// Lines the candidates up with their embeddings and, where there is a model, their scores; what a table doesn't cover yet is left out.
fn gather(
    request: &SelectRequest,
    items: Vec<PoolItem>,
    table: &EmbeddingTable,
    rows: &HashMap<ContentHash, usize>,
    losses: Option<&PretextLossTable>,
    scores: Option<&ScoreTable>,
) -> Columns {
    let measure = match request.strategy {
        Strategy::DeepActive { uncertainty, .. } => uncertainty,
        Strategy::Uncertainty { measure } => measure,
        Strategy::Pretext {} | Strategy::Random {} | Strategy::Typical {} => UncertaintyMeasure::default(),
    };
    let scored: HashMap<_, _> =
        scores.map(|table| table.rows.iter().map(|row| (row.hash, row)).collect()).unwrap_or_default();
    let has_scores = request.model_version.is_some();
    let measured: Option<HashMap<_, _>> = losses.map(|table| table.rows.iter().copied().collect());
    let losses = measured.as_ref().map(|_| Vec::new());
    let mut columns =
        Columns { feature_count: table.feature_count, has_scores, losses, ..Columns::default() };
    for item in items {
        let Some(row) = rows.get(&item.hash) else {
            continue;
        };
        let loss = measured.as_ref().map(|measured| measured.get(&item.hash).copied());
        if loss == Some(None) {
            continue;
        }
        let score = scored.get(&item.hash).copied().copied();
        if has_scores {
            let Some(score) = &score else { continue };
            columns.uncertainty.push(score.uncertainty.by(measure));
            columns.predicted.push(score.predicted());
        }
        columns.hashes.push(item.hash);
        if let (Some(column), Some(Some(loss))) = (&mut columns.losses, loss) {
            column.push(loss);
        }
        columns.embeddings.extend_from_slice(table.embedding(*row));
        columns.scores.push(score);
        columns.items.push(item);
    }
    columns
}

impl Columns {
    /// The same columns without some rows.
    fn without(&self, left_out: &HashSet<usize>) -> Self {
        let mut rest = Self {
            feature_count: self.feature_count,
            has_scores: self.has_scores,
            losses: self.losses.as_ref().map(|_| Vec::new()),
            ..Self::default()
        };
        for index in (0..self.items.len()).filter(|index| !left_out.contains(index)) {
            rest.items.push(self.items[index].clone());
            rest.hashes.push(self.hashes[index]);
            if let (Some(column), Some(losses)) = (&mut rest.losses, &self.losses) {
                column.push(losses[index]);
            }
            rest.embeddings
                .extend_from_slice(&self.embeddings[index * self.feature_count..][..self.feature_count]);
            rest.scores.push(self.scores[index]);
            if self.has_scores {
                rest.uncertainty.push(self.uncertainty[index]);
                rest.predicted.push(self.predicted[index]);
            }
        }
        rest
    }

    fn describe(&self, pick: &Pick) -> ChosenItem {
        let suggestions = self.scores[pick.index].map(|row| {
            let named = row.top.iter().filter(|(_, probability)| *probability > 0.0);
            named
                .map(|(class, probability)| Suggestion { class: *class, probability: *probability })
                .collect()
        });
        ChosenItem {
            item: self.items[pick.index].id,
            score: pick.score,
            uncertainty: pick.uncertainty,
            pretext_loss: pick.pretext_loss,
            suggestions: suggestions.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{ItemId, SegmentId};

    fn items(count: u8) -> Vec<PoolItem> {
        let item = |place: u8| PoolItem {
            id: ItemId::generate(),
            hash: ContentHash::of_file(&[place]),
            segment: SegmentId::generate(),
            segment_row: 0,
            class: None,
        };
        (0..count).map(item).collect()
    }

    fn request(strategy: Strategy) -> SelectRequest {
        SelectRequest {
            round: 2,
            strategy,
            model_version: Some(1),
            random_count: 3,
            query_count: 5,
            spare_count: 4,
            embeddings: Vec::new(),
            pretext_losses: Vec::new(),
            scores: Vec::new(),
        }
    }

    fn tables(items: &[PoolItem]) -> (EmbeddingTable, PretextLossTable, ScoreTable) {
        let mut embeddings = EmbeddingTable::new("a".repeat(64), 2);
        let mut losses = PretextLossTable { run: "a".repeat(64), rows: Vec::new() };
        let mut scores = ScoreTable { run: "b".repeat(64), rows: Vec::new() };
        for (place, item) in (0u8..).zip(items) {
            embeddings.push(item.hash, &[f32::from(place % 4), f32::from(place % 3) + 0.5]);
            losses.rows.push((item.hash, f32::from(place)));
            let certain = 0.5 + f32::from(place) / 100.0;
            scores.rows.push(ScoreRow::of(item.hash, &[certain, 1.0 - certain]));
        }
        (embeddings, losses, scores)
    }

    fn choose_of(items: &[PoolItem], request: &SelectRequest) -> Selection {
        let (embeddings, losses, scores) = tables(items);
        choose(request, 7, items.to_vec(), &[], Some(&embeddings), Some(&losses), Some(&scores)).unwrap()
    }

    fn ids(chosen: &[ChosenItem]) -> Vec<ItemId> {
        chosen.iter().map(|item| item.item).collect()
    }

    #[test]
    fn random_items_are_the_same_under_every_rule_and_no_item_is_chosen_twice() {
        let items = items(30);
        let sample = ids(&choose_of(&items, &request(Strategy::Pretext {})).random);
        for strategy in [Strategy::default(), Strategy::Random {}, Strategy::Typical {}, Strategy::Pretext {}]
        {
            let selection = choose_of(&items, &request(strategy));
            assert_eq!((selection.random.len(), selection.ranking.len()), (3, 9), "{strategy:?}");
            assert_eq!(ids(&selection.random), sample, "{strategy:?}");
            let all: HashSet<_> = ids(&selection.random).into_iter().chain(ids(&selection.ranking)).collect();
            assert_eq!(all.len(), 12, "{strategy:?}");
        }
    }

    #[test]
    fn a_batch_is_the_same_whatever_is_asked_ahead() {
        let items = items(30);
        for strategy in [Strategy::default(), Strategy::Random {}, Strategy::Typical {}] {
            let with_spare = choose_of(&items, &request(strategy));
            let without = choose_of(&items, &SelectRequest { spare_count: 0, ..request(strategy) });
            assert_eq!(ids(&with_spare.ranking)[..5], ids(&without.ranking), "{strategy:?}");
        }
    }

    #[test]
    fn the_ranking_carries_its_values_and_guesses() {
        let items = items(30);
        let strategy = Strategy::Uncertainty { measure: UncertaintyMeasure::Margin };
        let selection = choose_of(&items, &SelectRequest { random_count: 0, ..request(strategy) });
        assert_eq!(ids(&selection.ranking), items[..9].iter().map(|item| item.id).collect::<Vec<_>>());
        let first = &selection.ranking[0];
        assert_eq!((first.pretext_loss, first.suggestions.len()), (Some(0.0), 2));
    }

    #[test]
    fn an_item_without_a_score_a_loss_or_an_embedding_waits_for_the_next_round() {
        let mut items = items(12);
        let (mut embeddings, mut losses, mut scores) = tables(&items);
        embeddings.hashes.truncate(11);
        embeddings.embeddings.truncate(22);
        losses.rows.truncate(10);
        scores.rows.truncate(9);
        let uncovered = [items[9].id, items[10].id, items[11].id];
        items.rotate_left(3);
        let request = SelectRequest { random_count: 0, spare_count: 50, ..request(Strategy::default()) };
        let selection =
            choose(&request, 7, items, &[], Some(&embeddings), Some(&losses), Some(&scores)).unwrap();
        assert_eq!(selection.ranking.len(), 9);
        assert!(selection.ranking.iter().all(|item| !uncovered.contains(&item.item)));
    }
}
