//! Who calls: bearer tokens, and the session cookie of pages.
//!
//! A handler says by the type of its first argument which role it needs (`Labeler`, `Tool`, `Operator`, `Admin`), so none can be
//! written without one. A cookie is sent by the browser whoever caused the request; so a write with a cookie must also come from a
//! page of this service (`Sec-Fetch-Site` or `Origin`), which a foreign page can't claim.

use std::collections::HashMap;
use std::ops::Deref;

use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;

use super::AppState;
use super::gather;
use super::problem::{ApiError, ProblemKind};
use crate::access::principal::Principal;
use crate::access::session;
use crate::access::token::{TokenHash, TokenText};
use crate::domain::ids::TokenId;
use crate::domain::role::Role;
use crate::store::project::ProjectRow;
use crate::store::token::TokenRow;
use crate::store::{self, PgConnection, Store};

/// The cookie that holds a page's session.
pub const SESSION_COOKIE: &str = "gleaner_session";

macro_rules! caller {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(pub Principal);

        impl FromRequestParts<AppState> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
                let principal = authenticate(app, parts).await?;
                require(&principal, Role::$name)?;
                Ok(Self(principal))
            }
        }

        impl Deref for $name {
            type Target = Principal;

            fn deref(&self) -> &Principal {
                &self.0
            }
        }
    };
}

caller!(
    /// Anybody with a valid token.
    Labeler
);
caller!(
    /// A caller of role tool or higher.
    Tool
);
caller!(
    /// A caller of role operator or higher.
    Operator
);
caller!(
    /// A caller of role admin.
    Admin
);

/// A caller of role tool or higher whose token comes as a bearer token or as the password of HTTP Basic, which is all that Label Studio knows.
///
/// No cookie is looked at. The other routes don't take Basic, since a browser that was asked for it once sends it along by itself.
#[derive(Clone, Debug)]
pub struct BasicTool(pub Principal);

impl FromRequestParts<AppState> for BasicTool {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let text = header.and_then(|header| {
            bearer(header)
                .map(str::to_owned)
                .or_else(|| basic_password(header))
                .as_deref()
                .and_then(TokenText::parse)
        });
        let text = text.ok_or_else(|| {
            unauthenticated("give a token of role tool as the password of HTTP Basic, or as a bearer token")
        })?;
        let principal = principal_of_text(app, &text).await?;
        tracing::Span::current().record("caller.token", tracing::field::display(principal.token));
        require(&principal, Role::Tool)?;
        Ok(Self(principal))
    }
}

impl Deref for BasicTool {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.0
    }
}

/// A caller who need not have shown a valid token, for the few routes that decide by themselves.
pub struct MaybeCaller(Result<Principal, ApiError>);

impl MaybeCaller {
    /// The caller, if there is one and its role suffices.
    pub fn require(self, role: Role) -> Result<Principal, ApiError> {
        let principal = self.0?;
        require(&principal, role)?;
        Ok(principal)
    }
}

impl FromRequestParts<AppState> for MaybeCaller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Self::Rejection> {
        Ok(Self(authenticate(app, parts).await))
    }
}

fn require(principal: &Principal, role: Role) -> Result<(), ApiError> {
    if principal.has_role(role) { Ok(()) } else { Err(ApiError::needs_role(role, principal.role)) }
}

/// Finds the caller of a request by its bearer token, or by its cookie when it has none.
async fn authenticate(app: &AppState, parts: &Parts) -> Result<Principal, ApiError> {
    let principal = if let Some(header) = parts.headers.get(AUTHORIZATION) {
        let text = header.to_str().ok().and_then(bearer).and_then(TokenText::parse);
        let text =
            text.ok_or_else(|| unauthenticated("the Authorization header must be 'Bearer <token>'"))?;
        principal_of_text(app, &text).await?
    } else if let Some(value) = cookie(&parts.headers, SESSION_COOKIE) {
        let token = session::open(&app.key, value, Utc::now())
            .ok_or_else(|| unauthenticated("the session has ended; log in again"))?;
        if !parts.method.is_safe() {
            check_origin(&parts.method, &parts.headers)?;
        }
        principal_of_id(app, token).await?
    } else {
        return Err(unauthenticated("send 'Authorization: Bearer <token>', or log in on the page"));
    };
    tracing::Span::current().record("caller.token", tracing::field::display(principal.token));
    Ok(principal)
}

/// The token of a request's session, if its cookie is good.
#[must_use]
pub fn session_token(app: &AppState, headers: &HeaderMap) -> Option<TokenId> {
    cookie(headers, SESSION_COOKIE).and_then(|value| session::open(&app.key, value, Utc::now()))
}

