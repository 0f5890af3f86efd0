//! The pages: files of `static/`, compiled into the binary; `GLEANER_PAGES` serves them from a folder while somebody works on them.
//!
//! Five pages are one frame, `page.html`, that a script fills; they differ in title and script. The frame names every module that its script
//! imports, so that a browser fetches them at once rather than one import after the other. Pages are open, since they hold no data: what
//! they show comes from the API with the session's cookie.

use std::borrow::Cow;
use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use rust_embed::Embed;
use sha2::{Digest, Sha256};

use super::AppState;
use super::problem::{ApiError, ProblemKind};

#[derive(Embed)]
#[folder = "static/"]
struct Static;

/// `/`: the list of projects.
pub async fn index_page(State(app): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    serve_frame(app.pages, "Projects", "projects", headers).await
}

/// `/login`: takes a token or a one-time code.
pub async fn login_page(State(app): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    serve_frame(app.pages, "Sign in", "login", headers).await
}

/// `/label/{project}`: where images are labelled.
pub async fn label_page(State(app): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    serve_frame(app.pages, "Label", "label", headers).await
}

/// `/projects/{project}`: what the operator sees.
pub async fn project_page(State(app): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    serve_frame(app.pages, "Project", "project", headers).await
}

/// `/access`: who and what may use the service.
pub async fn access_page(State(app): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    serve_frame(app.pages, "Access", "access", headers).await
}

/// `/docs`: the API, read from `/openapi.json`.
pub async fn docs_page(State(app): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    serve(app.pages, "docs.html".to_owned(), headers).await
}

/// `/static/{path}`: scripts, styles and pictures of the pages.
pub async fn static_file(
    State(app): State<AppState>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    serve(app.pages, path, headers).await
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

/// A file of the pages.
struct PageFile {
    bytes: Cow<'static, [u8]>,
    media_type: String,
}

/// Where the pages' files come from: this folder, or the binary.
type Folder = Option<Arc<FilePath>>;

/// The frame with a page's title, its script `static/js/{script}.js` and the modules behind it.
async fn serve_frame(
    folder: Folder,
    title: &'static str,
    script: &'static str,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    reading(folder, move |folder| {
        let file = find(folder, "page.html")?;
        let frame = std::str::from_utf8(&file.bytes).map_err(ApiError::internal)?;
        let entry = format!("js/{script}.js");
        let links = modules_behind(folder, &entry)
            .into_iter()
            .map(|module| format!("<link rel=\"modulepreload\" href=\"/static/{module}\">"));
        let preloads = links.collect::<Vec<_>>().join("\n  ");
        let page =
            frame.replace("{title}", title).replace("{script}", script).replace("{preloads}", &preloads);
        let page = PageFile { bytes: page.into_bytes().into(), media_type: file.media_type };
        Ok(answer(page, &headers))
    })
    .await
}

async fn serve(folder: Folder, name: String, headers: HeaderMap) -> Result<Response, ApiError> {
    reading(folder, move |folder| Ok(answer(find(folder, &name)?, &headers))).await
}

/// Runs `read` where it may wait for a disk, if the files lie on one.
async fn reading<T: Send + 'static>(
    folder: Folder,
    read: impl FnOnce(Option<&FilePath>) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match folder {
        None => read(None),
        Some(folder) => {
            tokio::task::spawn_blocking(move || read(Some(&folder))).await.map_err(ApiError::internal)?
        }
    }
}

fn find(folder: Option<&FilePath>, name: &str) -> Result<PageFile, ApiError> {
    let found = match folder {
        None => Static::get(name).map(|file| file.data),
        // Only names below the folder: no root, no "..".
        Some(folder) => FilePath::new(name)
            .components()
            .all(|component| matches!(component, Component::Normal(_)))
            .then(|| std::fs::read(folder.join(name)).ok())
            .flatten()
            .map(Cow::Owned),
    };
    let bytes =
        found.ok_or_else(|| ApiError::new(ProblemKind::NotFound, format!("there is no page '{name}'")))?;
    Ok(PageFile { bytes, media_type: media_type(name).to_owned() })
}

