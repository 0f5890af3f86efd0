//! The caller itself, and the sessions of pages.

use axum::extract::State;
use axum::http::header::{HeaderMap, SET_COOKIE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::principal::Principal;
use crate::access::session::{self, SESSION_SECONDS};
use crate::access::token::TokenText;
use crate::domain::ids::{ProjectId, TokenId};
use crate::domain::role::Role;
use crate::http::AppState;
use crate::http::auth::{
    Labeler, SESSION_COOKIE, check_origin, principal_of_id, principal_of_text, session_token,
};
use crate::http::extract::Json;
use crate::http::problem::{ApiError, ProblemKind};
use crate::store::{self, StoreError};

/// Who calls.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// The token's id, which is the labeler in labels and exports.
    id: TokenId,
    role: Role,
    name: String,
    /// Projects it may touch; all when null.
    projects: Option<Vec<ProjectId>>,
    /// Labels of this token that were accepted and stand, over all projects.
    label_count: i64,
}

impl Me {
    async fn read(app: &AppState, principal: &Principal) -> Result<Self, ApiError> {
        let mut connection = app.store.acquire().await?;
        let label_count = store::label::count_of_labeler(&mut connection, principal.token).await?;
        Ok(Self {
            label_count,
            id: principal.token,
            role: principal.role,
            name: principal.name.to_string(),
            projects: principal.projects.as_ref().map(|projects| projects.to_vec()),
        })
    }
}

/// Says whose token was sent.
#[utoipa::path(
    get,
    path = "/api/v1/me",
    operation_id = "get_me",
    tag = "access",
    responses(
        (status = 200, description = "The caller", body = Me),
    ),
)]
pub async fn get_me(State(app): State<AppState>, caller: Labeler) -> Result<axum::Json<Me>, ApiError> {
    Ok(axum::Json(Me::read(&app, &caller).await?))
}

/// What opens a session: a token, or the one-time code of a link. Exactly one of them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"token": "gl_l_…"}))]
pub struct CreateSession {
    /// The text of a token.
    #[serde(default)]
    token: Option<String>,
    /// A one-time code.
    #[serde(default)]
    code: Option<String>,
}

/// Trades a token or a one-time code for the session's cookie (HttpOnly, SameSite=Strict).
#[utoipa::path(
    post,
    path = "/api/v1/session",
    operation_id = "create_session",
    tag = "access",
    security(()),
    request_body = CreateSession,
    responses((status = 200, description = "The caller, with the cookie", body = Me)),
)]
pub async fn create_session(
    State(app): State<AppState>,
    headers: HeaderMap,
    Json(request): Json<CreateSession>,
) -> Result<Response, ApiError> {
    refuse_foreign_page(&Method::POST, &headers)?;
    let refused = |detail| ApiError::new(ProblemKind::Unauthenticated, detail);
    let principal = match (request.token, request.code) {
        (Some(token), None) => {
            let text = TokenText::parse(token.trim()).ok_or_else(|| refused("that is no token"))?;
            principal_of_text(&app, &text).await?
        }
        (None, Some(code)) => {
            let token = app.login_codes.redeem(code.trim());
            let token = token.ok_or_else(|| {
                refused("the code is unknown, too old or was used before; log in with a token")
            })?;
            principal_of_id(&app, token).await?
        }
        _ => {
            return Err(ApiError::invalid_field("token", "send either token or code"));
        }
    };
    let me = Me::read(&app, &principal).await?;
    let value = session::seal(&app.key, principal.token, Utc::now() + TimeDelta::seconds(SESSION_SECONDS));
    let cookie = cookie(&app, &value, SESSION_SECONDS);
    Ok(([(SET_COOKIE, cookie)], axum::Json(me)).into_response())
}

/// A foreign page must not log somebody in under its own name, nor out; programs send neither header.
fn refuse_foreign_page(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key("sec-fetch-site") || headers.contains_key("origin") {
        check_origin(method, headers)?;
    }
    Ok(())
}

/// Ends the session of this browser; whoever leaves gives back the tasks it holds.
#[utoipa::path(
    delete,
    path = "/api/v1/session",
    operation_id = "delete_session",
    tag = "access",
    security(()),
    responses((status = 204, description = "The cookie is gone")),
)]
pub async fn delete_session(State(app): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    refuse_foreign_page(&Method::DELETE, &headers)?;
    if let Some(token) = session_token(&app, &headers)
        && let Err(error) = give_back(&app, token).await
    {
        // One can leave without the database; the leases run out.
        tracing::warn!(error = %error, "the leases of a session that ended couldn't be given back");
    }
    let cookie = cookie(&app, "", 0);
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response())
}

async fn give_back(app: &AppState, token: TokenId) -> Result<(), StoreError> {
    let mut connection = app.store.acquire().await?;
    store::slot::release_everywhere(&mut connection, token).await?;
    Ok(())
}

fn cookie(app: &AppState, value: &str, max_age_seconds: i64) -> String {
    let secure = if app.is_public_https { "; Secure" } else { "" };
    format!("{SESSION_COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age_seconds}{secure}")
}
