//! The training loop that pretext and fine-tuning share: order, batches, optimizer, schedule, checkpoints, stop.
//!
//! One pass of the loop is a mini-batch: the loader fills the next one meanwhile, the hook is asked first, the optimizers move both stores,
//! the running statistics follow. State that training needs to go on to the same bits is saved at a stop and every half minute; where it
//! is saved changes nothing. Time is read for that alone.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;
use sha2::{Digest, Sha256};

use super::{CheckpointSink, LearnerError, Result, StepHook, Stopped};
use crate::domain::seed::StreamKey;
use crate::nn;
use crate::nn::checkpoint::{Checkpoint, EpochRecord, Progress, SavedOptimizer, TrainingState};
use crate::nn::head::ClassifiedStep;
use crate::nn::optimizer::{Optimizer, Recipe};
use crate::nn::parameters::NORM_MOMENTUM;
use crate::nn::schedule::Schedule;
use crate::pretext::EpochPlan;
use crate::vision::{Batch, BatchLoader, Pool, Sample};

/// Time between two checkpoints of a training under way.
pub(super) const SAVE_INTERVAL: Duration = Duration::from_secs(30);

/// What a step is shown.
#[derive(Clone, Copy)]
pub(super) struct MiniBatch<'a> {
    /// The views, in order.
    pub samples: &'a [Sample],
    /// Their pixels on the device. [N, H, W, C]
    pub images: &'a Tensor,
    /// Pass over the images, from 0.
    pub epoch: u32,
    /// Place in the pass, from 0.
    pub number: u64,
}

/// Gradients of one mini-batch; what a task keeps beside backbone and head moves in it.
pub(super) type StepFn<'a> = dyn Fn(&mut Checkpoint, MiniBatch<'_>) -> nn::Result<ClassifiedStep> + 'a;

/// Accuracy of the model after an epoch by some labels, if there are enough.
pub(super) type MonitorFn<'a> = dyn Fn(&Checkpoint) -> Result<Option<f32>> + 'a;

/// A training: what is shown, how a mini-batch is judged, how the parameters move.
pub(super) struct Training<'a> {
    pub device: &'a Device,
    pub pool: &'a Pool,
    pub recipe: Recipe,
    pub epoch_count: u32,
    pub save_interval: Duration,
    pub plan_epoch: &'a dyn Fn(u32) -> EpochPlan,
    pub step: &'a StepFn<'a>,
    pub monitor: &'a MonitorFn<'a>,
}

/// What changes from mini-batch to mini-batch beside the weights.
struct Course<'s> {
    backbone_optimizer: Optimizer,
    head_optimizer: Optimizer,
    schedule: Schedule,
    progress: Progress,
    step_count: u64,
    saved_at: Instant,
    sink: &'s mut dyn CheckpointSink,
}

