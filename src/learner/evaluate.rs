//! The test split's verdict on a model: accuracy and the confusion of classes. Never used to choose a checkpoint.

use candle_core::Device;

use super::inference::for_each_row;
use super::{LearnerError, Result, StepHook, check};
use crate::domain::project::ClassIndex;
use crate::nn::NnError;
use crate::nn::checkpoint::Checkpoint;
use crate::nn::head;
use crate::vision::{Pool, Sample};

use super::tables::EmbeddingTable;

/// How a model does on labelled items it didn't learn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Right answers per item, 0 to 1; 0 without items.
    pub accuracy: f64,
    /// Right answers.
    pub correct_count: u64,
    /// Items asked.
    pub count: u64,
    /// `confusion[c][p]`: items of class c that were taken for p.
    pub confusion: Vec<Vec<u32>>,
}

impl Evaluation {
    fn new(class_count: usize) -> Self {
        Self { accuracy: 0.0, correct_count: 0, count: 0, confusion: vec![vec![0; class_count]; class_count] }
    }

    fn add(&mut self, logits: &[f32], classes: &[ClassIndex]) {
        let class_count = self.confusion.len().max(1);
        for (row, class) in logits.chunks_exact(class_count).zip(classes) {
            let predicted = argmax(row);
            self.count += 1;
            self.correct_count += u64::from(predicted == usize::from(class.0));
            self.confusion[usize::from(class.0)][predicted] += 1;
        }
        self.accuracy = self.correct_count as f64 / self.count.max(1) as f64;
    }
}

/// The first of the largest.
fn argmax(row: &[f32]) -> usize {
    let better = |best: usize, place: usize| if row[place] > row[best] { place } else { best };
    (1..row.len()).fold(0, better)
}

/// Evaluates `model` on the items of `pool`, whose classes are `classes` in the pool's order.
///
/// # Errors
/// Lists of different lengths, classes the model doesn't have, a stop, or a device that fails.
pub fn evaluate(
    device: &Device,
    model: &Checkpoint,
    pool: &Pool,
    classes: &[ClassIndex],
    hook: &mut dyn StepHook,
) -> Result<Evaluation> {
    check_classes(model, pool.len(), classes)?;
    let samples: Vec<Sample> = (0..pool.len()).map(Sample::upright).collect();
    let mut evaluation = Evaluation::new(model.manifest.class_count);
    let mut rest = classes;
    let representation = model.manifest.representation;
    for_each_row(device, model, representation, pool, &samples, hook, |samples, rows| {
        let logits = head::logits_of(rows, &model.head).map_err(NnError::from)?;
        let (front, back) = rest.split_at(samples.len());
        evaluation.add(&logits, front);
        rest = back;
        Ok(())
    })?;
    Ok(evaluation)
}

/// Evaluates a model of `fine_tune.mode = head` on the cached embeddings of the test split; equal to `evaluate` on its images.
///
/// # Errors
/// As `evaluate`, and a table of another pretext model.
pub fn evaluate_embeddings(
    model: &Checkpoint,
    table: &EmbeddingTable,
    classes: &[ClassIndex],
    hook: &mut dyn StepHook,
) -> Result<Evaluation> {
    check_classes(model, table.len(), classes)?;
    check(hook.step(0, 1))?;
    let logits = head::logits_of(&table.embeddings, &model.head).map_err(NnError::from)?;
    let mut evaluation = Evaluation::new(model.manifest.class_count);
    evaluation.add(&logits, classes);
    check(hook.step(1, 1))?;
    Ok(evaluation)
}

fn check_classes(model: &Checkpoint, item_count: usize, classes: &[ClassIndex]) -> Result<()> {
    if classes.len() != item_count {
        let what = "classes of the test split";
        return Err(LearnerError::Length { what, expected: item_count, found: classes.len() });
    }
    let class_count = model.manifest.class_count;
    match classes.iter().position(|class| usize::from(class.0) >= class_count) {
        None => Ok(()),
        Some(index) => Err(LearnerError::Label { index, class: classes[index].0, item_count, class_count }),
    }
}
