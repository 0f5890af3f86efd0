//! Rounds and their tasks, with the provenance of every query.

use std::collections::BTreeMap;

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::principal::Principal;
use crate::domain::ids::{ItemId, TaskId};
use crate::domain::project::ClassIndex;
use crate::domain::role::Role;
use crate::domain::round::RoundState;
use crate::domain::strategy::Strategy;
use crate::domain::task::{TaskSource, TaskState};
use crate::http::AppState;
use crate::http::auth::{Labeler, Operator, find_project};
use crate::http::extract::{List, Page, PageQuery, Path, Query};
use crate::http::problem::{ApiError, Problem};
use crate::http::v1::leases::SuggestionAnswer;
use crate::store;
use crate::store::class::ClassNames;
use crate::store::round::RoundSummary;
use crate::store::task::{Suggestion, TaskRow};

/// One round.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoundAnswer {
    /// 1, 2, …; 0 when imported labels made the seed batch needless.
    number: i32,
    state: RoundState,
    /// The rule that chose its batch.
    strategy: Strategy,
    /// The model that its labels trained.
    model_version: Option<i32>,
    /// Tasks of the round: the batch, and what comes on top of it.
    task_count: i64,
    /// Of these, settled or skipped ones.
    answered_count: i64,
    opened_at: DateTime<Utc>,
    closed_at: Option<DateTime<Utc>>,
    /// Accuracy on the test split of the model that its labels trained.
    test_accuracy: Option<f64>,
    /// Settled items of the batch by class; to labelers and tools only once the labels train, since gold could be told by it.
    class_counts: BTreeMap<String, i64>,
    /// Items of the batch by the class that the model guessed when it asked them; empty for a seed batch.
    predicted_class_counts: BTreeMap<String, i64>,
}

impl RoundAnswer {
    fn new(summary: RoundSummary, class_names: &ClassNames, caller: &Principal) -> Self {
        let RoundSummary { round, test_accuracy, predicted_class_counts, .. } = summary;
        let is_blind = round.state == RoundState::Labeling && !caller.has_role(Role::Operator);
        let class_counts = if is_blind { Vec::new() } else { summary.class_counts };
        let by_name = |counts: Vec<(ClassIndex, i64)>| {
            counts.into_iter().map(|(class, count)| (class_names.name(class), count)).collect()
        };
        Self {
            number: round.number,
            state: round.state,
            strategy: round.strategy,
            model_version: round.model_version,
            task_count: summary.task_count,
            answered_count: summary.answered_count,
            opened_at: round.opened_at,
            closed_at: round.closed_at,
            test_accuracy,
            class_counts: by_name(class_counts),
            predicted_class_counts: by_name(predicted_class_counts),
        }
    }
}

/// Lists rounds, the first one first.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/rounds",
    operation_id = "list_rounds",
    tag = "rounds",
    params(("project" = String, Path, description = "Name or id"), PageQuery),
    responses(
        (status = 200, description = "A page of rounds", body = Page<RoundAnswer>),
    ),
)]
pub async fn list_rounds(
    State(app): State<AppState>,
    caller: Labeler,
    Path(project): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<RoundAnswer>>, ApiError> {
    let limit = query.limit()?;
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let list = List::new("rounds", &[&row.id]);
    let after: Option<i32> = list.after(&query)?;
    let class_names = ClassNames::read(&mut connection, row.id).await?;
    let rounds = store::round::list(&mut connection, row.id, after.unwrap_or(-1), i64::from(limit)).await?;
    let page = Page::new(
        rounds,
        limit,
        |row| list.cursor(row.round.number),
        |row| RoundAnswer::new(row, &class_names, &caller),
    );
    Ok(axum::Json(page))
}

/// Shows one round.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/rounds/{number}",
    operation_id = "get_round",
    tag = "rounds",
    params(("project" = String, Path, description = "Name or id"), ("number" = i32, Path, description = "The round's number")),
    responses(
        (status = 200, description = "The round", body = RoundAnswer),
    ),
)]
pub async fn get_round(
    State(app): State<AppState>,
    caller: Labeler,
    Path((project, number)): Path<(String, i32)>,
) -> Result<axum::Json<RoundAnswer>, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let rounds = store::round::list(&mut connection, row.id, number.saturating_sub(1), 1).await?;
    let round = rounds.into_iter().find(|summary| summary.round.number == number);
    let round = round.ok_or_else(|| ApiError::not_found("round", number))?;
    let class_names = ClassNames::read(&mut connection, row.id).await?;
    Ok(axum::Json(RoundAnswer::new(round, &class_names, &caller)))
}

