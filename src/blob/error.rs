//! What can go wrong with an object, as callers need to tell it apart.

use std::error::Error;
use std::io;

/// A failure of the object store.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no object of this key.
    #[error("the object store has no '{key}'")]
    Missing {
        /// The key that was asked for.
        key: String,
    },
    /// The address isn't one of a store that this program can open.
    #[error("'{url}' can't be used as object store: {reason}")]
    Address {
        /// The address as it was given.
        url: String,
        /// What to write instead.
        reason: String,
    },
    /// The disk has no room.
    #[error("no room is left to {action} '{key}'; make room on the object store's disk, then retry")]
    Full {
        /// What was tried.
        action: &'static str,
        /// The object.
        key: String,
    },
    /// Anything else; the same call may succeed later.
    #[error("the object store could not {action} '{key}': {source}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// The object.
        key: String,
        /// What the store said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl BlobError {
    pub(super) fn from_store(action: &'static str, key: &str, error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Missing { key: key.to_owned() },
            error if tells_full_disk(&error) => Self::Full { action, key: key.to_owned() },
            error => Self::Failed { action, key: key.to_owned(), source: error.into() },
        }
    }

    pub(super) fn from_io(action: &'static str, key: &str, error: io::Error) -> Self {
        if tells_full_disk(&error) {
            return Self::Full { action, key: key.to_owned() };
        }
        Self::Failed { action, key: key.to_owned(), source: error.into() }
    }
}

/// Whether an error or one of its causes is the operating system's "no space left".
fn tells_full_disk(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_found_below_what_the_store_wraps_around_it() {
        let source = io::Error::from(io::ErrorKind::StorageFull).into();
        let error = object_store::Error::Generic { store: "local", source };
        assert!(matches!(BlobError::from_store("write", "k", error), BlobError::Full { .. }));
        let source = io::Error::from(io::ErrorKind::PermissionDenied).into();
        let error = object_store::Error::Generic { store: "local", source };
        assert!(matches!(BlobError::from_store("write", "k", error), BlobError::Failed { .. }));
    }
}
