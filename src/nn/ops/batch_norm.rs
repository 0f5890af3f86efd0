//! Batch norm in training: moments, application fused with residual and ReLU, and the backward of both.
//!
//! Each function works through a span of images on the calling thread, so that a caller can run it while the span is
//! still in the cache from the convolution before. Moments are two-pass within an image and combined across images and
//! spans by Chan's update in f64 (Chan, Golub, LeVeque 1983), so a large mean costs no digits of the variance. The
//! convolution's output and all gradients are dense; activations have a border.

use super::Kernel;
use super::geometry::Layout;
use super::simd::{Simd, Task, run};

/// Independent sums a channel, which hides the latency of an addition.
const STREAMS: usize = 4;

/// The widest vector, for spilled sums.
const MAX_LANES: usize = 16;

/// Count, mean and sum of squared deviations, a channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Values a channel.
    pub count: f64,
    /// Mean a channel.
    pub mean: Vec<f64>,
    /// Σ (x − mean)², a channel.
    pub squares: Vec<f64>,
}

impl Moments {
    /// The moments of nothing.
    pub fn empty(channels: usize) -> Self {
        Self { count: 0.0, mean: vec![0.0; channels], squares: vec![0.0; channels] }
    }

    /// Adds the moments of further values.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0.0 {
            return;
        }
        let total = self.count + other.count;
        let (share, weight) = (other.count / total, self.count * other.count / total);
        let own = self.mean.iter_mut().zip(&mut self.squares);
        for ((mean, squares), (other_mean, other_squares)) in own.zip(other.mean.iter().zip(&other.squares)) {
            let difference = other_mean - *mean;
            *mean += difference * share;
            *squares += other_squares + difference * difference * weight;
        }
        self.count = total;
    }

    /// The variance that normalises (divided by the count), of one channel.
    pub fn biased_variance(&self, channel: usize) -> f64 {
        self.squares[channel] / self.count
    }

    /// The variance that running statistics keep (divided by count − 1), of one channel.
    pub fn unbiased_variance(&self, channel: usize) -> f64 {
        self.squares[channel] / (self.count - 1.0).max(1.0)
    }
}

/// The moments of each channel over dense images.
///
/// # Panics
/// When the length is not a whole number of images.
pub fn moments(kernel: Kernel, images: &[f32], layout: Layout) -> Moments {
    assert_eq!(layout.border, 0, "moments are taken of dense images");
    assert!(images.len().is_multiple_of(layout.image_len()), "a whole number of images");
    let mut sum = Moments::empty(layout.channels);
    let mut part = Moments::empty(layout.channels);
    part.count = layout.pixel_count() as f64;
    for image in images.chunks_exact(layout.image_len()) {
        // SAFETY: the image is a whole number of pixels of `channels` floats; both vectors have one slot a channel.
        unsafe {
            run(kernel, ImageMoments { image, channels: layout.channels, part: &mut part });
        };
        sum.merge(&part);
    }
    sum
}

struct ImageMoments<'a> {
    image: &'a [f32],
    channels: usize,
    part: &'a mut Moments,
}

impl Task for ImageMoments<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let count = self.part.count;
        for channel in (0..self.channels).step_by(S::LANES) {
            let lanes = (self.channels - channel).min(S::LANES);
            let mut means = [0.0; MAX_LANES];
            // SAFETY: `lanes` channels from `channel` on exist in every pixel; `means` has room for a vector.
            let (deviations, squares) = unsafe {
                let (sums, _) = self.sum_around::<S>(channel, lanes, S::zero());
                for lane in 0..lanes {
                    means[lane] = (sums[lane] / count) as f32;
                }
                self.sum_around::<S>(channel, lanes, S::load(means.as_ptr()))
            };
            for lane in 0..lanes {
                // The first mean is rounded: what the deviations add up to takes its error out of both again.
                let rest = deviations[lane] / count;
                self.part.mean[channel + lane] = f64::from(means[lane]) + rest;
                self.part.squares[channel + lane] = (squares[lane] - deviations[lane] * rest).max(0.0);
            }
        }
    }
}

