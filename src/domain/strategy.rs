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

/// Under which network the pretext loss `v` is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PretextModel {
    /// f′ as the pretext task left it; `v` is computed once.
    #[default]
    Frozen,
    /// The round's fine-tuned backbone under the pretext task's head, computed anew each round (an ablation).
    FineTuned,
}

/// From which end PT4AL walks through the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PretextOrder {
    /// As in the paper.
    #[default]
    HardestFirst,
    /// What the paper's code did in effect, since it sorted the losses as strings.
    EasiestFirst,
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
        /// m ≥ 1: the batch is chosen for coverage of the pretext embedding among the m·K largest; 1 takes the K largest as they are.
        #[serde(default = "default_diversity")]
        diversity: f64,
        /// Whether `v` stays that of the pretext model or follows fine-tuning.
        #[serde(default)]
        pretext_model: PretextModel,
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
    /// `typiclust` under the name that it has as a rule for the first batch.
    Typical {},
    /// Clusters of the pretext embedding, the densest item of each (TypiClust, Hacohen et al. 2022).
    Typiclust {},
    /// Balls of one radius in the pretext embedding that cover the most (ProbCover, Yehuda et al. 2022).
    Probcover {
        /// Share of the pool whose ball must hold one pseudo-class alone, from which the radius follows; above 0 and below 1.
        #[serde(default = "default_purity")]
        purity: f64,
    },
    /// k-center greedy over the model's features (core-set, Sener & Savarese 2018).
    CoreSet {},
    /// k-means++ over the gradients of the last layer (Ash et al. 2020).
    Badge {},
    /// Mutual information of prediction and weights by Monte Carlo dropout before the head (Houlsby et al. 2011, Gal et al. 2017).
    Bald {
        /// Dropout masks, 2 to 1000.
        #[serde(default = "default_passes")]
        passes: u32,
        /// Share of the features that a mask drops, above 0 and below 1.
        #[serde(default = "default_dropout")]
        dropout: f64,
    },
    /// The pool sorted by pretext loss and cut into parts, one a round; in it the least confident (PT4AL, Yi et al. 2022).
    Pt4al {
        /// Parts, as many as there will be rounds; 1 to 10000. A round beyond them starts over.
        #[serde(default = "default_parts")]
        parts: u32,
        /// Which end comes first.
        #[serde(default)]
        order: PretextOrder,
    },
    /// Ours: typical items while parts of the pool have no label, uncertain and diverse ones as labels cover it.
    CoverageShift {
        /// Which `u` the later share is chosen by.
        #[serde(default = "default_shift_uncertainty")]
        uncertainty: UncertaintyMeasure,
        /// m ≥ 1: the later share is chosen for coverage among the m-fold most uncertain.
        #[serde(default = "default_shift_diversity")]
        diversity: f64,
    },
}

impl Default for Strategy {
    fn default() -> Self {
        Self::DeepActive {
            lambda: default_lambda(),
            normalization: Normalization::default(),
            uncertainty: UncertaintyMeasure::default(),
            diversity: default_diversity(),
            pretext_model: PretextModel::default(),
        }
    }
}

/// What scoring computes of each item beside `u` and the guesses, since the strategy reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScoreScope {
    /// The whole distribution over the classes.
    pub probabilities: bool,
    /// The features that the head sees.
    pub features: bool,
    /// Whether labelled items are scored too, because the strategy measures distances to them.
    pub labeled: bool,
    /// `v` under the fine-tuned backbone.
    pub losses: bool,
    /// Mutual information under dropout.
    pub dropout: Option<Dropout>,
}

/// Monte Carlo dropout before the head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    /// Masks.
    pub passes: u32,
    /// Share of the features that a mask drops.
    pub fraction: f64,
}

