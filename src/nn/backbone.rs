//! The backbone: images in, pooled features out, gradients of all parameters back.
//!
//! One trait over one graph and one store, with an implementation a device: candle's operations (CUDA, and the reference on CPU) and
//! the native kernels (CPU). Implementations hold no weights: the store is an argument, so a copy can train while the published one
//! predicts. Batch statistics are returned, never written inside a forward pass. Called by the thread that owns the work.

use candle_core::Tensor;

use super::graph::{Architecture, Representation};
use super::parameters::{BatchStatistics, ParameterStore};
use super::{NnError, Result};

/// How batch norm behaves in a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics; an item's features don't depend on its batch.
    Eval,
    /// Batch statistics over each of `groups` equal, consecutive parts of the batch.
    Train {
        /// Parts of the batch with their own statistics; 1 is ordinary batch norm. It must divide the batch.
        groups: usize,
    },
    /// As `Train`, for networks that get no gradient (a momentum encoder): nothing is kept for a backward pass.
    TrainWithoutTape {
        /// As in `Train`.
        groups: usize,
    },
}

/// The outcome of one forward and backward pass.
#[derive(Clone, Debug)]
pub struct StepGradients {
    /// The loss that the closure returned.
    pub loss: f32,
    /// Features of the batch, without their history. [N, D]
    pub features: Tensor,
    /// Gradient of the backbone's flat values, laid out as they are.
    pub backbone: Vec<f32>,
    /// Gradient of the head's flat values.
    pub head: Vec<f32>,
    /// What the pass saw, for `ParameterStore::update_running`.
    pub statistics: BatchStatistics,
}

/// Computes the loss from the features [N, D] and the head's trained tensors, in the order of its ranges, as a scalar with history.
pub type LossFn<'a> = dyn FnMut(&Tensor, &[Tensor]) -> candle_core::Result<Tensor> + 'a;

/// A network up to its pooled features, on one device.
pub trait Backbone: Send + Sync {
    /// The graph it computes.
    fn architecture(&self) -> &Architecture;

    /// Features of a batch.
    ///
    /// `images` [N, H, W, C] f32, normalised, on the backbone's device; the features are [N, D] on the same device. Statistics are
    /// returned in the two training modes.
    ///
    /// # Errors
    /// A batch of another shape than the graph's, a batch that `groups` doesn't divide, or a device error.
    fn features(
        &self,
        parameters: &ParameterStore,
        images: &Tensor,
        mode: Mode,
    ) -> Result<(Tensor, Option<BatchStatistics>)>;

    /// What `representation` makes of a batch in `Mode::Eval`: features [N, D] or embeddings [N, E], on the backbone's device.
    ///
    /// # Errors
    /// As `features`.
    fn represent(
        &self,
        parameters: &ParameterStore,
        images: &Tensor,
        representation: Representation,
    ) -> Result<Tensor>;

    /// One training pass: features with batch statistics over `groups`, the loss, and its gradients; no parameter is changed.
    ///
    /// # Errors
    /// As `features`, and whatever `loss` returns.
    fn step_gradients(
        &self,
        parameters: &ParameterStore,
        head: &ParameterStore,
        images: &Tensor,
        groups: usize,
        loss: &mut LossFn<'_>,
    ) -> Result<StepGradients>;
}

/// Refuses a batch that the graph or the mode can't take.
///
/// # Errors
/// `BatchShape` with what was expected.
pub fn check_batch(architecture: &Architecture, images: &Tensor, mode: Mode) -> Result<()> {
    let (size, channels) = (architecture.image.size as usize, architecture.image.channels as usize);
    let refuse = |expected: String| Err(NnError::BatchShape { expected, found: images.dims().to_vec() });
    let fits = matches!(*images.dims(), [count, height, width, depth]
        if count > 0 && height == size && width == size && depth == channels);
    if !fits {
        return refuse(format!("[N, {size}, {size}, {channels}] with N above 0 is needed"));
    }
    if let Mode::Train { groups } | Mode::TrainWithoutTape { groups } = mode
        && (groups == 0 || !images.dims()[0].is_multiple_of(groups))
    {
        return refuse(format!("{groups} equal groups are needed"));
    }
    Ok(())
}
