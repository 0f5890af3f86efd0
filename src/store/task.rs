//! Tasks: items asked in a round, with the provenance of each question.
//!
//! `leased` is never written: it is read off the slots, so that a lease touches no task. Submit, skip, undo and the supervisor lock task
//! rows in the order of ids before they lock slots. The unique index `task_item_asked` keeps an item from being asked twice.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;
use utoipa::ToSchema;

use super::StoreError;
use crate::domain::content_hash::ContentHash;
use crate::domain::ids::{ItemId, ProjectId, SlotId, TaskId};
use crate::domain::project::ClassIndex;
use crate::domain::task::{TaskSource, TaskState};

/// A guess of the model that ranked an item.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Suggestion {
    /// The class guessed.
    pub class: ClassIndex,
    /// Its probability, 0 to 1.
    pub probability: f32,
}

/// A task to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// The item to ask.
    pub item: ItemId,
    /// Place in the batch; 0 is asked first.
    pub rank: i32,
    /// Why it is asked.
    pub source: TaskSource,
    /// Value of the strategy's formula, where it has one.
    pub score: Option<f64>,
    /// `u`, as measured.
    pub uncertainty: Option<f64>,
    /// `v`, as measured.
    pub pretext_loss: Option<f64>,
    /// The model's guess, best first.
    pub suggestions: Vec<Suggestion>,
    /// The class that a gold or relabel item has now.
    pub known_class: Option<ClassIndex>,
}

/// What the tasks of one batch have in common.
#[derive(Clone, Copy, Debug)]
pub struct BatchOrigin<'a> {
    /// The project.
    pub project: ProjectId,
    /// The round whose batch they count into.
    pub round_number: i32,
    /// Name of the strategy that chose them.
    pub strategy: &'a str,
    /// The model that ranked them.
    pub model_version: Option<i32>,
    /// Slots that each gets.
    pub votes_per_task: u32,
}

/// A task with its provenance, as operators see it.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRow {
    /// Its id.
    pub id: TaskId,
    /// The item asked.
    pub item: ItemId,
    /// Round whose batch it counts into.
    pub round_number: i32,
    /// Place in the batch.
    pub rank: i32,
    /// Value of the strategy's formula.
    pub score: Option<f64>,
    /// `u`.
    pub uncertainty: Option<f64>,
    /// `v`.
    pub pretext_loss: Option<f64>,
    /// Name of the strategy that chose it.
    pub strategy: String,
    /// The model that ranked it.
    pub model_version: Option<i32>,
    /// Why it was asked.
    pub source: TaskSource,
    /// Where it stands, `leased` included.
    pub state: TaskState,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was settled, skipped or withdrawn.
    pub closed_at: Option<DateTime<Utc>>,
    /// The item's name.
    pub item_name: String,
    /// The class that its item is known to have.
    pub class: Option<ClassIndex>,
    /// What the model guessed when it was asked, best first.
    pub suggestions: Json<Vec<Suggestion>>,
}

/// A task whose row the transaction has locked.
#[derive(Clone, Debug, PartialEq)]
pub struct LockedTask {
    /// Its id.
    pub id: TaskId,
    /// The item asked.
    pub item: ItemId,
    /// Content of the item, which breaks ties.
    pub hash: ContentHash,
    /// Round whose batch it counts into.
    pub round_number: i32,
    /// Why it was asked.
    pub source: TaskSource,
    /// Where it stands, `leased` read as `open`.
    pub state: TaskState,
    /// The class that a gold or relabel item had when it was asked.
    pub known_class: Option<ClassIndex>,
}

