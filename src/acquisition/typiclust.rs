//! Typical samples for batches that have little to learn from: cluster the pretext embedding, ask the densest item of each cluster; the rules
//! `typiclust` and, for the first batch, `typical`.
//!
//! Paper: G. Hacohen, A. Dekel, D. Weinshall, "Active learning on a budget: opposite strategies suit high and low budgets" (TypiClust),
//! ICML 2022, section 3: labelled and unlabelled items are clustered into as many clusters as there are labels and picks, 500 at most;
//! clusters without labels come first, then the larger ones; typicality is the inverse of the mean distance to the 20 nearest neighbours.
//! Here neighbours are those of the same cluster, and embeddings are scaled to unit length. Exact, so a cluster of m items costs m² distances.

use std::cmp::Reverse;

use rayon::prelude::*;

use crate::domain::seed::StreamKey;

use super::clusters::{self, Panels};
use super::members::{self, Member, members_by_hash};
use super::order::tie_numbers;
use super::points::Points;
use super::{AcquisitionError, Candidates, Ranked};

const CLUSTER_COUNT_MAX: usize = 500;
const NEIGHBOUR_COUNT: usize = 20;

/// Clusters up to this size are outliers rather than topics and come last, as in the paper's experiments.
const SMALL_CLUSTER_SIZE: usize = 5;

/// Keeps the typicality of coinciding items finite.
const DISTANCE_MIN: f64 = 1e-5;

/// `count` candidates, cluster by cluster; when there are more picks than clusters, the clusters take turns.
pub(super) fn pick(
    candidates: &Candidates<'_>,
    count: usize,
    seed: u64,
    round: u32,
) -> Result<Vec<Ranked>, AcquisitionError> {
    let members = members_by_hash(candidates, "typiclust")?;
    if candidates.hashes.is_empty() || count == 0 {
        return Ok(vec![]);
    }
    let points = members::points(&members);
    let labeled_count = members.len() - candidates.hashes.len();
    let cluster_count = (labeled_count + count).min(CLUSTER_COUNT_MAX).min(members.len());
    let mut stream = StreamKey::new(seed, "typical").with_number(u64::from(round)).stream();
    let assignment = clusters::assign(&points, cluster_count, &mut stream);
    let mut rows_of = vec![Vec::new(); cluster_count];
    for (row, &cluster) in assignment.iter().enumerate() {
        rows_of[cluster as usize].push(row);
    }
    let ties = tie_numbers(candidates.hashes, seed, round);
    let queues = rank_clusters(&members, rows_of)
        .into_iter()
        .map(|rows| rank_members(&points, &members, &rows, &ties));
    Ok(take_turns(queues, count))
}

