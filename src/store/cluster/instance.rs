//! A server of the private cluster as its clients see it: how to connect, and waiting until that succeeds.
//!
//! A process alone isn't a server yet: it may be starting, recovering or stopping, and only a connection tells. Blocking calls are for the
//! blocking threads, under the lifecycle lock.

use std::thread;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::runtime::Handle;

use super::account::Account;
use super::error::{ClusterError, last_lines};
use super::folder::{Folder, PORT, ROLE};
use super::programs::Programs;
use super::server::{self, Launch, POLL_INTERVAL};

/// How long a server may take to accept connections, recovery included.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one try to connect may take; a stopped process accepts on its socket but never answers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A data folder, the password to what serves it, and how to start that.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) folder: Folder,
    password: String,
    /// `None` for who only joins.
    recipe: Option<Recipe>,
}

/// What it takes to start a server.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) programs: Programs,
    pub(super) account: Account,
    pub(super) settings: Vec<(String, String)>,
}

impl Instance {
    /// The instance of a data folder that is there.
    pub(super) fn open(folder: Folder, recipe: Option<Recipe>) -> Result<Self, ClusterError> {
        Ok(Self { password: folder.password()?, folder, recipe })
    }

    /// How to connect to the cluster's database.
    pub(super) fn connect_options(&self) -> PgConnectOptions {
        self.options_for(ROLE)
    }

    /// Every connection parameter is set, so that no `PG…` variable of the caller's environment can lead elsewhere.
    fn options_for(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.folder.data())
            .port(PORT)
            .username(ROLE)
            .password(&self.password)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
    }

    /// Waits until a connection succeeds; starts a server whenever none runs. Blocks.
    pub(super) fn make_ready(&self, runtime: &Handle) -> Result<(), ClusterError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut launched: Option<Launch> = None;
        let mut reason = "it hasn't begun to listen".to_owned();
        loop {
            if server::find_process(&self.folder.data()).is_some() {
                match runtime.block_on(self.probe()) {
                    Ok(()) => return runtime.block_on(self.ensure_database()),
                    Err(Probe::Refused(reason)) => return Err(ClusterError::Refused { reason }),
                    Err(Probe::Later(answer)) => reason = answer,
                }
            } else if let Some(ending) = launched.as_mut().and_then(Launch::ending) {
                if !ending.is_passing() {
                    return Err(ending.error(&self.folder));
                }
                reason = last_lines(&ending.log_text);
                launched = None;
            } else if launched.is_none() {
                launched = Some(self.launch()?);
            }
            if Instant::now() >= deadline {
                let seconds = READY_TIMEOUT.as_secs();
                return Err(ClusterError::NotReady { seconds, reason, log: self.folder.log() });
            }
            // Nothing tells when another process's server has recovered; this is a blocking thread.
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn launch(&self) -> Result<Launch, ClusterError> {
        let Some(recipe) = &self.recipe else {
            return Err(ClusterError::NotRunning { home: self.folder.home().to_owned() });
        };
        Launch::start(&self.folder, &recipe.programs, &recipe.account, &recipe.settings)
    }

    async fn probe(&self) -> Result<(), Probe> {
        let options = self.options_for("postgres");
        match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
            Ok(Ok(connection)) => {
                // It answered; how the connection ends changes nothing.
                let _ = connection.close().await;
                Ok(())
            }
            // Class 28 is wrong password, wrong role or pg_hba.conf.
            Ok(Err(sqlx::Error::Database(answer)))
                if answer.code().is_some_and(|code| code.starts_with("28")) =>
            {
                Err(Probe::Refused(answer.message().to_owned()))
            }
            Ok(Err(error)) => Err(Probe::Later(error.to_string())),
            Err(_) => Err(Probe::Later("it doesn't answer".to_owned())),
        }
    }

    async fn ensure_database(&self) -> Result<(), ClusterError> {
        let mut connection = self.options_for("postgres").connect().await.map_err(ClusterError::Database)?;
        let made = create_database(&mut connection).await.map_err(ClusterError::Database);
        let _ = connection.close().await;
        made
    }
}

/// Why a try to connect failed.
enum Probe {
    /// Another try can't help.
    Refused(String),
    /// The server may be starting, recovering or stopping.
    Later(String),
}

async fn create_database(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let known = sqlx::query_scalar!(
        r#"select exists (select from pg_database where datname = 'gleaner') as "known!""#
    );
    if !known.fetch_one(&mut *connection).await? {
        sqlx::query("create database gleaner").execute(connection).await?;
    }
    Ok(())
}
