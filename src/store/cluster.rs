//! The private cluster: a Postgres of gleaner's own in its home, for when `DATABASE_URL` isn't set.
//!
//! Owned by all processes that use it together: the first starts it, others adopt it, the last one out stops it. Nobody depends on
//! how a process ends: locks die with it (`folder`), and a server that outlived its users is adopted by the next. The server
//! opens no TCP port; its socket lies in a folder that only its user may enter, and it still asks for a password.
//! `start`, `join` and `release` are async and do their blocking work on tokio's blocking threads.

use std::fs::File;
use std::path::{Path, PathBuf};

use sqlx::postgres::PgConnectOptions;
use tokio::runtime::Handle;

mod account;
mod error;
mod folder;
mod instance;
mod programs;
mod server;

use account::Account;
use folder::Folder;
use instance::{Instance, Recipe};
use programs::Programs;

pub use error::ClusterError;
pub use programs::ProgramSearch;

/// How to start a private cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    home: PathBuf,
    search: ProgramSearch,
    settings: Vec<(String, String)>,
}

impl ClusterOptions {
    /// A cluster in `home`, run by the Postgres that this process's environment leads to.
    #[must_use]
    pub fn new(home: &Path) -> Self {
        Self { home: home.to_owned(), search: ProgramSearch::from_environment(), settings: Vec::new() }
    }

    /// Looks for the Postgres programs elsewhere.
    #[must_use]
    pub fn search(mut self, search: ProgramSearch) -> Self {
        self.search = search;
        self
    }

    /// Sets a server parameter, such as `fsync`, for the case that this process starts the server.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the cluster or adopts the one that runs; makes it when there is none. Returns when it takes connections.
    pub async fn start(self) -> Result<Cluster, ClusterError> {
        let runtime = Handle::current();
        blocking(move || Cluster::start_blocking(self, &runtime)).await
    }
}

/// A use of the private cluster: while one exists in any process, the server is kept running.
#[derive(Debug)]
pub struct Cluster {
    instance: Instance,
    /// Locked shared; `None` once released.
    users: Option<File>,
}

impl Cluster {
    /// Starts the cluster in `home` or adopts the one that runs there; see `ClusterOptions`.
    pub async fn start(home: &Path) -> Result<Self, ClusterError> {
        ClusterOptions::new(home).start().await
    }

    /// Joins the cluster that another process runs in `home`; never starts one.
    pub async fn join(home: &Path) -> Result<Self, ClusterError> {
        let (home, runtime) = (home.to_owned(), Handle::current());
        blocking(move || Self::join_blocking(&home, &runtime)).await
    }

    /// How to connect to the cluster's database.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        self.instance.connect_options()
    }

    /// Starts the server again if it died; returns when it takes connections, at once when all is well.
    ///
    /// For whoever finds the database unavailable. Who only joined gets `NotRunning` from a server that is gone.
    pub async fn revive(&self) -> Result<(), ClusterError> {
        let (instance, runtime) = (self.instance.clone(), Handle::current());
        blocking(move || {
            let _lifecycle = instance.folder.lock_lifecycle()?;
            instance.make_ready(&runtime)
        })
        .await
    }

    /// Stops using the cluster; the last one out stops the server and waits until it is gone.
    ///
    /// Close the pool before: the server ends the connections that are left.
    pub async fn release(mut self) -> Result<(), ClusterError> {
        blocking(move || self.release_blocking()).await
    }

    fn start_blocking(options: ClusterOptions, runtime: &Handle) -> Result<Self, ClusterError> {
        let folder = Folder::prepare(&options.home)?;
        let data = folder.data();
        let account = Account::choose(&data)?;
        account.check_reach(&data)?;
        let lifecycle = folder.lock_lifecycle()?;
        let major = folder.major()?;
        let programs = Programs::find(&options.search, major.map(|major| (data.as_path(), major)))?;
        if major.is_none() {
            tracing::info!(path = %data.display(), user.name = account.name, "making a private postgres cluster");
            folder.initialise(&programs, &account)?;
        }
        let recipe = Recipe { programs, account, settings: options.settings };
        Self::use_instance(lifecycle, Instance::open(folder, Some(recipe))?, runtime)
    }

    fn join_blocking(home: &Path, runtime: &Handle) -> Result<Self, ClusterError> {
        let folder = Folder::open(home)?;
        let lifecycle = folder.lock_lifecycle()?;
        Self::use_instance(lifecycle, Instance::open(folder, None)?, runtime)
    }

    fn use_instance(lifecycle: File, instance: Instance, runtime: &Handle) -> Result<Self, ClusterError> {
        let users = instance.folder.lock_users()?;
        let cluster = Self { instance, users: Some(users) };
        let ready = cluster.instance.make_ready(runtime);
        // Unlocked before a cluster that isn't ready is dropped, which stops the server under this lock.
        drop(lifecycle);
        ready.map(|()| cluster)
    }

    fn release_blocking(&mut self) -> Result<(), ClusterError> {
        let Some(users) = self.users.take() else {
            return Ok(());
        };
        let folder = &self.instance.folder;
        let _lifecycle = folder.lock_lifecycle()?;
        if !Folder::leave_users(&users) {
            return Ok(());
        }
        tracing::info!(path = %folder.home().display(), "stopping the private postgres, nobody uses it any more");
        server::stop(&folder.data())
    }
}

