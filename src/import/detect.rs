//! Recognises a source by the names inside it and its first bytes.
//!
//! Private to `import`.

use std::path::Path;

use crate::domain::import::ImportFormat;

use super::stream::Stream;
use super::{ImportError, cifar, idx, tar};

/// The format of `path`; `Unrecognised` when nothing tells.
pub(super) fn detect(path: &Path) -> Result<ImportFormat, ImportError> {
    let metadata = path.metadata().map_err(|source| ImportError::unreadable(path, source))?;
    if metadata.is_dir() {
        return Ok(if idx::is_in(path) {
            ImportFormat::Idx
        } else if cifar::is_in(path) {
            ImportFormat::Cifar
        } else {
            ImportFormat::Folder
        });
    }
    let mut stream = Stream::open(path)?;
    // A file that only pretends to be gzipped is told below, by the reader of its format.
    let start = stream.read_up_to(512).unwrap_or_default();
    if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
        return Ok(ImportFormat::Zip);
    }
    if idx::is_header(&start) {
        return Ok(ImportFormat::Idx);
    }
    if tar::is_header(&start) {
        return Ok(if cifar::is_in_tar(path)? { ImportFormat::Cifar } else { ImportFormat::Tar });
    }
    if cifar::is_batch_name(path) {
        return Ok(ImportFormat::Cifar);
    }
    Err(ImportError::Unrecognised { path: path.to_owned() })
}
