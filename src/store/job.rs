//! Jobs: the queue of work for workers, with leases, heartbeats and attempt numbers.
//!
//! A worker holds a job by (id, attempt). Every write of a worker names both, so one whose lease ran out and was taken over can neither
//! report progress nor finish another's attempt. Jobs of paused or deleted projects aren't handed out.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::ids::{JobId, ProjectId};
use crate::domain::job::{JobKind, JobState};

/// A job as it stands.
#[derive(Clone, Debug)]
pub struct JobRow {
    /// Its id.
    pub id: JobId,
    /// The project it works for.
    pub project: ProjectId,
    /// Kind of work.
    pub kind: JobKind,
    /// What tells it from others of its kind in the project.
    pub subject: String,
    /// Where it stands.
    pub state: JobState,
    /// Frozen input.
    pub request: Value,
    /// Output, once done.
    pub outcome: Option<Value>,
    /// Blob key of the last checkpoint in the middle of the work.
    pub checkpoint: Option<String>,
    /// Times it was handed out.
    pub attempt: i32,
    /// Units of work done in this attempt.
    pub done_count: i64,
    /// Units of work in all; 0 while unknown.
    pub total_count: i64,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was queued.
    pub created_at: DateTime<Utc>,
    /// When its last attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was done, failed or cancelled.
    pub ended_at: Option<DateTime<Utc>>,
}

/// What a heartbeat learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// Go on.
    Held,
    /// The project was paused: stop at a checkpoint and give the job back.
    Paused,
    /// The job is no longer this attempt's: stop and write nothing.
    Lost,
}

/// A query for jobs: what stands before their columns and after them. A macro, since sqlx checks a query's text when it compiles, and
/// takes only literals.
macro_rules! query_job {
    ($before:literal, $after:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            JobRow,
            $before + r#" job.id as "id: JobId", project as "project: ProjectId", kind as "kind: JobKind", subject, state as "state: JobState",
             request, outcome, checkpoint, attempt, done_count, total_count, error, created_at, started_at, ended_at "# + $after
            $(, $argument)*
        )
    };
}

/// Queues a job unless the project has one of this kind and subject; `None` when it has.
pub async fn enqueue(
    connection: &mut PgConnection,
    project: ProjectId,
    kind: JobKind,
    subject: &str,
    request: &Value,
) -> Result<Option<JobId>, StoreError> {
    let id = sqlx::query_scalar!(
        r#"insert into job (id, project, kind, subject, request) values ($1, $2, $3, $4, $5)
           on conflict (project, kind, subject) do nothing returning id as "id: JobId""#,
        JobId::generate() as JobId,
        project as ProjectId,
        kind as JobKind,
        subject,
        request
    )
    .fetch_optional(connection)
    .await?;
    Ok(id)
}

/// The job of this id.
pub async fn find(connection: &mut PgConnection, id: JobId) -> Result<Option<JobRow>, StoreError> {
    let row = query_job!("select", "from job where id = $1", id as JobId).fetch_optional(connection).await?;
    Ok(row)
}

/// The project's job of this kind and subject.
pub async fn find_by_subject(
    connection: &mut PgConnection,
    project: ProjectId,
    kind: JobKind,
    subject: &str,
) -> Result<Option<JobRow>, StoreError> {
    let row = query_job!(
        "select",
        "from job where project = $1 and kind = $2 and subject = $3",
        project as ProjectId,
        kind as JobKind,
        subject
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// The state and the outcome of the project's job of this kind and subject, without its request, which may be large.
pub async fn find_outcome(
    connection: &mut PgConnection,
    project: ProjectId,
    kind: JobKind,
    subject: &str,
) -> Result<Option<(JobState, Option<Value>)>, StoreError> {
    let row = sqlx::query!(
        r#"select state as "state: JobState", outcome from job where project = $1 and kind = $2 and subject = $3"#,
        project as ProjectId,
        kind as JobKind,
        subject
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.state, row.outcome)))
}

/// The outcome of the newest job of this kind of a project that is done, with its subject.
pub async fn find_newest_outcome(
    connection: &mut PgConnection,
    project: ProjectId,
    kind: JobKind,
) -> Result<Option<(String, Value)>, StoreError> {
    let row = sqlx::query!(
        r#"select subject, outcome as "outcome!" from job
           where project = $1 and kind = $2 and state = 'done' and outcome is not null order by created_at desc, id desc limit 1"#,
        project as ProjectId,
        kind as JobKind
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.subject, row.outcome)))
}

