//! What comes in with a request, parsed: path, query, JSON bodies, pages of lists.
//!
//! These extractors differ from axum's in their errors alone: each is an `ApiError`, and one that names the field.

use std::fmt::Display;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::problem::{ApiError, ProblemKind};
use crate::domain::field_error::FieldError;

/// Parameters in the path; one that can't be parsed is 404, since nothing stands there.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let parsed: Result<axum::extract::Path<T>, PathRejection> =
            axum::extract::Path::from_request_parts(parts, state).await;
        match parsed {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) if rejection.status().is_server_error() => Err(ApiError::internal(rejection)),
            Err(rejection) => Err(ApiError::new(ProblemKind::NotFound, rejection.body_text())),
        }
    }
}

/// Parameters in the query; an unknown or invalid one is 422.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let parsed: Result<axum::extract::Query<T>, QueryRejection> =
            axum::extract::Query::from_request_parts(parts, state).await;
        match parsed {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                // axum writes "Failed to deserialize query string: <parameter>: <reason>".
                let text = rejection.body_text();
                let found = text.split_once(": ").map_or(text.as_str(), |(_, found)| found);
                let (parameter, reason) = found.split_once(": ").unwrap_or((".", found));
                Err(ApiError::invalid(vec![field_error(parameter, reason)]))
            }
        }
    }
}

/// A JSON body of a PATCH, PUT or DELETE, which must be there (a POST takes `idempotency::Post`).
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let headers = request.headers().clone();
        let bytes = read_body(request, state).await?;
        if bytes.is_empty() {
            return Err(ApiError::new(ProblemKind::Malformed, "the body is missing; send a JSON object"));
        }
        parse_json(&headers, &bytes).map(Self)
    }
}

/// Bytes that the bodies of a route may have, known to its requests as an extension.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimit(pub usize);

/// The whole body, at most the limit of its route.
pub async fn read_body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let limit = request.extensions().get::<BodyLimit>().copied();
    let read: Result<Bytes, BytesRejection> = Bytes::from_request(request, state).await;
    read.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let limit = limit.map(|limit| format!(", at most {} bytes", limit.0)).unwrap_or_default();
            let detail = format!("the body is larger than this path takes{limit}; send it in parts");
            ApiError::new(ProblemKind::TooLarge, detail)
        }
        _ => ApiError::new(ProblemKind::Malformed, "the body ended before it was complete"),
    })
}

/// Parses a JSON body. An empty one counts as `{}`, so calls without fields need none; another media type is 415.
pub fn parse_json<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, ApiError> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if bytes.is_empty() {
        return parse_bytes(b"{}");
    }
    if media_type.split(';').next().is_none_or(|name| !name.trim().eq_ignore_ascii_case("application/json")) {
        return Err(ApiError::new(
            ProblemKind::UnsupportedMediaType,
            format!("the body must be application/json; it says '{media_type}'"),
        ));
    }
    // serde would take a list for an object, its values for the fields in their order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(ApiError::invalid_field("body", "must be an object"));
    }
    parse_bytes(bytes)
}

fn parse_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            let text = inner.to_string();
            let reason = text.split(" at line ").next().unwrap_or(&text);
            ApiError::invalid(vec![field_error(&path, reason)])
        } else {
            ApiError::new(ProblemKind::Malformed, format!("the body is no JSON: {inner}"))
        }
    })?;
    // serde reads a list as the fields of an object in their order, which no document allows.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::invalid_field("body", "must be a JSON object"));
    }
    reader
        .end()
        .map_err(|error| ApiError::new(ProblemKind::Malformed, format!("the body is no JSON: {error}")))?;
    Ok(value)
}

/// Turns a JSON value into a type; an error names the field below `prefix`.
pub fn parse_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        ApiError::invalid(vec![field_error(&path, &error.into_inner().to_string())])
    })
}

/// The field that serde's message is about: an unknown or missing one is named in the message, not in the path.
fn field_error(path: &str, reason: &str) -> FieldError {
    let named = ["unknown field `", "missing field `"]
        .iter()
        .find_map(|start| reason.strip_prefix(start))
        .and_then(|rest| rest.split_once('`'))
        .map(|(name, _)| name);
    let parent = if path == "." { "" } else { path };
    let field = match named {
        Some(name) if parent.is_empty() => name.to_owned(),
        Some(name) if parent == name || parent.ends_with(&format!(".{name}")) => parent.to_owned(),
        Some(name) => format!("{parent}.{name}"),
        None if parent.is_empty() => "body".to_owned(),
        None => parent.to_owned(),
    };
    FieldError::new(field, reason)
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, Default, serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// At most so many entries, 1 to 1000; 100 when absent.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[param(pattern = "^[0-9a-f]{8}[.][0-9A-Za-z_-]+$")]
    pub after: Option<String>,
}

/// The most entries of one page.
pub const PAGE_LIMIT_MAX: u32 = 1000;

impl PageQuery {
    /// How many entries the page may hold.
    pub fn limit(&self) -> Result<u32, ApiError> {
        page_limit(self.limit)
    }
}

