//! What all strategies of one seed and pretext task share: f′, its tables, and the model of the first batch.
//!
//! f′ is kept in the output folder, also half trained; tables are made when a strategy first reads them.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::acquisition::reads_embeddings;
use crate::domain::settings::{FineTuneMode, PretextKind};
use crate::domain::strategy::Strategy;
use crate::learner::{
    CheckpointSink, EmbeddingTable, PretextLossTable, StepHook, TrainedRound, embed, pretext_losses,
    pretext_run, pretrain,
};
use crate::nn::checkpoint::Checkpoint;
use crate::nn::device::Device;

use super::record::{read_file, write_file};
use super::{Observer, Oracle, Plan, Result, SimulateError};

/// The common ground of one seed's runs.
pub(super) struct Bench<'b> {
    pub device: &'b Device,
    pub plan: &'b Plan,
    pub oracle: &'b Oracle,
    pub task: PretextKind,
    pub seed: u64,
    /// f′; trained when the first run that has work to do asks for it.
    model: Option<Checkpoint>,
    embeddings: Option<EmbeddingTable>,
    test_embeddings: Option<EmbeddingTable>,
    losses: Option<PretextLossTable>,
    /// Models of first batches by the items that they learned from, since strategies share them.
    first_rounds: HashMap<Vec<usize>, TrainedRound>,
}

impl<'b> Bench<'b> {
    pub(super) fn new(
        device: &'b Device,
        plan: &'b Plan,
        oracle: &'b Oracle,
        task: PretextKind,
        seed: u64,
    ) -> Self {
        let first_rounds = HashMap::new();
        let (model, embeddings, test_embeddings, losses) = (None, None, None, None);
        Self { device, plan, oracle, task, seed, model, embeddings, test_embeddings, losses, first_rounds }
    }

    /// Makes what a run with these strategies reads.
    pub(super) fn prepare(&mut self, strategies: &[Strategy], observer: &mut dyn Observer) -> Result<()> {
        if self.model.is_none() {
            self.model = Some(self.find_or_train(observer)?);
        }
        let model = self.model.as_ref().expect("it was just made");
        let (device, oracle) = (self.device, self.oracle);
        let is_head = self.plan.fine_tune.mode == FineTuneMode::Head;
        let name = self.name();
        if self.embeddings.is_none() && (is_head || strategies.iter().any(reads_embeddings)) {
            let mut hook = hook(observer, format!("{name}: embedding"));
            self.embeddings = Some(embed(device, model, &oracle.pool, &mut hook)?);
        }
        if self.test_embeddings.is_none() && is_head {
            let mut hook = hook(observer, format!("{name}: embedding"));
            self.test_embeddings = Some(embed(device, model, &oracle.test, &mut hook)?);
        }
        if self.losses.is_none() && strategies.iter().any(Strategy::needs_pretext_loss) {
            let mut hook = hook(observer, format!("{name}: pretext loss"));
            self.losses = Some(pretext_losses(device, model, &oracle.pool, &mut hook)?);
        }
        Ok(())
    }

    /// f′, after `prepare`.
    pub(super) fn model(&self) -> &Checkpoint {
        self.model.as_ref().expect("runs prepare the bench first")
    }

    pub(super) fn embeddings(&self) -> Option<&EmbeddingTable> {
        self.embeddings.as_ref()
    }

    pub(super) fn test_embeddings(&self) -> Option<&EmbeddingTable> {
        self.test_embeddings.as_ref()
    }

    pub(super) fn losses(&self) -> Option<&PretextLossTable> {
        self.losses.as_ref()
    }

    /// What was learned from exactly these items (rising) in a first round, if a run has done so.
    pub(super) fn first_round(&self, items: &[usize]) -> Option<TrainedRound> {
        self.first_rounds.get(items).cloned()
    }

    pub(super) fn keep_first_round(&mut self, items: Vec<usize>, trained: TrainedRound) {
        self.first_rounds.insert(items, trained);
    }

    /// Task and seed, for people.
    pub(super) fn name(&self) -> String {
        format!("{} seed {}", self.task.name(), self.seed)
    }

    fn find_or_train(&self, observer: &mut dyn Observer) -> Result<Checkpoint> {
        let (plan, oracle) = (self.plan, self.oracle);
        let settings = plan.settings(oracle, self.task, Strategy::Random {}, self.seed);
        let path =
            plan.folder.join("pretext").join(format!("{}-{}.safetensors", self.task.name(), self.seed));
        if let Some(bytes) = read_file(&path)?
            && let Ok(model) = Checkpoint::from_bytes(&bytes)
            && model.manifest.run == pretext_run(&oracle.pool, &settings)
        {
            return Ok(model);
        }
        let mut sink = FileSink { path: path.with_extension("partial") };
        let mut hook = hook(observer, format!("{}: pretraining", self.name()));
        let half_trained = read_file(&sink.path)?;
        let resume = half_trained.as_deref();
        let labeled = oracle.known();
        let model = pretrain(self.device, &oracle.pool, &labeled, &settings, resume, &mut sink, &mut hook)?;
        let bytes = model.to_bytes().map_err(|error| SimulateError::Learner(error.into()))?;
        write_file(&path, &bytes)?;
        remove_file(&sink.path)?;
        Ok(model)
    }
}

/// Keeps the checkpoint of a pretext training under way.
struct FileSink {
    path: PathBuf,
}

impl CheckpointSink for FileSink {
    fn save(&mut self, bytes: &[u8]) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(write_file(&self.path, bytes)?)
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(SimulateError::Output { path: path.to_owned(), action: "removed", reason: error.to_string() })
        }
        _ => Ok(()),
    }
}

/// A hook that reports to `observer` under the name `work`.
pub(super) fn hook(observer: &mut dyn Observer, work: String) -> impl StepHook {
    move |done, total| observer.step(&work, done, total)
}
