//! Amendments: taking a label back, and giving it another class.
//!
//! Undo is possible until the round's labels train: it holds the project's lock and the round's row, so the round can't move meanwhile; the
//! vote is refunded and its slot opens again, for which the refund is reserved. A correction is possible at any time; after the round has
//! moved it counts into the next training, whose input is frozen from the items' classes.

use serde_json::json;

use super::votes::{TaskVotes, lock_votes, standing_class};
use super::{Actor, LabelingError};
use crate::domain::event::EventKind;
use crate::domain::ids::{ItemId, LabelId, TaskId};
use crate::domain::round::RoundState;
use crate::domain::task::{TaskSource, TaskState};
use crate::store::label::{self, LabelRow};
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, event, round, slot, task};

/// A label that was undone or corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amended {
    /// The label.
    pub label: LabelId,
    /// The task it answers.
    pub task: TaskId,
    /// The task's item.
    pub item: ItemId,
    /// The task's round.
    pub round: i32,
}

/// Takes a label back: its vote is refunded, its slot opens again, and its item has no class until somebody answers. An external one leaves its
/// item as it was.
pub async fn undo_label(
    connection: &mut PgConnection,
    project: &ProjectRow,
    actor: Actor,
    label: LabelId,
) -> Result<Amended, LabelingError> {
    let (row, mut votes) = lock_label(connection, project, actor, label).await?;
    // A task asked ahead belongs to a round that has no row yet and so hasn't moved.
    let state = round::lock(connection, project.id, row.round_number).await?;
    if state.is_some_and(|state| state != RoundState::Labeling) {
        return Err(LabelingError::RoundMoved { label, round: row.round_number });
    }
    label::undo(connection, label).await?;
    let is_external = votes.task.source == TaskSource::External;
    match row.slot {
        // Nobody had asked, so nobody is asked now.
        Some(of_slot) if is_external => slot::withdraw(connection, of_slot).await?,
        Some(of_slot) => slot::reopen(connection, of_slot).await?,
        None => {}
    }
    let state = if is_external { TaskState::Withdrawn } else { TaskState::Open };
    task::write_states(connection, &[row.task], &[state]).await?;
    votes.labels.retain(|vote| vote.id != label);
    match votes.task.source {
        TaskSource::Gold => {}
        // The class that an import gave, or none.
        TaskSource::External => {
            task::write_classes(connection, &[row.item], &[votes.task.known_class]).await?;
        }
        // A check that is open again leaves its item the class that it checks.
        TaskSource::Relabel => {
            let class = standing_class(&votes, project.settings.seed);
            task::write_classes(connection, &[row.item], &[class]).await?;
        }
        _ => task::write_classes(connection, &[row.item], &[None]).await?,
    }
    let payload = json!({
        "label": label, "task": row.task, "item": row.item, "round": row.round_number, "labeler": row.labeler,
    });
    event::append(connection, Some(project.id), EventKind::LabelUndone, &payload).await?;
    Ok(amended(&row))
}

/// Gives a label another class; a settled task takes the class that its votes say now.
pub async fn correct_label(
    connection: &mut PgConnection,
    project: &ProjectRow,
    actor: Actor,
    label: LabelId,
    class: &str,
) -> Result<Amended, LabelingError> {
    let found = label::find_classes(connection, project.id, &[class.to_owned()]).await?;
    let Some((_, index)) = found.into_iter().next() else {
        return Err(LabelingError::UnknownClass(class.to_owned()));
    };
    let (row, mut votes) = lock_label(connection, project, actor, label).await?;
    label::correct(connection, label, index).await?;
    for vote in votes.labels.iter_mut().filter(|vote| vote.id == label) {
        vote.class = index;
    }
    if votes.task.state == TaskState::Settled && votes.task.source != TaskSource::Gold {
        let class = standing_class(&votes, project.settings.seed);
        task::write_classes(connection, &[row.item], &[class]).await?;
    }
    let payload = json!({
        "label": label, "task": row.task, "item": row.item, "round": row.round_number, "class": class, "labeler": row.labeler,
    });
    event::append(connection, Some(project.id), EventKind::LabelCorrected, &payload).await?;
    Ok(amended(&row))
}

/// Locks project and task, and checks that the label is there, counted, and the actor's to change.
async fn lock_label(
    connection: &mut PgConnection,
    project: &ProjectRow,
    actor: Actor,
    label: LabelId,
) -> Result<(LabelRow, TaskVotes), LabelingError> {
    round::lock_project(connection, project.id).await?;
    let unlocked = label::find(connection, label).await?.filter(|row| row.project == project.id);
    let Some(unlocked) = unlocked else {
        return Err(LabelingError::UnknownLabel(label));
    };
    let votes = lock_votes(connection, project.id, &[unlocked.task]).await?.remove(&unlocked.task);
    // Read again under the lock: an undo that ran meanwhile must be seen.
    let (Some(votes), Some(row)) = (votes, label::find(connection, label).await?) else {
        return Err(LabelingError::UnknownLabel(label));
    };
    if row.labeler != actor.token && !actor.touches_all {
        return Err(LabelingError::SomebodyElses(label));
    }
    if row.undone_at.is_some() {
        return Err(LabelingError::Undone(label));
    }
    if row.set_aside_at.is_some() {
        return Err(LabelingError::SetAside(label));
    }
    if !row.counted {
        return Err(LabelingError::Uncounted(label));
    }
    Ok((row, votes))
}

fn amended(row: &LabelRow) -> Amended {
    Amended { label: row.id, task: row.task, item: row.item, round: row.round_number }
}
