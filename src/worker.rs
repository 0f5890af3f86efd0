//! The worker: claims jobs from Postgres and does them, on the server's machine or on any other that reaches the object store.
//!
//! Two lanes, one job at a time each: learning (whatever needs the engine, and selection) and importing. An `Attempt` holds the job's
//! lease with a heartbeat each second; every write names its attempt, so a worker that was thought dead can't finish another's. A
//! result goes to the object store first and becomes visible with the one commit that ends the job. Long trainings leave checkpoints
//! and give way after a while when another project waits. Runs on the tokio runtime; decoding and choosing run on blocking threads, learning
//! on the engine's.

mod attempt;
mod audit;
mod embed;
mod finish;
mod images;
mod import;
mod materials;
mod overview;
mod predictions;
mod pretext_loss;
mod pretrain;
mod publishing;
mod score;
mod select;
#[cfg(test)]
mod tests;
mod train;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::blob::{Blob, BlobError};
use crate::domain::ids::ProjectId;
use crate::domain::job::JobKind;
use crate::engine::{Engine, EngineError};
use crate::events::Events;
use crate::learner::ScoreRow;
use crate::outbound::GuardedClient;
use crate::rounds::request::RequestError;
use crate::rounds::{JobWake, SupervisorWake};
use crate::store::job::JobRow;
use crate::store::project::ProjectRow;
use crate::store::task::Suggestion;
use crate::store::{Store, StoreError, job, project};
use crate::telemetry::metric;
use attempt::{Attempt, StopReason};
use finish::Finished;
use images::Reach;
use materials::Materials;
pub use predictions::{PredictedItem, PredictionShards, predict_unlabeled};

/// How long a claim holds without a heartbeat; a killed worker's job is taken over after it.
const LEASE: Duration = Duration::from_secs(10);

/// Longest time between two looks for a job.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Kinds of the learning lane.
const LEARNING: [JobKind; 7] = [
    JobKind::Pretrain,
    JobKind::Embed,
    JobKind::PretextLoss,
    JobKind::Train,
    JobKind::Score,
    JobKind::Select,
    JobKind::Audit,
];

/// The guesses of a score that labelers may be shown, the best first.
fn name_guesses(score: &ScoreRow) -> Vec<Suggestion> {
    let named = score.top.iter().filter(|(_, probability)| *probability > 0.0);
    named.map(|(class, probability)| Suggestion { class: *class, probability: *probability }).collect()
}

/// Why a job's body ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The attempt was told to stop; the reason stands in the attempt.
    #[error("stopped")]
    Stopped,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The job's request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The engine or what it did.
    #[error(transparent)]
    Engine(EngineError),
    /// Anything else, in words for the operator.
    #[error("{0}")]
    Failed(String),
}

impl From<EngineError> for BodyError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Stopped => Self::Stopped,
            other => Self::Engine(other),
        }
    }
}

impl BodyError {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// Whether the same attempt may succeed a moment later, so that the job isn't failed for it.
    fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_unavailable() || matches!(error, StoreError::Retry(_)),
            Self::Engine(error) => matches!(error, EngineError::QueueFull),
            _ => false,
        }
    }
}

/// What the bodies of jobs work with; a handle to clone.
#[derive(Clone)]
struct Workshop {
    store: Store,
    blob: Blob,
    engine: Option<Engine>,
    events: Events,
    wake: SupervisorWake,
    materials: Arc<Materials>,
    scratch: PathBuf,
    name: Arc<str>,
    reach: Reach,
}

/// Takes jobs until it is told to stop.
pub struct Worker {
    workshop: Workshop,
    job_wake: JobWake,
}

impl Worker {
    /// A worker for all kinds of jobs. `home` is where it keeps what an import unpacks.
    #[must_use]
    pub fn new(
        store: Store,
        blob: Blob,
        engine: Engine,
        events: Events,
        wake: SupervisorWake,
        job_wake: JobWake,
        home: &Path,
    ) -> Self {
        Self { workshop: Workshop::new(store, blob, Some(engine), events, wake, home), job_wake }
    }

    /// A worker that only imports, for a command that needs no engine.
    #[must_use]
    pub fn for_imports(store: Store, blob: Blob, events: Events, wake: SupervisorWake, home: &Path) -> Self {
        Self { workshop: Workshop::new(store, blob, None, events, wake, home), job_wake: JobWake::new() }
    }

    /// Lets imports fetch images by address and read them from these folders; without it they take what a source holds itself.
    #[must_use]
    pub fn reaching(mut self, client: GuardedClient, import_roots: &[String]) -> Self {
        let roots = import_roots.iter().map(PathBuf::from).collect();
        self.workshop.reach = Reach { client: Some(client), roots };
        self
    }

    /// Runs both lanes; ends once `stop` is cancelled and the jobs at hand have been given back.
    pub async fn run(self, stop: CancellationToken) {
        let importing = lane(&self.workshop, &[JobKind::Import], &self.job_wake, &stop);
        let learning = async {
            if let Some(engine) = &self.workshop.engine {
                let publishing = stop.run_until_cancelled(publishing::run(&self.workshop, engine));
                tokio::join!(lane(&self.workshop, &LEARNING, &self.job_wake, &stop), publishing);
            }
        };
        tokio::join!(importing, learning);
    }
}

