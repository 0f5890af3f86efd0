//! The only HTTP client: what goes out of the service or its commands, with timeouts and repeats.
//!
//! `ApiClient` speaks gleaner's own API as an external tool would. Each POST has an idempotency key, so a request whose answer was lost is
//! sent again without being carried out twice. `GuardedClient` calls addresses that somebody outside named (webhooks, images by address), and
//! only public ones unless the operator allows others.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

mod address;
mod guarded;

pub use address::{Address, AddressError};
pub use guarded::{CallError, GuardedClient, Reply};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a request is repeated while the service is away.
const PATIENCE: Duration = Duration::from_secs(300);

/// The pause before a repeat when the service doesn't name one.
const REPEAT_PAUSE: Duration = Duration::from_secs(1);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The client can't be built.
    #[error("no HTTP client can be made: {0}")]
    Setup(#[source] reqwest::Error),
    /// No answer came, though it was tried for minutes.
    #[error("{url} does not answer: {source}; check that the server runs there")]
    Unreachable {
        /// What was called.
        url: String,
        /// What the client said.
        #[source]
        source: reqwest::Error,
    },
    /// The service refused.
    #[error("{url} answered {status}: {detail}")]
    Refused {
        /// What was called.
        url: String,
        /// Its status.
        status: StatusCode,
        /// Its words.
        detail: String,
    },
    /// The answer has another form than it should.
    #[error(
        "{url} answered something else than expected: {source}; check that it is a gleaner of this version"
    )]
    Unexpected {
        /// What was called.
        url: String,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
}

/// A caller of gleaner's API: an address and a token; cheap to clone.
#[derive(Clone)]
pub struct ApiClient {
    client: reqwest::Client,
    base_url: String,
    token: String,
}

impl ApiClient {
    /// Calls the service at `base_url` (`http://127.0.0.1:8080`) with a bearer token.
    pub fn new(base_url: &str, token: &str) -> Result<Self, OutboundError> {
        // Fails only when another part of the process installed one before, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("gleaner/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(OutboundError::Setup)?;
        Ok(Self { client, base_url: base_url.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    /// The same service with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// GET of a path below `/api/v1`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, OutboundError> {
        self.call(Method::GET, path, None::<&Value>).await
    }

    /// POST to a path below `/api/v1`, with a fresh idempotency key.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, OutboundError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// DELETE of a path below `/api/v1`; what is answered doesn't matter.
    pub async fn delete(&self, path: &str) -> Result<(), OutboundError> {
        self.call::<Value, Value>(Method::DELETE, path, None).await.map(drop)
    }

    /// Sends a request until it is answered for good, or patience runs out.
    async fn call<T: DeserializeOwned, B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, OutboundError> {
        let url = format!("{}/api/v1{path}", self.base_url);
        let key = Uuid::now_v7().to_string();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut request = self.client.request(method.clone(), &url).bearer_auth(&self.token);
            if method == Method::POST {
                request = request.header("idempotency-key", &key);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let failure = match attempt(request, &url).await {
                Ok(bytes) => {
                    return parse(&bytes).map_err(|source| OutboundError::Unexpected { url, source });
                }
                Err(failure) => failure,
            };
            match failure.pause {
                Some(pause) if tokio::time::Instant::now() + pause < deadline => {
                    tracing::warn!(error.cause = %failure.error, pause_ms = pause.as_millis(), "a request is sent again");
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(failure.error),
            }
        }
    }
}

/// A failed attempt, and after which pause another one may succeed.
struct Failure {
    error: OutboundError,
    pause: Option<Duration>,
}

async fn attempt(request: reqwest::RequestBuilder, url: &str) -> Result<Vec<u8>, Failure> {
    let unreachable = |source| Failure {
        error: OutboundError::Unreachable { url: url.to_owned(), source },
        pause: Some(REPEAT_PAUSE),
    };
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let named = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    let bytes = response.bytes().await.map_err(unreachable)?;
    if status.is_success() {
        return Ok(bytes.to_vec());
    }
    let passing = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT
    );
    let detail = serde_json::from_slice::<Value>(&bytes)
        .ok()
        .and_then(|problem| problem["detail"].as_str().map(str::to_owned))
        .unwrap_or_else(|| "no reason given".to_owned());
    let pause = passing.then(|| named.map_or(REPEAT_PAUSE, Duration::from_secs));
    Err(Failure { error: OutboundError::Refused { url: url.to_owned(), status, detail }, pause })
}

/// An empty answer (204) counts as null.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(if bytes.is_empty() { b"null" } else { bytes })
}
