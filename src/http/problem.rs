//! Errors as clients see them: `application/problem+json` (RFC 9457).
//!
//! Every handler returns `Result<_, ApiError>`. `ProblemKind::describe` is the one table from kind to type, status and title. Each
//! answer has an `error_id` that stands in the log too. What a 5xx really was stays in the log; the client gets the id alone.
//! `normalize` gives this form to answers that the framework made (405, 413, timeouts), so no other form ever leaves the service.

use std::any::Any;
use std::error::Error;

use axum::extract::Request;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::field_error::FieldError;
use crate::domain::role::Role;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What kind of error; each has one stable type, status and title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The request isn't what HTTP or JSON asks for.
    Malformed,
    /// No token, or one that isn't valid.
    Unauthenticated,
    /// The token's role or the request's origin doesn't allow it.
    Forbidden,
    /// There is no such thing, or the token may not see it.
    NotFound,
    /// The path knows other methods.
    MethodNotAllowed,
    /// The request took too long to arrive or to be carried out.
    Timeout,
    /// The thing is in a state that doesn't allow it.
    Conflict,
    /// Another project has this name.
    NameTaken,
    /// The setting can't change any more.
    Frozen,
    /// The project has nothing to work on.
    EmptyProject,
    /// The key was used for another request.
    IdempotencyMismatch,
    /// The body is over its limit.
    TooLarge,
    /// The body is of another media type.
    UnsupportedMediaType,
    /// A field is unknown, missing or outside its limits.
    Invalid,
    /// Too many requests.
    TooManyRequests,
    /// A fault of the service.
    Internal,
    /// Something the service needs is away or full at the moment.
    Unavailable,
}

impl ProblemKind {
    /// Every kind, for the pages under `/problems/`.
    pub const ALL: [Self; 17] = [
        Self::Malformed,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Timeout,
        Self::Conflict,
        Self::NameTaken,
        Self::Frozen,
        Self::EmptyProject,
        Self::IdempotencyMismatch,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Invalid,
        Self::TooManyRequests,
        Self::Internal,
        Self::Unavailable,
    ];

    /// The last part of the type, the status and the title.
    #[must_use]
    pub fn describe(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Malformed => ("malformed", StatusCode::BAD_REQUEST, "The request can't be read"),
            Self::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED, "A valid token is needed"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "The token doesn't allow this"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The path knows other methods")
            }
            Self::Timeout => ("timeout", StatusCode::REQUEST_TIMEOUT, "The request took too long"),
            Self::Conflict => ("conflict", StatusCode::CONFLICT, "The present state doesn't allow this"),
            Self::NameTaken => ("name-taken", StatusCode::CONFLICT, "The name is taken"),
            Self::Frozen => ("frozen", StatusCode::CONFLICT, "The setting can't change any more"),
            Self::EmptyProject => {
                ("empty-project", StatusCode::CONFLICT, "The project has nothing to work on")
            }
            Self::IdempotencyMismatch => (
                "idempotency-mismatch",
                StatusCode::CONFLICT,
                "The idempotency key belongs to another request",
            ),
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is over its limit"),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body has another media type",
            ),
            Self::Invalid => ("invalid", StatusCode::UNPROCESSABLE_ENTITY, "A field is not valid"),
            Self::TooManyRequests => {
                ("too-many-requests", StatusCode::TOO_MANY_REQUESTS, "Too many requests")
            }
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "The service failed"),
            Self::Unavailable => {
                ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "Not available at the moment")
            }
        }
    }

    /// The kind whose status an answer of the framework has.
    fn of_status(status: StatusCode) -> Self {
        Self::ALL
            .into_iter()
            .find(|kind| kind.describe().1 == status)
            .unwrap_or(if status.is_server_error() { Self::Internal } else { Self::Malformed })
    }
}

/// An error on its way to a client.
#[derive(Debug)]
pub struct ApiError {
    kind: ProblemKind,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_seconds: Option<u32>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ApiError {
    /// An error of a kind with words for the person who sent the request.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after_seconds: None, source: None }
    }

    /// 404: there is no `thing` of this name or id.
    pub fn not_found(thing: &str, key: impl std::fmt::Display) -> Self {
        Self::new(ProblemKind::NotFound, format!("there is no {thing} '{key}', or the token may not see it"))
    }

