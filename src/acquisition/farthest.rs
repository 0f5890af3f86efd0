//! Farthest first: each pick is the row farthest from all centres so far.
//!
//! Private to `acquisition`. T. Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985: the picks are centres whose
//! largest distance to any row is at most twice the least possible (k-center greedy). Distances are lazy (`standing`): a row whose old
//! distance lies below the farthest one known is left alone. The result is exact, and the same for any number of threads.

use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

use super::points::Metric;
use super::standing::{CHUNK_ROWS, Standing};

/// Stands for a row that was picked: below every distance.
const PICKED: f32 = -1.0;

/// Picks `count` of the rows `0..row_count`, farthest first, as `(row, squared distance when picked)`.
///
/// `centres` are rows to keep away from; rows from `row_count` on are only that. Without any the first pick has the smallest `tie` and no
/// distance; equals are picked by the smaller `tie`.
pub(super) fn pick<M: Metric, T: Ord + Send>(
    metric: &M,
    row_count: usize,
    centres: Vec<usize>,
    count: usize,
    tie: impl Fn(usize) -> T + Sync,
) -> Vec<(usize, Option<f32>)> {
    let count = count.min(row_count);
    let mut picks = Vec::with_capacity(count);
    let mut search = Search::new(metric, row_count, centres, tie);
    while picks.len() < count {
        let Some(pick) = search.find() else { break };
        search.take(pick.0);
        picks.push(pick);
    }
    picks
}

struct Search<'m, M, F> {
    metric: &'m M,
    centres: Vec<usize>,
    standings: Vec<Standing>,
    // The largest distance of each chunk; true ones are never above it.
    bounds: Vec<f32>,
    tie: F,
}

impl<'m, M: Metric, T: Ord + Send, F: Fn(usize) -> T + Sync> Search<'m, M, F> {
    fn new(metric: &'m M, row_count: usize, centres: Vec<usize>, tie: F) -> Self {
        let mut search = Self {
            metric,
            standings: vec![Standing::UNSEEN; row_count],
            bounds: vec![f32::INFINITY; row_count.div_ceil(CHUNK_ROWS)],
            centres: Vec::new(),
            tie,
        };
        for centre in centres.iter().filter(|&&centre| centre < row_count) {
            search.standings[*centre].squared_distance = PICKED;
        }
        search.centres = centres;
        search
    }

    fn take(&mut self, row: usize) {
        self.standings[row].squared_distance = PICKED;
        self.centres.push(row);
    }

    fn find(&mut self) -> Option<(usize, Option<f32>)> {
        if self.centres.is_empty() {
            let first = (0..self.standings.len()).min_by_key(|&row| (self.tie)(row))?;
            return Some((first, None));
        }
        let farthest = AtomicU32::new(self.probe()?.to_bits());
        let (metric, centres, tie) = (self.metric, &self.centres, &self.tie);
        let pieces = self.standings.par_chunks_mut(CHUNK_ROWS).zip(&mut self.bounds).enumerate();
        let best = pieces
            .filter(|(_, (_, bound))| **bound >= f32::from_bits(farthest.load(Ordering::Relaxed)))
            .filter_map(|(chunk, (standings, bound))| {
                settle(metric, centres, chunk, standings, &farthest);
                *bound = standings.iter().map(|standing| standing.squared_distance).fold(PICKED, f32::max);
                let rows = (chunk * CHUNK_ROWS..).zip(standings.iter());
                rows.filter(|(_, standing)| {
                    standing.is_current(centres.len()) && standing.squared_distance >= 0.0
                })
                .map(|(row, standing)| (standing.squared_distance, row))
                .reduce(|a, b| farther(a, b, tie))
            })
            .reduce_with(|a, b| farther(a, b, tie))?;
        Some((best.1, Some(best.0)))
    }

    /// The up-to-date distance of the row that looks farthest: what any farther row must reach.
    fn probe(&mut self) -> Option<f32> {
        let largest = |values: &mut dyn Iterator<Item = f32>| {
            values.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(place, _)| place)
        };
        let chunk = largest(&mut self.bounds.iter().copied())?;
        let standings = self.standings.iter().skip(chunk * CHUNK_ROWS).take(CHUNK_ROWS);
        let place = largest(&mut standings.map(|standing| standing.squared_distance))?;
        let row = chunk * CHUNK_ROWS + place;
        let standing = &mut self.standings[row];
        standing.catch_up(self.metric, row, &self.centres, 0.0);
        Some(standing.squared_distance.max(0.0))
    }
}

