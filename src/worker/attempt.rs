//! One attempt at a job: its lease, its progress, its stop, its checkpoints and its end.
//!
//! A heartbeat task prolongs the lease each second and learns of a pause or of the loss of the job; both, and the process's own stop, raise one
//! flag that the body's hook reads at each mini-batch. While the database is away the body goes on: the lease may run out, and then whoever
//! takes the job over wins, since every write names the attempt.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::BodyError;
use super::publication::Publication;
use crate::blob::{Blob, checkpoint_key};
use crate::domain::event::EventKind;
use crate::domain::ids::{JobId, ProjectId};
use crate::domain::job::JobKind;
use crate::import::StopFlag;
use crate::learner::{CheckpointSink, StepHook, Stopped};
use crate::store::job::{self, Heartbeat, JobRow};
use crate::store::{Store, StoreError, event};

/// How long a worker that says nothing keeps its job.
pub(super) const LEASE: Duration = Duration::from_secs(10);

/// Time between two heartbeats.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// Its result is written.
    Done,
    /// It stopped; the job goes back into the queue unless another attempt holds it.
    GivenBack,
    /// It can't be done, for this reason.
    Failed(String),
}

/// An attempt under way.
#[derive(Debug)]
pub(super) struct Attempt {
    store: Store,
    id: JobId,
    project: ProjectId,
    kind: JobKind,
    number: i32,
    shared: Arc<Shared>,
    heartbeat: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    is_stopped: AtomicBool,
    import_stop: StopFlag,
    done_count: AtomicU64,
    total_count: AtomicU64,
    /// Key of the checkpoint that this attempt kept last.
    kept: Mutex<Option<String>>,
}

impl Shared {
    fn lock_kept(&self) -> MutexGuard<'_, Option<String>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.import_stop.stop();
    }
}

impl Attempt {
    /// Starts the heartbeat of a job that was just claimed.
    pub(super) fn begin(store: Store, job: &JobRow, stop: CancellationToken) -> Self {
        let shared = Arc::new(Shared::default());
        let heartbeat = tokio::spawn(beat(
            store.clone(),
            job.id,
            job.attempt,
            Arc::clone(&shared),
            stop,
        ));
        Self {
            store,
            id: job.id,
            project: job.project,
            kind: job.kind,
            number: job.attempt,
            shared,
            heartbeat,
        }
    }

