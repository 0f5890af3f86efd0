//! The body of a select job: chooses the next batch from the tables of embeddings and scores (Algorithm 1, line 6).
//!
//! Candidates are what the database says may be asked, as far as the tables cover it. The random share is drawn first, from a stream of its own,
//! and the rule ranks what is left; so the honest curve's sample doesn't depend on the rule.

use std::collections::{HashMap, HashSet};

use crate::acquisition::{Candidates, Pick, Rows, depends_on_count, reads_embeddings, select};
use crate::blob::overview_key;
use crate::domain::content_hash::ContentHash;
use crate::domain::project::ClassIndex;
use crate::domain::strategy::Strategy;
use crate::learner::{Column, EmbeddingTable, PretextLossTable, ScoreRow, ScoreTable};
use crate::rounds::request::{ChosenItem, SelectRequest, Selection, from_json, to_json};
use crate::store::job::JobRow;
use crate::store::pool::{self, PoolItem};
use crate::store::project::ProjectRow;
use crate::store::task::Suggestion;

use super::finish::Finished;
use super::overview::survey;
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
    let chosen = tokio::task::spawn_blocking(move || -> Result<_, BodyError> {
        let hashes: Vec<_> = labeled.iter().map(|item| item.hash).collect();
        let tables = (embeddings.as_ref(), losses.as_ref(), scores.as_ref());
        let selection = choose(&request, seed, items.clone(), &hashes, tables.0, tables.1, tables.2)?;
        let overview = tables
            .0
            .map(|embeddings| survey(&request, &items, &labeled, embeddings, tables.1, tables.2, &selection));
        Ok((selection, overview))
    });
    let (selection, overview) = chosen.await.map_err(BodyError::failed)??;
    let mut outcome = to_json(&selection);
    if let Some(overview) = overview {
        let key = overview_key(project.id, row.id);
        workshop.blob.put(&key, to_json(&overview).to_string().into_bytes()).await?;
        outcome["overview"] = key.into();
    }
    Ok(Finished::Outcome(outcome))
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

/// The tables of a selection, and where each item stands in them.
struct Tables<'t> {
    embeddings: &'t EmbeddingTable,
    embedding_rows: HashMap<ContentHash, usize>,
    /// `v` under the frozen pretext model, if the rule reads it.
    losses: Option<HashMap<ContentHash, f32>>,
    /// Whether a model ranks, so that an item without a score can't be asked.
    is_scored: bool,
    scores: Option<&'t ScoreTable>,
    score_rows: HashMap<ContentHash, usize>,
}

impl<'t> Tables<'t> {
    fn new(
        embeddings: &'t EmbeddingTable,
        losses: Option<&PretextLossTable>,
        scores: Option<&'t ScoreTable>,
        is_scored: bool,
    ) -> Self {
        let scores = scores.filter(|_| is_scored);
        let embedding_rows = embeddings.hashes.iter().copied().zip(0..).collect();
        let score_rows = scores.iter().flat_map(|table| &table.rows).map(|row| row.hash).zip(0..).collect();
        let losses = losses.map(|table| table.rows.iter().copied().collect());
        Self { embeddings, embedding_rows, losses, is_scored, scores, score_rows }
    }

    /// Where an item stands; `None` while a table doesn't cover it.
    fn find(&self, hash: &ContentHash) -> Option<TableRows> {
        let embedding = *self.embedding_rows.get(hash)?;
        let loss = match &self.losses {
            None => None,
            Some(losses) => Some(*losses.get(hash)?),
        };
        let score = if self.is_scored { Some(*self.score_rows.get(hash)?) } else { None };
        Some(TableRows { embedding, loss, score })
    }
}

/// Rows of one item, and its `v`.
#[derive(Clone, Copy)]
struct TableRows {
    embedding: usize,
    loss: Option<f32>,
    score: Option<usize>,
}

/// An item that can be asked.
struct Candidate {
    item: PoolItem,
    rows: TableRows,
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
    let selector = Selector {
        request,
        seed,
        tables: Tables::new(embeddings, losses, scores, request.model_version.is_some()),
        labeled,
    };
    let cover = |item: PoolItem| selector.tables.find(&item.hash).map(|rows| Candidate { item, rows });
    let mut candidates: Vec<Candidate> = items.into_iter().filter_map(cover).collect();
    let random = selector.take(&Strategy::Random {}, &mut candidates, request.random_count)?;
    Ok(Selection { random, ranking: selector.rank(candidates)? })
}

