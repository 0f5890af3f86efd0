//! What the private cluster keeps in the home: data folder, password, log and the two lock files.
//!
//! `<home>/postgres` is the data folder (0700, its user's) with the socket inside; `postgres.password` (0600) is its superuser's password;
//! `postgres.users` is locked shared by every process that uses the cluster; `postgres.lifecycle` is locked exclusively around
//! check, start and stop. The kernel drops locks with their process, so SIGKILL leaks none. The data folder is made under another
//! name and renamed when complete, so it is whole or absent. Everything here blocks: call it off the async runtime.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::account::{Account, own_name};
use super::error::{ClusterError, last_lines, tells_full_disk};
use super::programs::Programs;

/// Name of the cluster's superuser and of the database.
pub(super) const ROLE: &str = "gleaner";

/// Port in the socket's name; no TCP port is opened.
pub(super) const PORT: u16 = 5432;

/// Bytes of a socket address's path, without the final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The files of one home.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    home: PathBuf,
}

impl Folder {
    /// Makes the home when it is missing; its path becomes absolute and free of links.
    pub(super) fn prepare(home: &Path) -> Result<Self, ClusterError> {
        // Postgres's user has to pass through, but nobody has to list it; an ordinary user keeps all to itself.
        let mode = if Account::choose(&home.join("postgres"))?.is_other() { 0o711 } else { 0o700 };
        create_folders(home, mode)?;
        let home = home.canonicalize().map_err(|source| failed(home, source))?;
        let folder = Self { home };
        let socket = folder.socket();
        let byte_count = socket.as_os_str().len();
        if byte_count > SOCKET_PATH_BYTES_MAX {
            return Err(ClusterError::SocketPath { path: socket, byte_count });
        }
        Ok(folder)
    }

    /// The home of a cluster that must be there already.
    pub(super) fn open(home: &Path) -> Result<Self, ClusterError> {
        let missing = |_| ClusterError::NotRunning { home: home.to_owned() };
        let folder = Self { home: home.canonicalize().map_err(missing)? };
        match folder.major()? {
            Some(_) => Ok(folder),
            None => Err(ClusterError::NotRunning { home: home.to_owned() }),
        }
    }

    /// The home.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// The data folder, which holds the socket too.
    pub(super) fn data(&self) -> PathBuf {
        self.home.join("postgres")
    }

    /// What the server writes to its standard error.
    pub(super) fn log(&self) -> PathBuf {
        self.home.join("postgres.log")
    }

    fn socket(&self) -> PathBuf {
        self.data().join(format!(".s.PGSQL.{PORT}"))
    }

    fn password_file(&self) -> PathBuf {
        self.home.join("postgres.password")
    }

    /// Waits until no other process checks, starts or stops the cluster, and keeps it so until the file is dropped.
    pub(super) fn lock_lifecycle(&self) -> Result<File, ClusterError> {
        let path = self.home.join("postgres.lifecycle");
        let file = open_lock(&path)?;
        file.lock().map_err(|source| failed(&path, source))?;
        Ok(file)
    }

