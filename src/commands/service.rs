//! The running service: everything that `serve` and `demo` start, in one process, and stop in order.
//!
//! The parts are tasks and threads under one stop token: events (relay and listener), supervisor, engine and worker (role `all`),
//! the webhooks' sender, Label Studio's inbox, retention, HTTP. Stopping lets requests end and jobs reach a checkpoint; a kill instead of it loses nothing but that courtesy.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::house::House;
use crate::access::key::SecretKey;
use crate::access::login_code::LoginCodes;
use crate::access::token::TokenText;
use crate::config::Config;
use crate::domain::ids::TokenId;
use crate::domain::role::Role;
use crate::engine::{Engine, EngineConfig, EngineGuard};
use crate::events::Events;
use crate::http::{self, AppState};
use crate::label_studio::{Inbox, InboxWake, RankingCache};
use crate::outbound::GuardedClient;
use crate::rounds::{JobWake, RoundCounts, Supervisor, SupervisorWake};
use crate::store::{self, Store};
use crate::telemetry;
use crate::webhooks;
use crate::worker::Worker;

/// Bytes of one upload at most.
const UPLOAD_MAX_BYTES: usize = 16 << 30;

/// How often old rows and deleted projects are looked for.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3600);

/// What a server does besides answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ServeRole {
    /// Answers and does jobs
    All,
    /// Answers only; jobs wait for a `gleaner worker`
    Api,
}

/// A service that runs until it is stopped.
pub struct Service {
    /// Where it listens.
    pub address: SocketAddr,
    /// Codes that sign a page in once.
    pub login_codes: Arc<LoginCodes>,
    /// The admin token that stands in `<home>/admin.token`.
    pub admin: TokenId,
    stop: CancellationToken,
    parts: Vec<JoinHandle<()>>,
    engine: Option<EngineGuard>,
}

impl Service {
    /// Starts every part; returns once requests are answered.
    pub async fn start(house: &House, role: ServeRole) -> anyhow::Result<Self> {
        let config = &house.config;
        let stop = CancellationToken::new();
        let metrics = telemetry::start_metrics().context("the metrics recorder")?;
        let admin = ensure_admin_token(&house.store, config).await?;
        let key_path = config.home.join("secret.key");
        let key = blocking(move || SecretKey::load_or_create(&key_path)).await??;
        let scratch = config.home.join("scratch");
        tokio::fs::create_dir_all(&scratch)
            .await
            .with_context(|| format!("the folder {}", scratch.display()))?;
        let listener = TcpListener::bind(config.listen).await.with_context(|| {
            format!("can't listen on {}; is another server there, or set GLEANER_LISTEN", config.listen)
        })?;
        let address = listener.local_addr()?;

        let events = Events::start(house.store.clone(), stop.clone()).await?;
        let (wake, job_wake) = (SupervisorWake::new(), JobWake::new());
        let supervisor = Supervisor::new(house.store.clone(), events.clone(), wake.clone(), job_wake.clone());
        let mut parts =
            vec![tokio::spawn(supervisor.run(stop.clone())), spawn_retention(house, stop.clone())];
        let outside = GuardedClient::new(config.outbound_allow_private)?;
        let (engine, guard) = match role {
            ServeRole::All => {
                let (engine, guard) = start_engine(config).await?;
                let worker = Worker::new(
                    house.store.clone(),
                    house.blob.clone(),
                    engine.clone(),
                    events.clone(),
                    wake.clone(),
                    job_wake.clone(),
                    &config.home,
                )
                .reaching(outside.clone(), &config.import_roots);
                parts.push(tokio::spawn(worker.run(stop.clone())));
                (Some(engine), Some(guard))
            }
            ServeRole::Api => (None, None),
        };
        let sender = webhooks::Sender::new(house.store.clone(), events.clone(), key.clone(), outside.clone());
        parts.push(tokio::spawn(sender.run(stop.clone())));
        let inbox_wake = InboxWake::default();
        let inbox = Inbox::new(house.store.clone(), events.clone(), inbox_wake.clone(), wake.clone());
        parts.push(tokio::spawn(inbox.run(stop.clone())));
        let login_codes = Arc::new(LoginCodes::default());
        let state = AppState {
            store: house.store.clone(),
            blob: house.blob.clone(),
            engine,
            events,
            round_counts: RoundCounts::new(house.store.clone(), wake),
            rankings: RankingCache::default(),
            inbox_wake,
            public_url: config.public_url.as_str().into(),
            outside,
            job_wake,
            key,
            gathers: Arc::default(),
            login_codes: Arc::clone(&login_codes),
            import_roots: config.import_roots.iter().map(Into::into).collect(),
            scratch: Arc::new(scratch),
            upload_max_bytes: UPLOAD_MAX_BYTES,
            is_public_https: config.public_url.starts_with("https://"),
            metrics: Some(metrics),
            gauge_reading: http::metrics::GaugeReading::default(),
            metrics_open: config.metrics_open,
            pages: config.pages.as_deref().map(Into::into),
        };
        let stopped = stop.clone();
        parts.push(tokio::spawn(async move {
            if let Err(error) = http::serve(listener, state, stopped).await {
                tracing::error!(error = %error, "the HTTP server ended");
            }
        }));
        tracing::info!(http.address = %address, serve.role = ?role, "serving");
        Ok(Self { address, login_codes, admin, stop, parts, engine: guard })
    }

