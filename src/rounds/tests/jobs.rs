//! The queue of jobs: leases that run out, failures and retries, turns between projects.

use super::*;

#[tokio::test]
async fn a_worker_whose_lease_ran_out_cannot_finish_anothers_attempt() {
    let driver = Driver::new(30, settings(10, 10.0)).await;
    driver.start().await.unwrap();
    driver.settle().await;
    let late = driver.claim().await.expect("pretraining is queued");
    assert!(driver.claim().await.is_none());
    driver.house.execute("update job set expires_at = now() - interval '1 second'").await;
    let new = driver.claim().await.expect("the lease ran out");
    assert_eq!((new.id, new.attempt), (late.id, 2));
    let mut connection = driver.store().acquire().await.unwrap();
    let outcome = serde_json::json!({});
    assert!(!job::finish(&mut connection, late.id, late.attempt, &outcome).await.unwrap());
    assert!(!job::fail(&mut connection, late.id, late.attempt, "late").await.unwrap());
    assert!(!job::give_back(&mut connection, late.id, late.attempt).await.unwrap());
    assert!(!job::save_checkpoint(&mut connection, late.id, late.attempt, "late").await.unwrap());
    let beat = job::beat(&mut connection, late.id, late.attempt, Duration::from_secs(9), 1, 2).await.unwrap();
    assert_eq!(beat, job::Heartbeat::Lost);
    assert!(job::finish(&mut connection, new.id, new.attempt, &outcome).await.unwrap());
}

#[tokio::test]
async fn a_failed_job_holds_the_project_until_it_is_retried() {
    let driver = Driver::new(30, settings(10, 10.0)).await;
    driver.start().await.unwrap();
    driver.settle().await;
    assert!(matches!(driver.control("retry").await, Err(control::ControlError::NothingFailed)));
    let job = driver.claim().await.expect("pretraining is queued");
    let mut connection = driver.store().acquire().await.unwrap();
    assert!(job::fail(&mut connection, job.id, job.attempt, "the device is on fire").await.unwrap());
    let failed = job::find_failed(&mut connection, driver.house.project).await.unwrap();
    drop(connection);
    assert_eq!(failed.and_then(|job| job.error).as_deref(), Some("the device is on fire"));
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Pretraining);
    driver.control("retry").await.unwrap();
    driver.learn().await;
    assert_eq!(driver.state().await, ProjectState::Labeling);
}

#[tokio::test]
async fn projects_take_turns_at_the_queue() {
    let driver = Driver::new(5, settings(10, 10.0)).await;
    let first = driver.house.project;
    let second = driver.house.database.create_project("q", &CLASSES).await.id;
    let mut connection = driver.store().acquire().await.unwrap();
    for (project, subject) in [(first, "a"), (first, "b"), (first, "c"), (second, "a"), (second, "b")] {
        let request = serde_json::json!({});
        job::enqueue(&mut connection, project, JobKind::Embed, subject, &request).await.unwrap();
    }
    drop(connection);
    let mut turns = Vec::new();
    while let Some(job) = driver.claim().await {
        turns.push((job.project == first, job.subject.clone()));
        let mut connection = driver.store().acquire().await.unwrap();
        let outcome = serde_json::json!({});
        assert!(job::finish(&mut connection, job.id, job.attempt, &outcome).await.unwrap());
    }
    let expected = [(true, "a"), (false, "a"), (true, "b"), (false, "b"), (true, "c")];
    assert_eq!(turns, expected.map(|(is_first, subject)| (is_first, subject.to_owned())));
}
