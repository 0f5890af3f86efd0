//! Rounds: their rows and the compare-and-set that moves them.
//!
//! Written by `rounds` alone (after the start of a project it is the sole writer of round and project state), under the project's lock,
//! with the event in the same transaction. Nothing here decides when a round moves.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::StoreError;
use crate::domain::ids::{ProjectId, RoundId};
use crate::domain::project::{ClassIndex, FinishReason, ProjectState};
use crate::domain::round::RoundState;
use crate::domain::strategy::Strategy;

/// A round as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundRow {
    /// Its id.
    pub id: RoundId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// 1, 2, …; 0 when imported labels made the seed batch needless.
    pub number: i32,
    /// Where it stands.
    pub state: RoundState,
    /// The rule that chose its batch.
    pub strategy: Strategy,
    /// The model that chose its batch; none for the seed batch.
    pub asked_by: Option<i32>,
    /// The model that its labels trained.
    pub model_version: Option<i32>,
    /// Items of its batch when it was opened.
    pub task_count: i32,
    /// When it was opened.
    pub opened_at: DateTime<Utc>,
    /// When it was closed.
    pub closed_at: Option<DateTime<Utc>>,
}

/// A round with what became of it, as lists show it.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundSummary {
    /// The round.
    pub round: RoundRow,
    /// Tasks that it asks; gold and relabel among them, or one could tell them by what doesn't count.
    pub task_count: i64,
    /// Of these, settled or skipped ones.
    pub answered_count: i64,
    /// Accuracy on the test split of the model that its labels trained.
    pub test_accuracy: Option<f64>,
    /// Settled items of the batch by class; classes without any are left out.
    pub class_counts: Vec<(ClassIndex, i64)>,
    /// Items of the batch by the class that the model guessed when it asked them; items without a guess are left out.
    pub predicted_class_counts: Vec<(ClassIndex, i64)>,
}

/// How far the round under way (or the last one) is, in one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundStanding {
    /// Its number.
    pub number: i32,
    /// Where it stands.
    pub state: RoundState,
    /// Tasks that it asks; gold and relabel among them, or one could tell them by what doesn't count.
    pub task_count: i64,
    /// Of these, settled or skipped ones.
    pub answered_count: i64,
    /// Whether any slot that it waits for is open or leased; if none is, the batch is complete.
    pub has_unclosed: bool,
}

/// What of a round's standing is known without counting its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundHead {
    /// Its number.
    pub number: i32,
    /// Where it stands.
    pub state: RoundState,
    /// As `RoundStanding::has_unclosed`.
    pub has_unclosed: bool,
}

