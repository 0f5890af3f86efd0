//! Measurements of requests, and `/metrics` in Prometheus' text form.
//!
//! Requests are counted by the route's pattern, never by the path, so that a scanner can't make a million series.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::auth::MaybeCaller;
use super::problem::{ApiError, ProblemKind};
use crate::domain::role::Role;
use crate::telemetry::metric;

/// Middleware: counts and times each request.
pub async fn track(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().as_str().to_owned();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    let status = response.status().as_str().to_owned();
    metrics::histogram!(metric::HTTP_REQUEST_SECONDS, "method" => method.clone(), "route" => route.clone())
        .record(started.elapsed().as_secs_f64());
    metrics::counter!(metric::HTTP_REQUESTS_TOTAL, "method" => method, "route" => route, "status" => status)
        .increment(1);
    response
}

/// Measurements in Prometheus' text form; open to operators, or to all when the service is told so.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "get_metrics",
    tag = "operations",
    responses((status = 200, description = "Prometheus' text form", body = String, content_type = "text/plain; version=0.0.4")),
)]
pub async fn get_metrics(State(app): State<AppState>, caller: MaybeCaller) -> Result<Response, ApiError> {
    if !app.metrics_open {
        caller.require(Role::Operator)?;
    }
    match &app.metrics {
        Some(recorder) => {
            Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], recorder.render()).into_response())
        }
        None => Err(ApiError::new(ProblemKind::NotFound, "this process records no metrics")),
    }
}
