//! Skip: a labeler gives up on a task.
//!
//! It uses up one vote slot and costs nothing. `broken` and `not_in_classes` take the item out of the pool, so the task's other open slots are
//! withdrawn; `unsure` lets the item rest for one round.

use serde_json::json;

use super::LabelingError;
use super::votes::{Ties, Voter, close_tasks, lock_votes};
use crate::domain::event::EventKind;
use crate::domain::ids::{ItemId, TaskId, TokenId};
use crate::domain::item::Exclusion;
use crate::domain::task::{SkipReason, SlotState};
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, event, skip, slot};

/// A task that a labeler skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkippedTask {
    /// The task.
    pub task: TaskId,
    /// Its item.
    pub item: ItemId,
    /// Its round.
    pub round: i32,
}

/// Skips a task for a labeler that holds it, or that meets it open; the same skip twice changes nothing.
pub async fn skip_task(
    connection: &mut PgConnection,
    project: &ProjectRow,
    labeler: TokenId,
    person: Option<&str>,
    task: TaskId,
    reason: SkipReason,
) -> Result<SkippedTask, LabelingError> {
    let Some(mut votes) = lock_votes(connection, project.id, &[task]).await?.remove(&task) else {
        return Err(LabelingError::UnknownTask(task));
    };
    let round = votes.task.round_number;
    let skipped = SkippedTask { task, item: votes.task.item, round };
    if skip::exists(connection, task, labeler, person).await? {
        return Ok(skipped);
    }
    if !votes.is_votable() {
        return Err(LabelingError::TaskClosed(task));
    }
    let Some(used) = votes.find_skippable(Voter { token: labeler, person }) else {
        return Err(LabelingError::NotHeld(task));
    };
    slot::skip(connection, used, labeler, person).await?;
    skip::create(connection, project.id, task, used, labeler, person, reason).await?;
    let excludes = apply_to_item(connection, skipped, reason).await?;
    if excludes {
        slot::withdraw_open_of_tasks(connection, &[task]).await?;
    }
    for row in &mut votes.slots {
        if row.id == used {
            row.state = SlotState::Skipped;
        } else if excludes && row.state == SlotState::Open {
            row.state = SlotState::Withdrawn;
        }
    }
    close_tasks(connection, project.settings.seed, &[&votes], Ties::AskAgain).await?;
    let payload =
        json!({ "task": task, "item": skipped.item, "round": round, "reason": reason, "labeler": labeler });
    event::append(connection, Some(project.id), EventKind::TaskSkipped, &payload).await?;
    Ok(skipped)
}

/// What the skip means for the item; true when it leaves the pool.
async fn apply_to_item(
    connection: &mut PgConnection,
    skipped: SkippedTask,
    reason: SkipReason,
) -> Result<bool, LabelingError> {
    match reason {
        // Skipped in round n, it sits out round n + 1.
        SkipReason::Unsure => {
            skip::rest_item(connection, skipped.item, skipped.round.saturating_add(2)).await?;
        }
        SkipReason::Broken => {
            skip::exclude_item(connection, skipped.item, Exclusion::Broken).await?;
        }
        SkipReason::NotInClasses => {
            skip::exclude_item(connection, skipped.item, Exclusion::NotInClasses).await?;
        }
    }
    Ok(reason.excludes_item())
}
