//! What a run leaves in the output folder: its rounds with their queries, written after each of them.
//!
//! A file is replaced in one step, so a kill leaves the last finished round. `plan` holds everything that decides a run beside the budgets: rounds
//! are read back only under the same plan and as far as the budgets agree.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::domain::content_hash::ContentHash;
use crate::domain::settings::PretextKind;

use super::pretext::Bench;
use super::{Arm, Result, SimulateError};

/// A round of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// 1 for the first batch.
    pub round: u32,
    /// Labels in all.
    pub labels: u32,
    /// Accuracy of the round's model on the test split, 0 to 1.
    pub test_accuracy: f64,
    /// Items of each class among those asked in this round.
    pub class_counts: Vec<u32>,
    /// Seconds of choosing, training and evaluating; of a first batch that an earlier strategy has trained, of choosing alone.
    pub seconds: f64,
    /// Content hashes of the items asked, in the order of the ranking.
    pub query: Vec<ContentHash>,
}

/// A run: one strategy on one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Name of the data set.
    pub dataset: String,
    /// Pretext task.
    pub pretext: PretextKind,
    /// Strategy, as it was asked for.
    pub strategy: String,
    /// Seed.
    pub seed: u64,
    /// Kernel variant and threads that the last round was computed by.
    pub machine: String,
    /// Accuracy of the nearest labelled neighbours in the features of the pretext model, 0 to 1, among pool items.
    #[serde(default)]
    pub knn_accuracy: Option<f32>,
    /// Everything that decides the run beside the budgets.
    plan: Value,
    /// The rounds that are finished.
    pub rounds: Vec<RoundRecord>,
}

impl RunRecord {
    /// The run of `arm`: read back as far as it was finished under the same plan.
    pub(super) fn find(bench: &Bench<'_>, arm: &Arm) -> Result<Self> {
        let Bench { plan, oracle, task, seed, .. } = *bench;
        let settings = plan.settings(oracle, task, arm.strategy, seed);
        let fresh = Self {
            dataset: plan.dataset.clone(),
            pretext: task,
            strategy: arm.name.clone(),
            seed,
            machine: String::new(),
            knn_accuracy: None,
            plan: json!({
                "pretext_run": crate::learner::pretext_run(&oracle.pool, &settings),
                "classes": oracle.class_names, "test_count": oracle.test.len(), "fine_tune": settings.fine_tune,
                "strategy": arm.strategy, "first_batch": plan.first_batch,
            }),
            rounds: Vec::new(),
        };
        let Some(bytes) = read_file(&fresh.path(&plan.folder))? else { return Ok(fresh) };
        let Ok(mut kept) = serde_json::from_slice::<Self>(&bytes) else { return Ok(fresh) };
        if kept.plan != fresh.plan {
            return Ok(fresh);
        }
        let agreeing =
            kept.rounds.iter().zip(&plan.budgets).take_while(|(round, budget)| round.labels == **budget);
        let count = agreeing.count();
        kept.rounds.truncate(count);
        Ok(kept)
    }

    /// Keeps the rounds that are finished.
    pub(super) fn save(&self, folder: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).expect("numbers and text are JSON");
        write_file(&self.path(folder), &bytes)
    }

    /// Pretext task, strategy and seed, for people.
    pub(super) fn name(&self) -> String {
        format!("{} {} seed {}", self.pretext.name(), self.strategy, self.seed)
    }

    fn path(&self, folder: &Path) -> PathBuf {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '+' };
        let strategy: String = self.strategy.chars().map(plain).collect();
        folder.join("runs").join(format!("{}-{strategy}-{}.json", self.pretext.name(), self.seed))
    }
}

/// The bytes of a file, if it is there.
pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(output_error(path, "read", &error)),
    }
}

/// Writes a file in one step, with the folders above it.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| output_error(path, "written", &error))
}

fn output_error(path: &Path, action: &'static str, error: &std::io::Error) -> SimulateError {
    SimulateError::Output { path: path.to_owned(), action, reason: error.to_string() }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A run with these accuracies at 100, 200, … labels.
    pub(in crate::simulate) fn record(strategy: &str, seed: u64, accuracies: &[f64]) -> RunRecord {
        let round = |(round, &test_accuracy): (u32, &f64)| RoundRecord {
            round,
            labels: round * 100,
            test_accuracy,
            class_counts: vec![60, 40],
            seconds: 1.0,
            query: Vec::new(),
        };
        RunRecord {
            dataset: "fashion-mnist".to_owned(),
            pretext: PretextKind::Rotation,
            strategy: strategy.to_owned(),
            seed,
            machine: "portable, 1 threads".to_owned(),
            knn_accuracy: None,
            plan: Value::Null,
            rounds: (1..).zip(accuracies).map(round).collect(),
        }
    }
}
