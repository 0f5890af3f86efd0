//! State dicts of others as the beginning of a backbone: torchvision's and timm's ResNet-18 as safetensors.
//!
//! Both name their tensors alike, and so does `graph`. The classifier (`fc.*`) and the counters of batch norm are left out, since a backbone
//! has neither. A first convolution over colours is summed for grey images, which sees a grey picture as it saw its three equal channels.
//! Pure; called on a blocking thread and on the engine's.

use safetensors::tensor::SafeTensors;

use super::checkpoint::read_tensor;
use super::graph::Architecture;
use super::parameters::{NamedTensor, ParameterStore};
use super::{NnError, Result};

/// The backbone that a safetensors file of F32 tensors holds.
///
/// # Errors
/// Bytes that aren't safetensors, a tensor that is missing or has another shape (the 7×7 first convolution of ImageNet doesn't fit images up to
/// 64 pixels, whose network begins with 3×3), numbers that aren't finite.
pub fn read_backbone(bytes: &[u8], architecture: &Architecture) -> Result<ParameterStore> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| NnError::Checkpoint(error.to_string()))?;
    let mut store = ParameterStore::for_backbone(architecture);
    let mut tensors = Vec::with_capacity(store.ranges().len());
    for range in store.ranges() {
        let view =
            file.tensor(&range.name).map_err(|_| NnError::MissingTensor { name: range.name.clone() })?;
        let tensor = read_tensor(&range.name, &view)?;
        if tensor.values.iter().any(|value| !value.is_finite()) {
            let reason = format!("tensor `{}` holds numbers that aren't finite", range.name);
            return Err(NnError::Checkpoint(reason));
        }
        tensors.push(if is_grey_of_colour(&tensor.shape, &range.shape) {
            sum_channels(tensor)
        } else {
            tensor
        });
    }
    store.import(&tensors)?;
    Ok(store)
}

/// Whether a first convolution of three channels [O, 3, H, W] comes where one of a single channel is needed.
fn is_grey_of_colour(found: &[usize], needed: &[usize]) -> bool {
    matches!((found, needed), ([a, 3, b, c], [x, 1, y, z]) if (a, b, c) == (x, y, z))
}

fn sum_channels(tensor: NamedTensor) -> NamedTensor {
    let taps = tensor.shape[2] * tensor.shape[3];
    let sum = |filter: &[f32]| -> Vec<f32> {
        (0..taps).map(|tap| filter[tap] + filter[taps + tap] + filter[2 * taps + tap]).collect()
    };
    let values = tensor.values.chunks_exact(3 * taps).flat_map(sum).collect();
    NamedTensor { shape: vec![tensor.shape[0], 1, tensor.shape[2], tensor.shape[3]], values, ..tensor }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;
    use crate::domain::settings::{BackboneKind, ImageShape};
    use crate::nn::initialize::initial_backbone;

    fn network(channels: u32) -> Architecture {
        Architecture::new(BackboneKind::Small, ImageShape { size: 16, channels })
    }

    /// The file that PyTorch would write of these tensors.
    fn write(tensors: &[NamedTensor]) -> Vec<u8> {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|t| t.values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
        let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).expect("a whole tensor");
            (tensor.name.as_str(), view)
        });
        safetensors::serialize(views, None).expect("a file")
    }

    #[test]
    fn what_was_exported_comes_back_with_a_classifier_beside_it_or_without() {
        let store = initial_backbone(&network(3), 7);
        let mut tensors = store.export();
        tensors.push(NamedTensor { name: "fc.bias".to_owned(), shape: vec![2], values: vec![1.0, 2.0] });
        assert_eq!(read_backbone(&write(&tensors), &network(3)).expect("it fits"), store);
    }

    #[test]
    fn grey_images_take_the_sum_of_the_colours() {
        let colour = initial_backbone(&network(3), 7);
        let grey = read_backbone(&write(&colour.export()), &network(1)).expect("it fits");
        let (of_colour, of_grey) = (&colour.export()[0], &grey.export()[0]);
        assert_eq!(of_grey.shape, [16, 1, 3, 3]);
        let sum = of_colour.values[4] + of_colour.values[9 + 4] + of_colour.values[18 + 4];
        assert!((of_grey.values[4] - sum).abs() < 1e-6);
        assert_eq!(grey.export()[5], colour.export()[5]);
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_shapes() {
        let mut tensors = initial_backbone(&network(3), 7).export();
        tensors[0].shape = vec![16, 3, 1, 9];
        let error = read_backbone(&write(&tensors), &network(3)).expect_err("another kernel");
        let text = error.to_string();
        assert!(text.contains("`conv1.weight`") && text.contains("[16, 3, 1, 9]"), "{text}");
        tensors.remove(0);
        let error = read_backbone(&write(&tensors), &network(3)).expect_err("no first convolution");
        assert!(matches!(error, NnError::MissingTensor { name } if name == "conv1.weight"));
        let mut tensors = initial_backbone(&network(3), 7).export();
        tensors[3].values[0] = f32::NAN;
        let error = read_backbone(&write(&tensors), &network(3)).expect_err("not a number");
        assert!(error.to_string().contains(&tensors[3].name), "{error}");
        assert!(read_backbone(b"no file of that kind", &network(3)).is_err());
    }
}
