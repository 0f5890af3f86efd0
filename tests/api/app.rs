//! A server under test, and what tests ask of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gleaner::access::key::SecretKey;
use gleaner::access::token::TokenText;
use gleaner::blob::Blob;
use gleaner::domain::ids::{ItemId, ProjectId, RoundId, TokenId};
use gleaner::domain::project::ProjectState;
use gleaner::domain::role::Role;
use gleaner::domain::round::RoundState;
use gleaner::domain::strategy::Strategy;
use gleaner::domain::task::TaskSource;
use gleaner::events::Events;
use gleaner::http::metrics::GaugeReading;
use gleaner::http::{self, AppState};
use gleaner::label_studio::{InboxWake, RankingCache};
use gleaner::outbound::GuardedClient;
use gleaner::rounds::{JobWake, RoundCounts, SupervisorWake};
use gleaner::store::round;
use gleaner::store::task::{self, BatchOrigin, NewTask, Suggestion};
use gleaner::store::testing::TestDatabase;
use gleaner::store::{self, Store};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// The smallest PNG: one grey pixel.
pub const PNG: &[u8] = &[
    0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0, 0, 1, 0, 0, 0,
    1, 8, 0, 0, 0, 0, 0x3a, 0x7e, 0x9b, 0x55, 0, 0, 0, 10, b'I', b'D', b'A', b'T', 0x78, 0x9c, 0x63, 0x68, 0,
    0, 0, 0x82, 0, 0x81, 0x77, 0xcd, 0x72, 0xb6, 0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82,
];

/// A running server.
pub struct App {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    /// The text of an admin token.
    pub admin: String,
    /// What its handlers work with.
    pub state: AppState,
    /// A folder that server-side imports may read.
    pub import_root: PathBuf,
    client: reqwest::Client,
    /// Its database, past whatever the server reaches it through.
    pub database: TestDatabase,
    stop: CancellationToken,
    _server: AbortOnDropHandle<()>,
    _home: TempDir,
}

impl Drop for App {
    /// Stops the server and holds its database to what must be true after whatever a test did.
    fn drop(&mut self) {
        self.stop.cancel();
        if std::thread::panicking() {
            return;
        }
        let options = self.database.options();
        // Dropping isn't async and happens inside the test's runtime, which must not be blocked on: another thread looks.
        let looked = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            runtime.block_on(broken_invariants(options))
        });
        assert_eq!(looked.join().expect("the look ends"), Vec::<String>::new(), "invariants of the database");
    }
}

/// What must hold in every database, as the condition under which a row breaks it.
const INVARIANTS: [(&str, &str); 5] = [
    (
        "an answered slot has exactly one vote that stands and is paid",
        "select from slot s where state = 'answered'
           and 1 <> (select count(*) from label l where l.slot = s.id and counted and undone_at is null)",
    ),
    (
        "a vote that stands fills an answered slot",
        "select from label l join slot s on s.id = l.slot where counted and undone_at is null and s.state <> 'answered'",
    ),
    (
        "a leased slot has its labeler and its end",
        "select from slot where state = 'leased' and (labeler is null or expires_at is null)",
    ),
    (
        "a settled task has no slot that is open or leased, and its item has a class",
        "select from task t join item i on i.id = t.item where t.state = 'settled' and t.source <> 'gold'
           and (i.class is null or exists (select from slot s where s.task = t.id and s.state in ('open', 'leased')))",
    ),
    (
        "an answer is kept for every idempotency key",
        "select from idempotency where status is null or answer is null",
    ),
];

async fn broken_invariants(options: PgConnectOptions) -> Vec<String> {
    let mut connection = options.connect().await.expect("a connection");
    let mut broken = Vec::new();
    for (rule, rows) in INVARIANTS {
        let query = AssertSqlSafe(format!("select exists ({rows})"));
        let found: bool = sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("the look");
        if found {
            broken.push(rule.to_owned());
        }
    }
    broken
}

/// Starts a server with an admin token.
pub async fn spawn_app() -> App {
    spawn_app_with(|_| {}).await
}

