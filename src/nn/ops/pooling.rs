//! Average pooling, over the image or the cells of a grid, and the ImageNet stem's max pooling, forward and backward.
//!
//! Both work through a span of images on the calling thread. They are a percent of a network's time, so they are plain
//! loops that the compiler vectorises.

use std::ops::Range;

use super::geometry::Layout;

/// The pixels along an edge of `size` that cell `index` of `grid` averages; neighbours overlap where `grid` doesn't divide `size`,
/// as in `torch.nn.AdaptiveAvgPool2d`.
pub fn cell_pixels(size: usize, grid: usize, index: usize) -> Range<usize> {
    index * size / grid..((index + 1) * size).div_ceil(grid)
}

/// Writes each image's mean over its pixels, `[channels]` an image.
///
/// # Panics
/// When lengths don't belong to the same number of images.
pub fn average(images: &[f32], layout: Layout, features: &mut [f32]) {
    let channels = layout.channels;
    assert_eq!(images.len() / layout.image_len() * channels, features.len(), "image counts differ");
    for (image, feature) in images.chunks_exact(layout.image_len()).zip(features.chunks_exact_mut(channels)) {
        average_cells(image, layout, 1, feature);
    }
}

/// Writes the means of one image over the cells of a `grid` × `grid`, `[channels]` a cell, row after row.
///
/// # Panics
/// When `cells` has another length, or `grid` is larger than the image.
pub fn average_cells(image: &[f32], layout: Layout, grid: usize, cells: &mut [f32]) {
    let channels = layout.channels;
    assert_eq!(cells.len(), grid * grid * channels, "another number of cells");
    assert!(grid <= layout.height.min(layout.width), "more cells than pixels");
    for (place, cell) in cells.chunks_exact_mut(channels).enumerate() {
        let rows = cell_pixels(layout.height, grid, place / grid);
        let columns = cell_pixels(layout.width, grid, place % grid);
        cell.fill(0.0);
        for y in rows.clone() {
            let row = &image[layout.row_start(y)..][..layout.row_len()];
            for pixel in row[columns.start * channels..columns.end * channels].chunks_exact(channels) {
                for (sum, value) in cell.iter_mut().zip(pixel) {
                    *sum += value;
                }
            }
        }
        let scale = 1.0 / (rows.len() * columns.len()) as f32;
        for value in cell {
            *value *= scale;
        }
    }
}

/// Writes the dense gradient of [`average`]'s input.
///
/// # Panics
/// When lengths don't belong to the same number of images.
pub fn average_gradient(gradient: &[f32], layout: Layout, images: &mut [f32]) {
    let channels = layout.channels;
    let image_len = layout.with_border(0).image_len();
    assert_eq!(images.len() / image_len * channels, gradient.len(), "image counts differ");
    let scale = 1.0 / layout.pixel_count() as f32;
    for (image, gradient) in images.chunks_exact_mut(image_len).zip(gradient.chunks_exact(channels)) {
        for pixel in image.chunks_exact_mut(channels) {
            for (target, value) in pixel.iter_mut().zip(gradient) {
                *target = value * scale;
            }
        }
    }
}

/// A square max pooling; taps outside the image never win.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool {
    /// Side of the window, at most 15.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Pixels by which the first window starts outside the image.
    pub padding: usize,
}

impl MaxPool {
    /// The ImageNet stem's: 3 × 3, stride 2, padding 1.
    pub const STEM: Self = Self { kernel: 3, stride: 2, padding: 1 };

