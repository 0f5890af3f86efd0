//! Webhooks: where events are sent, changed, tried out and sent again.
//!
//! A tool sees and changes its own; an operator those of others too, as far as they keep to the projects that it may touch.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::access::principal::Principal;
use crate::domain::event::EventKind;
use crate::domain::ids::{DeliveryId, ProjectId, TokenId, WebhookId};
use crate::domain::role::Role;
use crate::domain::webhook::{DeliveryOrigin, DeliveryState, DisabledReason};
use crate::http::AppState;
use crate::http::auth::Tool;
use crate::http::extract::{Json, List, Page, PageQuery, Path, Query};
use crate::http::idempotency::{Begun, Post};
use crate::http::problem::{ApiError, Problem};
use crate::http::v1::control::NoFields;
use crate::store::webhook::{self, NewWebhook, Sight, WebhookRow};
use crate::store::webhook_delivery::{self, DeliveryRow};
use crate::store::{self, PgConnection};
use crate::webhooks::{SigningSecret, seal_secret};

/// Webhooks that one token may have.
const WEBHOOK_COUNT_MAX: i64 = 100;

/// Events that one call sends again.
const REDELIVERY_COUNT_MAX: i64 = 10_000;

/// Where to send what.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"url": "https://tools.example.org/gleaner", "events": ["label.accepted", "round.opened"], "projects": null}))]
pub struct CreateWebhook {
    /// An http(s) address without user name and password, at most 2,000 bytes. Private addresses need the operator's leave.
    url: String,
    /// Kinds of events; all when null.
    #[serde(default)]
    events: Option<Vec<EventKind>>,
    /// Projects; all that the token may touch when null.
    #[serde(default)]
    projects: Option<Vec<ProjectId>>,
}

/// A new webhook or a new secret; its text is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookSecretAnswer {
    /// The webhook.
    id: WebhookId,
    /// `whsec_` and Base64: what signs the messages; null when an earlier answer is replayed, since nobody can be shown it again.
    secret: Option<String>,
}

/// How a webhook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookState {
    /// Its receiver took the last message, or none was sent yet.
    Active,
    /// Its receiver refused; it is tried again.
    Retrying,
    /// It sends nothing until it is enabled.
    Disabled,
    /// The token that made it has ended; it sends nothing.
    OwnerEnded,
    /// Its secret was sealed by a server with another key, and this one can't read it; give it a new secret.
    SecretUnreadable,
}

/// A webhook.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookAnswer {
    id: WebhookId,
    /// The token that made it.
    owner: TokenId,
    url: String,
    /// Kinds of events; all when null.
    events: Option<Vec<EventKind>>,
    /// Projects; all when null.
    projects: Option<Vec<ProjectId>>,
    state: WebhookState,
    disabled_reason: Option<DisabledReason>,
    disabled_at: Option<DateTime<Utc>>,
    /// Events up to this number were sent, wait in the outbox, or don't concern it.
    cursor: i64,
    /// Events in the outbox that the receiver hasn't taken.
    pending_count: i64,
    /// Failed attempts since the last success.
    failure_count: i32,
    /// When it is tried next; null unless it is retrying.
    next_attempt_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
    last_success_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl WebhookAnswer {
    fn new(row: WebhookRow, app: &AppState) -> Self {
        let state = if row.disabled_at.is_some() {
            WebhookState::Disabled
        } else if !row.is_token_live {
            WebhookState::OwnerEnded
        } else if row.sealed_by != app.key.fingerprint() {
            WebhookState::SecretUnreadable
        } else if row.failure_count > 0 {
            WebhookState::Retrying
        } else {
            WebhookState::Active
        };
        Self {
            id: row.id,
            owner: row.token,
            url: row.url,
            events: row.kinds,
            projects: row.projects,
            state,
            disabled_reason: row.disabled_reason,
            disabled_at: row.disabled_at,
            cursor: row.cursor,
            pending_count: row.pending_count,
            failure_count: row.failure_count,
            next_attempt_at: (state == WebhookState::Retrying).then_some(row.next_attempt_at),
            last_error: row.last_error,
            last_success_at: row.last_success_at,
            created_at: row.created_at,
        }
    }
}

