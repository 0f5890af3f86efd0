//! The server process of the private cluster: is one running, start one, stop it.
//!
//! A process counts as the server when `postmaster.pid` names it and its command line is postgres with this data folder; a number that
//! the kernel gave to somebody else meanwhile doesn't. Call only under the lifecycle lock. Everything here blocks.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::account::{Account, own_name};
use super::error::{ClusterError, last_lines, tells_full_disk};
use super::folder::{Folder, PORT};
use super::programs::Programs;

/// How long a fast shutdown may take before the server is made to stop at once.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between two looks at a process that isn't our child and so can't be waited for.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The log is put aside at a start once it is this large.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// The server's process when it runs, in whatever state.
pub(super) fn find_process(data: &Path) -> Option<i32> {
    let pid = recorded_pid(data)?;
    is_server(pid, data).then_some(pid)
}

fn recorded_pid(data: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)
}

fn is_server(pid: i32, data: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    // A dead process that its parent hasn't waited for has an empty command line.
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    program.rsplit(|byte| *byte == b'/').next() == Some(b"postgres")
        && words.any(|word| word == data.as_os_str().as_bytes())
}

/// Removes a `postmaster.pid` whose number now belongs to another process, since postgres would take that one for a server and refuse.
/// Postgres still finds backends of the old server by their shared memory, so this can't make two servers of one folder.
fn remove_stale_pid(data: &Path) -> Result<(), ClusterError> {
    let path = data.join("postmaster.pid");
    if find_process(data).is_some() || !path.exists() {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), "removing the pid file of a server that is gone");
    std::fs::remove_file(&path).map_err(|source| ClusterError::from_io(&path, &own_name(), source))
}

/// A server that this process started.
#[derive(Debug)]
pub(super) struct Launch {
    exit: mpsc::Receiver<Option<ExitStatus>>,
    log: File,
    log_start_bytes: u64,
}

/// What a server said that ended while it was started.
#[derive(Debug)]
pub(super) struct Ending {
    /// What it wrote to its log.
    pub(super) log_text: String,
}

impl Launch {
    /// Starts the server in a process group of its own, so that Ctrl-C on a terminal stops gleaner first.
    pub(super) fn start(
        folder: &Folder,
        programs: &Programs,
        account: &Account,
        settings: &[(String, String)],
    ) -> Result<Self, ClusterError> {
        remove_stale_pid(&folder.data())?;
        let (log, log_start_bytes) = open_log(folder)?;
        let program = programs.path("postgres");
        let failed = |error: std::io::Error| ClusterError::Program {
            program: program.clone(),
            reason: error.to_string(),
        };
        let mut command = account.command(&program);
        command.arg("-D").arg(folder.data()).args(["-c", "listen_addresses="]);
        command.arg("-c").arg(format!("port={PORT}"));
        // Quoted, since the setting is a list and a path may hold a comma.
        command.arg("-c").arg(format!("unix_socket_directories=\"{}\"", folder.data().display()));
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command
            .process_group(0)
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log.try_clone().map_err(failed)?);
        // No parent-death signal: it follows the thread that spawns, and threads of a pool come and go.
        let mut child = command.spawn().map_err(failed)?;
        let (ended, exit) = mpsc::channel();
        // Somebody has to wait for the child, or it stays in the process table when another process stops it.
        thread::Builder::new()
            .name("postgres-wait".to_owned())
            .spawn(move || {
                let status = child.wait().ok();
                tracing::info!(postgres.status = ?status, "the private postgres ended");
                // Nobody listens once it was up.
                let _ = ended.send(status);
            })
            .map_err(failed)?;
        Ok(Self { exit, log, log_start_bytes })
    }

    /// What the server said, once it has ended.
    pub(super) fn ending(&mut self) -> Option<Ending> {
        if matches!(self.exit.try_recv(), Err(mpsc::TryRecvError::Empty)) {
            return None;
        }
        let mut bytes = Vec::new();
        let read = self
            .log
            .seek(SeekFrom::Start(self.log_start_bytes))
            .and_then(|_| self.log.read_to_end(&mut bytes));
        let log_text = match read {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("its log could not be read: {error}"),
        };
        Some(Ending { log_text })
    }
}

impl Ending {
    /// Whether it only met what a killed server left behind and another try may succeed: its backends need a moment to see that it is gone.
    pub(super) fn is_passing(&self) -> bool {
        self.log_text.contains("is still in use")
            || self.log_text.contains("lock file \"postmaster.pid\" already exists")
    }

    /// The error for the operator.
    pub(super) fn error(&self, folder: &Folder) -> ClusterError {
        if tells_full_disk(&self.log_text) {
            return ClusterError::DiskFull { path: folder.data() };
        }
        ClusterError::Ended { reason: last_lines(&self.log_text), log: folder.log() }
    }
}

fn open_log(folder: &Folder) -> Result<(File, u64), ClusterError> {
    let path = folder.log();
    let open = || {
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
            std::fs::rename(&path, path.with_extension("log.1"))?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        let byte_count = file.metadata()?.len();
        Ok((file, byte_count))
    };
    open().map_err(|source| ClusterError::from_io(&path, &own_name(), source))
}

/// Asks the server for a fast shutdown without waiting for it.
pub(super) fn ask_to_stop(data: &Path) -> Option<i32> {
    let pid = find_process(data)?;
    kill(Pid::from_raw(pid), Signal::SIGINT).is_ok().then_some(pid)
}

/// Stops the server and returns when its process is gone: open transactions are rolled back, a checkpoint is written.
pub(super) fn stop(data: &Path) -> Result<(), ClusterError> {
    let Some(pid) = ask_to_stop(data) else {
        return Ok(());
    };
    if ends_within(pid, data, STOP_TIMEOUT) {
        return Ok(());
    }
    tracing::warn!(
        postgres.pid = pid,
        "postgres ignores the fast shutdown, it is stopped at once and recovers at its next start"
    );
    // It may have ended just now, so a signal that meets nobody is as good.
    let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
    if ends_within(pid, data, STOP_TIMEOUT) {
        return Ok(());
    }
    Err(ClusterError::NotStopped { pid, seconds: 2 * STOP_TIMEOUT.as_secs() })
}

fn ends_within(pid: i32, data: &Path, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while is_server(pid, data) {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL_INTERVAL);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_now_belongs_to_another_program_is_no_server_and_its_file_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("postmaster.pid");
        std::fs::write(&path, format!("{}\n{}\n", std::process::id(), root.path().display())).unwrap();
        assert_eq!(find_process(root.path()), None);
        remove_stale_pid(root.path()).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn an_ending_for_want_of_room_is_told_from_others() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::prepare(root.path()).unwrap();
        let full = Ending {
            log_text: "FATAL:  could not write lock file \"postmaster.pid\": No space left on device"
                .to_owned(),
        };
        assert!(matches!(full.error(&folder), ClusterError::DiskFull { .. }));
        let other = Ending { log_text: "LOG:  starting\nFATAL:  could not map memory\n".to_owned() };
        assert!(other.error(&folder).to_string().contains("could not map memory"));
        assert!(!other.is_passing());
    }
}
