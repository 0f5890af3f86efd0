//! Where the Postgres programs are, and of which version.
//!
//! Order: `PG_BIN` alone when it is set; else `pg_config --bindir`, the newest of `/usr/lib/postgresql/*/bin`, the folders of `PATH`.
//! A data folder that exists decides the version: Postgres opens only folders of its own major version.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::ClusterError;

/// Where to look for the programs.
#[derive(Clone, Debug)]
pub struct ProgramSearch {
    /// The only folder to look into, when set.
    pub pg_bin: Option<PathBuf>,
    /// The program that knows where Postgres was installed, when it is.
    pub pg_config: PathBuf,
    /// Holds one folder a major version, each with a folder `bin` (Debian).
    pub versions: PathBuf,
    /// Searched last.
    pub path: Vec<PathBuf>,
}

impl ProgramSearch {
    /// The search that this process's environment asks for.
    #[must_use]
    pub fn from_environment() -> Self {
        Self {
            pg_bin: std::env::var_os("PG_BIN").filter(|value| !value.is_empty()).map(PathBuf::from),
            pg_config: PathBuf::from("pg_config"),
            versions: PathBuf::from("/usr/lib/postgresql"),
            path: std::env::var_os("PATH")
                .map(|path| std::env::split_paths(&path).collect())
                .unwrap_or_default(),
        }
    }

    /// The folders to look into, first choice first.
    fn folders(&self) -> Vec<PathBuf> {
        if let Some(folder) = &self.pg_bin {
            return vec![folder.clone()];
        }
        let mut folders = Vec::new();
        if let Ok(output) = Command::new(&self.pg_config).arg("--bindir").output()
            && output.status.success()
        {
            folders.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        }
        let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(&self.versions)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                Some((leading_number(path.file_name()?)?, path.join("bin")))
            })
            .collect();
        versions.sort();
        folders.extend(versions.into_iter().rev().map(|(_, folder)| folder));
        folders.extend(self.path.iter().cloned());
        folders
    }
}

/// One installation: the folder of its programs and its major version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    folder: PathBuf,
    major: u32,
}

impl Programs {
    /// The first installation found, or the first of the version that wrote the data folder when there is one.
    pub(super) fn find(search: &ProgramSearch, data: Option<(&Path, u32)>) -> Result<Self, ClusterError> {
        let folders = search.folders();
        let mut found = Vec::new();
        let mut broken = None;
        for folder in &folders {
            if folder.join("initdb").is_file() && folder.join("postgres").is_file() {
                match major_version(&folder.join("postgres")) {
                    Ok(major) => found.push(Self { folder: folder.clone(), major }),
                    Err(error) => broken = broken.or(Some(error)),
                }
            }
        }
        let Some(first) = found.first() else {
            let searched: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let searched = if searched.is_empty() { "PATH".to_owned() } else { searched.join(", ") };
            return Err(broken.unwrap_or(ClusterError::NoPrograms { searched }));
        };
        let Some((folder, data_major)) = data else {
            return Ok(first.clone());
        };
        if let Some(programs) = found.iter().find(|programs| programs.major == data_major) {
            return Ok(programs.clone());
        }
        let majors = || found.iter().map(|programs| programs.major);
        let newest = majors().max().unwrap_or(first.major);
        let oldest = majors().min().unwrap_or(first.major);
        let folder = folder.to_owned();
        Err(if data_major > newest {
            ClusterError::DataNewer { folder, data_major, program_major: newest }
        } else {
            ClusterError::DataOlder { folder, data_major, program_major: oldest }
        })
    }

    /// The path of one program.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Asks `postgres --version`, which answers like `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_version(program: &Path) -> Result<u32, ClusterError> {
    let failed = |reason: String| ClusterError::Program { program: program.to_owned(), reason };
    let output =
        Command::new(program).arg("--version").output().map_err(|error| failed(error.to_string()))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    answer
        .split_whitespace()
        .find_map(|word| leading_number(OsStr::new(word)))
        .ok_or_else(|| failed(format!("'--version' answered '{}'", answer.trim())))
}

fn leading_number(name: &OsStr) -> Option<u32> {
    let text = name.to_str()?;
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    text[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder of programs that only answer `--version`.
    fn install(root: &Path, major: u32) -> PathBuf {
        let folder = root.join(major.to_string()).join("bin");
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["initdb", "postgres"] {
            write_program(&folder.join(name), &format!("echo '{name} (PostgreSQL) {major}.3 (Debian)'"));
        }
        folder
    }

    fn write_program(path: &Path, body: &str) {
        std::fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        // A child that another test forks at this moment holds the file open for writing until it executes its own program.
        while let Err(error) = Command::new(path).output() {
            assert_eq!(error.kind(), std::io::ErrorKind::ExecutableFileBusy);
        }
    }

    fn search(root: &Path) -> ProgramSearch {
        ProgramSearch {
            pg_bin: None,
            pg_config: root.join("no-pg-config"),
            versions: root.to_owned(),
            path: vec![],
        }
    }

    #[test]
    fn the_newest_version_is_taken_by_number_and_not_by_spelling() {
        let root = tempfile::tempdir().unwrap();
        install(root.path(), 9);
        let newest = install(root.path(), 15);
        let programs = Programs::find(&search(root.path()), None).unwrap();
        assert_eq!(programs, Programs { folder: newest, major: 15 });
    }

    #[test]
    fn existing_data_decide_the_version() {
        let root = tempfile::tempdir().unwrap();
        let (older, data) = (install(root.path(), 14), Path::new("/data"));
        install(root.path(), 15);
        let search = search(root.path());
        assert_eq!(Programs::find(&search, Some((data, 14))).unwrap().folder, older);
        let newer = Programs::find(&search, Some((data, 17))).unwrap_err();
        assert!(
            matches!(newer, ClusterError::DataNewer { data_major: 17, program_major: 15, .. }),
            "{newer}"
        );
        assert!(newer.to_string().contains("postgresql-17"), "{newer}");
        let older = Programs::find(&search, Some((data, 12))).unwrap_err();
        assert!(
            matches!(older, ClusterError::DataOlder { data_major: 12, program_major: 14, .. }),
            "{older}"
        );
    }

    #[test]
    fn pg_bin_is_the_only_choice_when_it_is_set() {
        let root = tempfile::tempdir().unwrap();
        install(root.path(), 15);
        let mut search = search(root.path());
        search.pg_bin = Some(root.path().join("elsewhere"));
        let error = Programs::find(&search, None).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("elsewhere") && message.contains("apt-get install postgresql"), "{message}");
    }

    #[test]
    fn a_program_that_does_not_say_its_version_is_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = install(root.path(), 15);
        write_program(&folder.join("postgres"), "exit 1");
        let error = Programs::find(&search(root.path()), None).unwrap_err();
        assert!(
            matches!(&error, ClusterError::Program { program, .. } if *program == folder.join("postgres")),
            "{error}"
        );
    }
}
