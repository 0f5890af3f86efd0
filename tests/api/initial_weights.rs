//! The weights that a project's pretraining begins with.

use gleaner::domain::role::Role;
use gleaner::domain::settings::{BackboneKind, ImageShape};
use gleaner::nn::graph::Architecture;
use gleaner::nn::initialize::initial_backbone;
use reqwest::Method;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use crate::app::{Answer, App, send, spawn_app};

const PATH: &str = "/api/v1/projects/p/initial-weights";

/// A state dict as PyTorch writes it, for images of this size.
fn state_dict(backbone: BackboneKind, size: u32) -> Vec<u8> {
    let store = initial_backbone(&Architecture::new(backbone, ImageShape { size, channels: 1 }), 7);
    let tensors = store.export();
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|t| t.values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).expect("a whole tensor");
        (tensor.name.as_str(), view)
    });
    safetensors::serialize(views, None).expect("a file")
}

async fn put(app: &App, token: &str, body: Vec<u8>) -> Answer {
    let request = app.request(token, Method::PUT, PATH).header("content-type", "application/octet-stream");
    send(request.body(body)).await
}

#[tokio::test]
async fn weights_that_fit_are_kept_until_the_project_starts_and_then_frozen() {
    let app = spawn_app().await;
    let project = app.create_project("p").await;
    app.get(PATH).await.expect_problem(404, "not-found");
    let file = state_dict(BackboneKind::Small, 8);
    let kept = put(&app, &app.admin, file.clone()).await.expect(200);
    assert_eq!(kept["sha256"].as_str().map(str::len), Some(64));
    assert_eq!(app.get(PATH).await.expect(200), kept);
    let key = gleaner::blob::initial_weights_key(project, kept["sha256"].as_str().unwrap());
    assert_eq!(app.state.blob.get(&key).await.unwrap(), file);
    let removed = send(app.request(&app.admin, Method::DELETE, PATH)).await;
    assert_eq!(removed.status.as_u16(), 204);
    app.get(PATH).await.expect_problem(404, "not-found");
    put(&app, &app.admin, file.clone()).await.expect(200);
    app.add_items(project, 3).await;
    app.post("/api/v1/projects/p/start", json!({})).await.expect(200);
    put(&app, &app.admin, file).await.expect_problem(409, "frozen");
    send(app.request(&app.admin, Method::DELETE, PATH)).await.expect_problem(409, "frozen");
    assert_eq!(app.get(PATH).await.expect(200), kept);
}

#[tokio::test]
async fn weights_that_do_not_fit_are_refused_by_the_name_of_their_tensor() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let problem = put(&app, &app.admin, state_dict(BackboneKind::Resnet18, 8)).await.expect_invalid("body");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("`conv1.weight`") && detail.contains("[64, 1, 3, 3]"), "{detail}");
    put(&app, &app.admin, b"{}".to_vec()).await.expect_invalid("body");
    let tool = app.token(Role::Tool).await;
    put(&app, &tool, Vec::new()).await.expect_problem(403, "forbidden");
    app.get(PATH).await.expect_problem(404, "not-found");
}
