//! Batches: fills f32 `[N, size, size, channels]` from a pool, one batch ahead of whoever consumes them.
//!
//! `for_each` keeps one background thread that fills the next batch while the consumer computes; two buffers go back and forth, so an
//! epoch allocates two batches. What a batch holds depends on the samples, the augmentation and its key, never on timing.

use std::ops::ControlFlow;
use std::sync::mpsc;
use std::thread;

use rayon::prelude::*;

use crate::domain::seed::StreamKey;

use super::augment::{Augmentation, View};
use super::distort::Distortion;
use super::normalization::Normalization;
use super::pool::Pool;

/// One image of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Index in the pool.
    pub index: usize,
    /// Counter-clockwise quarter turns, 0 to 3: the rotation pretext's label.
    pub quarter_turns: u8,
    /// Which of the image's distorted views, from 1 on; 0 is the image as it stands.
    pub view: u32,
}

impl Sample {
    /// The image as it stands.
    #[must_use]
    pub fn upright(index: usize) -> Self {
        Self { index, quarter_turns: 0, view: 0 }
    }
}

/// How the images of a batch are looked at; keys hold seed, stream name and epoch, and the content hash is added where a view is drawn.
#[derive(Clone)]
pub enum Views {
    /// As they stand.
    Plain,
    /// Cropped and flipped: all samples of one image share their crop and flip under one key.
    Cropped(Augmentation, StreamKey),
    /// Distorted: each view number of an image is drawn by itself.
    Distorted(Distortion, StreamKey),
}

/// A filled batch, lent to the consumer.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// What the rows are.
    pub samples: &'a [Sample],
    /// Normalised pixels, `[N, size, size, channels]`.
    pub images: &'a [f32],
}

/// Turns samples into batches.
#[derive(Clone)]
pub struct BatchLoader<'a> {
    pool: &'a Pool,
    normalization: &'a Normalization,
    views: Views,
}

impl<'a> BatchLoader<'a> {
    /// Loads the images of `pool` as they are, normalised.
    #[must_use]
    pub fn new(pool: &'a Pool, normalization: &'a Normalization) -> Self {
        Self { pool, normalization, views: Views::Plain }
    }

    /// Looks at the images by `views` instead.
    #[must_use]
    pub fn with_views(mut self, views: Views) -> Self {
        self.views = views;
        self
    }

    /// Fills `out` with the images of `samples`, `[N, size, size, channels]`: distorted views on rayon's global threads, since they cost the most,
    /// others on the calling thread.
    ///
    /// Panics when `out` has another length or an index isn't below the pool's length.
    pub fn fill(&self, samples: &[Sample], out: &mut [f32]) {
        let shape = self.pool.shape();
        assert_eq!(out.len(), samples.len() * shape.byte_count(), "a batch has room for its samples");
        match &self.views {
            Views::Distorted(..) => {
                let images = out.par_chunks_exact_mut(shape.byte_count());
                samples.par_iter().zip(images).for_each(|(sample, image)| self.write(sample, image));
            }
            Views::Plain | Views::Cropped(..) => {
                let images = out.chunks_exact_mut(shape.byte_count());
                samples.iter().zip(images).for_each(|(sample, image)| self.write(sample, image));
            }
        }
    }

    fn write(&self, sample: &Sample, image: &mut [f32]) {
        let (hash, pixels) = (self.pool.hash(sample.index), self.pool.pixels(sample.index));
        let shape = self.pool.shape();
        let mut view = match &self.views {
            Views::Distorted(distortion, key) if sample.view > 0 => {
                let view = distortion.draw(key, hash, sample.view);
                return view.write(pixels, shape, self.normalization, image);
            }
            Views::Cropped(augmentation, key) => augmentation.draw(key, hash),
            Views::Plain | Views::Distorted(..) => View::default(),
        };
        view.quarter_turns = sample.quarter_turns;
        view.write(pixels, shape, self.normalization, image);
    }

