//! Where pixels lie: layouts of image batches and the index tables of a convolution.
//!
//! An activation is stored with a border of zeros, so that every tap of a kernel is one fixed distance away from its
//! output pixel and no product ever asks whether it is inside the image. Rows share their border: the zeros right of
//! one row are those left of the next. A kernel's row of taps is then one contiguous run of `kernel · channels` floats,
//! and a convolution is a product of gathered runs with a packed weight matrix (implicit GEMM).

use std::ops::Range;

/// How one image of a batch is stored: NHWC with a border of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Rows of pixels, without the border.
    pub height: usize,
    /// Pixels in a row, without the border.
    pub width: usize,
    /// Floats in a pixel.
    pub channels: usize,
    /// Zero pixels on each side; 0 is the dense NHWC layout.
    pub border: usize,
}

impl Layout {
    /// The dense layout.
    pub fn dense(height: usize, width: usize, channels: usize) -> Self {
        Self { height, width, channels, border: 0 }
    }

    /// The same image with another border.
    pub fn with_border(self, border: usize) -> Self {
        Self { border, ..self }
    }

    /// Pixels in an image, without the border.
    pub fn pixel_count(self) -> usize {
        self.height * self.width
    }

    /// Floats from a pixel to the one below it.
    pub fn pitch(self) -> usize {
        (self.width + self.border) * self.channels
    }

    /// Floats of one stored image, its border included.
    pub fn image_len(self) -> usize {
        ((self.height + 2 * self.border) * (self.width + self.border) + self.border) * self.channels
    }

    /// Where the pixel starts; `-border` to `height + border` (or width) exclusive are stored.
    fn offset(self, y: isize, x: isize) -> usize {
        let border = self.border as isize;
        let pixel = (y + border) * (self.width + self.border) as isize + x + border;
        usize::try_from(pixel).expect("the pixel is at most one border outside the image") * self.channels
    }

    /// Where row `y` of pixels starts.
    pub fn row_start(self, y: usize) -> usize {
        self.offset(y as isize, 0)
    }

    /// Floats of one row of pixels.
    pub fn row_len(self) -> usize {
        self.width * self.channels
    }

    /// Sets the border of every image in `images` to zero.
    pub fn clear_border(self, images: &mut [f32]) {
        if self.border == 0 {
            return;
        }
        for image in images.chunks_exact_mut(self.image_len()) {
            let mut end = 0;
            for y in 0..self.height {
                let start = self.row_start(y);
                image[end..start].fill(0.0);
                end = start + self.row_len();
            }
            image[end..].fill(0.0);
        }
    }

    /// Copies a dense image batch into this layout, border and all.
    ///
    /// # Panics
    /// When the lengths don't belong to the same number of images.
    pub fn copy_from_dense(self, dense: &[f32], images: &mut [f32]) {
        let dense_len = self.with_border(0).image_len();
        assert_eq!(dense.len() / dense_len * self.image_len(), images.len(), "image counts differ");
        self.clear_border(images);
        for (from, to) in dense.chunks_exact(dense_len).zip(images.chunks_exact_mut(self.image_len())) {
            for (y, row) in from.chunks_exact(self.row_len()).enumerate() {
                to[self.row_start(y)..][..self.row_len()].copy_from_slice(row);
            }
        }
    }
}

/// The shape of a square convolution over images of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step between neighbouring output pixels.
    pub stride: usize,
    /// Zero pixels that the convolution sees on each side.
    pub padding: usize,
}

