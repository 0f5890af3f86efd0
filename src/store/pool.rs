//! The pool as learning sees it: rows of items with their place in the segments, labelled sets, candidates.
//!
//! Read by `rounds` and `worker`. Every list is in the order of content hashes, never of ids, so that what is trained and asked repeats in
//! another database. Excluded items are in none of them.

use sqlx::PgConnection;

use super::StoreError;
use crate::domain::content_hash::ContentHash;
use crate::domain::ids::{ItemId, ProjectId, SegmentId};
use crate::domain::project::ClassIndex;

/// An item and where its pixels lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolItem {
    /// Its id.
    pub id: ItemId,
    /// Its content.
    pub hash: ContentHash,
    /// Its segment.
    pub segment: SegmentId,
    /// Its row in the segment's tensor.
    pub segment_row: i32,
    /// The class it is known to have.
    pub class: Option<ClassIndex>,
}

/// A segment as shards of work are cut from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentExtent {
    /// Its id.
    pub id: SegmentId,
    /// 0, 1, … in the order of commits.
    pub number: i32,
    /// Items it holds.
    pub item_count: i32,
}

/// Reads pool items in the order of content hashes; `$which` is what follows `from item i`. A macro, since sqlx checks a query's text
/// when it compiles, and takes only literals.
macro_rules! list_pool_items {
    ($connection:expr, $which:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            PoolItem,
            r#"select i.id as "id: ItemId", i.content_hash as "hash: ContentHash", i.segment as "segment: SegmentId", i.segment_row,
             i.class as "class: ClassIndex"
           from item i "# + $which + " order by i.content_hash"
            $(, $argument)*
        )
        .fetch_all($connection)
        .await?
    };
}

