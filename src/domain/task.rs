//! Tasks and slots: an item asked in a round, and the votes it needs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why an item was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskSource {
    /// Chosen by the strategy.
    Query,
    /// Drawn at random, for the honest curve.
    Random,
    /// Its class is known; measures labelers.
    Gold,
    /// Asked from the last ranking while a round trained.
    Ahead,
    /// Asked again because its label is suspected.
    Relabel,
    /// Labelled by an external tool without being asked.
    External,
}

impl TaskSource {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Random => "random",
            Self::Gold => "gold",
            Self::Ahead => "ahead",
            Self::Relabel => "relabel",
            Self::External => "external",
        }
    }

    /// Whether the item counts into `batch_size`; gold and relabel come on top, external fills no batch.
    #[must_use]
    pub fn fills_batch(self) -> bool {
        matches!(self, Self::Query | Self::Random | Self::Ahead)
    }

    /// What labelers and tools are told: gold and relabel read as a query, so that they can't be treated specially.
    #[must_use]
    pub fn blinded(self) -> Self {
        match self {
            Self::Gold | Self::Relabel => Self::Query,
            other => other,
        }
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// A slot is open.
    Open,
    /// No slot is open, at least one is leased.
    Leased,
    /// Its votes gave a class.
    Settled,
    /// Every slot was skipped.
    Skipped,
    /// Taken back before anybody answered.
    Withdrawn,
    /// Its votes tie and a further vote decides.
    Adjudication,
}

impl TaskState {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Leased => "leased",
            Self::Settled => "settled",
            Self::Skipped => "skipped",
            Self::Withdrawn => "withdrawn",
            Self::Adjudication => "adjudication",
        }
    }
}

/// Where a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    /// Anybody may lease it.
    Open,
    /// A labeler holds it until it expires.
    Leased,
    /// Its vote was accepted.
    Answered,
    /// Its labeler skipped.
    Skipped,
    /// Taken back with its task.
    Withdrawn,
}

impl SlotState {
    /// The name that stands in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Leased => "leased",
            Self::Answered => "answered",
            Self::Skipped => "skipped",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// Why a labeler skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// The labeler can't tell; the item returns after one round.
    Unsure,
    /// The image can't be judged; the item leaves the pool.
    Broken,
    /// None of the classes fits; the item leaves the pool.
    NotInClasses,
}

impl SkipReason {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unsure => "unsure",
            Self::Broken => "broken",
            Self::NotInClasses => "not_in_classes",
        }
    }

    /// Whether the item leaves the pool for good.
    #[must_use]
    pub fn excludes_item(self) -> bool {
        matches!(self, Self::Broken | Self::NotInClasses)
    }
}

/// What labelers are told when there is nothing to lease, and when to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// The operator paused the project.
    Paused,
    /// A model trains and nothing is left to ask ahead.
    Training,
    /// The pool is scored and nothing is left to ask ahead.
    Scoring,
    /// Every task of the batch is with somebody.
    BatchLeasedOut,
    /// The project ended.
    Finished,
    /// The project wasn't started, or learns its pretext task.
    NotStarted,
}

impl WaitReason {
    /// The name that stands in answers and measurements.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Training => "training",
            Self::Scoring => "scoring",
            Self::BatchLeasedOut => "batch_leased_out",
            Self::Finished => "finished",
            Self::NotStarted => "not_started",
        }
    }

    /// Seconds after which asking again may help.
    #[must_use]
    pub fn retry_after_seconds(self) -> u32 {
        match self {
            Self::Training | Self::Scoring | Self::BatchLeasedOut => 2,
            Self::Paused | Self::NotStarted => 5,
            Self::Finished => 60,
        }
    }
}
