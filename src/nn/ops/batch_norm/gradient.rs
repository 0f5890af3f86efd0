//! The backward of a norm with its ReLU, in two passes.
//!
//! The first gates the activation's gradient and takes the sums that the norm's gradient needs over the whole batch; the
//! second turns the gated gradient into that of the convolution's output, a line in it and the output a channel.

use super::{MAX_LANES, STREAMS, check_images, rows, total};
use crate::nn::ops::Kernel;
use crate::nn::ops::geometry::Layout;
use crate::nn::ops::simd::{Simd, Task, run};

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
    use super::super::tests::values;
    use super::*;
    use crate::nn::ops::batch_norm::{Application, apply, moments};

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
