//! The convolution in Winograd's form: patches transformed, multiplied point by point, transformed back.
//!
//! A tile's result depends on its own patch alone, so an image's result doesn't depend on its batch. Works on the calling
//! thread, a block of tiles at a time.

use std::cell::RefCell;

use super::transforms::{transform_output, transform_patch};
use super::{BLOCK, PATCH, POINTS, Site, TILE, Winograd, WinogradWeights};
use crate::nn::ops::buffers::AlignedBuffer;
use crate::nn::ops::convolution::{Epilogue, Residual};
use crate::nn::ops::geometry::Run;
use crate::nn::ops::microkernel::{Addend, Finish, MAX_ROWS, Tile, compute_tile};
use crate::nn::ops::simd::{Simd, Task, run};

thread_local! {
    static SCRATCH: RefCell<AlignedBuffer> = RefCell::default();
}

impl Winograd {
    /// Convolves whole images; as `convolution::multiply`.
    ///
    /// # Panics
    /// When lengths don't fit the layouts or the weights.
    pub fn convolve(
        &self,
        source: &[f32],
        weights: &WinogradWeights,
        target: &mut [f32],
        epilogue: Epilogue<'_>,
    ) {
        assert_eq!(
            (weights.depth, weights.width),
            (self.input.channels, self.output.channels),
            "other channels"
        );
        assert!(source.len().is_multiple_of(self.input.image_len()), "a whole number of images");
        let image_count = source.len() / self.input.image_len();
        assert_eq!(
            target.len(),
            image_count * self.output.image_len(),
            "the target belongs to another number of images"
        );
        assert!(epilogue.bias.is_none_or(|bias| bias.len() == weights.width), "one bias a channel");
        if let Residual::Images(images) = epilogue.residual {
            assert_eq!(images.len(), target.len(), "the residual has the target's layout");
        }
        let lanes = weights.kernel.lanes();
        let (depth, width) = (weights.depth.next_multiple_of(lanes), weights.width.next_multiple_of(lanes));
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.reserve_len(POINTS * BLOCK * (depth + width));
            let (patches, products) = scratch.split_at_mut(POINTS * BLOCK * depth);
            let products = &mut products[..POINTS * BLOCK * width];
            let task = Convolve {
                form: *self,
                source,
                weights,
                target,
                epilogue,
                patches,
                products,
                tile_total: image_count * self.tile_count(),
                depth,
                width,
            };
            // SAFETY: source, target and residual hold `image_count` images in their layouts, the bias one value a
            // channel, the weights 36 packed matrices of these channels; the scratch holds 36 × `BLOCK` rows of both.
            unsafe { run(weights.kernel, task) }
        });
    }
}

struct Convolve<'a> {
    form: Winograd,
    source: &'a [f32],
    weights: &'a WinogradWeights,
    target: &'a mut [f32],
    epilogue: Epilogue<'a>,
    /// Transformed patches: [point][tile of the block][channel, padded to whole vectors].
    patches: &'a mut [f32],
    /// Their products with the weights, likewise.
    products: &'a mut [f32],
    tile_total: usize,
    depth: usize,
    width: usize,
}

impl Task for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let mut first = 0;
        while first < self.tile_total {
            let count = (self.tile_total - first).min(BLOCK);
            for slot in 0..count {
                let (site, layout) = (self.form.site(first + slot), self.form.input);
                // SAFETY: the tile exists and the slot is inside the block; the scratch has `depth` floats for it.
                unsafe {
                    let to = self.patches.as_mut_ptr().add(slot * self.depth);
                    let (source, channels) = (self.source.as_ptr(), 0..layout.channels);
                    transform_patch::<S>(source, layout, site, channels, to, count * self.depth);
                }
            }
            // SAFETY: the block's `count` patches are transformed.
            unsafe { self.multiply_points::<S>(count) };
            for slot in 0..count {
                // SAFETY: as above, and the block's products are computed.
                unsafe { self.transform_product::<S>(self.form.site(first + slot), slot, count) };
            }
            first += count;
        }
    }
}

