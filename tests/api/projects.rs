//! Projects: made, changed, controlled and deleted.

use gleaner::domain::role::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, App, send, spawn_app};

async fn patch(app: &App, body: Value) -> Answer {
    send(app.request(&app.admin, Method::PATCH, "/api/v1/projects/p").json(&body)).await
}

fn fields(problem: &Value) -> Vec<&str> {
    problem["errors"]
        .as_array()
        .expect("fields")
        .iter()
        .map(|error| error["field"].as_str().expect("a name"))
        .collect()
}

#[tokio::test]
async fn a_new_project_has_defaults_and_its_answer_can_be_read_by_name_and_id() {
    let app = spawn_app().await;
    let made =
        app.post("/api/v1/projects", json!({"name": "p", "classes": ["bag", "coat"]})).await.expect(201);
    assert_eq!(
        (made["state"].as_str(), made["batch_size"].as_i64(), made["budget"].as_f64()),
        (Some("empty"), Some(100), Some(1000.0))
    );
    assert_eq!(made["classes"][1], json!({"index": 1, "name": "coat", "colour": null, "hotkey": null}));
    assert_eq!(
        (made["round"].clone(), made["progress"].clone(), made["test_accuracy"].clone()),
        (Value::Null, Value::Null, Value::Null)
    );
    assert_eq!(app.get("/api/v1/projects/p").await.expect(200), made);
    assert_eq!(
        app.get(&format!("/api/v1/projects/{}", made["id"].as_str().unwrap())).await.expect(200),
        made
    );
}

#[tokio::test]
async fn every_wrong_field_of_a_new_project_is_named_in_one_answer() {
    let app = spawn_app().await;
    let body = json!({"name": "a b", "classes": ["bag", "bag"], "batch_size": 0, "cost_per_label": 0, "image": {"size": 4}});
    let problem = app.post("/api/v1/projects", body).await.expect_problem(422, "invalid");
    // A missing part of a nested object is found before limits are looked at.
    assert_eq!(fields(&problem), ["image.channels"]);
    let body = json!({"name": "a b", "classes": ["bag", "bag"], "batch_size": 0, "cost_per_label": 0, "image": {"size": 4, "channels": 2}});
    let problem = app.post("/api/v1/projects", body).await.expect_problem(422, "invalid");
    assert_eq!(
        fields(&problem),
        ["name", "classes.1", "image.size", "image.channels", "batch_size", "cost_per_label"]
    );
    app.post("/api/v1/projects", json!({"classes": ["a", "b"]})).await.expect_invalid("name");
    app.post("/api/v1/projects", json!({"name": "p"})).await.expect_invalid("classes");
    app.post("/api/v1/projects", json!({"name": "p", "classes": ["a"]})).await.expect_invalid("classes");
    let look = json!({"name": "p", "classes": [{"name": "a", "colour": "red"}, "b"]});
    app.post("/api/v1/projects", look).await.expect_invalid("classes.0.colour");
    let key = json!({"name": "p", "classes": [{"name": "a", "hotkey": "x"}, {"name": "b", "hotkey": "X"}]});
    app.post("/api/v1/projects", key).await.expect_invalid("classes.1.hotkey");
}

#[tokio::test]
async fn a_taken_name_is_409_and_free_again_after_a_deletion() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let body = json!({"name": "p", "classes": ["a", "b"]});
    app.post("/api/v1/projects", body.clone()).await.expect_problem(409, "name-taken");
    let delete =
        |confirm: &str| app.request(&app.admin, Method::DELETE, &format!("/api/v1/projects/p{confirm}"));
    send(delete("")).await.expect_invalid("confirm");
    send(delete("?confirm=q")).await.expect_invalid("confirm");
    assert_eq!(send(delete("?confirm=p")).await.status, 204);
    app.get("/api/v1/projects/p").await.expect_problem(404, "not-found");
    app.post("/api/v1/projects", body).await.expect(201);
}

