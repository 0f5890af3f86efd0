//! Checkpoints: weights with torchvision's names and a manifest, as one safetensors file.
//!
//! The manifest is JSON under the key `gleaner` of the file's metadata: enough to rebuild the network, to normalise its input and to say how
//! it came about. A checkpoint of a training under way also carries the optimizers' state, so that training goes on to the same bits.
//! Bytes are the same for the same content. Writing to disk is the caller's business (a sink, the object store), atomically.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::graph::{Architecture, Representation};
use super::head;
use super::parameters::{NamedTensor, ParameterStore};
use super::{NnError, Result};
use crate::domain::settings::{BackboneKind, FineTuneSettings, ImageShape, PretextSettings};
use crate::vision::Normalization;

/// Version of the manifest's layout.
pub const FORMAT: u32 = 1;

const METADATA_KEY: &str = "gleaner";

/// What a network was trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// Backbone and head of the pretext task, f′ and g.
    Pretext,
    /// The downstream classifier f.
    Downstream,
}

/// What one pass over the training set came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Mean loss in nats.
    pub loss: f32,
    /// Fraction of right answers during training, 0 to 1.
    pub accuracy: f32,
}

/// What a checkpoint says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout; `FORMAT` when written by this program.
    pub format: u32,
    /// Version of gleaner that wrote it.
    pub gleaner_version: String,
    /// What the network is for.
    pub kind: ModelKind,
    /// Network family.
    pub backbone: BackboneKind,
    /// Input size.
    pub image: ImageShape,
    /// What of the backbone the head takes in.
    #[serde(default)]
    pub representation: Representation,
    /// Outputs of the head: classes, or answers of the pretext task.
    pub class_count: usize,
    /// How pixels become input.
    pub normalization: Normalization,
    /// The pretext task.
    pub pretext: PretextSettings,
    /// Downstream training; absent in a pretext model.
    pub fine_tune: Option<FineTuneSettings>,
    /// Round whose labels trained it; absent in a pretext model.
    pub round: Option<u32>,
    /// Seed of every random stream.
    pub seed: u64,
    /// Items it was trained on.
    pub item_count: u64,
    /// SHA-256 over settings, content hashes and classes it was trained on, in hexadecimal: equal digests ask for equal weights.
    pub run: String,
    /// Kernel variant that trained it; results repeat to the bit under the same one only.
    pub kernel: String,
    /// Compute threads that trained it; as `kernel`.
    pub thread_count: usize,
    /// What each pass came to, oldest first.
    pub epochs: Vec<EpochRecord>,
    /// SHA-256 of the weights of others that pretraining began with, in hexadecimal; absent when it began from chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_weights: Option<String>,
}

/// An optimizer's state inside a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SavedOptimizer {
    /// Steps taken.
    pub step_count: u64,
    /// State vectors, each as long as the store it moves.
    pub state: Vec<Vec<f32>>,
}

/// Where an unfinished training stands.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingState {
    /// Counters.
    pub progress: Progress,
    /// State of the backbone's optimizer.
    pub backbone: SavedOptimizer,
    /// State of the head's optimizer.
    pub head: SavedOptimizer,
}

/// Counters of an unfinished training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epoch under way, the first being 0.
    pub epoch: u32,
    /// Mini-batches done in it.
    pub batch_count: u64,
    /// Sum of the losses of its items so far, in nats.
    #[serde(with = "exact")]
    pub loss_sum: f64,
    /// Right answers so far.
    pub correct_count: u64,
    /// Items seen so far.
    pub seen_count: u64,
}

/// An f64 as the integer of its bits, since JSON's decimals don't come back to the last bit.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde takes")]
    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

/// What stands in the file's metadata.
#[derive(Serialize, Deserialize)]
struct Metadata {
    manifest: Manifest,
    progress: Option<SavedProgress>,
}

#[derive(Serialize, Deserialize)]
struct SavedProgress {
    #[serde(flatten)]
    progress: Progress,
    backbone_step_count: u64,
    backbone_vector_count: usize,
    head_step_count: u64,
    head_vector_count: usize,
}

/// A network with its manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What it says about itself.
    pub manifest: Manifest,
    /// The backbone's numbers.
    pub backbone: ParameterStore,
    /// The head's numbers.
    pub head: ParameterStore,
    /// Present while training is under way.
    pub training: Option<TrainingState>,
}

