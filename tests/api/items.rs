//! Items and images.

use gleaner::domain::role::Role;
use reqwest::Method;
use serde_json::json;

use crate::app::{PNG, send, spawn_app};

#[tokio::test]
async fn items_are_listed_in_pages_and_filtered() {
    let app = spawn_app().await;
    let project = app.create_project("p").await;
    app.add_items(project, 5).await;
    app.sql("update item set class = 2, class_source = 'import' where name = 'pool/3'").await;
    let first = app.get("/api/v1/projects/p/items?limit=3").await.expect(200);
    let second = app
        .get(&format!("/api/v1/projects/p/items?limit=3&after={}", first["next"].as_str().unwrap()))
        .await
        .expect(200);
    let names: Vec<_> = [&first, &second]
        .iter()
        .flat_map(|page| page["items"].as_array().unwrap())
        .map(|item| item["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["pool/0", "pool/1", "pool/2", "pool/3", "pool/4"]);
    let labeled = app.get("/api/v1/projects/p/items?labeled=true&split=pool").await.expect(200);
    assert_eq!(labeled["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        (labeled["items"][0]["class"].as_str(), labeled["items"][0]["labeled"].as_bool()),
        (Some("shirt"), Some(true))
    );
    assert_eq!(app.get("/api/v1/projects/p/items?split=test").await.expect(200)["items"], json!([]));
    app.get("/api/v1/projects/p/items?split=validation").await.expect_problem(422, "invalid");
}

#[tokio::test]
async fn an_image_has_an_etag_and_is_not_sent_twice() {
    let app = spawn_app().await;
    let project = app.create_project("p").await;
    let item = app.add_items(project, 1).await[0];
    let path = format!("/api/v1/items/{item}/image");
    let image = app.request(&app.admin, Method::GET, &path).send().await.unwrap();
    assert_eq!(image.headers()["content-type"], "image/png");
    assert!(image.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    let tag = image.headers()["etag"].clone();
    assert_eq!(image.bytes().await.unwrap(), PNG);
    let again = send(app.request(&app.admin, Method::GET, &path).header("if-none-match", tag)).await;
    assert_eq!((again.status.as_u16(), again.text.len()), (304, 0));
}

#[tokio::test]
async fn an_image_needs_a_token_or_an_address_that_is_signed_for_it() {
    let app = spawn_app().await;
    app.labeling_project("p", 2).await;
    let tasks = app.lease(&app.admin, "p", 2).await;
    let address = tasks[0]["image_url"].as_str().unwrap();
    let plain = address.split('?').next().unwrap();
    send(app.bare(Method::GET, plain)).await.expect_problem(401, "unauthenticated");
    assert_eq!(send(app.bare(Method::GET, address)).await.status, 200);
    let query = address.split_once('?').unwrap().1;
    let other = tasks[1]["image_url"].as_str().unwrap().split('?').next().unwrap();
    send(app.bare(Method::GET, &format!("{other}?{query}"))).await.expect_problem(403, "forbidden");
    send(app.bare(Method::GET, &format!("{plain}?expires=1&signature=00")))
        .await
        .expect_problem(403, "forbidden");
}

#[tokio::test]
async fn a_token_for_another_project_sees_neither_item_nor_image() {
    let app = spawn_app().await;
    let (project, other) = (app.create_project("p").await, app.create_project("other").await);
    let item = app.add_items(project, 1).await[0];
    let token = app.scoped_token(Role::Tool, &[other]).await;
    for path in [format!("/api/v1/items/{item}"), format!("/api/v1/items/{item}/image")] {
        send(app.request(&token, Method::GET, &path)).await.expect_problem(404, "not-found");
    }
}
