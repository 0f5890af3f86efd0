//! What an operator does: importing, starting, pausing, finishing, reopening.

use super::*;

#[tokio::test]
async fn the_first_import_makes_a_project_ready_or_leaves_it_empty() {
    let with_items = Driver::new(5, settings(10, 100.0)).await;
    with_items.house.execute("update project set state = 'importing'").await;
    with_items.house.execute("update import set state = 'running'").await;
    with_items.settle().await;
    assert_eq!(with_items.state().await, ProjectState::Importing);
    with_items.house.execute("update import set state = 'failed'").await;
    with_items.settle().await;
    assert_eq!(with_items.state().await, ProjectState::Ready);
    let without = House::build(ProjectState::Importing, 0, ProjectSettings::default()).await;
    assert_eq!(tick(without.store(), without.project).await.unwrap(), TickOutcome::Moved);
    assert_eq!(without.row().await.state, ProjectState::Empty);
}

#[tokio::test]
async fn what_is_imported_after_the_start_is_embedded_and_scored_for_the_next_batch() {
    let mut driver = Driver::new(20, settings(10, 100.0)).await;
    driver.open_first().await;
    driver.house.import(25).await;
    driver.house.answer_all(driver.ana, "cat").await;
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling);
    let shards = "select string_agg(subject, ' ' order by subject) from job where kind = 'embed'";
    assert_eq!(driver.text(shards).await, "segments-0-1 segments-2-4");
    let shards = "select string_agg(subject, ' ' order by subject) from job where kind = 'score'";
    assert_eq!(driver.text(shards).await, "model-1-segments-0-4");
}

#[tokio::test]
async fn a_project_without_items_or_budget_is_not_started() {
    let empty = House::build(ProjectState::Empty, 0, ProjectSettings::default()).await;
    let driver = Driver { ana: empty.labeler("ana").await, house: empty, accuracies: Mutex::default() };
    assert!(matches!(driver.start().await, Err(control::ControlError::Empty)));
    assert!(matches!(driver.control("finish").await, Err(control::ControlError::NotStarted)));
    let broke = Driver::new(5, settings(10, 0.0)).await;
    assert!(matches!(broke.start().await, Err(control::ControlError::BudgetSpent { .. })));
    broke.house.execute("update project set settings = jsonb_set(settings, '{budget}', '3')").await;
    broke.start().await.unwrap();
    assert!(matches!(
        broke.start().await,
        Err(control::ControlError::AlreadyStarted(ProjectState::Pretraining))
    ));
}

#[tokio::test]
async fn a_paused_project_hands_out_no_job_and_goes_on_when_resumed() {
    let driver = Driver::new(30, settings(10, 10.0)).await;
    driver.start().await.unwrap();
    driver.settle().await;
    let running = driver.claim().await.expect("pretraining is queued");
    driver.control("pause").await.unwrap();
    let mut connection = driver.store().acquire().await.unwrap();
    let beat =
        job::beat(&mut connection, running.id, running.attempt, Duration::from_secs(60), 3, 9).await.unwrap();
    assert_eq!(beat, job::Heartbeat::Paused);
    assert!(job::save_checkpoint(&mut connection, running.id, running.attempt, "half").await.unwrap());
    assert!(job::give_back(&mut connection, running.id, running.attempt).await.unwrap());
    drop(connection);
    assert!(driver.claim().await.is_none());
    driver.control("resume").await.unwrap();
    let again = driver.claim().await.expect("the job is handed out again");
    assert_eq!((again.id, again.attempt, again.checkpoint.as_deref()), (running.id, 2, Some("half")));
    driver.play(&again).await;
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling);
}

#[tokio::test]
async fn finishing_withdraws_what_is_open_and_trains_on_what_was_answered() {
    let driver = Driver::new(60, settings(10, 100.0)).await;
    driver.open_first().await;
    let leases = driver.house.lease(driver.ana, 3).await;
    driver.house.submit(driver.ana, &[submission(leases.tasks[0].task, "cat")]).await;
    driver.control("finish").await.unwrap();
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling, "two leases are still held");
    let row = driver.house.row().await;
    let mut connection = driver.store().acquire().await.unwrap();
    crate::labeling::release_leases(&mut connection, &row, driver.ana, Some(&[leases.tasks[1].task]))
        .await
        .unwrap();
    drop(connection);
    driver.house.submit(driver.ana, &[submission(leases.tasks[2].task, "dog")]).await;
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Finished);
    assert_eq!(driver.house.number("select label_count::bigint from model").await, 2);
    assert_eq!(driver.house.number("select count(*) from task where state = 'withdrawn'").await, 8);
    assert!(matches!(driver.control("finish").await, Err(control::ControlError::Finished)));
    driver.house.check_invariants().await;
}

#[tokio::test]
async fn finishing_takes_in_what_was_answered_ahead() {
    let driver = Driver::new(60, settings(10, 100.0)).await;
    driver.open_first().await;
    driver.house.answer_all(driver.ana, "cat").await;
    driver.settle().await;
    let ahead = driver.house.lease(driver.ana, 1).await.tasks[0].task;
    driver.house.submit(driver.ana, &[submission(ahead, "dog")]).await;
    driver.control("finish").await.unwrap();
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Finished);
    assert_eq!(
        driver.text("select string_agg(task_count::text, ' ' order by number) from round").await,
        "10 1"
    );
    assert_eq!(driver.house.number("select max(label_count)::bigint from model").await, 11);
    assert_eq!(driver.house.number("select count(*) from job where kind = 'score'").await, 0);
}

#[tokio::test]
async fn raising_the_budget_reopens_a_finished_project() {
    let driver = Driver::new(60, settings(10, 10.0)).await;
    driver.open_first().await;
    driver.house.answer_all(driver.ana, "cat").await;
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Finished);
    assert!(matches!(driver.start().await, Err(control::ControlError::BudgetSpent { free: 0, .. })));
    driver.house.execute("update project set settings = jsonb_set(settings, '{budget}', '14')").await;
    driver.start().await.unwrap();
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling);
    assert_eq!(driver.house.answer_all(driver.ana, "dog").await.len(), 4);
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Finished);
    assert_eq!(
        driver.text("select string_agg(label_count::text, ' ' order by version) from model").await,
        "10 14"
    );
}
