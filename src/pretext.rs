//! Pretext tasks: what a network learns from the images alone, and how hard an image is for it.
//!
//! Step 2 of Algorithm 1 trains f′ with a task's `train_step`; `v(x)` of Eq. 1 is the loss of x under the frozen f′ and its own head g,
//! with batch norm in eval mode (Shi & Zhou 2023). A task is plain data: weights live in the caller's stores, draws come from named streams,
//! and the caller owns order, optimizer and checkpoints. Called by `learner` on the thread that owns the device.

pub mod moco;
pub mod rotation;

use candle_core::Tensor;

use crate::domain::content_hash::ContentHash;
use crate::domain::settings::{ImageShape, PretextKind, PretextSettings};
use crate::nn::backbone::Backbone;
use crate::nn::checkpoint::Checkpoint;
use crate::nn::graph::Representation;
use crate::nn::head::ClassifiedStep;
use crate::nn::momentum::MomentumEncoder;
use crate::nn::optimizer::Recipe;
use crate::nn::parameters::ParameterStore;
use crate::nn::{NnError, Result};
use crate::vision::{Pool, Sample, Views};

pub use moco::Moco;
pub use rotation::Rotation;

/// What one pass over the images shows, in order.
#[derive(Clone)]
pub struct EpochPlan {
    /// The views, batch after batch.
    pub samples: Vec<Sample>,
    /// Views in a mini-batch.
    pub batch_size: usize,
    /// How images are looked at.
    pub views: Views,
}

impl EpochPlan {
    /// Mini-batches of the pass.
    #[must_use]
    pub fn batch_count(&self) -> u64 {
        self.samples.len().div_ceil(self.batch_size.max(1)) as u64
    }
}

/// What of a frozen pretext model judges items, beside the backbone.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'m> {
    /// g.
    pub head: &'m ParameterStore,
    /// The key encoder with its queue; of MoCo.
    pub momentum: Option<&'m MomentumEncoder>,
}

impl<'m> Judge<'m> {
    /// The judge that a pretext model carries.
    #[must_use]
    pub fn of(model: &'m Checkpoint) -> Self {
        Self { head: &model.head, momentum: model.momentum.as_ref() }
    }
}

/// A self-supervised task.
pub trait Pretext: Send + Sync {
    /// Outputs of the head: answers that it tells apart, or numbers of a projection.
    fn answer_count(&self) -> usize;

    /// How the parameters move in a training on `pool`.
    fn recipe(&self, pool: &Pool) -> Recipe;

    /// What is kept beside a fresh backbone and head; `None` for a task that needs no more.
    fn start_momentum(
        &self,
        _backbone: &ParameterStore,
        _head: &ParameterStore,
        _pool: &Pool,
        _seed: u64,
    ) -> Option<MomentumEncoder> {
        None
    }

    /// The pass of number `epoch` over the items of `pool`, visited in `order`.
    fn plan_epoch(&self, pool: &Pool, order: &[usize], seed: u64, epoch: u32) -> EpochPlan;

    /// Loss and gradients of one mini-batch of views; `images` [N, H, W, C] shows `samples` of `pool`. Moves `model.momentum` alone.
    ///
    /// # Errors
    /// The backbone's, or a model without what the task keeps.
    fn train_step(
        &self,
        backbone: &dyn Backbone,
        model: &mut Checkpoint,
        pool: &Pool,
        samples: &[Sample],
        images: &Tensor,
    ) -> Result<ClassifiedStep>;

    /// How the images of scoring samples, of `shape`, are looked at.
    fn scoring_views(&self, shape: ImageShape, seed: u64) -> Views;

    /// The views of an item that `v` is taken over; the first is the image as it stands, whose features are the item's.
    fn scoring_samples(&self, index: usize) -> Vec<Sample>;

    /// Features `[N, D]` of scoring samples under the frozen backbone `parameters`, in their order.
    ///
    /// # Errors
    /// The backbone's, or a judge without what the task keeps.
    fn scoring_features(
        &self,
        backbone: &dyn Backbone,
        parameters: &ParameterStore,
        _judge: Judge<'_>,
        _samples: &[Sample],
        images: &Tensor,
    ) -> Result<Vec<f32>> {
        plain_features(backbone, parameters, images)
    }

    /// `v` of each of `items` in nats, from the features `[items × views, D]` of their scoring samples.
    ///
    /// # Errors
    /// Features that don't fit the judge.
    fn item_losses(&self, judge: Judge<'_>, items: &[ContentHash], features: &[f32]) -> Result<Vec<f32>>;
}

/// The task that `settings` ask for.
#[must_use]
pub fn for_settings(settings: &PretextSettings) -> Box<dyn Pretext> {
    match settings.kind {
        PretextKind::Rotation => Box::new(Rotation::new(settings.rotations_per_image)),
        PretextKind::Moco => Box::new(Moco::new(settings.moco)),
    }
}

/// Features in eval mode as plain numbers.
fn plain_features(backbone: &dyn Backbone, parameters: &ParameterStore, images: &Tensor) -> Result<Vec<f32>> {
    let features = backbone.represent(parameters, images, Representation::Features)?;
    features.flatten_all().and_then(|features| features.to_vec1::<f32>()).map_err(NnError::from)
}
