//! A project as clients see it: its row, with everything that is counted or derived beside it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::ApiError;
use super::v1::labels::RoundProgress;
use crate::domain::budget::Budget;
use crate::domain::ids::ProjectId;
use crate::domain::job::JobKind;
use crate::domain::project::{ClassIndex, FinishReason, ProjectState};
use crate::domain::settings::ProjectSettings;
use crate::store::class::ClassRow;
use crate::store::job::JobRow;
use crate::store::project::ProjectRow;
use crate::store::{self, PgConnection};

/// Where a project stands, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShownState {
    /// No items yet.
    Empty,
    /// A first import runs.
    Importing,
    /// Has items, isn't started.
    Ready,
    /// Learns the pretext task.
    Pretraining,
    /// A batch is open for labels.
    Labeling,
    /// A model trains on the batch.
    Training,
    /// The pool is scored and the next batch chosen.
    Scoring,
    /// Budget or pool is used up, or the operator ended it.
    Finished,
    /// A job failed; `error` says why, `retry` goes on from where it was.
    Failed,
}

impl From<ProjectState> for ShownState {
    fn from(state: ProjectState) -> Self {
        match state {
            ProjectState::Empty => Self::Empty,
            ProjectState::Importing => Self::Importing,
            ProjectState::Ready => Self::Ready,
            ProjectState::Pretraining => Self::Pretraining,
            ProjectState::Labeling => Self::Labeling,
            ProjectState::Training => Self::Training,
            ProjectState::Scoring => Self::Scoring,
            ProjectState::Finished => Self::Finished,
        }
    }
}

/// A project.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProjectAnswer {
    /// Names it for good; the name may change.
    pub id: ProjectId,
    name: String,
    state: ShownState,
    /// Why a job failed; null unless `state` is `failed`.
    error: Option<String>,
    paused: bool,
    /// Whether the operator asked to end it after the running batch.
    finish_requested: bool,
    /// Why it ended or is about to end; null otherwise.
    finish_reason: Option<FinishReason>,
    /// How far the newest round is; null before the first.
    round: Option<RoundProgress>,
    /// The running job; null when none runs.
    progress: Option<JobProgress>,
    /// Items that may be asked or were.
    pool_count: i64,
    /// Items of the test split.
    test_count: i64,
    /// Pool items with a class, imported ones included.
    labeled_count: i64,
    /// Accepted votes times `cost_per_label`.
    spent: f64,
    /// Of the newest model; null before it or without a test split.
    test_accuracy: Option<f64>,
    /// The newest published model.
    model_version: Option<i32>,
    classes: Vec<ClassAnswer>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    /// Budget and all other settings.
    #[serde(flatten)]
    settings: ProjectSettings,
}

/// A class and how it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClassAnswer {
    /// The model's output that stands for it.
    index: ClassIndex,
    name: String,
    /// `#rrggbb`; null lets pages choose.
    colour: Option<String>,
    /// One character; null lets pages choose.
    hotkey: Option<String>,
}

impl From<ClassRow> for ClassAnswer {
    fn from(row: ClassRow) -> Self {
        Self { index: row.index, name: row.name, colour: row.colour, hotkey: row.hotkey }
    }
}

/// How far the running job is.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub struct JobProgress {
    job: JobKind,
    /// Units of work done.
    done: i64,
    /// Units in all; 0 while unknown.
    total: i64,
    /// Estimated seconds that remain; null before anything is done.
    eta_seconds: Option<f64>,
}

impl JobProgress {
    fn new(job: &JobRow, now: DateTime<Utc>) -> Self {
        let (done, total) = (job.done_count, job.total_count);
        let spent_seconds =
            job.started_at.map(|start| (now - start).as_seconds_f64()).filter(|seconds| *seconds > 0.0);
        let eta_seconds = match spent_seconds {
            Some(seconds) if done > 0 && total >= done => {
                Some((seconds * (total - done) as f64 / done as f64).round())
            }
            _ => None,
        };
        Self { job: job.kind, done, total, eta_seconds }
    }
}

/// Reads what belongs to a project's answer.
pub async fn describe(connection: &mut PgConnection, row: ProjectRow) -> Result<ProjectAnswer, ApiError> {
    let counts = store::item::count(connection, row.id).await?;
    let classes = store::class::list(connection, row.id).await?;
    let standing = store::round::find_standing(connection, row.id).await?;
    let running = store::job::find_running(connection, row.id).await?;
    let failed = store::job::find_failed(connection, row.id).await?;
    let vote_count = u64::try_from(store::label::count_paid(connection, row.id).await?).unwrap_or_default();
    let model = match row.model_version {
        Some(version) => store::model::find(connection, row.id, version).await?,
        None => None,
    };
    let budget = Budget { total: row.settings.budget, cost_per_label: row.settings.cost_per_label };
    // A finished project has nothing left to retry.
    let failed = failed.filter(|_| row.state != ProjectState::Finished);
    Ok(ProjectAnswer {
        id: row.id,
        name: row.name,
        state: if failed.is_some() { ShownState::Failed } else { row.state.into() },
        error: failed.and_then(|job| job.error),
        paused: row.paused,
        finish_requested: row.finish_requested,
        finish_reason: row.finish_reason,
        round: standing.map(RoundProgress::from),
        progress: running.map(|job| JobProgress::new(&job, Utc::now())),
        pool_count: counts.pool_count,
        test_count: counts.test_count,
        labeled_count: counts.labeled_count,
        spent: budget.spent(vote_count),
        test_accuracy: model.and_then(|model| model.test_accuracy),
        model_version: row.model_version,
        classes: classes.into_iter().map(ClassAnswer::from).collect(),
        created_at: row.created_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
        settings: row.settings,
    })
}
