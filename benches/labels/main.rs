//! Labels a second over HTTP: the real binary, a Postgres that flushes to disk, and clients on the same cores: `make bench-labels`.
//!
//! Two loads, each on a project of its own: labelers who lease one task and submit one label, and labelers who lease and submit fifty at a
//! time. Every POST carries an idempotency key, as real clients' do. Afterwards the database is asked whether any task has two labels and
//! whether it holds exactly those that were answered for; then the figures are printed.

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
    drop(server);
    store.close().await;
    cluster.release().await.expect("the database stops");
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
    let mut tokens = Vec::new();
    for number in 0..load.labeler_count {
        let token = TokenText::mint(Role::Labeler).expect("random bytes");
        let name = format!("{}-{number}", load.project);
        store::token::insert(&mut connection, Role::Labeler, &name, &token.hash(), None, None)
            .await
            .expect("a token");
        tokens.push(token.expose().to_owned());
    }
    tokens
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