    /// Hands `consume` the samples in batches of `batch_size` (the last may be smaller) until it breaks or all are done.
    pub fn for_each<B>(
        &self,
        samples: &[Sample],
        batch_size: usize,
        mut consume: impl FnMut(Batch<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let batch_size = batch_size.max(1);
        let value_count = self.pool.shape().byte_count();
        thread::scope(|scope| {
            // One filled batch waits at most, so the filler is one batch ahead; an early break drops both ends and stops it.
            let (filled_sender, filled) = mpsc::sync_channel::<Vec<f32>>(1);
            let (spent, spent_receiver) = mpsc::sync_channel::<Vec<f32>>(2);
            for _ in 0..2 {
                // The channel was just made with room for both.
                let _ = spent.try_send(Vec::new());
            }
            scope.spawn(move || {
                for chunk in samples.chunks(batch_size) {
                    let Ok(mut images) = spent_receiver.recv() else {
                        return;
                    };
                    images.resize(chunk.len() * value_count, 0.0);
                    self.fill(chunk, &mut images);
                    if filled_sender.send(images).is_err() {
                        return;
                    }
                }
            });
            for chunk in samples.chunks(batch_size) {
                // The filler ends early only by panicking, which the scope passes on.
                let Ok(images) = filled.recv() else { break };
                consume(Batch { samples: chunk, images: &images })?;
                let _ = spent.try_send(images);
            }
            ControlFlow::Continue(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::content_hash::ContentHash;
    use crate::domain::settings::ImageShape;
    use crate::vision::augment::Padding;

    const SHAPE: ImageShape = ImageShape { size: 8, channels: 1 };

    fn pool(count: u8) -> Pool {
        let hashes: Vec<_> = (0..count).map(|item| ContentHash::of_file(&[item])).collect();
        let pixels = (0..count)
            .flat_map(|item| (0..64u8).map(move |at| at.wrapping_mul(3).wrapping_add(item)))
            .collect();
        Pool::from_pixels(SHAPE, &hashes, pixels).unwrap()
    }

    fn normalization() -> Normalization {
        Normalization { mean: vec![0.4], std: vec![0.3] }
    }

    fn collect(loader: &BatchLoader<'_>, samples: &[Sample], batch_size: usize) -> (Vec<usize>, Vec<f32>) {
        let (mut sizes, mut values) = (vec![], vec![]);
        let flow = loader.for_each(samples, batch_size, |batch| {
            sizes.push(batch.samples.len());
            values.extend_from_slice(batch.images);
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(flow, ControlFlow::Continue(()));
        (sizes, values)
    }

    #[test]
    fn batches_come_in_order_whatever_their_size() {
        let (pool, normalization) = (pool(23), normalization());
        let augmentation = Augmentation { crop_padding: 1, padding: Padding::Reflect, flip: true };
        let key = StreamKey::new(7, "augment").with_number(2);
        let loader = BatchLoader::new(&pool, &normalization).with_views(Views::Cropped(augmentation, key));
        let samples: Vec<_> =
            (0..46).map(|at| Sample { quarter_turns: (at / 12) as u8, ..Sample::upright(at % 23) }).collect();
        let (sizes, values) = collect(&loader, &samples, 10);
        assert_eq!(sizes, [10, 10, 10, 10, 6]);
        let (sizes, once) = collect(&loader, &samples, 100);
        assert_eq!(sizes, [46]);
        assert_eq!(values, once);
        let mut filled = vec![0.0; values.len()];
        loader.fill(&samples, &mut filled);
        assert_eq!(values, filled);
    }

    #[test]
    fn distorted_views_depend_on_neither_batches_nor_threads_and_view_0_is_the_image() {
        let (pool, normalization) = (pool(23), normalization());
        let views = Views::Distorted(Distortion::contrastive(SHAPE, false), StreamKey::new(7, "views"));
        let loader = BatchLoader::new(&pool, &normalization).with_views(views);
        let samples: Vec<_> =
            (0..69).map(|at| Sample { view: at / 23, ..Sample::upright(at as usize % 23) }).collect();
        let (_, values) = collect(&loader, &samples, 10);
        let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let mut alone = vec![0.0; values.len()];
        single.install(|| loader.fill(&samples, &mut alone));
        assert_eq!(values, alone);
        let (_, plain) = collect(&BatchLoader::new(&pool, &normalization), &samples[..23], 23);
        assert_eq!(values[..plain.len()], plain);
        assert_ne!(values[plain.len()..2 * plain.len()], values[2 * plain.len()..]);
    }

    #[test]
    fn an_early_break_ends_the_epoch_and_returns_its_value() {
        let (pool, normalization) = (pool(9), normalization());
        let loader = BatchLoader::new(&pool, &normalization);
        let samples: Vec<_> = (0..9).map(Sample::upright).collect();
        let mut seen = 0;
        let flow = loader.for_each(&samples, 2, |batch| {
            seen += batch.samples.len();
            if seen == 4 { ControlFlow::Break("stopped") } else { ControlFlow::Continue(()) }
        });
        assert_eq!((flow, seen), (ControlFlow::Break("stopped"), 4));
    }

    #[test]
    fn a_consumer_that_panics_takes_the_filler_down_with_it() {
        let (pool, normalization) = (pool(9), normalization());
        let loader = BatchLoader::new(&pool, &normalization);
        let samples: Vec<_> = (0..9).map(Sample::upright).collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = loader.for_each(&samples, 1, |_| -> ControlFlow<()> { panic!("consumer") });
        }));
        assert!(outcome.is_err());
    }

    #[test]
    fn no_samples_give_no_batch() {
        let (pool, normalization) = (pool(1), normalization());
        let loader = BatchLoader::new(&pool, &normalization);
        assert_eq!(collect(&loader, &[], 4), (vec![], vec![]));
    }
}
