//! Projects: made, listed, shown, changed and deleted.
//!
//! The settings stand beside the name at one level, in requests and answers alike, so that what `GET` gives can be sent to `PATCH`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::domain::event::EventKind;
use crate::domain::project::{ProjectName, validate_class_names};
use crate::domain::settings::ProjectSettings;
use crate::http::AppState;
use crate::http::auth::{Labeler, Operator, find_project};
use crate::http::extract::{Json, List, Page, PageQuery, Path, Query, parse_value};
use crate::http::idempotency::{Begun, Post};
use crate::http::problem::{ApiError, Problem, ProblemKind};
use crate::http::project_answer::{ProjectAnswer, describe};
use crate::http::v1::classes::{
    ClassEntry, ClassInput, change_classes, new_classes, parse_class_changes, parse_classes, validate_looks,
};
use crate::store::project::ProjectRow;
use crate::store::{self, PgConnection};

/// A new project: name and classes are needed, every setting has a default.
#[derive(Debug, ToSchema)]
#[schema(example = json!({
    "name": "fashion-mnist",
    "classes": ["T-shirt/top", "Trouser", {"name": "Pullover", "colour": "#c0392b", "hotkey": "p"}],
    "image": {"size": 28, "channels": 1},
    "batch_size": 100,
    "budget": 1000,
}))]
pub struct CreateProject {
    /// 1 to 100 letters, digits, `.`, `_` or `-`; begins with a letter or digit and is no UUID.
    #[schema(value_type = String)]
    name: ProjectName,
    /// At least two, by name or with colour and hotkey; their order gives their indexes.
    #[schema(value_type = Vec<ClassEntry>)]
    classes: Vec<ClassInput>,
    /// Everything else.
    #[serde(flatten)]
    settings: ProjectSettings,
}

/// Makes a project.
#[utoipa::path(
    post,
    path = "/api/v1/projects",
    operation_id = "create_project",
    tag = "projects",
    request_body = CreateProject,
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 201, description = "The project", body = ProjectAnswer),
    ),
)]
pub async fn create_project(
    State(app): State<AppState>,
    caller: Operator,
    post: Post<Map<String, Value>>,
) -> Result<Response, ApiError> {
    if !caller.is_unscoped() {
        return Err(ApiError::new(
            ProblemKind::Forbidden,
            "your token is limited to its projects, so it can't make new ones",
        ));
    }
    let request = CreateProject::parse(post.body)?;
    let mut work = match post.call.begin(&app, caller.token).await? {
        Begun::Replay(replay) => return Ok(replay.into_response()),
        Begun::Work(work) => work,
    };
    let connection = work.connection();
    let row = match store::project::insert(connection, request.name.as_str(), &request.settings).await {
        Err(error) if error.is_conflict_on("project_name") => {
            return Err(ApiError::new(
                ProblemKind::NameTaken,
                format!("there is a project '{}' already", request.name),
            ));
        }
        inserted => inserted?,
    };
    store::class::insert_all(connection, row.id, &new_classes(&request.classes)).await?;
    store::event::append(connection, Some(row.id), EventKind::ProjectCreated, &json!({"name": row.name}))
        .await?;
    let answer = describe(connection, row).await?;
    work.finish(StatusCode::CREATED, &answer).await
}

/// Lists the projects that the token may touch, oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/projects",
    operation_id = "list_projects",
    tag = "projects",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of projects", body = Page<ProjectAnswer>),
    ),
)]
pub async fn list_projects(
    State(app): State<AppState>,
    caller: Labeler,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<ProjectAnswer>>, ApiError> {
    let list = List::new("projects", &[]);
    let (limit, after) = (query.limit()?, list.after(&query)?);
    let mut connection = app.store.acquire().await?;
    let rows =
        store::project::list(&mut connection, caller.projects.as_deref(), after, i64::from(limit)).await?;
    let mut answers = Vec::with_capacity(rows.len());
    for row in rows {
        answers.push(describe(&mut connection, row).await?);
    }
    Ok(axum::Json(Page::new(answers, limit, |answer| list.cursor(answer.id), |answer| answer)))
}

/// Shows a project: its state, the running job's progress, counts, money, classes and settings.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}",
    operation_id = "get_project",
    tag = "projects",
    params(("project" = String, Path, description = "Name or id")),
    responses(
        (status = 200, description = "The project", body = ProjectAnswer),
    ),
)]
pub async fn get_project(
    State(app): State<AppState>,
    caller: Labeler,
    Path(project): Path<String>,
) -> Result<axum::Json<ProjectAnswer>, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    Ok(axum::Json(describe(&mut connection, row).await?))
}

