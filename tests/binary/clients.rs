//! What others make of the OpenAPI document: a Python client that labels a batch, and Schemathesis, which holds the live server to it.
//!
//! Their Python packages stand in `target/python-clients` (`make python-packages`).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gleaner::store::testing::TestDatabase;
use reqwest::Method;
use serde_json::json;

use crate::dataset::{CLASSES, write_subset};
use crate::journey::import_source;
use crate::server::{Caller, Place, Server, TOKEN, free_port};
use crate::watch::Watch;

const PROJECT: &str = "clients";
const BATCH_SIZE: u32 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_client_labels_a_batch_and_no_generated_request_breaks_the_document() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().expect("a folder for the server");
    let source = folder.path().join("images");
    write_subset(&source, 400, 100);
    let home = folder.path().join("home");
    let place = Place { database_url: &database.url(), home: &home, import_root: &source, port: free_port() };
    let server = Server::start(&place).await;
    let url = format!("http://127.0.0.1:{}", place.port);
    let caller = Caller::new(place.port);
    let mut events = Watch::open(&database).await;
    let project = json!({
        "name": PROJECT, "classes": CLASSES, "image": {"size": 28, "channels": 1}, "backbone": "small",
        "pretext": {"kind": "rotation", "epochs": 1, "rotations_per_image": 1}, "fine_tune": {"mode": "head", "epochs": 1},
        "batch_size": BATCH_SIZE, "budget": 400, "seed": 3, "look_ahead": false,
    });
    caller.json(Method::POST, "/projects", Some(&project)).await;
    import_source(&caller, &mut events, PROJECT, &source).await;
    events.until_state("labeling").await;

    generate_client(folder.path());
    let mut example = python();
    example.arg(repository().join("docs/python/label_a_batch.py")).arg(PROJECT);
    example
        .env("GLEANER_URL", &url)
        .env("GLEANER_TOKEN", TOKEN)
        .env("PYTHONPATH", folder.path().join("client"));
    let said = run(example).await;
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(last, format!("{BATCH_SIZE} labels accepted"), "{said}");

    events.until_state("labeling").await;
    let mut schemathesis = Command::new(programs().join("st"));
    schemathesis
        .arg("--config-file")
        .arg(repository().join("tests/clients/schemathesis.toml"))
        .args(["run", "--no-color", "--max-examples", "12", "--seed", "1"])
        .arg(format!("{url}/openapi.json"))
        .env("GLEANER_TEST_TOKEN", TOKEN)
        .env("GLEANER_TEST_PROJECT", PROJECT)
        .current_dir(folder.path());
    run(schemathesis).await;
    server.kill();
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn programs() -> PathBuf {
    repository().join("target/python-clients/bin")
}

fn python() -> Command {
    Command::new(programs().join("python"))
}

/// Makes the client of what `gleaner openapi` says, as `make python-client` does.
fn generate_client(folder: &Path) {
    let document =
        Command::new(env!("CARGO_BIN_EXE_gleaner")).arg("openapi").output().expect("the binary starts");
    assert!(document.status.success(), "{document:?}");
    std::fs::write(folder.join("openapi.json"), &document.stdout).expect("the document is written");
    let generated = Command::new(programs().join("openapi-python-client"))
        .args(["generate", "--meta", "none", "--fail-on-warning", "--overwrite", "--path", "openapi.json"])
        .args(["--output-path", "client/gleaner_client", "--config"])
        .arg(repository().join("tests/clients/openapi-python-client.yaml"))
        .current_dir(folder)
        .output()
        .expect("openapi-python-client starts; `make python-packages` installs it");
    assert!(generated.status.success(), "{}", both(&generated));
}

/// Runs a program to its success and returns what it said.
async fn run(mut command: Command) -> String {
    let run = move || command.output().expect("the program starts; `make python-packages` installs it");
    let output = tokio::task::spawn_blocking(run).await.expect("the program ends");
    assert!(output.status.success(), "{}", both(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
