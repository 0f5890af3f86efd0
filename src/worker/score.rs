//! The body of a score job: `u`, the guesses and what else the strategy reads of a model, for a shard of what is unlabelled (Algorithm 1, line
//! 5); of the labelled too where the strategy measures distances to them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::blob::score_key;
use crate::domain::content_hash::ContentHash;
use crate::domain::job::{JobKind, JobState};
use crate::domain::settings::FineTuneMode;
use crate::engine::{Outcome, Work};
use crate::learner::EmbeddingTable;
use crate::rounds::request::{ShardOutcome, ShardRequest, from_json, to_json};
use crate::store::job::JobRow;
use crate::store::pool::PoolItem;
use crate::store::project::ProjectRow;
use crate::store::{job, model, pool};

use super::attempt::Attempt;
use super::embed::load_pretext;
use super::finish::Finished;
use super::{BodyError, Workshop};

pub(super) async fn run(
    workshop: &Workshop,
    project: &ProjectRow,
    row: &JobRow,
    attempt: &Attempt,
) -> Result<Finished, BodyError> {
    let request: ShardRequest = from_json("request", &row.request)?;
    let version = request.model_version.ok_or_else(|| BodyError::failed("a score job names no model"))?;
    let (extents, items, found) = {
        let mut connection = workshop.store.acquire().await?;
        let extents = pool::list_segments(&mut connection, project.id).await?;
        let (first, last) = (request.first_segment, request.last_segment);
        let items = if request.scope.labeled {
            pool::list_items(&mut connection, project.id, first, last).await?
        } else {
            pool::list_unlabeled(&mut connection, project.id, request.round, first, last).await?
        };
        (extents, items, model::find(&mut connection, project.id, version).await?)
    };
    let found =
        found.ok_or_else(|| BodyError::Failed(format!("the project has no model version {version}")))?;
    if items.is_empty() {
        return Ok(Finished::Outcome(to_json(&ShardOutcome { key: None, item_count: 0 })));
    }
    let checkpoint = workshop.materials.load_checkpoint(&found.checkpoint).await?;
    let scope = request.scope;
    let work = if trains_head_alone(&checkpoint.manifest.fine_tune) {
        let table = find_embeddings(workshop, project, &items).await?;
        Work::ScoreEmbeddings { model: checkpoint, table: Arc::new(table), scope }
    } else {
        let pool = workshop.materials.open_pool(project.id, project.settings.image, &extents, &items).await?;
        let pretext = if scope.losses { Some(load_pretext(workshop, project).await?.1) } else { None };
        Work::Score { model: checkpoint, pretext, pool: Arc::new(pool), scope }
    };
    let Outcome::Scores(table) = workshop.engine()?.run(project.id, work, attempt.hook()).await? else {
        return Err(BodyError::failed("the engine answered a scoring with something else"));
    };
    let key = score_key(project.id, version, row.id);
    workshop.blob.put(&key, table.to_bytes()).await?;
    Ok(Finished::Outcome(to_json(&ShardOutcome { key: Some(key), item_count: table.rows.len() as u64 })))
}

/// Whether a model's backbone is the pretext model's, so that cached embeddings stand for its images.
fn trains_head_alone(settings: &Option<crate::domain::settings::FineTuneSettings>) -> bool {
    settings.as_ref().is_some_and(|settings| settings.mode == FineTuneMode::Head)
}

/// The cached embeddings of `items`, in their order; items that no embed job has covered yet are left out.
pub(super) async fn find_embeddings(
    workshop: &Workshop,
    project: &ProjectRow,
    items: &[PoolItem],
) -> Result<EmbeddingTable, BodyError> {
    let keys = {
        let mut connection = workshop.store.acquire().await?;
        embedding_keys(&job::list_by_kind(&mut connection, project.id, JobKind::Embed).await?)?
    };
    let wanted: HashSet<ContentHash> = items.iter().map(|item| item.hash).collect();
    let mut places: HashMap<ContentHash, (usize, usize)> = HashMap::with_capacity(wanted.len());
    let mut tables = Vec::new();
    for key in &keys {
        let table = workshop.materials.load_table(key).await?;
        let number = tables.len();
        let rows = table.hashes.iter().enumerate().filter(|(_, hash)| wanted.contains(*hash));
        places.extend(rows.map(|(row, hash)| (*hash, (number, row))));
        tables.push(table);
    }
    let first = tables.first().ok_or_else(|| BodyError::failed("the pool has no embeddings yet"))?;
    let mut found = EmbeddingTable::new(first.run.clone(), first.feature_count);
    for item in items {
        if let Some((number, row)) = places.get(&item.hash) {
            let table = &tables[*number];
            found.push(item.hash, table.embedding(*row));
        }
    }
    Ok(found)
}

/// Keys of the tables that done embed jobs left, in the order of the jobs.
fn embedding_keys(jobs: &[JobRow]) -> Result<Vec<String>, BodyError> {
    let mut keys = Vec::new();
    for row in jobs.iter().filter(|row| row.state == JobState::Done) {
        if let Some(outcome) = &row.outcome {
            keys.extend(from_json::<ShardOutcome>("outcome", outcome)?.key);
        }
    }
    Ok(keys)
}
