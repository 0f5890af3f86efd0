//! What becomes of one submitted label.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer to one label of a submit; everything but `accepted` and `duplicate` leaves the batch as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelOutcome {
    /// Durable and counted.
    Accepted,
    /// This labeler already gave this class to this task; nothing was added.
    Duplicate,
    /// A newer attempt holds the slot or the task is closed; kept as an uncounted vote.
    Expired,
    /// This labeler already gave another class to this task (correct it by `PUT`), or somebody else holds the lease.
    Conflict,
    /// The project has no class of this name.
    UnknownClass,
    /// The project has no task of this id.
    UnknownTask,
}

impl LabelOutcome {
    /// The name that stands in answers and measurements.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Expired => "expired",
            Self::Conflict => "conflict",
            Self::UnknownClass => "unknown_class",
            Self::UnknownTask => "unknown_task",
        }
    }
}
