//! Labels: the votes that people gave.
//!
//! A label is never deleted: an undone one keeps its row with a time, a corrected one remembers the class before. `counted` labels that
//! aren't undone are the paid ones; of these, those that an operator set aside take no part in verdicts. Inserting touches no row that
//! labelers share.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::ids::{ItemId, LabelId, ProjectId, SlotId, TaskId, TokenId};
use crate::domain::project::ClassIndex;
use crate::domain::task::TaskSource;

/// A label that isn't undone, as the judging of a task needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoteRow {
    /// Its id.
    pub id: LabelId,
    /// The task it answers.
    pub task: TaskId,
    /// The slot it fills; none when uncounted.
    pub slot: Option<SlotId>,
    /// The class it gives.
    pub class: ClassIndex,
    /// Who gave it.
    pub labeler: TokenId,
    /// The person, when a tool labels for several.
    pub person: Option<String>,
    /// Whether it takes part in the verdict: paid, and not set aside.
    pub counted: bool,
}

/// A label to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewLabel {
    /// Its id.
    pub id: LabelId,
    /// Who gave it.
    pub labeler: TokenId,
    /// The task it answers.
    pub task: TaskId,
    /// The slot it fills; none when uncounted.
    pub slot: Option<SlotId>,
    /// The task's item.
    pub item: ItemId,
    /// The task's round.
    pub round_number: i32,
    /// The class it gives.
    pub class: ClassIndex,
    /// The person, when a tool labels for several.
    pub person: Option<String>,
    /// The lease under which it was given.
    pub attempt: Option<i32>,
    /// How long the labeler looked.
    pub seconds: Option<f64>,
    /// Whether it is paid.
    pub counted: bool,
}

/// A label as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelRow {
    /// Its id.
    pub id: LabelId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// The task it answers.
    pub task: TaskId,
    /// The slot it fills.
    pub slot: Option<SlotId>,
    /// The task's item.
    pub item: ItemId,
    /// The task's round.
    pub round_number: i32,
    /// The class it gives.
    pub class: ClassIndex,
    /// Who gave it.
    pub labeler: TokenId,
    /// Whether it is paid.
    pub counted: bool,
    /// When it was undone.
    pub undone_at: Option<DateTime<Utc>>,
    /// When an operator set it aside.
    pub set_aside_at: Option<DateTime<Utc>>,
}

/// A row of the export.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportedLabel {
    /// The label.
    pub label: LabelId,
    /// The task it answers.
    pub task: TaskId,
    /// The item.
    pub item: ItemId,
    /// The item's name.
    pub name: String,
    /// The class's name.
    pub class: String,
    /// The person's name, or the token's.
    pub labeler: String,
    /// The round.
    pub round: i32,
    /// Why the item was asked.
    pub source: TaskSource,
    /// The model that ranked the item.
    pub model_version: Option<i32>,
    /// How long the labeler looked.
    pub seconds: Option<f64>,
    /// When it was given.
    pub created_at: DateTime<Utc>,
}

