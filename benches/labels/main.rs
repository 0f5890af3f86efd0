//! Labels a second over HTTP: the real binary, a Postgres that flushes to disk, and clients on the same cores: `make bench-labels`.
//!
//! Two loads, each on a project of its own: labelers who lease one task and submit one label, and labelers who lease and submit fifty at a
//! time. Every POST carries an idempotency key, as real clients' do. Afterwards the database is asked whether any task has two labels and
//! whether it holds exactly those that were answered for; then the figures are printed. `--streams 1000` follows events on as many streams
//! besides, `--exported 1000000` reads so many labels through one call and watches the server's memory.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gleaner::access::token::TokenText;
use gleaner::domain::role::Role;
use gleaner::store::cluster::Cluster;
use gleaner::store::{self, Store};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

/// One load on the service.
struct Load {
    /// The project's name.
    project: &'static str,
    /// Labelers at once.
    labeler_count: usize,
    /// Tasks of a lease and labels of a submit.
    batch_count: u32,
    /// Tasks that there are; more than can be labelled in the time.
    task_count: i32,
    /// How long it lasts.
    duration: Duration,
}

/// What one labeler saw.
#[derive(Default)]
struct Seen {
    label_count: usize,
    lease_seconds: Vec<f64>,
    submit_seconds: Vec<f64>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let seconds: u64 = argument("--seconds").unwrap_or(10);
    let labeler_count = argument("--labelers").unwrap_or(32) as usize;
    let duration = Duration::from_secs(seconds);
    let per_second = |count: u64| i32::try_from(count * seconds).expect("a moderate number of tasks");
    let loads = [
        Load { project: "singles", labeler_count, batch_count: 1, task_count: per_second(4_000), duration },
        Load { project: "fifties", labeler_count, batch_count: 50, task_count: 100_000, duration },
    ];
    let home = tempfile::tempdir().expect("a folder for the database");
    let cluster =
        Cluster::start(&home.path().join("cluster")).await.expect("a Postgres with its default settings");
    let store = Store::connect_with(cluster.connect_options()).await.expect("a connection");
    store.migrate().await.expect("the schema");
    let fsync: String = text(&store, "show fsync").await;
    println!("{labeler_count} labelers, {seconds} s a load, fsync {fsync}");
    let url = sqlx::ConnectOptions::to_url_lossy(&cluster.connect_options()).to_string();
    let server = Server::start(home.path(), &url).await;
    for load in loads {
        let tokens = seed(&store, &load).await;
        let (seen, elapsed) = run(&server.url, &load, tokens).await;
        report(&load, &seen, elapsed);
        check(&store, &load, seen.iter().map(|seen| seen.label_count).sum()).await;
    }
    if let Some(count) = argument("--streams") {
        follow(&store, &server, count).await;
    }
    if let Some(count) = argument("--exported") {
        export(&store, &server, count).await;
    }
    drop(server);
    store.close().await;
    cluster.release().await.expect("the database stops");
}