impl ImageMoments<'_> {
    /// Σ (x − center) and Σ (x − center)² of up to a vector of channels.
    #[inline(always)]
    unsafe fn sum_around<S: Simd>(
        &self,
        channel: usize,
        lanes: usize,
        center: S::Vector,
    ) -> ([f64; MAX_LANES], [f64; MAX_LANES]) {
        let pixel_count = self.image.len() / self.channels;
        // SAFETY: pixel `pixel_count - 1` is the last of the image and has `lanes` channels from `channel` on.
        unsafe {
            let mut sums = [S::zero(); STREAMS];
            let mut squares = [S::zero(); STREAMS];
            let mut from = self.image.as_ptr().add(channel);
            for _ in 0..pixel_count / STREAMS {
                for stream in 0..STREAMS {
                    let value = S::sub(S::load_up_to(from.add(stream * self.channels), lanes), center);
                    sums[stream] = S::add(sums[stream], value);
                    squares[stream] = S::mul_add(value, value, squares[stream]);
                }
                from = from.wrapping_add(STREAMS * self.channels);
            }
            for rest in 0..pixel_count % STREAMS {
                let value = S::sub(S::load_up_to(from.add(rest * self.channels), lanes), center);
                sums[0] = S::add(sums[0], value);
                squares[0] = S::mul_add(value, value, squares[0]);
            }
            (total::<S>(&sums), total::<S>(&squares))
        }
    }
}

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

/// `activation = relu(scale · normalized-to-be + shift + residual)`, the border set to zero.
#[derive(Clone, Copy, Debug)]
pub struct Application<'a> {
    /// γ / √(variance + ε), a channel.
    pub scale: &'a [f32],
    /// β − mean · scale, a channel.
    pub shift: &'a [f32],
    /// Images in the activation's layout.
    pub residual: Option<&'a [f32]>,
    /// Whether negative results become 0.
    pub relu: bool,
}

/// Writes the activation of dense convolution outputs; borders of `activation` are left as they are.
///
/// # Panics
/// When lengths don't belong to the same number of images.
pub fn apply(
    kernel: Kernel,
    convolved: &[f32],
    application: Application<'_>,
    layout: Layout,
    activation: &mut [f32],
) {
    let image_count = check_images(convolved, layout, activation.len());
    assert_eq!((application.scale.len(), application.shift.len()), (layout.channels, layout.channels));
    assert!(application.residual.is_none_or(|residual| residual.len() == activation.len()));
    // SAFETY: `convolved` holds `image_count` dense images, `activation` and the residual as many in `layout`.
    unsafe {
        run(kernel, Apply { convolved, application, layout, activation, image_count });
    }
}

fn check_images(dense: &[f32], layout: Layout, bordered_len: usize) -> usize {
    let dense_len = layout.with_border(0).image_len();
    assert!(dense.len().is_multiple_of(dense_len), "a whole number of images");
    assert_eq!(bordered_len, dense.len() / dense_len * layout.image_len(), "image counts differ");
    dense.len() / dense_len
}

struct Apply<'a> {
    convolved: &'a [f32],
    application: Application<'a>,
    layout: Layout,
    activation: &'a mut [f32],
    image_count: usize,
}

impl Task for Apply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: passed on.
        unsafe {
            match (self.application.residual.is_some(), self.application.relu) {
                (true, true) => self.walk::<S, true, true>(),
                (true, false) => self.walk::<S, true, false>(),
                (false, true) => self.walk::<S, false, true>(),
                (false, false) => self.walk::<S, false, false>(),
            }
        }
    }
}

impl Apply<'_> {
    #[inline(always)]
    unsafe fn walk<S: Simd, const RESIDUAL: bool, const RELU: bool>(&mut self) {
        let channels = self.layout.channels;
        let (row_count, row_pixels) = rows(self.layout);
        let dense_len = self.layout.pixel_count() * channels;
        let residual = self.application.residual.unwrap_or_default();
        for image in 0..self.image_count {
            for channel in (0..channels).step_by(S::LANES) {
                let lanes = (channels - channel).min(S::LANES);
                for row in 0..row_count {
                    let dense = image * dense_len + row * row_pixels * channels + channel;
                    let bordered = image * self.layout.image_len() + self.layout.row_start(row) + channel;
                    // SAFETY: pixels `0..row_pixels` of the row exist in all operands with `lanes` channels from
                    // `channel` on; scale and shift have one value a channel.
                    unsafe {
                        let scale = S::load_up_to(self.application.scale.as_ptr().add(channel), lanes);
                        let shift = S::load_up_to(self.application.shift.as_ptr().add(channel), lanes);
                        let from = self.convolved.as_ptr().add(dense);
                        let to = self.activation.as_mut_ptr().add(bordered);
                        for pixel in 0..row_pixels {
                            let at = pixel * channels;
                            let mut value = S::mul_add(S::load_up_to(from.add(at), lanes), scale, shift);
                            if RESIDUAL {
                                value =
                                    S::add(value, S::load_up_to(residual.as_ptr().add(bordered + at), lanes));
                            }
                            if RELU {
                                value = S::max(value, S::zero());
                            }
                            S::store_up_to(to.add(at), value, lanes);
                        }
                    }
                }
            }
        }
    }
}

