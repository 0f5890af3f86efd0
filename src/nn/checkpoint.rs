//! Checkpoints: weights with torchvision's names and a manifest, as one safetensors file.
//!
//! The manifest is JSON under the key `gleaner` of the file's metadata: enough to rebuild the network, to normalise its input and to say how
//! it came about. A pretext model of MoCo carries its momentum encoder (`key.…`) and the queue of keys (`queue.keys`, `queue.items`), which its
//! losses need. A checkpoint of a training under way also carries the optimizers' state, so that training goes on to the same bits.
//! Bytes are the same for the same content. Writing to disk is the caller's business (a sink, the object store), atomically.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::graph::{Architecture, Representation};
use super::head;
use super::momentum::{KeyQueue, MomentumEncoder};
use super::parameters::{NamedTensor, ParameterStore};
use super::{NnError, Result};
use crate::domain::content_hash::ContentHash;
use crate::domain::moco::MocoVersion;
use crate::domain::settings::{BackboneKind, FineTuneSettings, ImageShape, PretextKind, PretextSettings};
use crate::vision::Normalization;

/// Version of the manifest's layout.
pub const FORMAT: u32 = 1;

const METADATA_KEY: &str = "gleaner";

/// What stands before the names of the momentum encoder's tensors.
const KEY_PREFIX: &str = "key.";

const QUEUE_KEYS: &str = "queue.keys";

/// Content hashes of the keys' items, u8 [K, 32]; zeros for a key of no item.
const QUEUE_ITEMS: &str = "queue.items";

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
    /// Accuracy of the nearest labelled neighbours in the features afterwards, 0 to 1; of a pretext model whose items have labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knn_accuracy: Option<f32>,
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
    /// Outputs of the head: classes, answers of the pretext task, or the width of its projections.
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

impl Manifest {
    /// Whether the network is MoCo's, with a projection head and a momentum encoder.
    fn is_contrastive(&self) -> bool {
        self.kind == ModelKind::Pretext && self.pretext.kind == PretextKind::Moco
    }

    /// The network's head with all numbers 0.
    #[must_use]
    pub fn blank_head(&self) -> ParameterStore {
        let width = Architecture::new(self.backbone, self.image).width(self.representation);
        if self.is_contrastive() {
            let has_hidden_layer = self.pretext.moco.version == MocoVersion::V2;
            head::projection(width, self.class_count, has_hidden_layer)
        } else {
            head::linear(width, self.class_count)
        }
    }
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue_next: Option<usize>,
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
    /// The momentum encoder and its queue; of a pretext model of MoCo.
    pub momentum: Option<MomentumEncoder>,
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
        if let Some(momentum) = &self.momentum {
            tensors.extend(export_momentum(momentum));
        }
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
        let queue_next = self.momentum.as_ref().map(|momentum| momentum.queue.next());
        let metadata = Metadata { manifest: self.manifest.clone(), progress, queue_next };
        let metadata =
            serde_json::to_string(&metadata).map_err(|error| NnError::Checkpoint(error.to_string()))?;
        let bytes: Vec<Vec<u8>> = tensors.iter().map(|tensor| to_little_endian(&tensor.values)).collect();
        let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes);
            view.map(|view| (tensor.name.as_str(), view)).map_err(format_error)
        });
        let mut views = views.collect::<Result<Vec<_>>>()?;
        let owners = self.momentum.as_ref().map(|momentum| owner_bytes(&momentum.queue));
        if let Some(owners) = &owners {
            let shape = vec![owners.len() / HASH_LEN, HASH_LEN];
            views.push((QUEUE_ITEMS, TensorView::new(Dtype::U8, shape, owners).map_err(format_error)?));
        }
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
        let numbers = file.iter().filter(|(name, _)| *name != QUEUE_ITEMS);
        let tensors = numbers.map(|(name, view)| read_tensor(name, &view)).collect::<Result<Vec<_>>>()?;
        let architecture = Architecture::new(manifest.backbone, manifest.image);
        let mut backbone = ParameterStore::for_backbone(&architecture);
        backbone.import(&tensors)?;
        let mut head = manifest.blank_head();
        head.import(&tensors)?;
        let momentum = if manifest.is_contrastive() {
            let next = metadata.queue_next.unwrap_or_default();
            Some(read_momentum(&file, &tensors, (&backbone, &head), next)?)
        } else {
            None
        };
        let training = metadata.progress.map(|saved| read_training(&saved, tensors)).transpose()?;
        Ok(Self { manifest, backbone, head, momentum, training })
    }
}

