//! The parameter store: all numbers of a network in two flat vectors with named ranges.
//!
//! `values` are trained, `buffers` are the running statistics of batch norm. Convolution weights lie HWIO inside (a pixel's output
//! channels are contiguous) and leave as OIHW, PyTorch's layout. Optimizers, momentum encoders and checkpoints work on the flat
//! vectors; only a backbone knows what a range means. Owned by one thread at a time; published ones are shared immutably.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::graph::Architecture;
use super::{NnError, Result};

/// How far running statistics move towards a batch, as in PyTorch.
pub const NORM_MOMENTUM: f32 = 0.1;

/// What a training forward pass saw, flat in the order of the store's buffers: each norm's batch mean, then its unbiased variance.
///
/// With several groups both are the mean over the groups.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchStatistics {
    /// As many numbers as the store has buffers.
    pub values: Vec<f32>,
}

/// How a range lies inside compared with the PyTorch shape it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As in PyTorch.
    Plain,
    /// A convolution's weight: HWIO inside, OIHW outside.
    Convolution,
}

/// Which flat vector a range belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Trained numbers.
    Values,
    /// Running statistics.
    Buffers,
}

/// A tensor's place in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRange {
    /// Torchvision's name, such as `layer1.0.conv1.weight`.
    pub name: String,
    /// PyTorch's shape; OIHW for a convolution.
    pub shape: Vec<usize>,
    /// How it lies inside.
    pub layout: Layout,
    /// Which vector.
    pub part: Part,
    /// Where in that vector.
    pub range: Range<usize>,
}

/// A tensor on its way to or from a checkpoint, in PyTorch's layout.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Torchvision's name.
    pub name: String,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// Row-major numbers.
    pub values: Vec<f32>,
}

/// The numbers of one network or head.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterStore {
    ranges: Arc<[NamedRange]>,
    /// Trained numbers; their length never changes.
    pub values: Vec<f32>,
    /// Running statistics; their length never changes.
    pub buffers: Vec<f32>,
}

impl ParameterStore {
    /// A backbone's store: weights 0, norm scales 1, shifts 0, running means 0, running variances 1.
    #[must_use]
    pub fn for_backbone(architecture: &Architecture) -> Self {
        let mut ranges = Vec::new();
        let mut values = vec![0.0; architecture.parameter_count];
        let mut buffers = vec![0.0; architecture.buffer_count];
        for unit in architecture.units() {
            let (conv, norm) = (&unit.conv, &unit.norm_name);
            let channels = vec![conv.out_channels];
            let weight_shape = vec![conv.out_channels, conv.in_channels, conv.kernel, conv.kernel];
            let mut push = |name: String, shape: Vec<usize>, layout, part, range: &Range<usize>| {
                ranges.push(NamedRange { name, shape, layout, part, range: range.clone() });
            };
            let weight_name = format!("{}.weight", unit.conv_name);
            push(weight_name, weight_shape, Layout::Convolution, Part::Values, &unit.weight);
            push(format!("{norm}.weight"), channels.clone(), Layout::Plain, Part::Values, &unit.gamma);
            push(format!("{norm}.bias"), channels.clone(), Layout::Plain, Part::Values, &unit.beta);
            push(
                format!("{norm}.running_mean"),
                channels.clone(),
                Layout::Plain,
                Part::Buffers,
                &unit.running_mean,
            );
            push(format!("{norm}.running_var"), channels, Layout::Plain, Part::Buffers, &unit.running_var);
            values[unit.gamma.clone()].fill(1.0);
            buffers[unit.running_var.clone()].fill(1.0);
        }
        Self { ranges: ranges.into(), values, buffers }
    }

    /// A store of plain trained tensors, such as a head's; all numbers 0.
    #[must_use]
    pub fn of_plain(tensors: &[(&str, &[usize])]) -> Self {
        let mut end = 0;
        let ranges: Vec<_> = tensors
            .iter()
            .map(|&(name, shape)| {
                let start = end;
                end += shape.iter().product::<usize>();
                NamedRange {
                    name: name.to_owned(),
                    shape: shape.to_vec(),
                    layout: Layout::Plain,
                    part: Part::Values,
                    range: start..end,
                }
            })
            .collect();
        Self { ranges: ranges.into(), values: vec![0.0; end], buffers: Vec::new() }
    }

    /// The tensors in the order of their numbers.
    #[must_use]
    pub fn ranges(&self) -> &[NamedRange] {
        &self.ranges
    }

    /// The trained tensors only: what an optimizer moves and what gradients line up with.
    pub fn value_ranges(&self) -> impl Iterator<Item = &NamedRange> {
        self.ranges.iter().filter(|range| range.part == Part::Values)
    }

    /// The numbers of the tensor `name` as they lie inside; `None` when there is no such tensor.
    #[must_use]
    pub fn slice(&self, name: &str) -> Option<&[f32]> {
        self.ranges.iter().find(|range| range.name == name).map(|range| self.numbers(range))
    }

    /// Moves the running statistics towards a batch: `running ← (1 − momentum)·running + momentum·batch`.
    pub fn update_running(&mut self, batch: &BatchStatistics, momentum: f32) {
        for (running, &seen) in self.buffers.iter_mut().zip(&batch.values) {
            *running += momentum * (seen - *running);
        }
    }

