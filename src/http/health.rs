//! Whether the process lives and whether it can do its work.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use crate::store::migrate;

/// The key that `/readyz` looks for in the object store; its absence is as good an answer as its presence.
const PROBE_KEY: &str = "uploads/readyz";

/// One thing that the service needs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Check {
    /// What was asked.
    #[schema(example = "database")]
    name: &'static str,
    /// Whether it answered as it should.
    ok: bool,
    /// What is wrong, in general words; the log has more.
    detail: Option<&'static str>,
}

/// The answer of `/readyz`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether every check is ok.
    ready: bool,
    /// Each thing that was asked.
    checks: Vec<Check>,
}

/// Says that the process lives.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "get_health",
    tag = "operations",
    security(()),
    responses((status = 200, description = "The process lives", body = String, content_type = "text/plain")),
)]
pub async fn get_health() -> &'static str {
    "ok\n"
}

/// Says whether database, schema and object store answer.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "get_readiness",
    tag = "operations",
    security(()),
    responses(
        (status = 200, description = "All answer", body = Readiness),
        (status = 503, description = "Something is away", body = Readiness),
    ),
)]
pub async fn get_readiness(State(app): State<AppState>) -> Response {
    let (database, schema) = match app.store.schema_version().await {
        Ok(version) => {
            let current = version == Some(migrate::program_version());
            (
                check("database", true, ""),
                check("schema", current, "the migrations are not current; run `gleaner migrate`"),
            )
        }
        Err(error) => {
            tracing::warn!(error.cause = %error, "the database does not answer");
            (
                check("database", false, "the database does not answer"),
                check("schema", false, "the database does not answer"),
            )
        }
    };
    let storage = match app.blob.exists(PROBE_KEY).await {
        Ok(_) => check("storage", true, ""),
        Err(error) => {
            tracing::warn!(error.cause = %error, "the object store does not answer");
            check("storage", false, "the object store does not answer")
        }
    };
    let checks = vec![database, schema, storage];
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(Readiness { ready, checks })).into_response()
}

fn check(name: &'static str, ok: bool, detail: &'static str) -> Check {
    Check { name, ok, detail: (!ok).then_some(detail) }
}
