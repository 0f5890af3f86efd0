//! Pretext tasks: what a network learns from the images alone, and how hard an image is for it.
//!
//! Step 2 of Algorithm 1 trains f′ with a task's `train_step`; `v(x)` of Eq. 1 is the loss of x under the frozen f′ and its own head g,
//! with batch norm in eval mode (Shi & Zhou 2023). A task is plain data: weights live in the caller's stores, draws come from named streams,
//! and the caller owns order, optimizer and checkpoints. Called by `learner` on the thread that owns the device.

pub mod rotation;

use candle_core::Tensor;

use crate::domain::seed::StreamKey;
use crate::domain::settings::{PretextKind, PretextSettings};
use crate::nn::Result;
use crate::nn::backbone::Backbone;
use crate::nn::head::ClassifiedStep;
use crate::nn::parameters::ParameterStore;
use crate::vision::{Augmentation, Pool, Sample};

pub use rotation::Rotation;

/// What one pass over the images shows, in order.
#[derive(Clone)]
pub struct EpochPlan {
    /// The views, batch after batch.
    pub samples: Vec<Sample>,
    /// Views in a mini-batch.
    pub batch_size: usize,
    /// Random crops and flips, and the key they are drawn under.
    pub augmentation: Option<(Augmentation, StreamKey)>,
}

impl EpochPlan {
    /// Mini-batches of the pass.
    #[must_use]
    pub fn batch_count(&self) -> u64 {
        self.samples.len().div_ceil(self.batch_size.max(1)) as u64
    }
}

/// A self-supervised task.
pub trait Pretext: Send + Sync {
    /// Answers that the head tells apart.
    fn answer_count(&self) -> usize;

    /// The pass of number `epoch` over the items of `pool`, visited in `order`.
    fn plan_epoch(&self, pool: &Pool, order: &[usize], seed: u64, epoch: u32) -> EpochPlan;

    /// Loss and gradients of one mini-batch of views; `images` [N, H, W, C] shows `samples`.
    ///
    /// # Errors
    /// The backbone's.
    fn train_step(
        &self,
        backbone: &dyn Backbone,
        parameters: &ParameterStore,
        head: &ParameterStore,
        samples: &[Sample],
        images: &Tensor,
    ) -> Result<ClassifiedStep>;

    /// The views of an item that `v` is the mean over; the first is the image as it stands, whose features are the embedding.
    fn scoring_samples(&self, index: usize) -> Vec<Sample>;

    /// `v` of each item in nats, from the features `[items × views, D]` of its scoring samples under the frozen backbone.
    ///
    /// # Errors
    /// Features that don't fit the head.
    fn item_losses(&self, head: &ParameterStore, features: &[f32]) -> Result<Vec<f32>>;
}

/// The task that `settings` ask for.
#[must_use]
pub fn for_settings(settings: &PretextSettings) -> Box<dyn Pretext> {
    match settings.kind {
        PretextKind::Rotation => Box::new(Rotation::new(settings.rotations_per_image)),
    }
}
