//! Step 5 of Algorithm 1: what the downstream model thinks of every item of a shard, and of single images on request.

use candle_core::{Device, Tensor};

use super::dropout::MaskedHeads;
use super::inference::for_each_item;
use super::tables::{Column, EmbeddingTable, ScoreColumns, ScoreRow, ScoreTable};
use super::{LearnerError, Result, StepHook, check};
use crate::domain::content_hash::ContentHash;
use crate::domain::strategy::ScoreScope;
use crate::nn::NnError;
use crate::nn::checkpoint::{Checkpoint, ModelKind};
use crate::nn::device::backbone_for;
use crate::nn::{head, loss::softmax};
use crate::vision::{Pool, View};

/// Rows of cached embeddings between two calls of the hook.
const ROWS_PER_STEP: usize = 8192;

/// Scores the items of `pool` under a downstream model; rows come in the pool's order, and an item's row doesn't depend on its shard.
///
/// `pretext` is f′, whose head is needed for `scope.losses`.
///
/// # Errors
/// A pretext model, images of another shape, losses without f′, a stop, or a device that fails.
pub fn score(
    device: &Device,
    model: &Checkpoint,
    pretext: Option<&Checkpoint>,
    pool: &Pool,
    scope: &ScoreScope,
    hook: &mut dyn StepHook,
) -> Result<ScoreTable> {
    let mut scorer = Scorer::new(model, scope)?;
    if scope.losses && pretext.is_none() {
        return Err(LearnerError::Model("it has no head of the pretext task to take losses by".to_owned()));
    }
    let pretext = pretext.filter(|_| scope.losses);
    for_each_item(device, model, pretext, pool, hook, |samples, features, losses| {
        let hashes = samples.iter().map(|sample| *pool.hash(sample.index));
        scorer.push(hashes, features, losses)
    })?;
    Ok(scorer.table)
}

/// Scores cached embeddings under a model of `fine_tune.mode = head`; equal to `score` on the images.
///
/// Its backbone is the pretext model's, and so are the losses of its items: they stand in their own table and not here.
///
/// # Errors
/// A pretext model, embeddings of another length, or a stop.
pub fn score_embeddings(
    model: &Checkpoint,
    table: &EmbeddingTable,
    scope: &ScoreScope,
    hook: &mut dyn StepHook,
) -> Result<ScoreTable> {
    let mut scorer = Scorer::new(model, &ScoreScope { losses: false, ..*scope })?;
    let total = table.len().div_ceil(ROWS_PER_STEP) as u64;
    let width = table.feature_count.max(1);
    let pieces = table.hashes.chunks(ROWS_PER_STEP).zip(table.embeddings.chunks(ROWS_PER_STEP * width));
    for (done, (hashes, embeddings)) in (0..).zip(pieces) {
        check(hook.step(done, total))?;
        scorer.push(hashes.iter().copied(), embeddings, &[])?;
    }
    check(hook.step(total, total))?;
    Ok(scorer.table)
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

/// Judges features batch after batch.
struct Scorer<'m> {
    model: &'m Checkpoint,
    dropout: Option<MaskedHeads>,
    table: ScoreTable,
}

impl<'m> Scorer<'m> {
    fn new(model: &'m Checkpoint, scope: &ScoreScope) -> Result<Self> {
        check_downstream(model)?;
        let class_count = model.manifest.class_count.max(1);
        let width = model.architecture().width(model.manifest.representation);
        let columns = ScoreColumns {
            probabilities: scope.probabilities.then(|| Column::new(class_count)),
            features: scope.features.then(|| Column::new(width)),
            losses: scope.losses.then(|| Column::new(1)),
            mutual_information: scope.dropout.map(|_| Column::new(1)),
        };
        let dropout = scope.dropout.map(|dropout| MaskedHeads::new(model, dropout));
        let table = ScoreTable { run: model.manifest.run.clone(), rows: Vec::new(), columns };
        Ok(Self { model, dropout, table })
    }

