//! What jobs are asked and what they answer, as it stands in the job's `request` and `outcome`.
//!
//! A request is frozen when the job is queued: whatever it names can't change until it is done, so a job that runs again after a crash does
//! the same work. The supervisor writes requests and reads outcomes, the worker the other way round.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::ids::{ImportId, ItemId};
use crate::domain::project::ClassIndex;
use crate::domain::strategy::{ScoreScope, Strategy};
use crate::domain::task::TaskSource;
use crate::store::task::{NewTask, Suggestion};

/// Asks to read a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRequest {
    /// The import.
    pub import: ImportId,
}

/// Asks to train the pretext task on the pool items of segments 0 to `last_segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PretrainRequest {
    /// Number of the last segment that takes part; later imports don't change a training that runs.
    pub last_segment: i32,
}

/// Asks to embed or to score the pool items of some segments, or to measure their `v`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardRequest {
    /// Number of the first segment.
    pub first_segment: i32,
    /// Number of the last segment.
    pub last_segment: i32,
    /// The model that scores; none where the pretext model works.
    pub model_version: Option<i32>,
    /// The last round whose labels count; items that it and those before left unlabelled are scored.
    pub round: i32,
    /// What the strategy reads beside `u` and the guesses.
    #[serde(default)]
    pub scope: ScoreScope,
}

/// Where a shard's table lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardOutcome {
    /// Blob key of the table; none when the shard held no item.
    pub key: Option<String>,
    /// Rows of the table.
    pub item_count: u64,
}

/// Asks to fine-tune and evaluate a model on D_l, frozen here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainRequest {
    /// The round whose labels train it.
    pub round: i32,
    /// Classes of the head.
    pub class_count: u32,
    /// Votes paid so far.
    pub vote_count: i64,
    /// D_l in the order of content hashes.
    pub labeled: Vec<(ItemId, ClassIndex)>,
}

/// The model that a training published.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOutcome {
    /// Its version.
    pub version: i32,
    /// Its accuracy on the test split, if there is one.
    pub test_accuracy: Option<f64>,
}

/// Asks to choose the batch of a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectRequest {
    /// The round to come.
    pub round: i32,
    /// The rule.
    pub strategy: Strategy,
    /// Classes of the project.
    #[serde(default)]
    pub class_count: u32,
    /// The model whose scores are used; none for the seed batch.
    pub model_version: Option<i32>,
    /// Items to draw at random, for the honest curve.
    pub random_count: u32,
    /// Items to choose by the rule.
    pub query_count: u32,
    /// Next-best items to rank behind them, which may be asked ahead or stand in for items that were.
    pub spare_count: u32,
    /// Blob keys of the embedding tables that cover the pool.
    pub embeddings: Vec<String>,
    /// Blob keys of the tables of `v` that cover the pool; empty where the rule does without.
    #[serde(default)]
    pub pretext_losses: Vec<String>,
    /// Blob keys of the score tables that cover the pool; empty without a model.
    pub scores: Vec<String>,
}

/// An item that was chosen, with its provenance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChosenItem {
    /// The item.
    pub item: ItemId,
    /// Value of the strategy's formula.
    pub score: Option<f64>,
    /// `u`.
    pub uncertainty: Option<f64>,
    /// `v`.
    pub pretext_loss: Option<f64>,
    /// The model's guess, best first.
    #[serde(default)]
    pub suggestions: Vec<Suggestion>,
}

/// What a selection chose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// The items drawn at random.
    pub random: Vec<ChosenItem>,
    /// The rule's choice, best first, with the spare ones at the end; none of the random ones among it.
    pub ranking: Vec<ChosenItem>,
}

/// Asks to look for suspected labels in D_l, and to compare its random with its queried items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRequest {
    /// The last round whose labels take part.
    pub round: i32,
    /// Classes of the project.
    pub class_count: u32,
    /// D_l, or a sample of it, in the order of content hashes.
    pub labeled: Vec<(ItemId, ClassIndex)>,
    /// Items of D_l that were drawn at random.
    pub random: Vec<ItemId>,
    /// Items of D_l that a model chose.
    pub queried: Vec<ItemId>,
    /// Items of D_l that gold tasks may ask, in their order, for which guesses are wanted.
    pub gold: Vec<ItemId>,
}

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AuditOutcome {
    /// The last round whose labels took part.
    pub round: i32,
    /// Labelled items that were judged.
    pub item_count: u64,
    /// How often models that hadn't seen an item agreed with its class, 0 to 1.
    pub out_of_fold_accuracy: f64,
    /// Suspected items, the most suspicious first.
    pub suspects: Vec<Suspect>,
    /// Guesses about gold items, in the order of the request.
    pub gold: Vec<GuessedItem>,
    /// Random against queried items; none while there are too few.
    pub comparison: Option<SampleComparison>,
}

/// An item whose class is suspected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suspect {
    /// The item.
    pub item: ItemId,
    /// The class it has.
    pub class: ClassIndex,
    /// The class it probably has.
    pub suggested: ClassIndex,
    /// Probability of the class it has, by models that hadn't seen it.
    pub given_probability: f64,
    /// Probability of the suggested class.
    pub suggested_probability: f64,
    /// Their guesses, best first.
    pub suggestions: Vec<Suggestion>,
}

/// A guess about an item by models that hadn't seen it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuessedItem {
    /// The item.
    pub item: ItemId,
    /// Best first.
    pub suggestions: Vec<Suggestion>,
}

/// Two models that learned from equal counts of labels, one from random items and one from queried ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleComparison {
    /// Labels that each learned from.
    pub label_count: u32,
    /// Items that both were asked about.
    pub evaluated_count: u32,
    /// Whether these are the test split, or random items that neither had seen.
    pub on_test_split: bool,
    /// Accuracy after random items.
    pub random_accuracy: f64,
    /// Accuracy after queried items.
    pub queried_accuracy: f64,
    /// Standard error of their difference over the items asked.
    pub difference_deviation: f64,
}

impl ChosenItem {
    pub(super) fn to_task(&self, rank: i32, source: TaskSource) -> NewTask {
        NewTask {
            item: self.item,
            rank,
            source,
            score: self.score,
            uncertainty: self.uncertainty,
            pretext_loss: self.pretext_loss,
            suggestions: self.suggestions.clone(),
            known_class: None,
        }
    }
}

/// A job's request or outcome that this program can't read.
#[derive(Debug, thiserror::Error)]
#[error("a job's {what} can't be read ({reason}); it was written by another version of gleaner")]
pub struct RequestError {
    what: &'static str,
    reason: String,
}

/// Writes a request or an outcome.
#[must_use]
pub fn to_json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value)
        .expect("requests hold only strings, finite numbers and lists, which JSON can write")
}

/// Reads what `to_json` wrote.
pub fn from_json<T: DeserializeOwned>(what: &'static str, value: &Value) -> Result<T, RequestError> {
    T::deserialize(value).map_err(|error| RequestError { what, reason: error.to_string() })
}
