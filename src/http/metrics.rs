//! Measurements of requests, and `/metrics` in Prometheus' text form.
//!
//! Requests are counted by the route's pattern, never by the path, so that a scanner can't make a million series. Gauges of the loop are read
//! from the database when somebody scrapes, and again after a few seconds at the earliest, so that several scrapers cost one reading. Any API server shows
//! the whole house; counters and the engine are its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::auth::MaybeCaller;
use super::problem::{ApiError, ProblemKind};
use crate::domain::job::JobKind;
use crate::domain::project::ProjectState;
use crate::domain::role::Role;
use crate::store::StoreError;
use crate::store::gauge::{self, JobGauges, ProjectGauges};
use crate::telemetry::metric;

/// How long a reading of the gauges serves.
const READING_LIFETIME: Duration = Duration::from_secs(5);

/// When the gauges were last read.
#[derive(Clone, Debug, Default)]
pub struct GaugeReading(Arc<tokio::sync::Mutex<Option<Instant>>>);

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
    let Some(recorder) = &app.metrics else {
        return Err(ApiError::new(ProblemKind::NotFound, "this process records no metrics"));
    };
    read_gauges(&app).await;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], recorder.render()).into_response())
}

/// Sets the gauges unless that was done a moment ago. What can't be read is left out, since the rest is wanted most when something is down.
async fn read_gauges(app: &AppState) {
    let mut read_at = app.gauge_reading.0.lock().await;
    if read_at.is_some_and(|at| at.elapsed() < READING_LIFETIME) {
        return;
    }
    *read_at = Some(Instant::now());
    if let Err(error) = read_stored(app).await {
        tracing::warn!(error.cause = %error, "the gauges of the loop can't be read");
    }
    let (idle, used) = app.store.connection_counts();
    for (state, count) in [("idle", idle), ("used", used)] {
        metrics::gauge!(metric::DATABASE_CONNECTIONS, "state" => state).set(count as f64);
    }
    if let Some(engine) = &app.engine {
        let (work, predictions) = engine.waiting_counts();
        for (line, count) in [("work", work), ("prediction", predictions)] {
            metrics::gauge!(metric::ENGINE_QUEUE_DEPTH, "line" => line).set(count as f64);
        }
    }
}

async fn read_stored(app: &AppState) -> Result<(), StoreError> {
    let mut connection = app.store.acquire().await?;
    gauge::list_projects(&mut connection).await?.into_iter().for_each(show_project);
    let jobs = gauge::list_jobs(&mut connection).await?;
    for kind in JobKind::ALL {
        // A kind without jobs is shown with zeros, or its last numbers would stand on.
        let known = jobs.iter().find(|job| job.kind == kind);
        show_job(known.unwrap_or(&JobGauges::none(kind)));
    }
    let age_seconds = gauge::find_unnumbered_age_seconds(&mut connection).await?;
    metrics::gauge!(metric::EVENT_UNNUMBERED_AGE_SECONDS).set(age_seconds);
    Ok(())
}

fn show_project(project: ProjectGauges) {
    let name = project.name;
    let present = if project.is_failed { "failed" } else { project.state.as_str() };
    for state in ProjectState::ALL.map(ProjectState::as_str).into_iter().chain(["failed"]) {
        let value = f64::from(u8::from(state == present));
        metrics::gauge!(metric::PROJECT_STATE, "project" => name.clone(), "state" => state).set(value);
    }
    let values = [
        (metric::PROJECT_PAUSED, Some(f64::from(u8::from(project.paused)))),
        (metric::PROJECT_POOL_ITEMS, Some(project.pool_count as f64)),
        (metric::PROJECT_LABELED_ITEMS, Some(project.labeled_count as f64)),
        (metric::PROJECT_BUDGET, Some(project.budget)),
        (metric::PROJECT_SPENT, Some(project.spent)),
        (metric::PROJECT_OPEN_SLOTS, Some(project.open_count as f64)),
        (metric::PROJECT_LEASED_SLOTS, Some(project.leased_count as f64)),
        (metric::PROJECT_SCORED_FRACTION, project.scored_fraction),
        (metric::PROJECT_MODEL_VERSION, Some(f64::from(project.model_version.unwrap_or_default()))),
        (metric::PROJECT_TEST_ACCURACY, project.test_accuracy),
        (metric::PROJECT_TRAINING_LOSS, project.training_loss),
    ];
    for (gauge, value) in values {
        if let Some(value) = value {
            metrics::gauge!(gauge, "project" => name.clone()).set(value);
        }
    }
}

fn show_job(job: &JobGauges) {
    let values = [
        (metric::JOB_QUEUE_DEPTH, job.queued_count as f64),
        (metric::JOB_RUNNING, job.running_count as f64),
        (metric::JOB_FAILED, job.failed_count as f64),
        (metric::JOB_WAIT_SECONDS, job.wait_seconds),
        (metric::JOB_AGE_SECONDS, job.age_seconds),
        (metric::JOB_RATE, job.rate),
    ];
    for (gauge, value) in values {
        metrics::gauge!(gauge, "kind" => job.kind.as_str()).set(value);
    }
}
