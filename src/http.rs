//! The REST API, its document, the pages, and what operators watch.
//!
//! `router` is the one list of routes; those of the API are registered by `routes!`, so route and document can't differ. Handlers run on
//! the tokio runtime and block it nowhere. The only room that knows axum.

pub mod auth;
mod errors;
pub mod extract;
pub mod figure;
pub mod gather;
pub mod health;
pub mod idempotency;
pub mod label_studio;
mod layers;
pub mod metrics;
pub mod openapi;
pub mod pages;
pub mod problem;
pub mod project_answer;
pub mod together;
pub mod v1;

use std::future::IntoFuture;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Extension, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::key::SecretKey;
use crate::access::login_code::LoginCodes;
use crate::blob::Blob;
use crate::engine::Engine;
use crate::events::Events;
use crate::label_studio::{InboxWake, RankingCache};
use crate::outbound::GuardedClient;
use crate::rounds::{JobWake, RoundCounts};
use crate::store::{Store, StoreError, Transaction};

pub use openapi::openapi;

/// Bytes of a JSON body at most.
const JSON_MAX_BYTES: usize = 4 << 20;

/// Bytes of the tasks that Label Studio sends at most: 20,000 are 10 MB.
const TASKS_MAX_BYTES: usize = 32 << 20;

/// Bytes of the images of one prediction, and of initial weights, at most.
const PREDICTION_MAX_BYTES: usize = 64 << 20;

/// What the handlers work with; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The database.
    pub store: Store,
    /// Images, segments and checkpoints.
    pub blob: Blob,
    /// The resident model; none in a process that only serves the API.
    pub engine: Option<Engine>,
    /// Numbered events, live and past.
    pub events: Events,
    /// How far rounds are, counted once for all who ask at the same moment.
    pub round_counts: RoundCounts,
    /// Where calls of the same moment meet.
    pub gathers: Arc<gather::Gathers>,
    /// Orders of asking that Label Studio asked for before.
    pub rankings: RankingCache,
    /// Wakes what acts on Label Studio's annotations.
    pub inbox_wake: InboxWake,
    /// Where people reach the service, without a slash at the end.
    pub public_url: Arc<str>,
    /// Calls addresses that users name.
    pub outside: GuardedClient,
    /// Wakes the workers of this process when a job was queued.
    pub job_wake: JobWake,
    /// Signs sessions and image addresses.
    pub key: SecretKey,
    /// One-time codes of links.
    pub login_codes: Arc<LoginCodes>,
    /// Folders that server-side imports may read.
    pub import_roots: Arc<[PathBuf]>,
    /// Folder for uploads on their way into the object store.
    pub scratch: Arc<PathBuf>,
    /// Bytes of one upload at most.
    pub upload_max_bytes: usize,
    /// Whether browsers reach the service by https, so that its cookie may say Secure.
    pub is_public_https: bool,
    /// Renders the process's measurements; none when nothing records them.
    pub metrics: Option<PrometheusHandle>,
    /// When the gauges of `/metrics` were last read.
    pub gauge_reading: metrics::GaugeReading,
    /// Whether `/metrics` needs no token.
    pub metrics_open: bool,
    /// Folder that pages are served from while somebody works on them; the compiled-in ones when none.
    pub pages: Option<Arc<Path>>,
}

impl AppState {
    /// Commits a transaction that holds events, and has them numbered at once.
    pub async fn commit(&self, tx: Transaction) -> Result<(), StoreError> {
        tx.commit().await?;
        self.events.nudge();
        Ok(())
    }
}

/// How long requests may take to end once the service stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Answers requests on `listener` until `stop` is cancelled; then lets those under way end, and event streams end at once.
pub async fn serve(listener: TcpListener, state: AppState, stop: CancellationToken) -> io::Result<()> {
    let service = router(state).layer(Extension(Stopping(stop.clone())));
    let server = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    tokio::select! {
        ended = server.into_future() => ended,
        () = too_long => Ok(()),
    }
}

/// Tells a handler of endless streams when to end them.
#[derive(Clone, Debug)]
pub struct Stopping(CancellationToken);

impl Stopping {
    /// Completes when the service stops.
    pub async fn stopped(self) {
        self.0.cancelled_owned().await;
    }
}

