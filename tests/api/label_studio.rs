//! Label Studio's protocol, with requests recorded from its server 1.23.2 (tests/label_studio/samples).

use gleaner::domain::ids::{ItemId, ProjectId};
use gleaner::domain::role::Role;
use gleaner::domain::task::TaskSource;
use gleaner::label_studio::Inbox;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::app::{App, send, spawn_app};

macro_rules! sample {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!("../label_studio/samples/", $name, ".json")))
            .expect("JSON")
    };
}

/// The body of a recorded request.
fn created() -> Value {
    sample!("req_webhook_ANNOTATION_CREATED")["body"].clone()
}

fn updated() -> Value {
    sample!("req_webhook_ANNOTATION_UPDATED")["body"].clone()
}

fn deleted() -> Value {
    sample!("req_webhook_ANNOTATIONS_DELETED")["body"].clone()
}

struct Studio {
    app: App,
    project: ProjectId,
    items: Vec<ItemId>,
    tool: String,
}

impl Studio {
    /// A project `p` with the recorded classes and `count` items named as the recorded images: `0.png`, `1.png`, …
    async fn new(count: i32) -> Self {
        Self::with(count, json!({})).await
    }

    async fn with(count: i32, settings: Value) -> Self {
        let app = spawn_app().await;
        let mut body = json!({"classes": ["cat", "dog"]});
        body.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
        let project = app.create_project_with("p", body).await;
        let items = app.add_items(project, count).await;
        app.sql("update item set name = substr(name, 6) || '.png'").await;
        let tool = app.token(Role::Tool).await;
        Self { app, project, items, tool }
    }

    /// The same in its first round, in which all items are asked.
    async fn labeling(count: i32) -> Self {
        let studio = Self::new(count).await;
        studio.app.open_round(studio.project, 1, &studio.items, TaskSource::Query).await;
        studio
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let path = format!("/label-studio/p{path}");
        self.app.bare(method, &path).basic_auth("gleaner", Some(&self.tool))
    }

    async fn call(&self, path: &str, body: &Value) -> crate::app::Answer {
        send(self.request(Method::POST, path).json(body)).await
    }

    /// A webhook, and what the inbox makes of it.
    async fn hear(&self, body: &Value) {
        assert_eq!(self.call("/webhook", body).await.expect(201), json!({"status": "ok"}));
        self.handle().await;
    }

    async fn handle(&self) {
        let state = &self.app.state;
        let inbox = Inbox::new(
            state.store.clone(),
            state.events.clone(),
            state.inbox_wake.clone(),
            state.round_counts.wake().clone(),
        );
        inbox.handle_due().await.expect("the inbox works");
    }

    async fn outcome(&self) -> String {
        self.text("select coalesce(outcome, state) from label_studio_annotation").await
    }

    async fn text(&self, sql: &'static str) -> String {
        let mut connection = self.app.database.store().acquire().await.expect("a connection");
        sqlx::query_scalar(sql).fetch_one(&mut *connection).await.expect("one text")
    }

    /// The labels that stand: (item's name, class, person, source).
    async fn labels(&self) -> Vec<Value> {
        let path = "/api/v1/projects/p/labels";
        let rows = self.app.get(path).await.expect(200);
        let pick = |row: &Value| json!([row["name"], row["class"], row["labeler"], row["source"]]);
        rows.as_array().expect("rows").iter().map(pick).collect()
    }

    async fn spent(&self) -> Value {
        self.app.get("/api/v1/projects/p").await.expect(200)["spent"].clone()
    }
}

