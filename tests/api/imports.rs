//! Imports from the server's disk, and uploads.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, App, PNG, form, send, spawn_app, spawn_app_with, write_file};

async fn upload(app: &App, project: &str, key: &str, parts: &[(&str, Option<&str>, &[u8])]) -> Answer {
    let (media_type, body) = form(parts);
    let path = format!("/api/v1/projects/{project}/images");
    let request = app.request(&app.admin, Method::POST, &path).header("content-type", media_type);
    send(request.header("idempotency-key", key).body(body)).await
}

#[tokio::test]
async fn an_import_inside_the_allowed_folders_is_queued_and_reported() {
    let app = spawn_app().await;
    app.create_project("p").await;
    write_file(&app.import_root, "images/a.png", PNG);
    let source = app.import_root.join("images");
    let queued = app.post("/api/v1/projects/p/imports", json!({"source": source})).await.expect(202);
    let id = queued["id"].as_str().unwrap();
    let report = app.get(&format!("/api/v1/projects/p/imports/{id}")).await.expect(200);
    assert_eq!(
        (report["state"].as_str(), report["read_count"].as_i64(), report["rejected"].clone()),
        (Some("queued"), Some(0), json!([]))
    );
    assert_eq!(app.get("/api/v1/projects/p").await.expect(200)["state"], "importing");
    assert_eq!(app.get("/api/v1/projects/p/imports").await.expect(200)["items"][0]["id"], id);
    app.post("/api/v1/projects/p/start", json!({})).await.expect_problem(409, "conflict");
    app.sql("update import set state = 'done', read_count = 4, added_count = 3, converted_count = 2, rejected_count = 1").await;
    let report = app.get(&format!("/api/v1/projects/p/imports/{id}")).await.expect(200);
    let counts = ["read_count", "added_count", "converted_count", "rejected_count", "duplicate_count"];
    assert_eq!(counts.map(|count| report[count].as_i64().unwrap()), [4, 3, 2, 1, 0]);
}

#[tokio::test]
async fn a_source_outside_the_allowed_folders_or_absent_is_refused() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let import =
        async |source: Value| app.post("/api/v1/projects/p/imports", json!({"source": source})).await;
    import(json!("/etc")).await.expect_invalid("source");
    import(json!(app.import_root.join("../scratch"))).await.expect_invalid("source");
    import(json!(app.import_root.join("nothing"))).await.expect_invalid("source");
    std::os::unix::fs::symlink("/etc", app.import_root.join("link")).unwrap();
    import(json!(app.import_root.join("link"))).await.expect_invalid("source");
    assert_eq!(app.get("/api/v1/projects/p").await.expect(200)["state"], "empty");
}

#[tokio::test]
async fn a_test_split_whose_labels_are_hidden_is_refused() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let import = json!({"source": app.import_root, "split": "test", "labels": "hide"});
    app.post("/api/v1/projects/p/imports", import).await.expect_invalid("labels");
    app.post("/api/v1/projects/p/imports", json!({"source": app.import_root, "split": "test"}))
        .await
        .expect(202);
    app.post("/api/v1/projects/p/imports", json!({"source": app.import_root, "format": "rar"}))
        .await
        .expect_invalid("format");
}

#[tokio::test]
async fn an_upload_is_stored_and_queued_once() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let parts: [(&str, Option<&str>, &[u8]); 3] =
        [("labels", None, b"keep"), ("file", Some("bag/a.png"), PNG), ("file", Some("../coat/b.png"), PNG)];
    let queued = upload(&app, "p", "k", &parts).await.expect(202);
    let again = upload(&app, "p", "k", &parts).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.expect(202), queued);
    upload(&app, "p", "k", &[("file", Some("a.png"), PNG)]).await.expect_problem(409, "idempotency-mismatch");
    let list = app.get("/api/v1/projects/p/imports").await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["source"], "upload");

    let id = queued["id"].as_str().unwrap().parse().unwrap();
    let stored = app.state.blob.local_path(&gleaner::blob::upload_key(id)).await.unwrap();
    let mut archive = tar::Archive::new(std::fs::File::open(stored).unwrap());
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["bag/a.png", "coat/b.png"]);
    assert_eq!(
        std::fs::read_dir(app.state.scratch.as_path()).unwrap().count(),
        0,
        "nothing stays in the scratch folder"
    );
}

#[tokio::test]
async fn an_upload_that_is_too_large_empty_or_no_form_is_refused() {
    let app = spawn_app_with(|state| state.upload_max_bytes = 10_000).await;
    app.create_project("p").await;
    upload(&app, "p", "a", &[("file", Some("a.png"), &[0; 20_000])]).await.expect_problem(413, "too-large");
    upload(&app, "p", "b", &[("labels", None, b"keep")]).await.expect_invalid("file");
    upload(&app, "p", "c", &[("labels", None, b"maybe"), ("file", Some("a.png"), PNG)])
        .await
        .expect_invalid("labels");
    upload(&app, "p", "d", &[("colour", None, b"red")]).await.expect_invalid("colour");
    app.post("/api/v1/projects/p/images", json!({})).await.expect_problem(415, "unsupported-media-type");
    upload(&app, "nobody", "e", &[("file", Some("a.png"), PNG)]).await.expect_problem(404, "not-found");
    assert_eq!(app.get("/api/v1/projects/p/imports").await.expect(200)["items"], json!([]));
}
