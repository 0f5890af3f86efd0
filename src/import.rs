//! Import: reads folders, archives, IDX and CIFAR files and Label Studio's tasks, and packs their images into segments.
//!
//! Readers are `Source`s: iterators of entries in an order that repeats, with bounded memory. `run` decodes in parallel, packs segments and
//! hands each to a `Sink` (`worker` keeps the database one). Everything here meets hostile input: a bad entry is rejected by name and
//! the rest goes on; only a source that can't be read any further is an error. Synchronous, for threads that may block; decoding uses
//! rayon's global threads.

mod cifar;
mod detect;
mod folder;
mod idx;
mod label_studio;
mod layout;
mod prepare;
mod roots;
mod run;
mod stream;
mod tar;
mod zip;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::import::ImportFormat;
use crate::domain::item::Split;
use crate::vision::SegmentError;

pub use label_studio::{ImageFinder, read_tasks};
pub use roots::resolve_allowed;
pub use run::{Committed, Options, PreparedRow, PreparedSegment, Report, SegmentFiles, Sink, SinkError, run};

/// Bytes that one entry may have; the largest image that is taken (50 megapixels) is smaller in every sensible encoding.
const ENTRY_BYTES_MAX: u64 = 128 << 20;

/// What a source holds under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryPayload {
    /// An encoded image file, as it is.
    File(Vec<u8>),
    /// Raw pixels, `[height, width, channels]`.
    Pixels {
        /// Width in pixels, at least 1.
        width: u32,
        /// Height in pixels, at least 1.
        height: u32,
        /// 1 or 3.
        channels: u32,
        /// u8, channels last.
        pixels: Vec<u8>,
    },
}

/// The class that a source gives an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceClass {
    /// By name: the entry's folder, percent-decoded.
    Name(String),
    /// By number: IDX and CIFAR labels.
    Number(u32),
}

/// One entry of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path inside the source.
    pub name: String,
    /// The split that the source puts it into; `None` when the source isn't split.
    pub split: Option<Split>,
    /// Its class, when the source knows it.
    pub class: Option<SourceClass>,
    /// The image, or why it can't be read.
    pub payload: Result<EntryPayload, String>,
}

impl Entry {
    /// An entry whose name can't stand in a project.
    fn unfit(name: layout::UnfitName) -> Self {
        Self { name: name.shown, split: None, class: None, payload: Err(name.reason) }
    }
}

/// A source that is being read: its entries in an order that repeats. After an error it yields nothing more.
pub trait Source: Iterator<Item = Result<Entry, ImportError>> + Send {
    /// Number of entries, when it is known up front.
    fn entry_count(&self) -> Option<u64>;

    /// Names of the classes in the order of their numbers or sorted, when they are known up front.
    fn class_names(&self) -> Option<&[String]>;

    /// Passes over the next `count` entries, as a resumed import does; cheaper than reading them where the source allows it.
    fn skip_entries(&mut self, count: u64) -> Result<(), ImportError> {
        for _ in 0..count {
            match self.next() {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(())
    }
}

/// Why an import can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The operator may not import from there.
    #[error("can't import from '{source_name}': {reason}")]
    NotAllowed {
        /// What was asked for.
        source_name: String,
        /// Which rule it breaks and what to do.
        reason: String,
    },
    /// A file or folder of the source can't be opened.
    #[error("can't read {path}: {source}")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nothing in the source tells its format.
    #[error("can't tell what {path} is: give its format (folder, zip, tar, idx, cifar or label_studio)")]
    Unrecognised {
        /// The source.
        path: PathBuf,
    },
    /// The source isn't what its format says.
    #[error("{path}: {reason}")]
    Malformed {
        /// The source or the file within it.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The source breaks off; what came before was read.
    #[error("{path} is broken after {read_count} entries, which were read: {reason}")]
    Broken {
        /// The source or the file within it.
        path: PathBuf,
        /// Entries that came before.
        read_count: u64,
        /// What is wrong.
        reason: String,
    },
    /// The stop flag was raised; a later run goes on from the last committed segment.
    #[error("the import was stopped after {read_count} entries")]
    Stopped {
        /// Entries read so far.
        read_count: u64,
    },
    /// A segment can't be written.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The sink refused a segment.
    #[error("a packed segment can't be stored: {0}")]
    Sink(SinkError),
}

impl ImportError {
    fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), source }
    }

    fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.into() }
    }
}

/// Asks a running import to stop at its next batch; clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Raises the flag; it stays up.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the flag was raised.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Opens a file of Label Studio's tasks as a source; `finder` says where their images are.
pub fn open_tasks(path: &Path, finder: Box<dyn ImageFinder>) -> Result<Box<dyn Source>, ImportError> {
    Ok(Box::new(label_studio::LabelStudioSource::open(path, finder)?))
}

/// Opens a file or folder as a source; `ImportFormat::Auto` looks at names and first bytes.
pub fn open(path: &Path, format: ImportFormat) -> Result<Box<dyn Source>, ImportError> {
    let format = match format {
        ImportFormat::Auto => detect::detect(path)?,
        given => given,
    };
    let source: Box<dyn Source> = match format {
        ImportFormat::Folder => Box::new(folder::FolderSource::open(path)?),
        ImportFormat::Zip => Box::new(zip::ZipSource::open(path)?),
        ImportFormat::Tar => Box::new(tar::TarSource::open(path)?),
        ImportFormat::Idx => Box::new(idx::IdxSource::open(path)?),
        ImportFormat::Cifar => Box::new(cifar::CifarSource::open(path)?),
        ImportFormat::LabelStudio => {
            let reason = "only the service reads Label Studio's tasks, since it finds their images";
            return Err(ImportError::malformed(path, reason));
        }
        ImportFormat::Auto => return Err(ImportError::Unrecognised { path: path.to_owned() }),
    };
    if source.entry_count() == Some(0) {
        let reason = "it holds no files; hidden files and those that systems leave behind don't count";
        return Err(ImportError::malformed(path, reason));
    }
    Ok(source)
}
