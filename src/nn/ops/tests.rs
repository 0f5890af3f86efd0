//! Holds products, gradients and their packing to naive loops in f64 and to PyTorch, over odd geometries and all variants.

use proptest::prelude::*;

use super::Kernel;
use super::convolution::{Epilogue, Residual, multiply};
use super::geometry::{Geometry, Layout};
use super::pack::PackedMatrix;
use super::weight_gradient::{OutputGradient, Part, add_weight_gradient};
use super::winograd::{ChannelPart, Winograd, WinogradWeights};

/// `0.5 · sin(step · index + phase)`, which the PyTorch script computes too.
fn wave(len: usize, step: f64, phase: f64) -> Vec<f32> {
    (0..len).map(|index| (0.5 * (step * index as f64 + phase).sin()) as f32).collect()
}

/// Evenly spread numbers in [-0.5, 0.5) without a pattern, from a hash of the index.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let number = |index: usize| {
        let mut hash =
            (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xd1b5_4a32_d192_ed03);
        hash = (hash ^ (hash >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (hash >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(number).collect()
}

/// Visits every (output index, input index, weight index) of a convolution, dense NHWC and HWIO.
fn visit(geometry: &Geometry, image_count: usize, mut visit: impl FnMut(usize, usize, usize)) {
    let (out_height, out_width) = (geometry.out_height(), geometry.out_width());
    let inside = |out: usize, tap: usize, size: usize| {
        (out * geometry.stride + tap).checked_sub(geometry.padding).filter(|pixel| *pixel < size)
    };
    for (image, y, x) in triples(image_count, out_height, out_width) {
        for (ky, kx, i) in triples(geometry.kernel, geometry.kernel, geometry.in_channels) {
            let (Some(iy), Some(ix)) = (inside(y, ky, geometry.height), inside(x, kx, geometry.width)) else {
                continue;
            };
            let input = ((image * geometry.height + iy) * geometry.width + ix) * geometry.in_channels + i;
            for o in 0..geometry.out_channels {
                let output = ((image * out_height + y) * out_width + x) * geometry.out_channels + o;
                let weight =
                    ((ky * geometry.kernel + kx) * geometry.in_channels + i) * geometry.out_channels + o;
                visit(output, input, weight);
            }
        }
    }
}

fn triples(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |index| (index / (b * c), index / c % b, index % c))
}

/// A sum in f64, with what bounds the rounding of the same sum in f32.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    value: f64,
    /// Sum of the terms' magnitudes.
    magnitude: f64,
    term_count: u32,
}

impl Sum {
    fn add(&mut self, a: f32, b: f32) {
        let term = f64::from(a) * f64::from(b);
        self.value += term;
        self.magnitude += term.abs();
        self.term_count += 1;
    }

    /// Each addition is off by up to half a unit in the last place of a partial sum; in a fixed order the errors of n additions
    /// wander as far as √n of them. A term too much or too few is far outside.
    fn rounding_bound(&self) -> f64 {
        let half_unit = f64::from(f32::EPSILON) / 2.0;
        half_unit * (4.0 + 3.0 * f64::from(self.term_count).sqrt()) * self.magnitude + 1e-9
    }
}

fn values(sums: &[Sum]) -> Vec<f64> {
    sums.iter().map(|sum| sum.value).collect()
}

/// Sums in f64: the output, the gradient of the input, the gradient of the weight.
fn reference(
    geometry: &Geometry,
    image_count: usize,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
) -> [Vec<Sum>; 3] {
    let mut y = vec![Sum::default(); dy.len()];
    let (mut dx, mut dw) = (vec![Sum::default(); x.len()], vec![Sum::default(); weight.len()]);
    visit(geometry, image_count, |o, i, w| {
        y[o].add(x[i], weight[w]);
        dx[i].add(dy[o], weight[w]);
        dw[w].add(x[i], dy[o]);
    });
    [y, dx, dw]
}

fn bordered(layout: Layout, dense: &[f32]) -> Vec<f32> {
    let mut images = vec![f32::NAN; dense.len() / layout.with_border(0).image_len() * layout.image_len()];
    layout.copy_from_dense(dense, &mut images);
    images
}

fn dense(layout: Layout, images: &[f32]) -> Vec<f32> {
    let rows = images.chunks_exact(layout.image_len()).flat_map(|image| {
        (0..layout.height).flat_map(move |y| image[layout.row_start(y)..][..layout.row_len()].iter().copied())
    });
    rows.collect()
}