impl Training<'_> {
    /// Trains `checkpoint` to the end, from where its training state stands when it has one.
    pub(super) fn run(
        &self,
        mut checkpoint: Checkpoint,
        sink: &mut dyn CheckpointSink,
        hook: &mut dyn StepHook,
    ) -> Result<Checkpoint> {
        let mut course = self.start(&mut checkpoint, sink)?;
        while course.progress.epoch < self.epoch_count {
            let plan = (self.plan_epoch)(course.progress.epoch);
            self.run_epoch(&plan, &mut checkpoint, &mut course, hook)?;
            let seen = course.progress.seen_count.max(1) as f64;
            checkpoint.manifest.epochs.push(EpochRecord {
                loss: (course.progress.loss_sum / seen) as f32,
                accuracy: (course.progress.correct_count as f64 / seen) as f32,
                knn_accuracy: (self.monitor)(&checkpoint)?,
            });
            course.progress = Progress { epoch: course.progress.epoch + 1, ..Progress::default() };
        }
        super::check(hook.step(course.step_count, course.step_count))?;
        Ok(checkpoint)
    }

    fn start<'s>(&self, checkpoint: &mut Checkpoint, sink: &'s mut dyn CheckpointSink) -> Result<Course<'s>> {
        let plan = (self.plan_epoch)(0);
        let step_count = u64::from(self.epoch_count) * plan.batch_count();
        let warm_up_step_count = (step_count as f64 * f64::from(self.recipe.warm_up_fraction)) as u64;
        let lengths = (checkpoint.backbone.values.len(), checkpoint.head.values.len());
        let rule = self.recipe.rule;
        let (progress, backbone_optimizer, head_optimizer) = match checkpoint.training.take() {
            None => (Progress::default(), Optimizer::new(rule, lengths.0), Optimizer::new(rule, lengths.1)),
            Some(state) => {
                let resume = |saved: SavedOptimizer, length| {
                    Optimizer::resume(rule, length, saved.step_count, saved.state)
                };
                (state.progress, resume(state.backbone, lengths.0)?, resume(state.head, lengths.1)?)
            }
        };
        Ok(Course {
            backbone_optimizer,
            head_optimizer,
            schedule: Schedule { peak: self.recipe.peak_rate, warm_up_step_count, step_count },
            progress,
            step_count,
            saved_at: Instant::now(),
            sink,
        })
    }

    fn run_epoch(
        &self,
        plan: &EpochPlan,
        checkpoint: &mut Checkpoint,
        course: &mut Course<'_>,
        hook: &mut dyn StepHook,
    ) -> Result<()> {
        let normalization = checkpoint.manifest.normalization.clone();
        let loader = BatchLoader::new(self.pool, &normalization).with_views(plan.views.clone());
        let done = usize::try_from(course.progress.batch_count)
            .unwrap_or(usize::MAX)
            .saturating_mul(plan.batch_size);
        let rest = plan.samples.get(done..).unwrap_or_default();
        let flow = loader.for_each(rest, plan.batch_size, |batch| {
            let outcome = self.take_step(batch, checkpoint, course, hook);
            outcome.map_or_else(ControlFlow::Break, ControlFlow::Continue)
        });
        match flow {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        }
    }

    fn take_step(
        &self,
        batch: Batch<'_>,
        checkpoint: &mut Checkpoint,
        course: &mut Course<'_>,
        hook: &mut dyn StepHook,
    ) -> Result<()> {
        let done = course.backbone_optimizer.step_count();
        if let ControlFlow::Break(Stopped) = hook.step(done, course.step_count) {
            course.save(checkpoint)?;
            return Err(LearnerError::Stopped);
        }
        let images = batch_tensor(batch, self.pool, self.device)?;
        let Progress { epoch, batch_count: number, .. } = course.progress;
        let shown = MiniBatch { samples: batch.samples, images: &images, epoch, number };
        let ClassifiedStep { gradients, answer_count, correct_count } = (self.step)(checkpoint, shown)?;
        let rate = course.schedule.rate(done);
        course.backbone_optimizer.step(&mut checkpoint.backbone.values, &gradients.backbone, rate);
        let head_rate = rate * self.recipe.head_rate_factor;
        course.head_optimizer.step(&mut checkpoint.head.values, &gradients.head, head_rate);
        checkpoint.backbone.update_running(&gradients.statistics, NORM_MOMENTUM);
        let count = answer_count as u64;
        course.progress.batch_count += 1;
        course.progress.loss_sum += f64::from(gradients.loss) * count as f64;
        course.progress.correct_count += correct_count as u64;
        course.progress.seen_count += count;
        if course.saved_at.elapsed() >= self.save_interval {
            course.save(checkpoint)?;
        }
        Ok(())
    }
}

impl Course<'_> {
    fn save(&mut self, checkpoint: &mut Checkpoint) -> Result<()> {
        let saved = |optimizer: &Optimizer| SavedOptimizer {
            step_count: optimizer.step_count(),
            state: optimizer.state().to_vec(),
        };
        checkpoint.training = Some(TrainingState {
            progress: self.progress,
            backbone: saved(&self.backbone_optimizer),
            head: saved(&self.head_optimizer),
        });
        let bytes = checkpoint.to_bytes();
        checkpoint.training = None;
        self.sink.save(&bytes?).map_err(LearnerError::Sink)?;
        self.saved_at = Instant::now();
        Ok(())
    }
}

/// A loaded batch on the device. [N, H, W, C]
pub(super) fn batch_tensor(batch: Batch<'_>, pool: &Pool, device: &Device) -> Result<Tensor> {
    let (size, channels) = (pool.shape().size as usize, pool.shape().channels as usize);
    let tensor = Tensor::from_slice(batch.images, (batch.samples.len(), size, size, channels), device);
    Ok(tensor.map_err(nn::NnError::from)?)
}

/// The indices sorted by content hash and then shuffled under `key`: an order that depends on nothing but contents and seed.
pub(super) fn training_order(
    pool: &Pool,
    indices: impl Iterator<Item = usize>,
    key: StreamKey,
) -> Vec<usize> {
    let mut order: Vec<usize> = indices.collect();
    order.sort_unstable_by_key(|&index| pool.hash(index));
    order.shuffle(&mut key.stream());
    order
}

/// Digest of what a training learns from: its settings as JSON, then each item's hash and class in the order of the hashes.
pub(super) fn run_digest<'h>(
    settings: &serde_json::Value,
    items: impl Iterator<Item = (&'h crate::domain::content_hash::ContentHash, u16)>,
) -> String {
    let mut digest = Sha256::new();
    digest.update(settings.to_string());
    let mut items: Vec<_> = items.collect();
    items.sort_unstable();
    for (hash, class) in items {
        digest.update(hash.0);
        digest.update(class.to_le_bytes());
    }
    hex::encode(digest.finalize())
}

