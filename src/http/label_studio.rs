//! Label Studio's ML-backend protocol under `/label-studio/{project}/`, as its server 1.23 speaks it (docs/LABEL_STUDIO.md).
//!
//! A webhook is kept before it is answered and acted on after that, since Label Studio waits a second and never asks again. Predictions come from
//! what the last scoring stored. Of what is sent only what is needed is read; access tokens aren't.

use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::access::principal::Principal;
use crate::domain::ids::{ItemId, LabelId};
use crate::domain::label_studio::{Annotation, AnnotationOutcome, HeardTask, LabelConfig};
use crate::http::AppState;
use crate::http::auth::{BasicTool, Tool, find_project};
use crate::http::extract::{Path, parse_json, read_body};
use crate::http::problem::{ApiError, Problem};
use crate::label_studio::{
    Guess, Ranking, RankingError, ResultNames, choice_result, hear_annotations, hear_deletions, match_items,
};
use crate::store::class::ClassNames;
use crate::store::label_studio;
use crate::store::project::ProjectRow;

/// Annotations that became no label, listed at once.
const UNKEPT_COUNT: i64 = 200;

impl From<RankingError> for ApiError {
    fn from(error: RankingError) -> Self {
        match error {
            RankingError::Store(error) => error.into(),
            RankingError::Blob(error) => error.into(),
            RankingError::Stored(_) => Self::internal(error),
        }
    }
}

/// That the backend is there.
#[derive(Debug, Serialize, ToSchema)]
pub struct BackendHealth {
    #[schema(example = "UP")]
    status: &'static str,
    #[schema(example = "gleaner")]
    model_class: &'static str,
}

/// Says that the backend is there; needs no token and tells nothing of the project.
#[utoipa::path(
    get,
    path = "/label-studio/{project}/health",
    operation_id = "get_backend_health",
    tag = "label-studio",
    params(("project" = String, Path, description = "Name or id")),
    security(()),
    responses((status = 200, description = "It is", body = BackendHealth)),
)]
pub async fn get_backend_health(Path(_project): Path<String>) -> axum::Json<BackendHealth> {
    axum::Json(BackendHealth { status: "UP", model_class: "gleaner" })
}

/// What Label Studio sends before it asks for predictions.
#[derive(Debug, Deserialize, ToSchema)]
pub struct SetupBackend {
    /// The labelling config.
    schema: String,
}

/// The version that predictions will have.
#[derive(Debug, Serialize, ToSchema)]
pub struct BackendVersion {
    /// The model that ranked the batch under way, and its round.
    #[schema(example = "v3.4")]
    model_version: String,
}

/// Checks the labelling config and names the model's version. 422 unless it asks for one class of one image, with a choice for each class.
#[utoipa::path(
    post,
    path = "/label-studio/{project}/setup",
    operation_id = "setup_backend",
    tag = "label-studio",
    params(("project" = String, Path, description = "Name or id")),
    request_body = SetupBackend,
    security(("token" = []), ("basic" = [])),
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The version", body = BackendVersion),
    ),
)]
pub async fn setup_backend(
    State(app): State<AppState>,
    caller: BasicTool,
    Path(project): Path<String>,
    request: Request,
) -> Result<axum::Json<BackendVersion>, ApiError> {
    let body: SetupBackend = read_json(request, &app).await?;
    let (row, classes) = find(&app, &caller, &project).await?;
    let config = parse_config("schema", &body.schema)?;
    config.cover(classes.names()).map_err(|error| ApiError::invalid_field("schema", error.to_string()))?;
    let ranking = Ranking::read(&app.store, &app.blob, &app.rankings, &row).await?;
    Ok(axum::Json(BackendVersion { model_version: ranking.version().to_owned() }))
}

/// Tasks to predict.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PredictTasks {
    /// Any number, in a body of at most 32 MiB.
    tasks: Vec<PredictTask>,
    /// The labelling config.
    label_config: String,
}

/// A task to predict.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PredictTask {
    /// Holds the image's address, and `gleaner_item` where gleaner made the task.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

/// The predictions.
#[derive(Debug, Serialize, ToSchema)]
pub struct PredictAnswer {
    /// One a task, in their order.
    results: Vec<PredictionResult>,
}

/// The prediction of one task.
#[derive(Debug, Serialize, ToSchema)]
pub struct PredictionResult {
    /// The choice; empty where there is no guess.
    #[schema(value_type = Vec<Object>)]
    result: Vec<Value>,
    /// Place in the order of asking: 0 is asked next, 1 isn't asked.
    #[schema(minimum = 0, maximum = 1)]
    score: f64,
    model_version: String,
}

