//! A database of its own for each test, made from a template that has all migrations (about 0.1 s).
//!
//! Built for tests only (feature `testing`, which the dev-dependency on this crate turns on). The server is the one at
//! `GLEANER_TEST_DATABASE_URL`, whose user must be allowed to create databases. The template is named by the hash of the migrations, so
//! a changed schema makes a new one. A test's database goes when its `TestDatabase` is dropped.

use std::str::FromStr;

use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use uuid::Uuid;

use super::Store;
use super::migrate::MIGRATOR;

/// Advisory lock of the database `postgres` under which one process makes the template.
const TEMPLATE_LOCK: i64 = 0x676c_6561_6e65;

/// A fresh database with all migrations, and a store that is connected to it.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    server: PgConnectOptions,
    store: Store,
}

impl TestDatabase {
    /// Makes a database from the template; panics with the reason when it can't, since a test can't go on.
    pub async fn create() -> Self {
        let server = server_options();
        let mut connection = server
            .connect()
            .await
            .expect("the test server takes connections");
        let template = ensure_template(&server, &mut connection).await;
        let name = format!("gleaner_test_{}", Uuid::now_v7().simple());
        execute(
            &mut connection,
            format!("create database {name} template {template}"),
        )
        .await;
        connection.close().await.expect("the connection closes");
        let store = Store::connect_with(server.clone().database(&name))
            .await
            .expect("the new database takes connections");
        Self {
            name,
            server,
            store,
        }
    }

    /// The store, connected to this database.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How to connect to this database, for a second store.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        self.server.clone().database(&self.name)
    }

    /// The address of this database for `DATABASE_URL`, to hand to a program under test.
    #[must_use]
    pub fn url(&self) -> String {
        self.options().to_url_lossy().to_string()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (name, server) = (self.name.clone(), self.server.clone());
        // Dropping isn't async and may happen inside the test's runtime, which must not be blocked on: another thread does it.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime starts");
            runtime.block_on(async move {
                if let Ok(mut connection) = server.connect().await {
                    execute(
                        &mut connection,
                        format!("drop database if exists {name} with (force)"),
                    )
                    .await;
                }
            });
        });
        if dropped.join().is_err() && !std::thread::panicking() {
            panic!("the test's database {} could not be dropped", self.name);
        }
    }
}

fn server_options() -> PgConnectOptions {
    let url = std::env::var("GLEANER_TEST_DATABASE_URL").expect(
        "GLEANER_TEST_DATABASE_URL names a Postgres server whose user may create databases",
    );
    PgConnectOptions::from_str(&url).expect("GLEANER_TEST_DATABASE_URL is a postgres:// address")
}

/// The template's name; makes the template first when no test of any process has done so.
async fn ensure_template(server: &PgConnectOptions, connection: &mut PgConnection) -> String {
    let name = template_name();
    if exists(connection, &name).await {
        return name;
    }
    sqlx::query("select pg_advisory_lock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *connection)
        .await
        .expect("the lock is free");
    if !exists(connection, &name).await {
        // Made under another name and renamed when complete, so that a killed test run leaves no half-made template.
        let draft = format!("gleaner_draft_{}", Uuid::now_v7().simple());
        execute(connection, format!("create database {draft}")).await;
        let mut draft_connection = server
            .clone()
            .database(&draft)
            .connect()
            .await
            .expect("the draft takes connections");
        MIGRATOR
            .run(&mut draft_connection)
            .await
            .expect("the migrations apply");
        draft_connection
            .close()
            .await
            .expect("the connection closes");
        execute(
            connection,
            format!("alter database {draft} rename to {name}"),
        )
        .await;
    }
    sqlx::query("select pg_advisory_unlock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *connection)
        .await
        .expect("it was held");
    name
}

fn template_name() -> String {
    let mut digest = Sha256::new();
    for migration in MIGRATOR.iter() {
        digest.update(migration.version.to_le_bytes());
        digest.update(&migration.checksum);
    }
    format!("gleaner_template_{}", &hex::encode(digest.finalize())[..24])
}

async fn exists(connection: &mut PgConnection, name: &str) -> bool {
    sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(name)
        .fetch_one(connection)
        .await
        .expect("the catalogue answers")
}

async fn execute(connection: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql.as_str()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}
