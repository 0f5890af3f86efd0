//! Webhooks against a real receiver: what arrives, signed how, and what happens when the receiver doesn't take it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gleaner::access::key::SecretKey;
use gleaner::domain::role::Role;
use gleaner::outbound::GuardedClient;
use gleaner::webhooks::Sender;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::app::{App, send, spawn_app, spawn_app_with};

/// What the receiver does with a message.
#[derive(Clone, Copy, Debug)]
enum Reaction {
    Answer(u16),
    Hang,
}

/// A receiver on a free port: tells what it got, and answers 200 unless told otherwise.
struct Receiver {
    url: String,
    got: mpsc::UnboundedReceiver<(HeaderMap, Bytes)>,
    reactions: Arc<Mutex<VecDeque<Reaction>>>,
    _server: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Desk {
    got: mpsc::UnboundedSender<(HeaderMap, Bytes)>,
    reactions: Arc<Mutex<VecDeque<Reaction>>>,
}

impl Receiver {
    async fn start() -> Self {
        let (sender, got) = mpsc::unbounded_channel();
        let reactions = Arc::new(Mutex::new(VecDeque::new()));
        let desk = Desk { got: sender, reactions: Arc::clone(&reactions) };
        let listener =
            tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let router = Router::new().route("/hook", post(take)).with_state(desk);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it runs") });
        Self { url, got, reactions, _server: AbortOnDropHandle::new(server) }
    }

    fn will(&self, reactions: &[Reaction]) {
        self.reactions.lock().expect("no panic").extend(reactions);
    }

    /// The next message; its headers are checked for what every message has.
    async fn next(&mut self) -> (HeaderMap, Bytes) {
        let got = tokio::time::timeout(Duration::from_secs(20), self.got.recv()).await;
        got.expect("a message within its time").expect("the receiver runs")
    }

    async fn next_body(&mut self) -> Value {
        serde_json::from_slice(&self.next().await.1).expect("JSON")
    }

    fn is_empty(&mut self) -> bool {
        self.got.try_recv().is_err()
    }
}

async fn take(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> StatusCode {
    desk.got.send((headers, body)).expect("the test listens");
    let reaction = desk.reactions.lock().expect("no panic").pop_front();
    match reaction {
        None => StatusCode::OK,
        Some(Reaction::Answer(status)) => StatusCode::from_u16(status).expect("a status"),
        Some(Reaction::Hang) => std::future::pending().await,
    }
}

/// HMAC-SHA256 by its definition (RFC 2104), so that the signature isn't checked by what made it.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

fn check_signature(secret: &str, headers: &HeaderMap, body: &[u8]) {
    let text = |name: &str| headers[name].to_str().expect("text").to_owned();
    let age = chrono::Utc::now().timestamp() - text("webhook-timestamp").parse::<i64>().expect("seconds");
    assert!((0..60).contains(&age), "{age}");
    let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("its prefix")).expect("Base64");
    let mut signed = format!("{}.{}.", text("webhook-id"), text("webhook-timestamp")).into_bytes();
    signed.extend_from_slice(body);
    assert_eq!(text("webhook-signature"), format!("v1,{}", STANDARD.encode(hmac(&key, &signed))));
    assert_eq!(text("content-type"), "application/json");
}

impl App {
    fn sender(&self) -> Sender {
        let state = &self.state;
        Sender::new(state.store.clone(), state.events.clone(), state.key.clone(), state.outside.clone())
    }

    /// Makes a webhook for labels and gives its id and secret.
    async fn webhook(&self, token: &str, url: &str) -> (String, String) {
        let body = json!({"url": url, "events": ["label.accepted"]});
        let made = self.post_as(token, "/api/v1/webhooks", body).await.expect(201);
        let text = |name: &str| made[name].as_str().expect("text").to_owned();
        (text("id"), text("secret"))
    }

