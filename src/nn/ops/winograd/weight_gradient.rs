//! The gradient of a 3 × 3 weight in Winograd's form: F(3×3, 4×4), the transpose of the forward form.
//!
//! For a block of tiles the patches and the tiles of the output's gradient are transformed; at each of the 36 points the
//! block's sum over tiles is one matrix product; the sums are transformed back and added to the weight's gradient. Blocks
//! are cut by the number of tiles alone and added in order. Works on the calling thread.

use std::cell::RefCell;
use std::ops::Range;

use super::transforms::{transform_gradient, transform_patch, transform_sum};
use super::{PATCH, POINTS, Site, TILE, Winograd};
use crate::nn::ops::Kernel;
use crate::nn::ops::buffers::AlignedBuffer;
use crate::nn::ops::gradient_tile::{GradientTile, compute_gradient_tile};
use crate::nn::ops::pack::{Panel, panels};
use crate::nn::ops::simd::{Simd, Task, run};

/// Most tiles whose transforms are multiplied together: more would leave the second-level cache, fewer would transform
/// sums back more often.
const BLOCK: usize = 64;

/// Floats that keep the planes of the points from falling into the same sets of a cache.
const PLANE_PADDING: usize = 16;

thread_local! {
    static SCRATCH: RefCell<AlignedBuffer> = RefCell::default();
}

/// The channels of a convolution whose part of the weight's gradient a call sums up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelPart {
    /// Channels of the input.
    pub inputs: Range<usize>,
    /// Channels of the output.
    pub outputs: Range<usize>,
}

impl Winograd {
    /// Adds the weight's gradient over all tiles of all images to `sum`: `[3, 3, inputs, outputs]` of `part`.
    ///
    /// `source` and `gradient`, that of the output, hold as many images in the form's layouts.
    ///
    /// # Panics
    /// When lengths don't fit the layouts or the part.
    pub fn add_weight_gradient(
        &self,
        kernel: Kernel,
        source: &[f32],
        gradient: &[f32],
        part: &ChannelPart,
        sum: &mut [f32],
    ) {
        let ChannelPart { inputs, outputs } = part.clone();
        assert!(inputs.start <= inputs.end && inputs.end <= self.input.channels, "no such input channels");
        assert!(outputs.start <= outputs.end && outputs.end <= self.output.channels, "no such outputs");
        assert_eq!(sum.len(), 9 * inputs.len() * outputs.len(), "the sum has another size");
        assert!(source.len().is_multiple_of(self.input.image_len()), "a whole number of images");
        let image_count = source.len() / self.input.image_len();
        assert_eq!(
            gradient.len(),
            image_count * self.output.image_len(),
            "the gradient belongs to another number of images"
        );
        let lanes = kernel.lanes();
        let depth = inputs.len().next_multiple_of(lanes);
        let patch_plane = BLOCK * depth + PLANE_PADDING;
        let gradient_plane = BLOCK * outputs.len().next_multiple_of(lanes) + PLANE_PADDING;
        let sum_plane = inputs.len() * 2 * lanes + PLANE_PADDING;
        let panels = panels(kernel, BLOCK, outputs.len());
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.reserve_len(POINTS * (patch_plane + gradient_plane + sum_plane));
            let (patches, rest) = scratch.split_at_mut(POINTS * patch_plane);
            let (gradients, sums) = rest.split_at_mut(POINTS * gradient_plane);
            let task = AddWeightGradient {
                form: *self,
                tile_total: image_count * self.tile_count(),
                source,
                gradient,
                inputs,
                outputs,
                panels: &panels,
                sum,
                patches,
                gradients,
                sums,
                depth,
                planes: [patch_plane, gradient_plane, sum_plane],
            };
            // SAFETY: source and gradient hold `image_count` images in the form's layouts, which have these channels; the
            // sum has 9 rows of `outputs` an input; the scratch holds 36 planes of `BLOCK` patches, as many gradients
            // in panels, and one panel of sums.
            unsafe { run(kernel, task) }
        });
    }
}

struct AddWeightGradient<'a> {
    form: Winograd,
    tile_total: usize,
    source: &'a [f32],
    gradient: &'a [f32],
    inputs: Range<usize>,
    outputs: Range<usize>,
    panels: &'a [Panel],
    sum: &'a mut [f32],
    /// Transformed patches: [point][tile of the block][input, padded to whole vectors].
    patches: &'a mut [f32],
    /// Transformed gradients: [point][panel][tile of the block][column].
    gradients: &'a mut [f32],
    /// Sums over a block for one panel: [point][input][column].
    sums: &'a mut [f32],
    /// Inputs, padded to whole vectors.
    depth: usize,
    /// Floats from a point to the next in patches, gradients and sums.
    planes: [usize; 3],
}

impl Task for AddWeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let mut gathers = [0; BLOCK];
        for (slot, gather) in gathers.iter_mut().enumerate() {
            *gather = slot * self.depth;
        }
        let block_count = self.tile_total.div_ceil(BLOCK);
        for block in 0..block_count {
            let bound = |block: usize| block * self.tile_total / block_count;
            let (first, end) = (bound(block), bound(block + 1));
            // SAFETY: tiles `first..end` exist and are at most `BLOCK`; a panel's products use what was transformed for
            // these tiles, its sums what was multiplied.
            unsafe {
                for (slot, tile) in (first..end).enumerate() {
                    let site = self.form.site(tile);
                    let to = self.patches.as_mut_ptr().add(slot * self.depth);
                    let (source, inputs) = (self.source.as_ptr(), self.inputs.clone());
                    transform_patch::<S>(source, self.form.input, site, inputs, to, self.planes[0]);
                    self.transform_gradient::<S>(site, slot);
                }
                for panel in self.panels {
                    self.multiply_points::<S>(panel, &gathers[..end - first]);
                    self.transform_sums::<S>(panel);
                }
            }
        }
    }
}