/// Opens streams of events, then labels, and waits until every stream has told every label.
async fn follow(store: &Store, server: &Server, stream_count: u64) {
    let load = Load {
        project: "streams",
        labeler_count: 1,
        batch_count: 20,
        task_count: 20,
        duration: Duration::ZERO,
    };
    let token = seed(store, &load).await.remove(0);
    let admin = mint(store, Role::Admin, "follower").await;
    let url = format!("{}/api/v1/projects/streams", server.url);
    let client = Client::new();
    let mut streams = JoinSet::new();
    let mut opened = Vec::new();
    for _ in 0..stream_count {
        opened.push(client.get(format!("{url}/events")).bearer_auth(&admin).send().await.expect("a stream"));
    }
    println!("streams: {stream_count} open, the server holds {} MiB", server.resident_mib());
    for mut stream in opened {
        streams.spawn(async move {
            let mut text = String::new();
            while text.matches("event: label.accepted").count() + text.matches("event:label.accepted").count()
                < 20
            {
                let chunk = stream.chunk().await.expect("the stream goes on").expect("the stream goes on");
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
        });
    }
    let (leased, _) = post(&client, &format!("{url}/leases"), &token, &json!({"count": 20})).await;
    let tasks = leased["tasks"].as_array().expect("tasks");
    let labels: Vec<Value> =
        tasks.iter().map(|task| json!({"task": task["task"], "class": "coat"})).collect();
    let began = Instant::now();
    post(&client, &format!("{url}/labels"), &token, &json!({"labels": labels})).await;
    streams.join_all().await;
    println!("  20 labels told to each within {:.0} ms", began.elapsed().as_secs_f64() * 1000.0);
}

/// Writes many labels into the database and reads them all through one call.
async fn export(store: &Store, server: &Server, label_count: u64) {
    let load = Load {
        project: "exported",
        labeler_count: 1,
        batch_count: 1,
        task_count: 10_000,
        duration: Duration::ZERO,
    };
    seed(store, &load).await;
    let sql = include_str!("labels.sql").replace(":count", &label_count.to_string());
    let mut connection = store.acquire().await.expect("a connection");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await.expect("the labels are made");
    drop(connection);
    let admin = mint(store, Role::Admin, "exporter").await;
    let url = format!("{}/api/v1/projects/exported/labels?format=jsonl", server.url);
    let before = server.resident_mib();
    let began = Instant::now();
    let mut answer = Client::new().get(url).bearer_auth(admin).send().await.expect("an answer");
    let (mut rows, mut bytes, mut most) = (0, 0, before);
    while let Some(chunk) = answer.chunk().await.expect("the stream goes on") {
        rows += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
        bytes += chunk.len();
        most = most.max(server.resident_mib());
    }
    assert_eq!(rows, label_count);
    println!(
        "export: {rows} labels, {} MiB in {:.1} s; the server holds {before} MiB before and {most} MiB at most",
        bytes >> 20,
        began.elapsed().as_secs_f64()
    );
}

/// The number after an option of the command line.
fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map(|value| value.parse().expect("a whole number"))
}

/// The real binary, ended when dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    async fn start(home: &Path, database_url: &str) -> Self {
        let port =
            TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port();
        let child = Command::new(env!("CARGO_BIN_EXE_gleaner"))
            .args(["serve", "--role", "api"])
            .env("DATABASE_URL", database_url)
            .env("GLEANER_HOME", home.join("home"))
            .env("GLEANER_LISTEN", format!("127.0.0.1:{port}"))
            .env("GLEANER_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let server = Self { child, url: format!("http://127.0.0.1:{port}") };
        let client = Client::new();
        while !client
            .get(format!("{}/readyz", server.url))
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            // A server that isn't up yet tells nobody anything.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }
}

