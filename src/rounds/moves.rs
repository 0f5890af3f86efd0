//! The writes that move states: compare-and-set by the domain's tables, with the event in the caller's transaction.

use serde_json::json;

use crate::domain::event::EventKind;
use crate::domain::ids::ProjectId;
use crate::domain::project::{FinishReason, ProjectEvent, ProjectState};
use crate::domain::round::{RoundEvent, RoundState};
use crate::store::project::ProjectRow;
use crate::store::round::RoundRow;
use crate::store::{PgConnection, StoreError, event, round};

/// Moves a project; false when the domain's table or the stored state says no, and then nothing was written.
pub(super) async fn move_project(
    connection: &mut PgConnection,
    project: ProjectId,
    from: ProjectState,
    what: ProjectEvent,
) -> Result<bool, StoreError> {
    let Some(to) = from.after(what) else {
        tracing::warn!(project.id = %project, project.state = from.as_str(), project.event = ?what, "a move that the states don't allow was refused");
        return Ok(false);
    };
    if from == to || !round::move_project(connection, project, from, to).await? {
        return Ok(false);
    }
    let payload = json!({ "from": from, "to": to });
    event::append(connection, Some(project), EventKind::ProjectStateChanged, &payload).await?;
    tracing::info!(project.id = %project, from = from.as_str(), to = to.as_str(), "project moved");
    Ok(true)
}

/// Ends a project, for the reason that stands already or else this one; false as for a move.
pub(super) async fn end_project(
    connection: &mut PgConnection,
    project: &ProjectRow,
    reason: FinishReason,
) -> Result<bool, StoreError> {
    let (from, Some(to)) = (project.state, project.state.after(ProjectEvent::Ended)) else {
        return Ok(false);
    };
    if !round::move_project(connection, project.id, from, to).await? {
        return Ok(false);
    }
    let reason = round::note_finish_reason(connection, project.id, reason).await?;
    let payload = json!({ "from": from, "to": to, "reason": reason });
    event::append(connection, Some(project.id), EventKind::ProjectStateChanged, &payload).await?;
    tracing::info!(project.id = %project.id, from = from.as_str(), reason = reason.as_str(), "project finished");
    Ok(true)
}

/// Moves a round and notes the model that it trained; false as for a project.
pub(super) async fn move_round(
    connection: &mut PgConnection,
    row: &RoundRow,
    what: RoundEvent,
    model_version: Option<i32>,
) -> Result<bool, StoreError> {
    let Some(to) = row.state.after(what) else {
        tracing::warn!(round.number = row.number, round.state = row.state.as_str(), round.event = ?what, "a move that the states don't allow was refused");
        return Ok(false);
    };
    if !round::move_state(connection, row.id, row.state, to, model_version).await? {
        return Ok(false);
    }
    note_round(connection, row, row.state, to).await?;
    Ok(true)
}

/// Appends the event of a round that was moved.
pub(super) async fn note_round(
    connection: &mut PgConnection,
    row: &RoundRow,
    from: RoundState,
    to: RoundState,
) -> Result<(), StoreError> {
    let payload = json!({ "round": row.number, "from": from, "to": to });
    event::append(connection, Some(row.project), EventKind::RoundStateChanged, &payload).await?;
    tracing::info!(project.id = %row.project, round.number = row.number, from = from.as_str(), to = to.as_str(), "round moved");
    Ok(())
}