impl Checkpoint {
    /// The graph that the backbone's numbers belong to.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        Architecture::new(self.manifest.backbone, self.manifest.image)
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// None for a checkpoint of this program; the format's own otherwise.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut tensors = self.backbone.export();
        tensors.extend(self.head.export());
        let progress = self.training.as_ref().map(|training| {
            for (owner, saved) in [("backbone", &training.backbone), ("head", &training.head)] {
                tensors.extend(saved.state.iter().enumerate().map(|(place, vector)| NamedTensor {
                    name: state_name(owner, place),
                    shape: vec![vector.len()],
                    values: vector.clone(),
                }));
            }
            SavedProgress {
                progress: training.progress,
                backbone_step_count: training.backbone.step_count,
                backbone_vector_count: training.backbone.state.len(),
                head_step_count: training.head.step_count,
                head_vector_count: training.head.state.len(),
            }
        });
        let metadata = Metadata { manifest: self.manifest.clone(), progress };
        let metadata =
            serde_json::to_string(&metadata).map_err(|error| NnError::Checkpoint(error.to_string()))?;
        let bytes: Vec<Vec<u8>> = tensors.iter().map(|tensor| to_little_endian(&tensor.values)).collect();
        let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes);
            view.map(|view| (tensor.name.as_str(), view)).map_err(format_error)
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        // One key only: the format writes metadata in the order of a hash map.
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), metadata)]);
        safetensors::serialize(views, Some(metadata)).map_err(format_error)
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// Bytes that aren't safetensors, weights without a manifest, a manifest of a newer layout, or tensors that don't fit the network.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(format_error)?;
        let text = header.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        let text = text.ok_or_else(|| NnError::Checkpoint("it has no manifest of gleaner".to_owned()))?;
        let format = serde_json::from_str::<serde_json::Value>(text)
            .ok()
            .and_then(|v| v["manifest"]["format"].as_u64());
        if format.is_none_or(|format| format > u64::from(FORMAT)) {
            let found = format.map_or("unknown".to_owned(), |format| format.to_string());
            return Err(NnError::Checkpoint(format!(
                "its layout is {found}, this program reads up to {FORMAT}"
            )));
        }
        let metadata: Metadata =
            serde_json::from_str(text).map_err(|error| NnError::Checkpoint(error.to_string()))?;
        let manifest = metadata.manifest;
        let file = SafeTensors::deserialize(bytes).map_err(format_error)?;
        let tensors = file.iter().map(|(name, view)| read_tensor(name, &view)).collect::<Result<Vec<_>>>()?;
        let architecture = Architecture::new(manifest.backbone, manifest.image);
        let mut backbone = ParameterStore::for_backbone(&architecture);
        backbone.import(&tensors)?;
        let mut head = head::linear(architecture.width(manifest.representation), manifest.class_count);
        head.import(&tensors)?;
        let training = metadata.progress.map(|saved| read_training(&saved, tensors)).transpose()?;
        Ok(Self { manifest, backbone, head, training })
    }
}

fn state_name(owner: &str, place: usize) -> String {
    format!("optimizer.{owner}.{place}")
}

fn read_training(saved: &SavedProgress, tensors: Vec<NamedTensor>) -> Result<TrainingState> {
    let mut by_name: HashMap<String, Vec<f32>> = tensors.into_iter().map(|t| (t.name, t.values)).collect();
    let mut read = |owner: &str, vector_count: usize| {
        (0..vector_count)
            .map(|place| {
                let name = state_name(owner, place);
                by_name.remove(&name).ok_or(NnError::MissingTensor { name })
            })
            .collect::<Result<Vec<_>>>()
    };
    let backbone = SavedOptimizer {
        step_count: saved.backbone_step_count,
        state: read("backbone", saved.backbone_vector_count)?,
    };
    let head =
        SavedOptimizer { step_count: saved.head_step_count, state: read("head", saved.head_vector_count)? };
    Ok(TrainingState { progress: saved.progress, backbone, head })
}

