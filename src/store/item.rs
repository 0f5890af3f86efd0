//! Items: made in bulk by imports, listed and shown one by one.
//!
//! What learning reads of them is in `pool`; classes are settled in `task`, and exclusions set in `skip`. Names and contents are
//! unique in a project; both rules are unique indexes, so they hold between imports that run at once.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;

use super::StoreError;
use crate::domain::content_hash::ContentHash;
use crate::domain::ids::{ItemId, ProjectId, SegmentId};
use crate::domain::item::{Exclusion, Split};
use crate::domain::project::ClassIndex;

/// An item as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemRow {
    /// Its id.
    pub id: ItemId,
    /// Its project.
    pub project: ProjectId,
    /// Its path inside its source.
    pub name: String,
    /// The split it belongs to.
    pub split: Split,
    /// Width of the original in pixels.
    pub width: i32,
    /// Height of the original in pixels.
    pub height: i32,
    /// Channels of the original.
    pub channels: i32,
    /// Media type of the original, such as `image/png`.
    pub media_type: String,
    /// SHA-256 of its content.
    pub content_hash: ContentHash,
    /// The class it is known to have.
    pub class: Option<ClassIndex>,
    /// Why it left the pool.
    pub excluded: Option<Exclusion>,
    /// The segment that holds it.
    pub segment: SegmentId,
    /// Where its original begins in the segment's pack, in bytes.
    pub pack_offset: i64,
    /// Length of its original in bytes.
    pub pack_length: i32,
}

/// An item of the pool with its class, and where its original lies.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassifiedItem {
    /// Its id.
    pub id: ItemId,
    /// Its path inside its source.
    pub name: String,
    /// Its class's name.
    pub class: String,
    /// Media type of the original.
    pub media_type: String,
    /// The segment that holds it.
    pub segment: SegmentId,
    /// Where its original begins in the segment's pack, in bytes.
    pub pack_offset: i64,
    /// Length of its original in bytes.
    pub pack_length: i32,
}

/// An item to be made.
#[derive(Clone, Debug)]
pub struct NewItem {
    /// Row in the segment's tensor.
    pub segment_row: i32,
    /// Where its original begins in the segment's pack, in bytes.
    pub pack_offset: i64,
    /// Length of its original in bytes.
    pub pack_length: i32,
    /// Media type of the original.
    pub media_type: String,
    /// Its path inside its source.
    pub name: String,
    /// The split it belongs to.
    pub split: Split,
    /// Width of the original in pixels.
    pub width: i32,
    /// Height of the original in pixels.
    pub height: i32,
    /// Channels of the original.
    pub channels: i32,
    /// SHA-256 of its content.
    pub content_hash: ContentHash,
    /// The class that its source gives it.
    pub class: Option<ClassIndex>,
}

/// What became of an item that was to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Insertion {
    /// It is new.
    Added,
    /// The project has this content already, whatever its name.
    Duplicate,
    /// The project has another content under this name.
    NameTaken,
}

/// How many items a project has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemCounts {
    /// Items that may be asked or were.
    pub pool_count: i64,
    /// Items of the test split.
    pub test_count: i64,
    /// Pool items with a class, imported or settled.
    pub labeled_count: i64,
}

/// Makes the items of a segment, and says of each, in order, what became of it. Of two alike in `items` the first is made.
pub async fn insert_all(
    connection: &mut PgConnection,
    project: ProjectId,
    segment: SegmentId,
    items: &[NewItem],
) -> Result<Vec<Insertion>, StoreError> {
    let ids: Vec<_> = items.iter().map(|_| ItemId::generate()).collect();
    let added = insert_new(connection, project, segment, &ids, items).await?;
    let old =
        || ids.iter().zip(items).filter(|(id, _)| !added.contains(id)).map(|(_, item)| item.content_hash);
    let known = find_contents(connection, project, &old().collect::<Vec<_>>()).await?;
    let judge =
        |(id, item): (&ItemId, &NewItem)| match (added.contains(id), known.contains(&item.content_hash)) {
            (true, _) => Insertion::Added,
            (false, true) => Insertion::Duplicate,
            (false, false) => Insertion::NameTaken,
        };
    Ok(ids.iter().zip(items).map(judge).collect())
}