/// Makes a webhook and shows its secret once. It hears of what happens from now on.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks",
    operation_id = "create_webhook",
    tag = "webhooks",
    request_body = CreateWebhook,
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 201, description = "The webhook's secret", body = WebhookSecretAnswer),
    ),
)]
pub async fn create_webhook(
    State(app): State<AppState>,
    caller: Tool,
    post: Post<CreateWebhook>,
) -> Result<Response, ApiError> {
    let request = post.body;
    let url = check_url(&app, &request.url)?;
    check_events(request.events.as_deref())?;
    let mut work = match post.call.begin(&app, caller.token).await? {
        Begun::Replay(replay) => return Ok(replay.into_response()),
        Begun::Work(work) => work,
    };
    let projects = check_projects(work.connection(), &caller, request.projects).await?;
    if webhook::count_of(work.connection(), caller.token).await? >= WEBHOOK_COUNT_MAX {
        let detail =
            format!("the token has {WEBHOOK_COUNT_MAX} webhooks, which is all it may have; delete one");
        return Err(ApiError::conflict(detail));
    }
    let id = WebhookId::generate();
    let secret = SigningSecret::mint().map_err(ApiError::internal)?;
    let sealed = seal_secret(&app.key, id, &secret).map_err(ApiError::internal)?;
    let fresh = NewWebhook {
        id,
        token: caller.token,
        url: &url,
        secret: &sealed.bytes,
        sealed_by: &sealed.sealed_by,
        kinds: request.events.as_deref(),
        projects: projects.as_deref(),
    };
    webhook::insert(work.connection(), &fresh).await?;
    work.keep(StatusCode::CREATED, &WebhookSecretAnswer { id, secret: None }).await?;
    let shown = WebhookSecretAnswer { id, secret: Some(secret.expose()) };
    Ok((StatusCode::CREATED, axum::Json(shown)).into_response())
}

/// Lists webhooks: a tool's own; for an operator those of others too.
#[utoipa::path(
    get,
    path = "/api/v1/webhooks",
    operation_id = "list_webhooks",
    tag = "webhooks",
    params(PageQuery),
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "A page of webhooks", body = Page<WebhookAnswer>),
    ),
)]
pub async fn list_webhooks(
    State(app): State<AppState>,
    caller: Tool,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<WebhookAnswer>>, ApiError> {
    let list = List::new("webhooks", &[]);
    let (limit, after) = (query.limit()?, list.after::<WebhookId>(&query)?);
    let mut connection = app.store.acquire().await?;
    let rows = webhook::list(&mut connection, sight(&caller), None, after, i64::from(limit)).await?;
    Ok(axum::Json(Page::new(rows, limit, |row| list.cursor(row.id), |row| WebhookAnswer::new(row, &app))))
}

/// Shows a webhook.
#[utoipa::path(
    get,
    path = "/api/v1/webhooks/{webhook}",
    operation_id = "get_webhook",
    tag = "webhooks",
    params(("webhook" = Uuid, Path, description = "The webhook's id")),
    responses(
        (status = 200, description = "The webhook", body = WebhookAnswer),
    ),
)]
pub async fn get_webhook(
    State(app): State<AppState>,
    caller: Tool,
    Path(id): Path<WebhookId>,
) -> Result<axum::Json<WebhookAnswer>, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = find_webhook(&mut connection, &caller, id).await?;
    Ok(axum::Json(WebhookAnswer::new(row, &app)))
}

/// What is to change; what isn't named stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"enabled": true}))]
pub struct ChangeWebhook {
    /// False silences it, and its events wait; true sends them at once, also after it was given up.
    #[serde(default)]
    enabled: Option<bool>,
    /// Another address; what waits goes there.
    #[serde(default)]
    url: Option<String>,
    /// Kinds of events from now on; all when null.
    #[serde(default, deserialize_with = "named")]
    #[schema(value_type = Option<Vec<EventKind>>)]
    events: Option<Option<Vec<EventKind>>>,
}

