//! What a model thinks of everything that has no label yet: computed on request, shard by shard, for `gleaner export`.
//!
//! The tables of a round's scoring wouldn't do: they belong to the round's model and are missing after the last one.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::BodyError;
use super::materials::Materials;
use crate::blob::Blob;
use crate::domain::ids::ItemId;
use crate::domain::strategy::ScoreScope;
use crate::engine::{Engine, Outcome, Work};
use crate::learner::ScoreRow;
use crate::nn::checkpoint::Checkpoint;
use crate::store::pool::{self, SegmentExtent};
use crate::store::project::ProjectRow;
use crate::store::{Store, model};

/// An unlabelled item with the model's opinion.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictedItem {
    /// The item.
    pub id: ItemId,
    /// The opinion.
    pub score: ScoreRow,
}

/// The predictions of a project, one segment of the pool after another.
pub struct PredictionShards<'p> {
    store: &'p Store,
    engine: &'p Engine,
    project: &'p ProjectRow,
    materials: Materials,
    checkpoint: Arc<Checkpoint>,
    extents: Vec<SegmentExtent>,
    next: usize,
}

/// Begins to predict every pool item without a class by the model of this version.
///
/// # Errors
/// A version that doesn't exist, or weights that can't be read.
pub async fn predict_unlabeled<'p>(
    store: &'p Store,
    blob: &Blob,
    engine: &'p Engine,
    project: &'p ProjectRow,
    model_version: i32,
) -> Result<PredictionShards<'p>, BodyError> {
    let (extents, found) = {
        let mut connection = store.acquire().await?;
        let extents = pool::list_segments(&mut connection, project.id).await?;
        (extents, model::find(&mut connection, project.id, model_version).await?)
    };
    let missing = || BodyError::Failed(format!("the project has no model version {model_version}"));
    let materials = Materials::new(blob.clone());
    let checkpoint = materials.load_checkpoint(&found.ok_or_else(missing)?.checkpoint).await?;
    Ok(PredictionShards { store, engine, project, materials, checkpoint, extents, next: 0 })
}

impl PredictionShards<'_> {
    /// The next segment's unlabelled items, maybe none; `None` after the last segment.
    ///
    /// # Errors
    /// The database, the object store or the engine.
    pub async fn next(&mut self) -> Result<Option<Vec<PredictedItem>>, BodyError> {
        let Some(extent) = self.extents.get(self.next) else { return Ok(None) };
        self.next += 1;
        let items = {
            let mut connection = self.store.acquire().await?;
            let number = extent.number;
            pool::list_unlabeled(&mut connection, self.project.id, i32::MAX, number, number).await?
        };
        if items.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let shape = self.project.settings.image;
        let pool = self.materials.open_pool(self.project.id, shape, &self.extents, &items).await?;
        let work = Work::Score {
            model: Arc::clone(&self.checkpoint),
            pretext: None,
            pool: Arc::new(pool),
            scope: ScoreScope::default(),
        };
        let never_stop = |_: u64, _: u64| ControlFlow::Continue(());
        let Outcome::Scores(table) = self.engine.run(self.project.id, work, never_stop).await? else {
            return Err(BodyError::failed("the engine answered a scoring with something else"));
        };
        let pairs = items.iter().zip(table.rows);
        Ok(Some(pairs.map(|(item, score)| PredictedItem { id: item.id, score }).collect()))
    }
}
