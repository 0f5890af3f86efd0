//! Projects: the row, its settings, and its end.
//!
//! States and flags are moved by `round`, which owns the life cycle; here a project is made, found, changed and hidden. A hidden project is
//! found by nobody and its name is free again; `retention` purges it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::ids::ProjectId;
use crate::domain::project::{FinishReason, ProjectState};
use crate::domain::settings::ProjectSettings;

/// A project as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectRow {
    /// Its id.
    pub id: ProjectId,
    /// Unique among the projects that aren't hidden.
    pub name: String,
    /// Where it stands; a failed job doesn't change it.
    pub state: ProjectState,
    /// Whether the operator paused it.
    pub paused: bool,
    /// Whether the operator asked to end it after the running batch.
    pub finish_requested: bool,
    /// Why it ended or is about to, unless it was reopened since.
    pub finish_reason: Option<FinishReason>,
    /// Everything that the operator decided.
    pub settings: ProjectSettings,
    /// Version of the last published downstream model.
    pub model_version: Option<i32>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was started first.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was finished, unless it was reopened since.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Makes an empty project. Conflict on `project_name` when another has the name.
pub async fn insert(
    connection: &mut PgConnection,
    name: &str,
    settings: &ProjectSettings,
) -> Result<ProjectRow, StoreError> {
    let row = sqlx::query_as!(
        ProjectRow,
        r#"insert into project (id, name, state, settings) values ($1, $2, 'empty', $3)
           returning id as "id: ProjectId", name, state as "state: ProjectState", paused, finish_requested,
             finish_reason as "finish_reason: FinishReason",
             settings as "settings: ProjectSettings", model_version, created_at, started_at, finished_at"#,
        ProjectId::generate() as ProjectId,
        name,
        settings as &ProjectSettings
    )
    .fetch_one(connection)
    .await?;
    Ok(row)
}

