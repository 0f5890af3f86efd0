//! The votes of tasks: loading them under locks, judging what a label may do, and closing tasks that have no slot left.
//!
//! `judge` is pure: it decides from the slots and labels alone. `close_tasks` writes the verdict: a majority settles, a tie asks for one
//! more vote (the supervisor, which alone makes slots, adds it or decides). A tie that must be decided goes to the weighed votes of the
//! project (Dawid and Skene), and without them to a draw by the image's content. A relabel task's verdict counts the earlier votes too.

use std::collections::{BTreeMap, HashMap};

use crate::domain::agreement::{Verdict, majority};
use crate::domain::ids::{ItemId, LabelId, ProjectId, SlotId, TaskId, TokenId};
use crate::domain::project::ClassIndex;
use crate::domain::seed::StreamKey;
use crate::domain::task::{SlotState, TaskSource, TaskState};
use crate::store::label::{self, VoteRow};
use crate::store::slot::{self, SlotRow};
use crate::store::task::{self, LockedTask};
use crate::store::{PgConnection, StoreError};

/// A locked task with its slots and the labels that aren't undone.
#[derive(Clone, Debug)]
pub(crate) struct TaskVotes {
    /// The task.
    pub(crate) task: LockedTask,
    /// Its slots.
    pub(crate) slots: Vec<SlotRow>,
    /// Its labels, uncounted ones included.
    pub(crate) labels: Vec<VoteRow>,
    /// Of a relabel task: the votes on its item that other tasks asked for.
    pub(crate) earlier: Vec<VoteRow>,
}

/// What becomes of a tie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ties<'w> {
    /// It waits for one more vote, unless that vote was given already.
    AskAgain,
    /// It is decided now: by what the weighed votes say of the item, else by its content.
    Decide(&'w Weighed),
}

/// The class that the weighed votes of a project give to items; empty while labelers don't repeat enough.
pub(crate) type Weighed = HashMap<ItemId, ClassIndex>;

/// Who votes: a token, and the person when a tool labels for several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voter<'a> {
    /// The token.
    pub(crate) token: TokenId,
    /// The person behind it.
    pub(crate) person: Option<&'a str>,
}

/// What a vote may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It fills this slot.
    Fills(SlotId),
    /// The voter already gave this class.
    Duplicate(LabelId),
    /// The voter gave another class, or doesn't hold the task.
    Conflict(Option<LabelId>),
    /// It comes too late; the label is the one kept for it before, if any.
    Late(Option<LabelId>),
}

impl TaskVotes {
    /// What a vote of `class` under lease `attempt` may do.
    pub(crate) fn judge(&self, voter: Voter<'_>, class: ClassIndex, attempt: Option<i32>) -> Judgement {
        let own = |label: &&VoteRow| label.labeler == voter.token && label.person.as_deref() == voter.person;
        if let Some(vote) = self.labels.iter().filter(own).find(|label| label.counted) {
            let same = vote.class == class;
            return if same { Judgement::Duplicate(vote.id) } else { Judgement::Conflict(Some(vote.id)) };
        }
        let late = || {
            let kept = self.labels.iter().filter(own).find(|label| label.class == class);
            Judgement::Late(kept.map(|label| label.id))
        };
        if !self.is_votable() {
            return late();
        }
        if self.has_used_slot(voter) {
            return Judgement::Conflict(None);
        }
        match self.find_slot(voter.token) {
            Some(slot) => match attempt {
                Some(attempt) if attempt < slot.attempt => late(),
                Some(attempt) if attempt > slot.attempt => Judgement::Conflict(None),
                _ => Judgement::Fills(slot.id),
            },
            None if self.has_lost(voter.token, attempt) => late(),
            None => match self.find_open(attempt) {
                Some(slot) => Judgement::Fills(slot.id),
                None => Judgement::Conflict(None),
            },
        }
    }

    /// The slot that a skip of this voter uses up.
    pub(crate) fn find_skippable(&self, voter: Voter<'_>) -> Option<SlotId> {
        if self.has_used_slot(voter) {
            return None;
        }
        self.find_slot(voter.token).or_else(|| self.find_open(None)).map(|slot| slot.id)
    }

