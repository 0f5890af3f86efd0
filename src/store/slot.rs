//! Slots: the votes a task needs, and the leases on them.
//!
//! The hot path: a lease locks open slots with `skip locked`, so labelers never wait for each other, and writes nothing that two labelers
//! share. An open slot keeps its last holder and attempt, by which a late label is judged. Whoever locks tasks and slots locks the tasks
//! first, each in the order of ids; a lease locks slots only and waits for none, so no two transactions can wait for each other.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::StoreError;
use super::task::Suggestion;
use crate::domain::ids::{ItemId, ProjectId, SlotId, TaskId, TokenId};
use crate::domain::task::{SlotState, TaskSource};
use crate::telemetry::metric;

/// A slot as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRow {
    /// Its id.
    pub id: SlotId,
    /// The task it belongs to.
    pub task: TaskId,
    /// The round that waits for it: its task's, or a later one when its task is asked again.
    pub round_number: i32,
    /// Where it stands.
    pub state: SlotState,
    /// Smaller is leased first.
    pub priority: i64,
    /// Who holds it, answered it, or held it last.
    pub labeler: Option<TokenId>,
    /// The person who answered or skipped it, when a tool labels for several.
    pub person: Option<String>,
    /// Who held it before.
    pub former: Vec<TokenId>,
    /// Times it was leased.
    pub attempt: i32,
}

/// A leased slot with all that a labeler needs.
#[derive(Clone, Debug)]
pub struct LeasedSlot {
    /// The task to answer.
    pub task: TaskId,
    /// Its item.
    pub item: ItemId,
    /// Round whose batch it counts into.
    pub round_number: i32,
    /// Why it was asked.
    pub source: TaskSource,
    /// Place in the order of asking.
    pub priority: i64,
    /// Which lease of the slot this is: 1, 2, …
    pub attempt: i32,
    /// When the lease runs out.
    pub expires_at: DateTime<Utc>,
    /// The guess stored when the item was scored, best first.
    pub suggestions: Json<Vec<Suggestion>>,
}

