//! Annotations of Label Studio: one row each, holding the newest state that was heard of and what gleaner made of it.
//!
//! A webhook writes its row before it is answered, so that what was answered is kept. Since a row holds a state and no history, the same message
//! twice, or an older one after a newer, changes nothing. Whoever acts on a row locks it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use crate::domain::content_hash::ContentHash;
use crate::domain::ids::{ImportId, ItemId, LabelId, ProjectId, TaskId, TokenId};
use crate::domain::item::{Exclusion, Split};
use crate::domain::label_studio::{AnnotationOutcome, ItemKey, WantedState};
use crate::domain::project::ClassIndex;
use crate::domain::task::TaskState;

/// The state of an annotation as it was heard of.
#[derive(Clone, Debug, PartialEq)]
pub struct HeardAnnotation {
    /// Its project's number in Label Studio.
    pub ls_project: i64,
    /// Its number there.
    pub annotation: i64,
    /// The same in webhooks and exports.
    pub unique_id: Option<Uuid>,
    /// What it asks for.
    pub wanted: WantedState,
    /// The class's name, exactly when a class is wanted.
    pub class: Option<String>,
    /// When it came to be, by Label Studio's clock.
    pub changed_at: DateTime<Utc>,
    /// The item its task shows, if the project has it.
    pub item: Option<ItemId>,
    /// Who answered there.
    pub person: Option<String>,
    /// How long that took.
    pub seconds: Option<f64>,
}

/// An annotation that waits to be acted on, locked.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingAnnotation {
    /// The project.
    pub project: ProjectId,
    /// The token that brought it.
    pub source: TokenId,
    /// Its project's number in Label Studio.
    pub ls_project: i64,
    /// Its number there.
    pub annotation: i64,
    /// What it asks for.
    pub wanted: WantedState,
    /// The class's name, exactly when a class is wanted.
    pub class: Option<String>,
    /// The item its task shows.
    pub item: Option<ItemId>,
    /// Who answered there.
    pub person: Option<String>,
    /// How long that took.
    pub seconds: Option<f64>,
    /// The label it has become before.
    pub label: Option<LabelId>,
}

/// An annotation and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct AnnotationRow {
    /// Its project's number in Label Studio.
    pub ls_project: i64,
    /// Its number there.
    pub annotation: i64,
    /// The class it gives.
    pub class: Option<String>,
    /// The item its task shows.
    pub item: Option<ItemId>,
    /// What came of it; null before anything did.
    pub outcome: Option<AnnotationOutcome>,
    /// The label it became.
    pub label: Option<LabelId>,
    /// When it was heard of.
    pub received_at: DateTime<Utc>,
}

