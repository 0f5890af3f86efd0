//! Experiments with an oracle: the loop of Algorithm 1 over learner and acquisition alone, strategies side by side on paired seeds.
//!
//! Of one seed all strategies share pretext weights, first batch and initial heads, so that differences are the strategies' own. What is finished
//! stays in the output folder round by round, and the same plan goes on from there after a stop or a kill. The test split is only looked at,
//! nothing is chosen by it. Synchronous, on the thread that owns the device; called by the command `simulate`. Protocol: Hacohen et al. 2022
//! (area under the budget curve), Ash et al. 2020 (pairwise penalties).

mod analysis;
mod course;
mod oracle;
mod plan;
mod pretext;
mod record;
mod report;

use std::ops::ControlFlow;

use crate::learner::LearnerError;
use crate::nn::device::Device;

pub use crate::learner::Stopped;
pub use oracle::Oracle;
pub use plan::{Arm, FirstBatch, Plan};
pub use record::{RoundRecord, RunRecord};
pub use report::write_report;

/// Hears how far a simulation is, and says whether it goes on.
pub trait Observer {
    /// `done` of `total` steps of `work` are behind; `Break` ends the simulation, which keeps its finished rounds.
    fn step(&mut self, work: &str, done: u64, total: u64) -> ControlFlow<Stopped>;

    /// A round of `run` has ended.
    fn round(&mut self, run: &str, round: &RoundRecord);
}

/// Why a simulation can't begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The observer asked for it; what is finished is kept.
    #[error("stopped; the same command goes on from what is finished")]
    Stopped,
    /// The plan can't be carried out on this data.
    #[error("{0}")]
    Plan(String),
    /// The images can't be read.
    #[error(transparent)]
    Import(#[from] crate::import::ImportError),
    /// The images can't be put together.
    #[error(transparent)]
    Pool(#[from] crate::vision::PoolError),
    /// Learning failed.
    #[error(transparent)]
    Learner(LearnerError),
    /// Choosing failed.
    #[error(transparent)]
    Acquisition(#[from] crate::acquisition::AcquisitionError),
    /// The output folder can't be used.
    #[error("{path} can't be {action}: {reason}")]
    Output {
        /// File or folder.
        path: std::path::PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        reason: String,
    },
}

impl From<LearnerError> for SimulateError {
    fn from(error: LearnerError) -> Self {
        match error {
            LearnerError::Stopped => Self::Stopped,
            error => Self::Learner(error),
        }
    }
}

/// The result of anything in this room.
pub type Result<T> = std::result::Result<T, SimulateError>;

/// Carries `plan` out on `oracle`'s images and returns every run with its rounds, finished ones read back from the output folder.
///
/// Seeds come one after another with all their strategies, so that a simulation that is stopped early has complete pairs.
///
/// # Errors
/// A plan that the data can't bear, a stop, a failing device or disk.
pub fn run(
    device: &Device,
    plan: &Plan,
    oracle: &Oracle,
    observer: &mut dyn Observer,
) -> Result<Vec<RunRecord>> {
    plan.check(oracle)?;
    let mut records = Vec::new();
    for task in plan.pretexts.iter().copied() {
        for seed in plan.seeds() {
            let mut bench = pretext::Bench::new(device, plan, oracle, task, seed);
            for arm in &plan.arms {
                records.push(course::run(&mut bench, arm, observer)?);
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