impl Drop for Cluster {
    /// Best effort for ways out that don't call `release`: asks an unused server to stop, waits for nothing.
    fn drop(&mut self) {
        if let Some(users) = self.users.take()
            && let Ok(Some(_lifecycle)) = self.instance.folder.try_lock_lifecycle()
            && Folder::leave_users(&users)
        {
            server::ask_to_stop(&self.instance.folder.data());
        }
    }
}

/// Runs blocking work off the runtime; a panic in it goes on in the caller.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClusterError> + Send + 'static,
) -> Result<T, ClusterError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ClusterError::Interrupted),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::{Pid, Uid};
    use sqlx::ConnectOptions;
    use tempfile::TempDir;

    use super::instance::READY_TIMEOUT;
    use super::server::POLL_INTERVAL;
    use super::*;
    use crate::store::{Store, StoreError};

    const CHILD_HOME: &str = "GLEANER_TEST_CLUSTER_HOME";

    /// A home that the user who runs Postgres can reach, whoever runs the test.
    fn home() -> TempDir {
        let home = tempfile::Builder::new().prefix("gleaner-cluster-").tempdir().unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        home
    }

    fn options(home: &Path) -> ClusterOptions {
        ClusterOptions::new(home).setting("fsync", "off")
    }

    fn process_in(home: &TempDir) -> Option<i32> {
        server::find_process(&home.path().canonicalize().unwrap().join("postgres"))
    }

    async fn wait_until_gone(home: &TempDir) {
        let deadline = Instant::now() + READY_TIMEOUT;
        while process_in(home).is_some() {
            assert!(Instant::now() < deadline, "the server still runs");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn ask(cluster: &Cluster, sql: &'static str) -> String {
        let mut connection = cluster.connect_options().connect().await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    }

    async fn run(cluster: &Cluster, sql: &'static str) {
        let mut connection = cluster.connect_options().connect().await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }

    #[tokio::test]
    async fn a_cluster_is_private_and_keeps_its_data_over_a_restart() {
        let home = home();
        let cluster = options(home.path()).start().await.unwrap();
        assert_eq!(ask(&cluster, "show listen_addresses").await, "");
        assert_eq!(ask(&cluster, "show data_checksums").await, "on");
        assert_eq!(ask(&cluster, "show password_encryption").await, "scram-sha-256");
        assert_eq!(
            ask(
                &cluster,
                "select current_setting('server_encoding') || ' ' || datcollate from pg_database
            where datname = 'gleaner'"
            )
            .await,
            "UTF8 C.UTF-8"
        );
        let mode =
            |name: &str| std::fs::metadata(home.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("postgres"), mode("postgres.password")), (0o700, 0o600));
        run(&cluster, "create table kept (word text); insert into kept values ('still here')").await;
        let pid = process_in(&home).unwrap();
        let group = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        assert_eq!(
            group.rsplit(") ").next().unwrap().split(' ').nth(2).unwrap(),
            pid.to_string(),
            "its own process group"
        );
        cluster.release().await.unwrap();
        assert_eq!(process_in(&home), None);

        let cluster = options(home.path()).start().await.unwrap();
        assert_eq!(ask(&cluster, "select word from kept").await, "still here");
        cluster.release().await.unwrap();
    }

    #[tokio::test]
    async fn the_last_of_several_users_stops_the_server() {
        let home = home();
        let (first, second) = tokio::join!(options(home.path()).start(), options(home.path()).start());
        let (first, second) = (first.unwrap(), second.unwrap());
        first.release().await.unwrap();
        assert_eq!(ask(&second, "select 'served'").await, "served");
        let joined = Cluster::join(home.path()).await.unwrap();
        second.release().await.unwrap();
        assert_eq!(ask(&joined, "select 'served'").await, "served");
        joined.release().await.unwrap();
        assert_eq!(process_in(&home), None);
    }

    #[tokio::test]
    async fn joining_never_starts_a_server() {
        let home = home();
        let absent = Cluster::join(home.path()).await.unwrap_err();
        assert!(matches!(absent, ClusterError::NotRunning { .. }), "{absent}");
        options(home.path()).start().await.unwrap().release().await.unwrap();
        let stopped = Cluster::join(home.path()).await.unwrap_err();
        assert!(matches!(stopped, ClusterError::NotRunning { .. }), "{stopped}");
        assert_eq!(process_in(&home), None);
    }

    #[tokio::test]
    async fn a_user_that_is_dropped_without_release_leaves_no_server_behind() {
        let home = home();
        drop(options(home.path()).start().await.unwrap());
        wait_until_gone(&home).await;
    }

    /// The process that the next test kills: it uses the cluster until then.
    #[tokio::test]
    #[ignore = "a child of the test below, which kills it"]
    async fn child_that_is_killed() {
        let home = std::env::var_os(CHILD_HOME).expect("the parent names the home");
        let _cluster = options(Path::new(&home)).start().await.unwrap();
        println!("child is ready");
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    async fn a_server_that_outlives_its_killed_owner_is_adopted_and_stopped_by_the_next() {
        let home = home();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["store::cluster::tests::child_that_is_killed", "--exact", "--ignored", "--nocapture"])
            .env(CHILD_HOME, home.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ready = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .any(|line| line.unwrap().contains("child is ready"));
        assert!(ready);
        let pid = process_in(&home).unwrap();
        // SIGKILL
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process_in(&home), Some(pid), "the server outlives its owner");

        let cluster = options(home.path()).start().await.unwrap();
        assert_eq!(process_in(&home), Some(pid), "it is adopted, not started anew");
        assert_eq!(ask(&cluster, "select 'served'").await, "served");
        cluster.release().await.unwrap();
        assert_eq!(process_in(&home), None);
    }

    #[tokio::test]
    async fn a_killed_postgres_is_started_again_with_what_was_committed() {
        let home = home();
        let first = options(home.path()).start().await.unwrap();
        run(&first, "create table kept (word text); insert into kept values ('still here')").await;
        let pid = process_in(&home).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let second = options(home.path()).start().await.unwrap();
        assert_ne!(process_in(&home), Some(pid));
        assert_eq!(ask(&second, "select word from kept").await, "still here");
        // The first user's options are good for the new server too, so its pool only reconnects.
        assert_eq!(ask(&first, "select word from kept").await, "still here");
        first.release().await.unwrap();
        second.release().await.unwrap();
        assert_eq!(process_in(&home), None);
    }

    #[tokio::test]
    async fn a_server_that_died_under_its_user_is_revived() {
        let home = home();
        let cluster = options(home.path()).start().await.unwrap();
        run(&cluster, "create table kept (word text); insert into kept values ('still here')").await;
        let pid = process_in(&home).unwrap();
        cluster.revive().await.unwrap();
        assert_eq!(process_in(&home), Some(pid), "nothing was wrong with it");
        let joined = Cluster::join(home.path()).await.unwrap();
        let store = Store::connect_with(cluster.connect_options()).await.unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let absent = joined.revive().await.unwrap_err();
        assert!(matches!(absent, ClusterError::NotRunning { .. }), "{absent}");
        let unreachable = StoreError::from(cluster.connect_options().connect().await.unwrap_err());
        assert!(unreachable.is_unavailable(), "{unreachable:?}");
        cluster.revive().await.unwrap();
        store.ping().await.unwrap();
        assert_eq!(ask(&joined, "select word from kept").await, "still here");
        joined.release().await.unwrap();
        cluster.release().await.unwrap();
        assert_eq!(process_in(&home), None);
    }

    #[tokio::test]
    async fn a_pid_file_that_names_a_stranger_does_not_keep_the_server_from_starting() {
        let home = home();
        options(home.path()).start().await.unwrap().release().await.unwrap();
        let pid_file = home.path().join("postgres/postmaster.pid");
        std::fs::write(&pid_file, format!("{}\n{}\n", std::process::id(), home.path().display())).unwrap();
        let cluster = options(home.path()).start().await.unwrap();
        assert_eq!(ask(&cluster, "select 'served'").await, "served");
        cluster.release().await.unwrap();
    }

    #[tokio::test]
    async fn data_of_another_version_and_a_lost_password_are_refused_and_explained() {
        let home = home();
        options(home.path()).start().await.unwrap().release().await.unwrap();
        let version_file = home.path().join("postgres/PG_VERSION");
        let version = std::fs::read_to_string(&version_file).unwrap();
        std::fs::write(&version_file, "99\n").unwrap();
        let newer = options(home.path()).start().await.unwrap_err();
        assert!(matches!(newer, ClusterError::DataNewer { data_major: 99, .. }), "{newer}");
        std::fs::write(&version_file, version).unwrap();

        let password_file = home.path().join("postgres.password");
        std::fs::write(&password_file, "not the password").unwrap();
        let refused = options(home.path()).start().await.unwrap_err();
        assert!(matches!(refused, ClusterError::Refused { .. }), "{refused}");
        std::fs::remove_file(&password_file).unwrap();
        let missing = options(home.path()).start().await.unwrap_err();
        assert!(matches!(missing, ClusterError::NoPassword { .. }), "{missing}");
        wait_until_gone(&home).await;
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_says_why_and_where_its_log_is() {
        let home = home();
        let error = options(home.path()).setting("shared_buffers", "nonsense").start().await.unwrap_err();
        assert!(matches!(error, ClusterError::Ended { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("shared_buffers") && message.contains("postgres.log"), "{message}");
        assert_eq!(process_in(&home), None);
    }

    #[tokio::test]
    async fn without_programs_nothing_is_made() {
        let home = home();
        let nowhere = home.path().join("nowhere");
        let search =
            ProgramSearch { pg_bin: None, pg_config: nowhere.clone(), versions: nowhere, path: vec![] };
        let error = options(home.path()).search(search).start().await.unwrap_err();
        assert!(matches!(error, ClusterError::NoPrograms { .. }), "{error}");
        assert!(!home.path().join("postgres").exists());
    }

    #[tokio::test]
    async fn a_home_that_cannot_be_used_is_explained() {
        let root = home();
        let mode = if Uid::effective().is_root() { 0o700 } else { 0o500 };
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let home = root.path().join("home");
        let error = options(&home).start().await.unwrap_err();
        match &error {
            // Root may write everywhere, but the user who runs Postgres may not pass.
            ClusterError::Unreachable { ancestor, .. } if mode == 0o700 => {
                assert_eq!(ancestor, root.path());
            }
            ClusterError::Inaccessible { path, .. } if mode == 0o500 => assert_eq!(*path, home),
            other => panic!("{other}"),
        }
        assert!(error.to_string().contains("GLEANER_HOME"), "{error}");
    }
}
