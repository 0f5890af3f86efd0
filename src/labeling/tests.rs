//! Labeling against a real Postgres: leases, fencing, outcomes, votes, undo, correction, skips, and a random walk over all of them.

use std::collections::HashSet;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::testing::{CLASSES, House, submission};
use super::*;
use crate::domain::label::LabelOutcome;
use crate::domain::project::ProjectState;
use crate::domain::settings::ProjectSettings;
use crate::domain::task::{SkipReason, WaitReason};

async fn labeling(task_count: usize, votes_per_task: u32) -> House {
    let budget = (task_count as u32 * votes_per_task) as f64;
    let settings = ProjectSettings { votes_per_task, budget, ..Default::default() };
    let house = House::build(ProjectState::Labeling, task_count, settings).await;
    house.open_round(task_count).await;
    house
}

fn outcomes(results: &[SubmitResult]) -> Vec<LabelOutcome> {
    results.iter().map(|result| result.outcome).collect()
}

async fn undo(house: &House, token: TokenId, label: LabelId) -> Result<Amended, LabelingError> {
    let row = house.row().await;
    let mut transaction = house.store().begin().await.unwrap();
    let actor = Actor { token, touches_all: false };
    let undone = undo_label(&mut transaction, &row, actor, label).await?;
    transaction.commit().await.unwrap();
    Ok(undone)
}

async fn correct(
    house: &House,
    token: TokenId,
    label: LabelId,
    class: &str,
) -> Result<Amended, LabelingError> {
    let row = house.row().await;
    let mut transaction = house.store().begin().await.unwrap();
    let actor = Actor { token, touches_all: false };
    let corrected = correct_label(&mut transaction, &row, actor, label, class).await?;
    transaction.commit().await.unwrap();
    Ok(corrected)
}

