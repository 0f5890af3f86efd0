//! How many votes a project may still ask for, and how they are shared out.

pub(super) use crate::labeling::budget::free_votes;

/// A share of a batch in whole items, to the nearest.
pub(super) fn share_of(count: u32, fraction: f64) -> u32 {
    // Rounding a product of a u32 and a fraction up to 1 stays within u32.
    (f64::from(count) * fraction).round().clamp(0.0, f64::from(count)) as u32
}
