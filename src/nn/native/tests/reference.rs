//! A residual network and its gradients in f64 by naive loops, with its ReLUs' masks of its own or given ones.
//!
//! Given masks answer the question where a difference comes from: rounding moves a value across zero and a ReLU opens
//! or closes, or a kernel sums wrongly. Dense NHWC throughout.

use crate::nn::graph::{Architecture, ConvUnit, NORM_EPSILON};
use crate::nn::parameters::ParameterStore;

/// The features, their gradients and the masks of one pass.
pub(super) struct ReferencePass {
    pub features: Vec<f64>,
    pub gradient: Vec<f64>,
    /// Of each ReLU in the order of the forward pass: whether it was open.
    pub masks: Vec<Vec<bool>>,
    /// What each ReLU saw.
    pub inputs: Vec<Vec<f64>>,
}

struct UnitRecord<'a> {
    unit: &'a ConvUnit,
    input: Vec<f64>,
    normalized: Vec<f64>,
    inverse: Vec<f64>,
}

struct Walk<'a> {
    values: Vec<f64>,
    image_count: usize,
    given: Option<&'a [Vec<bool>]>,
    masks: Vec<Vec<bool>>,
    inputs: Vec<Vec<f64>>,
    gradient: Vec<f64>,
}

/// Forward and backward with loss Σ weight · feature; ReLUs follow `given` where it is there.
pub(super) fn run(
    architecture: &Architecture,
    store: &ParameterStore,
    images: &[f32],
    feature_weights: &[f32],
    given: Option<&[Vec<bool>]>,
) -> ReferencePass {
    assert!(architecture.max_pool.is_none(), "the reference has no pooling stem");
    let size = architecture.image.size as usize;
    let image_len = size * size * architecture.image.channels as usize;
    let mut walk = Walk {
        values: store.values.iter().map(|value| f64::from(*value)).collect(),
        image_count: images.len() / image_len,
        given,
        masks: Vec::new(),
        inputs: Vec::new(),
        gradient: vec![0.0; store.values.len()],
    };
    let images: Vec<f64> = images.iter().map(|value| f64::from(*value)).collect();
    let stem = walk.unit(&architecture.stem, images);
    let mut x = walk.relu(walk.normed(&stem));
    let mut records = Vec::new();
    for block in &architecture.blocks {
        let first = walk.unit(&block.conv1, x.clone());
        let inner = walk.relu(walk.normed(&first));
        let second = walk.unit(&block.conv2, inner);
        let shortcut = block.downsample.as_ref().map(|unit| walk.unit(unit, x.clone()));
        let added = shortcut.as_ref().map_or(x, |shortcut| walk.normed(shortcut));
        let sum = walk.normed(&second).iter().zip(added).map(|(a, b)| a + b).collect();
        x = walk.relu(sum);
        records.push((first, second, shortcut));
    }
    let channels = architecture.feature_count;
    let pixel_count = x.len() / walk.image_count / channels;
    let mut features = vec![0.0; walk.image_count * channels];
    let mut dx = vec![0.0; x.len()];
    for (at, value) in x.iter().enumerate() {
        let feature = at / (pixel_count * channels) * channels + at % channels;
        features[feature] += value / pixel_count as f64;
        dx[at] = f64::from(feature_weights[feature]) / pixel_count as f64;
    }
    let mut mask = walk.masks.len();
    for (first, second, shortcut) in records.into_iter().rev() {
        mask -= 2;
        walk.close(&mut dx, mask + 1);
        let mut inner = walk.unit_gradient(&second, &dx);
        walk.close(&mut inner, mask);
        let through = walk.unit_gradient(&first, &inner);
        let around = match shortcut {
            Some(shortcut) => walk.unit_gradient(&shortcut, &dx),
            None => dx,
        };
        dx = through.iter().zip(around).map(|(a, b)| a + b).collect();
    }
    walk.close(&mut dx, 0);
    walk.unit_gradient(&stem, &dx);
    ReferencePass { features, gradient: walk.gradient, masks: walk.masks, inputs: walk.inputs }
}

