//! The export: every image of the pool as one of Label Studio's tasks, with the labels it has as annotations and the model's guess as a prediction.
//!
//! What Label Studio imports keeps `gleaner_item`, by which its annotations find their items again.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::ranking::{Guess, Ranking};
use crate::access::key::SecretKey;
use crate::access::signed_image;
use crate::domain::ids::{ItemId, ProjectId};
use crate::store::class::ClassNames;
use crate::store::label::ItemLabel;
use crate::store::label_studio::{self, FoundItem};
use crate::store::{Store, StoreError, label};

/// How long the addresses of images in an export can be opened.
const IMAGE_VALID: TimeDelta = TimeDelta::days(90);

/// Items that are read at once.
const PAGE: i64 = 1000;

/// The names that a result carries, as the labelling config has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultNames {
    /// Name of the `<Choices>`.
    pub from_name: String,
    /// Name of the `<Image>`.
    pub to_name: String,
}

impl Default for ResultNames {
    fn default() -> Self {
        Self { from_name: "label".to_owned(), to_name: "image".to_owned() }
    }
}

/// One choice on the image, as predictions and annotations hold it; `probability` in predictions only.
#[must_use]
pub fn choice_result(names: &ResultNames, id: &str, choice: &str, probability: Option<f32>) -> Value {
    let mut result = json!({
        "id": id, "from_name": names.from_name, "to_name": names.to_name, "type": "choices", "value": {"choices": [choice]},
    });
    if let Some(probability) = probability {
        result["score"] = json!(probability);
    }
    result
}

/// Writes items as tasks.
#[derive(Clone)]
pub struct TaskWriter {
    /// Where the server is reached, without a slash at the end.
    pub public_url: String,
    /// Signs the addresses of images.
    pub key: SecretKey,
    /// Names of the project's classes.
    pub classes: ClassNames,
    /// When the export was asked for.
    pub now: DateTime<Utc>,
}

impl TaskWriter {
    /// The task of an item: its labels as annotations, a guess of model `version` as a prediction.
    #[must_use]
    pub fn task(&self, item: &FoundItem, labels: &[ItemLabel], version: &str, guess: Guess) -> Value {
        let names = ResultNames::default();
        let path = signed_image::image_url_until(&self.key, item.id, self.now + IMAGE_VALID);
        let mut annotations: Vec<Value> = labels
            .iter()
            .map(|label| {
                json!({
                    "result": [choice_result(&names, &short(label.label.0), &self.classes.name(label.class), None)],
                    "was_cancelled": false, "ground_truth": false, "lead_time": label.seconds, "created_at": label.created_at,
                    "unique_id": label.label,
                })
            })
            .collect();
        // An imported class is nobody's vote, and an annotation all the same.
        if let Some(class) = item.class.filter(|_| annotations.is_empty()) {
            let result = choice_result(&names, &short(item.id.0), &self.classes.name(class), None);
            annotations.push(json!({ "result": [result], "was_cancelled": false, "ground_truth": false }));
        }
        let predictions: Vec<Value> = guess
            .class
            .iter()
            .map(|(class, probability)| {
                let class = self.classes.name(*class);
                let result = choice_result(&names, &short(item.id.0), &class, Some(*probability));
                json!({ "model_version": version, "score": guess.score, "result": [result] })
            })
            .collect();
        json!({
            "data": { "image": format!("{}{path}", self.public_url), "gleaner_item": item.id },
            "annotations": annotations, "predictions": predictions, "meta": { "gleaner_name": item.name },
        })
    }
}

/// A result's id: the last 10 digits, of which the random part of a UUIDv7 is made.
fn short(id: uuid::Uuid) -> String {
    id.simple().to_string().split_off(22)
}

/// The pool of a project as tasks, page by page in the order of ids.
pub struct ExportPages {
    store: Store,
    project: ProjectId,
    ranking: Ranking,
    writer: TaskWriter,
    after: Option<ItemId>,
    is_done: bool,
}

impl ExportPages {
    /// Begins an export.
    #[must_use]
    pub fn new(store: Store, project: ProjectId, ranking: Ranking, writer: TaskWriter) -> Self {
        Self { store, project, ranking, writer, after: None, is_done: false }
    }

    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// The database.
    pub async fn next(&mut self) -> Result<Option<Vec<Value>>, StoreError> {
        if self.is_done {
            return Ok(None);
        }
        let mut connection = self.store.acquire().await?;
        let items = label_studio::list_pool(&mut connection, self.project, self.after, PAGE).await?;
        let ids: Vec<ItemId> = items.iter().map(|item| item.id).collect();
        let mut labels: HashMap<ItemId, Vec<ItemLabel>> = HashMap::new();
        for label in label::list_of_items(&mut connection, &ids).await? {
            labels.entry(label.item).or_default().push(label);
        }
        drop(connection);
        self.after = ids.last().copied();
        self.is_done = (items.len() as i64) < PAGE;
        let write = |item: &FoundItem| {
            let labels = labels.get(&item.id).map_or(&[][..], Vec::as_slice);
            self.writer.task(item, labels, self.ranking.version(), self.ranking.guess(item))
        };
        Ok(Some(items.iter().map(write).collect()))
    }
}
