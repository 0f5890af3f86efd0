//! Tokens, roles, scopes, sessions and signed addresses.

use chrono::{TimeDelta, Utc};
use gleaner::domain::role::Role;
use reqwest::Method;
use serde_json::json;

use crate::app::{send, spawn_app, spawn_app_with};

#[tokio::test]
async fn no_token_and_a_wrong_token_are_401() {
    let app = spawn_app().await;
    let none = send(app.bare(Method::GET, "/api/v1/me")).await;
    assert_eq!(none.headers["www-authenticate"], "Bearer");
    none.expect_problem(401, "unauthenticated");
    send(app.request("gl_a_0000", Method::GET, "/api/v1/me")).await.expect_problem(401, "unauthenticated");
    let basic = app.bare(Method::GET, "/api/v1/me").header("authorization", "Basic YTpi");
    send(basic).await.expect_problem(401, "unauthenticated");
    // Who may not come in isn't told what is wrong with the body either.
    let body = json!({"nonsense": true});
    send(app.request("gl_a_0000", Method::POST, "/api/v1/projects").json(&body))
        .await
        .expect_problem(401, "unauthenticated");
}

#[tokio::test]
async fn each_role_may_do_what_the_lower_ones_may_and_no_more() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let calls = [
        (Role::Labeler, Method::POST, "/api/v1/projects/p/leases"),
        (Role::Labeler, Method::GET, "/api/v1/projects/p"),
        (Role::Tool, Method::GET, "/api/v1/projects/p/labels"),
        (Role::Tool, Method::GET, "/api/v1/projects/p/items"),
        (Role::Operator, Method::GET, "/api/v1/projects/p/imports"),
        (Role::Operator, Method::POST, "/api/v1/projects/p/pause"),
        (Role::Operator, Method::POST, "/api/v1/projects/p/resume"),
        (Role::Admin, Method::GET, "/api/v1/tokens"),
    ];
    for role in [Role::Labeler, Role::Tool, Role::Operator, Role::Admin] {
        let token = app.token(role).await;
        for (needed, method, path) in calls.clone() {
            let answer = send(app.request(&token, method.clone(), path)).await;
            if role >= needed {
                assert_eq!(answer.status, 200, "{role:?} {method} {path}: {}", answer.text);
            } else {
                answer.expect_problem(403, "forbidden");
            }
        }
    }
}

