//! A database of its own for each test, made from a template that has all migrations (about 0.1 s).
//!
//! Built for tests only (feature `testing`, which the dev-dependency on this crate turns on). The server is the one at
//! `GLEANER_TEST_DATABASE_URL`, whose user must be allowed to create databases; without it, one private cluster in the folder for
//! temporary files serves all test processes of this checkout, and goes a few seconds after the last of them. The template is named by
//! the hash of the migrations, so a changed schema makes a new one. A test's database goes when its `TestDatabase` is dropped.

#![expect(clippy::panic, reason = "a test that has no database can't go on")]

mod gate;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::class::NewClass;
use super::cluster::{Cluster, ClusterOptions};
use super::import::NewImport;
use super::item::NewItem;
use super::migrate::MIGRATOR;
use super::project::ProjectRow;
use super::segment::NewSegment;
use super::{Store, class, import, item, project, segment};
use crate::domain::content_hash::ContentHash;
use crate::domain::ids::{ImportId, ItemId, ProjectId, SegmentId};
use crate::domain::import::{ImportFormat, LabelRule, SplitRule};
use crate::domain::item::Split;
use crate::domain::settings::{ImageShape, ProjectSettings};

pub use gate::Gate;

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
        let server = server_options().await;
        let mut connection = server.connect().await.expect("the test server takes connections");
        let template = ensure_template(&server, &mut connection).await;
        let name = format!("gleaner_test_{}", Uuid::now_v7().simple());
        execute(&mut connection, format!("create database {name} template {template}")).await;
        connection.close().await.expect("the connection closes");
        let store = Store::connect_with(server.clone().database(&name))
            .await
            .expect("the new database takes connections");
        Self { name, server, store }
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

/// What most tests need to begin with.
impl TestDatabase {
    /// Makes a project with default settings and these classes.
    pub async fn create_project(&self, name: &str, classes: &[&str]) -> ProjectRow {
        let mut transaction = self.store.begin().await.expect("a transaction begins");
        let row = project::insert(&mut transaction, name, &ProjectSettings::default())
            .await
            .expect("the name is free");
        let classes: Vec<_> =
            classes.iter().map(|name| NewClass { name: (*name).to_owned(), ..NewClass::default() }).collect();
        class::insert_all(&mut transaction, row.id, &classes).await.expect("the classes differ");
        transaction.commit().await.expect("the project is made");
        row
    }

    /// Makes a queued import that reads nothing.
    pub async fn create_import(&self, project: ProjectId) -> ImportId {
        let import = NewImport {
            id: ImportId::generate(),
            source: "/nowhere".to_owned(),
            uploaded: false,
            format: ImportFormat::Auto,
            split: SplitRule::Auto,
            labels: LabelRule::Hide,
        };
        let mut connection = self.store.acquire().await.expect("a connection");
        import::insert(&mut connection, project, &import).await.expect("the import is made");
        import.id
    }

    /// Makes a segment that no file belongs to.
    pub async fn create_segment(&self, project: ProjectId) -> SegmentId {
        let import = self.create_import(project).await;
        let shape = ImageShape { size: 28, channels: 1 };
        let segment = NewSegment { id: SegmentId::generate(), import, item_count: 1, shape };
        let mut transaction = self.store.begin().await.expect("a transaction begins");
        segment::insert(&mut transaction, project, &segment).await.expect("the segment is made");
        transaction.commit().await.expect("the segment is made");
        segment.id
    }

    /// Makes unlabelled pool items in a segment of their own; their ids in the order of their names, `0.png`, `1.png`, …
    pub async fn create_items(&self, project: ProjectId, count: u32) -> Vec<ItemId> {
        let segment = self.create_segment(project).await;
        let items: Vec<_> = (0..count)
            .map(|row| {
                new_item(row.cast_signed(), &format!("{row}.png"), format!("{segment} {row}").as_bytes())
            })
            .collect();
        let mut connection = self.store.acquire().await.expect("a connection");
        item::insert_all(&mut connection, project, segment, &items).await.expect("the items are made");
        sqlx::query_scalar("select id from item where segment = $1 order by segment_row")
            .bind(segment)
            .fetch_all(&mut *connection)
            .await
            .expect("the items are there")
    }
}

