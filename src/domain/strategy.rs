//! What a project may ask for: query strategies and their parameters, as they stand in API.md.
//!
//! The formulas live in `acquisition`; here is only what a user can choose. Method: Shi & Zhou 2023, Eq. 1.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field_error::FieldError;

/// How the downstream model's uncertainty `u` is measured; each lies in [0, 1], 1 is most uncertain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UncertaintyMeasure {
    /// Entropy of the class distribution divided by ln C.
    #[default]
    Entropy,
    /// One minus the difference of the two largest probabilities.
    Margin,
    /// One minus the largest probability, scaled by C / (C − 1).
    LeastConfidence,
}

/// How `u` and `v` are brought to one scale before Eq. 1 adds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// Ranks over the unlabelled pool, scaled to [0, 1]; ties share their mean rank.
    #[default]
    Rank,
    /// `u` ranked over the pool, `v` ranked within the predicted class.
    ClassRank,
    /// (x − min) / (max − min) over the unlabelled pool.
    MinMax,
    /// As they are.
    Raw,
}

/// The rule that picks a batch from the scored pool.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Strategy {
    /// Eq. 1: `I = u + λ·v`, the K largest.
    DeepActive {
        /// Weight λ of the pretext loss; negative asks for easy items first (an ablation).
        #[serde(default = "default_lambda")]
        lambda: f64,
        /// How `u` and `v` are made comparable.
        #[serde(default)]
        normalization: Normalization,
        /// Which `u`.
        #[serde(default)]
        uncertainty: UncertaintyMeasure,
    },
    /// The row "I = u".
    Uncertainty {
        /// Which `u`.
        #[serde(default)]
        measure: UncertaintyMeasure,
    },
    /// The row "I = v".
    Pretext {},
    /// Uniformly at random, without replacement.
    Random {},
    /// Clusters of the pretext embedding, the densest item of each (TypiClust, Hacohen et al. 2022).
    Typical {},
}

impl Default for Strategy {
    fn default() -> Self {
        Self::DeepActive {
            lambda: default_lambda(),
            normalization: Normalization::default(),
            uncertainty: UncertaintyMeasure::default(),
        }
    }
}

impl Strategy {
    /// The name that stands in provenance and figures.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::DeepActive { .. } => "deep_active",
            Self::Uncertainty { .. } => "uncertainty",
            Self::Pretext {} => "pretext",
            Self::Random {} => "random",
            Self::Typical {} => "typical",
        }
    }

    /// Whether it ranks by `v`, which is measured only then.
    #[must_use]
    pub fn needs_pretext_loss(&self) -> bool {
        match self {
            Self::DeepActive { .. } | Self::Pretext {} => true,
            Self::Uncertainty { .. } | Self::Random {} | Self::Typical {} => false,
        }
    }

    /// Adds to `errors` what is wrong with the parameters.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        if let Self::DeepActive { lambda, .. } = self
            && !(lambda.is_finite() && lambda.abs() <= 1000.0)
        {
            errors.push(FieldError::new("strategy.lambda", "must be a number between -1000 and 1000"));
        }
    }
}

/// The rule for the first batch, which has no labels to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SeedStrategy {
    /// The densest item of each cluster of the pretext embedding.
    Typical {},
    /// Uniformly at random.
    Random {},
}

impl Default for SeedStrategy {
    fn default() -> Self {
        Self::Typical {}
    }
}

impl SeedStrategy {
    /// The strategy that carries it out.
    #[must_use]
    pub fn strategy(self) -> Strategy {
        match self {
            Self::Typical {} => Strategy::Typical {},
            Self::Random {} => Strategy::Random {},
        }
    }
}

fn default_lambda() -> f64 {
    1.0
}
