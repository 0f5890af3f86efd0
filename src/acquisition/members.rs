//! Labelled and unlabelled items together, for strategies that look where labels lie in the pretext embedding.
//!
//! Private to `acquisition`.

use crate::domain::content_hash::ContentHash;

use super::points::Points;
use super::{AcquisitionError, Candidates, check_length};

/// One labelled or unlabelled item.
pub(super) struct Member<'a> {
    pub(super) hash: ContentHash,
    /// Row among the candidates; `None` for a labelled item.
    pub(super) candidate: Option<usize>,
    pub(super) embedding: &'a [f32],
}

/// All items in the order of their content hashes, so that nothing after this depends on the callers' order.
pub(super) fn members_by_hash<'a>(
    candidates: &Candidates<'a>,
    strategy: &'static str,
) -> Result<Vec<Member<'a>>, AcquisitionError> {
    let missing = AcquisitionError::Missing { strategy, column: "embeddings" };
    let embeddings = candidates.embeddings.ok_or(missing)?;
    let unlabeled = candidates.hashes.iter().zip(embeddings.rows()).enumerate();
    let mut members: Vec<_> =
        unlabeled.map(|(row, (&hash, embedding))| Member { hash, candidate: Some(row), embedding }).collect();
    if let Some(labeled) = candidates.labeled_embeddings {
        check_length("labelled embedding's row", labeled.width, embeddings.width)?;
        let labeled = candidates.labeled_hashes.iter().zip(labeled.rows());
        members.extend(labeled.map(|(&hash, embedding)| Member { hash, candidate: None, embedding }));
    }
    members.sort_unstable_by_key(|member| member.hash);
    Ok(members)
}

/// The members' embeddings at unit length, in their order; there is at least one member.
pub(super) fn points(members: &[Member<'_>]) -> Points {
    Points::unit(members.iter().map(|member| member.embedding), members[0].embedding.len())
}
