//! The operating-system user as whom Postgres runs.
//!
//! An ordinary user runs it as itself. Root may not (initdb and postgres refuse), so it uses the owner of the data folder when there is
//! one, else user `postgres`, else a system user `gleaner` that is made. Children get that user's id and group and nothing of root's.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use super::error::ClusterError;

/// A user, and whether programs must be switched to it.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) name: String,
    uid: u32,
    gid: u32,
    switch: bool,
}

impl Account {
    /// The user for the data folder at `data`, which need not exist yet.
    pub(super) fn choose(data: &Path) -> Result<Self, ClusterError> {
        let me = Uid::effective();
        let owner = std::fs::metadata(data).ok().map(|metadata| metadata.uid());
        if let Some(owner) = owner
            && (owner == 0 || !(me.is_root() || owner == me.as_raw()))
        {
            let (owner, user) = (name_of(owner), name_of(me.as_raw()));
            return Err(ClusterError::WrongOwner { folder: data.to_owned(), owner, user });
        }
        if !me.is_root() {
            let gid = nix::unistd::Gid::effective().as_raw();
            return Ok(Self { name: name_of(me.as_raw()), uid: me.as_raw(), gid, switch: false });
        }
        if let Some(user) = owner.and_then(|uid| User::from_uid(uid.into()).ok().flatten()) {
            return Ok(Self::of(user));
        }
        for name in ["postgres", "gleaner"] {
            if let Ok(Some(user)) = User::from_name(name) {
                return Ok(Self::of(user));
            }
        }
        create_user("gleaner")
    }

    fn of(user: User) -> Self {
        Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), switch: true }
    }

    /// A command that runs as this user, with an environment of its own and a working folder that everybody may enter.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // Variables such as PGDATA, PGOPTIONS or LANG of the caller must not change what the cluster becomes; messages stay English,
        // since full disks are told by their text.
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
        command.current_dir("/").stdin(Stdio::null());
        if self.switch {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Gives a file or folder that this process made to the user.
    pub(super) fn own(&self, path: &Path) -> Result<(), ClusterError> {
        if !self.switch {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .map_err(|source| ClusterError::from_io(path, &name_of(Uid::effective().as_raw()), source))
    }

    /// Checks that the user may enter every folder above `folder`; root's own home, for one, is closed to others.
    pub(super) fn check_reach(&self, folder: &Path) -> Result<(), ClusterError> {
        if !self.switch {
            return Ok(());
        }
        let mut ancestors: Vec<_> = folder.ancestors().skip(1).collect();
        ancestors.reverse();
        for ancestor in ancestors {
            let Ok(metadata) = std::fs::metadata(ancestor) else {
                continue;
            };
            let enter_bit = if metadata.uid() == self.uid {
                0o100
            } else if metadata.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            if metadata.mode() & enter_bit == 0 {
                return Err(ClusterError::Unreachable {
                    folder: folder.to_owned(),
                    ancestor: ancestor.to_owned(),
                    user: self.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whether folders that lead to the data must be open to another user.
    pub(super) fn is_other(&self) -> bool {
        self.switch
    }
}

/// The name of the user who runs this process.
pub(super) fn own_name() -> String {
    name_of(Uid::effective().as_raw())
}

fn name_of(uid: u32) -> String {
    User::from_uid(uid.into()).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name)
}

fn create_user(name: &str) -> Result<Account, ClusterError> {
    let failed = |reason: String| ClusterError::NoAccount { reason };
    let output = Command::new("useradd")
        .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
        .args(["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"])
        .args(["--shell", "/usr/sbin/nologin", name])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("useradd: {error}")))?;
    match User::from_name(name) {
        Ok(Some(user)) => {
            tracing::info!(user.name = name, "made a system user to run postgres");
            Ok(Account::of(user))
        }
        _ => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_closed_folder_above_the_data_is_named_with_the_user() {
        let root = tempfile::tempdir().unwrap();
        let closed = root.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        let account = Account { name: "somebody".to_owned(), uid: 54_321, gid: 54_321, switch: true };
        let error = account.check_reach(&closed.join("home/postgres")).unwrap_err();
        assert!(
            matches!(&error, ClusterError::Unreachable { ancestor, .. } if *ancestor == closed),
            "{error}"
        );
        assert!(error.to_string().contains("'somebody'"), "{error}");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o701)).unwrap();
        account.check_reach(&closed.join("home/postgres")).unwrap();
    }

    #[test]
    fn root_runs_postgres_as_somebody_else_and_an_ordinary_user_as_itself() {
        let root = tempfile::tempdir().unwrap();
        let account = Account::choose(&root.path().join("postgres")).unwrap();
        assert_ne!(account.uid, 0);
        assert_eq!(account.is_other(), Uid::effective().is_root());
    }
}