/// Changes settings, name or classes; absent fields stay as they are. Seed, image, backbone and pretext freeze at the start, the
/// image's shape with the first import. Other settings count from the next batch on.
#[utoipa::path(
    patch,
    path = "/api/v1/projects/{project}",
    operation_id = "change_project",
    tag = "projects",
    params(("project" = String, Path, description = "Name or id")),
    request_body(
        content = Value,
        description = "Any of `name`, the settings, and `classes` (ClassChanges). Objects are merged, strategies are replaced whole.",
        example = json!({"budget": 2000, "classes": {"add": ["Scarf"]}}),
    ),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The project as it is now", body = ProjectAnswer),
    ),
)]
pub async fn change_project(
    State(app): State<AppState>,
    caller: Operator,
    Path(project): Path<String>,
    Json(mut patch): Json<Map<String, Value>>,
) -> Result<axum::Json<ProjectAnswer>, ApiError> {
    let name = patch.remove("name").map(|name| parse_name(Some(name))).transpose()?;
    let classes = patch.remove("classes").map(parse_class_changes).transpose()?;
    let mut tx = app.store.begin().await?;
    let found = find_project(&mut tx, &caller, &project).await?;
    // Whoever makes slots or moves the project holds this lock, so settings don't change under its hands.
    store::round::lock_project(&mut tx, found.id).await?;
    let row = store::project::find(&mut tx, found.id)
        .await?
        .ok_or_else(|| ApiError::not_found("project", &project))?;
    let settings = merge_settings(&row.settings, patch)?;
    let mut changed = changed_fields(&row.settings, &settings)?;
    refuse_frozen(&mut tx, &row, &changed).await?;
    if let Some(name) = name.filter(|name| name.as_str() != row.name) {
        rename_project(&mut tx, &row, &name).await?;
        changed.push("name".to_owned());
    }
    if let Some(classes) = classes {
        change_classes(&mut tx, row.id, classes).await?;
        changed.push("classes".to_owned());
    }
    store::project::update_settings(&mut tx, row.id, &settings).await?;
    if !changed.is_empty() {
        store::event::append(&mut tx, Some(row.id), EventKind::ProjectChanged, &json!({"fields": changed}))
            .await?;
    }
    let row = store::project::find(&mut tx, row.id)
        .await?
        .ok_or_else(|| ApiError::not_found("project", &project))?;
    let answer = describe(&mut tx, row).await?;
    app.commit(tx).await?;
    Ok(axum::Json(answer))
}

/// The safety catch of a deletion.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// The project's name, written out.
    confirm: Option<String>,
}

