//! Batch norm in training: moments, application fused with residual and ReLU, and the backward of both.
//!
//! Each function works through a span of images on the calling thread, so that a caller can run it while the span is
//! still in the cache from the convolution before. The convolution's output and all gradients are dense; activations
//! have a border.

mod application;
mod gradient;
mod moments;

use super::geometry::Layout;
use super::simd::Simd;

pub use application::{Application, apply};
pub use gradient::{GradientLine, GradientSums, apply_gradient, gate_and_sum};
pub use moments::{Moments, moments};

/// Independent sums a channel, which hides the latency of an addition.
const STREAMS: usize = 4;

/// The widest vector, for spilled sums.
const MAX_LANES: usize = 16;

/// The lanes of several sums, added up in f64.
#[inline(always)]
unsafe fn total<S: Simd>(streams: &[S::Vector; STREAMS]) -> [f64; MAX_LANES] {
    let mut sum = [0.0; MAX_LANES];
    for stream in streams {
        let mut lanes = [0.0_f32; MAX_LANES];
        // SAFETY: `lanes` has room for the widest vector.
        unsafe { S::store(lanes.as_mut_ptr(), *stream) };
        for (sum, lane) in sum.iter_mut().zip(lanes) {
            *sum += f64::from(lane);
        }
    }
    sum
}

/// Rows of pixels to walk through: one of the whole image where nothing has a border.
fn rows(layout: Layout) -> (usize, usize) {
    if layout.border == 0 { (1, layout.pixel_count()) } else { (layout.height, layout.width) }
}

fn check_images(dense: &[f32], layout: Layout, bordered_len: usize) -> usize {
    let dense_len = layout.with_border(0).image_len();
    assert!(dense.len().is_multiple_of(dense_len), "a whole number of images");
    assert_eq!(bordered_len, dense.len() / dense_len * layout.image_len(), "image counts differ");
    dense.len() / dense_len
}

#[cfg(test)]
mod tests {
    /// Values in [-1, 1) from a small linear congruence.
    pub(super) fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }
}
