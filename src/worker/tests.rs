//! Worker and supervisor together on real images, database, object store and engine: tiny, but every job's own body.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use image::{GrayImage, Luma};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::blob::{Blob, upload_key};
use crate::config::DeviceChoice;
use crate::domain::ids::{ImportId, ItemId, ProjectId, TokenId};
use crate::domain::import::{ImportFormat, ImportState, LabelRule, SplitRule};
use crate::domain::project::ProjectState;
use crate::domain::settings::{
    FineTuneMode, FineTuneSettings, ImageShape, PretextKind, PretextSettings, ProjectSettings,
};
use crate::engine::{Engine, EngineConfig, EngineGuard};
use crate::events::Events;
use crate::labeling::{LeaseWish, Submission, Submit, lease_tasks, submit_labels};
use crate::nn::ops;
use crate::rounds::{JobWake, Supervisor, SupervisorWake, control};
use crate::store::import::{self, ImportRow, NewImport};
use crate::store::project::{self, ProjectRow};
use crate::store::testing::{Gate, TestDatabase};
use crate::store::{Store, model};

/// Longest time that a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(120);

/// A service without HTTP, on a database and a folder of its own.
struct Service {
    database: TestDatabase,
    folder: TempDir,
    project: ProjectId,
    blob: Blob,
    engine: Engine,
    events: Events,
    stop: CancellationToken,
    parts: Vec<JoinHandle<()>>,
    _guard: EngineGuard,
}

impl Service {
    async fn start(settings: ProjectSettings) -> Self {
        let database = TestDatabase::create().await;
        let store = database.store().clone();
        Self::start_on(database, store, settings).await
    }

    /// A service that reaches its database through `store`; the test itself looks past it.
    async fn start_on(database: TestDatabase, store: Store, settings: ProjectSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let project = database.create_project("p", &["dark", "light"]).await.id;
        sqlx::query("update project set settings = $2, state = 'empty' where id = $1")
            .bind(project)
            .bind(&settings)
            .execute(&mut *database.store().acquire().await.unwrap())
            .await
            .unwrap();
        let url = format!("file://{}/blobs", folder.path().display());
        let blob = Blob::open(&url, &folder.path().join("cache")).await.unwrap();
        let config = EngineConfig { device: DeviceChoice::Cpu, threads: ops::thread_count() };
        let (engine, guard) = Engine::start(&config).unwrap();
        let stop = CancellationToken::new();
        let events = Events::start(store.clone(), stop.clone()).await.unwrap();
        let (wake, job_wake) = (SupervisorWake::new(), JobWake::new());
        let supervisor = Supervisor::new(store.clone(), events.clone(), wake.clone(), job_wake.clone());
        let worker =
            Worker::new(store, blob.clone(), engine.clone(), events.clone(), wake, job_wake, folder.path());
        let parts = vec![tokio::spawn(supervisor.run(stop.clone())), tokio::spawn(worker.run(stop.clone()))];
        Self { database, folder, project, blob, engine, events, stop, parts, _guard: guard }
    }

    fn store(&self) -> &Store {
        self.database.store()
    }

    async fn row(&self) -> ProjectRow {
        let mut connection = self.store().acquire().await.unwrap();
        project::find(&mut connection, self.project).await.unwrap().expect("the project is there")
    }

    /// Queues an import; `upload` is stored first, when the source is one.
    async fn import(&self, source: &Path, upload: Option<Vec<u8>>) -> ImportId {
        let row = self.row().await;
        let new = NewImport {
            id: ImportId::generate(),
            source: source.display().to_string(),
            uploaded: upload.is_some(),
            format: ImportFormat::Auto,
            split: SplitRule::Auto,
            labels: LabelRule::Hide,
        };
        if let Some(bytes) = upload {
            self.blob.put(&upload_key(new.id), bytes).await.unwrap();
        }
        let mut transaction = self.store().begin().await.unwrap();
        import::insert(&mut transaction, self.project, &new).await.unwrap();
        control::queue_import(&mut transaction, &row, new.id).await.unwrap();
        transaction.commit().await.unwrap();
        new.id
    }

