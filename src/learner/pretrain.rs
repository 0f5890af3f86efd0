//! Step 2 of Algorithm 1: trains f′ and g on the pretext task over all of the pool, D_l ∪ D_u.
//!
//! The task says what is shown, how it is judged and how the parameters move. Where labels are known, the accuracy of nearest neighbours is told
//! after each pass; nothing is decided by it.

use candle_core::Device;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::neighbours::Monitor;
use super::training::{MiniBatch, SAVE_INTERVAL, Training, run_digest, starting_point, training_order};
use super::{CheckpointSink, LabeledItem, LearnerError, Result, StepHook};
use crate::domain::seed::StreamKey;
use crate::domain::settings::{PretextKind, PretextSettings, ProjectSettings};
use crate::nn::checkpoint::{Checkpoint, FORMAT, Manifest, ModelKind};
use crate::nn::device::{backbone_for, kernel_name};
use crate::nn::graph::{Architecture, Representation};
use crate::nn::initialize::{initial_backbone, initialize_head};
use crate::nn::ops;
use crate::nn::parameters::ParameterStore;
use crate::nn::state_dict::read_backbone;
use crate::pretext::{self, Pretext};
use crate::vision::{Normalization, Pool};

/// Trains the pretext model of a project.
///
/// `labeled` are the items whose classes are known already, any number; they are for the monitor alone. `resume` is what `sink` kept of an
/// earlier attempt; another run's checkpoint is ignored. The result's manifest carries the pool's normalization, which every later model of
/// the project uses.
///
/// # Errors
/// An empty pool, a stop, a sink or a device that fails.
pub fn pretrain(
    device: &Device,
    pool: &Pool,
    labeled: &[LabeledItem],
    settings: &ProjectSettings,
    resume: Option<&[u8]>,
    sink: &mut dyn CheckpointSink,
    hook: &mut dyn StepHook,
) -> Result<Checkpoint> {
    pretrain_from(device, pool, labeled, settings, None, resume, sink, hook)
}

/// As `pretrain`, with a backbone that begins with the weights in this safetensors file (`nn::state_dict`) rather than with drawn ones.
///
/// # Errors
/// As `pretrain`, and weights that don't fit the network.
#[expect(clippy::too_many_arguments, reason = "the inputs of a pretraining, each of another kind")]
pub fn pretrain_from(
    device: &Device,
    pool: &Pool,
    labeled: &[LabeledItem],
    settings: &ProjectSettings,
    initial_weights: Option<&[u8]>,
    resume: Option<&[u8]>,
    sink: &mut dyn CheckpointSink,
    hook: &mut dyn StepHook,
) -> Result<Checkpoint> {
    if pool.is_empty() {
        return Err(LearnerError::NoItems { purpose: "pretrain on" });
    }
    let task = pretext::for_settings(&settings.pretext);
    let fresh = initial_checkpoint(device, pool, settings, task.as_ref(), initial_weights)?;
    let network = backbone_for(device, fresh.architecture());
    let monitor = Monitor::new(pool, labeled, settings.seed);
    let seed = settings.seed;
    let plan_epoch = |epoch: u32| {
        let key = StreamKey::new(seed, "pretrain.order").with_number(u64::from(epoch));
        let order = training_order(pool, 0..pool.len(), key);
        task.plan_epoch(pool, &order, seed, epoch)
    };
    let training = Training {
        device,
        pool,
        recipe: task.recipe(pool),
        epoch_count: settings.pretext.epochs,
        save_interval: SAVE_INTERVAL,
        plan_epoch: &plan_epoch,
        step: &|model, MiniBatch { samples, images, .. }| {
            task.train_step(network.as_ref(), model, pool, samples, images)
        },
        monitor: &|model| {
            let accuracy = monitor.accuracy(device, model)?;
            if let Some(accuracy) = accuracy {
                tracing::info!(
                    pretext.kind = settings.pretext.kind.name(),
                    knn.accuracy = accuracy,
                    "a pass of pretraining ended"
                );
            }
            Ok(accuracy)
        },
    };
    training.run(starting_point(fresh, resume), sink, hook)
}