/// Bytes of a content hash.
const HASH_LEN: usize = 32;

/// What stands for the item of a key that has none.
const NO_ITEM: [u8; HASH_LEN] = [0; HASH_LEN];

fn export_momentum(momentum: &MomentumEncoder) -> Vec<NamedTensor> {
    let stores = [&momentum.backbone, &momentum.head];
    let mut tensors: Vec<NamedTensor> = stores.iter().flat_map(|store| store.export()).collect();
    tensors.iter_mut().for_each(|tensor| tensor.name.insert_str(0, KEY_PREFIX));
    let queue = &momentum.queue;
    tensors.push(NamedTensor {
        name: QUEUE_KEYS.to_owned(),
        shape: vec![queue.len(), queue.width()],
        values: queue.keys().to_vec(),
    });
    tensors
}

fn owner_bytes(queue: &KeyQueue) -> Vec<u8> {
    queue.items().iter().flat_map(|item| item.map_or(NO_ITEM, |hash| hash.0)).collect()
}

fn read_momentum(
    file: &SafeTensors<'_>,
    tensors: &[NamedTensor],
    (backbone, head): (&ParameterStore, &ParameterStore),
    next: usize,
) -> Result<MomentumEncoder> {
    let missing = |name: &str| NnError::MissingTensor { name: name.to_owned() };
    let owners = file.tensor(QUEUE_ITEMS).map_err(|_| missing(QUEUE_ITEMS))?;
    let owner = |bytes: &[u8]| ContentHash::from_slice(bytes).filter(|hash| hash.0 != NO_ITEM);
    let items = owners.data().chunks_exact(HASH_LEN).map(owner).collect();
    let keys = tensors.iter().find(|tensor| tensor.name == QUEUE_KEYS);
    let keys = keys.ok_or_else(|| missing(QUEUE_KEYS))?;
    let width = keys.shape.last().copied().unwrap_or_default();
    let queue = KeyQueue::from_parts(width, keys.values.clone(), items, next)
        .ok_or_else(|| NnError::Checkpoint("its queue of keys doesn't fit itself".to_owned()))?;
    let own = tensors.iter().filter_map(|tensor| {
        let name = tensor.name.strip_prefix(KEY_PREFIX)?.to_owned();
        Some(NamedTensor { name, ..tensor.clone() })
    });
    let own: Vec<NamedTensor> = own.collect();
    let mut momentum = MomentumEncoder::new(backbone, head, queue);
    momentum.backbone.import(&own)?;
    momentum.head.import(&own)?;
    Ok(momentum)
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
            epochs: vec![EpochRecord { loss: 1.1, accuracy: 0.4, knn_accuracy: None }],
            initial_weights: None,
        };
        let backbone = initialize::initial_backbone(&architecture, 7);
        Checkpoint { manifest, backbone, head, momentum: None, training: None }
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
    fn a_model_of_moco_comes_back_with_its_key_encoder_and_queue() {
        for version in [MocoVersion::V1, MocoVersion::V2] {
            let mut model = checkpoint();
            model.manifest.kind = ModelKind::Pretext;
            model.manifest.pretext.kind = PretextKind::Moco;
            model.manifest.pretext.moco.version = version;
            model.manifest.epochs[0].knn_accuracy = Some(0.75);
            model.head = model.manifest.blank_head();
            initialize::initialize_head(&mut model.head, 64, 7, 0);
            let mut queue = KeyQueue::random(3, 4, crate::domain::seed::StreamKey::new(7, "queue"));
            queue.push(&[0.6, 0.0, 0.8], [ContentHash([5; 32])].into_iter());
            let mut momentum = MomentumEncoder::new(&model.backbone, &model.head, queue);
            momentum.backbone.values.iter_mut().for_each(|value| *value += 0.5);
            momentum.backbone.buffers.fill(3.0);
            momentum.head.values.fill(2.0);
            model.momentum = Some(momentum);
            let bytes = model.to_bytes().unwrap();
            assert_eq!(Checkpoint::from_bytes(&bytes).unwrap(), model);
            model.momentum = None;
            let error = Checkpoint::from_bytes(&model.to_bytes().unwrap()).unwrap_err();
            assert!(error.to_string().contains("queue.items"), "{error}");
        }
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
