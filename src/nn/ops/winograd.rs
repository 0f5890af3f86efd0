//! Winograd's F(4×4, 3×3) for stride-1 convolutions with enough channels: a quarter of the multiplications.
//!
//! A 6 × 6 patch of the input and the 3 × 3 kernel are transformed (Bᵀ d B and G g Gᵀ), multiplied channel-wise as 36
//! independent matrix products, and transformed back to 4 × 4 outputs (Aᵀ m A). Lavin & Gray 2015 (arXiv:1509.09308).
//! Its rounding error is some ten times that of the direct sum; the tests bound it. A tile's result depends on its own
//! patch alone, so an image's result doesn't depend on its batch. Works on the calling thread.

use std::cell::RefCell;

use super::Kernel;
use super::buffers::AlignedBuffer;
use super::convolution::{Epilogue, Residual};
use super::geometry::{Geometry, Layout, Run};
use super::microkernel::{Addend, Finish, MAX_ROWS, Tile, compute_tile};
use super::pack::{Panel, panels};
use super::simd::{Simd, Task, run};

/// Side of the input patch.
const PATCH: usize = 6;

/// Side of the output tile.
const TILE: usize = 4;

/// Products a tile consists of.
const POINTS: usize = PATCH * PATCH;

/// Tiles that are transformed and multiplied together: their transforms stay in the second-level cache.
pub const BLOCK: usize = 64;

/// Fewest channels for which the transforms pay.
const CHANNELS_MIN: usize = 32;

/// Largest weight whose transform, four times as large, still pays to be streamed.
const WEIGHT_PAIRS_MAX: usize = 256 * 256;

thread_local! {
    static SCRATCH: RefCell<AlignedBuffer> = RefCell::default();
}

/// A convolution's place in Winograd form: layouts and tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winograd {
    input: Layout,
    output: Layout,
    tile_rows: usize,
    tile_columns: usize,
}

impl Winograd {
    /// Whether a convolution is one that this form serves, and faster than the direct sum.
    pub fn pays(geometry: &Geometry) -> bool {
        let (inputs, outputs) = (geometry.in_channels, geometry.out_channels);
        (geometry.kernel, geometry.stride, geometry.padding) == (3, 1, 1)
            && inputs.min(outputs) >= CHANNELS_MIN
            && inputs * outputs <= WEIGHT_PAIRS_MAX
    }

    /// The form of a 3 × 3 convolution with stride 1 and padding 1, from `input` images to `output` images.
    ///
    /// # Panics
    /// For another convolution, or when a layout has another shape or the input no border.
    pub fn new(geometry: &Geometry, input: Layout, output: Layout) -> Self {
        assert_eq!(
            (geometry.kernel, geometry.stride, geometry.padding),
            (3, 1, 1),
            "not a 3 × 3 convolution of stride 1"
        );
        assert_eq!(input.with_border(0), geometry.input(), "the input's layout has another shape");
        assert_eq!(output.with_border(0), geometry.output(), "the output's layout has another shape");
        assert!(input.border >= 1, "the input's border is narrower than the padding");
        let (tile_rows, tile_columns) = (output.height.div_ceil(TILE), output.width.div_ceil(TILE));
        Self { input, output, tile_rows, tile_columns }
    }

    /// Tiles of an image.
    pub fn tile_count(&self) -> usize {
        self.tile_rows * self.tile_columns
    }

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

/// A tile's place: where its image starts, and its first output pixel.
#[derive(Clone, Copy)]
struct Site {
    image: usize,
    y: usize,
    x: usize,
}

impl Task for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let mut first = 0;
        while first < self.tile_total {
            let count = (self.tile_total - first).min(BLOCK);
            for slot in 0..count {
                // SAFETY: the tile exists and the slot is inside the block.
                unsafe { self.transform_patch::<S>(self.site(first + slot), slot, count) };
            }
            // SAFETY: the block's `count` patches are transformed.
            unsafe { self.multiply_points::<S>(count) };
            for slot in 0..count {
                // SAFETY: as above, and the block's products are computed.
                unsafe { self.transform_product::<S>(self.site(first + slot), slot, count) };
            }
            first += count;
        }
    }
}