/// `Manifest::run` of what `pretrain` makes of these images and settings, 64 hexadecimal digits.
#[must_use]
pub fn pretext_run(pool: &Pool, settings: &ProjectSettings) -> String {
    let described = json!({
        "kind": "pretext", "backbone": settings.backbone, "image": pool.shape(),
        "pretext": described(&settings.pretext), "seed": settings.seed,
    });
    run_digest(&described, (0..pool.len()).map(|index| (pool.hash(index), 0)))
}

/// What decides a pretext training: the options of its own task alone, so that those of another change nothing.
fn described(settings: &PretextSettings) -> serde_json::Value {
    let PretextSettings { kind, epochs, rotations_per_image, moco } = settings;
    match kind {
        PretextKind::Rotation => {
            json!({ "kind": kind, "epochs": epochs, "rotations_per_image": rotations_per_image })
        }
        PretextKind::Moco => json!({ "kind": kind, "epochs": epochs, "moco": moco }),
    }
}

fn initial_checkpoint(
    device: &Device,
    pool: &Pool,
    settings: &ProjectSettings,
    task: &dyn Pretext,
    initial_weights: Option<&[u8]>,
) -> Result<Checkpoint> {
    let seed = settings.seed;
    let architecture = Architecture::new(settings.backbone, pool.shape());
    let (mut backbone, mut run) = (initial_backbone(&architecture, seed), pretext_run(pool, settings));
    let digest = initial_weights.map(|bytes| hex::encode(Sha256::digest(bytes)));
    if let (Some(bytes), Some(digest)) = (initial_weights, &digest) {
        backbone = read_backbone(bytes, &architecture)?;
        run = hex::encode(Sha256::digest(format!("{run} {digest}")));
    }
    let manifest = Manifest {
        format: FORMAT,
        gleaner_version: env!("CARGO_PKG_VERSION").to_owned(),
        kind: ModelKind::Pretext,
        backbone: settings.backbone,
        image: pool.shape(),
        representation: Representation::Features,
        class_count: task.answer_count(),
        normalization: Normalization::measure(pool, seed),
        pretext: settings.pretext,
        fine_tune: None,
        round: None,
        seed,
        item_count: pool.len() as u64,
        run,
        kernel: kernel_name(device).to_owned(),
        thread_count: ops::thread_count(),
        epochs: Vec::new(),
        initial_weights: digest,
    };
    let mut head: ParameterStore = manifest.blank_head();
    initialize_head(&mut head, architecture.feature_count, seed, 0);
    let momentum = task.start_momentum(&backbone, &head, pool, seed);
    Ok(Checkpoint { manifest, backbone, head, momentum, training: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::DropCheckpoints;
    use crate::learner::fixture::{self, go_on};

    #[test]
    fn rotations_are_learned_and_the_manifest_says_how() {
        let (pool, _) = fixture::pool(120, "pretrain");
        let mut settings = fixture::settings();
        settings.pretext.epochs = 6;
        let model =
            pretrain(&Device::Cpu, &pool, &[], &settings, None, &mut DropCheckpoints, &mut go_on).unwrap();
        let manifest = &model.manifest;
        assert_eq!((manifest.kind, manifest.class_count, manifest.epochs.len()), (ModelKind::Pretext, 4, 6));
        assert_eq!((manifest.item_count, manifest.seed, manifest.run.len()), (120, 7, 64));
        let (first, last) = (manifest.epochs[0], manifest.epochs[5]);
        assert!(last.loss < 0.8 * first.loss && last.accuracy > 0.6, "{first:?} {last:?}");
        assert_eq!(model.training, None);
    }

    #[test]
    fn weights_of_others_are_where_it_begins_and_the_manifest_names_them() {
        let (pool, _) = fixture::pool(40, "initial");
        let mut settings = fixture::settings();
        settings.pretext.epochs = 1;
        let start = |initial: Option<&[u8]>| {
            pretrain_from(
                &Device::Cpu,
                &pool,
                &[],
                &settings,
                initial,
                None,
                &mut DropCheckpoints,
                &mut go_on,
            )
        };
        let drawn = start(None).unwrap();
        // What one epoch has learned goes on from there: the same file, the same result; another beginning, another.
        let file = drawn.to_bytes().unwrap();
        let (once, again) = (start(Some(&file)).unwrap(), start(Some(&file)).unwrap());
        assert_eq!(once, again);
        assert_ne!(once.backbone, drawn.backbone);
        assert!(once.manifest.epochs[0].loss < drawn.manifest.epochs[0].loss);
        assert_ne!(once.manifest.run, drawn.manifest.run);
        let digest = hex::encode(Sha256::digest(&file));
        assert_eq!((once.manifest.initial_weights, drawn.manifest.initial_weights), (Some(digest), None));
        assert!(start(Some(b"nothing of the kind")).is_err());
    }

    #[test]
    fn views_are_told_apart_and_labels_say_how_well_classes_are() {
        let (pool, classes) = fixture::pool(240, "pretrain");
        let labeled = fixture::labeled(240, &classes);
        let mut settings = fixture::moco_settings();
        (settings.pretext.epochs, settings.pretext.moco.momentum) = (30, 0.9);
        settings.pretext.moco.batch_size = Some(64);
        let train = |labeled: &[LabeledItem]| {
            pretrain(&Device::Cpu, &pool, labeled, &settings, None, &mut DropCheckpoints, &mut go_on).unwrap()
        };
        let model = train(&labeled);
        let last = model.manifest.epochs[29];
        // Guessing among the 48 keys of the queue and the own one costs ln 49 = 3.9.
        assert!(last.loss < 49f32.ln() - 0.3, "{last:?}");
        assert!(last.knn_accuracy.is_some_and(|accuracy| accuracy > 0.6), "{last:?}");
        assert_eq!(model.manifest.class_count, 128);
        // Labels are for the monitor alone.
        let blind = train(&[]);
        assert_eq!(
            (&blind.backbone, &blind.head, &blind.momentum),
            (&model.backbone, &model.head, &model.momentum)
        );
        assert_eq!(blind.manifest.epochs[29].knn_accuracy, None);
    }

    #[test]
    fn a_pool_of_a_few_images_is_enough_to_train_on() {
        for count in [1, 2, 5, 17] {
            let (pool, _) = fixture::pool(count, "few");
            let mut settings = fixture::moco_settings();
            settings.pretext.moco = crate::domain::moco::MocoSettings::default();
            let model = pretrain(&Device::Cpu, &pool, &[], &settings, None, &mut DropCheckpoints, &mut go_on)
                .unwrap();
            assert!(model.backbone.values.iter().chain(&model.head.values).all(|value| value.is_finite()));
        }
    }

    #[test]
    fn options_of_another_task_do_not_change_a_run() {
        let (pool, _) = fixture::pool(10, "run");
        let run = |change: &dyn Fn(&mut ProjectSettings)| {
            let mut settings = fixture::settings();
            change(&mut settings);
            pretext_run(&pool, &settings)
        };
        let rotation = run(&|_| {});
        assert_eq!(rotation, run(&|settings| settings.pretext.moco.momentum = 0.9));
        assert_ne!(rotation, run(&|settings| settings.pretext.rotations_per_image = 1));
        let moco = run(&|settings| settings.pretext.kind = PretextKind::Moco);
        assert_ne!(moco, rotation);
        let faster = |settings: &mut ProjectSettings| {
            (settings.pretext.kind, settings.pretext.moco.momentum) = (PretextKind::Moco, 0.9);
        };
        assert_ne!(moco, run(&faster));
        // Runs of before MoCo was there are still found.
        let described = described(&fixture::settings().pretext).to_string();
        assert_eq!(described, r#"{"epochs":1,"kind":"rotation","rotations_per_image":4}"#);
    }

    #[test]
    fn an_empty_pool_is_refused() {
        let pool = Pool::new(fixture::SHAPE, vec![], vec![]).unwrap();
        let error =
            pretrain(&Device::Cpu, &pool, &[], &fixture::settings(), None, &mut DropCheckpoints, &mut go_on)
                .unwrap_err();
        assert!(matches!(error, LearnerError::NoItems { .. }));
    }
}