/// One job after the other.
async fn lane(workshop: &Workshop, kinds: &[JobKind], job_wake: &JobWake, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        match workshop.claim(kinds).await {
            Ok(Some(row)) => workshop.perform(row, stop).await,
            Ok(None) => {
                tokio::select! {
                    () = job_wake.woken() => {}
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                    () = stop.cancelled() => {}
                }
            }
            Err(error) => {
                tracing::warn!(error = %error, "no job could be claimed, it is tried again");
                tokio::select! {
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }
}

impl Workshop {
    fn new(
        store: Store,
        blob: Blob,
        engine: Option<Engine>,
        events: Events,
        wake: SupervisorWake,
        home: &Path,
    ) -> Self {
        let name = format!("{}-{}", std::process::id(), uuid::Uuid::now_v7().simple());
        let materials = Arc::new(Materials::new(blob.clone()));
        Self {
            store,
            blob,
            engine,
            events,
            wake,
            materials,
            scratch: home.join("scratch"),
            name: name.into(),
            reach: Reach::default(),
        }
    }

    async fn claim(&self, kinds: &[JobKind]) -> Result<Option<JobRow>, StoreError> {
        let mut connection = self.store.acquire().await?;
        job::claim(&mut connection, kinds, &self.name, LEASE).await
    }

    /// Does one claimed job and ends it: done, failed, or given back.
    async fn perform(&self, row: JobRow, stop: &CancellationToken) {
        let began = Instant::now();
        let kind = row.kind.as_str();
        tracing::info!(job.id = %row.id, job.kind = kind, job.attempt = row.attempt, project.id = %row.project, "job begins");
        let attempt =
            Attempt::begin(self.store.clone(), &row, LEARNING.contains(&row.kind).then_some(&LEARNING), stop);
        let outcome = self.do_body(&row, &attempt).await;
        let ending = match outcome {
            Ok(finished) => self.end_well(&row, &attempt, finished).await,
            Err(error) => self.end_without_result(&row, &attempt, &error).await,
        };
        metrics::counter!(metric::JOBS_TOTAL, "kind" => kind, "state" => ending).increment(1);
        metrics::histogram!(metric::JOB_SECONDS, "kind" => kind).record(began.elapsed().as_secs_f64());
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(job.id = %row.id, job.kind = kind, job.ending = ending, duration_ms, "job ended");
        self.wake.wake();
    }

    async fn do_body(&self, row: &JobRow, attempt: &Attempt) -> Result<Finished, BodyError> {
        let project = self.find_project(row.project).await?;
        match row.kind {
            JobKind::Import => import::run(self, &project, row, attempt).await,
            JobKind::Pretrain => pretrain::run(self, &project, row, attempt).await,
            JobKind::Embed => embed::run(self, &project, row, attempt).await,
            JobKind::PretextLoss => pretext_loss::run(self, &project, row, attempt).await,
            JobKind::Train => train::run(self, &project, row, attempt).await,
            JobKind::Score => score::run(self, &project, row, attempt).await,
            JobKind::Select => select::run(self, &project, row).await,
            JobKind::Audit => audit::run(self, &project, row, attempt).await,
        }
    }

    async fn find_project(&self, id: ProjectId) -> Result<ProjectRow, BodyError> {
        let mut connection = self.store.acquire().await?;
        // A project that was deleted meanwhile is seen by the next heartbeat too; until then its jobs end here.
        project::find(&mut connection, id).await?.ok_or(BodyError::Stopped)
    }

    fn engine(&self) -> Result<&Engine, BodyError> {
        self.engine.as_ref().ok_or_else(|| {
            BodyError::failed("this worker has no engine; a learning job was not meant for it")
        })
    }

    /// Commits the result; a database that is away is waited for, since the work of minutes hangs on it.
    async fn end_well(&self, row: &JobRow, attempt: &Attempt, finished: Finished) -> &'static str {
        loop {
            match finish::commit(self, row, &finished).await {
                Ok(true) => {
                    finish::tidy(self, attempt, &finished).await;
                    if let (Finished::Model(new), Some(engine)) = (&finished, &self.engine) {
                        publishing::publish(self, engine, row.project, new.version, &new.checkpoint).await;
                    }
                    return "done";
                }
                Ok(false) => return "lost",
                Err(error) if error.is_unavailable() && attempt.wait_and_go_on(LOOK_INTERVAL).await => {
                    tracing::warn!(job.id = %row.id, error = %error, "the result can't be committed yet");
                }
                Err(error) => {
                    return self.end_without_result(row, attempt, &BodyError::Store(error)).await;
                }
            }
        }
    }

    async fn end_without_result(&self, row: &JobRow, attempt: &Attempt, error: &BodyError) -> &'static str {
        let reason = attempt.stop_reason();
        let ended = match (error, reason) {
            (_, Some(StopReason::Lost)) => return "lost",
            (BodyError::Stopped, _) => finish::give_back(self, row).await.map(|()| "given_back"),
            (error, _) if error.is_passing() => {
                tracing::warn!(job.id = %row.id, error = %error, "the job is tried again");
                finish::give_back(self, row).await.map(|()| "given_back")
            }
            (error, _) => {
                tracing::error!(job.id = %row.id, job.kind = row.kind.as_str(), error = %error, "job failed");
                finish::fail(self, row, &error.to_string()).await.map(|()| "failed")
            }
        };
        // Nothing could be written: the lease runs out and the job is taken up again.
        ended.unwrap_or_else(|error| {
            tracing::warn!(job.id = %row.id, error = %error, "the job's end couldn't be written; its lease runs out");
            "lost"
        })
    }
}