impl Convolve<'_> {
    #[inline(always)]
    fn site(&self, tile: usize) -> Site {
        let (image, tile) = (tile / self.form.tile_count(), tile % self.form.tile_count());
        Site { image, y: tile / self.form.tile_columns * TILE, x: tile % self.form.tile_columns * TILE }
    }

    /// Bᵀ d B of one patch, all channels.
    #[inline(always)]
    unsafe fn transform_patch<S: Simd>(&mut self, site: Site, slot: usize, count: usize) {
        let layout = self.form.input;
        // The patch starts one pixel up and left of the tile; pixels beyond the padding count as zeros.
        let rows = (layout.height + 2 - site.y).min(PATCH);
        let columns = (layout.width + 2 - site.x).min(PATCH);
        let above = layout.row_start(0) + site.image * layout.image_len() + site.y * layout.pitch();
        let start = above - layout.pitch() - layout.channels + site.x * layout.channels;
        for channel in (0..layout.channels).step_by(S::LANES) {
            let lanes = (layout.channels - channel).min(S::LANES);
            // SAFETY: row `row < rows` and column `column < columns` of the patch are stored pixels of the image (with a
            // border of at least 1), `lanes` channels from `channel` on; the scratch has `depth` floats for each slot.
            unsafe {
                let mut half = [[S::zero(); PATCH]; PATCH];
                for column in 0..PATCH {
                    let mut line = [S::zero(); PATCH];
                    if column < columns {
                        let from = self.source.as_ptr().add(start + column * layout.channels + channel);
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
                let to = self.patches.as_mut_ptr().add(slot * self.depth + channel);
                for row in 0..PATCH {
                    let line = transform_input::<S>(half[row]);
                    for column in 0..PATCH {
                        S::store(to.add((row * PATCH + column) * count * self.depth), line[column]);
                    }
                }
            }
        }
    }

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

/// Bᵀ times a line of a patch.
#[inline(always)]
unsafe fn transform_input<S: Simd>(d: [S::Vector; PATCH]) -> [S::Vector; PATCH] {
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
unsafe fn transform_output<S: Simd>(m: [S::Vector; PATCH]) -> [S::Vector; TILE] {
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

/// A weight's transform: 36 matrices in panels, for one kernel variant.
#[derive(Clone, Debug)]
pub struct WinogradWeights {
    kernel: Kernel,
    depth: usize,
    width: usize,
    panels: Vec<Panel>,
    matrix_len: usize,
    values: AlignedBuffer,
}

/// How a 3 × 3 weight is read for its transform.
#[derive(Clone, Copy)]
enum Reading<'a> {
    /// HWIO as it is, each output channel times its scale if given.
    Forward { scale: Option<&'a [f32]> },
    /// Turned by 180° with inputs and outputs exchanged: the convolution that gives the input's gradient.
    Gradient,
}

impl WinogradWeights {
    /// Zeros, to be filled by one of the `pack` functions, for a convolution from `depth` to `width` channels.
    pub fn new(kernel: Kernel, depth: usize, width: usize) -> Self {
        let panels = panels(kernel, depth, width);
        let matrix_len =
            panels.last().map_or(0, |panel| panel.start + depth * panel.vectors * kernel.lanes());
        Self { kernel, depth, width, panels, matrix_len, values: AlignedBuffer::zeroed(POINTS * matrix_len) }
    }

    /// Transforms an HWIO weight `[3, 3, depth, width]`, each output channel times its `scale` if given.
    ///
    /// # Panics
    /// When a length differs.
    pub fn pack(&mut self, weight: &[f32], scale: Option<&[f32]>) {
        assert!(scale.is_none_or(|scale| scale.len() == self.width), "one scale a channel");
        self.transform(weight, Reading::Forward { scale });
    }

    /// Transforms an HWIO weight `[3, 3, width, depth]` for the gradient of its convolution's input.
    ///
    /// # Panics
    /// When the length differs.
    pub fn pack_gradient(&mut self, weight: &[f32]) {
        self.transform(weight, Reading::Gradient);
    }

    fn transform(&mut self, weight: &[f32], reading: Reading<'_>) {
        assert_eq!(weight.len(), 9 * self.depth * self.width, "the weight has another size");
        let kernel = self.kernel;
        // SAFETY: the weight holds 9 numbers a pair of channels, the scale one an output channel, and the values 36
        // matrices whose panels have `depth` rows of whole vectors.
        unsafe {
            run(kernel, Transform { weights: self, weight, reading });
        }
    }
}

struct Transform<'a> {
    weights: &'a mut WinogradWeights,
    weight: &'a [f32],
    reading: Reading<'a>,
}

impl Task for Transform<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (depth, width, matrix_len) = (self.weights.depth, self.weights.width, self.weights.matrix_len);
        for panel in 0..self.weights.panels.len() {
            let panel = self.weights.panels[panel];
            for row in 0..depth {
                for vector in 0..panel.vectors {
                    let column = panel.column + vector * S::LANES;
                    let lanes = (width - column).min(S::LANES);
                    // SAFETY: channels `row` and `column..column + lanes` exist, and so does this row of the panel.
                    unsafe {
                        let taps = self.read::<S>(row, column, lanes);
                        let to = panel.start + (row * panel.vectors + vector) * S::LANES;
                        let to = self.weights.values.as_mut_ptr().add(to);
                        let mut half = [[S::zero(); 3]; PATCH];
                        for column in 0..3 {
                            let line =
                                transform_kernel::<S>([taps[column], taps[3 + column], taps[6 + column]]);
                            for row in 0..PATCH {
                                half[row][column] = line[row];
                            }
                        }
                        for row in 0..PATCH {
                            let line = transform_kernel::<S>(half[row]);
                            for column in 0..PATCH {
                                S::store(to.add((row * PATCH + column) * matrix_len), line[column]);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Transform<'_> {
    /// The nine taps from depth channel `row` to `lanes` width channels from `column` on.
    #[inline(always)]
    unsafe fn read<S: Simd>(&self, row: usize, column: usize, lanes: usize) -> [S::Vector; 9] {
        let (depth, width) = (self.weights.depth, self.weights.width);
        // SAFETY: the caller's channels exist, so every index below is inside the weight or the scale.
        unsafe {
            let mut taps = [S::zero(); 9];
            match self.reading {
                Reading::Forward { scale } => {
                    for tap in 0..9 {
                        let from = self.weight.as_ptr().add((tap * depth + row) * width + column);
                        taps[tap] = S::load_up_to(from, lanes);
                        if let Some(scale) = scale {
                            let scale = S::load_up_to(scale.as_ptr().add(column), lanes);
                            taps[tap] = S::mul_add(taps[tap], scale, S::zero());
                        }
                    }
                }
                Reading::Gradient => {
                    for tap in 0..9 {
                        let mut line = [0.0; 16];
                        let from = self.weight.as_ptr().add(((8 - tap) * width + column) * depth + row);
                        for lane in 0..lanes {
                            line[lane] = *from.add(lane * depth);
                        }
                        taps[tap] = S::load(line.as_ptr());
                    }
                }
            }
            taps
        }
    }
}

/// G times a line of a kernel.
#[inline(always)]
unsafe fn transform_kernel<S: Simd>(g: [S::Vector; 3]) -> [S::Vector; PATCH] {
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