/// Tells a field that is null from one that isn't there.
fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Changes a webhook, silences it or lets it send again.
#[utoipa::path(
    patch,
    path = "/api/v1/webhooks/{webhook}",
    operation_id = "change_webhook",
    tag = "webhooks",
    params(("webhook" = Uuid, Path, description = "The webhook's id")),
    request_body = ChangeWebhook,
    responses(
        (status = 200, description = "The webhook as it is now", body = WebhookAnswer),
    ),
)]
pub async fn change_webhook(
    State(app): State<AppState>,
    caller: Tool,
    Path(id): Path<WebhookId>,
    Json(request): Json<ChangeWebhook>,
) -> Result<axum::Json<WebhookAnswer>, ApiError> {
    let url = request.url.as_deref().map(|url| check_url(&app, url)).transpose()?;
    check_events(request.events.as_ref().and_then(Option::as_deref))?;
    let mut tx = app.store.begin().await?;
    let row = lock_webhook(&mut tx, &caller, id).await?;
    if url.is_some() || request.events.is_some() {
        let kinds = request.events.unwrap_or(row.kinds);
        webhook::write_target(&mut tx, id, &url.unwrap_or(row.url), kinds.as_deref()).await?;
    }
    match request.enabled {
        Some(true) => webhook::enable(&mut tx, id).await?,
        Some(false) => webhook::disable(&mut tx, id, DisabledReason::Operator).await?,
        None => {}
    }
    let row = find_webhook(&mut tx, &caller, id).await?;
    app.commit(tx).await?;
    Ok(axum::Json(WebhookAnswer::new(row, &app)))
}

/// Removes a webhook; what it hasn't sent yet is never sent.
#[utoipa::path(
    delete,
    path = "/api/v1/webhooks/{webhook}",
    operation_id = "delete_webhook",
    tag = "webhooks",
    params(("webhook" = Uuid, Path, description = "The webhook's id")),
    responses(
        (status = 204, description = "Removed"),
    ),
)]
pub async fn delete_webhook(
    State(app): State<AppState>,
    caller: Tool,
    Path(id): Path<WebhookId>,
) -> Result<StatusCode, ApiError> {
    let mut tx = app.store.begin().await?;
    lock_webhook(&mut tx, &caller, id).await?;
    webhook::delete(&mut tx, id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replaces a webhook's secret and shows the new one once; the old one signs nothing more.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/{webhook}/secret",
    operation_id = "replace_webhook_secret",
    tag = "webhooks",
    params(("webhook" = Uuid, Path, description = "The webhook's id")),
    responses(
        (status = 200, description = "The webhook's new secret", body = WebhookSecretAnswer),
    ),
)]
pub async fn replace_webhook_secret(
    State(app): State<AppState>,
    caller: Tool,
    Path(id): Path<WebhookId>,
    post: Post<NoFields>,
) -> Result<Response, ApiError> {
    let mut work = match post.call.begin(&app, caller.token).await? {
        Begun::Replay(replay) => return Ok(replay.into_response()),
        Begun::Work(work) => work,
    };
    lock_webhook(work.connection(), &caller, id).await?;
    let secret = SigningSecret::mint().map_err(ApiError::internal)?;
    let sealed = seal_secret(&app.key, id, &secret).map_err(ApiError::internal)?;
    webhook::write_secret(work.connection(), id, &sealed.bytes, &sealed.sealed_by).await?;
    work.keep(StatusCode::OK, &WebhookSecretAnswer { id, secret: None }).await?;
    Ok(axum::Json(WebhookSecretAnswer { id, secret: Some(secret.expose()) }).into_response())
}

/// A test that was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct TestAnswer {
    /// Names it among the deliveries, where its outcome stands.
    delivery: DeliveryId,
}

