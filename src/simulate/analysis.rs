//! What the runs of one figure come to: means, areas, paired differences, penalties and regrets. Pure.
//!
//! Pairs are runs of one seed. Pairwise penalties: Ash et al. 2020, section 4 (BADGE), counted at each budget.

use crate::domain::statistics::{Estimate, mean_height};

use super::RunRecord;

/// Accuracies of strategies at budgets, seed by seed.
pub(super) struct Comparison {
    /// Names of the strategies, as planned.
    pub arms: Vec<String>,
    /// Labels after each round.
    pub budgets: Vec<u32>,
    /// Seeds, rising.
    pub seeds: Vec<u64>,
    /// `[arm][seed][budget]`, as far as the runs got.
    accuracies: Vec<Vec<Vec<f64>>>,
}

impl Comparison {
    /// Lines the runs of one pretext task up.
    pub(super) fn new(records: &[&RunRecord], arms: &[String], budgets: &[u32]) -> Self {
        let mut seeds: Vec<u64> = records.iter().map(|record| record.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let find = |arm: &String, seed: u64| {
            let found = records.iter().find(|record| record.strategy == *arm && record.seed == seed);
            found.map_or(Vec::new(), |record| record.rounds.iter().map(|round| round.test_accuracy).collect())
        };
        let accuracies = arms.iter().map(|arm| seeds.iter().map(|&seed| find(arm, seed)).collect()).collect();
        Self { arms: arms.to_vec(), budgets: budgets.to_vec(), seeds, accuracies }
    }

    /// Mean accuracy of `arm` at `budget` (indices).
    pub(super) fn accuracy(&self, arm: usize, budget: usize) -> Option<Estimate> {
        let values: Vec<f64> =
            self.accuracies[arm].iter().filter_map(|run| run.get(budget).copied()).collect();
        Estimate::of(&values)
    }

    /// Mean area under the budget curve of the arm's complete runs, 0 to 1.
    pub(super) fn area(&self, arm: usize) -> Option<Estimate> {
        let values: Vec<f64> = (0..self.seeds.len()).filter_map(|seed| self.area_of_run(arm, seed)).collect();
        Estimate::of(&values)
    }

    /// Mean of area(`arm`) − area(`other`) over the seeds that both completed.
    pub(super) fn area_difference(&self, arm: usize, other: usize) -> Option<Estimate> {
        let pair = |seed| Some(self.area_of_run(arm, seed)? - self.area_of_run(other, seed)?);
        let values: Vec<f64> = (0..self.seeds.len()).filter_map(pair).collect();
        Estimate::of(&values)
    }

    /// Mean of accuracy(`arm`) − accuracy(`other`) at `budget` over the seeds that both reached.
    pub(super) fn difference(&self, arm: usize, other: usize, budget: usize) -> Option<Estimate> {
        let runs = self.accuracies[arm].iter().zip(&self.accuracies[other]);
        let pair = |(run, other): (&Vec<f64>, &Vec<f64>)| Some(run.get(budget)? - other.get(budget)?);
        let values: Vec<f64> = runs.filter_map(pair).collect();
        Estimate::of(&values)
    }

    /// `penalty[i][j]`: at which share of the budgets strategy i beats j significantly; j is the one that pays.
    pub(super) fn penalties(&self) -> Vec<Vec<f64>> {
        let beats = |arm, other, budget| {
            self.difference(arm, other, budget)
                .is_some_and(|difference| difference.is_significant() && difference.mean > 0.0)
        };
        let share = |arm, other| {
            let count = (0..self.budgets.len()).filter(|&budget| beats(arm, other, budget)).count();
            count as f64 / self.budgets.len().max(1) as f64
        };
        let arms = 0..self.arms.len();
        arms.clone().map(|arm| arms.clone().map(|other| share(arm, other)).collect()).collect()
    }

    /// What `arm` falls short of the best strategy's mean at each budget, 0 for the best.
    pub(super) fn regrets(&self, arm: usize) -> Vec<Option<f64>> {
        let mean = |arm, budget| self.accuracy(arm, budget).map(|estimate| estimate.mean);
        let regret = |budget| {
            let best = (0..self.arms.len()).filter_map(|other| mean(other, budget)).fold(0.0, f64::max);
            mean(arm, budget).map(|own| best - own)
        };
        (0..self.budgets.len()).map(regret).collect()
    }

    /// Budgets at which another strategy is significantly better than `arm`, with its name.
    pub(super) fn significant_losses(&self, arm: usize) -> Vec<(u32, &str)> {
        let mut losses = Vec::new();
        for (place, &budget) in self.budgets.iter().enumerate() {
            for other in 0..self.arms.len() {
                let difference = self.difference(other, arm, place);
                if difference.is_some_and(|difference| difference.is_significant() && difference.mean > 0.0) {
                    losses.push((budget, self.arms[other].as_str()));
                }
            }
        }
        losses
    }

    /// Runs that didn't reach the last budget, as strategy and seed.
    pub(super) fn unfinished(&self) -> Vec<(&str, u64)> {
        let mut unfinished = Vec::new();
        for (arm, runs) in self.arms.iter().zip(&self.accuracies) {
            for (&seed, run) in self.seeds.iter().zip(runs) {
                if run.len() < self.budgets.len() {
                    unfinished.push((arm.as_str(), seed));
                }
            }
        }
        unfinished
    }

    fn area_of_run(&self, arm: usize, seed: usize) -> Option<f64> {
        let run = &self.accuracies[arm][seed];
        if run.len() < self.budgets.len() {
            return None;
        }
        let points: Vec<_> =
            self.budgets.iter().zip(run).map(|(&labels, &accuracy)| (f64::from(labels), accuracy)).collect();
        mean_height(&points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::record::testing::record;

    fn comparison() -> Comparison {
        let records = [
            record("random", 1, &[0.5, 0.60]),
            record("random", 2, &[0.5, 0.70]),
            record("random", 3, &[0.5, 0.65]),
            record("margin", 1, &[0.5, 0.65]),
            record("margin", 2, &[0.5, 0.76]),
            record("margin", 3, &[0.5, 0.70]),
            record("badge", 1, &[0.5]),
        ];
        let records: Vec<_> = records.iter().collect();
        Comparison::new(&records, &["random", "margin", "badge"].map(str::to_owned), &[100, 200])
    }

    #[test]
    fn pairs_show_what_means_alone_would_hide() {
        let comparison = comparison();
        let difference = comparison.difference(1, 0, 1).unwrap();
        assert!((difference.mean - 0.16 / 3.0).abs() < 1e-12 && difference.is_significant());
        let (random, margin) = (comparison.accuracy(0, 1).unwrap(), comparison.accuracy(1, 1).unwrap());
        assert!(random.interval().unwrap().1 > margin.mean, "the intervals overlap");
        assert_eq!(comparison.penalties(), [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]);
        assert_eq!(comparison.significant_losses(0), [(200, "margin")]);
        let area = comparison.area_difference(1, 0).unwrap();
        assert!((area.mean - 0.08 / 3.0).abs() < 1e-12 && area.count == 3);
    }

    #[test]
    fn regret_is_measured_to_the_best_and_unfinished_runs_are_named() {
        let comparison = comparison();
        let regrets = comparison.regrets(0);
        assert_eq!(regrets[0], Some(0.0));
        assert!((regrets[1].unwrap() - 0.16 / 3.0).abs() < 1e-12);
        assert_eq!(comparison.regrets(2)[1], None);
        assert_eq!(comparison.unfinished(), [("badge", 1), ("badge", 2), ("badge", 3)]);
        assert_eq!(comparison.area(2), None);
    }
}
