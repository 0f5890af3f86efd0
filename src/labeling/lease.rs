//! Leases: handing tasks to labelers, and what to tell them when there is none.
//!
//! An idle labeler holds at most 20 tasks of a project, one who has just answered up to 80, and nobody two slots of one task; an advisory lock of
//! the labeler alone keeps its own concurrent calls from breaking either. Every lease of a slot has the next attempt number, by which late labels are told.

use std::collections::HashMap;

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

/// What one labeler asks for in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseWish {
    /// Who asks.
    pub labeler: TokenId,
    /// Tasks at most, those that are resumed included.
    pub count: u32,
    /// Whether the tasks that it holds come first, all of them, with their leases prolonged.
    pub resume: bool,
}

/// Hands tasks to labelers whose calls came together, in the order of the calls; the answers are in it too.
pub async fn lease_tasks(
    connection: &mut PgConnection,
    project: &ProjectRow,
    wishes: &[LeaseWish],
) -> Result<Vec<Leases>, StoreError> {
    let labelers: Vec<TokenId> = wishes.iter().map(|wish| wish.labeler).collect();
    slot::lock_labelers(connection, &labelers).await?;
    let mut resumed = Vec::with_capacity(wishes.len());
    for wish in wishes {
        resumed.push(match wish.resume {
            true => slot::resume(connection, project.id, wish.labeler, lease_seconds(project)).await?,
            false => Vec::new(),
        });
    }
    let mut held = count_held(connection, project, &labelers).await?;
    let standing = standing_wait(project);
    let mut answers = Vec::with_capacity(wishes.len());
    for (wish, mut slots) in wishes.iter().zip(resumed) {
        let held_count = held.entry(wish.labeler).or_default();
        let missing = i64::from(wish.count) - slots.len() as i64;
        if missing > 0 && standing.is_none() {
            let limit = find_limit(connection, project, wish.labeler, *held_count + missing).await?;
            let wanted = missing.min(limit - *held_count);
            if wanted > 0 {
                let fresh = lease_new(connection, project, wish.labeler, wanted).await?;
                *held_count += fresh.len() as i64;
                slots.extend(fresh);
            }
        }
        let wait = match standing {
            None if slots.is_empty() => Some(explain_none(connection, project).await?),
            standing => standing,
        };
        let tasks = slots.into_iter().map(|slot| present(slot, project.settings.show_suggestions)).collect();
        answers.push(Leases { tasks, wait });
    }
    Ok(answers)
}

/// How many tasks a labeler may hold that would like to hold `wished`.
async fn find_limit(
    connection: &mut PgConnection,
    project: &ProjectRow,
    labeler: TokenId,
    wished: i64,
) -> Result<i64, StoreError> {
    // Only a wish beyond the limit of the idle makes it worth a look whether this one is.
    let is_many = wished > i64::from(LEASE_COUNT_MAX);
    let is_working =
        is_many && label::is_working(connection, project.id, labeler, lease_seconds(project)).await?;
    Ok(i64::from(if is_working { WORKING_LEASE_COUNT_MAX } else { LEASE_COUNT_MAX }))
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

/// How many leases the labelers hold; their own that have run out are opened first, or renewing them later would exceed the cap.
async fn count_held(
    connection: &mut PgConnection,
    project: &ProjectRow,
    labelers: &[TokenId],
) -> Result<HashMap<TokenId, i64>, StoreError> {
    let counts = slot::count_held(connection, project.id, labelers).await?;
    if counts.iter().any(|count| count.expired > 0) {
        slot::open_expired(connection, project.id).await?;
    }
    Ok(counts.into_iter().map(|count| (count.labeler, count.held)).collect())
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
