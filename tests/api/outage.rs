//! The database goes away for a while: every call says so, and what was asked meanwhile is neither lost nor done twice.

use std::time::Duration;

use gleaner::domain::role::Role;
use gleaner::store::Store;
use gleaner::store::testing::{Gate, TestDatabase};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, App, PNG, form, send, spawn_app_on};

/// How long the service waits for a connection; short, so that an outage of many times as long costs a test little.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(500);

/// Calls made while the database is away: more than it has connections, so that each of those is found broken.
const CALL_COUNT: usize = 25;

/// A server that reaches its database through a gate.
async fn spawn_gated_app() -> (App, Gate) {
    let database = TestDatabase::create().await;
    let gate = Gate::start(database.options()).await;
    let store = Store::connect_within(gate.options(), ACQUIRE_TIMEOUT).await.expect("the gate is open");
    (spawn_app_on(database, store, |_| {}).await, gate)
}

/// POST with a token under an idempotency key.
async fn post(app: &App, token: &str, key: &str, path: &str, body: &Value) -> Answer {
    send(app.request(token, Method::POST, path).header("idempotency-key", key).json(body)).await
}

fn expect_unavailable(answer: Answer) {
    assert_eq!(answer.headers["retry-after"], "2", "{answer:?}");
    let problem = answer.expect_problem(503, "unavailable");
    assert!(
        problem["detail"].as_str().is_some_and(|detail| detail.contains("same Idempotency-Key")),
        "{problem}"
    );
}

#[tokio::test]
async fn in_an_outage_longer_than_every_lease_calls_are_503_and_afterwards_each_is_done_once() {
    let (app, gate) = spawn_gated_app().await;
    app.labeling_project("p", 3).await;
    let ana = app.token(Role::Labeler).await;
    let held = app.lease(&ana, "p", 2).await;
    let labels = json!({"labels": [{"task": held[0]["task"], "class": "coat", "attempt": 1}]});
    let (path, leases) = ("/api/v1/projects/p/labels", json!({"count": 1}));

    gate.close().await;
    // The test's own connection goes past the gate: in the database more time passes than any lease lasts.
    app.sql("update slot set expires_at = expires_at - interval '1 hour' where state = 'leased'").await;
    let calls = (0..CALL_COUNT).map(|_| app.get("/api/v1/projects/p"));
    futures_util::future::join_all(calls).await.into_iter().for_each(expect_unavailable);
    expect_unavailable(post(&app, &ana, "label", path, &labels).await);
    expect_unavailable(post(&app, &ana, "lease", "/api/v1/projects/p/leases", &leases).await);
    send(app.bare(Method::GET, "/healthz")).await.expect(200);
    let ready = send(app.bare(Method::GET, "/readyz")).await.expect(503);
    assert_eq!(ready["checks"][0]["ok"], false, "{ready}");

    gate.open().await;
    app.get("/api/v1/projects/p").await.expect(200);
    send(app.bare(Method::GET, "/readyz")).await.expect(200);
    let sent_again = post(&app, &ana, "label", path, &labels).await.expect(200);
    assert_eq!(sent_again["results"][0]["outcome"], "accepted", "nobody else took the task meanwhile");
    let leased = post(&app, &ana, "lease", "/api/v1/projects/p/leases", &leases).await.expect(200);
    assert_eq!(leased["tasks"].as_array().unwrap().len(), 1);
    let project = app.get("/api/v1/projects/p").await.expect(200);
    assert_eq!((project["labeled_count"].as_i64(), project["spent"].as_f64()), (Some(1), Some(1.0)));
}

#[tokio::test]
async fn a_label_whose_answer_was_lost_with_the_connection_is_there_once() {
    let (app, gate) = spawn_gated_app().await;
    app.labeling_project("p", 2).await;
    let ana = app.token(Role::Labeler).await;
    let task = app.lease(&ana, "p", 1).await.remove(0);
    let labels = json!({"labels": [{"task": task["task"], "class": "coat", "attempt": 1}]});
    let path = "/api/v1/projects/p/labels";

    gate.lose_next_commit();
    expect_unavailable(post(&app, &ana, "k", path, &labels).await);
    assert!(!gate.is_losing_commit());
    let again = post(&app, &ana, "k", path, &labels).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.expect(200)["results"][0]["outcome"], "accepted");
    let without_key = app.post_as(&ana, path, labels).await.expect(200);
    assert_eq!(without_key["results"][0]["outcome"], "duplicate");
    let labels = app.get("/api/v1/projects/p/labels").await.expect(200);
    assert_eq!(labels.as_array().unwrap().len(), 1, "{labels}");
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_with_the_connection_keeps_its_file() {
    let (app, gate) = spawn_gated_app().await;
    app.create_project("p").await;
    let upload = async || {
        let (media_type, body) = form(&[("file", Some("a.png"), PNG)]);
        let request = app.request(&app.admin, Method::POST, "/api/v1/projects/p/images");
        send(request.header("content-type", media_type).header("idempotency-key", "k").body(body)).await
    };

    gate.lose_next_commit();
    expect_unavailable(upload().await);
    assert!(!gate.is_losing_commit());
    let queued = upload().await.expect(202);
    let id = queued["id"].as_str().unwrap().parse().unwrap();
    assert!(app.state.blob.exists(&gleaner::blob::upload_key(id)).await.unwrap());
    let list = app.get("/api/v1/projects/p/imports").await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
}
