//! Step 5 of Algorithm 1: what the downstream model thinks of every item of a shard, and of single images on request.

use candle_core::{Device, Tensor};

use super::inference::for_each_row;
use super::tables::{EmbeddingTable, ScoreRow, ScoreTable};
use super::{LearnerError, Result, StepHook, check};
use crate::domain::content_hash::ContentHash;
use crate::nn::NnError;
use crate::nn::checkpoint::{Checkpoint, ModelKind};
use crate::nn::device::backbone_for;
use crate::nn::{head, loss::softmax};
use crate::vision::{Pool, Sample, View};

/// Rows of cached embeddings between two calls of the hook.
const ROWS_PER_STEP: usize = 8192;

/// Scores the items of `pool` under a downstream model; rows come in the pool's order, and an item's row doesn't depend on its shard.
///
/// # Errors
/// A pretext model, images of another shape, a stop, or a device that fails.
pub fn score(
    device: &Device,
    model: &Checkpoint,
    pool: &Pool,
    hook: &mut dyn StepHook,
) -> Result<ScoreTable> {
    check_downstream(model)?;
    let samples: Vec<Sample> = (0..pool.len()).map(Sample::upright).collect();
    let mut rows = Vec::with_capacity(pool.len());
    for_each_row(
        device,
        model,
        model.manifest.representation,
        pool,
        &samples,
        hook,
        |samples, described| {
            let hashes = samples.iter().map(|sample| *pool.hash(sample.index));
            push_rows(model, hashes, described, &mut rows)
        },
    )?;
    Ok(ScoreTable { run: model.manifest.run.clone(), rows })
}

/// Scores cached embeddings under a model of `fine_tune.mode = head`; equal to `score` on the images.
///
/// # Errors
/// A pretext model, embeddings of another length, or a stop.
pub fn score_embeddings(
    model: &Checkpoint,
    table: &EmbeddingTable,
    hook: &mut dyn StepHook,
) -> Result<ScoreTable> {
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
    let input =
        Tensor::from_vec(input, (images.len(), size, size, channels), device).map_err(NnError::from)?;
    let network = backbone_for(device, model.architecture());
    let described = network.represent(&model.backbone, &input, model.manifest.representation)?;
    let described = described.flatten_all().and_then(|d| d.to_vec1::<f32>()).map_err(NnError::from)?;
    let mut logits = head::logits_of(&described, &model.head).map_err(NnError::from)?;
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
    described: &[f32],
    rows: &mut Vec<ScoreRow>,
) -> Result<()> {
    let mut logits = head::logits_of(described, &model.head).map_err(NnError::from)?;
    for (hash, row) in hashes.zip(logits.chunks_exact_mut(model.manifest.class_count.max(1))) {
        softmax(row);
        rows.push(ScoreRow::of(hash, row));
    }
    Ok(())
}

fn check_downstream(model: &Checkpoint) -> Result<()> {
    match model.manifest.kind {
        ModelKind::Downstream => Ok(()),
        ModelKind::Pretext => {
            Err(LearnerError::Model("it is a pretext model, which knows no classes".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::project::ClassIndex;
    use crate::learner::fixture::{self, CLASS_COUNT, go_on};
    use crate::learner::{DropCheckpoints, LabeledItem, evaluate, fine_tune};

    fn model(pool: &Pool, labeled: &[LabeledItem]) -> Checkpoint {
        let settings = fixture::settings();
        let pretext = fixture::pretext(pool);
        fine_tune(
            &Device::Cpu,
            &pretext,
            pool,
            labeled,
            CLASS_COUNT,
            &settings,
            1,
            None,
            &mut DropCheckpoints,
            &mut go_on,
        )
        .unwrap()
    }

    #[test]
    fn scores_predictions_and_evaluation_agree() {
        let (pool, classes) = fixture::pool(40, "score");
        let model = model(&pool, &fixture::labeled(12, &classes));
        let table = score(&Device::Cpu, &model, &pool, &mut go_on).unwrap();
        let images: Vec<_> = (0..pool.len()).map(|index| pool.pixels(index).to_vec()).collect();
        let predicted = predict(&Device::Cpu, &model, &images).unwrap();
        for (row, probabilities) in table.rows.iter().zip(&predicted) {
            assert_eq!(*row, ScoreRow::of(row.hash, probabilities));
            assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
        let answers: Vec<ClassIndex> = table.rows.iter().map(ScoreRow::predicted).collect();
        let evaluation = evaluate(&Device::Cpu, &model, &pool, &answers, &mut go_on).unwrap();
        assert_eq!(evaluation.accuracy, 1.0);
    }

    #[test]
    fn images_of_another_size_and_pretext_models_are_refused() {
        let (pool, classes) = fixture::pool(20, "score");
        let model = model(&pool, &fixture::labeled(4, &classes));
        let error = predict(&Device::Cpu, &model, &[vec![0; 63]]).unwrap_err();
        assert!(error.to_string().contains("63 for 64"), "{error}");
        let pretext = fixture::pretext(&pool);
        assert!(matches!(score(&Device::Cpu, &pretext, &pool, &mut go_on), Err(LearnerError::Model(_))));
        assert!(matches!(predict(&Device::Cpu, &pretext, &[]), Err(LearnerError::Model(_))));
        let error = evaluate(&Device::Cpu, &model, &pool, &classes[1..], &mut go_on).unwrap_err();
        assert!(error.to_string().contains("19 for 20"), "{error}");
    }
}
