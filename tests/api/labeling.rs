//! Leases, labels, undo and skips.

use std::collections::HashSet;

use gleaner::domain::role::Role;
use gleaner::domain::task::TaskSource;
use reqwest::Method;
use serde_json::json;

use crate::app::{PNG, send, spawn_app};

#[tokio::test]
async fn a_leased_task_is_shown_by_its_signed_address_and_answered() {
    let app = spawn_app().await;
    app.labeling_project("p", 3).await;
    let ana = app.token(Role::Labeler).await;
    let tasks = app.lease(&ana, "p", 2).await;
    assert_eq!(tasks.len(), 2);
    assert_eq!(tasks[0]["suggestions"], json!([{"class": "coat", "probability": 0.75}]));
    assert_eq!((tasks[0]["round"].as_i64(), tasks[0]["attempt"].as_i64()), (Some(1), Some(1)));
    let image = app.bare(Method::GET, tasks[0]["image_url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(image.headers()["content-type"], "image/png");
    assert_eq!(image.bytes().await.unwrap(), PNG);

    let label =
        json!({"labels": [{"task": tasks[0]["task"], "class": "coat", "attempt": 1, "seconds": 1.2}]});
    let answer = app.post_as(&ana, "/api/v1/projects/p/labels", label).await.expect(200);
    assert_eq!(answer["results"][0]["outcome"], "accepted");
    assert_eq!(
        answer["round"],
        json!({"number": 1, "state": "labeling", "answered_count": 1, "task_count": 3})
    );
    let me = send(app.request(&ana, Method::GET, "/api/v1/me")).await.expect(200);
    assert_eq!(me["label_count"], 1);
    let project = app.get("/api/v1/projects/p").await.expect(200);
    assert_eq!((project["labeled_count"].as_i64(), project["spent"].as_f64()), (Some(1), Some(1.0)));
}

#[tokio::test]
async fn two_labelers_never_hold_the_same_task() {
    let app = spawn_app().await;
    app.labeling_project("p", 12).await;
    let (ana, ben) = (app.token(Role::Labeler).await, app.token(Role::Labeler).await);
    let (one, two) = tokio::join!(app.lease(&ana, "p", 6), app.lease(&ben, "p", 6));
    let ids: HashSet<_> = one.iter().chain(&two).map(|task| task["task"].to_string()).collect();
    assert_eq!(ids.len(), one.len() + two.len());
}

#[tokio::test]
async fn each_label_of_a_submit_has_its_own_outcome() {
    let app = spawn_app().await;
    app.labeling_project("p", 4).await;
    let (ana, ben) = (app.token(Role::Labeler).await, app.token(Role::Labeler).await);
    let tasks = app.lease(&ana, "p", 2).await;
    let others = app.lease(&ben, "p", 1).await;
    let labels = json!({"labels": [
        {"task": tasks[0]["task"], "class": "coat"},
        {"task": tasks[1]["task"], "class": "spaceship"},
        {"task": others[0]["task"], "class": "coat"},
        {"task": "0190163d-8694-739b-aea5-966c26f8ad90", "class": "coat"},
    ]});
    let answer = app.post_as(&ana, "/api/v1/projects/p/labels", labels).await.expect(200);
    let outcomes: Vec<_> =
        answer["results"].as_array().unwrap().iter().map(|result| result["outcome"].clone()).collect();
    assert_eq!(outcomes, ["accepted", "unknown_class", "conflict", "unknown_task"]);
    assert_eq!(app.label(&ana, "p", &tasks[0], "coat").await["outcome"], "duplicate");
    assert_eq!(app.label(&ana, "p", &tasks[0], "bag").await["outcome"], "conflict");
}

#[tokio::test]
async fn a_label_for_an_expired_lease_that_somebody_took_over_is_kept_but_not_counted() {
    let app = spawn_app().await;
    app.labeling_project("p", 1).await;
    let (ana, ben) = (app.token(Role::Labeler).await, app.token(Role::Labeler).await);
    let late = app.lease(&ana, "p", 1).await.remove(0);
    app.sql("update slot set expires_at = now() - interval '1 second'").await;
    let taken = app.lease(&ben, "p", 1).await.remove(0);
    assert_eq!((taken["task"].clone(), taken["attempt"].as_i64()), (late["task"].clone(), Some(2)));
    assert_eq!(app.label(&ana, "p", &late, "coat").await["outcome"], "expired");
    assert_eq!(app.label(&ben, "p", &taken, "bag").await["outcome"], "accepted");
    let export = send(app.request(&app.admin, Method::GET, "/api/v1/projects/p/labels?format=jsonl")).await;
    assert_eq!(export.text.lines().count(), 1, "{}", export.text);
    assert!(export.text.contains("\"bag\""), "{}", export.text);
}

#[tokio::test]
async fn leases_are_resumed_renewed_and_released() {
    let app = spawn_app().await;
    app.labeling_project("p", 3).await;
    let (ana, ben) = (app.token(Role::Labeler).await, app.token(Role::Labeler).await);
    let held = app.lease(&ana, "p", 3).await;
    let wait = app.post_as(&ben, "/api/v1/projects/p/leases", json!({})).await.expect(200);
    assert_eq!(wait["wait"]["reason"], "batch_leased_out");
    assert!(wait["wait"]["retry_after_seconds"].as_i64().unwrap() > 0);
    let resumed = app.post_as(&ana, "/api/v1/projects/p/leases", json!({"resume": true})).await.expect(200);
    let ids = |tasks: &[serde_json::Value]| {
        tasks.iter().map(|task| task["task"].to_string()).collect::<HashSet<_>>()
    };
    assert_eq!(ids(resumed["tasks"].as_array().unwrap()), ids(&held));
    let renewed = app
        .post_as(&ana, "/api/v1/projects/p/leases/renew", json!({"tasks": [held[0]["task"]]}))
        .await
        .expect(200);
    assert_eq!(renewed["count"], 1);
    let released = app.post_as(&ana, "/api/v1/projects/p/leases/release", json!({})).await.expect(200);
    assert_eq!(released["count"], 3);
    assert_eq!(app.lease(&ben, "p", 3).await.len(), 3);
}

#[tokio::test]
async fn an_undone_label_is_refunded_and_its_task_asked_again() {
    let app = spawn_app().await;
    app.labeling_project("p", 1).await;
    let (ana, ben) = (app.token(Role::Labeler).await, app.token(Role::Labeler).await);
    let task = app.lease(&ana, "p", 1).await.remove(0);
    let label = app.label(&ana, "p", &task, "coat").await["label"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/labels/{label}");
    send(app.request(&ben, Method::DELETE, &path)).await.expect_problem(403, "forbidden");
    let undone = send(app.request(&ana, Method::DELETE, &path)).await.expect(200);
    assert_eq!(undone["task"], task["task"]);
    let project = app.get("/api/v1/projects/p").await.expect(200);
    assert_eq!((project["labeled_count"].as_i64(), project["spent"].as_f64()), (Some(0), Some(0.0)));
    send(app.request(&ana, Method::DELETE, &path)).await.expect_problem(409, "conflict");
    assert_eq!(app.lease(&ben, "p", 1).await.len(), 1);
}

#[tokio::test]
async fn a_label_of_a_round_that_trains_is_corrected_but_not_undone() {
    let app = spawn_app().await;
    app.labeling_project("p", 1).await;
    let ana = app.token(Role::Labeler).await;
    let task = app.lease(&ana, "p", 1).await.remove(0);
    let label = app.label(&ana, "p", &task, "coat").await["label"].as_str().unwrap().to_owned();
    app.sql("update round set state = 'training'; update project set state = 'training'").await;
    let path = format!("/api/v1/labels/{label}");
    let problem = send(app.request(&ana, Method::DELETE, &path)).await.expect_problem(409, "conflict");
    assert!(problem["detail"].as_str().unwrap().contains("correct it instead"), "{problem}");
    send(app.request(&ana, Method::PUT, &path).json(&json!({"class": "spaceship"})))
        .await
        .expect_invalid("class");
    send(app.request(&ana, Method::PUT, &path).json(&json!({"class": "bag"}))).await.expect(200);
    let export = app.get("/api/v1/projects/p/labels").await.expect(200);
    assert_eq!(export[0]["class"], "bag");
}

#[tokio::test]
async fn a_skipped_task_costs_nothing_and_counts_as_answered() {
    let app = spawn_app().await;
    app.labeling_project("p", 2).await;
    let ana = app.token(Role::Labeler).await;
    let tasks = app.lease(&ana, "p", 2).await;
    let path =
        |index: usize| format!("/api/v1/projects/p/tasks/{}/skip", tasks[index]["task"].as_str().unwrap());
    app.post_as(&ana, &path(0), json!({"reason": "bored"})).await.expect_invalid("reason");
    app.post_as(&ana, &path(0), json!({"reason": "broken"})).await.expect(200);
    app.post_as(&ana, &path(1), json!({"reason": "unsure"})).await.expect(200);
    let project = app.get("/api/v1/projects/p").await.expect(200);
    assert_eq!(project["spent"], 0.0);
    assert_eq!(project["round"]["answered_count"], 2);
    assert_eq!(project["pool_count"], 1, "a broken item leaves the pool");
    let other = app
        .post(
            "/api/v1/projects/p/tasks/0190163d-8694-739b-aea5-966c26f8ad90/skip",
            json!({"reason": "unsure"}),
        )
        .await;
    other.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_paused_project_lends_nothing_but_takes_labels_of_held_leases() {
    let app = spawn_app().await;
    app.labeling_project("p", 2).await;
    let ana = app.token(Role::Labeler).await;
    let held = app.lease(&ana, "p", 1).await.remove(0);
    app.post("/api/v1/projects/p/pause", json!({})).await.expect(200);
    let wait = app.post_as(&ana, "/api/v1/projects/p/leases", json!({})).await.expect(200);
    assert_eq!(wait["wait"]["reason"], "paused");
    assert_eq!(app.label(&ana, "p", &held, "coat").await["outcome"], "accepted");
    let project = app.post("/api/v1/projects/p/resume", json!({})).await.expect(200);
    assert_eq!(project["paused"], false);
    assert_eq!(app.lease(&ana, "p", 1).await.len(), 1);
}

#[tokio::test]
async fn a_project_that_is_not_started_lends_nothing_and_says_why() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let wait = app.post("/api/v1/projects/p/leases", json!({})).await.expect(200);
    assert_eq!(
        (wait["tasks"].as_array().unwrap().len(), wait["wait"]["reason"].as_str()),
        (0, Some("not_started"))
    );
}

#[tokio::test]
async fn gold_tasks_read_as_queries_and_their_items_hide_their_class() {
    let app = spawn_app().await;
    let project = app.create_project("p").await;
    let items = app.add_items(project, 1).await;
    app.sql("update item set class = 0, class_source = 'import'").await;
    app.open_round(project, 1, &items, TaskSource::Gold).await;
    let ana = app.token(Role::Labeler).await;
    let task = app.lease(&ana, "p", 1).await.remove(0);
    assert_eq!(task["source"], "query");
    let path = format!("/api/v1/items/{}", task["item"].as_str().unwrap());
    let seen = send(app.request(&ana, Method::GET, &path)).await.expect(200);
    assert_eq!((seen["class"].clone(), seen["labeled"].clone()), (json!(null), json!(false)));
    let known = app.get(&path).await.expect(200);
    assert_eq!(known["class"], "bag");
    let tasks = app.get("/api/v1/projects/p/rounds/1/tasks").await.expect(200);
    assert_eq!(tasks["items"][0]["source"], "gold");
}

#[tokio::test]
async fn only_a_tool_labels_for_other_people() {
    let app = spawn_app().await;
    app.labeling_project("p", 2).await;
    let (ana, tool) = (app.token(Role::Labeler).await, app.token(Role::Tool).await);
    let submit = |task: &serde_json::Value| json!({"labels": [{"task": task["task"], "class": "coat", "labeler": "Bo"}]});
    let task = app.lease(&ana, "p", 1).await.remove(0);
    app.post_as(&ana, "/api/v1/projects/p/labels", submit(&task)).await.expect_invalid("labels.0.labeler");
    let task = app.lease(&tool, "p", 1).await.remove(0);
    app.post_as(&tool, "/api/v1/projects/p/labels", submit(&task)).await.expect(200);
    assert_eq!(app.get("/api/v1/projects/p/labels").await.expect(200)[0]["labeler"], "Bo");
}

#[tokio::test]
async fn a_submit_of_nothing_or_of_nonsense_is_refused() {
    let app = spawn_app().await;
    app.create_project("p").await;
    app.post("/api/v1/projects/p/labels", json!({"labels": []})).await.expect_invalid("labels");
    let label = json!({"task": "0190163d-8694-739b-aea5-966c26f8ad90", "class": "coat", "seconds": -1});
    app.post("/api/v1/projects/p/labels", json!({"labels": [label]}))
        .await
        .expect_invalid("labels.0.seconds");
    app.post("/api/v1/projects/p/leases", json!({"count": 0})).await.expect_invalid("count");
}

#[tokio::test]
async fn a_replayed_submit_shows_the_first_results_and_the_present_round() {
    let app = spawn_app().await;
    app.labeling_project("p", 2).await;
    let tasks = app.lease(&app.admin, "p", 2).await;
    let body = json!({"labels": [{"task": tasks[0]["task"], "class": "coat"}]});
    let first = app.post_with_key("k", "/api/v1/projects/p/labels", body.clone()).await.expect(200);
    app.label(&app.admin, "p", &tasks[1], "bag").await;
    let again = app.post_with_key("k", "/api/v1/projects/p/labels", body).await.expect(200);
    assert_eq!(again["results"], first["results"]);
    assert_eq!(
        (first["round"]["answered_count"].as_i64(), again["round"]["answered_count"].as_i64()),
        (Some(1), Some(2))
    );
}
