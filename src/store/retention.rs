//! What is kept for a time only: deleted projects for seven days, idempotency keys and the record of deliveries for thirty.
//!
//! Whoever purges a project removes its files from the blob store first; a crash in between finds the project here again.

use sqlx::PgConnection;

use super::StoreError;
use crate::domain::ids::ProjectId;

/// Projects that were deleted more than seven days ago.
pub async fn list_purgeable(connection: &mut PgConnection) -> Result<Vec<ProjectId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"select id as "id: ProjectId" from project where deleted_at < now() - interval '7 days' order by deleted_at, id"#
    )
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// Deletes a project that is due with all that belongs to it; its events stay, so that readers of numbers find no gap. False when it isn't
/// due.
pub async fn purge_project(connection: &mut PgConnection, id: ProjectId) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "delete from project where id = $1 and deleted_at < now() - interval '7 days'",
        id as ProjectId
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Deletes idempotency keys older than thirty days and says how many.
pub async fn purge_idempotency(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let done = sqlx::query!("delete from idempotency where created_at < now() - interval '30 days'")
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Deletes deliveries that were taken, and failed tests, after thirty days and says how many.
pub async fn purge_deliveries(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "delete from webhook_delivery where state <> 'pending' and created_at < now() - interval '30 days'"
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::role::Role;
    use crate::store::idempotency::{self, Begun, Key};
    use crate::store::testing::TestDatabase;
    use crate::store::{project, token};

    async fn run(connection: &mut PgConnection, sql: &'static str) {
        sqlx::raw_sql(sql).execute(connection).await.unwrap();
    }

    #[tokio::test]
    async fn a_deleted_project_goes_after_seven_days_with_all_that_belongs_to_it() {
        let database = TestDatabase::create().await;
        let id = database.create_project("p", &["bag", "coat"]).await.id;
        database.create_items(id, 3).await;
        let kept = database.create_project("q", &["bag", "coat"]).await.id;
        database.create_items(kept, 2).await;
        let mut connection = database.store().acquire().await.unwrap();
        run(&mut connection, "update item set class = 1, class_source = 'import'").await;
        assert!(!purge_project(&mut connection, id).await.unwrap(), "it isn't deleted");
        project::hide(&mut connection, id).await.unwrap();
        assert!(!purge_project(&mut connection, id).await.unwrap(), "it was deleted just now");
        assert_eq!(list_purgeable(&mut connection).await.unwrap(), vec![]);

        run(
            &mut connection,
            "update project set deleted_at = now() - interval '8 days' where deleted_at is not null",
        )
        .await;
        assert_eq!(list_purgeable(&mut connection).await.unwrap(), vec![id]);
        assert!(purge_project(&mut connection, id).await.unwrap());
        let left: Vec<ProjectId> =
            sqlx::query_scalar("select project from item").fetch_all(&mut *connection).await.unwrap();
        assert_eq!(left, [kept, kept]);
        assert_eq!(list_purgeable(&mut connection).await.unwrap(), vec![]);
    }

    #[tokio::test]
    async fn a_key_is_forgotten_after_thirty_days() {
        let database = TestDatabase::create().await;
        let mut connection = database.store().acquire().await.unwrap();
        let token = token::insert(&mut connection, Role::Tool, "t", &[1; 32], None, None).await.unwrap();
        let key = Key { token, method: "POST".to_owned(), path: "/".to_owned(), key: "k".to_owned() };
        idempotency::begin(&mut connection, &key, &[1; 32]).await.unwrap();
        assert_eq!(purge_idempotency(&mut connection).await.unwrap(), 0);
        run(&mut connection, "update idempotency set created_at = now() - interval '31 days'").await;
        assert_eq!(purge_idempotency(&mut connection).await.unwrap(), 1);
        assert_eq!(idempotency::begin(&mut connection, &key, &[2; 32]).await.unwrap(), Begun::First);
    }
}
