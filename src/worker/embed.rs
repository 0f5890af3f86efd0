//! The body of an embed job: the embeddings of a shard of the pool, once for each pretext model.

use std::sync::Arc;

use crate::blob::embedding_key;
use crate::engine::{Outcome, Work};
use crate::learner::EmbeddingTable;
use crate::nn::checkpoint::Checkpoint;
use crate::rounds::request::{ShardOutcome, ShardRequest, from_json, to_json};
use crate::store::job::JobRow;
use crate::store::project::ProjectRow;
use crate::store::{model, pool};
use crate::vision::Pool;

use super::attempt::Attempt;
use super::finish::Finished;
use super::{BodyError, Workshop};

pub(super) async fn run(
    workshop: &Workshop,
    project: &ProjectRow,
    row: &JobRow,
    attempt: &Attempt,
) -> Result<Finished, BodyError> {
    let Some(pool) = open_shard(workshop, project, row).await? else {
        return Ok(Finished::Outcome(to_json(&ShardOutcome { key: None, item_count: 0 })));
    };
    let (_, pretext) = load_pretext(workshop, project).await?;
    let table = embed(workshop, project, pretext, pool, attempt).await?;
    let key = embedding_key(project.id, row.id);
    workshop.blob.put(&key, table.to_bytes()).await?;
    Ok(Finished::Outcome(to_json(&ShardOutcome { key: Some(key), item_count: table.len() as u64 })))
}

/// The items of the shard that a job asks for; `None` when there are none.
pub(super) async fn open_shard(
    workshop: &Workshop,
    project: &ProjectRow,
    row: &JobRow,
) -> Result<Option<Pool>, BodyError> {
    let request: ShardRequest = from_json("request", &row.request)?;
    let (extents, items) = {
        let mut connection = workshop.store.acquire().await?;
        let extents = pool::list_segments(&mut connection, project.id).await?;
        let (first, last) = (request.first_segment, request.last_segment);
        (extents, pool::list_items(&mut connection, project.id, first, last).await?)
    };
    if items.is_empty() {
        return Ok(None);
    }
    workshop.materials.open_pool(project.id, project.settings.image, &extents, &items).await.map(Some)
}

/// Embeds a pool on the engine.
pub(super) async fn embed(
    workshop: &Workshop,
    project: &ProjectRow,
    pretext: Arc<Checkpoint>,
    pool: Pool,
    attempt: &Attempt,
) -> Result<EmbeddingTable, BodyError> {
    let work = Work::Embed { model: pretext, pool: Arc::new(pool) };
    match workshop.engine()?.run(project.id, work, attempt.hook()).await? {
        Outcome::Embeddings(table) => Ok(table),
        _ => Err(BodyError::failed("the engine answered an embedding with something else")),
    }
}

/// The project's pretext model and its key.
pub(super) async fn load_pretext(
    workshop: &Workshop,
    project: &ProjectRow,
) -> Result<(String, Arc<Checkpoint>), BodyError> {
    let found = {
        let mut connection = workshop.store.acquire().await?;
        model::find_pretext(&mut connection, project.id).await?
    };
    let found = found.ok_or_else(|| BodyError::failed("the project has no pretext model yet"))?;
    let checkpoint = workshop.materials.load_checkpoint(&found.checkpoint).await?;
    Ok((found.checkpoint, checkpoint))
}