impl Geometry {
    /// Rows of the output.
    pub fn out_height(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Columns of the output.
    pub fn out_width(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Terms of one output value: `kernel² · in_channels`, the rows of the HWIO weight matrix.
    pub fn depth(&self) -> usize {
        self.kernel * self.kernel * self.in_channels
    }

    /// Floats of the HWIO weight.
    pub fn weight_len(&self) -> usize {
        self.depth() * self.out_channels
    }

    /// The dense layout of the input.
    pub fn input(&self) -> Layout {
        Layout::dense(self.height, self.width, self.in_channels)
    }

    /// The dense layout of the output.
    pub fn output(&self) -> Layout {
        Layout::dense(self.out_height(), self.out_width(), self.out_channels)
    }

    /// The border that the output's gradient needs for [`gradient_classes`](Self::gradient_classes).
    pub fn gradient_border(&self) -> usize {
        let reach = |size: usize, out_size: usize| {
            let first = |residue: usize| (residue + self.padding) / self.stride;
            let above = (self.kernel - 1) / self.stride;
            let below = (first(size - 1) + 1).saturating_sub(out_size);
            above.saturating_sub(first(0)).max(below)
        };
        reach(self.height, self.out_height()).max(reach(self.width, self.out_width()))
    }

    fn check(&self, input: Layout) {
        assert!(
            self.kernel > 0 && self.stride > 0 && self.in_channels > 0 && self.out_channels > 0,
            "empty: {self:?}"
        );
        assert!(
            self.height.min(self.width) + 2 * self.padding >= self.kernel,
            "kernel exceeds the image: {self:?}"
        );
        assert_eq!(input.with_border(0), self.input(), "the input's layout has another shape");
        assert!(input.border >= self.padding, "the input's border is narrower than the padding");
    }

    /// The table of the forward product.
    ///
    /// # Panics
    /// When a layout has another shape than the geometry or too narrow a border.
    pub fn forward_window(&self, input: Layout, output: Layout) -> Window {
        self.check(input);
        assert_eq!(output.with_border(0), self.output(), "the output's layout has another shape");
        let origin = |pixel: usize| (pixel * self.stride) as isize - self.padding as isize;
        let mut gathers = Vec::with_capacity(output.pixel_count());
        let mut scatters = Vec::with_capacity(output.pixel_count());
        for y in 0..self.out_height() {
            for x in 0..self.out_width() {
                gathers.push(index(input.offset(origin(y), origin(x))));
                scatters.push(index(output.offset(y as isize, x as isize)));
            }
        }
        let run_len = self.kernel * self.in_channels;
        let runs = (0..self.kernel).map(|ky| Run { start: ky * input.pitch(), len: run_len }).collect();
        Window::new(gathers, scatters, runs, input.image_len(), output.image_len())
    }

    /// The products that give the input's gradient from the output's.
    ///
    /// Input pixels fall into `stride²` classes by which taps of the kernel reach them; each class is one product
    /// over its taps with its own packed weight.
    ///
    /// # Panics
    /// When a layout has another shape than the geometry, or `gradient` too narrow a border.
    pub fn gradient_classes(&self, gradient: Layout, input: Layout) -> Vec<GradientClass> {
        self.check(self.input().with_border(self.padding));
        assert_eq!(input.with_border(0), self.input(), "the input's layout has another shape");
        assert_eq!(gradient.with_border(0), self.output(), "the gradient's layout has another shape");
        assert!(gradient.border >= self.gradient_border(), "the gradient's border is too narrow");
        let residues = || 0..self.stride;
        residues()
            .flat_map(|ry| residues().map(move |rx| self.gradient_class(ry, rx, gradient, input)))
            .collect()
    }

    fn gradient_class(&self, ry: usize, rx: usize, gradient: Layout, input: Layout) -> GradientClass {
        let taps = |residue: usize| (residue..self.kernel).step_by(self.stride).rev().collect::<Vec<_>>();
        let (rows, columns) = (taps(ry), taps(rx));
        let sites = |size: usize, residue: usize| {
            (0..size).filter(move |pixel| (pixel + self.padding) % self.stride == residue)
        };
        // The lowest output pixel that sees the input pixel; its tap is the last of the class, the first of `taps`.
        let origin = |pixel: usize, taps: &[usize]| {
            ((pixel + self.padding) as isize - taps.first().map_or(0, |tap| *tap as isize))
                / self.stride as isize
        };
        let (mut gathers, mut scatters) = (Vec::new(), Vec::new());
        for y in sites(self.height, ry) {
            for x in sites(self.width, rx) {
                let reached = !rows.is_empty() && !columns.is_empty();
                let from = if reached { gradient.offset(origin(y, &rows), origin(x, &columns)) } else { 0 };
                gathers.push(index(from));
                scatters.push(index(input.offset(y as isize, x as isize)));
            }
        }
        let run_len = columns.len() * self.out_channels;
        let runs: Vec<Run> = if run_len == 0 {
            Vec::new()
        } else {
            (0..rows.len()).map(|row| Run { start: row * gradient.pitch(), len: run_len }).collect()
        };
        let taps = rows.iter().flat_map(|ky| columns.iter().map(move |kx| ky * self.kernel + kx)).collect();
        let window = Window::new(gathers, scatters, runs, gradient.image_len(), input.image_len());
        GradientClass { window, taps }
    }
}

/// Offsets inside an image fit 32 bits, which halves the tables.
fn index(offset: usize) -> u32 {
    u32::try_from(offset).expect("an image has fewer than 2^32 floats")
}

/// The input pixels that the same taps reach, and those taps.
#[derive(Clone, Debug)]
pub struct GradientClass {
    /// The product over the class's pixels.
    pub window: Window,
    /// Taps in the order of the window's runs, as `ky · kernel + kx`.
    pub taps: Vec<usize>,
}

/// A contiguous stretch of a window, relative to the window's first float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First float.
    pub start: usize,
    /// Floats.
    pub len: usize,
}

/// Where a product's rows come from and go to, image by image.
///
/// Invariant, held by the constructor and relied on by the unsafe kernels: for each row, `gather + run.start + run.len`
/// is at most `source_len`; each `scatter` is less than `target_len`; `gathers` and `scatters` are equally long.
#[derive(Clone, Debug)]
pub struct Window {
    gathers: Vec<u32>,
    scatters: Vec<u32>,
    runs: Vec<Run>,
    source_len: usize,
    target_len: usize,
    scatter_end: usize,
}

impl Window {
    fn new(
        gathers: Vec<u32>,
        scatters: Vec<u32>,
        runs: Vec<Run>,
        source_len: usize,
        target_len: usize,
    ) -> Self {
        assert_eq!(gathers.len(), scatters.len(), "a row comes from one place and goes to one place");
        let furthest = |offsets: &[u32]| offsets.iter().max().map_or(0, |offset| *offset as usize);
        let reach = runs.iter().map(|run| run.start + run.len).max().unwrap_or(0);
        assert!(furthest(&gathers) + reach <= source_len, "a window reaches outside its image");
        let scatter_end = furthest(&scatters);
        assert!(scatters.is_empty() || scatter_end < target_len, "a row is written outside its image");
        Self { gathers, scatters, runs, source_len, target_len, scatter_end }
    }

