//! What the end of a job writes beside the job's own row, in the same transaction.

use serde_json::{Value, json};

use crate::domain::event::EventKind;
use crate::domain::ids::{ImportId, JobId, ProjectId};
use crate::store::model::{self, NewModel};
use crate::store::{StoreError, Transaction, event, import};

/// The result of a job as others find it.
#[derive(Clone, Debug)]
pub(super) enum Publication {
    /// A table or a selection, which the job's outcome names.
    Outcome,
    /// The project's pretext model.
    Pretext {
        /// Blob key of the checkpoint.
        checkpoint: String,
        /// How it was trained.
        manifest: Value,
    },
    /// A version of the downstream model.
    Model(Box<NewModel>),
    /// An import that has read its source.
    Import(ImportId),
}

impl Publication {
    pub(super) async fn write(
        &self,
        transaction: &mut Transaction,
        project: ProjectId,
        job: JobId,
    ) -> Result<(), StoreError> {
        match self {
            Self::Outcome => Ok(()),
            Self::Pretext {
                checkpoint,
                manifest,
            } => model::publish_pretext(transaction, project, checkpoint, manifest, job).await,
            Self::Model(new) => {
                model::publish(transaction, project, new).await?;
                let payload = json!({ "version": new.version, "round": new.round, "test_accuracy": new.test_accuracy });
                event::append(
                    transaction,
                    Some(project),
                    EventKind::ModelPublished,
                    &payload,
                )
                .await
            }
            Self::Import(id) => {
                import::finish(transaction, *id).await?;
                note_import_end(transaction, *id).await
            }
        }
    }
}

/// Appends the event of an import that has ended, well or not.
pub(super) async fn note_import_end(
    transaction: &mut Transaction,
    id: ImportId,
) -> Result<(), StoreError> {
    let Some(row) = import::find(transaction, id).await? else {
        return Ok(());
    };
    let payload = json!({
        "import": id, "state": row.state, "read_count": row.read_count, "added_count": row.added_count,
    });
    event::append(
        transaction,
        Some(row.project),
        EventKind::ImportEnded,
        &payload,
    )
    .await
}
