//! Deliveries: the outbox of each webhook, and the record of what became of it.
//!
//! A row is written in the transaction that moves its webhook's cursor past the event, so that between the two nothing is lost or doubled; it
//! stays pending until the receiver took the event.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::event::EventKind;
use crate::domain::ids::{DeliveryId, EventId, ProjectId, WebhookId};
use crate::domain::webhook::{DeliveryOrigin, DeliveryState};

/// A delivery as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryRow {
    /// Its id.
    pub id: DeliveryId,
    /// The event's number; null for a test.
    pub event_number: Option<i64>,
    /// The event's kind; null for a test.
    pub kind: Option<EventKind>,
    /// Why it is sent.
    pub origin: DeliveryOrigin,
    /// How far it is.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempt_count: i32,
    /// The receiver's status in the last attempt; null when no answer came.
    pub status: Option<i32>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// How long the last attempt took.
    pub duration_ms: Option<i32>,
    /// When it came into the outbox.
    pub created_at: DateTime<Utc>,
    /// When it was tried last.
    pub attempted_at: Option<DateTime<Utc>>,
}

/// A delivery to be sent, with its event.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// Its event; none for a test.
    pub event: Option<PendingEvent>,
    /// When the event happened, or the test was asked for.
    pub created_at: DateTime<Utc>,
}

/// An event to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingEvent {
    /// Its id, the same in every delivery.
    pub id: EventId,
    /// Its number.
    pub number: i64,
    /// The project it belongs to.
    pub project: Option<ProjectId>,
    /// What happened.
    pub kind: EventKind,
    /// Fields named at `EventKind`.
    pub payload: Value,
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// How far the delivery is now.
    pub state: DeliveryState,
    /// The receiver's status; none when no answer came.
    pub status: Option<u16>,
    /// Why it failed.
    pub error: Option<&'a str>,
    /// How long it took.
    pub duration_ms: i32,
}

/// Events after `cursor` as far as one page goes, with whether each is wanted.
pub async fn list_candidates(
    connection: &mut PgConnection,
    cursor: i64,
    kinds: Option<&[EventKind]>,
    projects: Option<&[ProjectId]>,
    limit: i64,
) -> Result<Vec<(i64, bool)>, StoreError> {
    let rows = sqlx::query!(
        r#"select number as "number!",
             (($2::text[] is null or kind = any($2)) and ($3::uuid[] is null or coalesce(project = any($3), false))) as "is_wanted!"
           from event where number > $1 order by number limit $4"#,
        cursor,
        kinds as Option<&[EventKind]>,
        projects as Option<&[ProjectId]>,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.number, row.is_wanted)).collect())
}

/// Puts events into the outbox; one that waits there already isn't put twice. Returns how many were.
pub async fn insert_all(
    connection: &mut PgConnection,
    webhook: WebhookId,
    numbers: &[i64],
    origin: DeliveryOrigin,
) -> Result<u64, StoreError> {
    if numbers.is_empty() {
        return Ok(0);
    }
    let ids: Vec<DeliveryId> = numbers.iter().map(|_| DeliveryId::generate()).collect();
    let done = sqlx::query!(
        "insert into webhook_delivery (id, webhook, event_number, origin)
         select id, $1, number, $4 from unnest($2::uuid[], $3::bigint[]) as fresh (id, number)
         where not exists (select from webhook_delivery d where d.webhook = $1 and d.state = 'pending' and d.event_number = fresh.number)",
        webhook as WebhookId,
        &ids as &[DeliveryId],
        numbers,
        origin as DeliveryOrigin
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Asks for a test.
pub async fn insert_test(
    connection: &mut PgConnection,
    webhook: WebhookId,
) -> Result<DeliveryId, StoreError> {
    let id = DeliveryId::generate();
    sqlx::query!(
        "insert into webhook_delivery (id, webhook, origin) values ($1, $2, 'test')",
        id as DeliveryId,
        webhook as WebhookId
    )
    .execute(connection)
    .await?;
    Ok(id)
}

/// The next deliveries of a webhook: tests first, then events in the order of their numbers, if those may be sent.
pub async fn list_pending(
    connection: &mut PgConnection,
    webhook: WebhookId,
    with_events: bool,
    limit: i64,
) -> Result<Vec<PendingDelivery>, StoreError> {
    let rows = sqlx::query!(
        r#"select d.id as "id: DeliveryId", d.created_at, e.id as "event?: EventId", e.number as "number?", e.project as "project?: ProjectId",
             e.kind as "kind?: EventKind", e.payload as "payload?", e.created_at as "happened_at?"
           from webhook_delivery d left join event e on e.number = d.event_number
           where d.webhook = $1 and d.state = 'pending' and ($2 or d.event_number is null)
           order by d.event_number nulls first, d.id limit $3"#,
        webhook as WebhookId,
        with_events,
        limit
    )
    .fetch_all(connection)
    .await?;
    let pending = rows.into_iter().map(|row| {
        let event = match (row.event, row.number, row.kind, row.payload) {
            (Some(id), Some(number), Some(kind), Some(payload)) => {
                Some(PendingEvent { id, number, project: row.project, kind, payload })
            }
            _ => None,
        };
        PendingDelivery { id: row.id, event, created_at: row.happened_at.unwrap_or(row.created_at) }
    });
    Ok(pending.collect())
}

/// Notes what came of an attempt. A delivery that was taken stays taken, whoever says so.
pub async fn note_attempt(
    connection: &mut PgConnection,
    id: DeliveryId,
    attempt: &Attempt<'_>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update webhook_delivery set state = $2, attempt_count = attempt_count + 1, status = $3, error = $4, duration_ms = $5,
           attempted_at = now()
         where id = $1 and state = 'pending'",
        id as DeliveryId,
        attempt.state as DeliveryState,
        attempt.status.map(i32::from),
        attempt.error,
        attempt.duration_ms
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Up to `limit` deliveries of a webhook, the newest first, before the one of id `before`.
pub async fn list(
    connection: &mut PgConnection,
    webhook: WebhookId,
    before: Option<DeliveryId>,
    limit: i64,
) -> Result<Vec<DeliveryRow>, StoreError> {
    let rows = sqlx::query_as!(
        DeliveryRow,
        r#"select d.id as "id: DeliveryId", d.event_number, e.kind as "kind?: EventKind", d.origin as "origin: DeliveryOrigin",
             d.state as "state: DeliveryState", d.attempt_count, d.status, d.error, d.duration_ms, d.created_at, d.attempted_at
           from webhook_delivery d left join event e on e.number = d.event_number
           where d.webhook = $1 and ($2::uuid is null or d.id < $2) order by d.id desc limit $3"#,
        webhook as WebhookId,
        before as Option<DeliveryId>,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