    async fn import_to_end(&self, source: &Path) -> ImportRow {
        let id = self.import(source, None).await;
        self.until_imported(id).await
    }

    async fn until_imported(&self, id: ImportId) -> ImportRow {
        self.until("the import ends", async || {
            let row = import::find(&mut self.store().acquire().await.unwrap(), id).await.unwrap()?;
            matches!(row.state, ImportState::Done | ImportState::Failed).then_some(row)
        })
        .await
    }

    async fn until_state(&self, state: ProjectState) {
        self.until(state.as_str(), async || (self.row().await.state == state).then_some(())).await;
    }

    /// Looks again and again until `look` finds something.
    async fn until<T>(&self, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
        let waiting = async {
            let mut clock = tokio::time::interval(Duration::from_millis(50));
            loop {
                clock.tick().await;
                if let Some(found) = look().await {
                    return found;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("waited in vain until {what}; jobs: {}", self.text(JOBS).await),
        }
    }

    async fn control(&self, what: &str) {
        let row = self.row().await;
        let mut transaction = self.store().begin().await.unwrap();
        match what {
            "start" => control::start(&mut transaction, &row).await.unwrap(),
            "pause" => control::pause(&mut transaction, &row).await.unwrap(),
            "resume" => control::resume(&mut transaction, &row).await.unwrap(),
            "finish" => control::finish(&mut transaction, &row).await.unwrap(),
            other => panic!("no command {other}"),
        }
        transaction.commit().await.unwrap();
    }

    async fn labeler(&self) -> TokenId {
        let token = TokenId::generate();
        sqlx::query("insert into token (id, role, name, hash) values ($1, 'labeler', 'ana', sha256('ana'))")
            .bind(token)
            .execute(&mut *self.store().acquire().await.unwrap())
            .await
            .unwrap();
        token
    }

    /// Answers what is open by the folder that each item came from; returns how many.
    async fn answer(&self, labeler: TokenId) -> usize {
        let row = self.row().await;
        let mut transaction = self.store().begin().await.unwrap();
        let leases = lease_tasks(&mut transaction, &row, &[LeaseWish { labeler, count: 20, resume: false }])
            .await
            .unwrap()
            .remove(0);
        let items: Vec<ItemId> = leases.tasks.iter().map(|task| task.item).collect();
        let names: HashMap<ItemId, String> = sqlx::query_as("select id, name from item where id = any($1)")
            .bind(&items)
            .fetch_all(&mut *transaction)
            .await
            .unwrap()
            .into_iter()
            .collect();
        let answer = |task: &crate::labeling::LeasedTask| Submission {
            task: task.task,
            class: if names[&task.item].contains("dark") { "dark" } else { "light" }.to_owned(),
            attempt: Some(task.attempt),
            seconds: None,
            person: None,
        };
        let submissions: Vec<Submission> = leases.tasks.iter().map(answer).collect();
        let results = submit_labels(&mut transaction, &row, &[Submit { labeler, submissions: &submissions }])
            .await
            .unwrap()
            .results
            .remove(0);
        transaction.commit().await.unwrap();
        results.len()
    }

    /// Starts the project and answers whatever is asked until it is finished.
    async fn label_to_the_end(&self) {
        let labeler = self.labeler().await;
        self.control("start").await;
        self.until("the project is finished", async || {
            self.answer(labeler).await;
            (self.row().await.state == ProjectState::Finished).then_some(())
        })
        .await;
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut *self.store().acquire().await.unwrap()).await.unwrap()
    }

    async fn text(&self, sql: &'static str) -> String {
        let text: Option<String> =
            sqlx::query_scalar(sql).fetch_one(&mut *self.store().acquire().await.unwrap()).await.unwrap();
        text.unwrap_or_default()
    }

    async fn stop(self) {
        self.stop.cancel();
        for part in self.parts {
            part.await.unwrap();
        }
    }
}

const JOBS: &str = "select string_agg(kind || ' ' || subject || ' ' || state || ' ' || coalesce(error, ''), '; ' order by created_at) from job";

fn settings() -> ProjectSettings {
    ProjectSettings {
        image: ImageShape { size: 8, channels: 1 },
        pretext: PretextSettings { epochs: 1, rotations_per_image: 4, ..Default::default() },
        fine_tune: FineTuneSettings { epochs: 2, min_steps: 200, ..Default::default() },
        batch_size: 6,
        budget: 12.0,
        ..Default::default()
    }
}

/// `count` images a class and split: dark or light with a gradient, no two alike.
fn draw_images(folder: &Path, count: u8) {
    for split in ["train", "test"] {
        for (class, base) in [("dark", 10), ("light", 180)] {
            let class_folder = folder.join(split).join(class);
            std::fs::create_dir_all(&class_folder).unwrap();
            let shift = if split == "train" { 0 } else { 1 };
            for number in 0..count {
                let image = GrayImage::from_fn(8, 8, |x, y| {
                    Luma([base + shift + (x as u8) * (number % 8) + (y as u8) * (number / 8)])
                });
                image.save(class_folder.join(format!("{number:03}.png"))).unwrap();
            }
        }
    }
}

async fn run_to_the_end(mode: FineTuneMode, task: PretextKind) {
    let mut settings = settings();
    settings.fine_tune.mode = mode;
    settings.pretext.kind = task;
    let service = Service::start(settings).await;
    draw_images(&service.folder.path().join("images"), 20);
    std::fs::write(service.folder.path().join("images/train/dark/broken.png"), b"no image").unwrap();
    let imported = service.import_to_end(&service.folder.path().join("images")).await;
    assert_eq!(imported.state, ImportState::Done, "{imported:?}");
    assert_eq!((imported.added_count, imported.rejected.len()), (80, 1), "{imported:?}");
    service.until_state(ProjectState::Ready).await;
    assert_eq!(
        service.number("select count(*) from item where split = 'pool' and class is not null").await,
        0
    );
    assert_eq!(
        service.number("select count(*) from item where split = 'test' and class is not null").await,
        40
    );
    service.label_to_the_end().await;
    let models =
        model::list(&mut service.store().acquire().await.unwrap(), service.project, 0, 10).await.unwrap();
    assert_eq!(models.iter().map(|model| model.label_count).collect::<Vec<_>>(), [6, 12]);
    assert!(models.iter().all(|model| model.test_count == 40 && model.test_accuracy.is_some()), "{models:?}");
    assert_eq!(service.number("select count(*) from label where counted").await, 12);
    assert_eq!(
        service.number("select count(*) from job where state <> 'done'").await,
        0,
        "{}",
        service.text(JOBS).await
    );
    let with_provenance =
        "select count(*) from task where round_number = 2 and source = 'query' and state = 'settled'
        and model_version = 1 and score is not null and uncertainty is not null and pretext_loss is not null
        and jsonb_array_length(suggestions) = 2";
    let queried =
        "select count(*) from task where round_number = 2 and source = 'query' and state = 'settled'";
    assert_eq!(service.number(with_provenance).await, service.number(queried).await);
    assert_ne!(service.number(queried).await, 0);
    let kept = service.folder.path().join(format!("blobs/projects/{}/checkpoints", service.project));
    let kept_count = std::fs::read_dir(kept).map(|files| files.count()).unwrap_or(0);
    assert_eq!(kept_count, 0, "checkpoints that nobody needs");
    assert_eq!(service.engine.published_version(service.project), Some(2));
    check_published_after_a_restart(&service).await;
    service.stop().await;
}

/// A worker that starts anew gives its engine the models that are published already.
async fn check_published_after_a_restart(service: &Service) {
    let config = EngineConfig { device: DeviceChoice::Cpu, threads: ops::thread_count() };
    let (engine, _guard) = Engine::start(&config).unwrap();
    let worker = Worker::new(
        service.store().clone(),
        service.blob.clone(),
        engine.clone(),
        service.events.clone(),
        SupervisorWake::new(),
        JobWake::new(),
        service.folder.path(),
    );
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker.run(stop.clone()));
    service
        .until("the model is published again", async || {
            (engine.published_version(service.project) == Some(2)).then_some(())
        })
        .await;
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pile_of_images_becomes_a_trained_model() {
    run_to_the_end(FineTuneMode::Full, PretextKind::Rotation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pile_of_images_becomes_a_trained_head() {
    run_to_the_end(FineTuneMode::Head, PretextKind::Rotation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pile_of_images_becomes_a_trained_model_by_their_views() {
    run_to_the_end(FineTuneMode::Full, PretextKind::Moco).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_are_audited_and_the_most_suspicious_is_asked_again() {
    let mut settings = settings();
    settings.fine_tune.mode = FineTuneMode::Head;
    settings.look_ahead = false;
    (settings.batch_size, settings.budget, settings.random_fraction) = (30, 45.0, 0.5);
    (settings.gold_fraction, settings.relabel_fraction) = (0.1, 0.1);
    let service = Service::start(settings).await;
    let images = service.folder.path().join("images");
    draw_images(&images, 20);
    for number in [2, 6] {
        // Like two of the dark ones, and called light by its folder and so by the labeler.
        let image = GrayImage::from_fn(8, 8, |x, _| Luma([12 + number * x as u8]));
        image.save(images.join(format!("train/light/wrong-{number}.png"))).unwrap();
    }
    service.import_to_end(&images).await;
    service.until_state(ProjectState::Ready).await;
    service.label_to_the_end().await;
    let suspect =
        "select i.name from job j join item i on i.id = (j.outcome -> 'suspects' -> 0 ->> 'item')::uuid
        where kind = 'audit' and subject = 'round-1'";
    let found = service.text(suspect).await;
    assert!(found.contains("wrong"), "{found}");
    let asked_again =
        "select string_agg(i.name, ' ') from task t join item i on i.id = t.item where source = 'relabel'";
    let asked_again = service.text(asked_again).await;
    assert!(asked_again.split(' ').any(|name| name == found), "{found} among {asked_again}");
    assert_eq!(
        service.number("select count(*) from task where source = 'gold' and state = 'settled'").await,
        1
    );
    // A blind task looks like the others: it has a guess, too.
    let without_guess = "select count(*) from task where round_number = 2 and suggestions = '[]'";
    assert_eq!(service.number(without_guess).await, 0);
    let judged =
        "select (outcome ->> 'item_count')::bigint from job where kind = 'audit' and subject = 'round-1'";
    assert_eq!(service.number(judged).await, 30);
    service
        .until("the last audit is done", async || {
            let done =
                "select count(*) from job where kind = 'audit' and subject = 'round-2' and state = 'done'";
            (service.number(done).await == 1).then_some(())
        })
        .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_cannot_be_read_fails_with_its_reason_and_the_next_one_works() {
    let service = Service::start(settings()).await;
    let mut subscription = service.events.subscribe(None, None).await.unwrap();
    let failed = service.import_to_end(&service.folder.path().join("nowhere")).await;
    assert_eq!(failed.state, ImportState::Failed);
    assert!(failed.error.as_deref().is_some_and(|error| error.contains("nowhere")), "{failed:?}");
    service.until_state(ProjectState::Empty).await;
    let mut kinds = Vec::new();
    while kinds.len() < 4 {
        kinds.push(subscription.next().await.unwrap().kind.as_str());
    }
    kinds.sort_unstable();
    assert_eq!(kinds, ["import.ended", "job.failed", "project.state_changed", "project.state_changed"]);
    draw_images(&service.folder.path().join("images"), 3);
    let first = service.import_to_end(&service.folder.path().join("images")).await;
    assert_eq!((first.state, first.added_count), (ImportState::Done, 12));
    service.until_state(ProjectState::Ready).await;
    let again = service.import_to_end(&service.folder.path().join("images")).await;
    assert_eq!((again.added_count, again.duplicate_count), (0, 12));
    assert_eq!(service.number("select count(*) from segment").await, 1);
    let segments = service.folder.path().join(format!("blobs/projects/{}/segments", service.project));
    assert_eq!(std::fs::read_dir(segments).unwrap().count(), 2, "one tensor and one pack");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_stops_a_training_at_a_checkpoint_from_which_it_goes_on() {
    let mut settings = settings();
    settings.pretext.epochs = 1000;
    let service = Service::start(settings).await;
    draw_images(&service.folder.path().join("images"), 20);
    service.import_to_end(&service.folder.path().join("images")).await;
    service.until_state(ProjectState::Ready).await;
    service.control("start").await;
    service
        .until("the training makes progress", async || {
            let going =
                "select count(*) from job where kind = 'pretrain' and state = 'running' and done_count > 3";
            (service.number(going).await == 1).then_some(())
        })
        .await;
    service.control("pause").await;
    let stopped =
        "select count(*) from job where kind = 'pretrain' and state = 'queued' and checkpoint is not null";
    service.until("the job is back", async || (service.number(stopped).await == 1).then_some(())).await;
    let done = service.number("select done_count from job where kind = 'pretrain'").await;
    service.control("resume").await;
    let again = "select case when state = 'running' and attempt = 2 then done_count else -1 end from job where kind = 'pretrain'";
    service
        .until("it goes on from there", async || (service.number(again).await >= done).then_some(()))
        .await;
    service.control("finish").await;
    service.until_state(ProjectState::Finished).await;
    let cancelled = "select count(*) from job where kind = 'pretrain' and state = 'cancelled'";
    assert_eq!(service.number(cancelled).await, 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_read_and_then_removed() {
    let service = Service::start(settings()).await;
    let images = service.folder.path().join("images");
    draw_images(&images, 2);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", &images).unwrap();
    let bytes = archive.into_inner().unwrap();
    let id = service.import(Path::new("images.tar"), Some(bytes)).await;
    let row = service.until_imported(id).await;
    assert_eq!((row.state, row.added_count), (ImportState::Done, 8), "{row:?}");
    service
        .until("the upload is gone", async || {
            (!service.blob.exists(&upload_key(id)).await.unwrap()).then_some(())
        })
        .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_for_longer_than_every_lease_fails_nothing() {
    let mut settings = settings();
    settings.pretext.epochs = 20;
    let database = TestDatabase::create().await;
    let gate = Gate::start(database.options()).await;
    // A short wait for connections, so that a short outage is several times as long.
    let store = Store::connect_within(gate.options(), Duration::from_millis(500)).await.unwrap();
    let service = Service::start_on(database, store.clone(), settings).await;
    draw_images(&service.folder.path().join("images"), 20);
    service.import_to_end(&service.folder.path().join("images")).await;
    service.until_state(ProjectState::Ready).await;
    let mut subscription = service.events.subscribe(None, None).await.unwrap();
    service.control("start").await;
    service
        .until("the training runs", async || {
            let going = "select count(*) from job where kind = 'pretrain' and state in ('running', 'done')";
            (service.number(going).await == 1).then_some(())
        })
        .await;
    gate.close().await;
    assert!(store.ping().await.unwrap_err().is_unavailable());
    // More time passes in the database than any lease lasts; a heartbeat before the gate closed may have been the last.
    let lapse = "with lapsed as (update job set expires_at = expires_at - interval '1 minute' where state = 'running' returning id)
        select count(*) from lapsed";
    service.number(lapse).await;
    // Longer than the intervals of heartbeat, supervisor, relay and worker, so that each meets the outage; none of them tells anybody that it did.
    tokio::time::sleep(Duration::from_secs(2)).await;
    gate.open().await;
    service.until_state(ProjectState::Labeling).await;
    let failed = "select count(*) from job where state = 'failed' or error is not null";
    assert_eq!(service.number(failed).await, 0, "{}", service.text(JOBS).await);
    assert_eq!(service.number("select count(*) from round").await, 1);
    let mut seen = Vec::new();
    while seen.last() != Some(&"round.opened") {
        match subscription.next().await {
            Ok(row) => seen.push(row.kind.as_str()),
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
    }
    service.stop().await;
}
