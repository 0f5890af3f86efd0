//! What an operator may do to a project's course: start, pause, resume, finish, retry.
//!
//! Each is the body of one transaction that the caller begins and commits; it takes the project's lock first and reads the project again
//! under it, so it never meets a supervisor half way. Wake the supervisor after the commit.

use serde_json::json;

use crate::domain::budget::Budget;
use crate::domain::event::EventKind;
use crate::domain::ids::{ImportId, ProjectId};
use crate::domain::job::JobKind;
use crate::domain::project::{FinishReason, ProjectEvent, ProjectState};
use crate::store::project::{self, ProjectRow};
use crate::store::{PgConnection, StoreError, event, job, label, pool, round};

/// Why a command was refused; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The project was deleted meanwhile.
    #[error("the project is gone")]
    Gone,
    /// There is nothing to ask about.
    #[error("the project has no items; import some first")]
    Empty,
    /// Its first import runs.
    #[error("an import still runs; start the project when it has ended")]
    StillImporting,
    /// It was started before.
    #[error("the project is already {}", .0.as_str())]
    AlreadyStarted(ProjectState),
    /// It wasn't started.
    #[error("the project isn't started")]
    NotStarted,
    /// It is finished.
    #[error("the project is finished; raise its budget and start it to go on")]
    Finished,
    /// The budget buys no further task.
    #[error("the budget of {budget} leaves {free} votes and a task needs {needed}; raise the budget")]
    BudgetSpent {
        /// The budget.
        budget: f64,
        /// Votes it still buys.
        free: u64,
        /// Votes that one task needs.
        needed: u32,
    },
    /// Every item is labelled or excluded.
    #[error("every item of the pool is labelled or excluded; import more")]
    PoolUsedUp,
    /// No job has failed.
    #[error("no job of the project has failed, so there is nothing to retry")]
    NothingFailed,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Starts a ready project, or reopens a finished one whose budget and pool allow another task.
pub async fn start(connection: &mut PgConnection, project: &ProjectRow) -> Result<(), ControlError> {
    let project = lock(connection, project.id).await?;
    match project.state {
        ProjectState::Empty => Err(ControlError::Empty),
        ProjectState::Importing => Err(ControlError::StillImporting),
        ProjectState::Ready => {
            let (labeled_class_count, _) = pool::count_classes(connection, project.id).await?;
            // Imported labels can be trained on without a budget; without them there would be nothing to do.
            if labeled_class_count == 0 {
                require_budget(connection, &project).await?;
            }
            move_project(connection, &project, ProjectEvent::Started).await
        }
        ProjectState::Finished => {
            require_budget(connection, &project).await?;
            let next = round::last_number(connection, project.id).await?.map_or(1, |last| last + 1);
            if !pool::any_askable(connection, project.id, next).await? {
                return Err(ControlError::PoolUsedUp);
            }
            round::clear_finish(connection, project.id).await?;
            job::clear_for_reopening(connection, project.id, &super::subject_of_round(next)).await?;
            move_project(connection, &project, ProjectEvent::Reopened).await
        }
        state => Err(ControlError::AlreadyStarted(state)),
    }
}

/// Pauses a project: leases are refused and jobs stop at their next checkpoint; held leases may still be answered.
pub async fn pause(connection: &mut PgConnection, project: &ProjectRow) -> Result<(), ControlError> {
    set_paused(connection, project.id, true, EventKind::ProjectPaused).await
}

/// Ends a pause; what stopped goes on from its checkpoint.
pub async fn resume(connection: &mut PgConnection, project: &ProjectRow) -> Result<(), ControlError> {
    set_paused(connection, project.id, false, EventKind::ProjectResumed).await
}

/// Asks a project to end: open tasks are withdrawn, what is answered is trained on, then it is finished.
pub async fn finish(connection: &mut PgConnection, project: &ProjectRow) -> Result<(), ControlError> {
    let project = lock(connection, project.id).await?;
    match project.state {
        ProjectState::Finished => Err(ControlError::Finished),
        state if !state.is_started() => Err(ControlError::NotStarted),
        _ => Ok(round::request_finish(connection, project.id, FinishReason::Operator).await?),
    }
}

/// Queues the project's failed jobs again; they go on from their checkpoints.
pub async fn retry(connection: &mut PgConnection, project: &ProjectRow) -> Result<(), ControlError> {
    let project = lock(connection, project.id).await?;
    let requeued = job::requeue_failed(connection, project.id).await?;
    if requeued.is_empty() {
        return Err(ControlError::NothingFailed);
    }
    let imports = requeued.iter().filter(|(kind, _)| *kind == JobKind::Import);
    let mut any_import = false;
    for (_, subject) in imports {
        any_import = true;
        round::requeue_import(connection, project.id, subject).await?;
    }
    if any_import && !project.state.is_started() {
        move_project(connection, &project, ProjectEvent::ImportStarted).await?;
    }
    Ok(())
}

/// Queues the job of an import whose row the caller has made; a project that isn't started becomes `importing`.
pub async fn queue_import(
    connection: &mut PgConnection,
    project: &ProjectRow,
    import: ImportId,
) -> Result<(), ControlError> {
    let project = lock(connection, project.id).await?;
    job::enqueue(connection, project.id, JobKind::Import, &import.to_string(), &json!({ "import": import }))
        .await?;
    move_project(connection, &project, ProjectEvent::ImportStarted).await
}

async fn lock(connection: &mut PgConnection, project: ProjectId) -> Result<ProjectRow, ControlError> {
    round::lock_project(connection, project).await?;
    project::find(connection, project).await?.ok_or(ControlError::Gone)
}

async fn require_budget(connection: &mut PgConnection, project: &ProjectRow) -> Result<(), ControlError> {
    let settings = &project.settings;
    let budget = Budget { total: settings.budget, cost_per_label: settings.cost_per_label };
    let paid_count = label::count_paid(connection, project.id).await?.unsigned_abs();
    let free = budget.free_votes(paid_count, 0);
    if free < u64::from(settings.votes_per_task) {
        return Err(ControlError::BudgetSpent {
            budget: settings.budget,
            free,
            needed: settings.votes_per_task,
        });
    }
    Ok(())
}

async fn set_paused(
    connection: &mut PgConnection,
    project: ProjectId,
    paused: bool,
    kind: EventKind,
) -> Result<(), ControlError> {
    let project = lock(connection, project).await?;
    if round::set_paused(connection, project.id, paused).await? {
        event::append(connection, Some(project.id), kind, &json!({})).await?;
    }
    Ok(())
}

async fn move_project(
    connection: &mut PgConnection,
    project: &ProjectRow,
    what: ProjectEvent,
) -> Result<(), ControlError> {
    super::moves::move_project(connection, project.id, project.state, what).await?;
    Ok(())
}
