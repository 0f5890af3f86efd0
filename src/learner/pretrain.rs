//! Step 2 of Algorithm 1: trains f′ and g on the pretext task over all of the pool, D_l ∪ D_u.
//!
//! Recipe: SGD with Nesterov momentum, cosine rate after a short warm-up, weight decay 5e-4 (RotNet's, with the step decay replaced).

use candle_core::Device;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::training::{
    MiniBatch, Recipe, SAVE_INTERVAL, Training, run_digest, starting_point, training_order,
};
use super::{CheckpointSink, LearnerError, Result, StepHook};
use crate::domain::seed::StreamKey;
use crate::domain::settings::ProjectSettings;
use crate::nn::checkpoint::{Checkpoint, FORMAT, Manifest, ModelKind};
use crate::nn::device::{backbone_for, kernel_name};
use crate::nn::graph::{Architecture, Representation};
use crate::nn::initialize::{initial_backbone, initialize_head};
use crate::nn::optimizer::Rule;
use crate::nn::state_dict::read_backbone;
use crate::nn::{head, ops};
use crate::pretext;
use crate::vision::{Normalization, Pool};

const RECIPE: Recipe = Recipe {
    rule: Rule::Sgd { momentum: 0.9, weight_decay: 5e-4 },
    peak_rate: 0.1,
    head_rate_factor: 1.0,
    warm_up_fraction: 0.05,
};

/// Trains the pretext model of a project.
///
/// `resume` is what `sink` kept of an earlier attempt; another run's checkpoint is ignored. The result's manifest carries the pool's
/// normalization, which every later model of the project uses.
///
/// # Errors
/// An empty pool, a stop, a sink or a device that fails.
pub fn pretrain(
    device: &Device,
    pool: &Pool,
    settings: &ProjectSettings,
    resume: Option<&[u8]>,
    sink: &mut dyn CheckpointSink,
    hook: &mut dyn StepHook,
) -> Result<Checkpoint> {
    pretrain_from(device, pool, settings, None, resume, sink, hook)
}

/// As `pretrain`, with a backbone that begins with the weights in this safetensors file (`nn::state_dict`) rather than with drawn ones.
///
/// # Errors
/// As `pretrain`, and weights that don't fit the network.
pub fn pretrain_from(
    device: &Device,
    pool: &Pool,
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
    let mut fresh = initial_checkpoint(device, pool, settings, task.answer_count());
    if let Some(bytes) = initial_weights {
        fresh.backbone = read_backbone(bytes, &fresh.architecture())?;
        let digest = hex::encode(Sha256::digest(bytes));
        fresh.manifest.run = hex::encode(Sha256::digest(format!("{} {digest}", fresh.manifest.run)));
        fresh.manifest.initial_weights = Some(digest);
    }
    let network = backbone_for(device, fresh.architecture());
    let seed = settings.seed;
    let plan_epoch = |epoch: u32| {
        let key = StreamKey::new(seed, "pretrain.order").with_number(u64::from(epoch));
        let order = training_order(pool, 0..pool.len(), key);
        task.plan_epoch(pool, &order, seed, epoch)
    };
    let training = Training {
        device,
        pool,
        recipe: RECIPE,
        epoch_count: settings.pretext.epochs,
        save_interval: SAVE_INTERVAL,
        plan_epoch: &plan_epoch,
        step: &|model, MiniBatch { samples, images, .. }| {
            task.train_step(network.as_ref(), &model.backbone, &model.head, samples, images)
        },
    };
    training.run(starting_point(fresh, resume), sink, hook)
}

/// `Manifest::run` of what `pretrain` makes of these images and settings, 64 hexadecimal digits.
#[must_use]
pub fn pretext_run(pool: &Pool, settings: &ProjectSettings) -> String {
    let described = json!({
        "kind": "pretext", "backbone": settings.backbone, "image": pool.shape(), "pretext": settings.pretext,
        "seed": settings.seed,
    });
    run_digest(&described, (0..pool.len()).map(|index| (pool.hash(index), 0)))
}

fn initial_checkpoint(
    device: &Device,
    pool: &Pool,
    settings: &ProjectSettings,
    answer_count: usize,
) -> Checkpoint {
    let seed = settings.seed;
    let architecture = Architecture::new(settings.backbone, pool.shape());
    let backbone = initial_backbone(&architecture, seed);
    let mut head = head::linear(architecture.feature_count, answer_count);
    initialize_head(&mut head, architecture.feature_count, seed, 0);
    let manifest = Manifest {
        format: FORMAT,
        gleaner_version: env!("CARGO_PKG_VERSION").to_owned(),
        kind: ModelKind::Pretext,
        backbone: settings.backbone,
        image: pool.shape(),
        representation: Representation::Features,
        class_count: answer_count,
        normalization: Normalization::measure(pool, seed),
        pretext: settings.pretext,
        fine_tune: None,
        round: None,
        seed,
        item_count: pool.len() as u64,
        run: pretext_run(pool, settings),
        kernel: kernel_name(device).to_owned(),
        thread_count: ops::thread_count(),
        epochs: Vec::new(),
        initial_weights: None,
    };
    Checkpoint { manifest, backbone, head, training: None }
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
        let model = pretrain(&Device::Cpu, &pool, &settings, None, &mut DropCheckpoints, &mut go_on).unwrap();
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
            pretrain_from(&Device::Cpu, &pool, &settings, initial, None, &mut DropCheckpoints, &mut go_on)
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
    fn an_empty_pool_is_refused() {
        let pool = Pool::new(fixture::SHAPE, vec![], vec![]).unwrap();
        let error =
            pretrain(&Device::Cpu, &pool, &fixture::settings(), None, &mut DropCheckpoints, &mut go_on)
                .unwrap_err();
        assert!(matches!(error, LearnerError::NoItems { .. }));
    }
}