/// Segments of a project in the order of numbers.
pub async fn list_segments(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Vec<SegmentExtent>, StoreError> {
    let rows = sqlx::query_as!(
        SegmentExtent,
        r#"select id as "id: SegmentId", number, item_count from segment where project = $1 order by number"#,
        project as ProjectId
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Pool items of the segments numbered `first` to `last`.
pub async fn list_items(
    connection: &mut PgConnection,
    project: ProjectId,
    first: i32,
    last: i32,
) -> Result<Vec<PoolItem>, StoreError> {
    Ok(list_pool_items!(
        connection,
        "join segment s on s.id = i.segment
           where i.project = $1 and i.split = 'pool' and i.excluded is null and s.number between $2 and $3",
        project as ProjectId,
        first,
        last
    ))
}

/// Pool items that round `round` and those before it left without a class, in the segments numbered `first` to `last`.
///
/// Answers that were asked ahead for a later round don't take an item out, so the list doesn't depend on how fast they come.
pub async fn list_unlabeled(
    connection: &mut PgConnection,
    project: ProjectId,
    round: i32,
    first: i32,
    last: i32,
) -> Result<Vec<PoolItem>, StoreError> {
    Ok(list_pool_items!(
        connection,
        "join segment s on s.id = i.segment
           where i.project = $1 and i.split = 'pool' and i.excluded is null and s.number between $3 and $4
             and (i.class is null or exists (select from task t where t.item = i.id and t.source = 'ahead' and t.state = 'settled' and t.round_number > $2))",
        project as ProjectId,
        round,
        first,
        last
    ))
}

/// Items that the batch of round `round` may ask: unlabelled by the rounds before it, and not resting.
pub async fn list_candidates(
    connection: &mut PgConnection,
    project: ProjectId,
    round: i32,
) -> Result<Vec<PoolItem>, StoreError> {
    Ok(list_pool_items!(
        connection,
        "where i.project = $1 and i.split = 'pool' and i.excluded is null and i.ask_from_round <= $2
             and (i.class is null or exists (select from task t where t.item = i.id and t.source = 'ahead' and t.state = 'settled' and t.round_number >= $2))",
        project as ProjectId,
        round
    ))
}

/// Which of these items can be asked in round `round` right now: no class, not excluded, not resting, in no live task.
pub async fn filter_askable(
    connection: &mut PgConnection,
    items: &[ItemId],
    round: i32,
) -> Result<Vec<ItemId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"select i.id as "id: ItemId" from item i
           where i.id = any($1) and i.class is null and i.excluded is null and i.ask_from_round <= $2
             and not exists (select from task t where t.item = i.id and t.source in ('query', 'random', 'ahead', 'relabel')
               and t.state in ('open', 'leased', 'settled', 'adjudication'))"#,
        items as &[ItemId],
        round
    )
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// How many items round `round` could ask right now.
pub async fn count_askable(
    connection: &mut PgConnection,
    project: ProjectId,
    round: i32,
) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from item i
           where i.project = $1 and i.split = 'pool' and i.class is null and i.excluded is null and i.ask_from_round <= $2
             and not exists (select from task t where t.item = i.id and t.source in ('query', 'random', 'ahead', 'relabel')
               and t.state in ('open', 'leased', 'settled', 'adjudication'))"#,
        project as ProjectId,
        round
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// Whether round `round` could ask any item right now; looks no further than the first.
pub async fn any_askable(
    connection: &mut PgConnection,
    project: ProjectId,
    round: i32,
) -> Result<bool, StoreError> {
    let any = sqlx::query_scalar!(
        r#"select exists (select from item i
             where i.project = $1 and i.split = 'pool' and i.class is null and i.excluded is null and i.ask_from_round <= $2
               and not exists (select from task t where t.item = i.id and t.source in ('query', 'random', 'ahead', 'relabel')
                 and t.state in ('open', 'leased', 'settled', 'adjudication'))) as "any!""#,
        project as ProjectId,
        round
    )
    .fetch_one(connection)
    .await?;
    Ok(any)
}

/// D_l: pool items with a class, imported or settled by votes.
pub async fn list_labeled(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Vec<PoolItem>, StoreError> {
    Ok(list_pool_items!(
        connection,
        "where i.project = $1 and i.split = 'pool' and i.excluded is null and i.class is not null",
        project as ProjectId
    ))
}

/// Pool items whose class is known, imported or settled, and that no task asks now: what gold tasks are drawn from.
pub async fn list_known(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Vec<PoolItem>, StoreError> {
    Ok(list_pool_items!(
        connection,
        "where i.project = $1 and i.split = 'pool' and i.excluded is null and i.class is not null
           and not exists (select from task t where t.item = i.id and t.state in ('open', 'adjudication'))",
        project as ProjectId
    ))
}

/// How items came to be asked: those drawn at random, and those that a model chose; each a settled item of a batch.
pub async fn list_samples(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<(Vec<ItemId>, Vec<ItemId>), StoreError> {
    let rows = sqlx::query!(
        r#"select t.item as "item: ItemId", t.source = 'random' as "random!" from task t join item i on i.id = t.item
           where t.project = $1 and t.state = 'settled' and i.class is not null and i.excluded is null
             and (t.source = 'random' or t.source in ('query', 'ahead') and t.model_version is not null)
           order by i.content_hash"#,
        project as ProjectId
    )
    .fetch_all(connection)
    .await?;
    let (mut random, mut queried) = (Vec::new(), Vec::new());
    for row in rows {
        if row.random { random.push(row.item) } else { queried.push(row.item) }
    }
    Ok((random, queried))
}

/// The test split, its classes known.
pub async fn list_test(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Vec<PoolItem>, StoreError> {
    Ok(list_pool_items!(
        connection,
        "where i.project = $1 and i.split = 'test' and i.excluded is null and i.class is not null",
        project as ProjectId
    ))
}

/// The items of these ids.
pub async fn list_by_ids(
    connection: &mut PgConnection,
    items: &[ItemId],
) -> Result<Vec<PoolItem>, StoreError> {
    Ok(list_pool_items!(connection, "where i.id = any($1)", items as &[ItemId]))
}

/// How many outputs a head needs: one above the largest class index, since a removed class leaves a gap.
pub async fn count_outputs(connection: &mut PgConnection, project: ProjectId) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"select coalesce(max(index) + 1, 0)::int8 as "count!" from class where project = $1"#,
        project as ProjectId
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// How many different classes the labelled pool items have, and how many classes the project has.
pub async fn count_classes(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<(i64, i64), StoreError> {
    let row = sqlx::query!(
        r#"select
             (select count(distinct class) from item
              where project = $1 and split = 'pool' and excluded is null and class is not null) as "labeled!",
             (select count(*) from class where project = $1) as "all!""#,
        project as ProjectId
    )
    .fetch_one(connection)
    .await?;
    Ok((row.labeled, row.all))
}
