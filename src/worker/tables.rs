//! Tables of shards: storing them, and joining them again by content.

use std::collections::HashMap;

use tokio::task::spawn_blocking;

use super::BodyError;
use super::materials::failed;
use crate::blob::Blob;
use crate::domain::content_hash::ContentHash;
use crate::learner::{EmbeddingTable, ScoreTable};

/// The embedding tables of these keys as one; `None` without a key.
pub(super) async fn load_embeddings(
    blob: &Blob,
    keys: &[String],
) -> Result<Option<EmbeddingTable>, BodyError> {
    let mut whole: Option<EmbeddingTable> = None;
    for key in keys {
        let bytes = blob.get(key).await?;
        let shard = spawn_blocking(move || EmbeddingTable::from_bytes(&bytes))
            .await?
            .map_err(failed)?;
        match &mut whole {
            Some(table) => table.append(&shard).map_err(failed)?,
            None => whole = Some(shard),
        }
    }
    Ok(whole)
}

/// The score tables of these keys as one; `None` without a key.
pub(super) async fn load_scores(
    blob: &Blob,
    keys: &[String],
) -> Result<Option<ScoreTable>, BodyError> {
    let mut whole: Option<ScoreTable> = None;
    for key in keys {
        let bytes = blob.get(key).await?;
        let shard = spawn_blocking(move || ScoreTable::from_bytes(&bytes))
            .await?
            .map_err(failed)?;
        match &mut whole {
            Some(table) => table.append(&shard).map_err(failed)?,
            None => whole = Some(shard),
        }
    }
    Ok(whole)
}

/// Where each content stands in a table.
pub(super) fn index_by_hash(
    hashes: impl Iterator<Item = ContentHash>,
) -> HashMap<ContentHash, usize> {
    hashes.zip(0..).collect()
}

/// The rows of a table at these places.
pub(super) fn take_rows(table: &EmbeddingTable, places: &[usize]) -> EmbeddingTable {
    let mut taken = EmbeddingTable::new(
        table.run.clone(),
        table.feature_count,
        table.losses.is_some(),
    );
    for place in places {
        let loss = table.losses.as_ref().map_or(0.0, |losses| losses[*place]);
        taken.push(table.hashes[*place], loss, table.embedding(*place));
    }
    taken
}
