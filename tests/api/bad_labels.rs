//! Labels that come too many, to the wrong place, all at once, or again after a restart.

use futures_util::future::join_all;
use gleaner::domain::role::Role;
use gleaner::rounds::{TickOutcome, tick};
use reqwest::Method;
use serde_json::json;

use crate::app::{send, spawn_app};

const LABELS: &str = "/api/v1/projects/p/labels";

#[tokio::test]
async fn a_hundred_thousand_labels_in_one_call_are_413_and_the_limit_is_named() {
    let app = spawn_app().await;
    app.labeling_project("p", 1).await;
    let label = json!({"task": "0190163d-8694-739b-aea5-966c26f8ad90", "class": "coat"});
    let body = |count: usize| json!({"labels": vec![label.clone(); count]});
    let problem = app.post(LABELS, body(501)).await.expect_problem(413, "too-large");
    assert!(problem["detail"].as_str().unwrap().contains("at most 500 labels"), "{problem}");
    let problem = app.post(LABELS, body(100_000)).await.expect_problem(413, "too-large");
    assert!(problem["detail"].as_str().unwrap().contains("4194304 bytes"), "{problem}");
    app.post(LABELS, body(500)).await.expect(200);
}

#[tokio::test]
async fn a_character_that_no_database_keeps_is_refused_and_harms_no_label_beside_it() {
    let app = spawn_app().await;
    app.labeling_project("p", 2).await;
    let tasks = app.lease(&app.admin, "p", 2).await;
    let label = |place: usize, class: &str| json!({"task": tasks[place]["task"], "class": class});
    let body = json!({"labels": [label(0, "co\0at"), label(1, "coat")]});
    let answer = app.post(LABELS, body).await.expect(200);
    let outcomes: Vec<_> =
        (0..2).map(|place| answer["results"][place]["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["unknown_class", "accepted"]);
    app.post("/api/v1/projects", json!({"name": "a\0b", "classes": ["a", "b"]}))
        .await
        .expect_problem(422, "invalid");
    assert_eq!(app.get("/api/v1/projects/a%00b").await.status.as_u16() / 100, 4);
}

#[tokio::test]
async fn labels_for_another_projects_tasks_are_unknown_there() {
    let app = spawn_app().await;
    app.labeling_project("p", 1).await;
    app.labeling_project("q", 1).await;
    let ana = app.token(Role::Labeler).await;
    let task = app.lease(&ana, "q", 1).await.remove(0);
    let result = app.label(&ana, "p", &task, "coat").await;
    assert_eq!((result["outcome"].as_str(), &result["label"]), (Some("unknown_task"), &json!(null)));
    assert_eq!(app.number("select count(*) from label").await, 0);
    assert_eq!(app.label(&ana, "q", &task, "coat").await["outcome"], "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_clients_who_give_the_last_labels_at_once_move_the_round_once() {
    let app = spawn_app().await;
    let project = app.labeling_project("p", 50).await;
    let clients = join_all((0..50).map(|_| app.token(Role::Labeler))).await;
    let tasks = join_all(clients.iter().map(|client| app.lease(client, "p", 1))).await;
    let stopped = std::sync::atomic::AtomicBool::new(false);
    let supervise = || async {
        let mut moved = 0;
        while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
            let outcome = tick(&app.state.store, project).await.expect("a look");
            moved += usize::from(outcome == TickOutcome::Moved);
        }
        moved
    };
    let submit = async {
        let calls =
            clients.iter().zip(&tasks).map(|(client, tasks)| app.label(client, "p", &tasks[0], "coat"));
        let results = join_all(calls).await;
        stopped.store(true, std::sync::atomic::Ordering::SeqCst);
        results
    };
    let (results, one, two) = tokio::join!(submit, supervise(), supervise());
    assert!(results.iter().all(|result| result["outcome"] == "accepted"));
    let last = tick(&app.state.store, project).await.expect("a look");
    assert_eq!(one + two + usize::from(last == TickOutcome::Moved), 1);
    let transitions =
        "select count(*) from event where kind = 'round.state_changed' and payload ->> 'to' = 'training'";
    assert_eq!(app.number(transitions).await, 1);
    assert_eq!(app.number("select count(*) from label where counted").await, 50);
    assert_eq!(app.number("select count(*) from job where kind = 'train'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_labels_for_one_open_task_one_is_taken_and_every_other_answered() {
    let app = spawn_app().await;
    app.labeling_project("p", 1).await;
    let clients = join_all((0..50).map(|_| app.token(Role::Labeler))).await;
    let task = app.lease(&clients[0], "p", 1).await.remove(0);
    app.post_as(&clients[0], "/api/v1/projects/p/leases/release", json!({})).await.expect(200);
    let body = json!({"labels": [{"task": task["task"], "class": "coat"}]});
    let answers = join_all(clients.iter().map(|client| app.post_as(client, LABELS, body.clone()))).await;
    let mut outcomes: Vec<String> = answers
        .into_iter()
        .map(|answer| answer.expect(200)["results"][0]["outcome"].as_str().unwrap().to_owned())
        .collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes[0], "accepted");
    assert!(outcomes[1..].iter().all(|outcome| outcome == "expired"), "{outcomes:?}");
    assert_eq!(app.number("select count(*) from label where counted").await, 1);
}

#[tokio::test]
async fn the_first_answer_comes_again_after_a_restart_and_nothing_is_done_twice() {
    let mut app = spawn_app().await;
    app.labeling_project("p", 4).await;
    let leases = json!({"count": 2});
    let leased = app.post_with_key("l", "/api/v1/projects/p/leases", leases.clone()).await.expect(200);
    let body = json!({"labels": [{"task": leased["tasks"][0]["task"], "class": "coat"}]});
    let first = app.post_with_key("k", LABELS, body.clone()).await.expect(200);
    app.restart().await;
    let again = app.post_with_key("k", LABELS, body).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.expect(200), first);
    let other = json!({"labels": [{"task": leased["tasks"][0]["task"], "class": "bag"}]});
    app.post_with_key("k", LABELS, other).await.expect_problem(409, "idempotency-mismatch");
    let replayed = app.post_with_key("l", "/api/v1/projects/p/leases", leases).await.expect(200);
    assert_eq!(replayed, leased);
    assert_eq!(app.number("select count(*) from label").await, 1);
    assert_eq!(app.number("select count(*) from slot where state = 'leased'").await, 1);
}

#[tokio::test]
async fn a_twin_of_a_submit_in_flight_waits_for_its_answer() {
    let app = spawn_app().await;
    app.labeling_project("p", 1).await;
    let task = app.lease(&app.admin, "p", 1).await.remove(0);
    let body = json!({"labels": [{"task": task["task"], "class": "coat"}]});
    let submit = || app.post_with_key("k", LABELS, body.clone());
    let (one, two, three) = tokio::join!(submit(), submit(), submit());
    let (one, two, three) = (one.expect(200), two.expect(200), three.expect(200));
    assert_eq!(one["results"][0]["outcome"], "accepted");
    assert_eq!((&one["results"], &one["results"]), (&two["results"], &three["results"]));
    assert_eq!(app.number("select count(*) from label").await, 1);
}

#[tokio::test]
async fn a_labeler_whose_token_is_revoked_holds_nothing() {
    let app = spawn_app().await;
    app.labeling_project("p", 3).await;
    let (ana, ben) = (app.token(Role::Labeler).await, app.token(Role::Labeler).await);
    assert_eq!(app.lease(&ana, "p", 3).await.len(), 3);
    let me = send(app.request(&ana, Method::GET, "/api/v1/me")).await.expect(200);
    let path = format!("/api/v1/tokens/{}", me["id"].as_str().unwrap());
    assert_eq!(send(app.request(&app.admin, Method::DELETE, &path)).await.status.as_u16(), 204);
    assert_eq!(app.lease(&ben, "p", 3).await.len(), 3);
}

#[tokio::test]
async fn a_labeler_who_signs_out_gives_its_tasks_back() {
    let app = spawn_app().await;
    app.labeling_project("p", 3).await;
    let (ana, ben) = (app.token(Role::Labeler).await, app.token(Role::Labeler).await);
    let session = send(app.bare(Method::POST, "/api/v1/session").json(&json!({"token": ana}))).await;
    let cookie = session.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    session.expect(200);
    assert_eq!(app.lease(&ana, "p", 2).await.len(), 2);
    let left = send(app.bare(Method::DELETE, "/api/v1/session").header("cookie", cookie)).await;
    assert_eq!(left.status.as_u16(), 204);
    assert_eq!(app.lease(&ben, "p", 3).await.len(), 3);
}
