//! ProbCover: balls of one radius in the pretext embedding; each pick is the item whose ball holds the most items that no ball holds yet.
//!
//! Paper: O. Yehuda, A. Dekel, G. Hacohen, D. Weinshall, "Active learning through a covering lens", NeurIPS 2022, Algorithm 1; section 3.3 for
//! the radius δ: the largest at which a share of the balls (0.95) holds one pseudo-class alone, which are k-means clusters, one a class.
//! Here the share is taken over a sample of the pool. The graph of the paper isn't kept: neighbours are found when they are needed, twice
//! for each item, so memory stays linear in the pool.

use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

use crate::domain::seed::StreamKey;

use super::clusters;
use super::members::{self, Member, members_by_hash};
use super::neighbourhood::Neighbourhoods;
use super::order::tie_numbers;
use super::points::{Metric, Points};
use super::{AcquisitionError, Candidates, Ranked};

/// Items whose balls are measured to find the radius.
const SAMPLE_COUNT: usize = 1000;

/// More than the squared distance of any two unit vectors.
const SQUARED_RADIUS_MAX: f32 = 4.1;

/// `count` candidates; their score is the number of items that they newly cover.
pub(super) fn pick(
    candidates: &Candidates<'_>,
    purity: f64,
    count: usize,
    seed: u64,
    round: u32,
) -> Result<Vec<Ranked>, AcquisitionError> {
    let members = members_by_hash(candidates, "probcover")?;
    if candidates.class_count == 0 {
        return Err(AcquisitionError::Missing { strategy: "probcover", column: "number of classes" });
    }
    if candidates.hashes.is_empty() || count == 0 {
        return Ok(vec![]);
    }
    let points = members::points(&members);
    // The same clusters and radius in every round, as far as the pool stays the same.
    let mut stream = StreamKey::new(seed, "probcover").stream();
    let classes = clusters::assign(&points, candidates.class_count.min(members.len()), &mut stream);
    let squared_radius = squared_radius(&points, &classes, &sample(&members, seed), purity);
    let ties = tie_numbers(candidates.hashes, seed, round);
    let mut covering = Covering::new(&points, squared_radius, &mut stream);
    for row in (0..members.len()).filter(|&row| members[row].candidate.is_none()) {
        covering.cover(row);
    }
    covering.count_degrees();
    let mut left: Vec<(usize, usize)> =
        members.iter().enumerate().filter_map(|(row, member)| Some((row, member.candidate?))).collect();
    let mut picks = Vec::new();
    while picks.len() < count && !left.is_empty() {
        let key = |place: usize| {
            let (row, index) = left[place];
            (covering.degree(row), std::cmp::Reverse((ties[index], candidates.hashes[index])))
        };
        let Some(place) = (0..left.len()).max_by_key(|&place| key(place)) else { break };
        let (row, index) = left.swap_remove(place);
        picks.push(Ranked { index, score: Some(f64::from(covering.degree(row))) });
        covering.cover_counted(row);
    }
    Ok(picks)
}

/// Rows of the members whose balls are measured, drawn by content.
fn sample(members: &[Member<'_>], seed: u64) -> Vec<usize> {
    let key = StreamKey::new(seed, "probcover.sample");
    let mut drawn: Vec<(u64, usize)> = members
        .iter()
        .enumerate()
        .map(|(row, member)| (key.clone().with_content(&member.hash).number(), row))
        .collect();
    drawn.sort_unstable();
    drawn.into_iter().take(SAMPLE_COUNT).map(|(_, row)| row).collect()
}

/// The square of the largest radius at which at least a share `purity` of the sampled open balls holds one pseudo-class alone.
fn squared_radius(points: &Points, classes: &[u32], sample: &[usize], purity: f64) -> f32 {
    let nearest_stranger = |&row: &usize| {
        let strangers = (0..points.len()).filter(|&other| classes[other] != classes[row]);
        let distances = strangers.map(|other| points.squared_distance(row, other));
        distances.fold(SQUARED_RADIUS_MAX, f32::min)
    };
    let mut distances: Vec<f32> = sample.par_iter().map(nearest_stranger).collect();
    distances.sort_unstable_by(f32::total_cmp);
    // So many balls may be impure: those whose nearest stranger is nearest.
    let impure_count = ((1.0 - purity) * distances.len() as f64).floor() as usize;
    distances.get(impure_count).copied().unwrap_or(SQUARED_RADIUS_MAX)
}

/// What is covered, and how much each item would add.
struct Covering<'p> {
    index: Neighbourhoods<'p>,
    squared_radius: f32,
    is_covered: Vec<bool>,
    degrees: Vec<AtomicU32>,
}

