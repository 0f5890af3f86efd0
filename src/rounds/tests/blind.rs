//! Blind tasks and votes that differ: gold, checks of suspected labels, ties, weighed votes, and a labeler who is set aside.

use super::*;
use crate::labeling::{SetAside, correct_label, set_labeler_aside};

fn patient(batch_size: u32, budget: f64) -> ProjectSettings {
    ProjectSettings { look_ahead: false, random_fraction: 0.0, ..settings(batch_size, budget) }
}

impl Driver {
    /// Answers the task of rank `rank` in round `round`, held or not.
    async fn answer(&self, labeler: TokenId, round: i32, rank: i32, class: &str) {
        let sql = "select id from task where round_number = $1 and rank = $2 and state not in ('withdrawn', 'skipped')";
        let mut connection = self.store().acquire().await.unwrap();
        let task: TaskId =
            sqlx::query_scalar(sql).bind(round).bind(rank).fetch_one(&mut *connection).await.unwrap();
        drop(connection);
        let result = self.house.submit(labeler, &[submission(task, class)]).await;
        assert_eq!(result[0].outcome, crate::domain::label::LabelOutcome::Accepted, "{rank}");
    }

    async fn set_aside(&self, labeler: TokenId) -> SetAside {
        let row = self.house.row().await;
        let mut transaction = self.store().begin().await.unwrap();
        let done = set_labeler_aside(&mut transaction, &row, labeler, None).await.unwrap();
        transaction.commit().await.unwrap();
        done
    }
}

#[tokio::test]
async fn gold_tasks_have_guesses_where_the_others_do_and_stand_anywhere_among_them() {
    let with_gold = ProjectSettings { gold_fraction: 0.2, ..patient(20, 100.0) };
    let driver = Driver::new(80, with_gold).await;
    driver.open_first().await;
    assert_eq!(driver.house.number("select count(*) from task where source = 'gold'").await, 0);
    driver.house.answer_all(driver.ana, "dog").await;
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling);
    let gold = "select count(*) from task where round_number = 2 and source = 'gold' and known_class = 1";
    assert_eq!(driver.house.number(gold).await, 4);
    let without_guess = "select count(*) from task where round_number = 2 and suggestions = '[]'";
    assert_eq!(driver.house.number(without_guess).await, 0);
    let ranks = "select count(distinct rank) from task where round_number = 2";
    assert_eq!(driver.house.number(ranks).await, 24);
    let last = "select count(*) from task where source = 'gold' and rank >= 20";
    assert_ne!(driver.house.number(last).await, 4);
    // Nothing that a labeler is told counts without them.
    let mut connection = driver.store().acquire().await.unwrap();
    let standing = round::find_standing(&mut connection, driver.house.project).await.unwrap();
    assert_eq!(standing.map(|standing| standing.task_count), Some(24));
    drop(connection);
    let leased = driver.house.lease(driver.ana, 20).await;
    assert!(leased.tasks.iter().all(|task| task.source == crate::domain::task::TaskSource::Query));
}

#[tokio::test]
async fn suspected_labels_are_asked_again_within_their_share_and_outvoted() {
    let with_checks = ProjectSettings { relabel_fraction: 0.2, ..patient(20, 200.0) };
    let driver = Driver::new(80, with_checks).await;
    let (ben, cem) = (driver.house.labeler("ben").await, driver.house.labeler("cem").await);
    driver.open_first().await;
    driver.house.answer_all(driver.ana, "cat").await;
    driver.learn().await;
    // A fifth of the 20 votes so far and the 20 of the batch.
    let checks =
        "select count(*) from task where source = 'relabel' and known_class = 0 and round_number = 2";
    assert_eq!(driver.house.number(checks).await, 8);
    assert_eq!(driver.house.answer_all(ben, "dog").await.len(), 28);
    driver.settle().await;
    assert_eq!(driver.state().await, ProjectState::Labeling, "the checks tie");
    assert_eq!(driver.house.number("select count(*) from item where class = 0").await, 20);
    assert_eq!(driver.house.answer_all(cem, "dog").await.len(), 8);
    assert_eq!(driver.house.number("select count(*) from item where class = 0").await, 12);
    assert_eq!(driver.house.number("select count(*) from item where class = 1").await, 28);
    driver.house.check_invariants().await;
    driver.learn().await;
    // Two votes each have used up the share, and nothing is checked twice.
    assert_eq!(driver.house.number("select count(*) from task where source = 'relabel'").await, 8);
    let learned = "select count(*) from job, jsonb_array_elements(request -> 'labeled') as l
        where kind = 'train' and subject = 'round-2' and (l ->> 1)::int = 1";
    assert_eq!(driver.house.number(learned).await, 28);
}

