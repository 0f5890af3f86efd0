//! Segments: immutable files of packed images, a tensor of u8 rows `[N, size, size, channels]` and a pack of the original bytes.
//!
//! `SegmentWriter` writes both beside their target under temporary names and renames them when they are durable; `SegmentTensor` maps
//! the tensor into memory. Invariant: a file under its final name is complete and is never written or truncated again, only
//! unlinked (a mapped file that shrinks would kill the process). The tensor has no header: shape and item count stand in the database.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tempfile::NamedTempFile;

use crate::domain::settings::ImageShape;

/// What can go wrong with a segment's files.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The operating system refused.
    #[error("can't {action} segment file {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file isn't as long as its rows.
    #[error("segment file {path} has {found} bytes where {expected} are expected: rebuild it from its pack")]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes that it has.
        found: u64,
        /// Bytes that item count and shape ask for.
        expected: u64,
    },
    /// A row doesn't have the shape's size.
    #[error("a row of {found} bytes can't join a segment whose rows have {expected}")]
    Row {
        /// Bytes of the row.
        found: usize,
        /// Bytes of a row of this shape.
        expected: usize,
    },
    /// A segment without rows.
    #[error("a segment must hold at least one row")]
    Empty,
}

impl SegmentError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

#[derive(Debug)]
enum Rows {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

/// Packed rows of one segment, u8 `[N, size, size, channels]`, mapped from a file or held in memory.
#[derive(Debug)]
pub struct SegmentTensor {
    rows: Rows,
    shape: ImageShape,
    item_count: usize,
}

impl SegmentTensor {
    /// Maps the tensor file at `path`, which must hold exactly `item_count` rows of `shape`.
    pub fn open(path: &Path, shape: ImageShape, item_count: usize) -> Result<Self, SegmentError> {
        if item_count == 0 {
            return Err(SegmentError::Empty);
        }
        let file = File::open(path).map_err(|source| SegmentError::io("open", path, source))?;
        let found = file.metadata().map_err(|source| SegmentError::io("inspect", path, source))?.len();
        let expected = item_count as u64 * shape.byte_count() as u64;
        if found != expected {
            return Err(SegmentError::Length { path: path.to_owned(), found, expected });
        }
        let map = map_file(&file).map_err(|source| SegmentError::io("map", path, source))?;
        Ok(Self { rows: Rows::Mapped(map), shape, item_count })
    }

    /// Holds `rows` (whole rows of `shape`, one after another) in memory, for images that have no file: predictions, tests.
    pub fn from_rows(rows: Vec<u8>, shape: ImageShape) -> Result<Self, SegmentError> {
        let row_bytes = shape.byte_count();
        if rows.is_empty() || row_bytes == 0 {
            return Err(SegmentError::Empty);
        }
        if !rows.len().is_multiple_of(row_bytes) {
            return Err(SegmentError::Row { found: rows.len() % row_bytes, expected: row_bytes });
        }
        let item_count = rows.len() / row_bytes;
        Ok(Self { rows: Rows::Owned(rows), shape, item_count })
    }

    /// The packed image at `index`, `[size, size, channels]`; panics when `index` isn't below `len`, as a slice does.
    #[must_use]
    pub fn row(&self, index: usize) -> &[u8] {
        let bytes: &[u8] = match &self.rows {
            Rows::Mapped(map) => map,
            Rows::Owned(rows) => rows,
        };
        let row_bytes = self.shape.byte_count();
        &bytes[index * row_bytes..(index + 1) * row_bytes]
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.item_count
    }

    /// Always false: a segment holds at least one row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.item_count == 0
    }

    /// Size and channels of the rows.
    #[must_use]
    pub fn shape(&self) -> ImageShape {
        self.shape
    }
}

#[expect(unsafe_code, reason = "a memory map is the point of the tensor file; its file never changes")]
fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the bytes must not change while they are mapped. Segment files are written under a temporary name, renamed when complete
    // and from then on only unlinked (which leaves the mapping intact); the folder belongs to gleaner alone, mode 0700 by default.
    unsafe { Mmap::map(file) }
}

/// Where an original lies in its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackSlice {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
}

/// Writes one segment's tensor and pack; dropped before `finish`, it leaves no file behind.
pub struct SegmentWriter {
    tensor: BufWriter<NamedTempFile>,
    pack: BufWriter<NamedTempFile>,
    tensor_path: PathBuf,
    pack_path: PathBuf,
    row_bytes: usize,
    item_count: usize,
    pack_bytes: u64,
}

impl SegmentWriter {
    /// Opens temporary files beside `tensor_path` and `pack_path`, whose folders must exist.
    pub fn create(tensor_path: &Path, pack_path: &Path, shape: ImageShape) -> Result<Self, SegmentError> {
        Ok(Self {
            tensor: open_beside(tensor_path)?,
            pack: open_beside(pack_path)?,
            tensor_path: tensor_path.to_owned(),
            pack_path: pack_path.to_owned(),
            row_bytes: shape.byte_count(),
            item_count: 0,
            pack_bytes: 0,
        })
    }

