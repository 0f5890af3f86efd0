//! What an operator decides about a project, with the defaults and limits of each field.
//!
//! `ProjectSettings` is what `POST /api/v1/projects` accepts beside name and classes, and what the row keeps. Image, backbone, pretext and
//! seed freeze when the project starts; the rest may change and counts from the next batch on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field_error::FieldError;
use super::moco::MocoSettings;
use super::stopping::StoppingRules;
use super::strategy::{SeedStrategy, Strategy};

/// The size to which every image is brought before the network sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageShape {
    /// Edge length in pixels; images are square, 8 to 512.
    pub size: u32,
    /// 1 (grey) or 3 (RGB).
    pub channels: u32,
}

impl Default for ImageShape {
    fn default() -> Self {
        Self { size: 32, channels: 3 }
    }
}

impl ImageShape {
    /// Bytes of one packed image (u8, channels last).
    #[must_use]
    pub fn byte_count(self) -> usize {
        self.size as usize * self.size as usize * self.channels as usize
    }
}

/// The network below the head.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum BackboneKind {
    /// Residual net of 3 stages of 16, 32 and 64 channels, two blocks each; for 28–32 pixels on a CPU.
    #[default]
    Small,
    /// ResNet-18; a 3×3 stem up to 64 pixels, the ImageNet stem above.
    Resnet18,
}

impl BackboneKind {
    /// The name that stands in settings and manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Resnet18 => "resnet18",
        }
    }
}

/// The self-supervised task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum PretextKind {
    /// Predict which of four rotations was applied (RotNet, Gidaris et al. 2018).
    #[default]
    Rotation,
    /// Tell the views of one image from the views of all others (MoCo, He et al. 2020).
    Moco,
}

impl PretextKind {
    /// The name that stands in settings and manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rotation => "rotation",
            Self::Moco => "moco",
        }
    }
}

/// How the pretext task is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PretextSettings {
    /// Which task.
    pub kind: PretextKind,
    /// Passes over pool and labelled items, 1 to 1000. Long rotation training drives every `v` to zero.
    pub epochs: u32,
    /// Rotations of each image seen in one pass, 1 to 4; 1 draws one at random and is the fast mode. Read by rotation alone.
    pub rotations_per_image: u32,
    /// What MoCo alone reads.
    pub moco: MocoSettings,
}

impl Default for PretextSettings {
    fn default() -> Self {
        Self { kind: PretextKind::Rotation, epochs: 3, rotations_per_image: 4, moco: MocoSettings::default() }
    }
}

/// Which parameters fine-tuning moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FineTuneMode {
    /// Backbone and head, from the pretext weights, each round.
    #[default]
    Full,
    /// The head alone, on embeddings that are computed once; rounds take seconds.
    Head,
}

impl FineTuneMode {
    /// The name that stands in settings and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Head => "head",
        }
    }
}

/// How the downstream model is trained each round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FineTuneSettings {
    /// What is trained.
    pub mode: FineTuneMode,
    /// Passes over the labelled items, 1 to 1000.
    pub epochs: u32,
    /// Mini-batches at least, 1 to 100000: few labels are passed over more often, until they come to it.
    pub min_steps: u32,
}

impl Default for FineTuneSettings {
    fn default() -> Self {
        Self { mode: FineTuneMode::Full, epochs: 20, min_steps: 800 }
    }
}

/// Everything an operator decides about a project except its name and classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectSettings {
    /// Size of the packed images.
    pub image: ImageShape,
    /// Network.
    pub backbone: BackboneKind,
    /// Pretext task.
    pub pretext: PretextSettings,
    /// Downstream training.
    pub fine_tune: FineTuneSettings,
    /// Rule for every batch but the first.
    pub strategy: Strategy,
    /// Rule for the first batch.
    pub seed_strategy: SeedStrategy,
    /// Distinct items asked in a round, 1 to 100000.
    pub batch_size: u32,
    /// What may be spent in all, in the same unit as `cost_per_label`, 0 to 1e12.
    pub budget: f64,
    /// Price of one accepted vote, above 0.
    pub cost_per_label: f64,
    /// Votes each task needs, 1 to 15.
    pub votes_per_task: u32,
    /// Gold tasks on top of each batch, as a fraction of it, 0 to 0.5.
    pub gold_fraction: f64,
    /// Votes that may go to asking suspected labels again, as a fraction of all votes so far, 0 to 0.5.
    pub relabel_fraction: f64,
    /// How long a tie waits for somebody's further vote before the weighed votes decide, in seconds, 5 to 2592000.
    pub adjudication_seconds: u32,
    /// When to stop before the budget is spent.
    pub stopping: StoppingRules,
    /// Share of each batch drawn at random, 0 to 1.
    pub random_fraction: f64,
    /// Whether items are asked ahead while a round trains.
    pub look_ahead: bool,
    /// Seed of every random stream.
    pub seed: u64,
    /// How long a lease lasts in seconds, 5 to 86400.
    pub lease_seconds: u32,
    /// What labelers should know, Markdown, up to 20000 characters.
    pub guidelines: String,
    /// Whether labelers see the model's guess.
    pub show_suggestions: bool,
}

