//! How far the round under way is: one coalesced count a project, after commits.
//!
//! A submit changes no counter (DESIGN.md, "The hot path"). Whoever wants the standing after its commit asks here: one query a project runs
//! at a time, and it answers all who asked before it began. When it finds nothing open it wakes the supervisor of this process.
//!
//! Counting reads every task of the round, which at hundreds of submits a second would cost more than the submits. So those whose commits
//! come one after another say what they closed (`count_on`): it is added to the last count for as long as that is young, a moment in which
//! twenty counts would fit. The number, the state and whether anything is open are read each time, and a batch that is complete is counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::domain::ids::ProjectId;
use crate::domain::round::RoundState;
use crate::store::round::{self, RoundStanding};
use crate::store::{PgConnection, Store, StoreError};

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

/// Share of the time that may go into counting the same round again and again.
const COUNT_SHARE: u32 = 20;

/// How old a count may be that is added to: what other processes closed is seen by then.
const COUNT_AGE_MAX: Duration = Duration::from_secs(1);

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
    /// What `count_on` adds to.
    running: tokio::sync::Mutex<Option<Running>>,
}

/// A count that is kept up by what this process closes.
#[derive(Debug)]
struct Running {
    standing: RoundStanding,
    until: Instant,
}

impl Running {
    /// Counts now, and decides how long that will do.
    async fn begin(connection: &mut PgConnection, project: ProjectId) -> Result<Option<Self>, StoreError> {
        let began = Instant::now();
        let standing = round::find_standing(connection, project).await?;
        let until = Instant::now() + (began.elapsed() * COUNT_SHARE).min(COUNT_AGE_MAX);
        Ok(standing.map(|standing| Self { standing, until }))
    }
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
        self.wake_if_complete(standing.as_ref());
        Ok(standing)
    }

    /// The standing after a commit that closed tasks of these rounds (one entry a task).
    ///
    /// The commits of a project that are told here must come one after another, each told before the next begins: then none is counted twice.
    pub async fn count_on(
        &self,
        project: ProjectId,
        closed: &[i32],
    ) -> Result<Option<RoundStanding>, StoreError> {
        let entry = self.entry(project);
        let mut running = entry.running.lock().await;
        let mut connection = self.store.acquire().await?;
        let Some(head) = round::find_head(&mut connection, project).await? else {
            return Ok(None);
        };
        let is_young = |running: &&mut Running| {
            running.standing.number == head.number && head.has_unclosed && Instant::now() < running.until
        };
        match running.as_mut().filter(is_young) {
            Some(Running { standing, .. }) => {
                let more = closed.iter().filter(|number| **number == head.number).count() as i64;
                standing.answered_count = (standing.answered_count + more).min(standing.task_count);
                standing.state = head.state;
            }
            None => *running = Running::begin(&mut connection, project).await?,
        }
        let standing = running.as_ref().map(|running| running.standing.clone());
        self.wake_if_complete(standing.as_ref());
        Ok(standing)
    }

    fn wake_if_complete(&self, standing: Option<&RoundStanding>) {
        let is_complete =
            |standing: &RoundStanding| standing.state == RoundState::Labeling && !standing.has_unclosed;
        if standing.is_some_and(is_complete) {
            self.wake.wake();
        }
    }

    fn entry(&self, project: ProjectId) -> Arc<ProjectCount> {
        let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(projects.entry(project).or_default())
    }
}
