//! The device: from what is configured to one that candle can use.

use candle_core::Device;

use super::EngineError;
use crate::config::DeviceChoice;

/// Opens the configured device; `auto` takes the first CUDA device of a build with CUDA when one is there, else the CPU.
///
/// # Errors
/// A CUDA device that was asked for by number and can't be opened.
pub fn open(choice: DeviceChoice) -> Result<Device, EngineError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(number) => Device::new_cuda(number)
            .map_err(|error| EngineError::Device { device: choice.to_string(), reason: error.to_string() }),
        DeviceChoice::Auto => Ok(open_first_cuda().unwrap_or(Device::Cpu)),
    }
}

fn open_first_cuda() -> Option<Device> {
    if !candle_core::utils::cuda_is_available() {
        return None;
    }
    match Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            tracing::warn!(%error, "no CUDA device can be opened, computing on the CPU");
            None
        }
    }
}

/// `cpu` or `cuda`.
#[must_use]
pub fn name(device: &Device) -> &'static str {
    if device.is_cpu() { "cpu" } else { "cuda" }
}

/// Whether the device still computes; after a sticky CUDA error nothing of the process does.
pub(super) fn is_usable(device: &Device) -> bool {
    let probe =
        candle_core::Tensor::new(&[1.0f32, 2.0], device).and_then(|t| t.sum_all()?.to_scalar::<f32>());
    probe.is_ok_and(|sum| sum == 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_opens_and_computes() {
        let device = open(DeviceChoice::Cpu).unwrap();
        assert_eq!((name(&device), is_usable(&device)), ("cpu", true));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_cuda_auto_is_the_cpu_and_a_number_is_an_error_that_says_so() {
        assert!(open(DeviceChoice::Auto).unwrap().is_cpu());
        let error = open(DeviceChoice::Cuda(1)).unwrap_err();
        assert!(error.to_string().contains("cuda:1"), "{error}");
    }
}
