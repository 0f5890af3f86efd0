//! Images: decoding, fitting to a project's shape, packed segments, augmentation and batches.
//!
//! Owns everything between a file's bytes and the f32 batch a network reads. `import` and `http` decode and fit; `pretext` and `learner`
//! read pools through batches. Synchronous, callable from any thread that may block. Invariants: a segment never changes once it stands
//! under its name, and what a batch holds depends on seed, epoch and content hash alone, never on timing, threads or the order of arrival.
//! The memory map of `segment` is the only unsafe code outside `nn/ops`.

pub mod augment;
pub mod decode;
pub mod distort;
pub mod fit;
pub mod loader;
pub mod normalization;
pub mod pool;
pub mod segment;

pub use augment::{Augmentation, Padding, View};
pub use decode::{DecodeError, DecodeLimits, DecodedImage, decode, measure};
pub use distort::{DistortedView, Distortion};
pub use fit::{conversion, fit};
pub use loader::{Batch, BatchLoader, Sample, Views};
pub use normalization::Normalization;
pub use pool::{Pool, PoolError, PoolRow};
pub use segment::{PackSlice, SegmentError, SegmentTensor, SegmentWriter};