/// The training to go on with: what `resume` holds when it is a stage of the same run as `fresh`, else `fresh`.
///
/// A checkpoint that can't be read or belongs to other labels or settings costs time, not correctness, so it is logged and left.
pub(super) fn starting_point(fresh: Checkpoint, resume: Option<&[u8]>) -> Checkpoint {
    let Some(bytes) = resume else {
        return fresh;
    };
    match Checkpoint::from_bytes(bytes) {
        Ok(saved) if saved.training.is_some() && saved.manifest.run == fresh.manifest.run => {
            let epochs = saved.manifest.epochs.clone();
            Checkpoint { manifest: nn::checkpoint::Manifest { epochs, ..fresh.manifest }, ..saved }
        }
        Ok(_) => {
            tracing::warn!("checkpoint belongs to another training, starting again");
            fresh
        }
        Err(error) => {
            tracing::warn!(%error, "checkpoint not readable, starting again");
            fresh
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::moco::MocoVersion;
    use crate::domain::settings::ProjectSettings;
    use crate::learner::fixture::{self, go_on};
    use crate::learner::pretrain;

    /// Keeps the last checkpoint.
    #[derive(Default)]
    struct Kept(Vec<u8>);

    impl CheckpointSink for Kept {
        fn save(
            &mut self,
            bytes: &[u8],
        ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
            self.0 = bytes.to_vec();
            Ok(())
        }
    }

    fn settings() -> ProjectSettings {
        let mut settings = fixture::settings();
        settings.pretext.epochs = 2;
        settings
    }

    /// Stops a training before each of `places` and expects it to go on to the same bits.
    fn stop_and_go_on(settings: &ProjectSettings, places: &[u64]) {
        let (pool, classes) = fixture::pool(70, "resume");
        let labeled = fixture::labeled(60, &classes);
        let train = |resume: Option<&[u8]>, sink: &mut dyn CheckpointSink, hook: &mut dyn StepHook| {
            pretrain(&Device::Cpu, &pool, &labeled, settings, resume, sink, hook)
        };
        let whole = train(None, &mut Kept::default(), &mut go_on).unwrap();
        for &stop_at in places {
            let mut kept = Kept::default();
            let mut hook = |done: u64, _: u64| {
                if done == stop_at { ControlFlow::Break(Stopped) } else { ControlFlow::Continue(()) }
            };
            assert!(matches!(train(None, &mut kept, &mut hook), Err(LearnerError::Stopped)));
            let mut first_done = None;
            let mut watch = |done: u64, _: u64| {
                first_done.get_or_insert(done);
                ControlFlow::Continue(())
            };
            let resumed = train(Some(&kept.0), &mut Kept::default(), &mut watch).unwrap();
            assert_eq!(first_done, Some(stop_at));
            assert!(resumed == whole, "resumed at {stop_at}");
        }
    }

    #[test]
    fn a_training_stopped_anywhere_goes_on_to_the_same_bits() {
        // 70 images × 4 rotations are 3 mini-batches an epoch: stop at the start, in the middle, between epochs and before the last.
        stop_and_go_on(&settings(), &[0, 1, 3, 5]);
    }

    #[test]
    fn a_contrastive_training_stopped_anywhere_goes_on_to_the_same_bits() {
        for version in [MocoVersion::V1, MocoVersion::V2] {
            let mut settings = fixture::moco_settings();
            (settings.pretext.epochs, settings.pretext.moco.version) = (2, version);
            // Three mini-batches of 22 images an epoch; the queue of 35 keys wraps in the second.
            stop_and_go_on(&settings, &[0, 1, 3, 5]);
        }
    }

    #[test]
    fn the_order_of_the_pool_changes_nothing() {
        let (pool, _) = fixture::pool(40, "order");
        let hashes: Vec<_> = (0..40).rev().map(|index| *pool.hash(index)).collect();
        let pixels = (0..40).rev().flat_map(|index| pool.pixels(index).to_vec()).collect();
        let backwards = Pool::from_pixels(fixture::SHAPE, &hashes, pixels).unwrap();
        assert!(fixture::pretext(&pool) == fixture::pretext(&backwards));
    }

    #[test]
    fn checkpoints_of_other_trainings_and_broken_ones_are_left() {
        let (pool, _) = fixture::pool(40, "resume");
        let (other_pool, _) = fixture::pool(40, "other");
        let mut kept = Kept::default();
        let mut hook = |done: u64, _: u64| {
            if done == 1 { ControlFlow::Break(Stopped) } else { ControlFlow::Continue(()) }
        };
        let stopped = pretrain(&Device::Cpu, &other_pool, &[], &settings(), None, &mut kept, &mut hook);
        assert!(matches!(stopped, Err(LearnerError::Stopped)));
        let fresh =
            pretrain(&Device::Cpu, &pool, &[], &settings(), None, &mut Kept::default(), &mut go_on).unwrap();
        for resume in [&kept.0[..], b"broken"] {
            let found = pretrain(
                &Device::Cpu,
                &pool,
                &[],
                &settings(),
                Some(resume),
                &mut Kept::default(),
                &mut go_on,
            );
            assert!(found.unwrap() == fresh);
        }
    }

    #[test]
    fn a_sink_that_fails_fails_the_training() {
        struct Full;
        impl CheckpointSink for Full {
            fn save(
                &mut self,
                _: &[u8],
            ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
                Err("no space left".into())
            }
        }
        let (pool, _) = fixture::pool(40, "sink");
        let mut hook = |_: u64, _: u64| ControlFlow::Break(Stopped);
        let error = pretrain(&Device::Cpu, &pool, &[], &settings(), None, &mut Full, &mut hook).unwrap_err();
        assert!(error.to_string().contains("no space left"), "{error}");
    }
}
