//! How far each row is from the nearest of a growing set of centres, computed only where somebody looks.
//!
//! Private to `acquisition`. Distances to the nearest centre only shrink while centres are added, so one that is out of date is an upper
//! bound; a greedy choice (`farthest`) or a rejected draw (`plus_plus`) that no bound can change needs no distance at all. That is exact, and
//! on most pools spares all but a few percent of the N × K distances (lazy evaluation: M. Minoux, "Accelerated greedy algorithms for
//! maximizing submodular set functions", 1978).

use super::points::Metric;

/// Rows in a piece of parallel work; fixed, so that no sum depends on the number of threads.
pub(super) const CHUNK_ROWS: usize = 1024;

/// What is known of one row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// Squared distance to the nearest of the centres that were looked at.
    pub(super) squared_distance: f32,
    /// Centres that were looked at: the first so many.
    seen_count: u32,
}

impl Standing {
    /// Nothing is known yet.
    pub(super) const UNSEEN: Self = Self { squared_distance: f32::INFINITY, seen_count: 0 };

    /// Whether all of `centre_count` centres were looked at.
    pub(super) fn is_current(&self, centre_count: usize) -> bool {
        self.seen_count as usize >= centre_count
    }

    /// Looks at further centres until all are seen or the distance falls below `enough`; returns how many distances that took.
    pub(super) fn catch_up<M: Metric>(
        &mut self,
        metric: &M,
        row: usize,
        centres: &[usize],
        enough: f32,
    ) -> usize {
        let mut computed_count = 0;
        for &centre in centres.iter().skip(self.seen_count as usize) {
            if self.squared_distance < enough {
                break;
            }
            self.seen_count += 1;
            if metric.squared_distance_at_least(row, centre) < self.squared_distance {
                computed_count += 1;
                self.squared_distance = self.squared_distance.min(metric.squared_distance(row, centre));
            }
        }
        computed_count
    }
}
