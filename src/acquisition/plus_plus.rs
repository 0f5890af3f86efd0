//! k-means++ draws: each further row with a probability proportional to its squared distance from the nearest drawn before.
//!
//! Private to `acquisition`. D. Arthur, S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007. Distances are lazy
//! (`standing`): a row is drawn by its old distance, which is at least the true one, and kept with probability true / old; that is the
//! same distribution (rejection sampling). When rejected draws have cost as much as looking at all rows would, all are brought up to date.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::points::Metric;
use super::standing::{CHUNK_ROWS, Standing};

/// How much cheaper a distance is when all rows are brought up to date together, by threads and by caches.
const BULK_FACTOR: usize = 4;

/// Draws `count` rows, the `first` one given, as `(row, squared distance when drawn)`; fewer when the rest coincide with drawn ones.
///
/// The draws depend on the order of the rows, which must therefore be a canonical one, and not on the number of threads.
pub(super) fn draw<M: Metric>(
    metric: &M,
    first: usize,
    count: usize,
    stream: &mut ChaCha8Rng,
) -> Vec<(usize, Option<f32>)> {
    let mut draws = vec![(first, None)];
    let mut urn = Urn::new(metric, first);
    while draws.len() < count {
        let Some((row, squared_distance)) = urn.draw(stream) else { break };
        draws.push((row, Some(squared_distance)));
    }
    draws.truncate(count);
    draws
}

struct Urn<'m, M> {
    metric: &'m M,
    centres: Vec<usize>,
    standings: Vec<Standing>,
    // Sum of the distances of each chunk, as far as they are known.
    sums: Vec<f64>,
    // Centres that all rows have seen.
    settled_count: usize,
    // Distances computed for single rows since then.
    spent_count: usize,
}

impl<'m, M: Metric> Urn<'m, M> {
    fn new(metric: &'m M, first: usize) -> Self {
        let row_count = metric.len();
        let mut urn = Self {
            metric,
            centres: Vec::new(),
            standings: vec![Standing::UNSEEN; row_count],
            sums: vec![0.0; row_count.div_ceil(CHUNK_ROWS)],
            settled_count: 0,
            spent_count: 0,
        };
        urn.take(first);
        urn.settle();
        urn
    }

    /// A row and its distance; `None` when every row coincides with a centre.
    fn draw(&mut self, stream: &mut ChaCha8Rng) -> Option<(usize, f32)> {
        loop {
            let total: f64 = self.sums.iter().sum();
            if total <= 0.0 {
                return None;
            }
            let row = self.locate(stream.random::<f64>() * total);
            let standing = &mut self.standings[row];
            let old = standing.squared_distance;
            self.spent_count += standing.catch_up(self.metric, row, &self.centres, 0.0);
            let squared_distance = standing.squared_distance;
            let is_kept = stream.random::<f64>() * f64::from(old) < f64::from(squared_distance);
            if is_kept {
                self.take(row);
                return Some((row, squared_distance));
            }
            self.add_up(row / CHUNK_ROWS);
            let pending_count = self.centres.len() - self.settled_count;
            if self.spent_count * BULK_FACTOR > self.standings.len() * pending_count {
                self.settle();
            }
        }
    }

    fn take(&mut self, row: usize) {
        self.standings[row].squared_distance = 0.0;
        self.add_up(row / CHUNK_ROWS);
        self.centres.push(row);
    }

    fn add_up(&mut self, chunk: usize) {
        let standings = self.standings.iter().skip(chunk * CHUNK_ROWS).take(CHUNK_ROWS);
        self.sums[chunk] = standings.map(|standing| f64::from(standing.squared_distance)).sum();
    }

    /// Brings all rows up to date.
    fn settle(&mut self) {
        let (metric, centres) = (self.metric, &self.centres);
        let pieces = self.standings.par_chunks_mut(CHUNK_ROWS).zip(&mut self.sums).enumerate();
        pieces.for_each(|(chunk, (standings, sum))| {
            for (row, standing) in (chunk * CHUNK_ROWS..).zip(standings.iter_mut()) {
                if standing.squared_distance > 0.0 {
                    standing.catch_up(metric, row, centres, 0.0);
                }
            }
            *sum = standings.iter().map(|standing| f64::from(standing.squared_distance)).sum();
        });
        self.settled_count = self.centres.len();
        self.spent_count = 0;
    }

    /// The row at which the running sum passes `target`; never one of distance 0.
    fn locate(&self, mut target: f64) -> usize {
        let mut last = 0;
        for (chunk, &sum) in self.sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            // Rounding may leave the target behind the last row; then the last that can be drawn is.
            last = chunk;
            if target < sum {
                break;
            }
            target -= sum;
        }
        let first_row = last * CHUNK_ROWS;
        let mut found = first_row;
        for (row, standing) in (first_row..).zip(self.standings.iter().skip(first_row).take(CHUNK_ROWS)) {
            if standing.squared_distance > 0.0 {
                found = row;
                target -= f64::from(standing.squared_distance);
                if target < 0.0 {
                    break;
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acquisition::Rows;
    use crate::acquisition::points::Joined;
    use crate::domain::seed::StreamKey;

    fn line(values: &[f32]) -> Joined<'_> {
        Joined::new(Rows { values, width: 1 }, Rows { values: &[], width: 1 })
    }

    #[test]
    fn rows_are_drawn_as_often_as_their_squared_distance_says() {
        // First 0; then 1, 3, 4 with 1, 9 and 16 of 26. After 4, whose distance to 3 is 1: 1 and 3 with 1 each.
        let points = line(&[0.0, 1.0, 3.0, 4.0]);
        let mut stream = StreamKey::new(3, "draws").stream();
        let (mut second, mut third_after_4) = ([0u32; 4], [0u32; 4]);
        for _ in 0..26_000 {
            let draws = draw(&points, 0, 3, &mut stream);
            second[draws[1].0] += 1;
            if draws[1].0 == 3 {
                assert_eq!(draws[1].1, Some(16.0));
                third_after_4[draws[2].0] += 1;
            }
        }
        // Five standard deviations: 156, 384 and 392 of 26,000; 316 of 16,000.
        assert!(second[1].abs_diff(1_000) < 156 && second[2].abs_diff(9_000) < 384, "{second:?}");
        assert!(third_after_4[1].abs_diff(second[3] / 2) < 316, "{third_after_4:?}");
        assert_eq!((second[0], third_after_4[0], third_after_4[3]), (0, 0, 0));
    }

    #[test]
    fn coinciding_rows_are_drawn_once() {
        let points = line(&[5.0, 5.0, 8.0, 8.0]);
        let draws = draw(&points, 1, 4, &mut StreamKey::new(3, "draws").stream());
        assert_eq!(draws.len(), 2);
        assert!(matches!(draws[1], (2 | 3, Some(9.0))), "{draws:?}");
    }

    #[test]
    fn the_draws_are_the_same_on_one_thread_and_on_many() {
        let mut stream = StreamKey::new(3, "points").stream();
        let values: Vec<f32> = (0..5000).map(|_| stream.random::<f32>()).collect();
        let on_threads = |thread_count| {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(thread_count).build().unwrap();
            threads.install(|| draw(&line(&values), 17, 400, &mut StreamKey::new(1, "draws").stream()))
        };
        let draws = on_threads(1);
        assert_eq!(draws, on_threads(3));
        assert_eq!(draws.len(), 400);
    }
}
