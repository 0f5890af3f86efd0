//! Algorithm 1's body without the asking: D_l in, the round's model with its verdict on the test split out, and then the scores of the pool.
//!
//! `simulate` walks through it in one go; the service does the same steps as jobs of their own, since its pool is scored in shards. Selection
//! (`candidates`, then `acquisition`) follows. In `full` mode it works on images, in `head` mode on cached embeddings.

use std::ops::ControlFlow;

use candle_core::Device;

use super::{
    CheckpointSink, EmbeddingTable, Evaluation, LabeledItem, LearnerError, Result, ScoreTable, StepHook,
    Stopped, evaluate, evaluate_embeddings, fine_tune, fine_tune_head, score, score_embeddings,
};
use crate::domain::project::ClassIndex;
use crate::domain::settings::{FineTuneMode, ProjectSettings};
use crate::nn::checkpoint::Checkpoint;
use crate::vision::Pool;

/// Everything a round learns from.
#[derive(Clone, Copy)]
pub struct RoundInput<'a> {
    /// f′, from which every round starts.
    pub pretext: &'a Checkpoint,
    /// D_l ∪ D_u; its items are scored.
    pub pool: &'a Pool,
    /// The pool's embeddings in the pool's order; needed in `head` mode.
    pub pool_embeddings: Option<&'a EmbeddingTable>,
    /// D_l by index into the pool, any order.
    pub labeled: &'a [LabeledItem],
    /// Number of classes.
    pub class_count: usize,
    /// The test split with its classes, if there is one.
    pub test: Option<(&'a Pool, &'a [ClassIndex])>,
    /// The test split's embeddings; spares `head` mode its images.
    pub test_embeddings: Option<&'a EmbeddingTable>,
    /// The project's settings.
    pub settings: &'a ProjectSettings,
    /// The round.
    pub round: u32,
}

/// A round's model and what the test split says of it.
#[derive(Clone, Debug)]
pub struct TrainedRound {
    /// f.
    pub model: Checkpoint,
    /// Its verdict on the test split.
    pub evaluation: Option<Evaluation>,
}

impl<'a> RoundInput<'a> {
    /// The embeddings that `head` mode works on; `None` in `full` mode.
    fn head_table(&self) -> Result<Option<&'a EmbeddingTable>> {
        match self.settings.fine_tune.mode {
            FineTuneMode::Full => Ok(None),
            FineTuneMode::Head => {
                let missing =
                    LearnerError::NoItems { purpose: "fit the head on: the pool's embeddings are missing" };
                self.pool_embeddings.map(Some).ok_or(missing)
            }
        }
    }
}

/// Fine-tunes and evaluates.
///
/// The hook sees two stages, each from 0 to its own total. `resume` and `sink` concern the fine-tuning.
///
/// # Errors
/// As its parts; `head` mode without the pool's embeddings.
pub fn train_round(
    device: &Device,
    input: RoundInput<'_>,
    resume: Option<&[u8]>,
    sink: &mut dyn CheckpointSink,
    hook: &mut dyn StepHook,
) -> Result<TrainedRound> {
    let RoundInput { pretext, pool, labeled, class_count, settings, round, .. } = input;
    let table = input.head_table()?;
    // One hook for all stages, whatever its type.
    let mut ask = |done: u64, total: u64| -> ControlFlow<Stopped> { hook.step(done, total) };
    let model = match table {
        None => {
            fine_tune(device, pretext, pool, labeled, class_count, settings, round, resume, sink, &mut ask)?
        }
        Some(table) => {
            fine_tune_head(device, pretext, table, labeled, class_count, settings, round, &mut ask)?
        }
    };
    let evaluation = match (input.test, input.test_embeddings, table) {
        (None, ..) => None,
        (Some((_, classes)), Some(embeddings), Some(_)) => {
            Some(evaluate_embeddings(&model, embeddings, classes, &mut ask)?)
        }
        (Some((test, classes)), ..) => Some(evaluate(device, &model, test, classes, &mut ask)?),
    };
    Ok(TrainedRound { model, evaluation })
}

