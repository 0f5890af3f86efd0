//! The one way in which every POST is carried out.
//!
//! A handler takes `Post<T>`, begins its work and finishes it:
//! `let mut work = match post.call.begin(&app, caller.token).await? { Begun::Replay(replay) => return Ok(replay.into_response()),
//! Begun::Work(work) => work };`
//! … `work.finish(StatusCode::CREATED, &answer).await`. (`together` does so for several calls at once.) Key, work and answer are one transaction: either all of it is durable or
//! nothing. With an `Idempotency-Key` (scope: token, method, path) the first answer is replayed for 30 days; a twin in flight waits for
//! it on the key's row; another body under the key is 409. An error keeps nothing, so the same key may be tried again.

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::AppState;
use super::extract::{parse_json, read_body};
use super::problem::{ApiError, ProblemKind};
use crate::domain::ids::TokenId;
use crate::events::Events;
use crate::store::idempotency::{self, KeptAnswer};
use crate::store::{PgConnection, Transaction};

/// The header that names a request, so that sending it again does nothing again.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Says on a replayed answer that the work was done before.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A POST with a JSON body (an empty one counts as `{}`).
pub struct Post<T> {
    /// What was sent.
    pub body: T,
    /// What makes the request unique.
    pub call: Call,
}

impl<T: DeserializeOwned> FromRequest<AppState> for Post<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, ApiError> {
        let mut call = Call::of(&request)?;
        let headers = request.headers().clone();
        let bytes = read_body(request, app).await?;
        call.body_hash = Sha256::digest(&bytes).into();
        Ok(Self { body: parse_json(&headers, &bytes)?, call })
    }
}

/// A POST before its work has begun.
#[derive(Clone, Debug)]
pub struct Call {
    method: String,
    path: String,
    key: Option<String>,
    /// SHA-256 of the body; a handler that streams its body sets it when it has read all.
    pub body_hash: [u8; 32],
}

impl Call {
    /// Reads method, path and key of a request; a key that isn't 1 to 200 visible characters is 422.
    pub fn of(request: &Request) -> Result<Self, ApiError> {
        let key = request.headers().get(IDEMPOTENCY_KEY).map(|value| {
            let text = value.to_str().unwrap_or_default();
            let right = (1..=200).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
            if right { Ok(text.to_owned()) } else { Err(()) }
        });
        let key = key.transpose().map_err(|()| {
            ApiError::invalid_field("Idempotency-Key", "must be 1 to 200 visible ASCII characters")
        })?;
        // The path without the query: the body is compared, and no POST has a query that changes its meaning.
        let path = request.uri().path().to_owned();
        Ok(Self { method: request.method().to_string(), path, key, body_hash: [0; 32] })
    }

    /// Begins the transaction of this call; waits for a twin in flight, and finds its answer.
    pub async fn begin(self, app: &AppState, token: TokenId) -> Result<Begun, ApiError> {
        let mut tx = app.store.begin().await?;
        let (Some(key), body_hash) = self.into_key(token) else {
            return Ok(Begun::Work(Work { events: app.events.clone(), tx, key: None }));
        };
        match idempotency::begin(&mut tx, &key, &body_hash).await? {
            idempotency::Begun::First => {
                Ok(Begun::Work(Work { events: app.events.clone(), tx, key: Some(key) }))
            }
            idempotency::Begun::Again { status, answer } => Ok(Begun::Replay(Replay::new(status, answer))),
            idempotency::Begun::Mismatch => Err(mismatch(&key)),
        }
    }

    /// What makes the request of this token unique, if it has a key, and the hash of its body.
    pub(super) fn into_key(self, token: TokenId) -> (Option<idempotency::Key>, [u8; 32]) {
        let (method, path) = (self.method, self.path);
        (self.key.map(|key| idempotency::Key { token, method, path, key }), self.body_hash)
    }
}

/// The answer to another body under a key that was used.
pub(super) fn mismatch(key: &idempotency::Key) -> ApiError {
    ApiError::new(
        ProblemKind::IdempotencyMismatch,
        format!(
            "the key '{}' was used on this path with another body; use a new key for a new request",
            key.key
        ),
    )
}

/// What a call turns out to be.
pub enum Begun {
    /// It was carried out before; this is its answer.
    Replay(Replay),
    /// It is new, or has no key.
    Work(Work),
}

/// A POST at work: one transaction that also keeps its answer.
#[must_use = "work that isn't finished is rolled back"]
pub struct Work {
    events: Events,
    tx: Transaction,
    key: Option<idempotency::Key>,
}

impl Work {
    /// The connection on which all of the work must happen.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    /// Keeps the answer under the key, commits, and gives the answer to send; by then all of it is durable.
    pub async fn finish<T: Serialize>(self, status: StatusCode, answer: &T) -> Result<Response, ApiError> {
        let response = (status, axum::Json(answer)).into_response();
        self.keep(status, answer).await?;
        Ok(response)
    }

    /// Keeps what a replay will answer and commits. For the two calls whose answer differs from what is kept: a secret is shown once
    /// and stored nowhere, and a count is read afresh.
    pub async fn keep<T: Serialize>(mut self, status: StatusCode, answer: &T) -> Result<(), ApiError> {
        if let Some(key) = &self.key {
            let kept = KeptAnswer::new(key, status.as_u16(), answer)?;
            idempotency::finish_all(&mut self.tx, &[kept]).await?;
        }
        self.tx.commit().await?;
        self.events.nudge();
        Ok(())
    }
}

/// The answer of a call that was carried out before.
#[derive(Debug)]
pub struct Replay {
    status: StatusCode,
    answer: Value,
}

impl Replay {
    pub(super) fn new(status: u16, answer: Value) -> Self {
        Self { status: StatusCode::from_u16(status).unwrap_or(StatusCode::OK), answer }
    }

    /// Changes what is sent; what was kept stays.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.answer);
        self
    }
}

impl IntoResponse for Replay {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.answer)).into_response();
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        response
    }
}
