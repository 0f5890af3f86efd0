//! Webhooks: where events go. The outbox of what is sent to them is `webhook_delivery`.
//!
//! One server at a time sends for a webhook: it holds the lease. Whoever changes a webhook takes the lease away, so that the holder stops after
//! the message at hand.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use crate::domain::event::EventKind;
use crate::domain::ids::{ProjectId, TokenId, WebhookId};
use crate::domain::webhook::DisabledReason;

/// A webhook without its secret.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookRow {
    /// Its id.
    pub id: WebhookId,
    /// Who made it.
    pub token: TokenId,
    /// Whether that token is in force.
    pub is_token_live: bool,
    /// Where events go.
    pub url: String,
    /// Which key sealed its secret.
    pub sealed_by: String,
    /// Kinds of events it wants; null for all.
    pub kinds: Option<Vec<EventKind>>,
    /// Projects whose events it wants; null for all.
    pub projects: Option<Vec<ProjectId>>,
    /// Number of the last event that is in its outbox or doesn't concern it.
    pub cursor: i64,
    /// Events in its outbox that the receiver hasn't taken yet.
    pub pending_count: i64,
    /// Failed attempts since the last success.
    pub failure_count: i32,
    /// When it is tried next.
    pub next_attempt_at: DateTime<Utc>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// When the receiver took something last.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Since when it sends no events.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Why.
    pub disabled_reason: Option<DisabledReason>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What a new webhook is made of.
#[derive(Clone, Debug)]
pub struct NewWebhook<'a> {
    /// Its id, for which the secret is sealed.
    pub id: WebhookId,
    /// Who makes it.
    pub token: TokenId,
    /// Where events go.
    pub url: &'a str,
    /// The sealed secret.
    pub secret: &'a [u8],
    /// Which key sealed it.
    pub sealed_by: &'a str,
    /// Kinds of events it wants; null for all.
    pub kinds: Option<&'a [EventKind]>,
    /// Projects whose events it wants; null for all.
    pub projects: Option<&'a [ProjectId]>,
}

/// Whose webhooks somebody sees.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// Its own.
    pub token: TokenId,
    /// And those of others too.
    pub sees_others: bool,
    /// But only those that keep to these projects; null for no such limit.
    pub projects: Option<&'a [ProjectId]>,
}

