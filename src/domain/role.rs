//! What a token allows.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The four roles, each with all that the ones before it may do.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Lease, label, skip, undo, own statistics.
    Labeler,
    /// Labeler, and predictions, exports, webhooks of its own.
    Tool,
    /// Tool, and projects, imports, rounds, control.
    Operator,
    /// Operator, and tokens.
    Admin,
}

impl Role {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Labeler => "labeler",
            Self::Tool => "tool",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}
