//! Answers predictions from the published weights; on a CPU it has a thread of its own, so that nobody waits for a mini-batch.

use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::Device;

use super::queue::{PredictCommand, Queue};
use super::{EngineError, Models, Prediction, Predictions, panic_reason};
use crate::learner::{self, uncertainty::Uncertainty};

/// The body of the prediction thread: answers until the queue closes.
pub(super) fn run(queue: &Queue, models: &Models, device: &Device) {
    while let Some(command) = queue.wait_for_prediction() {
        answer(command, models, device);
    }
}

/// Answers one prediction; a caller that went away costs nothing, a panic is the answer's reason.
pub(super) fn answer(command: PredictCommand, models: &Models, device: &Device) {
    if command.reply.is_closed() {
        return;
    }
    let attempt = AssertUnwindSafe(|| predict(&command, models, device));
    let outcome = catch_unwind(attempt).unwrap_or_else(|payload| {
        let reason = panic_reason(payload.as_ref());
        tracing::error!(reason, "a prediction panicked");
        Err(EngineError::Panicked(reason))
    });
    // The caller may have gone away meanwhile; then nobody misses the answer.
    let _ = command.reply.send(outcome);
}

fn predict(command: &PredictCommand, models: &Models, device: &Device) -> Result<Predictions, EngineError> {
    let published = models.find(command.project).ok_or(EngineError::NoModel)?;
    let rows = learner::predict(device, &published.model, &command.images)
        .map_err(|error| EngineError::Failed(error.to_string()))?;
    let judge = |probabilities: Vec<f32>| Prediction {
        uncertainty: Uncertainty::of(&probabilities).entropy,
        probabilities,
    };
    Ok(Predictions { model_version: published.version, rows: rows.into_iter().map(judge).collect() })
}
