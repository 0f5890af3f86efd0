//! The ablation row "I = v": the K items that the frozen pretext model finds hardest.
//!
//! Pretext loss as a query rule: J. Yi et al., "PT4AL: using self-supervised pretext tasks for active learning", ECCV 2022; as a term
//! of Eq. 1: Shi & Zhou 2023.

use super::{AcquisitionError, Candidates};

/// `v` of each candidate.
pub(super) fn score(candidates: &Candidates<'_>) -> Result<Vec<f64>, AcquisitionError> {
    let missing = AcquisitionError::Missing { strategy: "pretext", column: "pretext losses" };
    let values = candidates.pretext_loss.ok_or(missing)?;
    Ok(values.iter().copied().map(f64::from).collect())
}