/// Writes labels and closes the slots they fill, in one statement; the caller has locked tasks and slots.
pub async fn create_all(
    connection: &mut PgConnection,
    project: ProjectId,
    labels: &[NewLabel],
) -> Result<(), StoreError> {
    if labels.is_empty() {
        return Ok(());
    }
    let ids: Vec<LabelId> = labels.iter().map(|label| label.id).collect();
    let labelers: Vec<TokenId> = labels.iter().map(|label| label.labeler).collect();
    let tasks: Vec<TaskId> = labels.iter().map(|label| label.task).collect();
    let slots: Vec<Option<SlotId>> = labels.iter().map(|label| label.slot).collect();
    let items: Vec<ItemId> = labels.iter().map(|label| label.item).collect();
    let rounds: Vec<i32> = labels.iter().map(|label| label.round_number).collect();
    let classes: Vec<ClassIndex> = labels.iter().map(|label| label.class).collect();
    let persons: Vec<Option<String>> = labels.iter().map(|label| label.person.clone()).collect();
    let attempts: Vec<Option<i32>> = labels.iter().map(|label| label.attempt).collect();
    let seconds: Vec<Option<f64>> = labels.iter().map(|label| label.seconds).collect();
    let counted: Vec<bool> = labels.iter().map(|label| label.counted).collect();
    sqlx::query!(
        "with fresh as (
           select * from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], $7::integer[], $8::smallint[], $9::text[], $10::integer[],
             $11::float8[], $12::boolean[]) as f (labeler, id, task, slot, item, round_number, class, person, attempt, seconds, counted)
         ), answered as (
           update slot set state = 'answered', labeler = fresh.labeler, person = fresh.person, expires_at = null
           from fresh where slot.id = fresh.slot
         )
         insert into label (project, labeler, id, task, slot, item, round_number, class, person, attempt, seconds, counted)
         select $1, labeler, id, task, slot, item, round_number, class, person, attempt, seconds, counted from fresh",
        project as ProjectId,
        &labelers as &[TokenId],
        &ids as &[LabelId],
        &tasks as &[TaskId],
        &slots as &[Option<SlotId>],
        &items as &[ItemId],
        &rounds,
        &classes as &[ClassIndex],
        &persons as &[Option<String>],
        &attempts as &[Option<i32>],
        &seconds as &[Option<f64>],
        &counted
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Labels of tasks that aren't undone, uncounted ones included, oldest first.
pub async fn list_of_tasks(
    connection: &mut PgConnection,
    tasks: &[TaskId],
) -> Result<Vec<VoteRow>, StoreError> {
    let rows = sqlx::query_as!(
        VoteRow,
        r#"select id as "id: LabelId", task as "task: TaskId", slot as "slot: SlotId", class as "class: ClassIndex",
             labeler as "labeler: TokenId", person, counted and set_aside_at is null as "counted!"
           from label where task = any($1) and undone_at is null order by id"#,
        tasks as &[TaskId]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Votes on the items of these tasks that other tasks asked for, gold ones left out, oldest first; `task` is the given task.
pub async fn list_earlier(
    connection: &mut PgConnection,
    tasks: &[TaskId],
) -> Result<Vec<VoteRow>, StoreError> {
    let rows = sqlx::query_as!(
        VoteRow,
        r#"select l.id as "id: LabelId", t.id as "task: TaskId", l.slot as "slot: SlotId", l.class as "class: ClassIndex",
             l.labeler as "labeler: TokenId", l.person, l.set_aside_at is null as "counted!"
           from task t join label l on l.item = t.item and l.task <> t.id join task o on o.id = l.task
           where t.id = any($1) and o.source <> 'gold' and l.counted and l.undone_at is null order by l.id"#,
        tasks as &[TaskId]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The label of this id, undone or not.
pub async fn find(connection: &mut PgConnection, label: LabelId) -> Result<Option<LabelRow>, StoreError> {
    let row = sqlx::query_as!(
        LabelRow,
        r#"select id as "id: LabelId", project as "project: ProjectId", task as "task: TaskId", slot as "slot: SlotId",
             item as "item: ItemId", round_number, class as "class: ClassIndex", labeler as "labeler: TokenId", counted, undone_at, set_aside_at
           from label where id = $1"#,
        label as LabelId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Marks a label as undone; false when it was so already.
pub async fn undo(connection: &mut PgConnection, label: LabelId) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update label set undone_at = now() where id = $1 and undone_at is null",
        label as LabelId
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives a label another class and remembers the one before.
pub async fn correct(
    connection: &mut PgConnection,
    label: LabelId,
    class: ClassIndex,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update label set corrected_from = class, corrected_at = now(), class = $2 where id = $1 and class <> $2",
        label as LabelId,
        class as ClassIndex
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Accepted votes of the project: what is paid.
pub async fn count_paid(connection: &mut PgConnection, project: ProjectId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from label where project = $1 and counted and undone_at is null"#,
        project as ProjectId
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Accepted votes that one labeler gave and that stand, over all projects.
pub async fn count_of_labeler(connection: &mut PgConnection, labeler: TokenId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from label where labeler = $1 and counted and undone_at is null"#,
        labeler as TokenId
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Whether a labeler has answered in a project within the last `within_seconds`.
pub async fn is_working(
    connection: &mut PgConnection,
    project: ProjectId,
    labeler: TokenId,
    within_seconds: i32,
) -> Result<bool, StoreError> {
    let works = sqlx::query_scalar!(
        r#"select exists (select from label where labeler = $2 and project = $1
             and created_at > now() - $3::int * interval '1 second') as "works!""#,
        project as ProjectId,
        labeler as TokenId,
        within_seconds
    )
    .fetch_one(connection)
    .await?;
    Ok(works)
}

/// A page of the export: counted labels after `after`, in the order of ids.
pub async fn list_for_export(
    connection: &mut PgConnection,
    project: ProjectId,
    after: Option<LabelId>,
    limit: i64,
) -> Result<Vec<ExportedLabel>, StoreError> {
    let rows = sqlx::query_as!(
        ExportedLabel,
        r#"select l.id as "label: LabelId", l.task as "task: TaskId", l.item as "item: ItemId", i.name, c.name as class,
             coalesce(l.person, k.name) as "labeler!", l.round_number as round, t.source as "source: TaskSource", t.model_version,
             l.seconds, l.created_at
           from label l
             join item i on i.id = l.item
             join task t on t.id = l.task
             join token k on k.id = l.labeler
             join class c on c.project = l.project and c.index = l.class
           where l.project = $1 and l.counted and l.undone_at is null and l.set_aside_at is null and ($2::uuid is null or l.id > $2)
           order by l.id limit $3"#,
        project as ProjectId,
        after as Option<LabelId>,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// A label as its item's history shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemLabel {
    /// The label.
    pub label: LabelId,
    /// The item.
    pub item: ItemId,
    /// The class it gives.
    pub class: ClassIndex,
    /// How long the labeler looked.
    pub seconds: Option<f64>,
    /// When it was given.
    pub created_at: DateTime<Utc>,
}

/// The counted labels of these items, oldest first.
pub async fn list_of_items(
    connection: &mut PgConnection,
    items: &[ItemId],
) -> Result<Vec<ItemLabel>, StoreError> {
    let rows = sqlx::query_as!(
        ItemLabel,
        r#"select id as "label: LabelId", item as "item: ItemId", class as "class: ClassIndex", seconds, created_at
           from label where item = any($1) and counted and undone_at is null and set_aside_at is null order by id"#,
        items as &[ItemId]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The classes of these names that the project has, with their indices.
pub async fn find_classes(
    connection: &mut PgConnection,
    project: ProjectId,
    names: &[String],
) -> Result<Vec<(String, ClassIndex)>, StoreError> {
    let rows = sqlx::query!(
        r#"select name, index as "index: ClassIndex" from class where project = $1 and name = any($2)"#,
        project as ProjectId,
        names
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.name, row.index)).collect())
}