impl Default for ProjectSettings {
    fn default() -> Self {
        Self {
            image: ImageShape::default(),
            backbone: BackboneKind::default(),
            pretext: PretextSettings::default(),
            fine_tune: FineTuneSettings::default(),
            strategy: Strategy::default(),
            seed_strategy: SeedStrategy::default(),
            batch_size: 100,
            budget: 1000.0,
            cost_per_label: 1.0,
            votes_per_task: 1,
            gold_fraction: 0.0,
            relabel_fraction: 0.0,
            adjudication_seconds: 3600,
            stopping: StoppingRules::default(),
            random_fraction: 0.05,
            look_ahead: true,
            seed: 7,
            lease_seconds: 300,
            guidelines: String::new(),
            show_suggestions: true,
        }
    }
}

impl ProjectSettings {
    /// Every field that lies outside its limits; empty when the settings are usable.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut within = |field: &str, right: bool, detail: &str| {
            if !right {
                errors.push(FieldError::new(field, detail));
            }
        };
        within("image.size", (8..=512).contains(&self.image.size), "must be 8 to 512 pixels");
        within("image.channels", matches!(self.image.channels, 1 | 3), "must be 1 (grey) or 3 (RGB)");
        within("pretext.epochs", (1..=1000).contains(&self.pretext.epochs), "must be 1 to 1000");
        let rotations = self.pretext.rotations_per_image;
        within("pretext.rotations_per_image", (1..=4).contains(&rotations), "must be 1 to 4");
        within("fine_tune.epochs", (1..=1000).contains(&self.fine_tune.epochs), "must be 1 to 1000");
        let steps_right = (1..=100_000).contains(&self.fine_tune.min_steps);
        within("fine_tune.min_steps", steps_right, "must be 1 to 100000");
        within("batch_size", (1..=100_000).contains(&self.batch_size), "must be 1 to 100000 items");
        within("budget", (0.0..=1e12).contains(&self.budget), "must be 0 to 1e12");
        let cost_right = self.cost_per_label > 0.0 && self.cost_per_label <= 1e9;
        within("cost_per_label", cost_right, "must be above 0 and at most 1e9");
        within("votes_per_task", (1..=15).contains(&self.votes_per_task), "must be 1 to 15");
        within("gold_fraction", (0.0..=0.5).contains(&self.gold_fraction), "must be 0 to 0.5");
        within("relabel_fraction", (0.0..=0.5).contains(&self.relabel_fraction), "must be 0 to 0.5");
        let adjudication = (5..=2_592_000).contains(&self.adjudication_seconds);
        within("adjudication_seconds", adjudication, "must be 5 to 2592000 seconds");
        within("random_fraction", (0.0..=1.0).contains(&self.random_fraction), "must be 0 to 1");
        within("lease_seconds", (5..=86_400).contains(&self.lease_seconds), "must be 5 to 86400 seconds");
        within("guidelines", self.guidelines.chars().count() <= 20_000, "must be at most 20000 characters");
        // JSON numbers are exact up to 2^53 in most clients, and Postgres keeps the seed in a signed column.
        within("seed", self.seed <= 9_007_199_254_740_991, "must be 0 to 2^53 - 1");
        self.pretext.moco.validate(&mut errors);
        self.stopping.validate(&mut errors);
        self.strategy.validate(&mut errors);
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_read_back_from_an_empty_object() {
        let settings: ProjectSettings = serde_json::from_str("{}").expect("defaults for all");
        assert_eq!(settings, ProjectSettings::default());
        assert_eq!(settings.validate(), vec![]);
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = serde_json::from_str::<ProjectSettings>(r#"{"bugdet": 5}"#).unwrap_err();
        assert!(error.to_string().contains("bugdet"), "{error}");
    }

    #[test]
    fn every_field_outside_its_limits_is_reported() {
        let settings =
            ProjectSettings { budget: -1.0, cost_per_label: 0.0, votes_per_task: 0, ..Default::default() };
        let fields: Vec<_> = settings.validate().into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["budget", "cost_per_label", "votes_per_task"]);
    }
}