/// All jobs of one kind of a project that weren't cancelled, oldest first.
pub async fn list_by_kind(
    connection: &mut PgConnection,
    project: ProjectId,
    kind: JobKind,
) -> Result<Vec<JobRow>, StoreError> {
    let rows = query_job!(
        "select",
        "from job where project = $1 and kind = $2 and state <> 'cancelled' order by created_at, id",
        project as ProjectId,
        kind as JobKind
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The job that makes the project `failed`: its newest failed one other than imports, which report for themselves.
pub async fn find_failed(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Option<JobRow>, StoreError> {
    let row = query_job!(
        "select",
        "from job where project = $1 and state = 'failed' and kind <> 'import' order by ended_at desc limit 1",
        project as ProjectId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// The job whose progress stands for the project: the one that runs, the newest if several do.
pub async fn find_running(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Option<JobRow>, StoreError> {
    let row = query_job!(
        "select",
        "from job where project = $1 and state = 'running' order by started_at desc limit 1",
        project as ProjectId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// How many jobs wait, run or have failed, for the metrics: `(kind, state, count)`.
pub async fn count_by_state(
    connection: &mut PgConnection,
) -> Result<Vec<(JobKind, JobState, i64)>, StoreError> {
    let rows = sqlx::query!(
        r#"select kind as "kind: JobKind", state as "state: JobState", count(*) as "count!"
           from job where state in ('queued', 'running', 'failed') group by kind, state"#
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.kind, row.state, row.count)).collect())
}

/// Hands a job of one of these kinds to a worker: a queued one, or a running one whose lease ran out.
///
/// Fair across projects: the project with the fewest running jobs first, then the one that was served longest ago.
pub async fn claim(
    connection: &mut PgConnection,
    kinds: &[JobKind],
    worker: &str,
    lease: Duration,
) -> Result<Option<JobRow>, StoreError> {
    let row = query_job!(
        "with candidate as (
             select j.id from job j join project p on p.id = j.project
             where (j.state = 'queued' or (j.state = 'running' and j.expires_at < now()))
               and j.kind = any($1) and not p.paused and p.deleted_at is null
             order by
               (select count(*) from job r where r.project = j.project and r.state = 'running' and r.expires_at >= now()),
               (select max(s.started_at) from job s where s.project = j.project) nulls first,
               j.kind in ('pretext_loss', 'audit'), j.created_at, j.id
             limit 1
             for update of j skip locked
           )
           update job set state = 'running', attempt = attempt + 1, worker = $2, expires_at = now() + $3::float8 * interval '1 second',
             started_at = now(), ended_at = null, error = null, done_count = 0, total_count = 0
           from candidate where job.id = candidate.id
           returning",
        "",
        kinds as &[JobKind],
        worker,
        lease.as_secs_f64()
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Whether another project has a job of these kinds that a worker could take now.
pub async fn is_another_waiting(
    connection: &mut PgConnection,
    project: ProjectId,
    kinds: &[JobKind],
) -> Result<bool, StoreError> {
    let waiting = sqlx::query_scalar!(
        r#"select exists (select from job j join project p on p.id = j.project
             where j.state = 'queued' and j.kind = any($2) and j.project <> $1 and not p.paused and p.deleted_at is null) as "exists!""#,
        project as ProjectId,
        kinds as &[JobKind]
    )
    .fetch_one(connection)
    .await?;
    Ok(waiting)
}

/// Prolongs an attempt's lease and writes its progress.
pub async fn beat(
    connection: &mut PgConnection,
    id: JobId,
    attempt: i32,
    lease: Duration,
    done_count: i64,
    total_count: i64,
) -> Result<Heartbeat, StoreError> {
    let paused = sqlx::query_scalar!(
        r#"update job set expires_at = now() + $3::float8 * interval '1 second', done_count = $4, total_count = $5
           from project p
           where job.id = $1 and attempt = $2 and job.state = 'running' and p.id = job.project and p.deleted_at is null
           returning p.paused"#,
        id as JobId,
        attempt,
        lease.as_secs_f64(),
        done_count,
        total_count
    )
    .fetch_optional(connection)
    .await?;
    Ok(match paused {
        None => Heartbeat::Lost,
        Some(true) => Heartbeat::Paused,
        Some(false) => Heartbeat::Held,
    })
}

/// Remembers where an attempt's newest checkpoint lies; false when the attempt lost the job.
pub async fn save_checkpoint(
    connection: &mut PgConnection,
    id: JobId,
    attempt: i32,
    checkpoint: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update job set checkpoint = $3 where id = $1 and attempt = $2 and state = 'running'",
        id as JobId,
        attempt,
        checkpoint
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends an attempt with its result; false when the attempt lost the job, and then the caller must roll back what it wrote beside.
pub async fn finish(
    connection: &mut PgConnection,
    id: JobId,
    attempt: i32,
    outcome: &Value,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update job set state = 'done', outcome = $3, checkpoint = null, worker = null, expires_at = null, ended_at = now()
         where id = $1 and attempt = $2 and state = 'running'",
        id as JobId,
        attempt,
        outcome
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends an attempt with an error; false when the attempt lost the job.
pub async fn fail(
    connection: &mut PgConnection,
    id: JobId,
    attempt: i32,
    error: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update job set state = 'failed', error = $3, worker = null, expires_at = null, ended_at = now()
         where id = $1 and attempt = $2 and state = 'running'",
        id as JobId,
        attempt,
        error
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Puts a stopped attempt's job back into the queue with its checkpoint; false when the attempt lost the job.
pub async fn give_back(connection: &mut PgConnection, id: JobId, attempt: i32) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update job set state = 'queued', worker = null, expires_at = null
         where id = $1 and attempt = $2 and state = 'running'",
        id as JobId,
        attempt
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Queues the project's failed jobs again, with their checkpoints; returns their kinds and subjects.
pub async fn requeue_failed(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Vec<(JobKind, String)>, StoreError> {
    let rows = sqlx::query!(
        r#"update job set state = 'queued', error = null, ended_at = null where project = $1 and state = 'failed'
           returning kind as "kind: JobKind", subject"#,
        project as ProjectId
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.kind, row.subject)).collect())
}

/// Cancels what the project's learning still has queued, running or failed; imports and audits go on. A running attempt learns it at its heartbeat.
pub async fn cancel_learning(connection: &mut PgConnection, project: ProjectId) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update job set state = 'cancelled', worker = null, expires_at = null, ended_at = now()
         where project = $1 and state in ('queued', 'running', 'failed') and kind not in ('import', 'audit')",
        project as ProjectId
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Removes cancelled jobs and any selection for round `round`, so that a reopened project may queue them anew.
pub async fn clear_for_reopening(
    connection: &mut PgConnection,
    project: ProjectId,
    round_subject: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "delete from job where project = $1 and (state = 'cancelled' or (kind = 'select' and subject = $2))",
        project as ProjectId,
        round_subject
    )
    .execute(connection)
    .await?;
    Ok(())
}