    /// Every tensor in PyTorch's layout, sorted as the ranges are.
    #[must_use]
    pub fn export(&self) -> Vec<NamedTensor> {
        let tensor = |range: &NamedRange| NamedTensor {
            name: range.name.clone(),
            shape: range.shape.clone(),
            values: match range.layout {
                Layout::Plain => self.numbers(range).to_vec(),
                Layout::Convolution => to_oihw(self.numbers(range), &range.shape),
            },
        };
        self.ranges.iter().map(tensor).collect()
    }

    /// Fills the store from tensors in PyTorch's layout; tensors it doesn't have are ignored.
    ///
    /// # Errors
    /// A tensor of the store that is missing or has another shape; the store is then unchanged.
    pub fn import(&mut self, tensors: &[NamedTensor]) -> Result<()> {
        let by_name: HashMap<_, _> = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut filled = self.clone();
        for range in self.ranges.iter() {
            let tensor = by_name.get(range.name.as_str());
            let tensor = tensor.ok_or_else(|| NnError::MissingTensor { name: range.name.clone() })?;
            if tensor.shape != range.shape || tensor.values.len() != range.range.len() {
                return Err(NnError::TensorShape {
                    name: range.name.clone(),
                    expected: range.shape.clone(),
                    found: tensor.shape.clone(),
                });
            }
            let inside = match range.layout {
                Layout::Plain => tensor.values.clone(),
                Layout::Convolution => to_hwio(&tensor.values, &range.shape),
            };
            let target = match range.part {
                Part::Values => &mut filled.values,
                Part::Buffers => &mut filled.buffers,
            };
            target[range.range.clone()].copy_from_slice(&inside);
        }
        *self = filled;
        Ok(())
    }

    fn numbers(&self, range: &NamedRange) -> &[f32] {
        match range.part {
            Part::Values => &self.values[range.range.clone()],
            Part::Buffers => &self.buffers[range.range.clone()],
        }
    }
}

/// Visits every number of a convolution's weight with its place outside (OIHW) and inside (HWIO).
fn visit_convolution(shape: &[usize], mut visit: impl FnMut(usize, usize)) {
    let [out_channels, in_channels, height, width] = *shape else {
        return;
    };
    for o in 0..out_channels {
        for i in 0..in_channels {
            for tap in 0..height * width {
                let outside = (o * in_channels + i) * height * width + tap;
                let inside = (tap * in_channels + i) * out_channels + o;
                visit(outside, inside);
            }
        }
    }
}

fn to_oihw(hwio: &[f32], shape: &[usize]) -> Vec<f32> {
    let mut oihw = vec![0.0; hwio.len()];
    visit_convolution(shape, |outside, inside| oihw[outside] = hwio[inside]);
    oihw
}

fn to_hwio(oihw: &[f32], shape: &[usize]) -> Vec<f32> {
    let mut hwio = vec![0.0; oihw.len()];
    visit_convolution(shape, |outside, inside| hwio[inside] = oihw[outside]);
    hwio
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::settings::{BackboneKind, ImageShape};

    fn counted_store() -> ParameterStore {
        let image = ImageShape { size: 8, channels: 3 };
        let mut store =
            ParameterStore::for_backbone(&Architecture::residual(BackboneKind::Small, image, &[2, 4]));
        for (index, value) in store.values.iter_mut().enumerate() {
            *value = index as f32;
        }
        store
    }

    #[test]
    fn a_store_comes_back_from_its_exported_tensors() {
        let store = counted_store();
        let mut copy = store.clone();
        copy.values.fill(0.0);
        copy.buffers.fill(0.0);
        let mut tensors = store.export();
        tensors.reverse();
        copy.import(&tensors).expect("the same names and shapes");
        assert_eq!(copy, store);
    }

    #[test]
    fn a_convolution_leaves_as_oihw() {
        let store = counted_store();
        let stem = &store.export()[0];
        assert_eq!((stem.name.as_str(), stem.shape.as_slice()), ("conv1.weight", &[2, 3, 3, 3][..]));
        // Output channel 1, input channel 2, row 0, column 1: inside at ((0·3 + 1)·3 + 2)·2 + 1.
        assert_eq!(stem.values[(3 + 2) * 9 + 1], 11.0);
    }

    #[test]
    fn a_missing_tensor_and_a_wrong_shape_are_named_and_change_nothing() {
        let mut store = counted_store();
        let before = store.clone();
        let mut tensors = store.export();
        let removed = tensors.remove(0);
        let error = store.import(&tensors).unwrap_err();
        assert!(error.to_string().contains("conv1.weight"), "{error}");
        tensors.push(NamedTensor { shape: vec![54], ..removed });
        let error = store.import(&tensors).unwrap_err();
        assert!(error.to_string().contains("[2, 3, 3, 3]"), "{error}");
        assert_eq!(store, before);
    }

    #[test]
    fn running_statistics_move_by_the_momentum() {
        let mut store = counted_store();
        let batch = BatchStatistics { values: vec![3.0; store.buffers.len()] };
        store.update_running(&batch, 0.1);
        // The stem's first running mean was 0, its first running variance 1.
        assert_eq!((store.buffers[0], store.buffers[2]), (0.3, 1.2));
    }
}
