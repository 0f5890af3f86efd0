//! Reads CIFAR-10's binary batches, loose in a folder or inside a tar archive, plain or gzipped.
//!
//! Private to `import`. Format: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009: records of 3073 bytes, a
//! label and three planes of 32 × 32. Items are named `data_batch_1/00000`; `test_batch` is the test split. One batch is held at a time.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use crate::domain::item::Split;

use super::stream::Stream;
use super::tar::{MemberKind, TarWalker};
use super::{ENTRY_BYTES_MAX, Entry, EntryPayload, ImportError, Source, SourceClass};

const EDGE: usize = 32;
const PLANE_BYTES: usize = EDGE * EDGE;
const RECORD_BYTES: usize = 1 + 3 * PLANE_BYTES;
const NAMES_FILE: &str = "batches.meta.txt";

/// Members of an archive that are looked at before it is taken for something else; CIFAR-10's has nine.
const LOOKED_AT_COUNT: usize = 64;

/// Whether a path is called like a batch.
pub(super) fn is_batch_name(path: &Path) -> bool {
    batch_name(path).is_some()
}

/// Whether a folder, or the folder that CIFAR-10's archive unpacks to within it, holds batches.
pub(super) fn is_in(folder: &Path) -> bool {
    list_batches(folder).is_ok_and(|batches| !batches.is_empty())
}

/// Whether a tar archive begins with batches.
pub(super) fn is_in_tar(path: &Path) -> Result<bool, ImportError> {
    let mut walker = TarWalker::open(path)?;
    for _ in 0..LOOKED_AT_COUNT {
        match walker.next_member() {
            Ok(Some(member)) if is_batch_name(Path::new(&*String::from_utf8_lossy(&member.raw_name))) => {
                return Ok(true);
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    Ok(false)
}

/// `data_batch_1` of `…/data_batch_1.bin`.
fn batch_name(path: &Path) -> Option<String> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".bin")?;
    (stem.starts_with("data_batch_") || stem == "test_batch").then(|| stem.to_owned())
}

fn list_batches(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    for folder in [folder.to_owned(), folder.join("cifar-10-batches-bin")] {
        let unreadable = |source| ImportError::unreadable(&folder, source);
        if !folder.is_dir() {
            continue;
        }
        let mut batches = Vec::new();
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if is_batch_name(&path) {
                batches.push(path);
            }
        }
        if !batches.is_empty() {
            batches.sort();
            return Ok(batches);
        }
    }
    Ok(vec![])
}

/// Where batches come from.
enum Supply {
    Files(VecDeque<PathBuf>),
    Archive(Box<TarWalker>),
}

/// One batch that is being read.
struct Batch {
    name: String,
    split: Option<Split>,
    bytes: Vec<u8>,
    position: usize,
}

impl Batch {
    fn new(name: String, bytes: Vec<u8>) -> Self {
        let split = Some(if name == "test_batch" { Split::Test } else { Split::Pool });
        Self { name, split, bytes, position: 0 }
    }

    fn next_entry(&mut self) -> Option<Entry> {
        let record = self.bytes.get(self.position * RECORD_BYTES..).filter(|rest| !rest.is_empty())?;
        let name = format!("{}/{:05}", self.name, self.position);
        self.position += 1;
        let Some(record) = record.first_chunk::<RECORD_BYTES>() else {
            let reason = "the batch ends within this record".to_owned();
            return Some(Entry { name, split: self.split, class: None, payload: Err(reason) });
        };
        let (label, planes) = (record[0], &record[1..]);
        let pixels =
            (0..PLANE_BYTES).flat_map(|at| [0, 1, 2].map(|plane| planes[plane * PLANE_BYTES + at])).collect();
        let payload =
            Ok(EntryPayload::Pixels { width: EDGE as u32, height: EDGE as u32, channels: 3, pixels });
        Some(Entry { name, split: self.split, class: Some(SourceClass::Number(label.into())), payload })
    }
}

/// CIFAR-10 batches that are being read.
pub(super) struct CifarSource {
    path: PathBuf,
    supply: Supply,
    batch: Option<Batch>,
    class_names: Option<Vec<String>>,
    entry_count: u64,
    read_count: u64,
}

