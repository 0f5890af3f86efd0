//! The course of projects against a real Postgres, driven by calling `tick`; the bodies of jobs are played by `Driver::run_job`.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::request::*;
use super::*;
use crate::domain::ids::{LabelId, TaskId, TokenId};
use crate::domain::job::JobKind;
use crate::domain::project::{ClassIndex, ProjectState};
use crate::domain::settings::ProjectSettings;
use crate::domain::task::SkipReason;
use crate::labeling::testing::{CLASSES, House, submission};
use crate::labeling::{Actor, skip_task, undo_label};
use crate::store::job::{self, JobRow};
use crate::store::model::{self, NewModel};
use crate::store::{Store, pool, round};

const ALL_KINDS: [JobKind; 7] = [
    JobKind::Import,
    JobKind::Pretrain,
    JobKind::Embed,
    JobKind::PretextLoss,
    JobKind::Train,
    JobKind::Score,
    JobKind::Select,
];

struct Driver {
    house: House,
    ana: TokenId,
}

impl Driver {
    /// A ready project of `item_count` items.
    async fn new(item_count: usize, settings: ProjectSettings) -> Self {
        let house = House::build(ProjectState::Ready, item_count, settings).await;
        let ana = house.labeler("ana").await;
        Self { house, ana }
    }

    fn store(&self) -> &Store {
        self.house.store()
    }

    async fn state(&self) -> ProjectState {
        self.house.row().await.state
    }

    async fn start(&self) -> Result<(), control::ControlError> {
        let row = self.house.row().await;
        let mut transaction = self.store().begin().await.unwrap();
        control::start(&mut transaction, &row).await?;
        transaction.commit().await.unwrap();
        Ok(())
    }

    async fn control(&self, what: &str) -> Result<(), control::ControlError> {
        let row = self.house.row().await;
        let mut transaction = self.store().begin().await.unwrap();
        match what {
            "pause" => control::pause(&mut transaction, &row).await?,
            "resume" => control::resume(&mut transaction, &row).await?,
            "finish" => control::finish(&mut transaction, &row).await?,
            "retry" => control::retry(&mut transaction, &row).await?,
            other => panic!("no command {other}"),
        }
        transaction.commit().await.unwrap();
        Ok(())
    }

    async fn settle(&self) {
        for _ in 0..50 {
            if tick(self.store(), self.house.project).await.unwrap() == TickOutcome::Idle {
                return;
            }
        }
        panic!("the project moves for ever");
    }

    async fn claim(&self) -> Option<JobRow> {
        let mut connection = self.store().acquire().await.unwrap();
        job::claim(&mut connection, &ALL_KINDS, "test", Duration::from_secs(60)).await.unwrap()
    }

    /// Takes one job and plays its body; false when none is handed out.
    async fn run_job(&self) -> bool {
        let Some(job) = self.claim().await else {
            return false;
        };
        self.play(&job).await;
        true
    }

    async fn play(&self, job: &JobRow) {
        let project = self.house.project;
        let mut transaction = self.store().begin().await.unwrap();
        let outcome = match job.kind {
            JobKind::Pretrain => {
                let manifest = serde_json::json!({});
                model::publish_pretext(&mut transaction, project, "pretext", &manifest, job.id)
                    .await
                    .unwrap();
                manifest
            }
            JobKind::Embed | JobKind::PretextLoss | JobKind::Score => {
                to_json(&ShardOutcome { key: Some(job.subject.clone()), item_count: 1 })
            }
            JobKind::Train => {
                let request: TrainRequest = from_json("request", &job.request).unwrap();
                let version = model::next_version(&mut transaction, project).await.unwrap();
                let model = NewModel {
                    version,
                    round: request.round,
                    checkpoint: "model".to_owned(),
                    manifest: serde_json::json!({}),
                    test_accuracy: None,
                    test_count: 0,
                    label_count: request.labeled.len() as i32,
                    vote_count: request.vote_count,
                    job: job.id,
                };
                model::publish(&mut transaction, project, &model).await.unwrap();
                to_json(&TrainOutcome { version, test_accuracy: None })
            }
            JobKind::Select => {
                let request: SelectRequest = from_json("request", &job.request).unwrap();
                let candidates =
                    pool::list_candidates(&mut transaction, project, request.round).await.unwrap();
                let mut choices = candidates.into_iter().map(|item| ChosenItem {
                    item: item.id,
                    score: Some(0.5),
                    uncertainty: None,
                    pretext_loss: None,
                    suggestions: Vec::new(),
                });
                let random = choices.by_ref().rev().take(request.random_count as usize).collect();
                let ranking = choices.take((request.query_count + request.spare_count) as usize).collect();
                to_json(&Selection { random, ranking })
            }
            JobKind::Import => panic!("no import is queued"),
        };
        assert!(job::finish(&mut transaction, job.id, job.attempt, &outcome).await.unwrap());
        transaction.commit().await.unwrap();
    }

    /// Ticks and plays jobs until only labels could move the project.
    async fn learn(&self) {
        loop {
            self.settle().await;
            if !self.run_job().await {
                return;
            }
        }
    }

    /// Starts the project and brings it to its first batch.
    async fn open_first(&self) {
        self.start().await.unwrap();
        self.learn().await;
        assert_eq!(self.state().await, ProjectState::Labeling);
    }

    async fn text(&self, sql: &'static str) -> String {
        let mut connection = self.store().acquire().await.unwrap();
        let text: Option<String> = sqlx::query_scalar(sql).fetch_one(&mut *connection).await.unwrap();
        text.unwrap_or_default()
    }
}

fn settings(batch_size: u32, budget: f64) -> ProjectSettings {
    ProjectSettings { batch_size, budget, ..Default::default() }
}

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

#[tokio::test]
async fn a_project_without_items_or_budget_is_not_started() {
    let empty = House::build(ProjectState::Empty, 0, ProjectSettings::default()).await;
    let driver = Driver { ana: empty.labeler("ana").await, house: empty };
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
    assert_eq!((last.answered_count, last.task_count, last.unclosed_slot_count), (20, 20, 0));
    tokio::time::timeout(Duration::from_secs(5), wake.woken())
        .await
        .expect("a complete batch wakes the supervisor");
}

/// Any order of labels, skips, undos, expiries, ticks, jobs and budget changes keeps the invariants.
async fn walk(seed: u64, votes_per_task: u32) {
    let settings = ProjectSettings { votes_per_task, gold_fraction: 0.2, ..settings(6, 31.0) };
    let driver = Driver::new(30, settings).await;
    driver.house.import_class(driver.house.items[0], ClassIndex(1)).await;
    let mut labelers = vec![driver.ana];
    for name in ["ben", "cem", "dan"] {
        labelers.push(driver.house.labeler(name).await);
    }
    driver.open_first().await;
    let mut stream = ChaCha8Rng::seed_from_u64(seed);
    let mut tasks: Vec<TaskId> = Vec::new();
    let mut labels: Vec<LabelId> = Vec::new();
    for step in 0..120 {
        let labeler = labelers[stream.random_range(0..labelers.len())];
        let class = CLASSES[stream.random_range(0..CLASSES.len())];
        let row = driver.house.row().await;
        match stream.random_range(0..12) {
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
            8 => drop(driver.run_job().await),
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