#[tokio::test]
async fn the_recorded_calls_get_the_answers_that_the_client_wants() {
    let studio = Studio::labeling(3).await;
    let health = send(studio.request(Method::GET, "/health")).await.expect(200);
    assert_eq!(health, json!({"status": "UP", "model_class": "gleaner"}));
    send(studio.app.bare(Method::GET, "/label-studio/p/health")).await.expect(200);
    let setup = studio.call("/setup", &sample!("req_setup")["body"]).await.expect(200);
    assert_eq!(setup, json!({"model_version": "v0.1"}));
    let answer = studio.call("/predict", &sample!("req_predict")["body"]).await.expect(200);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for (place, result) in results.iter().enumerate() {
        let choice = &result["result"][0];
        assert_eq!(choice["from_name"], "label");
        assert_eq!((&choice["to_name"], &choice["type"]), (&json!("image"), &json!("choices")));
        assert_eq!(choice["value"], json!({"choices": ["dog"]}));
        assert_eq!(choice["score"], 0.75);
        assert_eq!(result["model_version"], "v0.1");
        assert!((result["score"].as_f64().unwrap() - place as f64 / 3.0).abs() < 1e-9, "{result}");
    }
    let train =
        json!({"annotations": [], "project": "1.1795545433", "label_config": "<View/>", "params": {}});
    assert!(studio.call("/train", &train).await.expect(201)["job"].is_string());
    studio.hear(&sample!("req_webhook_START_TRAINING")["body"]).await;
    studio.hear(&sample!("req_webhook_PROJECT_UPDATED")["body"]).await;
    assert_eq!(studio.app.number("select count(*) from label_studio_annotation").await, 0);
}

#[tokio::test]
async fn an_annotation_answers_its_task_a_change_corrects_it_and_a_deletion_takes_it_back() {
    let studio = Studio::labeling(10).await;
    studio.hear(&created()).await;
    assert_eq!(studio.labels().await, [json!(["9.png", "cat", "label-studio:1", "query"])]);
    assert_eq!(studio.spent().await, 1.0);
    studio.hear(&created()).await;
    assert_eq!(studio.outcome().await, "accepted", "the same again is nothing new");
    studio.hear(&updated()).await;
    assert_eq!(studio.outcome().await, "corrected");
    assert_eq!(studio.labels().await, [json!(["9.png", "dog", "label-studio:1", "query"])]);
    studio.hear(&created()).await;
    assert_eq!(studio.labels().await[0][1], "dog", "an older state changes nothing");
    assert_eq!(studio.app.number("select count(*) from label where seconds = 3.2").await, 1);
    studio.hear(&deleted()).await;
    assert_eq!((studio.outcome().await.as_str(), studio.labels().await.len()), ("undone", 0));
    assert_eq!(studio.spent().await, 0.0);
    studio.hear(&updated()).await;
    assert_eq!(studio.labels().await.len(), 0, "what is deleted stays so");
    assert_eq!(studio.app.number("select count(*) from slot where state = 'open'").await, 10);
}

#[tokio::test]
async fn what_came_before_it_was_handled_counts_by_its_last_state() {
    let studio = Studio::labeling(10).await;
    studio.call("/webhook", &updated()).await.expect(201);
    studio.call("/webhook", &created()).await.expect(201);
    studio.handle().await;
    assert_eq!(studio.labels().await, [json!(["9.png", "dog", "label-studio:1", "query"])]);
    assert_eq!(studio.app.number("select count(*) from event where kind = 'label.corrected'").await, 0);
}

#[tokio::test]
async fn a_deletion_after_the_round_has_moved_leaves_the_label() {
    let studio = Studio::labeling(10).await;
    studio.hear(&created()).await;
    studio.app.sql("update round set state = 'training'").await;
    studio.hear(&deleted()).await;
    assert_eq!((studio.outcome().await.as_str(), studio.labels().await.len()), ("round_moved", 1));
}

#[tokio::test]
async fn an_annotation_on_what_nobody_asked_is_external_and_fills_no_batch() {
    let studio = Studio::new(10).await;
    studio.app.open_round(studio.project, 1, &studio.items[..3], TaskSource::Query).await;
    studio.hear(&created()).await;
    assert_eq!(studio.outcome().await, "external");
    assert_eq!(studio.labels().await, [json!(["9.png", "cat", "label-studio:1", "external"])]);
    assert_eq!(studio.spent().await, 1.0);
    let project = studio.app.get("/api/v1/projects/p").await.expect(200);
    assert_eq!(project["labeled_count"], 1);
    let round = studio.app.get("/api/v1/projects/p/rounds/1").await.expect(200);
    assert_eq!((&round["answered_count"], &round["task_count"]), (&json!(0), &json!(3)));
    studio.hear(&updated()).await;
    assert_eq!(studio.labels().await[0][1], "dog");
    studio.hear(&deleted()).await;
    assert_eq!(studio.labels().await.len(), 0);
    assert_eq!(studio.app.number("select count(*) from item where class is not null").await, 0);
    assert_eq!(studio.app.number("select count(*) from slot where state in ('open', 'leased')").await, 3);
    assert_eq!(
        studio
            .app
            .number("select count(*) from task where source = 'external' and state <> 'withdrawn'")
            .await,
        0
    );
}

