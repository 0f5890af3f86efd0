//! Reads a folder of images on disk, in the order of the names.
//!
//! Private to `import`. The names are listed when the source is opened; files are read one by one. Symbolic links are never followed, not
//! even one that is put in a file's place between listing and reading.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use rustix::fs::OFlags;

use super::layout::{Layout, Survey, clean_name};
use super::{ENTRY_BYTES_MAX, Entry, EntryPayload, ImportError, Source, SourceClass};

const DEPTH_MAX: usize = 64;

/// A folder that is being read.
pub(super) struct FolderSource {
    root: PathBuf,
    layout: Layout,
    entry_count: u64,
    listed: IntoIter<Listed>,
}

/// What the listing found under one name: a file to read, or a reason not to.
struct Listed {
    name: String,
    path: PathBuf,
    refusal: Option<String>,
}

impl FolderSource {
    /// Lists the folder `root` and everything below it.
    pub(super) fn open(root: &Path) -> Result<Self, ImportError> {
        let mut listed = Vec::new();
        list(root, root, 0, &mut listed).map_err(|source| ImportError::unreadable(root, source))?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let mut survey = Survey::default();
        for entry in &listed {
            if entry.refusal.is_none() {
                survey.add(&entry.name);
            } else {
                survey.add_unfit();
            }
        }
        let (layout, entry_count) = (survey.layout(), survey.entry_count());
        Ok(Self { root: root.to_owned(), layout, entry_count, listed: listed.into_iter() })
    }
}

impl Iterator for FolderSource {
    type Item = Result<Entry, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Listed { name, path, refusal } = self.listed.next()?;
        let (split, class) = self.layout.place(&name);
        let payload = match refusal {
            Some(reason) => Err(reason),
            None => read_file(&self.root.join(path)).map(EntryPayload::File),
        };
        Some(Ok(Entry { name, split, class: class.map(SourceClass::Name), payload }))
    }
}

impl Source for FolderSource {
    fn entry_count(&self) -> Option<u64> {
        Some(self.entry_count)
    }

    fn class_names(&self) -> Option<&[String]> {
        Some(&self.layout.class_names)
    }

    fn skip_entries(&mut self, count: u64) -> Result<(), ImportError> {
        if let Some(last) = usize::try_from(count).unwrap_or(usize::MAX).checked_sub(1) {
            self.listed.nth(last);
        }
        Ok(())
    }
}

fn list(root: &Path, folder: &Path, depth: usize, listed: &mut Vec<Listed>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let relative = path.strip_prefix(root).unwrap_or(&path).to_owned();
        let name = match clean_name(relative.as_os_str().as_bytes()) {
            Ok(Some(name)) => name,
            Ok(None) => continue,
            Err(unfit) => {
                listed.push(Listed { name: unfit.shown, path: relative, refusal: Some(unfit.reason) });
                continue;
            }
        };
        let refusal = match fs::symlink_metadata(&path) {
            Err(error) => Some(format!("it can't be read: {error}")),
            Ok(metadata) if metadata.is_symlink() => {
                Some("a symbolic link; links are not followed".to_owned())
            }
            Ok(metadata) if metadata.is_file() => None,
            Ok(metadata) if !metadata.is_dir() => Some("neither a file nor a folder".to_owned()),
            Ok(_) if depth == DEPTH_MAX => Some(format!("folders are nested more than {DEPTH_MAX} deep")),
            Ok(_) => match list(root, &path, depth + 1, listed) {
                Ok(()) => continue,
                Err(error) => Some(format!("the folder can't be read: {error}")),
            },
        };
        listed.push(Listed { name, path: relative, refusal });
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("it can't be read: {error}");
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(ENTRY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > ENTRY_BYTES_MAX {
        return Err(format!("larger than {} MiB", ENTRY_BYTES_MAX >> 20));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::domain::item::Split;

    #[test]
    fn files_come_in_the_order_of_their_names_with_split_and_class() {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in [("test/b/2.png", "two"), ("train/a/10.png", "ten"), ("train/a/1.png", "one")]
        {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        fs::write(folder.path().join(".hidden"), "x").unwrap();
        let source = FolderSource::open(folder.path()).unwrap();
        assert_eq!(
            (source.entry_count(), source.class_names().unwrap().join(",")),
            (Some(3), "a,b".to_owned())
        );
        let entries: Vec<_> = source.map(Result::unwrap).collect();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["test/b/2.png", "train/a/1.png", "train/a/10.png"]);
        assert_eq!(entries[0].split, Some(Split::Test));
        assert_eq!(entries[1].class, Some(SourceClass::Name("a".into())));
        assert_eq!(entries[1].payload, Ok(EntryPayload::File(b"one".to_vec())));
        let mut source = FolderSource::open(folder.path()).unwrap();
        source.skip_entries(2).unwrap();
        assert_eq!(source.next().unwrap().unwrap().name, "train/a/10.png");
        source.skip_entries(5).unwrap();
        assert!(source.next().is_none());
    }

    #[test]
    fn links_are_refused_by_name_and_not_followed() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path().join("secret"), folder.path().join("a.png")).unwrap();
        symlink(outside.path(), folder.path().join("b")).unwrap();
        let entries: Vec<_> = FolderSource::open(folder.path()).unwrap().map(Result::unwrap).collect();
        assert_eq!(entries.len(), 2);
        for entry in entries {
            assert_eq!(entry.payload, Err("a symbolic link; links are not followed".to_owned()));
        }
        assert!(read_file(&folder.path().join("a.png")).is_err());
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        assert!(matches!(FolderSource::open(Path::new("/nonexistent")), Err(ImportError::Unreadable { .. })));
    }
}