#[tokio::test]
async fn who_checks_its_own_label_changes_it_at_once_and_undoing_that_restores_it() {
    let with_checks = ProjectSettings { relabel_fraction: 0.5, ..patient(20, 200.0) };
    let driver = Driver::new(80, with_checks).await;
    driver.open_first().await;
    driver.house.answer_all(driver.ana, "cat").await;
    driver.learn().await;
    let labels = driver.house.answer_all(driver.ana, "dog").await;
    assert_eq!(driver.house.number("select count(*) from task where state = 'adjudication'").await, 0);
    assert_eq!(driver.house.number("select count(*) from item where class = 1").await, 40);
    let row = driver.house.row().await;
    for label in labels {
        let mut transaction = driver.store().begin().await.unwrap();
        let actor = Actor { token: driver.ana, touches_all: false };
        undo_label(&mut transaction, &row, actor, label).await.unwrap();
        transaction.commit().await.unwrap();
        driver.house.check_invariants().await;
    }
    assert_eq!(driver.house.number("select count(*) from item where class = 0").await, 20);
    assert_eq!(driver.house.number("select count(*) from item where class = 1").await, 0);
}

#[tokio::test]
async fn a_tie_that_nobody_breaks_is_decided_when_its_time_is_up() {
    let two_votes = ProjectSettings { votes_per_task: 2, adjudication_seconds: 60, ..patient(1, 9.0) };
    let driver = Driver::new(1, two_votes).await;
    let ben = driver.house.labeler("ben").await;
    driver.open_first().await;
    driver.house.answer_all(driver.ana, "cat").await;
    driver.house.answer_all(ben, "dog").await;
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling);
    assert_eq!(driver.house.number("select count(*) from slot where state = 'open'").await, 1);
    // Neither of the two may break it, nor does an undo of time's passing matter while somebody holds it.
    assert_eq!(driver.house.answer_all(ben, "dog").await, []);
    let cem = driver.house.labeler("cem").await;
    let held = driver.house.lease(cem, 1).await.tasks;
    driver.house.execute("update task set tied_at = now() - interval '61 seconds'").await;
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling);
    let row = driver.house.row().await;
    let mut connection = driver.store().acquire().await.unwrap();
    crate::labeling::release_leases(&mut connection, &row, cem, Some(&[held[0].task])).await.unwrap();
    drop(connection);
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Finished);
    assert_eq!(driver.house.number("select count(*) from item where class in (0, 1)").await, 1);
    assert_eq!(driver.house.number("select count(*) from label where counted").await, 2);
    driver.house.check_invariants().await;
}

#[tokio::test]
async fn a_tie_without_budget_goes_to_the_labeler_who_agrees_with_the_others() {
    // 56 tasks of two votes, and 25 votes for ties.
    let two_votes = ProjectSettings { votes_per_task: 2, ..patient(56, 137.0) };
    let driver = Driver::new(56, two_votes).await;
    let (ben, cem) = (driver.house.labeler("ben").await, driver.house.labeler("cem").await);
    driver.open_first().await;
    let class_of = |rank: i32| ["cat", "dog"][rank as usize % 2];
    for rank in 0..50 {
        driver.answer(driver.ana, 1, rank, class_of(rank)).await;
        if rank < 25 {
            driver.answer(cem, 1, rank, class_of(rank)).await;
        } else {
            driver.answer(ben, 1, rank, "eel").await;
        }
    }
    driver.settle().await;
    for rank in 25..50 {
        driver.answer(cem, 1, rank, class_of(rank)).await;
    }
    for rank in 50..56 {
        driver.answer(ben, 1, rank, "eel").await;
        driver.answer(driver.ana, 1, rank, class_of(rank)).await;
    }
    assert_eq!(driver.house.number("select count(*) from task where state = 'adjudication'").await, 6);
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Finished);
    // A draw for each would give all six to ana once in 64 seeds.
    assert_eq!(driver.house.number("select count(*) from item where class = 2").await, 0);
    assert_eq!(driver.house.number("select count(*) from item where class = 0").await, 28);
    driver.house.check_invariants().await;
}

/// A first batch of ten, four answered by ben and six by ana, who is to be set aside.
async fn ten_answered_by_two(budget: f64) -> (Driver, TokenId) {
    let driver = Driver::new(40, patient(10, budget)).await;
    let ben = driver.house.labeler("ben").await;
    driver.open_first().await;
    for rank in 0..4 {
        driver.answer(ben, 1, rank, "dog").await;
    }
    driver.house.answer_all(driver.ana, "cat").await;
    (driver, ben)
}

