//! What jobs work on, opened once: segments as memory maps, checkpoints, tables of embeddings.
//!
//! Everything here is immutable under its key, so a kept copy can't be stale. Checkpoints and tables are large; only the most recently used ones
//! stay. Segments are address space, not memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::blob::{Blob, tensor_key};
use crate::domain::ids::{ProjectId, SegmentId};
use crate::domain::settings::ImageShape;
use crate::learner::EmbeddingTable;
use crate::nn::checkpoint::Checkpoint;
use crate::store::pool::{PoolItem, SegmentExtent};
use crate::vision::{Pool, PoolRow, SegmentTensor};

use super::BodyError;

/// Segments, checkpoints and tables that were opened; shared by the lanes of a worker.
pub(super) struct Materials {
    blob: Blob,
    segments: Mutex<HashMap<SegmentId, Arc<SegmentTensor>>>,
    checkpoints: Mutex<Recent<Arc<Checkpoint>>>,
    tables: Mutex<Recent<Arc<EmbeddingTable>>>,
}

/// The last few values that were used, by key; the least recently used goes first.
struct Recent<T> {
    capacity: usize,
    entries: Vec<(String, T)>,
}

impl<T: Clone> Recent<T> {
    fn new(capacity: usize) -> Self {
        Self { capacity, entries: Vec::new() }
    }

    fn find(&mut self, key: &str) -> Option<T> {
        let position = self.entries.iter().position(|(known, _)| known == key)?;
        let entry = self.entries.remove(position);
        self.entries.push(entry);
        self.entries.last().map(|(_, value)| value.clone())
    }

    fn keep(&mut self, key: &str, value: T) {
        self.entries.retain(|(known, _)| known != key);
        if self.entries.len() == self.capacity {
            self.entries.remove(0);
        }
        self.entries.push((key.to_owned(), value));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every change under these locks is one call, so a panic elsewhere can't have left it half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Materials {
    pub(super) fn new(blob: Blob) -> Self {
        Self {
            blob,
            segments: Mutex::new(HashMap::new()),
            checkpoints: Mutex::new(Recent::new(4)),
            // A shard of 16,384 items of 448 numbers is 28 MiB; a pool of 130,000 stays here whole.
            tables: Mutex::new(Recent::new(8)),
        }
    }

    /// A pool of `items`, in their order, over the project's segments.
    pub(super) async fn open_pool(
        &self,
        project: ProjectId,
        shape: ImageShape,
        extents: &[SegmentExtent],
        items: &[PoolItem],
    ) -> Result<Pool, BodyError> {
        let counts: HashMap<_, _> = extents.iter().map(|extent| (extent.id, extent.item_count)).collect();
        let mut positions: HashMap<SegmentId, u32> = HashMap::new();
        let mut segments = Vec::new();
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            let segment = match positions.get(&item.segment) {
                Some(position) => *position,
                None => {
                    let count = counts.get(&item.segment).copied().unwrap_or_default();
                    segments.push(self.open_segment(project, item.segment, shape, count).await?);
                    let position = u32::try_from(segments.len() - 1).map_err(BodyError::failed)?;
                    positions.insert(item.segment, position);
                    position
                }
            };
            let row = u32::try_from(item.segment_row).map_err(BodyError::failed)?;
            rows.push(PoolRow { segment, row, hash: item.hash });
        }
        Pool::new(shape, segments, rows).map_err(BodyError::failed)
    }

    async fn open_segment(
        &self,
        project: ProjectId,
        id: SegmentId,
        shape: ImageShape,
        item_count: i32,
    ) -> Result<Arc<SegmentTensor>, BodyError> {
        if let Some(known) = lock(&self.segments).get(&id) {
            return Ok(Arc::clone(known));
        }
        let path = self.blob.local_path(&tensor_key(project, id)).await?;
        let count = usize::try_from(item_count).map_err(BodyError::failed)?;
        let opened = tokio::task::spawn_blocking(move || SegmentTensor::open(&path, shape, count))
            .await
            .map_err(BodyError::failed)?
            .map_err(BodyError::failed)?;
        let opened = Arc::new(opened);
        lock(&self.segments).insert(id, Arc::clone(&opened));
        Ok(opened)
    }

    /// The checkpoint under a key.
    pub(super) async fn load_checkpoint(&self, key: &str) -> Result<Arc<Checkpoint>, BodyError> {
        if let Some(known) = lock(&self.checkpoints).find(key) {
            return Ok(known);
        }
        let bytes = self.blob.get(key).await?;
        let read = tokio::task::spawn_blocking(move || Checkpoint::from_bytes(&bytes))
            .await
            .map_err(BodyError::failed)?;
        let checkpoint =
            Arc::new(read.map_err(|error| BodyError::Failed(format!("the checkpoint {key}: {error}")))?);
        self.keep_checkpoint(key, &checkpoint);
        Ok(checkpoint)
    }

    /// Keeps a checkpoint that was just written under `key`.
    pub(super) fn keep_checkpoint(&self, key: &str, checkpoint: &Arc<Checkpoint>) {
        lock(&self.checkpoints).keep(key, Arc::clone(checkpoint));
    }

    /// The embedding table under a key.
    pub(super) async fn load_table(&self, key: &str) -> Result<Arc<EmbeddingTable>, BodyError> {
        if let Some(known) = lock(&self.tables).find(key) {
            return Ok(known);
        }
        let bytes = self.blob.get(key).await?;
        let read = tokio::task::spawn_blocking(move || EmbeddingTable::from_bytes(&bytes))
            .await
            .map_err(BodyError::failed)?;
        let table = Arc::new(read.map_err(|error| BodyError::Failed(format!("the table {key}: {error}")))?);
        lock(&self.tables).keep(key, Arc::clone(&table));
        Ok(table)
    }

    /// Several shards as one table, in the order of their keys; `None` when there is none.
    pub(super) async fn load_tables(&self, keys: &[String]) -> Result<Option<EmbeddingTable>, BodyError> {
        let mut joined: Option<EmbeddingTable> = None;
        for key in keys {
            let shard = self.load_table(key).await?;
            match &mut joined {
                None => joined = Some(EmbeddingTable::clone(&shard)),
                Some(table) => table.append(&shard).map_err(BodyError::failed)?,
            }
        }
        Ok(joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_value_goes_first() {
        let mut recent = Recent::new(2);
        recent.keep("a", 1);
        recent.keep("b", 2);
        assert_eq!(recent.find("a"), Some(1));
        recent.keep("c", 3);
        assert_eq!((recent.find("a"), recent.find("b"), recent.find("c")), (Some(1), None, Some(3)));
    }
}
