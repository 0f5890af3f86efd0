//! External labels: an answer from outside on an item that nobody had asked (API.md, "External labels").
//!
//! It joins the next training and costs, but fills no batch. Its task is made settled, with the one slot that it answers; the project's lock, under
//! which alone slots are made, keeps the budget and keeps the item from being asked meanwhile.

use serde_json::json;

use super::budget::free_votes;
use super::next_training_round;
use crate::domain::event::EventKind;
use crate::domain::ids::{ItemId, LabelId, TaskId, TokenId};
use crate::domain::project::ClassIndex;
use crate::store::label::NewLabel;
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, StoreError, event, label, round, task};

/// An answer on an item that wasn't asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalLabel {
    /// The item, of the pool.
    pub item: ItemId,
    /// Its class.
    pub class: ClassIndex,
    /// The class's name.
    pub class_name: String,
    /// The class that the item has now, by an import.
    pub known_class: Option<ClassIndex>,
    /// The person who answered.
    pub person: Option<String>,
    /// How long that took.
    pub seconds: Option<f64>,
}

/// Whether an item may take an external label, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalOutcome {
    /// Durable and counted.
    Accepted(LabelId),
    /// The item is asked or was answered meanwhile: look again.
    Asked,
    /// The budget buys no further label.
    NoBudget,
}

/// Takes an answer on an item that no task asks.
pub async fn add_external_label(
    connection: &mut PgConnection,
    project: &ProjectRow,
    labeler: TokenId,
    external: &ExternalLabel,
) -> Result<ExternalOutcome, StoreError> {
    round::lock_project(connection, project.id).await?;
    if task::is_asked(connection, external.item).await? {
        return Ok(ExternalOutcome::Asked);
    }
    if free_votes(connection, project).await? == 0 {
        return Ok(ExternalOutcome::NoBudget);
    }
    let round_number = next_training_round(connection, project.id).await?;
    let asked_by = task::ExternalTask {
        id: TaskId::generate(),
        item: external.item,
        round_number,
        known_class: external.known_class,
        model_version: project.model_version,
    };
    let slot = task::create_external(connection, project.id, &asked_by).await?;
    let id = LabelId::generate();
    let fresh = NewLabel {
        id,
        task: asked_by.id,
        slot: Some(slot),
        item: external.item,
        round_number,
        class: external.class,
        labeler,
        person: external.person.clone(),
        attempt: None,
        seconds: external.seconds,
        counted: true,
    };
    label::create_all(connection, project.id, &[fresh]).await?;
    task::write_classes(connection, &[external.item], &[Some(external.class)]).await?;
    let payload = json!({
        "label": id, "task": asked_by.id, "item": external.item, "round": round_number, "class": external.class_name, "labeler": labeler,
    });
    event::append(connection, Some(project.id), EventKind::LabelAccepted, &payload).await?;
    Ok(ExternalOutcome::Accepted(id))
}