async fn skip(
    house: &House,
    token: TokenId,
    task: TaskId,
    reason: SkipReason,
) -> Result<SkippedTask, LabelingError> {
    let row = house.row().await;
    let mut transaction = house.store().begin().await.unwrap();
    let skipped = skip_task(&mut transaction, &row, token, None, task, reason).await?;
    transaction.commit().await.unwrap();
    Ok(skipped)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn labelers_who_lease_at_once_never_get_one_slot() {
    let house = labeling(60, 1).await;
    let mut labelers = Vec::new();
    for name in 0..8 {
        labelers.push(house.labeler(&format!("labeler {name}")).await);
    }
    let leases =
        futures_util::future::join_all(labelers.iter().map(|labeler| house.lease(*labeler, 5))).await;
    let tasks: Vec<TaskId> = leases.iter().flat_map(|leases| &leases.tasks).map(|task| task.task).collect();
    assert_eq!(tasks.len(), 40);
    assert_eq!(tasks.iter().collect::<HashSet<_>>().len(), 40);
    house.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_labeler_never_gets_two_slots_of_a_task_nor_more_than_twenty_tasks() {
    let house = labeling(30, 3).await;
    let ana = house.labeler("ana").await;
    let leases = futures_util::future::join_all((0..6).map(|_| house.lease(ana, 7))).await;
    let tasks: Vec<TaskId> = leases.iter().flat_map(|leases| &leases.tasks).map(|task| task.task).collect();
    assert_eq!(tasks.len(), 20);
    assert_eq!(tasks.iter().collect::<HashSet<_>>().len(), 20);
    assert_eq!(house.lease(ana, 1).await.wait, Some(WaitReason::BatchLeasedOut));
    house.check_invariants().await;
}

#[tokio::test]
async fn whoever_has_just_answered_may_hold_two_sheets_of_images() {
    let house = labeling(120, 1).await;
    let ana = house.labeler("ana").await;
    let first = house.lease(ana, 90).await;
    assert_eq!(first.tasks.len(), LEASE_COUNT_MAX as usize);
    house.submit(ana, &[submission(first.tasks[0].task, "cat")]).await;
    let more = house.lease(ana, 90).await;
    assert_eq!(19 + more.tasks.len(), WORKING_LEASE_COUNT_MAX as usize);
    assert!(house.lease(ana, 1).await.tasks.is_empty());
    let ben = house.labeler("ben").await;
    assert_eq!(house.lease(ben, 90).await.tasks.len(), 20);
    house.check_invariants().await;
}

#[tokio::test]
async fn leases_that_ran_out_are_given_up_before_new_ones_are_counted() {
    let house = labeling(50, 1).await;
    let ana = house.labeler("ana").await;
    assert_eq!(house.lease(ana, 20).await.tasks.len(), 20);
    house.expire_leases().await;
    assert_eq!(house.lease(ana, 20).await.tasks.len(), 20);
    let row = house.row().await;
    let mut transaction = house.store().begin().await.unwrap();
    assert_eq!(renew_leases(&mut transaction, &row, ana, None).await.unwrap(), 20);
    transaction.commit().await.unwrap();
    assert_eq!(house.number("select count(*) from slot where state = 'leased'").await, 20);
    house.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn labelers_at_once_get_the_best_ranked_tasks_between_them() {
    let house = labeling(80, 1).await;
    let mut labelers = Vec::new();
    for name in 0..8 {
        labelers.push(house.labeler(&format!("labeler {name}")).await);
    }
    for round in 1..=3 {
        let leases = labelers.iter().map(|labeler| house.lease(*labeler, 2));
        let leases = futures_util::future::join_all(leases).await;
        let items: HashSet<_> =
            leases.iter().flat_map(|leases| &leases.tasks).map(|task| task.item).collect();
        assert_eq!(items.len(), 16);
        // A lease under way hides its slots from the others, who take the next ones: nobody gets far ahead, and nothing is passed over.
        let last = items.iter().filter_map(|item| house.items.iter().position(|known| known == item)).max();
        assert!(last.is_some_and(|last| last < 16 * round + 16), "{last:?} in round {round}");
    }
    // What was passed over in the crowd is first now.
    let late = house.lease(labelers[0], 1).await.tasks[0].item;
    let open = house.number("select min(priority) from slot where state = 'open'").await;
    let place = house.items.iter().position(|known| *known == late);
    let first_open = (open - (1 << 40)) >> 8;
    assert!(place.is_some_and(|place| (place as i64) < first_open), "{place:?} before {first_open}");
}

#[tokio::test]
async fn tasks_are_handed_out_by_rank_and_a_reload_gets_them_back() {
    let house = labeling(6, 1).await;
    let ana = house.labeler("ana").await;
    let first = house.lease(ana, 2).await;
    assert_eq!([first.tasks[0].item, first.tasks[1].item], [house.items[0], house.items[1]]);
    assert_eq!(first.tasks[0].attempt, 1);
    let row = house.row().await;
    let mut transaction = house.store().begin().await.unwrap();
    let resumed = lease_tasks(&mut transaction, &row, &[LeaseWish { labeler: ana, count: 3, resume: true }])
        .await
        .unwrap()
        .remove(0);
    transaction.commit().await.unwrap();
    let items: Vec<_> = resumed.tasks.iter().map(|task| task.item).collect();
    assert_eq!(items, house.items[..3]);
    assert_eq!(resumed.tasks[0].attempt, 1);
    let mut transaction = house.store().begin().await.unwrap();
    assert_eq!(release_leases(&mut transaction, &row, ana, Some(&[resumed.tasks[0].task])).await.unwrap(), 1);
    assert_eq!(renew_leases(&mut transaction, &row, ana, None).await.unwrap(), 2);
    transaction.commit().await.unwrap();
    let ben = house.labeler("ben").await;
    let released = house.lease(ben, 1).await;
    assert_eq!((released.tasks[0].item, released.tasks[0].attempt), (house.items[0], 2));
}

#[tokio::test]
async fn a_label_for_an_expired_lease_is_refused_once_somebody_else_has_the_task() {
    let house = labeling(1, 1).await;
    let (ana, ben) = (house.labeler("ana").await, house.labeler("ben").await);
    let task = house.lease(ana, 1).await.tasks[0].task;
    house.expire_leases().await;
    let retaken = house.lease(ben, 1).await;
    assert_eq!((retaken.tasks[0].task, retaken.tasks[0].attempt), (task, 2));
    let late = Submission { attempt: Some(1), ..submission(task, "cat") };
    let results = house.submit(ana, &[late.clone(), submission(task, "cat")]).await;
    assert_eq!(outcomes(&results), [LabelOutcome::Expired, LabelOutcome::Expired]);
    assert_eq!(results[0].label, results[1].label);
    assert_eq!(house.number("select count(*) from label where not counted").await, 1);
    assert_eq!(outcomes(&house.submit(ben, &[submission(task, "dog")]).await), [LabelOutcome::Accepted]);
    assert_eq!(house.submit(ana, &[late]).await, results[..1]);
    let settled = "select class::bigint from item where class is not null";
    assert_eq!(house.number(settled).await, 1);
    house.check_invariants().await;
}

#[tokio::test]
async fn a_late_label_is_accepted_while_nobody_else_has_taken_the_task() {
    let house = labeling(2, 1).await;
    let ana = house.labeler("ana").await;
    let leases = house.lease(ana, 2).await;
    house.expire_leases().await;
    let mut connection = house.store().acquire().await.unwrap();
    crate::store::slot::open_expired(&mut connection, house.project).await.unwrap();
    drop(connection);
    let first = Submission { attempt: Some(1), ..submission(leases.tasks[0].task, "cat") };
    let results = house.submit(ana, &[first, submission(leases.tasks[1].task, "eel")]).await;
    assert_eq!(outcomes(&results), [LabelOutcome::Accepted, LabelOutcome::Accepted]);
    house.check_invariants().await;
}

#[tokio::test]
async fn every_wrong_label_gets_its_outcome_and_the_others_are_taken() {
    let house = labeling(3, 1).await;
    let (ana, ben) = (house.labeler("ana").await, house.labeler("ben").await);
    let leases = house.lease(ana, 2).await;
    let of_ben = house.lease(ben, 1).await.tasks[0].task;
    let results = house
        .submit(
            ana,
            &[
                submission(leases.tasks[0].task, "cat"),
                submission(leases.tasks[0].task, "cat"),
                submission(leases.tasks[0].task, "dog"),
                submission(leases.tasks[1].task, "unicorn"),
                submission(TaskId::generate(), "cat"),
                submission(of_ben, "cat"),
                submission(leases.tasks[1].task, "eel"),
            ],
        )
        .await;
    use LabelOutcome as O;
    let expected =
        [O::Accepted, O::Duplicate, O::Conflict, O::UnknownClass, O::UnknownTask, O::Conflict, O::Accepted];
    assert_eq!(outcomes(&results), expected);
    assert_eq!(results[1].label, results[0].label);
    assert_eq!(house.number("select count(*) from label").await, 2);
    assert_eq!(house.number("select count(*) from event where kind = 'label.accepted'").await, 2);
    assert_eq!(
        outcomes(&house.submit(ana, &[submission(leases.tasks[0].task, "cat")]).await),
        [O::Duplicate]
    );
    house.check_invariants().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_last_votes_settle_a_task_once_and_by_majority() {
    let house = labeling(8, 3).await;
    let mut calls = Vec::new();
    for (name, class) in [("ana", "dog"), ("ben", "cat"), ("cem", "dog")] {
        let labeler = house.labeler(name).await;
        let tasks = house.lease(labeler, 8).await.tasks;
        assert_eq!(tasks.len(), 8);
        let submissions: Vec<_> = tasks.iter().rev().map(|task| submission(task.task, class)).collect();
        calls.push((labeler, submissions));
    }
    let results =
        futures_util::future::join_all(calls.iter().map(|(labeler, all)| house.submit(*labeler, all))).await;
    assert!(results.iter().flatten().all(|result| result.outcome == LabelOutcome::Accepted));
    assert_eq!(house.number("select count(*) from item where class = 1 and class_source = 'votes'").await, 8);
    house.check_invariants().await;
}

#[tokio::test]
async fn a_tool_may_vote_for_several_people() {
    let house = labeling(1, 2).await;
    let tool = house.labeler("tool").await;
    let task = house.lease(tool, 1).await.tasks[0].task;
    let of = |person: &str, class| Submission { person: Some(person.to_owned()), ..submission(task, class) };
    let results =
        house.submit(tool, &[of("ana", "cat"), of("ana", "cat"), of("ben", "cat"), of("cem", "dog")]).await;
    use LabelOutcome as O;
    assert_eq!(outcomes(&results), [O::Accepted, O::Duplicate, O::Accepted, O::Expired]);
    house.check_invariants().await;
}

#[tokio::test]
async fn an_undone_label_is_refunded_and_its_task_is_asked_again() {
    let house = labeling(1, 1).await;
    let (ana, ben) = (house.labeler("ana").await, house.labeler("ben").await);
    let label = house.answer_all(ana, "cat").await[0];
    assert!(matches!(undo(&house, ben, label).await, Err(LabelingError::SomebodyElses(_))));
    undo(&house, ana, label).await.unwrap();
    assert!(matches!(undo(&house, ana, label).await, Err(LabelingError::Undone(_))));
    assert_eq!(house.number("select count(*) from item where class is not null").await, 0);
    house.check_invariants().await;
    let again = house.answer_all(ben, "dog").await;
    assert_eq!(again.len(), 1);
    assert_eq!(house.number("select count(*) from item where class = 1").await, 1);
    assert_eq!(house.number("select count(*) from label where counted and undone_at is null").await, 1);
    house.check_invariants().await;
}

#[tokio::test]
async fn once_the_round_has_moved_a_label_can_be_corrected_but_not_undone() {
    let house = labeling(1, 1).await;
    let ana = house.labeler("ana").await;
    let label = house.answer_all(ana, "cat").await[0];
    house.execute("update round set state = 'training'").await;
    assert!(matches!(undo(&house, ana, label).await, Err(LabelingError::RoundMoved { round: 1, .. })));
    assert!(matches!(correct(&house, ana, label, "unicorn").await, Err(LabelingError::UnknownClass(_))));
    correct(&house, ana, label, "eel").await.unwrap();
    assert_eq!(house.number("select class::bigint from item where class is not null").await, 2);
    assert_eq!(house.number("select corrected_from::bigint from label").await, 0);
    house.check_invariants().await;
}

#[tokio::test]
async fn a_skipped_task_closes_and_its_reason_decides_about_the_item() {
    let house = labeling(3, 1).await;
    let ana = house.labeler("ana").await;
    let tasks = house.lease(ana, 3).await.tasks;
    skip(&house, ana, tasks[0].task, SkipReason::Unsure).await.unwrap();
    skip(&house, ana, tasks[0].task, SkipReason::Unsure).await.unwrap();
    skip(&house, ana, tasks[1].task, SkipReason::Broken).await.unwrap();
    house.submit(ana, &[submission(tasks[2].task, "cat")]).await;
    let answered = skip(&house, ana, tasks[2].task, SkipReason::Unsure).await;
    assert!(matches!(answered, Err(LabelingError::TaskClosed(_))));
    assert_eq!(house.number("select count(*) from task where state = 'skipped'").await, 2);
    assert_eq!(house.number("select count(*) from skip").await, 2);
    assert_eq!(
        house.number("select count(*) from item where ask_from_round = 3 and excluded is null").await,
        1
    );
    assert_eq!(house.number("select count(*) from item where excluded = 'broken'").await, 1);
    let unknown = skip(&house, ana, TaskId::generate(), SkipReason::Unsure).await;
    assert!(matches!(unknown, Err(LabelingError::UnknownTask(_))));
    house.check_invariants().await;
}

#[tokio::test]
async fn a_task_settles_on_its_votes_when_its_last_slot_is_skipped() {
    let house = labeling(1, 2).await;
    let (ana, ben) = (house.labeler("ana").await, house.labeler("ben").await);
    house.answer_all(ana, "dog").await;
    let task = house.lease(ben, 1).await.tasks[0].task;
    assert_eq!(house.number("select count(*) from task where state = 'open'").await, 1);
    skip(&house, ben, task, SkipReason::Unsure).await.unwrap();
    assert_eq!(house.number("select count(*) from task where state = 'settled'").await, 1);
    house.check_invariants().await;
}

#[tokio::test]
async fn who_gets_no_task_is_told_why() {
    let house = labeling(1, 1).await;
    let (ana, ben) = (house.labeler("ana").await, house.labeler("ben").await);
    let lease = house.lease(ana, 1).await;
    assert_eq!((lease.tasks.len(), lease.wait), (1, None));
    assert_eq!(house.lease(ben, 1).await.wait, Some(WaitReason::BatchLeasedOut));
    house.execute("update project set paused = true").await;
    assert_eq!(house.lease(ben, 1).await.wait, Some(WaitReason::Paused));
    let paused = house.submit(ana, &[submission(lease.tasks[0].task, "cat")]).await;
    assert_eq!(outcomes(&paused), [LabelOutcome::Accepted]);
    house.execute("update project set paused = false").await;
    assert_eq!(house.lease(ben, 1).await.wait, Some(WaitReason::Training));
    for (state, reason) in [
        ("update project set state = 'training'", WaitReason::Training),
        ("update project set state = 'scoring'", WaitReason::Scoring),
        ("update project set state = 'finished'", WaitReason::Finished),
        ("update project set state = 'pretraining'", WaitReason::NotStarted),
        ("update project set state = 'ready'", WaitReason::NotStarted),
    ] {
        house.execute(state).await;
        assert_eq!(house.lease(ben, 1).await.wait, Some(reason), "{state}");
    }
}

/// Any order of leases, answers, skips, undos, corrections and expiries by several labelers keeps the invariants.
async fn walk(votes_per_task: u32, seed: u64) {
    let house = labeling(6, votes_per_task).await;
    let mut stream = ChaCha8Rng::seed_from_u64(seed);
    let mut labelers = Vec::new();
    for name in ["ana", "ben", "cem"] {
        labelers.push(house.labeler(name).await);
    }
    let mut tasks: Vec<TaskId> = Vec::new();
    let mut labels: Vec<LabelId> = Vec::new();
    for step in 0..60 {
        let labeler = labelers[stream.random_range(0..labelers.len())];
        let class = CLASSES[stream.random_range(0..CLASSES.len())];
        let task = (!tasks.is_empty()).then(|| tasks[stream.random_range(0..tasks.len())]);
        let label = (!labels.is_empty()).then(|| labels[stream.random_range(0..labels.len())]);
        match (stream.random_range(0..10), task, label) {
            (0..=2, _, _) | (_, None, _) => {
                let leases = house.lease(labeler, stream.random_range(1..4)).await;
                tasks.extend(leases.tasks.iter().map(|task| task.task));
            }
            (3..=5, Some(task), _) => {
                let attempt = [None, Some(1), Some(2)][stream.random_range(0..3)];
                let results =
                    house.submit(labeler, &[Submission { attempt, ..submission(task, class) }]).await;
                labels.extend(results[0].label);
            }
            (6, Some(task), _) => drop(skip(&house, labeler, task, SkipReason::Unsure).await),
            (7, _, Some(label)) => drop(undo(&house, labeler, label).await),
            (8, _, Some(label)) => drop(correct(&house, labeler, label, class).await),
            _ => house.expire_leases().await,
        }
        println!("seed {seed}, step {step}");
        house.check_invariants().await;
    }
}

#[tokio::test]
async fn no_order_of_operations_breaks_the_invariants_of_single_votes() {
    for seed in 0..4 {
        walk(1, seed).await;
    }
}

#[tokio::test]
async fn no_order_of_operations_breaks_the_invariants_of_several_votes() {
    for seed in 10..14 {
        walk(3, seed).await;
    }
}
