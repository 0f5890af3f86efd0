//! Setting aside: an operator takes a bad labeler's votes out of every verdict and has them asked again.
//!
//! The votes stay kept and paid. Under the project's lock each of their tasks gets new slots, for which the round under way waits, as far as
//! the budget has free votes; its item has no class meanwhile. Without free votes a task settles on what is left, and an item without any
//! vote returns to the pool. Who was set aside doesn't get the same task again.

use std::collections::BTreeMap;

use serde_json::json;

use super::budget::free_votes;
use super::votes::{TaskVotes, Ties, Weighed, close_tasks, lock_votes, standing_class};
use super::{LabelingError, next_training_round};
use crate::domain::event::EventKind;
use crate::domain::ids::{ItemId, TaskId, TokenId};
use crate::domain::project::{ClassIndex, ProjectState};
use crate::domain::task::{TaskSource, TaskState};
use crate::store::project::{self, ProjectRow};
use crate::store::{PgConnection, StoreError, agreement, event, round, slot, task};

/// What was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Votes that count no more.
    pub label_count: u64,
    /// Votes that are asked again.
    pub asked_again_count: u64,
    /// Items that lost their class and return to the pool, since the budget has no free vote for them.
    pub returned_count: u64,
}

/// Sets aside every vote of a labeler in the project, of one person or of all behind the token, and asks for them again.
pub async fn set_labeler_aside(
    connection: &mut PgConnection,
    project: &ProjectRow,
    labeler: TokenId,
    person: Option<&str>,
) -> Result<SetAside, LabelingError> {
    round::lock_project(connection, project.id).await?;
    let project = project::find(connection, project.id).await?.unwrap_or_else(|| project.clone());
    let of_votes = agreement::set_aside(connection, project.id, labeler, person).await?;
    if of_votes.is_empty() {
        return Err(LabelingError::NoVotes(labeler));
    }
    let mut lost: BTreeMap<TaskId, usize> = BTreeMap::new();
    of_votes.iter().for_each(|task| *lost.entry(*task).or_default() += 1);
    let tasks: Vec<TaskId> = lost.keys().copied().collect();
    let checks = task::list_relabels_of(connection, &tasks).await?;
    let all: Vec<TaskId> = tasks.iter().copied().chain(checks.iter().map(|(check, _)| *check)).collect();
    let votes = lock_votes(connection, project.id, &all).await?;
    let waiting_round = find_waiting_round(connection, &project).await?;
    let mut repair = Repair {
        checks: checks.into_iter().map(|(check, item)| (item, check)).collect(),
        ..Repair::default()
    };
    repair.free = if waiting_round.is_some() { free_votes(connection, &project).await? } else { 0 };
    for (task, lost_count) in &lost {
        if let Some(of_task) = votes.get(task) {
            repair.plan(of_task, *lost_count, project.settings.seed);
        }
    }
    let asked_again_count = repair.slots.len() as u64;
    let returned_count = repair.write(connection, &project, &votes, waiting_round).await?;
    let label_count = of_votes.len() as u64;
    let payload = json!({
        "labeler": labeler, "person": person, "label_count": label_count, "asked_again_count": asked_again_count,
    });
    event::append(connection, Some(project.id), EventKind::LabelsSetAside, &payload).await?;
    Ok(SetAside { label_count, asked_again_count, returned_count })
}

/// The round that waits for what is asked now; none when nothing is asked any more.
async fn find_waiting_round(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<Option<i32>, StoreError> {
    let asks =
        matches!(project.state, ProjectState::Labeling | ProjectState::Training | ProjectState::Scoring);
    if !asks || project.finish_requested {
        return Ok(None);
    }
    next_training_round(connection, project.id).await.map(Some)
}

/// What setting votes aside changes.
#[derive(Default)]
struct Repair {
    /// Votes that the budget still buys.
    free: u64,
    /// The live check of an item.
    checks: BTreeMap<ItemId, TaskId>,
    /// One entry a new slot.
    slots: Vec<TaskId>,
    /// Tasks whose state changes before anything is closed.
    states: Vec<(TaskId, TaskState)>,
    /// Items whose class changes with them.
    classes: Vec<(ItemId, Option<ClassIndex>)>,
    /// Tasks that settle on what is left.
    closing: Vec<TaskId>,
    /// Items that nobody's vote is left for.
    returned: Vec<ItemId>,
}

impl Repair {
    fn plan(&mut self, of_task: &TaskVotes, lost_count: usize, seed: u64) {
        use TaskState as S;
        let task = &of_task.task;
        let is_live = matches!(task.state, S::Open | S::Leased | S::Adjudication | S::Settled);
        if task.source == TaskSource::Gold || !is_live {
            return;
        }
        if let Some(check) = self.checks.get(&task.item).copied().filter(|check| *check != task.id) {
            // The check speaks for the item: it counts what is left of the votes before it.
            if !of_task.has_own_vote() && !of_task.is_unclosed() {
                self.states.push((task.id, S::Withdrawn));
            }
            self.closing.push(check);
            return;
        }
        let asked = u64::try_from(lost_count).unwrap_or(u64::MAX).min(self.free);
        let class = if of_task.is_relabel() { standing_class(of_task, seed) } else { None };
        if asked > 0 {
            self.free -= asked;
            self.slots.extend((0..asked).map(|_| task.id));
            if task.state != S::Open {
                self.states.push((task.id, S::Open));
                self.classes.push((task.item, class));
            }
        } else if !of_task.is_unclosed() {
            self.closing.push(task.id);
            if !of_task.has_own_vote() {
                self.classes.push((task.item, class));
                if class.is_none() {
                    self.returned.push(task.item);
                }
            }
        }
    }

    /// Writes all of it; returns how many items went back to the pool.
    async fn write(
        self,
        connection: &mut PgConnection,
        project: &ProjectRow,
        votes: &BTreeMap<TaskId, TaskVotes>,
        waiting_round: Option<i32>,
    ) -> Result<u64, StoreError> {
        let (tasks, states): (Vec<_>, Vec<_>) = self.states.into_iter().unzip();
        task::write_states(connection, &tasks, &states).await?;
        let (items, classes): (Vec<_>, Vec<_>) = self.classes.into_iter().unzip();
        task::write_classes(connection, &items, &classes).await?;
        if let Some(round_number) = waiting_round.filter(|_| !self.slots.is_empty()) {
            slot::add_for_round(connection, &self.slots, round_number).await?;
        }
        let closing: Vec<&TaskVotes> = self.closing.iter().filter_map(|task| votes.get(task)).collect();
        let weighed = Weighed::new();
        close_tasks(connection, project.settings.seed, &closing, Ties::Decide(&weighed)).await?;
        Ok(self.returned.len() as u64)
    }
}