/// Starts a server whose state is changed first.
pub async fn spawn_app_with(change: impl FnOnce(&mut AppState)) -> App {
    let database = TestDatabase::create().await;
    let store = database.store().clone();
    spawn_app_on(database, store, change).await
}

/// Starts a server that reaches its database through `store`.
pub async fn spawn_app_on(database: TestDatabase, store: Store, change: impl FnOnce(&mut AppState)) -> App {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let home = tempfile::tempdir().expect("a scratch folder");
    let folder = |name: &str| {
        let path = home.path().canonicalize().expect("a real path").join(name);
        std::fs::create_dir(&path).expect("a new folder");
        path
    };
    let (import_root, scratch, blobs) = (folder("import"), folder("scratch"), folder("blobs"));
    let stop = CancellationToken::new();
    let mut state = AppState {
        blob: Blob::open(&format!("file://{}", blobs.display()), home.path())
            .await
            .expect("a local object store"),
        engine: None,
        events: Events::start(store.clone(), stop.clone()).await.expect("events"),
        round_counts: RoundCounts::new(store.clone(), SupervisorWake::new()),
        rankings: RankingCache::default(),
        inbox_wake: InboxWake::default(),
        public_url: "http://gleaner.test".into(),
        outside: GuardedClient::new(true).expect("a client"),
        job_wake: JobWake::new(),
        key: SecretKey::from_bytes(&[7; 32]),
        gathers: Arc::default(),
        login_codes: Arc::default(),
        import_roots: Arc::from([import_root.clone()]),
        scratch: Arc::new(scratch),
        upload_max_bytes: 1 << 20,
        is_public_https: false,
        metrics: None,
        gauge_reading: GaugeReading::default(),
        metrics_open: false,
        pages: None,
        store,
    };
    change(&mut state);
    let listener =
        tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let served = http::serve(listener, state.clone(), stop.clone());
    let server = tokio::spawn(async move { served.await.expect("the server runs") });
    let admin = insert_token(&state.store, Role::Admin, None).await.1;
    App {
        url: format!("http://{address}"),
        admin,
        state,
        import_root,
        client: reqwest::Client::builder().build().expect("a client"),
        database,
        stop,
        _server: AbortOnDropHandle::new(server),
        _home: home,
    }
}

impl App {
    /// Stops the server and starts another on the same database and object store, as a restart does.
    pub async fn restart(&mut self) {
        self.stop.cancel();
        self.stop = CancellationToken::new();
        let store = Store::connect(&self.database.url()).await.expect("a connection");
        let events = Events::start(store.clone(), self.stop.clone()).await.expect("events");
        let round_counts = RoundCounts::new(store.clone(), SupervisorWake::new());
        self.state =
            AppState { store, events, round_counts, login_codes: Arc::default(), ..self.state.clone() };
        let listener =
            tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        self.url = format!("http://{}", listener.local_addr().expect("an address"));
        let served = http::serve(listener, self.state.clone(), self.stop.clone());
        self._server =
            AbortOnDropHandle::new(tokio::spawn(async move { served.await.expect("the server runs") }));
    }

    /// A number from the database.
    pub async fn number(&self, sql: &'static str) -> i64 {
        let mut connection = self.database.store().acquire().await.expect("a connection");
        sqlx::query_scalar(sql).fetch_one(&mut *connection).await.expect("a number")
    }
}

async fn insert_token(store: &Store, role: Role, projects: Option<&[ProjectId]>) -> (TokenId, String) {
    let text = TokenText::mint(role).expect("random bytes");
    let mut connection = store.acquire().await.expect("a connection");
    let id = store::token::insert(&mut connection, role, role.as_str(), &text.hash(), projects, None)
        .await
        .expect("a token");
    (id, text.expose().to_owned())
}

