//! Products of gathered rows with a packed matrix: convolution, its input gradient, and plain matrix products.
//!
//! One call works through a span of images on the calling thread; whoever calls splits a batch among threads. The
//! panels are the outer loop and the span's rows the inner one, so a panel stays in the cache while it is used.

use super::geometry::Window;
use super::microkernel::{Addend, Finish, MAX_ROWS, Tile, compute_tile};
use super::pack::{PackedMatrix, Panel};
use super::simd::{Simd, Task, run};

/// What is added to the product, before the ReLU.
#[derive(Clone, Copy, Debug, Default)]
pub enum Residual<'a> {
    /// Nothing.
    #[default]
    None,
    /// Images in the target's layout.
    Images(&'a [f32]),
    /// What the target already holds.
    Target,
}

/// What happens to a product on its way to memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One value a column.
    pub bias: Option<&'a [f32]>,
    /// Added after the bias.
    pub residual: Residual<'a>,
    /// Whether negative results become 0.
    pub relu: bool,
}

/// `target[row] = relu(gather(source, row) · matrix + bias + residual)` for every row of every image in `source`.
///
/// `source` holds whole images in the window's source layout, `target` as many in its target layout; floats of the
/// target that belong to no row are left alone.
///
/// # Panics
/// When lengths don't fit the window or the matrix.
pub fn multiply(
    source: &[f32],
    window: &Window,
    matrix: &PackedMatrix,
    target: &mut [f32],
    epilogue: Epilogue<'_>,
) {
    let image_count = window.image_count(source, target.len(), matrix.width());
    assert_eq!(window.depth(), matrix.depth(), "the matrix has another depth than the window");
    assert!(epilogue.bias.is_none_or(|bias| bias.len() == matrix.width()), "one bias a column");
    if let Residual::Images(images) = epilogue.residual {
        assert_eq!(images.len(), target.len(), "the residual has the target's layout");
    }
    // SAFETY: `Window` guarantees that each gathered run ends inside its source image, and `image_count` that `source`
    // and `target` are whole images and that a row of `width` floats at each scatter ends inside its target image; the
    // matrix has one packed row for each float of the runs, and bias and residual have the lengths asserted above.
    unsafe {
        run(matrix.kernel(), Multiply { source, window, matrix, target, epilogue, image_count });
    }
}

struct Multiply<'a> {
    source: &'a [f32],
    window: &'a Window,
    matrix: &'a PackedMatrix,
    target: &'a mut [f32],
    epilogue: Epilogue<'a>,
    image_count: usize,
}

impl Task for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for panel in self.matrix.panels() {
            let finish = Finish {
                target: self.target.as_mut_ptr().wrapping_add(panel.column),
                bias: self.epilogue.bias.map_or(std::ptr::null(), |bias| bias[panel.column..].as_ptr()),
                addend: match self.epilogue.residual {
                    Residual::None => Addend::None,
                    Residual::Images(images) => Addend::At(images.as_ptr().wrapping_add(panel.column)),
                    Residual::Target => Addend::Target,
                },
                relu: self.epilogue.relu,
                columns: panel.columns,
            };
            // SAFETY: passed on from `multiply`; `finish` is the target moved to the panel's first column.
            unsafe {
                multiply_panel::<S>(self.source, self.window, self.matrix, panel, finish, self.image_count);
            }
        }
    }
}

/// Walks one panel over all rows, in tiles of even height.
///
/// # Safety
/// As in [`multiply`], with `finish` at the panel's first column.
#[inline(always)]
unsafe fn multiply_panel<S: Simd>(
    source: &[f32],
    window: &Window,
    matrix: &PackedMatrix,
    panel: &Panel,
    finish: Finish,
    image_count: usize,
) {
    let (gathers, scatters) = (window.gathers(), window.scatters());
    let total = image_count * gathers.len();
    let tile_count = total.div_ceil(S::ROWS);
    let mut rows = [std::ptr::null::<f32>(); MAX_ROWS];
    let mut targets = [0; MAX_ROWS];
    let (mut row, mut image_start, mut target_start) = (0, 0, 0);
    for tile in 0..tile_count {
        let height = (tile + 1) * total / tile_count - tile * total / tile_count;
        for slot in 0..height {
            // SAFETY: `row < gathers.len() == scatters.len()`, and each gather lies inside the image at `image_start`.
            unsafe {
                rows[slot] = source.as_ptr().add(image_start + *gathers.get_unchecked(row) as usize);
                targets[slot] = target_start + *scatters.get_unchecked(row) as usize;
            }
            row += 1;
            if row == gathers.len() {
                row = 0;
                image_start += window.source_len();
                target_start += window.target_len();
            }
        }
        // SAFETY: the rows and scatters just gathered are inside their images, the panel belongs to the matrix.
        unsafe {
            let weights = matrix.values().as_ptr().add(panel.start);
            let tile = Tile { rows: &rows, scatters: &targets, runs: window.runs(), panel: weights, finish };
            compute_tile::<S>(tile, height, panel.vectors);
        }
    }
}
