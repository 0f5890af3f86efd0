//! What agreement is measured on: votes on items that several people judged, gold votes, and the votes that an operator sets aside.
//!
//! Read whole by `rounds` before a training and by `labeling` for its report; set aside under the project's lock.

use sqlx::PgConnection;

use super::StoreError;
use crate::domain::content_hash::ContentHash;
use crate::domain::ids::{ItemId, LabelId, ProjectId, TaskId, TokenId};
use crate::domain::project::ClassIndex;

/// A counted vote on an item that somebody else judged too, or on a gold item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedVote {
    /// The item.
    pub item: ItemId,
    /// Its content.
    pub hash: ContentHash,
    /// The class that the votes on it gave it; none for an imported class, which no vote changes.
    pub settled_class: Option<ClassIndex>,
    /// Who voted.
    pub labeler: TokenId,
    /// The person, when a tool labels for several.
    pub person: Option<String>,
    /// The class given.
    pub class: ClassIndex,
    /// The class that the item was known to have, when the vote answered a gold task.
    pub gold_class: Option<ClassIndex>,
}

/// How a labeler stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelerCounts {
    /// The token.
    pub labeler: TokenId,
    /// The person, when a tool labels for several.
    pub person: Option<String>,
    /// The token's name.
    pub name: String,
    /// Votes that count.
    pub vote_count: i64,
    /// Votes that were set aside.
    pub set_aside_count: i64,
    /// Votes on gold tasks, that the labeler hadn't judged before.
    pub gold_count: i64,
    /// Of these, right ones.
    pub gold_correct_count: i64,
}

/// The newest `limit` votes that can be compared, by contents and within them oldest first.
pub async fn list_shared_votes(
    connection: &mut PgConnection,
    project: ProjectId,
    limit: i64,
) -> Result<Vec<SharedVote>, StoreError> {
    let rows = sqlx::query_as!(
        SharedVote,
        r#"select item as "item!: ItemId", hash as "hash!: ContentHash", settled_class as "settled_class: ClassIndex",
             labeler as "labeler!: TokenId", person, class as "class!: ClassIndex", gold_class as "gold_class: ClassIndex"
           from (
             select l.id, l.item, i.content_hash as hash, case when i.class_source = 'votes' then i.class end as settled_class,
               l.labeler, l.person, l.class, case when t.source = 'gold' then t.known_class end as gold_class
             from label l join item i on i.id = l.item join task t on t.id = l.task
             where l.project = $1 and l.counted and l.undone_at is null and l.set_aside_at is null
               and (t.source = 'gold' and t.known_class is not null or t.source <> 'gold' and exists (
                 select from label o join task u on u.id = o.task
                 where o.item = l.item and o.id <> l.id and o.counted and o.undone_at is null and o.set_aside_at is null
                   and u.source <> 'gold' and (o.labeler, coalesce(o.person, '')) <> (l.labeler, coalesce(l.person, ''))))
             order by l.id desc limit $2
           ) as newest
           order by hash, id"#,
        project as ProjectId,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Every labeler of the project with its counts, most votes first.
pub async fn list_labelers(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Vec<LabelerCounts>, StoreError> {
    let rows = sqlx::query_as!(
        LabelerCounts,
        // A labeler whose own vote made the item's class is no measure of itself.
        r#"select l.labeler as "labeler: TokenId", l.person, k.name,
             count(*) filter (where l.set_aside_at is null) as "vote_count!",
             count(*) filter (where l.set_aside_at is not null) as "set_aside_count!",
             count(*) filter (where g.measures) as "gold_count!",
             count(*) filter (where g.measures and l.class = i.class) as "gold_correct_count!"
           from label l join token k on k.id = l.labeler join item i on i.id = l.item join task t on t.id = l.task
             cross join lateral (select t.source = 'gold' and i.class is not null and not exists (
               select from label o join task u on u.id = o.task
               where t.source = 'gold' and o.item = l.item and u.source <> 'gold' and o.counted and o.undone_at is null
                 and o.labeler = l.labeler and o.person is not distinct from l.person) as measures) as g
           where l.project = $1 and l.counted and l.undone_at is null
           group by l.labeler, l.person, k.name order by 4 desc, 1, 2"#,
        project as ProjectId
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Sets aside what a labeler voted in the project, of one person or of all behind the token; the task of each vote.
pub async fn set_aside(
    connection: &mut PgConnection,
    project: ProjectId,
    labeler: TokenId,
    person: Option<&str>,
) -> Result<Vec<TaskId>, StoreError> {
    let tasks = sqlx::query_scalar!(
        r#"update label set set_aside_at = now()
           where project = $1 and labeler = $2 and ($3::text is null or person = $3) and counted and undone_at is null
             and set_aside_at is null
           returning task as "task: TaskId""#,
        project as ProjectId,
        labeler as TokenId,
        person
    )
    .fetch_all(connection)
    .await?;
    Ok(tasks)
}

/// Whether the labeler has ever voted in the project.
pub async fn has_voted(
    connection: &mut PgConnection,
    project: ProjectId,
    labeler: TokenId,
) -> Result<bool, StoreError> {
    let voted = sqlx::query_scalar!(
        r#"select exists (select from label where project = $1 and labeler = $2) as "voted!""#,
        project as ProjectId,
        labeler as TokenId
    )
    .fetch_one(connection)
    .await?;
    Ok(voted)
}

/// How a suspected item stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspectStanding {
    /// The item.
    pub item: ItemId,
    /// Its path inside its source.
    pub name: String,
    /// Its class now.
    pub class: Option<ClassIndex>,
    /// Whether a relabel task asks or has asked for it.
    pub asked_again: bool,
    /// The counted votes behind its class, oldest first; none for an imported class.
    pub labels: Vec<LabelId>,
}

/// How these items stand.
pub async fn list_suspects(
    connection: &mut PgConnection,
    items: &[ItemId],
) -> Result<Vec<SuspectStanding>, StoreError> {
    let rows = sqlx::query_as!(
        SuspectStanding,
        r#"select i.id as "item: ItemId", i.name, i.class as "class: ClassIndex",
             exists (select from task t where t.item = i.id and t.source = 'relabel' and t.state <> 'withdrawn') as "asked_again!",
             array(select l.id from label l join task t on t.id = l.task
               where l.item = i.id and i.class_source = 'votes' and t.source <> 'gold' and l.counted and l.undone_at is null
                 and l.set_aside_at is null order by l.id) as "labels!: Vec<LabelId>"
           from item i where i.id = any($1)"#,
        items as &[ItemId]
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
