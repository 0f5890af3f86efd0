//! Which implementation of the backbone computes on which device.

pub use candle_core::Device;

use super::backbone::Backbone;
use super::candle_backbone::CandleBackbone;
use super::graph::Architecture;
use super::native::NativeBackbone;
use super::ops;

/// The implementation for `device`: our kernels on a CPU, candle's operations elsewhere.
#[must_use]
pub fn backbone_for(device: &Device, architecture: Architecture) -> Box<dyn Backbone> {
    if device.is_cpu() {
        Box::new(NativeBackbone::new(architecture))
    } else {
        Box::new(CandleBackbone::new(device.clone(), architecture))
    }
}

/// The name of the kernel variant that computes on `device`; results repeat to the bit under the same one only.
#[must_use]
pub fn kernel_name(device: &Device) -> &'static str {
    if device.is_cpu() { ops::kernel_name() } else { "cuda" }
}