/// Hides a project at once; it is purged after seven days.
#[utoipa::path(
    delete,
    path = "/api/v1/projects/{project}",
    operation_id = "delete_project",
    tag = "projects",
    params(("project" = String, Path, description = "Name or id"), DeleteQuery),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 204, description = "Hidden"),
    ),
)]
pub async fn delete_project(
    State(app): State<AppState>,
    caller: Operator,
    Path(project): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, ApiError> {
    let mut tx = app.store.begin().await?;
    let row = find_project(&mut tx, &caller, &project).await?;
    if query.confirm.as_deref() != Some(row.name.as_str()) {
        let detail =
            format!("write ?confirm={} to delete this project with its images, labels and models", row.name);
        return Err(ApiError::invalid_field("confirm", detail));
    }
    store::round::lock_project(&mut tx, row.id).await?;
    store::project::hide(&mut tx, row.id).await?;
    store::event::append(&mut tx, Some(row.id), EventKind::ProjectDeleted, &json!({})).await?;
    app.commit(tx).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl CreateProject {
    /// Parses and checks the whole request, so that one answer names every field that is wrong.
    fn parse(mut body: Map<String, Value>) -> Result<Self, ApiError> {
        let name = parse_name(body.remove("name"));
        let classes = parse_classes(body.remove("classes").unwrap_or(Value::Null), "classes")?;
        let settings: ProjectSettings = parse_value(Value::Object(body))?;
        let mut errors =
            validate_class_names(&classes.iter().map(|class| class.name.clone()).collect::<Vec<_>>());
        errors.extend(validate_looks(&classes));
        errors.extend(settings.validate());
        match name {
            Ok(name) if errors.is_empty() => Ok(Self { name, classes, settings }),
            Ok(_) => Err(ApiError::invalid(errors)),
            Err(error) => Err(error.with_fields(errors)),
        }
    }
}

fn parse_name(name: Option<Value>) -> Result<ProjectName, ApiError> {
    match name {
        Some(Value::String(text)) => {
            ProjectName::parse(&text).map_err(|error| ApiError::invalid(vec![error]))
        }
        Some(_) => Err(ApiError::invalid_field("name", "must be text")),
        None => Err(ApiError::invalid_field("name", "is missing")),
    }
}

/// Settings after a patch: objects are merged field by field; a strategy is replaced whole, since its kinds have different fields.
fn merge_settings(
    settings: &ProjectSettings,
    patch: Map<String, Value>,
) -> Result<ProjectSettings, ApiError> {
    let mut merged = to_object(settings)?;
    for (field, value) in patch {
        match (merged.get_mut(&field), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !field.ends_with("strategy") => {
                old.extend(new);
            }
            (_, value) => {
                merged.insert(field, value);
            }
        }
    }
    let settings: ProjectSettings = parse_value(Value::Object(merged))?;
    let errors = settings.validate();
    if errors.is_empty() { Ok(settings) } else { Err(ApiError::invalid(errors)) }
}

fn changed_fields(before: &ProjectSettings, after: &ProjectSettings) -> Result<Vec<String>, ApiError> {
    let (before, after) = (to_object(before)?, to_object(after)?);
    Ok(after
        .into_iter()
        .filter(|(field, value)| before.get(field) != Some(value))
        .map(|(field, _)| field)
        .collect())
}

fn to_object(settings: &ProjectSettings) -> Result<Map<String, Value>, ApiError> {
    match serde_json::to_value(settings).map_err(ApiError::internal)? {
        Value::Object(object) => Ok(object),
        _ => Err(ApiError::internal("settings are no JSON object")),
    }
}

async fn refuse_frozen(
    connection: &mut PgConnection,
    row: &ProjectRow,
    changed: &[String],
) -> Result<(), ApiError> {
    let frozen_at_start = ["seed", "image", "backbone", "pretext"];
    if row.state.is_started()
        && let Some(field) = changed.iter().find(|field| frozen_at_start.contains(&field.as_str()))
    {
        let detail =
            format!("{field} is frozen since the project was started; make a new project to try another");
        return Err(ApiError::new(ProblemKind::Frozen, detail));
    }
    if changed.iter().any(|field| field == "image") && store::import::exists(connection, row.id).await? {
        let detail =
            "image is frozen since images were imported in this shape; make a new project for another";
        return Err(ApiError::new(ProblemKind::Frozen, detail));
    }
    Ok(())
}

async fn rename_project(
    connection: &mut PgConnection,
    row: &ProjectRow,
    name: &ProjectName,
) -> Result<(), ApiError> {
    match store::project::rename(connection, row.id, name.as_str()).await {
        Err(error) if error.is_conflict_on("project_name") => {
            Err(ApiError::new(ProblemKind::NameTaken, format!("there is a project '{name}' already")))
        }
        renamed => Ok(renamed?),
    }
}
