//! The supervisor's loop: ticks every project that is under way, when woken and each second besides.
//!
//! One task on the runtime for each process that runs it. Several processes may: a project's lock lets one tick it at a time, and every
//! write is compare-and-set. Errors are logged and tried again with the next look; the database being gone is one of them.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::counts::SupervisorWake;
use super::tick::{TickOutcome, tick};
use crate::domain::ids::ProjectId;
use crate::events::Events;
use crate::store::{Store, StoreError, round};

/// Longest time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Moves of one project in a row before the others get their turn.
const MOVE_COUNT_MAX: usize = 8;

/// Moves rounds and projects on.
#[derive(Debug)]
pub struct Supervisor {
    store: Store,
    events: Events,
    wake: SupervisorWake,
    job_wake: JobWake,
}

/// Tells the worker of this process that jobs were queued; a handle to clone.
#[derive(Clone, Debug, Default)]
pub struct JobWake(std::sync::Arc<tokio::sync::Notify>);

impl JobWake {
    /// A wake that nobody waits for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes waiting workers look for jobs now.
    pub fn wake(&self) {
        self.0.notify_waiters();
    }

    /// Waits until jobs were queued; one that was queued before the call isn't noticed, so look first and poll besides.
    pub async fn woken(&self) {
        self.0.notified().await;
    }
}

impl Supervisor {
    /// A supervisor that is woken through `wake`, nudges `events` after its moves and wakes the worker through `job_wake`.
    #[must_use]
    pub fn new(store: Store, events: Events, wake: SupervisorWake, job_wake: JobWake) -> Self {
        Self { store, events, wake, job_wake }
    }

    /// Runs until `stop` is cancelled; a tick under way is finished first.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.look().await {
                tracing::warn!(error = %error, "the supervisor could not look and tries again");
            }
            // Running into the time limit is the poll for what other processes have changed.
            let _ = stop.run_until_cancelled(timeout(LOOK_INTERVAL, self.wake.woken())).await;
        }
    }

    /// Ticks every project that is under way until nothing moves.
    async fn look(&self) -> Result<(), StoreError> {
        let projects = round::list_supervised(&mut *self.store.acquire().await?).await?;
        for project in projects {
            if self.tick_until_idle(project).await > 0 {
                self.events.nudge();
            }
            self.job_wake.wake();
        }
        Ok(())
    }

    async fn tick_until_idle(&self, project: ProjectId) -> usize {
        for move_count in 0..MOVE_COUNT_MAX {
            match tick(&self.store, project).await {
                Ok(TickOutcome::Moved) => {}
                Ok(TickOutcome::Idle | TickOutcome::Busy | TickOutcome::Gone) => return move_count,
                Err(error) => {
                    tracing::warn!(project.id = %project, error = %error, "a tick failed and is tried again");
                    return move_count;
                }
            }
        }
        self.wake.wake();
        MOVE_COUNT_MAX
    }
}
