//! Rounds with their provenance, exports, curves and models.

use gleaner::domain::role::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{App, PNG, send, spawn_app};

/// A project with one round of which two of three tasks are labelled.
async fn half_labeled(app: &App) {
    app.labeling_project("p", 3).await;
    let tasks = app.lease(&app.admin, "p", 2).await;
    for (task, class) in tasks.iter().zip(["coat", "bag"]) {
        assert_eq!(app.label(&app.admin, "p", task, class).await["outcome"], "accepted");
    }
}

#[tokio::test]
async fn a_round_tells_its_counts_and_every_task_its_provenance() {
    let app = spawn_app().await;
    half_labeled(&app).await;
    let round = app.get("/api/v1/projects/p/rounds/1").await.expect(200);
    assert_eq!(
        (round["state"].as_str(), round["task_count"].as_i64(), round["answered_count"].as_i64()),
        (Some("labeling"), Some(3), Some(2))
    );
    assert_eq!(round["class_counts"], json!({"bag": 1, "coat": 1}));
    assert_eq!(round["predicted_class_counts"], json!({"coat": 3}));
    assert_eq!(round["strategy"]["kind"], "deep_active");
    assert_eq!(app.get("/api/v1/projects/p/rounds").await.expect(200)["items"], json!([round]));
    app.get("/api/v1/projects/p/rounds/2").await.expect_problem(404, "not-found");

    let first = app.get("/api/v1/projects/p/rounds/1/tasks?limit=2").await.expect(200);
    let rest = app
        .get(&format!("/api/v1/projects/p/rounds/1/tasks?limit=2&after={}", first["next"].as_str().unwrap()))
        .await
        .expect(200);
    assert_eq!((first["items"].as_array().unwrap().len(), rest["items"].as_array().unwrap().len()), (2, 1));
    let task = &first["items"][0];
    assert_eq!(
        (task["rank"].as_i64(), task["score"].as_f64(), task["uncertainty"].as_f64()),
        (Some(0), Some(1.0), Some(0.5))
    );
    assert_eq!(
        (task["strategy"].as_str(), task["source"].as_str(), task["state"].as_str()),
        (Some("deep_active"), Some("query"), Some("settled"))
    );
    let labeler = app.token(Role::Labeler).await;
    send(app.request(&labeler, Method::GET, "/api/v1/projects/p/rounds/1/tasks"))
        .await
        .expect_problem(403, "forbidden");
}

#[tokio::test]
async fn labels_are_exported_in_three_forms_with_the_same_rows() {
    let app = spawn_app().await;
    half_labeled(&app).await;
    let rows = app.get("/api/v1/projects/p/labels").await.expect(200);
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!(
        (rows[0]["name"].as_str(), rows[0]["class"].as_str(), rows[0]["round"].as_i64()),
        (Some("pool/0"), Some("coat"), Some(1))
    );
    let lines = app.get("/api/v1/projects/p/labels?format=jsonl").await;
    assert!(lines.headers["content-disposition"].to_str().unwrap().contains("p-labels.jsonl"));
    let parsed: Vec<Value> = lines.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(json!(parsed), rows);
    let table = app.get("/api/v1/projects/p/labels?format=csv").await;
    let mut reader = csv::Reader::from_reader(table.text.as_bytes());
    let headers: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    assert_eq!(
        headers,
        [
            "label",
            "task",
            "item",
            "name",
            "class",
            "labeler",
            "round",
            "source",
            "model_version",
            "seconds",
            "created_at"
        ]
    );
    assert_eq!(reader.records().count(), 2);
    app.get("/api/v1/projects/p/labels?format=xml").await.expect_problem(422, "invalid");
}

#[tokio::test]
async fn an_export_of_several_pages_loses_and_repeats_nothing() {
    let app = spawn_app().await;
    app.labeling_project("p", 1).await;
    // More rows than one page of the stream holds, on one task, as no labeler could make them.
    app.sql(
        "insert into label (id, project, task, item, round_number, class, labeler, counted)
         select gen_random_uuid(), t.project, t.id, t.item, 1, 0, k.id, true
         from task t cross join token k cross join generate_series(1, 4500)",
    )
    .await;
    let rows = app.get("/api/v1/projects/p/labels").await.expect(200);
    let mut ids: Vec<_> =
        rows.as_array().unwrap().iter().map(|row| row["label"].as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4500);
    let empty = app.create_project("empty").await;
    assert_eq!(app.get(&format!("/api/v1/projects/{empty}/labels")).await.expect(200), json!([]));
}

#[tokio::test]
async fn the_curve_has_intervals_and_costs_and_models_their_weights() {
    let app = spawn_app().await;
    half_labeled(&app).await;
    assert_eq!(
        app.get("/api/v1/projects/p/curve").await.expect(200),
        json!({"points": [], "random_points": [], "predictions": [], "active_sampling": null})
    );
    app.sql(
        "insert into model (project, version, round, checkpoint, manifest, test_accuracy, test_count, label_count, vote_count, job)
         select id, 1, 1, 'projects/p/models/1.safetensors', '{\"backbone\": \"small\"}', 0.8, 100, 2, 2, gen_random_uuid() from project;
         update project set model_version = 1;
         update task set model_version = 1, source = 'random'",
    )
    .await;
    app.state.blob.put("projects/p/models/1.safetensors", b"weights".to_vec()).await.unwrap();
    let curve = app.get("/api/v1/projects/p/curve").await.expect(200);
    let point = &curve["points"][0];
    assert_eq!(
        (point["label_count"].as_i64(), point["cost"].as_f64(), point["test_accuracy"].as_f64()),
        (Some(2), Some(2.0), Some(0.8))
    );
    let (low, high) =
        (point["interval"]["low"].as_f64().unwrap(), point["interval"]["high"].as_f64().unwrap());
    assert!(0.71 < low && low < 0.72 && 0.86 < high && high < 0.87, "{point}");
    // The stored guess is coat for both; one label confirmed it.
    assert_eq!(
        (curve["random_points"][0]["item_count"].as_i64(), curve["random_points"][0]["accuracy"].as_f64()),
        (Some(2), Some(0.5))
    );
    assert_eq!(app.get("/api/v1/projects/p").await.expect(200)["test_accuracy"], 0.8);

    let models = app.get("/api/v1/projects/p/models").await.expect(200);
    assert_eq!(
        (models["items"][0]["version"].as_i64(), models["items"][0]["manifest"]["backbone"].as_str()),
        (Some(1), Some("small"))
    );
    let weights = app.get("/api/v1/projects/p/models/1/weights").await;
    assert_eq!((weights.status.as_u16(), weights.text.as_str()), (200, "weights"));
    app.get("/api/v1/projects/p/models/2/weights").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn long_answers_are_compressed_for_those_who_say_so() {
    let app = spawn_app().await;
    let request = app.bare(Method::GET, "/openapi.json").header("accept-encoding", "gzip");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    assert!(answer.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]));
}

#[tokio::test]
async fn a_server_without_an_engine_says_so_and_a_labeler_may_not_ask() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let labeler = app.token(Role::Labeler).await;
    let ask = |token: &str| {
        let request = app.request(token, Method::POST, "/api/v1/projects/p/predictions");
        request.header("content-type", "image/png").body(PNG)
    };
    send(ask(&labeler)).await.expect_problem(403, "forbidden");
    let problem = send(ask(&app.admin)).await.expect_problem(503, "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("engine"), "{problem}");
}