/// An answer: its status, headers and JSON (null when it has none).
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    /// Checks the status and gives the JSON.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.body
    }

    /// Checks that it is a problem of this status and type, and gives its JSON.
    #[track_caller]
    pub fn expect_problem(self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text);
        assert_eq!(self.body["type"], format!("/problems/{slug}"), "{}", self.text);
        assert_eq!(self.body["status"], status);
        assert!(
            self.body["error_id"].as_str().is_some_and(|id| Uuid::parse_str(id).is_ok()),
            "{}",
            self.text
        );
        self.body
    }

    /// Checks that it is a 422 that names exactly this field.
    #[track_caller]
    pub fn expect_invalid(self, field: &str) -> Value {
        let body = self.expect_problem(422, "invalid");
        let fields: Vec<_> =
            body["errors"].as_array().expect("fields").iter().map(|error| error["field"].clone()).collect();
        assert_eq!(fields, [field], "{body}");
        body
    }
}

/// Sends a request and reads its answer.
pub async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.expect("a body");
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
}

impl App {
    /// A request without a token; the path begins with `/`.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// A request with a token.
    pub fn request(&self, token: &str, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(token)
    }

    /// GET as admin.
    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(&self.admin, Method::GET, path)).await
    }

    /// POST as admin.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        send(self.request(&self.admin, Method::POST, path).json(&body)).await
    }

    /// POST with a token.
    pub async fn post_as(&self, token: &str, path: &str, body: Value) -> Answer {
        send(self.request(token, Method::POST, path).json(&body)).await
    }

    /// POST as admin under an idempotency key.
    pub async fn post_with_key(&self, key: &str, path: &str, body: Value) -> Answer {
        send(self.request(&self.admin, Method::POST, path).header("idempotency-key", key).json(&body)).await
    }

    /// The text of a fresh token.
    pub async fn token(&self, role: Role) -> String {
        insert_token(&self.state.store, role, None).await.1
    }

    /// The text of a fresh token for some projects only.
    pub async fn scoped_token(&self, role: Role, projects: &[ProjectId]) -> String {
        insert_token(&self.state.store, role, Some(projects)).await.1
    }

    /// Runs SQL on the database, as no client could; past whatever the server reaches it through.
    pub async fn sql(&self, sql: &'static str) {
        let mut connection = self.database.store().acquire().await.expect("a connection");
        sqlx::raw_sql(sql).execute(&mut *connection).await.expect("the statement runs");
    }

    /// A project of three classes over 8×8 grey images, without items.
    pub async fn create_project(&self, name: &str) -> ProjectId {
        self.create_project_with(name, json!({})).await
    }

    /// As `create_project`, with further settings.
    pub async fn create_project_with(&self, name: &str, settings: Value) -> ProjectId {
        let mut body =
            json!({"name": name, "classes": ["bag", "coat", "shirt"], "image": {"size": 8, "channels": 1}});
        body.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
        let answer = self.post("/api/v1/projects", body).await.expect(201);
        answer["id"].as_str().expect("an id").parse().expect("a UUID")
    }

    /// Adds pool items `pool/0`, `pool/1`, …, all with the one-pixel PNG as original.
    pub async fn add_items(&self, project: ProjectId, count: i32) -> Vec<ItemId> {
        let mut connection = self.state.store.acquire().await.expect("a connection");
        let (import, segment) = (Uuid::now_v7(), Uuid::now_v7());
        let sql = "with i as (
               insert into import (id, project, source, format, split, labels, state) values ($1, $2, 'test', 'auto', 'pool', 'hide', 'done')
               returning id
             )
             insert into segment (id, project, import, number, item_count, size, channels) select $3, $2, id, 0, $4, 8, 1 from i";
        sqlx::query(sql)
            .bind(import)
            .bind(project.0)
            .bind(segment)
            .bind(count)
            .execute(&mut *connection)
            .await
            .expect("a segment");
        let ids: Vec<ItemId> = (0..count).map(|_| ItemId::generate()).collect();
        let uuids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let sql = "insert into item (id, project, segment, segment_row, pack_offset, pack_length, media_type, name, split, width, height, channels,
               content_hash)
             select id, $2, $3, place - 1, 0, $4, 'image/png', 'pool/' || (place - 1), 'pool', 1, 1, 1, sha256(id::text::bytea)
             from unnest($1::uuid[]) with ordinality as fresh (id, place)";
        let length = i32::try_from(PNG.len()).expect("a small image");
        sqlx::query(sql)
            .bind(uuids)
            .bind(project.0)
            .bind(segment)
            .bind(length)
            .execute(&mut *connection)
            .await
            .expect("items");
        let key = gleaner::blob::pack_key(project, gleaner::domain::ids::SegmentId(segment));
        self.state.blob.put(&key, PNG.to_vec()).await.expect("a pack");
        let sql = "update project set state = 'ready' where id = $1 and state = 'empty'";
        sqlx::query(sql).bind(project.0).execute(&mut *connection).await.expect("a ready project");
        ids
    }

    /// Opens round `number` of a project with one task an item, all from `source`, and a guess for each.
    pub async fn open_round(&self, project: ProjectId, number: i32, items: &[ItemId], source: TaskSource) {
        let mut tx = self.state.store.begin().await.expect("a transaction");
        let row = store::project::find(&mut tx, project).await.expect("a query").expect("the project");
        for (from, to) in [
            (ProjectState::Ready, ProjectState::Pretraining),
            (ProjectState::Pretraining, ProjectState::Labeling),
        ] {
            round::move_project(&mut tx, project, from, to).await.expect("a move");
        }
        let count = i32::try_from(items.len()).expect("a small batch");
        let (id, state, strategy) = (RoundId::generate(), RoundState::Labeling, Strategy::default());
        round::open(&mut tx, id, project, number, state, &strategy, None, count).await.expect("a round");
        let guess = Suggestion { class: gleaner::domain::project::ClassIndex(1), probability: 0.75 };
        let tasks: Vec<_> = (0..)
            .zip(items)
            .map(|(rank, item)| NewTask {
                item: *item,
                rank,
                source,
                score: Some(1.0 - f64::from(rank) / 10.0),
                uncertainty: Some(0.5),
                pretext_loss: None,
                suggestions: vec![guess],
                known_class: None,
            })
            .collect();
        let origin = BatchOrigin {
            project,
            round_number: number,
            strategy: "deep_active",
            model_version: None,
            votes_per_task: row.settings.votes_per_task,
        };
        task::create_all(&mut tx, origin, &tasks).await.expect("tasks");
        tx.commit().await.expect("a commit");
    }

    /// A project in its first round with `count` tasks.
    pub async fn labeling_project(&self, name: &str, count: i32) -> ProjectId {
        let project = self.create_project(name).await;
        let items = self.add_items(project, count).await;
        self.open_round(project, 1, &items, TaskSource::Query).await;
        project
    }

    /// Leases up to `count` tasks for a token.
    pub async fn lease(&self, token: &str, project: &str, count: u32) -> Vec<Value> {
        let path = format!("/api/v1/projects/{project}/leases");
        let answer = self.post_as(token, &path, json!({"count": count})).await.expect(200);
        answer["tasks"].as_array().expect("tasks").clone()
    }

    /// Submits one label and gives its result.
    pub async fn label(&self, token: &str, project: &str, task: &Value, class: &str) -> Value {
        let path = format!("/api/v1/projects/{project}/labels");
        let label = json!({"task": task["task"], "class": class, "attempt": task["attempt"]});
        let answer = self.post_as(token, &path, json!({"labels": [label]})).await.expect(200);
        answer["results"][0].clone()
    }
}

/// Writes a file below a folder, with the folders it needs.
pub fn write_file(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    std::fs::write(path, bytes).expect("a file");
}

/// A multipart form: its media type and body. Each part is (field, file name, content).
pub fn form(parts: &[(&str, Option<&str>, &[u8])]) -> (String, Vec<u8>) {
    let boundary = "gleaner-test-boundary";
    let mut body = Vec::new();
    for (field, file_name, content) in parts {
        let file_name = file_name.map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
        body.extend_from_slice(
            format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{field}\"{file_name}\r\n\r\n")
                .as_bytes(),
        );
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}