/// Clusters that hold a candidate in the order in which they are asked: outliers last, fewest labels first, then the largest.
fn rank_clusters(members: &[Member<'_>], rows_of: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    let labeled = |rows: &[usize]| rows.iter().filter(|&&row| members[row].candidate.is_none()).count();
    let mut clusters: Vec<_> = rows_of.into_iter().filter(|rows| labeled(rows) < rows.len()).collect();
    clusters.sort_by_key(|rows| (rows.len() <= SMALL_CLUSTER_SIZE, labeled(rows), Reverse(rows.len())));
    clusters
}

/// The candidates of one cluster, the most typical first.
fn rank_members(points: &Points, members: &[Member<'_>], rows: &[usize], ties: &[u64]) -> Vec<Ranked> {
    let panels = Panels::new(rows.iter().map(|&row| points.row(row)), points.dimension_count());
    let mut ranked: Vec<_> = rows
        .par_iter()
        .enumerate()
        .with_min_len(16)
        .map_init(Vec::new, |dots, (at, &row)| {
            let index = members[row].candidate?;
            let distance = neighbour_distance(&panels, points.row(row), at, dots);
            Some((distance, ties[index], members[row].hash, index))
        })
        .flatten()
        .collect();
    ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
    ranked
        .into_iter()
        .map(|(distance, .., index)| Ranked { index, score: Some(1.0 / (distance + DISTANCE_MIN)) })
        .collect()
}

/// Mean distance of the row at `at` to its nearest neighbours in the cluster; infinite (typicality 0) when it is alone.
/// `dots` is room that is used again for the next row.
fn neighbour_distance(panels: &Panels, row: &[f32], at: usize, dots: &mut Vec<f32>) -> f64 {
    panels.dots(row, dots);
    dots.swap_remove(at);
    if dots.is_empty() {
        return f64::INFINITY;
    }
    let neighbour_count = dots.len().min(NEIGHBOUR_COUNT);
    dots.select_nth_unstable_by(neighbour_count - 1, |a, b| b.total_cmp(a));
    let nearest = &mut dots[..neighbour_count];
    nearest.sort_unstable_by(f32::total_cmp);
    // Between unit vectors |a − b|² = 2 − 2 a·b.
    let sum: f64 = nearest.iter().map(|&dot| (2.0 - 2.0 * f64::from(dot)).max(0.0).sqrt()).sum();
    sum / neighbour_count as f64
}

/// One pick of each queue in turn until there are `count`; a queue is only computed when its turn comes.
fn take_turns(queues: impl Iterator<Item = Vec<Ranked>>, count: usize) -> Vec<Ranked> {
    let mut picks = Vec::new();
    let mut rest = Vec::new();
    for queue in queues {
        if picks.len() == count {
            return picks;
        }
        let mut queue = queue.into_iter();
        picks.extend(queue.next());
        rest.push(queue);
    }
    while picks.len() < count {
        let before = picks.len();
        for queue in &mut rest {
            if picks.len() < count {
                picks.extend(queue.next());
            }
        }
        if picks.len() == before {
            break;
        }
    }
    picks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acquisition::Rows;
    use crate::domain::content_hash::ContentHash;

    fn hashes(range: std::ops::Range<u8>) -> Vec<ContentHash> {
        range.map(|item| ContentHash([item; 32])).collect()
    }

    fn on_circle(degrees: &[f32]) -> Vec<f32> {
        degrees.iter().flat_map(|degrees| [degrees.to_radians().cos(), degrees.to_radians().sin()]).collect()
    }

    fn picked(degrees: &[f32], labeled_degrees: &[f32], count: usize) -> Vec<usize> {
        let (values, labeled_values) = (on_circle(degrees), on_circle(labeled_degrees));
        let last = degrees.len() as u8;
        let candidates = Candidates {
            hashes: &hashes(0..last),
            embeddings: Some(Rows { values: &values, width: 2 }),
            labeled_hashes: &hashes(last..last + labeled_degrees.len() as u8),
            labeled_embeddings: Some(Rows { values: &labeled_values, width: 2 }),
            ..Candidates::default()
        };
        pick(&candidates, count, 7, 1).unwrap().iter().map(|ranked| ranked.index).collect()
    }

    // Two groups: seven items around 2° whose middle is row 3, six around 101.5° whose middle is row 9 or 10.
    const GROUPS: [f32; 13] = [0.0, 0.5, 1.5, 2.0, 2.5, 3.5, 4.0, 98.0, 100.0, 101.4, 101.6, 103.0, 105.0];

    #[test]
    fn the_densest_item_of_each_cluster_is_picked_the_larger_cluster_first() {
        let picks = picked(&GROUPS, &[], 2);
        assert_eq!(picks[0], 3);
        assert!(matches!(picks[1], 9 | 10), "{picks:?}");
    }

    #[test]
    fn typicality_is_the_inverse_of_the_mean_distance_to_the_neighbours() {
        let values = on_circle(&[0.0, 60.0, 180.0]);
        let candidates = Candidates {
            hashes: &hashes(0..3),
            embeddings: Some(Rows { values: &values, width: 2 }),
            ..Candidates::default()
        };
        let picks = pick(&candidates, 1, 7, 1).unwrap();
        // Chords of 60°, 120° and 180° are 1, √3 and 2 long: mean 1.5 from 0°, 1.366 from 60°, 1.866 from 180°.
        assert_eq!(picks[0].index, 1);
        let expected = 1.0 / ((1.0 + 3f64.sqrt()) / 2.0 + 1e-5);
        assert!((picks[0].score.unwrap() - expected).abs() < 1e-6);
    }

    #[test]
    fn clusters_without_labels_are_asked_first() {
        // Three clusters for one label and two picks; the label covers the largest.
        let degrees = [GROUPS.as_slice(), &[200.0, 201.0, 202.0, 203.0, 204.0, 205.0]].concat();
        let mut picks = picked(&degrees, &[2.1], 2);
        picks.sort_unstable();
        assert!((7..=12).contains(&picks[0]) && (13..=18).contains(&picks[1]), "{picks:?}");
    }

    #[test]
    fn an_outlier_is_asked_after_every_real_cluster() {
        let degrees = [GROUPS.as_slice(), &[250.0]].concat();
        let picks = picked(&degrees, &[], 3);
        assert_eq!(picks[2], 13, "{picks:?}");
    }

    #[test]
    fn more_picks_than_clusters_take_turns_and_all_are_picked_at_last() {
        let coinciding = [10.0; 8];
        let mut picks = picked(&coinciding, &[], 5);
        assert_eq!(picks.len(), 5);
        picks = picked(&coinciding, &[], 20);
        picks.sort_unstable();
        assert_eq!(picks, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn embeddings_of_two_models_are_refused() {
        let candidates = Candidates {
            hashes: &hashes(0..1),
            embeddings: Some(Rows { values: &[1.0, 0.0], width: 2 }),
            labeled_hashes: &hashes(1..2),
            labeled_embeddings: Some(Rows { values: &[1.0, 0.0, 0.0], width: 3 }),
            ..Candidates::default()
        };
        assert!(matches!(
            pick(&candidates, 1, 7, 1),
            Err(AcquisitionError::Length { found: 3, expected: 2, .. })
        ));
    }
}
