//! What jobs work on: pools of mapped segments, and models from the object store.
//!
//! Segments are immutable, so an open one is kept and shared by all jobs of the process. Opening and decoding run on blocking threads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::spawn_blocking;

use super::BodyError;
use crate::blob::{Blob, tensor_key};
use crate::domain::ids::{ProjectId, SegmentId};
use crate::domain::settings::ImageShape;
use crate::nn::checkpoint::Checkpoint;
use crate::store::pool::PoolItem;
use crate::store::project::{self, ProjectRow};
use crate::store::{Store, model, segment};
use crate::vision::{Pool, PoolRow, SegmentTensor};

/// Segments that are kept open at most; about 16 million items.
const SEGMENT_COUNT_MAX: usize = 4096;

/// Opens what jobs need; a handle to clone.
#[derive(Clone, Debug)]
pub(super) struct Materials {
    store: Store,
    blob: Blob,
    segments: Arc<Mutex<HashMap<SegmentId, Arc<SegmentTensor>>>>,
}

impl Materials {
    pub(super) fn new(store: Store, blob: Blob) -> Self {
        Self {
            store,
            blob,
            segments: Arc::default(),
        }
    }

    /// The project of a job.
    pub(super) async fn project(&self, id: ProjectId) -> Result<ProjectRow, BodyError> {
        let found = project::find(&mut *self.store.acquire().await?, id).await?;
        // A deleted project's jobs are handed out no more; this attempt learns it at its heartbeat.
        found.ok_or(BodyError::Stopped)
    }

    /// A pool of these items, in their order.
    pub(super) async fn pool(
        &self,
        project: &ProjectRow,
        items: &[PoolItem],
    ) -> Result<Arc<Pool>, BodyError> {
        let counts: HashMap<SegmentId, i32> =
            segment::list(&mut *self.store.acquire().await?, project.id)
                .await?
                .into_iter()
                .map(|row| (row.id, row.item_count))
                .collect();
        let mut places: HashMap<SegmentId, u32> = HashMap::new();
        let mut segments = Vec::new();
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            let place = match places.get(&item.segment) {
                Some(place) => *place,
                None => {
                    let item_count = counts.get(&item.segment).copied().unwrap_or_default();
                    segments.push(self.segment(project, item.segment, item_count).await?);
                    let place = places.len() as u32;
                    places.insert(item.segment, place);
                    place
                }
            };
            rows.push(PoolRow {
                segment: place,
                row: item.segment_row.unsigned_abs(),
                hash: item.hash,
            });
        }
        let pool = Pool::new(project.settings.image, segments, rows).map_err(failed)?;
        Ok(Arc::new(pool))
    }

    /// The pretext model of a project.
    pub(super) async fn pretext(&self, project: ProjectId) -> Result<Arc<Checkpoint>, BodyError> {
        let found = model::find_pretext(&mut *self.store.acquire().await?, project).await?;
        let row = found
            .ok_or_else(|| BodyError::Failed("the project has no pretext model".to_owned()))?;
        self.checkpoint(&row.checkpoint).await
    }

    /// A version of a project's downstream model.
    pub(super) async fn model(
        &self,
        project: ProjectId,
        version: i32,
    ) -> Result<Arc<Checkpoint>, BodyError> {
        let found = model::find(&mut *self.store.acquire().await?, project, version).await?;
        let row = found
            .ok_or_else(|| BodyError::Failed(format!("the project has no model {version}")))?;
        self.checkpoint(&row.checkpoint).await
    }

    async fn checkpoint(&self, key: &str) -> Result<Arc<Checkpoint>, BodyError> {
        let bytes = self.blob.get(key).await?;
        let decoded = spawn_blocking(move || Checkpoint::from_bytes(&bytes)).await?;
        Ok(Arc::new(decoded.map_err(failed)?))
    }

    async fn segment(
        &self,
        project: &ProjectRow,
        id: SegmentId,
        item_count: i32,
    ) -> Result<Arc<SegmentTensor>, BodyError> {
        if let Some(open) = self.lock().get(&id) {
            return Ok(Arc::clone(open));
        }
        let path = self.blob.local_path(&tensor_key(project.id, id)).await?;
        let shape: ImageShape = project.settings.image;
        let item_count = item_count.unsigned_abs() as usize;
        let opened = spawn_blocking(move || SegmentTensor::open(&path, shape, item_count)).await?;
        let tensor = Arc::new(opened.map_err(failed)?);
        let mut segments = self.lock();
        if segments.len() >= SEGMENT_COUNT_MAX {
            segments.clear();
        }
        segments.insert(id, Arc::clone(&tensor));
        Ok(tensor)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SegmentId, Arc<SegmentTensor>>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error of the learner's rooms, in words.
pub(super) fn failed(error: impl std::fmt::Display) -> BodyError {
    BodyError::Failed(error.to_string())
}
