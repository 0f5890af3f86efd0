//! Whatever happens at once or in whatever order: batches complete exactly once, and the invariants hold.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::labeling::set_labeler_aside;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_labels_and_supervisors_complete_a_batch_exactly_once() {
    let driver = Driver::new(60, settings(40, 40.0)).await;
    driver.open_first().await;
    let mut labelers = Vec::new();
    for name in ["ben", "cem", "dan", "eve"] {
        labelers.push(driver.house.labeler(name).await);
    }
    let stopped = std::sync::atomic::AtomicBool::new(false);
    let supervise = || async {
        while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
            let _ = tick(driver.store(), driver.house.project).await.unwrap();
        }
    };
    let label = async {
        let answer = |labeler| driver.house.answer_all(labeler, "cat");
        let labels = futures_util::future::join_all(labelers.into_iter().map(answer)).await;
        stopped.store(true, std::sync::atomic::Ordering::SeqCst);
        labels.iter().map(Vec::len).sum::<usize>()
    };
    let (label_count, ..) = tokio::join!(label, supervise(), supervise());
    driver.settle().await;
    assert_eq!(label_count, 40);
    let completed =
        "select count(*) from event where kind = 'round.state_changed' and payload ->> 'to' = 'training'";
    assert_eq!(driver.house.number(completed).await, 1);
    let request = "select jsonb_array_length(request -> 'labeled')::bigint from job where kind = 'train'";
    assert_eq!(driver.house.number(request).await, 40);
}