impl Convolve<'_> {
    /// The 36 matrix products of a block of `count` tiles.
    #[inline(always)]
    unsafe fn multiply_points<S: Simd>(&mut self, count: usize) {
        let runs = [Run { start: 0, len: self.weights.depth }];
        let tile_count = count.div_ceil(S::ROWS);
        let mut rows = [std::ptr::null::<f32>(); MAX_ROWS];
        let mut scatters = [0; MAX_ROWS];
        for point in 0..POINTS {
            for panel in &self.weights.panels {
                // SAFETY: rows, products and weights of this point and panel lie inside their buffers.
                unsafe {
                    let weights =
                        self.weights.values.as_ptr().add(point * self.weights.matrix_len + panel.start);
                    let patches = self.patches.as_ptr().add(point * count * self.depth);
                    let target = self.products.as_mut_ptr().add(point * count * self.width + panel.column);
                    let columns = panel.vectors * S::LANES;
                    let finish =
                        Finish { target, bias: std::ptr::null(), addend: Addend::None, relu: false, columns };
                    for tile in 0..tile_count {
                        let (from, to) = (tile * count / tile_count, (tile + 1) * count / tile_count);
                        for slot in from..to {
                            rows[slot - from] = patches.add(slot * self.depth);
                            scatters[slot - from] = slot * self.width;
                        }
                        let tile =
                            Tile { rows: &rows, scatters: &scatters, runs: &runs, panel: weights, finish };
                        compute_tile::<S>(tile, to - from, panel.vectors);
                    }
                }
            }
        }
    }

    /// Aᵀ m A of one tile with bias, residual and ReLU, all channels.
    #[inline(always)]
    unsafe fn transform_product<S: Simd>(&mut self, site: Site, slot: usize, count: usize) {
        let layout = self.form.output;
        let rows = (layout.height - site.y).min(TILE);
        let columns = (layout.width - site.x).min(TILE);
        let start = site.image * layout.image_len()
            + layout.row_start(0)
            + site.y * layout.pitch()
            + site.x * layout.channels;
        for channel in (0..layout.channels).step_by(S::LANES) {
            let lanes = (layout.channels - channel).min(S::LANES);
            // SAFETY: the scratch has `width` floats for each slot; pixels `row < rows`, `column < columns` of the tile
            // are inside the image, `lanes` channels from `channel` on, in target and residual; so many are in the bias.
            unsafe {
                let from = self.products.as_ptr().add(slot * self.width + channel);
                let mut half = [[S::zero(); PATCH]; TILE];
                for column in 0..PATCH {
                    let mut line = [S::zero(); PATCH];
                    for row in 0..PATCH {
                        line[row] = S::load(from.add((row * PATCH + column) * count * self.width));
                    }
                    let line = transform_output::<S>(line);
                    for row in 0..TILE {
                        half[row][column] = line[row];
                    }
                }
                let bias = match self.epilogue.bias {
                    Some(bias) => S::load_up_to(bias.as_ptr().add(channel), lanes),
                    None => S::zero(),
                };
                for row in 0..rows {
                    let line = transform_output::<S>(half[row]);
                    for column in 0..TILE {
                        if column < columns {
                            let at = start + row * layout.pitch() + column * layout.channels + channel;
                            self.finish_pixel::<S>(at, S::add(line[column], bias), lanes);
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// The instruction set is enabled; target and residual hold `lanes` floats at `at`.
    #[inline(always)]
    unsafe fn finish_pixel<S: Simd>(&mut self, at: usize, mut value: S::Vector, lanes: usize) {
        // SAFETY: passed on.
        unsafe {
            let to = self.target.as_mut_ptr().add(at);
            value = match self.epilogue.residual {
                Residual::None => value,
                Residual::Images(images) => S::add(value, S::load_up_to(images.as_ptr().add(at), lanes)),
                Residual::Target => S::add(value, S::load_up_to(to, lanes)),
            };
            if self.epilogue.relu {
                value = S::max(value, S::zero());
            }
            S::store_up_to(to, value, lanes);
        }
    }
}
