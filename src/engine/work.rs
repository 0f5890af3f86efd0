//! The kinds of work the engine does, with owned inputs and plain outcomes.

use std::sync::Arc;

use candle_core::Device;

use crate::domain::project::ClassIndex;
use crate::domain::settings::ProjectSettings;
use crate::domain::strategy::ScoreScope;
use crate::learner::{
    self, AuditFindings, AuditInput, CheckpointSink, EmbeddingTable, Evaluation, LabeledItem, LearnerError,
    PretextLossTable, ScoreTable, StepHook,
};
use crate::nn::checkpoint::Checkpoint;
use crate::vision::Pool;

/// One piece of work; what each does stands at the function of `learner` it names.
pub enum Work {
    /// `learner::pretrain_from`.
    Pretrain {
        /// D_l ∪ D_u.
        pool: Arc<Pool>,
        /// Items whose classes are known already, for the monitor alone.
        labeled: Vec<LabeledItem>,
        /// The project's settings.
        settings: Box<ProjectSettings>,
        /// Weights of others to begin with, as safetensors.
        initial_weights: Option<Vec<u8>>,
        /// The checkpoint of an earlier attempt.
        resume: Option<Vec<u8>>,
        /// Where checkpoints go meanwhile.
        sink: Box<dyn CheckpointSink + Send>,
    },
    /// `learner::embed`.
    Embed {
        /// f′.
        model: Arc<Checkpoint>,
        /// A shard.
        pool: Arc<Pool>,
    },
    /// `learner::pretext_losses`.
    PretextLosses {
        /// f′ and g.
        model: Arc<Checkpoint>,
        /// A shard.
        pool: Arc<Pool>,
    },
    /// `learner::fine_tune`.
    FineTune {
        /// f′.
        pretext: Arc<Checkpoint>,
        /// What `labeled` refers to.
        pool: Arc<Pool>,
        /// D_l.
        labeled: Vec<LabeledItem>,
        /// Number of classes.
        class_count: usize,
        /// The project's settings.
        settings: Box<ProjectSettings>,
        /// The round.
        round: u32,
        /// The checkpoint of an earlier attempt.
        resume: Option<Vec<u8>>,
        /// Where checkpoints go meanwhile.
        sink: Box<dyn CheckpointSink + Send>,
    },
    /// `learner::fine_tune_head`.
    FineTuneHead {
        /// f′.
        pretext: Arc<Checkpoint>,
        /// What `labeled` refers to.
        table: Arc<EmbeddingTable>,
        /// D_l.
        labeled: Vec<LabeledItem>,
        /// Number of classes.
        class_count: usize,
        /// The project's settings.
        settings: Box<ProjectSettings>,
        /// The round.
        round: u32,
    },
    /// `learner::evaluate`.
    Evaluate {
        /// f.
        model: Arc<Checkpoint>,
        /// The test split.
        pool: Arc<Pool>,
        /// Its classes, in its order.
        classes: Vec<ClassIndex>,
    },
    /// `learner::evaluate_embeddings`.
    EvaluateEmbeddings {
        /// f.
        model: Arc<Checkpoint>,
        /// The test split.
        table: Arc<EmbeddingTable>,
        /// Its classes, in its order.
        classes: Vec<ClassIndex>,
    },
    /// `learner::score`.
    Score {
        /// f.
        model: Arc<Checkpoint>,
        /// f′, for a scope with losses.
        pretext: Option<Arc<Checkpoint>>,
        /// A shard.
        pool: Arc<Pool>,
        /// What the strategy reads.
        scope: ScoreScope,
    },
    /// `learner::score_embeddings`.
    ScoreEmbeddings {
        /// f.
        model: Arc<Checkpoint>,
        /// A shard.
        table: Arc<EmbeddingTable>,
        /// What the strategy reads.
        scope: ScoreScope,
    },
    /// `learner::audit`.
    Audit(Box<Audit>),
}

