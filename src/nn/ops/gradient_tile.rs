//! The register tile of a weight's gradient: columns of gathered rows times one panel of the output's gradient.
//!
//! All accumulators stay in registers while a block of rows is walked once, in order. The direct form takes pixels for
//! rows, Winograd's the tiles of one point.

use super::simd::Simd;

/// The tallest tile.
const MAX_HEIGHT: usize = 12;

/// The operands of one tile.
#[derive(Clone, Copy)]
pub(super) struct GradientTile<'a> {
    /// The tile's first column in a row that starts at 0.
    pub source: *const f32,
    /// Where each row starts, in floats from `source`.
    pub gathers: &'a [usize],
    /// The panel: one row of whole vectors a gather.
    pub gradient: *const f32,
    pub sum: *mut f32,
    /// Floats from a row of the sum to the next.
    pub width: usize,
    /// Columns of the panel that are stored.
    pub columns: usize,
    /// Whether the sum keeps what it holds; else it is overwritten.
    pub keep: bool,
}

/// Computes one tile of `height` rows of the sum and `vectors` vectors.
///
/// # Safety
/// The instruction set is enabled; `height <= S::ROWS`; `source` can be read at each gather for `height` floats;
/// `gradient` holds one row of `vectors · LANES` floats a gather; `sum` holds `height` rows of `columns` floats, `width`
/// apart.
#[inline(always)]
pub(super) unsafe fn compute_gradient_tile<S: Simd>(tile: GradientTile<'_>, height: usize, vectors: usize) {
    debug_assert!(height <= MAX_HEIGHT);
    macro_rules! by_height {
        ($vectors:literal: $($height:literal)*) => {
            match height {
                // SAFETY: passed on.
                $($height => unsafe { accumulate::<S, $height, $vectors>(tile) },)*
                _ => debug_assert_eq!(height, 0),
            }
        };
    }
    match (vectors, S::ROWS) {
        (1, 12) => by_height!(1: 1 2 3 4 5 6 7 8 9 10 11 12),
        (_, 12) => by_height!(2: 1 2 3 4 5 6 7 8 9 10 11 12),
        (1, _) => by_height!(1: 1 2 3 4 5 6),
        _ => by_height!(2: 1 2 3 4 5 6),
    }
}

#[inline(always)]
unsafe fn accumulate<S: Simd, const R: usize, const V: usize>(tile: GradientTile<'_>) {
    // SAFETY: the contract of `compute_gradient_tile`.
    unsafe {
        let mut sums = [[S::zero(); V]; R];
        let mut gradient = tile.gradient;
        for gather in tile.gathers {
            let source = tile.source.add(*gather);
            let mut panel = [S::zero(); V];
            for vector in 0..V {
                panel[vector] = S::load(gradient.add(vector * S::LANES));
            }
            gradient = gradient.add(V * S::LANES);
            for row in 0..R {
                let value = S::splat(*source.add(row));
                for vector in 0..V {
                    sums[row][vector] = S::mul_add(value, panel[vector], sums[row][vector]);
                }
            }
        }
        for row in 0..R {
            for vector in 0..V {
                let column = vector * S::LANES;
                let count = tile.columns - column;
                let to = tile.sum.add(row * tile.width + column);
                let mut value = sums[row][vector];
                if tile.keep {
                    value = S::add(S::load_up_to(to, count), value);
                }
                S::store_up_to(to, value, count);
            }
        }
    }
}
