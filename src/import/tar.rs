//! Reads a tar archive of images, plain or gzipped, in the archive's order.
//!
//! Private to `import`. The archive is read twice: once for the names, which tell its layout and its length, then for the content. Only
//! regular files are taken; links and devices are rejected by name. A header may use 1 MiB with its extensions, so that a long name
//! can't fill the memory.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::layout::{Layout, Survey, UnfitName, clean_name};
use super::stream::Stream;
use super::{ENTRY_BYTES_MAX, Entry, EntryPayload, ImportError, Source, SourceClass};

const BLOCK_BYTES: u64 = 512;
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// Whether these first bytes are a tar header: its checksum is right.
pub(super) fn is_header(start: &[u8]) -> bool {
    let Some(block) = start.first_chunk::<512>() else {
        return false;
    };
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) })
        .sum();
    block[0] != 0 && header.cksum().is_ok_and(|stated| stated == sum)
}

/// What a tar archive holds next.
pub(super) struct Member {
    /// Path inside the archive, as it stands there.
    pub(super) raw_name: Vec<u8>,
    /// Bytes of content.
    pub(super) byte_count: u64,
    /// What it is.
    pub(super) kind: MemberKind,
}

/// What a member of a tar archive is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A link, a device or a sparse file.
    Other,
}

/// Walks through a tar archive header by header; after `next_member` its content is read or passed over.
pub(super) struct TarWalker {
    stream: Stream,
    /// Bytes until the next header, content and padding of the last member.
    pending: u64,
}

impl TarWalker {
    /// Opens the archive at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        Ok(Self { stream: Stream::open(path)?, pending: 0 })
    }

    /// The next member; `None` at the end marker; the error says what is broken.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>, String> {
        self.stream.skip(self.pending).map_err(|error| error.to_string())?;
        self.pending = 0;
        let mut limited = (&mut self.stream).take(HEADER_BYTES_MAX);
        let member = {
            // An archive of the crate's own would borrow the stream for good; a fresh one reads exactly one header with its extensions.
            let mut archive = tar::Archive::new(&mut limited);
            let mut entries = archive.entries().map_err(|error| error.to_string())?;
            entries.next().transpose().map_err(|error| error.to_string())?.map(|entry| {
                let header = entry.header();
                let kind = match header.entry_type() {
                    tar::EntryType::Regular | tar::EntryType::Continuous => MemberKind::File,
                    tar::EntryType::Directory => MemberKind::Folder,
                    _ => MemberKind::Other,
                };
                // A sparse file's own size counts its holes, which aren't in the archive.
                let stored = if kind == MemberKind::Other { header.entry_size().ok() } else { None };
                let byte_count = stored.unwrap_or_else(|| entry.size());
                Member { raw_name: entry.path_bytes().into_owned(), byte_count, kind }
            })
        };
        let header_bytes = HEADER_BYTES_MAX - limited.limit();
        match member {
            None if header_bytes == 0 => {
                Err("it ends without its end marker, so it may be truncated".to_owned())
            }
            None if header_bytes == HEADER_BYTES_MAX => Err("a header is longer than 1 MiB".to_owned()),
            None => Ok(None),
            Some(member) => {
                let padded = member.byte_count.checked_next_multiple_of(BLOCK_BYTES);
                self.pending = padded.ok_or("a header states an impossible size")?;
                Ok(Some(member))
            }
        }
    }

    /// The content of the member that `next_member` just gave, which isn't longer than `ENTRY_BYTES_MAX`.
    pub(super) fn read_content(&mut self, member: &Member) -> Result<Vec<u8>, String> {
        let bytes = self.stream.read_up_to(member.byte_count).map_err(|error| error.to_string())?;
        self.pending = self.pending.saturating_sub(bytes.len() as u64);
        if bytes.len() as u64 == member.byte_count {
            Ok(bytes)
        } else {
            Err(format!("it ends within '{}'", String::from_utf8_lossy(&member.raw_name)))
        }
    }
}

/// A tar archive that is being read.
pub(super) struct TarSource {
    path: PathBuf,
    walker: TarWalker,
    layout: Layout,
    entry_count: Option<u64>,
    read_count: u64,
    ended: bool,
}