struct Selector<'s> {
    request: &'s SelectRequest,
    seed: u64,
    tables: Tables<'s>,
    labeled: &'s [ContentHash],
}

impl Selector<'_> {
    /// The rule's choice with the spare items behind it.
    ///
    /// Where the choice depends on how many are wanted the spare ones are chosen separately: the batch is the same whatever is asked ahead.
    fn rank(&self, mut candidates: Vec<Candidate>) -> Result<Vec<ChosenItem>, BodyError> {
        let (strategy, query_count) = (&self.request.strategy, self.request.query_count);
        let spare_count = self.request.spare_count;
        if !depends_on_count(strategy) {
            return self.take(strategy, &mut candidates, query_count.saturating_add(spare_count));
        }
        let mut ranking = self.take(strategy, &mut candidates, query_count)?;
        ranking.extend(self.take(strategy, &mut candidates, spare_count)?);
        Ok(ranking)
    }

    /// Chooses up to `count` of the candidates, best first, and takes them out.
    fn take(
        &self,
        strategy: &Strategy,
        candidates: &mut Vec<Candidate>,
        count: u32,
    ) -> Result<Vec<ChosenItem>, BodyError> {
        if count == 0 || candidates.is_empty() {
            return Ok(Vec::new());
        }
        let picks = self.pick(strategy, candidates, count)?;
        let chosen = picks.iter().map(|pick| self.describe(&candidates[pick.index], pick)).collect();
        let taken: HashSet<usize> = picks.iter().map(|pick| pick.index).collect();
        let mut index = 0..;
        candidates.retain(|_| index.next().is_some_and(|index| !taken.contains(&index)));
        Ok(chosen)
    }

    fn pick(
        &self,
        strategy: &Strategy,
        candidates: &[Candidate],
        count: u32,
    ) -> Result<Vec<Pick>, BodyError> {
        let columns = Columns::gather(self, strategy, candidates);
        select(strategy, &columns.view(), count as usize, self.seed, self.request.round.unsigned_abs())
            .map_err(BodyError::failed)
    }

    fn describe(&self, candidate: &Candidate, pick: &Pick) -> ChosenItem {
        let row = self.tables.scores.zip(candidate.rows.score).map(|(table, row)| &table.rows[row]);
        let suggestions = row.map(|row| {
            let named = row.top.iter().filter(|(_, probability)| *probability > 0.0);
            named
                .map(|(class, probability)| Suggestion { class: *class, probability: *probability })
                .collect()
        });
        ChosenItem {
            item: candidate.item.id,
            score: pick.score,
            uncertainty: pick.uncertainty,
            pretext_loss: pick.pretext_loss,
            suggestions: suggestions.unwrap_or_default(),
        }
    }
}

/// Numbers gathered row by row, `width` for each.
type Gathered = Option<(usize, Vec<f32>)>;

/// The columns that a strategy reads, lined up with its candidates.
struct Columns {
    hashes: Vec<ContentHash>,
    uncertainty: Option<Vec<f32>>,
    predicted: Option<Vec<ClassIndex>>,
    losses: Option<Vec<f32>>,
    probabilities: Gathered,
    features: Gathered,
    mutual_information: Gathered,
    embeddings: Gathered,
    labeled_hashes: Vec<ContentHash>,
    labeled_losses: Option<Vec<f32>>,
    labeled_features: Gathered,
    labeled_embeddings: Gathered,
    class_count: usize,
}

