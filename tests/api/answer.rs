//! `gleaner answer` as a person runs it: the binary against a server.

use std::path::Path;
use std::process::Stdio;

use gleaner::domain::role::Role;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::app::{App, spawn_app};

/// Runs the command to its end; gives whether it succeeded, and what it said.
async fn answer(app: &App, token: &str, answers: &Path, more: &[&str]) -> (bool, String) {
    let home = tempfile::tempdir().expect("a scratch folder");
    let output = Command::new(env!("CARGO_BIN_EXE_gleaner"))
        .args(["answer", "p", "--url", &app.url, "--token", token, "--answers"])
        .arg(answers)
        .args(more)
        .env("GLEANER_HOME", home.path())
        .current_dir(home.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("the binary runs");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

fn write_answers(folder: &Path, rows: &[(&str, &str)]) -> std::path::PathBuf {
    let path = folder.join("answers.csv");
    let text: String = rows.iter().map(|(name, class)| format!("{name},{class}\n")).collect();
    std::fs::write(&path, text).expect("a file");
    path
}

#[tokio::test]
async fn a_round_is_answered_by_several_labelers_whose_tokens_end_with_it() {
    let app = spawn_app().await;
    app.labeling_project("p", 25).await;
    let classes = ["bag", "coat", "shirt"];
    let names: Vec<String> = (0..25).map(|index| format!("pool/{index}")).collect();
    let mut rows: Vec<_> =
        names.iter().zip(classes.iter().cycle()).map(|(name, class)| (name.as_str(), *class)).collect();
    // One name is not known, one class is none of the project's.
    rows.remove(3);
    rows[7].1 = "spaceship";
    let folder = tempfile::tempdir().unwrap();
    let answers = write_answers(folder.path(), &rows);
    let (done, text) = answer(&app, &app.admin, &answers, &["--rounds", "1", "--labelers", "3"]).await;
    assert!(done, "{text}");
    assert!(
        text.contains(
            "23 labels accepted, 0 not taken, 1 skipped (name unknown: pool/3), 1 skipped (class unknown)"
        ),
        "{text}"
    );
    assert!(
        text.contains("has classes that the project doesn't: spaceship; their items are skipped"),
        "{text}"
    );

    let labels = app.get("/api/v1/projects/p/labels").await.expect(200);
    let labels = labels.as_array().unwrap();
    assert_eq!(labels.len(), 23);
    for label in labels {
        let known = rows.iter().find(|(name, _)| *name == label["name"]).unwrap();
        assert_eq!(label["class"], known.1, "{label}");
    }
    let tokens = app.get("/api/v1/tokens").await.expect(200);
    let alive: Vec<&Value> =
        tokens["items"].as_array().unwrap().iter().filter(|token| token["revoked_at"].is_null()).collect();
    assert_eq!(alive.len(), 1, "only the admin's token is left: {alive:?}");
}

#[tokio::test]
async fn an_error_rate_of_one_answers_every_task_wrongly_and_a_labelers_token_suffices() {
    let app = spawn_app().await;
    app.labeling_project("p", 4).await;
    let labeler = app.token(Role::Labeler).await;
    let folder = tempfile::tempdir().unwrap();
    let rows = [("pool/0", "bag"), ("pool/1", "bag"), ("pool/2", "bag"), ("pool/3", "bag")];
    let answers = write_answers(folder.path(), &rows);
    let (done, text) =
        answer(&app, &labeler, &answers, &["--rounds", "1", "--labelers", "1", "--error-rate", "1"]).await;
    assert!(done, "{text}");
    let labels = app.get("/api/v1/projects/p/labels").await.expect(200);
    assert_eq!(labels.as_array().unwrap().len(), 4);
    assert!(labels.as_array().unwrap().iter().all(|label| label["class"] != "bag"), "{labels}");
}

#[tokio::test]
async fn a_wrong_token_or_an_unreadable_file_ends_with_words() {
    let app = spawn_app().await;
    app.labeling_project("p", 1).await;
    let folder = tempfile::tempdir().unwrap();
    let answers = write_answers(folder.path(), &[("pool/0", "bag")]);
    let (done, text) = answer(&app, "gl_a_wrong", &answers, &["--rounds", "1"]).await;
    assert!(!done && text.contains("401"), "{text}");
    let (done, text) = answer(&app, &app.admin, &folder.path().join("nothing.csv"), &["--rounds", "1"]).await;
    assert!(!done && text.contains("nothing.csv"), "{text}");
    let answers = write_answers(folder.path(), &[("pool/0", "spaceship"), ("pool/1", "boat")]);
    let (done, text) = answer(&app, &app.admin, &answers, &["--rounds", "1"]).await;
    assert!(!done && text.contains("the file has boat, spaceship, the project bag, coat, shirt"), "{text}");
    assert_eq!(app.get("/api/v1/projects/p").await.expect(200)["round"]["answered_count"], 0);
}

#[tokio::test]
async fn an_interrupted_run_gives_its_leases_back() {
    let app = spawn_app().await;
    app.labeling_project("p", 30).await;
    // A paused project keeps the command waiting, so the interrupt never comes too late.
    app.post("/api/v1/projects/p/pause", json!({})).await.expect(200);
    let folder = tempfile::tempdir().unwrap();
    let answers = write_answers(folder.path(), &[("pool/0", "bag")]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gleaner"));
    command.args(["answer", "p", "--url", &app.url, "--token", &app.admin, "--labelers", "2", "--answers"]);
    let child = command
        .arg(&answers)
        .env("GLEANER_HOME", folder.path())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let id = nix::unistd::Pid::from_raw(child.id().unwrap().cast_signed());
    wait_for_tokens(&app, 3).await;
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("stopped before the end"), "{text}");
    wait_for_tokens(&app, 1).await;
}

/// Waits until so many tokens are alive.
async fn wait_for_tokens(app: &App, count: usize) {
    let looking = async {
        loop {
            let tokens = app.get("/api/v1/tokens").await.expect(200);
            let rows = tokens["items"].as_array().expect("tokens");
            if rows.iter().filter(|token| token["revoked_at"].is_null()).count() == count {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), looking)
        .await
        .expect("the tokens within a minute");
}
