//! What happens in a test's database, told by its own notices: a killed server takes its clients' streams with it, but not these.

use std::collections::VecDeque;
use std::time::Duration;

use gleaner::domain::event::EventKind;
use gleaner::store::Store;
use gleaner::store::event::{self, EventListener, EventRow};
use gleaner::store::testing::TestDatabase;

/// Longest time in which nothing at all may happen.
const PATIENCE: Duration = Duration::from_secs(600);

/// Events read in one statement.
const PAGE_COUNT: i64 = 500;

/// Every event of a database in the order of numbers, from its first on.
pub struct Watch {
    store: Store,
    listener: EventListener,
    read_until: i64,
    waiting: VecDeque<EventRow>,
}

impl Watch {
    /// Listens before it reads, so that it misses nothing.
    pub async fn open(database: &TestDatabase) -> Self {
        let store = database.store().clone();
        let listener = EventListener::open(&store).await.expect("the test's database answers");
        Self { store, listener, read_until: 0, waiting: VecDeque::new() }
    }

    /// The next event, waited for until it comes.
    pub async fn next(&mut self) -> EventRow {
        loop {
            if let Some(row) = self.waiting.pop_front() {
                return row;
            }
            let mut connection = self.store.acquire().await.expect("the test's database answers");
            let page = event::list_after(&mut connection, self.read_until, None, PAGE_COUNT).await;
            drop(connection);
            self.waiting.extend(page.expect("the events are read"));
            match self.waiting.back() {
                Some(last) => self.read_until = last.number,
                None => tokio::time::timeout(PATIENCE, self.listener.wait())
                    .await
                    .expect("something happens within ten minutes")
                    .expect("the test's database answers"),
            }
        }
    }

    /// Waits for the next event of this kind whose payload has `value` under `field`; panics when a job fails meanwhile.
    pub async fn until(&mut self, kind: EventKind, field: &str, value: &str) -> EventRow {
        loop {
            let row = self.next().await;
            assert_ne!(row.kind, EventKind::JobFailed, "{}", row.payload);
            if row.kind == kind && row.payload[field] == value {
                return row;
            }
        }
    }

    /// Waits until the one project of the database comes into `state`.
    pub async fn until_state(&mut self, state: &str) {
        self.until(EventKind::ProjectStateChanged, "to", state).await;
    }
}
