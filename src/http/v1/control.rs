//! Control of a project: start, pause, resume, finish, retry. What each may do stands in `rounds::control`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::auth::{Operator, find_project};
use crate::http::extract::Path;
use crate::http::idempotency::{Begun, Post};
use crate::http::problem::{ApiError, Problem};
use crate::http::project_answer::{ProjectAnswer, describe};
use crate::rounds::control;
use crate::store;

/// A request without fields; its body may be absent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoFields {}

macro_rules! control {
    ($(#[$doc:meta])* $handler:ident, $path:literal, $operation:literal, $action:path) => {
        $(#[$doc])*
        #[utoipa::path(
            post,
            path = $path,
            operation_id = $operation,
            tag = "control",
            params(("project" = String, Path, description = "Name or id")),
            responses(
                (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
                (status = 200, description = "The project as it is now", body = ProjectAnswer),
            ),
        )]
        pub async fn $handler(
            State(app): State<AppState>,
            caller: Operator,
            Path(project): Path<String>,
            post: Post<NoFields>,
        ) -> Result<Response, ApiError> {
            let mut work = match post.call.begin(&app, caller.token).await? {
                Begun::Replay(replay) => return Ok(replay.into_response()),
                Begun::Work(work) => work,
            };
            let row = find_project(work.connection(), &caller, &project).await?;
            $action(work.connection(), &row).await?;
            let row = store::project::find(work.connection(), row.id).await?;
            let row = row.ok_or_else(|| ApiError::not_found("project", &project))?;
            let answer = describe(work.connection(), row).await?;
            let response = work.finish(StatusCode::OK, &answer).await?;
            app.round_counts.wake().wake();
            app.job_wake.wake();
            Ok(response)
        }
    };
}

control!(
    /// Starts the project: the pretext task is learned, then the first batch opens. Reopens a finished one whose budget was raised.
    start_project,
    "/api/v1/projects/{project}/start",
    "start_project",
    control::start
);
control!(
    /// Pauses the project: no new leases, jobs stop at a checkpoint; labels of held leases are still accepted.
    pause_project,
    "/api/v1/projects/{project}/pause",
    "pause_project",
    control::pause
);
control!(
    /// Ends the pause.
    resume_project,
    "/api/v1/projects/{project}/resume",
    "resume_project",
    control::resume
);
control!(
    /// Ends the project: what is open is withdrawn, what was answered is trained and evaluated.
    finish_project,
    "/api/v1/projects/{project}/finish",
    "finish_project",
    control::finish
);
control!(
    /// Queues failed jobs again; they go on from their last checkpoint.
    retry_project,
    "/api/v1/projects/{project}/retry",
    "retry_project",
    control::retry
);