/// What `Work::Audit` looks at, owned.
pub struct Audit {
    /// Embeddings of D_l.
    pub table: EmbeddingTable,
    /// D_l.
    pub labeled: Vec<LabeledItem>,
    /// Its items that were drawn at random.
    pub random: Vec<LabeledItem>,
    /// Its items that a model chose.
    pub queried: Vec<LabeledItem>,
    /// The test split's embeddings and classes.
    pub test: Option<(Arc<EmbeddingTable>, Vec<ClassIndex>)>,
    /// Number of classes.
    pub class_count: usize,
    /// The project's seed.
    pub seed: u64,
}

/// What came of a piece of work.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Of `Pretrain`, `FineTune` and `FineTuneHead`.
    Model(Box<Checkpoint>),
    /// Of `Embed`.
    Embeddings(EmbeddingTable),
    /// Of `PretextLosses`.
    PretextLosses(PretextLossTable),
    /// Of `Evaluate` and `EvaluateEmbeddings`.
    Evaluation(Evaluation),
    /// Of `Score` and `ScoreEmbeddings`.
    Scores(ScoreTable),
    /// Of `Audit`.
    Findings(AuditFindings),
}

impl Work {
    /// A word for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pretrain { .. } => "pretrain",
            Self::Embed { .. } => "embed",
            Self::PretextLosses { .. } => "pretext_loss",
            Self::FineTune { .. } => "fine_tune",
            Self::FineTuneHead { .. } => "fine_tune_head",
            Self::Evaluate { .. } | Self::EvaluateEmbeddings { .. } => "evaluate",
            Self::Score { .. } | Self::ScoreEmbeddings { .. } => "score",
            Self::Audit(_) => "audit",
        }
    }

    /// Does the work on the calling thread.
    pub(super) fn perform(self, device: &Device, hook: &mut dyn StepHook) -> Result<Outcome, LearnerError> {
        let model = |checkpoint| Outcome::Model(Box::new(checkpoint));
        match self {
            Self::Pretrain { pool, labeled, settings, initial_weights, resume, mut sink } => {
                let (initial, resume, sink) = (initial_weights.as_deref(), resume.as_deref(), sink.as_mut());
                learner::pretrain_from(device, &pool, &labeled, &settings, initial, resume, sink, hook)
                    .map(model)
            }
            Self::Embed { model, pool } => {
                learner::embed(device, &model, &pool, hook).map(Outcome::Embeddings)
            }
            Self::PretextLosses { model, pool } => {
                learner::pretext_losses(device, &model, &pool, hook).map(Outcome::PretextLosses)
            }
            Self::FineTune { pretext, pool, labeled, class_count, settings, round, resume, mut sink } => {
                let (resume, sink) = (resume.as_deref(), sink.as_mut());
                learner::fine_tune(
                    device,
                    &pretext,
                    &pool,
                    &labeled,
                    class_count,
                    &settings,
                    round,
                    resume,
                    sink,
                    hook,
                )
                .map(model)
            }
            Self::FineTuneHead { pretext, table, labeled, class_count, settings, round } => {
                learner::fine_tune_head(
                    device,
                    &pretext,
                    &table,
                    &labeled,
                    class_count,
                    &settings,
                    round,
                    hook,
                )
                .map(model)
            }
            Self::Evaluate { model, pool, classes } => {
                learner::evaluate(device, &model, &pool, &classes, hook).map(Outcome::Evaluation)
            }
            Self::EvaluateEmbeddings { model, table, classes } => {
                learner::evaluate_embeddings(&model, &table, &classes, hook).map(Outcome::Evaluation)
            }
            Self::Score { model, pretext, pool, scope } => {
                learner::score(device, &model, pretext.as_deref(), &pool, &scope, hook).map(Outcome::Scores)
            }
            Self::ScoreEmbeddings { model, table, scope } => {
                learner::score_embeddings(&model, &table, &scope, hook).map(Outcome::Scores)
            }
            Self::Audit(audit) => {
                let input = AuditInput {
                    table: &audit.table,
                    labeled: &audit.labeled,
                    random: &audit.random,
                    queried: &audit.queried,
                    test: audit.test.as_ref().map(|(table, classes)| (table.as_ref(), classes.as_slice())),
                    class_count: audit.class_count,
                    seed: audit.seed,
                };
                learner::audit(input, hook).map(Outcome::Findings)
            }
        }
    }
}