    /// 409: the present state doesn't allow it.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Conflict, detail)
    }

    /// 403: a higher role is needed.
    #[must_use]
    pub fn needs_role(role: Role, has: Role) -> Self {
        Self::new(
            ProblemKind::Forbidden,
            format!("this needs a token of role {} or higher; yours is {}", role.as_str(), has.as_str()),
        )
    }

    /// 422 with one entry a field.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let fields: Vec<_> =
            errors.iter().map(|error| format!("{}: {}", error.field, error.detail)).collect();
        Self { errors, ..Self::new(ProblemKind::Invalid, fields.join("; ")) }
    }

    /// 422 for one field.
    pub fn invalid_field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::new(field, detail)])
    }

    /// 500; the cause goes to the log only.
    pub fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..Self::new(ProblemKind::Internal, "") }
    }

    /// 503 with Retry-After; the cause goes to the log only.
    pub fn unavailable(
        detail: impl Into<String>,
        retry_after_seconds: u32,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            source: Some(source.into()),
            ..Self::new(ProblemKind::Unavailable, detail)
        }
    }

    /// 429 with Retry-After.
    #[must_use]
    pub fn too_many_requests(detail: &str, retry_after_seconds: u32) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(ProblemKind::TooManyRequests, detail)
        }
    }

    /// Puts the fields of a 422 below `prefix`, for a part that was parsed by itself.
    #[must_use]
    pub fn below(self, prefix: &str) -> Self {
        let place = |field: String| {
            if field == "body" { prefix.to_owned() } else { format!("{prefix}.{field}") }
        };
        let errors =
            self.errors.into_iter().map(|error| FieldError::new(place(error.field), error.detail)).collect();
        if self.kind == ProblemKind::Invalid { Self::invalid(errors) } else { Self { errors, ..self } }
    }

    /// Adds further fields to a 422, so that one answer names all.
    #[must_use]
    pub fn with_fields(mut self, more: Vec<FieldError>) -> Self {
        self.errors.extend(more);
        Self::invalid(self.errors)
    }

    /// The same error for another caller.
    #[must_use]
    pub fn repeat(&self) -> Self {
        Self {
            kind: self.kind,
            detail: self.detail.clone(),
            errors: self.errors.clone(),
            retry_after_seconds: self.retry_after_seconds,
            source: self.source.as_ref().map(|source| chain(source.as_ref()).into()),
        }
    }

    /// What kind of error this is.
    #[must_use]
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }
}

/// The body of every error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// A stable path that names the kind of error.
    #[serde(rename = "type")]
    #[schema(example = "/problems/invalid")]
    pub kind: String,
    /// The kind in words.
    #[schema(example = "A field is not valid")]
    pub title: &'static str,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// What happened this time, and what to do about it.
    #[schema(example = "batch_size: must be 1 to 100000 items")]
    pub detail: String,
    /// Stands in the service's log too.
    pub error_id: Uuid,
    /// One entry a field that is not valid.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (slug, status, title) = self.kind.describe();
        let error_id = Uuid::now_v7();
        let mut detail = self.detail;
        if status.is_server_error() {
            let cause = self.source.map(|source| chain(source.as_ref())).unwrap_or_default();
            tracing::error!(error.id = %error_id, error.cause = cause, http.status = status.as_u16(), "request failed");
            if detail.is_empty() {
                detail = format!("the service failed; its log has more under error_id {error_id}");
            }
        } else {
            tracing::debug!(error.id = %error_id, error.detail = detail, http.status = status.as_u16(), "request refused");
        }
        let problem = Problem {
            kind: format!("/problems/{slug}"),
            title,
            status: status.as_u16(),
            detail,
            error_id,
            errors: self.errors,
        };
        let mut response = (status, axum::Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert("www-authenticate", HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The 404 of a path that no route knows.
pub async fn unknown_path(request: Request) -> ApiError {
    ApiError::new(
        ProblemKind::NotFound,
        format!("there is nothing at {}; /openapi.json lists what there is", request.uri().path()),
    )
}

/// The answer to a request whose handler panicked.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "the layer hands over the payload of the panic")]
pub fn panicked(payload: Box<dyn Any + Send + 'static>) -> Response {
    let reason = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    ApiError::internal(format!("the handler panicked: {reason}")).into_response()
}

/// Middleware: turns an error answer that isn't problem+json yet into one.
pub async fn normalize(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let status = response.status();
    // What is JSON was written by a handler: a problem, or `/readyz` saying what is away.
    let ours = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value == PROBLEM_JSON || value == "application/json");
    if ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let kind = ProblemKind::of_status(status);
    let allow = response.headers().get(ALLOW).cloned();
    let detail = match kind {
        ProblemKind::MethodNotAllowed => match allow.as_ref().and_then(|value| value.to_str().ok()) {
            Some(methods) => format!("{path} doesn't know {method}; it knows {methods}"),
            None => format!("{path} doesn't know {method}"),
        },
        ProblemKind::Timeout => {
            "the request was not answered within its time; it may be sent again".to_owned()
        }
        ProblemKind::TooLarge => "the body is larger than this path takes".to_owned(),
        _ => status.canonical_reason().unwrap_or("the request was refused").to_lowercase(),
    };
    let mut problem = ApiError::new(kind, detail).into_response();
    if let Some(methods) = allow {
        problem.headers_mut().insert(ALLOW, methods);
    }
    problem
}

/// An error and its causes in one line, for the log.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body_of(response: Response) -> serde_json::Value {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.expect("a short body");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[tokio::test]
    async fn an_internal_error_leaks_nothing_but_its_id() {
        let response = ApiError::internal("password in the connection string").into_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        let body = body_of(response).await;
        assert!(!body.to_string().contains("password"), "{body}");
        assert!(body["detail"].as_str().expect("words").contains(body["error_id"].as_str().expect("an id")));
    }

    #[tokio::test]
    async fn every_invalid_field_is_listed() {
        let errors = vec![
            FieldError::new("budget", "must be 0 to 1e12"),
            FieldError::new("seed", "must be 0 or more"),
        ];
        let body = body_of(ApiError::invalid(errors).into_response()).await;
        assert_eq!(body["type"], "/problems/invalid");
        assert_eq!(body["errors"][1]["field"], "seed");
    }

    #[test]
    fn kinds_have_types_of_their_own() {
        let mut slugs: Vec<_> = ProblemKind::ALL.iter().map(|kind| kind.describe().0).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), ProblemKind::ALL.len());
    }
}
