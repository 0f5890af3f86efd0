//! Agreement, gold, suspected labels, and setting a labeler aside, as an operator meets them.

use gleaner::domain::role::Role;
use gleaner::domain::task::TaskSource;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{App, send, spawn_app};

/// Two labelers over the four corners of Cohen's table: 4 and 3 agreed, 1 and 2 not.
async fn two_opinions(app: &App) -> (String, String) {
    let project = app.create_project_with("p", json!({"votes_per_task": 2, "budget": 100})).await;
    let items = app.add_items(project, 10).await;
    app.open_round(project, 1, &items, TaskSource::Query).await;
    let (ana, ben) = (app.token(Role::Labeler).await, app.token(Role::Labeler).await);
    let opinions = [("bag", "bag"), ("bag", "coat"), ("coat", "bag"), ("coat", "coat")];
    let corners = [0, 0, 0, 0, 1, 2, 2, 3, 3, 3];
    let (of_ana, of_ben) = (app.lease(&ana, "p", 10).await, app.lease(&ben, "p", 10).await);
    for (place, corner) in corners.into_iter().enumerate() {
        app.label(&ana, "p", &of_ana[place], opinions[corner].0).await;
        app.label(&ben, "p", &of_ben[place], opinions[corner].1).await;
    }
    (ana, ben)
}

async fn id_of(app: &App, token: &str) -> String {
    let me = send(app.request(token, Method::GET, "/api/v1/me")).await.expect(200);
    me["id"].as_str().expect("an answer of the documented form").to_owned()
}

fn close(value: &Value, expected: f64) {
    assert!((value.as_f64().expect("a number") - expected).abs() < 1e-9, "{value} for {expected}");
}

#[tokio::test]
async fn agreement_is_told_by_project_class_labeler_and_pair() {
    let app = spawn_app().await;
    app.create_project("empty").await;
    let empty = app.get("/api/v1/projects/empty/agreement").await.expect(200);
    assert_eq!(
        (&empty["krippendorff_alpha"], &empty["labelers"], &empty["audit"]),
        (&json!(null), &json!([]), &json!(null))
    );
    let (ana, _) = two_opinions(&app).await;
    let found = app.get("/api/v1/projects/p/agreement").await.expect(200);
    assert_eq!((&found["item_count"], &found["vote_count"]), (&json!(10), &json!(20)));
    // p_o = .7, ana has 5 bags and ben 6, so p_e = .5·.6 + .5·.4 = .5 and κ = .4.
    close(&found["pairs"][0]["cohen_kappa"], 0.4);
    close(&found["labelers"][0]["cohen_kappa"], 0.4);
    // α: D_o = 6/20, D_e = 2·11·9/(20·19).
    close(&found["krippendorff_alpha"], 1.0 - 0.3 / (198.0 / 380.0));
    assert_eq!(found["classes"].as_array().unwrap().len(), 2);
    assert_eq!(found["labelers"][0]["estimated_accuracy"], json!(null), "ten votes each are too few");
    send(app.request(&ana, Method::GET, "/api/v1/projects/p/agreement"))
        .await
        .expect_problem(403, "forbidden");
    let tool = app.token(Role::Tool).await;
    send(app.request(&tool, Method::GET, "/api/v1/projects/p/agreement"))
        .await
        .expect_problem(403, "forbidden");
    app.get("/api/v1/projects/p/agreement?limit=0").await.expect_invalid("limit");
}

#[tokio::test]
async fn gold_answers_are_counted_and_nobody_but_an_operator_can_tell_them() {
    let app = spawn_app().await;
    let project = app.create_project("p").await;
    let items = app.add_items(project, 4).await;
    app.sql("update item set class = 0, class_source = 'import'").await;
    app.open_round(project, 1, &items, TaskSource::Gold).await;
    app.sql("update task set known_class = 0; update round set task_count = 0").await;
    let (ana, tool) = (app.token(Role::Labeler).await, app.token(Role::Tool).await);
    let mut answered = Vec::new();
    for (place, task) in app.lease(&ana, "p", 4).await.iter().enumerate() {
        let class = if place == 0 { "coat" } else { "bag" };
        let path = "/api/v1/projects/p/labels";
        let label = json!({"labels": [{"task": task["task"], "class": class}]});
        let answer = app.post_as(&ana, path, label).await.expect(200);
        answered.push((answer["round"]["answered_count"].clone(), answer["round"]["task_count"].clone()));
    }
    // Progress counts gold like any task.
    let expected: Vec<_> = (1..=4).map(|count| (json!(count), json!(4))).collect();
    assert_eq!(answered, expected);
    let found = app.get("/api/v1/projects/p/agreement").await.expect(200);
    let of_ana = &found["labelers"][0];
    assert_eq!((&of_ana["gold_count"], &of_ana["vote_count"]), (&json!(4), &json!(4)));
    close(&of_ana["gold_accuracy"], 0.75);
    assert!(of_ana["gold_interval"]["low"].as_f64().unwrap() < 0.75);
    let export = |token: String| {
        let request = app.request(&token, Method::GET, "/api/v1/projects/p/labels?format=jsonl");
        async move { send(request).await.text }
    };
    assert!(!export(tool).await.contains("gold"));
    assert!(export(app.admin.clone()).await.contains("gold"));
    let rounds = send(app.request(&ana, Method::GET, "/api/v1/projects/p/rounds")).await.expect(200);
    assert_eq!(rounds["items"][0]["class_counts"], json!({}));
}