impl Walk<'_> {
    fn unit<'a>(&self, unit: &'a ConvUnit, input: Vec<f64>) -> UnitRecord<'a> {
        let channels = unit.conv.out_channels;
        let mut convolved = vec![0.0; self.image_count * unit.conv.out_size.pow(2) * channels];
        self.visit(unit, |output, source, weight| {
            let weights = &self.values[unit.weight.start + weight..][..channels];
            let value = input[source];
            for (sum, weight) in convolved[output..output + channels].iter_mut().zip(weights) {
                *sum += value * weight;
            }
        });
        let count = (convolved.len() / channels) as f64;
        let mut inverse = vec![0.0; channels];
        for (channel, inverse) in inverse.iter_mut().enumerate() {
            let of = |convolved: &[f64]| {
                convolved.iter().skip(channel).step_by(channels).copied().collect::<Vec<_>>()
            };
            let values = of(&convolved);
            let mean = values.iter().sum::<f64>() / count;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
            *inverse = 1.0 / (variance + f64::from(NORM_EPSILON)).sqrt();
            for value in convolved.iter_mut().skip(channel).step_by(channels) {
                *value = (*value - mean) * *inverse;
            }
        }
        UnitRecord { unit, input, normalized: convolved, inverse }
    }

    fn normed(&self, record: &UnitRecord<'_>) -> Vec<f64> {
        let (gamma, beta) = (&self.values[record.unit.gamma.clone()], &self.values[record.unit.beta.clone()]);
        let channels = gamma.len();
        let values = record.normalized.iter().enumerate();
        values.map(|(at, value)| gamma[at % channels] * value + beta[at % channels]).collect()
    }

    fn relu(&mut self, x: Vec<f64>) -> Vec<f64> {
        let own: Vec<bool> = x.iter().map(|value| *value > 0.0).collect();
        let mask = self.given.map_or(own, |given| given[self.masks.len()].clone());
        let y = x.iter().zip(&mask).map(|(value, open)| if *open { *value } else { 0.0 }).collect();
        self.masks.push(mask);
        self.inputs.push(x);
        y
    }

    fn close(&self, gradient: &mut [f64], mask: usize) {
        for (value, open) in gradient.iter_mut().zip(&self.masks[mask]) {
            if !open {
                *value = 0.0;
            }
        }
    }

    /// Gradients of the unit's parameters, kept, and of its input, returned.
    fn unit_gradient(&mut self, record: &UnitRecord<'_>, dy: &[f64]) -> Vec<f64> {
        let unit = record.unit;
        let channels = unit.conv.out_channels;
        let count = (dy.len() / channels) as f64;
        let mut dc = vec![0.0; dy.len()];
        for channel in 0..channels {
            let places = || (channel..dy.len()).step_by(channels);
            let sum: f64 = places().map(|at| dy[at]).sum();
            let along: f64 = places().map(|at| dy[at] * record.normalized[at]).sum();
            self.gradient[unit.beta.start + channel] = sum;
            self.gradient[unit.gamma.start + channel] = along;
            let scale = self.values[unit.gamma.start + channel] * record.inverse[channel];
            for at in places() {
                dc[at] = scale * (dy[at] - sum / count - record.normalized[at] * along / count);
            }
        }
        let mut dx = vec![0.0; record.input.len()];
        let mut dw = vec![0.0; unit.weight.len()];
        self.visit(unit, |output, source, weight| {
            let weights = &self.values[unit.weight.start + weight..][..channels];
            let (value, gradients) = (record.input[source], &dc[output..output + channels]);
            for ((gradient, weight), dw) in
                gradients.iter().zip(weights).zip(&mut dw[weight..weight + channels])
            {
                dx[source] += gradient * weight;
                *dw += gradient * value;
            }
        });
        self.gradient[unit.weight.clone()].copy_from_slice(&dw);
        dx
    }

    /// Visits every (first output channel of a pixel, input number, first output channel of a weight row).
    fn visit(&self, unit: &ConvUnit, mut visit: impl FnMut(usize, usize, usize)) {
        let conv = &unit.conv;
        let inside = |out: usize, tap: usize| {
            (out * conv.stride + tap).checked_sub(conv.padding).filter(|pixel| *pixel < conv.in_size)
        };
        for image in 0..self.image_count {
            for pixel in 0..conv.out_size.pow(2) {
                let (y, x) = (pixel / conv.out_size, pixel % conv.out_size);
                let output = (image * conv.out_size.pow(2) + pixel) * conv.out_channels;
                for tap in 0..conv.kernel.pow(2) {
                    let (Some(iy), Some(ix)) = (inside(y, tap / conv.kernel), inside(x, tap % conv.kernel))
                    else {
                        continue;
                    };
                    let source = ((image * conv.in_size + iy) * conv.in_size + ix) * conv.in_channels;
                    for channel in 0..conv.in_channels {
                        let weight = (tap * conv.in_channels + channel) * conv.out_channels;
                        visit(output, source + channel, weight);
                    }
                }
            }
        }
    }
}