/// Makes tasks and their open slots.
pub async fn create_all(
    connection: &mut PgConnection,
    origin: BatchOrigin<'_>,
    tasks: &[NewTask],
) -> Result<(), StoreError> {
    if tasks.is_empty() {
        return Ok(());
    }
    let ids: Vec<TaskId> = tasks.iter().map(|_| TaskId::generate()).collect();
    let items: Vec<ItemId> = tasks.iter().map(|task| task.item).collect();
    let ranks: Vec<i32> = tasks.iter().map(|task| task.rank).collect();
    let sources: Vec<TaskSource> = tasks.iter().map(|task| task.source).collect();
    let scores: Vec<Option<f64>> = tasks.iter().map(|task| task.score).collect();
    let uncertainties: Vec<Option<f64>> = tasks.iter().map(|task| task.uncertainty).collect();
    let pretext_losses: Vec<Option<f64>> = tasks.iter().map(|task| task.pretext_loss).collect();
    let suggestions: Vec<Json<&[Suggestion]>> =
        tasks.iter().map(|task| Json(task.suggestions.as_slice())).collect();
    let known_classes: Vec<Option<ClassIndex>> = tasks.iter().map(|task| task.known_class).collect();
    sqlx::query!(
        "insert into task (id, project, round_number, strategy, model_version, item, rank, source, score, uncertainty, pretext_loss,
           suggestions, known_class)
         select id, $1, $2, $3, $4, item, rank, source, score, uncertainty, pretext_loss, suggestions, known_class
         from unnest($5::uuid[], $6::uuid[], $7::integer[], $8::text[], $9::float8[], $10::float8[], $11::float8[], $12::jsonb[],
           $13::smallint[])
           as fresh (id, item, rank, source, score, uncertainty, pretext_loss, suggestions, known_class)",
        origin.project as ProjectId,
        origin.round_number,
        origin.strategy,
        origin.model_version,
        &ids as &[TaskId],
        &items as &[ItemId],
        &ranks,
        &sources as &[TaskSource],
        &scores as &[Option<f64>],
        &uncertainties as &[Option<f64>],
        &pretext_losses as &[Option<f64>],
        suggestions as Vec<Json<&[Suggestion]>>,
        &known_classes as &[Option<ClassIndex>]
    )
    .execute(&mut *connection)
    .await?;
    create_slots(connection, origin, &ids, &ranks).await
}

/// A task for an answer that nobody had asked for.
#[derive(Clone, Copy, Debug)]
pub struct ExternalTask {
    /// Its id.
    pub id: TaskId,
    /// The item answered.
    pub item: ItemId,
    /// The round whose training takes the answer in.
    pub round_number: i32,
    /// The class that the item has before it.
    pub known_class: Option<ClassIndex>,
    /// The model that is published.
    pub model_version: Option<i32>,
}

/// Makes a settled task with one open slot, which the caller fills at once; returns the slot.
pub async fn create_external(
    connection: &mut PgConnection,
    project: ProjectId,
    task: &ExternalTask,
) -> Result<SlotId, StoreError> {
    let slot = SlotId::generate();
    sqlx::query!(
        "with fresh as (
           insert into task (id, project, round_number, item, rank, strategy, model_version, source, state, known_class, closed_at)
           values ($1, $2, $3, $4, (select count(*) from task where project = $2 and round_number = $3), 'external', $5, 'external', 'settled',
             $6, now())
         )
         insert into slot (id, task, project, round_number, priority) values ($7, $1, $2, $3, $3::bigint << 40)",
        task.id as TaskId,
        project as ProjectId,
        task.round_number,
        task.item as ItemId,
        task.model_version,
        task.known_class as Option<ClassIndex>,
        slot as SlotId
    )
    .execute(connection)
    .await?;
    Ok(slot)
}

/// Whether a task asks an item, or has its answer.
pub async fn is_asked(connection: &mut PgConnection, item: ItemId) -> Result<bool, StoreError> {
    let asked = sqlx::query_scalar!(
        r#"select exists (select from task where item = $1 and state in ('open', 'leased', 'settled', 'adjudication')) as "asked!""#,
        item as ItemId
    )
    .fetch_one(connection)
    .await?;
    Ok(asked)
}