    /// Appends an image: its packed row and its original bytes; says where the original lies.
    pub fn push(&mut self, row: &[u8], original: &[u8]) -> Result<PackSlice, SegmentError> {
        if row.len() != self.row_bytes {
            return Err(SegmentError::Row { found: row.len(), expected: self.row_bytes });
        }
        let too_long = |_| {
            let source = io::Error::new(io::ErrorKind::FileTooLarge, "an original is longer than 4 GiB");
            SegmentError::io("write", &self.pack_path, source)
        };
        let length = u32::try_from(original.len()).map_err(too_long)?;
        let slice = PackSlice { offset: self.pack_bytes, length };
        self.tensor.write_all(row).map_err(|source| SegmentError::io("write", &self.tensor_path, source))?;
        self.pack.write_all(original).map_err(|source| SegmentError::io("write", &self.pack_path, source))?;
        self.item_count += 1;
        self.pack_bytes += u64::from(length);
        Ok(slice)
    }

    /// Rows so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.item_count
    }

    /// Whether nothing was pushed yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.item_count == 0
    }

    /// Bytes of originals so far.
    #[must_use]
    pub fn pack_bytes(&self) -> u64 {
        self.pack_bytes
    }

    /// Makes both files durable and gives them their names, the tensor last; answers the number of rows.
    pub fn finish(self) -> Result<usize, SegmentError> {
        if self.item_count == 0 {
            return Err(SegmentError::Empty);
        }
        persist(self.pack, &self.pack_path)?;
        persist(self.tensor, &self.tensor_path)?;
        Ok(self.item_count)
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn open_beside(path: &Path) -> Result<BufWriter<NamedTempFile>, SegmentError> {
    let file = tempfile::Builder::new()
        .prefix(".segment-")
        .suffix(".part")
        .tempfile_in(folder_of(path))
        .map_err(|source| SegmentError::io("create", path, source))?;
    Ok(BufWriter::with_capacity(1 << 18, file))
}

fn persist(file: BufWriter<NamedTempFile>, path: &Path) -> Result<(), SegmentError> {
    let file = file.into_inner().map_err(|error| SegmentError::io("write", path, error.into_error()))?;
    file.as_file().sync_all().map_err(|source| SegmentError::io("sync", path, source))?;
    file.persist(path).map_err(|error| SegmentError::io("rename", path, error.error))?;
    // The rename itself is durable only once its folder is.
    let folder =
        File::open(folder_of(path)).map_err(|source| SegmentError::io("open the folder of", path, source))?;
    folder.sync_all().map_err(|source| SegmentError::io("sync the folder of", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape { size: 8, channels: 1 };

    fn write(folder: &Path, rows: &[u8]) -> (PathBuf, PathBuf, Vec<PackSlice>) {
        let (tensor, pack) = (folder.join("a.tensor"), folder.join("a.pack"));
        let mut writer = SegmentWriter::create(&tensor, &pack, SHAPE).unwrap();
        let slices = rows
            .iter()
            .map(|&value| writer.push(&[value; 64], &vec![value; value as usize]).unwrap())
            .collect();
        assert_eq!(writer.finish().unwrap(), rows.len());
        (tensor, pack, slices)
    }

    #[test]
    fn rows_and_originals_read_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let (tensor, pack, slices) = write(folder.path(), &[3, 0, 7]);
        let segment = SegmentTensor::open(&tensor, SHAPE, 3).unwrap();
        assert_eq!((segment.len(), segment.row(0), segment.row(2)), (3, &[3; 64][..], &[7; 64][..]));
        let originals = std::fs::read(pack).unwrap();
        let last = slices[2];
        assert_eq!((last.offset, last.length), (3, 7));
        assert_eq!(&originals[last.offset as usize..][..last.length as usize], &[7; 7]);
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 2, "no temporary file is left");
    }

    #[test]
    fn a_mapped_segment_outlives_the_unlinking_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let (tensor, ..) = write(folder.path(), &[5]);
        let segment = SegmentTensor::open(&tensor, SHAPE, 1).unwrap();
        std::fs::remove_file(tensor).unwrap();
        assert_eq!(segment.row(0), &[5; 64]);
    }

    #[test]
    fn a_file_of_the_wrong_length_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (tensor, ..) = write(folder.path(), &[1, 2]);
        let error = SegmentTensor::open(&tensor, SHAPE, 3).unwrap_err();
        assert!(error.to_string().contains("128 bytes where 192"), "{error}");
    }

    #[test]
    fn a_writer_that_is_dropped_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (tensor, pack) = (folder.path().join("a.tensor"), folder.path().join("a.pack"));
        let mut writer = SegmentWriter::create(&tensor, &pack, SHAPE).unwrap();
        writer.push(&[1; 64], b"x").unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_row_of_another_size_and_an_empty_segment_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (tensor, pack) = (folder.path().join("a.tensor"), folder.path().join("a.pack"));
        let mut writer = SegmentWriter::create(&tensor, &pack, SHAPE).unwrap();
        assert!(matches!(writer.push(&[1; 63], b"x"), Err(SegmentError::Row { found: 63, expected: 64 })));
        assert!(matches!(writer.finish(), Err(SegmentError::Empty)));
    }
}