/// Sums over a span that the backward of batch norm needs, a channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GradientSums {
    /// Σ d, the gradient of β.
    pub gradient: Vec<f64>,
    /// Σ d · (x − mean); times 1/σ the gradient of γ.
    pub centered: Vec<f64>,
}

impl GradientSums {
    /// The sums of nothing.
    pub fn empty(channels: usize) -> Self {
        Self { gradient: vec![0.0; channels], centered: vec![0.0; channels] }
    }

    /// Adds the sums of a further span.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.gradient.iter_mut().zip(&other.gradient) {
            *own += other;
        }
        for (own, other) in self.centered.iter_mut().zip(&other.centered) {
            *own += other;
        }
    }
}

/// Sets the gradient to zero where the ReLU was closed, in place, and sums it a channel.
///
/// `gradient` and `convolved` are dense, `activation` (None where there was no ReLU) has `layout`.
///
/// # Panics
/// When lengths don't belong to the same number of images.
pub fn gate_and_sum(
    kernel: Kernel,
    gradient: &mut [f32],
    activation: Option<&[f32]>,
    convolved: &[f32],
    mean: &[f32],
    layout: Layout,
) -> GradientSums {
    let bordered_len = gradient.len() / layout.with_border(0).image_len() * layout.image_len();
    let image_count = check_images(gradient, layout, activation.map_or(bordered_len, <[f32]>::len));
    assert_eq!(convolved.len(), gradient.len(), "the gradient has the convolution's shape");
    assert_eq!(mean.len(), layout.channels, "one mean a channel");
    let mut sums = GradientSums::empty(layout.channels);
    let task = GateAndSum { gradient, activation, convolved, mean, layout, image_count, sums: &mut sums };
    // SAFETY: `gradient` and `convolved` hold `image_count` dense images, the activation as many in `layout`; mean and
    // sums have one slot a channel.
    unsafe { run(kernel, task) };
    sums
}

struct GateAndSum<'a> {
    gradient: &'a mut [f32],
    activation: Option<&'a [f32]>,
    convolved: &'a [f32],
    mean: &'a [f32],
    layout: Layout,
    image_count: usize,
    sums: &'a mut GradientSums,
}

impl Task for GateAndSum<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let channels = self.layout.channels;
        for image in 0..self.image_count {
            for channel in (0..channels).step_by(S::LANES) {
                let lanes = (channels - channel).min(S::LANES);
                // SAFETY: the image and the channels exist.
                let (gradient, centered) = unsafe {
                    if self.activation.is_some() {
                        self.sum_channels::<S, true>(image, channel, lanes)
                    } else {
                        self.sum_channels::<S, false>(image, channel, lanes)
                    }
                };
                for lane in 0..lanes {
                    self.sums.gradient[channel + lane] += gradient[lane];
                    self.sums.centered[channel + lane] += centered[lane];
                }
            }
        }
    }
}