    /// Whether a further vote is wanted: the task isn't closed and has a slot to fill.
    pub(crate) fn is_votable(&self) -> bool {
        use TaskState as S;
        matches!(self.task.state, S::Open | S::Leased | S::Adjudication) && self.is_unclosed()
    }

    /// The classes of the votes that the verdict counts: one a voter, the newest.
    ///
    /// A relabel task counts the earlier votes on its item, and an imported class, which nobody voted for, as one.
    pub(crate) fn classes(&self) -> Vec<ClassIndex> {
        let counted = || self.labels.iter().filter(|label| label.counted);
        let is_outdated =
            |vote: &&VoteRow| counted().any(|own| own.labeler == vote.labeler && own.person == vote.person);
        let earlier = self.earlier.iter().filter(|vote| vote.counted && !is_outdated(vote));
        let imported = self.task.known_class.filter(|_| self.is_relabel() && self.earlier.is_empty());
        counted().chain(earlier).map(|label| label.class).chain(imported).collect()
    }

    /// The round that waits for a slot, or the task's own.
    pub(crate) fn round_of(&self, slot: Option<SlotId>) -> i32 {
        let waiting = slot.and_then(|id| self.slots.iter().find(|slot| slot.id == id));
        waiting.map_or(self.task.round_number, |slot| slot.round_number)
    }

    /// Whether anybody's vote for this task counts.
    pub(crate) fn has_own_vote(&self) -> bool {
        self.labels.iter().any(|label| label.counted)
    }

    /// Whether the task checks a class that its item has.
    pub(crate) fn is_relabel(&self) -> bool {
        self.task.source == TaskSource::Relabel
    }

    /// Whether a slot is still open or leased.
    pub(crate) fn is_unclosed(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.state, SlotState::Open | SlotState::Leased))
    }

    /// Whether the voter has answered or skipped a slot of this task; each has one vote.
    fn has_used_slot(&self, voter: Voter<'_>) -> bool {
        self.slots.iter().any(|slot| {
            slot.labeler == Some(voter.token)
                && slot.person.as_deref() == voter.person
                && matches!(slot.state, SlotState::Answered | SlotState::Skipped)
        })
    }

    /// The slot that the token holds, or held last while nobody has taken it since.
    fn find_slot(&self, token: TokenId) -> Option<&SlotRow> {
        let of_token =
            |state| self.slots.iter().find(move |slot| slot.labeler == Some(token) && slot.state == state);
        of_token(SlotState::Leased).or_else(|| of_token(SlotState::Open))
    }

    /// Whether the token held a slot that somebody else has taken since. A caller that names an older attempt says so itself.
    fn has_lost(&self, token: TokenId, attempt: Option<i32>) -> bool {
        self.slots.iter().any(|slot| {
            slot.former.contains(&token)
                || (slot.state != SlotState::Open && attempt.is_some_and(|attempt| attempt < slot.attempt))
        })
    }

    /// A slot that nobody holds: a label without a lease may fill it, one that names a lease may not.
    fn find_open(&self, attempt: Option<i32>) -> Option<&SlotRow> {
        if attempt.is_some() {
            return None;
        }
        self.slots.iter().filter(|slot| slot.state == SlotState::Open).min_by_key(|slot| slot.priority)
    }
}

/// Locks tasks of a project and loads their slots and labels; unknown ids are left out.
pub(crate) async fn lock_votes(
    connection: &mut PgConnection,
    project: ProjectId,
    tasks: &[TaskId],
) -> Result<BTreeMap<TaskId, TaskVotes>, StoreError> {
    let locked = task::lock_all(connection, project, tasks).await?;
    let mut votes: BTreeMap<TaskId, TaskVotes> = locked
        .into_iter()
        .map(|task| (task.id, TaskVotes { task, slots: Vec::new(), labels: Vec::new(), earlier: Vec::new() }))
        .collect();
    let known: Vec<TaskId> = votes.keys().copied().collect();
    for slot in slot::lock_of_tasks(connection, &known).await? {
        if let Some(of_task) = votes.get_mut(&slot.task) {
            of_task.slots.push(slot);
        }
    }
    for vote in label::list_of_tasks(connection, &known).await? {
        if let Some(of_task) = votes.get_mut(&vote.task) {
            of_task.labels.push(vote);
        }
    }
    let relabels: Vec<TaskId> =
        votes.values().filter(|of_task| of_task.is_relabel()).map(|of_task| of_task.task.id).collect();
    if !relabels.is_empty() {
        for vote in label::list_earlier(connection, &relabels).await? {
            if let Some(of_task) = votes.get_mut(&vote.task) {
                of_task.earlier.push(vote);
            }
        }
    }
    Ok(votes)
}

