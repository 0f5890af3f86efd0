//! The register tile of the product: up to `ROWS` gathered rows times one panel of the packed matrix.
//!
//! All accumulators stay in registers while the depth is walked once; bias, addend and ReLU are applied before the one
//! store. Each output value adds its terms in the order of the depth, whatever the tile's height, so a row's result
//! doesn't depend on its neighbours.

use super::geometry::Run;
use super::simd::Simd;

/// The tallest tile of any instruction set.
pub(super) const MAX_ROWS: usize = 12;

/// What is added to a product before it is stored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Addend {
    /// Nothing.
    #[default]
    None,
    /// The float at the same distance from the target, this far away (in floats) from it.
    At(*const f32),
    /// What the target holds already.
    Target,
}

/// What happens to a tile's accumulators when the depth is done.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    /// The first float of the target.
    pub target: *mut f32,
    /// The panel's first bias, or null.
    pub bias: *const f32,
    pub addend: Addend,
    pub relu: bool,
    /// Columns of the panel that are stored.
    pub columns: usize,
}

/// The operands of one tile.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// The first float of each row's window.
    pub rows: &'a [*const f32; MAX_ROWS],
    /// Where each row's result goes, relative to the target.
    pub scatters: &'a [usize; MAX_ROWS],
    pub runs: &'a [Run],
    pub panel: *const f32,
    pub finish: Finish,
}

/// Computes one tile of `height` rows and `vectors` vectors.
///
/// # Safety
/// The instruction set is enabled; `height <= S::ROWS` and the first `height` rows can be read over all `runs`; `panel`
/// holds `vectors · LANES` floats for each float of the runs; `target`, and the addend, hold `columns` floats at each
/// scatter; the bias, if any, holds `columns` floats; nobody else writes or reads the target meanwhile.
#[inline(always)]
pub(super) unsafe fn compute_tile<S: Simd>(tile: Tile<'_>, height: usize, vectors: usize) {
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
unsafe fn accumulate<S: Simd, const R: usize, const V: usize>(tile: Tile<'_>) {
    // SAFETY: the contract of `compute_tile`: every row can be read at `run.start..run.start + run.len`, and the panel
    // holds `V · LANES` floats for each step, which `weights` walks through once.
    let sums = unsafe {
        let mut sums = [[S::zero(); V]; R];
        let mut weights = tile.panel;
        let rows: [*const f32; R] = std::array::from_fn(|row| tile.rows[row]);
        for run in tile.runs {
            for step in run.start..run.start + run.len {
                let panel: [S::Vector; V] = load_row::<S, V>(weights);
                weights = weights.add(V * S::LANES);
                for row in 0..R {
                    let value = S::splat(*rows[row].add(step));
                    for vector in 0..V {
                        sums[row][vector] = S::mul_add(value, panel[vector], sums[row][vector]);
                    }
                }
            }
        }
        sums
    };
    // SAFETY: passed on.
    unsafe { finish_rows::<S, R, V>(&sums, tile.scatters, tile.finish) }
}

#[inline(always)]
unsafe fn load_row<S: Simd, const V: usize>(from: *const f32) -> [S::Vector; V] {
    // SAFETY: the caller's `from` holds `V · LANES` floats.
    unsafe {
        let mut row = [S::zero(); V];
        for (vector, slot) in row.iter_mut().enumerate() {
            *slot = S::load(from.add(vector * S::LANES));
        }
        row
    }
}

#[inline(always)]
unsafe fn finish_rows<S: Simd, const R: usize, const V: usize>(
    sums: &[[S::Vector; V]; R],
    scatters: &[usize; MAX_ROWS],
    finish: Finish,
) {
    for vector in 0..V {
        let column = vector * S::LANES;
        let count = finish.columns.saturating_sub(column);
        if count == 0 {
            return;
        }
        // SAFETY: the contract of `compute_tile`: bias, addend and target hold `columns` floats at these places, and
        // no more than `columns - column` of them are touched.
        unsafe {
            let bias =
                if finish.bias.is_null() { S::zero() } else { S::load_up_to(finish.bias.add(column), count) };
            for row in 0..R {
                let offset = scatters[row] + column;
                let to = finish.target.add(offset);
                let mut value = S::add(sums[row][vector], bias);
                value = match finish.addend {
                    Addend::None => value,
                    Addend::At(from) => S::add(value, S::load_up_to(from.add(offset), count)),
                    Addend::Target => S::add(value, S::load_up_to(to, count)),
                };
                if finish.relu {
                    value = S::max(value, S::zero());
                }
                S::store_up_to(to, value, count);
            }
        }
    }
}