/// Predicts tasks from what the last scoring stored; a task whose image the project doesn't have gets an empty result in its place.
#[utoipa::path(
    post,
    path = "/label-studio/{project}/predict",
    operation_id = "predict_tasks",
    tag = "label-studio",
    params(("project" = String, Path, description = "Name or id")),
    request_body = PredictTasks,
    security(("token" = []), ("basic" = [])),
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "One prediction a task", body = PredictAnswer),
    ),
)]
pub async fn predict_tasks(
    State(app): State<AppState>,
    caller: BasicTool,
    Path(project): Path<String>,
    request: Request,
) -> Result<axum::Json<PredictAnswer>, ApiError> {
    let body: PredictTasks = read_json(request, &app).await?;
    let (row, classes) = find(&app, &caller, &project).await?;
    let config = parse_config("label_config", &body.label_config)?;
    let ranking = Ranking::read(&app.store, &app.blob, &app.rankings, &row).await?;
    let mut connection = app.store.acquire().await?;
    let shown: Vec<&Map<String, Value>> = body.tasks.iter().map(|task| &task.data).collect();
    let items = match_items(&mut connection, row.id, &shown, Some(&config.image_key)).await?;
    drop(connection);
    let names = ResultNames { from_name: config.from_name.clone(), to_name: config.to_name.clone() };
    let mut results = Vec::with_capacity(items.len());
    for (place, item) in items.iter().enumerate() {
        let nothing = Guess { class: None, score: 1.0 };
        let guess = item.as_ref().map_or(nothing, |item| ranking.guess(item));
        // A class without a choice can't be shown; setup names it.
        let result = guess.class.and_then(|(class, probability)| {
            let choice = config.choice(&classes.name(class))?.to_owned();
            Some(choice_result(&names, &format!("r{place}"), &choice, Some(probability)))
        });
        let result = result.into_iter().collect();
        let model_version = ranking.version().to_owned();
        results.push(PredictionResult { result, score: guess.score, model_version });
    }
    Ok(axum::Json(PredictAnswer { results }))
}

/// What happened in Label Studio.
#[derive(Debug, Deserialize, ToSchema)]
pub struct BackendEvent {
    /// Annotations created, updated and deleted, and `START_TRAINING`, mean something; others are passed over.
    #[schema(example = "ANNOTATION_CREATED")]
    action: String,
    #[serde(default, deserialize_with = "one_or_many")]
    #[schema(value_type = Option<Object>)]
    annotation: Vec<Annotation>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    annotations: Option<Vec<Annotation>>,
    #[serde(default, deserialize_with = "one_or_many")]
    #[schema(value_type = Option<Object>)]
    task: Vec<HeardTask>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    project: Option<BackendProject>,
}

/// What happened to many at once stands in a list under the same name.
fn one_or_many<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let parse = |value| serde_json::from_value(value).map_err(D::Error::custom);
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(Vec::new()),
        Value::Array(values) => values.into_iter().map(parse).collect(),
        one => Ok(vec![parse(one)?]),
    }
}

#[derive(Debug, Deserialize)]
struct BackendProject {
    id: i64,
    #[serde(default)]
    label_config: Option<String>,
}

/// That it was kept.
#[derive(Debug, Serialize, ToSchema)]
pub struct BackendReceipt {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Keeps an annotation before it answers; it becomes a label, a skip, a correction or an undo a moment later.
#[utoipa::path(
    post,
    path = "/label-studio/{project}/webhook",
    operation_id = "receive_annotation",
    tag = "label-studio",
    params(("project" = String, Path, description = "Name or id")),
    request_body = BackendEvent,
    security(("token" = []), ("basic" = [])),
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 201, description = "It is kept", body = BackendReceipt),
    ),
)]
pub async fn receive_annotation(
    State(app): State<AppState>,
    caller: BasicTool,
    Path(project): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let event: BackendEvent = read_json(request, &app).await?;
    // Label Studio hangs up after a second; what has come in is kept all the same.
    let keeping = tokio::spawn(async move { keep(&app, &caller, &project, event).await });
    keeping.await.map_err(ApiError::internal)??;
    Ok((StatusCode::CREATED, axum::Json(BackendReceipt { status: "ok" })).into_response())
}

async fn keep(
    app: &AppState,
    caller: &Principal,
    project: &str,
    event: BackendEvent,
) -> Result<(), ApiError> {
    let mut tx = app.store.begin().await?;
    let row = find_project(&mut tx, caller, project).await?;
    let BackendEvent { action, annotation, annotations, task, project } = event;
    let ls_project = project.as_ref().map_or(0, |project| project.id);
    let config = project.and_then(|project| project.label_config).and_then(|xml| {
        LabelConfig::parse(&xml)
            .inspect_err(|error| tracing::warn!(project.id = %row.id, error = %error, "a labelling config is passed over"))
            .ok()
    });
    match action.as_str() {
        "ANNOTATION_CREATED" | "ANNOTATIONS_CREATED" | "ANNOTATION_UPDATED" => {
            let pairs = pair(&annotation, &task)?;
            hear_annotations(&mut tx, row.id, caller.token, ls_project, &pairs, config.as_ref()).await?;
        }
        "ANNOTATIONS_DELETED" => {
            let ids: Vec<i64> = annotations.iter().flatten().map(|annotation| annotation.id).collect();
            hear_deletions(&mut tx, row.id, caller.token, ls_project, &ids, Utc::now()).await?;
        }
        "START_TRAINING" => app.round_counts.wake().wake(),
        _ => {}
    }
    tx.commit().await?;
    app.inbox_wake.wake();
    Ok(())
}