impl Columns {
    /// `u` and `v` are those of the project's rule whatever `strategy` acts, since they stand beside every query.
    fn gather(selector: &Selector<'_>, strategy: &Strategy, candidates: &[Candidate]) -> Self {
        let (tables, rule) = (&selector.tables, &selector.request.strategy);
        let scope = strategy.score_scope();
        let rows: Vec<TableRows> = candidates.iter().map(|candidate| candidate.rows).collect();
        let labeled: Vec<(ContentHash, TableRows)> = selector
            .labeled
            .iter()
            .filter_map(|hash| {
                let embedding = *tables.embedding_rows.get(hash)?;
                let loss = tables.losses.as_ref().and_then(|losses| losses.get(hash)).copied();
                let score = tables.score_rows.get(hash).copied();
                (score.is_some() || !scope.labeled).then_some((*hash, TableRows { embedding, loss, score }))
            })
            .collect();
        let (labeled_hashes, labeled): (Vec<_>, Vec<_>) = labeled.into_iter().unzip();
        let judged = tables.scores.map(|table| rows.iter().filter_map(|row| Some(&table.rows[row.score?])));
        let columns = tables.scores.map(|table| &table.columns);
        let frozen_losses = |rows: &[TableRows]| rows.iter().map(|row| row.loss).collect::<Option<Vec<_>>>();
        let embeddings = |rows: &[TableRows]| {
            let embeddings = rows.iter().map(|row| tables.embeddings.embedding(row.embedding));
            reads_embeddings(strategy).then(|| join(embeddings, tables.embeddings.feature_count))
        };
        let features = columns.and_then(|columns| columns.features.as_ref()).filter(|_| scope.features);
        let probabilities = columns.and_then(|columns| columns.probabilities.as_ref());
        let information = columns.and_then(|columns| columns.mutual_information.as_ref());
        Self {
            hashes: candidates.iter().map(|candidate| candidate.item.hash).collect(),
            uncertainty: judged
                .clone()
                .map(|rows| rows.map(|row| row.uncertainty.by(rule.measure())).collect()),
            predicted: judged.map(|rows| rows.map(ScoreRow::predicted).collect()),
            losses: match columns.and_then(|columns| columns.losses.as_ref()) {
                Some(column) if rule.score_scope().losses => Some(gather_rows(column, &rows).1),
                _ => frozen_losses(&rows),
            },
            probabilities: probabilities
                .filter(|_| scope.probabilities)
                .map(|column| gather_rows(column, &rows)),
            features: features.map(|column| gather_rows(column, &rows)),
            mutual_information: information
                .filter(|_| scope.dropout.is_some())
                .map(|column| gather_rows(column, &rows)),
            embeddings: embeddings(&rows),
            labeled_losses: frozen_losses(&labeled),
            labeled_features: features.filter(|_| scope.labeled).map(|column| gather_rows(column, &labeled)),
            labeled_embeddings: embeddings(&labeled),
            labeled_hashes,
            class_count: selector.request.class_count as usize,
        }
    }

    fn view(&self) -> Candidates<'_> {
        fn rows(gathered: &Gathered) -> Option<Rows<'_>> {
            gathered.as_ref().map(|(width, values)| Rows { values, width: *width })
        }
        Candidates {
            hashes: &self.hashes,
            uncertainty: self.uncertainty.as_deref(),
            pretext_loss: self.losses.as_deref(),
            predicted: self.predicted.as_deref(),
            probabilities: rows(&self.probabilities),
            features: rows(&self.features),
            mutual_information: self.mutual_information.as_ref().map(|(_, values)| values.as_slice()),
            embeddings: rows(&self.embeddings),
            labeled_hashes: &self.labeled_hashes,
            labeled_pretext_loss: self.labeled_losses.as_deref(),
            labeled_features: rows(&self.labeled_features),
            labeled_embeddings: rows(&self.labeled_embeddings),
            class_count: self.class_count,
        }
    }
}

/// The rows' numbers in a column of the score table; each row stands in it.
fn gather_rows(column: &Column, rows: &[TableRows]) -> (usize, Vec<f32>) {
    let rows: Vec<usize> = rows.iter().filter_map(|row| row.score).collect();
    join(rows.iter().map(|&row| column.row(row)), column.width)
}

