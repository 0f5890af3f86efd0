//! Kernels and whole passes under criterion: `make bench`.
//!
//! Throughput is in multiplications and additions a second, so that a figure stands beside the processor's limit.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gleaner::nn::ops::convolution::{Epilogue, multiply};
use gleaner::nn::ops::geometry::Geometry;
use gleaner::nn::ops::pack::PackedMatrix;
use gleaner::nn::ops::weight_gradient::{OutputGradient, Part, add_weight_gradient};
use gleaner::nn::ops::winograd::{ChannelPart, Winograd};
use gleaner::nn::ops::{Kernel, batch_norm};

/// Image count, side, input and output channels, kernel, stride of the layers that the two nets are made of.
const LAYERS: [(usize, usize, usize, usize, usize, usize); 8] = [
    (4, 28, 1, 16, 3, 1),
    (4, 28, 16, 16, 3, 1),
    (16, 14, 32, 32, 3, 1),
    (32, 7, 64, 64, 3, 1),
    (4, 28, 16, 32, 3, 2),
    (1, 32, 64, 64, 3, 1),
    (4, 16, 128, 128, 3, 1),
    (16, 4, 512, 512, 3, 1),
];

fn wave(len: usize) -> Vec<f32> {
    (0..len).map(|index| (index as f32 * 0.37).sin()).collect()
}

fn bench_layers(criterion: &mut Criterion) {
    for (count, side, in_channels, out_channels, kernel, stride) in LAYERS {
        let geometry = Geometry {
            height: side,
            width: side,
            in_channels,
            out_channels,
            kernel,
            stride,
            padding: kernel / 2,
        };
        let name =
            format!("{side}x{side} {in_channels}->{out_channels} /{stride} ({count} images, one thread)");
        let mut group = criterion.benchmark_group(name);
        let operations = 2 * count * geometry.output().pixel_count() * geometry.weight_len();
        group.throughput(Throughput::Elements(operations as u64));
        let input = geometry.input().with_border(geometry.padding);
        let gradient_layout = geometry.output().with_border(geometry.gradient_border());
        let weight = wave(geometry.weight_len());
        let images = wave(count * input.image_len());
        let gradient = wave(count * gradient_layout.image_len());
        let variant = Kernel::best();
        let window = geometry.forward_window(input, geometry.output());
        let mut packed = PackedMatrix::new(variant, geometry.depth(), out_channels);
        packed.pack_rows(&weight, None);
        let mut output = wave(count * geometry.output().image_len());
        group.bench_function("forward", |bencher| {
            bencher.iter(|| multiply(&images, &window, &packed, &mut output, Epilogue::default()));
        });
        let mut classes = geometry.gradient_classes(gradient_layout, geometry.input());
        let mut packed: Vec<_> = classes
            .iter()
            .map(|class| PackedMatrix::new(variant, class.window.depth(), in_channels))
            .collect();
        for (class, packed) in classes.iter_mut().zip(&mut packed) {
            packed.pack_gradient(&geometry, class, &weight);
        }
        let mut of_input = wave(count * geometry.input().image_len());
        group.bench_function("gradient of input", |bencher| {
            bencher.iter(|| {
                for (class, packed) in classes.iter().zip(&packed) {
                    multiply(&gradient, &class.window, packed, &mut of_input, Epilogue::default());
                }
            });
        });
        let window = geometry.forward_window(input, gradient_layout);
        let part = Part { depths: 0..geometry.depth(), columns: 0..out_channels };
        let gradient = OutputGradient { images: &gradient, width: out_channels };
        let mut sum = wave(geometry.weight_len());
        group.bench_function("gradient of weight", |bencher| {
            bencher.iter(|| add_weight_gradient(variant, &images, &window, gradient, &part, &mut sum));
        });
        if Winograd::pays_for_weight(&geometry) {
            let form = Winograd::new(&geometry, input, gradient_layout);
            let part = ChannelPart { inputs: 0..in_channels, outputs: 0..out_channels };
            let gradient = gradient.images;
            group.bench_function("gradient of weight, Winograd's form", |bencher| {
                bencher.iter(|| form.add_weight_gradient(variant, &images, gradient, &part, &mut sum));
            });
        }
        group.bench_function("moments", |bencher| {
            bencher.iter(|| batch_norm::moments(variant, &output, geometry.output()));
        });
        group.finish();
    }
}

criterion_group!(kernels, bench_layers);
criterion_main!(kernels);
