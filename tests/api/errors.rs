//! What goes wrong before a handler does its work.

use reqwest::Method;
use serde_json::json;

use crate::app::{send, spawn_app};

#[tokio::test]
async fn an_unknown_path_a_wrong_method_and_a_wrong_media_type_are_problems() {
    let app = spawn_app().await;
    app.get("/api/v1/nothing").await.expect_problem(404, "not-found");
    let wrong = send(app.request(&app.admin, Method::PUT, "/api/v1/projects")).await;
    let allowed = wrong.headers["allow"].to_str().unwrap().to_owned();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
    wrong.expect_problem(405, "method-not-allowed");
    let text = app
        .request(&app.admin, Method::POST, "/api/v1/projects")
        .header("content-type", "text/plain")
        .body("name");
    send(text).await.expect_problem(415, "unsupported-media-type");
}

#[tokio::test]
async fn a_body_that_is_no_json_or_too_large_is_refused() {
    let app = spawn_app().await;
    let post = |body: String| {
        app.request(&app.admin, Method::POST, "/api/v1/projects")
            .header("content-type", "application/json")
            .body(body)
    };
    send(post("{\"name\":".to_owned())).await.expect_problem(400, "malformed");
    send(post(" ".repeat(5 << 20))).await.expect_problem(413, "too-large");
}

#[tokio::test]
async fn an_unknown_field_is_named_with_its_path() {
    let app = spawn_app().await;
    let body = json!({"name": "p", "classes": ["a", "b"], "bugdet": 5});
    let problem = app.post("/api/v1/projects", body).await.expect_invalid("bugdet");
    assert!(problem["detail"].as_str().unwrap().contains("unknown field"), "{problem}");
    let body = json!({"name": "p", "classes": ["a", "b"], "fine_tune": {"epoch": 5}});
    app.post("/api/v1/projects", body).await.expect_invalid("fine_tune.epoch");
    app.get("/api/v1/projects?limt=5").await.expect_invalid("limt");
    app.get("/api/v1/projects?limit=0").await.expect_invalid("limit");
    app.get("/api/v1/projects?after=nonsense").await.expect_invalid("after");
}

#[tokio::test]
async fn an_id_that_is_none_is_not_found() {
    let app = spawn_app().await;
    app.get("/api/v1/items/nonsense").await.expect_problem(404, "not-found");
    app.get("/api/v1/items/0190163d-8694-739b-aea5-966c26f8ad90").await.expect_problem(404, "not-found");
    app.get("/api/v1/projects/nobody").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_security_headers() {
    let app = spawn_app().await;
    for path in ["/healthz", "/api/v1/nothing", "/", "/docs"] {
        let answer = send(app.bare(Method::GET, path)).await;
        let headers = &answer.headers;
        assert!(!headers["x-request-id"].is_empty(), "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
    }
}

#[tokio::test]
async fn the_document_and_the_pages_are_open() {
    let app = spawn_app().await;
    let document = send(app.bare(Method::GET, "/openapi.json")).await.expect(200);
    assert!(document["paths"]["/api/v1/projects/{project}/leases"]["post"].is_object());
    for path in ["/", "/login", "/label/p", "/projects/p", "/docs", "/static/js/docs.js", "/problems/invalid"]
    {
        let answer = send(app.bare(Method::GET, path)).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    send(app.bare(Method::GET, "/static/../Cargo.toml")).await.expect_problem(404, "not-found");
    send(app.bare(Method::GET, "/static/nothing.js")).await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn health_is_open_and_readiness_says_what_is_away() {
    let app = spawn_app().await;
    assert_eq!(send(app.bare(Method::GET, "/healthz")).await.status, 200);
    let ready = send(app.bare(Method::GET, "/readyz")).await.expect(200);
    assert_eq!(ready["ready"], true);
    app.sql("delete from _sqlx_migrations").await;
    let ready = send(app.bare(Method::GET, "/readyz")).await.expect(503);
    let broken: Vec<_> = ready["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false)
        .map(|check| check["name"].clone())
        .collect();
    assert_eq!(broken, ["schema"], "{ready}");
}
