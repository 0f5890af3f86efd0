//! The pages: files of `static/`, compiled into the binary (a debug build reads them from the folder).
//!
//! Pages are open, since they hold no data: what they show comes from the API with the session's cookie.

use axum::body::Body;
use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use rust_embed::{Embed, EmbeddedFile};

use super::problem::{ApiError, ProblemKind};

#[derive(Embed)]
#[folder = "static/"]
struct Static;

/// `/`: the list of projects.
pub async fn index_page(headers: HeaderMap) -> Result<Response, ApiError> {
    serve("index.html", &headers)
}

/// `/login`: takes a token or a one-time code.
pub async fn login_page(headers: HeaderMap) -> Result<Response, ApiError> {
    serve("login.html", &headers)
}

/// `/label/{project}`: where images are labelled.
pub async fn label_page(headers: HeaderMap) -> Result<Response, ApiError> {
    serve("label.html", &headers)
}

/// `/projects/{project}`: what the operator sees.
pub async fn project_page(headers: HeaderMap) -> Result<Response, ApiError> {
    serve("project.html", &headers)
}

/// `/docs`: the API, read from `/openapi.json`.
pub async fn docs_page(headers: HeaderMap) -> Result<Response, ApiError> {
    serve("docs.html", &headers)
}

/// `/static/{path}`: scripts, styles and pictures of the pages.
pub async fn static_file(Path(path): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    serve(&path, &headers)
}

/// `/problems/{slug}`: what a `type` of an error means.
pub async fn problem_page(Path(slug): Path<String>) -> Result<Html<String>, ApiError> {
    let kind = ProblemKind::ALL.into_iter().find(|kind| kind.describe().0 == slug);
    let (_, status, title) = kind.ok_or_else(|| ApiError::not_found("problem type", &slug))?.describe();
    Ok(Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><h1>{title}</h1>\
         <p>Answered with status {status}; the field <code>detail</code> of the answer says what happened and what to do.</p></html>"
    )))
}

fn serve(name: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let file = Static::get(name)
        .ok_or_else(|| ApiError::new(ProblemKind::NotFound, format!("there is no page '{name}'")))?;
    let tag = format!("\"{}\"", hex::encode(&file.metadata.sha256_hash()[..16]));
    // A page must not outlive an upgrade of the service, so the browser asks each time and mostly gets 304.
    let fixed = [(ETAG, tag.clone()), (CACHE_CONTROL, "no-cache".to_owned())];
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, fixed).into_response());
    }
    let media_type = media_type(&file);
    Ok((fixed, [(CONTENT_TYPE, media_type)], Body::from(file.data)).into_response())
}

fn media_type(file: &EmbeddedFile) -> String {
    let guessed = file.metadata.mimetype();
    if guessed.starts_with("text/") { format!("{guessed}; charset=utf-8") } else { guessed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_known_is_not_sent_again() {
        let first = serve("docs.html", &HeaderMap::new()).expect("the page of the API");
        assert_eq!(first.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, first.headers()[ETAG].clone());
        assert_eq!(serve("docs.html", &headers).expect("no change").status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn no_page_holds_a_script_or_style_that_the_policy_would_block() {
        for name in Static::iter().filter(|name| name.ends_with(".html")) {
            let file = Static::get(&name).expect("a listed file");
            let text = String::from_utf8_lossy(&file.data);
            for blocked in ["<style", " style=", " onclick=", "<script>", "javascript:"] {
                assert!(!text.contains(blocked), "{name} holds {blocked}");
            }
        }
    }

    #[test]
    fn a_name_outside_the_folder_is_not_found() {
        assert!(serve("../Cargo.toml", &HeaderMap::new()).is_err());
    }
}