/// The modules that a script imports, and those that they import, as paths below `static/`; the script itself isn't among them.
fn modules_behind(folder: Option<&FilePath>, script: &str) -> Vec<String> {
    let mut known = vec![script.to_owned()];
    let mut next = 0;
    while let Some(module) = known.get(next).cloned() {
        next += 1;
        let Ok(file) = find(folder, &module) else {
            continue;
        };
        let source = String::from_utf8_lossy(&file.bytes).into_owned();
        for imported in source.lines().filter_map(|line| imported_path(line, &module)) {
            if !known.contains(&imported) {
                known.push(imported);
            }
        }
    }
    known.split_off(1)
}

/// What a line such as `import { get } from "./api.js";` imports, seen from the module it stands in.
fn imported_path(line: &str, module: &str) -> Option<String> {
    let (_, path) = line.split_once(" from \"").filter(|(before, _)| before.starts_with(['i', 'e', '}']))?;
    let path = path.split('"').next().filter(|path| path.starts_with('.'))?;
    let mut parts: PathBuf = FilePath::new(module).parent()?.to_path_buf();
    for component in FilePath::new(path).components() {
        match component {
            Component::ParentDir => _ = parts.pop(),
            Component::Normal(name) => parts.push(name),
            _ => {}
        }
    }
    parts.to_str().map(str::to_owned)
}

fn answer(file: PageFile, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&file.bytes)[..16]));
    // A page must not outlive an upgrade of the service, so the browser asks each time and mostly gets 304.
    let fixed = [(ETAG, tag.clone()), (CACHE_CONTROL, "no-cache".to_owned())];
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    (fixed, [(CONTENT_TYPE, file.media_type)], Body::from(file.bytes)).into_response()
}

fn media_type(name: &str) -> &'static str {
    match FilePath::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of this checkout, as `GLEANER_PAGES` would name them.
    fn on_disk() -> Folder {
        Some(FilePath::new(env!("CARGO_MANIFEST_DIR")).join("static").into())
    }

    #[tokio::test]
    async fn a_page_that_is_known_is_not_sent_again() {
        for folder in [None, on_disk()] {
            let serve = |headers| serve(folder.clone(), "docs.html".to_owned(), headers);
            let first = serve(HeaderMap::new()).await.expect("the page of the API");
            assert_eq!(first.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, first.headers()[ETAG].clone());
            assert_eq!(serve(headers).await.expect("no change").status(), StatusCode::NOT_MODIFIED);
        }
    }

    #[tokio::test]
    async fn every_page_of_the_frame_has_its_title_and_names_modules_that_are_there() {
        for (title, script) in
            [("Projects", "projects"), ("Sign in", "login"), ("Label", "label"), ("Project", "project")]
        {
            let page = serve_frame(None, title, script, HeaderMap::new()).await.expect("a page");
            assert_eq!(page.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
            let body = axum::body::to_bytes(page.into_body(), 20_000).await.expect("its text");
            let text = String::from_utf8_lossy(&body);
            assert!(text.contains(&format!("<title>{title} · gleaner</title>")), "{text}");
            let paths: Vec<&str> =
                text.split("\"/static/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
            assert!(paths.contains(&format!("js/{script}.js").as_str()), "{paths:?}");
            assert!(paths.contains(&"js/dom.js") && paths.contains(&"js/text.js"), "{paths:?}");
            for path in paths {
                assert!(Static::get(path).is_some(), "{path}");
            }
        }
    }

    #[rstest::rstest]
    #[case("import { get } from \"./api.js\";", Some("js/board/api.js"))]
    #[case("} from \"../dom.js\";", Some("js/dom.js"))]
    #[case("export * from \"./a/b.js\";", Some("js/board/a/b.js"))]
    #[case("// a word from \"./somewhere.js\"", None)]
    #[case("import { a } from \"npm-package\";", None)]
    fn an_import_is_read_off_its_line(#[case] line: &str, #[case] path: Option<&str>) {
        assert_eq!(imported_path(line, "js/board/map.js").as_deref(), path);
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
        for folder in [None, on_disk()] {
            for name in ["../Cargo.toml", "/etc/hostname", "js/../../Cargo.toml", "js"] {
                assert!(find(folder.as_deref(), name).is_err(), "{name}");
            }
        }
    }
}
