//! Events: rows appended in the caller's transaction, numbered later by one relay.
//!
//! Neither ids nor times are commit order, so readers go by `number`, which the relay gives after the commit, without gaps. At most one
//! process is the relay: it holds a session lock on a connection of its own and numbers on that connection, so a relay whose lock is lost
//! can't write either. The listener is a dedicated connection too; after each reconnect it says so, since notices were lost.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::postgres::PgListener;

use super::{Store, StoreError};
use crate::domain::event::EventKind;
use crate::domain::ids::{EventId, ProjectId};

/// Channel on which the relay says that events have new numbers.
const CHANNEL: &str = "gleaner_event";

/// Session lock of the one relay of a database.
const RELAY_LOCK: i64 = 0x6576_656e_7473;

/// An event as readers see it.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// Place in the order of commits: 1, 2, … without gaps.
    pub number: i64,
    /// The project it belongs to; none for events of the whole server.
    pub project: Option<ProjectId>,
    /// What happened.
    pub kind: EventKind,
    /// Fields named at `EventKind`.
    pub payload: Value,
    /// When its transaction began.
    pub created_at: DateTime<Utc>,
}

/// Appends one event; it becomes visible with the caller's commit.
pub async fn append(
    connection: &mut PgConnection,
    project: Option<ProjectId>,
    kind: EventKind,
    payload: &Value,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into event (id, project, kind, payload) values ($1, $2, $3, $4)",
        EventId::generate() as EventId,
        project as Option<ProjectId>,
        kind as EventKind,
        payload
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Appends several events of one kind and project in one statement.
pub async fn append_all(
    connection: &mut PgConnection,
    project: ProjectId,
    kind: EventKind,
    payloads: &[Value],
) -> Result<(), StoreError> {
    if payloads.is_empty() {
        return Ok(());
    }
    let ids: Vec<EventId> = payloads.iter().map(|_| EventId::generate()).collect();
    sqlx::query!(
        "insert into event (id, project, kind, payload)
         select id, $2, $3, payload from unnest($1::uuid[], $4::jsonb[]) as fresh (id, payload)",
        &ids as &[EventId],
        project as ProjectId,
        kind as EventKind,
        payloads
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Events after number `after`, oldest first, of the given projects (`None`: of all).
pub async fn list_after(
    connection: &mut PgConnection,
    after: i64,
    projects: Option<&[ProjectId]>,
    limit: i64,
) -> Result<Vec<EventRow>, StoreError> {
    let rows = sqlx::query_as!(
        EventRow,
        r#"select number as "number!", project as "project: ProjectId", kind as "kind: EventKind", payload, created_at
           from event
           where number > $1 and ($2::uuid[] is null or project = any($2))
           order by number limit $3"#,
        after,
        projects as Option<&[ProjectId]>,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The number of the newest numbered event; 0 before the first.
pub async fn last_number(connection: &mut PgConnection) -> Result<i64, StoreError> {
    let number = sqlx::query_scalar!(r#"select coalesce(max(number), 0) as "number!" from event"#)
        .fetch_one(connection)
        .await?;
    Ok(number)
}

/// The number after which `count` numbered events of a project follow; 0 where there are no more.
pub async fn find_number_before(
    connection: &mut PgConnection,
    project: ProjectId,
    count: i64,
) -> Result<i64, StoreError> {
    let number = sqlx::query_scalar!(
        r#"select coalesce((select number from event where project = $1 and number is not null
             order by number desc offset $2 limit 1), 0) as "number!""#,
        project as ProjectId,
        count
    )
    .fetch_one(connection)
    .await?;
    Ok(number)
}

/// The right to number events, held until dropped.
#[derive(Debug)]
pub struct RelayConnection(PgConnection);

impl RelayConnection {
    /// Takes the right on a connection outside the pool; `None` while another process holds it.
    pub async fn open(store: &Store) -> Result<Option<Self>, StoreError> {
        let mut connection = store.acquire().await?.detach();
        let held = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "held!""#, RELAY_LOCK)
            .fetch_one(&mut connection)
            .await?;
        Ok(held.then_some(Self(connection)))
    }

    /// Numbers up to `limit` committed events and tells the listeners; returns how many.
    pub async fn number_events(&mut self, limit: i64) -> Result<u64, StoreError> {
        // One statement: readers see all of its numbers at once or none. The notice is sent with the commit, and only here, since a notice in
        // every submit would serialise all commits on the notification queue.
        let count = sqlx::query_scalar!(
            r#"with fresh as (
                 select id, row_number() over (order by created_at, id) as place
                 from (select id, created_at from event where number is null order by created_at, id limit $1) as waiting
               ), numbered as (
                 update event e set number = (select coalesce(max(number), 0) from event) + fresh.place
                 from fresh where e.id = fresh.id returning e.number
               ), told as (
                 select pg_notify($2, max(number)::text) from numbered having count(*) > 0
               )
               select (select count(*) from numbered) + 0 * (select count(*) from told) as "count!""#,
            limit,
            CHANNEL
        )
        .fetch_one(&mut self.0)
        .await?;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}

/// A dedicated connection that hears of new numbers.
#[derive(Debug)]
pub struct EventListener(PgListener);

impl EventListener {
    /// Connects and listens.
    pub async fn open(store: &Store) -> Result<Self, StoreError> {
        let mut listener = PgListener::connect_with(&store.pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(Self(listener))
    }

    /// Waits until events have new numbers, or until the connection was lost and made again: either way the reader must look.
    pub async fn wait(&mut self) -> Result<(), StoreError> {
        self.0.try_recv().await?;
        Ok(())
    }
}