/// The whole service as one router.
pub fn router(state: AppState) -> Router {
    let upload_max_bytes = state.upload_max_bytes;
    let quick = limit_bodies(api().split_for_parts().0, JSON_MAX_BYTES);
    let predictions = limit_bodies(predictions().split_for_parts().0, PREDICTION_MAX_BYTES);
    let tasks = limit_bodies(task_predictions().split_for_parts().0, TASKS_MAX_BYTES);
    let uploads = limit_bodies(uploads().split_for_parts().0, upload_max_bytes);
    let open = Router::new()
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(pages::docs_page))
        .route("/problems/{slug}", get(pages::problem_page))
        .route("/", get(pages::index_page))
        .route("/login", get(pages::login_page))
        .route("/label/{project}", get(pages::label_page))
        .route("/projects/{project}", get(pages::project_page))
        .route("/access", get(pages::access_page))
        .route("/static/{*path}", get(pages::static_file));
    let routes = layers::with_timeout(quick.merge(predictions).merge(tasks).merge(open))
        .merge(layers::with_idle_timeout(uploads))
        .fallback(problem::unknown_path);
    layers::wrap(routes.with_state(state))
}

/// Refuses larger bodies, and lets the answer name the limit.
fn limit_bodies(routes: Router<AppState>, max_bytes: usize) -> Router<AppState> {
    routes.layer(DefaultBodyLimit::max(max_bytes)).layer(Extension(extract::BodyLimit(max_bytes)))
}

/// Routes that answer at once (streams begin at once).
fn api() -> OpenApiRouter<AppState> {
    use v1::{
        agreement, control, curve, events, exports, imports, items, labelers, labels, leases, me, models,
        overview, projects, rounds, tasks, tokens, webhooks,
    };
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(projects::create_project, projects::list_projects))
        .routes(routes!(projects::get_project, projects::change_project, projects::delete_project))
        .routes(routes!(control::start_project))
        .routes(routes!(control::pause_project))
        .routes(routes!(control::resume_project))
        .routes(routes!(control::finish_project))
        .routes(routes!(control::retry_project))
        .routes(routes!(imports::create_import, imports::list_imports))
        .routes(routes!(imports::get_import))
        .routes(routes!(items::list_items))
        .routes(routes!(items::get_item))
        .routes(routes!(items::get_item_image))
        .routes(routes!(rounds::list_rounds))
        .routes(routes!(rounds::get_round))
        .routes(routes!(rounds::list_round_tasks))
        .routes(routes!(overview::get_round_map))
        .routes(routes!(overview::get_round_scores))
        .routes(routes!(overview::draw_round_scores))
        .routes(routes!(leases::create_leases))
        .routes(routes!(leases::renew_leases))
        .routes(routes!(leases::release_leases))
        .routes(routes!(labels::submit_labels, exports::export_labels))
        .routes(routes!(labels::undo_label, labels::correct_label))
        .routes(routes!(tasks::skip_task))
        .routes(routes!(curve::get_curve))
        .routes(routes!(agreement::get_agreement))
        .routes(routes!(agreement::set_aside_labeler))
        .routes(routes!(curve::draw_curve))
        .routes(routes!(labelers::list_labelers))
        .routes(routes!(labelers::get_own_statistics))
        .routes(routes!(models::list_models))
        .routes(routes!(models::get_model_weights))
        .routes(routes!(models::get_model_confusion))
        .routes(routes!(models::draw_model_confusion))
        .routes(routes!(events::stream_project_events))
        .routes(routes!(events::stream_events))
        .routes(routes!(label_studio::get_backend_health))
        .routes(routes!(label_studio::setup_backend))
        .routes(routes!(label_studio::train_backend))
        .routes(routes!(label_studio::list_unkept_annotations))
        .routes(routes!(webhooks::create_webhook, webhooks::list_webhooks))
        .routes(routes!(webhooks::get_webhook, webhooks::change_webhook, webhooks::delete_webhook))
        .routes(routes!(webhooks::replace_webhook_secret))
        .routes(routes!(webhooks::test_webhook))
        .routes(routes!(webhooks::redeliver_events))
        .routes(routes!(webhooks::list_deliveries))
        .routes(routes!(me::get_me))
        .routes(routes!(me::create_session, me::delete_session))
        .routes(routes!(tokens::create_token, tokens::list_tokens))
        .routes(routes!(tokens::revoke_token))
        .routes(routes!(health::get_health))
        .routes(routes!(health::get_readiness))
        .routes(routes!(metrics::get_metrics))
}

/// Routes whose bodies are a whole selection of Label Studio.
fn task_predictions() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(label_studio::predict_tasks))
        .routes(routes!(label_studio::receive_annotation))
}

/// Routes whose bodies are images or weights that are held in memory.
fn predictions() -> OpenApiRouter<AppState> {
    use v1::{initial_weights, predictions};
    OpenApiRouter::default().routes(routes!(predictions::create_predictions)).routes(routes!(
        initial_weights::get_initial_weights,
        initial_weights::replace_initial_weights,
        initial_weights::delete_initial_weights
    ))
}

/// Routes whose bodies are streamed: larger, and without the timeout of an answer.
fn uploads() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(v1::uploads::upload_images))
}