/// Makes a webhook; it hears of events that get their number from now on.
pub async fn insert(connection: &mut PgConnection, webhook: &NewWebhook<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into webhook (id, token, url, secret, sealed_by, kinds, projects, cursor)
         values ($1, $2, $3, $4, $5, $6, $7, (select coalesce(max(number), 0) from event))",
        webhook.id as WebhookId,
        webhook.token as TokenId,
        webhook.url,
        webhook.secret,
        webhook.sealed_by,
        webhook.kinds as Option<&[EventKind]>,
        webhook.projects as Option<&[ProjectId]>
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How many webhooks a token has.
pub async fn count_of(connection: &mut PgConnection, token: TokenId) -> Result<i64, StoreError> {
    let count =
        sqlx::query_scalar!(r#"select count(*) as "count!" from webhook where token = $1"#, token as TokenId)
            .fetch_one(connection)
            .await?;
    Ok(count)
}

/// Up to `limit` webhooks that somebody sees, after the one of id `after`, the oldest first; `only` picks one.
pub async fn list(
    connection: &mut PgConnection,
    sight: Sight<'_>,
    only: Option<WebhookId>,
    after: Option<WebhookId>,
    limit: i64,
) -> Result<Vec<WebhookRow>, StoreError> {
    let rows = sqlx::query_as!(
        WebhookRow,
        r#"select w.id as "id: WebhookId", w.token as "token: TokenId",
             (t.revoked_at is null and (t.expires_at is null or t.expires_at > now())) as "is_token_live!",
             w.url, w.sealed_by, w.kinds as "kinds: Vec<EventKind>", w.projects as "projects: Vec<ProjectId>", w.cursor,
             (select count(*) from webhook_delivery d where d.webhook = w.id and d.state = 'pending' and d.event_number is not null)
               as "pending_count!",
             w.failure_count, w.next_attempt_at, w.last_error, w.last_success_at, w.disabled_at,
             w.disabled_reason as "disabled_reason: DisabledReason", w.created_at
           from webhook w join token t on t.id = w.token
           where (w.token = $1 or ($2 and ($3::uuid[] is null or w.projects <@ $3)))
             and ($4::uuid is null or w.id = $4) and ($5::uuid is null or w.id > $5)
           order by w.id limit $6"#,
        sight.token as TokenId,
        sight.sees_others,
        sight.projects as Option<&[ProjectId]>,
        only as Option<WebhookId>,
        after as Option<WebhookId>,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// Locks a webhook against its sender, so that what follows in the transaction is one change. False when there is none.
pub async fn lock(connection: &mut PgConnection, id: WebhookId) -> Result<bool, StoreError> {
    let locked =
        sqlx::query_scalar!(r#"select 1 as "one!" from webhook where id = $1 for update"#, id as WebhookId)
            .fetch_optional(connection)
            .await?;
    Ok(locked.is_some())
}

/// Gives a webhook another address and another choice of events; events that wait for it go to the new address.
pub async fn write_target(
    connection: &mut PgConnection,
    id: WebhookId,
    url: &str,
    kinds: Option<&[EventKind]>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update webhook set url = $2, kinds = $3, lease = null, leased_until = null where id = $1",
        id as WebhookId,
        url,
        kinds as Option<&[EventKind]>
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives a webhook another sealed secret.
pub async fn write_secret(
    connection: &mut PgConnection,
    id: WebhookId,
    secret: &[u8],
    sealed_by: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update webhook set secret = $2, sealed_by = $3, lease = null, leased_until = null where id = $1",
        id as WebhookId,
        secret,
        sealed_by
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets a webhook send again, at once and with all its attempts.
pub async fn enable(connection: &mut PgConnection, id: WebhookId) -> Result<(), StoreError> {
    sqlx::query!(
        "update webhook set disabled_at = null, disabled_reason = null, failure_count = 0, next_attempt_at = now() where id = $1",
        id as WebhookId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Silences a webhook; its events wait. One that is silent keeps its reason.
pub async fn disable(
    connection: &mut PgConnection,
    id: WebhookId,
    reason: DisabledReason,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update webhook set disabled_at = now(), disabled_reason = $2, lease = null, leased_until = null
         where id = $1 and disabled_at is null",
        id as WebhookId,
        reason as DisabledReason
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes a webhook with its outbox. False when there is none.
pub async fn delete(connection: &mut PgConnection, id: WebhookId) -> Result<bool, StoreError> {
    let done = sqlx::query!("delete from webhook where id = $1", id as WebhookId).execute(connection).await?;
    Ok(done.rows_affected() == 1)
}

/// Takes the leases of up to `limit` webhooks that have something to send now and whose secret this server can read.
pub async fn claim(
    connection: &mut PgConnection,
    lease: Uuid,
    sealed_by: &str,
    lease_seconds: f64,
    limit: i64,
) -> Result<Vec<WebhookId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"with due as (
             select w.id from webhook w join token t on t.id = w.token
             where w.sealed_by = $2 and (w.leased_until is null or w.leased_until < now())
               and t.revoked_at is null and (t.expires_at is null or t.expires_at > now())
               and (
                 exists (select from webhook_delivery d where d.webhook = w.id and d.state = 'pending' and d.event_number is null)
                 or (w.disabled_at is null and w.next_attempt_at <= now() and (
                   w.cursor < (select coalesce(max(number), 0) from event)
                   or exists (select from webhook_delivery d where d.webhook = w.id and d.state = 'pending')
                 ))
               )
             order by w.next_attempt_at limit $4
             for update of w skip locked
           )
           update webhook w set lease = $1, leased_until = now() + make_interval(secs => $3)
           from due where w.id = due.id returning w.id as "id: WebhookId""#,
        lease,
        sealed_by,
        lease_seconds,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// What its sender needs to know of a leased webhook.
#[derive(Clone, Debug)]
pub struct LeasedWebhook {
    /// Where events go.
    pub url: String,
    /// The sealed secret.
    pub secret: Vec<u8>,
    /// Kinds of events it wants; null for all.
    pub kinds: Option<Vec<EventKind>>,
    /// Projects whose events it wants; null for all.
    pub projects: Option<Vec<ProjectId>>,
    /// Number of the last event that is in its outbox or doesn't concern it.
    pub cursor: i64,
    /// Failed attempts since the last success.
    pub failure_count: i32,
    /// Whether events may be sent now: it isn't silent and not waiting.
    pub sends_events: bool,
}

/// Prolongs a lease and locks its webhook for the transaction; `None` when the lease was lost.
pub async fn renew(
    connection: &mut PgConnection,
    id: WebhookId,
    lease: Uuid,
    lease_seconds: f64,
) -> Result<Option<LeasedWebhook>, StoreError> {
    let row = sqlx::query_as!(
        LeasedWebhook,
        r#"update webhook set leased_until = now() + make_interval(secs => $3) where id = $1 and lease = $2
           returning url, secret, kinds as "kinds: Vec<EventKind>", projects as "projects: Vec<ProjectId>", cursor, failure_count,
             (disabled_at is null and next_attempt_at <= now()) as "sends_events!""#,
        id as WebhookId,
        lease,
        lease_seconds
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Moves the cursor; in one transaction with the rows of the outbox that it passes.
pub async fn write_cursor(
    connection: &mut PgConnection,
    id: WebhookId,
    cursor: i64,
) -> Result<(), StoreError> {
    sqlx::query!("update webhook set cursor = $2 where id = $1", id as WebhookId, cursor)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes that the receiver took something. False when the lease was lost, after which its holder sends nothing more.
pub async fn note_success(
    connection: &mut PgConnection,
    id: WebhookId,
    lease: Uuid,
    lease_seconds: f64,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update webhook set failure_count = 0, last_error = null, last_success_at = now(), next_attempt_at = now(),
           leased_until = now() + make_interval(secs => $3)
         where id = $1 and lease = $2",
        id as WebhookId,
        lease,
        lease_seconds
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that the receiver refused an event, and when it is tried again; gives the lease back. False when the lease was lost.
pub async fn note_failure(
    connection: &mut PgConnection,
    id: WebhookId,
    lease: Uuid,
    error: &str,
    wait_seconds: f64,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update webhook set failure_count = failure_count + 1, last_error = $3,
           next_attempt_at = now() + make_interval(secs => $4), lease = null, leased_until = null
         where id = $1 and lease = $2",
        id as WebhookId,
        lease,
        error,
        wait_seconds
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives the lease of one webhook back, or all of a holder's.
pub async fn release(
    connection: &mut PgConnection,
    id: Option<WebhookId>,
    lease: Uuid,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update webhook set lease = null, leased_until = null where lease = $2 and ($1::uuid is null or id = $1)",
        id as Option<WebhookId>,
        lease
    )
    .execute(connection)
    .await?;
    Ok(())
}
