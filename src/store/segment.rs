//! Segments: the immutable files of packed images.
//!
//! The files are in the blob store before their row is committed, so a row never names a file that isn't there; a crash in between leaves
//! files that no row names.

use sqlx::PgConnection;

use super::StoreError;
use crate::domain::ids::{ImportId, ProjectId, SegmentId};
use crate::domain::settings::ImageShape;

/// A segment as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    /// Its id, which is in the keys of its files.
    pub id: SegmentId,
    /// 0, 1, … in the order of commits; nothing that must repeat may depend on it.
    pub number: i32,
    /// Rows of its tensor; a duplicate that was found late leaves a row that no item has.
    pub item_count: i32,
    /// Edge length of its images in pixels.
    pub size: i32,
    /// 1 or 3.
    pub channels: i32,
}

/// A segment to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewSegment {
    /// Its id, which the keys of its files have already.
    pub id: SegmentId,
    /// The import that reads it.
    pub import: ImportId,
    /// Rows of its tensor, at least 1.
    pub item_count: i32,
    /// Shape of its images.
    pub shape: ImageShape,
}

/// Makes a segment and gives its number. Two imports of one project wait for each other from here to the end of their transactions.
pub async fn insert(
    connection: &mut PgConnection,
    project: ProjectId,
    segment: &NewSegment,
) -> Result<i32, StoreError> {
    // The project's row is locked so that numbers stay dense; this mode doesn't hinder the inserts that only refer to the row.
    sqlx::query!("select from project where id = $1 for no key update", project as ProjectId)
        .fetch_optional(&mut *connection)
        .await?;
    let number = sqlx::query_scalar!(
        "insert into segment (id, project, import, number, item_count, size, channels)
         select $1, $2, $3, coalesce(max(number), -1) + 1, $4, $5, $6 from segment where project = $2
         returning number",
        segment.id as SegmentId,
        project as ProjectId,
        segment.import as ImportId,
        segment.item_count,
        segment.shape.size.cast_signed(),
        segment.shape.channels.cast_signed()
    )
    .fetch_one(connection)
    .await?;
    Ok(number)
}

/// The segments of a project in the order of their numbers.
pub async fn list(connection: &mut PgConnection, project: ProjectId) -> Result<Vec<SegmentRow>, StoreError> {
    let rows = sqlx::query_as!(
        SegmentRow,
        r#"select id as "id: SegmentId", number, item_count, size, channels
           from segment where project = $1 order by number"#,
        project as ProjectId
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TestDatabase;

    #[tokio::test]
    async fn segments_of_imports_at_once_are_numbered_without_gap() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat"]).await.id;
        let import = database.create_import(project).await;
        let shape = ImageShape { size: 28, channels: 1 };
        let make = |id| NewSegment { id, import, item_count: 5, shape };
        let (first_id, second_id) = (SegmentId::generate(), SegmentId::generate());
        let mut first = database.store().begin().await.unwrap();
        assert_eq!(insert(&mut first, project, &make(first_id)).await.unwrap(), 0);
        let (second, committed) = tokio::join!(
            async {
                let mut second = database.store().begin().await.unwrap();
                let number = insert(&mut second, project, &make(second_id)).await.unwrap();
                second.commit().await.unwrap();
                number
            },
            first.commit()
        );
        committed.unwrap();
        assert_eq!(second, 1);
        let mut connection = database.store().acquire().await.unwrap();
        let rows = list(&mut connection, project).await.unwrap();
        assert_eq!(
            rows.iter().map(|row| (row.id, row.number)).collect::<Vec<_>>(),
            [(first_id, 0), (second_id, 1)]
        );
        assert_eq!((rows[0].item_count, rows[0].size, rows[0].channels), (5, 28, 1));
    }
}
