//! Skipping a task.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::ids::TaskId;
use crate::domain::task::SkipReason;
use crate::http::AppState;
use crate::http::auth::{Labeler, find_project};
use crate::http::extract::Path;
use crate::http::idempotency::{Begun, Post};
use crate::http::problem::ApiError;
use crate::http::v1::labels::validate_person;
use crate::labeling;

/// Why the task is skipped.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "unsure"}))]
pub struct SkipTask {
    /// `unsure` lets the item rest for a round, `broken` and `not_in_classes` take it out of the pool.
    reason: SkipReason,
    /// The person, when a tool labels for several; 1 to 100 characters.
    #[serde(default)]
    labeler: Option<String>,
}

/// The task that was skipped.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"task": "0190163d-8694-739b-aea5-966c26f8ad90", "reason": "unsure"}))]
pub struct SkipAnswer {
    task: TaskId,
    reason: SkipReason,
}

/// Skips a task that the caller holds; costs nothing and uses up one vote slot.
#[utoipa::path(
    post,
    path = "/api/v1/projects/{project}/tasks/{task}/skip",
    operation_id = "skip_task",
    tag = "labeling",
    params(("project" = String, Path, description = "Name or id"), ("task" = Uuid, Path, description = "The task's id")),
    request_body = SkipTask,
    responses(
        (status = 200, description = "Skipped", body = SkipAnswer),
    ),
)]
pub async fn skip_task(
    State(app): State<AppState>,
    caller: Labeler,
    Path((project, task)): Path<(String, TaskId)>,
    post: Post<SkipTask>,
) -> Result<Response, ApiError> {
    let SkipTask { reason, labeler: person } = post.body;
    if let Some(person) = &person {
        validate_person("labeler", person, caller.role).map_err(|error| ApiError::invalid(vec![error]))?;
    }
    let mut work = match post.call.begin(&app, caller.token).await? {
        Begun::Replay(replay) => return Ok(replay.into_response()),
        Begun::Work(work) => work,
    };
    let row = find_project(work.connection(), &caller, &project).await?;
    labeling::skip_task(work.connection(), &row, caller.token, person.as_deref(), task, reason).await?;
    let response = work.finish(StatusCode::OK, &SkipAnswer { task, reason }).await?;
    // A skip may have closed the batch's last slot.
    app.round_counts.wake().wake();
    Ok(response)
}