pub(super) fn read_tensor(name: &str, view: &TensorView<'_>) -> Result<NamedTensor> {
    if view.dtype() != Dtype::F32 {
        return Err(NnError::Checkpoint(format!("tensor `{name}` is {:?}, F32 is needed", view.dtype())));
    }
    let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let values = view.data().chunks_exact(4).map(number).collect();
    Ok(NamedTensor { name: name.to_owned(), shape: view.shape().to_vec(), values })
}

fn to_little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "the form map_err takes")]
fn format_error(error: safetensors::SafeTensorError) -> NnError {
    NnError::Checkpoint(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::initialize;

    fn checkpoint() -> Checkpoint {
        let image = ImageShape { size: 8, channels: 1 };
        let architecture = Architecture::new(BackboneKind::Small, image);
        let mut head = head::linear(architecture.feature_count, 3);
        initialize::initialize_head(&mut head, architecture.feature_count, 7, 2);
        let manifest = Manifest {
            format: FORMAT,
            gleaner_version: "0.1.0".to_owned(),
            kind: ModelKind::Downstream,
            backbone: BackboneKind::Small,
            image,
            representation: Representation::Features,
            class_count: 3,
            normalization: Normalization { mean: vec![0.286_041], std: vec![0.353_024] },
            pretext: PretextSettings::default(),
            fine_tune: Some(FineTuneSettings::default()),
            round: Some(2),
            seed: 7,
            item_count: 50,
            run: "00".to_owned(),
            kernel: "portable".to_owned(),
            thread_count: 2,
            epochs: vec![EpochRecord { loss: 1.1, accuracy: 0.4 }],
            initial_weights: None,
        };
        let backbone = initialize::initial_backbone(&architecture, 7);
        Checkpoint { manifest, backbone, head, training: None }
    }

    #[test]
    fn a_checkpoint_comes_back_from_its_bytes_and_equal_ones_have_equal_bytes() {
        let mut checkpoint = checkpoint();
        let bytes = checkpoint.to_bytes().unwrap();
        assert_eq!(Checkpoint::from_bytes(&bytes).unwrap(), checkpoint);
        assert_eq!(checkpoint.to_bytes().unwrap(), bytes);
        let saved = |store: &ParameterStore, step_count| SavedOptimizer {
            step_count,
            state: vec![store.values.iter().map(|v| v * 0.5).collect()],
        };
        checkpoint.training = Some(TrainingState {
            progress: Progress {
                epoch: 3,
                batch_count: 17,
                loss_sum: 0.1 + 0.2,
                correct_count: 8,
                seen_count: 40,
            },
            backbone: saved(&checkpoint.backbone, 99),
            head: saved(&checkpoint.head, 99),
        });
        assert_eq!(Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap()).unwrap(), checkpoint);
    }

    #[test]
    fn tensors_carry_torchvisions_names_and_shapes() {
        let bytes = checkpoint().to_bytes().unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let shape = |name: &str| file.tensor(name).unwrap().shape().to_vec();
        assert_eq!(shape("conv1.weight"), [16, 1, 3, 3]);
        assert_eq!(shape("layer2.0.downsample.0.weight"), [32, 16, 1, 1]);
        assert_eq!(shape("layer2.0.downsample.1.running_mean"), [32]);
        assert_eq!(shape("fc.weight"), [3, 64]);
    }

    #[test]
    fn foreign_truncated_and_newer_files_are_refused_with_a_reason() {
        let reason = |bytes: &[u8]| Checkpoint::from_bytes(bytes).unwrap_err().to_string();
        let bytes = checkpoint().to_bytes().unwrap();
        reason(&bytes[..bytes.len() / 2]);
        reason(b"not a checkpoint");
        let data = [0; 4];
        let view = TensorView::new(Dtype::F32, vec![1], &data).unwrap();
        let foreign = safetensors::serialize([("fc.bias", view)], None).unwrap();
        assert!(reason(&foreign).contains("no manifest"), "{}", reason(&foreign));
        let mut newer = checkpoint();
        newer.manifest.format = FORMAT + 1;
        let newer = newer.to_bytes().unwrap();
        assert!(reason(&newer).contains("layout is 2"), "{}", reason(&newer));
        let mut smaller = checkpoint();
        smaller.manifest.class_count = 2;
        let smaller = smaller.to_bytes().unwrap();
        assert!(reason(&smaller).contains("fc.weight"), "{}", reason(&smaller));
    }
}