/// Each annotation with the task that it answers.
fn pair<'e>(
    annotations: &'e [Annotation],
    tasks: &'e [HeardTask],
) -> Result<Vec<(&'e Annotation, &'e HeardTask)>, ApiError> {
    let by_id: HashMap<i64, &HeardTask> = tasks.iter().filter_map(|task| Some((task.id?, task))).collect();
    let find = |annotation: &'e Annotation| match (tasks, annotation.task) {
        ([task], _) => Some((annotation, task)),
        (_, Some(id)) => by_id.get(&id).map(|task| (annotation, *task)),
        _ => None,
    };
    let pairs: Vec<_> = annotations.iter().filter_map(find).collect();
    if annotations.is_empty() || pairs.len() != annotations.len() {
        return Err(ApiError::invalid_field("annotation", "must come with its task"));
    }
    Ok(pairs)
}

/// The training that was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct BackendJob {
    job: String,
}

/// Looks whether the batch is complete, which is what starts a training; the old way of Label Studio to ask for one.
#[utoipa::path(
    post,
    path = "/label-studio/{project}/train",
    operation_id = "train_backend",
    tag = "label-studio",
    params(("project" = String, Path, description = "Name or id")),
    security(("token" = []), ("basic" = [])),
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 201, description = "What will train", body = BackendJob),
    ),
)]
pub async fn train_backend(
    State(app): State<AppState>,
    caller: BasicTool,
    Path(project): Path<String>,
) -> Result<Response, ApiError> {
    let (row, _) = find(&app, &caller, &project).await?;
    app.round_counts.wake().wake();
    let ranking = Ranking::read(&app.store, &app.blob, &app.rankings, &row).await?;
    let job = BackendJob { job: format!("{}-{}", row.name, ranking.version()) };
    Ok((StatusCode::CREATED, axum::Json(job)).into_response())
}

/// Annotations that are no label and why.
#[derive(Debug, Serialize, ToSchema)]
pub struct UnkeptAnnotations {
    /// The newest first, at most 200.
    items: Vec<UnkeptAnnotation>,
}

/// An annotation that is no label.
#[derive(Debug, Serialize, ToSchema)]
pub struct UnkeptAnnotation {
    /// The project's number in Label Studio.
    label_studio_project: i64,
    /// Its own number there.
    annotation: i64,
    class: Option<String>,
    item: Option<ItemId>,
    /// Why; null while it waits for its turn.
    outcome: Option<AnnotationOutcome>,
    label: Option<LabelId>,
    received_at: DateTime<Utc>,
}

/// Lists Label Studio's annotations that wait or could not become a label, with the reason.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/label-studio/annotations",
    operation_id = "list_unkept_annotations",
    tag = "label-studio",
    params(("project" = String, Path, description = "Name or id")),
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The annotations", body = UnkeptAnnotations),
    ),
)]
pub async fn list_unkept_annotations(
    State(app): State<AppState>,
    caller: Tool,
    Path(project): Path<String>,
) -> Result<axum::Json<UnkeptAnnotations>, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let rows = label_studio::list_unkept(&mut connection, row.id, UNKEPT_COUNT).await?;
    let items = rows.into_iter().map(|row| UnkeptAnnotation {
        label_studio_project: row.ls_project,
        annotation: row.annotation,
        class: row.class,
        item: row.item,
        outcome: row.outcome,
        label: row.label,
        received_at: row.received_at,
    });
    Ok(axum::Json(UnkeptAnnotations { items: items.collect() }))
}

async fn find(
    app: &AppState,
    caller: &Principal,
    project: &str,
) -> Result<(ProjectRow, ClassNames), ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, caller, project).await?;
    let classes = ClassNames::read(&mut connection, row.id).await?;
    Ok((row, classes))
}

fn parse_config(field: &str, xml: &str) -> Result<LabelConfig, ApiError> {
    LabelConfig::parse(xml).map_err(|error| ApiError::invalid_field(field, error.to_string()))
}

/// Reads a body of up to 32 MiB and parses it off the runtime's threads.
async fn read_json<T: DeserializeOwned + Send + 'static>(
    request: Request,
    app: &AppState,
) -> Result<T, ApiError> {
    let headers = request.headers().clone();
    let bytes: Bytes = read_body(request, app).await?;
    tokio::task::spawn_blocking(move || parse_json(&headers, &bytes)).await.map_err(ApiError::internal)?
}