async fn insert_new(
    connection: &mut PgConnection,
    project: ProjectId,
    segment: SegmentId,
    ids: &[ItemId],
    items: &[NewItem],
) -> Result<HashSet<ItemId>, StoreError> {
    fn column<T>(items: &[NewItem], field: impl Fn(&NewItem) -> T) -> Vec<T> {
        items.iter().map(field).collect()
    }
    let added = sqlx::query_scalar!(
        // Ordered by content, so that imports at once take the index's locks in one order and don't deadlock.
        r#"insert into item (id, project, segment, segment_row, pack_offset, pack_length, media_type, name, split, width, height,
             channels, content_hash, class, class_source)
           select id, $1, $2, segment_row, pack_offset, pack_length, media_type, name, split, width, height,
             channels, content_hash, class, case when class is not null then 'import' end
           from unnest($3::uuid[], $4::int[], $5::bigint[], $6::int[], $7::text[], $8::text[], $9::text[], $10::int[], $11::int[],
             $12::int[], $13::bytea[], $14::smallint[]) with ordinality
             as new (id, segment_row, pack_offset, pack_length, media_type, name, split, width, height, channels, content_hash, class,
               position)
           order by content_hash, position
           on conflict do nothing
           returning id as "id: ItemId""#,
        project as ProjectId,
        segment as SegmentId,
        ids as &[ItemId],
        &column(items, |item| item.segment_row),
        &column(items, |item| item.pack_offset),
        &column(items, |item| item.pack_length),
        &column(items, |item| item.media_type.clone()),
        &column(items, |item| item.name.clone()),
        &column(items, |item| item.split) as &[Split],
        &column(items, |item| item.width),
        &column(items, |item| item.height),
        &column(items, |item| item.channels),
        &column(items, |item| item.content_hash) as &[ContentHash],
        &column(items, |item| item.class) as &[Option<ClassIndex>]
    )
    .fetch_all(connection)
    .await?;
    Ok(added.into_iter().collect())
}

async fn find_contents(
    connection: &mut PgConnection,
    project: ProjectId,
    hashes: &[ContentHash],
) -> Result<HashSet<ContentHash>, StoreError> {
    if hashes.is_empty() {
        return Ok(HashSet::new());
    }
    let known = sqlx::query_scalar!(
        r#"select content_hash as "hash: ContentHash" from item where project = $1 and content_hash = any($2)"#,
        project as ProjectId,
        hashes as &[ContentHash]
    )
    .fetch_all(connection)
    .await?;
    Ok(known.into_iter().collect())
}

/// The names of these items, in any order.
pub async fn list_names(
    connection: &mut PgConnection,
    items: &[ItemId],
) -> Result<HashMap<ItemId, String>, StoreError> {
    let rows =
        sqlx::query!(r#"select id as "id: ItemId", name from item where id = any($1)"#, items as &[ItemId])
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.name)).collect())
}