    async fn webhook_state(&self, id: &str) -> Value {
        self.get(&format!("/api/v1/webhooks/{id}")).await.expect(200)
    }

    /// Labels further tasks of `p` and waits until the relay has numbered all events.
    async fn label_some(&self, count: u32) {
        let before = self.number("select count(*) from event").await;
        for task in self.lease(&self.admin, "p", count).await {
            assert_eq!(self.label(&self.admin, "p", &task, "coat").await["outcome"], "accepted");
        }
        let mut events = self.state.events.subscribe(None, Some(before)).await.expect("a subscription");
        for _ in 0..count {
            events.next().await.expect("an event");
        }
    }

    async fn deliveries(&self, id: &str) -> Vec<Value> {
        let page = self.get(&format!("/api/v1/webhooks/{id}/deliveries")).await.expect(200);
        page["items"].as_array().expect("deliveries").clone()
    }
}

/// An app with a project `p` of `count` open tasks whose earlier events are numbered.
async fn labeling_app(count: i32) -> App {
    let app = spawn_app().await;
    app.labeling_project("p", count).await;
    let mut events = app.state.events.subscribe(None, Some(0)).await.expect("a subscription");
    events.next().await.expect("the project's event");
    app
}

#[tokio::test]
async fn events_arrive_in_order_signed_and_only_those_that_are_wanted() {
    let app = labeling_app(5).await;
    let mut receiver = Receiver::start().await;
    let tool = app.token(Role::Tool).await;
    let (id, secret) = app.webhook(&tool, &receiver.url).await;
    app.label_some(5).await;
    assert_eq!(app.sender().send_due().await.unwrap(), 1);
    let mut numbers = Vec::new();
    for _ in 0..5 {
        let (headers, body) = receiver.next().await;
        check_signature(&secret, &headers, &body);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["type"], "label.accepted");
        assert_eq!(body["data"]["class"], "coat");
        assert!(body["timestamp"].is_string() && body["project"].is_string(), "{body}");
        numbers.push(body["number"].as_i64().unwrap());
    }
    assert!(receiver.is_empty());
    assert!(numbers.is_sorted() && numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let state = app.webhook_state(&id).await;
    assert_eq!((&state["state"], &state["pending_count"]), (&json!("active"), &json!(0)));
    assert_eq!(state["cursor"], app.number("select max(number) from event").await);
    assert!(app.deliveries(&id).await.iter().all(|row| row["state"] == "delivered" && row["status"] == 200));

    // What doesn't concern it moves the cursor and sends nothing.
    app.post("/api/v1/projects/p/pause", json!({})).await.expect(200);
    let last = state["cursor"].as_i64().unwrap();
    app.state.events.subscribe(None, Some(last)).await.unwrap().next().await.unwrap();
    app.sender().send_due().await.unwrap();
    assert!(receiver.is_empty());
    assert_eq!(app.webhook_state(&id).await["cursor"], last + 1);
    assert_eq!(app.sender().send_due().await.unwrap(), 0);
}

#[tokio::test]
async fn a_receiver_that_refuses_gets_everything_later_in_order() {
    let app = labeling_app(3).await;
    let mut receiver = Receiver::start().await;
    let (id, secret) = app.webhook(&app.admin, &receiver.url).await;
    receiver.will(&[Reaction::Answer(500), Reaction::Answer(302), Reaction::Answer(503)]);
    app.label_some(3).await;
    let mut ids = Vec::new();
    for failure_count in 1..=3 {
        app.sender().send_due().await.unwrap();
        let (headers, body) = receiver.next().await;
        check_signature(&secret, &headers, &body);
        ids.push(headers["webhook-id"].clone());
        assert!(receiver.is_empty(), "what comes after it is held back");
        let state = app.webhook_state(&id).await;
        assert_eq!((&state["state"], &state["failure_count"]), (&json!("retrying"), &json!(failure_count)));
        assert!(state["next_attempt_at"].as_str().unwrap() > state["created_at"].as_str().unwrap());
        assert_eq!(app.sender().send_due().await.unwrap(), 0, "it waits");
        app.sql("update webhook set next_attempt_at = now()").await;
    }
    let state = app.webhook_state(&id).await;
    assert_eq!(state["last_error"], "the receiver answered 503");
    app.sender().send_due().await.unwrap();
    let first = receiver.next().await;
    assert!(ids.iter().all(|id| *id == first.0["webhook-id"]), "one event has one id");
    assert!(receiver.next_body().await["number"].as_i64() < receiver.next_body().await["number"].as_i64());
    let state = app.webhook_state(&id).await;
    assert_eq!((&state["state"], &state["last_error"]), (&json!("active"), &Value::Null));
    assert_eq!(app.deliveries(&id).await[2]["attempt_count"], 4);
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_up_neither_labels_nor_other_webhooks() {
    let app = labeling_app(4).await;
    let (mut hanging, mut other) = (Receiver::start().await, Receiver::start().await);
    hanging.will(&[Reaction::Hang]);
    app.webhook(&app.admin, &hanging.url).await;
    app.webhook(&app.admin, &other.url).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.sender().run(stop.clone()));
    app.label_some(1).await;
    hanging.next().await;
    app.label_some(3).await;
    for _ in 0..4 {
        other.next_body().await;
    }
    stop.cancel();
    running.await.unwrap();
    assert_eq!(app.number("select count(*) from webhook where lease is not null").await, 0);
    // The next sender begins where the stopped one was.
    app.sender().send_due().await.unwrap();
    let mut numbers = Vec::new();
    for _ in 0..4 {
        numbers.push(hanging.next_body().await["number"].as_i64().unwrap());
    }
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert!(other.is_empty());
}

#[tokio::test]
async fn a_killed_server_leaves_its_messages_to_the_next_one() {
    let app = labeling_app(2).await;
    let mut receiver = Receiver::start().await;
    app.webhook(&app.admin, &receiver.url).await;
    app.label_some(2).await;
    app.sql("update webhook set lease = gen_random_uuid(), leased_until = now() + interval '1 minute'").await;
    assert_eq!(app.sender().send_due().await.unwrap(), 0, "somebody else sends for it");
    app.sql("update webhook set leased_until = now() - interval '1 second'").await;
    assert_eq!(app.sender().send_due().await.unwrap(), 1);
    receiver.next().await;
    receiver.next().await;
}

#[tokio::test]
async fn two_servers_send_each_event_once() {
    let app = labeling_app(20).await;
    let mut receivers = Vec::new();
    for _ in 0..4 {
        let receiver = Receiver::start().await;
        app.webhook(&app.admin, &receiver.url).await;
        receivers.push(receiver);
    }
    let stop = CancellationToken::new();
    let servers =
        [tokio::spawn(app.sender().run(stop.clone())), tokio::spawn(app.sender().run(stop.clone()))];
    app.label_some(20).await;
    for receiver in &mut receivers {
        let mut numbers = Vec::new();
        for _ in 0..20 {
            numbers.push(receiver.next_body().await["number"].as_i64().unwrap());
        }
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    }
    stop.cancel();
    for server in servers {
        server.await.unwrap();
    }
    assert!(receivers.iter_mut().all(Receiver::is_empty));
}

#[tokio::test]
async fn a_webhook_is_given_up_after_days_and_goes_on_where_it_was() {
    let app = labeling_app(2).await;
    let mut receiver = Receiver::start().await;
    let (id, _) = app.webhook(&app.admin, &receiver.url).await;
    receiver.will(&[Reaction::Answer(500)]);
    app.label_some(1).await;
    app.sql("update webhook set failure_count = 15").await;
    app.sender().send_due().await.unwrap();
    receiver.next().await;
    let state = app.webhook_state(&id).await;
    assert_eq!((&state["state"], &state["disabled_reason"]), (&json!("disabled"), &json!("given_up")));
    assert_eq!(app.number("select count(*) from event where kind = 'webhook.disabled'").await, 1);
    app.sql("update webhook set next_attempt_at = now()").await;
    app.label_some(1).await;
    assert_eq!(app.sender().send_due().await.unwrap(), 0);

    let path = format!("/api/v1/webhooks/{id}");
    let enable = app.request(&app.admin, Method::PATCH, &path).json(&json!({"enabled": true}));
    assert_eq!(send(enable).await.expect(200)["state"], "active");
    app.sender().send_due().await.unwrap();
    assert!(receiver.next_body().await["number"].as_i64() < receiver.next_body().await["number"].as_i64());

    // A receiver that says it is gone isn't asked sixteen times.
    receiver.will(&[Reaction::Answer(410)]);
    let again = json!({"from": 1, "to": 100});
    app.post(&format!("{path}/redeliveries"), again).await.expect(202);
    app.sender().send_due().await.unwrap();
    assert_eq!(app.webhook_state(&id).await["disabled_reason"], "gone");
}

#[tokio::test]
async fn events_are_sent_again_by_number_under_the_same_id() {
    let app = labeling_app(3).await;
    let mut receiver = Receiver::start().await;
    let (id, _) = app.webhook(&app.admin, &receiver.url).await;
    app.label_some(3).await;
    app.sender().send_due().await.unwrap();
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(receiver.next().await);
    }
    let number = |message: &(HeaderMap, Bytes)| {
        serde_json::from_slice::<Value>(&message.1).unwrap()["number"].as_i64().unwrap()
    };
    let path = format!("/api/v1/webhooks/{id}/redeliveries");
    let middle = json!({"from": number(&first[1])});
    assert_eq!(app.post(&path, middle.clone()).await.expect(202)["count"], 1);
    assert_eq!(app.post(&path, middle).await.expect(202)["count"], 0, "it waits already");
    let all = json!({"from": 1, "to": 9999});
    assert_eq!(app.post(&path, all).await.expect(202)["count"], 2);
    app.sender().send_due().await.unwrap();
    for message in &first {
        let again = receiver.next().await;
        assert_eq!(again.0["webhook-id"], message.0["webhook-id"]);
        assert_eq!(again.1, message.1);
    }
    assert!(app.deliveries(&id).await[..3].iter().all(|row| row["origin"] == "redelivery"));
    app.post(&path, json!({"from": 0})).await.expect_invalid("from");
    app.post(&path, json!({"from": 5, "to": 4})).await.expect_invalid("to");
    app.post(&path, json!({"from": 1, "to": 10_001})).await.expect_invalid("to");
}

