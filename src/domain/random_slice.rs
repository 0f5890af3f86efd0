//! The honest curve: how good a model is, from labels that were drawn at random and that it was asked about before anything learned them.
//!
//! A round's random items are a sample of what was unlabelled when its model chose, so they speak for that part alone; what was asked
//! before, the hard part, is gone from it. `PoolAccuracy::of` weighs both parts by their share of the pool: the random items for what was
//! unlabelled, and for what was asked before the guesses of the models that asked it, each made before its label came. Those models were older, so
//! the second part is a little low rather than too high. Pure.

use super::interval::Interval;

/// How often guesses were right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Items whose label confirmed the guess.
    pub correct_count: u64,
    /// Items.
    pub item_count: u64,
}

impl Hits {
    /// Right guesses an item; none without items.
    #[must_use]
    pub fn accuracy(self) -> Option<f64> {
        (self.item_count > 0).then(|| self.correct_count as f64 / self.item_count as f64)
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            correct_count: self.correct_count + other.correct_count,
            item_count: self.item_count + other.item_count,
        }
    }
}

/// The guesses about one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RandomSlice {
    /// The model's guesses on the round's random items.
    pub random: Hits,
    /// Guesses on what was asked before the round chose, each by the model that asked.
    pub asked_before: Hits,
    /// Items that could be asked when the round chose; 0 when it isn't known.
    pub unlabeled_count: u64,
    /// Items of the pool then.
    pub pool_count: u64,
}

/// An accuracy over the whole pool, and over what was unlabelled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolAccuracy {
    /// Over the pool.
    pub accuracy: f64,
    /// Its 95 % interval.
    pub interval: Interval,
    /// Over what was unlabelled: the random items alone.
    pub unlabeled_accuracy: f64,
    /// Its 95 % interval.
    pub unlabeled_interval: Interval,
}

impl PoolAccuracy {
    /// The estimate of a slice at `z` standard deviations; `None` without random items.
    ///
    /// Where nothing that was asked before had a guess (a seed batch, imported labels) the random items speak for all.
    #[must_use]
    pub fn of(slice: &RandomSlice, z: f64) -> Option<Self> {
        let unlabeled_accuracy = slice.random.accuracy()?;
        let unlabeled_interval = Interval::wilson_at(unlabeled_accuracy, slice.random.item_count, z)?;
        let share = if slice.unlabeled_count == 0 || slice.pool_count == 0 {
            1.0
        } else {
            (slice.unlabeled_count as f64 / slice.pool_count as f64).min(1.0)
        };
        let (share, asked) = match slice.asked_before.accuracy() {
            Some(asked) => (share, asked),
            None => (1.0, 0.0),
        };
        // The asked part is counted in full, so its share adds no uncertainty.
        let weigh = |value: f64| share * value + (1.0 - share) * asked;
        let interval = Interval { low: weigh(unlabeled_interval.low), high: weigh(unlabeled_interval.high) };
        Some(Self { accuracy: weigh(unlabeled_accuracy), interval, unlabeled_accuracy, unlabeled_interval })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::interval::Z_95;

    fn hits(correct_count: u64, item_count: u64) -> Hits {
        Hits { correct_count, item_count }
    }

    /// By hand: 90 of 100 random items right for 80 % of the pool, 30 of 60 asked ones for the rest: .8·.9 + .2·.5 = .82.
    #[test]
    fn what_was_asked_before_pulls_by_its_share_of_the_pool() {
        let slice = RandomSlice {
            random: hits(90, 100),
            asked_before: hits(30, 60),
            unlabeled_count: 800,
            pool_count: 1000,
        };
        let found = PoolAccuracy::of(&slice, Z_95).expect("random items");
        assert!((found.accuracy - 0.82).abs() < 1e-12, "{found:?}");
        assert!((found.unlabeled_accuracy - 0.9).abs() < 1e-12);
        // Wilson for 90 of 100: .8256 to .9448, scaled by .8 about .1.
        assert!((found.interval.low - (0.8 * 0.825_6 + 0.1)).abs() < 1e-3, "{found:?}");
        assert!((found.interval.high - (0.8 * 0.944_8 + 0.1)).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn without_guesses_or_counts_the_random_items_speak_for_all() {
        let seed =
            RandomSlice { random: hits(3, 4), unlabeled_count: 50, pool_count: 100, ..Default::default() };
        assert_eq!(PoolAccuracy::of(&seed, Z_95).map(|found| found.accuracy), Some(0.75));
        let old = RandomSlice { random: hits(3, 4), asked_before: hits(1, 2), ..Default::default() };
        assert_eq!(PoolAccuracy::of(&old, Z_95).map(|found| found.accuracy), Some(0.75));
        assert_eq!(PoolAccuracy::of(&RandomSlice::default(), Z_95), None);
    }

    /// A model that is right with probability .9 on easy and .5 on hard items; a rule that asks the hard ones first must not flatter it.
    #[test]
    fn a_rule_that_takes_the_hard_items_away_does_not_flatter_the_model() {
        // 1000 items, 300 hard. 200 hard ones are asked and half of them guessed; 800 are left, 100 of them hard: .85 right.
        let slice = RandomSlice {
            random: hits(850, 1000),
            asked_before: hits(100, 200),
            unlabeled_count: 800,
            pool_count: 1000,
        };
        let truth = 0.7 * 0.9 + 0.3 * 0.5;
        let found = PoolAccuracy::of(&slice, Z_95).expect("random items");
        assert!((found.accuracy - truth).abs() < 1e-12, "{found:?} for {truth}");
        assert!(found.unlabeled_accuracy > truth + 0.05);
    }
}
