//! Publishing: keeps the engine's models at the versions that the database names.
//!
//! A training of this process publishes its model at once; this catches up after a restart and with what other machines have trained.

use std::time::Duration;

use super::BodyError;
use super::materials::Materials;
use crate::domain::ids::ProjectId;
use crate::engine::Engine;
use crate::store::Store;
use crate::store::project::{self, ProjectRow};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Projects read in one statement.
const PAGE_COUNT: i64 = 100;

/// Looks for newer versions for ever.
pub(super) async fn run(store: &Store, materials: &Materials, engine: &Engine) {
    let mut clock = tokio::time::interval(LOOK_INTERVAL);
    loop {
        clock.tick().await;
        if let Err(error) = look(store, materials, engine).await {
            tracing::warn!(error = %error, "published models can't be loaded and are tried again");
        }
    }
}

async fn look(store: &Store, materials: &Materials, engine: &Engine) -> Result<(), BodyError> {
    let mut after: Option<ProjectId> = None;
    loop {
        let page: Vec<ProjectRow> =
            project::list(&mut *store.acquire().await?, None, after, PAGE_COUNT).await?;
        for row in &page {
            let Some(version) = row.model_version else {
                continue;
            };
            if engine
                .published_version(row.id)
                .is_none_or(|known| known < version.unsigned_abs())
            {
                engine.publish(
                    row.id,
                    version.unsigned_abs(),
                    materials.model(row.id, version).await?,
                );
            }
        }
        match page.last() {
            Some(last) if page.len() as i64 == PAGE_COUNT => after = Some(last.id),
            _ => return Ok(()),
        }
    }
}
