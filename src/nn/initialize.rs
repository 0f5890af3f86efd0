//! Initial weights, drawn from our own named streams.
//!
//! candle's CPU generator can't be seeded, so every number comes from `StreamKey(seed, "initialize.<tensor>")`: a tensor's draw depends
//! on its name and the seed, never on what else the network holds. Convolutions: Kaiming normal over fan-out (He et al. 2015), as in
//! torchvision's ResNet; heads: uniform ±1/√D, as in PyTorch's `nn.Linear`.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::graph::Architecture;
use super::parameters::{Layout, ParameterStore};
use crate::domain::seed::StreamKey;

/// Sets a backbone's convolutions; norms stay at scale 1 and shift 0, running statistics at mean 0 and variance 1.
#[must_use]
pub fn initial_backbone(architecture: &Architecture, seed: u64) -> ParameterStore {
    let mut store = ParameterStore::for_backbone(architecture);
    let mut values = std::mem::take(&mut store.values);
    for range in store.value_ranges().filter(|range| range.layout == Layout::Convolution) {
        let fan_out = range.range.len() / range.shape[1].max(1);
        let deviation = (2.0 / fan_out as f32).sqrt();
        let mut stream = tensor_stream(&range.name, seed, 0);
        for value in &mut values[range.range.clone()] {
            *value = deviation * draw_normal(&mut stream);
        }
    }
    store.values = values;
    store
}

/// Fills a linear head; `round` keeps the heads of successive rounds apart.
pub fn initialize_head(head: &mut ParameterStore, feature_count: usize, seed: u64, round: u32) {
    let bound = 1.0 / (feature_count.max(1) as f32).sqrt();
    let mut values = std::mem::take(&mut head.values);
    for range in head.value_ranges() {
        let mut stream = tensor_stream(&range.name, seed, round);
        for value in &mut values[range.range.clone()] {
            *value = stream.random_range(-bound..bound);
        }
    }
    head.values = values;
}

fn tensor_stream(name: &str, seed: u64, round: u32) -> ChaCha8Rng {
    StreamKey::new(seed, &format!("initialize.{name}")).with_number(u64::from(round)).stream()
}

/// A standard normal number (Box and Muller 1958, the cosine half).
pub(super) fn draw_normal(stream: &mut ChaCha8Rng) -> f32 {
    // 1 − [0, 1) keeps the logarithm finite.
    let radius = (-2.0 * (1.0 - stream.random::<f64>()).ln()).sqrt();
    (radius * (std::f64::consts::TAU * stream.random::<f64>()).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::settings::{BackboneKind, ImageShape};
    use crate::nn::head;

    #[test]
    fn convolutions_have_the_deviation_of_kaiming_and_norms_are_the_identity() {
        let architecture = Architecture::new(BackboneKind::Small, ImageShape { size: 28, channels: 1 });
        let store = initial_backbone(&architecture, 7);
        let weight = store.slice("layer3.1.conv2.weight").expect("a layer of small");
        let deviation = (weight.iter().map(|v| f64::from(v * v)).sum::<f64>() / weight.len() as f64).sqrt();
        let expected = (2.0f64 / (9.0 * 64.0)).sqrt();
        assert!((deviation / expected - 1.0).abs() < 0.02, "{deviation} for {expected}");
        assert_eq!(store.slice("bn1.weight"), Some(&[1.0f32; 16][..]));
        assert_eq!(store.slice("bn1.running_var"), Some(&[1.0f32; 16][..]));
    }

    #[test]
    fn the_same_seed_repeats_and_another_seed_or_round_differs() {
        let architecture = Architecture::new(BackboneKind::Small, ImageShape { size: 28, channels: 1 });
        assert_eq!(initial_backbone(&architecture, 7), initial_backbone(&architecture, 7));
        assert_ne!(initial_backbone(&architecture, 7), initial_backbone(&architecture, 8));
        let drawn = |round| {
            let mut store = head::linear(64, 10);
            initialize_head(&mut store, 64, 7, round);
            store
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert!(drawn(1).values.iter().all(|v| v.abs() <= 0.125));
    }
}
