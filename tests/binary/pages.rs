//! The pages in a real browser: a server for the Playwright tests of `tests/pages`, empty at first and then with projects that label.

use std::path::Path;
use std::process::{Command, ExitStatus};

use gleaner::store::testing::TestDatabase;
use reqwest::Method;
use serde_json::{Value, json};

use crate::dataset::{CLASSES, write_subset};
use crate::journey::import_source;
use crate::server::{Caller, Place, Server, TOKEN, free_port};
use crate::watch::Watch;

/// The project that most tests share, and one that is small enough to train between two keys.
const PROJECT: &str = "desk";
const PACE_PROJECT: &str = "pace";

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
    let first_use = run_node(place.port, "empty_server").await;
    assert!(first_use.success(), "the tests on an empty server failed; their report stands above");

    let caller = Caller::new(place.port);
    let mut events = Watch::open(&database).await;
    for (name, batch_size, budget) in [(PROJECT, 150, 3_000), (PACE_PROJECT, 60, 600)] {
        caller.json(Method::POST, "/projects", Some(&project(name, batch_size, budget))).await;
        import_source(&caller, &mut events, name, &source).await;
        events.until_state("labeling").await;
    }
    let rest = run_node(place.port, ".").await;
    server.kill();
    assert!(rest.success(), "the page tests failed; their report stands above");
}

/// A project whose rounds take seconds.
fn project(name: &str, batch_size: u32, budget: u32) -> Value {
    json!({
        "name": name, "classes": CLASSES, "image": {"size": 28, "channels": 1}, "backbone": "small",
        "pretext": {"kind": "rotation", "epochs": 1, "rotations_per_image": 1}, "fine_tune": {"mode": "head", "epochs": 20},
        "batch_size": batch_size, "budget": budget, "seed": 3, "guidelines": "Choose the class of the *main* garment.",
    })
}

/// Runs the tests of one folder below `tests/pages` (not of those below it) against the server on `port`.
async fn run_node(port: u16, folder: &'static str) -> ExitStatus {
    let run = move || {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages");
        let mut files: Vec<_> = std::fs::read_dir(place.join(folder))
            .expect("the folder of the page tests")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.to_string_lossy().ends_with(".test.mjs"))
            .collect();
        files.sort();
        Command::new("node")
            .args(["--test", "--test-concurrency=1"])
            .args(files)
            .current_dir(place)
            .env("GLEANER_TEST_URL", format!("http://127.0.0.1:{port}"))
            .env("GLEANER_TEST_TOKEN", TOKEN)
            .env("GLEANER_TEST_PROJECT", PROJECT)
            .env("GLEANER_TEST_PACE_PROJECT", PACE_PROJECT)
            .status()
            .expect("node runs; `make packages` installs it")
    };
    tokio::task::spawn_blocking(run).await.expect("the browser tests end")
}
