//! The inbox: acts on annotations that were kept, one a transaction, by the functions that every label goes through.
//!
//! A task on the runtime of each server. A row's lock lets one of them act on it; what the database refuses for a moment is tried again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::domain::ids::{ItemId, LabelId, TaskId};
use crate::domain::item::Split;
use crate::domain::label::LabelOutcome;
use crate::domain::label_studio::{AnnotationOutcome as O, ItemKey, WantedState};
use crate::domain::task::{SkipReason, SlotState, TaskState};
use crate::events::Events;
use crate::labeling::{
    self, Actor, ExternalLabel, ExternalOutcome, LabelingError, Submission, Submit, SubmitResult,
};
use crate::rounds::SupervisorWake;
use crate::store::label_studio::{self, FoundItem, PendingAnnotation};
use crate::store::project::{self, ProjectRow};
use crate::store::{PgConnection, Store, StoreError, label, slot};

/// How often annotations that wait are looked for.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long an annotation waits for a task that somebody else holds before it looks again.
const WAIT_SECONDS: f64 = 5.0;

/// Wakes the inbox of this process; a handle to clone.
#[derive(Clone, Debug, Default)]
pub struct InboxWake(Arc<Notify>);

impl InboxWake {
    /// Makes the inbox look now rather than within the second.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// Acts on annotations.
#[derive(Clone, Debug)]
pub struct Inbox {
    store: Store,
    events: Events,
    wake: InboxWake,
    supervisor: SupervisorWake,
}

impl Inbox {
    /// An inbox that is woken through `wake` and wakes the supervisor after each label.
    #[must_use]
    pub fn new(store: Store, events: Events, wake: InboxWake, supervisor: SupervisorWake) -> Self {
        Self { store, events, wake, supervisor }
    }

    /// Acts until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.handle_due().await {
                tracing::warn!(error = %error, "annotations wait for the database");
            }
            // Running into the time limit is the poll for what waits and for what other servers have kept.
            let _ = stop.run_until_cancelled(timeout(POLL_INTERVAL, self.wake.0.notified())).await;
        }
    }

    /// Acts on every annotation that is due; returns how many.
    pub async fn handle_due(&self) -> Result<u64, StoreError> {
        let mut count = 0;
        while self.handle_next().await? {
            count += 1;
        }
        Ok(count)
    }

    async fn handle_next(&self) -> Result<bool, StoreError> {
        let mut tx = self.store.begin().await?;
        let Some(row) = label_studio::lock_due(&mut tx).await? else { return Ok(false) };
        match act(&mut tx, &row).await {
            Ok((outcome, label)) => {
                label_studio::settle(&mut tx, &row, outcome, label, WAIT_SECONDS).await?;
                tx.commit().await?;
                tracing::info!(
                    project.id = %row.project, annotation.id = row.annotation, annotation.outcome = outcome.as_str(),
                    "a Label Studio annotation was handled"
                );
            }
            // Whatever else goes wrong with one annotation must not hold up the others.
            Err(error) if !error.is_unavailable() => {
                tx.rollback().await?;
                let mut tx = self.store.begin().await?;
                label_studio::postpone(&mut tx, &row, WAIT_SECONDS).await?;
                tx.commit().await?;
                tracing::warn!(annotation.id = row.annotation, error = %error, "an annotation is tried again");
            }
            Err(error) => return Err(error),
        }
        self.events.nudge();
        self.supervisor.wake();
        Ok(true)
    }
}