/// The same three by the kernels, with wider borders than needed where `extra` is not 0.
fn computed(
    kernel: Kernel,
    geometry: &Geometry,
    extra: usize,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
) -> [Vec<f32>; 3] {
    let input = geometry.input().with_border(geometry.padding + extra);
    let output = geometry.output().with_border(extra);
    let gradient = geometry.output().with_border(geometry.gradient_border() + extra);
    let image_count = x.len() / geometry.input().image_len();
    let (images, gradients) = (bordered(input, x), bordered(gradient, dy));

    let mut packed = PackedMatrix::new(kernel, geometry.depth(), geometry.out_channels);
    packed.pack_rows(weight, None);
    let mut y = vec![0.0; image_count * output.image_len()];
    multiply(&images, &geometry.forward_window(input, output), &packed, &mut y, Epilogue::default());

    let mut dx = vec![f32::NAN; image_count * input.image_len()];
    for class in geometry.gradient_classes(gradient, input) {
        let mut packed = PackedMatrix::new(kernel, class.window.depth(), geometry.in_channels);
        packed.pack_gradient(geometry, &class, weight);
        multiply(&gradients, &class.window, &packed, &mut dx, Epilogue::default());
    }

    let mut dw = vec![0.0; weight.len()];
    let window = geometry.forward_window(input, gradient);
    let output_gradient = OutputGradient { images: &gradients, width: geometry.out_channels };
    let middle = geometry.out_channels / 2;
    for columns in [0..middle, middle..geometry.out_channels] {
        let part = Part { depths: 0..geometry.depth(), columns: columns.clone() };
        let mut sum = vec![0.0; geometry.depth() * columns.len()];
        add_weight_gradient(kernel, &images, &window, output_gradient, &part, &mut sum);
        for (row, sums) in sum.chunks_exact(columns.len().max(1)).enumerate() {
            dw[row * geometry.out_channels..][columns.clone()].copy_from_slice(sums);
        }
    }
    [dense(output, &y), dense(input, &dx), dw]
}

fn assert_close(found: &[f32], expected: &[Sum], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected.value).abs();
        assert!(error <= expected.rounding_bound(), "{what}[{index}]: {found} for {expected:?}");
    }
}

fn check(geometry: Geometry, image_count: usize, extra: usize) {
    let x = wave(image_count * geometry.input().image_len(), 0.7, 0.1);
    let weight = wave(geometry.weight_len(), 1.3, 0.2);
    let dy = wave(image_count * geometry.output().image_len(), 0.9, 0.3);
    let [y, dx, dw] = reference(&geometry, image_count, &x, &weight, &dy);
    for kernel in Kernel::available() {
        let found = computed(kernel, &geometry, extra, &x, &weight, &dy);
        let name = |what: &str| format!("{kernel:?} {geometry:?} {what}");
        assert_close(&found[0], &y, &name("output"));
        assert_close(&found[1], &dx, &name("input"));
        assert_close(&found[2], &dw, &name("weight"));
    }
}

/// Largest error of Winograd's form relative to the largest number: of the output and of both gradients.
fn winograd_errors(kernel: Kernel, geometry: &Geometry, image_count: usize, extra: usize) -> [f64; 3] {
    let x = noise(image_count * geometry.input().image_len(), 1);
    let weight = noise(geometry.weight_len(), 2);
    let dy = noise(image_count * geometry.output().image_len(), 3);
    let [y, dx, dw] = reference(geometry, image_count, &x, &weight, &dy);
    let (input, output) = (geometry.input().with_border(1 + extra), geometry.output().with_border(extra));
    let mut weights = WinogradWeights::new(kernel, geometry.in_channels, geometry.out_channels);
    weights.pack(&weight, None);
    let mut found = vec![f32::NAN; image_count * output.image_len()];
    Winograd::new(geometry, input, output).convolve(
        &bordered(input, &x),
        &weights,
        &mut found,
        Epilogue::default(),
    );
    let mut backward = WinogradWeights::new(kernel, geometry.out_channels, geometry.in_channels);
    backward.pack_gradient(&weight);
    let reversed =
        Geometry { in_channels: geometry.out_channels, out_channels: geometry.in_channels, ..*geometry };
    let gradient = geometry.output().with_border(1 + extra);
    let mut found_dx = vec![f32::NAN; x.len()];
    let form = Winograd::new(&reversed, gradient, geometry.input());
    form.convolve(&bordered(gradient, &dy), &backward, &mut found_dx, Epilogue::default());
    let found_dw = winograd_weight_gradient(
        kernel,
        geometry,
        [input, gradient],
        &bordered(input, &x),
        &bordered(gradient, &dy),
    );
    [
        relative_error(&dense(output, &found), &values(&y)),
        relative_error(&found_dx, &values(&dx)),
        relative_error(&found_dw, &values(&dw)),
    ]
}

