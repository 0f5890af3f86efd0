//! Imports: what was asked, how far it is, and what was not taken.
//!
//! `read_count` is the cursor: entries before it are decided for good. It moves in the transaction that makes their items, and only from
//! where the reader found it, so a worker that was thought dead can't count an entry twice. `queued → running → done | failed`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::StoreError;
use crate::domain::ids::{ImportId, ProjectId};
use crate::domain::import::{ImportFormat, ImportState, LabelRule, Rejection, SplitRule};

/// Rejections that are kept by name; the rest is only counted.
pub const REJECTION_COUNT_MAX: usize = 1000;

/// An import as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRow {
    /// Its id.
    pub id: ImportId,
    /// The project it reads into.
    pub project: ProjectId,
    /// Path of the source; of no use for an upload.
    pub source: String,
    /// Whether the source is an upload in the blob store.
    pub uploaded: bool,
    /// Shape of the source, as asked.
    pub format: ImportFormat,
    /// Which part of it is taken.
    pub split: SplitRule,
    /// What becomes of its classes.
    pub labels: LabelRule,
    /// Where it stands.
    pub state: ImportState,
    /// Entries of the source that are decided: added, duplicate, rejected or not wanted.
    pub read_count: i64,
    /// Items it made.
    pub added_count: i64,
    /// Entries whose content the project had already.
    pub duplicate_count: i64,
    /// Entries that were not taken.
    pub rejected_count: i64,
    /// Items whose image had other channels than the project and was converted.
    pub converted_count: i64,
    /// The first thousand rejections.
    pub rejected: Vec<Rejection>,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it was done or failed.
    pub ended_at: Option<DateTime<Utc>>,
}

/// An import to be made.
#[derive(Clone, Debug)]
pub struct NewImport {
    /// Its id, under which an upload is stored already.
    pub id: ImportId,
    /// Path of the source.
    pub source: String,
    /// Whether the source is an upload in the blob store.
    pub uploaded: bool,
    /// Shape of the source.
    pub format: ImportFormat,
    /// Which part of it is taken.
    pub split: SplitRule,
    /// What becomes of its classes.
    pub labels: LabelRule,
}

/// A step of an import.
#[derive(Clone, Debug, Default)]
pub struct Advance {
    /// Where the reader found the cursor.
    pub from_read_count: i64,
    /// Where it is now.
    pub read_count: i64,
    /// Items made in this step.
    pub added_count: i64,
    /// Duplicates met in this step.
    pub duplicate_count: i64,
    /// Items of this step that were converted.
    pub converted_count: i64,
    /// Entries of this step that were not taken.
    pub rejected: Vec<Rejection>,
}

/// Makes a queued import.
pub async fn insert(
    connection: &mut PgConnection,
    project: ProjectId,
    import: &NewImport,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into import (id, project, source, uploaded, format, split, labels) values ($1, $2, $3, $4, $5, $6, $7)",
        import.id as ImportId,
        project as ProjectId,
        import.source,
        import.uploaded,
        import.format as ImportFormat,
        import.split as SplitRule,
        import.labels as LabelRule
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A row as it is read; the list of rejections is JSON.
struct StoredImport {
    id: ImportId,
    project: ProjectId,
    source: String,
    uploaded: bool,
    format: ImportFormat,
    split: SplitRule,
    labels: LabelRule,
    state: ImportState,
    read_count: i64,
    added_count: i64,
    duplicate_count: i64,
    rejected_count: i64,
    converted_count: i64,
    rejected: Json<Vec<Rejection>>,
    error: Option<String>,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl From<StoredImport> for ImportRow {
    fn from(row: StoredImport) -> Self {
        Self {
            id: row.id,
            project: row.project,
            source: row.source,
            uploaded: row.uploaded,
            format: row.format,
            split: row.split,
            labels: row.labels,
            state: row.state,
            read_count: row.read_count,
            added_count: row.added_count,
            duplicate_count: row.duplicate_count,
            rejected_count: row.rejected_count,
            converted_count: row.converted_count,
            rejected: row.rejected.0,
            error: row.error,
            created_at: row.created_at,
            ended_at: row.ended_at,
        }
    }
}

/// The import of this id.
pub async fn find(connection: &mut PgConnection, id: ImportId) -> Result<Option<ImportRow>, StoreError> {
    let row = sqlx::query_as!(
        StoredImport,
        r#"select id as "id: ImportId", project as "project: ProjectId", source, uploaded, format as "format: ImportFormat",
             split as "split: SplitRule", labels as "labels: LabelRule", state as "state: ImportState", read_count, added_count,
             duplicate_count, rejected_count, converted_count, rejected as "rejected: Json<Vec<Rejection>>", error, created_at, ended_at
           from import where id = $1"#,
        id as ImportId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(ImportRow::from))
}

/// Up to `limit` imports of a project after the one of id `after`, the oldest first.
pub async fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    after: Option<ImportId>,
    limit: i64,
) -> Result<Vec<ImportRow>, StoreError> {
    let rows = sqlx::query_as!(
        StoredImport,
        r#"select id as "id: ImportId", project as "project: ProjectId", source, uploaded, format as "format: ImportFormat",
             split as "split: SplitRule", labels as "labels: LabelRule", state as "state: ImportState", read_count, added_count,
             duplicate_count, rejected_count, converted_count, rejected as "rejected: Json<Vec<Rejection>>", error, created_at, ended_at
           from import where project = $1 and ($2::uuid is null or id > $2) order by id limit $3"#,
        project as ProjectId,
        after as Option<ImportId>,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(ImportRow::from).collect())
}

/// Whether the project has any import, in whatever state.
pub async fn exists(connection: &mut PgConnection, project: ProjectId) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar!(
        r#"select exists (select from import where project = $1) as "exists!""#,
        project as ProjectId
    )
    .fetch_one(connection)
    .await?;
    Ok(found)
}

