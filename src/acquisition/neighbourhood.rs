//! Which points lie within a radius of a point: exact, in memory linear in the points.
//!
//! Private to `acquisition`. Points are sorted into balls around pivots, each ball by the distance to its pivot; by the triangle inequality a
//! neighbour's distance to a pivot differs from one's own by the radius at most, so most balls and most of each ball are skipped.

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::clusters;
use super::points::{Metric, Points, squared_distance};

/// Pivots at most, whatever the number of points; they cost as many distances for each query.
const PIVOT_COUNT_MAX: usize = 1024;

/// What rounding may add to the distance of two unit vectors.
const SLACK: f32 = 1e-4;

/// Unit vectors, ready to be asked for neighbours.
pub(super) struct Neighbourhoods<'p> {
    points: &'p Points,
    pivots: Vec<f32>,
    balls: Vec<Vec<(f32, usize)>>,
}

impl<'p> Neighbourhoods<'p> {
    /// Sorts the points, of which there is at least one; pivots are drawn from `stream` and decide nothing but the speed.
    pub(super) fn new(points: &'p Points, stream: &mut ChaCha8Rng) -> Self {
        let pivot_count = points.len().isqrt().clamp(1, PIVOT_COUNT_MAX);
        let pivots = clusters::seed(points, pivot_count, stream);
        let width = points.dimension_count();
        let nearest = clusters::nearest(points, &pivots);
        let distance = |(row, &ball): (usize, &u32)| {
            let pivot = &pivots[ball as usize * width..][..width];
            squared_distance(points.row(row), pivot).sqrt()
        };
        let distances: Vec<f32> = nearest.par_iter().enumerate().map(distance).collect();
        let mut balls = vec![Vec::new(); pivots.len() / width];
        for (row, (&ball, &distance)) in nearest.iter().zip(&distances).enumerate() {
            balls[ball as usize].push((distance, row));
        }
        balls
            .par_iter_mut()
            .for_each(|ball| ball.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))));
        Self { points, pivots, balls }
    }

    /// Calls `visit` with every point nearer to `row` than the root of `squared_radius`, itself among them, in no
    /// particular order.
    pub(super) fn visit(&self, row: usize, squared_radius: f32, mut visit: impl FnMut(usize)) {
        let point = self.points.row(row);
        let reach = squared_radius.sqrt() + SLACK;
        for (pivot, ball) in self.pivots.chunks_exact(self.points.dimension_count()).zip(&self.balls) {
            let Some(&(farthest, _)) = ball.last() else { continue };
            let distance = squared_distance(point, pivot).sqrt();
            if distance - reach > farthest {
                continue;
            }
            let start = ball.partition_point(|&(member, _)| member < distance - reach);
            let near = ball[start..].iter().take_while(|&&(member, _)| member <= distance + reach);
            for &(_, other) in near {
                if self.points.squared_distance(row, other) < squared_radius {
                    visit(other);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::domain::seed::StreamKey;

    #[test]
    fn the_neighbours_are_those_of_a_plain_search() {
        let mut stream = StreamKey::new(4, "points").stream();
        let values: Vec<f32> = (0..900 * 4).map(|_| stream.random::<f32>() - 0.5).collect();
        let points = Points::unit(values.chunks_exact(4), 4);
        let index = Neighbourhoods::new(&points, &mut StreamKey::new(4, "pivots").stream());
        for squared_radius in [0.001, 0.1, 4.1] {
            for row in [0, 17, 899] {
                let mut found = Vec::new();
                index.visit(row, squared_radius, |other| found.push(other));
                found.sort_unstable();
                let near = |other: &usize| points.squared_distance(row, *other) < squared_radius;
                assert_eq!(found, (0..900).filter(near).collect::<Vec<_>>());
            }
        }
    }
}
