//! A small world for tests: 8×8 grey images of four kinds, learnable in seconds.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;

use rand::Rng;

use super::{DropCheckpoints, LabeledItem, Stopped, pretrain};
use crate::domain::content_hash::ContentHash;
use crate::domain::project::ClassIndex;
use crate::domain::seed::StreamKey;
use crate::domain::settings::{ImageShape, PretextKind, ProjectSettings};
use crate::nn::checkpoint::Checkpoint;
use crate::vision::Pool;

pub(crate) const CLASS_COUNT: usize = 4;

pub(crate) const SHAPE: ImageShape = ImageShape { size: 8, channels: 1 };

/// `count` images drawn under `name`; item i is of class i mod 4: a bar above, a bar at the left, a diagonal, a dot in the middle, on
/// a ground that darkens downwards.
pub(crate) fn pool(count: usize, name: &str) -> (Pool, Vec<ClassIndex>) {
    let mut stream = StreamKey::new(3, name).stream();
    let (mut hashes, mut pixels, mut classes) = (Vec::new(), Vec::new(), Vec::new());
    for item in 0..count {
        let class = item % CLASS_COUNT;
        let shift = stream.random_range(0..2usize);
        let mut image = Vec::with_capacity(64);
        for at in 0..64usize {
            let (y, x) = (at / 8, at % 8);
            let lit = match class {
                0 => y == 1 + shift,
                1 => x == 1 + shift,
                2 => y == x || y == x + shift,
                _ => (3..5 + shift).contains(&y) && (3..5).contains(&x),
            };
            // Darker towards the bottom, so that there is a rotation to tell.
            let shade = 12 * y as u8 + stream.random_range(0..40u8);
            image.push(if lit { 255 - shade } else { 124 - shade });
        }
        hashes.push(ContentHash::of_pixels(8, 8, 1, &image));
        pixels.extend(image);
        classes.push(ClassIndex(class as u16));
    }
    (Pool::from_pixels(SHAPE, &hashes, pixels).expect("rows of one shape"), classes)
}

/// D_l: the first `count` items with their classes.
pub(crate) fn labeled(count: usize, classes: &[ClassIndex]) -> Vec<LabeledItem> {
    (0..count).map(|index| LabeledItem { index, class: classes[index] }).collect()
}

/// One epoch of everything.
pub(crate) fn settings() -> ProjectSettings {
    let mut settings = ProjectSettings { image: SHAPE, ..ProjectSettings::default() };
    settings.pretext.epochs = 1;
    settings.fine_tune.epochs = 1;
    settings.fine_tune.min_steps = 200;
    settings
}

/// A hook that never stops.
pub(crate) fn go_on(_done: u64, _total: u64) -> ControlFlow<Stopped> {
    ControlFlow::Continue(())
}

/// A pretext model of `pool` after one epoch.
pub(crate) fn pretext(pool: &Pool) -> Checkpoint {
    pretrain(&candle_core::Device::Cpu, pool, &[], &settings(), None, &mut DropCheckpoints, &mut go_on)
        .expect("a pretext model")
}

/// Settings under which MoCo trains on a few images.
pub(crate) fn moco_settings() -> ProjectSettings {
    let mut settings = settings();
    settings.pretext.kind = PretextKind::Moco;
    settings.pretext.moco.batch_size = Some(32);
    settings.pretext.moco.queue_size = 48;
    settings
}

/// The first `count` images of a split (`train` or `t10k`) of the real Fashion-MNIST with their classes, from Debian's package.
pub(crate) fn fashion_mnist(split: &str, count: usize) -> (Pool, Vec<ClassIndex>) {
    let read = |name: String, header: u64, count: usize| {
        let path = format!("/usr/share/datasets/fashion-mnist/{split}-{name}.gz");
        let file = File::open(&path)
            .unwrap_or_else(|error| panic!("{path}: {error}; install dataset-fashion-mnist"));
        let mut bytes = Vec::new();
        let mut content = flate2::read::GzDecoder::new(file).take(header + count as u64);
        content.read_to_end(&mut bytes).expect("gzip");
        bytes.split_off(header as usize)
    };
    let pixels = read("images-idx3-ubyte".to_owned(), 16, count * 784);
    let labels = read("labels-idx1-ubyte".to_owned(), 8, count);
    let hashes: Vec<_> =
        pixels.chunks_exact(784).map(|image| ContentHash::of_pixels(28, 28, 1, image)).collect();
    let pool =
        Pool::from_pixels(ImageShape { size: 28, channels: 1 }, &hashes, pixels).expect("rows of one shape");
    (pool, labels.into_iter().map(|class| ClassIndex(u16::from(class))).collect())
}
