//! The gradient of a product's matrix: gathered rows, transposed, times the gradient of the output.
//!
//! For a block of pixels the output's gradient is packed into panels once; a register tile of (depth rows) × (panel)
//! then walks over the block's pixels and is added to the sum. Within a call pixels are added in order; whoever splits a
//! batch adds the parts in a fixed order too.

use std::cell::RefCell;
use std::ops::Range;

use super::Kernel;
use super::buffers::AlignedBuffer;
use super::geometry::Window;
use super::gradient_tile::{GradientTile, compute_gradient_tile};
use super::pack::{Panel, panels};
use super::simd::{Simd, Task, run};

/// Pixels of a block: a panel of them stays in the first-level cache.
const BLOCK: usize = 256;

thread_local! {
    static PACKED: RefCell<AlignedBuffer> = RefCell::default();
}

/// The output's gradient, as images in the layout that the window scatters into, with `width` channels a pixel.
#[derive(Clone, Copy, Debug)]
pub struct OutputGradient<'a> {
    /// Whole images.
    pub images: &'a [f32],
    /// Channels.
    pub width: usize,
}

/// The part of the row-major `[depth, width]` matrix (HWIO for a convolution) that a call sums up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Rows of the matrix.
    pub depths: Range<usize>,
    /// Columns of the matrix.
    pub columns: Range<usize>,
}

/// `sum[depth, column] += gather(source, row)[depth] · gradient[row, column]` over all rows of all images, for the
/// depths and columns of `part`, which is what `sum` holds.
///
/// # Panics
/// When lengths don't fit the window.
pub fn add_weight_gradient(
    kernel: Kernel,
    source: &[f32],
    window: &Window,
    gradient: OutputGradient<'_>,
    part: &Part,
    sum: &mut [f32],
) {
    let image_count = window.image_count(source, gradient.images.len(), gradient.width);
    let Part { depths, columns } = part.clone();
    assert!(depths.start <= depths.end && depths.end <= window.depth(), "depths outside the matrix");
    assert!(columns.start <= columns.end && columns.end <= gradient.width, "columns outside the matrix");
    assert_eq!(sum.len(), depths.len() * columns.len(), "the sum has another size");
    let panels = panels(kernel, BLOCK, columns.len());
    let packed_len = BLOCK * columns.len().next_multiple_of(kernel.lanes());
    PACKED.with_borrow_mut(|packed| {
        packed.reserve_len(packed_len);
        let task = AddWeightGradient {
            source,
            window,
            gradient,
            depths,
            columns,
            sum,
            image_count,
            panels: &panels,
            packed,
        };
        // SAFETY: `Window` and `image_count` guarantee that gathered runs and scattered rows of `width` floats lie
        // inside their images; `sum` has one row of `columns.len()` floats for each depth; `packed` holds `BLOCK` rows
        // of every panel.
        unsafe { run(kernel, task) }
    });
}

struct AddWeightGradient<'a> {
    source: &'a [f32],
    window: &'a Window,
    gradient: OutputGradient<'a>,
    depths: Range<usize>,
    columns: Range<usize>,
    sum: &'a mut [f32],
    image_count: usize,
    panels: &'a [Panel],
    packed: &'a mut [f32],
}

impl Task for AddWeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let rows = self.window.row_count();
        let total = self.image_count * rows;
        let mut gathers = [0; BLOCK];
        let mut first = 0;
        while first < total {
            let count = (total - first).min(BLOCK);
            for (slot, pixel) in (first..first + count).enumerate() {
                let (image, row) = (pixel / rows, pixel % rows);
                gathers[slot] = image * self.window.source_len() + self.window.gathers()[row] as usize;
                let start = image * self.window.target_len() + self.window.scatters()[row] as usize;
                // SAFETY: the row of `width` floats at `start` lies inside the gradient, and `slot < BLOCK`.
                unsafe { self.pack_pixel::<S>(start, slot) };
            }
            // SAFETY: `gathers[..count]` are starts of windows inside `source`.
            unsafe { self.add_block::<S>(&gathers[..count]) };
            first += count;
        }
    }
}

impl AddWeightGradient<'_> {
    /// Copies one pixel's gradient into its place of every panel, zero-filled past the last channel.
    #[inline(always)]
    unsafe fn pack_pixel<S: Simd>(&mut self, start: usize, slot: usize) {
        for panel in self.panels {
            for vector in 0..panel.vectors {
                let column = vector * S::LANES;
                // SAFETY: the panel's columns lie inside the pixel, and slot `slot` of the panel inside `packed`.
                unsafe {
                    let from =
                        self.gradient.images.as_ptr().add(start + self.columns.start + panel.column + column);
                    let to =
                        self.packed.as_mut_ptr().add(panel.start + slot * panel.vectors * S::LANES + column);
                    S::store(to, S::load_up_to(from, panel.columns - column));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_block<S: Simd>(&mut self, gathers: &[usize]) {
        for panel in self.panels {
            let mut depth = 0;
            for run in self.window.runs() {
                let wanted = self.depths.start.max(depth)..self.depths.end.min(depth + run.len);
                let tile_count = wanted.len().div_ceil(S::ROWS);
                for tile in 0..tile_count {
                    let bound = |tile: usize| wanted.start + tile * wanted.len() / tile_count;
                    let (from, to) = (bound(tile), bound(tile + 1));
                    // SAFETY: depths `from..to` lie inside this run, so `run.start + from - depth` floats after each
                    // gather there are `to - from` more; the panel's block is packed; the sum has these rows.
                    unsafe {
                        let source = self.source.as_ptr().add(run.start + from - depth);
                        let gradient = self.packed.as_ptr().add(panel.start);
                        let width = self.columns.len();
                        let row = (from - self.depths.start) * width + panel.column;
                        let sum = self.sum.as_mut_ptr().add(row);
                        let columns = panel.columns;
                        let tile =
                            GradientTile { source, gathers, gradient, sum, width, columns, keep: true };
                        compute_gradient_tile::<S>(tile, to - from, panel.vectors);
                    }
                }
                depth += run.len;
            }
        }
    }
}