    /// Side of the output for a side of the input.
    pub fn out_size(self, size: usize) -> usize {
        (size + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Writes the maxima, and in `winners` which tap of the window held each (the first of equals; dense).
    ///
    /// # Panics
    /// When layouts or lengths don't fit each other.
    pub fn forward(
        self,
        images: &[f32],
        input: Layout,
        output: Layout,
        maxima: &mut [f32],
        winners: &mut [u8],
    ) {
        self.check(input, output);
        let channels = input.channels;
        let dense_len = output.with_border(0).image_len();
        let image_count = images.len() / input.image_len();
        assert_eq!(maxima.len(), image_count * output.image_len(), "image counts differ");
        assert_eq!(winners.len(), image_count * dense_len, "one winner a maximum");
        let results = maxima.chunks_exact_mut(output.image_len()).zip(winners.chunks_exact_mut(dense_len));
        for (image, (maxima, winners)) in images.chunks_exact(input.image_len()).zip(results) {
            for (pixel, winners) in winners.chunks_exact_mut(channels).enumerate() {
                let (y, x) = (pixel / output.width, pixel % output.width);
                let maxima = &mut maxima[output.row_start(y) + x * channels..][..channels];
                maxima.fill(f32::NEG_INFINITY);
                for (tap, iy, ix) in self.taps(y, x, input) {
                    let values = &image[input.row_start(iy) + ix * channels..][..channels];
                    for ((maximum, winner), value) in maxima.iter_mut().zip(winners.iter_mut()).zip(values) {
                        if value > maximum {
                            (*maximum, *winner) = (*value, tap);
                        }
                    }
                }
            }
        }
    }

    /// Writes the dense gradient of [`forward`](Self::forward)'s input.
    ///
    /// # Panics
    /// When layouts or lengths don't fit each other.
    pub fn backward(
        self,
        gradient: &[f32],
        winners: &[u8],
        input: Layout,
        output: Layout,
        images: &mut [f32],
    ) {
        self.check(input, output);
        let channels = input.channels;
        let (input, output) = (input.with_border(0), output.with_border(0));
        assert_eq!(
            images.len() / input.image_len() * output.image_len(),
            gradient.len(),
            "image counts differ"
        );
        assert_eq!(winners.len(), gradient.len(), "one winner a maximum");
        images.fill(0.0);
        let sources = gradient.chunks_exact(output.image_len()).zip(winners.chunks_exact(output.image_len()));
        for (image, (gradient, winners)) in images.chunks_exact_mut(input.image_len()).zip(sources) {
            let pixels = gradient.chunks_exact(channels).zip(winners.chunks_exact(channels)).enumerate();
            for (pixel, (gradient, winners)) in pixels {
                for (tap, iy, ix) in self.taps(pixel / output.width, pixel % output.width, input) {
                    let targets = &mut image[input.row_start(iy) + ix * channels..][..channels];
                    for ((target, gradient), winner) in targets.iter_mut().zip(gradient).zip(winners) {
                        *target += if *winner == tap { *gradient } else { 0.0 };
                    }
                }
            }
        }
    }

    fn check(self, input: Layout, output: Layout) {
        assert!(self.kernel <= 15 && self.padding < self.kernel, "unusual pooling {self:?}");
        assert_eq!(output.channels, input.channels, "pooling keeps the channels");
        let sizes = (self.out_size(input.height), self.out_size(input.width));
        assert_eq!((output.height, output.width), sizes, "the output has another size");
    }

    /// The taps of a window that lie inside the image: number, row, column.
    fn taps(self, y: usize, x: usize, input: Layout) -> impl Iterator<Item = (u8, usize, usize)> {
        (0..self.kernel * self.kernel).filter_map(move |tap| {
            let iy = (y * self.stride + tap / self.kernel).checked_sub(self.padding)?;
            let ix = (x * self.stride + tap % self.kernel).checked_sub(self.padding)?;
            (iy < input.height && ix < input.width).then_some((tap as u8, iy, ix))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_and_its_gradient_are_the_mean_and_its_share() {
        let layout = Layout { height: 2, width: 2, channels: 3, border: 1 };
        let dense: Vec<f32> = (0..24).map(|value| value as f32).collect();
        let mut images = vec![0.0; 2 * layout.image_len()];
        layout.copy_from_dense(&dense, &mut images);
        let mut features = vec![0.0; 6];
        average(&images, layout, &mut features);
        assert_eq!(features, [4.5, 5.5, 6.5, 16.5, 17.5, 18.5]);
        let mut gradient = vec![0.0; 24];
        average_gradient(&[4.0, 8.0, 12.0, 0.0, 0.0, 4.0], layout, &mut gradient);
        assert_eq!(gradient[..6], [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        assert_eq!(gradient[21..], [0.0, 0.0, 1.0]);
    }

    #[test]
    fn cells_overlap_where_the_grid_does_not_divide_the_image() {
        let layout = Layout { height: 3, width: 3, channels: 1, border: 2 };
        let mut image = vec![f32::NAN; layout.image_len()];
        let dense: Vec<f32> = (0..9).map(|value| value as f32).collect();
        layout.copy_from_dense(&dense, &mut image);
        let mut cells = vec![0.0; 4];
        average_cells(&image, layout, 2, &mut cells);
        assert_eq!(cells, [2.0, 3.0, 5.0, 6.0]);
        assert_eq!([cell_pixels(7, 2, 0), cell_pixels(7, 2, 1), cell_pixels(7, 1, 0)], [0..4, 3..7, 0..7]);
    }

    /// `torch.nn.functional.max_pool2d(x, 3, 2, 1)` of a 4 × 4 ramp with a negative corner, and its backward of ones.
    #[test]
    fn the_stem_pooling_matches_pytorch() {
        let input = Layout { height: 4, width: 4, channels: 1, border: 2 };
        let output = Layout { height: 2, width: 2, channels: 1, border: 1 };
        let ramp: Vec<f32> = (0..16).map(|value| value as f32 - 20.0).collect();
        let mut images = vec![0.0; input.image_len()];
        input.copy_from_dense(&ramp, &mut images);
        let (mut maxima, mut winners) = (vec![0.0; output.image_len()], vec![0; 4]);
        MaxPool::STEM.forward(&images, input, output, &mut maxima, &mut winners);
        let mut expected = vec![0.0; output.image_len()];
        output.copy_from_dense(&[-15.0, -13.0, -7.0, -5.0], &mut expected);
        assert_eq!(maxima, expected);
        let mut gradient = vec![0.0; 16];
        MaxPool::STEM.backward(&[1.0, 2.0, 3.0, 4.0], &winners, input, output, &mut gradient);
        let mut expected = vec![0.0; 16];
        (expected[5], expected[7], expected[13], expected[15]) = (1.0, 2.0, 3.0, 4.0);
        assert_eq!(gradient, expected);
    }

    #[test]
    fn equal_values_give_the_gradient_to_the_first() {
        let input = Layout::dense(3, 3, 1);
        let output = Layout::dense(2, 2, 1);
        let (mut maxima, mut winners) = (vec![0.0; 4], vec![0; 4]);
        MaxPool::STEM.forward(&[0.0; 9], input, output, &mut maxima, &mut winners);
        let mut gradient = vec![0.0; 9];
        MaxPool::STEM.backward(&[1.0; 4], &winners, input, output, &mut gradient);
        assert_eq!(gradient, [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
