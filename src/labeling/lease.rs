//! Leases: handing tasks to labelers, and what to tell them when there is none.
//!
//! An idle labeler holds at most 20 tasks of a project, one who has just answered up to 80, and nobody two slots of one task; an advisory lock of
//! the labeler alone keeps its own concurrent calls from breaking either. Every lease of a slot has the next attempt number, by which late labels are told.

use chrono::{DateTime, Utc};

use crate::domain::ids::{ItemId, TaskId, TokenId};
use crate::domain::project::ProjectState;
use crate::domain::task::{TaskSource, WaitReason};
use crate::store::label;
use crate::store::project::ProjectRow;
use crate::store::slot::{self, LeasedSlot};
use crate::store::task::Suggestion;
use crate::store::{PgConnection, StoreError};

/// Tasks of a project that an idle labeler may hold at once.
pub const LEASE_COUNT_MAX: u32 = 20;

/// Tasks that one may hold who has answered within the time of a lease: two screens of 36 images and some to spare.
pub const WORKING_LEASE_COUNT_MAX: u32 = 80;

/// A task in a labeler's hands.
#[derive(Clone, Debug, PartialEq)]
pub struct LeasedTask {
    /// The task to answer.
    pub task: TaskId,
    /// Its item.
    pub item: ItemId,
    /// Round whose batch it counts into.
    pub round: i32,
    /// Why it was asked, as labelers may know it: gold and relabel read as a query.
    pub source: TaskSource,
    /// When the lease runs out.
    pub expires_at: DateTime<Utc>,
    /// Which lease of the slot this is; sent back with the label.
    pub attempt: i32,
    /// The model's guess, best first; empty when the project hides it.
    pub suggestions: Vec<Suggestion>,
}

/// The answer to a lease call.
#[derive(Clone, Debug, PartialEq)]
pub struct Leases {
    /// The tasks handed out, in the order of asking.
    pub tasks: Vec<LeasedTask>,
    /// Why there is none; `None` when there are some.
    pub wait: Option<WaitReason>,
}

/// Hands up to `count` tasks to a labeler; with `resume` those that it holds come first, all of them, with their leases prolonged.
pub async fn lease_tasks(
    connection: &mut PgConnection,
    project: &ProjectRow,
    labeler: TokenId,
    count: u32,
    resume: bool,
) -> Result<Leases, StoreError> {
    slot::lock_labeler(connection, labeler).await?;
    let lease_seconds = lease_seconds(project);
    let mut slots = Vec::new();
    if resume {
        slots = slot::resume(connection, project.id, labeler, lease_seconds).await?;
    }
    let held_count =
        if resume { slots.len() as i64 } else { count_held(connection, project, labeler).await? };
    let missing = i64::from(count) - slots.len() as i64;
    // Only a wish beyond the limit of the idle makes it worth a look whether this one is.
    let is_many = held_count + missing > i64::from(LEASE_COUNT_MAX);
    let limit = if is_many && label::is_working(connection, project.id, labeler, lease_seconds).await? {
        WORKING_LEASE_COUNT_MAX
    } else {
        LEASE_COUNT_MAX
    };
    let wanted = missing.min(i64::from(limit) - held_count).max(0);
    if wanted > 0 && standing_wait(project).is_none() {
        slots.extend(lease_new(connection, project, labeler, wanted).await?);
    }
    let wait = match standing_wait(project) {
        Some(reason) => Some(reason),
        None if slots.is_empty() => Some(explain_none(connection, project).await?),
        None => None,
    };
    let tasks = slots.into_iter().map(|slot| present(slot, project.settings.show_suggestions)).collect();
    Ok(Leases { tasks, wait })
}

/// Prolongs the leases that a labeler holds, of the given tasks or of all; returns how many it holds of them.
pub async fn renew_leases(
    connection: &mut PgConnection,
    project: &ProjectRow,
    labeler: TokenId,
    tasks: Option<&[TaskId]>,
) -> Result<u64, StoreError> {
    slot::renew(connection, project.id, labeler, tasks, lease_seconds(project)).await
}

/// Gives back the leases that a labeler holds, of the given tasks or of all; returns how many.
pub async fn release_leases(
    connection: &mut PgConnection,
    project: &ProjectRow,
    labeler: TokenId,
    tasks: Option<&[TaskId]>,
) -> Result<u64, StoreError> {
    slot::release(connection, project.id, labeler, tasks).await
}

/// How many leases the labeler holds; its own that have run out are opened first, or renewing them later would exceed the cap.
async fn count_held(
    connection: &mut PgConnection,
    project: &ProjectRow,
    labeler: TokenId,
) -> Result<i64, StoreError> {
    let (held_count, expired_count) = slot::count_held(connection, project.id, labeler).await?;
    if expired_count > 0 {
        slot::open_expired(connection, project.id).await?;
    }
    Ok(held_count)
}

async fn lease_new(
    connection: &mut PgConnection,
    project: &ProjectRow,
    labeler: TokenId,
    wanted: i64,
) -> Result<Vec<LeasedSlot>, StoreError> {
    let lease_seconds = lease_seconds(project);
    let mut slots = slot::lease_open(connection, project.id, labeler, wanted, lease_seconds).await?;
    let missing = wanted - slots.len() as i64;
    // The supervisor opens expired leases each second; whoever finds nothing open needn't wait for it.
    if missing > 0 && slot::open_expired(connection, project.id).await? > 0 {
        slots.extend(slot::lease_open(connection, project.id, labeler, missing, lease_seconds).await?);
    }
    Ok(slots)
}

/// The reason that holds whatever slots there are.
fn standing_wait(project: &ProjectRow) -> Option<WaitReason> {
    use ProjectState as S;
    match project.state {
        S::Empty | S::Importing | S::Ready | S::Pretraining => Some(WaitReason::NotStarted),
        S::Finished => Some(WaitReason::Finished),
        S::Labeling | S::Training | S::Scoring if project.paused => Some(WaitReason::Paused),
        S::Labeling | S::Training | S::Scoring => None,
    }
}

async fn explain_none(connection: &mut PgConnection, project: &ProjectRow) -> Result<WaitReason, StoreError> {
    Ok(match project.state {
        ProjectState::Training => WaitReason::Training,
        ProjectState::Scoring => WaitReason::Scoring,
        // With nothing in anybody's hands the batch is complete, and the supervisor is about to say so.
        _ if slot::count_reserved(connection, project.id).await? == 0 => WaitReason::Training,
        _ => WaitReason::BatchLeasedOut,
    })
}

fn lease_seconds(project: &ProjectRow) -> i32 {
    i32::try_from(project.settings.lease_seconds).unwrap_or(i32::MAX)
}

fn present(slot: LeasedSlot, show_suggestions: bool) -> LeasedTask {
    LeasedTask {
        task: slot.task,
        item: slot.item,
        round: slot.round_number,
        source: slot.source.blinded(),
        expires_at: slot.expires_at,
        attempt: slot.attempt,
        suggestions: if show_suggestions { slot.suggestions.0 } else { Vec::new() },
    }
}
