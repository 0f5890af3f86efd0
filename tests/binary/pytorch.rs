//! Weights to and from the real PyTorch: `make test-pytorch`, which installs it into `target/pytorch`.
//!
//! A project begins with a ResNet-18 that torchvision made, learns real Fashion-MNIST, and gives its model out; torchvision's ResNet-18 loads
//! it with `strict=True` and says the same of the same images.

use std::path::Path;
use std::process::Command;

use gleaner::store::testing::TestDatabase;
use image::{GrayImage, ImageFormat};
use reqwest::{Body, Client, Method, Response};
use serde_json::{Value, json};

use crate::dataset::{CLASSES, write_subset};
use crate::journey::import_source;
use crate::server::{Caller, Place, Server, TOKEN, free_port};
use crate::watch::Watch;

const PROJECT: &str = "torch";
const SIZE: usize = 28;
const IMAGE_COUNT: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PyTorch, which `make test-pytorch` installs"]
async fn weights_come_from_torchvision_and_go_back_to_it_with_the_same_answers() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().expect("a folder for the server");
    let source = folder.path().join("images");
    let answers = write_subset(&source, 120, 60);
    let home = folder.path().join("home");
    let place = Place { database_url: &database.url(), home: &home, import_root: &source, port: free_port() };
    let server = Server::start(&place).await;
    let caller = Caller::new(place.port);
    let sender =
        Sender { client: Client::new(), base: format!("http://127.0.0.1:{}/api/v1/projects", place.port) };
    let mut events = Watch::open(&database).await;
    run_python(&["initial", &text(folder.path())]);

    let project = |name: &str, size: usize| {
        json!({
            "name": name, "classes": CLASSES, "image": {"size": size, "channels": 1}, "backbone": "resnet18",
            "pretext": {"kind": "rotation", "epochs": 1, "rotations_per_image": 1}, "fine_tune": {"mode": "full", "epochs": 1},
            "batch_size": 40, "budget": 40, "seed": 3, "look_ahead": false,
        })
    };
    caller.json(Method::POST, "/projects", Some(&project("large", 96))).await;
    caller.json(Method::POST, "/projects", Some(&project(PROJECT, SIZE))).await;
    let file = |name: &str| std::fs::read(folder.path().join(name)).expect("what PyTorch wrote");
    let (cifar, imagenet) = (file("cifar.safetensors"), file("imagenet.safetensors"));
    let refused = sender
        .send(Method::PUT, PROJECT, "initial-weights", "application/octet-stream", imagenet.clone())
        .await;
    assert_eq!(refused.status().as_u16(), 422);
    let problem: Value = refused.json().await.expect("a problem");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("[64, 3, 7, 7]")), "{problem}");
    sender.json(Method::PUT, "large", "initial-weights", "application/octet-stream", imagenet).await;
    let initial =
        sender.json(Method::PUT, PROJECT, "initial-weights", "application/octet-stream", cifar).await;

    import_source(&caller, &mut events, PROJECT, &source).await;
    events.until_state("labeling").await;
    answer_all(&caller, &answers).await;
    events.until_state("finished").await;

    let weights = sender.send(Method::GET, PROJECT, "models/1/weights", "", Vec::new()).await;
    let weights = weights.bytes().await.expect("the weights");
    std::fs::write(folder.path().join("model.safetensors"), &weights).expect("the weights are written");
    let says = format!("\\\"initial_weights\\\":\\\"{}\\\"", initial["sha256"].as_str().expect("a digest"));
    assert!(String::from_utf8_lossy(&weights).contains(&says), "the manifest names what it began with");
    let pixels = std::fs::read(source.join("t10k-images-idx3-ubyte")).expect("the test images");
    let pixels = &pixels[16..16 + IMAGE_COUNT * SIZE * SIZE];
    std::fs::write(folder.path().join("pixels"), pixels).expect("the pixels are written");
    let mut rows = Vec::new();
    for image in pixels.chunks_exact(SIZE * SIZE) {
        rows.push(predict(&sender, image).await);
    }
    std::fs::write(folder.path().join("predictions.json"), json!(rows).to_string()).expect("written");
    server.kill();
    let at = |name: &str| text(&folder.path().join(name));
    run_python(&["compare", &at("model.safetensors"), &at("pixels"), &at("predictions.json")]);
}

/// Sends bodies that aren't JSON.
struct Sender {
    client: Client,
    base: String,
}

impl Sender {
    async fn send(
        &self,
        method: Method,
        project: &str,
        path: &str,
        media_type: &str,
        body: Vec<u8>,
    ) -> Response {
        let request =
            self.client.request(method, format!("{}/{project}/{path}", self.base)).bearer_auth(TOKEN);
        let request =
            if media_type.is_empty() { request } else { request.header("content-type", media_type) };
        request.body(Body::from(body)).send().await.expect("an answer")
    }

    async fn json(
        &self,
        method: Method,
        project: &str,
        path: &str,
        media_type: &str,
        body: Vec<u8>,
    ) -> Value {
        let answer = self.send(method, project, path, media_type, body).await;
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).expect("JSON")
    }
}

/// Gives every task of the batch its known class.
async fn answer_all(caller: &Caller, answers: &std::collections::HashMap<String, String>) {
    loop {
        let leases = caller
            .json(Method::POST, &format!("/projects/{PROJECT}/leases"), Some(&json!({"count": 20})))
            .await;
        let tasks = leases["tasks"].as_array().expect("tasks");
        if tasks.is_empty() {
            return;
        }
        let mut labels = Vec::new();
        for task in tasks {
            let item = caller
                .json(Method::GET, &format!("/items/{}", task["item"].as_str().expect("an id")), None)
                .await;
            let class = &answers[item["name"].as_str().expect("a name")];
            labels.push(json!({"task": task["task"], "class": class, "attempt": task["attempt"]}));
        }
        caller
            .json(Method::POST, &format!("/projects/{PROJECT}/labels"), Some(&json!({"labels": labels})))
            .await;
    }
}

/// The probabilities that gleaner gives an image, in the order of the classes.
async fn predict(sender: &Sender, pixels: &[u8]) -> Vec<f64> {
    let side = u32::try_from(SIZE).expect("small");
    let image = GrayImage::from_raw(side, side, pixels.to_vec()).expect("a whole image");
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png).expect("a PNG");
    let said = sender.json(Method::POST, PROJECT, "predictions", "image/png", png.into_inner()).await;
    let probabilities = said["predictions"][0]["probabilities"].as_array().expect("probabilities").clone();
    let of = |class: &&str| {
        let found = probabilities.iter().find(|entry| entry["class"] == **class).expect("every class");
        found["probability"].as_f64().expect("a number")
    };
    CLASSES.iter().map(of).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run_python(arguments: &[&str]) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = Command::new(repository.join("target/pytorch/bin/python"))
        .arg(repository.join("tests/pytorch/weights.py"))
        .args(arguments)
        .status()
        .expect("Python starts; `make test-pytorch` installs it with PyTorch");
    assert!(status.success(), "weights.py {arguments:?}: {status}");
}