#[tokio::test]
async fn lists_page_by_cursor_without_loss_or_repetition() {
    let app = spawn_app().await;
    for name in ["a", "b", "c", "d", "e"] {
        app.create_project(name).await;
    }
    let mut names = Vec::new();
    let mut after = String::new();
    loop {
        let page = app.get(&format!("/api/v1/projects?limit=2{after}")).await.expect(200);
        names.extend(
            page["items"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
}

#[tokio::test]
async fn a_cursor_of_another_list_is_refused_and_leads_nowhere_else() {
    let app = spawn_app().await;
    for name in ["p", "q"] {
        let project = app.create_project(name).await;
        app.add_items(project, 3).await;
    }
    let next = async |path: &str| {
        let page = app.get(&format!("/api/v1/{path}?limit=1")).await.expect(200);
        page["next"].as_str().expect("a further page").to_owned()
    };
    let cursor = next("projects/p/items").await;
    for other in ["projects/q/items", "projects", "tokens", "projects/p/rounds", "projects/p/imports"] {
        app.get(&format!("/api/v1/{other}?after={cursor}")).await.expect_invalid("after");
    }
    let items = async |after: &str| {
        app.get(&format!("/api/v1/projects/p/items?limit=1&after={after}")).await.expect(200)
    };
    assert_eq!(items(&cursor).await["items"].as_array().unwrap().len(), 1);
    let projects = next("projects").await;
    app.get(&format!("/api/v1/projects/p/items?after={projects}")).await.expect_invalid("after");
}

#[tokio::test]
async fn a_change_merges_objects_replaces_strategies_and_tells_who_listens() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let changed =
        patch(&app, json!({"budget": 5, "fine_tune": {"epochs": 3}, "strategy": {"kind": "random"}}))
            .await
            .expect(200);
    assert_eq!((changed["budget"].as_f64(), changed["fine_tune"]["epochs"].as_i64()), (Some(5.0), Some(3)));
    assert_eq!(changed["fine_tune"]["mode"], "full");
    assert_eq!(changed["strategy"], json!({"kind": "random"}));
    patch(&app, json!({"budget": -1})).await.expect_invalid("budget");
    patch(&app, json!({"strategy": {"kind": "random", "lambda": 2}})).await.expect_problem(422, "invalid");
    assert_eq!(app.get("/api/v1/projects/p").await.expect(200)["budget"], 5.0);
    let renamed = patch(&app, json!({"name": "q"})).await.expect(200);
    assert_eq!(renamed["name"], "q");
}

#[tokio::test]
async fn what_images_and_models_were_made_with_is_frozen() {
    let app = spawn_app().await;
    let project = app.create_project("p").await;
    patch(&app, json!({"image": {"size": 16}, "seed": 8})).await.expect(200);
    let items = app.add_items(project, 3).await;
    patch(&app, json!({"image": {"size": 8}})).await.expect_problem(409, "frozen");
    patch(&app, json!({"seed": 9, "pretext": {"epochs": 2}})).await.expect(200);
    app.open_round(project, 1, &items, gleaner::domain::task::TaskSource::Query).await;
    for change in [json!({"seed": 7}), json!({"backbone": "resnet18"}), json!({"pretext": {"epochs": 5}})] {
        patch(&app, change).await.expect_problem(409, "frozen");
    }
    // What is the same isn't a change.
    patch(&app, json!({"seed": 9, "budget": 50})).await.expect(200);
}

#[tokio::test]
async fn classes_are_renamed_added_shown_and_removed_only_without_labels() {
    let app = spawn_app().await;
    app.labeling_project("p", 1).await;
    let task = app.lease(&app.admin, "p", 1).await.remove(0);
    assert_eq!(app.label(&app.admin, "p", &task, "coat").await["outcome"], "accepted");
    let change = json!({"classes": {
        "rename": {"bag": "coat", "coat": "bag"}, "add": ["hat"], "show": {"hat": {"colour": "#00ff00", "hotkey": "h"}},
    }});
    let changed = patch(&app, change).await.expect(200);
    let names: Vec<_> =
        changed["classes"].as_array().unwrap().iter().map(|class| class["name"].clone()).collect();
    assert_eq!(names, ["coat", "bag", "shirt", "hat"]);
    assert_eq!(changed["classes"][3]["hotkey"], "h");
    assert_eq!(
        app.get("/api/v1/projects/p/labels").await.expect(200)[0]["class"],
        "bag",
        "labels keep their class"
    );
    let problem = patch(&app, json!({"classes": {"remove": ["bag"]}})).await.expect_problem(409, "conflict");
    assert!(problem["detail"].as_str().unwrap().contains("bag"), "{problem}");
    patch(&app, json!({"classes": {"remove": ["hat"]}})).await.expect(200);
    patch(&app, json!({"classes": {"rename": {"nobody": "x"}}})).await.expect_invalid("classes.rename");
    patch(&app, json!({"classes": {"rename": {"coat": "bag"}}})).await.expect_invalid("classes.1");
    patch(&app, json!({"classes": ["a", "b"]})).await.expect_invalid("classes");
    patch(&app, json!({"classes": {"drop": ["bag"]}})).await.expect_invalid("classes.drop");
}

#[tokio::test]
async fn an_empty_project_and_one_without_a_budget_say_why_they_cannot_start() {
    let app = spawn_app().await;
    let project = app.create_project_with("p", json!({"budget": 0})).await;
    let empty = app.post("/api/v1/projects/p/start", json!({})).await.expect_problem(409, "empty-project");
    assert!(empty["detail"].as_str().unwrap().contains("import"), "{empty}");
    app.add_items(project, 3).await;
    let broke = app.post("/api/v1/projects/p/start", json!({})).await.expect_problem(409, "conflict");
    assert!(broke["detail"].as_str().unwrap().contains("budget"), "{broke}");
    patch(&app, json!({"budget": 10})).await.expect(200);
    let started = send(app.request(&app.admin, Method::POST, "/api/v1/projects/p/start")).await.expect(200);
    assert_eq!(started["state"], "pretraining");
    app.post("/api/v1/projects/p/start", json!({})).await.expect_problem(409, "conflict");
    app.post("/api/v1/projects/p/retry", json!({})).await.expect_problem(409, "conflict");
}

#[tokio::test]
async fn a_failed_job_shows_as_failed_with_its_reason_until_it_is_retried() {
    let app = spawn_app().await;
    app.labeling_project("p", 2).await;
    app.sql(
        "insert into job (id, project, kind, subject, state, request, error, ended_at)
         select gen_random_uuid(), id, 'train', 'round 1', 'failed', '{}', 'the disk is full', now() from project",
    )
    .await;
    let failed = app.get("/api/v1/projects/p").await.expect(200);
    assert_eq!(
        (failed["state"].as_str(), failed["error"].as_str()),
        (Some("failed"), Some("the disk is full"))
    );
    let retried = app.post("/api/v1/projects/p/retry", json!({})).await.expect(200);
    assert_eq!((retried["state"].as_str(), retried["error"].clone()), (Some("labeling"), Value::Null));
}

#[tokio::test]
async fn a_running_job_shows_its_progress_and_an_estimate() {
    let app = spawn_app().await;
    app.labeling_project("p", 2).await;
    app.sql(
        "insert into job (id, project, kind, subject, state, request, done_count, total_count, started_at, expires_at)
         select gen_random_uuid(), id, 'train', 'round 1', 'running', '{}', 25, 100, now() - interval '10 seconds', now() + interval '1 minute'
         from project",
    )
    .await;
    let progress = app.get("/api/v1/projects/p").await.expect(200)["progress"].clone();
    assert_eq!(
        (progress["job"].as_str(), progress["done"].as_i64(), progress["total"].as_i64()),
        (Some("train"), Some(25), Some(100))
    );
    let eta_seconds = progress["eta_seconds"].as_f64().unwrap();
    assert!((29.0..=40.0).contains(&eta_seconds), "{progress}");
}

#[tokio::test]
async fn a_labeler_reads_projects_but_changes_none() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let ana = app.token(Role::Labeler).await;
    send(app.request(&ana, Method::GET, "/api/v1/projects/p")).await.expect(200);
    send(app.request(&ana, Method::PATCH, "/api/v1/projects/p").json(&json!({"budget": 1})))
        .await
        .expect_problem(403, "forbidden");
    send(app.request(&ana, Method::DELETE, "/api/v1/projects/p?confirm=p"))
        .await
        .expect_problem(403, "forbidden");
}
