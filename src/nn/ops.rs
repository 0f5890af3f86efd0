//! Our own CPU kernels: convolution and its gradients, batch norm, pooling, linear layers, InfoNCE and optimizers over f32.
//!
//! Owns the only `unsafe` besides the memory map. Everything public takes slices, checks every length and is sound for
//! any input; the unsafe parts are private to the files below. Images are NHWC, convolution weights HWIO.
//! Callers: `nn::native` and the heads. Any thread may call; the compute threads are the one pool of [`threads`].
//!
//! Invariants: a kernel's result depends on its arguments and on the [`Kernel`] alone, never on timing. Every sum
//! has a fixed order: a row of a product adds its terms in one order whatever tile it falls into, and batch-wide
//! sums are taken over fixed spans of images and combined in the order of the spans.

pub mod batch_norm;
pub mod buffers;
pub mod contrast;
pub mod convolution;
pub mod geometry;
mod gradient_tile;
pub mod kernel;
pub mod linear;
mod microkernel;
pub mod optimizer;
pub mod pack;
pub mod pooling;
mod simd;
pub mod threads;
pub mod weight_gradient;
pub mod winograd;

pub use kernel::{Kernel, kernel_name};
pub use threads::{install, set_thread_count, thread_count};

#[cfg(test)]
mod tests;
