//! What a batch holds: its size, what is asked ahead, the seed batch, gold tasks and further votes.

use super::*;

#[tokio::test]
async fn a_project_walks_from_start_to_finished_and_spends_exactly_its_budget() {
    let driver = Driver::new(60, settings(10, 25.0)).await;
    driver.start().await.unwrap();
    for _ in 0..40 {
        driver.learn().await;
        driver.house.check_invariants().await;
        if driver.state().await == ProjectState::Finished {
            break;
        }
        assert_ne!(driver.house.answer_all(driver.ana, "cat").await.len(), 0);
    }
    let states = driver
        .text("select string_agg(payload ->> 'to', ' ' order by id) from event where kind = 'project.state_changed'")
        .await;
    assert_eq!(
        states,
        "pretraining labeling training scoring labeling training scoring labeling training finished"
    );
    let batches = driver.text("select string_agg(task_count::text, ' ' order by number) from round").await;
    assert_eq!(batches, "10 10 5");
    assert_eq!(driver.house.number("select count(*) from label where counted").await, 25);
    assert_eq!(driver.house.number("select count(distinct item) from label").await, 25);
    let learned = driver.text("select string_agg(label_count::text, ' ' order by version) from model").await;
    assert_eq!(learned, "10 20 25");
    let models = driver.text("select string_agg(model_version::text, ' ' order by number) from round").await;
    assert_eq!(models, "1 2 3");
    let random =
        "select count(*) from task where source = 'random' and round_number = 1 and state = 'settled'";
    assert_eq!(driver.house.number(random).await, 1);
    assert_eq!(driver.house.number("select count(*) from round where state <> 'closed'").await, 0);
}

#[tokio::test]
async fn a_batch_larger_than_the_pool_shrinks_and_the_project_ends_with_the_pool() {
    let driver = Driver::new(7, settings(100, 1000.0)).await;
    driver.open_first().await;
    assert_eq!(driver.house.answer_all(driver.ana, "cat").await.len(), 7);
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Finished);
    assert_eq!(driver.house.number("select count(*) from model").await, 1);
}

#[tokio::test]
async fn at_most_half_of_the_next_batch_and_of_the_free_budget_is_asked_ahead() {
    let driver = Driver::new(60, settings(10, 100.0)).await;
    driver.open_first().await;
    driver.house.answer_all(driver.ana, "cat").await;
    driver.settle().await;
    assert_eq!(driver.state().await, ProjectState::Training);
    let ahead = "select count(*) from task where source = 'ahead' and round_number = 2 and state = 'open'";
    assert_eq!(driver.house.number(ahead).await, 5);
    let leases = driver.house.lease(driver.ana, 2).await;
    assert_eq!(leases.tasks.len(), 2);
    driver.house.submit(driver.ana, &[submission(leases.tasks[0].task, "dog")]).await;
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling);
    assert_eq!(driver.house.number("select task_count::bigint from round where number = 2").await, 10);
    let by_source = driver
        .text(
            "select string_agg(line, ' ' order by line) from (select source || ':' || state || ':' || count(*) as line
             from task where round_number = 2 group by source, state) as lines",
        )
        .await;
    assert_eq!(by_source, "ahead:open:1 ahead:settled:1 ahead:withdrawn:3 query:open:7 random:open:1");
    driver.house.check_invariants().await;

    let poor = Driver::new(60, settings(10, 16.0)).await;
    poor.open_first().await;
    poor.house.answer_all(poor.ana, "cat").await;
    poor.settle().await;
    assert_eq!(poor.house.number(ahead).await, 3);
}

#[tokio::test]
async fn without_look_ahead_nobody_is_asked_while_a_round_trains() {
    let strict = ProjectSettings { look_ahead: false, ..settings(10, 100.0) };
    let driver = Driver::new(60, strict).await;
    driver.open_first().await;
    driver.house.answer_all(driver.ana, "cat").await;
    driver.settle().await;
    assert_eq!(driver.state().await, ProjectState::Training);
    assert_eq!(driver.house.number("select count(*) from task where round_number = 2").await, 0);
    driver.learn().await;
    assert_eq!(driver.house.number("select count(*) from task where round_number = 2").await, 10);
}

#[tokio::test]
async fn imported_labels_of_every_class_make_the_seed_batch_needless() {
    let driver = Driver::new(30, settings(10, 10.0)).await;
    for class in 0..CLASSES.len() {
        driver.house.import_class(driver.house.items[class], ClassIndex(class as u16)).await;
    }
    driver.start().await.unwrap();
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling);
    let rounds =
        driver.text("select string_agg(number || ':' || task_count, ' ' order by number) from round").await;
    assert_eq!(rounds, "0:0 1:10");
    assert_eq!(driver.house.number("select label_count::bigint from model").await, 3);
    assert_eq!(driver.house.number("select count(*) from task where model_version = 1").await, 10);
}

#[tokio::test]
async fn gold_tasks_come_on_top_and_leave_their_items_class_alone() {
    let with_gold = ProjectSettings { gold_fraction: 0.2, ..settings(10, 11.0) };
    let driver = Driver::new(40, with_gold).await;
    for item in &driver.house.items[..5] {
        driver.house.import_class(*item, ClassIndex(0)).await;
    }
    driver.open_first().await;
    assert_eq!(driver.house.number("select task_count::bigint from round").await, 10);
    assert_eq!(driver.house.number("select count(*) from task where source = 'gold'").await, 1);
    assert_eq!(driver.house.answer_all(driver.ana, "eel").await.len(), 11);
    assert_eq!(
        driver.house.number("select count(*) from item where class = 0 and class_source = 'import'").await,
        5
    );
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Finished);
}

#[tokio::test]
async fn a_tie_gets_one_more_vote_while_the_budget_allows_and_is_decided_otherwise() {
    let two_votes = |budget| ProjectSettings { votes_per_task: 2, look_ahead: false, ..settings(1, budget) };
    for (budget, extra_slot_count) in [(3.0, 1), (2.0, 0)] {
        let driver = Driver::new(5, two_votes(budget)).await;
        let ben = driver.house.labeler("ben").await;
        driver.open_first().await;
        driver.house.answer_all(driver.ana, "cat").await;
        driver.house.answer_all(ben, "dog").await;
        assert_eq!(driver.house.number("select count(*) from task where state = 'adjudication'").await, 1);
        driver.settle().await;
        assert_eq!(driver.house.number("select count(*) from slot").await, 2 + extra_slot_count);
        if extra_slot_count == 1 {
            assert_eq!(driver.state().await, ProjectState::Labeling);
            assert_eq!(driver.house.lease(driver.ana, 5).await.tasks, []);
            let cem = driver.house.labeler("cem").await;
            assert_eq!(driver.house.answer_all(cem, "dog").await.len(), 1);
            assert_eq!(
                driver.house.number("select class::bigint from item where class is not null").await,
                1
            );
        }
        driver.learn().await;
        assert_eq!(driver.state().await, ProjectState::Finished);
        driver.house.check_invariants().await;
    }
}
