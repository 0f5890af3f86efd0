//! Algorithm 1 without its labels: pretrain, embed, measure `v`, fine-tune, evaluate and score; `round_step` is the loop's body.
//!
//! Everything here is synchronous and belongs on the thread that owns the device: the engine's, or that of `simulate` and `replay`. A hook
//! is called once a mini-batch (progress in, stop out); unfinished training leaves through a sink and comes back as `resume`. Every draw is
//! keyed by seed, name, round or epoch and content hash, so the same images, labels, seed, kernel variant and thread count give the
//! same bits, wherever training was interrupted. Method: Shi & Zhou 2023, doi 10.1007/s11704-022-2189-z.

pub mod audit;
pub mod candidates;
mod dropout;
pub mod embed;
pub mod evaluate;
pub mod fine_tune;
pub mod fine_tune_head;
#[cfg(test)]
pub(crate) mod fixture;
pub mod histogram;
mod inference;
mod neighbours;
pub mod plane;
pub mod pretext_loss;
pub mod pretrain;
mod regression;
pub mod round_step;
pub mod score;
pub mod tables;
mod training;
pub mod uncertainty;

use std::ops::ControlFlow;

use thiserror::Error;

use crate::domain::project::ClassIndex;
use crate::nn::NnError;

pub use audit::{AuditFindings, AuditInput, Comparison, audit};
pub use candidates::{CandidateColumns, JoinedTables, TableRows};
pub use embed::embed;
pub use evaluate::{Evaluation, evaluate, evaluate_embeddings};
pub use fine_tune::fine_tune;
pub use fine_tune_head::fine_tune_head;
pub use plane::Plane;
pub use pretext_loss::pretext_losses;
pub use pretrain::{pretext_run, pretrain, pretrain_from};
pub use round_step::{RoundInput, TrainedRound, score_round, train_round};
pub use score::{predict, score, score_embeddings};
pub use tables::{Column, EmbeddingTable, PretextLossTable, ScoreColumns, ScoreRow, ScoreTable};

/// The answer of a hook that wants the work to end at the next safe place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Called once before each mini-batch and once at the end.
pub trait StepHook {
    /// `done` of `total` mini-batches are behind; `Break` stops the work, a training after saving a checkpoint.
    fn step(&mut self, done: u64, total: u64) -> ControlFlow<Stopped>;
}

impl<F: FnMut(u64, u64) -> ControlFlow<Stopped>> StepHook for F {
    fn step(&mut self, done: u64, total: u64) -> ControlFlow<Stopped> {
        self(done, total)
    }
}

/// Where the checkpoints of an unfinished training go: at a stop, and while it runs every half minute or so.
pub trait CheckpointSink {
    /// Keeps `bytes` (a checkpoint with its training state), replacing what was kept before.
    ///
    /// # Errors
    /// Whatever keeps it from being stored; the training then fails.
    fn save(&mut self, bytes: &[u8]) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Drops mid-training checkpoints, for short trainings that rather start again.
#[derive(Clone, Copy, Debug, Default)]
pub struct DropCheckpoints;

impl CheckpointSink for DropCheckpoints {
    fn save(&mut self, _bytes: &[u8]) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

/// An item of D_l.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabeledItem {
    /// Index in the pool (or the row in an embedding table).
    pub index: usize,
    /// Its class.
    pub class: ClassIndex,
}

/// What goes wrong in learning.
#[derive(Debug, Error)]
pub enum LearnerError {
    /// The hook asked for it; a training has saved a checkpoint.
    #[error("stopped on request")]
    Stopped,
    /// A network, a device or a checkpoint.
    #[error(transparent)]
    Network(#[from] NnError),
    /// A checkpoint that couldn't be kept.
    #[error("the checkpoint of the training under way couldn't be kept: {0}")]
    Sink(Box<dyn std::error::Error + Send + Sync>),
    /// Nothing to learn from.
    #[error("there is no item to {purpose}")]
    NoItems {
        /// What was to be done.
        purpose: &'static str,
    },
    /// A label that the pool or the class list doesn't have.
    #[error("item {index} of class {class} doesn't exist among {item_count} items and {class_count} classes")]
    Label {
        /// Index of the item.
        index: usize,
        /// Its class.
        class: u16,
        /// Items there are.
        item_count: usize,
        /// Classes there are.
        class_count: usize,
    },
    /// Two inputs that belong to each other have different lengths.
    #[error("{what}: {found} for {expected}")]
    Length {
        /// Which, in words.
        what: &'static str,
        /// Length that is needed.
        expected: usize,
        /// Length that came.
        found: usize,
    },
    /// A model of the wrong kind, or images of another shape than its own.
    #[error("the model can't be used here: {0}")]
    Model(String),
    /// Bytes that are no table of ours, or tables that don't belong together.
    #[error("the table can't be read: {0}")]
    Table(String),
}

/// The result of anything in this room.
pub type Result<T> = std::result::Result<T, LearnerError>;

/// Turns a hook's answer into a result.
fn check(answer: ControlFlow<Stopped>) -> Result<()> {
    match answer {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(Stopped) => Err(LearnerError::Stopped),
    }
}

/// Refuses labels outside the items or classes, and an empty set.
fn check_labels(labeled: &[LabeledItem], item_count: usize, class_count: usize) -> Result<()> {
    if labeled.is_empty() {
        return Err(LearnerError::NoItems { purpose: "fine-tune on" });
    }
    for item in labeled {
        if item.index >= item_count || usize::from(item.class.0) >= class_count {
            let (index, class) = (item.index, item.class.0);
            return Err(LearnerError::Label { index, class, item_count, class_count });
        }
    }
    Ok(())
}