/// Waits for the project's lock and holds it until the transaction ends; whoever makes slots or moves a round holds it.
pub async fn lock_project(connection: &mut PgConnection, project: ProjectId) -> Result<(), StoreError> {
    sqlx::query!(
        r#"select pg_advisory_xact_lock(hashtextextended('gleaner.project ' || $1::uuid::text, 0)) as "locked: ()""#,
        project as ProjectId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes the project's lock if nobody holds it.
pub async fn try_lock_project(connection: &mut PgConnection, project: ProjectId) -> Result<bool, StoreError> {
    let held = sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock(hashtextextended('gleaner.project ' || $1::uuid::text, 0)) as "held!""#,
        project as ProjectId
    )
    .fetch_one(connection)
    .await?;
    Ok(held)
}

/// Moves the project from one state to another; false when it wasn't in `from`.
pub async fn move_project(
    connection: &mut PgConnection,
    project: ProjectId,
    from: ProjectState,
    to: ProjectState,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update project set state = $3,
           started_at = case when $3 = 'pretraining' then now() else started_at end,
           finished_at = case when $3 = 'finished' then now() end
         where id = $1 and state = $2",
        project as ProjectId,
        from as ProjectState,
        to as ProjectState
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Sets the flag that stops jobs and leases; false when it was so already.
pub async fn set_paused(
    connection: &mut PgConnection,
    project: ProjectId,
    paused: bool,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update project set paused = $2 where id = $1 and paused <> $2",
        project as ProjectId,
        paused
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Asks the project to end after the running batch, for a reason; the first reason stays.
pub async fn request_finish(
    connection: &mut PgConnection,
    project: ProjectId,
    reason: FinishReason,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update project set finish_requested = true, finish_reason = coalesce(finish_reason, $2) where id = $1",
        project as ProjectId,
        reason as FinishReason
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes why the project ends, unless a reason stands; returns the one that stands then.
pub async fn note_finish_reason(
    connection: &mut PgConnection,
    project: ProjectId,
    reason: FinishReason,
) -> Result<FinishReason, StoreError> {
    let reason = sqlx::query_scalar!(
        r#"update project set finish_reason = coalesce(finish_reason, $2) where id = $1
           returning finish_reason as "reason!: FinishReason""#,
        project as ProjectId,
        reason as FinishReason
    )
    .fetch_one(connection)
    .await?;
    Ok(reason)
}

/// Forgets that the project was to end, and why.
pub async fn clear_finish(connection: &mut PgConnection, project: ProjectId) -> Result<(), StoreError> {
    sqlx::query!(
        "update project set finish_requested = false, finish_reason = null where id = $1",
        project as ProjectId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes what a round's batch was chosen from: items that could be asked, and all items of the pool.
pub async fn note_pool(
    connection: &mut PgConnection,
    round: RoundId,
    askable_count: i64,
    pool_count: i64,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update round set askable_count = $2, pool_count = $3 where id = $1",
        round as RoundId,
        askable_count,
        pool_count
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Projects that the supervisor may have something to do for.
pub async fn list_supervised(connection: &mut PgConnection) -> Result<Vec<ProjectId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"select id as "id: ProjectId" from project
           where deleted_at is null and state in ('importing', 'pretraining', 'labeling', 'training', 'scoring') order by id"#
    )
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// Imports of the project that wait or run.
pub async fn count_unended_imports(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from import where project = $1 and state in ('queued', 'running')"#,
        project as ProjectId
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Queues an import again whose job, of this subject, failed.
pub async fn requeue_import(
    connection: &mut PgConnection,
    project: ProjectId,
    subject: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update import set state = 'queued', error = null, ended_at = null
         where project = $1 and id::text = $2 and state = 'failed'",
        project as ProjectId,
        subject
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Inserts a round that is under way.
#[expect(clippy::too_many_arguments, reason = "one argument a column")]
pub async fn open(
    connection: &mut PgConnection,
    id: RoundId,
    project: ProjectId,
    number: i32,
    state: RoundState,
    strategy: &Strategy,
    asked_by: Option<i32>,
    task_count: i32,
) -> Result<RoundRow, StoreError> {
    let row = sqlx::query_as!(
        RoundRow,
        r#"insert into round (id, project, number, state, strategy, asked_by, task_count) values ($1, $2, $3, $4, $5, $6, $7)
           returning id as "id: RoundId", project as "project: ProjectId", number, state as "state: RoundState",
             strategy as "strategy: Strategy", asked_by, model_version, task_count, opened_at, closed_at"#,
        id as RoundId,
        project as ProjectId,
        number,
        state as RoundState,
        strategy as &Strategy,
        asked_by,
        task_count
    )
    .fetch_one(connection)
    .await?;
    Ok(row)
}

/// The round that isn't closed; a project has at most one.
pub async fn find_under_way(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Option<RoundRow>, StoreError> {
    let row = sqlx::query_as!(
        RoundRow,
        r#"select id as "id: RoundId", project as "project: ProjectId", number, state as "state: RoundState",
             strategy as "strategy: Strategy", asked_by, model_version, task_count, opened_at, closed_at
           from round where project = $1 and state <> 'closed'"#,
        project as ProjectId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// The round of this number.
pub async fn find(
    connection: &mut PgConnection,
    project: ProjectId,
    number: i32,
) -> Result<Option<RoundRow>, StoreError> {
    let row = sqlx::query_as!(
        RoundRow,
        r#"select id as "id: RoundId", project as "project: ProjectId", number, state as "state: RoundState",
             strategy as "strategy: Strategy", asked_by, model_version, task_count, opened_at, closed_at
           from round where project = $1 and number = $2"#,
        project as ProjectId,
        number
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// The state of the round of this number, its row locked against moves until the transaction ends.
pub async fn lock(
    connection: &mut PgConnection,
    project: ProjectId,
    number: i32,
) -> Result<Option<RoundState>, StoreError> {
    let state = sqlx::query_scalar!(
        r#"select state as "state: RoundState" from round where project = $1 and number = $2 for update"#,
        project as ProjectId,
        number
    )
    .fetch_optional(connection)
    .await?;
    Ok(state)
}

/// The highest number of a round; `None` before the first.
pub async fn last_number(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Option<i32>, StoreError> {
    let number =
        sqlx::query_scalar!("select max(number) from round where project = $1", project as ProjectId)
            .fetch_one(connection)
            .await?;
    Ok(number)
}

/// Rounds after number `after`, lowest first, with what became of them.
pub async fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    after: i32,
    limit: i64,
) -> Result<Vec<RoundSummary>, StoreError> {
    let rows = sqlx::query!(
        r#"select r.id as "id: RoundId", r.number, r.state as "state: RoundState", r.strategy as "strategy: Strategy", r.asked_by,
             r.model_version, r.task_count, r.opened_at, r.closed_at, m.test_accuracy as "test_accuracy?",
             r.task_count + (select count(*) from task t where t.project = r.project and t.round_number = r.number
                and t.source in ('gold', 'relabel') and t.state <> 'withdrawn') as "asked_count!",
             (select count(*) from task t where t.project = r.project and t.round_number = r.number
                and t.source <> 'external' and t.state in ('settled', 'skipped')) as "answered_count!",
             (select coalesce(jsonb_agg(jsonb_build_array(c.class, c.count) order by c.class), '[]')
                from (select i.class, count(*) as count from task t join item i on i.id = t.item
                      where t.project = r.project and t.round_number = r.number and t.source in ('query', 'random', 'ahead')
                        and t.state = 'settled' and i.class is not null
                      group by i.class) as c) as "class_counts!: Json<Vec<(ClassIndex, i64)>>",
             (select coalesce(jsonb_agg(jsonb_build_array(c.class, c.count) order by c.class), '[]')
                from (select (t.suggestions->0->>'class')::int4 as class, count(*) as count from task t
                      where t.project = r.project and t.round_number = r.number and t.source in ('query', 'random', 'ahead')
                        and t.state <> 'withdrawn' and t.suggestions <> '[]'
                      group by 1) as c) as "predicted_class_counts!: Json<Vec<(ClassIndex, i64)>>"
           from round r left join model m on m.project = r.project and m.version = r.model_version
           where r.project = $1 and r.number > $2 order by r.number limit $3"#,
        project as ProjectId,
        after,
        limit
    )
    .fetch_all(connection)
    .await?;
    let summaries = rows.into_iter().map(|row| RoundSummary {
        round: RoundRow {
            id: row.id,
            project,
            number: row.number,
            state: row.state,
            strategy: row.strategy,
            asked_by: row.asked_by,
            model_version: row.model_version,
            task_count: row.task_count,
            opened_at: row.opened_at,
            closed_at: row.closed_at,
        },
        task_count: row.asked_count,
        answered_count: row.answered_count,
        test_accuracy: row.test_accuracy,
        class_counts: row.class_counts.0,
        predicted_class_counts: row.predicted_class_counts.0,
    });
    Ok(summaries.collect())
}

/// How far the project's newest round is; `None` before the first.
pub async fn find_standing(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Option<RoundStanding>, StoreError> {
    let row = sqlx::query_as!(
        RoundStanding,
        r#"select r.number, r.state as "state: RoundState",
             r.task_count + (select count(*) from task t where t.project = r.project and t.round_number = r.number
                and t.source in ('gold', 'relabel') and t.state <> 'withdrawn') as "task_count!",
             (select count(*) from task t where t.project = r.project and t.round_number = r.number
                and t.source <> 'external' and t.state in ('settled', 'skipped')) as "answered_count!",
             exists (select from slot s where s.project = r.project and s.round_number = r.number
                and s.state in ('open', 'leased')) as "has_unclosed!"
           from round r where r.project = $1 order by r.number desc limit 1"#,
        project as ProjectId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// The head of the round under way, or of the last one; `None` before the first. Costs the same however large the round is.
pub async fn find_head(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Option<RoundHead>, StoreError> {
    let row = sqlx::query_as!(
        RoundHead,
        r#"select r.number, r.state as "state: RoundState",
             exists (select from slot s where s.project = r.project and s.round_number = r.number
                and s.state in ('open', 'leased')) as "has_unclosed!"
           from round r where r.project = $1 order by r.number desc limit 1"#,
        project as ProjectId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Moves a round from `labeling` to `training` if no slot is open or leased and no tie waits; false when something is left.
///
/// While a round is labelled every tie of the project waits for it, those of older tasks that are asked again too.
pub async fn complete_labeling(connection: &mut PgConnection, round: &RoundRow) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update round set state = 'training' where id = $1 and state = 'labeling'
           and not exists (select from slot where project = $2 and round_number = $3 and state in ('open', 'leased'))
           and not exists (select from task where project = $2 and state = 'adjudication')",
        round.id as RoundId,
        round.project as ProjectId,
        round.number
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Moves a round from one state to another and notes its model; false when it wasn't in `from`.
pub async fn move_state(
    connection: &mut PgConnection,
    round: RoundId,
    from: RoundState,
    to: RoundState,
    model_version: Option<i32>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update round set state = $3, model_version = coalesce($4, model_version),
           closed_at = case when $3 = 'closed' then now() end
         where id = $1 and state = $2",
        round as RoundId,
        from as RoundState,
        to as RoundState,
        model_version
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