#[tokio::test]
async fn a_second_supervisor_goes_on_where_the_first_was_killed() {
    let driver = Driver::new(30, settings(10, 20.0)).await;
    driver.start().await.unwrap();
    for _ in 0..200 {
        let other = Store::connect(&driver.house.database.url()).await.unwrap();
        // A transaction that is dropped is what a kill leaves of a tick.
        let mut killed = other.begin().await.unwrap();
        assert!(round::try_lock_project(&mut killed, driver.house.project).await.unwrap());
        assert_eq!(tick(driver.store(), driver.house.project).await.unwrap(), TickOutcome::Busy);
        drop(killed);
        other.close().await;
        let mut outcome = TickOutcome::Busy;
        while outcome == TickOutcome::Busy {
            // The database takes a moment to notice that the other is gone.
            outcome = tick(driver.store(), driver.house.project).await.unwrap();
        }
        if outcome == TickOutcome::Idle && !driver.run_job().await {
            if driver.state().await == ProjectState::Finished {
                break;
            }
            driver.house.answer_all(driver.ana, "cat").await;
        }
    }
    assert_eq!(driver.state().await, ProjectState::Finished);
    assert_eq!(
        driver.text("select string_agg(label_count::text, ' ' order by version) from model").await,
        "10 20"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counts_asked_at_once_all_see_their_own_commit() {
    let driver = Driver::new(20, settings(20, 20.0)).await;
    driver.open_first().await;
    let wake = SupervisorWake::new();
    let counts = RoundCounts::new(driver.store().clone(), wake.clone());
    let tasks = driver.house.lease(driver.ana, 20).await.tasks;
    let answers = tasks.iter().map(|task| async {
        driver.house.submit(driver.ana, &[submission(task.task, "cat")]).await;
        counts.count(driver.house.project).await.unwrap().expect("round 1 is open")
    });
    let standings = futures_util::future::join_all(answers).await;
    assert!(standings.iter().all(|standing| standing.number == 1 && standing.answered_count >= 1));
    let last = counts.count(driver.house.project).await.unwrap().expect("round 1 is open");
    assert_eq!((last.answered_count, last.task_count, last.has_unclosed), (20, 20, false));
    tokio::time::timeout(Duration::from_secs(5), wake.woken())
        .await
        .expect("a complete batch wakes the supervisor");
}

#[tokio::test]
async fn counting_on_equals_counting_anew_whoever_else_closes_tasks() {
    let driver = Driver::new(20, settings(20, 20.0)).await;
    driver.open_first().await;
    let counts = RoundCounts::new(driver.store().clone(), SupervisorWake::new());
    let tasks = driver.house.lease(driver.ana, 20).await.tasks;
    for (place, task) in tasks.iter().enumerate() {
        driver.house.submit(driver.ana, &[submission(task.task, "cat")]).await;
        // Every third answer comes through another process, which this one can't count on.
        if place % 3 != 2 {
            let known = counts.count_on(driver.house.project, &[1]).await.unwrap().expect("round 1 is open");
            let exact = counts.count(driver.house.project).await.unwrap().expect("round 1 is open");
            assert_eq!((known.number, known.state, known.has_unclosed), (1, exact.state, exact.has_unclosed));
            assert!(known.answered_count <= exact.answered_count && known.answered_count > 0);
        }
    }
    // A complete batch is always counted anew.
    let last = counts.count_on(driver.house.project, &[1]).await.unwrap().expect("round 1 is open");
    assert_eq!((last.answered_count, last.has_unclosed), (20, false));
}

/// Any order of labels, skips, undos, expiries, ticks, jobs and budget changes keeps the invariants.
async fn walk(seed: u64, votes_per_task: u32) {
    let settings = ProjectSettings {
        votes_per_task,
        gold_fraction: 0.2,
        relabel_fraction: 0.4,
        ..settings(12, 61.0 * f64::from(votes_per_task))
    };
    let driver = Driver::new(50, settings).await;
    driver.house.import_class(driver.house.items[0], ClassIndex(1)).await;
    let mut labelers = vec![driver.ana];
    for name in ["ben", "cem", "dan"] {
        labelers.push(driver.house.labeler(name).await);
    }
    driver.open_first().await;
    let mut stream = ChaCha8Rng::seed_from_u64(seed);
    let mut tasks: Vec<TaskId> = Vec::new();
    let mut labels: Vec<LabelId> = Vec::new();
    for step in 0..180 {
        let labeler = labelers[stream.random_range(0..labelers.len())];
        let class = CLASSES[stream.random_range(0..CLASSES.len())];
        let row = driver.house.row().await;
        match stream.random_range(0..15) {
            0..=4 => {
                let leased = driver.house.lease(labeler, 3).await.tasks;
                tasks.extend(leased.iter().map(|task| task.task));
                let submissions: Vec<_> =
                    leased.iter().skip(1).map(|task| submission(task.task, class)).collect();
                let results = driver.house.submit(labeler, &submissions).await;
                labels.extend(results.iter().filter_map(|result| result.label));
            }
            5 if !tasks.is_empty() => {
                let task = tasks[stream.random_range(0..tasks.len())];
                let mut transaction = driver.store().begin().await.unwrap();
                let _ = skip_task(&mut transaction, &row, labeler, None, task, SkipReason::Broken).await;
                transaction.commit().await.unwrap();
            }
            6 if !labels.is_empty() => {
                let label = labels[stream.random_range(0..labels.len())];
                let mut transaction = driver.store().begin().await.unwrap();
                let actor = Actor { token: labeler, touches_all: true };
                let _ = undo_label(&mut transaction, &row, actor, label).await;
                transaction.commit().await.unwrap();
            }
            7 => driver.house.expire_leases().await,
            8 | 9 => drop(driver.run_job().await),
            10 if step % 8 == 0 => {
                let mut transaction = driver.store().begin().await.unwrap();
                let _ = set_labeler_aside(&mut transaction, &row, labeler, None).await;
                transaction.commit().await.unwrap();
            }
            11 if step % 4 == 0 => {
                driver
                    .house
                    .execute("update task set tied_at = now() - interval '2 hours' where tied_at is not null")
                    .await;
            }
            _ => drop(tick(driver.store(), driver.house.project).await.unwrap()),
        }
        println!("seed {seed}, step {step}");
        driver.house.check_invariants().await;
    }
}

#[tokio::test]
async fn no_order_of_events_overspends_the_budget() {
    for seed in 0..3 {
        walk(seed, 1).await;
        walk(seed, 2).await;
    }
}
