//! Postgres: the connection pool, transactions, and one file of SQL an entity.
//!
//! The only room that knows sqlx. Functions of the entity files take a `&mut PgConnection`, so that the caller decides what is one
//! transaction; nobody takes a second connection while holding one, since that can exhaust the pool and wait for itself.
//! Queries are checked at compile time against the schema in `migrations/`. Every failure is a `StoreError`, mapped from its
//! SQLSTATE in one place (`error`). Callers are async and on the tokio runtime; nothing here blocks a thread.

use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres};

pub mod agreement;
pub mod class;
pub mod cluster;
pub mod error;
pub mod event;
pub mod gauge;
pub mod idempotency;
pub mod import;
pub mod item;
pub mod job;
pub mod label;
pub mod label_studio;
pub mod labeler;
pub mod migrate;
pub mod model;
pub mod pool;
pub mod project;
pub mod retention;
pub mod round;
pub mod segment;
pub mod skip;
pub mod slot;
pub mod task;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod token;
pub mod types;
pub mod webhook;
pub mod webhook_delivery;

pub use error::StoreError;
pub use sqlx::PgConnection;

/// Connections that one process holds at most; Postgres allows 100 by default, so several servers and workers fit.
const CONNECTION_COUNT_MAX: u32 = 20;

/// How long a caller waits for a connection before the database counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection taken from the pool outside a transaction; it goes back when dropped.
pub type PooledConnection = PoolConnection<Postgres>;

/// The database: a cheap handle to clone, over one pool of connections.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// Connects to the database at `url` (`postgres://user:password@host:port/database`).
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connect_with(PgConnectOptions::from_str(url)?).await
    }

    /// Connects with options that are already known, such as those of the private cluster.
    pub async fn connect_with(options: PgConnectOptions) -> Result<Self, StoreError> {
        Self::connect_within(options, ACQUIRE_TIMEOUT).await
    }

    /// Connects, and later waits no longer than `acquire_timeout` for a connection before the database counts as unavailable.
    pub async fn connect_within(
        options: PgConnectOptions,
        acquire_timeout: Duration,
    ) -> Result<Self, StoreError> {
        // A transaction whose client hangs would hold its row locks for ever; compiling plans costs more than our short queries do.
        let options = options
            .application_name("gleaner")
            .options([("idle_in_transaction_session_timeout", "60s"), ("jit", "off")]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTION_COUNT_MAX)
            .acquire_timeout(acquire_timeout)
            .connect_with(options)
            .await?;
        Ok(Self { pool })
    }

    /// Begins a transaction; dropped without `commit`, it rolls back.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        Ok(Transaction(self.pool.begin().await?))
    }

    /// Takes a connection for statements that need no transaction.
    pub async fn acquire(&self) -> Result<PooledConnection, StoreError> {
        Ok(self.pool.acquire().await?)
    }

    /// Asks the database for an answer; an error says that it has none to give.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("select 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Connections that are open: those at rest and those in use.
    #[must_use]
    pub fn connection_counts(&self) -> (usize, usize) {
        let idle = self.pool.num_idle();
        (idle, (self.pool.size() as usize).saturating_sub(idle))
    }

    /// Waits for the connections in use, then closes all; later calls fail with `Unavailable`.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A transaction on one connection; pass it wherever a `&mut PgConnection` is wanted.
#[derive(Debug)]
#[must_use = "a transaction that is dropped rolls back"]
pub struct Transaction(sqlx::Transaction<'static, Postgres>);

impl Transaction {
    /// Makes everything durable; after an error nothing of it is, or (connection lost in the commit) nobody knows.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.0.commit().await?)
    }

    /// Undoes everything now rather than at the connection's next use.
    pub async fn rollback(self) -> Result<(), StoreError> {
        Ok(self.0.rollback().await?)
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::testing::TestDatabase;

    #[tokio::test]
    async fn a_transaction_that_is_dropped_leaves_nothing() {
        let database = TestDatabase::create().await;
        let store = database.store();
        let mut transaction = store.begin().await.unwrap();
        sqlx::query(
            "insert into project (id, name, state, settings) values (gen_random_uuid(), 'p', 'empty', '{}')",
        )
        .execute(&mut *transaction)
        .await
        .unwrap();
        drop(transaction);
        let mut connection = store.acquire().await.unwrap();
        let count: i64 =
            sqlx::query_scalar("select count(*) from project").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(count, 0);
    }

    #[tokio::test]
    async fn a_closed_store_is_unavailable() {
        let database = TestDatabase::create().await;
        let store = database.store().clone();
        store.ping().await.unwrap();
        store.close().await;
        assert!(store.ping().await.unwrap_err().is_unavailable());
        assert!(store.begin().await.unwrap_err().is_unavailable());
    }
}