impl GateAndSum<'_> {
    #[inline(always)]
    unsafe fn sum_channels<S: Simd, const GATED: bool>(
        &mut self,
        image: usize,
        channel: usize,
        lanes: usize,
    ) -> ([f64; MAX_LANES], [f64; MAX_LANES]) {
        let channels = self.layout.channels;
        let (row_count, row_pixels) = rows(self.layout);
        let activation = self.activation.unwrap_or_default();
        // SAFETY: as said in `gate_and_sum`, every row has `row_pixels` pixels with `lanes` channels from `channel` on.
        unsafe {
            let mean = S::load_up_to(self.mean.as_ptr().add(channel), lanes);
            let mut sums = [S::zero(); STREAMS];
            let mut centered = [S::zero(); STREAMS];
            for row in 0..row_count {
                let dense = (image * self.layout.pixel_count() + row * row_pixels) * channels + channel;
                let gate = activation
                    .as_ptr()
                    .wrapping_add(image * self.layout.image_len() + self.layout.row_start(row) + channel);
                let gradient = self.gradient.as_mut_ptr().add(dense);
                let convolved = self.convolved.as_ptr().add(dense);
                let row = GateRow { gradient, gate, convolved, mean, lanes };
                let even = row_pixels - row_pixels % STREAMS;
                for pixel in (0..even).step_by(STREAMS) {
                    for stream in 0..STREAMS {
                        let at = (pixel + stream) * channels;
                        row.add::<S, GATED>(at, &mut sums[stream], &mut centered[stream]);
                    }
                }
                for pixel in even..row_pixels {
                    row.add::<S, GATED>(pixel * channels, &mut sums[0], &mut centered[0]);
                }
            }
            (total::<S>(&sums), total::<S>(&centered))
        }
    }
}

/// Where a row of pixels lies in the operands of [`gate_and_sum`].
#[derive(Clone, Copy)]
struct GateRow<V> {
    gradient: *mut f32,
    gate: *const f32,
    convolved: *const f32,
    mean: V,
    lanes: usize,
}

impl<V: Copy> GateRow<V> {
    /// Gates the pixel `at` floats into the row and adds it to the sums.
    ///
    /// # Safety
    /// The instruction set is enabled, and the operands hold `lanes` floats there.
    #[inline(always)]
    unsafe fn add<S: Simd<Vector = V>, const GATED: bool>(self, at: usize, sum: &mut V, centered: &mut V) {
        // SAFETY: passed on.
        unsafe {
            let mut value = S::load_up_to(self.gradient.add(at), self.lanes);
            if GATED {
                value = S::where_positive(S::load_up_to(self.gate.add(at), self.lanes), value);
                S::store_up_to(self.gradient.add(at), value, self.lanes);
            }
            *sum = S::add(*sum, value);
            let deviation = S::sub(S::load_up_to(self.convolved.add(at), self.lanes), self.mean);
            *centered = S::mul_add(value, deviation, *centered);
        }
    }
}

/// The gradient of the convolution's output as `gated · slope + x · tilt + level`, a channel.
///
/// With n values, d the gated gradient and x̂ the normalised value: γ/σ · (d − Σd/n − x̂ · Σ(d·x̂)/n).
#[derive(Clone, Debug, Default)]
pub struct GradientLine {
    /// γ / σ.
    pub slope: Vec<f32>,
    /// −γ/σ · Σ(d·x̂) / (n · σ).
    pub tilt: Vec<f32>,
    /// −γ/σ · Σd / n − mean · tilt.
    pub level: Vec<f32>,
}

impl GradientLine {
    /// The line of a whole batch (or batch-norm group) with `count` values a channel.
    pub fn new(
        sums: &GradientSums,
        count: f64,
        gamma: &[f32],
        mean: &[f32],
        inverse_deviation: &[f32],
    ) -> Self {
        let mut line = Self::default();
        for channel in 0..gamma.len() {
            let inverse = f64::from(inverse_deviation[channel]);
            let slope = f64::from(gamma[channel]) * inverse;
            let tilt = -slope * sums.centered[channel] * inverse * inverse / count;
            line.slope.push(slope as f32);
            line.tilt.push(tilt as f32);
            line.level
                .push((-slope * sums.gradient[channel] / count - f64::from(mean[channel]) * tilt) as f32);
        }
        line
    }
}

/// Writes the gradient of the convolution's output from the gated gradient, border and all.
///
/// # Panics
/// When lengths don't belong to the same number of images.
pub fn apply_gradient(
    kernel: Kernel,
    gated: &[f32],
    convolved: &[f32],
    line: &GradientLine,
    layout: Layout,
    target: &mut [f32],
) {
    let image_count = check_images(gated, layout, target.len());
    assert_eq!(convolved.len(), gated.len(), "the gradient has the convolution's shape");
    let channels = layout.channels;
    assert_eq!((line.slope.len(), line.tilt.len(), line.level.len()), (channels, channels, channels));
    layout.clear_border(target);
    // SAFETY: `gated` and `convolved` hold `image_count` dense images, the target as many in `layout`; the line has one
    // value a channel.
    unsafe {
        run(kernel, ApplyGradient { gated, convolved, line, layout, target, image_count });
    }
}