async fn create_slots(
    connection: &mut PgConnection,
    origin: BatchOrigin<'_>,
    tasks: &[TaskId],
    ranks: &[i32],
) -> Result<(), StoreError> {
    let votes = i64::from(origin.votes_per_task);
    let mut slots = Vec::new();
    let mut of_tasks = Vec::new();
    let mut priorities = Vec::new();
    for (task, rank) in tasks.iter().zip(ranks) {
        // The round's number, then the rank, then the vote; 8 bits leave room for the votes of ties.
        let first = (i64::from(origin.round_number) << 40) | (i64::from(*rank) << 8);
        for vote in 0..votes {
            slots.push(SlotId::generate());
            of_tasks.push(*task);
            priorities.push(first + vote);
        }
    }
    sqlx::query!(
        "insert into slot (id, task, project, round_number, priority)
         select id, task, $1, $2, priority from unnest($3::uuid[], $4::uuid[], $5::bigint[]) as fresh (id, task, priority)",
        origin.project as ProjectId,
        origin.round_number,
        &slots as &[SlotId],
        &of_tasks as &[TaskId],
        &priorities
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Tasks with their provenance; `$which` is what follows the join of task t and item i. A macro, since sqlx checks a query's text when it
/// compiles, and takes only literals.
macro_rules! query_tasks {
    ($which:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            TaskRow,
            r#"select t.id as "id: TaskId", t.item as "item: ItemId", round_number, rank, score, uncertainty, pretext_loss, strategy,
             model_version, source as "source: TaskSource",
             case when state = 'open' and not exists (select from slot s where s.task = t.id and s.state = 'open')
               then 'leased' else state end as "state!: TaskState",
             created_at, closed_at, i.name as item_name, i.class as "class: ClassIndex",
             suggestions as "suggestions: Json<Vec<Suggestion>>"
           from task t join item i on i.id = t.item "# + $which
            $(, $argument)*
        )
    };
}

/// Tasks of a round in the order of ranks, after the given rank and id.
pub async fn list_of_round(
    connection: &mut PgConnection,
    project: ProjectId,
    round_number: i32,
    after: Option<(i32, TaskId)>,
    limit: i64,
) -> Result<Vec<TaskRow>, StoreError> {
    let (after_rank, after_task) = after.unzip();
    let rows = query_tasks!(
        "where t.project = $1 and round_number = $2 and ($3::integer is null or (rank, t.id) > ($3, $4::uuid))
           order by rank, t.id limit $5",
        project as ProjectId,
        round_number,
        after_rank,
        after_task as Option<TaskId>,
        limit
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Tasks of all rounds after `after`, in the order of ids, for exports.
pub async fn list_all(
    connection: &mut PgConnection,
    project: ProjectId,
    after: Option<TaskId>,
    limit: i64,
) -> Result<Vec<TaskRow>, StoreError> {
    let rows = query_tasks!(
        "where t.project = $1 and ($2::uuid is null or t.id > $2) order by t.id limit $3",
        project as ProjectId,
        after as Option<TaskId>,
        limit
    );
    Ok(rows.fetch_all(connection).await?)
}

/// The project's task of this id.
pub async fn find(
    connection: &mut PgConnection,
    project: ProjectId,
    task: TaskId,
) -> Result<Option<TaskRow>, StoreError> {
    let row = query_tasks!("where t.project = $1 and t.id = $2", project as ProjectId, task as TaskId);
    Ok(row.fetch_optional(connection).await?)
}

/// The project's tasks among these ids, locked in the order of ids.
pub async fn lock_all(
    connection: &mut PgConnection,
    project: ProjectId,
    tasks: &[TaskId],
) -> Result<Vec<LockedTask>, StoreError> {
    let rows = sqlx::query_as!(
        LockedTask,
        r#"select t.id as "id: TaskId", t.item as "item: ItemId", i.content_hash as "hash: ContentHash", t.round_number,
             t.source as "source: TaskSource", t.state as "state: TaskState", t.known_class as "known_class: ClassIndex"
           from task t join item i on i.id = t.item
           where t.project = $1 and t.id = any($2) order by t.id for no key update of t"#,
        project as ProjectId,
        tasks as &[TaskId]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Locks, in the order of ids, the tasks of rounds from `first_round` on that have an open slot; returns their ids.
pub async fn lock_with_open_slot(
    connection: &mut PgConnection,
    project: ProjectId,
    first_round: i32,
) -> Result<Vec<TaskId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"select t.id as "id: TaskId" from task t
           where t.project = $1 and t.round_number >= $2 and t.state in ('open', 'adjudication')
             and exists (select from slot s where s.task = t.id and s.state = 'open')
           order by t.id for no key update of t"#,
        project as ProjectId,
        first_round
    )
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// Tasks of the project whose votes tie and that have no slot open or leased to break it.
pub async fn list_tied(connection: &mut PgConnection, project: ProjectId) -> Result<Vec<TaskId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"select t.id as "id: TaskId" from task t
           where t.project = $1 and t.state = 'adjudication'
             and not exists (select from slot s where s.task = t.id and s.state in ('open', 'leased'))
           order by t.id"#,
        project as ProjectId
    )
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// Tied tasks of the project whose further vote nobody holds and that have waited for it longer than `wait_seconds`.
pub async fn list_overdue_ties(
    connection: &mut PgConnection,
    project: ProjectId,
    wait_seconds: i32,
) -> Result<Vec<TaskId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"select t.id as "id: TaskId" from task t
           where t.project = $1 and t.state = 'adjudication' and t.tied_at <= now() - $2::int * interval '1 second'
             and not exists (select from slot s where s.task = t.id and s.state = 'leased')
           order by t.id"#,
        project as ProjectId,
        wait_seconds
    )
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// Live relabel tasks of the items of these tasks, other than these: open, tied or settled.
pub async fn list_relabels_of(
    connection: &mut PgConnection,
    tasks: &[TaskId],
) -> Result<Vec<(TaskId, ItemId)>, StoreError> {
    let rows = sqlx::query!(
        r#"select r.id as "id: TaskId", r.item as "item: ItemId" from task r
           where r.source = 'relabel' and r.state in ('open', 'adjudication', 'settled') and r.id <> all($1)
             and r.item in (select item from task where id = any($1))
           order by r.id"#,
        tasks as &[TaskId]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.item)).collect())
}

