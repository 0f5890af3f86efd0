//! One project from its creation to `finished`, labelled through the API, while a plan says in which states the server is killed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gleaner::domain::event::EventKind;
use gleaner::store::testing::TestDatabase;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::dataset::{CLASSES, write_subset};
use crate::exports::Exports;
use crate::measurements::Measurements;
use crate::server::{Caller, Place, Server, free_port};
use crate::watch::Watch;

/// The states in which the server is killed.
pub const KILLED_STATES: [&str; 5] = ["importing", "pretraining", "labeling", "training", "scoring"];

const POOL_COUNT: usize = 8_000;
const TEST_COUNT: usize = 1_000;
const BUDGET: usize = 80;
const PROJECT: &str = "survivor";

/// Longest time between two looks for a task.
const LEASE_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// One exported label.
pub struct ExportedLabel {
    /// Its id.
    pub label: String,
    /// The name of its item.
    pub name: String,
}

/// What a finished journey saw.
pub struct Journey {
    /// The state at the end.
    pub state: String,
    /// How often the server was killed in each state, as the database said after the kill.
    pub kills: BTreeMap<&'static str, usize>,
    /// The labels that the server answered `accepted` for.
    pub accepted: Vec<String>,
    /// All labels that the export gave at the end.
    pub exported: Vec<ExportedLabel>,
    /// Items asked in each round, in the order of their ranks, with what made them be asked.
    pub queries: Vec<Vec<(String, Value)>>,
    /// Test accuracy of each round.
    pub accuracies: Vec<Value>,
}

impl Journey {
    /// Makes a project, labels it to its end, and kills the server as often in each state as `plan` says.
    pub async fn travel(plan: &BTreeMap<&'static str, usize>) -> Self {
        let database = TestDatabase::create().await;
        let folder = tempfile::tempdir().expect("a folder for the journey");
        let source = folder.path().join("images");
        let answers = write_subset(&source, POOL_COUNT, TEST_COUNT);
        let place = Place {
            database_url: &database.url(),
            home: &folder.path().join("home"),
            import_root: &source,
            port: free_port(),
        };
        let caller = Caller::new(place.port);
        let (ended, end) = watch::channel(false);
        let mut events = Watch::open(&database).await;
        let server = Server::start(&place).await;
        let of_labeler = Watch::open(&database).await;
        let labeler = tokio::spawn(work(caller.clone(), of_labeler, answers, source.clone(), end));
        let (kills, server) = kill_by_plan(&database, &place, server, plan).await;
        events.until_state("finished").await;
        ended.send(true).expect("the labeler listens");
        let accepted = labeler.await.expect("the labeler ends without a panic");
        let journey = Self::read(&caller, kills, accepted).await;
        Measurements::read(&caller).await.check(PROJECT, POOL_COUNT, BUDGET);
        server.kill();
        Exports::write(&place, PROJECT, folder.path()).check(POOL_COUNT);
        journey
    }

