//! What can keep the private cluster from running, and what the operator does about it.
//!
//! Every message names the file, folder or user concerned and the way out, since it is printed as it is.

use std::io;
use std::path::{Path, PathBuf};

/// Why the private cluster isn't usable.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No folder holds both `initdb` and `postgres`.
    #[error(
        "no Postgres programs (initdb and postgres) were found in {searched}; install them (`apt-get install postgresql`), \
         name their folder in PG_BIN, or set DATABASE_URL to a server that runs already"
    )]
    NoPrograms {
        /// The folders that were looked into.
        searched: String,
    },
    /// A program was found but doesn't run or doesn't say its version.
    #[error(
        "'{program}' could not be run ({reason}); repair the installation or name another folder in PG_BIN"
    )]
    Program {
        /// The program.
        program: PathBuf,
        /// What happened.
        reason: String,
    },
    /// A folder or file of the home can't be made, read or written.
    #[error(
        "user '{user}' can't use '{path}' ({source}); give that user access or choose another GLEANER_HOME"
    )]
    Inaccessible {
        /// The folder or file.
        path: PathBuf,
        /// Who tried.
        user: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A folder above the data folder keeps Postgres's user out.
    #[error(
        "Postgres runs as user '{user}', who may not enter '{ancestor}' and so can't reach '{folder}'; \
         choose a GLEANER_HOME outside of it (such as /var/lib/gleaner), or allow it with `chmod o+x {ancestor}`"
    )]
    Unreachable {
        /// The data folder.
        folder: PathBuf,
        /// The folder that keeps the user out.
        ancestor: PathBuf,
        /// The user that Postgres runs as.
        user: String,
    },
    /// The data folder belongs to somebody as whom Postgres can't be run from here.
    #[error(
        "the data folder '{folder}' belongs to user '{owner}', but this is user '{user}'; run gleaner as '{owner}' or root, \
             or choose another GLEANER_HOME"
    )]
    WrongOwner {
        /// The data folder.
        folder: PathBuf,
        /// Its owner.
        owner: String,
        /// Who runs gleaner.
        user: String,
    },
    /// Root needs an ordinary user to run Postgres, and there is none and none could be made.
    #[error(
        "Postgres refuses to run as root, and neither user 'postgres' nor 'gleaner' exists or could be made ({reason}); \
         make one (`useradd --system gleaner`) or run gleaner as an ordinary user"
    )]
    NoAccount {
        /// Why `useradd` failed.
        reason: String,
    },
    /// The data folder was written by a newer Postgres than those found.
    #[error(
        "the data folder '{folder}' was made by Postgres {data_major}, which is newer than the installed {program_major}; \
         install it (`apt-get install postgresql-{data_major}`) or name its folder in PG_BIN"
    )]
    DataNewer {
        /// The data folder.
        folder: PathBuf,
        /// Major version that wrote it.
        data_major: u32,
        /// Newest major version found.
        program_major: u32,
    },
    /// The data folder was written by an older Postgres than those found.
    #[error(
        "the data folder '{folder}' was made by Postgres {data_major}, but {program_major} is installed; \
         install postgresql-{data_major} beside it, or convert the folder with pg_upgrade"
    )]
    DataOlder {
        /// The data folder.
        folder: PathBuf,
        /// Major version that wrote it.
        data_major: u32,
        /// Oldest major version found.
        program_major: u32,
    },
    /// The disk has no room.
    #[error(
        "the disk that holds '{path}' is full; make room or move GLEANER_HOME, then start again (nothing is lost)"
    )]
    DiskFull {
        /// What could not be written.
        path: PathBuf,
    },
    /// The socket's path doesn't fit the 107 bytes of a socket address.
    #[error(
        "the socket's path '{path}' has {byte_count} bytes, 107 are possible; choose a shorter GLEANER_HOME"
    )]
    SocketPath {
        /// Path of the socket.
        path: PathBuf,
        /// Its length.
        byte_count: usize,
    },
    /// The data folder is there but its password isn't.
    #[error(
        "'{path}', the password of the cluster beside it, is missing or empty; restore both from the same backup"
    )]
    NoPassword {
        /// Where it should be.
        path: PathBuf,
    },
    /// The password isn't the cluster's, or the role is gone.
    #[error(
        "the cluster refused its own password ({reason}); restore folder and password file from the same backup"
    )]
    Refused {
        /// What Postgres said.
        reason: String,
    },
    /// `initdb` failed.
    #[error("making the data folder '{folder}' failed: {reason}")]
    Initialise {
        /// The data folder.
        folder: PathBuf,
        /// The last lines that `initdb` wrote.
        reason: String,
    },
    /// The server ended instead of starting.
    #[error("Postgres didn't start: {reason}; its log is '{log}'")]
    Ended {
        /// The last lines of its log.
        reason: String,
        /// Its log.
        log: PathBuf,
    },
    /// The server runs but took no connection in time.
    #[error(
        "Postgres took no connection within {seconds} s ({reason}); it may still be recovering, so start again; its log is '{log}'"
    )]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// What the last try said.
        reason: String,
        /// Its log.
        log: PathBuf,
    },
    /// Nothing runs to be joined.
    #[error(
        "no private cluster runs in '{home}'; start `gleaner serve` with this GLEANER_HOME first, \
         or set DATABASE_URL to the server's database"
    )]
    NotRunning {
        /// The home.
        home: PathBuf,
    },
    /// The server didn't end when asked to.
    #[error("Postgres (process {pid}) didn't stop within {seconds} s")]
    NotStopped {
        /// Its process.
        pid: i32,
        /// How long was waited.
        seconds: u64,
    },
    /// The runtime shut down before the work could begin.
    #[error("gleaner is ending, so the private cluster was left as it is")]
    Interrupted,
    /// The database in the running cluster could not be made.
    #[error("the database 'gleaner' could not be made in the private cluster: {0}")]
    Database(#[source] sqlx::Error),
}

impl ClusterError {
    /// The error for a failed file operation on `path` by `user`; a full disk is told apart.
    pub(super) fn from_io(path: &Path, user: &str, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::DiskFull { path: path.to_owned() };
        }
        Self::Inaccessible { path: path.to_owned(), user: user.to_owned(), source }
    }
}

/// Whether what a Postgres program wrote says that the disk is full.
pub(super) fn tells_full_disk(output: &str) -> bool {
    output.contains("No space left on device") || output.contains("Disk quota exceeded")
}

/// The last lines of what a program wrote, on one line, for a message.
pub(super) fn last_lines(output: &str) -> String {
    const LINE_COUNT: usize = 4;
    let lines: Vec<_> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return "it wrote nothing".to_owned();
    }
    lines[lines.len().saturating_sub(LINE_COUNT)..].join(" / ")
}
