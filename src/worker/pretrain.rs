//! The body of a pretrain job: trains the pretext task over pool and labelled items, resumable from its last checkpoint.
//!
//! Algorithm 1, line 2. The checkpoint sink runs on the engine's thread and waits there for the object store.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::blob::{checkpoint_key, initial_weights_key, pretext_key};
use crate::engine::{Outcome, Work};
use crate::learner::{CheckpointSink, LabeledItem};
use crate::nn::checkpoint::Checkpoint;
use crate::rounds::request::{PretrainRequest, from_json, to_json};
use crate::store::job::JobRow;
use crate::store::project::ProjectRow;
use crate::store::{self, job, pool};

use super::attempt::{Attempt, CheckpointCell};
use super::finish::Finished;
use super::{BodyError, Workshop};

pub(super) async fn run(
    workshop: &Workshop,
    project: &ProjectRow,
    row: &JobRow,
    attempt: &Attempt,
) -> Result<Finished, BodyError> {
    let request: PretrainRequest = from_json("request", &row.request)?;
    let (extents, items) = {
        let mut connection = workshop.store.acquire().await?;
        let extents = pool::list_segments(&mut connection, project.id).await?;
        let items = pool::list_items(&mut connection, project.id, 0, request.last_segment).await?;
        (extents, items)
    };
    let pool = workshop.materials.open_pool(project.id, project.settings.image, &extents, &items).await?;
    let known = (0..).zip(&items);
    let labeled = known.filter_map(|(index, item)| Some(LabeledItem { index, class: item.class? })).collect();
    let work = Work::Pretrain {
        pool: Arc::new(pool),
        labeled,
        settings: Box::new(project.settings.clone()),
        initial_weights: load_initial_weights(workshop, project).await?,
        resume: load_resume(workshop, row).await?,
        sink: Box::new(MidwaySink::new(workshop, row, attempt)),
    };
    let model = expect_model(workshop.engine()?.run(project.id, work, attempt.hook()).await?)?;
    let key = pretext_key(project.id, row.id);
    store_model(workshop, &key, &model).await?;
    Ok(Finished::Pretext { checkpoint: key, manifest: to_json(&model.manifest) })
}

/// The weights that the operator gave the project to begin with; they can't change once it has started.
async fn load_initial_weights(
    workshop: &Workshop,
    project: &ProjectRow,
) -> Result<Option<Vec<u8>>, BodyError> {
    let mut connection = workshop.store.acquire().await?;
    let sha256 = store::project::find_initial_weights(&mut connection, project.id).await?;
    drop(connection);
    match sha256 {
        Some(sha256) => Ok(Some(workshop.blob.get(&initial_weights_key(project.id, &sha256)).await?)),
        None => Ok(None),
    }
}

/// The bytes of the job's last checkpoint, if an earlier attempt left one.
pub(super) async fn load_resume(workshop: &Workshop, row: &JobRow) -> Result<Option<Vec<u8>>, BodyError> {
    match &row.checkpoint {
        // One that is gone costs time, not the job.
        Some(key) if workshop.blob.exists(key).await? => Ok(Some(workshop.blob.get(key).await?)),
        _ => Ok(None),
    }
}

/// Writes a finished model under its key and keeps it at hand.
pub(super) async fn store_model(
    workshop: &Workshop,
    key: &str,
    model: &Arc<Checkpoint>,
) -> Result<(), BodyError> {
    let written = Arc::clone(model);
    let bytes = tokio::task::spawn_blocking(move || written.to_bytes()).await.map_err(BodyError::failed)?;
    workshop.blob.put(key, bytes.map_err(BodyError::failed)?).await?;
    workshop.materials.keep_checkpoint(key, model);
    Ok(())
}

pub(super) fn expect_model(outcome: Outcome) -> Result<Arc<Checkpoint>, BodyError> {
    match outcome {
        Outcome::Model(model) => Ok(Arc::from(model)),
        _ => Err(BodyError::failed("the engine answered a training with something else than a model")),
    }
}

/// Keeps the checkpoints of a training under way: bytes to the object store, their key to the job's row, the older ones away.
pub(super) struct MidwaySink {
    workshop: Workshop,
    row: JobRow,
    runtime: Handle,
    saved_count: u64,
    newest: CheckpointCell,
}

impl MidwaySink {
    pub(super) fn new(workshop: &Workshop, row: &JobRow, attempt: &Attempt) -> Self {
        Self {
            workshop: workshop.clone(),
            newest: attempt.checkpoint_cell(),
            row: row.clone(),
            runtime: Handle::current(),
            saved_count: 0,
        }
    }

    async fn keep(&mut self, bytes: Vec<u8>) -> Result<(), BodyError> {
        let key = checkpoint_key(self.row.project, self.row.id, self.row.attempt, self.saved_count);
        self.saved_count += 1;
        self.workshop.blob.put(&key, bytes).await?;
        let mut connection = self.workshop.store.acquire().await?;
        if !job::save_checkpoint(&mut connection, self.row.id, self.row.attempt, &key).await? {
            return Err(BodyError::Stopped);
        }
        if let Some(old) = self.newest.replace(key) {
            self.workshop.blob.delete(&old).await?;
        }
        Ok(())
    }
}

impl CheckpointSink for MidwaySink {
    fn save(&mut self, bytes: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let runtime = self.runtime.clone();
        match runtime.block_on(self.keep(bytes.to_vec())) {
            // A database that is away costs this checkpoint, not the training.
            Err(BodyError::Store(error)) if error.is_unavailable() => {
                tracing::warn!(job.id = %self.row.id, error = %error, "a checkpoint couldn't be noted, the training goes on");
                Ok(())
            }
            other => other.map_err(Into::into),
        }
    }
}