/// One task, with all that led to its being asked.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskAnswer {
    task: TaskId,
    item: ItemId,
    /// 0 was asked first.
    rank: i32,
    /// I(x) of Eq. 1, or what the strategy ranks by.
    score: Option<f64>,
    /// u(x).
    uncertainty: Option<f64>,
    /// v(x).
    pretext_loss: Option<f64>,
    /// Name of the strategy.
    strategy: String,
    /// The model that ranked it; null for the seed batch.
    model_version: Option<i32>,
    source: TaskSource,
    state: TaskState,
    /// The item's name.
    name: String,
    /// The class that the item has by now; null while it is unlabelled.
    class: Option<String>,
    /// What the model guessed when it asked, the best first; empty for a seed batch.
    suggestions: Vec<SuggestionAnswer>,
}

impl TaskAnswer {
    fn new(row: TaskRow, class_names: &ClassNames) -> Self {
        let guess = |guess: &Suggestion| SuggestionAnswer {
            class: class_names.name(guess.class),
            probability: f64::from(guess.probability),
        };
        Self {
            task: row.id,
            item: row.item,
            rank: row.rank,
            score: row.score,
            uncertainty: row.uncertainty,
            pretext_loss: row.pretext_loss,
            strategy: row.strategy,
            model_version: row.model_version,
            source: row.source,
            state: row.state,
            name: row.item_name,
            class: row.class.map(|class| class_names.name(class)),
            suggestions: row.suggestions.0.iter().map(guess).collect(),
        }
    }
}

/// Lists a round's tasks in the order of their rank, with their provenance.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/rounds/{number}/tasks",
    operation_id = "list_round_tasks",
    tag = "rounds",
    params(
        ("project" = String, Path, description = "Name or id"),
        ("number" = i32, Path, description = "The round's number"),
        PageQuery,
    ),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "A page of tasks", body = Page<TaskAnswer>),
    ),
)]
pub async fn list_round_tasks(
    State(app): State<AppState>,
    caller: Operator,
    Path((project, number)): Path<(String, i32)>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<Page<TaskAnswer>>, ApiError> {
    let limit = query.limit()?;
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    if store::round::find(&mut connection, row.id, number).await?.is_none() {
        return Err(ApiError::not_found("round", number));
    }
    let list = List::new("tasks", &[&row.id, &number]);
    let after: Option<TaskCursor> = list.after(&query)?;
    let tasks = store::task::list_of_round(
        &mut connection,
        row.id,
        number,
        after.map(|at| (at.rank, at.task)),
        i64::from(limit),
    )
    .await?;
    let class_names = ClassNames::read(&mut connection, row.id).await?;
    let cursor = |task: &TaskRow| list.cursor(format_args!("{}_{}", task.rank, task.id));
    Ok(axum::Json(Page::new(tasks, limit, cursor, |task| TaskAnswer::new(task, &class_names))))
}

/// Where a page of tasks begins: after this rank and task.
struct TaskCursor {
    rank: i32,
    task: TaskId,
}

impl std::str::FromStr for TaskCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (rank, task) = text.split_once('_').ok_or(())?;
        Ok(Self { rank: rank.parse().map_err(|_| ())?, task: task.parse().map_err(|_| ())? })
    }
}
