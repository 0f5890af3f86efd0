//! Tokens: made, listed and revoked by admins.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::token::TokenText;
use crate::domain::field_error::FieldError;
use crate::domain::ids::{ProjectId, TokenId};
use crate::domain::role::Role;
use crate::http::AppState;
use crate::http::auth::Admin;
use crate::http::extract::{List, Page, PageQuery, Path, Query};
use crate::http::idempotency::{Begun, Post};
use crate::http::problem::{ApiError, Problem, ProblemKind};
use crate::store;
use crate::store::token::TokenRow;

/// What a new token allows.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"role": "labeler", "name": "ana", "projects": null, "expires_at": null}))]
pub struct CreateToken {
    /// What it allows.
    role: Role,
    /// Who holds it, 1 to 100 characters.
    name: String,
    /// Projects it may touch; all when null.
    #[serde(default)]
    projects: Option<Vec<ProjectId>>,
    /// When it ends; never when null.
    #[serde(default)]
    expires_at: Option<DateTime<Utc>>,
}

/// A new token; its text is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedToken {
    /// Names it from now on.
    id: TokenId,
    /// To be sent as `Authorization: Bearer …`; null when an earlier answer is replayed, since it is stored nowhere.
    token: Option<String>,
}

/// A token without its text.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenAnswer {
    id: TokenId,
    role: Role,
    name: String,
    /// Projects it may touch; all when null.
    projects: Option<Vec<ProjectId>>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
}

impl From<TokenRow> for TokenAnswer {
    fn from(row: TokenRow) -> Self {
        Self {
            id: row.id,
            role: row.role,
            name: row.name,
            projects: row.projects,
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        }
    }
}

/// Makes a token and shows its text once.
#[utoipa::path(
    post,
    path = "/api/v1/tokens",
    operation_id = "create_token",
    tag = "access",
    request_body = CreateToken,
    responses(
        (status = 403, description = "Needs role admin", body = Problem, content_type = "application/problem+json"),
        (status = 201, description = "The token", body = CreatedToken),
    ),
)]
pub async fn create_token(
    State(app): State<AppState>,
    caller: Admin,
    post: Post<CreateToken>,
) -> Result<Response, ApiError> {
    let request = post.body;
    request.validate()?;
    if !caller.is_unscoped() && !request.projects.iter().flatten().all(|id| caller.may_touch(*id)) {
        return Err(ApiError::new(
            ProblemKind::Forbidden,
            "your token may only make tokens for its own projects",
        ));
    }
    if !caller.is_unscoped() && request.projects.is_none() {
        return Err(ApiError::new(
            ProblemKind::Forbidden,
            "your token may only make tokens for its own projects; name them",
        ));
    }
    let mut work = match post.call.begin(&app, caller.token).await? {
        Begun::Replay(replay) => return Ok(replay.into_response()),
        Begun::Work(work) => work,
    };
    for (index, id) in request.projects.iter().flatten().enumerate() {
        if store::project::find(work.connection(), *id).await?.is_none() {
            return Err(ApiError::invalid_field(
                format!("projects.{index}"),
                format!("there is no project {id}"),
            ));
        }
    }
    let text = TokenText::mint(request.role).map_err(ApiError::internal)?;
    let id = store::token::insert(
        work.connection(),
        request.role,
        request.name.trim(),
        &text.hash(),
        request.projects.as_deref(),
        request.expires_at,
    )
    .await?;
    let kept = CreatedToken { id, token: None };
    work.keep(StatusCode::CREATED, &kept).await?;
    let shown = CreatedToken { id, token: Some(text.expose().to_owned()) };
    Ok((StatusCode::CREATED, axum::Json(shown)).into_response())
}

impl CreateToken {
    fn validate(&self) -> Result<(), ApiError> {
        let mut errors = Vec::new();
        let name = self.name.trim();
        if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
            errors.push(FieldError::new("name", "must be 1 to 100 characters without control characters"));
        }
        if self.expires_at.is_some_and(|end| end <= Utc::now()) {
            errors.push(FieldError::new("expires_at", "must lie in the future"));
        }
        if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(errors)) }
    }
}

/// Lists all tokens, revoked ones too, without their texts.
#[utoipa::path(
    get,
    path = "/api/v1/tokens",
    operation_id = "list_tokens",
    tag = "access",
    params(PageQuery),
    responses(
        (status = 403, description = "Needs role admin", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "A page of tokens", body = Page<TokenAnswer>),
    ),
)]
pub async fn list_tokens(
    State(app): State<AppState>,
    caller: Admin,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<TokenAnswer>>, ApiError> {
    require_unscoped(&caller)?;
    let list = List::new("tokens", &[]);
    let (limit, after) = (query.limit()?, list.after(&query)?);
    let mut connection = app.store.acquire().await?;
    let rows = store::token::list(&mut connection, after, i64::from(limit)).await?;
    Ok(axum::Json(Page::new(rows, limit, |row| list.cursor(row.id), TokenAnswer::from)))
}

/// Revokes a token at once, with the sessions that were opened with it.
#[utoipa::path(
    delete,
    path = "/api/v1/tokens/{id}",
    operation_id = "revoke_token",
    tag = "access",
    params(("id" = Uuid, Path, description = "The token's id")),
    responses(
        (status = 403, description = "Needs role admin", body = Problem, content_type = "application/problem+json"),
        (status = 204, description = "Revoked"),
    ),
)]
pub async fn revoke_token(
    State(app): State<AppState>,
    caller: Admin,
    Path(id): Path<TokenId>,
) -> Result<StatusCode, ApiError> {
    require_unscoped(&caller)?;
    let mut tx = app.store.begin().await?;
    if !store::token::revoke(&mut tx, id).await? {
        return Err(ApiError::not_found("token", id));
    }
    // Whoever can't answer any more holds no task.
    store::slot::release_everywhere(&mut tx, id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn require_unscoped(caller: &Admin) -> Result<(), ApiError> {
    if caller.is_unscoped() {
        return Ok(());
    }
    Err(ApiError::new(ProblemKind::Forbidden, "this needs an admin token that isn't limited to projects"))
}
