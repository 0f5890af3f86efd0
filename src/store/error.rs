//! What can go wrong in the database, as the rest of the house needs to tell it apart.
//!
//! The one place that reads SQLSTATE codes (Postgres manual, appendix A). Callers match on the variant and, for a conflict, on the
//! constraint's name, which stands in `migrations/`.

/// A failure of the database, mapped from sqlx and SQLSTATE.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database can't be reached or takes nothing at the moment; the same call may succeed later.
    #[error("the database is unavailable ({0}); it is tried again, check that Postgres runs and has room")]
    Unavailable(#[source] sqlx::Error),
    /// A unique, foreign-key or exclusion constraint refused the statement; nothing was changed.
    #[error("the database refused a change that breaks '{constraint}'")]
    Conflict {
        /// Name of the constraint or unique index.
        constraint: String,
        /// What Postgres said.
        #[source]
        source: sqlx::Error,
    },
    /// Two transactions met in a way that only one could survive; run the whole transaction again.
    #[error("a concurrent transaction won ({0}); run this one again")]
    Retry(#[source] sqlx::Error),
    /// A text holds the character U+0000, which Postgres can't keep.
    #[error("a text holds the character U+0000, which can't be kept")]
    Text(#[source] sqlx::Error),
    /// The schema and this program don't belong together.
    #[error("{0}")]
    Schema(String),
    /// Anything else, which is a defect of this program or of the data.
    #[error("the database failed: {0}")]
    Other(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether the same call may succeed once the database is back.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether the constraint of this name refused the statement.
    #[must_use]
    pub fn is_conflict_on(&self, name: &str) -> bool {
        matches!(self, Self::Conflict { constraint, .. } if constraint == name)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        let E::Database(database_error) = &error else {
            return match error {
                E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
                    Self::Unavailable(error)
                }
                _ => Self::Other(error),
            };
        };
        let constraint = database_error.constraint().unwrap_or_default().to_owned();
        match database_error.code().as_deref().unwrap_or_default() {
            // unique_violation, foreign_key_violation, exclusion_violation
            "23505" | "23503" | "23P01" => Self::Conflict { constraint, source: error },
            // character_not_in_repertoire, untranslatable_character
            "22021" | "22P05" => Self::Text(error),
            // serialization_failure, deadlock_detected, lock_not_available
            "40001" | "40P01" | "55P03" => Self::Retry(error),
            // disk_full, too_many_connections, idle_in_transaction_session_timeout,
            // admin_shutdown, crash_shutdown, cannot_connect_now
            "53100" | "53300" | "25P03" | "57P01" | "57P02" | "57P03" => Self::Unavailable(error),
            code if code.starts_with("08") => Self::Unavailable(error),
            _ => Self::Other(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::store::StoreError;
    use crate::store::testing::TestDatabase;

    async fn run(database: &TestDatabase, sql: &'static str) -> StoreError {
        let mut connection = database.store().acquire().await.unwrap();
        sqlx::raw_sql(sql).execute(&mut *connection).await.map(drop).map_err(StoreError::from).unwrap_err()
    }

    #[tokio::test]
    async fn refusals_of_constraints_name_the_constraint() {
        let database = TestDatabase::create().await;
        let twice = "insert into project (id, name, state, settings)
            values (gen_random_uuid(), 'p', 'empty', '{}'), (gen_random_uuid(), 'p', 'empty', '{}')";
        let error = run(&database, twice).await;
        assert!(error.is_conflict_on("project_name"), "{error:?}");
        let orphan = "insert into class (project, index, name) values (gen_random_uuid(), 0, 'bag')";
        let error = run(&database, orphan).await;
        assert!(error.is_conflict_on("class_project_fkey"), "{error:?}");
        let wrong_state =
            "insert into project (id, name, state, settings) values (gen_random_uuid(), 'q', 'odd', '{}')";
        let error = run(&database, wrong_state).await;
        assert!(matches!(error, StoreError::Other(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_terminated_connection_is_unavailable_and_a_lock_in_use_is_retried() {
        let database = TestDatabase::create().await;
        let error = run(&database, "select pg_terminate_backend(pg_backend_pid())").await;
        assert!(error.is_unavailable(), "{error:?}");

        let mut holder = database.store().begin().await.unwrap();
        sqlx::raw_sql("lock table project in access exclusive mode").execute(&mut *holder).await.unwrap();
        let error = run(&database, "begin; lock table project in access share mode nowait").await;
        assert!(matches!(error, StoreError::Retry(_)), "{error:?}");
    }
}