#[tokio::test]
async fn a_scoped_token_sees_its_projects_only() {
    let app = spawn_app().await;
    let (mine, _) = (app.create_project("mine").await, app.create_project("other").await);
    let token = app.scoped_token(Role::Operator, &[mine]).await;
    send(app.request(&token, Method::GET, "/api/v1/projects/mine")).await.expect(200);
    send(app.request(&token, Method::GET, "/api/v1/projects/other")).await.expect_problem(404, "not-found");
    let list = send(app.request(&token, Method::GET, "/api/v1/projects")).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let body = json!({"name": "third", "classes": ["a", "b"]});
    app.post_as(&token, "/api/v1/projects", body).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn a_token_is_shown_once_listed_without_its_text_and_revoked() {
    let app = spawn_app().await;
    let made = app
        .post_with_key("k1", "/api/v1/tokens", json!({"role": "labeler", "name": "ana"}))
        .await
        .expect(201);
    let (id, text) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let me = send(app.request(text, Method::GET, "/api/v1/me")).await.expect(200);
    assert_eq!(
        (me["role"].as_str(), me["name"].as_str(), me["id"].as_str()),
        (Some("labeler"), Some("ana"), Some(id))
    );
    let again = app
        .post_with_key("k1", "/api/v1/tokens", json!({"role": "labeler", "name": "ana"}))
        .await
        .expect(201);
    assert_eq!(
        (again["id"].as_str(), again["token"].as_str()),
        (Some(id), None),
        "a secret is stored nowhere"
    );
    let list = app.get("/api/v1/tokens").await;
    assert!(!list.text.contains(text) && list.text.contains("ana"));
    let path = format!("/api/v1/tokens/{id}");
    assert_eq!(send(app.request(&app.admin, Method::DELETE, &path)).await.status, 204);
    send(app.request(text, Method::GET, "/api/v1/me")).await.expect_problem(401, "unauthenticated");
    send(app.request(&app.admin, Method::DELETE, &path)).await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_token_that_ended_or_names_unknown_projects_is_refused() {
    let app = spawn_app().await;
    let past = Utc::now() - TimeDelta::minutes(1);
    app.post("/api/v1/tokens", json!({"role": "labeler", "name": "ana", "expires_at": past}))
        .await
        .expect_invalid("expires_at");
    let unknown = ["0190163d-8694-739b-aea5-966c26f8ad90"];
    app.post("/api/v1/tokens", json!({"role": "labeler", "name": "ana", "projects": unknown}))
        .await
        .expect_invalid("projects.0");
    app.post("/api/v1/tokens", json!({"role": "king", "name": "ana"})).await.expect_invalid("role");
    let made = app.post("/api/v1/tokens", json!({"role": "labeler", "name": "ana"})).await.expect(201);
    app.sql("update token set expires_at = now() - interval '1 second' where name = 'ana'").await;
    send(app.request(made["token"].as_str().unwrap(), Method::GET, "/api/v1/me"))
        .await
        .expect_problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_limited_admin_makes_no_token_that_reaches_further() {
    let app = spawn_app().await;
    let (mine, other) = (app.create_project("mine").await, app.create_project("other").await);
    let admin = app.scoped_token(Role::Admin, &[mine]).await;
    for projects in [json!(null), json!([other])] {
        let body = json!({"role": "admin", "name": "x", "projects": projects});
        app.post_as(&admin, "/api/v1/tokens", body).await.expect_problem(403, "forbidden");
    }
    app.post_as(&admin, "/api/v1/tokens", json!({"role": "labeler", "name": "x", "projects": [mine]}))
        .await
        .expect(201);
    send(app.request(&admin, Method::GET, "/api/v1/tokens")).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn a_page_trades_its_token_for_a_cookie_that_foreign_pages_cannot_use() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let login = send(app.bare(Method::POST, "/api/v1/session").json(&json!({"token": app.admin}))).await;
    let cookie = login.headers["set-cookie"].to_str().unwrap().to_owned();
    login.expect(200);
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains("Secure"),
        "{cookie}"
    );
    assert!(!cookie.contains(&app.admin), "the cookie doesn't hold the token");
    let session = cookie.split(';').next().unwrap();
    send(app.bare(Method::GET, "/api/v1/me").header("cookie", session)).await.expect(200);

    let pause = || app.bare(Method::POST, "/api/v1/projects/p/pause").header("cookie", session);
    send(pause()).await.expect_problem(403, "forbidden");
    send(pause().header("sec-fetch-site", "cross-site")).await.expect_problem(403, "forbidden");
    send(pause().header("origin", "http://evil.example")).await.expect_problem(403, "forbidden");
    send(pause().header("sec-fetch-site", "same-origin")).await.expect(200);

    let forged = format!("{session}0");
    send(app.bare(Method::GET, "/api/v1/me").header("cookie", forged))
        .await
        .expect_problem(401, "unauthenticated");
    let logout = send(app.bare(Method::DELETE, "/api/v1/session")).await;
    assert!(logout.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
}

#[tokio::test]
async fn a_cookie_says_secure_behind_https() {
    let app = spawn_app_with(|state| state.is_public_https = true).await;
    let login = send(app.bare(Method::POST, "/api/v1/session").json(&json!({"token": app.admin}))).await;
    assert!(login.headers["set-cookie"].to_str().unwrap().contains("; Secure"));
}

#[tokio::test]
async fn a_login_code_works_once() {
    let app = spawn_app().await;
    let me = app.get("/api/v1/me").await.expect(200);
    let code = app.state.login_codes.mint(me["id"].as_str().unwrap().parse().unwrap()).unwrap();
    let login = || app.bare(Method::POST, "/api/v1/session").json(&json!({"code": code}));
    send(login()).await.expect(200);
    send(login()).await.expect_problem(401, "unauthenticated");
    let both = json!({"code": code, "token": app.admin});
    send(app.bare(Method::POST, "/api/v1/session").json(&both)).await.expect_invalid("token");
}

#[tokio::test]
async fn metrics_need_an_operator_unless_they_are_open() {
    let app = spawn_app().await;
    send(app.bare(Method::GET, "/metrics")).await.expect_problem(401, "unauthenticated");
    let labeler = app.token(Role::Labeler).await;
    send(app.request(&labeler, Method::GET, "/metrics")).await.expect_problem(403, "forbidden");
    // This process records none, which is as far as an open one gets here.
    let open = spawn_app_with(|state| state.metrics_open = true).await;
    send(open.bare(Method::GET, "/metrics")).await.expect_problem(404, "not-found");
}
