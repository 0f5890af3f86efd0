//! The schema: the migrations in `migrations/`, compiled in, and whether a database has them.
//!
//! Several processes may start at once: sqlx takes an advisory lock of the database, so one applies and the others wait.

use sqlx::migrate::{MigrateError, Migrator};

use super::{Store, StoreError};

/// The migrations that this program was built with.
pub static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

impl Store {
    /// Brings the schema to this program's version; does nothing when it is there already.
    ///
    /// Fails with `Schema` when the database was used by a newer gleaner or a migration was edited after it ran.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        MIGRATOR.run(&self.pool).await.map_err(explain)
    }

    /// The number of the newest migration that the database has; `None` before the first.
    pub async fn schema_version(&self) -> Result<Option<i64>, StoreError> {
        // The table belongs to sqlx and isn't there before the first migration, so the query can't be checked at compile time.
        let mut connection = self.acquire().await?;
        let known: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
            .fetch_one(&mut *connection)
            .await?;
        if !known {
            return Ok(None);
        }
        let version = sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
            .fetch_one(&mut *connection)
            .await?;
        Ok(version)
    }
}

/// The number of the newest migration that this program has.
#[must_use]
pub fn program_version() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default()
}

fn explain(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => StoreError::from(error),
        MigrateError::VersionMissing(version) => StoreError::Schema(format!(
            "the database has migration {version}, which this gleaner doesn't know (it ends at {}); run a newer gleaner",
            program_version()
        )),
        MigrateError::VersionMismatch(version) => StoreError::Schema(format!(
            "migration {version} of the database isn't the one of this gleaner; run the gleaner that made this database, or a new database"
        )),
        other => StoreError::Schema(format!("the schema could not be brought up to date: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TestDatabase;

    #[test]
    fn every_file_of_migrations_is_compiled_in() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let file_count = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(
            MIGRATOR.iter().count(),
            file_count,
            "touch src/store/migrate.rs after adding a migration"
        );
    }

    #[tokio::test]
    async fn migrating_twice_changes_nothing_and_the_version_is_known() {
        let database = TestDatabase::create().await;
        database.store().migrate().await.unwrap();
        assert_eq!(database.store().schema_version().await.unwrap(), Some(program_version()));
    }

    #[tokio::test]
    async fn a_database_of_a_newer_gleaner_is_refused_by_its_version() {
        let database = TestDatabase::create().await;
        sqlx::query(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (9999, 'the future', true, '', 0)",
        )
        .execute(&database.store().pool)
        .await
        .unwrap();
        let error = database.store().migrate().await.unwrap_err();
        assert!(matches!(&error, StoreError::Schema(message) if message.contains("9999")), "{error:?}");
    }
}
