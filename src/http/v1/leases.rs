//! Leases: tasks lent to the caller for a while.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::key::SecretKey;
use crate::access::principal::Principal;
use crate::access::signed_image::image_url;
use crate::domain::ids::{ItemId, TaskId};
use crate::domain::task::{TaskSource, WaitReason};
use crate::http::AppState;
use crate::http::auth::{Labeler, find_project};
use crate::http::extract::Path;
use crate::http::idempotency::{Begun, Post};
use crate::http::problem::ApiError;
use crate::http::together::{Calls, Outcome, Shareable};
use crate::labeling::{self, LeaseWish};
use crate::store::class::ClassNames;
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, StoreError};
use crate::telemetry::metric;

/// How many tasks are wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"count": 10, "resume": false}))]
pub struct CreateLeases {
    /// New tasks at most, 1 to 100; an idle labeler holds at most 20, one who has just answered 80.
    #[serde(default = "default_count")]
    #[schema(default = 10, minimum = 1, maximum = 100)]
    count: u32,
    /// Whether the tasks that the caller holds already are returned too.
    #[serde(default)]
    resume: bool,
}

fn default_count() -> u32 {
    10
}

/// Tasks lent to the caller.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"tasks": [{"task": "0190163d-8694-739b-aea5-966c26f8ad90", "item": "0190163d-8694-739b-aea5-966c26f8ad90", "image_url": "/api/v1/items/0190163d-8694-739b-aea5-966c26f8ad90/image?expires=1790000000&signature=9f", "round": 3, "source": "query", "expires_at": "2026-01-31T12:05:00Z", "attempt": 1, "suggestions": [{"class": "Coat", "probability": 0.62}]}], "wait": null}))]
pub struct Leases {
    tasks: Vec<LeasedTask>,
    /// Why there is nothing new; null when there is.
    wait: Option<Wait>,
}

/// One task lent to the caller.
#[derive(Debug, Serialize, ToSchema)]
pub struct LeasedTask {
    task: TaskId,
    item: ItemId,
    /// Path of the image, signed; works without a token until it expires.
    image_url: String,
    /// The round whose batch it counts into.
    round: i32,
    source: TaskSource,
    expires_at: DateTime<Utc>,
    /// Which lease of the task this is; sent back with the label, it tells an old lease from a new one.
    attempt: i32,
    /// The model's guesses, the best first; empty when the project shows none.
    suggestions: Vec<SuggestionAnswer>,
}

/// One guess of the model.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuggestionAnswer {
    /// The class's name.
    pub class: String,
    /// What the model gave it, 0 to 1.
    pub probability: f64,
}

/// Why nothing was lent and when to ask again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Wait {
    reason: WaitReason,
    retry_after_seconds: u32,
}

impl Leases {
    fn new(leases: labeling::Leases, class_names: &ClassNames, key: &SecretKey) -> Self {
        let now = Utc::now();
        let tasks = leases.tasks.into_iter().map(|task| LeasedTask {
            task: task.task,
            item: task.item,
            image_url: image_url(key, task.item, now),
            round: task.round,
            source: task.source.blinded(),
            expires_at: task.expires_at,
            attempt: task.attempt,
            suggestions: task
                .suggestions
                .into_iter()
                .map(|guess| SuggestionAnswer {
                    class: class_names.name(guess.class),
                    probability: f64::from(guess.probability),
                })
                .collect(),
        });
        let wait =
            leases.wait.map(|reason| Wait { reason, retry_after_seconds: reason.retry_after_seconds() });
        Self { tasks: tasks.collect(), wait }
    }
}

/// Lends up to `count` tasks to the caller, the most wanted first.
#[utoipa::path(
    post,
    path = "/api/v1/projects/{project}/leases",
    operation_id = "create_leases",
    tag = "labeling",
    params(("project" = String, Path, description = "Name or id")),
    request_body = CreateLeases,
    responses(
        (status = 200, description = "The tasks, or why there are none", body = Leases),
    ),
)]
pub async fn create_leases(
    State(app): State<AppState>,
    caller: Labeler,
    Path(project): Path<String>,
    post: Post<CreateLeases>,
) -> Result<Response, ApiError> {
    let CreateLeases { count, resume } = post.body;
    if !(1..=100).contains(&count) {
        return Err(ApiError::invalid_field("count", "must be 1 to 100"));
    }
    let shared = post.call.share(&app, &caller, &project, Lease { count, resume }).await?;
    Ok(match shared.outcome {
        Outcome::Replay(replay) => replay.into_response(),
        Outcome::Done(leases) => {
            metrics::counter!(metric::LEASES_TOTAL).increment(leases.tasks.len() as u64);
            if let Some(wait) = &leases.wait {
                metrics::counter!(metric::LEASE_WAITS_TOTAL, "reason" => wait.reason.as_str()).increment(1);
            }
            axum::Json(leases).into_response()
        }
    })
}

