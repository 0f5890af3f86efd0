//! Nearest labelled neighbours: how well features tell classes apart, without training anything on them.
//!
//! The monitor of a pretext training where labels are known already: some labelled items are held out, and each is given the class that its
//! nearest neighbours among the others vote for, a vote weighing `e^{cosine/T}` (Wu et al. 2018, arXiv:1805.01978; T and k as in MoCo's recipe
//! for CIFAR-10). Who is held out is drawn by seed and content hash. It reports; nothing is chosen by it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use candle_core::Device;
use rayon::prelude::*;

use super::inference::for_each_row;
use super::{LabeledItem, Result};
use crate::domain::seed::StreamKey;
use crate::nn::checkpoint::Checkpoint;
use crate::nn::graph::Representation;
use crate::nn::{NnError, head, ops};
use crate::vision::{Pool, Sample};

/// Items that are held out at most: a pass costs seconds, and looking must cost little beside it.
const ASKED_COUNT_MAX: usize = 1000;

/// Items that vote at most.
const KNOWN_COUNT_MAX: usize = 5000;

/// Labelled items without which nothing is told.
const LABELED_COUNT_MIN: usize = 50;

/// Neighbours that vote, at most and as a part of those that could.
const NEIGHBOUR_COUNT_MAX: usize = 200;
const NEIGHBOUR_PART: usize = 20;

/// What cosines are divided by.
const TEMPERATURE: f32 = 0.1;

/// The labelled items that a training is watched by.
pub(super) struct Monitor<'p> {
    pool: &'p Pool,
    asked: Vec<LabeledItem>,
    known: Vec<LabeledItem>,
}

impl<'p> Monitor<'p> {
    /// Draws who is held out of `labeled`; with too few labels, or all of one class, nobody is.
    pub(super) fn new(pool: &'p Pool, labeled: &[LabeledItem], seed: u64) -> Self {
        let key = StreamKey::new(seed, "pretext.monitor");
        let drawn = |item: &LabeledItem| key.clone().with_content(pool.hash(item.index)).number();
        let mut items: Vec<_> = labeled.iter().map(|item| (drawn(item), *item)).collect();
        items.sort_unstable_by_key(|(number, item)| (*number, *pool.hash(item.index)));
        let mut asked: Vec<LabeledItem> = items.into_iter().map(|(_, item)| item).collect();
        let classes: BTreeSet<_> = asked.iter().map(|item| item.class).collect();
        if asked.len() < LABELED_COUNT_MIN || classes.len() < 2 {
            asked.clear();
        }
        let mut known = asked.split_off((asked.len() / 5).min(ASKED_COUNT_MAX));
        known.truncate(KNOWN_COUNT_MAX);
        Self { pool, asked, known }
    }

    /// Share of the items held out whose neighbours vote for their class; `None` when nobody is.
    pub(super) fn accuracy(&self, device: &Device, model: &Checkpoint) -> Result<Option<f32>> {
        if self.asked.is_empty() {
            return Ok(None);
        }
        let (asked, known) =
            (self.directions(device, model, &self.asked)?, self.directions(device, model, &self.known)?);
        // Cosines are the logits of a head whose rows are the known items.
        let mut rows = head::linear(known.len() / self.known.len(), self.known.len());
        rows.values[..known.len()].copy_from_slice(&known);
        let cosines = head::logits_of(&asked, &rows).map_err(NnError::from)?;
        let is_right = |(cosines, item): (&[f32], &LabeledItem)| self.vote(cosines) == item.class.0;
        let verdicts = cosines.par_chunks_exact(self.known.len()).zip(&self.asked);
        let right = ops::install(|| verdicts.filter(|&(cosines, item)| is_right((cosines, item))).count());
        Ok(Some(right as f32 / self.asked.len() as f32))
    }

