//! What labelers have done: everybody for operators, oneself for a labeler.

use axum::extract::State;
use chrono::{DateTime, Days, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::ids::TokenId;
use crate::domain::role::Role;
use crate::http::AppState;
use crate::http::auth::{Labeler, Operator, find_project};
use crate::http::extract::{Path, Query};
use crate::http::problem::{ApiError, Problem};
use crate::store;
use crate::store::labeler::LabelerRow;

/// Labelers listed at most.
const LABELER_COUNT_MAX: i64 = 1000;

/// Everybody who has worked in a project.
#[derive(Debug, Serialize, ToSchema)]
pub struct Labelers {
    /// The busiest first, 1000 at most.
    items: Vec<LabelerAnswer>,
}

/// A labeler's work in a project.
#[derive(Debug, Serialize, ToSchema)]
pub struct LabelerAnswer {
    /// The token's id.
    labeler: TokenId,
    name: String,
    role: Role,
    /// Labels that were accepted and stand.
    label_count: i64,
    /// Labels taken back.
    undone_count: i64,
    /// Labels given another class later.
    corrected_count: i64,
    /// Tasks skipped.
    skip_count: i64,
    /// Tasks in its hands now.
    held_count: i64,
    /// Median of the seconds a label took, as clients measured them; null when none did.
    seconds_median: Option<f64>,
    last_label_at: Option<DateTime<Utc>>,
}

impl From<LabelerRow> for LabelerAnswer {
    fn from(row: LabelerRow) -> Self {
        Self {
            labeler: row.labeler,
            name: row.name,
            role: row.role,
            label_count: row.label_count,
            undone_count: row.undone_count,
            corrected_count: row.corrected_count,
            skip_count: row.skip_count,
            held_count: row.held_count,
            seconds_median: row.seconds_median,
            last_label_at: row.last_label_at,
        }
    }
}

/// Lists everybody who has labelled or skipped in a project.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/labelers",
    operation_id = "list_labelers",
    tag = "results",
    params(("project" = String, Path, description = "Name or id")),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The labelers", body = Labelers),
    ),
)]
pub async fn list_labelers(
    State(app): State<AppState>,
    caller: Operator,
    Path(project): Path<String>,
) -> Result<axum::Json<Labelers>, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let rows = store::labeler::list(&mut connection, row.id, LABELER_COUNT_MAX).await?;
    Ok(axum::Json(Labelers { items: rows.into_iter().map(LabelerAnswer::from).collect() }))
}

/// From when on one's work is counted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatisticsQuery {
    /// The begin of one's day, say; a day ago when absent.
    since: Option<DateTime<Utc>>,
}

/// The caller's own work in a project.
#[derive(Debug, Serialize, ToSchema)]
pub struct Statistics {
    since: DateTime<Utc>,
    /// Labels since then that were accepted and stand.
    label_count: i64,
    /// Tasks skipped since then.
    skip_count: i64,
    /// Median of the seconds a label took since then; null when no client measured it.
    seconds_median: Option<f64>,
    /// Labels in all that were accepted and stand.
    total_label_count: i64,
}

/// Counts the caller's own work.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/statistics",
    operation_id = "get_own_statistics",
    tag = "labeling",
    params(("project" = String, Path, description = "Name or id"), StatisticsQuery),
    responses(
        (status = 200, description = "The caller's work", body = Statistics),
    ),
)]
pub async fn get_own_statistics(
    State(app): State<AppState>,
    caller: Labeler,
    Path(project): Path<String>,
    Query(query): Query<StatisticsQuery>,
) -> Result<axum::Json<Statistics>, ApiError> {
    let now = Utc::now();
    let since = query.since.unwrap_or_else(|| now.checked_sub_days(Days::new(1)).unwrap_or(now));
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let own = store::labeler::find_own(&mut connection, row.id, caller.token, since).await?;
    Ok(axum::Json(Statistics {
        since,
        label_count: own.label_count,
        skip_count: own.skip_count,
        seconds_median: own.seconds_median,
        total_label_count: own.total_label_count,
    }))
}
