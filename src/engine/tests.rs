//! The engine as its callers see it: outcomes, order, cancelling, stopping, panics and predictions beside training.

use std::ops::ControlFlow;
use std::sync::mpsc;

use super::*;
use crate::domain::strategy::ScoreScope;
use crate::learner::fixture::{self, CLASS_COUNT, go_on};
use crate::learner::{DropCheckpoints, EmbeddingTable, Stopped, fine_tune};
use crate::nn::graph::Representation;

fn start() -> (Engine, EngineGuard) {
    Engine::start(&EngineConfig { device: DeviceChoice::Cpu, threads: ops::thread_count() })
        .expect("a CPU is always there")
}

fn downstream_model() -> Checkpoint {
    let (pool, classes) = fixture::pool(20, "engine");
    let (pretext, labeled) = (fixture::pretext(&pool), fixture::labeled(8, &classes));
    let device = candle_core::Device::Cpu;
    let settings = fixture::settings();
    fine_tune(
        &device,
        &pretext,
        &pool,
        &labeled,
        CLASS_COUNT,
        &settings,
        1,
        None,
        &mut DropCheckpoints,
        &mut go_on,
    )
    .expect("a model")
}

fn work_on(model: &Arc<Checkpoint>) -> Work {
    let mut table =
        EmbeddingTable::new("00".repeat(32), model.architecture().width(Representation::Embedding));
    table.push(crate::domain::content_hash::ContentHash([1; 32]), &vec![0.5; table.feature_count]);
    Work::ScoreEmbeddings { model: Arc::clone(model), table: Arc::new(table), scope: ScoreScope::default() }
}