impl AddWeightGradient<'_> {
    /// A y Aᵀ of one tile of the output's gradient, into its panels.
    ///
    /// # Safety
    /// The instruction set is enabled, the tile exists, and `slot < BLOCK`.
    #[inline(always)]
    unsafe fn transform_gradient<S: Simd>(&mut self, site: Site, slot: usize) {
        let layout = self.form.output;
        let rows = (layout.height - site.y).min(TILE);
        let columns = (layout.width - site.x).min(TILE);
        let start = site.image * layout.image_len()
            + layout.row_start(0)
            + site.y * layout.pitch()
            + site.x * layout.channels
            + self.outputs.start;
        for panel in self.panels {
            for vector in 0..panel.vectors {
                let first = vector * S::LANES;
                let lanes = (panel.columns - first).min(S::LANES);
                // SAFETY: pixels `row < rows`, `column < columns` of the tile are inside the image with `lanes` channels
                // of this vector; each plane has a row of the panel for every slot.
                unsafe {
                    let mut half = [[S::zero(); TILE]; PATCH];
                    for column in 0..columns {
                        let at = start + column * layout.channels + panel.column + first;
                        let from = self.gradient.as_ptr().add(at);
                        let mut line = [S::zero(); TILE];
                        for row in 0..TILE {
                            if row < rows {
                                line[row] = S::load_up_to(from.add(row * layout.pitch()), lanes);
                            }
                        }
                        let line = transform_gradient::<S>(line);
                        for row in 0..PATCH {
                            half[row][column] = line[row];
                        }
                    }
                    let to = panel.start + slot * panel.vectors * S::LANES + first;
                    let to = self.gradients.as_mut_ptr().add(to);
                    for row in 0..PATCH {
                        let line = transform_gradient::<S>(half[row]);
                        for column in 0..PATCH {
                            S::store(to.add((row * PATCH + column) * self.planes[1]), line[column]);
                        }
                    }
                }
            }
        }
    }

    /// The 36 products of all inputs with a panel, summed over the block's tiles.
    ///
    /// # Safety
    /// The instruction set is enabled, and the block's tiles are transformed.
    #[inline(always)]
    unsafe fn multiply_points<S: Simd>(&mut self, panel: &Panel, gathers: &[usize]) {
        let width = panel.vectors * S::LANES;
        let tile_count = self.inputs.len().div_ceil(S::ROWS);
        for point in 0..POINTS {
            for tile in 0..tile_count {
                let bound = |tile: usize| tile * self.inputs.len() / tile_count;
                let (from, to) = (bound(tile), bound(tile + 1));
                // SAFETY: inputs `from..to` of every gathered patch, the panel's rows and the sums of these inputs lie
                // inside the planes of the point.
                unsafe {
                    let source = self.patches.as_ptr().add(point * self.planes[0] + from);
                    let gradient = self.gradients.as_ptr().add(point * self.planes[1] + panel.start);
                    let sum = self.sums.as_mut_ptr().add(point * self.planes[2] + from * width);
                    let tile =
                        GradientTile { source, gathers, gradient, sum, width, columns: width, keep: false };
                    compute_gradient_tile::<S>(tile, to - from, panel.vectors);
                }
            }
        }
    }

    /// Gᵀ m G of a panel's sums, added to the weight's gradient.
    ///
    /// # Safety
    /// The instruction set is enabled, and the panel's sums are computed.
    #[inline(always)]
    unsafe fn transform_sums<S: Simd>(&mut self, panel: &Panel) {
        let plane = self.inputs.len() * self.outputs.len();
        for input in 0..self.inputs.len() {
            for vector in 0..panel.vectors {
                let first = vector * S::LANES;
                let lanes = (panel.columns - first).min(S::LANES);
                // SAFETY: the vector lies inside the sums of every point, and its first `lanes` columns inside the
                // weight's gradient at every tap.
                unsafe {
                    let from = (input * panel.vectors + vector) * S::LANES;
                    let from = self.sums.as_ptr().add(from);
                    let mut half = [[S::zero(); PATCH]; 3];
                    for column in 0..PATCH {
                        let mut line = [S::zero(); PATCH];
                        for row in 0..PATCH {
                            line[row] = S::load(from.add((row * PATCH + column) * self.planes[2]));
                        }
                        let line = transform_sum::<S>(line);
                        for row in 0..3 {
                            half[row][column] = line[row];
                        }
                    }
                    let to = input * self.outputs.len() + panel.column + first;
                    let to = self.sum.as_mut_ptr().add(to);
                    for row in 0..3 {
                        let line = transform_sum::<S>(half[row]);
                        for column in 0..3 {
                            let to = to.add((row * 3 + column) * plane);
                            S::store_up_to(to, S::add(S::load_up_to(to, lanes), line[column]), lanes);
                        }
                    }
                }
            }
        }
    }
}
