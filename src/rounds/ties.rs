//! Ties and weighed votes: what the supervisor does about labelers who differ.
//!
//! A tie gets one more vote from anybody who hasn't voted on the task, if the budget has one free. It waits `adjudication_seconds` for it; then, and
//! without budget, the weighed votes decide (`labeling::weigh`). Before a round trains, all votes of the project are weighed once more, and
//! items that several judged take the class which that gives them.

use super::error::TickError;
use super::votes::free_votes;
use crate::domain::ids::TaskId;
use crate::domain::task::SlotState;
use crate::labeling::votes::{TaskVotes, Ties, close_tasks, lock_votes};
use crate::labeling::weigh::weigh_votes;
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, slot, task};

/// Takes back every open slot; tasks left without any settle on the votes they have.
pub(super) async fn withdraw_open(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<(), TickError> {
    let tasks = task::lock_with_open_slot(connection, project.id, 0).await?;
    withdraw_and_decide(connection, project, &tasks).await
}

/// Gives each tied task one more vote if the budget has one free; decides those that can't have it or have waited too long.
pub(super) async fn break_ties(connection: &mut PgConnection, project: &ProjectRow) -> Result<(), TickError> {
    let wait_seconds = i32::try_from(project.settings.adjudication_seconds).unwrap_or(i32::MAX);
    let overdue = task::list_overdue_ties(connection, project.id, wait_seconds).await?;
    withdraw_and_decide(connection, project, &overdue).await?;
    let tied = task::list_tied(connection, project.id).await?;
    if tied.is_empty() {
        return Ok(());
    }
    let votes = lock_votes(connection, project.id, &tied).await?;
    let free = if project.finish_requested { 0 } else { free_votes(connection, project).await? };
    let (asked, decided): (Vec<_>, Vec<_>) =
        votes.values().enumerate().partition(|(place, _)| (*place as u64) < free);
    for (_, of_task) in asked {
        slot::add(connection, of_task.task.id).await?;
    }
    let decided: Vec<&TaskVotes> = decided.into_iter().map(|(_, of_task)| of_task).collect();
    decide(connection, project, &decided).await
}

/// Gives items that several people judged the class that the weighed votes of the project say.
pub(super) async fn apply_weighed_votes(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<(), TickError> {
    // With one vote an item there is nothing to weigh, and the votes needn't be read.
    if project.settings.votes_per_task == 1 && project.settings.relabel_fraction == 0.0 {
        return Ok(());
    }
    let verdicts = weigh_votes(connection, project).await?;
    let (items, classes): (Vec<_>, Vec<_>) =
        verdicts.changed.into_iter().map(|(item, class)| (item, Some(class))).unzip();
    if !items.is_empty() {
        tracing::info!(project.id = %project.id, item_count = items.len(), "weighed votes changed classes");
    }
    task::write_classes(connection, &items, &classes).await?;
    Ok(())
}

async fn withdraw_and_decide(
    connection: &mut PgConnection,
    project: &ProjectRow,
    tasks: &[TaskId],
) -> Result<(), TickError> {
    if tasks.is_empty() {
        return Ok(());
    }
    let mut votes = lock_votes(connection, project.id, tasks).await?;
    slot::withdraw_open_of_tasks(connection, tasks).await?;
    for slot in votes.values_mut().flat_map(|of_task| &mut of_task.slots) {
        if slot.state == SlotState::Open {
            slot.state = SlotState::Withdrawn;
        }
    }
    let votes: Vec<&TaskVotes> = votes.values().collect();
    decide(connection, project, &votes).await
}

/// Closes tasks, every tie among them.
async fn decide(
    connection: &mut PgConnection,
    project: &ProjectRow,
    votes: &[&TaskVotes],
) -> Result<(), TickError> {
    if votes.is_empty() {
        return Ok(());
    }
    let weighed = weigh_votes(connection, project).await?.weighed;
    close_tasks(connection, project.settings.seed, votes, Ties::Decide(&weighed)).await?;
    Ok(())
}