/// The weight's gradient in Winograd's form, put together from parts of uneven channels.
fn winograd_weight_gradient(
    kernel: Kernel,
    geometry: &Geometry,
    [input, output]: [Layout; 2],
    images: &[f32],
    gradient: &[f32],
) -> Vec<f32> {
    let (in_channels, out_channels) = (geometry.in_channels, geometry.out_channels);
    let form = Winograd::new(geometry, input, output);
    let mut found = vec![f32::NAN; geometry.weight_len()];
    let cuts = |count: usize| [0..count / 3, count / 3..count];
    for inputs in cuts(in_channels) {
        for outputs in cuts(out_channels) {
            let part = ChannelPart { inputs: inputs.clone(), outputs: outputs.clone() };
            let mut sum = vec![0.0; 9 * inputs.len() * outputs.len()];
            form.add_weight_gradient(kernel, images, gradient, &part, &mut sum);
            for (row, sums) in sum.chunks_exact(outputs.len().max(1)).enumerate() {
                let (tap, channel) = (row / inputs.len(), inputs.start + row % inputs.len());
                found[(tap * in_channels + channel) * out_channels..][outputs.clone()].copy_from_slice(sums);
            }
        }
    }
    found
}

fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-3_f64, |scale, value| scale.max(value.abs()));
    let errors = found.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
    errors.fold(0.0, |worst: f64, error| if error.is_nan() { f64::NAN } else { worst.max(error) }) / scale
}

