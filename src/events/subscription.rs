//! One reader of events: what the database has after its last number, then what is broadcast.
//!
//! Numbers only grow, so whatever isn't above the last one was seen. A reader that the broadcast outran, or whose process started its
//! listener later, reads from the database again.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast;

use super::PAGE_COUNT;
use crate::domain::ids::ProjectId;
use crate::store::event::{self, EventRow};
use crate::store::{Store, StoreError};

/// A stream of numbered events, in order, each once.
#[derive(Debug)]
pub struct Subscription {
    store: Store,
    receiver: broadcast::Receiver<Arc<EventRow>>,
    projects: Option<Vec<ProjectId>>,
    last: i64,
    replayed: VecDeque<EventRow>,
    is_behind: bool,
}

impl Subscription {
    pub(super) fn new(
        store: Store,
        receiver: broadcast::Receiver<Arc<EventRow>>,
        projects: Option<Vec<ProjectId>>,
        after: i64,
    ) -> Self {
        Self { store, receiver, projects, last: after, replayed: VecDeque::new(), is_behind: true }
    }

    /// The next event; waits until there is one. After an error the same call may be made again and loses nothing.
    ///
    /// Safe to drop while it waits (in a `select!`).
    pub async fn next(&mut self) -> Result<Arc<EventRow>, StoreError> {
        loop {
            if let Some(row) = self.replayed.pop_front() {
                self.last = row.number;
                return Ok(Arc::new(row));
            }
            if self.is_behind {
                self.replay().await?;
                continue;
            }
            match self.receiver.recv().await {
                Ok(row) if row.number > self.last => {
                    self.last = row.number;
                    if self.wants(&row) {
                        return Ok(row);
                    }
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => self.is_behind = true,
                // The sender lives in every `Events` handle; without one there will be no further event.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// The same as a stream, which SSE wants; it ends never.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = Result<Arc<EventRow>, StoreError>> + Send {
        futures_util::stream::unfold(self, |mut subscription| async move {
            let next = subscription.next().await;
            Some((next, subscription))
        })
    }

    async fn replay(&mut self) -> Result<(), StoreError> {
        let mut connection = self.store.acquire().await?;
        let page =
            event::list_after(&mut connection, self.last, self.projects.as_deref(), PAGE_COUNT).await?;
        self.is_behind = page.len() as i64 == PAGE_COUNT;
        self.replayed = page.into();
        Ok(())
    }

    fn wants(&self, row: &EventRow) -> bool {
        match &self.projects {
            None => true,
            Some(projects) => row.project.is_some_and(|project| projects.contains(&project)),
        }
    }
}