    /// One row an image of `depth` contiguous floats, to one of `width`: the table of a plain matrix product.
    pub fn matrix(depth: usize, width: usize) -> Self {
        Self::new(vec![0], vec![0], vec![Run { start: 0, len: depth }], depth, width.max(1))
    }

    /// Rows of the product in one image.
    pub fn row_count(&self) -> usize {
        self.gathers.len()
    }

    /// Terms of one output value.
    pub fn depth(&self) -> usize {
        self.runs.iter().map(|run| run.len).sum()
    }

    /// The first float of each row's window in its image.
    pub fn gathers(&self) -> &[u32] {
        &self.gathers
    }

    /// The first float of each row's result in its image.
    pub fn scatters(&self) -> &[u32] {
        &self.scatters
    }

    /// The window's stretches, in the order of the weight's rows.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Floats of a source image.
    pub fn source_len(&self) -> usize {
        self.source_len
    }

    /// Floats of a target image.
    pub fn target_len(&self) -> usize {
        self.target_len
    }

    /// The images in `source`, after checking that whole images are there and that rows of `width` fit the target.
    ///
    /// # Panics
    /// When they don't.
    pub fn image_count(&self, source: &[f32], target_len: usize, width: usize) -> usize {
        assert_eq!(source.len() % self.source_len, 0, "the source is not a whole number of images");
        let count = source.len() / self.source_len;
        assert_eq!(target_len, count * self.target_len, "the target belongs to another number of images");
        assert!(self.scatter_end + width <= self.target_len, "a row is wider than the target's pixels allow");
        count
    }
}

/// Splits `count` images into spans of at most `longest`, as even as they go, in order.
pub fn split_evenly(count: usize, longest: usize) -> Vec<Range<usize>> {
    let parts = count.div_ceil(longest.max(1));
    (0..parts).map(|part| part * count / parts..(part + 1) * count / parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_share_their_border_and_the_border_is_cleared() {
        let layout = Layout { height: 2, width: 3, channels: 2, border: 1 };
        assert_eq!(layout.offset(0, -1), layout.offset(-1, 3));
        assert_eq!(layout.offset(2, 3) + 2, layout.image_len());
        let mut images = vec![7.0; 2 * layout.image_len()];
        layout.clear_border(&mut images);
        assert_eq!(images.iter().filter(|value| **value == 7.0).count(), 2 * 2 * 3 * 2);
        let dense: Vec<f32> = (1..=24).map(|value| value as f32).collect();
        layout.copy_from_dense(&dense, &mut images);
        assert_eq!(images.iter().sum::<f32>(), dense.iter().sum::<f32>());
        assert_eq!(images[layout.row_start(1)], 7.0);
    }

    #[test]
    fn the_gradient_border_of_common_convolutions_is_narrow() {
        let geometry = |kernel, stride, padding| Geometry {
            height: 14,
            width: 14,
            in_channels: 1,
            out_channels: 1,
            kernel,
            stride,
            padding,
        };
        assert_eq!(geometry(3, 1, 1).gradient_border(), 1);
        assert_eq!(geometry(1, 1, 0).gradient_border(), 0);
        assert_eq!(geometry(3, 2, 1).gradient_border(), 1);
        assert_eq!(geometry(1, 2, 0).gradient_border(), 0);
        assert_eq!(geometry(7, 2, 3).gradient_border(), 2);
    }

    #[test]
    fn spans_cover_everything_in_order() {
        assert_eq!(split_evenly(7, 3), vec![0..2, 2..4, 4..7]);
        assert_eq!(split_evenly(0, 3), Vec::<Range<usize>>::new());
        assert_eq!(split_evenly(2, 100), vec![0..2]);
    }
}
