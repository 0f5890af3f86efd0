//! Submit: many labels, of one labeler or of several whose calls came together, in one transaction.
//!
//! Three reads and three writes whatever the number of calls and labels, all on rows of the tasks answered. A label that is refused leaves
//! the others as they were; a late one is kept as an uncounted vote. Labels of one task are judged in the order of calls and in a call.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use super::votes::{Judgement, TaskVotes, Ties, Voter, close_tasks, lock_votes};
use crate::domain::event::EventKind;
use crate::domain::ids::{LabelId, TaskId, TokenId};
use crate::domain::label::LabelOutcome;
use crate::domain::project::ClassIndex;
use crate::domain::task::SlotState;
use crate::store::label::{self, NewLabel, VoteRow};
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, StoreError, event};

/// One label as a labeler sends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// The task answered.
    pub task: TaskId,
    /// Name of the class.
    pub class: String,
    /// The lease under which it was answered, when the caller says so.
    pub attempt: Option<i32>,
    /// How long the labeler looked, at least 0.
    pub seconds: Option<f64>,
    /// The person, when a tool labels for several.
    pub person: Option<String>,
}

/// What one labeler sends in one call.
#[derive(Clone, Copy, Debug)]
pub struct Submit<'a> {
    /// The token that labels.
    pub labeler: TokenId,
    /// Its labels.
    pub submissions: &'a [Submission],
}

/// What became of one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubmitResult {
    /// The task answered.
    pub task: TaskId,
    /// The label that stands for it: the new one, the earlier one of a duplicate or conflict, the uncounted one of a late answer.
    pub label: Option<LabelId>,
    /// What became of it.
    pub outcome: LabelOutcome,
}

/// What became of submits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Submitted {
    /// In the order of the calls and of their labels.
    pub results: Vec<Vec<SubmitResult>>,
    /// The rounds of the tasks that they closed, an entry a task.
    pub closed: Vec<i32>,
}

/// Takes the labels of these calls; what is returned holds once the caller has committed.
pub async fn submit_labels(
    connection: &mut PgConnection,
    project: &ProjectRow,
    submits: &[Submit<'_>],
) -> Result<Submitted, StoreError> {
    let submissions = || submits.iter().flat_map(|submit| submit.submissions);
    // No class has U+0000 in its name, and Postgres takes no text with it.
    let names = submissions().map(|submission| &submission.class).filter(|name| !name.contains('\0'));
    let mut names: Vec<String> = names.cloned().collect();
    names.sort_unstable();
    names.dedup();
    let classes: HashMap<String, ClassIndex> =
        label::find_classes(connection, project.id, &names).await?.into_iter().collect();
    let tasks: Vec<TaskId> = submissions().map(|submission| submission.task).collect();
    let mut votes = lock_votes(connection, project.id, &tasks).await?;
    let mut batch = Batch::default();
    let mut take = |labeler: TokenId, submission: &Submission| {
        let class = classes.get(&submission.class).copied();
        let (label, outcome) = match (votes.get_mut(&submission.task), class) {
            (None, _) => (None, LabelOutcome::UnknownTask),
            (Some(_), None) => (None, LabelOutcome::UnknownClass),
            (Some(of_task), Some(class)) => batch.take(of_task, labeler, submission, class),
        };
        SubmitResult { task: submission.task, label, outcome }
    };
    let results = submits
        .iter()
        .map(|submit| submit.submissions.iter().map(|one| take(submit.labeler, one)).collect())
        .collect();
    label::create_all(connection, project.id, &batch.labels).await?;
    let answered: Vec<&TaskVotes> = batch.answered.iter().filter_map(|task| votes.get(task)).collect();
    let closed = close_tasks(connection, project.settings.seed, &answered, Ties::AskAgain).await?;
    event::append_all(connection, project.id, EventKind::LabelAccepted, &batch.events).await?;
    Ok(Submitted { results, closed })
}

/// What a submit is going to write.
#[derive(Default)]
struct Batch {
    labels: Vec<NewLabel>,
    answered: BTreeSet<TaskId>,
    events: Vec<Value>,
}

impl Batch {
    /// Judges one label and notes what it writes, in `of_task` too, so that the next label of the same task meets it.
    fn take(
        &mut self,
        of_task: &mut TaskVotes,
        labeler: TokenId,
        submission: &Submission,
        class: ClassIndex,
    ) -> (Option<LabelId>, LabelOutcome) {
        let voter = Voter { token: labeler, person: submission.person.as_deref() };
        match of_task.judge(voter, class, submission.attempt) {
            Judgement::Duplicate(label) => (Some(label), LabelOutcome::Duplicate),
            Judgement::Conflict(label) => (label, LabelOutcome::Conflict),
            Judgement::Late(Some(kept)) => (Some(kept), LabelOutcome::Expired),
            Judgement::Late(None) => {
                let label = self.add(of_task, labeler, submission, class, None);
                (Some(label), LabelOutcome::Expired)
            }
            Judgement::Fills(slot) => {
                let label = self.add(of_task, labeler, submission, class, Some(slot));
                if let Some(filled) = of_task.slots.iter_mut().find(|candidate| candidate.id == slot) {
                    filled.state = SlotState::Answered;
                    filled.labeler = Some(labeler);
                    filled.person.clone_from(&submission.person);
                }
                self.answered.insert(of_task.task.id);
                self.events.push(json!({
                    "label": label, "task": of_task.task.id, "item": of_task.task.item, "round": of_task.round_of(Some(slot)),
                    "class": submission.class, "labeler": labeler,
                }));
                (Some(label), LabelOutcome::Accepted)
            }
        }
    }

    fn add(
        &mut self,
        of_task: &mut TaskVotes,
        labeler: TokenId,
        submission: &Submission,
        class: ClassIndex,
        slot: Option<crate::domain::ids::SlotId>,
    ) -> LabelId {
        let id = LabelId::generate();
        let counted = slot.is_some();
        self.labels.push(NewLabel {
            id,
            labeler,
            task: of_task.task.id,
            slot,
            item: of_task.task.item,
            round_number: of_task.round_of(slot),
            class,
            person: submission.person.clone(),
            attempt: submission.attempt,
            seconds: submission.seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.0),
            counted,
        });
        let (task, person) = (of_task.task.id, submission.person.clone());
        of_task.labels.push(VoteRow { id, task, slot, class, labeler, person, counted });
        id
    }
}