    /// Features of length 1, row by row.
    fn directions(&self, device: &Device, model: &Checkpoint, items: &[LabeledItem]) -> Result<Vec<f32>> {
        let samples: Vec<Sample> = items.iter().map(|item| Sample::upright(item.index)).collect();
        let width = model.architecture().feature_count;
        let mut directions = Vec::with_capacity(items.len() * width);
        let mut go_on = |_: u64, _: u64| ControlFlow::Continue(());
        let representation = Representation::Features;
        for_each_row(device, model, representation, self.pool, &samples, &mut go_on, |_, features| {
            for row in features.chunks_exact(width) {
                let length = row.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                directions.extend(row.iter().map(|value| value / length));
            }
            Ok(())
        })?;
        Ok(directions)
    }

    /// The class that the nearest of the known items vote for; of equal ones the first.
    fn vote(&self, cosines: &[f32]) -> u16 {
        let count = (self.known.len() / NEIGHBOUR_PART).clamp(1, NEIGHBOUR_COUNT_MAX);
        let mut nearest: Vec<usize> = (0..cosines.len()).collect();
        nearest.sort_unstable_by(|&a, &b| cosines[b].total_cmp(&cosines[a]).then(a.cmp(&b)));
        let mut votes: Vec<f32> = Vec::new();
        for &place in &nearest[..count] {
            let class = usize::from(self.known[place].class.0);
            if votes.len() <= class {
                votes.resize(class + 1, 0.0);
            }
            votes[class] += (cosines[place] / TEMPERATURE).exp();
        }
        let best = (0u16..).zip(&votes).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        best.map_or(0, |(class, _)| class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::project::ClassIndex;
    use crate::learner::fixture;

    fn monitor<'p>(pool: &'p Pool, classes: &[ClassIndex], count: usize) -> Monitor<'p> {
        Monitor::new(pool, &fixture::labeled(count, classes), 7)
    }

    #[test]
    fn nobody_is_held_out_of_few_labels_or_of_one_class() {
        let (pool, classes) = fixture::pool(80, "neighbours");
        let device = Device::Cpu;
        let model = fixture::pretext(&pool);
        assert_eq!(monitor(&pool, &classes, 49).accuracy(&device, &model).unwrap(), None);
        assert_eq!(monitor(&pool, &[ClassIndex(3); 80], 80).accuracy(&device, &model).unwrap(), None);
        let (some, all) = (monitor(&pool, &classes, 50), monitor(&pool, &classes, 80));
        assert_eq!(
            ((some.asked.len(), some.known.len()), (all.asked.len(), all.known.len())),
            ((10, 40), (16, 64))
        );
    }

    #[test]
    fn near_votes_weigh_more_and_far_items_have_none() {
        let (pool, _) = fixture::pool(80, "neighbours");
        let classes: Vec<_> = (0..80).map(|item| ClassIndex(item % 2)).collect();
        let monitor = monitor(&pool, &classes, 80);
        // Three of 64 vote: one near of class 0 against two of class 1 that are further away.
        let mut cosines = vec![-1.0; 64];
        let (zero, one): (Vec<_>, Vec<_>) = (0..64).partition(|&place| monitor.known[place].class.0 == 0);
        (cosines[zero[0]], cosines[one[0]], cosines[one[1]]) = (0.9, 0.8, 0.8);
        assert_eq!(monitor.vote(&cosines), 0, "e^9 against 2 e^8");
        cosines[zero[0]] = 0.85;
        assert_eq!(monitor.vote(&cosines), 1, "e^8.5 against 2 e^8");
        cosines[zero[0]] = 0.8;
        (cosines[zero[1]], cosines[zero[2]]) = (0.7, 0.7);
        assert_eq!(monitor.vote(&cosines), 1, "the fourth has no vote");
    }

    #[test]
    fn plain_classes_are_told_apart() {
        let (pool, classes) = fixture::pool(200, "neighbours");
        let model = fixture::pretext(&pool);
        let accuracy = monitor(&pool, &classes, 200).accuracy(&Device::Cpu, &model).unwrap();
        assert!(accuracy.is_some_and(|accuracy| accuracy > 0.6), "{accuracy:?}");
    }
}
