//! The relay and the listener of a process, as two tasks on the runtime that end with their token.
//!
//! Both survive the loss of the database: they try again each second. The relay is woken by `nudge` after commits of this process and
//! looks four times a second besides, since other processes commit too; an idle look reads one empty partial index.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, broadcast};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::PAGE_COUNT;
use super::subscription::Subscription;
use crate::domain::ids::ProjectId;
use crate::store::event::{self, EventListener, EventRow, RelayConnection};
use crate::store::{Store, StoreError};
use crate::telemetry::metric;

/// How long the relay waits for a nudge before it looks by itself.
const RELAY_INTERVAL: Duration = Duration::from_millis(250);

/// How long a task waits before it tries again after the database failed, and the relay before it asks for a lock that another has.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Longest time between two looks of the listener, should a notice be lost.
const LISTEN_INTERVAL: Duration = Duration::from_secs(5);

/// Events that a slow subscription may lag behind before it must read from the database again.
const BROADCAST_COUNT: usize = 1024;

/// The events of a process: a handle to clone.
#[derive(Clone, Debug)]
pub struct Events {
    store: Store,
    sender: broadcast::Sender<Arc<EventRow>>,
    nudged: Arc<Notify>,
}

impl Events {
    /// Starts relay and listener on the current runtime; both end when `stop` is cancelled.
    pub async fn start(store: Store, stop: CancellationToken) -> Result<Self, StoreError> {
        // Read before anybody can subscribe: what a subscription doesn't replay must be broadcast.
        let last = event::last_number(&mut *store.acquire().await?).await?;
        let events =
            Self { store, sender: broadcast::Sender::new(BROADCAST_COUNT), nudged: Arc::new(Notify::new()) };
        let (relay, listener, stopped) = (events.clone(), events.clone(), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(relay.relay()).await });
        tokio::spawn(async move { stopped.run_until_cancelled(listener.listen(last)).await });
        Ok(events)
    }

    /// Tells the relay that this process has committed events; without it they are numbered a quarter of a second later.
    pub fn nudge(&self) {
        self.nudged.notify_one();
    }

    /// Follows the events of the given projects (`None`: of all) after number `after` (`None`: from now on).
    pub async fn subscribe(
        &self,
        projects: Option<Vec<ProjectId>>,
        after: Option<i64>,
    ) -> Result<Subscription, StoreError> {
        // The receiver stands before the number is read, so that nothing falls between the two.
        let receiver = self.sender.subscribe();
        let after = match after {
            Some(after) => after,
            None => event::last_number(&mut *self.store.acquire().await?).await?,
        };
        Ok(Subscription::new(self.store.clone(), receiver, projects, after))
    }

    async fn relay(&self) {
        loop {
            match self.hold_relay().await {
                Ok(()) => tracing::debug!("another process numbers the events"),
                Err(error) => {
                    tracing::warn!(error = %error, "the relay lost the database and tries again");
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Numbers events as long as this process has the right to; returns when it doesn't get it.
    async fn hold_relay(&self) -> Result<(), StoreError> {
        let Some(mut relay) = RelayConnection::open(&self.store).await? else {
            return Ok(());
        };
        loop {
            let count = relay.number_events(PAGE_COUNT).await?;
            metrics::counter!(metric::EVENTS_TOTAL).increment(count);
            if count < PAGE_COUNT.unsigned_abs() {
                // Running into the time limit is the poll for what other processes have committed.
                let _ = timeout(RELAY_INTERVAL, self.nudged.notified()).await;
            }
        }
    }

    async fn listen(&self, mut last: i64) {
        loop {
            if let Err(error) = self.follow(&mut last).await {
                tracing::warn!(error = %error, "the event listener lost the database and tries again");
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Broadcasts numbered events after `last` as they come.
    async fn follow(&self, last: &mut i64) -> Result<(), StoreError> {
        let mut listener = EventListener::open(&self.store).await?;
        loop {
            let page = event::list_after(&mut *self.store.acquire().await?, *last, None, PAGE_COUNT).await?;
            let is_last_page = (page.len() as i64) < PAGE_COUNT;
            for row in page {
                *last = row.number;
                // Without a subscription there is nobody to tell.
                let _ = self.sender.send(Arc::new(row));
            }
            if is_last_page && let Ok(heard) = timeout(LISTEN_INTERVAL, listener.wait()).await {
                heard?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::event::EventKind;
    use crate::store::testing::TestDatabase;

    async fn append(store: &Store, project: ProjectId, place: u32) {
        let mut transaction = store.begin().await.unwrap();
        event::append(&mut transaction, Some(project), EventKind::ProjectChanged, &json!({ "place": place }))
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    }

    #[tokio::test]
    async fn numbers_have_no_gap_and_a_late_commit_is_never_skipped() {
        let database = TestDatabase::create().await;
        let store = database.store();
        let project = ProjectId::generate();
        let mut relay = RelayConnection::open(store).await.unwrap().expect("nobody else numbers");
        let mut late = store.begin().await.unwrap();
        event::append(&mut late, Some(project), EventKind::ProjectChanged, &json!({ "place": 0 }))
            .await
            .unwrap();
        append(store, project, 1).await;
        assert_eq!(relay.number_events(10).await.unwrap(), 1);
        late.commit().await.unwrap();
        append(store, project, 2).await;
        assert_eq!(relay.number_events(10).await.unwrap(), 2);
        let rows =
            event::list_after(&mut store.acquire().await.unwrap(), 0, Some(&[project]), 10).await.unwrap();
        let seen: Vec<_> =
            rows.iter().map(|row| (row.number, row.payload["place"].as_u64().unwrap())).collect();
        assert_eq!(seen, [(1, 1), (2, 0), (3, 2)]);
        assert_eq!(relay.number_events(10).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn only_one_relay_numbers_and_the_next_takes_over() {
        let database = TestDatabase::create().await;
        let first = RelayConnection::open(database.store()).await.unwrap();
        assert!(first.is_some());
        assert!(RelayConnection::open(database.store()).await.unwrap().is_none());
        drop(first);
        let mut second = None;
        while second.is_none() {
            second = RelayConnection::open(database.store()).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_subscription_gets_every_event_once_and_in_order_under_concurrent_commits() {
        let database = TestDatabase::create().await;
        let stop = CancellationToken::new();
        let events = Events::start(database.store().clone(), stop.clone()).await.unwrap();
        let (project, other) = (ProjectId::generate(), ProjectId::generate());
        append(database.store(), project, 1000).await;
        let mut subscription = events.subscribe(Some(vec![project]), Some(0)).await.unwrap();
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (store, events) = (database.store().clone(), events.clone());
                tokio::spawn(async move {
                    for place in 0..25 {
                        append(&store, project, writer * 25 + place).await;
                        append(&store, other, place).await;
                        events.nudge();
                    }
                })
            })
            .collect();
        let mut places = Vec::new();
        let mut last = 0;
        while places.len() < 101 {
            let row = subscription.next().await.unwrap();
            assert!(row.number > last, "{} after {last}", row.number);
            last = row.number;
            assert_eq!(row.project, Some(project));
            places.push(row.payload["place"].as_u64().unwrap());
        }
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 101);
        for writer in writers {
            writer.await.unwrap();
        }
        stop.cancel();
    }

    #[tokio::test]
    async fn a_subscription_resumes_after_the_number_it_names() {
        let database = TestDatabase::create().await;
        let stop = CancellationToken::new();
        let events = Events::start(database.store().clone(), stop.clone()).await.unwrap();
        let project = ProjectId::generate();
        for place in 0..3 {
            append(database.store(), project, place).await;
        }
        let mut first = events.subscribe(None, Some(0)).await.unwrap();
        let row = first.next().await.unwrap();
        assert_eq!(row.number, 1);
        let mut second = events.subscribe(None, Some(row.number)).await.unwrap();
        assert_eq!(second.next().await.unwrap().number, 2);
        assert_eq!(second.next().await.unwrap().number, 3);
        stop.cancel();
    }
}
