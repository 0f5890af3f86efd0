//! The export of labels, streamed: one page of rows at a time goes out as the client reads, so its size doesn't matter.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::ids::{ItemId, LabelId, ProjectId, TaskId};
use crate::domain::role::Role;
use crate::domain::task::TaskSource;
use crate::export::{ArrayWriter, Column, ExportError, Form, Row, TableWriter};
use crate::http::AppState;
use crate::http::auth::{Tool, find_project};
use crate::http::extract::{Path, Query};
use crate::http::problem::{ApiError, Problem};
use crate::label_studio::{ExportPages, Ranking, TaskWriter};
use crate::store::class::ClassNames;
use crate::store::label::ExportedLabel;
use crate::store::{self, Store};

/// Rows that are read at once.
const ROWS_PER_PAGE: i64 = 2000;

/// The form of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// One JSON array.
    #[default]
    Json,
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// The whole pool as tasks that Label Studio imports: labels as annotations, the model's guesses as predictions.
    #[serde(rename = "label-studio")]
    LabelStudio,
}

impl ExportFormat {
    fn media_type(self) -> &'static str {
        match self {
            Self::Json | Self::LabelStudio => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Jsonl => "application/x-ndjson",
        }
    }

    fn form(self) -> LabelForm {
        match self {
            Self::Json | Self::LabelStudio => LabelForm::Json,
            Self::Csv => LabelForm::Table(Form::Csv),
            Self::Jsonl => LabelForm::Table(Form::Jsonl),
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Json | Self::LabelStudio => "json",
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
        }
    }
}

/// How labels are exported.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// `json` when absent.
    #[serde(default)]
    format: ExportFormat,
}

/// One row of the export: an accepted label that wasn't undone.
#[derive(Debug, Serialize, ToSchema)]
pub struct LabelRowAnswer {
    label: LabelId,
    task: TaskId,
    item: ItemId,
    /// The item's name: its path inside its source.
    name: String,
    /// The class's name.
    class: String,
    /// The person's name, or the token's.
    labeler: String,
    round: i32,
    /// Why the item was asked.
    source: TaskSource,
    /// The model that ranked the item; null for the seed batch.
    model_version: Option<i32>,
    /// How long the labeler looked.
    seconds: Option<f64>,
    created_at: DateTime<Utc>,
}

/// One entry of the export as JSON: a label, or with `format=label-studio` a task of Label Studio.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ExportedEntry {
    /// A label.
    Label(LabelRowAnswer),
    /// A task with its annotations.
    LabelStudioTask(LabelStudioTaskAnswer),
}

/// A task in Label Studio's form.
#[derive(Serialize, ToSchema)]
pub struct LabelStudioTaskAnswer {
    /// What Label Studio shows.
    #[schema(value_type = Object)]
    data: serde_json::Value,
    /// What people said.
    #[schema(value_type = Vec<Object>)]
    annotations: Vec<serde_json::Value>,
    /// What the model guesses.
    #[schema(value_type = Vec<Object>)]
    predictions: Vec<serde_json::Value>,
}

impl Row for LabelRowAnswer {
    const COLUMNS: &'static [Column] = &[
        Column::text("label"),
        Column::text("task"),
        Column::text("item"),
        Column::text("name"),
        Column::text("class"),
        Column::text("labeler"),
        Column::integer("round"),
        Column::text("source"),
        Column::integer("model_version"),
        Column::number("seconds"),
        Column::time("created_at"),
    ];
}

impl LabelRowAnswer {
    fn new(row: ExportedLabel, blinded: bool) -> Self {
        Self {
            label: row.label,
            task: row.task,
            item: row.item,
            name: row.name,
            class: row.class,
            labeler: row.labeler,
            round: row.round,
            source: if blinded { row.source.blinded() } else { row.source },
            model_version: row.model_version,
            seconds: row.seconds,
            created_at: row.created_at,
        }
    }
}

/// Exports all labels of a project, the oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/labels",
    operation_id = "export_labels",
    tag = "results",
    params(("project" = String, Path, description = "Name or id"), ExportQuery),
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The labels", content(
            (Vec<ExportedEntry> = "application/json"),
            (String = "text/csv"),
            (String = "application/x-ndjson"),
        )),
    ),
)]
pub async fn export_labels(
    State(app): State<AppState>,
    caller: Tool,
    Path(project): Path<String>,
    Query(query): Query<ExportQuery>,
) -> Result<Response, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let classes = ClassNames::read(&mut connection, row.id).await?;
    drop(connection);
    let format = query.format;
    let disposition = format!("attachment; filename=\"{}-labels.{}\"", row.name, format.extension());
    let headers = [(CONTENT_TYPE, format.media_type().to_owned()), (CONTENT_DISPOSITION, disposition)];
    if format == ExportFormat::LabelStudio {
        let ranking = Ranking::read(&app.store, &app.blob, &app.rankings, &row).await?;
        let writer = task_writer(&app, classes);
        let pages = task_pages(ExportPages::new(app.store.clone(), row.id, ranking, writer));
        return Ok((headers, Body::from_stream(pages)).into_response());
    }
    let blinded = !caller.has_role(Role::Operator);
    let pages = label_pages(app.store.clone(), row.id, format.form(), blinded).map_err(ApiError::internal)?;
    Ok((headers, Body::from_stream(pages)).into_response())
}

fn task_writer(app: &AppState, classes: ClassNames) -> TaskWriter {
    TaskWriter { public_url: app.public_url.to_string(), key: app.key.clone(), classes, now: Utc::now() }
}

