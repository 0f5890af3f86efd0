//! Jobs: the kinds of work a worker takes, and how they stand.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Read a source into a project.
    Import,
    /// Train the pretext task.
    Pretrain,
    /// Embed a shard of the pool under the pretext model.
    Embed,
    /// Measure `v` of a shard of the pool under the pretext model.
    PretextLoss,
    /// Fine-tune and evaluate a model for a round.
    Train,
    /// Score a shard of the pool under a model.
    Score,
    /// Choose the next batch from the scores.
    Select,
    /// Look for suspected labels, and compare random with queried ones.
    Audit,
}

impl JobKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Import,
        Self::Pretrain,
        Self::Embed,
        Self::PretextLoss,
        Self::Train,
        Self::Score,
        Self::Select,
        Self::Audit,
    ];

    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Pretrain => "pretrain",
            Self::Embed => "embed",
            Self::PretextLoss => "pretext_loss",
            Self::Train => "train",
            Self::Score => "score",
            Self::Select => "select",
            Self::Audit => "audit",
        }
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// A worker holds its lease.
    Running,
    /// Its result is published.
    Done,
    /// It ended with an error; `retry` queues it again.
    Failed,
    /// It is no longer wanted.
    Cancelled,
}

impl JobState {
    /// The name that stands in the database and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
