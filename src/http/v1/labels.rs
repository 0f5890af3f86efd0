//! Labels: submitted, undone, corrected.
//!
//! The answer to a submit comes after its labels are durable. What is kept under the idempotency key are the results alone: the round's
//! count beside them is read afresh, so that a replay doesn't show an old one.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::access::principal::Principal;
use crate::domain::field_error::FieldError;
use crate::domain::ids::{LabelId, ProjectId, TaskId};
use crate::domain::label::LabelOutcome;
use crate::domain::role::Role;
use crate::domain::round::RoundState;
use crate::http::AppState;
use crate::http::auth::Labeler;
use crate::http::extract::{Json, Path};
use crate::http::idempotency::Post;
use crate::http::problem::{ApiError, Problem, ProblemKind};
use crate::http::together::{Calls, Outcome, Shareable};
use crate::labeling::{self, Actor, Submission, SubmitResult};
use crate::store::project::ProjectRow;
use crate::store::round::RoundStanding;
use crate::store::{self, PgConnection, StoreError};
use crate::telemetry::metric;

/// The most labels of one submit.
const LABEL_COUNT_MAX: usize = 500;

/// Labels to be accepted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"labels": [{"task": "0190163d-8694-739b-aea5-966c26f8ad90", "class": "Coat", "attempt": 1, "seconds": 1.2}]}))]
pub struct SubmitLabels {
    /// 1 to 500 labels.
    labels: Vec<LabelInput>,
}

/// One label.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelInput {
    task: TaskId,
    /// The class's name.
    class: String,
    /// The attempt of the lease; without it the newest lease is meant.
    #[serde(default)]
    attempt: Option<i32>,
    /// How long the labeler looked, 0 to 86400.
    #[serde(default)]
    seconds: Option<f64>,
    /// The person, when a tool labels for several; 1 to 100 characters.
    #[serde(default)]
    labeler: Option<String>,
}

/// What became of the labels.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"results": [{"task": "0190163d-8694-739b-aea5-966c26f8ad90", "label": "0190163d-8694-739b-aea5-966c26f8ad90", "outcome": "accepted"}], "round": {"number": 3, "state": "labeling", "answered_count": 41, "task_count": 100}}))]
pub struct SubmitAnswer {
    /// One entry a label, in the order sent.
    results: Vec<ResultAnswer>,
    /// How far the round is now; null before the first.
    round: Option<RoundProgress>,
}

/// What became of one label.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResultAnswer {
    task: TaskId,
    /// The label's id, when there is one.
    label: Option<LabelId>,
    outcome: LabelOutcome,
}

impl From<SubmitResult> for ResultAnswer {
    fn from(result: SubmitResult) -> Self {
        Self { task: result.task, label: result.label, outcome: result.outcome }
    }
}

/// How far a round is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RoundProgress {
    number: i32,
    state: RoundState,
    /// Tasks of the round that are settled or skipped.
    answered_count: i64,
    /// Tasks of the round: the batch, and what comes on top of it.
    task_count: i64,
}

impl From<RoundStanding> for RoundProgress {
    fn from(standing: RoundStanding) -> Self {
        Self {
            number: standing.number,
            state: standing.state,
            answered_count: standing.answered_count,
            task_count: standing.task_count,
        }
    }
}

/// Accepts labels; each gets its own outcome.
#[utoipa::path(
    post,
    path = "/api/v1/projects/{project}/labels",
    operation_id = "submit_labels",
    tag = "labeling",
    params(("project" = String, Path, description = "Name or id")),
    request_body = SubmitLabels,
    responses(
        (status = 413, description = "More than 500 labels, or too many bytes", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "An outcome for each label", body = SubmitAnswer),
    ),
)]
pub async fn submit_labels(
    State(app): State<AppState>,
    caller: Labeler,
    Path(project): Path<String>,
    post: Post<SubmitLabels>,
) -> Result<Response, ApiError> {
    validate(&post.body.labels, caller.role)?;
    let submissions: Vec<Submission> =
        post.body.labels.into_iter().map(LabelInput::into_submission).collect();
    let shared = post.call.share(&app, &caller, &project, Submit(submissions)).await?;
    Ok(match shared.outcome {
        Outcome::Replay(replay) => {
            let round = app.round_counts.count(shared.project).await?.map(RoundProgress::from);
            replay.with(|answer| answer["round"] = json!(round)).into_response()
        }
        Outcome::Done(answer) => {
            for result in &answer.results {
                metrics::counter!(metric::LABELS_TOTAL, "outcome" => result.outcome.as_str()).increment(1);
            }
            axum::Json(answer).into_response()
        }
    })
}

/// A submit on its way.
pub struct Submit(Vec<Submission>);

impl Shareable for Submit {
    /// Without the round, which is read afresh.
    type Answer = SubmitAnswer;
    /// The rounds of the tasks that were closed, an entry a task.
    type Residue = Vec<i32>;

    fn calls(app: &AppState) -> &Calls<Self> {
        &app.gathers.submits
    }

    fn weight(&self) -> usize {
        self.0.len()
    }

    async fn carry_out(
        _app: &AppState,
        connection: &mut PgConnection,
        project: &ProjectRow,
        calls: &[(&Principal, &Self)],
        closed: &mut Vec<i32>,
    ) -> Result<Vec<SubmitAnswer>, StoreError> {
        let submits: Vec<_> = calls
            .iter()
            .map(|(caller, submit)| labeling::Submit { labeler: caller.token, submissions: &submit.0 })
            .collect();
        let submitted = labeling::submit_labels(connection, project, &submits).await?;
        closed.extend(submitted.closed);
        let answer = |results: Vec<SubmitResult>| SubmitAnswer {
            results: results.into_iter().map(ResultAnswer::from).collect(),
            round: None,
        };
        Ok(submitted.results.into_iter().map(answer).collect())
    }

