//! The five transforms of F(4×4, 3×3) and its gradient, on vectors of channels.
//!
//! Points are 0, ±1, ±2 and ∞ throughout. The gradient of a product takes the transposes of what the product took: A for
//! the output's gradient, Gᵀ for the weight's. A two-dimensional transform applies one to each column, then to each row.

use super::{PATCH, Site, TILE};
use crate::nn::ops::geometry::Layout;
use crate::nn::ops::simd::Simd;

/// Bᵀ d B of one patch for `channels`, written `plane` floats apart a point, padded to whole vectors of channels.
///
/// # Safety
/// The instruction set is enabled; `source` holds the site's image in `layout`, whose border is at least 1 and whose
/// channels cover `channels`; `to` holds a plane a point, and in each the channels in whole vectors.
#[inline(always)]
pub(super) unsafe fn transform_patch<S: Simd>(
    source: *const f32,
    layout: Layout,
    site: Site,
    channels: std::ops::Range<usize>,
    to: *mut f32,
    plane: usize,
) {
    // The patch starts one pixel up and left of the tile; pixels beyond the padding count as zeros.
    let rows = (layout.height + 2 - site.y).min(PATCH);
    let columns = (layout.width + 2 - site.x).min(PATCH);
    let above = layout.row_start(0) + site.image * layout.image_len() + site.y * layout.pitch();
    let start = above - layout.pitch() - layout.channels + site.x * layout.channels;
    for first in (0..channels.len()).step_by(S::LANES) {
        let lanes = (channels.len() - first).min(S::LANES);
        // SAFETY: row `row < rows` and column `column < columns` of the patch are stored pixels of the image (with a
        // border of at least 1), `lanes` channels from `first` of `channels` on; so `to` is by the contract.
        unsafe {
            let mut half = [[S::zero(); PATCH]; PATCH];
            for column in 0..PATCH {
                let mut line = [S::zero(); PATCH];
                if column < columns {
                    let from = source.add(start + column * layout.channels + channels.start + first);
                    for row in 0..PATCH {
                        if row < rows {
                            line[row] = S::load_up_to(from.add(row * layout.pitch()), lanes);
                        }
                    }
                }
                let line = transform_input::<S>(line);
                for row in 0..PATCH {
                    half[row][column] = line[row];
                }
            }
            for row in 0..PATCH {
                let line = transform_input::<S>(half[row]);
                for column in 0..PATCH {
                    S::store(to.add((row * PATCH + column) * plane + first), line[column]);
                }
            }
        }
    }
}

/// Bᵀ times a line of a patch.
#[inline(always)]
pub(super) unsafe fn transform_input<S: Simd>(d: [S::Vector; PATCH]) -> [S::Vector; PATCH] {
    // SAFETY: the caller has enabled the instruction set.
    unsafe {
        let (four, five, two) = (S::splat(4.0), S::splat(-5.0), S::splat(2.0));
        let minus_four = S::splat(-4.0);
        let even = S::mul_add(d[2], minus_four, d[4]);
        let odd = S::mul_add(d[1], minus_four, d[3]);
        let even_half = S::sub(d[4], d[2]);
        let odd_half = S::sub(d[3], d[1]);
        [
            S::mul_add(d[0], four, S::mul_add(d[2], five, d[4])),
            S::add(even, odd),
            S::sub(even, odd),
            S::mul_add(odd_half, two, even_half),
            S::mul_add(odd_half, S::splat(-2.0), even_half),
            S::mul_add(d[1], four, S::mul_add(d[3], five, d[5])),
        ]
    }
}

/// Aᵀ times a line of products.
#[inline(always)]
pub(super) unsafe fn transform_output<S: Simd>(m: [S::Vector; PATCH]) -> [S::Vector; TILE] {
    // SAFETY: the caller has enabled the instruction set.
    unsafe {
        let (sum, difference) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (far_sum, far_difference) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(S::add(m[0], sum), far_sum),
            S::mul_add(far_difference, S::splat(2.0), difference),
            S::mul_add(far_sum, S::splat(4.0), sum),
            S::add(S::mul_add(far_difference, S::splat(8.0), difference), m[5]),
        ]
    }
}
/// G times a line of a kernel.
#[inline(always)]
pub(super) unsafe fn transform_kernel<S: Simd>(g: [S::Vector; 3]) -> [S::Vector; PATCH] {
    // SAFETY: the caller has enabled the instruction set.
    unsafe {
        let outer = scaled::<S>(S::add(g[0], g[2]), -1.0 / 6.0);
        let middle = scaled::<S>(g[1], -1.0 / 6.0);
        let far = S::mul_add(g[2], S::splat(1.0 / 6.0), scaled::<S>(g[0], 1.0 / 24.0));
        let far_middle = scaled::<S>(g[1], 1.0 / 12.0);
        [
            scaled::<S>(g[0], 0.25),
            S::add(outer, middle),
            S::sub(outer, middle),
            S::add(far, far_middle),
            S::sub(far, far_middle),
            g[2],
        ]
    }
}

/// `value · factor`.
#[inline(always)]
unsafe fn scaled<S: Simd>(value: S::Vector, factor: f32) -> S::Vector {
    // SAFETY: the caller has enabled the instruction set.
    unsafe { S::mul_add(value, S::splat(factor), S::zero()) }
}

/// A times a line of an output tile's gradient.
#[inline(always)]
pub(super) unsafe fn transform_gradient<S: Simd>(g: [S::Vector; TILE]) -> [S::Vector; PATCH] {
    // SAFETY: the caller has enabled the instruction set.
    unsafe {
        let four = S::splat(4.0);
        let (even, odd) = (S::add(g[0], g[2]), S::add(g[1], g[3]));
        let (far_even, far_odd) = (S::mul_add(g[2], four, g[0]), S::mul_add(g[3], four, g[1]));
        [
            g[0],
            S::add(even, odd),
            S::sub(even, odd),
            S::mul_add(far_odd, S::splat(2.0), far_even),
            S::mul_add(far_odd, S::splat(-2.0), far_even),
            g[3],
        ]
    }
}

/// Gᵀ times a line of sums.
#[inline(always)]
pub(super) unsafe fn transform_sum<S: Simd>(m: [S::Vector; PATCH]) -> [S::Vector; 3] {
    // SAFETY: the caller has enabled the instruction set.
    unsafe {
        let (sum, difference) = (S::add(m[1], m[2]), S::sub(m[2], m[1]));
        let (far_sum, far_difference) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        let (sixth, minus_sixth) = (S::splat(1.0 / 6.0), S::splat(-1.0 / 6.0));
        let near = scaled::<S>(m[0], 0.25);
        [
            S::mul_add(far_sum, S::splat(1.0 / 24.0), S::mul_add(sum, minus_sixth, near)),
            S::mul_add(far_difference, S::splat(1.0 / 12.0), scaled::<S>(difference, 1.0 / 6.0)),
            S::mul_add(far_sum, sixth, S::mul_add(sum, minus_sixth, m[5])),
        ]
    }
}