/// Brings what gleaner has into accord with what the annotation wants; says what came of it, and the label that stands for it.
async fn act(
    connection: &mut PgConnection,
    row: &PendingAnnotation,
) -> Result<(O, Option<LabelId>), StoreError> {
    let Some(project) = project::find(connection, row.project).await? else {
        return Ok((O::UnknownItem, row.label));
    };
    let standing = standing_label(connection, row).await?;
    match (row.wanted, standing) {
        (WantedState::Class, Some(label)) => correct(connection, &project, row, label).await,
        (WantedState::Class, None) => answer(connection, &project, row).await,
        (WantedState::Deleted, Some(label)) => {
            Ok((undo(connection, &project, row, label).await?, Some(label)))
        }
        (WantedState::Deleted, None) => Ok((O::Unchanged, row.label)),
        (WantedState::Skip, Some(label)) => match undo(connection, &project, row, label).await? {
            O::Undone => Ok((skip(connection, &project, row).await?, Some(label))),
            refused => Ok((refused, Some(label))),
        },
        (WantedState::Skip, None) => Ok((skip(connection, &project, row).await?, row.label)),
        (WantedState::Nothing, _) => Ok((O::NoChoice, row.label)),
    }
}

/// The label that the annotation became and that wasn't undone since.
async fn standing_label(
    connection: &mut PgConnection,
    row: &PendingAnnotation,
) -> Result<Option<LabelId>, StoreError> {
    let Some(id) = row.label else { return Ok(None) };
    let found = label::find(connection, id).await?;
    Ok(found.filter(|label| label.undone_at.is_none()).map(|label| label.id))
}

fn actor(row: &PendingAnnotation) -> Actor {
    Actor { token: row.source, touches_all: false }
}

async fn correct(
    connection: &mut PgConnection,
    project: &ProjectRow,
    row: &PendingAnnotation,
    label: LabelId,
) -> Result<(O, Option<LabelId>), StoreError> {
    let class = row.class.as_deref().unwrap_or_default();
    let known = label::find_classes(connection, project.id, &[class.to_owned()]).await?;
    let Some((_, index)) = known.into_iter().next() else { return Ok((O::UnknownClass, Some(label))) };
    let before = label::find(connection, label).await?;
    if before.is_some_and(|before| before.class == index) {
        return Ok((O::Unchanged, Some(label)));
    }
    let outcome = match labeling::correct_label(connection, project, actor(row), label, class).await {
        Ok(_) => O::Corrected,
        Err(error) => refusal(error)?,
    };
    Ok((outcome, Some(label)))
}

async fn undo(
    connection: &mut PgConnection,
    project: &ProjectRow,
    row: &PendingAnnotation,
    label: LabelId,
) -> Result<O, StoreError> {
    match labeling::undo_label(connection, project, actor(row), label).await {
        Ok(_) => Ok(O::Undone),
        Err(error) => refusal(error),
    }
}

async fn skip(
    connection: &mut PgConnection,
    project: &ProjectRow,
    row: &PendingAnnotation,
) -> Result<O, StoreError> {
    let Some(item) = row.item else { return Ok(O::UnknownItem) };
    let Some(task) = find_asking(connection, item).await? else { return Ok(O::NotAsked) };
    let (person, reason) = (row.person.as_deref(), SkipReason::Unsure);
    match labeling::skip_task(connection, project, row.source, person, task, reason).await {
        Ok(_) => Ok(O::Skipped),
        Err(LabelingError::NotHeld(_)) => Ok(O::Waiting),
        Err(error) => refusal(error),
    }
}

/// The task that asks an item now.
async fn find_asking(connection: &mut PgConnection, item: ItemId) -> Result<Option<TaskId>, StoreError> {
    let tasks = label_studio::list_tasks_of_item(connection, item).await?;
    let asks = |state: TaskState| matches!(state, TaskState::Open | TaskState::Adjudication);
    Ok(tasks.into_iter().find(|(_, state)| asks(*state)).map(|(task, _)| task))
}

