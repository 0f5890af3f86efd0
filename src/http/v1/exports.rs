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
use crate::http::AppState;
use crate::http::auth::{Tool, find_project};
use crate::http::extract::{Path, Query};
use crate::http::problem::{ApiError, Problem};
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
}

impl ExportFormat {
    fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Jsonl => "application/x-ndjson",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
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
            (Vec<LabelRowAnswer> = "application/json"),
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
    drop(connection);
    let format = query.format;
    let disposition = format!("attachment; filename=\"{}-labels.{}\"", row.name, format.extension());
    let headers = [(CONTENT_TYPE, format.media_type().to_owned()), (CONTENT_DISPOSITION, disposition)];
    Ok((
        headers,
        Body::from_stream(label_pages(app.store.clone(), row.id, format, !caller.has_role(Role::Operator))),
    )
        .into_response())
}

/// Where an export stands.
enum Step {
    Page { after: Option<LabelId> },
    End,
    Done,
}

/// The export of a project's labels as a stream of bytes; also what `gleaner export` writes.
///
/// `blinded`: gold and relabel tasks read as queries, as tools may know them.
pub fn label_pages(
    store: Store,
    project: ProjectId,
    format: ExportFormat,
    blinded: bool,
) -> impl Stream<Item = Result<Bytes, ExportError>> {
    stream::try_unfold(Step::Page { after: None }, move |step| {
        let store = store.clone();
        async move {
            let after = match step {
                Step::Done => return Ok(None),
                Step::End => {
                    let end = if format == ExportFormat::Json { "]\n" } else { "" };
                    return Ok(Some((Bytes::from_static(end.as_bytes()), Step::Done)));
                }
                Step::Page { after } => after,
            };
            // A connection a page, so that a slow reader doesn't keep one.
            let mut connection = store.acquire().await?;
            let rows = store::label::list_for_export(&mut connection, project, after, ROWS_PER_PAGE).await?;
            drop(connection);
            let next = match rows.last() {
                Some(last) if rows.len() as i64 == ROWS_PER_PAGE => Step::Page { after: Some(last.label) },
                _ => Step::End,
            };
            let text = write_rows(
                format,
                after.is_none(),
                rows.into_iter().map(|row| LabelRowAnswer::new(row, blinded)),
            )?;
            Ok(Some((Bytes::from(text), next)))
        }
    })
}

/// One page of rows; the first one begins the document.
fn write_rows(
    format: ExportFormat,
    first: bool,
    rows: impl Iterator<Item = LabelRowAnswer>,
) -> Result<Vec<u8>, ExportError> {
    let mut text = Vec::new();
    match format {
        ExportFormat::Csv => {
            let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(&mut text);
            if first {
                writer.write_record([
                    "label",
                    "task",
                    "item",
                    "name",
                    "class",
                    "labeler",
                    "round",
                    "source",
                    "model_version",
                    "seconds",
                    "created_at",
                ])?;
            }
            for row in rows {
                writer.serialize(row)?;
            }
            writer.flush()?;
            drop(writer);
        }
        ExportFormat::Json | ExportFormat::Jsonl => {
            let array = format == ExportFormat::Json;
            for (index, row) in rows.enumerate() {
                match (array, first && index == 0) {
                    (true, true) => text.extend_from_slice(b"[\n"),
                    (true, false) => text.extend_from_slice(b",\n"),
                    (false, _) => {}
                }
                serde_json::to_writer(&mut text, &row)?;
                if !array {
                    text.push(b'\n');
                }
            }
            if array && first && text.is_empty() {
                text.push(b'[');
            }
        }
    }
    Ok(text)
}

/// Why a stream broke off; the client sees a body that ends too early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database.
    #[error("the labels could not be read: {0}")]
    Store(#[from] store::StoreError),
    /// A row as CSV.
    #[error("a row could not be written: {0}")]
    Csv(#[from] csv::Error),
    /// A row as JSON.
    #[error("a row could not be written: {0}")]
    Json(#[from] serde_json::Error),
    /// The buffer of a page.
    #[error("a row could not be written: {0}")]
    Io(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> LabelRowAnswer {
        LabelRowAnswer {
            label: LabelId::generate(),
            task: TaskId::generate(),
            item: ItemId::generate(),
            name: name.to_owned(),
            class: "T-shirt/top".to_owned(),
            labeler: "ana".to_owned(),
            round: 1,
            source: TaskSource::Query,
            model_version: None,
            seconds: Some(1.5),
            created_at: Utc::now(),
        }
    }

    fn write(format: ExportFormat, first: bool, names: &[&str]) -> String {
        let text = write_rows(format, first, names.iter().map(|name| row(name))).expect("rows");
        String::from_utf8(text).expect("UTF-8")
    }

    #[test]
    fn two_pages_make_one_json_array() {
        let text =
            write(ExportFormat::Json, true, &["a", "b"]) + &write(ExportFormat::Json, false, &["c"]) + "]\n";
        let rows: Vec<serde_json::Value> = serde_json::from_str(&text).expect("an array");
        assert_eq!(rows.len(), 3);
        let none: Vec<serde_json::Value> =
            serde_json::from_str(&(write(ExportFormat::Json, true, &[]) + "]")).expect("empty");
        assert!(none.is_empty());
    }

    #[test]
    fn csv_has_one_header_and_quotes_what_needs_it() {
        let text = write(ExportFormat::Csv, true, &["a,b"]) + &write(ExportFormat::Csv, false, &["c"]);
        assert_eq!(text.lines().count(), 3);
        assert!(text.starts_with("label,task,item,name,class"));
        assert!(text.contains("\"a,b\",T-shirt/top,ana,1,query,,1.5,"), "{text}");
    }
}