fn geometry(
    size: (usize, usize),
    channels: (usize, usize),
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Geometry {
    Geometry {
        height: size.0,
        width: size.1,
        in_channels: channels.0,
        out_channels: channels.1,
        kernel,
        stride,
        padding,
    }
}

#[test]
fn the_layers_of_our_networks_match_sums_in_f64() {
    for (kernel, stride) in [(1, 1), (1, 2), (3, 1), (3, 2), (7, 1), (7, 2)] {
        for channels in [(1, 16), (3, 10), (16, 32), (17, 33), (40, 48)] {
            check(geometry((9, 7), channels, kernel, stride, kernel / 2), 1, 0);
        }
        check(geometry((8, 8), (2, 3), kernel, stride, kernel / 2), 3, 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_geometry_matches_sums_in_f64(
        size in (1_usize..12, 1_usize..12),
        channels in (1_usize..36, 1_usize..36),
        kernel in 1_usize..6,
        stride in 1_usize..4,
        padding in 0_usize..3,
        image_count in 1_usize..4,
        extra in 0_usize..2,
    ) {
        prop_assume!(padding < kernel && size.0.min(size.1) + 2 * padding >= kernel);
        check(geometry(size, channels, kernel, stride, padding), image_count, extra);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn winograds_form_matches_sums_in_f64(
        size in (1_usize..15, 1_usize..15),
        channels in (1_usize..40, 1_usize..40),
        image_count in 1_usize..4,
        extra in 0_usize..2,
    ) {
        for kernel in Kernel::available() {
            let shape = geometry(size, channels, 3, 1, 1);
            for error in winograd_errors(kernel, &shape, image_count, extra) {
                prop_assert!(error < 3e-5, "{kernel:?} {shape:?}: {error:e}");
            }
        }
    }
}

/// The bound that docs/results/gradient-accuracy.md gives for the deepest layer that takes this form.
#[test]
fn winograds_error_stays_small_over_many_channels() {
    for kernel in Kernel::available() {
        for error in winograd_errors(kernel, &geometry((8, 8), (256, 256), 3, 1, 1), 1, 0) {
            assert!(error < 3e-5, "{kernel:?}: {error:e}");
        }
    }
}

/// More tiles than a block holds, cut off at both edges; the bound that docs/results/gradient-accuracy.md gives.
#[test]
fn winograds_error_stays_small_over_many_tiles() {
    for kernel in Kernel::available() {
        for size in [(28, 28), (27, 29)] {
            for error in winograd_errors(kernel, &geometry(size, (16, 17), 3, 1, 1), 3, 0) {
                assert!(error < 1e-5, "{kernel:?} {size:?}: {error:e}");
            }
        }
    }
}

#[test]
fn winograds_weight_gradient_adds_to_the_sum_and_repeats_its_bits() {
    let shape = geometry((9, 10), (20, 37), 3, 1, 1);
    let layouts = [shape.input().with_border(1), shape.output().with_border(1)];
    let images = bordered(layouts[0], &noise(5 * shape.input().image_len(), 1));
    let gradient = bordered(layouts[1], &noise(5 * shape.output().image_len(), 2));
    let form = Winograd::new(&shape, layouts[0], layouts[1]);
    let part = ChannelPart { inputs: 0..20, outputs: 0..37 };
    for kernel in Kernel::available() {
        let add = |mut sum: Vec<f32>| {
            form.add_weight_gradient(kernel, &images, &gradient, &part, &mut sum);
            sum
        };
        let once = add(vec![0.0; shape.weight_len()]);
        assert_eq!(once, add(vec![0.0; shape.weight_len()]));
        let twice: Vec<f32> = once.iter().map(|value| value + value).collect();
        assert_eq!(add(once), twice);
    }
}

#[test]
#[should_panic(expected = "the gradient belongs to another number of images")]
fn a_gradient_of_another_batch_is_refused() {
    let shape = geometry((4, 4), (2, 2), 3, 1, 1);
    let input = shape.input().with_border(1);
    let part = ChannelPart { inputs: 0..2, outputs: 0..2 };
    let form = Winograd::new(&shape, input, shape.output());
    let images = vec![0.0; 2 * input.image_len()];
    form.add_weight_gradient(Kernel::Portable, &images, &[0.0; 32], &part, &mut [0.0; 36]);
}

#[test]
fn winograds_form_applies_scale_bias_residual_and_relu() {
    let shape = geometry((7, 6), (5, 19), 3, 1, 1);
    let (x, weight) = (noise(2 * shape.input().image_len(), 1), noise(shape.weight_len(), 2));
    let (bias, residual) = (wave(19, 0.8, 0.0), wave(2 * shape.output().image_len(), 0.6, 0.4));
    let scale: Vec<f32> = (1..=19).map(|value| 0.1 * value as f32).collect();
    let [y, ..] = reference(&shape, 2, &x, &weight, &vec![0.0; residual.len()]);
    let expected = values(&y).into_iter().enumerate().map(|(at, y)| {
        (y * f64::from(scale[at % 19]) + f64::from(bias[at % 19]) + f64::from(residual[at])).max(0.0)
    });
    let expected: Vec<f64> = expected.collect();
    let input = shape.input().with_border(1);
    for kernel in Kernel::available() {
        let mut weights = WinogradWeights::new(kernel, 5, 19);
        weights.pack(&weight, Some(&scale));
        let form = Winograd::new(&shape, input, shape.output());
        let mut apart = vec![0.0; y.len()];
        let epilogue = Epilogue { bias: Some(&bias), residual: Residual::Images(&residual), relu: true };
        form.convolve(&bordered(input, &x), &weights, &mut apart, epilogue);
        assert!(relative_error(&apart, &expected) < 1e-5);
        let mut in_place = residual.clone();
        let epilogue = Epilogue { residual: Residual::Target, ..epilogue };
        form.convolve(&bordered(input, &x), &weights, &mut in_place, epilogue);
        assert_eq!(in_place, apart);
        for (image, expected) in
            bordered(input, &x).chunks_exact(input.image_len()).zip(apart.chunks_exact(apart.len() / 2))
        {
            let mut alone = vec![0.0; expected.len()];
            let epilogue = Epilogue { bias: Some(&bias), residual: Residual::None, relu: false };
            form.convolve(image, &weights, &mut alone, epilogue);
            let mut together = vec![0.0; apart.len()];
            form.convolve(&bordered(input, &x), &weights, &mut together, epilogue);
            assert!(
                together.chunks_exact(alone.len()).any(|image| image == alone),
                "an image depends on its batch"
            );
        }
    }
}

#[test]
fn bias_residual_and_relu_are_applied_in_this_order() {
    let shape = geometry((4, 5), (3, 19), 3, 1, 1);
    let (x, weight) = (wave(2 * shape.input().image_len(), 0.7, 0.1), wave(shape.weight_len(), 1.3, 0.2));
    let (bias, residual) = (wave(19, 0.8, 0.0), wave(2 * shape.output().image_len(), 0.6, 0.4));
    let [y, ..] = reference(&shape, 2, &x, &weight, &vec![0.0; residual.len()]);
    let input = shape.input().with_border(1);
    let images = bordered(input, &x);
    for kernel in Kernel::available() {
        let mut packed = PackedMatrix::new(kernel, shape.depth(), 19);
        packed.pack_rows(&weight, None);
        let window = shape.forward_window(input, shape.output());
        let expected = values(&y).into_iter().enumerate();
        let expected =
            expected.map(|(at, y)| (y + f64::from(bias[at % 19]) + f64::from(residual[at])).max(0.0));
        let expected: Vec<f64> = expected.collect();
        let mut apart = vec![0.0; y.len()];
        let epilogue = Epilogue { bias: Some(&bias), residual: Residual::Images(&residual), relu: true };
        multiply(&images, &window, &packed, &mut apart, epilogue);
        assert!(relative_error(&apart, &expected) < 1e-6);
        let mut in_place = residual.clone();
        let epilogue = Epilogue { residual: Residual::Target, ..epilogue };
        multiply(&images, &window, &packed, &mut in_place, epilogue);
        assert_eq!(in_place, apart);
    }
}

/// A row's bits must not depend on the rows that share its tile.
#[test]
fn an_images_product_is_the_same_in_any_batch() {
    let shape = geometry((5, 5), (8, 24), 3, 1, 1);
    let (x, weight) = (wave(7 * shape.input().image_len(), 0.7, 0.1), wave(shape.weight_len(), 1.3, 0.2));
    let input = shape.input().with_border(1);
    let (images, window) = (bordered(input, &x), shape.forward_window(input, shape.output()));
    for kernel in Kernel::available() {
        let mut packed = PackedMatrix::new(kernel, shape.depth(), 24);
        packed.pack_rows(&weight, None);
        let product = |images: &[f32]| {
            let mut y = vec![0.0; images.len() / input.image_len() * shape.output().image_len()];
            multiply(images, &window, &packed, &mut y, Epilogue::default());
            y
        };
        let together = product(&images);
        for (image, expected) in
            images.chunks_exact(input.image_len()).zip(together.chunks_exact(shape.output().image_len()))
        {
            assert_eq!(product(image), expected);
        }
    }
}

#[test]
#[should_panic(expected = "the target belongs to another number of images")]
fn a_target_of_another_size_is_refused() {
    let shape = geometry((4, 4), (1, 1), 3, 1, 1);
    let input = shape.input().with_border(1);
    let packed = PackedMatrix::new(Kernel::Portable, 9, 1);
    let window = shape.forward_window(input, shape.output());
    multiply(&vec![0.0; 2 * input.image_len()], &window, &packed, &mut [0.0; 16], Epilogue::default());
}

// Expected numbers: src/nn/ops/reference.py, section "convolutions".
#[test]
fn convolutions_match_pytorch() {
    for (shape, expected) in pytorch_numbers() {
        let x = wave(shape.input().image_len(), 0.7, 0.1);
        let weight = wave(shape.weight_len(), 1.3, 0.2);
        let dy = wave(shape.output().image_len(), 0.9, 0.3);
        for kernel in Kernel::available() {
            let found = computed(kernel, &shape, 0, &x, &weight, &dy);
            for (found, expected) in found.iter().zip(&expected) {
                let picked = [found[0], found[found.len() / 2], found[found.len() - 1]];
                for (found, expected) in picked.iter().zip(expected) {
                    assert!(
                        (found - expected).abs() < 2e-5 * expected.abs().max(1.0),
                        "{found} for {expected}"
                    );
                }
            }
        }
    }
}

/// First, middle and last number of the output, the gradient of the input and of the weight (NHWC, HWIO).
fn pytorch_numbers() -> Vec<(Geometry, [[f32; 3]; 3])> {
    vec![
        (
            geometry((9, 8), (3, 5), 7, 2, 3),
            [
                [0.084574, 2.135813, -0.800795],
                [-1.121983, -0.354341, -0.205508],
                [0.119397, -0.135087, -0.408718],
            ],
        ),
        (
            geometry((7, 6), (17, 20), 3, 2, 1),
            [
                [-0.199709, 0.079693, -1.417714],
                [-0.469896, 0.039801, -0.472644],
                [0.352001, -0.791736, -0.445955],
            ],
        ),
        (
            geometry((6, 5), (16, 33), 3, 1, 1),
            [
                [0.143325, -0.054722, -0.129441],
                [0.133577, -0.098106, -0.289073],
                [-0.010024, 0.258818, 0.43153],
            ],
        ),
        (
            geometry((5, 5), (10, 16), 1, 2, 0),
            [
                [-0.082576, -0.082325, -0.017957],
                [-0.000958, -0.139506, 0.034825],
                [-0.159142, 0.161323, 0.286526],
            ],
        ),
    ]
}
