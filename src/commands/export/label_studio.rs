//! The pool as Label Studio's tasks: with the guesses of the last ranking, or with what the published model thinks now.

use std::collections::HashMap;

use anyhow::bail;
use chrono::Utc;
use futures_util::{StreamExt, pin_mut};
use serde_json::Value;

use super::read_project;
use super::target::Target;
use crate::access::key::SecretKey;
use crate::commands::house::House;
use crate::commands::service::start_engine;
use crate::domain::ids::{ItemId, ProjectId};
use crate::domain::label_studio::ItemKey;
use crate::export::ArrayWriter;
use crate::http::v1::exports::task_pages;
use crate::label_studio::{ExportPages, Guess, Ranking, RankingCache, TaskWriter};
use crate::store::{label_studio, project};
use crate::worker::{PredictedItem, predict_unlabeled};

/// Writes the pool as tasks; with `predicts` only what has no label, judged by the published model.
pub(super) async fn write(
    house: &House,
    id: ProjectId,
    predicts: bool,
    target: &mut Target,
) -> anyhow::Result<()> {
    let (row, classes) = read_project(house, id).await?;
    let key_path = house.config.home.join("secret.key");
    let key = tokio::task::spawn_blocking(move || SecretKey::load_or_create(&key_path)).await??;
    let writer = TaskWriter { public_url: house.config.public_url.clone(), key, classes, now: Utc::now() };
    if predicts {
        return write_predictions(house, &row, &writer, target).await;
    }
    let ranking = Ranking::read(&house.store, &house.blob, &RankingCache::default(), &row).await?;
    let pages = task_pages(ExportPages::new(house.store.clone(), id, ranking, writer));
    pin_mut!(pages);
    while let Some(page) = pages.next().await {
        target.write(page?.to_vec()).await?;
    }
    Ok(())
}

async fn write_predictions(
    house: &House,
    row: &project::ProjectRow,
    writer: &TaskWriter,
    target: &mut Target,
) -> anyhow::Result<()> {
    let Some(model_version) = row.model_version else {
        bail!("the project has trained no model yet; its first one comes after the first batch")
    };
    let (engine, guard) = start_engine(&house.config).await?;
    let version = format!("v{model_version}");
    let mut array = ArrayWriter::default();
    let mut shards = predict_unlabeled(&house.store, &house.blob, &engine, row, model_version).await?;
    while let Some(items) = shards.next().await? {
        let keys: Vec<ItemKey> = items.iter().map(|item| ItemKey::Id(item.id)).collect();
        let found = {
            let mut connection = house.store.acquire().await?;
            label_studio::find_items(&mut connection, row.id, &keys).await?
        };
        let mut by_id: HashMap<ItemId, _> = found.into_iter().map(|item| (item.id, item)).collect();
        let task = |predicted: PredictedItem| {
            let score = 1.0 - f64::from(predicted.score.uncertainty.entropy).clamp(0.0, 1.0);
            let guess = Guess { class: Some(predicted.score.top[0]), score };
            Some(writer.task(&by_id.remove(&predicted.id)?, &[], &version, guess))
        };
        let tasks: Vec<Value> = items.into_iter().filter_map(task).collect();
        target.write(array.write(&tasks)?).await?;
    }
    drop(guard);
    target.write(array.finish()).await
}