#[tokio::test]
async fn suspected_errors_are_listed_while_their_class_stands() {
    let app = spawn_app().await;
    app.labeling_project("p", 3).await;
    let ana = app.token(Role::Labeler).await;
    let mut labels = Vec::new();
    for task in app.lease(&ana, "p", 3).await {
        let label = app.label(&ana, "p", &task, "bag").await;
        labels.push((task["item"].clone(), label["label"].as_str().unwrap().to_owned()));
    }
    app.sql(
        "insert into job (id, project, kind, subject, state, request, outcome)
         select gen_random_uuid(), p.id, 'audit', 'round-1', 'done', '{}', jsonb_build_object(
           'round', 1, 'item_count', 3, 'out_of_fold_accuracy', 0.9, 'gold', '[]'::jsonb,
           'comparison', jsonb_build_object('label_count', 50, 'evaluated_count', 1000, 'on_test_split', true,
              'random_accuracy', 0.8, 'queried_accuracy', 0.84, 'difference_deviation', 0.01),
           'suspects', (select jsonb_agg(jsonb_build_object('item', i.id, 'class', 0, 'suggested', 1, 'given_probability', 0.1,
              'suggested_probability', 0.8, 'suggestions', '[]'::jsonb) order by i.name) from item i))
         from project p",
    )
    .await;
    let found = app.get("/api/v1/projects/p/agreement").await.expect(200);
    close(&found["audit"]["out_of_fold_accuracy"], 0.9);
    let suspects = found["suspected_errors"].as_array().unwrap();
    assert_eq!(suspects.len(), 3);
    assert_eq!(
        (
            &suspects[0]["name"],
            &suspects[0]["class"],
            &suspects[0]["suggested_class"],
            &suspects[0]["asked_again"]
        ),
        (&json!("pool/0"), &json!("bag"), &json!("coat"), &json!(false))
    );
    for suspect in suspects {
        let (_, label) = labels.iter().find(|(item, _)| *item == suspect["item"]).expect("a labelled item");
        assert_eq!(suspect["labels"], json!([label]));
    }
    let two = app.get("/api/v1/projects/p/agreement?limit=2").await.expect(200);
    assert_eq!(two["suspected_errors"].as_array().unwrap().len(), 2);
    let path = format!("/api/v1/labels/{}", labels[0].1);
    send(app.request(&ana, Method::PUT, &path).json(&json!({"class": "coat"}))).await.expect(200);
    let left = app.get("/api/v1/projects/p/agreement").await.expect(200);
    let left = left["suspected_errors"].as_array().unwrap();
    assert!(left.len() == 2 && left.iter().all(|suspect| suspect["item"] != labels[0].0), "{left:?}");
    let sampling = app.get("/api/v1/projects/p/curve").await.expect(200)["active_sampling"].clone();
    assert_eq!((&sampling["verdict"], &sampling["label_count"]), (&json!("helps"), &json!(50)));
}

