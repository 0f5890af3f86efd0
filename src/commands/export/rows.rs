//! Tasks with their provenance, and predictions, as tables.

use anyhow::bail;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::read_project;
use super::target::Target;
use crate::commands::house::House;
use crate::commands::service::start_engine;
use crate::domain::ids::{ItemId, ProjectId, TaskId};
use crate::domain::task::{TaskSource, TaskState};
use crate::export::{Column, Form, Row, TableWriter};
use crate::store::class::ClassNames;
use crate::store::{item, task};
use crate::worker::{PredictedItem, predict_unlabeled};

/// Tasks that are read at once.
const PAGE: i64 = 2000;

/// A task as a line of the export; `class` is what its item is known to be by now.
#[derive(Serialize)]
struct TaskLine {
    task: TaskId,
    item: ItemId,
    name: String,
    class: Option<String>,
    round: i32,
    rank: i32,
    score: Option<f64>,
    uncertainty: Option<f64>,
    pretext_loss: Option<f64>,
    strategy: String,
    model_version: Option<i32>,
    source: TaskSource,
    state: TaskState,
    created_at: DateTime<Utc>,
    closed_at: Option<DateTime<Utc>>,
}

impl Row for TaskLine {
    const COLUMNS: &'static [Column] = &[
        Column::text("task"),
        Column::text("item"),
        Column::text("name"),
        Column::text("class"),
        Column::integer("round"),
        Column::integer("rank"),
        Column::number("score"),
        Column::number("uncertainty"),
        Column::number("pretext_loss"),
        Column::text("strategy"),
        Column::integer("model_version"),
        Column::text("source"),
        Column::text("state"),
        Column::time("created_at"),
        Column::time("closed_at"),
    ];
}

impl TaskLine {
    fn new(row: task::TaskRow, classes: &ClassNames) -> Self {
        Self {
            task: row.id,
            item: row.item,
            name: row.item_name,
            class: row.class.map(|class| classes.name(class)),
            round: row.round_number,
            rank: row.rank,
            score: row.score,
            uncertainty: row.uncertainty,
            pretext_loss: row.pretext_loss,
            strategy: row.strategy,
            model_version: row.model_version,
            source: row.source,
            state: row.state,
            created_at: row.created_at,
            closed_at: row.closed_at,
        }
    }
}

/// Writes every task of a project, the oldest first.
pub(super) async fn write_tasks(
    house: &House,
    project: ProjectId,
    form: Form,
    target: &mut Target,
) -> anyhow::Result<()> {
    let classes = ClassNames::read(&mut *house.store.acquire().await?, project).await?;
    let mut writer = TableWriter::<TaskLine>::new(form)?;
    let mut after = None;
    loop {
        let page = {
            let mut connection = house.store.acquire().await?;
            task::list_all(&mut connection, project, after, PAGE).await?
        };
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        let rows: Vec<TaskLine> = page.into_iter().map(|row| TaskLine::new(row, &classes)).collect();
        target.write(writer.write(&rows)?).await?;
    }
    target.write(writer.finish()?).await
}

#[derive(Serialize)]
struct PredictionRow {
    item: ItemId,
    name: String,
    class: String,
    probability: f32,
    entropy: f32,
    margin: f32,
    least_confidence: f32,
    model_version: i32,
}

impl Row for PredictionRow {
    const COLUMNS: &'static [Column] = &[
        Column::text("item"),
        Column::text("name"),
        Column::text("class"),
        Column::number("probability"),
        Column::number("entropy"),
        Column::number("margin"),
        Column::number("least_confidence"),
        Column::integer("model_version"),
    ];
}

/// Writes what the published model thinks of every pool item without a class.
pub(super) async fn write_predictions(
    house: &House,
    id: ProjectId,
    form: Form,
    target: &mut Target,
) -> anyhow::Result<()> {
    let (row, classes) = read_project(house, id).await?;
    let Some(model_version) = row.model_version else {
        bail!("the project has trained no model yet; its first one comes after the first batch")
    };
    let (engine, guard) = start_engine(&house.config).await?;
    let mut writer = TableWriter::<PredictionRow>::new(form)?;
    let mut shards = predict_unlabeled(&house.store, &house.blob, &engine, &row, model_version).await?;
    while let Some(items) = shards.next().await? {
        let ids: Vec<ItemId> = items.iter().map(|item| item.id).collect();
        let mut names = {
            let mut connection = house.store.acquire().await?;
            item::list_names(&mut connection, &ids).await?
        };
        let describe = |predicted: PredictedItem| {
            let (guess, probability) = predicted.score.top[0];
            Some(PredictionRow {
                item: predicted.id,
                name: names.remove(&predicted.id)?,
                class: classes.name(guess),
                probability,
                entropy: predicted.score.uncertainty.entropy,
                margin: predicted.score.uncertainty.margin,
                least_confidence: predicted.score.uncertainty.least_confidence,
                model_version,
            })
        };
        let rows: Vec<PredictionRow> = items.into_iter().filter_map(describe).collect();
        target.write(writer.write(&rows)?).await?;
    }
    drop(guard);
    target.write(writer.finish()?).await
}