impl<'p> Covering<'p> {
    fn new(points: &'p Points, squared_radius: f32, stream: &mut rand_chacha::ChaCha8Rng) -> Self {
        Self {
            index: Neighbourhoods::new(points, stream),
            squared_radius,
            is_covered: vec![false; points.len()],
            degrees: (0..points.len()).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    fn degree(&self, row: usize) -> u32 {
        self.degrees[row].load(Ordering::Relaxed)
    }

    /// Covers the ball of `row`; returns what no ball held before.
    fn cover(&mut self, row: usize) -> Vec<usize> {
        let mut fresh = Vec::new();
        self.index.visit(row, self.squared_radius, |other| {
            if !self.is_covered[other] {
                self.is_covered[other] = true;
                fresh.push(other);
            }
        });
        fresh
    }

    fn count_degrees(&mut self) {
        let (index, squared_radius, is_covered) = (&self.index, self.squared_radius, &self.is_covered);
        self.degrees.par_iter_mut().enumerate().for_each(|(row, degree)| {
            index.visit(row, squared_radius, |other| *degree.get_mut() += u32::from(!is_covered[other]));
        });
    }

    /// As `cover`; afterwards nothing that it covered counts for any other item.
    fn cover_counted(&mut self, row: usize) {
        let fresh = self.cover(row);
        fresh.par_iter().for_each(|&covered| {
            self.index.visit(covered, self.squared_radius, |other| {
                self.degrees[other].fetch_sub(1, Ordering::Relaxed);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acquisition::Rows;
    use crate::domain::content_hash::ContentHash;

    fn on_circle(degrees: &[f32]) -> Vec<f32> {
        degrees.iter().flat_map(|degrees| [degrees.to_radians().cos(), degrees.to_radians().sin()]).collect()
    }

    fn hashes(range: std::ops::Range<u8>) -> Vec<ContentHash> {
        range.map(|item| ContentHash([item; 32])).collect()
    }

    // Three pseudo-classes; the nearest strangers are 20° and 100° (rows 4 and 5), 80° apart.
    const DEGREES: [f32; 9] = [0.0, 5.0, 10.0, 15.0, 20.0, 100.0, 102.0, 104.0, 250.0];

    fn squared_chord(degrees: f32) -> f32 {
        2.0 - 2.0 * degrees.to_radians().cos()
    }

    #[test]
    fn the_radius_is_the_largest_at_which_enough_balls_are_pure() {
        let values = on_circle(&DEGREES);
        let points = Points::unit(values.chunks_exact(2), 2);
        let classes = [0, 0, 0, 0, 0, 1, 1, 1, 2];
        let sample: Vec<usize> = (0..9).collect();
        let found = |purity| squared_radius(&points, &classes, &sample, purity);
        // Nearest strangers: 100, 95, 90, 85, 80 | 80, 82, 84 | 110. None may be impure at .95, two at .75.
        assert!((found(0.95) - squared_chord(80.0)).abs() < 1e-5);
        assert!((found(0.75) - squared_chord(82.0)).abs() < 1e-5);
        assert_eq!(squared_radius(&points, &[0; 9], &sample, 0.95), SQUARED_RADIUS_MAX);
    }

    #[test]
    fn each_pick_covers_the_most_that_is_left() {
        let values = on_circle(&DEGREES);
        let candidates = Candidates {
            hashes: &hashes(0..9),
            embeddings: Some(Rows { values: &values, width: 2 }),
            class_count: 3,
            ..Candidates::default()
        };
        let picks = pick(&candidates, 0.95, 9, 7, 1).unwrap();
        let scores: Vec<_> = picks.iter().map(|pick| pick.score.unwrap()).collect();
        // δ is the chord of 80°: each of the left five covers those five, 100° to 104° three, 250° itself; the rest adds nothing.
        assert!(picks[0].index <= 4 && (5..=7).contains(&picks[1].index) && picks[2].index == 8, "{picks:?}");
        assert_eq!(scores, [5.0, 3.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn what_labels_cover_does_not_count() {
        let values = on_circle(&DEGREES);
        let labeled = on_circle(&[8.0]);
        let candidates = Candidates {
            hashes: &hashes(0..9),
            embeddings: Some(Rows { values: &values, width: 2 }),
            labeled_hashes: &hashes(9..10),
            labeled_embeddings: Some(Rows { values: &labeled, width: 2 }),
            class_count: 3,
            ..Candidates::default()
        };
        let picks = pick(&candidates, 0.95, 2, 7, 1).unwrap();
        assert!((5..=7).contains(&picks[0].index), "{picks:?}");
        assert_eq!((picks[0].score, picks[1].index), (Some(3.0), 8));
    }
}
