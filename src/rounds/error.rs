//! What a look at a project fails with.

use crate::labeling::WeighError;
use crate::store::StoreError;

use super::request::RequestError;

/// Why a look failed; it left everything as it was.
#[derive(Debug, thiserror::Error)]
pub enum TickError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The votes couldn't be weighed.
    #[error(transparent)]
    Weigh(#[from] WeighError),
    /// A job's row can't be read.
    #[error(transparent)]
    Request(#[from] RequestError),
}