    /// A hook for the engine: reports progress and stops at a mini-batch.
    pub(super) fn hook(&self) -> impl StepHook + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move |done: u64, total: u64| {
            shared.done_count.store(done, Ordering::Relaxed);
            shared.total_count.store(total, Ordering::Relaxed);
            if shared.is_stopped.load(Ordering::SeqCst) {
                ControlFlow::Break(Stopped)
            } else {
                ControlFlow::Continue(())
            }
        }
    }

    /// A function that reports progress, for work outside the engine.
    pub(super) fn reporter(&self) -> impl Fn(u64, u64) + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move |done, total| {
            shared.done_count.store(done, Ordering::Relaxed);
            shared.total_count.store(total, Ordering::Relaxed);
        }
    }

    /// The flag by which an import is stopped.
    pub(super) fn stop_flag(&self) -> StopFlag {
        self.shared.import_stop.clone()
    }

    /// Keeps checkpoints of the body in `blob` and names the newest in the job; called on the engine's thread.
    pub(super) fn checkpoints(&self, blob: &Blob) -> Checkpoints {
        Checkpoints {
            store: self.store.clone(),
            blob: blob.clone(),
            project: self.project,
            job: self.id,
            attempt: self.number,
            number: 0,
            shared: Arc::clone(&self.shared),
            runtime: Handle::current(),
        }
    }

    /// The checkpoint that this attempt kept last.
    pub(super) fn last_checkpoint(&self) -> Option<String> {
        self.shared.lock_kept().clone()
    }

    /// Ends the job with `outcome` and what is published with it, in one transaction; tried again while the database is away.
    ///
    /// `Stopped` when another attempt holds the job; nothing was written then.
    pub(super) async fn finish(
        &self,
        outcome: &Value,
        publication: &Publication,
    ) -> Result<(), BodyError> {
        loop {
            match self.try_finish(outcome, publication).await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(BodyError::Stopped),
                Err(error @ (StoreError::Unavailable(_) | StoreError::Retry(_))) => {
                    tracing::warn!(job.id = %self.id, error = %error, "a job's result can't be written yet");
                    tokio::time::sleep(BEAT_INTERVAL).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn try_finish(
        &self,
        outcome: &Value,
        publication: &Publication,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.store.begin().await?;
        // First, so that a lost job leaves nothing of what is written beside it.
        if !job::finish(&mut transaction, self.id, self.number, outcome).await? {
            return Ok(false);
        }
        publication
            .write(&mut transaction, self.project, self.id)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Stops the heartbeat and, unless the job is done, puts it back or fails it.
    pub(super) async fn end(self, ending: Ending) {
        self.heartbeat.abort();
        let ended = match &ending {
            Ending::Done => Ok(()),
            Ending::GivenBack => self.give_back().await,
            Ending::Failed(reason) => self.fail(reason).await,
        };
        if let Err(error) = ended {
            // The lease runs out by itself, and the job is done again.
            tracing::warn!(job.id = %self.id, error = %error, "a job's end can't be written");
        }
    }

    async fn give_back(&self) -> Result<(), StoreError> {
        job::give_back(&mut *self.store.acquire().await?, self.id, self.number)
            .await
            .map(drop)
    }

    async fn fail(&self, reason: &str) -> Result<(), StoreError> {
        let mut transaction = self.store.begin().await?;
        if job::fail(&mut transaction, self.id, self.number, reason).await? {
            let payload = json!({ "job": self.id, "kind": self.kind, "error": reason });
            event::append(
                &mut transaction,
                Some(self.project),
                EventKind::JobFailed,
                &payload,
            )
            .await?;
        }
        transaction.commit().await
    }
}

async fn beat(store: Store, id: JobId, attempt: i32, shared: Arc<Shared>, stop: CancellationToken) {
    let mut clock = tokio::time::interval(BEAT_INTERVAL);
    loop {
        let is_asked = tokio::select! {
            () = stop.cancelled(), if !shared.is_stopped.load(Ordering::SeqCst) => true,
            _ = clock.tick() => false,
        };
        if is_asked {
            shared.stop();
            continue;
        }
        let count = |counter: &AtomicU64| {
            i64::try_from(counter.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
        };
        let (done_count, total_count) = (count(&shared.done_count), count(&shared.total_count));
        let answer = match store.acquire().await {
            Ok(mut connection) => {
                job::beat(&mut connection, id, attempt, LEASE, done_count, total_count).await
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok(Heartbeat::Held) => {}
            Ok(Heartbeat::Paused | Heartbeat::Lost) => shared.stop(),
            Err(error) => {
                tracing::warn!(job.id = %id, error = %error, "a heartbeat failed and is tried again")
            }
        }
    }
}

/// Where the checkpoints of a training under way go.
pub(super) struct Checkpoints {
    store: Store,
    blob: Blob,
    project: ProjectId,
    job: JobId,
    attempt: i32,
    number: u64,
    shared: Arc<Shared>,
    runtime: Handle,
}

impl Checkpoints {
    async fn keep(
        &mut self,
        bytes: Vec<u8>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let key = checkpoint_key(self.project, self.job, self.attempt, self.number);
        self.number += 1;
        self.blob.put(&key, bytes).await?;
        let named = match self.store.acquire().await {
            Ok(mut connection) => {
                job::save_checkpoint(&mut connection, self.job, self.attempt, &key).await
            }
            Err(error) => Err(error),
        };
        match named {
            Ok(true) => {
                let old = self.shared.lock_kept().replace(key);
                if let Some(old) = old {
                    self.blob.delete(&old).await?;
                }
                Ok(())
            }
            Ok(false) => {
                self.shared.stop();
                self.blob.delete(&key).await?;
                Ok(())
            }
            // The training is worth more than this checkpoint; the one before stays named.
            Err(error) if error.is_unavailable() => {
                tracing::warn!(job.id = %self.job, error = %error, "a checkpoint can't be named while the database is away");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl CheckpointSink for Checkpoints {
    fn save(&mut self, bytes: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.keep(bytes.to_vec()))
    }
}
