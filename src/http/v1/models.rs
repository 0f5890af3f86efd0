//! Published models: their lineage, measurements and weights.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio_util::io::ReaderStream;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::auth::{Labeler, Tool, find_project};
use crate::http::extract::{Page, PageQuery, Path, Query};
use crate::http::problem::{ApiError, Problem};
use crate::store;
use crate::store::model::ModelRow;

/// A published model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelAnswer {
    version: i32,
    /// The round whose labels trained it.
    round: i32,
    /// Accuracy on the test split; null without one.
    test_accuracy: Option<f64>,
    /// Items of the test split.
    test_count: i32,
    /// Labelled items it learned from.
    label_count: i32,
    /// How it was trained: backbone, classes, pretext model, seed, kernel variant, threads.
    manifest: Value,
    created_at: DateTime<Utc>,
}

impl From<ModelRow> for ModelAnswer {
    fn from(row: ModelRow) -> Self {
        Self {
            version: row.version,
            round: row.round,
            test_accuracy: row.test_accuracy,
            test_count: row.test_count,
            label_count: row.label_count,
            manifest: row.manifest,
            created_at: row.created_at,
        }
    }
}

/// Lists published models, the first one first.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/models",
    operation_id = "list_models",
    tag = "results",
    params(("project" = String, Path, description = "Name or id"), PageQuery),
    responses(
        (status = 200, description = "A page of models", body = Page<ModelAnswer>),
    ),
)]
pub async fn list_models(
    State(app): State<AppState>,
    caller: Labeler,
    Path(project): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<ModelAnswer>>, ApiError> {
    let (limit, after) = (query.limit()?, query.after::<i32>()?);
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let rows = store::model::list(&mut connection, row.id, after.unwrap_or(0), i64::from(limit)).await?;
    Ok(axum::Json(Page::new(rows, limit, |row| row.version.to_string(), ModelAnswer::from)))
}

/// Downloads a model's weights: safetensors with torchvision's key names.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/models/{version}/weights",
    operation_id = "get_model_weights",
    tag = "results",
    params(("project" = String, Path, description = "Name or id"), ("version" = i32, Path, description = "The model's version")),
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The weights", body = Vec<u8>, content_type = "application/octet-stream"),
    ),
)]
pub async fn get_model_weights(
    State(app): State<AppState>,
    caller: Tool,
    Path((project, version)): Path<(String, i32)>,
) -> Result<Response, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let model = store::model::find(&mut connection, row.id, version).await?;
    let model = model.ok_or_else(|| ApiError::not_found("model", version))?;
    drop(connection);
    let path = app.blob.local_path(&model.checkpoint).await?;
    let file = tokio::fs::File::open(&path).await.map_err(ApiError::internal)?;
    let length_bytes = file.metadata().await.map_err(ApiError::internal)?.len();
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, length_bytes.to_string()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{}-{version}.safetensors\"", row.name)),
        (CACHE_CONTROL, "private, max-age=31536000, immutable".to_owned()),
    ];
    Ok((headers, Body::from_stream(ReaderStream::new(file))).into_response())
}