    async fn after_commit(
        app: &AppState,
        project: ProjectId,
        closed: Vec<i32>,
        answers: Vec<&mut SubmitAnswer>,
    ) -> Result<(), StoreError> {
        let round = app.round_counts.count_on(project, &closed).await?.map(RoundProgress::from);
        answers.into_iter().for_each(|answer| answer.round.clone_from(&round));
        Ok(())
    }
}

impl LabelInput {
    fn into_submission(self) -> Submission {
        Submission {
            task: self.task,
            class: self.class,
            attempt: self.attempt,
            seconds: self.seconds,
            person: self.labeler,
        }
    }
}

fn validate(labels: &[LabelInput], role: Role) -> Result<(), ApiError> {
    if labels.is_empty() {
        return Err(ApiError::invalid_field("labels", format!("must be 1 to {LABEL_COUNT_MAX} labels")));
    }
    if labels.len() > LABEL_COUNT_MAX {
        let detail = format!(
            "a call takes at most {LABEL_COUNT_MAX} labels and this one has {}; send them in several calls",
            labels.len()
        );
        return Err(ApiError::new(ProblemKind::TooLarge, detail));
    }
    let mut errors = Vec::new();
    for (index, label) in labels.iter().enumerate() {
        if label.seconds.is_some_and(|seconds| !(0.0..=86_400.0).contains(&seconds)) {
            errors.push(FieldError::new(format!("labels.{index}.seconds"), "must be 0 to 86400"));
        }
        if let Some(person) = &label.labeler {
            errors.extend(validate_person(&format!("labels.{index}.labeler"), person, role).err());
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(errors)) }
}

/// Checks the name of a person for whom a tool labels.
pub fn validate_person(field: &str, person: &str, role: Role) -> Result<(), FieldError> {
    if role < Role::Tool {
        return Err(FieldError::new(field, "only a tool labels for other people"));
    }
    if !(1..=100).contains(&person.trim().chars().count()) || person.chars().any(char::is_control) {
        return Err(FieldError::new(field, "must be 1 to 100 characters without control characters"));
    }
    Ok(())
}

/// The class that is right.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"class": "Pullover"}))]
pub struct CorrectLabel {
    /// The class's name.
    class: String,
}

/// A label after a change.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"label": "0190163d-8694-739b-aea5-966c26f8ad90", "task": "0190163d-8694-739b-aea5-966c26f8ad90", "class": "Pullover"}))]
pub struct LabelAnswer {
    label: LabelId,
    task: TaskId,
    /// The class's name; null once undone.
    class: Option<String>,
}

/// Takes a label of one's own back; its task is open again and its cost refunded. 409 once its round trains.
#[utoipa::path(
    delete,
    path = "/api/v1/labels/{label}",
    operation_id = "undo_label",
    tag = "labeling",
    params(("label" = Uuid, Path, description = "The label's id")),
    responses(
        (status = 200, description = "The task that is open again", body = LabelAnswer),
    ),
)]
pub async fn undo_label(
    State(app): State<AppState>,
    caller: Labeler,
    Path(label): Path<LabelId>,
) -> Result<axum::Json<LabelAnswer>, ApiError> {
    let mut tx = app.store.begin().await?;
    let project = project_of_label(&mut tx, &caller, label).await?;
    let undone = labeling::undo_label(&mut tx, &project, actor(&caller), label).await?;
    app.commit(tx).await?;
    Ok(axum::Json(LabelAnswer { label, task: undone.task, class: None }))
}

/// Gives a label of one's own another class, at any time; it counts into the next training.
#[utoipa::path(
    put,
    path = "/api/v1/labels/{label}",
    operation_id = "correct_label",
    tag = "labeling",
    params(("label" = Uuid, Path, description = "The label's id")),
    request_body = CorrectLabel,
    responses(
        (status = 200, description = "The label as it is now", body = LabelAnswer),
    ),
)]
pub async fn correct_label(
    State(app): State<AppState>,
    caller: Labeler,
    Path(label): Path<LabelId>,
    Json(request): Json<CorrectLabel>,
) -> Result<axum::Json<LabelAnswer>, ApiError> {
    let mut tx = app.store.begin().await?;
    let project = project_of_label(&mut tx, &caller, label).await?;
    let corrected = labeling::correct_label(&mut tx, &project, actor(&caller), label, &request.class).await?;
    app.commit(tx).await?;
    Ok(axum::Json(LabelAnswer { label, task: corrected.task, class: Some(request.class) }))
}

/// The project of a label, if the caller may touch it.
async fn project_of_label(
    connection: &mut PgConnection,
    caller: &Labeler,
    label: LabelId,
) -> Result<ProjectRow, ApiError> {
    let row = match store::label::find(connection, label).await? {
        Some(row) => store::project::find(connection, row.project).await?,
        None => None,
    };
    row.filter(|row| caller.may_touch(row.id)).ok_or_else(|| ApiError::not_found("label", label))
}

fn actor(caller: &Labeler) -> Actor {
    Actor { token: caller.token, touches_all: caller.has_role(Role::Operator) }
}