/// The project of this id, unless it is hidden.
pub async fn find(connection: &mut PgConnection, id: ProjectId) -> Result<Option<ProjectRow>, StoreError> {
    let row = sqlx::query_as!(
        ProjectRow,
        r#"select id as "id: ProjectId", name, state as "state: ProjectState", paused, finish_requested,
             finish_reason as "finish_reason: FinishReason",
             settings as "settings: ProjectSettings", model_version, created_at, started_at, finished_at
           from project where id = $1 and deleted_at is null"#,
        id as ProjectId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// The project of this name or id, unless it is hidden.
pub async fn find_by_key(connection: &mut PgConnection, key: &str) -> Result<Option<ProjectRow>, StoreError> {
    match key.parse::<ProjectId>() {
        Ok(id) => find(connection, id).await,
        Err(_) => find_by_name(connection, key).await,
    }
}

/// The project of this name, unless it is hidden.
pub async fn find_by_name(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Option<ProjectRow>, StoreError> {
    let row = sqlx::query_as!(
        ProjectRow,
        r#"select id as "id: ProjectId", name, state as "state: ProjectState", paused, finish_requested,
             finish_reason as "finish_reason: FinishReason",
             settings as "settings: ProjectSettings", model_version, created_at, started_at, finished_at
           from project where name = $1 and deleted_at is null"#,
        name
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Up to `limit` projects after the one of id `after`, the oldest first; only those of `ids` when given.
pub async fn list(
    connection: &mut PgConnection,
    ids: Option<&[ProjectId]>,
    after: Option<ProjectId>,
    limit: i64,
) -> Result<Vec<ProjectRow>, StoreError> {
    let rows = sqlx::query_as!(
        ProjectRow,
        r#"select id as "id: ProjectId", name, state as "state: ProjectState", paused, finish_requested,
             finish_reason as "finish_reason: FinishReason",
             settings as "settings: ProjectSettings", model_version, created_at, started_at, finished_at
           from project
           where deleted_at is null and ($1::uuid[] is null or id = any($1)) and ($2::uuid is null or id > $2)
           order by id limit $3"#,
        ids as Option<&[ProjectId]>,
        after as Option<ProjectId>,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Replaces the settings; which of them may still change is the caller's rule.
pub async fn update_settings(
    connection: &mut PgConnection,
    id: ProjectId,
    settings: &ProjectSettings,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update project set settings = $2 where id = $1",
        id as ProjectId,
        settings as &ProjectSettings
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The SHA-256 of the weights that pretraining begins with, in hexadecimal; `None` for drawn ones.
pub async fn find_initial_weights(
    connection: &mut PgConnection,
    id: ProjectId,
) -> Result<Option<String>, StoreError> {
    let found = sqlx::query_scalar!("select initial_weights from project where id = $1", id as ProjectId)
        .fetch_optional(connection)
        .await?;
    Ok(found.flatten())
}

/// Notes with which weights pretraining begins; false once the project has started.
pub async fn set_initial_weights(
    connection: &mut PgConnection,
    id: ProjectId,
    sha256: Option<&str>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update project set initial_weights = $2
         where id = $1 and deleted_at is null and state in ('empty', 'importing', 'ready')",
        id as ProjectId,
        sha256
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives another name. Conflict on `project_name` when another project has it.
pub async fn rename(connection: &mut PgConnection, id: ProjectId, name: &str) -> Result<(), StoreError> {
    sqlx::query!("update project set name = $2 where id = $1", id as ProjectId, name)
        .execute(connection)
        .await?;
    Ok(())
}

/// Hides the project from everybody; false when it was hidden already. `retention` purges it seven days later.
pub async fn hide(connection: &mut PgConnection, id: ProjectId) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update project set deleted_at = now() where id = $1 and deleted_at is null",
        id as ProjectId
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TestDatabase;

    #[tokio::test]
    async fn a_project_is_found_by_id_and_name_until_it_is_hidden_and_its_name_is_free_then() {
        let database = TestDatabase::create().await;
        let mut connection = database.store().acquire().await.unwrap();
        let settings = ProjectSettings { budget: 12.5, ..Default::default() };
        let row = insert(&mut connection, "bags", &settings).await.unwrap();
        assert_eq!((row.state, row.paused, &row.settings), (ProjectState::Empty, false, &settings));
        assert_eq!(find(&mut connection, row.id).await.unwrap().as_ref(), Some(&row));
        assert_eq!(find_by_name(&mut connection, "bags").await.unwrap().as_ref(), Some(&row));
        let twin = insert(&mut connection, "bags", &settings).await.unwrap_err();
        assert!(twin.is_conflict_on("project_name"), "{twin:?}");

        assert!(hide(&mut connection, row.id).await.unwrap());
        assert!(!hide(&mut connection, row.id).await.unwrap());
        assert_eq!(find(&mut connection, row.id).await.unwrap(), None);
        assert_eq!(find_by_name(&mut connection, "bags").await.unwrap(), None);
        assert_eq!(list(&mut connection, None, None, 10).await.unwrap(), vec![]);
        insert(&mut connection, "bags", &settings).await.unwrap();
    }

    #[tokio::test]
    async fn pages_of_projects_join_without_gap_and_keep_to_the_ids_asked_for() {
        let database = TestDatabase::create().await;
        let mut connection = database.store().acquire().await.unwrap();
        let mut ids = Vec::new();
        for name in ["a", "b", "c"] {
            ids.push(insert(&mut connection, name, &ProjectSettings::default()).await.unwrap().id);
        }
        ids.sort();
        let names = |rows: &[ProjectRow]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
        let first = list(&mut connection, None, None, 2).await.unwrap();
        let second = list(&mut connection, None, Some(first[1].id), 2).await.unwrap();
        assert_eq!([names(&first), names(&second)].concat(), ids);
        assert_eq!(names(&list(&mut connection, Some(&ids[1..]), None, 9).await.unwrap()), ids[1..]);
        assert_eq!(list(&mut connection, Some(&[]), None, 9).await.unwrap(), vec![]);
    }

    #[tokio::test]
    async fn settings_and_names_change_and_a_name_in_use_is_refused() {
        let database = TestDatabase::create().await;
        let mut connection = database.store().acquire().await.unwrap();
        let row = insert(&mut connection, "bags", &ProjectSettings::default()).await.unwrap();
        insert(&mut connection, "coats", &ProjectSettings::default()).await.unwrap();
        let settings = ProjectSettings { batch_size: 7, ..row.settings };
        update_settings(&mut connection, row.id, &settings).await.unwrap();
        rename(&mut connection, row.id, "handbags").await.unwrap();
        let changed = find_by_name(&mut connection, "handbags").await.unwrap().unwrap();
        assert_eq!((changed.id, changed.settings), (row.id, settings));
        let refused = rename(&mut connection, row.id, "coats").await.unwrap_err();
        assert!(refused.is_conflict_on("project_name"), "{refused:?}");
    }
}