    /// A link to a page that signs in by itself, once.
    pub fn login_link(&self, public_url: &str, page: &str) -> std::io::Result<String> {
        let code = self.login_codes.mint(self.admin)?;
        Ok(format!("{public_url}/login#code={code}&next={page}"))
    }

    /// Keeps the house in order until `asked` completes.
    pub async fn run_until(
        &self,
        house: &House,
        asked: impl Future<Output = std::io::Result<()>>,
    ) -> std::io::Result<()> {
        tokio::select! {
            asked = asked => asked,
            () = house.keep_cluster_alive(&self.stop) => Ok(()),
        }
    }

    /// Stops every part and waits until all have ended.
    pub async fn stop(self) {
        self.stop.cancel();
        for part in self.parts {
            if let Err(error) = part.await {
                tracing::error!(error = %error, "a part of the service ended with a panic");
            }
        }
        // Joins the engine's threads, which end at their next mini-batch.
        let engine = self.engine;
        if let Err(error) = blocking(move || drop(engine)).await {
            tracing::error!(error = %error, "the engine ended with a panic");
        }
    }
}

/// Opens the device and starts the engine's threads; on CUDA that takes seconds.
pub(super) async fn start_engine(config: &Config) -> anyhow::Result<(Engine, EngineGuard)> {
    let engine = EngineConfig { device: config.device, threads: config.threads };
    blocking(move || Engine::start(&engine)).await?.context("the engine")
}

/// The admin token of this home: the configured one, the one in `<home>/admin.token`, or a new one that is written there (mode 0600).
async fn ensure_admin_token(store: &Store, config: &Config) -> anyhow::Result<TokenId> {
    let text = match &config.admin_token {
        Some(secret) => TokenText::parse(secret.expose())
            .context("GLEANER_ADMIN_TOKEN must be 1 to 200 printable characters without spaces")?,
        None => {
            let path = config.home.join("admin.token");
            blocking(move || read_or_mint(&path)).await??
        }
    };
    let mut connection = store.acquire().await?;
    if let Some(known) = store::token::find_by_hash(&mut connection, &text.hash()).await? {
        if known.role != Role::Admin || known.revoked_at.is_some() {
            anyhow::bail!(
                "the configured admin token is known as {} and {}; configure another",
                known.role.as_str(),
                "no longer in force"
            );
        }
        return Ok(known.id);
    }
    match store::token::insert(&mut connection, Role::Admin, "admin", &text.hash(), None, None).await {
        // Another server on the same home was a moment earlier.
        Err(error) if error.is_conflict_on("token_hash_key") => {
            let known = store::token::find_by_hash(&mut connection, &text.hash()).await?;
            known.map(|row| row.id).context("the admin token vanished while it was looked up")
        }
        other => Ok(other?),
    }
}

fn read_or_mint(path: &Path) -> anyhow::Result<TokenText> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::read_to_string(path) {
        Ok(text) => {
            TokenText::parse(text.trim()).with_context(|| format!("{} holds no token", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = TokenText::mint(Role::Admin)?;
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .with_context(|| format!("{} can't be written", path.display()))?;
            writeln!(file, "{}", text.expose())?;
            file.sync_all()?;
            tracing::info!(token.path = %path.display(), "an admin token was made");
            Ok(text)
        }
        Err(error) => Err(error).with_context(|| format!("{} can't be read", path.display())),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("a blocking task panicked")
}

/// Purges what is due, now and then; a failure is logged and tried again the next time.
fn spawn_retention(house: &House, stop: CancellationToken) -> JoinHandle<()> {
    let (store, blob) = (house.store.clone(), house.blob.clone());
    tokio::spawn(async move {
        let mut clock = tokio::time::interval(RETENTION_INTERVAL);
        while stop.run_until_cancelled(clock.tick()).await.is_some() {
            if let Err(error) = purge(&store, &blob).await {
                tracing::warn!(error = %format!("{error:#}"), "retention failed, it is tried again");
            }
        }
    })
}

async fn purge(store: &Store, blob: &crate::blob::Blob) -> anyhow::Result<()> {
    let mut connection = store.acquire().await?;
    store::retention::purge_idempotency(&mut connection).await?;
    store::retention::purge_deliveries(&mut connection).await?;
    let due = store::retention::list_purgeable(&mut connection).await?;
    for project in due {
        // The images first: a row that is gone leads to nothing that could be found again.
        blob.delete_all(&crate::blob::project_prefix(project)).await?;
        store::retention::purge_project(&mut connection, project).await?;
        tracing::info!(project.id = %project, "a deleted project was purged");
    }
    Ok(())
}
