//! Coverage shift, our own: typical items while parts of the pool have no label, uncertain and diverse ones as labels cover it.
//!
//! Few labels favour typical samples, many favour uncertain ones (Hacohen et al. 2022); where one turns into the other depends on pool and
//! embedding, so it is measured. The pool falls into topics (k-means of the pretext embedding, 20 a class); the coverage c is the share of the
//! pool in topics with a label. A share 1 − w of the batch is chosen by TypiClust, a share w for spread (`spread`) among the most
//! uncertain. w is the competence of DCoM (I. Mishal, D. Weinshall, "DCoM: active learning for all learners", 2024, Eq. 2):
//! `w = (1 + e^{−k(1−a)}) / (1 + e^{−k(c−a)})` with a = 0.9 and k = 30.

use crate::domain::seed::StreamKey;

use super::members::{self, Member, members_by_hash};
use super::{AcquisitionError, Candidates, Ranked, clusters, order, spread, typiclust};

const TOPICS_PER_CLASS: usize = 20;
const TOPIC_COUNT_MAX: usize = 500;
const TURN: f64 = 0.9;
const STEEPNESS: f64 = 30.0;

/// `count` candidates, the typical ones first; the score of those is their typicality, that of the others `u`.
pub(super) fn pick(
    candidates: &Candidates<'_>,
    diversity: f64,
    count: usize,
    seed: u64,
    round: u32,
) -> Result<Vec<Ranked>, AcquisitionError> {
    let missing = |column| AcquisitionError::Missing { strategy: "coverage_shift", column };
    let uncertainty = candidates.uncertainty.ok_or(missing("uncertainties"))?;
    let members = members_by_hash(candidates, "coverage_shift")?;
    if candidates.class_count == 0 {
        return Err(missing("number of classes"));
    }
    if candidates.hashes.is_empty() || count == 0 {
        return Ok(vec![]);
    }
    let count = count.min(candidates.hashes.len());
    let weight = competence(coverage(&members, candidates.class_count, seed));
    let typical_count = ((1.0 - weight) * count as f64).round() as usize;
    let mut batch = typiclust::pick(candidates, typical_count, seed, round)?;
    let uncertain_count = count - batch.len();
    let mut scores: Vec<f64> = uncertainty.iter().copied().map(f64::from).collect();
    for typical in &batch {
        scores[typical.index] = f64::NEG_INFINITY;
    }
    let listed_count = spread::shortlist_count(uncertain_count, diversity).min(scores.len() - batch.len());
    let shortlist = order::largest(&scores, candidates.hashes, listed_count, seed, round);
    let uncertain =
        spread::choose(candidates, "coverage_shift", shortlist, &batch, uncertain_count, seed, round)?;
    batch.extend(uncertain);
    Ok(batch)
}

/// The share of all items that lie in topics with a label; topics stay the same from round to round as far as the pool does.
fn coverage(members: &[Member<'_>], class_count: usize, seed: u64) -> f64 {
    let topic_count = (TOPICS_PER_CLASS * class_count).min(TOPIC_COUNT_MAX).min(members.len());
    let mut stream = StreamKey::new(seed, "coverage_shift").stream();
    let topics = clusters::assign(&members::points(members), topic_count, &mut stream);
    let mut has_label = vec![false; topic_count];
    for (member, &topic) in members.iter().zip(&topics) {
        has_label[topic as usize] |= member.candidate.is_none();
    }
    let covered_count = topics.iter().filter(|&&topic| has_label[topic as usize]).count();
    covered_count as f64 / members.len() as f64
}

fn competence(coverage: f64) -> f64 {
    let decay = |at: f64| (-STEEPNESS * (at - TURN)).exp();
    (1.0 + decay(1.0)) / (1.0 + decay(coverage))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acquisition::Rows;
    use crate::domain::content_hash::ContentHash;

    #[test]
    fn the_shift_is_that_of_the_equation() {
        // e^{−3} = 0.049787.
        assert!((competence(1.0) - 1.0).abs() < 1e-12);
        assert!((competence(0.9) - 1.049_787 / 2.0).abs() < 1e-6);
        assert!((competence(0.8) - 1.049_787 / (1.0 + 20.085_537)).abs() < 1e-6);
        assert!(competence(0.0) < 1e-10);
    }

    fn candidates_of<'a>(
        hashes: &'a [ContentHash],
        values: &'a [f32],
        labeled: (&'a [ContentHash], &'a [f32]),
        uncertainty: &'a [f32],
    ) -> Candidates<'a> {
        Candidates {
            hashes,
            uncertainty: Some(uncertainty),
            embeddings: Some(Rows { values, width: 2 }),
            labeled_hashes: labeled.0,
            labeled_embeddings: Some(Rows { values: labeled.1, width: 2 }),
            class_count: 2,
            ..Candidates::default()
        }
    }

    #[test]
    fn an_uncovered_pool_is_asked_by_typicality_and_a_covered_one_by_uncertainty() {
        // 40 items on 4 spots of a circle that coincide within a spot: at most 4 topics.
        let spot = |item: usize| (item % 4) as f32 * std::f32::consts::FRAC_PI_2;
        let on_circle = |items: &[usize]| -> Vec<f32> {
            items.iter().flat_map(|&item| [spot(item).cos(), spot(item).sin()]).collect()
        };
        let hashes: Vec<_> = (0..60u8).map(|item| ContentHash([item; 32])).collect();
        let values = on_circle(&(0..40).collect::<Vec<_>>());
        let uncertainty: Vec<f32> = (0..40u8).map(|item| f32::from(item) / 40.0).collect();
        let labeled = on_circle(&[0, 1, 2, 3]);
        let covered = candidates_of(&hashes[..40], &values, (&hashes[40..44], &labeled), &uncertainty);
        let picks = pick(&covered, 1.0, 3, 7, 2).unwrap();
        assert_eq!(picks.iter().map(|pick| pick.index).collect::<Vec<_>>(), [39, 38, 37]);
        let bare = candidates_of(&hashes[..40], &values, (&hashes[40..41], &labeled[..2]), &uncertainty);
        let picks = pick(&bare, 1.0, 3, 7, 2).unwrap();
        let mut spots: Vec<_> = picks.iter().map(|pick| pick.index % 4).collect();
        spots.sort_unstable();
        // One of each spot without a label.
        assert_eq!(spots, [1, 2, 3]);
        // A label on each of three spots covers 33 of 43 items: w = 1.0498 / (1 + e^{−30 (0.767 − 0.9)}) = 0.019.
        let mostly = candidates_of(&hashes[..40], &values, (&hashes[40..43], &labeled[..6]), &uncertainty);
        let members = members_by_hash(&mostly, "test").unwrap();
        assert!((coverage(&members, 2, 7) - 33.0 / 43.0).abs() < 1e-12);
    }
}
