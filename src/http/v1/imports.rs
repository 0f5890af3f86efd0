//! Imports from where the server can read, and the reports of all imports.

use std::path::PathBuf;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::ids::ImportId;
use crate::domain::import::{ImportFormat, ImportState, LabelRule, Rejection, SplitRule};
use crate::http::AppState;
use crate::http::auth::{Operator, find_project};
use crate::http::extract::{List, Page, PageQuery, Path, Query};
use crate::http::idempotency::{Begun, Post};
use crate::http::problem::{ApiError, Problem};
use crate::import;
use crate::rounds::control;
use crate::store;
use crate::store::import::{ImportRow, NewImport};

/// A source to be read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"source": "/usr/share/datasets/fashion-mnist", "format": "auto", "split": "pool", "labels": "hide"}))]
pub struct CreateImport {
    /// A file or folder on the server, inside `GLEANER_IMPORT_ROOTS`.
    source: String,
    /// Recognised when absent.
    #[serde(default)]
    format: ImportFormat,
    /// `auto` when absent.
    #[serde(default)]
    split: SplitRule,
    /// `hide` when absent; `keep` for a test split, which can't be hidden.
    #[serde(default)]
    labels: Option<LabelRule>,
}

/// The import that was queued.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedImport {
    /// Where its report is found.
    pub id: ImportId,
}

/// Where an import stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportAnswer {
    id: ImportId,
    state: ImportState,
    /// Where it is read from; an upload says `upload`.
    source: String,
    /// Entries that are decided: added, duplicate or rejected.
    read_count: i64,
    added_count: i64,
    /// Images whose content the project has already.
    duplicate_count: i64,
    rejected_count: i64,
    /// Images whose channels were changed to the project's.
    converted_count: i64,
    /// The first thousand entries that were not taken.
    rejected: Vec<Rejection>,
    /// Why it failed.
    error: Option<String>,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl From<ImportRow> for ImportAnswer {
    fn from(row: ImportRow) -> Self {
        Self {
            id: row.id,
            state: row.state,
            source: if row.uploaded { "upload".to_owned() } else { row.source },
            read_count: row.read_count,
            added_count: row.added_count,
            duplicate_count: row.duplicate_count,
            rejected_count: row.rejected_count,
            converted_count: row.converted_count,
            rejected: row.rejected,
            error: row.error,
            created_at: row.created_at,
            ended_at: row.ended_at,
        }
    }
}

/// What labels become under a split rule when the request leaves it open; 422 for a hidden test split.
pub fn label_rule(split: SplitRule, labels: Option<LabelRule>) -> Result<LabelRule, ApiError> {
    match (split, labels) {
        (SplitRule::Test, Some(LabelRule::Hide)) => Err(ApiError::invalid_field(
            "labels",
            "a test split without its labels evaluates nothing; import it with 'keep'",
        )),
        (SplitRule::Test, None) => Ok(LabelRule::Keep),
        (_, labels) => Ok(labels.unwrap_or_default()),
    }
}

/// Queues an import of a file or folder on the server.
#[utoipa::path(
    post,
    path = "/api/v1/projects/{project}/imports",
    operation_id = "create_import",
    tag = "items",
    params(("project" = String, Path, description = "Name or id")),
    request_body = CreateImport,
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 202, description = "Queued", body = CreatedImport),
    ),
)]
pub async fn create_import(
    State(app): State<AppState>,
    caller: Operator,
    Path(project): Path<String>,
    post: Post<CreateImport>,
) -> Result<Response, ApiError> {
    let request = post.body;
    let labels = label_rule(request.split, request.labels)?;
    let source = resolve_source(&app, request.source).await?;
    let mut work = match post.call.begin(&app, caller.token).await? {
        Begun::Replay(replay) => return Ok(replay.into_response()),
        Begun::Work(work) => work,
    };
    let row = find_project(work.connection(), &caller, &project).await?;
    let import = NewImport {
        id: ImportId::generate(),
        source: source.to_string_lossy().into_owned(),
        uploaded: false,
        format: request.format,
        split: request.split,
        labels,
    };
    store::import::insert(work.connection(), row.id, &import).await?;
    control::queue_import(work.connection(), &row, import.id).await?;
    let response = work.finish(StatusCode::ACCEPTED, &CreatedImport { id: import.id }).await?;
    app.job_wake.wake();
    Ok(response)
}

/// The source as a real path inside the allowed folders; looks at the disk, so on a thread that may block.
async fn resolve_source(app: &AppState, source: String) -> Result<PathBuf, ApiError> {
    let roots = app.import_roots.clone();
    let resolved = tokio::task::spawn_blocking(move || import::resolve_allowed(&source, &roots)).await;
    resolved
        .map_err(ApiError::internal)?
        .map_err(|error| ApiError::invalid_field("source", error.to_string()))
}

/// Lists a project's imports, the oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/imports",
    operation_id = "list_imports",
    tag = "items",
    params(("project" = String, Path, description = "Name or id"), PageQuery),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "A page of imports", body = Page<ImportAnswer>),
    ),
)]
pub async fn list_imports(
    State(app): State<AppState>,
    caller: Operator,
    Path(project): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<ImportAnswer>>, ApiError> {
    let limit = query.limit()?;
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let list = List::new("imports", &[&row.id]);
    let after: Option<ImportId> = list.after(&query)?;
    let rows = store::import::list(&mut connection, row.id, after, i64::from(limit)).await?;
    Ok(axum::Json(Page::new(rows, limit, |row| list.cursor(row.id), ImportAnswer::from)))
}

/// Shows an import: how far it is, and what was not taken.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/imports/{id}",
    operation_id = "get_import",
    tag = "items",
    params(("project" = String, Path, description = "Name or id"), ("id" = Uuid, Path, description = "The import's id")),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The import", body = ImportAnswer),
    ),
)]
pub async fn get_import(
    State(app): State<AppState>,
    caller: Operator,
    Path((project, id)): Path<(String, ImportId)>,
) -> Result<axum::Json<ImportAnswer>, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let import = store::import::find(&mut connection, id).await?;
    let import =
        import.filter(|import| import.project == row.id).ok_or_else(|| ApiError::not_found("import", id))?;
    Ok(axum::Json(ImportAnswer::from(import)))
}