#[tokio::test]
async fn an_external_label_that_is_taken_back_leaves_the_imported_class() {
    let studio = Studio::new(10).await;
    studio.app.sql("update item set class = 1, class_source = 'import' where name = '9.png'").await;
    studio.hear(&created()).await;
    assert_eq!(studio.app.number("select class::bigint from item where name = '9.png'").await, 0);
    studio.hear(&deleted()).await;
    assert_eq!(studio.app.number("select class::bigint from item where name = '9.png'").await, 1);
}

#[tokio::test]
async fn a_skip_is_a_skip_and_skipping_what_was_answered_takes_the_answer_back() {
    let studio = Studio::labeling(10).await;
    let mut skip = created();
    skip["annotation"]["was_cancelled"] = json!(true);
    skip["annotation"]["result"] = json!([]);
    studio.hear(&skip).await;
    assert_eq!((studio.outcome().await.as_str(), studio.labels().await.len()), ("skipped", 0));
    assert_eq!(
        studio
            .app
            .number("select count(*) from skip where reason = 'unsure' and person = 'label-studio:1'")
            .await,
        1
    );
    assert_eq!(studio.spent().await, 0.0);
    // Answered after all: the task is closed, so the answer comes from outside.
    studio.hear(&updated()).await;
    assert_eq!(studio.labels().await, [json!(["9.png", "dog", "label-studio:1", "external"])]);

    let other = Studio::labeling(10).await;
    other.hear(&created()).await;
    let mut skip = updated();
    skip["annotation"]["was_cancelled"] = json!(true);
    skip["annotation"]["result"] = json!([]);
    other.hear(&skip).await;
    assert_eq!((other.outcome().await.as_str(), other.labels().await.len()), ("skipped", 0));
    let not_asked = Studio::new(10).await;
    not_asked.hear(&skip).await;
    assert_eq!(not_asked.outcome().await, "not_asked");
}

#[tokio::test]
async fn a_task_in_somebodys_hands_waits_for_its_lease() {
    let studio = Studio::labeling(10).await;
    let held = studio.app.lease(&studio.app.admin, "p", 10).await;
    studio.hear(&created()).await;
    assert_eq!((studio.outcome().await.as_str(), studio.labels().await.len()), ("waiting", 0));
    studio.handle().await;
    studio.app.post("/api/v1/projects/p/leases/release", json!({})).await.expect(200);
    studio.app.sql("update label_studio_annotation set next_attempt_at = now()").await;
    studio.handle().await;
    assert_eq!(studio.labels().await, [json!(["9.png", "cat", "label-studio:1", "query"])]);
    assert_eq!(held.len(), 10);
}

#[tokio::test]
async fn an_answer_to_a_closed_task_is_kept_uncounted() {
    let studio = Studio::labeling(10).await;
    for task in studio.app.lease(&studio.app.admin, "p", 10).await {
        studio.app.label(&studio.app.admin, "p", &task, "dog").await;
    }
    studio.hear(&created()).await;
    assert_eq!((studio.outcome().await.as_str(), studio.labels().await.len()), ("late", 10));
    assert_eq!(studio.app.number("select count(*) from label where not counted").await, 1);
    assert_eq!(studio.spent().await, 10.0);
}