impl TarSource {
    /// Opens the archive at `path` and passes over it once for its names.
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let mut survey = Survey::default();
        let mut walker = TarWalker::open(path)?;
        // A break in the archive is reported when reading comes to it; until then the count is unknown.
        let whole = loop {
            match walker.next_member() {
                Ok(Some(member)) => match name_of(&member) {
                    Some(Ok(name)) => survey.add(&name),
                    Some(Err(_)) => survey.add_unfit(),
                    None => {}
                },
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        Ok(Self {
            path: path.to_owned(),
            walker: TarWalker::open(path)?,
            layout: survey.layout(),
            entry_count: whole.then(|| survey.entry_count()),
            read_count: 0,
            ended: false,
        })
    }

    /// The next entry; its content is read only when `reading`.
    fn advance(&mut self, reading: bool) -> Result<Option<Entry>, String> {
        loop {
            let Some(member) = self.walker.next_member()? else {
                return Ok(None);
            };
            let name = match name_of(&member) {
                None => continue,
                Some(Ok(name)) => name,
                Some(Err(unfit)) => return Ok(Some(Entry::unfit(unfit))),
            };
            let (split, class) = self.layout.place(&name);
            let payload = if member.byte_count > ENTRY_BYTES_MAX {
                Err(format!("larger than {} MiB", ENTRY_BYTES_MAX >> 20))
            } else if reading {
                Ok(EntryPayload::File(self.walker.read_content(&member)?))
            } else {
                Ok(EntryPayload::File(vec![]))
            };
            return Ok(Some(Entry { name, split, class: class.map(SourceClass::Name), payload }));
        }
    }

    fn step(&mut self, reading: bool) -> Option<Result<Entry, ImportError>> {
        if self.ended {
            return None;
        }
        match self.advance(reading) {
            Ok(Some(entry)) => {
                self.read_count += 1;
                Some(Ok(entry))
            }
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(reason) => {
                self.ended = true;
                Some(Err(ImportError::Broken {
                    path: self.path.clone(),
                    read_count: self.read_count,
                    reason,
                }))
            }
        }
    }
}

/// The name of a member that is yielded: clean, or unfit with its reason; `None` for folders and files nobody means.
fn name_of(member: &Member) -> Option<Result<String, UnfitName>> {
    if member.kind == MemberKind::Folder {
        return None;
    }
    match clean_name(&member.raw_name) {
        Ok(None) => None,
        Ok(Some(name)) if member.kind == MemberKind::Other => Some(Err(UnfitName {
            shown: name,
            reason: "not a regular file but a link, a device or sparse".to_owned(),
        })),
        Ok(Some(name)) => Some(Ok(name)),
        Err(unfit) => Some(Err(unfit)),
    }
}

impl Iterator for TarSource {
    type Item = Result<Entry, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}

impl Source for TarSource {
    fn entry_count(&self) -> Option<u64> {
        self.entry_count
    }

    fn class_names(&self) -> Option<&[String]> {
        Some(&self.layout.class_names)
    }

    fn skip_entries(&mut self, count: u64) -> Result<(), ImportError> {
        for _ in 0..count {
            match self.step(false) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::domain::item::Split;

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(vec![]);
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // Written past `set_path`, which refuses what an attacker wouldn't.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn open(bytes: &[u8]) -> TarSource {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        TarSource::open(file.path()).unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(vec![], Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const ENTRIES: [(&str, &[u8]); 4] = [
        ("train/b%2Fc/1.jpg", b"one"),
        ("../evil", b"x"),
        ("test/a/2.jpg", &[2; 513]),
        ("train/a/3.jpg", b""),
    ];

    #[test]
    fn plain_and_gzipped_archives_read_alike() {
        let plain = archive(&ENTRIES);
        assert!(is_header(&plain));
        let entries: Vec<_> = open(&plain).map(Result::unwrap).collect();
        assert_eq!(entries, open(&gzip(&plain)).map(Result::unwrap).collect::<Vec<_>>());
        assert_eq!(open(&plain).entry_count(), Some(4));
        assert_eq!(open(&plain).class_names().unwrap(), ["a", "b/c"]);
        assert_eq!(entries[0].class, Some(SourceClass::Name("b/c".into())));
        assert_eq!(entries[0].payload, Ok(EntryPayload::File(b"one".to_vec())));
        assert_eq!(entries[1].payload, Err("the name leads out of the source".into()));
        assert_eq!((entries[2].split, entries[2].name.as_str()), (Some(Split::Test), "test/a/2.jpg"));
        assert_eq!(entries[3].payload, Ok(EntryPayload::File(vec![])));
    }

    #[test]
    fn skipping_counts_the_same_entries_as_reading() {
        for bytes in [archive(&ENTRIES), gzip(&archive(&ENTRIES))] {
            let mut source = open(&bytes);
            source.skip_entries(2).unwrap();
            assert_eq!(source.next().unwrap().unwrap().payload, Ok(EntryPayload::File(vec![2; 513])));
            source.skip_entries(9).unwrap();
            assert!(source.next().is_none());
        }
    }

    #[test]
    fn a_broken_tail_names_what_was_read() {
        let plain = archive(&ENTRIES);
        let without_marker = &plain[..plain.len() - 1024];
        let within_content = &plain[..512 * 6 - 100];
        for (bytes, read) in [(without_marker, 4), (within_content, 2), (&gzip(&plain)[..30], 0)] {
            let source = open(bytes);
            assert_eq!(source.entry_count(), None);
            let outcomes: Vec<_> = source.collect();
            let error = outcomes.last().unwrap().as_ref().unwrap_err();
            let ImportError::Broken { read_count, .. } = error else { panic!("{error}") };
            assert_eq!((outcomes.len() as u64 - 1, *read_count), (read, read));
        }
    }

    #[test]
    fn links_are_rejected_by_name() {
        let mut builder = tar::Builder::new(vec![]);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "link.png", "/etc/passwd").unwrap();
        let entries: Vec<_> = open(&builder.into_inner().unwrap()).map(Result::unwrap).collect();
        assert_eq!(
            (entries[0].name.as_str(), entries[0].payload.clone()),
            ("link.png", Err("not a regular file but a link, a device or sparse".into()))
        );
    }

    #[test]
    fn long_names_are_read_and_endless_ones_stopped() {
        let long = format!("train/a/{}.png", "x".repeat(300));
        let mut builder = tar::Builder::new(vec![]);
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        builder.append_data(&mut header, &long, &b"1"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        assert_eq!(open(&bytes).next().unwrap().unwrap().name, long);

        let mut builder = tar::Builder::new(vec![]);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(2 << 20);
        header.set_cksum();
        builder.append(&header, &vec![b'x'; 2 << 20][..]).unwrap();
        assert!(open(&builder.into_inner().unwrap()).next().unwrap().is_err());
    }
}