#[tokio::test]
async fn a_test_says_what_came_of_it_even_while_the_webhook_is_silent() {
    let app = labeling_app(1).await;
    let mut receiver = Receiver::start().await;
    let (id, secret) = app.webhook(&app.admin, &receiver.url).await;
    let path = format!("/api/v1/webhooks/{id}");
    send(app.request(&app.admin, Method::PATCH, &path).json(&json!({"enabled": false}))).await.expect(200);
    app.label_some(1).await;
    receiver.will(&[Reaction::Answer(404)]);
    for (state, status) in [("failed", 404), ("delivered", 200)] {
        let asked = app.post(&format!("{path}/test"), json!({})).await.expect(202);
        app.sender().send_due().await.unwrap();
        let (headers, body) = receiver.next().await;
        check_signature(&secret, &headers, &body);
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["type"], "webhook.test");
        let row = app.deliveries(&id).await[0].clone();
        assert_eq!((&row["id"], &row["state"]), (&asked["delivery"], &json!(state)));
        assert_eq!(row["status"], status);
    }
    assert!(receiver.is_empty(), "events wait");
    let state = app.webhook_state(&id).await;
    assert_eq!((&state["state"], &state["failure_count"]), (&json!("disabled"), &json!(0)));
}

#[tokio::test]
async fn private_addresses_are_refused_unless_the_operator_allows_them() {
    let closed = GuardedClient::new(false).unwrap();
    let app = spawn_app_with(|state| state.outside = closed.clone()).await;
    for url in ["http://127.0.0.1/hook", "http://localhost/", "http://[::1]/", "http://10.0.0.1/"] {
        app.post("/api/v1/webhooks", json!({"url": url})).await.expect_invalid("url");
    }
    for url in ["", "hook", "ftp://example.org/", "https://me:secret@example.org/"] {
        app.post("/api/v1/webhooks", json!({"url": url})).await.expect_invalid("url");
    }
    // Made while it was allowed, or of a name that led elsewhere then: it isn't called any more.
    let mut receiver = Receiver::start().await;
    let (id, _) = app.webhook(&app.admin, "https://tools.example.org/hook").await;
    let mut connection = app.database.store().acquire().await.unwrap();
    sqlx::query("update webhook set url = $1").bind(&receiver.url).execute(&mut *connection).await.unwrap();
    app.labeling_project("p", 1).await;
    app.label_some(1).await;
    app.sender().send_due().await.unwrap();
    assert!(receiver.is_empty());
    let error = app.webhook_state(&id).await["last_error"].clone();
    assert!(error.as_str().unwrap().contains("not a public address"), "{error}");
}