    /// The lifecycle lock if it is free now; `None` when another process holds it.
    pub(super) fn try_lock_lifecycle(&self) -> Result<Option<File>, ClusterError> {
        let path = self.home.join("postgres.lifecycle");
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(&path, source)),
        }
    }

    /// Becomes a user of the cluster until the file is dropped; only under the lifecycle lock.
    pub(super) fn lock_users(&self) -> Result<File, ClusterError> {
        let path = self.home.join("postgres.users");
        let file = open_lock(&path)?;
        file.lock_shared().map_err(|source| failed(&path, source))?;
        Ok(file)
    }

    /// Whether nobody uses the cluster any more; `users` stops counting in either case. Only under the lifecycle lock.
    pub(super) fn leave_users(users: &File) -> bool {
        users.unlock().is_ok() && users.try_lock().is_ok()
    }

    /// The major version that wrote the data folder; `None` when there is none yet.
    pub(super) fn major(&self) -> Result<Option<u32>, ClusterError> {
        let path = self.data().join("PG_VERSION");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let wrong =
                    || failed(&path, std::io::Error::other(format!("'{}' is no version", text.trim())));
                text.trim().parse().map(Some).map_err(|_| wrong())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed(&path, source)),
        }
    }

    /// The superuser's password.
    pub(super) fn password(&self) -> Result<String, ClusterError> {
        let path = self.password_file();
        match std::fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(failed(&path, source)),
            _ => Err(ClusterError::NoPassword { path }),
        }
    }

    /// Makes the data folder; only under the lifecycle lock, and only when there is none.
    pub(super) fn initialise(&self, programs: &Programs, account: &Account) -> Result<(), ClusterError> {
        account.check_reach(&self.data())?;
        // The password stands before the data that need it; left over from a try that failed, it is used again.
        let password = match self.password() {
            Err(ClusterError::NoPassword { path }) => {
                let password = random_password()?;
                write_private(&path, &password)?;
                password
            }
            known => known?,
        };
        let draft = self.home.join("postgres.new");
        let draft_password = self.home.join("postgres.new.password");
        remove_folder(&draft)?;
        create_folders(&draft, 0o700)?;
        account.own(&draft)?;
        // initdb reads the password as the other user, who may not read ours.
        write_private(&draft_password, &password)?;
        account.own(&draft_password)?;
        let made = self.run_initdb(programs, account, &draft, &draft_password);
        let removed = std::fs::remove_file(&draft_password).map_err(|source| failed(&draft_password, source));
        if let Err(error) = made.and(removed) {
            // A full disk stays full with half a cluster on it.
            remove_folder(&draft)?;
            return Err(error);
        }
        std::fs::rename(&draft, self.data()).map_err(|source| failed(&self.data(), source))?;
        sync_folder(&self.home)
    }

    fn run_initdb(
        &self,
        programs: &Programs,
        account: &Account,
        draft: &Path,
        password: &Path,
    ) -> Result<(), ClusterError> {
        let program = programs.path("initdb");
        let output = account
            .command(&program)
            .arg("--pgdata")
            .arg(draft)
            .arg("--pwfile")
            .arg(password)
            .args(["--username", ROLE, "--auth", "scram-sha-256", "--data-checksums"])
            .args(["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions"])
            .output()
            .map_err(|error| ClusterError::Program { program, reason: error.to_string() })?;
        if output.status.success() {
            return Ok(());
        }
        let written = String::from_utf8_lossy(&output.stderr);
        if tells_full_disk(&written) {
            return Err(ClusterError::DiskFull { path: self.data() });
        }
        Err(ClusterError::Initialise { folder: self.data(), reason: last_lines(&written) })
    }
}

fn failed(path: &Path, source: std::io::Error) -> ClusterError {
    ClusterError::from_io(path, &own_name(), source)
}

fn open_lock(path: &Path) -> Result<File, ClusterError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| failed(path, source))
}

/// Makes a folder and those above it, each with `mode` whatever the umask says.
fn create_folders(path: &Path, mode: u32) -> Result<(), ClusterError> {
    let missing: Vec<_> = path
        .ancestors()
        .filter(|folder| !folder.as_os_str().is_empty())
        .take_while(|folder| !folder.exists())
        .collect();
    for folder in missing.into_iter().rev() {
        match DirBuilder::new().mode(mode).create(folder) {
            Ok(()) => std::fs::set_permissions(folder, Permissions::from_mode(mode))
                .map_err(|e| failed(folder, e))?,
            // Another process made it in the meantime.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(failed(folder, source)),
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<(), ClusterError> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(failed(path, source)),
        _ => Ok(()),
    }
}

/// Writes a file that only its owner may read; it is durable on return, and whole or absent after a crash.
fn write_private(path: &Path, text: &str) -> Result<(), ClusterError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    let draft = PathBuf::from(draft);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    };
    write().map_err(|source| failed(path, source))
}

fn sync_folder(path: &Path) -> Result<(), ClusterError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|source| failed(path, source))
}

/// 32 random bytes in hexadecimal.
fn random_password() -> Result<String, ClusterError> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0_u8; 32];
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| failed(source, error))?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_that_no_address_holds_is_refused_before_anything_is_made() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("x".repeat(100));
        let error = Folder::prepare(&home).unwrap_err();
        assert!(matches!(error, ClusterError::SocketPath { byte_count, .. } if byte_count > 107), "{error}");
        assert!(!home.join("postgres").exists());
    }

    #[test]
    fn a_home_below_a_file_is_inaccessible_and_the_path_is_named() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), "").unwrap();
        let error = Folder::prepare(&root.path().join("file/home")).unwrap_err();
        assert!(error.to_string().contains("file/home"), "{error}");
    }

    #[test]
    fn the_users_lock_tells_whether_anybody_is_left() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::prepare(root.path()).unwrap();
        let (first, second) = (folder.lock_users().unwrap(), folder.lock_users().unwrap());
        assert!(!Folder::leave_users(&first));
        assert!(Folder::leave_users(&second));
    }

    #[test]
    fn a_private_file_is_readable_by_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("secret");
        write_private(&path, "word").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "word");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