/// An unlabelled grey pool item of 28 × 28 pixels.
#[must_use]
pub fn new_item(segment_row: i32, name: &str, content: &[u8]) -> NewItem {
    NewItem {
        segment_row,
        pack_offset: 100 * i64::from(segment_row),
        pack_length: 100,
        media_type: "image/png".to_owned(),
        name: name.to_owned(),
        split: Split::Pool,
        width: 28,
        height: 28,
        channels: 1,
        content_hash: ContentHash::of_file(content),
        class: None,
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (name, server) = (self.name.clone(), self.server.clone());
        // Dropping isn't async and may happen inside the test's runtime, which must not be blocked on: another thread does it.
        let dropped = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(async move {
                if let Ok(mut connection) = server.connect().await {
                    execute(&mut connection, format!("drop database if exists {name} with (force)")).await;
                }
            });
        });
        if dropped.join().is_err() && !std::thread::panicking() {
            panic!("the test's database {} could not be dropped", self.name);
        }
    }
}

async fn server_options() -> PgConnectOptions {
    if let Ok(url) = std::env::var("GLEANER_TEST_DATABASE_URL") {
        return PgConnectOptions::from_str(&url).expect("GLEANER_TEST_DATABASE_URL is a postgres:// address");
    }
    /// Never dropped, so this process uses the cluster until it ends.
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER.get_or_init(start_cluster).await.connect_options()
}

async fn start_cluster() -> Cluster {
    let home = cluster_home();
    // The data outlive no test run, so nothing has to be on disk. A test that ends in the middle of a connection attempt leaves a backend
    // that waits for its password, and a database can't be dropped before it has given up.
    let options = ClusterOptions::new(&home)
        .setting("fsync", "off")
        .setting("max_connections", "300")
        .setting("authentication_timeout", "3s");
    let cluster = options.start().await.unwrap_or_else(|error| panic!("no database for tests: {error}"));
    spawn_sweeper(&home);
    cluster
}

/// One home a checkout and user; not below the checkout, which may lie in a folder that is closed to the user who runs Postgres.
fn cluster_home() -> PathBuf {
    let mut digest = Sha256::new();
    digest.update(env!("CARGO_MANIFEST_DIR"));
    digest.update(nix::unistd::Uid::effective().as_raw().to_le_bytes());
    std::env::temp_dir().join(format!("gleaner-test-{}", &hex::encode(digest.finalize())[..12]))
}

/// Stops the cluster and removes its data once no test process has used it for some seconds.
///
/// A test process can't do it: its statics are never dropped, and the next one of the run follows at once. A shell does, by the
/// locks that `cluster` keeps; the lock files stay, since somebody may be waiting on them.
fn spawn_sweeper(home: &Path) {
    const SCRIPT: &str = r#"
        cd "$0" || exit
        exec 9>sweeper.lock
        flock 9
        while flock postgres.users sleep 0; do
            sleep 5
            flock postgres.lifecycle flock --nonblock postgres.users sh -c '
                pid=$(head -n 1 postgres/postmaster.pid) && kill -INT "$pid"
                while kill -0 "$pid"; do sleep 0.1; done
                rm -rf postgres postgres.password postgres.log' && exit
        done"#;
    let mut command = Command::new("sh");
    command.arg("-c").arg(SCRIPT).arg(home).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut sweeper = command.spawn().expect("a shell starts");
    // It outlives this process by design; should it end before, somebody has waited for it.
    std::thread::spawn(move || sweeper.wait());
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
        let mut draft_connection =
            server.clone().database(&draft).connect().await.expect("the draft takes connections");
        MIGRATOR.run(&mut draft_connection).await.expect("the migrations apply");
        draft_connection.close().await.expect("the connection closes");
        execute(connection, format!("alter database {draft} rename to {name}")).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn databases_of_tests_share_nothing_and_go_when_dropped() {
        let (first, second) = tokio::join!(TestDatabase::create(), TestDatabase::create());
        let mut connection = first.store().acquire().await.unwrap();
        sqlx::raw_sql("create table only_here ()").execute(&mut *connection).await.unwrap();
        let mut other = PgConnectOptions::from_str(&second.url()).unwrap().connect().await.unwrap();
        let found: bool = sqlx::query_scalar("select to_regclass('only_here') is not null")
            .fetch_one(&mut other)
            .await
            .unwrap();
        assert!(!found);
        let (name, server) = (first.name.clone(), first.server.clone());
        drop((connection, first));
        let mut connection = server.connect().await.unwrap();
        assert!(!exists(&mut connection, &name).await);
    }
}
