//! BALD: the items on which the model's weights, sampled by dropout, disagree most while each is sure.
//!
//! Papers: N. Houlsby, F. Huszár, Z. Ghahramani, M. Lengyel, "Bayesian active learning for classification and preference learning",
//! arXiv:1112.5745, 2011, Eq. 2; Y. Gal, R. Islam, Z. Ghahramani, "Deep Bayesian active learning with image data", ICML 2017, section 3.
//! `I[y; w | x] = H(E_w p(y|x, w)) − E_w H(p(y|x, w))`, which the learner measures over the masks.

use super::{AcquisitionError, Candidates};

/// The mutual information of each candidate.
pub(super) fn score(candidates: &Candidates<'_>) -> Result<Vec<f64>, AcquisitionError> {
    let missing = AcquisitionError::Missing { strategy: "bald", column: "mutual information" };
    let values = candidates.mutual_information.ok_or(missing)?;
    Ok(values.iter().copied().map(f64::from).collect())
}
