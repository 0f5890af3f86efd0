//! Initial weights: a ResNet-18 of torchvision's or timm's, from which a project's pretraining begins instead of from chance.
//!
//! They are checked against the project's network when they are sent, so that a file that doesn't fit is refused with the tensor's name; they
//! can be replaced until the project starts. Every model's manifest names them by their SHA-256.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::blob::initial_weights_key;
use crate::engine;
use crate::http::AppState;
use crate::http::auth::{Operator, find_project};
use crate::http::extract::{Path, read_body};
use crate::http::problem::{ApiError, Problem, ProblemKind};
use crate::store;

/// The weights that a project's pretraining begins with.
#[derive(Debug, Serialize, ToSchema)]
pub struct InitialWeights {
    /// SHA-256 of the file, in hexadecimal; the manifest of every model names it.
    #[schema(example = "c15e5cdd1b0c3ec0ad8b7e2b3d2b3c6f0b1d7f54a9f7b1b8c1a1f0d9e8c7b6a5")]
    sha256: String,
}

/// Shows which weights pretraining begins with; 404 when it begins from chance.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/initial-weights",
    operation_id = "get_initial_weights",
    tag = "projects",
    params(("project" = String, Path, description = "Name or id")),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The weights", body = InitialWeights),
    ),
)]
pub async fn get_initial_weights(
    State(app): State<AppState>,
    caller: Operator,
    Path(project): Path<String>,
) -> Result<axum::Json<InitialWeights>, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let found = store::project::find_initial_weights(&mut connection, row.id).await?;
    let sha256 = found.ok_or_else(|| ApiError::not_found("file of initial weights of project", project))?;
    Ok(axum::Json(InitialWeights { sha256 }))
}

/// Lets pretraining begin with these weights: a state dict of torchvision's or timm's ResNet-18 as safetensors, at most 64 MiB.
///
/// 422 names the tensor that doesn't fit the project's backbone and images; 409 once the project has started.
#[utoipa::path(
    put,
    path = "/api/v1/projects/{project}/initial-weights",
    operation_id = "replace_initial_weights",
    tag = "projects",
    params(("project" = String, Path, description = "Name or id")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The weights", body = InitialWeights),
    ),
)]
pub async fn replace_initial_weights(
    State(app): State<AppState>,
    caller: Operator,
    Path(project): Path<String>,
    request: Request,
) -> Result<axum::Json<InitialWeights>, ApiError> {
    let row = find_project(&mut *app.store.acquire().await?, &caller, &project).await?;
    let bytes = read_body(request, &app).await?;
    let settings = row.settings.clone();
    let check = move || {
        engine::check_initial_weights(&bytes, &settings)
            .map(|()| (hex::encode(Sha256::digest(&bytes)), bytes))
    };
    let (sha256, bytes) = tokio::task::spawn_blocking(check)
        .await
        .map_err(ApiError::internal)?
        .map_err(|reason| ApiError::invalid_field("body", reason))?;
    app.blob.put(&initial_weights_key(row.id, &sha256), bytes.to_vec()).await?;
    set(&app, row.id, Some(&sha256)).await?;
    Ok(axum::Json(InitialWeights { sha256 }))
}

/// Lets pretraining begin from chance again; 409 once the project has started.
#[utoipa::path(
    delete,
    path = "/api/v1/projects/{project}/initial-weights",
    operation_id = "delete_initial_weights",
    tag = "projects",
    params(("project" = String, Path, description = "Name or id")),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 204, description = "Pretraining begins from chance"),
    ),
)]
pub async fn delete_initial_weights(
    State(app): State<AppState>,
    caller: Operator,
    Path(project): Path<String>,
) -> Result<StatusCode, ApiError> {
    let row = find_project(&mut *app.store.acquire().await?, &caller, &project).await?;
    set(&app, row.id, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set(
    app: &AppState,
    project: crate::domain::ids::ProjectId,
    sha256: Option<&str>,
) -> Result<(), ApiError> {
    let mut connection = app.store.acquire().await?;
    if store::project::set_initial_weights(&mut connection, project, sha256).await? {
        return Ok(());
    }
    Err(ApiError::new(
        ProblemKind::Frozen,
        "the project has started, so its pretraining has begun already; make another project for other weights",
    ))
}