/// Answers the task that asks the item, or keeps the answer as an external label.
async fn answer(
    connection: &mut PgConnection,
    project: &ProjectRow,
    row: &PendingAnnotation,
) -> Result<(O, Option<LabelId>), StoreError> {
    let Some(item) = row.item else { return Ok((O::UnknownItem, None)) };
    let found = label_studio::find_items(connection, project.id, &[ItemKey::Id(item)]).await?;
    let Some(item) = found.into_iter().next() else { return Ok((O::UnknownItem, None)) };
    if item.split != Split::Pool || item.excluded.is_some() {
        return Ok((O::NotInPool, None));
    }
    let tasks = label_studio::list_tasks_of_item(connection, item.id).await?;
    // What a skip closed gave no answer, so this one is from outside.
    match tasks.first().filter(|(_, state)| *state != TaskState::Skipped) {
        Some((task, _)) => submit(connection, project, row, *task).await,
        None => add_external(connection, project, row, &item).await,
    }
}

async fn submit(
    connection: &mut PgConnection,
    project: &ProjectRow,
    row: &PendingAnnotation,
    task: TaskId,
) -> Result<(O, Option<LabelId>), StoreError> {
    let submission = Submission {
        task,
        class: row.class.clone().unwrap_or_default(),
        attempt: None,
        seconds: row.seconds,
        person: row.person.clone(),
    };
    let submit = Submit { labeler: row.source, submissions: &[submission] };
    let submitted = labeling::submit_labels(connection, project, &[submit]).await?;
    let Some(SubmitResult { label, outcome, .. }) = submitted.results.into_iter().flatten().next() else {
        return Ok((O::UnknownItem, None));
    };
    let outcome = match outcome {
        LabelOutcome::Accepted => O::Accepted,
        LabelOutcome::Duplicate => O::Unchanged,
        LabelOutcome::Expired => O::Late,
        // Without a vote of this person it is somebody else's lease that stands in the way; it ends.
        LabelOutcome::Conflict if label.is_none() && is_held(connection, task).await? => O::Waiting,
        LabelOutcome::Conflict => return Ok((O::Conflict, None)),
        LabelOutcome::UnknownClass => O::UnknownClass,
        LabelOutcome::UnknownTask => O::UnknownItem,
    };
    Ok((outcome, label))
}

async fn is_held(connection: &mut PgConnection, task: TaskId) -> Result<bool, StoreError> {
    let slots = slot::lock_of_tasks(connection, &[task]).await?;
    Ok(slots.iter().any(|slot| slot.state == SlotState::Leased))
}

async fn add_external(
    connection: &mut PgConnection,
    project: &ProjectRow,
    row: &PendingAnnotation,
    item: &FoundItem,
) -> Result<(O, Option<LabelId>), StoreError> {
    let class = row.class.clone().unwrap_or_default();
    let known = label::find_classes(connection, project.id, std::slice::from_ref(&class)).await?;
    let Some((class_name, index)) = known.into_iter().next() else { return Ok((O::UnknownClass, None)) };
    let external = ExternalLabel {
        item: item.id,
        class: index,
        class_name,
        known_class: item.class,
        person: row.person.clone(),
        seconds: row.seconds,
    };
    Ok(match labeling::add_external_label(connection, project, row.source, &external).await? {
        ExternalOutcome::Accepted(label) => (O::External, Some(label)),
        // A batch was opened a moment ago; the next look answers its task.
        ExternalOutcome::Asked => (O::Waiting, None),
        ExternalOutcome::NoBudget => (O::NoBudget, None),
    })
}

/// What a refusal of `labeling` means for the annotation; the database's own failures are passed on.
fn refusal(error: LabelingError) -> Result<O, StoreError> {
    use LabelingError as E;
    Ok(match error {
        E::Store(error) => return Err(error),
        E::RoundMoved { .. } => O::RoundMoved,
        E::UnknownClass(_) => O::UnknownClass,
        E::UnknownTask(_) | E::UnknownLabel(_) => O::UnknownItem,
        E::Undone(_) | E::Uncounted(_) | E::SetAside(_) => O::Unchanged,
        E::TaskClosed(_) => O::NotAsked,
        E::SomebodyElses(_) | E::NotHeld(_) | E::NoVotes(_) => O::Conflict,
    })
}
