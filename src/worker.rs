//! The worker: takes jobs from the queue and does them.
//!
//! Two lanes run side by side on the runtime, each with one job at a time: learning on the engine's thread, and imports and selections on a
//! blocking thread, so that neither starves the server. Each lane holds its job by a lease that a heartbeat prolongs (`attempt`). A pause or a
//! stop ends a job at its next checkpoint and puts it back into the queue; an error fails it with its reason; a database or object store
//! that is away for a while does neither, the job is done again from its checkpoint.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::blob::{Blob, BlobError};
use crate::domain::job::JobKind;
use crate::engine::{Engine, EngineError};
use crate::events::Events;
use crate::rounds::request::RequestError;
use crate::rounds::{JobWake, SupervisorWake};
use crate::store::job::JobRow;
use crate::store::{Store, StoreError, job};

mod attempt;
mod importing;
mod learning;
mod materials;
mod publication;
mod publishing;
mod selecting;
mod tables;
#[cfg(test)]
mod tests;

use attempt::{Attempt, Ending, LEASE};
use materials::Materials;

/// Longest time between two looks for jobs.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Jobs that the engine does.
const LEARNING: &[JobKind] = &[
    JobKind::Pretrain,
    JobKind::Embed,
    JobKind::Train,
    JobKind::Score,
];

/// Jobs that a blocking thread does.
const READING: &[JobKind] = &[JobKind::Import, JobKind::Select];

/// Why a job's body didn't come to its end.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    /// It was asked to stop, or lost its lease.
    #[error("stopped on request")]
    Stopped,
    /// Something it needs is away for now; the job is done again.
    #[error("{0}")]
    Interrupted(String),
    /// It can't be done until somebody changes something.
    #[error("{0}")]
    Failed(String),
}

/// Takes jobs of a database and does them, until it is told to stop.
#[derive(Clone, Debug)]
pub struct Worker {
    store: Store,
    blob: Blob,
    engine: Option<Engine>,
    events: Events,
    wake: SupervisorWake,
    job_wake: JobWake,
    materials: Materials,
    scratch: PathBuf,
    name: String,
}

impl Worker {
    /// A worker for every kind of job; scratch files go below `home`.
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
        Self {
            engine: Some(engine),
            job_wake,
            ..Self::for_imports(store, blob, events, wake, home)
        }
    }

    /// A worker for imports alone, which need no engine.
    #[must_use]
    pub fn for_imports(
        store: Store,
        blob: Blob,
        events: Events,
        wake: SupervisorWake,
        home: &Path,
    ) -> Self {
        let materials = Materials::new(store.clone(), blob.clone());
        let scratch = home.join("scratch");
        let name = format!("process {}", std::process::id());
        Self {
            store,
            blob,
            engine: None,
            events,
            wake,
            job_wake: JobWake::new(),
            materials,
            scratch,
            name,
        }
    }

    /// Takes jobs until `stop` is cancelled; the jobs at hand then end at their next checkpoint.
    pub async fn run(self, stop: CancellationToken) {
        match self.engine.clone() {
            Some(engine) => {
                let publishing = stop.run_until_cancelled(publishing::run(
                    &self.store,
                    &self.materials,
                    &engine,
                ));
                tokio::join!(
                    self.run_lane(LEARNING, &stop),
                    self.run_lane(READING, &stop),
                    publishing
                );
            }
            None => self.run_lane(&[JobKind::Import], &stop).await,
        }
    }

    async fn run_lane(&self, kinds: &[JobKind], stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let claimed = match self.store.acquire().await {
                Ok(mut connection) => job::claim(&mut connection, kinds, &self.name, LEASE).await,
                Err(error) => Err(error),
            };
            match claimed {
                Ok(Some(job)) => {
                    if self.work_on(job, stop).await {
                        continue;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = %error, "the worker can't look for jobs and tries again")
                }
            }
            // Running into the time limit is the poll for jobs that other processes have queued.
            let _ = stop
                .run_until_cancelled(timeout(LOOK_INTERVAL, self.job_wake.woken()))
                .await;
        }
    }

    /// Does one job; false when the lane should pause before it takes another.
    async fn work_on(&self, job: JobRow, stop: &CancellationToken) -> bool {
        let attempt = Attempt::begin(self.store.clone(), &job, stop.clone());
        tracing::info!(job.id = %job.id, job.kind = job.kind.as_str(), job.attempt = job.attempt, project.id = %job.project, "job begins");
        let began = std::time::Instant::now();
        let done = self.do_body(&job, &attempt).await;
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ending = match &done {
            Ok(()) => Ending::Done,
            Err(BodyError::Stopped | BodyError::Interrupted(_)) => Ending::GivenBack,
            Err(BodyError::Failed(reason)) => Ending::Failed(reason.clone()),
        };
        match &done {
            Ok(()) => {
                tracing::info!(job.id = %job.id, job.kind = job.kind.as_str(), duration_ms, "job done")
            }
            Err(error) => {
                tracing::warn!(job.id = %job.id, job.kind = job.kind.as_str(), duration_ms, error = %error, "job ended early");
            }
        }
        attempt.end(ending).await;
        self.events.nudge();
        self.wake.wake();
        self.job_wake.wake();
        done.is_ok()
    }

    async fn do_body(&self, job: &JobRow, attempt: &Attempt) -> Result<(), BodyError> {
        match job.kind {
            JobKind::Import => importing::import(self, job, attempt).await,
            JobKind::Select => selecting::select(self, job, attempt).await,
            JobKind::Pretrain => learning::pretrain(self, job, attempt).await,
            JobKind::Embed => learning::embed(self, job, attempt).await,
            JobKind::Train => learning::train(self, job, attempt).await,
            JobKind::Score => learning::score(self, job, attempt).await,
        }
    }

    fn engine(&self) -> Result<&Engine, BodyError> {
        self.engine
            .as_ref()
            .ok_or_else(|| BodyError::Interrupted("this worker has no engine".to_owned()))
    }
}

impl From<StoreError> for BodyError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Retry(_) => {
                Self::Interrupted(error.to_string())
            }
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<BlobError> for BodyError {
    fn from(error: BlobError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<RequestError> for BodyError {
    fn from(error: RequestError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<EngineError> for BodyError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Stopped => Self::Stopped,
            EngineError::QueueFull => Self::Interrupted(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<tokio::task::JoinError> for BodyError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Failed(format!("its thread ended by itself: {error}"))
    }
}