impl ScoreScope {
    /// A name for what is computed beyond the usual, unlike that of any other scope; empty when nothing is.
    #[must_use]
    pub fn suffix(&self) -> String {
        let parts = [
            self.probabilities.then(|| "probabilities".to_owned()),
            self.features.then(|| "features".to_owned()),
            self.labeled.then(|| "labeled".to_owned()),
            self.losses.then(|| "losses".to_owned()),
            self.dropout.map(|dropout| format!("dropout-{}-{}", dropout.passes, dropout.fraction)),
        ];
        parts.into_iter().flatten().map(|part| format!("-{part}")).collect()
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
            Self::Typiclust {} => "typiclust",
            Self::Probcover { .. } => "probcover",
            Self::CoreSet {} => "core_set",
            Self::Badge {} => "badge",
            Self::Bald { .. } => "bald",
            Self::Pt4al { .. } => "pt4al",
            Self::CoverageShift { .. } => "coverage_shift",
        }
    }

    /// The measure that `u` is taken by; of strategies without `u`, the one that is shown beside their queries.
    #[must_use]
    pub fn measure(&self) -> UncertaintyMeasure {
        match *self {
            Self::DeepActive { uncertainty, .. } | Self::CoverageShift { uncertainty, .. } => uncertainty,
            Self::Uncertainty { measure } => measure,
            Self::Pt4al { .. } => UncertaintyMeasure::LeastConfidence,
            _ => UncertaintyMeasure::default(),
        }
    }

    /// What scoring must compute for it.
    #[must_use]
    pub fn score_scope(&self) -> ScoreScope {
        let usual = ScoreScope::default();
        match *self {
            Self::DeepActive { pretext_model: PretextModel::FineTuned, .. } => {
                ScoreScope { losses: true, ..usual }
            }
            Self::CoreSet {} => ScoreScope { features: true, labeled: true, ..usual },
            Self::Badge {} => ScoreScope { probabilities: true, features: true, ..usual },
            Self::Bald { passes, dropout } => {
                ScoreScope { dropout: Some(Dropout { passes, fraction: dropout }), ..usual }
            }
            _ => usual,
        }
    }

    /// Whether it ranks by `v`, which is measured only then.
    #[must_use]
    pub fn needs_pretext_loss(&self) -> bool {
        matches!(
            self,
            Self::DeepActive { .. } | Self::Pretext {} | Self::Pt4al { .. } | Self::CoverageShift { .. }
        )
    }

    /// Adds to `errors` what is wrong with the parameters.
    pub fn validate(&self, errors: &mut Vec<FieldError>) {
        let mut within = |field: &str, right: bool, detail: &str| {
            if !right {
                errors.push(FieldError::new(field, detail));
            }
        };
        let right_diversity = |diversity: f64| (1.0..=1000.0).contains(&diversity);
        let inside_unit = |fraction: f64| fraction > 0.0 && fraction < 1.0;
        match *self {
            Self::DeepActive { lambda, diversity, .. } => {
                let right = lambda.is_finite() && lambda.abs() <= 1000.0;
                within("strategy.lambda", right, "must be a number between -1000 and 1000");
                within("strategy.diversity", right_diversity(diversity), "must be 1 to 1000");
            }
            Self::CoverageShift { diversity, .. } => {
                within("strategy.diversity", right_diversity(diversity), "must be 1 to 1000");
            }
            Self::Probcover { purity } => {
                within("strategy.purity", inside_unit(purity), "must be above 0 and below 1");
            }
            Self::Bald { passes, dropout } => {
                within("strategy.passes", (2..=1000).contains(&passes), "must be 2 to 1000");
                within("strategy.dropout", inside_unit(dropout), "must be above 0 and below 1");
            }
            Self::Pt4al { parts, .. } => {
                within("strategy.parts", (1..=10_000).contains(&parts), "must be 1 to 10000");
            }
            Self::Uncertainty { .. }
            | Self::Pretext {}
            | Self::Random {}
            | Self::Typical {}
            | Self::Typiclust {}
            | Self::CoreSet {}
            | Self::Badge {} => {}
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

fn default_diversity() -> f64 {
    1.0
}

fn default_purity() -> f64 {
    0.95
}

fn default_passes() -> u32 {
    20
}

fn default_dropout() -> f64 {
    0.5
}

fn default_parts() -> u32 {
    10
}

fn default_shift_uncertainty() -> UncertaintyMeasure {
    UncertaintyMeasure::Margin
}

fn default_shift_diversity() -> f64 {
    3.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Strategy {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_kind_reads_with_its_defaults_and_is_valid() {
        let kinds = [
            "deep_active",
            "uncertainty",
            "pretext",
            "random",
            "typical",
            "typiclust",
            "probcover",
            "core_set",
            "badge",
            "bald",
            "pt4al",
            "coverage_shift",
        ];
        for kind in kinds {
            let strategy = read(&format!(r#"{{"kind":"{kind}"}}"#));
            let mut errors = Vec::new();
            strategy.validate(&mut errors);
            assert_eq!((strategy.name(), errors), (kind, vec![]));
        }
        assert_eq!(read(r#"{"kind":"deep_active"}"#), Strategy::default());
    }

    #[test]
    fn every_parameter_outside_its_limits_is_named() {
        let fields = |json| {
            let mut errors = Vec::new();
            read(json).validate(&mut errors);
            errors.into_iter().map(|error| error.field).collect::<Vec<_>>()
        };
        let deep_active = r#"{"kind":"deep_active","lambda":1e9,"diversity":0.5}"#;
        assert_eq!(fields(deep_active), ["strategy.lambda", "strategy.diversity"]);
        assert_eq!(fields(r#"{"kind":"coverage_shift","diversity":0}"#), ["strategy.diversity"]);
        assert_eq!(fields(r#"{"kind":"probcover","purity":1}"#), ["strategy.purity"]);
        let bald = r#"{"kind":"bald","passes":1,"dropout":1}"#;
        assert_eq!(fields(bald), ["strategy.passes", "strategy.dropout"]);
        assert_eq!(fields(r#"{"kind":"pt4al","parts":0}"#), ["strategy.parts"]);
    }

    #[test]
    fn scopes_that_differ_have_names_that_differ() {
        let names: std::collections::BTreeSet<_> = [
            r#"{"kind":"deep_active"}"#,
            r#"{"kind":"deep_active","pretext_model":"fine_tuned"}"#,
            r#"{"kind":"core_set"}"#,
            r#"{"kind":"badge"}"#,
            r#"{"kind":"bald"}"#,
            r#"{"kind":"bald","passes":21}"#,
            r#"{"kind":"bald","dropout":0.25}"#,
        ]
        .iter()
        .map(|json| read(json).score_scope().suffix())
        .collect();
        assert_eq!(names.len(), 7);
        assert_eq!(read(r#"{"kind":"pretext"}"#).score_scope().suffix(), "");
    }
}
