//! Published models: their lineage, measurements, mistakes and weights.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio_util::io::ReaderStream;
use utoipa::ToSchema;

use crate::domain::project::ClassIndex;
use crate::figures::{ConfusionFigure, confusion_svg};
use crate::http::AppState;
use crate::http::auth::{Labeler, Tool, find_project};
use crate::http::extract::{List, Page, PageQuery, Path, Query};
use crate::http::figure::{FigureWidth, svg_answer};
use crate::http::problem::{ApiError, Problem};
use crate::store;
use crate::store::class::ClassNames;
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
    let limit = query.limit()?;
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let list = List::new("models", &[&row.id]);
    let after: Option<i32> = list.after(&query)?;
    let rows = store::model::list(&mut connection, row.id, after.unwrap_or(0), i64::from(limit)).await?;
    Ok(axum::Json(Page::new(rows, limit, |row| list.cursor(row.version), ModelAnswer::from)))
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

/// What a model takes each class of the test split for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Confusion {
    model_version: i32,
    /// Names of the classes that it knows, in the order of rows and columns.
    classes: Vec<String>,
    /// `counts[c][p]`: test items of class c that it takes for p.
    counts: Vec<Vec<u32>>,
}

impl Confusion {
    async fn read(app: &AppState, caller: &Labeler, project: &str, version: i32) -> Result<Self, ApiError> {
        let mut connection = app.store.acquire().await?;
        let row = find_project(&mut connection, caller, project).await?;
        let model = store::model::find(&mut connection, row.id, version).await?;
        let model = model.ok_or_else(|| ApiError::not_found("model", version))?;
        let class_names = ClassNames::read(&mut connection, row.id).await?;
        let counts = model.manifest.pointer("/evaluation/confusion").filter(|counts| counts.is_array());
        let missing = || ApiError::not_found("evaluation of model", version);
        let counts: Vec<Vec<u32>> =
            serde_json::from_value(counts.ok_or_else(missing)?.clone()).map_err(ApiError::internal)?;
        let classes = (0..).take(counts.len()).map(|index| class_names.name(ClassIndex(index))).collect();
        Ok(Self { model_version: version, classes, counts })
    }
}

/// Shows what a model takes each class of the test split for.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/models/{version}/confusion",
    operation_id = "get_model_confusion",
    tag = "results",
    params(("project" = String, Path, description = "Name or id"), ("version" = i32, Path, description = "The model's version")),
    responses(
        (status = 200, description = "The matrix", body = Confusion),
    ),
)]
pub async fn get_model_confusion(
    State(app): State<AppState>,
    caller: Labeler,
    Path((project, version)): Path<(String, i32)>,
) -> Result<axum::Json<Confusion>, ApiError> {
    Ok(axum::Json(Confusion::read(&app, &caller, &project, version).await?))
}

/// Draws what a model takes each class of the test split for.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/models/{version}/confusion.svg",
    operation_id = "draw_model_confusion",
    tag = "results",
    params(("project" = String, Path, description = "Name or id"), ("version" = i32, Path, description = "The model's version")),
    responses(
        (status = 200, description = "The drawing", body = String, content_type = "image/svg+xml"),
    ),
)]
pub async fn draw_model_confusion(
    State(app): State<AppState>,
    caller: Labeler,
    Path((project, version)): Path<(String, i32)>,
) -> Result<Response, ApiError> {
    let Confusion { classes, counts, .. } = Confusion::read(&app, &caller, &project, version).await?;
    let title =
        format!("Confusion matrix of model {version}: rows are classes, columns what they were taken for");
    let figure = ConfusionFigure { title, names: classes, counts };
    svg_answer(FigureWidth::Wide, move |_| confusion_svg(&figure)).await
}