fn join<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, width: usize) -> (usize, Vec<f32>) {
    // These are the largest things here: room for them is taken once.
    let mut values = Vec::with_capacity(rows.len() * width);
    rows.for_each(|row| values.extend_from_slice(row));
    (width, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{ItemId, SegmentId};
    use crate::domain::strategy::UncertaintyMeasure;
    use crate::learner::ScoreColumns;

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
            class_count: 2,
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
        let mut columns = ScoreColumns {
            probabilities: Some(Column::new(2)),
            features: Some(Column::new(3)),
            losses: Some(Column::new(1)),
            mutual_information: Some(Column::new(1)),
        };
        let mut rows = Vec::new();
        for (place, item) in (0u8..).zip(items) {
            embeddings.push(item.hash, &[f32::from(place % 4), f32::from(place % 3) + 0.5]);
            losses.rows.push((item.hash, f32::from(place)));
            let certain = 0.5 + f32::from(place) / 100.0;
            let probabilities = [certain, 1.0 - certain];
            rows.push(ScoreRow::of(item.hash, &probabilities));
            let number = f32::from(place);
            let further: [(_, &[f32]); 4] = [
                (&mut columns.probabilities, &probabilities),
                (&mut columns.features, &[number, 2.0, 1.0]),
                (&mut columns.losses, &[100.0 - number]),
                (&mut columns.mutual_information, &[number / 30.0]),
            ];
            for (column, values) in further {
                column.as_mut().unwrap().values.extend_from_slice(values);
            }
        }
        (embeddings, losses, ScoreTable { run: "b".repeat(64), rows, columns })
    }

    fn every_strategy() -> Vec<Strategy> {
        let kinds = [
            r#"{"kind":"deep_active"}"#,
            r#"{"kind":"deep_active","diversity":2}"#,
            r#"{"kind":"deep_active","pretext_model":"fine_tuned"}"#,
            r#"{"kind":"uncertainty"}"#,
            r#"{"kind":"pretext"}"#,
            r#"{"kind":"random"}"#,
            r#"{"kind":"typical"}"#,
            r#"{"kind":"typiclust"}"#,
            r#"{"kind":"probcover"}"#,
            r#"{"kind":"core_set"}"#,
            r#"{"kind":"badge"}"#,
            r#"{"kind":"bald"}"#,
            r#"{"kind":"pt4al"}"#,
            r#"{"kind":"coverage_shift"}"#,
        ];
        kinds.iter().map(|kind| serde_json::from_str(kind).unwrap()).collect()
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
        for strategy in every_strategy() {
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
        for strategy in every_strategy() {
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
    fn distances_are_measured_to_what_is_labeled_and_the_other_columns_reach_their_rules() {
        let all = items(30);
        let (embeddings, losses, scores) = tables(&all);
        let first = |strategy: &str, labeled: &[usize]| {
            let strategy = serde_json::from_str(strategy).unwrap();
            let request = SelectRequest { random_count: 0, ..request(strategy) };
            let hashes: Vec<_> = labeled.iter().map(|&item| all[item].hash).collect();
            let left: Vec<_> = all.iter().filter(|item| !hashes.contains(&item.hash)).cloned().collect();
            let selection =
                choose(&request, 7, left, &hashes, Some(&embeddings), Some(&losses), Some(&scores)).unwrap();
            let place = all.iter().position(|item| item.id == selection.ranking[0].item).unwrap();
            (place, selection.ranking[0].clone())
        };
        // Features (0, 2, 1) to (29, 2, 1): the farthest from a label at one end is the other end.
        assert_eq!(first(r#"{"kind":"core_set"}"#, &[0]).0, 29);
        assert_eq!(first(r#"{"kind":"core_set"}"#, &[29]).0, 0);
        assert_eq!(first(r#"{"kind":"bald"}"#, &[]).0, 29);
        // |p − onehot| shrinks as 0.5 − n/100 while |h| grows: (0.5 − n/100)²·(n² + 5) is largest at 25.
        assert_eq!(first(r#"{"kind":"badge"}"#, &[]).0, 25);
        let recomputed = first(r#"{"kind":"deep_active","lambda":1000,"pretext_model":"fine_tuned"}"#, &[]);
        assert_eq!((recomputed.0, recomputed.1.pretext_loss), (0, Some(100.0)));
        assert_eq!(first(r#"{"kind":"deep_active","lambda":1000}"#, &[]).0, 29);
    }

    #[test]
    fn a_model_without_scores_leaves_nothing_to_ask() {
        let items = items(10);
        let (embeddings, losses, _) = tables(&items);
        let request = request(Strategy::default());
        let selection = choose(&request, 7, items, &[], Some(&embeddings), Some(&losses), None).unwrap();
        assert_eq!(selection, Selection::default());
    }

    #[test]
    fn an_item_without_a_score_a_loss_or_an_embedding_waits_for_the_next_round() {
        let mut items = items(12);
        let (mut embeddings, mut losses, mut scores) = tables(&items);
        embeddings.hashes.truncate(11);
        embeddings.embeddings.truncate(22);
        losses.rows.truncate(10);
        scores.rows.truncate(9);
        scores.columns = ScoreColumns::default();
        let uncovered = [items[9].id, items[10].id, items[11].id];
        items.rotate_left(3);
        let request = SelectRequest { random_count: 0, spare_count: 50, ..request(Strategy::default()) };
        let selection =
            choose(&request, 7, items, &[], Some(&embeddings), Some(&losses), Some(&scores)).unwrap();
        assert_eq!(selection.ranking.len(), 9);
        assert!(selection.ranking.iter().all(|item| !uncovered.contains(&item.item)));
    }
}
