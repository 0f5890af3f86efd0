//! What the board draws: the map of the pool, score histograms, the confusion matrix, the curve as a figure, and who has done how much.

use gleaner::domain::role::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{App, send, spawn_app};

/// A project with one round of which two of three tasks are labelled, the second by a person who took it back first.
async fn half_labeled(app: &App) -> Vec<Value> {
    app.labeling_project("p", 3).await;
    let tasks = app.lease(&app.admin, "p", 2).await;
    for (task, class) in tasks.iter().zip(["coat", "bag"]) {
        assert_eq!(app.label(&app.admin, "p", task, class).await["outcome"], "accepted");
    }
    tasks
}

/// Keeps an overview as the selection of round 1 would have, with all items of the project on the map.
async fn keep_overview(app: &App) {
    let items = app.get("/api/v1/projects/p/items").await.expect(200);
    let points: Vec<Value> = items["items"]
        .as_array()
        .expect("items")
        .iter()
        .enumerate()
        .map(|(place, item)| json!({"item": item["id"], "x": place, "y": 0.5}))
        .collect();
    let histogram = json!({"edges": [0.0, 0.5, 1.0], "pool_counts": [7, 3], "batch_counts": [0, 2]});
    let overview = json!({
        "explained": [0.4, 0.2], "points": points, "uncertainty": histogram, "pretext_loss": null
    });
    app.state
        .blob
        .put("projects/p/overviews/1.json", overview.to_string().into_bytes())
        .await
        .expect("a blob");
    app.sql(
        "insert into job (id, project, kind, subject, state, request, outcome)
         select gen_random_uuid(), id, 'select', 'round-1', 'done', '{}', '{\"overview\": \"projects/p/overviews/1.json\"}' from project",
    )
    .await;
}

#[tokio::test]
async fn a_map_shows_classes_as_they_are_by_now_and_who_is_in_the_batch() {
    let app = spawn_app().await;
    half_labeled(&app).await;
    app.get("/api/v1/projects/p/rounds/1/map").await.expect_problem(404, "not-found");
    keep_overview(&app).await;
    let map = app.get("/api/v1/projects/p/rounds/1/map").await.expect(200);
    assert_eq!((map["round"].as_i64(), &map["explained"]), (Some(1), &json!([0.4, 0.2])));
    let points = map["points"].as_array().unwrap();
    let mut classes: Vec<_> = points.iter().map(|point| point["class"].as_str().unwrap_or("none")).collect();
    classes.sort_unstable();
    assert_eq!(classes, ["bag", "coat", "none"]);
    assert!(points.iter().all(|point| point["in_batch"] == true), "{map}");
    let labeler = app.token(Role::Labeler).await;
    send(app.request(&labeler, Method::GET, "/api/v1/projects/p/rounds/1/map"))
        .await
        .expect_problem(403, "forbidden");
}

#[tokio::test]
async fn scores_are_told_and_drawn_and_a_measure_that_was_not_read_is_missing() {
    let app = spawn_app().await;
    half_labeled(&app).await;
    keep_overview(&app).await;
    let scores = app.get("/api/v1/projects/p/rounds/1/scores").await.expect(200);
    assert_eq!(
        (&scores["uncertainty"]["pool_counts"], &scores["pretext_loss"]),
        (&json!([7, 3]), &Value::Null)
    );
    let path = "/api/v1/projects/p/rounds/1/scores.svg";
    let drawing = app.get(&format!("{path}?measure=uncertainty&size=narrow")).await;
    assert_eq!(drawing.headers["content-type"], "image/svg+xml");
    assert!(drawing.text.contains("<title>batch: 2 from 0.50 to 1.0</title>"), "{}", drawing.text);
    app.get(&format!("{path}?measure=pretext_loss")).await.expect_problem(404, "not-found");
    app.get(&format!("{path}?measure=luck")).await.expect_problem(422, "invalid");
}

