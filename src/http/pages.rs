//! The pages: files of `static/`, compiled into the binary (a debug build reads them from the folder).
//!
//! Four pages are one frame, `page.html`, that a script fills; they differ in title and script.
//! Pages are open, since they hold no data: what they show comes from the API with the session's cookie.

use axum::body::Body;
use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use rust_embed::{Embed, EmbeddedFile};
use sha2::{Digest, Sha256};

use super::problem::{ApiError, ProblemKind};

#[derive(Embed)]
#[folder = "static/"]
struct Static;

/// `/`: the list of projects.
pub async fn index_page(headers: HeaderMap) -> Result<Response, ApiError> {
    serve_frame("Projects", "projects", &headers)
}

/// `/login`: takes a token or a one-time code.
pub async fn login_page(headers: HeaderMap) -> Result<Response, ApiError> {
    serve_frame("Sign in", "login", &headers)
}

/// `/label/{project}`: where images are labelled.
pub async fn label_page(headers: HeaderMap) -> Result<Response, ApiError> {
    serve_frame("Label", "label", &headers)
}

/// `/projects/{project}`: what the operator sees.
pub async fn project_page(headers: HeaderMap) -> Result<Response, ApiError> {
    serve_frame("Project", "project", &headers)
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

/// The frame with a page's title and its script, `static/js/{script}.js`.
fn serve_frame(title: &str, script: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let file = find("page.html")?;
    let frame = std::str::from_utf8(&file.data).map_err(ApiError::internal)?;
    let page = frame.replace("{title}", title).replace("{script}", script);
    let hash = Sha256::digest(page.as_bytes());
    Ok(answer(&hash, media_type(&file), page.into(), headers))
}

fn serve(name: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let file = find(name)?;
    let (hash, media_type) = (file.metadata.sha256_hash(), media_type(&file));
    Ok(answer(&hash, media_type, file.data.into(), headers))
}

fn find(name: &str) -> Result<EmbeddedFile, ApiError> {
    Static::get(name)
        .ok_or_else(|| ApiError::new(ProblemKind::NotFound, format!("there is no page '{name}'")))
}

fn answer(hash: &[u8], media_type: String, body: Body, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", hex::encode(&hash[..16]));
    // A page must not outlive an upgrade of the service, so the browser asks each time and mostly gets 304.
    let fixed = [(ETAG, tag.clone()), (CACHE_CONTROL, "no-cache".to_owned())];
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    (fixed, [(CONTENT_TYPE, media_type)], body).into_response()
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

    #[tokio::test]
    async fn every_page_of_the_frame_has_its_title_and_a_script_that_is_there() {
        let none = HeaderMap::new;
        let pages = [
            (index_page(none()).await, "Projects"),
            (login_page(none()).await, "Sign in"),
            (label_page(none()).await, "Label"),
            (project_page(none()).await, "Project"),
        ];
        for (page, title) in pages {
            let page = page.expect("a page");
            assert_eq!(page.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
            let body = axum::body::to_bytes(page.into_body(), 10_000).await.expect("its text");
            let text = String::from_utf8_lossy(&body);
            assert!(text.contains(&format!("<title>{title} · gleaner</title>")), "{text}");
            let (_, script) = text.split_once("type=\"module\" src=\"/static/").expect("a script");
            let (script, _) = script.split_once('"').expect("its path ends");
            assert!(Static::get(script).is_some(), "{script}");
        }
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