#[tokio::test]
async fn what_became_no_label_is_listed_with_its_reason_and_tried_again_when_it_comes_again() {
    let studio = Studio::with(3, json!({"budget": 0})).await;
    studio.hear(&created()).await;
    let list = "/api/v1/projects/p/label-studio/annotations";
    let rows = studio.app.get(list).await.expect(200);
    assert_eq!(
        (&rows["items"][0]["outcome"], &rows["items"][0]["annotation"]),
        (&json!("unknown_item"), &json!(1))
    );
    studio.app.sql("update item set name = '9.png' where name = '2.png'").await;
    studio.hear(&created()).await;
    assert_eq!(studio.outcome().await, "no_budget");
    studio.app.sql("update project set settings = jsonb_set(settings, '{budget}', '5')").await;
    studio.hear(&created()).await;
    assert_eq!(studio.outcome().await, "external");
    assert_eq!(studio.app.get(list).await.expect(200)["items"], json!([]));
    let mut foreign = updated();
    foreign["annotation"]["result"][0]["value"]["choices"] = json!(["cow"]);
    studio.hear(&foreign).await;
    assert_eq!(studio.app.get(list).await.expect(200)["items"][0]["outcome"], "unknown_class");
    assert_eq!(studio.labels().await[0][1], "cat");

    let tested = Studio::new(10).await;
    tested.app.sql("update item set split = 'test' where name = '9.png'").await;
    tested.hear(&created()).await;
    assert_eq!((tested.outcome().await.as_str(), tested.labels().await.len()), ("not_in_pool", 0));
}

#[tokio::test]
async fn two_servers_act_on_an_annotation_once_and_a_batch_of_it_completes_once() {
    let studio = Studio::labeling(10).await;
    for number in 0..10 {
        let mut body = created();
        body["annotation"]["id"] = json!(number);
        body["annotation"]["unique_id"] = json!(uuid::Uuid::now_v7());
        body["task"]["data"]["image"] = json!(format!("http://127.0.0.1:1/{number}.png"));
        studio.call("/webhook", &body).await.expect(201);
    }
    tokio::join!(studio.handle(), studio.handle(), studio.handle());
    assert_eq!(studio.labels().await.len(), 10);
    assert_eq!(studio.app.number("select count(*) from label").await, 10);
    assert_eq!(studio.app.number("select count(*) from slot where state = 'answered'").await, 10);
}

#[tokio::test]
async fn no_token_of_label_studio_is_kept() {
    let studio = Studio::labeling(10).await;
    studio.call("/setup", &sample!("req_setup")["body"]).await.expect(200);
    studio.hear(&created()).await;
    assert!(created().to_string().contains("4HZSzrXVkN8Y"), "the recorded webhook holds one");
    let kept = "select string_agg(a::text, ' ') || (select string_agg(e::text, ' ') from event e)
        || (select string_agg(l::text, ' ') from label l) from label_studio_annotation a";
    let kept = studio.text(kept).await;
    for token in ["abcdef0123456789", "4HZSzrXVkN8Y"] {
        assert!(!kept.contains(token), "{kept}");
    }
}

#[tokio::test]
async fn twenty_thousand_tasks_come_in_one_body_and_order() {
    let studio = Studio::labeling(10).await;
    let template = sample!("req_predict")["body"].clone();
    let padding = "x".repeat(300);
    let tasks: Vec<Value> = (0..20_000)
        .map(|number| {
            let mut task = template["tasks"][0].clone();
            task["id"] = json!(number);
            task["data"] =
                json!({"image": format!("http://127.0.0.1:1/{}.png", 19_999 - number), "note": padding});
            task
        })
        .collect();
    let mut body = template.clone();
    body["tasks"] = json!(tasks);
    assert!(body.to_string().len() > 10 << 20);
    let answer = studio.call("/predict", &body).await.expect(200);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 20_000);
    assert!(results[..19_990].iter().all(|result| result["result"] == json!([]) && result["score"] == 1.0));
    let scores: Vec<f64> = results[19_990..].iter().map(|result| result["score"].as_f64().unwrap()).collect();
    assert!(
        scores.windows(2).all(|pair| pair[0] > pair[1]),
        "the first in the batch is asked first: {scores:?}"
    );
    assert!(scores.iter().all(|score| (0.0..1.0).contains(score)));
    // Elsewhere such a body is refused.
    studio.call("/setup", &body).await.expect_problem(413, "too-large");
}