#[tokio::test]
async fn a_model_shows_what_it_takes_for_what_and_the_curve_is_drawn() {
    let app = spawn_app().await;
    half_labeled(&app).await;
    app.sql(
        "insert into model (project, version, round, checkpoint, manifest, test_accuracy, test_count, label_count, vote_count, job)
         select id, 1, 1, 'm', '{\"evaluation\": {\"confusion\": [[8, 2, 0], [1, 9, 0], [0, 0, 10]]}}', 0.9, 30, 2, 2, gen_random_uuid()
         from project;
         insert into model (project, version, round, checkpoint, manifest, test_accuracy, test_count, label_count, vote_count, job)
         select id, 2, 2, 'm', '{\"evaluation\": null}', null, 0, 2, 2, gen_random_uuid() from project",
    )
    .await;
    let confusion = app.get("/api/v1/projects/p/models/1/confusion").await.expect(200);
    assert_eq!(
        confusion,
        json!({"model_version": 1, "classes": ["bag", "coat", "shirt"], "counts": [[8, 2, 0], [1, 9, 0], [0, 0, 10]]})
    );
    let drawing = app.get("/api/v1/projects/p/models/1/confusion.svg?size=wide").await;
    assert!(drawing.text.contains("<title>2 of 10 × bag taken for coat</title>"), "{}", drawing.text);
    app.get("/api/v1/projects/p/models/2/confusion").await.expect_problem(404, "not-found");
    app.get("/api/v1/projects/p/models/3/confusion.svg").await.expect_problem(404, "not-found");

    let labeler = app.token(Role::Labeler).await;
    let curve = send(app.request(&labeler, Method::GET, "/api/v1/projects/p/curve.svg?axis=cost")).await;
    assert_eq!(
        (curve.status.as_u16(), curve.headers["content-type"].to_str().unwrap()),
        (200, "image/svg+xml")
    );
    assert!(curve.text.contains("at a cost of 2</title>"), "{}", curve.text);
    app.get("/api/v1/projects/p/curve.svg?axis=time").await.expect_problem(422, "invalid");
}

#[tokio::test]
async fn labelers_are_counted_for_operators_and_oneself_for_everybody() {
    let app = spawn_app().await;
    app.labeling_project("p", 4).await;
    let ana = app.token(Role::Labeler).await;
    let tasks = app.lease(&ana, "p", 3).await;
    let first = app.label(&ana, "p", &tasks[0], "coat").await;
    app.label(&ana, "p", &tasks[1], "bag").await;
    let undo = format!("/api/v1/labels/{}", first["label"].as_str().unwrap());
    send(app.request(&ana, Method::DELETE, &undo)).await.expect(200);
    let skip = format!("/api/v1/projects/p/tasks/{}/skip", tasks[2]["task"].as_str().unwrap());
    app.post_as(&ana, &skip, json!({"reason": "unsure"})).await.expect(200);

    let labelers = app.get("/api/v1/projects/p/labelers").await.expect(200);
    let row = &labelers["items"][0];
    assert_eq!(labelers["items"].as_array().unwrap().len(), 1, "{labelers}");
    assert_eq!(
        (&row["role"], &row["label_count"], &row["undone_count"], &row["skip_count"], &row["held_count"]),
        (&json!("labeler"), &json!(1), &json!(1), &json!(1), &json!(0))
    );
    let path = "/api/v1/projects/p/labelers";
    send(app.request(&ana, Method::GET, path)).await.expect_problem(403, "forbidden");

    let own = |since: &str| {
        let path = format!("/api/v1/projects/p/statistics?since={since}");
        send(app.request(&ana, Method::GET, &path))
    };
    let today = own("2020-01-01T00:00:00Z").await.expect(200);
    assert_eq!(
        (&today["label_count"], &today["skip_count"], &today["total_label_count"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let later = own("2100-01-01T00:00:00Z").await.expect(200);
    assert_eq!(
        (&later["label_count"], &later["skip_count"], &later["total_label_count"]),
        (&json!(0), &json!(0), &json!(1))
    );
}

#[tokio::test]
async fn a_task_tells_operators_its_class_its_name_and_the_guess() {
    let app = spawn_app().await;
    half_labeled(&app).await;
    let tasks = app.get("/api/v1/projects/p/rounds/1/tasks").await.expect(200);
    let first = &tasks["items"][0];
    assert_eq!((&first["class"], &first["name"]), (&json!("coat"), &json!("pool/0")));
    assert_eq!(first["suggestions"], json!([{"class": "coat", "probability": 0.75}]));
    assert_eq!(tasks["items"][2]["class"], Value::Null);
}