/// The pool as Label Studio's tasks, a stream of bytes; also what `gleaner export` writes.
pub fn task_pages(pages: ExportPages) -> impl Stream<Item = Result<Bytes, StreamError>> {
    stream::try_unfold(Some((pages, ArrayWriter::default())), |state| async move {
        let Some((mut pages, mut array)) = state else { return Ok(None) };
        Ok(Some(match pages.next().await? {
            Some(tasks) => (Bytes::from(array.write(&tasks)?), Some((pages, array))),
            None => (Bytes::from(array.finish()), None),
        }))
    })
}

/// Where an export stands.
enum Step {
    Page { after: Option<LabelId>, writer: LabelWriter },
    End(LabelWriter),
    Done,
}

/// The export of a project's labels as a stream of bytes; also what `gleaner export` writes.
///
/// `blinded`: gold and relabel tasks read as queries, as tools may know them.
///
/// # Errors
/// A table that can't be begun.
pub fn label_pages(
    store: Store,
    project: ProjectId,
    form: LabelForm,
    blinded: bool,
) -> Result<impl Stream<Item = Result<Bytes, StreamError>>, StreamError> {
    let writer = LabelWriter::new(form)?;
    Ok(stream::try_unfold(Step::Page { after: None, writer }, move |step| {
        let store = store.clone();
        async move {
            let (after, mut writer) = match step {
                Step::Done => return Ok(None),
                Step::End(writer) => return Ok(Some((Bytes::from(writer.finish()?), Step::Done))),
                Step::Page { after, writer } => (after, writer),
            };
            // A connection a page, so that a slow reader doesn't keep one.
            let mut connection = store.acquire().await?;
            let rows = store::label::list_for_export(&mut connection, project, after, ROWS_PER_PAGE).await?;
            drop(connection);
            let last = rows.last().map(|row| row.label).filter(|_| rows.len() as i64 == ROWS_PER_PAGE);
            let rows: Vec<_> = rows.into_iter().map(|row| LabelRowAnswer::new(row, blinded)).collect();
            let bytes = writer.write(&rows)?;
            let next = match last {
                Some(label) => Step::Page { after: Some(label), writer },
                None => Step::End(writer),
            };
            Ok(Some((Bytes::from(bytes), next)))
        }
    }))
}

/// What exported labels can be written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelForm {
    /// One JSON array.
    Json,
    /// A table.
    Table(Form),
}

/// Labels that are being written.
enum LabelWriter {
    Json(ArrayWriter),
    Table(TableWriter<LabelRowAnswer>),
}

impl LabelWriter {
    fn new(form: LabelForm) -> Result<Self, StreamError> {
        Ok(match form {
            LabelForm::Json => Self::Json(ArrayWriter::default()),
            LabelForm::Table(form) => Self::Table(TableWriter::new(form)?),
        })
    }

    fn write(&mut self, rows: &[LabelRowAnswer]) -> Result<Vec<u8>, StreamError> {
        match self {
            Self::Table(table) => Ok(table.write(rows)?),
            Self::Json(array) => Ok(array.write(rows)?),
        }
    }

    fn finish(self) -> Result<Vec<u8>, StreamError> {
        match self {
            Self::Table(table) => Ok(table.finish()?),
            Self::Json(array) => Ok(array.finish()),
        }
    }
}

/// Why a stream broke off; the client sees a body that ends too early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The database.
    #[error("the labels could not be read: {0}")]
    Store(#[from] store::StoreError),
    /// A page as a table.
    #[error(transparent)]
    Export(#[from] ExportError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(names: &[&str]) -> Vec<LabelRowAnswer> {
        let row = |name: &&str| LabelRowAnswer {
            label: LabelId::generate(),
            task: TaskId::generate(),
            item: ItemId::generate(),
            name: (*name).to_owned(),
            class: "T-shirt/top".to_owned(),
            labeler: "ana".to_owned(),
            round: 1,
            source: TaskSource::Query,
            model_version: None,
            seconds: Some(1.5),
            created_at: Utc::now(),
        };
        names.iter().map(row).collect()
    }

    fn write(form: LabelForm, pages: &[&[&str]]) -> Vec<u8> {
        let mut writer = LabelWriter::new(form).expect("a table");
        let mut bytes: Vec<u8> =
            pages.iter().flat_map(|names| writer.write(&rows(names)).expect("rows")).collect();
        bytes.extend(writer.finish().expect("an end"));
        bytes
    }

    #[test]
    fn two_pages_make_one_json_array_and_none_an_empty_one() {
        let text = write(LabelForm::Json, &[&["a", "b"], &["c"]]);
        assert_eq!(serde_json::from_slice::<Vec<serde_json::Value>>(&text).expect("an array").len(), 3);
        let none = write(LabelForm::Json, &[&[]]);
        assert!(serde_json::from_slice::<Vec<serde_json::Value>>(&none).expect("an array").is_empty());
    }

    #[test]
    fn every_form_has_the_columns_of_the_contract() {
        let csv = String::from_utf8(write(LabelForm::Table(Form::Csv), &[&["a,b"], &["c"]])).expect("UTF-8");
        assert_eq!(csv.lines().count(), 3);
        let header = "label,task,item,name,class,labeler,round,source,model_version,seconds,created_at";
        assert_eq!(csv.lines().next(), Some(header));
        assert!(csv.contains("\"a,b\",T-shirt/top,ana,1,query,,1.5,"), "{csv}");
        let fields = serde_json::to_value(&rows(&["a"])[0]).expect("JSON");
        let mut named: Vec<_> = LabelRowAnswer::COLUMNS.iter().map(|column| column.name).collect();
        named.sort_unstable();
        assert_eq!(fields.as_object().expect("an object").keys().collect::<Vec<_>>(), named);
        assert!(write(LabelForm::Table(Form::Parquet), &[&["a"]]).starts_with(b"PAR1"));
    }
}