    async fn read(caller: &Caller, kills: BTreeMap<&'static str, usize>, accepted: Vec<String>) -> Self {
        let project = caller.json(Method::GET, &format!("/projects/{PROJECT}"), None).await;
        let exported =
            caller.json(Method::GET, &format!("/projects/{PROJECT}/labels?format=json"), None).await;
        let rows = exported.as_array().or_else(|| exported["items"].as_array()).expect("a list of labels");
        let exported: Vec<_> = rows
            .iter()
            .map(|row| ExportedLabel { label: text(&row["label"]), name: text(&row["name"]) })
            .collect();
        let rounds = caller.json(Method::GET, &format!("/projects/{PROJECT}/rounds?limit=100"), None).await;
        let mut rounds = rounds["items"].as_array().expect("rounds").clone();
        rounds.sort_by_key(|round| round["number"].as_i64());
        let mut queries = Vec::new();
        for round in &rounds {
            queries.push(read_queries(caller, &round["number"]).await);
        }
        Self {
            state: text(&project["state"]),
            kills,
            accepted,
            exported,
            queries,
            accuracies: rounds.iter().map(|round| round["test_accuracy"].clone()).collect(),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text expected, got {value}")).to_owned()
}

async fn read_queries(caller: &Caller, round: &Value) -> Vec<(String, Value)> {
    let path = format!("/projects/{PROJECT}/rounds/{round}/tasks?limit=200");
    let tasks = caller.json(Method::GET, &path, None).await;
    let mut queries = Vec::new();
    for task in tasks["items"].as_array().expect("tasks") {
        let item = caller.json(Method::GET, &format!("/items/{}", text(&task["item"])), None).await;
        let why =
            json!([task["rank"], task["score"], task["uncertainty"], task["pretext_loss"], task["source"]]);
        queries.push((text(&item["name"]), why));
    }
    queries.sort_by_key(|(_, why)| why[0].as_i64());
    queries
}

/// Creates the project, imports, starts, and labels whatever is handed out until the journey ends; returns the accepted labels.
async fn work(
    caller: Caller,
    mut events: Watch,
    answers: HashMap<String, String>,
    source: PathBuf,
    end: watch::Receiver<bool>,
) -> Vec<String> {
    let project = json!({
        "name": PROJECT, "classes": CLASSES, "image": {"size": 28, "channels": 1}, "backbone": "small",
        "pretext": {"kind": "rotation", "epochs": 3, "rotations_per_image": 1}, "fine_tune": {"mode": "full", "epochs": 5, "min_steps": 200},
        "batch_size": 20, "budget": BUDGET, "look_ahead": false, "lease_seconds": 5, "seed": 11,
    });
    caller.json(Method::POST, "/projects", Some(&project)).await;
    import_source(&caller, &mut events, PROJECT, &source).await;
    label_until(&caller, &mut events, &answers, end).await
}

/// Imports an IDX folder, its training images without labels into the pool and its test images with theirs, and starts the project.
pub async fn import_source(caller: &Caller, events: &mut Watch, project: &str, source: &Path) {
    let base = format!("/projects/{project}");
    for (split, labels) in [("pool", "hide"), ("test", "keep")] {
        let body = json!({"source": source, "format": "idx", "split": split, "labels": labels});
        let import = caller.json(Method::POST, &format!("{base}/imports"), Some(&body)).await;
        let ended = events.until(EventKind::ImportEnded, "import", &text(&import["id"])).await;
        assert_eq!(ended.payload["state"], "done", "{}", ended.payload);
    }
    // The import is done a moment before the supervisor says that the project is ready.
    while caller.call(Method::POST, &format!("{base}/start"), None).await.status() == 409 {
        events.until_state("ready").await;
    }
}

/// Labels whatever is handed out until the journey ends; returns the accepted labels.
async fn label_until(
    caller: &Caller,
    events: &mut Watch,
    answers: &HashMap<String, String>,
    mut end: watch::Receiver<bool>,
) -> Vec<String> {
    let mut accepted = Vec::new();
    while !*end.borrow() {
        let body = json!({"count": 5, "resume": true});
        let leases = caller.json(Method::POST, &format!("/projects/{PROJECT}/leases"), Some(&body)).await;
        let tasks = leases["tasks"].as_array().expect("tasks").clone();
        if tasks.is_empty() {
            tokio::select! {
                _ = events.next() => {}
                // A lease that runs out frees its task without an event.
                () = tokio::time::sleep(LEASE_LOOK_INTERVAL) => {}
                _ = end.changed() => {}
            }
        }
        for task in tasks {
            let item = caller.json(Method::GET, &format!("/items/{}", text(&task["item"])), None).await;
            let label = json!({"task": task["task"], "class": answers[item["name"].as_str().expect("a name")],
                "attempt": task["attempt"], "seconds": 0.5});
            let body = json!({"labels": [label]});
            let answer = caller.json(Method::POST, &format!("/projects/{PROJECT}/labels"), Some(&body)).await;
            let result = &answer["results"][0];
            if result["outcome"] == "accepted" {
                accepted.push(text(&result["label"]));
            }
            // No wait for anything but a person's pace, so that a kill finds the batch half answered.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    accepted
}

/// Watches the database and kills the server whenever the project is in a state that the plan still wants and something new is at work
/// there; counts a kill only when the database says afterwards that the state was the one meant.
async fn kill_by_plan(
    database: &TestDatabase,
    place: &Place<'_>,
    mut server: Server,
    plan: &BTreeMap<&'static str, usize>,
) -> (BTreeMap<&'static str, usize>, Server) {
    let mut kills: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut killed_work = String::new();
    loop {
        let open: Vec<_> = plan
            .iter()
            .filter(|(state, count)| kills.get(*state).copied().unwrap_or(0) < **count)
            .map(|(state, _)| *state)
            .collect();
        if open.is_empty() {
            return (kills, server);
        }
        let (now, work) = at_work(database).await;
        assert_ne!(now, "finished", "the project finished before it was killed while {open:?}");
        let target = open.into_iter().find(|state| *state == now);
        let (Some(state), Some(work)) = (target, work.filter(|work| *work != killed_work)) else {
            // Nobody is told when a worker takes a job, and what is to be hit may last some milliseconds only.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        // The first kill of a state hits its beginning, later ones somewhere in its work.
        let count = kills.get(state).copied().unwrap_or(0) as u64;
        tokio::time::sleep(Duration::from_millis(150 * count)).await;
        server.kill();
        // Nothing moves any more: what the database says now is the state at the kill.
        if at_work(database).await.0 == state {
            *kills.entry(state).or_default() += 1;
        }
        killed_work = work;
        server = Server::start(place).await;
    }
}

/// The project's state, and what a kill would interrupt: an attempt of a job, or a batch that is partly answered.
async fn at_work(database: &TestDatabase) -> (String, Option<String>) {
    let mut connection = database.store().acquire().await.expect("the test's database answers");
    let row: Option<(String, Option<String>)> = sqlx::query_as(
        "select state, case state when 'labeling'
             then (select nullif(count(*), 0)::text from slot
                 where slot.project = project.id and slot.state = 'answered'
                     and slot.round_number = (select max(number) from round where round.project = project.id))
             else (select id || '/' || attempt from job
                 where job.project = project.id and job.state = 'running' order by id limit 1) end
         from project where name = $1",
    )
    .bind(PROJECT)
    .fetch_optional(&mut *connection)
    .await
    .expect("the project is read");
    row.unwrap_or_default()
}