/// A page of the pool's items that have a class, with its name, after `after` in the order of ids.
pub async fn list_classified(
    connection: &mut PgConnection,
    project: ProjectId,
    after: Option<ItemId>,
    limit: i64,
) -> Result<Vec<ClassifiedItem>, StoreError> {
    let rows = sqlx::query_as!(
        ClassifiedItem,
        r#"select i.id as "id: ItemId", i.name, c.name as class, i.media_type, i.segment as "segment: SegmentId", i.pack_offset,
             i.pack_length
           from item i join class c on c.project = i.project and c.index = i.class
           where i.project = $1 and i.split = 'pool' and i.excluded is null and ($2::uuid is null or i.id > $2)
           order by i.id limit $3"#,
        project as ProjectId,
        after as Option<ItemId>,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The item of this id, unless its project is hidden.
pub async fn find(connection: &mut PgConnection, id: ItemId) -> Result<Option<ItemRow>, StoreError> {
    let row = sqlx::query_as!(
        ItemRow,
        r#"select i.id as "id: ItemId", i.project as "project: ProjectId", i.name, i.split as "split: Split", i.width, i.height,
             i.channels, i.media_type, i.content_hash as "content_hash: ContentHash", i.class as "class: ClassIndex",
             i.excluded as "excluded: Exclusion", i.segment as "segment: SegmentId", i.pack_offset, i.pack_length
           from item i join project p on p.id = i.project and p.deleted_at is null
           where i.id = $1"#,
        id as ItemId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Up to `limit` items after the one of id `after`, in the order of ids: only of one split, and only with (or without) a class, when
/// given.
pub async fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    split: Option<Split>,
    labeled: Option<bool>,
    after: Option<ItemId>,
    limit: i64,
) -> Result<Vec<ItemRow>, StoreError> {
    let rows = sqlx::query_as!(
        ItemRow,
        r#"select id as "id: ItemId", project as "project: ProjectId", name, split as "split: Split", width, height, channels,
             media_type, content_hash as "content_hash: ContentHash", class as "class: ClassIndex",
             excluded as "excluded: Exclusion", segment as "segment: SegmentId", pack_offset, pack_length
           from item
           where project = $1 and id > coalesce($4, '00000000-0000-0000-0000-000000000000'::uuid)
             and ($2::text is null or split = $2) and ($3::boolean is null or (class is not null) = $3)
           order by id limit $5"#,
        project as ProjectId,
        split as Option<Split>,
        labeled,
        after as Option<ItemId>,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Counts a project's items; excluded ones count nowhere.
pub async fn count(connection: &mut PgConnection, project: ProjectId) -> Result<ItemCounts, StoreError> {
    let counts = sqlx::query_as!(
        ItemCounts,
        // Apart, so that each is answered from a small index of its own.
        r#"select
             (select count(*) from item where project = $1 and split = 'pool' and excluded is null) as "pool_count!",
             (select count(*) from item where project = $1 and split = 'test' and excluded is null) as "test_count!",
             (select count(*) from item
              where project = $1 and split = 'pool' and excluded is null and class is not null) as "labeled_count!""#,
        project as ProjectId
    )
    .fetch_one(connection)
    .await?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{TestDatabase, new_item};

    #[tokio::test]
    async fn contents_and_names_are_unique_and_each_refusal_is_told_apart() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat"]).await.id;
        let segment = database.create_segment(project).await;
        let mut connection = database.store().acquire().await.unwrap();
        let first =
            [new_item(0, "a.png", b"a"), new_item(1, "b.png", b"b"), new_item(2, "again/a.png", b"a")];
        let outcomes = insert_all(&mut connection, project, segment, &first).await.unwrap();
        assert_eq!(outcomes, [Insertion::Added, Insertion::Added, Insertion::Duplicate]);
        let second = [new_item(3, "a.png", b"other"), new_item(4, "b.png", b"b"), new_item(5, "c.png", b"c")];
        let outcomes = insert_all(&mut connection, project, segment, &second).await.unwrap();
        assert_eq!(outcomes, [Insertion::NameTaken, Insertion::Duplicate, Insertion::Added]);
        let names: Vec<_> = list(&mut connection, project, None, None, None, 10)
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.name)
            .collect();
        assert_eq!(names.len(), 3);
        assert!(names.contains(&"a.png".to_owned()) && !names.contains(&"again/a.png".to_owned()));

        // Another project may have the same images.
        let other = database.create_project("q", &["bag", "coat"]).await.id;
        let segment = database.create_segment(other).await;
        assert_eq!(
            insert_all(&mut connection, other, segment, &first[..1]).await.unwrap(),
            [Insertion::Added]
        );
    }

    #[tokio::test]
    async fn an_item_comes_back_whole_until_its_project_is_hidden() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat"]).await.id;
        let segment = database.create_segment(project).await;
        let mut connection = database.store().acquire().await.unwrap();
        let new =
            NewItem { class: Some(ClassIndex(1)), split: Split::Test, ..new_item(0, "test/a.png", b"a") };
        insert_all(&mut connection, project, segment, std::slice::from_ref(&new)).await.unwrap();
        let id = list(&mut connection, project, None, None, None, 1).await.unwrap()[0].id;
        let row = find(&mut connection, id).await.unwrap().unwrap();
        assert_eq!((row.project, row.segment, row.name.as_str()), (project, segment, "test/a.png"));
        assert_eq!((row.class, row.split, row.content_hash), (new.class, Split::Test, new.content_hash));
        assert_eq!((row.pack_offset, row.pack_length), (new.pack_offset, new.pack_length));
        let source: String = sqlx::query_scalar("select class_source from item where id = $1")
            .bind(id)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(source, "import");
        crate::store::project::hide(&mut connection, project).await.unwrap();
        assert_eq!(find(&mut connection, id).await.unwrap(), None);
    }

    #[tokio::test]
    async fn lists_and_counts_know_splits_classes_and_exclusions() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat"]).await.id;
        let segment = database.create_segment(project).await;
        let mut connection = database.store().acquire().await.unwrap();
        let items: Vec<_> = (0_u8..6)
            .map(|row| NewItem {
                split: if row < 4 { Split::Pool } else { Split::Test },
                class: (row == 3 || row >= 4).then_some(ClassIndex(0)),
                ..new_item(i32::from(row), &format!("{row}.png"), &[row])
            })
            .collect();
        insert_all(&mut connection, project, segment, &items).await.unwrap();
        sqlx::query("update item set excluded = 'broken' where name = '0.png'")
            .execute(&mut *connection)
            .await
            .unwrap();
        let counts = count(&mut connection, project).await.unwrap();
        assert_eq!(counts, ItemCounts { pool_count: 3, test_count: 2, labeled_count: 1 });

        let all = list(&mut connection, project, None, None, None, 10).await.unwrap();
        let first = list(&mut connection, project, None, None, None, 4).await.unwrap();
        let rest = list(&mut connection, project, None, None, Some(first[3].id), 4).await.unwrap();
        assert_eq!([first, rest].concat(), all);
        assert!(all.is_sorted_by_key(|row| row.id));
        let mut count_of = async |split, labeled| {
            list(&mut connection, project, split, labeled, None, 10).await.unwrap().len()
        };
        assert_eq!(count_of(Some(Split::Pool), None).await, 4);
        assert_eq!(count_of(None, Some(true)).await, 3);
        assert_eq!(count_of(Some(Split::Pool), Some(false)).await, 3);
    }
}
