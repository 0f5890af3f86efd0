//! The ends of a job: its result, its failure, or its return to the queue, each in one transaction that names the attempt.

use serde_json::{Value, json};

use crate::blob::upload_key;
use crate::domain::event::EventKind;
use crate::domain::ids::ImportId;
use crate::domain::import::ImportState;
use crate::domain::job::JobKind;
use crate::events;
use crate::rounds::request::{ImportRequest, TrainOutcome, from_json, to_json};
use crate::store::job::JobRow;
use crate::store::model::NewModel;
use crate::store::{PgConnection, StoreError, import, job, model};

use super::Workshop;
use super::attempt::Attempt;

/// What a job's body came to, to be made visible.
#[derive(Clone, Debug)]
pub(super) enum Finished {
    /// An outcome alone.
    Outcome(Value),
    /// A pretext model.
    Pretext {
        /// Blob key of the checkpoint.
        checkpoint: String,
        /// How it was trained.
        manifest: Value,
    },
    /// A downstream model.
    Model(Box<NewModel>),
    /// An import that was read to its end.
    Import {
        /// The import.
        id: ImportId,
        /// Whether its source is an upload, which nobody needs any more.
        uploaded: bool,
    },
}

/// Commits a result with the end of its job; false when the attempt lost the job, and then nothing was written.
pub(super) async fn commit(
    workshop: &Workshop,
    row: &JobRow,
    finished: &Finished,
) -> Result<bool, StoreError> {
    let mut tx = workshop.store.begin().await?;
    let outcome = match finished {
        Finished::Outcome(outcome) => outcome.clone(),
        Finished::Pretext { checkpoint, .. } => json!({ "checkpoint": checkpoint }),
        Finished::Model(model) => {
            to_json(&TrainOutcome { version: model.version, test_accuracy: model.test_accuracy })
        }
        Finished::Import { id, .. } => json!({ "import": id }),
    };
    if !job::finish(&mut tx, row.id, row.attempt, &outcome).await? {
        return Ok(false);
    }
    match finished {
        Finished::Outcome(_) => {}
        Finished::Pretext { checkpoint, manifest } => {
            model::publish_pretext(&mut tx, row.project, checkpoint, manifest, row.id).await?;
        }
        Finished::Model(new) => {
            model::publish(&mut tx, row.project, new).await?;
            let payload =
                json!({ "version": new.version, "round": new.round, "test_accuracy": new.test_accuracy });
            events::append(&mut tx, Some(row.project), EventKind::ModelPublished, &payload).await?;
        }
        Finished::Import { id, .. } => {
            import::finish(&mut tx, *id).await?;
            note_import(&mut tx, row, *id, ImportState::Done).await?;
        }
    }
    tx.commit().await?;
    workshop.events.nudge();
    Ok(true)
}

/// Removes what nobody needs once the result is visible: an upload, and the checkpoint in the middle of a training.
///
/// Only after the commit: before it another attempt may still need both.
pub(super) async fn tidy(workshop: &Workshop, attempt: &Attempt, finished: &Finished) {
    let upload = match finished {
        Finished::Import { id, uploaded: true } => Some(upload_key(*id)),
        _ => None,
    };
    for key in upload.into_iter().chain(attempt.last_checkpoint()) {
        if let Err(error) = workshop.blob.delete(&key).await {
            tracing::warn!(blob.key = key, error = %error, "an object that nobody needs stays");
        }
    }
}

/// Puts the job back into the queue, with its last checkpoint.
pub(super) async fn give_back(workshop: &Workshop, row: &JobRow) -> Result<(), StoreError> {
    let mut connection = workshop.store.acquire().await?;
    job::give_back(&mut connection, row.id, row.attempt).await?;
    Ok(())
}

/// Ends the job with an error that an operator reads.
pub(super) async fn fail(workshop: &Workshop, row: &JobRow, error: &str) -> Result<(), StoreError> {
    let mut tx = workshop.store.begin().await?;
    if !job::fail(&mut tx, row.id, row.attempt, error).await? {
        return Ok(());
    }
    if row.kind == JobKind::Import
        && let Ok(request) = from_json::<ImportRequest>("request", &row.request)
    {
        import::fail(&mut tx, request.import, error).await?;
        note_import(&mut tx, row, request.import, ImportState::Failed).await?;
    }
    let payload = json!({ "job": row.id, "kind": row.kind, "error": error });
    events::append(&mut tx, Some(row.project), EventKind::JobFailed, &payload).await?;
    tx.commit().await?;
    workshop.events.nudge();
    Ok(())
}

async fn note_import(
    connection: &mut PgConnection,
    row: &JobRow,
    id: ImportId,
    state: ImportState,
) -> Result<(), StoreError> {
    let counts = import::find(connection, id).await?;
    let payload = json!({
        "import": id, "state": state,
        "read_count": counts.as_ref().map(|import| import.read_count),
        "added_count": counts.as_ref().map(|import| import.added_count),
    });
    events::append(connection, Some(row.project), EventKind::ImportEnded, &payload).await
}
