//! Step 5 of Algorithm 1: what the downstream model thinks of every item of a shard, and of single images on request.

use candle_core::{Device, Tensor};

use super::inference::for_each_features;
use super::tables::{EmbeddingTable, ScoreRow, ScoreTable};
use super::{LearnerError, Result, StepHook, check};
use crate::domain::content_hash::ContentHash;
use crate::nn::NnError;
use crate::nn::backbone::{self, Mode};
use crate::nn::checkpoint::{Checkpoint, ModelKind};
use crate::nn::{head, loss::softmax};
use crate::vision::{Pool, Sample, View};

/// Rows of cached embeddings between two calls of the hook.
const ROWS_PER_STEP: usize = 8192;

/// Scores the items of `pool` under a downstream model; rows come in the pool's order, and an item's row doesn't depend on its shard.
///
/// # Errors
/// A pretext model, images of another shape, a stop, or a device that fails.
pub fn score(device: &Device, model: &Checkpoint, pool: &Pool, hook: &mut dyn StepHook) -> Result<ScoreTable> {
    check_downstream(model)?;
    let samples: Vec<Sample> = (0..pool.len()).map(Sample::upright).collect();
    let mut rows = Vec::with_capacity(pool.len());
    for_each_features(device, model, pool, &samples, hook, |samples, features| {
        let hashes = samples.iter().map(|sample| *pool.hash(sample.index));
        push_rows(model, hashes, features, &mut rows)
    })?;
    Ok(ScoreTable { run: model.manifest.run.clone(), rows })
}

/// Scores cached embeddings under a model of `fine_tune.mode = head`; equal to `score` on the images.
///
/// # Errors
/// A pretext model, embeddings of another length, or a stop.
pub fn score_embeddings(model: &Checkpoint, table: &EmbeddingTable, hook: &mut dyn StepHook) -> Result<ScoreTable> {
    check_downstream(model)?;
    let total = table.len().div_ceil(ROWS_PER_STEP) as u64;
    let mut rows = Vec::with_capacity(table.len());
    let width = table.feature_count.max(1);
    let pieces = table.hashes.chunks(ROWS_PER_STEP).zip(table.embeddings.chunks(ROWS_PER_STEP * width));
    for (done, (hashes, embeddings)) in (0..).zip(pieces) {
        check(hook.step(done, total))?;
        push_rows(model, hashes.iter().copied(), embeddings, &mut rows)?;
    }
    check(hook.step(total, total))?;
    Ok(ScoreTable { run: model.manifest.run.clone(), rows })
}

/// Class probabilities of single images, packed u8 rows of the model's shape; one distribution an image.
///
/// # Errors
/// A pretext model, a row of another length, or a device that fails.
pub fn predict(device: &Device, model: &Checkpoint, images: &[Vec<u8>]) -> Result<Vec<Vec<f32>>> {
    check_downstream(model)?;
    let shape = model.manifest.image;
    if let Some(wrong) = images.iter().find(|image| image.len() != shape.byte_count()) {
        let what = "bytes of a packed image";
        return Err(LearnerError::Length { what, expected: shape.byte_count(), found: wrong.len() });
    }
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let mut input = vec![0.0; images.len() * shape.byte_count()];
    for (image, out) in images.iter().zip(input.chunks_exact_mut(shape.byte_count())) {
        View::default().write(image, shape, &model.manifest.normalization, out);
    }
    let (size, channels) = (shape.size as usize, shape.channels as usize);
    let input = Tensor::from_vec(input, (images.len(), size, size, channels), device).map_err(NnError::from)?;
    let network = backbone::for_device(device, model.architecture());
    let (features, _) = network.features(&model.backbone, &input, Mode::Eval)?;
    let features = features.flatten_all().and_then(|f| f.to_vec1::<f32>()).map_err(NnError::from)?;
    let mut logits = head::logits_of(&features, &model.head).map_err(NnError::from)?;
    let rows = logits.chunks_exact_mut(model.manifest.class_count.max(1));
    Ok(rows
        .map(|row| {
            softmax(row);
            row.to_vec()
        })
        .collect())
}

fn push_rows(
    model: &Checkpoint,
    hashes: impl Iterator<Item = ContentHash>,
    features: &[f32],
    rows: &mut Vec<ScoreRow>,
) -> Result<()> {
    let mut logits = head::logits_of(features, &model.head).map_err(NnError::from)?;
    for (hash, row) in hashes.zip(logits.chunks_exact_mut(model.manifest.class_count.max(1))) {
        softmax(row);
        rows.push(ScoreRow::of(hash, row));
    }
    Ok(())
}

fn check_downstream(model: &Checkpoint) -> Result<()> {
    match model.manifest.kind {
        ModelKind::Downstream => Ok(()),
        ModelKind::Pretext => Err(LearnerError::Model("it is a pretext model, which knows no classes".to_owned())),
    }
}
