//! Server-Sent Events.

use std::time::Duration;

use gleaner::domain::role::Role;
use reqwest::{Method, Response};
use serde_json::Value;

use crate::app::{App, send, spawn_app};

/// Reads a stream until it has given `count` events: (id, kind, data).
async fn read_events(mut response: Response, count: usize) -> Vec<(i64, String, Value)> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let mut events = Vec::new();
    while events.len() < count {
        let chunk = tokio::time::timeout(Duration::from_secs(20), response.chunk())
            .await
            .expect("an event within its time");
        text.push_str(
            std::str::from_utf8(&chunk.expect("a chunk").expect("a stream that goes on")).expect("UTF-8"),
        );
        while let Some((frame, rest)) = text.split_once("\n\n") {
            let field = |name: &str| {
                frame.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
            };
            if let (Some(id), Some(kind), Some(data)) = (field("id:"), field("event:"), field("data:")) {
                events.push((
                    id.parse().expect("a number"),
                    kind,
                    serde_json::from_str(&data).expect("JSON"),
                ));
            }
            text = rest.to_owned();
        }
    }
    events
}

async fn open(app: &App, path: &str, last: Option<i64>) -> Response {
    let mut request = app.request(&app.admin, Method::GET, path);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    request.send().await.expect("an answer")
}

#[tokio::test]
async fn a_stream_tells_what_happens_and_resumes_where_it_was() {
    let app = spawn_app().await;
    app.labeling_project("p", 2).await;
    app.create_project("other").await;
    let tasks = app.lease(&app.admin, "p", 2).await;
    app.label(&app.admin, "p", &tasks[0], "coat").await;
    let path = "/api/v1/projects/p/events?after=0";
    let first = read_events(open(&app, path, None).await, 2).await;
    assert_eq!((first[0].1.as_str(), first[1].1.as_str()), ("project.created", "label.accepted"));
    assert_eq!(first[1].2["payload"]["class"], "coat");
    assert_eq!(first[1].2["number"], first[1].0);

    let live = open(&app, path, Some(first[1].0)).await;
    app.label(&app.admin, "p", &tasks[1], "bag").await;
    let later = read_events(live, 1).await;
    assert_eq!(
        (later[0].1.as_str(), later[0].2["payload"]["class"].as_str()),
        ("label.accepted", Some("bag"))
    );
    assert!(later[0].0 > first[1].0);

    let newest = read_events(open(&app, "/api/v1/projects/p/events?last=1", None).await, 1).await;
    assert_eq!(newest, later);
    let all = read_events(open(&app, "/api/v1/projects/p/events?last=50", None).await, 3).await;
    assert_eq!(all, [first, later].concat());
    app.get("/api/v1/projects/p/events?last=0").await.expect_invalid("last");
}

#[tokio::test]
async fn the_stream_of_all_projects_keeps_to_the_scope_of_its_token() {
    let app = spawn_app().await;
    let mine = app.create_project("mine").await;
    app.create_project("other").await;
    let all = read_events(open(&app, "/api/v1/events?after=0", None).await, 2).await;
    assert_eq!(all.iter().map(|event| event.0).collect::<Vec<_>>(), [1, 2], "numbers have no gaps");
    let token = app.scoped_token(Role::Operator, &[mine]).await;
    app.sql("insert into event (id, project, kind, payload) select gen_random_uuid(), id, 'project.paused', '{}' from project").await;
    let response = app.request(&token, Method::GET, "/api/v1/events?after=0").send().await.unwrap();
    let seen = read_events(response, 2).await;
    assert!(seen.iter().all(|event| event.2["project"] == mine.to_string()), "{seen:?}");
}

#[tokio::test]
async fn a_stream_needs_a_tool_and_a_number_that_is_one() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let labeler = app.token(Role::Labeler).await;
    send(app.request(&labeler, Method::GET, "/api/v1/projects/p/events"))
        .await
        .expect_problem(403, "forbidden");
    app.get("/api/v1/projects/p/events?after=yesterday").await.expect_invalid("after");
    let wrong =
        app.request(&app.admin, Method::GET, "/api/v1/projects/p/events").header("last-event-id", "x");
    send(wrong).await.expect_invalid("Last-Event-ID");
}
