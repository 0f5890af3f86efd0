//! Networks: architecture graphs, the parameter store, backbones, heads, losses, optimizers, schedules and checkpoints.
//!
//! Synchronous and without a clock or a database. One graph (`graph`) and one flat store (`parameters`) serve every implementation of
//! `Backbone`. Callers are `pretext` and `learner`, on the thread that owns the device; immutable stores may be shared between threads.
//! Every initial weight is drawn from our own named streams, since candle's CPU generator can't be seeded.

pub mod backbone;
pub mod candle_backbone;
pub mod checkpoint;
pub mod contrast;
pub mod device;
pub mod graph;
pub mod head;
pub mod initialize;
pub mod loss;
pub mod mixup;
pub mod momentum;
pub mod native;
#[expect(unsafe_code, reason = "vector kernels; each block says why it is sound")]
#[expect(
    clippy::needless_range_loop,
    reason = "loops over registers are unrolled by index, several arrays at once"
)]
pub mod ops;
pub mod optimizer;
pub mod parameters;
pub mod schedule;
pub mod state_dict;

use thiserror::Error;

/// What goes wrong in a network.
#[derive(Debug, Error)]
pub enum NnError {
    /// candle or the device refused an operation.
    #[error("the device refused an operation: {0}")]
    Device(#[from] candle_core::Error),
    /// A batch that doesn't fit the network.
    #[error("a batch of shape {found:?} doesn't fit: {expected}")]
    BatchShape {
        /// What is expected, in words.
        expected: String,
        /// The shape that came.
        found: Vec<usize>,
    },
    /// A checkpoint lacks a tensor of the network.
    #[error("the checkpoint has no tensor `{name}`; it belongs to another network")]
    MissingTensor {
        /// Torchvision's name.
        name: String,
    },
    /// A checkpoint's tensor has another shape.
    #[error("the checkpoint's tensor `{name}` has shape {found:?}, the network needs {expected:?}")]
    TensorShape {
        /// Torchvision's name.
        name: String,
        /// The network's shape.
        expected: Vec<usize>,
        /// The checkpoint's shape.
        found: Vec<usize>,
    },
    /// Saved optimizer state of another size.
    #[error("the optimizer's state doesn't fit: {} vectors of {} numbers are needed", expected.0, expected.1)]
    OptimizerState {
        /// Vectors, and numbers in each.
        expected: (usize, usize),
    },
    /// Bytes that are no checkpoint of ours.
    #[error("this is no usable checkpoint: {0}")]
    Checkpoint(String),
}

/// The result of anything in this room.
pub type Result<T> = std::result::Result<T, NnError>;