/// Which of these items round `round_number` may ask again as a blind check of their class, with the class.
///
/// None is open or was checked before, and none was asked by the round itself, whose labels may yet be undone.
pub async fn filter_relabelable(
    connection: &mut PgConnection,
    items: &[ItemId],
    round_number: i32,
) -> Result<Vec<(ItemId, ClassIndex)>, StoreError> {
    let rows = sqlx::query!(
        r#"select i.id as "id: ItemId", i.class as "class!: ClassIndex" from item i
           where i.id = any($1) and i.class is not null and i.excluded is null
             and not exists (select from task t where t.item = i.id
               and (t.state in ('open', 'adjudication') or t.state <> 'withdrawn' and (t.source = 'relabel' or t.round_number >= $2)))"#,
        items as &[ItemId],
        round_number
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.class)).collect())
}

/// Writes the states of locked tasks; closed ones get the time.
pub async fn write_states(
    connection: &mut PgConnection,
    tasks: &[TaskId],
    states: &[TaskState],
) -> Result<(), StoreError> {
    if tasks.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update task set state = v.state, closed_at = case when v.state in ('settled', 'skipped', 'withdrawn') then now() end,
           tied_at = case when v.state = 'adjudication' then coalesce(task.tied_at, now()) end
         from unnest($1::uuid[], $2::text[]) as v (id, state) where task.id = v.id",
        tasks as &[TaskId],
        states as &[TaskState]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes what votes say about items: their class, or none any more.
pub async fn write_classes(
    connection: &mut PgConnection,
    items: &[ItemId],
    classes: &[Option<ClassIndex>],
) -> Result<(), StoreError> {
    if items.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update item set class = v.class, class_source = case when v.class is not null then 'votes' end
         from unnest($1::uuid[], $2::smallint[]) as v (id, class) where item.id = v.id and item.class is distinct from v.class",
        items as &[ItemId],
        classes as &[Option<ClassIndex>]
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Withdraws tasks whose slots are all open, and those slots; the caller has locked the tasks. Returns how many tasks.
pub async fn withdraw_untouched(connection: &mut PgConnection, tasks: &[TaskId]) -> Result<u64, StoreError> {
    // Locks first, so that the second statement sees what leases that ran meanwhile have made of the slots.
    super::slot::lock_of_tasks(connection, tasks).await?;
    let done = sqlx::query!(
        "with untouched as (
           select id from task t where id = any($1) and state = 'open'
             and not exists (select from slot s where s.task = t.id and s.state <> 'open')
         ), slots as (
           update slot set state = 'withdrawn' from untouched where slot.task = untouched.id
         )
         update task set state = 'withdrawn', closed_at = now() from untouched where task.id = untouched.id",
        tasks as &[TaskId]
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// How many tasks of a round's batch aren't withdrawn.
pub async fn count_batch(
    connection: &mut PgConnection,
    project: ProjectId,
    round_number: i32,
) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from task
           where project = $1 and round_number = $2 and source in ('query', 'random', 'ahead') and state <> 'withdrawn'"#,
        project as ProjectId,
        round_number
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}
