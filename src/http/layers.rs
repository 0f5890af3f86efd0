//! What surrounds every route: request ids, spans, security headers, timeouts, compression.
//!
//! `wrap` puts them on in one order: the id first, so that everything inside can name it; compression last, so that errors are
//! compressed like answers. No span or log line holds a query string, since image addresses are signed there.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, COOKIE, HeaderName, SET_COOKIE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::Predicate;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::sensitive_headers::SetSensitiveHeadersLayer;
use tower_http::timeout::{RequestBodyTimeoutLayer, TimeoutLayer};
use tower_http::trace::TraceLayer;

use super::problem::ApiError;
use super::{metrics, problem};

/// How long a handler may take before it answers 408; streams only have to begin within it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Scripts, styles and images of our own only; images also from memory, for previews of an upload.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    connect-src 'self'; font-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Requests that are carried out at the same moment at most; twenty of them can hold a database connection, the others wait for one.
const CONCURRENT_MAX: usize = 512;

/// How long an upload may stand still.
const UPLOAD_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Ends uploads that stand still.
pub fn with_idle_timeout<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.layer(RequestBodyTimeoutLayer::new(UPLOAD_IDLE_TIMEOUT))
}

/// Lays a timeout on routes that answer at once; uploads go without it.
pub fn with_timeout<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    with_timeout_of(router, ANSWER_TIMEOUT)
}

fn with_timeout_of<S: Clone + Send + Sync + 'static>(router: Router<S>, timeout: Duration) -> Router<S> {
    router.layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, timeout))
}

/// Lays everything that all routes share around `router`; the first line is the innermost.
pub fn wrap(router: Router) -> Router {
    let admission = Arc::new(Semaphore::new(CONCURRENT_MAX));
    router
        .layer(middleware::from_fn_with_state(admission, admit))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn(problem::normalize))
        .layer(CompressionLayer::new().compress_when(CompressText))
        .layer(middleware::from_fn(harden))
        .layer(middleware::from_fn(metrics::track))
        .layer(TraceLayer::new_for_http().make_span_with(request_span).on_request(()).on_failure(()))
        .layer(SetSensitiveHeadersLayer::new([AUTHORIZATION, COOKIE, SET_COOKIE]))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
}

/// Middleware: refuses a request when too many are being carried out; a stream counts until it begins.
async fn admit(State(admission): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match admission.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => {
            ApiError::too_many_requests("too many requests at once; try again in a moment", 1).into_response()
        }
    }
}

/// Middleware: the security headers of every answer, and `no-store` where a handler said nothing about caching.
async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let fixed = [
        ("content-security-policy", CONTENT_SECURITY_POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    // Images under signed addresses are shown by other tools' pages, so their handler says so itself.
    headers.entry("cross-origin-resource-policy").or_insert(HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn request_span(request: &Request) -> tracing::Span {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let id =
        request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).unwrap_or("");
    tracing::info_span!(
        "request",
        http.method = %request.method(),
        http.path = request.uri().path(),
        http.route = route,
        request.id = id,
        caller.token = tracing::field::Empty,
    )
}

/// Compresses text of a kilobyte or more; images and weights are dense already, and events must not wait in a buffer.
#[derive(Clone, Copy)]
struct CompressText;

impl Predicate for CompressText {
    fn should_compress<B: HttpBody>(&self, response: &axum::http::Response<B>) -> bool {
        let media_type =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let text = [
            "application/json",
            "application/x-ndjson",
            "text/html",
            "text/css",
            "text/csv",
            "text/javascript",
            "image/svg+xml",
        ]
        .iter()
        .any(|kind| media_type.starts_with(kind));
        text && response.body().size_hint().exact().is_none_or(|size_bytes| size_bytes >= 1024)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::header::RETRY_AFTER;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;
    use crate::http::problem::PROBLEM_JSON;

    async fn call(router: Router, path: &str) -> Response {
        let request = axum::http::Request::get(path).body(Body::empty()).unwrap();
        router.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_is_a_500_that_hides_its_words() {
        async fn broken() -> &'static str {
            panic!("secret words")
        }
        let response = call(wrap(Router::new().route("/", get(broken))), "/").await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        assert!(response.headers().contains_key("x-request-id"));
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("secret"), "{body:?}");
    }

    #[tokio::test]
    async fn a_handler_that_takes_too_long_is_a_408_problem() {
        let slow = get(|| async {
            std::future::pending::<()>().await;
        });
        let response =
            call(wrap(with_timeout_of(Router::new().route("/", slow), Duration::from_millis(10))), "/").await;
        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
    }

    #[tokio::test]
    async fn one_request_too_many_is_429_with_retry_after() {
        let admission = Arc::new(Semaphore::new(0));
        let router = Router::new()
            .route("/", get(|| async {}))
            .layer(middleware::from_fn_with_state(admission, admit));
        let response = call(router, "/").await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }
}