#[tokio::test]
async fn tasks_are_matched_by_gleaners_own_key_and_labelled_ones_come_last() {
    let studio = Studio::labeling(3).await;
    let mut body = sample!("req_predict")["body"].clone();
    body["tasks"][0]["data"] = json!({"image": "http://elsewhere/x.png", "gleaner_item": studio.items[2]});
    let answer = studio.call("/predict", &body).await.expect(200);
    assert_eq!(answer["results"][0]["score"], 2.0 / 3.0);
    for task in studio.app.lease(&studio.app.admin, "p", 3).await {
        studio.app.label(&studio.app.admin, "p", &task, "dog").await;
    }
    let answer = studio.call("/predict", &body).await.expect(200);
    assert_eq!((&answer["results"][0]["score"], &answer["results"][1]["score"]), (&json!(1.0), &json!(1.0)));

    let mut annotation = created();
    annotation["task"]["data"] = json!({"image": "http://elsewhere/x.png", "gleaner_item": "nonsense"});
    studio.hear(&annotation).await;
    assert_eq!(studio.outcome().await, "unknown_item");
}

#[tokio::test]
async fn a_project_that_hides_its_guesses_hides_them_here_too() {
    let studio = Studio::with(3, json!({"show_suggestions": false})).await;
    studio.app.open_round(studio.project, 1, &studio.items, TaskSource::Query).await;
    let answer = studio.call("/predict", &sample!("req_predict")["body"]).await.expect(200);
    assert_eq!(answer["results"][0]["result"], json!([]));
    assert_eq!(answer["results"][0]["score"], 0.0, "the order is told all the same");
}