/// Keeps the newest state of an annotation; an older or equal one changes nothing. Says whether there is something to do.
pub async fn hear(
    connection: &mut PgConnection,
    project: ProjectId,
    source: TokenId,
    heard: &HeardAnnotation,
) -> Result<bool, StoreError> {
    // A deletion comes without a time; it is the end of an annotation, whose number is never given again.
    let done = sqlx::query!(
        "insert into label_studio_annotation as a
           (project, source, ls_project, annotation, unique_id, wanted, class, changed_at, item, person, seconds)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict (project, source, ls_project, annotation) do update
           set unique_id = coalesce(excluded.unique_id, a.unique_id), wanted = excluded.wanted, class = excluded.class,
             changed_at = greatest(excluded.changed_at, a.changed_at), item = coalesce(excluded.item, a.item),
             person = coalesce(excluded.person, a.person), seconds = coalesce(excluded.seconds, a.seconds), state = 'pending',
             next_attempt_at = now(), received_at = now()
           where a.wanted <> 'deleted'
             and (excluded.wanted = 'deleted' or excluded.changed_at > a.changed_at
               or (excluded.changed_at = a.changed_at and a.outcome in ('unknown_item', 'unknown_class', 'no_budget')))",
        project as ProjectId,
        source as TokenId,
        heard.ls_project,
        heard.annotation,
        heard.unique_id,
        heard.wanted as WantedState,
        heard.class,
        heard.changed_at,
        heard.item as Option<ItemId>,
        heard.person,
        heard.seconds
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The token that an annotation was heard through first, by the id that webhooks and exports share.
pub async fn find_source(
    connection: &mut PgConnection,
    project: ProjectId,
    unique_id: Uuid,
) -> Result<Option<TokenId>, StoreError> {
    let source = sqlx::query_scalar!(
        r#"select source as "source: TokenId" from label_studio_annotation where project = $1 and unique_id = $2
           order by received_at limit 1"#,
        project as ProjectId,
        unique_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(source)
}

/// Locks the annotation that has waited longest and is due; `None` when none is.
pub async fn lock_due(connection: &mut PgConnection) -> Result<Option<PendingAnnotation>, StoreError> {
    let row = sqlx::query_as!(
        PendingAnnotation,
        r#"select project as "project: ProjectId", source as "source: TokenId", ls_project, annotation, wanted as "wanted: WantedState",
             class, item as "item: ItemId", person, seconds, label as "label: LabelId"
           from label_studio_annotation where state = 'pending' and next_attempt_at <= now()
           order by next_attempt_at limit 1 for update skip locked"#
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Notes what came of a locked annotation. `Waiting` leaves it pending for `wait_seconds`.
pub async fn settle(
    connection: &mut PgConnection,
    row: &PendingAnnotation,
    outcome: AnnotationOutcome,
    label: Option<LabelId>,
    wait_seconds: f64,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update label_studio_annotation set outcome = $5, label = $6,
           state = case when $5 = 'waiting' then 'pending' else 'done' end, handled_at = now(),
           next_attempt_at = now() + make_interval(secs => $7)
         where project = $1 and source = $2 and ls_project = $3 and annotation = $4",
        row.project as ProjectId,
        row.source as TokenId,
        row.ls_project,
        row.annotation,
        outcome as AnnotationOutcome,
        label as Option<LabelId>,
        wait_seconds
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets a locked annotation that can't be acted on now wait.
pub async fn postpone(
    connection: &mut PgConnection,
    row: &PendingAnnotation,
    wait_seconds: f64,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update label_studio_annotation set next_attempt_at = now() + make_interval(secs => $5)
         where project = $1 and source = $2 and ls_project = $3 and annotation = $4",
        row.project as ProjectId,
        row.source as TokenId,
        row.ls_project,
        row.annotation,
        wait_seconds
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Annotations of a project heard of last that are no label and should be: pending, or refused.
pub async fn list_unkept(
    connection: &mut PgConnection,
    project: ProjectId,
    limit: i64,
) -> Result<Vec<AnnotationRow>, StoreError> {
    let rows = sqlx::query_as!(
        AnnotationRow,
        r#"select ls_project, annotation, class, item as "item: ItemId", outcome as "outcome: AnnotationOutcome", label as "label: LabelId",
             received_at
           from label_studio_annotation
           where project = $1 and (state = 'pending'
             or outcome in ('conflict', 'unknown_item', 'unknown_class', 'not_in_pool', 'no_budget', 'round_moved', 'no_choice'))
           order by received_at desc limit $2"#,
        project as ProjectId,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// An item of a project as Label Studio's tasks meet it.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundItem {
    /// Its id.
    pub id: ItemId,
    /// Its name.
    pub name: String,
    /// Its content.
    pub hash: ContentHash,
    /// The split it belongs to.
    pub split: Split,
    /// The class it is known to have.
    pub class: Option<ClassIndex>,
    /// Why it isn't in the pool any more.
    pub excluded: Option<Exclusion>,
    /// The import that brought it.
    pub import: ImportId,
}

/// Items as Label Studio's tasks meet them; `$which` is what follows the join of item i and segment s. A macro, since sqlx checks a query's text
/// when it compiles, and takes only literals.
macro_rules! list_found_items {
    ($connection:expr, $which:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            FoundItem,
            r#"select i.id as "id: ItemId", i.name, i.content_hash as "hash: ContentHash", i.split as "split: Split",
             i.class as "class: ClassIndex", i.excluded as "excluded: Exclusion", s.import as "import: ImportId"
           from item i join segment s on s.id = i.segment "# + $which
            $(, $argument)*
        )
        .fetch_all($connection)
        .await?
    };
}

/// A page of the pool, excluded items left out, after `after` in the order of ids.
pub async fn list_pool(
    connection: &mut PgConnection,
    project: ProjectId,
    after: Option<ItemId>,
    limit: i64,
) -> Result<Vec<FoundItem>, StoreError> {
    Ok(list_found_items!(
        connection,
        "where i.project = $1 and i.split = 'pool' and i.excluded is null
           and i.id > coalesce($2, '00000000-0000-0000-0000-000000000000'::uuid)
           order by i.id limit $3",
        project as ProjectId,
        after as Option<ItemId>,
        limit
    ))
}

/// The project's items that these keys name, in any order.
pub async fn find_items(
    connection: &mut PgConnection,
    project: ProjectId,
    keys: &[ItemKey],
) -> Result<Vec<FoundItem>, StoreError> {
    let mut ids: Vec<ItemId> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for key in keys {
        match key {
            ItemKey::Id(id) => ids.push(*id),
            // Postgres keeps no zero byte in text, so no item has such a name.
            ItemKey::Name(name) if name.contains('\0') => {}
            ItemKey::Name(name) => names.push(name.clone()),
        }
    }
    Ok(list_found_items!(
        connection,
        "where i.project = $1 and (i.id = any($2) or i.name = any($3))",
        project as ProjectId,
        &ids as &[ItemId],
        &names
    ))
}

/// The tasks of an item that aren't withdrawn, those that may be answered first.
pub async fn list_tasks_of_item(
    connection: &mut PgConnection,
    item: ItemId,
) -> Result<Vec<(TaskId, TaskState)>, StoreError> {
    let rows = sqlx::query!(
        r#"select id as "id: TaskId", state as "state: TaskState" from task where item = $1 and state <> 'withdrawn'
           order by state in ('open', 'adjudication') desc, source in ('query', 'random', 'ahead') desc, round_number desc, id desc"#,
        item as ItemId
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.state)).collect())
}