struct ApplyGradient<'a> {
    gated: &'a [f32],
    convolved: &'a [f32],
    line: &'a GradientLine,
    layout: Layout,
    target: &'a mut [f32],
    image_count: usize,
}

impl Task for ApplyGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.layout.channels;
        let (row_count, row_pixels) = rows(self.layout);
        for image in 0..self.image_count {
            for channel in (0..channels).step_by(S::LANES) {
                let lanes = (channels - channel).min(S::LANES);
                for row in 0..row_count {
                    let dense = (image * self.layout.pixel_count() + row * row_pixels) * channels + channel;
                    let bordered = image * self.layout.image_len() + self.layout.row_start(row) + channel;
                    // SAFETY: pixels `0..row_pixels` of the row exist in all operands with `lanes` channels from
                    // `channel` on; the line has one value a channel.
                    unsafe {
                        let slope = S::load_up_to(self.line.slope.as_ptr().add(channel), lanes);
                        let tilt = S::load_up_to(self.line.tilt.as_ptr().add(channel), lanes);
                        let level = S::load_up_to(self.line.level.as_ptr().add(channel), lanes);
                        let (gated, convolved) =
                            (self.gated.as_ptr().add(dense), self.convolved.as_ptr().add(dense));
                        let to = self.target.as_mut_ptr().add(bordered);
                        for pixel in 0..row_pixels {
                            let at = pixel * channels;
                            let tilted = S::mul_add(S::load_up_to(convolved.add(at), lanes), tilt, level);
                            let value = S::mul_add(S::load_up_to(gated.add(at), lanes), slope, tilted);
                            S::store_up_to(to.add(at), value, lanes);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values in [-1, 1) from a small linear congruence.
    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn reference_moments(images: &[f32], channels: usize) -> (Vec<f64>, Vec<f64>) {
        let count = (images.len() / channels) as f64;
        let of =
            |channel: usize| images.iter().skip(channel).step_by(channels).map(|value| f64::from(*value));
        let means: Vec<f64> = (0..channels).map(|channel| of(channel).sum::<f64>() / count).collect();
        let squares = (0..channels)
            .map(|channel| of(channel).map(|value| (value - means[channel]).powi(2)).sum())
            .collect();
        (means, squares)
    }

    #[test]
    fn moments_keep_their_digits_under_a_large_mean() {
        for channels in [1, 3, 16, 17, 40] {
            let layout = Layout::dense(5, 7, channels);
            let images: Vec<f32> =
                values(3 * layout.image_len(), 7).iter().map(|value| 1000.0 + 0.01 * value).collect();
            let (means, squares) = reference_moments(&images, channels);
            for kernel in Kernel::available() {
                let got = moments(kernel, &images, layout);
                assert_eq!(got.count, 105.0);
                for channel in 0..channels {
                    assert!((got.mean[channel] - means[channel]).abs() < 1e-6, "{kernel:?}");
                    let error = (got.squares[channel] / squares[channel] - 1.0).abs();
                    assert!(error < 1e-4, "{kernel:?} {channels}: variance off by {error:e}");
                }
            }
        }
    }

    #[test]
    fn a_constant_channel_has_no_variance() {
        let layout = Layout::dense(4, 4, 3);
        for kernel in Kernel::available() {
            let got = moments(kernel, &vec![0.1; 2 * layout.image_len()], layout);
            assert!(got.squares.iter().all(|square| *square < 1e-12), "{kernel:?} {got:?}");
        }
    }

    #[test]
    fn application_matches_the_formula_and_leaves_the_border_zero() {
        for channels in [1, 5, 16, 33] {
            let layout = Layout { height: 3, width: 5, channels, border: 1 };
            let dense = values(2 * layout.with_border(0).image_len(), 1);
            let (scale, shift) = (values(channels, 2), values(channels, 3));
            let mut residual = vec![0.0; 2 * layout.image_len()];
            layout.copy_from_dense(&values(dense.len(), 4), &mut residual);
            for kernel in Kernel::available() {
                for (residual, relu) in
                    [(None, false), (None, true), (Some(&residual[..]), true), (Some(&residual), false)]
                {
                    let application = Application { scale: &scale, shift: &shift, residual, relu };
                    let mut got = vec![0.0; 2 * layout.image_len()];
                    apply(kernel, &dense, application, layout, &mut got);
                    let expected: Vec<f32> = dense
                        .iter()
                        .enumerate()
                        .map(|(index, value)| value * scale[index % channels] + shift[index % channels])
                        .collect();
                    let mut bordered = vec![0.0; got.len()];
                    layout.copy_from_dense(&expected, &mut bordered);
                    for (index, (got, mut expected)) in got.iter().zip(bordered).enumerate() {
                        expected += residual.map_or(0.0, |residual| residual[index]);
                        let expected = if relu { expected.max(0.0) } else { expected };
                        assert!((got - expected).abs() < 1e-6);
                    }
                }
            }
        }
    }

    /// Loss Σ weight · relu(bn(x)) in f64, with batch statistics.
    fn loss(x: &[f64], weight: &[f32], gamma: &[f32], beta: &[f32], channels: usize) -> f64 {
        let count = (x.len() / channels) as f64;
        let mut total = 0.0;
        for channel in 0..channels {
            let of = || x.iter().skip(channel).step_by(channels);
            let mean = of().sum::<f64>() / count;
            let variance = of().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
            for (value, weight) in of().zip(weight.iter().skip(channel).step_by(channels)) {
                let normalized = (value - mean) / (variance + 1e-5).sqrt();
                let y = f64::from(gamma[channel]) * normalized + f64::from(beta[channel]);
                total += f64::from(*weight) * y.max(0.0);
            }
        }
        total
    }

    #[test]
    fn the_backward_matches_finite_differences_in_f64() {
        let channels = 3;
        let layout = Layout { height: 2, width: 3, channels, border: 1 };
        let x = values(2 * layout.with_border(0).image_len(), 5);
        let weight = values(x.len(), 6);
        let (gamma, beta) = (vec![0.7, 1.3, -0.4], vec![0.1, -0.2, 0.3]);
        for kernel in Kernel::available() {
            let statistics = moments(kernel, &x, layout.with_border(0));
            let mean: Vec<f32> = statistics.mean.iter().map(|mean| *mean as f32).collect();
            let inverse: Vec<f32> =
                (0..channels).map(|c| (1.0 / (statistics.biased_variance(c) + 1e-5).sqrt()) as f32).collect();
            let scale: Vec<f32> = (0..channels).map(|c| gamma[c] * inverse[c]).collect();
            let shift: Vec<f32> = (0..channels).map(|c| beta[c] - mean[c] * scale[c]).collect();
            let mut activation = vec![0.0; 2 * layout.image_len()];
            let application = Application { scale: &scale, shift: &shift, residual: None, relu: true };
            apply(kernel, &x, application, layout, &mut activation);
            let mut gated = weight.clone();
            let sums = gate_and_sum(kernel, &mut gated, Some(&activation), &x, &mean, layout);
            let line = GradientLine::new(&sums, statistics.count, &gamma, &mean, &inverse);
            let mut got = vec![9.0; 2 * layout.image_len()];
            apply_gradient(kernel, &gated, &x, &line, layout, &mut got);
            let wide: Vec<f64> = x.iter().map(|value| f64::from(*value)).collect();
            let mut expected = vec![0.0; x.len()];
            for (index, slot) in expected.iter_mut().enumerate() {
                let at = |step: f64| {
                    let mut moved = wide.clone();
                    moved[index] += step;
                    loss(&moved, &weight, &gamma, &beta, channels)
                };
                *slot = ((at(1e-5) - at(-1e-5)) / 2e-5) as f32;
            }
            let mut bordered = vec![0.0; got.len()];
            layout.copy_from_dense(&expected, &mut bordered);
            for (got, expected) in got.iter().zip(&bordered) {
                assert!((got - expected).abs() < 1e-4, "{kernel:?}: {got} for {expected}");
            }
        }
    }
}
