//! Reads a zip archive of images, in the order of its directory.
//!
//! Private to `import`. Entries that are encrypted, too large, broken or named outside the archive are rejected by name. An archive that
//! unpacks to more than 200 times its size, beyond the first gigabyte, is refused (overlapping entries can promise terabytes).

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::{ZipError, ZipResult};

use super::layout::{Layout, Survey, UnfitName, clean_name};
use super::{ENTRY_BYTES_MAX, Entry, EntryPayload, ImportError, Source, SourceClass};

const FREE_BYTES: u64 = 1 << 30;
const RATIO_MAX: u64 = 200;

/// A zip archive that is being read.
pub(super) struct ZipSource {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    archive_bytes: u64,
    unpacked_bytes: u64,
    layout: Layout,
    entry_count: u64,
    read_count: u64,
    next_index: usize,
}

impl ZipSource {
    /// Opens the archive at `path` and reads its directory.
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let file = File::open(path).map_err(|source| ImportError::unreadable(path, source))?;
        let archive_bytes = file.metadata().map_err(|source| ImportError::unreadable(path, source))?.len();
        let archive =
            ZipArchive::new(BufReader::with_capacity(1 << 16, file)).map_err(|error| match error {
                ZipError::Io(source) => ImportError::unreadable(path, source),
                other => ImportError::malformed(
                    path,
                    format!("no readable zip archive, perhaps truncated: {other}"),
                ),
            })?;
        let mut survey = Survey::default();
        for (raw, decoded) in archive.file_names_raw().zip(archive.file_names()) {
            let name = member_name(raw, decoded);
            match clean_name(&name) {
                Ok(Some(clean)) if !name.ends_with(b"/") => survey.add(&clean),
                Ok(_) => {}
                Err(_) => survey.add_unfit(),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            archive,
            archive_bytes,
            unpacked_bytes: 0,
            layout: survey.layout(),
            entry_count: survey.entry_count(),
            read_count: 0,
            next_index: 0,
        })
    }

    /// Moves to the next entry that is yielded: its index, and its name or why that is unfit.
    fn advance(&mut self) -> Option<(usize, Result<String, UnfitName>)> {
        loop {
            let index = self.next_index;
            let entry = self.archive.by_index_data(index).ok()?;
            self.next_index += 1;
            let name = member_name(entry.name_raw(), entry.name());
            let name = match clean_name(&name) {
                Ok(Some(clean)) if !name.ends_with(b"/") => Ok(clean),
                Ok(_) => continue,
                Err(unfit) => Err(unfit),
            };
            self.read_count += 1;
            return Some((index, name));
        }
    }

    fn read(&mut self, index: usize) -> Result<Vec<u8>, String> {
        let broken = |error: ZipError| format!("the archive's entry can't be read: {error}");
        let file = self.archive.by_index(index).map_err(broken)?;
        if file.is_symlink() {
            return Err("a link, not a file".to_owned());
        }
        let too_large = || format!("larger than {} MiB when unpacked", ENTRY_BYTES_MAX >> 20);
        if file.size() > ENTRY_BYTES_MAX {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(file.size().min(1 << 20) as usize);
        let outcome = file.take(ENTRY_BYTES_MAX + 1).read_to_end(&mut bytes);
        self.unpacked_bytes += bytes.len() as u64;
        outcome.map_err(|error| format!("the archive's entry can't be unpacked: {error}"))?;
        if bytes.len() as u64 > ENTRY_BYTES_MAX { Err(too_large()) } else { Ok(bytes) }
    }
}

/// A member's path as its maker meant it: UTF-8, said so or not, else code page 437; folders parted by `/`.
fn member_name(raw: &[u8], decoded: ZipResult<Cow<'_, str>>) -> Vec<u8> {
    let name = match (std::str::from_utf8(raw), decoded) {
        (Ok(name), _) => Cow::Borrowed(name),
        (Err(_), Ok(decoded)) => decoded,
        // Refused by whoever cleans it.
        (Err(_), Err(_)) => return raw.to_vec(),
    };
    // Old Windows programs part folders by backslashes, and by nothing else.
    if name.contains('/') { name.into_owned().into() } else { name.replace('\\', "/").into() }
}