#[tokio::test]
async fn the_token_comes_by_basic_or_bearer_and_must_be_a_tools() {
    let studio = Studio::new(1).await;
    let body = sample!("req_setup")["body"].clone();
    let path = "/label-studio/p/setup";
    let app = &studio.app;
    send(app.request(&studio.tool, Method::POST, path).json(&body)).await.expect(200);
    send(app.bare(Method::POST, path).json(&body)).await.expect_problem(401, "unauthenticated");
    send(app.bare(Method::POST, path).basic_auth("x", Some("gl_t_wrong")).json(&body))
        .await
        .expect_problem(401, "unauthenticated");
    send(app.bare(Method::POST, path).header("authorization", "Basic !").json(&body))
        .await
        .expect_problem(401, "unauthenticated");
    let labeler = app.token(Role::Labeler).await;
    send(app.bare(Method::POST, path).basic_auth("x", Some(&labeler)).json(&body))
        .await
        .expect_problem(403, "forbidden");
    let other = app.create_project("other").await;
    let scoped = app.scoped_token(Role::Tool, &[other]).await;
    send(app.bare(Method::POST, path).basic_auth("x", Some(&scoped)).json(&body))
        .await
        .expect_problem(404, "not-found");
    // Nothing else takes Basic: a browser would send it along by itself.
    send(app.bare(Method::GET, "/api/v1/me").basic_auth("x", Some(&app.admin)))
        .await
        .expect_problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_config_with_several_choices_none_or_too_few_says_what_is_wrong() {
    let studio = Studio::new(1).await;
    let image = r#"<Image name="image" value="$image"/>"#;
    let choices = |name: &str| {
        format!(
            r#"<Choices name="{name}" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices>"#
        )
    };
    let cases = [
        (format!("<View>{image}</View>"), "no <Choices>"),
        (format!("<View>{image}{}{}</View>", choices("a"), choices("b")), "has 2 <Choices> (a, b)"),
        (format!("<View>{}</View>", choices("a")), "no <Image>"),
        ("<View".to_owned(), "no XML"),
        (
            format!(
                r#"<View>{image}<Choices name="a" toName="image"><Choice value="cat"/></Choices></View>"#
            ),
            "dog",
        ),
    ];
    for (schema, words) in cases {
        let body = json!({"project": "1.1", "schema": schema, "hostname": "http://x", "extra_params": null});
        let problem = studio.call("/setup", &body).await.expect_invalid("schema");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
    }
    studio
        .call("/predict", &json!({"tasks": [], "label_config": "<View/>"}))
        .await
        .expect_invalid("label_config");
    studio.call("/webhook", &json!({"action": "ANNOTATION_CREATED"})).await.expect_invalid("annotation");
    studio.call("/webhook", &json!({})).await.expect_invalid("action");
}

#[tokio::test]
async fn the_export_holds_the_whole_pool_with_labels_and_guesses_and_images_that_open() {
    let studio = Studio::labeling(4).await;
    studio.app.sql("update item set class = 1, class_source = 'import' where name = '3.png'").await;
    let task = studio.app.lease(&studio.app.admin, "p", 1).await.remove(0);
    studio.app.label(&studio.app.admin, "p", &task, "cat").await;
    let path = "/api/v1/projects/p/labels?format=label-studio";
    let answer = send(studio.app.request(&studio.tool, Method::GET, path)).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let tasks = answer.expect(200);
    let tasks = tasks.as_array().unwrap();
    assert_eq!(tasks.len(), 4);
    let named = |name: &str| tasks.iter().find(|task| task["meta"]["gleaner_name"] == name).unwrap();
    let labelled = tasks.iter().find(|other| other["data"]["gleaner_item"] == task["item"]).unwrap();
    let annotation = &labelled["annotations"][0];
    assert_eq!(annotation["result"][0]["value"], json!({"choices": ["cat"]}));
    assert_eq!(
        (&annotation["result"][0]["from_name"], &annotation["was_cancelled"]),
        (&json!("label"), &json!(false))
    );
    assert_eq!(
        named("3.png")["annotations"][0]["result"][0]["value"],
        json!({"choices": ["dog"]}),
        "imported"
    );
    assert_eq!(named("2.png")["annotations"], json!([]));
    let prediction = &named("2.png")["predictions"][0];
    assert_eq!(prediction["result"][0]["value"], json!({"choices": ["dog"]}));
    assert_eq!(prediction["model_version"], "v0.1");
    assert!(prediction["score"].as_f64().unwrap() < 1.0);
    assert_eq!(
        labelled["predictions"].as_array().map(Vec::len),
        Some(0),
        "its task is closed, and no model scored it"
    );

    let image =
        named("2.png")["data"]["image"].as_str().unwrap().strip_prefix("http://gleaner.test").unwrap();
    let shown = send(studio.app.bare(Method::GET, image)).await;
    assert_eq!(
        (shown.status.as_u16(), &shown.headers["cross-origin-resource-policy"]),
        (200, &"cross-origin".parse().unwrap())
    );
    let with_token =
        send(studio.app.request(&studio.tool, Method::GET, image.split('?').next().unwrap())).await;
    assert_eq!(with_token.headers["cross-origin-resource-policy"], "same-origin");

    // What goes in comes back as the same items.
    let body = json!({"tasks": tasks, "label_config": sample!("req_predict")["body"]["label_config"]});
    let predicted = studio.call("/predict", &body).await.expect(200);
    for (task, result) in tasks.iter().zip(predicted["results"].as_array().unwrap()) {
        let told = task["predictions"].as_array().unwrap().first().map(|told| told["score"].clone());
        assert!(told.is_none_or(|told| told == result["score"]), "{task} {result}");
    }
    let labeler = studio.app.token(Role::Labeler).await;
    send(studio.app.request(&labeler, Method::GET, path)).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn annotations_made_of_predictions_in_bulk_come_in_lists() {
    let studio = Studio::labeling(10).await;
    let mut body = created();
    body["action"] = json!("ANNOTATIONS_CREATED");
    let (mut annotations, mut tasks) = (Vec::new(), Vec::new());
    for number in 0..4 {
        let mut annotation = body["annotation"].clone();
        annotation["id"] = json!(100 + number);
        annotation["unique_id"] = json!(uuid::Uuid::now_v7());
        annotation["task"] = json!(number);
        let mut task = body["task"].clone();
        task["id"] = json!(number);
        task["data"]["image"] = json!(format!("http://127.0.0.1:1/{number}.png"));
        annotations.push(annotation);
        tasks.push(task);
    }
    tasks.reverse();
    body["annotation"] = json!(annotations);
    body["task"] = json!(tasks);
    studio.hear(&body).await;
    let mut names: Vec<String> =
        studio.labels().await.iter().map(|row| row[0].as_str().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["0.png", "1.png", "2.png", "3.png"]);
    body["task"] = json!(tasks[1..]);
    studio.call("/webhook", &body).await.expect_invalid("annotation");
}