/// Brings those rows of a chunk up to date that may be as far as the farthest known.
fn settle<M: Metric>(
    metric: &M,
    centres: &[usize],
    chunk: usize,
    standings: &mut [Standing],
    farthest: &AtomicU32,
) {
    for (row, standing) in (chunk * CHUNK_ROWS..).zip(standings) {
        // Distances are never negative, and so are ordered as their bits.
        let least = f32::from_bits(farthest.load(Ordering::Relaxed));
        if standing.squared_distance >= least {
            standing.catch_up(metric, row, centres, least);
            if standing.squared_distance > least && standing.is_current(centres.len()) {
                farthest.fetch_max(standing.squared_distance.to_bits(), Ordering::Relaxed);
            }
        }
    }
}

fn farther<T: Ord>(a: (f32, usize), b: (f32, usize), tie: impl Fn(usize) -> T) -> (f32, usize) {
    let b_is_farther = b.0 > a.0 || (b.0 == a.0 && tie(b.1) < tie(a.1));
    if b_is_farther { b } else { a }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::acquisition::Rows;
    use crate::acquisition::points::Joined;
    use crate::domain::seed::StreamKey;

    fn joined<'a>(candidates: &'a [f32], labeled: &'a [f32], width: usize) -> Joined<'a> {
        Joined::new(Rows { values: candidates, width }, Rows { values: labeled, width })
    }

    #[test]
    fn each_pick_is_the_farthest_from_what_is_there() {
        // On a line with a label at 0: 10 lies farthest; then 4 (4 from 0, 6 from 10); then 7 (3 from both) before 2 and 1.
        let line = [1.0, 4.0, 10.0, 7.0, 2.0];
        let picks = pick(&joined(&line, &[0.0], 1), 5, vec![5], 5, |row| row);
        let expected = [(2, 100.0), (1, 16.0), (3, 9.0), (4, 4.0), (0, 1.0)];
        assert_eq!(picks, expected.map(|(row, distance)| (row, Some(distance))));
    }

    #[test]
    fn without_a_centre_the_first_falls_by_tie_and_so_do_equals() {
        let line = [0.0, -3.0, 3.0, 0.0];
        let picks = pick(&joined(&line, &[], 1), 4, vec![], 4, |row| [0, 2, 1, 3][row]);
        assert_eq!(picks, [(0, None), (2, Some(9.0)), (1, Some(9.0)), (3, Some(0.0))]);
    }

    #[test]
    fn lazy_distances_give_what_all_distances_give_on_any_number_of_threads() {
        let mut stream = StreamKey::new(5, "rows").stream();
        let values: Vec<f32> = (0..3000 * 5).map(|_| stream.random_range(0..9u8).into()).collect();
        let labeled: Vec<f32> = (0..40 * 5).map(|_| stream.random_range(0..9u8).into()).collect();
        let metric = joined(&values, &labeled, 5);
        let mut centres: Vec<usize> = (3000..3040).collect();
        let mut left: Vec<usize> = (0..3000).collect();
        let mut expected = Vec::new();
        for _ in 0..60 {
            let nearest = |row: usize| {
                centres.iter().map(|&c| metric.squared_distance(row, c)).fold(f32::INFINITY, f32::min)
            };
            let key = |&row: &usize| (nearest(row) as u32, std::cmp::Reverse(row * 7919 % 3000));
            let farthest = *left.iter().max_by_key(|row| key(row)).unwrap();
            expected.push((farthest, Some(nearest(farthest))));
            left.retain(|&row| row != farthest);
            centres.push(farthest);
        }
        for thread_count in [1, 3] {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(thread_count).build().unwrap();
            let found =
                threads.install(|| pick(&metric, 3000, (3000..3040).collect(), 60, |row| row * 7919 % 3000));
            assert_eq!(found, expected);
        }
    }
}
