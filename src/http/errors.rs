//! How the errors of lower rooms become answers: the one table from their variants to kinds of problems.

use super::problem::{ApiError, ProblemKind};
use crate::blob::BlobError;
use crate::engine::EngineError;
use crate::labeling::{LabelingError, WeighError};
use crate::rounds::control::ControlError;
use crate::store::StoreError;

/// Seconds after which a client may try again what needs the database or the object store.
const RETRY_AFTER_SECONDS: u32 = 2;

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::unavailable(
                "the database does not answer at the moment; try again, under the same Idempotency-Key nothing is done twice",
                RETRY_AFTER_SECONDS,
                error,
            ),
            StoreError::Retry(_) => {
                Self::unavailable("a concurrent change won; nothing was changed, try again", 1, error)
            }
            StoreError::Conflict { .. } => {
                Self::conflict("somebody else changed the same thing; read it again and repeat")
            }
            StoreError::Text(_) => Self::invalid_field("body", error.to_string()),
            StoreError::Schema(_) | StoreError::Other(_) => Self::internal(error),
        }
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        let detail = error.to_string();
        match error {
            ControlError::Gone => Self::new(ProblemKind::NotFound, detail),
            ControlError::Empty => Self::new(ProblemKind::EmptyProject, detail),
            ControlError::Store(error) => error.into(),
            _ => Self::conflict(detail),
        }
    }
}

impl From<LabelingError> for ApiError {
    fn from(error: LabelingError) -> Self {
        let detail = error.to_string();
        match error {
            LabelingError::UnknownTask(_) | LabelingError::UnknownLabel(_) => {
                Self::new(ProblemKind::NotFound, detail)
            }
            LabelingError::UnknownClass(_) => Self::invalid_field("class", detail),
            LabelingError::SomebodyElses(_) => Self::new(ProblemKind::Forbidden, detail),
            LabelingError::RoundMoved { .. }
            | LabelingError::Undone(_)
            | LabelingError::SetAside(_)
            | LabelingError::NoVotes(_)
            | LabelingError::Uncounted(_)
            | LabelingError::TaskClosed(_)
            | LabelingError::NotHeld(_) => Self::conflict(detail),
            LabelingError::Store(error) => error.into(),
        }
    }
}

impl From<WeighError> for ApiError {
    fn from(error: WeighError) -> Self {
        match error {
            WeighError::Store(error) => error.into(),
            WeighError::Broken(_) => Self::internal(error),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::QueueFull | EngineError::Stopped => {
                Self::unavailable("the engine is busy; try again", RETRY_AFTER_SECONDS, error)
            }
            EngineError::NoModel => {
                Self::conflict("the project has no model in this server yet; its first batch trains one")
            }
            EngineError::Panicked(_)
            | EngineError::Failed(_)
            | EngineError::Device { .. }
            | EngineError::Threads(_) => Self::internal(error),
        }
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Missing { .. } | BlobError::Address { .. } => Self::internal(error),
            BlobError::Full { .. } => {
                Self::unavailable("the object store has no room left; an operator must make some", 60, error)
            }
            BlobError::Failed { .. } => Self::unavailable(
                "the object store does not answer at the moment; try again",
                RETRY_AFTER_SECONDS,
                error,
            ),
        }
    }
}