/// Sends a message of type `webhook.test` within a second, also from a disabled webhook; its outcome stands among the deliveries.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/{webhook}/test",
    operation_id = "test_webhook",
    tag = "webhooks",
    params(("webhook" = Uuid, Path, description = "The webhook's id")),
    responses(
        (status = 202, description = "The test's delivery", body = TestAnswer),
    ),
)]
pub async fn test_webhook(
    State(app): State<AppState>,
    caller: Tool,
    Path(id): Path<WebhookId>,
    post: Post<NoFields>,
) -> Result<Response, ApiError> {
    let mut work = match post.call.begin(&app, caller.token).await? {
        Begun::Replay(replay) => return Ok(replay.into_response()),
        Begun::Work(work) => work,
    };
    lock_webhook(work.connection(), &caller, id).await?;
    let delivery = webhook_delivery::insert_test(work.connection(), id).await?;
    work.finish(StatusCode::ACCEPTED, &TestAnswer { delivery }).await
}

/// Which events are sent again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"from": 42, "to": 57}))]
pub struct RedeliverEvents {
    /// Number of the first event.
    #[schema(minimum = 1)]
    from: i64,
    /// Number of the last event, at most 9,999 after the first; the first alone when null.
    #[serde(default)]
    to: Option<i64>,
}

/// Events that will be sent again.
#[derive(Debug, Serialize, ToSchema)]
pub struct RedeliveryAnswer {
    /// How many events of the range concern the webhook and didn't wait already.
    count: u64,
}

/// Sends events again by their numbers, before what waits. Numbers after the webhook's cursor need no asking: they come anyway.
#[utoipa::path(
    post,
    path = "/api/v1/webhooks/{webhook}/redeliveries",
    operation_id = "redeliver_events",
    tag = "webhooks",
    params(("webhook" = Uuid, Path, description = "The webhook's id")),
    request_body = RedeliverEvents,
    responses(
        (status = 202, description = "How many are sent again", body = RedeliveryAnswer),
    ),
)]
pub async fn redeliver_events(
    State(app): State<AppState>,
    caller: Tool,
    Path(id): Path<WebhookId>,
    post: Post<RedeliverEvents>,
) -> Result<Response, ApiError> {
    let from = post.body.from;
    let to = post.body.to.unwrap_or(from);
    if from < 1 {
        return Err(ApiError::invalid_field("from", "must be the number of an event, 1 or more"));
    }
    if !(0..REDELIVERY_COUNT_MAX).contains(&to.saturating_sub(from)) {
        return Err(ApiError::invalid_field("to", "must be 0 to 9999 after 'from'"));
    }
    let mut work = match post.call.begin(&app, caller.token).await? {
        Begun::Replay(replay) => return Ok(replay.into_response()),
        Begun::Work(work) => work,
    };
    let row = lock_webhook(work.connection(), &caller, id).await?;
    let connection = work.connection();
    let candidates = webhook_delivery::list_candidates(
        connection,
        from - 1,
        row.kinds.as_deref(),
        row.projects.as_deref(),
        REDELIVERY_COUNT_MAX,
    )
    .await?;
    let last = to.min(row.cursor);
    let numbers: Vec<i64> = candidates
        .into_iter()
        .filter(|(number, is_wanted)| *is_wanted && *number <= last)
        .map(|(number, _)| number)
        .collect();
    let count = webhook_delivery::insert_all(connection, id, &numbers, DeliveryOrigin::Redelivery).await?;
    work.finish(StatusCode::ACCEPTED, &RedeliveryAnswer { count }).await
}

/// One event, or a test, on its way to a webhook.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryAnswer {
    id: DeliveryId,
    /// The event's number; null for a test.
    event: Option<i64>,
    /// The event's kind; null for a test.
    kind: Option<EventKind>,
    origin: DeliveryOrigin,
    state: DeliveryState,
    attempt_count: i32,
    /// The receiver's HTTP status in the last attempt; null when no answer came.
    status: Option<i32>,
    /// Why the last attempt failed.
    error: Option<String>,
    /// How long the last attempt took.
    duration_ms: Option<i32>,
    created_at: DateTime<Utc>,
    attempted_at: Option<DateTime<Utc>>,
}