/// Lets one lease call of each of these labelers at a time through, until the transaction ends; other labelers aren't touched.
pub async fn lock_labelers(connection: &mut PgConnection, labelers: &[TokenId]) -> Result<(), StoreError> {
    // In one order for all, so that no two calls wait for each other; the inner query keeps the planner from locking before it sorts.
    sqlx::query!(
        r#"select pg_advisory_xact_lock(key) as "locked: ()" from (
             select distinct hashtextextended('gleaner.labeler ' || id::text, 0) as key from unnest($1::uuid[]) as l (id) order by key offset 0
           ) as keys"#,
        labelers as &[TokenId]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How many leases of the project a labeler holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldCount {
    /// The labeler.
    pub labeler: TokenId,
    /// Its leases that run.
    pub held: i64,
    /// Its leases that have run out but aren't open yet.
    pub expired: i64,
}

/// How many leases of the project these labelers hold; who holds none is left out.
pub async fn count_held(
    connection: &mut PgConnection,
    project: ProjectId,
    labelers: &[TokenId],
) -> Result<Vec<HeldCount>, StoreError> {
    let rows = sqlx::query_as!(
        HeldCount,
        r#"select labeler as "labeler!: TokenId", count(*) filter (where expires_at > now()) as "held!",
             count(*) filter (where expires_at <= now()) as "expired!"
           from slot where labeler = any($2) and project = $1 and state = 'leased' group by labeler"#,
        project as ProjectId,
        labelers as &[TokenId]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Prolongs and returns the leases that a labeler holds, in the order of asking.
pub async fn resume(
    connection: &mut PgConnection,
    project: ProjectId,
    labeler: TokenId,
    lease_seconds: i32,
) -> Result<Vec<LeasedSlot>, StoreError> {
    let mut rows = sqlx::query_as!(
        LeasedSlot,
        r#"update slot s set expires_at = now() + $3::int * interval '1 second'
           from task t
           where s.labeler = $2 and s.project = $1 and s.state = 'leased' and t.id = s.task
           returning s.task as "task: TaskId", t.item as "item: ItemId", s.round_number, t.source as "source: TaskSource", s.priority,
             s.attempt, s.expires_at as "expires_at!", t.suggestions as "suggestions: Json<Vec<Suggestion>>""#,
        project as ProjectId,
        labeler as TokenId,
        lease_seconds
    )
    .fetch_all(connection)
    .await?;
    rows.sort_by_key(|row| row.priority);
    Ok(rows)
}

/// Leases up to `count` open slots, never two of one task and none of a task that the labeler has touched.
pub async fn lease_open(
    connection: &mut PgConnection,
    project: ProjectId,
    labeler: TokenId,
    count: i64,
    lease_seconds: i32,
) -> Result<Vec<LeasedSlot>, StoreError> {
    // Only the first open slot of a task is looked at, so that one call can't take two of them.
    let mut rows = sqlx::query_as!(
        LeasedSlot,
        r#"with pick as (
             select s.id from slot s where s.project = $1 and s.state = 'open'
               and not exists (select from slot o where o.task = s.task
                 and (o.labeler = $2 and o.state in ('leased', 'answered', 'skipped') or o.state = 'open' and o.priority < s.priority))
             order by s.priority limit $3 for update of s skip locked
           )
           update slot s set state = 'leased', labeler = $2, person = null, attempt = s.attempt + 1,
             expires_at = now() + $4::int * interval '1 second',
             former = case when s.labeler <> $2 then array_append(array_remove(s.former, s.labeler), s.labeler) else s.former end
           from pick, task t
           where s.id = pick.id and t.id = s.task
           returning s.task as "task: TaskId", t.item as "item: ItemId", s.round_number, t.source as "source: TaskSource", s.priority,
             s.attempt, s.expires_at as "expires_at!", t.suggestions as "suggestions: Json<Vec<Suggestion>>""#,
        project as ProjectId,
        labeler as TokenId,
        count,
        lease_seconds
    )
    .fetch_all(connection)
    .await?;
    rows.sort_by_key(|row| row.priority);
    Ok(rows)
}

/// Opens again what was leased and ran out; locks nothing that somebody else is writing. Returns how many.
pub async fn open_expired(connection: &mut PgConnection, project: ProjectId) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "with expired as (
           select id from slot where project = $1 and state = 'leased' and expires_at <= now() for update skip locked
         )
         update slot set state = 'open', expires_at = null from expired where slot.id = expired.id",
        project as ProjectId
    )
    .execute(connection)
    .await?;
    metrics::counter!(metric::LEASE_EXPIRIES_TOTAL).increment(done.rows_affected());
    Ok(done.rows_affected())
}