impl Iterator for ZipSource {
    type Item = Result<Entry, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.unpacked_bytes > FREE_BYTES && self.unpacked_bytes / RATIO_MAX > self.archive_bytes {
            self.next_index = usize::MAX;
            let reason = format!("it unpacks to more than {RATIO_MAX} times its size, like an archive bomb");
            self.unpacked_bytes = 0;
            return Some(Err(ImportError::Broken {
                path: self.path.clone(),
                read_count: self.read_count,
                reason,
            }));
        }
        let (index, name) = self.advance()?;
        let name = match name {
            Ok(name) => name,
            Err(unfit) => return Some(Ok(Entry::unfit(unfit))),
        };
        let (split, class) = self.layout.place(&name);
        let payload = self.read(index).map(EntryPayload::File);
        Some(Ok(Entry { name, split, class: class.map(SourceClass::Name), payload }))
    }
}

impl Source for ZipSource {
    fn entry_count(&self) -> Option<u64> {
        Some(self.entry_count)
    }

    fn class_names(&self) -> Option<&[String]> {
        Some(&self.layout.class_names)
    }

    fn skip_entries(&mut self, count: u64) -> Result<(), ImportError> {
        for _ in 0..count {
            if self.advance().is_none() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::domain::item::Split;

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(vec![]));
        for (name, content) in entries {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, ImportError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        ZipSource::open(file.path())?.collect()
    }

    #[test]
    fn entries_keep_the_archives_order_and_bad_ones_are_rejected_by_name() {
        let large = vec![0; (ENTRY_BYTES_MAX + 1) as usize];
        let bytes = archive(&[
            ("train/b/1.png", b"one"),
            ("../evil.png", b"x"),
            ("test/a/2.png", b"two"),
            ("__MACOSX/test/a/._2.png", b"x"),
            ("train/b/bomb.png", &large),
        ]);
        let entries = read(&bytes).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["train/b/1.png", "../evil.png", "test/a/2.png", "train/b/bomb.png"]);
        assert_eq!(entries[0].class, Some(SourceClass::Name("b".into())));
        assert_eq!(entries[1].payload, Err("the name leads out of the source".into()));
        assert_eq!(
            (entries[2].split, entries[2].payload.clone()),
            (Some(Split::Test), Ok(EntryPayload::File(b"two".to_vec())))
        );
        assert_eq!(entries[3].payload, Err("larger than 128 MiB when unpacked".into()));
    }

    #[test]
    fn names_of_other_systems_are_understood() {
        let mut bytes = archive(&[("K?he/1.png", b"1"), ("Größe/2.png", b"2"), ("train\\cat\\3.png", b"3")]);
        // What Windows' own archiver writes for ü, in the local header and in the directory.
        while let Some(at) = bytes.windows(4).position(|name| name == b"K?he") {
            bytes[at + 1] = 0x81;
        }
        let entries = read(&bytes).unwrap();
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["Kühe/1.png", "Größe/2.png", "train/cat/3.png"]);
        assert_eq!(
            read(&archive(&[("..\\evil.png", b"x")])).unwrap()[0].payload,
            Err("the name leads out of the source".into())
        );
    }

    #[test]
    fn a_damaged_entry_is_rejected_and_the_rest_goes_on() {
        let mut bytes = archive(&[("a.png", &[7; 1000]), ("b.png", b"fine")]);
        // Into the compressed bytes of the first entry, behind its local header and name.
        bytes[37] ^= 0xff;
        let entries = read(&bytes).unwrap();
        assert!(entries[0].payload.is_err());
        assert_eq!(entries[1].payload, Ok(EntryPayload::File(b"fine".to_vec())));
    }

    #[test]
    fn a_truncated_archive_says_so() {
        let bytes = archive(&[("a.png", &[7; 1000])]);
        let error = read(&bytes[..bytes.len() - 30]).unwrap_err();
        assert!(error.to_string().contains("perhaps truncated"), "{error}");
    }

    #[test]
    fn skipping_counts_the_same_entries_as_reading() {
        let bytes = archive(&[("a/", b""), ("a/1.png", b"1"), ("/abs.png", b"x"), ("a/2.png", b"2")]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut source = ZipSource::open(file.path()).unwrap();
        assert_eq!(source.entry_count(), Some(3));
        source.skip_entries(2).unwrap();
        assert_eq!(source.next().unwrap().unwrap().name, "a/2.png");
        assert!(source.next().is_none());
    }
}