#[tokio::test]
async fn tools_see_their_own_webhooks_and_operators_all_within_their_projects() {
    let app = spawn_app().await;
    let (mine, other) = (app.create_project("mine").await, app.create_project("other").await);
    let url = "https://tools.example.org/hook";
    let (ana, ben) = (app.token(Role::Tool).await, app.token(Role::Tool).await);
    let (of_ana, _) = app.webhook(&ana, url).await;
    let scoped = app.scoped_token(Role::Tool, &[mine]).await;
    let (of_scoped, _) = app.webhook(&scoped, url).await;
    let operator = app.token(Role::Operator).await;
    let scoped_operator = app.scoped_token(Role::Operator, &[mine]).await;
    for (token, seen) in [
        (&ana, vec![&of_ana]),
        (&ben, vec![]),
        (&scoped, vec![&of_scoped]),
        (&operator, vec![&of_ana, &of_scoped]),
        (&scoped_operator, vec![&of_scoped]),
    ] {
        let page = send(app.request(token, Method::GET, "/api/v1/webhooks")).await.expect(200);
        let ids: Vec<_> = page["items"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
        assert_eq!(ids, seen.iter().map(|id| json!(id)).collect::<Vec<_>>());
    }
    let scoped_row = send(app.request(&scoped, Method::GET, &format!("/api/v1/webhooks/{of_scoped}"))).await;
    assert_eq!(scoped_row.expect(200)["projects"], json!([mine]));
    let foreign = json!({"url": url, "projects": [other]});
    app.post_as(&scoped, "/api/v1/webhooks", foreign).await.expect_invalid("projects.0");

    let path = format!("/api/v1/webhooks/{of_ana}");
    for method in [Method::GET, Method::DELETE] {
        send(app.request(&ben, method, &path)).await.expect_problem(404, "not-found");
    }
    for part in ["secret", "test"] {
        app.post_as(&ben, &format!("{path}/{part}"), json!({})).await.expect_problem(404, "not-found");
    }
    let change = app.request(&ben, Method::PATCH, &path).json(&json!({"enabled": false}));
    send(change).await.expect_problem(404, "not-found");
    let labeler = app.token(Role::Labeler).await;
    app.post_as(&labeler, "/api/v1/webhooks", json!({"url": url})).await.expect_problem(403, "forbidden");
    send(app.request(&operator, Method::DELETE, &path)).await.expect(204);
    send(app.request(&ana, Method::GET, &path)).await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_webhook_is_silent_once_its_owner_has_ended() {
    let app = labeling_app(1).await;
    let mut receiver = Receiver::start().await;
    let tool = app.token(Role::Tool).await;
    let (id, _) = app.webhook(&tool, &receiver.url).await;
    app.label_some(1).await;
    app.sql("update token set revoked_at = now() where role = 'tool'").await;
    assert_eq!(app.sender().send_due().await.unwrap(), 0);
    assert!(receiver.is_empty());
    assert_eq!(app.webhook_state(&id).await["state"], "owner_ended");
}

#[tokio::test]
async fn a_secret_is_shown_once_and_the_database_alone_gives_none_away() {
    let app = labeling_app(1).await;
    let mut receiver = Receiver::start().await;
    let body = json!({"url": receiver.url});
    let made = app.post_with_key("k", "/api/v1/webhooks", body.clone()).await.expect(201);
    let secret = made["secret"].as_str().unwrap().to_owned();
    let replayed = app.post_with_key("k", "/api/v1/webhooks", body).await.expect(201);
    assert_eq!((&replayed["id"], &replayed["secret"]), (&made["id"], &Value::Null));
    let id = made["id"].as_str().unwrap();
    assert!(!app.webhook_state(id).await.to_string().contains("whsec_"));
    let mut connection = app.database.store().acquire().await.unwrap();
    let stored: Vec<u8> =
        sqlx::query_scalar("select secret from webhook").fetch_one(&mut *connection).await.unwrap();
    let plain = STANDARD.decode(&secret[6..]).unwrap();
    assert!(!stored.windows(plain.len()).any(|window| window == plain));
    drop(connection);

    // A server with another key can't sign for it, so it leaves it to the one that can, or to a new secret.
    let (state, key) = (&app.state, SecretKey::from_bytes(&[9; 32]));
    let stranger = Sender::new(state.store.clone(), state.events.clone(), key.clone(), state.outside.clone());
    app.label_some(1).await;
    assert_eq!(stranger.send_due().await.unwrap(), 0);
    let fresh = app.post(&format!("/api/v1/webhooks/{id}/secret"), json!({})).await.expect(200);
    assert_ne!(fresh["secret"], made["secret"]);
    app.sender().send_due().await.unwrap();
    let (headers, body) = receiver.next().await;
    check_signature(fresh["secret"].as_str().unwrap(), &headers, &body);
}

#[tokio::test]
async fn a_webhook_with_fields_that_are_wrong_is_refused_by_field() {
    let app = spawn_app().await;
    let url = "https://tools.example.org/hook";
    app.post("/api/v1/webhooks", json!({})).await.expect_invalid("url");
    app.post("/api/v1/webhooks", json!({"url": url, "events": []})).await.expect_invalid("events");
    app.post("/api/v1/webhooks", json!({"url": url, "events": ["label.eaten"]}))
        .await
        .expect_invalid("events[0]");
    app.post("/api/v1/webhooks", json!({"url": url, "projects": []})).await.expect_invalid("projects");
    app.post("/api/v1/webhooks", json!({"url": url, "secret": "mine"})).await.expect_invalid("secret");
    let (id, _) = app.webhook(&app.admin, url).await;
    let path = format!("/api/v1/webhooks/{id}");
    let change = |body: Value| send(app.request(&app.admin, Method::PATCH, &path).json(&body));
    assert_eq!(
        change(json!({"events": ["model.published"]})).await.expect(200)["events"][0],
        "model.published"
    );
    assert_eq!(change(json!({})).await.expect(200)["events"][0], "model.published");
    assert_eq!(change(json!({"events": null})).await.expect(200)["events"], Value::Null);
    let other = "https://other.example.org/";
    assert_eq!(change(json!({"url": other})).await.expect(200)["url"], other);
    change(json!({"url": "nowhere"})).await.expect_invalid("url");
}