/// A worker begins, or goes on after another worker died; false when the import has ended.
pub async fn start(connection: &mut PgConnection, id: ImportId) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update import set state = 'running' where id = $1 and state in ('queued', 'running')",
        id as ImportId
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Moves the cursor and adds up; in the transaction that made the step's items.
///
/// False when the import isn't running or its cursor isn't where the reader found it: then another worker reads it, and the caller must
/// roll back.
pub async fn advance(
    connection: &mut PgConnection,
    id: ImportId,
    step: &Advance,
) -> Result<bool, StoreError> {
    let kept = &step.rejected[..step.rejected.len().min(REJECTION_COUNT_MAX)];
    let done = sqlx::query!(
        "update import set read_count = $3, added_count = added_count + $4, duplicate_count = duplicate_count + $5,
           converted_count = converted_count + $6, rejected_count = rejected_count + $7,
           rejected = case when jsonb_array_length($8::jsonb) = 0 then rejected else
             (select coalesce(jsonb_agg(entry order by position), '[]')
              from jsonb_array_elements(rejected || $8::jsonb) with ordinality as listed (entry, position)
              where position <= $9) end
         where id = $1 and state = 'running' and read_count = $2",
        id as ImportId,
        step.from_read_count,
        step.read_count,
        step.added_count,
        step.duplicate_count,
        step.converted_count,
        step.rejected.len() as i64,
        Json(kept) as Json<&[Rejection]>,
        REJECTION_COUNT_MAX as i64
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// All of it was read; false when it isn't running.
pub async fn finish(connection: &mut PgConnection, id: ImportId) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update import set state = 'done', ended_at = now() where id = $1 and state = 'running'",
        id as ImportId
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// It ended with an error; what it added stays. False when it has ended already.
pub async fn fail(connection: &mut PgConnection, id: ImportId, error: &str) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update import set state = 'failed', error = $2, ended_at = now() where id = $1 and state in ('queued', 'running')",
        id as ImportId,
        error
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TestDatabase;

    fn rejections(count: usize) -> Vec<Rejection> {
        (0..count)
            .map(|number| Rejection { name: format!("{number}.png"), reason: "is no image".to_owned() })
            .collect()
    }

    #[tokio::test]
    async fn an_import_counts_up_and_keeps_the_first_thousand_rejections() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat"]).await.id;
        let mut connection = database.store().acquire().await.unwrap();
        assert!(!exists(&mut connection, project).await.unwrap());
        let id = database.create_import(project).await;
        assert!(exists(&mut connection, project).await.unwrap());
        assert!(start(&mut connection, id).await.unwrap());
        let step = Advance {
            read_count: 900,
            added_count: 90,
            duplicate_count: 10,
            converted_count: 5,
            rejected: rejections(800),
            ..Advance::default()
        };
        assert!(advance(&mut connection, id, &step).await.unwrap());
        let step = Advance {
            from_read_count: 900,
            read_count: 2_200,
            rejected: rejections(1_300),
            ..Advance::default()
        };
        assert!(advance(&mut connection, id, &step).await.unwrap());
        assert!(finish(&mut connection, id).await.unwrap());
        let row = find(&mut connection, id).await.unwrap().unwrap();
        assert_eq!((row.state, row.read_count, row.rejected_count), (ImportState::Done, 2_200, 2_100));
        assert_eq!((row.added_count, row.duplicate_count, row.converted_count), (90, 10, 5));
        assert_eq!(row.rejected, [rejections(800), rejections(200)].concat());
        assert!(row.ended_at.is_some());
    }

    #[tokio::test]
    async fn a_worker_that_was_thought_dead_moves_nothing() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat"]).await.id;
        let id = database.create_import(project).await;
        let mut connection = database.store().acquire().await.unwrap();
        let step = Advance { read_count: 10, added_count: 10, ..Advance::default() };
        assert!(!advance(&mut connection, id, &step).await.unwrap(), "it was not started");
        start(&mut connection, id).await.unwrap();
        assert!(advance(&mut connection, id, &step).await.unwrap());
        assert!(!advance(&mut connection, id, &step).await.unwrap(), "the cursor has moved");
        assert!(start(&mut connection, id).await.unwrap(), "another worker goes on");
        assert!(fail(&mut connection, id, "the disk is full").await.unwrap());
        assert!(!finish(&mut connection, id).await.unwrap());
        assert!(!start(&mut connection, id).await.unwrap());
        let row = find(&mut connection, id).await.unwrap().unwrap();
        assert_eq!(
            (row.state, row.added_count, row.error.as_deref()),
            (ImportState::Failed, 10, Some("the disk is full"))
        );
    }

    #[tokio::test]
    async fn pages_of_imports_join_and_keep_to_their_project() {
        let database = TestDatabase::create().await;
        let project = database.create_project("p", &["bag", "coat"]).await.id;
        let other = database.create_project("q", &["bag", "coat"]).await.id;
        let mut ids = vec![database.create_import(project).await, database.create_import(project).await];
        database.create_import(other).await;
        ids.sort();
        let mut connection = database.store().acquire().await.unwrap();
        let first = list(&mut connection, project, None, 1).await.unwrap();
        let rest = list(&mut connection, project, Some(first[0].id), 5).await.unwrap();
        assert_eq!([first, rest].concat().iter().map(|row| row.id).collect::<Vec<_>>(), ids);
    }
}
