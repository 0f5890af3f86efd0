//! The pages in a real browser: a server with an open batch for the Playwright tests of `tests/pages`.

use std::path::Path;
use std::process::Command;

use gleaner::store::testing::TestDatabase;
use reqwest::Method;
use serde_json::json;

use crate::dataset::{CLASSES, write_subset};
use crate::journey::import_source;
use crate::server::{Caller, Place, Server, TOKEN, free_port};
use crate::watch::Watch;

const PROJECT: &str = "desk";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_work_in_a_browser() {
    let database = TestDatabase::create().await;
    let folder = tempfile::tempdir().expect("a folder for the server");
    let source = folder.path().join("images");
    write_subset(&source, 3_000, 500);
    let place = Place {
        database_url: &database.url(),
        home: &folder.path().join("home"),
        import_root: &source,
        port: free_port(),
    };
    let server = Server::start(&place).await;
    let caller = Caller::new(place.port);
    let project = json!({
        "name": PROJECT, "classes": CLASSES, "image": {"size": 28, "channels": 1}, "backbone": "small",
        "pretext": {"kind": "rotation", "epochs": 1, "rotations_per_image": 1}, "fine_tune": {"mode": "head", "epochs": 20},
        "batch_size": 150, "budget": 600, "seed": 3, "guidelines": "Choose the class of the *main* garment.",
    });
    caller.json(Method::POST, "/projects", Some(&project)).await;
    let mut events = Watch::open(&database).await;
    import_source(&caller, &mut events, PROJECT, &source).await;
    events.until_state("labeling").await;

    let address = format!("http://127.0.0.1:{}", place.port);
    let status = tokio::task::spawn_blocking(move || {
        Command::new("node")
            .args(["--test", "--test-concurrency=1"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages"))
            .env("GLEANER_TEST_URL", address)
            .env("GLEANER_TEST_TOKEN", TOKEN)
            .env("GLEANER_TEST_PROJECT", PROJECT)
            .status()
            .expect("node runs; `make packages` installs it")
    })
    .await
    .expect("the browser tests end");
    server.kill();
    assert!(status.success(), "the page tests failed; their report stands above");
}