/// The caller whom a token's text names.
pub async fn principal_of_text(app: &AppState, text: &TokenText) -> Result<Principal, ApiError> {
    let store = app.store.clone();
    // Nothing is remembered between lookups, so a revoked token is refused from the next request on.
    let row = app
        .gathers
        .tokens
        .ask("", 1, text.hash(), move |hashes| find_tokens(store.clone(), hashes))
        .await??;
    row.filter(|row| text.matches(&row.hash))
        .and_then(live_principal)
        .ok_or_else(|| unauthenticated("the token is unknown, expired or revoked"))
}

/// Looks up tokens that were shown at the same moment.
async fn find_tokens(store: Store, hashes: Vec<TokenHash>) -> Vec<Result<Option<TokenRow>, ApiError>> {
    let find = async || {
        let rows = store::token::find_by_hashes(&mut *store.acquire().await?, &hashes).await?;
        let rows: HashMap<Vec<u8>, TokenRow> = rows.into_iter().map(|row| (row.hash.clone(), row)).collect();
        Ok(hashes.iter().map(|hash| rows.get(hash.as_slice()).cloned()).collect())
    };
    gather::answer_each(hashes.len(), find().await)
}

/// The caller whom a token's id names, once a session or a login code vouched for it.
pub async fn principal_of_id(app: &AppState, token: TokenId) -> Result<Principal, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = store::token::find(&mut connection, token).await?;
    row.and_then(live_principal)
        .ok_or_else(|| unauthenticated("the token of this session is expired or revoked"))
}

fn live_principal(row: TokenRow) -> Option<Principal> {
    let live = row.revoked_at.is_none() && row.expires_at.is_none_or(|end| Utc::now() < end);
    live.then(|| Principal {
        token: row.id,
        role: row.role,
        name: row.name.into(),
        projects: row.projects.map(Into::into),
    })
}

fn unauthenticated(detail: &str) -> ApiError {
    ApiError::new(ProblemKind::Unauthenticated, detail)
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn basic_password(header: &str) -> Option<String> {
    let (scheme, encoded) = header.split_once(' ')?;
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(encoded.trim()).ok())??;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// Refuses a write with a cookie that a foreign page caused (cross-site request forgery).
pub fn check_origin(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let own = match text("sec-fetch-site") {
        Some(site) => site == "same-origin",
        // Older browsers send Origin alone; it names scheme and host, of which the proxy may have changed the scheme.
        None => {
            match (text(ORIGIN.as_str()).and_then(|origin| origin.split_once("://")), text(HOST.as_str())) {
                (Some((_, origin_host)), Some(host)) => origin_host == host,
                _ => false,
            }
        }
    };
    if own {
        return Ok(());
    }
    Err(ApiError::new(
        ProblemKind::Forbidden,
        format!(
            "a {method} with a session cookie must come from a page of this service; tools send a bearer token instead"
        ),
    ))
}

/// The project of a path, by name or id; one that the caller may not touch is as good as absent.
pub async fn find_project(
    connection: &mut PgConnection,
    caller: &Principal,
    key: &str,
) -> Result<ProjectRow, ApiError> {
    let row = store::project::find_by_key(connection, key).await?;
    row.filter(|row| caller.may_touch(row.id)).ok_or_else(|| ApiError::not_found("project", key))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
            .collect()
    }

    #[rstest::rstest]
    #[case(&[("sec-fetch-site", "same-origin")], true)]
    #[case(&[("sec-fetch-site", "cross-site"), ("origin", "http://here"), ("host", "here")], false)]
    #[case(&[("sec-fetch-site", "same-site")], false)]
    #[case(&[("origin", "http://here:8080"), ("host", "here:8080")], true)]
    #[case(&[("origin", "http://there"), ("host", "here:8080")], false)]
    #[case(&[("origin", "null"), ("host", "here:8080")], false)]
    #[case(&[], false)]
    fn a_write_with_a_cookie_must_come_from_an_own_page(
        #[case] pairs: &[(&'static str, &'static str)],
        #[case] allowed: bool,
    ) {
        assert_eq!(check_origin(&Method::POST, &headers(pairs)).is_ok(), allowed);
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let headers = headers(&[("cookie", "a=1; gleaner_session=x.y.z; b=2")]);
        assert_eq!(cookie(&headers, SESSION_COOKIE), Some("x.y.z"));
        assert_eq!(cookie(&headers, "session"), None);
    }

    #[test]
    fn the_scheme_of_a_bearer_token_may_have_any_case() {
        assert_eq!(bearer("bearer abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
    }
}