/// Checks `?limit=`.
pub fn page_limit(limit: Option<u32>) -> Result<u32, ApiError> {
    match limit.unwrap_or(100) {
        limit @ 1..=PAGE_LIMIT_MAX => Ok(limit),
        _ => Err(ApiError::invalid_field("limit", format!("must be 1 to {PAGE_LIMIT_MAX}"))),
    }
}

/// One list of the service: its cursors say which list they belong to, so that one of another list is refused instead of read wrongly.
#[derive(Clone, Debug)]
pub struct List {
    tag: String,
}

impl List {
    /// The list `name` of what `scope` names: a project's id, a round's number.
    #[must_use]
    pub fn new(name: &str, scope: &[&dyn Display]) -> Self {
        let mut digest = Sha256::new_with_prefix(name);
        for part in scope {
            digest.update(format!("/{part}"));
        }
        Self { tag: hex::encode(&digest.finalize()[..4]) }
    }

    /// The cursor after the entry that `key` finds.
    #[must_use]
    pub fn cursor(&self, key: impl Display) -> String {
        format!("{}.{key}", self.tag)
    }

    /// Parses `?after=`; `None` for the first page.
    pub fn after<C: FromStr>(&self, query: &PageQuery) -> Result<Option<C>, ApiError> {
        let Some(text) = query.after.as_deref() else { return Ok(None) };
        let refuse = || ApiError::invalid_field("after", "must be the `next` of a page of this list");
        let (tag, key) = text.split_once('.').ok_or_else(refuse)?;
        if tag != self.tag {
            return Err(refuse());
        }
        key.parse().map(Some).map_err(|_| refuse())
    }
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The entries, in the list's order.
    pub items: Vec<T>,
    /// What `after` must be for the next page; null on the last.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page from up to `limit` entries; a full one is followed by another, which may be empty.
    pub fn new<R>(
        rows: Vec<R>,
        limit: u32,
        cursor: impl Fn(&R) -> String,
        entry: impl FnMut(R) -> T,
    ) -> Self {
        let full = rows.len() as u64 >= u64::from(limit);
        let next = rows.last().filter(|_| full).map(cursor);
        Self { items: rows.into_iter().map(entry).collect(), next }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "count")]
        _count: u32,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(rename = "inner")]
        _inner: Inner,
    }

    fn parse(text: &str) -> Result<Outer, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        parse_json(&headers, text.as_bytes())
    }

    #[rstest::rstest]
    #[case(r#"{"inner": {"cuont": 3}}"#, "inner.cuont")]
    #[case(r#"{"inner": {"count": "three"}}"#, "inner.count")]
    #[case(r#"{"inner": {}}"#, "inner.count")]
    #[case(r#"{"iner": {}}"#, "iner")]
    #[case("", "inner")]
    #[case(r#" [{"count": 3}]"#, "body")]
    fn the_field_that_is_wrong_is_named(#[case] body: &str, #[case] field: &str) {
        let error = parse(body).expect_err("an invalid body");
        assert_eq!(error.kind(), ProblemKind::Invalid);
        assert!(format!("{error:?}").contains(&format!("field: \"{field}\"")), "{error:?}");
    }

    #[test]
    fn a_list_of_values_is_no_object() {
        let error = parse(r#"[{"count": 3}]"#).expect_err("a list");
        assert_eq!(error.kind(), ProblemKind::Invalid);
        assert!(parse(r#" {"inner": {"count": 3}}"#).is_ok());
    }

    #[test]
    fn what_is_no_json_is_malformed_and_another_media_type_unsupported() {
        assert_eq!(parse("{").expect_err("half a body").kind(), ProblemKind::Malformed);
        assert_eq!(parse(r#"{"inner": {"count": 3}} x"#).expect_err("more").kind(), ProblemKind::Malformed);
        let plain = parse_json::<Outer>(&HeaderMap::new(), b"{}").expect_err("no media type");
        assert_eq!(plain.kind(), ProblemKind::UnsupportedMediaType);
    }

    #[test]
    fn a_cursor_leads_on_in_its_own_list_alone() {
        let list = List::new("items", &[&"project"]);
        let query = PageQuery { limit: None, after: Some(list.cursor(17)) };
        assert_eq!(list.after::<u32>(&query).expect("its own cursor"), Some(17));
        for other in [List::new("items", &[&"other"]), List::new("rounds", &[&"project"])] {
            assert_eq!(other.after::<u32>(&query).expect_err("another's").kind(), ProblemKind::Invalid);
        }
        for broken in ["17", "", ".17"] {
            let query = PageQuery { limit: None, after: Some(broken.to_owned()) };
            assert!(list.after::<u32>(&query).is_err(), "{broken}");
        }
        assert_eq!(list.after::<u32>(&PageQuery::default()).expect("the first page"), None);
    }

    #[test]
    fn a_page_that_is_not_full_is_the_last() {
        let page = Page::new(vec![1, 2], 3, u32::to_string, |row| row);
        assert_eq!(page.next, None);
        let page = Page::new(vec![1, 2, 3], 3, u32::to_string, |row| row);
        assert_eq!(page.next.as_deref(), Some("3"));
    }
}