impl CifarSource {
    /// Opens a folder of batches, one batch, or a tar archive of them.
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let source = if path.is_dir() {
            Self::open_files(path, list_batches(path)?)?
        } else if is_batch_name(path) {
            Self::open_files(path, vec![path.to_owned()])?
        } else {
            Self::open_archive(path)?
        };
        if source.entry_count == 0 {
            let reason = "it holds no CIFAR-10 batches; names such as data_batch_1.bin are expected";
            return Err(ImportError::malformed(path, reason));
        }
        Ok(source)
    }

    fn open_files(path: &Path, batches: Vec<PathBuf>) -> Result<Self, ImportError> {
        let mut entry_count = 0;
        for batch in &batches {
            let metadata = batch.metadata().map_err(|source| ImportError::unreadable(batch, source))?;
            entry_count += metadata.len().div_ceil(RECORD_BYTES as u64);
        }
        let names_path = batches.first().map(|batch| batch.with_file_name(NAMES_FILE));
        let class_names =
            names_path.and_then(|path| fs::read(path).ok()).and_then(|bytes| parse_names(&bytes));
        let supply = Supply::Files(batches.into());
        Ok(Self { path: path.to_owned(), supply, batch: None, class_names, entry_count, read_count: 0 })
    }

    fn open_archive(path: &Path) -> Result<Self, ImportError> {
        let broken = |reason| ImportError::Broken { path: path.to_owned(), read_count: 0, reason };
        let (mut entry_count, mut class_names) = (0, None);
        let mut walker = TarWalker::open(path)?;
        // A break in the archive is reported when reading comes to it.
        while let Ok(Some(member)) = walker.next_member() {
            let name = String::from_utf8_lossy(&member.raw_name).into_owned();
            let name = Path::new(&name);
            if is_batch_name(name) {
                entry_count += member.byte_count.div_ceil(RECORD_BYTES as u64);
            } else if name.ends_with(NAMES_FILE) && member.byte_count <= 1 << 16 {
                class_names = parse_names(&walker.read_content(&member).map_err(broken)?);
            }
        }
        let supply = Supply::Archive(Box::new(TarWalker::open(path)?));
        Ok(Self { path: path.to_owned(), supply, batch: None, class_names, entry_count, read_count: 0 })
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, String> {
        match &mut self.supply {
            Supply::Files(files) => {
                let Some(path) = files.pop_front() else {
                    return Ok(None);
                };
                let mut stream = Stream::open(&path).map_err(|error| error.to_string())?;
                let bytes = stream.read_up_to(ENTRY_BYTES_MAX).map_err(|error| error.to_string())?;
                Ok(Some(Batch::new(batch_name(&path).unwrap_or_default(), bytes)))
            }
            Supply::Archive(walker) => loop {
                let Some(member) = walker.next_member()? else {
                    return Ok(None);
                };
                let name = batch_name(Path::new(&*String::from_utf8_lossy(&member.raw_name)));
                let Some(name) = name.filter(|_| member.kind == MemberKind::File) else {
                    continue;
                };
                if member.byte_count > ENTRY_BYTES_MAX {
                    return Err(format!("batch {name} is larger than {} MiB", ENTRY_BYTES_MAX >> 20));
                }
                return Ok(Some(Batch::new(name, walker.read_content(&member)?)));
            },
        }
    }
}

fn parse_names(bytes: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let names: Vec<_> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    (!names.is_empty()).then_some(names)
}

impl Iterator for CifarSource {
    type Item = Result<Entry, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.batch.as_mut().and_then(Batch::next_entry) {
                self.read_count += 1;
                return Some(Ok(entry));
            }
            match self.next_batch() {
                Ok(Some(batch)) => self.batch = Some(batch),
                Ok(None) => return None,
                Err(reason) => {
                    self.batch = None;
                    self.supply = Supply::Files(VecDeque::new());
                    let (path, read_count) = (self.path.clone(), self.read_count);
                    return Some(Err(ImportError::Broken { path, read_count, reason }));
                }
            }
        }
    }
}

impl Source for CifarSource {
    fn entry_count(&self) -> Option<u64> {
        Some(self.entry_count)
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn record(label: u8) -> Vec<u8> {
        let plane = |value: u8| vec![value; PLANE_BYTES];
        [vec![label], plane(label + 1), plane(label + 2), plane(label + 3)].concat()
    }

    fn check(source: CifarSource) {
        assert_eq!(source.entry_count(), Some(4));
        assert_eq!(source.class_names().unwrap(), ["airplane", "automobile"]);
        let mut entries: Vec<_> = source.map(Result::unwrap).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(
            names,
            ["data_batch_1/00000", "data_batch_1/00001", "data_batch_1/00002", "test_batch/00000"]
        );
        let pixels = [6, 7, 8].repeat(PLANE_BYTES);
        let payload = EntryPayload::Pixels { width: 32, height: 32, channels: 3, pixels };
        assert_eq!((&entries[1].payload, &entries[1].class), (&Ok(payload), &Some(SourceClass::Number(5))));
        assert_eq!(entries[2].payload, Err("the batch ends within this record".into()));
        assert_eq!((entries[0].split, entries[3].split), (Some(Split::Pool), Some(Split::Test)));
    }

    #[test]
    fn loose_batches_and_archives_of_them_read_alike() {
        let folder = tempfile::tempdir().unwrap();
        let batches = folder.path().join("cifar-10-batches-bin");
        fs::create_dir(&batches).unwrap();
        fs::write(batches.join("data_batch_1.bin"), [record(0), record(5), vec![1; 100]].concat()).unwrap();
        fs::write(batches.join("test_batch.bin"), record(1)).unwrap();
        fs::write(batches.join(NAMES_FILE), "airplane\nautomobile\n\n").unwrap();
        assert!(is_in(folder.path()) && is_in(&batches));
        check(CifarSource::open(folder.path()).unwrap());
        check(CifarSource::open(&batches).unwrap());

        let mut builder = tar::Builder::new(vec![]);
        builder.append_dir_all("cifar-10-batches-bin", &batches).unwrap();
        let mut gzip = GzEncoder::new(vec![], Compression::fast());
        gzip.write_all(&builder.into_inner().unwrap()).unwrap();
        let archive = folder.path().join("cifar-10-binary.tar.gz");
        fs::write(&archive, gzip.finish().unwrap()).unwrap();
        assert!(is_in_tar(&archive).unwrap());
        check(CifarSource::open(&archive).unwrap());
    }

    #[test]
    fn a_source_without_batches_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("data_batch_1.txt"), "x").unwrap();
        assert!(!is_in(folder.path()));
        let error = CifarSource::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("no CIFAR-10 batches"), "{error}");
    }
}
