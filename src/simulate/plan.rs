//! What is to be simulated: data set, pretext tasks, strategies, seeds and budgets.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::settings::{
    BackboneKind, FineTuneSettings, PretextKind, PretextSettings, ProjectSettings,
};
use crate::domain::strategy::Strategy;

use super::oracle::Oracle;
use super::{Result, SimulateError};

/// How the first batch is chosen, when no model is there yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FirstBatch {
    /// At random, the same items for all strategies
    #[default]
    Random,
    /// The densest item of each cluster of the pretext embedding, the same for all strategies
    Typical,
    /// By the strategy itself where it needs no model, at random otherwise
    Own,
}

impl FirstBatch {
    /// The name that stands in commands and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Typical => "typical",
            Self::Own => "own",
        }
    }
}

/// One line of a figure: a strategy under the name that it was asked for by.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// As it was written.
    pub name: String,
    /// What it means.
    pub strategy: Strategy,
}

impl Arm {
    /// The strategy that chooses the first batch.
    #[must_use]
    pub fn first_strategy(&self, first: FirstBatch) -> Strategy {
        match (first, self.strategy) {
            (FirstBatch::Random, _) => Strategy::Random {},
            (FirstBatch::Typical, _) => Strategy::Typical {},
            // With nothing labelled coverage is 0, and all of a batch is typical.
            (FirstBatch::Own, Strategy::CoverageShift { .. } | Strategy::Typiclust {}) => {
                Strategy::Typical {}
            }
            (FirstBatch::Own, own @ (Strategy::Probcover { .. } | Strategy::Typical {})) => own,
            (FirstBatch::Own, _) => Strategy::Random {},
        }
    }
}

impl FromStr for Arm {
    type Err = String;

    /// Reads `kind` or `kind:parameter=value:…`, as `deep_active:lambda=0.5:normalization=class_rank`; `entropy`, `margin` and
    /// `least_confidence` stand for `uncertainty` by that measure.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut parts = text.split(':');
        let kind = parts.next().unwrap_or_default();
        let mut object = Map::new();
        if matches!(kind, "entropy" | "margin" | "least_confidence") {
            object.insert("kind".to_owned(), "uncertainty".into());
            object.insert("measure".to_owned(), kind.into());
        } else {
            object.insert("kind".to_owned(), kind.into());
        }
        for part in parts {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| format!("'{part}' of strategy '{text}' should read parameter=value"))?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            object.insert(name.to_owned(), value);
        }
        let strategy: Strategy = serde_json::from_value(Value::Object(object))
            .map_err(|error| format!("strategy '{text}': {error}"))?;
        let mut errors = Vec::new();
        strategy.validate(&mut errors);
        match errors.first() {
            Some(error) => Err(format!("strategy '{text}': {} {}", error.field, error.detail)),
            None => Ok(Self { name: text.to_owned(), strategy }),
        }
    }
}

/// A simulation.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the data set in reports.
    pub dataset: String,
    /// Pretext tasks, one figure each.
    pub pretexts: Vec<PretextKind>,
    /// Passes of the pretext task.
    pub pretext_epochs: u32,
    /// The strategies.
    pub arms: Vec<Arm>,
    /// Number of paired seeds; they are 1, 2, ….
    pub seed_count: u32,
    /// Labels in all after each round, rising.
    pub budgets: Vec<u32>,
    /// Who chooses the first batch.
    pub first_batch: FirstBatch,
    /// Network.
    pub backbone: BackboneKind,
    /// Downstream training.
    pub fine_tune: FineTuneSettings,
    /// Where everything goes.
    pub folder: PathBuf,
}

impl Plan {
    /// The seeds, in order.
    pub fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        1..=u64::from(self.seed_count)
    }

    /// The settings of a run.
    #[must_use]
    pub fn settings(
        &self,
        oracle: &Oracle,
        task: PretextKind,
        strategy: Strategy,
        seed: u64,
    ) -> ProjectSettings {
        let pretext =
            PretextSettings { kind: task, epochs: self.pretext_epochs, ..PretextSettings::default() };
        ProjectSettings {
            image: oracle.pool.shape(),
            backbone: self.backbone,
            pretext,
            fine_tune: self.fine_tune,
            strategy,
            seed,
            ..ProjectSettings::default()
        }
    }

    /// Refuses what can't be carried out on `oracle`'s images.
    pub(super) fn check(&self, oracle: &Oracle) -> Result<()> {
        let refuse = |reason: String| Err(SimulateError::Plan(reason));
        if self.arms.is_empty() || self.pretexts.is_empty() || self.seed_count == 0 || self.budgets.is_empty()
        {
            return refuse(
                "a simulation needs a strategy, a pretext task, a seed and a budget at least".to_owned(),
            );
        }
        if self.budgets[0] == 0 || !self.budgets.is_sorted_by(|a, b| a < b) {
            return refuse(format!("budgets must rise from 1 on, not {:?}", self.budgets));
        }
        let names: std::collections::BTreeSet<&str> = self.arms.iter().map(|arm| arm.name.as_str()).collect();
        if names.len() != self.arms.len() {
            return refuse("a strategy is named twice".to_owned());
        }
        let last = self.budgets.last().copied().unwrap_or_default() as usize;
        if last > oracle.pool.len() {
            return refuse(format!(
                "{last} labels are asked for, but the pool has {} images",
                oracle.pool.len()
            ));
        }
        if oracle.test.is_empty() {
            return refuse("the data set has no test images, so no accuracy could be told".to_owned());
        }
        let settings = self.settings(oracle, self.pretexts[0], self.arms[0].strategy, 1);
        match settings.validate().first() {
            Some(error) => refuse(format!("{} {}", error.field, error.detail)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::strategy::{Normalization, UncertaintyMeasure};

    #[test]
    fn a_strategy_is_read_with_its_parameters() {
        let arm: Arm = "deep_active:lambda=-0.5:normalization=class_rank".parse().unwrap();
        let Strategy::DeepActive { lambda, normalization, .. } = arm.strategy else { panic!("{arm:?}") };
        assert_eq!((lambda, normalization), (-0.5, Normalization::ClassRank));
        let margin: Arm = "margin".parse().unwrap();
        assert_eq!(margin.strategy, Strategy::Uncertainty { measure: UncertaintyMeasure::Margin });
        for wrong in ["nobody", "random:count", "deep_active:lambda=1e9", "deep_active:colour=red"] {
            let error = wrong.parse::<Arm>().unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_strategy_chooses_its_own_first_batch_where_it_can() {
        let first = |name: &str| name.parse::<Arm>().unwrap().first_strategy(FirstBatch::Own).name();
        assert_eq!(
            ["margin", "typiclust", "probcover", "coverage_shift"].map(first),
            ["random", "typical", "probcover", "typical"]
        );
        let margin: Arm = "margin".parse().unwrap();
        assert_eq!(margin.first_strategy(FirstBatch::Typical).name(), "typical");
    }
}
