//! Events as Server-Sent Events: each with its number as id, so that a reader goes on where it was (`Last-Event-ID`).

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::domain::event::EventKind;
use crate::domain::ids::ProjectId;
use crate::events::{EventRow, Subscription};
use crate::http::auth::{Operator, Tool, find_project};
use crate::http::extract::{Path, Query};
use crate::http::problem::{ApiError, Problem};
use crate::http::{AppState, Stopping};
use crate::store;

/// How often a silent stream shows that it lives, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where a stream begins.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// The number after which to begin; 0 for all there ever were. Absent: from now on. `Last-Event-ID` overrides it.
    #[param(minimum = 0)]
    after: Option<i64>,
}

/// Where the stream of a project begins.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProjectEventQuery {
    /// The number after which to begin; 0 for all there ever were. Absent: from now on. `Last-Event-ID` overrides it.
    #[param(minimum = 0)]
    after: Option<i64>,
    /// Begins with so many of the newest events, 1 to 1000, where neither `after` nor `Last-Event-ID` says where.
    #[param(minimum = 1, maximum = 1000)]
    last: Option<u32>,
}

/// The `data` of an event; its `id` is the number and its `event` the kind.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventAnswer {
    /// Place in the order of commits, without gaps.
    number: i64,
    kind: EventKind,
    project: Option<ProjectId>,
    /// What the kind says; labelers' names are their tokens' ids.
    payload: Value,
    created_at: DateTime<Utc>,
}

impl From<&EventRow> for EventAnswer {
    fn from(row: &EventRow) -> Self {
        Self {
            number: row.number,
            kind: row.kind,
            project: row.project,
            payload: row.payload.clone(),
            created_at: row.created_at,
        }
    }
}

/// Streams the events of a project.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/events",
    operation_id = "stream_project_events",
    tag = "events",
    params(
        ("project" = String, Path, description = "Name or id"),
        ProjectEventQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "The number of the last event that was seen"),
    ),
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "Server-Sent Events", body = EventAnswer, content_type = "text/event-stream"),
    ),
)]
pub async fn stream_project_events(
    State(app): State<AppState>,
    caller: Tool,
    Path(project): Path<String>,
    Query(query): Query<ProjectEventQuery>,
    headers: HeaderMap,
    stopping: Option<Extension<Stopping>>,
) -> Result<Response, ApiError> {
    let mut after = resume_after(&headers, query.after)?;
    if query.last.is_some_and(|last| !(1..=1000).contains(&last)) {
        return Err(ApiError::invalid_field("last", "must be 1 to 1000"));
    }
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    if let (None, Some(last)) = (after, query.last) {
        after = Some(store::event::find_number_before(&mut connection, row.id, i64::from(last)).await?);
    }
    drop(connection);
    Ok(stream(app.events.subscribe(Some(vec![row.id]), after).await?, stopping))
}

/// Streams the events of all projects that the token may touch.
#[utoipa::path(
    get,
    path = "/api/v1/events",
    operation_id = "stream_events",
    tag = "events",
    params(EventQuery, ("Last-Event-ID" = Option<i64>, Header, description = "The number of the last event that was seen")),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "Server-Sent Events", body = EventAnswer, content_type = "text/event-stream"),
    ),
)]
pub async fn stream_events(
    State(app): State<AppState>,
    caller: Operator,
    Query(query): Query<EventQuery>,
    headers: HeaderMap,
    stopping: Option<Extension<Stopping>>,
) -> Result<Response, ApiError> {
    let after = resume_after(&headers, query.after)?;
    let projects = caller.projects.as_ref().map(|projects| projects.to_vec());
    Ok(stream(app.events.subscribe(projects, after).await?, stopping))
}

fn resume_after(headers: &HeaderMap, after: Option<i64>) -> Result<Option<i64>, ApiError> {
    match headers.get("last-event-id") {
        None => Ok(after),
        Some(value) => match value.to_str().ok().and_then(|text| text.trim().parse().ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(ApiError::invalid_field("Last-Event-ID", "must be the number of an event")),
        },
    }
}

fn stream(subscription: Subscription, stopping: Option<Extension<Stopping>>) -> Response {
    let stopped = async {
        match stopping {
            Some(Extension(stopping)) => stopping.stopped().await,
            None => std::future::pending().await,
        }
    };
    let body = Sse::new(frames(subscription).take_until(Box::pin(stopped)))
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Proxies that buffer would hold events back.
    ([("x-accel-buffering", "no")], body).into_response()
}

/// The stream ends when the database is lost; the browser then comes back by itself with the last number it saw.
fn frames(subscription: Subscription) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    subscription
        .into_stream()
        .scan((), |(), next| {
            let row = next
                .inspect_err(|error| tracing::warn!(error.cause = %error, "an event stream lost the database and was closed"));
            std::future::ready(row.ok())
        })
        .map(|row| {
            let data = json!(EventAnswer::from(row.as_ref()));
            Ok(Event::default().id(row.number.to_string()).event(row.kind.as_str()).data(data.to_string()))
        })
}
