//! Publishing: keeps the engine's models at the versions that the database names.
//!
//! A training of this process publishes its model as soon as it is committed; looking every few seconds catches up after a restart and with
//! what other machines have trained.

use std::time::Duration;

use crate::domain::ids::ProjectId;
use crate::engine::Engine;
use crate::store::model;
use crate::store::project::{self, ProjectRow};

use super::{BodyError, Workshop};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Projects read in one statement.
const PAGE_COUNT: i64 = 100;

/// Looks for newer versions for ever.
pub(super) async fn run(workshop: &Workshop, engine: &Engine) {
    let mut clock = tokio::time::interval(LOOK_INTERVAL);
    loop {
        clock.tick().await;
        if let Err(error) = look(workshop, engine).await {
            tracing::warn!(error = %error, "published models can't be looked up and are tried again");
        }
    }
}

/// Makes the checkpoint under `key` the one that answers a project's predictions; one that can't be read waits for the next look.
pub(super) async fn publish(
    workshop: &Workshop,
    engine: &Engine,
    project: ProjectId,
    version: i32,
    key: &str,
) {
    match workshop.materials.load_checkpoint(key).await {
        Ok(checkpoint) => engine.publish(project, version.unsigned_abs(), checkpoint),
        Err(error) => {
            tracing::warn!(project.id = %project, model.version = version, error = %error, "a model can't be published yet");
        }
    }
}

async fn look(workshop: &Workshop, engine: &Engine) -> Result<(), BodyError> {
    let mut after: Option<ProjectId> = None;
    loop {
        let page: Vec<ProjectRow> = {
            let mut connection = workshop.store.acquire().await?;
            project::list(&mut connection, None, after, PAGE_COUNT).await?
        };
        for row in &page {
            let Some(version) = row.model_version else {
                continue;
            };
            if engine.published_version(row.id).is_some_and(|known| known >= version.unsigned_abs()) {
                continue;
            }
            let found = {
                let mut connection = workshop.store.acquire().await?;
                model::find(&mut connection, row.id, version).await?
            };
            if let Some(found) = found {
                publish(workshop, engine, row.id, version, &found.checkpoint).await;
            }
        }
        match page.last() {
            Some(last) if page.len() as i64 == PAGE_COUNT => after = Some(last.id),
            _ => return Ok(()),
        }
    }
}