impl From<DeliveryRow> for DeliveryAnswer {
    fn from(row: DeliveryRow) -> Self {
        Self {
            id: row.id,
            event: row.event_number,
            kind: row.kind,
            origin: row.origin,
            state: row.state,
            attempt_count: row.attempt_count,
            status: row.status,
            error: row.error,
            duration_ms: row.duration_ms,
            created_at: row.created_at,
            attempted_at: row.attempted_at,
        }
    }
}

/// Lists a webhook's deliveries, the newest first; those that are done are kept for 30 days.
#[utoipa::path(
    get,
    path = "/api/v1/webhooks/{webhook}/deliveries",
    operation_id = "list_deliveries",
    tag = "webhooks",
    params(("webhook" = Uuid, Path, description = "The webhook's id"), PageQuery),
    responses(
        (status = 200, description = "A page of deliveries", body = Page<DeliveryAnswer>),
    ),
)]
pub async fn list_deliveries(
    State(app): State<AppState>,
    caller: Tool,
    Path(id): Path<WebhookId>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<DeliveryAnswer>>, ApiError> {
    let list = List::new("deliveries", &[&id]);
    let (limit, before) = (query.limit()?, list.after::<DeliveryId>(&query)?);
    let mut connection = app.store.acquire().await?;
    find_webhook(&mut connection, &caller, id).await?;
    let rows = webhook_delivery::list(&mut connection, id, before, i64::from(limit)).await?;
    Ok(axum::Json(Page::new(rows, limit, |row| list.cursor(row.id), DeliveryAnswer::from)))
}

fn sight(caller: &Principal) -> Sight<'_> {
    Sight {
        token: caller.token,
        sees_others: caller.has_role(Role::Operator),
        projects: caller.projects.as_deref(),
    }
}

async fn find_webhook(
    connection: &mut PgConnection,
    caller: &Principal,
    id: WebhookId,
) -> Result<WebhookRow, ApiError> {
    let found = webhook::list(connection, sight(caller), Some(id), None, 1).await?;
    found.into_iter().next().ok_or_else(|| ApiError::not_found("webhook", id))
}

/// Finds a webhook that the caller sees and keeps its sender out until the transaction ends.
async fn lock_webhook(
    connection: &mut PgConnection,
    caller: &Principal,
    id: WebhookId,
) -> Result<WebhookRow, ApiError> {
    webhook::lock(connection, id).await?;
    find_webhook(connection, caller, id).await
}

fn check_url(app: &AppState, url: &str) -> Result<String, ApiError> {
    let address =
        app.outside.address(url).map_err(|error| ApiError::invalid_field("url", error.to_string()))?;
    Ok(address.as_str().to_owned())
}

fn check_events(events: Option<&[EventKind]>) -> Result<(), ApiError> {
    match events {
        Some([]) => Err(ApiError::invalid_field("events", "must name at least one kind, or be null for all")),
        _ => Ok(()),
    }
}

/// The projects of a new webhook: those asked for, all of which must be the caller's, or all that the caller may touch.
async fn check_projects(
    connection: &mut PgConnection,
    caller: &Principal,
    projects: Option<Vec<ProjectId>>,
) -> Result<Option<Vec<ProjectId>>, ApiError> {
    let Some(projects) = projects else {
        return Ok(caller.projects.as_ref().map(|projects| projects.to_vec()));
    };
    if projects.is_empty() || projects.len() > 1000 {
        return Err(ApiError::invalid_field("projects", "must name 1 to 1000 projects, or be null for all"));
    }
    for (index, id) in projects.iter().enumerate() {
        if !caller.may_touch(*id) || store::project::find(connection, *id).await?.is_none() {
            let detail = format!("there is no project {id}, or the token may not see it");
            return Err(ApiError::invalid_field(format!("projects.{index}"), detail));
        }
    }
    Ok(Some(projects))
}
