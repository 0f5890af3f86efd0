//! The application of a norm, one pass from the convolution's output to the activation, with residual and ReLU.

use super::{check_images, rows};
use crate::nn::ops::Kernel;
use crate::nn::ops::geometry::Layout;
use crate::nn::ops::simd::{Simd, Task, run};

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

#[cfg(test)]
mod tests {
    use super::super::tests::values;
    use super::*;

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
}
