//! How far the round under way is: one coalesced count a project, after commits.
//!
//! A submit changes no counter (DESIGN.md, "The hot path"). Whoever wants the standing after its commit asks here: one query a project runs
//! at a time, and it answers all who asked before it began. When it finds nothing open it wakes the supervisor of this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::domain::ids::ProjectId;
use crate::domain::round::RoundState;
use crate::store::round::{self, RoundStanding};
use crate::store::{Store, StoreError};

/// Wakes the supervisor of this process; a handle to clone. Waking it while it works makes it look once more.
#[derive(Clone, Debug, Default)]
pub struct SupervisorWake(Arc<Notify>);

impl SupervisorWake {
    /// A wake that nobody waits for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the supervisor look now rather than within the second.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    pub(super) async fn woken(&self) {
        self.0.notified().await;
    }
}

/// The standing of rounds, counted on demand; a handle to clone.
#[derive(Clone, Debug)]
pub struct RoundCounts {
    store: Store,
    wake: SupervisorWake,
    projects: Arc<Mutex<HashMap<ProjectId, Arc<ProjectCount>>>>,
}

#[derive(Debug, Default)]
struct ProjectCount {
    /// Tickets handed to those who asked.
    asked: AtomicU64,
    /// The last count, and the ticket up to which it answers.
    counted: tokio::sync::Mutex<(u64, Option<RoundStanding>)>,
}

impl RoundCounts {
    /// Counts in `store` and wakes the supervisor through `wake`.
    #[must_use]
    pub fn new(store: Store, wake: SupervisorWake) -> Self {
        Self { store, wake, projects: Arc::default() }
    }

    /// The handle that wakes the supervisor.
    #[must_use]
    pub fn wake(&self) -> &SupervisorWake {
        &self.wake
    }

    /// The standing of the project's newest round, counted after this call began; `None` before the first round.
    ///
    /// Call it after the commit whose labels it shall count, holding no connection.
    pub async fn count(&self, project: ProjectId) -> Result<Option<RoundStanding>, StoreError> {
        let entry = self.entry(project);
        let ticket = entry.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut counted = entry.counted.lock().await;
        if counted.0 < ticket {
            let answered = entry.asked.load(Ordering::SeqCst);
            let mut connection = self.store.acquire().await?;
            let standing = round::find_standing(&mut connection, project).await?;
            *counted = (answered, standing);
        }
        let standing = counted.1.clone();
        drop(counted);
        let is_complete = |standing: &RoundStanding| {
            standing.state == RoundState::Labeling && standing.unclosed_slot_count == 0
        };
        if standing.as_ref().is_some_and(is_complete) {
            self.wake.wake();
        }
        Ok(standing)
    }

    fn entry(&self, project: ProjectId) -> Arc<ProjectCount> {
        let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(projects.entry(project).or_default())
    }
}
