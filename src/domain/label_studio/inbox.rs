//! What becomes of an annotation in gleaner.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an annotation's newest state asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedState {
    /// A label of a class.
    Class,
    /// A skip.
    Skip,
    /// Nothing: it holds no single choice.
    Nothing,
    /// It is gone, and so should be what it became.
    Deleted,
}

impl WantedState {
    /// The name that stands in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::Skip => "skip",
            Self::Nothing => "nothing",
            Self::Deleted => "deleted",
        }
    }
}

/// What came of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnnotationOutcome {
    /// It filled a task that was asked.
    Accepted,
    /// It became a label on an item that nobody had asked.
    External,
    /// Its label has another class now.
    Corrected,
    /// Its label was taken back.
    Undone,
    /// It skipped a task that was asked.
    Skipped,
    /// Nothing had to change.
    Unchanged,
    /// The task was closed already; it is kept as an uncounted vote.
    Late,
    /// Somebody else holds the task; it is tried again.
    Waiting,
    /// The same person has answered or skipped the task otherwise.
    Conflict,
    /// A skip of what wasn't asked, which changes nothing.
    NotAsked,
    /// The project has no item that its task could show.
    UnknownItem,
    /// The project has no class of that name.
    UnknownClass,
    /// The item belongs to the test split or was taken out of the pool.
    NotInPool,
    /// The budget buys no further label.
    NoBudget,
    /// Its label trains already and can't be taken back.
    RoundMoved,
    /// It holds no choice or several.
    NoChoice,
}

impl AnnotationOutcome {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::External => "external",
            Self::Corrected => "corrected",
            Self::Undone => "undone",
            Self::Skipped => "skipped",
            Self::Unchanged => "unchanged",
            Self::Late => "late",
            Self::Waiting => "waiting",
            Self::Conflict => "conflict",
            Self::NotAsked => "not_asked",
            Self::UnknownItem => "unknown_item",
            Self::UnknownClass => "unknown_class",
            Self::NotInPool => "not_in_pool",
            Self::NoBudget => "no_budget",
            Self::RoundMoved => "round_moved",
            Self::NoChoice => "no_choice",
        }
    }
}