/// A lease call on its way.
pub struct Lease {
    count: u32,
    resume: bool,
}

impl Shareable for Lease {
    type Answer = Leases;
    type Residue = ();

    fn calls(app: &AppState) -> &Calls<Self> {
        &app.gathers.leases
    }

    fn weight(&self) -> usize {
        self.count as usize
    }

    async fn carry_out(
        app: &AppState,
        connection: &mut PgConnection,
        project: &ProjectRow,
        calls: &[(&Principal, &Self)],
        (): &mut (),
    ) -> Result<Vec<Leases>, StoreError> {
        let wishes: Vec<_> = calls
            .iter()
            .map(|(caller, lease)| LeaseWish {
                labeler: caller.token,
                count: lease.count,
                resume: lease.resume,
            })
            .collect();
        let leases = labeling::lease_tasks(connection, project, &wishes).await?;
        let class_names = ClassNames::read(connection, project.id).await?;
        Ok(leases.into_iter().map(|leases| Leases::new(leases, &class_names, &app.key)).collect())
    }
}

/// Which leases are meant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"tasks": ["0190163d-8694-739b-aea5-966c26f8ad90"]}))]
pub struct ChosenLeases {
    /// Tasks that the caller holds; all of them when absent.
    #[serde(default)]
    tasks: Option<Vec<TaskId>>,
}

/// What became of them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"count": 1}))]
pub struct ChangedLeases {
    /// How many leases were renewed or given back.
    count: u64,
}

/// Prolongs leases of the caller by the project's `lease_seconds` from now.
#[utoipa::path(
    post,
    path = "/api/v1/projects/{project}/leases/renew",
    operation_id = "renew_leases",
    tag = "labeling",
    params(("project" = String, Path, description = "Name or id")),
    request_body = ChosenLeases,
    responses(
        (status = 200, description = "How many were renewed", body = ChangedLeases),
    ),
)]
pub async fn renew_leases(
    State(app): State<AppState>,
    caller: Labeler,
    Path(project): Path<String>,
    post: Post<ChosenLeases>,
) -> Result<Response, ApiError> {
    change_leases(&app, &caller, &project, post, Change::Renew).await
}

/// Gives leases of the caller back, so that others get their tasks at once.
#[utoipa::path(
    post,
    path = "/api/v1/projects/{project}/leases/release",
    operation_id = "release_leases",
    tag = "labeling",
    params(("project" = String, Path, description = "Name or id")),
    request_body = ChosenLeases,
    responses(
        (status = 200, description = "How many were given back", body = ChangedLeases),
    ),
)]
pub async fn release_leases(
    State(app): State<AppState>,
    caller: Labeler,
    Path(project): Path<String>,
    post: Post<ChosenLeases>,
) -> Result<Response, ApiError> {
    change_leases(&app, &caller, &project, post, Change::Release).await
}

/// What the caller does with leases it holds.
#[derive(Clone, Copy)]
enum Change {
    Renew,
    Release,
}

async fn change_leases(
    app: &AppState,
    caller: &Labeler,
    project: &str,
    post: Post<ChosenLeases>,
    change: Change,
) -> Result<Response, ApiError> {
    let mut work = match post.call.begin(app, caller.token).await? {
        Begun::Replay(replay) => return Ok(replay.into_response()),
        Begun::Work(work) => work,
    };
    let row = find_project(work.connection(), caller, project).await?;
    let (connection, tasks) = (work.connection(), post.body.tasks.as_deref());
    let count = match change {
        Change::Renew => labeling::renew_leases(connection, &row, caller.token, tasks).await?,
        Change::Release => labeling::release_leases(connection, &row, caller.token, tasks).await?,
    };
    work.finish(StatusCode::OK, &ChangedLeases { count }).await
}
