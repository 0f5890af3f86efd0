//! The ablation row "I = u": the K items of which the downstream model is least sure.
//!
//! Uncertainty sampling: D. Lewis, W. Gale, "A sequential algorithm for training text classifiers", SIGIR 1994. Which `u` (entropy, margin,
//! least confidence) was decided when the candidates were scored.

use super::{AcquisitionError, Candidates};

/// `u` of each candidate.
pub(super) fn score(candidates: &Candidates<'_>) -> Result<Vec<f64>, AcquisitionError> {
    let missing = AcquisitionError::Missing { strategy: "uncertainty", column: "uncertainties" };
    let values = candidates.uncertainty.ok_or(missing)?;
    Ok(values.iter().copied().map(f64::from).collect())
}