#[tokio::test]
async fn the_votes_of_a_bad_labeler_are_set_aside_and_asked_again() {
    let app = spawn_app().await;
    let project = app.create_project_with("p", json!({"budget": 10})).await;
    let items = app.add_items(project, 6).await;
    app.open_round(project, 1, &items, TaskSource::Query).await;
    let (ana, ben) = (app.token(Role::Labeler).await, app.token(Role::Labeler).await);
    let tasks = app.lease(&ana, "p", 4).await;
    let mut last = Value::Null;
    for task in &tasks {
        last = app.label(&ana, "p", task, "bag").await["label"].clone();
    }
    let path = format!("/api/v1/projects/p/labelers/{}/set-aside", id_of(&app, &ana).await);
    app.post_as(&ben, &path, json!({})).await.expect_problem(403, "forbidden");
    let done = app.post_with_key("k", &path, json!({})).await.expect(200);
    assert_eq!(done, json!({"label_count": 4, "asked_again_count": 4, "returned_count": 0}));
    assert_eq!(
        app.post_with_key("k", &path, json!({})).await.expect(200),
        done,
        "a replay sets nothing aside"
    );
    app.post(&path, json!({})).await.expect_problem(409, "conflict");
    let stranger = "/api/v1/projects/p/labelers/0190163d-8694-739b-aea5-966c26f8ad90/set-aside";
    app.post(stranger, json!({})).await.expect_problem(404, "not-found");

    let project = app.get("/api/v1/projects/p").await.expect(200);
    assert_eq!((&project["labeled_count"], &project["spent"]), (&json!(0), &json!(4.0)));
    assert_eq!(app.get("/api/v1/projects/p/labels").await.expect(200), json!([]));
    let label = format!("/api/v1/labels/{}", last.as_str().unwrap());
    send(app.request(&ana, Method::DELETE, &label)).await.expect_problem(409, "conflict");
    assert_eq!(app.lease(&ana, "p", 20).await.len(), 2, "the other two, and none of its own again");
    let again = app.lease(&ben, "p", 20).await;
    assert_eq!(again.len(), 4);
    for task in &again {
        assert_eq!(app.label(&ben, "p", task, "coat").await["outcome"], "accepted");
    }
    let project = app.get("/api/v1/projects/p").await.expect(200);
    assert_eq!((&project["labeled_count"], &project["spent"]), (&json!(4), &json!(8.0)));
    let found = app.get("/api/v1/projects/p/agreement").await.expect(200);
    let of_ana = found["labelers"].as_array().unwrap().iter().find(|row| row["vote_count"] == 0).unwrap();
    assert_eq!(of_ana["set_aside_count"], 4);
    assert_eq!(app.number("select count(*) from event where kind = 'labels.set_aside'").await, 1);
}

#[tokio::test]
async fn the_honest_curve_weighs_random_items_by_the_pool() {
    let app = spawn_app().await;
    app.labeling_project("p", 10).await;
    let ana = app.token(Role::Labeler).await;
    for (place, task) in app.lease(&ana, "p", 10).await.iter().enumerate() {
        // The stored guess is coat: right for the four random ones but one, and for half of the six asked before.
        let class = if [0, 4, 5, 6].contains(&place) { "bag" } else { "coat" };
        app.label(&ana, "p", task, class).await;
    }
    app.sql(
        "insert into model (project, version, round, checkpoint, manifest, label_count, vote_count, job)
         select id, v, v, 'c', '{}', 100 * v, 100 * v, gen_random_uuid() from project cross join generate_series(1, 2) as v;
         update project set model_version = 2;
         update task set model_version = 2, source = 'random', round_number = 2 where rank < 4;
         update task set model_version = 1 where rank >= 4;
         insert into round (id, project, number, state, strategy, asked_by, task_count, askable_count, pool_count)
         select gen_random_uuid(), project, 2, 'closed', strategy, 2, 4, 80, 100 from round",
    )
    .await;
    let curve = app.get("/api/v1/projects/p/curve").await.expect(200);
    let point = &curve["random_points"][0];
    assert_eq!((&point["model_version"], &point["item_count"]), (&json!(2), &json!(4)));
    close(&point["unlabeled_accuracy"], 0.75);
    close(&point["accuracy"], 0.8 * 0.75 + 0.2 * 0.5);
    assert_eq!(curve["predictions"], json!([]), "one point predicts nothing");
    app.sql(
        "update model set test_accuracy = 0.7 + 0.05 * version, test_count = 10000;
         insert into model (project, version, round, checkpoint, manifest, test_accuracy, test_count, label_count, vote_count, job)
         select id, 3, 3, 'c', '{}', 0.83, 10000, 300, 300, gen_random_uuid() from project",
    )
    .await;
    let curve = app.get("/api/v1/projects/p/curve").await.expect(200);
    let predictions = curve["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 5);
    assert_eq!((&predictions[0]["label_count"], &predictions[0]["cost"]), (&json!(400), &json!(400.0)));
    let numbers = |field: &str| -> Vec<f64> {
        predictions.iter().map(|point| point["interval"][field].as_f64().unwrap()).collect()
    };
    let widths: Vec<f64> = numbers("high").iter().zip(numbers("low")).map(|(high, low)| high - low).collect();
    assert!(widths.is_sorted() && widths[0] > 0.0, "the further the less certain: {widths:?}");
}
