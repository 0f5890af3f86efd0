//! One attempt of a job: its lease, its heartbeat, its progress, and the order to stop.
//!
//! The heartbeat is a task that prolongs the lease each second and writes the progress that the work publishes in atomics. It gives the order
//! to stop when the server stops, the project is paused, the job was lost, or other projects have waited long enough. Dropping the
//! attempt ends the heartbeat.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::domain::job::JobKind;
use crate::import::StopFlag;
use crate::learner::{StepHook, Stopped};
use crate::store::job::{self, Heartbeat, JobRow};
use crate::store::{Store, StoreError};

/// Time between two heartbeats.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// How long a training may run while another project waits.
const TIME_SLICE: Duration = Duration::from_secs(30);

/// Why the work was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    /// The server stops.
    Shutdown,
    /// The project was paused.
    Paused,
    /// The job is another attempt's, or gone.
    Lost,
    /// Other projects wait.
    TimeSlice,
}

/// What heartbeat and work share.
#[derive(Default)]
struct Signals {
    done_count: AtomicU64,
    total_count: AtomicU64,
    // 0: go on; else the position of the reason in `REASONS` plus one.
    stop: AtomicU8,
    stop_flag: StopFlag,
    // Key of the newest checkpoint of the job, of whichever attempt.
    checkpoint: Mutex<Option<String>>,
}

const REASONS: [StopReason; 4] =
    [StopReason::Shutdown, StopReason::Paused, StopReason::Lost, StopReason::TimeSlice];

impl Signals {
    fn stop(&self, reason: StopReason) {
        let number = REASONS.iter().position(|known| *known == reason).unwrap_or_default() as u8 + 1;
        // The first reason counts, except that a lost job must not be given back.
        let _ = self.stop.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            (old == 0 || reason == StopReason::Lost).then_some(number)
        });
        self.stop_flag.stop();
    }

    fn reason(&self) -> Option<StopReason> {
        let number = usize::from(self.stop.load(Ordering::Relaxed));
        number.checked_sub(1).and_then(|index| REASONS.get(index).copied())
    }
}

/// An attempt that holds its job.
pub(super) struct Attempt {
    signals: Arc<Signals>,
    heartbeat: JoinHandle<()>,
}

impl Attempt {
    /// Begins the heartbeat. `sharing` names the kinds of jobs of other projects that this one gives way to.
    pub(super) fn begin(
        store: Store,
        row: &JobRow,
        sharing: Option<&'static [JobKind]>,
        stop: &CancellationToken,
    ) -> Self {
        let signals =
            Arc::new(Signals { checkpoint: Mutex::new(row.checkpoint.clone()), ..Signals::default() });
        let pulse = Pulse {
            store,
            row: row.clone(),
            sharing: sharing.filter(|_| matches!(row.kind, JobKind::Pretrain | JobKind::Train)),
            signals: Arc::clone(&signals),
            stop: stop.clone(),
        };
        Self { signals, heartbeat: tokio::spawn(pulse.beat_until_stopped()) }
    }

    /// Why the work was told to stop, if it was.
    pub(super) fn stop_reason(&self) -> Option<StopReason> {
        self.signals.reason()
    }

    /// Key of the newest checkpoint of the job, of this attempt or an earlier one.
    pub(super) fn last_checkpoint(&self) -> Option<String> {
        self.checkpoint_cell().get()
    }

    /// Where the training's sink notes its newest checkpoint.
    pub(super) fn checkpoint_cell(&self) -> CheckpointCell {
        CheckpointCell(Arc::clone(&self.signals))
    }

    /// The flag that an import polls.
    pub(super) fn stop_flag(&self) -> StopFlag {
        self.signals.stop_flag.clone()
    }

    /// Where an import publishes its progress.
    pub(super) fn progress(&self) -> impl Fn(u64, u64) + Send + 'static {
        let signals = Arc::clone(&self.signals);
        move |done, total| signals.publish(done, total)
    }

    /// What the engine calls once a mini-batch.
    pub(super) fn hook(&self) -> impl StepHook + Send + 'static {
        let signals = Arc::clone(&self.signals);
        move |done: u64, total: u64| {
            signals.publish(done, total);
            match signals.reason() {
                Some(_) => ControlFlow::Break(Stopped),
                None => ControlFlow::Continue(()),
            }
        }
    }

    /// Waits, then says whether there is any sense in going on.
    pub(super) async fn wait_and_go_on(&self, pause: Duration) -> bool {
        tokio::time::sleep(pause).await;
        !matches!(self.stop_reason(), Some(StopReason::Lost | StopReason::Shutdown))
    }
}

/// Remembers the newest checkpoint of an attempt.
pub(super) struct CheckpointCell(Arc<Signals>);

impl CheckpointCell {
    /// The key that is remembered.
    pub(super) fn get(&self) -> Option<String> {
        self.0.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers `key`, and returns the one before.
    pub(super) fn replace(&self, key: String) -> Option<String> {
        self.0.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).replace(key)
    }
}

impl Signals {
    fn publish(&self, done: u64, total: u64) {
        self.done_count.store(done, Ordering::Relaxed);
        self.total_count.store(total, Ordering::Relaxed);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

/// The heartbeat of one attempt.
struct Pulse {
    store: Store,
    row: JobRow,
    sharing: Option<&'static [JobKind]>,
    signals: Arc<Signals>,
    stop: CancellationToken,
}

impl Pulse {
    async fn beat_until_stopped(self) {
        let began = Instant::now();
        let mut clock = tokio::time::interval(BEAT_INTERVAL);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                () = self.stop.cancelled(), if self.signals.reason().is_none() => self.signals.stop(StopReason::Shutdown),
            }
            match self.beat(began).await {
                Ok(Some(reason)) => self.signals.stop(reason),
                Ok(None) => {}
                // The lease may run out meanwhile; then the attempt's last write finds out.
                Err(error) => {
                    tracing::warn!(job.id = %self.row.id, error = %error, "no heartbeat could be written");
                }
            }
        }
    }

    async fn beat(&self, began: Instant) -> Result<Option<StopReason>, StoreError> {
        let count = |value: &AtomicU64| i64::try_from(value.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        let (done, total) = (count(&self.signals.done_count), count(&self.signals.total_count));
        let mut connection = self.store.acquire().await?;
        let heartbeat =
            job::beat(&mut connection, self.row.id, self.row.attempt, super::LEASE, done, total).await?;
        Ok(match heartbeat {
            Heartbeat::Lost => Some(StopReason::Lost),
            Heartbeat::Paused => Some(StopReason::Paused),
            Heartbeat::Held => match self.sharing {
                Some(kinds) if began.elapsed() > TIME_SLICE => {
                    let waiting = job::is_another_waiting(&mut connection, self.row.project, kinds).await?;
                    waiting.then_some(StopReason::TimeSlice)
                }
                _ => None,
            },
        })
    }
}