/// Scores every pool item in the pool's order under a round's `model`, with the columns that the strategy reads.
///
/// # Errors
/// As `score`; `head` mode without the pool's embeddings.
pub fn score_round(
    device: &Device,
    input: RoundInput<'_>,
    model: &Checkpoint,
    hook: &mut dyn StepHook,
) -> Result<ScoreTable> {
    let scope = input.settings.strategy.score_scope();
    match input.head_table()? {
        None => score(device, model, Some(input.pretext), input.pool, &scope, hook),
        Some(table) => score_embeddings(model, table, &scope, hook),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::fixture::{self, CLASS_COUNT, go_on};
    use crate::learner::{DropCheckpoints, embed, pretrain};

    #[test]
    fn both_modes_give_a_model_a_verdict_and_a_score_for_every_item() {
        let (pool, classes) = fixture::pool(60, "round");
        let (test, test_classes) = fixture::pool(40, "test");
        let pretext = fixture::pretext(&pool);
        let table = embed(&Device::Cpu, &pretext, &pool, &mut go_on).unwrap();
        let labeled = fixture::labeled(16, &classes);
        let mut settings = fixture::settings();
        for mode in [FineTuneMode::Full, FineTuneMode::Head] {
            settings.fine_tune.mode = mode;
            let input = RoundInput {
                pretext: &pretext,
                pool: &pool,
                pool_embeddings: Some(&table),
                labeled: &labeled,
                class_count: CLASS_COUNT,
                test: Some((&test, &test_classes)),
                test_embeddings: None,
                settings: &settings,
                round: 1,
            };
            let train = |input| train_round(&Device::Cpu, input, None, &mut DropCheckpoints, &mut go_on);
            let rank = |model| score_round(&Device::Cpu, input, model, &mut go_on).unwrap();
            let trained = train(input).unwrap();
            let evaluation = trained.evaluation.expect("there is a test split");
            assert!(evaluation.accuracy > 0.6, "{mode:?}: {evaluation:?}");
            let scores = rank(&trained.model);
            assert_eq!((scores.rows.len(), &scores.run), (60, &trained.model.manifest.run));
            let again = train(input).unwrap();
            assert!(again.model == trained.model && rank(&again.model) == scores);
            if mode == FineTuneMode::Head {
                assert!(train(RoundInput { pool_embeddings: None, ..input }).is_err());
                assert_eq!(trained.model.backbone, pretext.backbone);
            }
        }
    }

    #[test]
    fn real_images_are_learned_from_their_rotations() {
        let (pool, classes) = fixture::fashion_mnist("train", 2000);
        let (test, test_classes) = fixture::fashion_mnist("t10k", 500);
        let mut settings = fixture::settings();
        settings.pretext.epochs = 2;
        settings.pretext.rotations_per_image = 1;
        settings.fine_tune.mode = FineTuneMode::Head;
        let device = Device::Cpu;
        let pretext =
            pretrain(&device, &pool, &[], &settings, None, &mut DropCheckpoints, &mut go_on).unwrap();
        let last = pretext.manifest.epochs[1];
        assert!(last.accuracy > 0.4, "a quarter would be chance: {last:?}");
        let table = embed(&device, &pretext, &pool, &mut go_on).unwrap();
        let labeled = fixture::labeled(500, &classes);
        let input = RoundInput {
            pretext: &pretext,
            pool: &pool,
            pool_embeddings: Some(&table),
            labeled: &labeled,
            class_count: 10,
            test: Some((&test, &test_classes)),
            test_embeddings: None,
            settings: &settings,
            round: 1,
        };
        let trained = train_round(&device, input, None, &mut DropCheckpoints, &mut go_on).unwrap();
        let evaluation = trained.evaluation.expect("there is a test split");
        assert!(evaluation.accuracy > 0.6, "a tenth would be chance: {evaluation:?}");
    }
}
