//! The body of a select job: chooses the next batch from the tables of embeddings and scores (Algorithm 1, line 6).
//!
//! Candidates are what the database says may be asked, as far as the tables cover it. The random share is drawn first, from a stream of its own,
//! and the rule ranks what is left; so the honest curve's sample doesn't depend on the rule.

use std::collections::HashSet;

use crate::acquisition::{Pick, depends_on_count, select};
use crate::blob::overview_key;
use crate::domain::content_hash::ContentHash;
use crate::domain::strategy::Strategy;
use crate::learner::{
    CandidateColumns, EmbeddingTable, JoinedTables, PretextLossTable, ScoreTable, TableRows,
};
use crate::rounds::request::{ChosenItem, SelectRequest, Selection, from_json, to_json};
use crate::store::job::JobRow;
use crate::store::pool::{self, PoolItem};
use crate::store::project::ProjectRow;

use super::finish::Finished;
use super::overview::survey;
use super::{BodyError, Workshop, name_guesses};

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
        tables: JoinedTables::new(Some(embeddings), losses, scores, request.model_version.is_some()),
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
    tables: JoinedTables<'s>,
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
        let SelectRequest { strategy: rule, class_count, round, .. } = self.request;
        let rows = candidates.iter().map(|candidate| (candidate.item.hash, candidate.rows));
        let class_count = *class_count as usize;
        let columns = CandidateColumns::gather(&self.tables, rule, strategy, rows, self.labeled, class_count);
        select(strategy, &columns.view(), count as usize, self.seed, round.unsigned_abs())
            .map_err(BodyError::failed)
    }

    fn describe(&self, candidate: &Candidate, pick: &Pick) -> ChosenItem {
        let suggestions = self.tables.score_row(candidate.rows).map(name_guesses);
        ChosenItem {
            item: candidate.item.id,
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
    use crate::domain::strategy::UncertaintyMeasure;
    use crate::learner::{Column, ScoreColumns, ScoreRow};

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
