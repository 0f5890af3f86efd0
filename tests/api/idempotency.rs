//! The same POST twice.

use serde_json::json;

use crate::app::spawn_app;

#[tokio::test]
async fn a_replay_gives_the_first_answer_and_does_nothing_again() {
    let app = spawn_app().await;
    let body = json!({"name": "p", "classes": ["a", "b"]});
    let first = app.post_with_key("k", "/api/v1/projects", body.clone()).await.expect(201);
    let again = app.post_with_key("k", "/api/v1/projects", body.clone()).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.expect(201), first);
    app.post_with_key("other", "/api/v1/projects", body).await.expect_problem(409, "name-taken");
}

#[tokio::test]
async fn another_body_under_the_key_is_409_and_another_token_or_path_is_another_request() {
    let app = spawn_app().await;
    app.post_with_key("k", "/api/v1/projects", json!({"name": "p", "classes": ["a", "b"]})).await.expect(201);
    let other = json!({"name": "q", "classes": ["a", "b"]});
    app.post_with_key("k", "/api/v1/projects", other).await.expect_problem(409, "idempotency-mismatch");
    app.post_with_key("k", "/api/v1/tokens", json!({"role": "tool", "name": "t"})).await.expect(201);
}

#[tokio::test]
async fn a_twin_in_flight_waits_and_gets_the_same_answer() {
    let app = spawn_app().await;
    app.labeling_project("p", 20).await;
    let lease = || app.post_with_key("k", "/api/v1/projects/p/leases", json!({"count": 5}));
    let (one, two, three) = tokio::join!(lease(), lease(), lease());
    let (one, two, three) = (one.expect(200), two.expect(200), three.expect(200));
    assert_eq!(one["tasks"].as_array().unwrap().len(), 5);
    assert_eq!(one, two);
    assert_eq!(one, three);
    // Only one of the three has leased: fifteen of the twenty are left, of which a labeler may hold as many.
    assert_eq!(app.lease(&app.admin, "p", 20).await.len(), 15);
}

#[tokio::test]
async fn an_error_keeps_no_answer_so_the_key_may_be_tried_again() {
    let app = spawn_app().await;
    app.create_project("p").await;
    app.post_with_key("k", "/api/v1/projects/p/start", json!({})).await.expect_problem(409, "empty-project");
    let project = app.get("/api/v1/projects/p").await.expect(200)["id"].as_str().unwrap().parse().unwrap();
    app.add_items(project, 10).await;
    app.post_with_key("k", "/api/v1/projects/p/start", json!({})).await.expect(200);
}

#[tokio::test]
async fn a_key_that_no_header_should_hold_is_refused() {
    let app = spawn_app().await;
    app.post_with_key("two words", "/api/v1/projects", json!({})).await.expect_invalid("Idempotency-Key");
}
