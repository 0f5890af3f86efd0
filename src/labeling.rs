//! Labeling: what a labeler may do to a task: lease it, answer it, skip it, take an answer back, correct it; answers on what wasn't asked; how
//! far labelers agree, and setting one's votes aside.
//!
//! Each function is the body of one transaction that the caller begins and commits. Lease and submit touch no row that two labelers
//! share and notify nobody (DESIGN.md, "The hot path"), so they never move a round: `rounds` does, once nothing is open. Undo and
//! correct hold the project's lock, under which alone rounds move. Locks are taken in one order: project, tasks, slots.

use crate::domain::ids::{LabelId, ProjectId, TaskId, TokenId};
use crate::domain::round::RoundState;
use crate::store::{PgConnection, StoreError, round};

mod amend;
pub(crate) mod budget;
mod external;
mod lease;
mod report;
mod set_aside;
mod skip;
mod submit;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod votes;
pub(crate) mod weigh;

pub use amend::{Amended, correct_label, undo_label};
pub use external::{ExternalLabel, ExternalOutcome, add_external_label};
pub use lease::{
    LEASE_COUNT_MAX, LeaseWish, LeasedTask, Leases, WORKING_LEASE_COUNT_MAX, lease_tasks, release_leases,
    renew_leases,
};
pub use report::{AgreementReport, ClassAgreement, LabelerAgreement, PairAgreement, report_agreement};
pub use set_aside::{SetAside, set_labeler_aside};
pub use skip::{SkippedTask, skip_task};
pub use submit::{Submission, Submit, SubmitResult, Submitted, submit_labels};
pub use weigh::WeighError;

/// Who wants to change a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The token that asks.
    pub token: TokenId,
    /// Whether it may touch the labels of others (operators and admins).
    pub touches_all: bool,
}

/// Why a skip, an undo or a correction was refused; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LabelingError {
    /// The project has no such task.
    #[error("the project has no task {0}")]
    UnknownTask(TaskId),
    /// There is no such label, or it belongs to another project.
    #[error("there is no label {0}")]
    UnknownLabel(LabelId),
    /// The project has no such class.
    #[error("the project has no class '{0}'; its names are listed in the project")]
    UnknownClass(String),
    /// The label is somebody else's.
    #[error("label {0} was given by somebody else; only an operator may change it")]
    SomebodyElses(LabelId),
    /// The round's labels train already.
    #[error(
        "round {round} has moved on, so label {label} can't be undone; correct it instead, it counts into the next training"
    )]
    RoundMoved {
        /// The label.
        label: LabelId,
        /// Its round.
        round: i32,
    },
    /// The label was undone before.
    #[error("label {0} was undone before")]
    Undone(LabelId),
    /// The label came too late and was never counted.
    #[error("label {0} came too late and isn't counted, so there is nothing to change")]
    Uncounted(LabelId),
    /// An operator set the label aside.
    #[error("label {0} was set aside by an operator and counts for nothing")]
    SetAside(LabelId),
    /// The project has no vote of this labeler, or none that stands.
    #[error("labeler {0} has no vote in this project that could be set aside")]
    NoVotes(TokenId),
    /// The task is settled, skipped or withdrawn.
    #[error("task {0} is closed")]
    TaskClosed(TaskId),
    /// Somebody else holds the task, or the caller has answered it.
    #[error("task {0} isn't the caller's: somebody else holds it, or it was answered already")]
    NotHeld(TaskId),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The round whose training takes in a label that is given now; it may have no row yet.
async fn next_training_round(connection: &mut PgConnection, project: ProjectId) -> Result<i32, StoreError> {
    Ok(match round::find_under_way(connection, project).await? {
        Some(row) if row.state == RoundState::Labeling => row.number,
        Some(row) => row.number + 1,
        None => round::last_number(connection, project).await?.unwrap_or(0) + 1,
    })
}