impl Server {
    /// Memory that the process has resident.
    fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a project that labels, with its tasks and a token for each labeler.
async fn seed(store: &Store, load: &Load) -> Vec<String> {
    let sql = include_str!("seed.sql")
        .replace(":project", load.project)
        .replace(":count", &load.task_count.to_string());
    let mut connection = store.acquire().await.expect("a connection");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await.expect("the project is made");
    drop(connection);
    let mut tokens = Vec::new();
    for number in 0..load.labeler_count {
        tokens.push(mint(store, Role::Labeler, &format!("{}-{number}", load.project)).await);
    }
    tokens
}

async fn mint(store: &Store, role: Role, name: &str) -> String {
    let token = TokenText::mint(role).expect("random bytes");
    let mut connection = store.acquire().await.expect("a connection");
    store::token::insert(&mut connection, role, name, &token.hash(), None, None).await.expect("a token");
    token.expose().to_owned()
}

/// Lets the labelers work for a while.
async fn run(url: &str, load: &Load, tokens: Vec<String>) -> (Vec<Seen>, Duration) {
    let url: Arc<str> = format!("{url}/api/v1/projects/{}", load.project).into();
    let began = Instant::now();
    let end = began + load.duration;
    let mut labelers = JoinSet::new();
    for token in tokens {
        labelers.spawn(label(Arc::clone(&url), token, load.batch_count, end));
    }
    let seen = labelers.join_all().await;
    (seen, began.elapsed())
}

async fn label(url: Arc<str>, token: String, count: u32, end: Instant) -> Seen {
    let client = Client::builder().timeout(Duration::from_secs(30)).build().expect("a client");
    let mut seen = Seen::default();
    while Instant::now() < end {
        let (leased, seconds) =
            post(&client, &format!("{url}/leases"), &token, &json!({"count": count})).await;
        seen.lease_seconds.push(seconds);
        let tasks = leased["tasks"].as_array().expect("tasks");
        assert!(!tasks.is_empty(), "the tasks didn't last: {leased}");
        let labels: Vec<Value> = tasks
            .iter()
            .map(|task| json!({"task": task["task"], "class": "coat", "attempt": task["attempt"], "seconds": 1.0}))
            .collect();
        let (answer, seconds) =
            post(&client, &format!("{url}/labels"), &token, &json!({"labels": labels})).await;
        seen.submit_seconds.push(seconds);
        let results = answer["results"].as_array().expect("results");
        assert!(results.iter().all(|result| result["outcome"] == "accepted"), "{answer}");
        seen.label_count += results.len();
    }
    seen
}

async fn post(client: &Client, url: &str, token: &str, body: &Value) -> (Value, f64) {
    let began = Instant::now();
    let request = client.post(url).bearer_auth(token).header("idempotency-key", Uuid::now_v7().to_string());
    let answer = request.json(body).send().await.expect("an answer");
    let status = answer.status();
    let body: Value = answer.json().await.expect("JSON");
    assert_eq!(status, StatusCode::OK, "{body}");
    (body, began.elapsed().as_secs_f64())
}

fn report(load: &Load, seen: &[Seen], elapsed: Duration) {
    let labels: usize = seen.iter().map(|seen| seen.label_count).sum();
    println!(
        "{}: {:.0} labels a second ({labels} in {:.1} s)",
        load.project,
        labels as f64 / elapsed.as_secs_f64(),
        elapsed.as_secs_f64()
    );
    for (what, times) in
        [("lease", |seen: &Seen| &seen.lease_seconds), ("submit", |seen: &Seen| &seen.submit_seconds)]
            as [(&str, fn(&Seen) -> &Vec<f64>); 2]
    {
        let mut times: Vec<f64> = seen.iter().flat_map(|seen| times(seen).iter().copied()).collect();
        times.sort_by(f64::total_cmp);
        let at = |fraction: f64| times[((times.len() - 1) as f64 * fraction) as usize] * 1000.0;
        println!("  {what}: p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms", at(0.5), at(0.99), at(1.0));
    }
}

/// No task has two labels, and the database holds those that were answered for and no other.
async fn check(store: &Store, load: &Load, answered: usize) {
    let of_project = format!(
        "from label l join project p on p.id = l.project where p.name = '{}' and counted",
        load.project
    );
    let held = number(store, format!("select count(*) {of_project}")).await;
    let tasks = number(store, format!("select count(distinct task) {of_project}")).await;
    let settled = number(
        store,
        format!("select count(*) from task t join project p on p.id = t.project where p.name = '{}' and t.state = 'settled'", load.project),
    )
    .await;
    assert_eq!(
        (held, tasks, settled),
        (answered as i64, answered as i64, answered as i64),
        "labels held, tasks, settled"
    );
    println!("  {answered} labels of as many tasks, none twice");
}

async fn number(store: &Store, sql: String) -> i64 {
    let mut connection = store.acquire().await.expect("a connection");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *connection).await.expect("a number")
}

async fn text(store: &Store, sql: &'static str) -> String {
    let mut connection = store.acquire().await.expect("a connection");
    sqlx::query_scalar(sql).fetch_one(&mut *connection).await.expect("a text")
}