/// Prolongs the leases that a labeler holds, of the given tasks or of all; returns how many.
pub async fn renew(
    connection: &mut PgConnection,
    project: ProjectId,
    labeler: TokenId,
    tasks: Option<&[TaskId]>,
    lease_seconds: i32,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update slot set expires_at = now() + $4::int * interval '1 second'
         where labeler = $2 and project = $1 and state = 'leased' and ($3::uuid[] is null or task = any($3))",
        project as ProjectId,
        labeler as TokenId,
        tasks as Option<&[TaskId]>,
        lease_seconds
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Gives leases of a labeler back, of the given tasks or all; returns how many.
pub async fn release(
    connection: &mut PgConnection,
    project: ProjectId,
    labeler: TokenId,
    tasks: Option<&[TaskId]>,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update slot set state = 'open', expires_at = null
         where labeler = $2 and project = $1 and state = 'leased' and ($3::uuid[] is null or task = any($3))",
        project as ProjectId,
        labeler as TokenId,
        tasks as Option<&[TaskId]>
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Opens whatever a labeler holds in any project, because it can't answer any more; returns how many.
pub async fn release_everywhere(connection: &mut PgConnection, labeler: TokenId) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update slot set state = 'open', expires_at = null where labeler = $1 and state = 'leased'",
        labeler as TokenId
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// The slots of tasks whose rows the caller has locked, locked in the order of ids.
pub async fn lock_of_tasks(
    connection: &mut PgConnection,
    tasks: &[TaskId],
) -> Result<Vec<SlotRow>, StoreError> {
    let rows = sqlx::query_as!(
        SlotRow,
        r#"select id as "id: SlotId", task as "task: TaskId", round_number, state as "state: SlotState", priority, labeler as "labeler: TokenId",
             person, former as "former: Vec<TokenId>", attempt
           from slot where task = any($1) order by id for no key update"#,
        tasks as &[TaskId]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Opens a slot again whose vote was undone; it stays noted as the labeler's last.
pub async fn reopen(connection: &mut PgConnection, slot: SlotId) -> Result<(), StoreError> {
    sqlx::query!(
        "update slot set state = 'open', person = null, expires_at = null where id = $1",
        slot as SlotId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes back a slot whose vote was undone, so that nobody is asked for another.
pub async fn withdraw(connection: &mut PgConnection, slot: SlotId) -> Result<(), StoreError> {
    sqlx::query!("update slot set state = 'withdrawn', expires_at = null where id = $1", slot as SlotId)
        .execute(connection)
        .await?;
    Ok(())
}

/// Marks a slot as skipped by a labeler.
pub async fn skip(
    connection: &mut PgConnection,
    slot: SlotId,
    labeler: TokenId,
    person: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update slot set state = 'skipped', labeler = $2, person = $3, expires_at = null where id = $1",
        slot as SlotId,
        labeler as TokenId,
        person
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes back the open slots of tasks that the caller has locked.
pub async fn withdraw_open_of_tasks(
    connection: &mut PgConnection,
    tasks: &[TaskId],
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update slot set state = 'withdrawn' where task = any($1) and state = 'open'",
        tasks as &[TaskId]
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Adds one open slot to a task, after its others in the order of asking and for the round of the last of them.
pub async fn add(connection: &mut PgConnection, task: TaskId) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into slot (id, task, project, round_number, priority)
         select $2, s.task, s.project, s.round_number, s.priority + 1 from slot s where s.task = $1
         order by s.priority desc limit 1",
        task as TaskId,
        SlotId::generate() as SlotId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds one open slot to each of these tasks (a task may stand several times), for which round `round_number` waits.
pub async fn add_for_round(
    connection: &mut PgConnection,
    tasks: &[TaskId],
    round_number: i32,
) -> Result<(), StoreError> {
    let slots: Vec<SlotId> = tasks.iter().map(|_| SlotId::generate()).collect();
    // Among that round's tasks by the rank it had, so that it can't be told from them; no two slots of a task alike, since a lease looks
    // at the first of a task alone.
    sqlx::query!(
        "insert into slot (id, task, project, round_number, priority)
         select f.slot, t.id, t.project, $3::int,
           coalesce((select max(s.priority) from slot s where s.task = t.id and s.round_number = $3::int),
             (($3::int::bigint << 40) | (t.rank::bigint << 8)) - 1) + row_number() over (partition by f.task order by f.place)
         from unnest($1::uuid[], $2::uuid[]) with ordinality as f (slot, task, place) join task t on t.id = f.task",
        &slots as &[SlotId],
        tasks as &[TaskId],
        round_number
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Slots of older tasks that round `round_number` waits for or has the votes of, since theirs were set aside.
pub async fn count_asked_again(
    connection: &mut PgConnection,
    project: ProjectId,
    round_number: i32,
) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from slot s join task t on t.id = s.task
           where s.project = $1 and s.round_number = $2 and s.state in ('open', 'leased', 'answered') and t.round_number < $2"#,
        project as ProjectId,
        round_number
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Slots of relabel tasks that are paid, open or leased: what asking suspected labels again has cost and reserved.
pub async fn count_relabel(connection: &mut PgConnection, project: ProjectId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from slot s join task t on t.id = s.task
           where t.project = $1 and t.source = 'relabel' and s.state in ('open', 'leased', 'answered')"#,
        project as ProjectId
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Votes that open tasks of the project still reserve: its open and leased slots.
pub async fn count_reserved(connection: &mut PgConnection, project: ProjectId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from slot where project = $1 and state in ('open', 'leased')"#,
        project as ProjectId
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Leases of the project that somebody holds.
pub async fn count_leased(connection: &mut PgConnection, project: ProjectId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from slot where project = $1 and state = 'leased'"#,
        project as ProjectId
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}