    fn push(
        &mut self,
        hashes: impl Iterator<Item = ContentHash>,
        features: &[f32],
        losses: &[f32],
    ) -> Result<()> {
        let mut probabilities = head::logits_of(features, &self.model.head).map_err(NnError::from)?;
        for (hash, row) in hashes.zip(probabilities.chunks_exact_mut(self.model.manifest.class_count.max(1)))
        {
            softmax(row);
            self.table.rows.push(ScoreRow::of(hash, row));
        }
        let columns = &mut self.table.columns;
        if let (Some(column), Some(heads)) = (&mut columns.mutual_information, &self.dropout) {
            column.values.extend(heads.mutual_information(features)?);
        }
        let further = [
            (&mut columns.probabilities, probabilities.as_slice()),
            (&mut columns.features, features),
            (&mut columns.losses, losses),
        ];
        for (column, values) in further {
            if let Some(column) = column {
                column.values.extend_from_slice(values);
            }
        }
        Ok(())
    }
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
    use crate::domain::strategy::Dropout;
    use crate::learner::fixture::{self, CLASS_COUNT, go_on};
    use crate::learner::{DropCheckpoints, LabeledItem, evaluate, fine_tune, pretext_losses};

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
        let table = score(&Device::Cpu, &model, None, &pool, &ScoreScope::default(), &mut go_on).unwrap();
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
    fn every_column_of_the_widest_scope_is_what_its_strategy_reads() {
        let (pool, classes) = fixture::pool(40, "score");
        let pretext = fixture::pretext(&pool);
        let model = model(&pool, &fixture::labeled(12, &classes));
        let dropout = Some(Dropout { passes: 5, fraction: 0.5 });
        let scope = ScoreScope { probabilities: true, features: true, labeled: false, losses: true, dropout };
        let scored =
            |pool: &Pool| score(&Device::Cpu, &model, Some(&pretext), pool, &scope, &mut go_on).unwrap();
        let table = scored(&pool);
        let bare = score(&Device::Cpu, &model, None, &pool, &ScoreScope::default(), &mut go_on).unwrap();
        assert_eq!((&table.rows, &bare.columns), (&bare.rows, &ScoreColumns::default()));
        let columns = &table.columns;
        let (probabilities, features) = (columns.probabilities.as_ref(), columns.features.as_ref());
        let (losses, information) = (columns.losses.as_ref(), columns.mutual_information.as_ref());
        let (probabilities, features) = (probabilities.unwrap(), features.unwrap());
        for (index, row) in table.rows.iter().enumerate() {
            assert_eq!(*row, ScoreRow::of(row.hash, probabilities.row(index)));
            let mut judged = head::logits_of(features.row(index), &model.head).unwrap();
            softmax(&mut judged);
            assert_eq!(judged, probabilities.row(index));
        }
        let information = &information.unwrap().values;
        assert!(information.iter().all(|&bits| (0.0..=4f32.ln()).contains(&bits)));
        assert!(information.iter().any(|&bits| bits > 0.0));
        // The fine-tuned backbone under the pretext head is another network than the pretext model.
        let frozen = pretext_losses(&Device::Cpu, &pretext, &pool, &mut go_on).unwrap();
        let losses = &losses.unwrap().values;
        assert_eq!(losses.len(), 40);
        assert!(losses.iter().zip(&frozen.rows).all(|(&loss, (_, frozen))| loss >= 0.0 && loss != *frozen));
        // An item's numbers don't depend on its shard.
        let picked = [31usize, 2, 17];
        let hashes: Vec<_> = picked.iter().map(|&index| *pool.hash(index)).collect();
        let pixels = picked.iter().flat_map(|&index| pool.pixels(index).to_vec()).collect();
        let shard = scored(&Pool::from_pixels(fixture::SHAPE, &hashes, pixels).unwrap());
        for (row, &index) in picked.iter().enumerate() {
            assert_eq!(shard.columns.features.as_ref().unwrap().row(row), features.row(index));
            assert_eq!(shard.columns.losses.as_ref().unwrap().values[row], losses[index]);
            assert_eq!(shard.columns.mutual_information.as_ref().unwrap().values[row], information[index]);
        }
        let without = score(&Device::Cpu, &model, None, &pool, &scope, &mut go_on);
        assert!(matches!(without, Err(LearnerError::Model(_))));
    }

    #[test]
    fn images_of_another_size_and_pretext_models_are_refused() {
        let (pool, classes) = fixture::pool(20, "score");
        let model = model(&pool, &fixture::labeled(4, &classes));
        let error = predict(&Device::Cpu, &model, &[vec![0; 63]]).unwrap_err();
        assert!(error.to_string().contains("63 for 64"), "{error}");
        let pretext = fixture::pretext(&pool);
        let scope = ScoreScope::default();
        let refused = score(&Device::Cpu, &pretext, None, &pool, &scope, &mut go_on);
        assert!(matches!(refused, Err(LearnerError::Model(_))));
        assert!(matches!(predict(&Device::Cpu, &pretext, &[]), Err(LearnerError::Model(_))));
        let error = evaluate(&Device::Cpu, &model, &pool, &classes[1..], &mut go_on).unwrap_err();
        assert!(error.to_string().contains("19 for 20"), "{error}");
    }
}
