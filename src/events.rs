//! Events: append in the caller's transaction, one relay that numbers, one listener a process, and subscriptions that lose nothing.
//!
//! `Events` is a cheap handle. Its relay task numbers committed events (whichever process holds the relay's lock does, the others stand by);
//! its listener task hears of new numbers on one dedicated connection, reads them once and broadcasts them to this process's
//! subscriptions. A subscription replays from the database first, and again whenever it fell behind the broadcast.

use serde_json::Value;

use crate::domain::event::EventKind;
use crate::domain::ids::ProjectId;
use crate::store::{PgConnection, StoreError, event};

mod hub;
mod subscription;

pub use crate::store::event::EventRow;
pub use hub::Events;
pub use subscription::Subscription;

/// Events numbered in one statement, and read in one.
const PAGE_COUNT: i64 = 500;

/// Appends one event; it exists when the caller's transaction commits, and has its number soon after.
pub async fn append(
    connection: &mut PgConnection,
    project: Option<ProjectId>,
    kind: EventKind,
    payload: &Value,
) -> Result<(), StoreError> {
    event::append(connection, project, kind, payload).await
}