#[tokio::test]
async fn the_votes_of_who_is_set_aside_are_asked_again_and_train_nothing() {
    let (driver, ben) = ten_answered_by_two(40.0).await;
    driver.settle().await;
    assert_eq!(driver.state().await, ProjectState::Training);
    let done = driver.set_aside(driver.ana).await;
    assert_eq!((done.label_count, done.asked_again_count, done.returned_count), (6, 6, 0));
    assert_eq!(driver.house.number("select count(*) from item where class is not null").await, 4);
    driver.house.check_invariants().await;
    // Who was set aside doesn't get them again; somebody else does, before the next batch is even open.
    assert_eq!(driver.house.answer_all(driver.ana, "cat").await, []);
    assert_eq!(driver.house.answer_all(ben, "eel").await.len(), 6);
    assert_eq!(driver.house.number("select count(*) from label where round_number = 2").await, 6);
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling);
    driver.house.answer_all(ben, "dog").await;
    driver.learn().await;
    let learned = driver.text("select string_agg(label_count::text, ' ' order by version) from model").await;
    assert_eq!(learned, "10 20");
    assert_eq!(driver.house.number("select count(*) from item where class = 2").await, 6);
    // What was set aside stays paid: 10 + 6 + 10 of 40 votes.
    assert_eq!(driver.house.number("select count(*) from label where counted").await, 26);
    driver.house.check_invariants().await;
}

#[tokio::test]
async fn without_budget_what_is_set_aside_returns_to_the_pool() {
    let (driver, _) = ten_answered_by_two(10.0).await;
    let done = driver.set_aside(driver.ana).await;
    assert_eq!((done.label_count, done.asked_again_count, done.returned_count), (6, 0, 6));
    driver.house.check_invariants().await;
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Finished);
    assert_eq!(driver.text("select finish_reason from project").await, "budget");
    assert_eq!(driver.house.number("select label_count::bigint from model").await, 4);
}

#[tokio::test]
async fn a_project_whose_last_votes_were_set_aside_ends_only_when_they_are_given_again() {
    let driver = Driver::new(10, patient(10, 20.0)).await;
    let ben = driver.house.labeler("ben").await;
    driver.open_first().await;
    driver.house.answer_all(driver.ana, "cat").await;
    driver.settle().await;
    driver.set_aside(driver.ana).await;
    // Some of them before the training ends, the others after.
    for rank in 0..4 {
        driver.answer(ben, 1, rank, "dog").await;
    }
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling);
    assert_eq!(driver.house.answer_all(ben, "dog").await.len(), 6);
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Finished);
    let models = driver.text("select string_agg(label_count::text, ' ' order by version) from model").await;
    assert_eq!(models, "10 10");
    driver.house.check_invariants().await;
}

#[tokio::test]
async fn what_is_given_again_while_the_last_round_trains_still_trains() {
    let driver = Driver::new(10, patient(10, 20.0)).await;
    let ben = driver.house.labeler("ben").await;
    driver.open_first().await;
    driver.house.answer_all(driver.ana, "cat").await;
    driver.settle().await;
    driver.set_aside(driver.ana).await;
    assert_eq!(driver.house.answer_all(ben, "dog").await.len(), 10);
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Finished);
    let learned = "select count(*) from job, jsonb_array_elements(request -> 'labeled') as l
        where kind = 'train' and subject = 'round-2' and (l ->> 1)::int = 1";
    assert_eq!(driver.house.number(learned).await, 10);
}

#[tokio::test]
async fn a_correction_after_the_round_has_moved_counts_into_the_next_training() {
    let driver = Driver::new(40, patient(10, 20.0)).await;
    driver.open_first().await;
    let label = driver.house.answer_all(driver.ana, "cat").await[0];
    driver.settle().await;
    assert_eq!(driver.state().await, ProjectState::Training);
    let row = driver.house.row().await;
    let mut transaction = driver.store().begin().await.unwrap();
    let actor = Actor { token: driver.ana, touches_all: false };
    assert!(undo_label(&mut transaction, &row, actor, label).await.is_err());
    correct_label(&mut transaction, &row, actor, label, "eel").await.unwrap();
    transaction.commit().await.unwrap();
    driver.learn().await;
    driver.house.answer_all(driver.ana, "cat").await;
    driver.learn().await;
    let corrected = "select count(*) from job, jsonb_array_elements(request -> 'labeled') as l
        where kind = 'train' and subject = 'round-1' and (l ->> 1)::int = 2";
    assert_eq!(driver.house.number(corrected).await, 0);
    let corrected = "select count(*) from job, jsonb_array_elements(request -> 'labeled') as l
        where kind = 'train' and subject = 'round-2' and (l ->> 1)::int = 2";
    assert_eq!(driver.house.number(corrected).await, 1);
}
