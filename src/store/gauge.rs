//! Where everything stands at the moment, in numbers, for `/metrics`: one row a project and one a kind of job.
//!
//! Reads only, over indexes that hold what is counted; no row is locked. Its caller is `http`, at most every few seconds.

use sqlx::PgConnection;

use super::StoreError;
use crate::domain::job::JobKind;
use crate::domain::project::ProjectState;

/// One project.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectGauges {
    /// Its name.
    pub name: String,
    /// The stored state.
    pub state: ProjectState,
    /// Whether a failed job holds it up.
    pub is_failed: bool,
    /// Whether it is paused.
    pub paused: bool,
    /// Items that may be asked or were.
    pub pool_count: i64,
    /// Those with a class.
    pub labeled_count: i64,
    /// What may be spent in all.
    pub budget: f64,
    /// Accepted votes times their cost.
    pub spent: f64,
    /// Votes that wait for a labeler.
    pub open_count: i64,
    /// Votes in a labeler's hand.
    pub leased_count: i64,
    /// Share of the newest model's score shards that are done, 0 to 1; none before there are any.
    pub scored_fraction: Option<f64>,
    /// Newest published model.
    pub model_version: Option<i32>,
    /// Its accuracy on the test split, 0 to 1.
    pub test_accuracy: Option<f64>,
    /// Mean loss of its last pass over its labels, in nats.
    pub training_loss: Option<f64>,
}

/// One kind of job, over all projects.
#[derive(Clone, Debug, PartialEq)]
pub struct JobGauges {
    /// The kind.
    pub kind: JobKind,
    /// Those that wait for a worker.
    pub queued_count: i64,
    /// Those that a worker holds.
    pub running_count: i64,
    /// Those that failed and aren't retried yet.
    pub failed_count: i64,
    /// Age of the oldest that waits, in seconds; 0 when none does.
    pub wait_seconds: f64,
    /// Seconds since the longest running one began; 0 when none runs.
    pub age_seconds: f64,
    /// Units of work that running ones did per second since they began.
    pub rate: f64,
}

impl JobGauges {
    /// A kind of which no job waits, runs or failed.
    #[must_use]
    pub fn none(kind: JobKind) -> Self {
        Self {
            kind,
            queued_count: 0,
            running_count: 0,
            failed_count: 0,
            wait_seconds: 0.0,
            age_seconds: 0.0,
            rate: 0.0,
        }
    }
}

/// Every project that isn't deleted, by name.
pub async fn list_projects(connection: &mut PgConnection) -> Result<Vec<ProjectGauges>, StoreError> {
    let rows = sqlx::query_as!(
        ProjectGauges,
        r#"select p.name, p.state as "state: ProjectState", p.paused, p.model_version, m.test_accuracy,
             exists (select from job where project = p.id and state = 'failed') as "is_failed!",
             (select count(*) from item where project = p.id and split = 'pool' and excluded is null) as "pool_count!",
             (select count(*) from item
              where project = p.id and split = 'pool' and excluded is null and class is not null) as "labeled_count!",
             (p.settings ->> 'budget')::float8 as "budget!",
             (p.settings ->> 'cost_per_label')::float8
               * (select count(*) from label where project = p.id and counted and undone_at is null) as "spent!",
             s.open_count as "open_count!", s.leased_count as "leased_count!",
             (select count(*) filter (where state = 'done')::float8 / nullif(count(*), 0) from job
              where project = p.id and kind = 'score' and subject like 'model-' || p.model_version || '-%') as scored_fraction,
             (m.manifest -> 'training' -> 'epochs' -> -1 ->> 'loss')::float8 as training_loss
           from project p
             left join model m on m.project = p.id and m.version = p.model_version
             cross join lateral (
               select count(*) filter (where state = 'open') as open_count, count(*) filter (where state = 'leased') as leased_count
               from slot where project = p.id and state in ('open', 'leased')
             ) s
           where p.deleted_at is null
           order by p.name"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Every kind of job that waits, runs or failed.
pub async fn list_jobs(connection: &mut PgConnection) -> Result<Vec<JobGauges>, StoreError> {
    let rows = sqlx::query_as!(
        JobGauges,
        r#"select kind as "kind: JobKind",
             count(*) filter (where state = 'queued') as "queued_count!",
             count(*) filter (where state = 'running') as "running_count!",
             count(*) filter (where state = 'failed') as "failed_count!",
             coalesce(extract(epoch from now() - min(created_at) filter (where state = 'queued')), 0)::float8 as "wait_seconds!",
             coalesce(extract(epoch from now() - min(started_at) filter (where state = 'running')), 0)::float8 as "age_seconds!",
             coalesce(sum(done_count / greatest(extract(epoch from now() - started_at), 0.001)) filter (where state = 'running'), 0)::float8
               as "rate!"
           from job where state in ('queued', 'running', 'failed')
             and project in (select id from project where deleted_at is null)
           group by kind order by kind"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Seconds that the oldest event without a number has waited for it; 0 when all have theirs.
pub async fn find_unnumbered_age_seconds(connection: &mut PgConnection) -> Result<f64, StoreError> {
    let age = sqlx::query_scalar!(
        r#"select coalesce(extract(epoch from now() - min(created_at)), 0)::float8 as "age!" from event where number is null"#
    )
    .fetch_one(connection)
    .await?;
    Ok(age.max(0.0))
}