/// Work that nobody needs to do.
pub(super) fn small_work() -> Work {
    let (pool, _) = fixture::pool(1, "small");
    Work::Pretrain {
        pool: Arc::new(pool),
        labeled: Vec::new(),
        settings: Box::new(fixture::settings()),
        initial_weights: None,
        resume: None,
        sink: Box::new(DropCheckpoints),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime")
}

/// A hook that tells when it was reached and waits there until it may go on.
struct Gate {
    reached: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

fn gate() -> (Gate, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let ((reached, was_reached), (go, go_on)) = (mpsc::channel(), mpsc::channel());
    (Gate { reached, go_on }, was_reached, go)
}

impl StepHook for Gate {
    fn step(&mut self, _done: u64, _total: u64) -> ControlFlow<Stopped> {
        let _ = self.reached.send(());
        // A dropped sender opens the gate for good.
        let _ = self.go_on.recv();
        ControlFlow::Continue(())
    }
}

#[test]
fn work_comes_back_with_its_outcome_or_its_reason() {
    let (engine, _guard) = start();
    let model = Arc::new(downstream_model());
    let project = ProjectId::generate();
    runtime().block_on(async {
        let outcome = engine.run(project, work_on(&model), go_on).await.expect("scores");
        assert!(matches!(outcome, Outcome::Scores(table) if table.rows.len() == 1));
        let (pool, _) = fixture::pool(4, "wrong");
        let wrong = Work::Embed { model: Arc::clone(&model), pool: Arc::new(pool) };
        let error = engine.run(project, wrong, go_on).await.expect_err("a downstream model can't embed");
        assert!(matches!(error, EngineError::Failed(reason) if reason.contains("pretext")));
    });
}

#[test]
fn a_panic_is_a_failure_with_its_reason_and_the_engine_lives() {
    let (engine, _guard) = start();
    let model = Arc::new(downstream_model());
    let project = ProjectId::generate();
    engine.publish(project, 3, Arc::clone(&model));
    runtime().block_on(async {
        let hook = |_: u64, _: u64| -> ControlFlow<Stopped> { panic!("the disk is on fire") };
        let error = engine.run(project, work_on(&model), hook).await.expect_err("a panic");
        assert!(matches!(error, EngineError::Panicked(reason) if reason == "the disk is on fire"));
        engine.run(project, work_on(&model), go_on).await.expect("the next work is done");
        let predictions =
            engine.predict(project, vec![vec![0; 64]]).await.expect("published weights are still there");
        assert_eq!((predictions.model_version, predictions.rows.len()), (3, 1));
    });
}

#[test]
fn predictions_run_beside_training_and_by_the_newest_published_version() {
    let (engine, _guard) = start();
    let model = Arc::new(downstream_model());
    let project = ProjectId::generate();
    runtime().block_on(async {
        let image = vec![vec![7; 64]];
        assert!(matches!(engine.predict(project, image.clone()).await, Err(EngineError::NoModel)));
        engine.publish(project, 2, Arc::clone(&model));
        engine.publish(project, 1, Arc::clone(&model));
        let (gate, reached, go) = gate();
        let busy = tokio::spawn({
            let (engine, work) = (engine.clone(), work_on(&model));
            async move { engine.run(project, work, gate).await }
        });
        tokio::task::spawn_blocking(move || reached.recv())
            .await
            .expect("joined")
            .expect("the work has begun");
        let predictions = engine.predict(project, image).await.expect("answered while the work stands still");
        assert_eq!(predictions.model_version, 2);
        assert!((predictions.rows[0].probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let error = engine.predict(project, vec![vec![0; 3]]).await.expect_err("three bytes are no image");
        assert!(matches!(error, EngineError::Failed(_)));
        drop(go);
        busy.await.expect("joined").expect("the work ends well");
    });
}

#[test]
fn work_of_a_caller_that_went_away_is_skipped_or_stopped() {
    let (engine, _guard) = start();
    let model = Arc::new(downstream_model());
    let project = ProjectId::generate();
    runtime().block_on(async {
        let (first_gate, first_reached, first_go) = gate();
        let running = tokio::spawn({
            let (engine, work) = (engine.clone(), work_on(&model));
            async move { engine.run(project, work, first_gate).await }
        });
        tokio::task::spawn_blocking(move || first_reached.recv()).await.expect("joined").expect("begun");
        let (second_gate, second_reached, _second_go) = gate();
        let mut waiting = Box::pin(engine.run(project, work_on(&model), second_gate));
        // One poll puts it in the queue; then its caller goes away, and so does the first's.
        assert!(futures_util::future::poll_immediate(&mut waiting).await.is_none());
        drop(waiting);
        running.abort();
        assert!(running.await.expect_err("aborted").is_cancelled());
        drop(first_go);
        // Work that comes after both is done, and the second's hook was never called.
        engine.run(project, work_on(&model), go_on).await.expect("done");
        assert!(second_reached.recv().is_err());
    });
}

#[test]
fn dropping_the_guard_stops_the_running_work_at_its_next_step() {
    let (engine, guard) = start();
    let (pool, _) = fixture::pool(40, "stop");
    let mut settings = fixture::settings();
    settings.pretext.epochs = 1000;
    let work = Work::Pretrain {
        pool: Arc::new(pool),
        labeled: Vec::new(),
        settings: Box::new(settings),
        initial_weights: None,
        resume: None,
        sink: Box::new(DropCheckpoints),
    };
    let runtime = runtime();
    runtime.block_on(async {
        let (reached, was_reached) = mpsc::channel();
        let hook = move |_: u64, _: u64| {
            let _ = reached.send(());
            ControlFlow::Continue(())
        };
        let running = tokio::spawn({
            let engine = engine.clone();
            async move { engine.run(ProjectId::generate(), work, hook).await }
        });
        let dropped = tokio::task::spawn_blocking(move || {
            was_reached.recv().expect("the work has begun");
            drop(guard);
        });
        dropped.await.expect("joined");
        assert!(matches!(running.await.expect("joined"), Err(EngineError::Stopped)));
        let late = engine.run(ProjectId::generate(), small_work(), go_on).await;
        assert!(matches!(late, Err(EngineError::Stopped)));
    });
}