/// Writes the verdict of every given task that has no slot open or leased; the others stay as they are.
///
/// Returns the rounds of those that are settled or skipped by it, an entry a task; external ones belong to no batch and are left out.
pub(crate) async fn close_tasks(
    connection: &mut PgConnection,
    seed: u64,
    votes: &[&TaskVotes],
    ties: Ties<'_>,
) -> Result<Vec<i32>, StoreError> {
    let (mut tasks, mut states, mut items, mut classes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut closed = Vec::new();
    for of_task in votes.iter().filter(|of_task| !of_task.is_unclosed()) {
        let (state, class) = conclude(of_task, seed, ties);
        tasks.push(of_task.task.id);
        states.push(state);
        if matches!(state, TaskState::Settled | TaskState::Skipped)
            && of_task.task.source != TaskSource::External
        {
            closed.push(of_task.task.round_number);
        }
        // A gold item keeps the class it is known to have.
        if let Some(class) = class
            && of_task.task.source != TaskSource::Gold
        {
            items.push(of_task.task.item);
            classes.push(Some(class));
        }
    }
    task::write_states(connection, &tasks, &states).await?;
    task::write_classes(connection, &items, &classes).await?;
    Ok(closed)
}

fn conclude(of_task: &TaskVotes, seed: u64, ties: Ties<'_>) -> (TaskState, Option<ClassIndex>) {
    // The earlier votes of a check that nobody answered are no answer.
    let verdict = if of_task.has_own_vote() { majority(&of_task.classes()) } else { Verdict::NoVotes };
    match (verdict, ties) {
        (Verdict::Class(class), _) => (TaskState::Settled, Some(class)),
        (Verdict::Tie, Ties::AskAgain) if of_task.task.state != TaskState::Adjudication => {
            (TaskState::Adjudication, None)
        }
        // The vote that was to decide is in and they still differ: a draw, which weighing all votes may overrule before the round trains.
        (Verdict::Tie, Ties::AskAgain) => (TaskState::Settled, break_tie(of_task, seed)),
        (Verdict::Tie, Ties::Decide(weighed)) => (TaskState::Settled, decide_tie(of_task, seed, weighed)),
        (Verdict::NoVotes, _) if of_task.slots.iter().any(|slot| slot.state == SlotState::Skipped) => {
            (TaskState::Skipped, None)
        }
        (Verdict::NoVotes, _) => (TaskState::Withdrawn, None),
    }
}

/// The class that the votes give without anything being asked.
pub(crate) fn standing_class(of_task: &TaskVotes, seed: u64) -> Option<ClassIndex> {
    match majority(&of_task.classes()) {
        Verdict::Class(class) => Some(class),
        Verdict::Tie => break_tie(of_task, seed),
        Verdict::NoVotes => None,
    }
}

/// What the weighed votes say, if that is among the leaders' classes; else a draw.
fn decide_tie(of_task: &TaskVotes, seed: u64, weighed: &Weighed) -> Option<ClassIndex> {
    let said = weighed.get(&of_task.task.item).copied();
    said.filter(|class| of_task.classes().contains(class)).or_else(|| break_tie(of_task, seed))
}

/// One of the leading classes, drawn from a stream keyed by the image's content, so that it repeats in another database.
fn break_tie(of_task: &TaskVotes, seed: u64) -> Option<ClassIndex> {
    let classes = of_task.classes();
    let count_of = |class: ClassIndex| classes.iter().filter(|other| **other == class).count();
    let most = classes.iter().map(|class| count_of(*class)).max()?;
    let key = StreamKey::new(seed, "adjudication").with_content(&of_task.task.hash);
    let mut leaders: Vec<ClassIndex> =
        classes.iter().copied().filter(|class| count_of(*class) == most).collect();
    leaders.sort_unstable();
    leaders.dedup();
    leaders.into_iter().min_by_key(|class| key.clone().with_number(u64::from(class.0)).number())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::content_hash::ContentHash;
    use crate::domain::ids::ItemId;

    fn slot(state: SlotState, labeler: Option<TokenId>, attempt: i32) -> SlotRow {
        let id = SlotId::generate();
        SlotRow {
            id,
            task: TaskId::generate(),
            state,
            priority: 0,
            labeler,
            person: None,
            former: Vec::new(),
            attempt,
            round_number: 1,
        }
    }

    fn votes(state: TaskState, slots: Vec<SlotRow>) -> TaskVotes {
        let task = LockedTask {
            id: TaskId::generate(),
            item: ItemId::generate(),
            hash: ContentHash([3; 32]),
            round_number: 1,
            source: TaskSource::Query,
            state,
            known_class: None,
        };
        TaskVotes { task, slots, labels: Vec::new(), earlier: Vec::new() }
    }

    fn vote(token: TokenId, class: u16, counted: bool) -> VoteRow {
        VoteRow {
            id: LabelId::generate(),
            task: TaskId::generate(),
            slot: None,
            class: ClassIndex(class),
            labeler: token,
            person: None,
            counted,
        }
    }

    fn voter(token: TokenId) -> Voter<'static> {
        Voter { token, person: None }
    }

    const CAT: ClassIndex = ClassIndex(0);

    #[test]
    fn a_late_label_is_accepted_until_somebody_else_takes_the_slot() {
        let (ana, ben) = (TokenId::generate(), TokenId::generate());
        let mut expired = votes(TaskState::Open, vec![slot(SlotState::Open, Some(ana), 1)]);
        assert_eq!(expired.judge(voter(ana), CAT, Some(1)), Judgement::Fills(expired.slots[0].id));
        expired.slots[0] = SlotRow { former: vec![ana], ..slot(SlotState::Leased, Some(ben), 2) };
        assert_eq!(expired.judge(voter(ana), CAT, Some(1)), Judgement::Late(None));
        assert_eq!(expired.judge(voter(ana), CAT, None), Judgement::Late(None));
        assert_eq!(expired.judge(voter(ben), CAT, Some(2)), Judgement::Fills(expired.slots[0].id));
    }

    #[test]
    fn an_older_attempt_of_ones_own_is_late_and_a_newer_one_is_a_conflict() {
        let ana = TokenId::generate();
        let held = votes(TaskState::Open, vec![slot(SlotState::Leased, Some(ana), 3)]);
        assert_eq!(held.judge(voter(ana), CAT, Some(2)), Judgement::Late(None));
        assert_eq!(held.judge(voter(ana), CAT, Some(4)), Judgement::Conflict(None));
        assert_eq!(held.judge(voter(ana), CAT, None), Judgement::Fills(held.slots[0].id));
    }

    #[test]
    fn a_stranger_can_answer_an_open_slot_but_not_a_leased_one() {
        let (ana, ben) = (TokenId::generate(), TokenId::generate());
        let open = votes(TaskState::Open, vec![slot(SlotState::Open, None, 0)]);
        assert_eq!(open.judge(voter(ana), CAT, None), Judgement::Fills(open.slots[0].id));
        let leased = votes(TaskState::Open, vec![slot(SlotState::Leased, Some(ben), 1)]);
        assert_eq!(leased.judge(voter(ana), CAT, None), Judgement::Conflict(None));
        assert_eq!(leased.judge(voter(ana), CAT, Some(1)), Judgement::Conflict(None));
    }

    #[test]
    fn the_same_vote_twice_is_a_duplicate_and_another_class_a_conflict() {
        let ana = TokenId::generate();
        let mut settled = votes(TaskState::Settled, vec![slot(SlotState::Answered, Some(ana), 1)]);
        settled.labels.push(vote(ana, 0, true));
        let id = settled.labels[0].id;
        assert_eq!(settled.judge(voter(ana), CAT, Some(1)), Judgement::Duplicate(id));
        assert_eq!(settled.judge(voter(ana), ClassIndex(1), Some(1)), Judgement::Conflict(Some(id)));
        let other_person = Voter { token: ana, person: Some("ben") };
        assert_eq!(settled.judge(other_person, CAT, None), Judgement::Late(None));
    }

    #[test]
    fn a_tie_asks_once_more_and_then_is_broken_the_same_way_every_time() {
        let (ana, ben) = (TokenId::generate(), TokenId::generate());
        let mut tied = votes(TaskState::Open, vec![slot(SlotState::Answered, Some(ana), 1)]);
        tied.labels = vec![vote(ana, 4, true), vote(ben, 2, true), vote(ben, 9, false)];
        assert_eq!(conclude(&tied, 7, Ties::AskAgain), (TaskState::Adjudication, None));
        let mut weighed = Weighed::new();
        let first = conclude(&tied, 7, Ties::Decide(&weighed));
        assert!(matches!(first, (TaskState::Settled, Some(ClassIndex(2 | 4)))), "{first:?}");
        tied.labels.reverse();
        assert_eq!(conclude(&tied, 7, Ties::Decide(&weighed)), first);
        tied.task.state = TaskState::Adjudication;
        assert_eq!(conclude(&tied, 7, Ties::AskAgain), first);
        // What the weighed votes say comes before the draw, but no class that nobody gave.
        for class in [4, 2] {
            weighed.insert(tied.task.item, ClassIndex(class));
            let decided = conclude(&tied, 7, Ties::Decide(&weighed));
            assert_eq!(decided, (TaskState::Settled, Some(ClassIndex(class))));
        }
        weighed.insert(tied.task.item, ClassIndex(9));
        assert_eq!(conclude(&tied, 7, Ties::Decide(&weighed)), first);
    }

    #[test]
    fn a_check_counts_the_votes_before_it_and_one_of_each_voter() {
        let (ana, ben) = (TokenId::generate(), TokenId::generate());
        let mut check = votes(TaskState::Open, vec![slot(SlotState::Answered, Some(ben), 1)]);
        check.task.source = TaskSource::Relabel;
        check.task.known_class = Some(ClassIndex(4));
        check.labels = vec![vote(ben, 2, true)];
        // An imported class counts as one vote, so the two differ.
        assert_eq!(conclude(&check, 7, Ties::AskAgain).0, TaskState::Adjudication);
        check.earlier = vec![vote(ana, 4, true)];
        assert_eq!(conclude(&check, 7, Ties::AskAgain).0, TaskState::Adjudication);
        // Who answered before changes its mind; a vote that was set aside is none.
        check.earlier = vec![vote(ben, 4, true)];
        assert_eq!(conclude(&check, 7, Ties::AskAgain), (TaskState::Settled, Some(ClassIndex(2))));
        check.earlier = vec![vote(ana, 4, false)];
        assert_eq!(conclude(&check, 7, Ties::AskAgain), (TaskState::Settled, Some(ClassIndex(2))));
        check.labels.clear();
        check.earlier = vec![vote(ana, 4, true)];
        check.slots[0].state = SlotState::Skipped;
        assert_eq!(conclude(&check, 7, Ties::AskAgain), (TaskState::Skipped, None));
    }

    #[test]
    fn a_task_that_everybody_skipped_is_skipped_and_one_that_nobody_saw_is_withdrawn() {
        let ana = TokenId::generate();
        let skipped = votes(TaskState::Open, vec![slot(SlotState::Skipped, Some(ana), 1)]);
        assert_eq!(conclude(&skipped, 7, Ties::AskAgain).0, TaskState::Skipped);
        let unseen = votes(TaskState::Open, vec![slot(SlotState::Withdrawn, None, 0)]);
        assert_eq!(conclude(&unseen, 7, Ties::AskAgain).0, TaskState::Withdrawn);
    }
}
