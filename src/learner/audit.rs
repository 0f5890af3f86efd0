//! What labels say about themselves: out-of-fold probabilities of labelled items, and random against queried labels at equal counts.
//!
//! Both fit linear classifiers on cached embeddings (`fine_tune.mode = head`): that is cheap, and each judges only items that it hasn't seen. A
//! backbone that is fine-tuned whole would know better, so what is found here is a suspicion and a comparison of labels, not of models. Folds
//! and draws are keyed by content, fits are convex: the same labels give the same findings to the bit.

use super::fine_tune_head::{PENALTY, Standardisation};
use super::regression::{Fit, ITERATION_COUNT_MAX, Regression};
use super::{EmbeddingTable, LabeledItem, LearnerError, Result, StepHook, check_labels};
use crate::domain::content_hash::ContentHash;
use crate::domain::project::ClassIndex;
use crate::domain::seed::StreamKey;
use crate::domain::statistics::variance;

/// Parts of a cross-validation.
const FOLD_COUNT: usize = 5;

/// Random items below which nothing is compared.
const RANDOM_COUNT_MIN: usize = 20;

/// Labels that a compared model learns from at least.
const COMPARED_COUNT_MIN: usize = 10;

/// What an audit looks at.
#[derive(Clone, Copy, Debug)]
pub struct AuditInput<'a> {
    /// Embeddings of the labelled items.
    pub table: &'a EmbeddingTable,
    /// D_l: rows of the table with their classes.
    pub labeled: &'a [LabeledItem],
    /// Those of D_l that were drawn at random.
    pub random: &'a [LabeledItem],
    /// Those of D_l that a model chose.
    pub queried: &'a [LabeledItem],
    /// The test split's embeddings and classes.
    pub test: Option<(&'a EmbeddingTable, &'a [ClassIndex])>,
    /// C.
    pub class_count: usize,
    /// The project's seed.
    pub seed: u64,
}

/// What an audit came to.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditFindings {
    /// [N, C]: probabilities of each labelled item, in the order of `labeled`, by models that hadn't seen it.
    pub probabilities: Vec<f32>,
    /// Random against queried labels; none while there are too few of either.
    pub comparison: Option<Comparison>,
}

/// Two kinds of labels at equal counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Labels that each model learned from.
    pub label_count: usize,
    /// Items that both kinds were asked about.
    pub evaluated_count: usize,
    /// Accuracy after random labels, 0 to 1.
    pub random_accuracy: f64,
    /// Accuracy after queried labels, 0 to 1.
    pub queried_accuracy: f64,
    /// Standard error of their difference: over the items, and over the draws of labels where all draws meet the same items.
    pub difference_deviation: f64,
}

/// Audits D_l; the hook counts the iterations of all fits.
///
/// # Errors
/// No labels, labels outside table or classes, a test split of another length, or a stop.
pub fn audit(input: AuditInput<'_>, hook: &mut dyn StepHook) -> Result<AuditFindings> {
    check_labels(input.labeled, input.table.len(), input.class_count)?;
    for part in [input.random, input.queried].into_iter().filter(|part| !part.is_empty()) {
        check_labels(part, input.table.len(), input.class_count)?;
    }
    if let Some((table, classes)) = input.test.filter(|(table, classes)| table.len() != classes.len()) {
        let what = "classes of the test split";
        return Err(LearnerError::Length { what, expected: table.len(), found: classes.len() });
    }
    let mut fitter = Fitter { input, scale: Standardisation::measure(input.table), hook, done_count: 0 };
    let probabilities = fitter.cross_validate()?;
    let comparison = fitter.compare()?;
    Ok(AuditFindings { probabilities, comparison })
}

/// Fits models one after the other.
struct Fitter<'a, 'h> {
    input: AuditInput<'a>,
    scale: Standardisation,
    hook: &'h mut dyn StepHook,
    /// Fits that are done.
    done_count: u64,
}

impl Fitter<'_, '_> {
    /// All fits of an audit: a cross-validation, and two models for each fold of the comparison.
    const FIT_COUNT: u64 = 3 * FOLD_COUNT as u64;

    fn fit(&mut self, items: &[LabeledItem]) -> Result<Fit> {
        let table = self.input.table;
        let mut sorted = items.to_vec();
        sorted.sort_unstable_by_key(|item| table.hashes[item.index]);
        let regression = Regression {
            inputs: sorted.iter().flat_map(|item| self.scale.apply(table.embedding(item.index))).collect(),
            classes: sorted.iter().map(|item| usize::from(item.class.0)).collect(),
            feature_count: table.feature_count,
            class_count: self.input.class_count,
            penalty: PENALTY,
        };
        let before = self.done_count * ITERATION_COUNT_MAX;
        let hook = &mut *self.hook;
        let fit =
            regression.fit(&mut |done: u64, total: u64| hook.step(before + done, Self::FIT_COUNT * total))?;
        self.done_count += 1;
        Ok(fit)
    }

    fn probabilities(&self, fit: &Fit, table: &EmbeddingTable, row: usize) -> Vec<f32> {
        fit.probabilities(&self.scale.apply(table.embedding(row)), self.input.class_count)
    }

    fn is_right(&self, fit: &Fit, table: &EmbeddingTable, row: usize, class: ClassIndex) -> bool {
        let probabilities = self.probabilities(fit, table, row);
        let own = probabilities.get(usize::from(class.0)).copied().unwrap_or(0.0);
        probabilities.iter().enumerate().all(|(other, p)| *p < own || other == usize::from(class.0))
    }

    fn cross_validate(&mut self) -> Result<Vec<f32>> {
        let (labeled, width) = (self.input.labeled, self.input.class_count);
        let folds = self.split(labeled, "audit");
        let mut probabilities = vec![0.0; labeled.len() * width];
        for fold in 0..FOLD_COUNT {
            let seen: Vec<LabeledItem> = keep(labeled, &folds, |of| of != fold);
            if seen.is_empty() || !folds.contains(&fold) {
                self.done_count += 1;
                continue;
            }
            let fit = self.fit(&seen)?;
            for (place, item) in labeled.iter().enumerate().filter(|(place, _)| folds[*place] == fold) {
                let row = self.probabilities(&fit, self.input.table, item.index);
                probabilities[place * width..][..width].copy_from_slice(&row);
            }
        }
        Ok(probabilities)
    }

    fn compare(&mut self) -> Result<Option<Comparison>> {
        let AuditInput { random, queried, .. } = self.input;
        let drawn_count = (random.len() - random.len().div_ceil(FOLD_COUNT)).min(queried.len());
        if random.len() < RANDOM_COUNT_MIN || drawn_count < COMPARED_COUNT_MIN {
            return Ok(None);
        }
        let folds = self.split(random, "compare");
        let mut tally = Tally::default();
        for fold in 0..FOLD_COUNT {
            let key = StreamKey::new(self.input.seed, "compare").with_number(fold as u64);
            let seen = keep(random, &folds, |of| of != fold);
            let of_random = self.fit(&self.draw(&seen, &key, drawn_count))?;
            let of_queried = self.fit(&self.draw(queried, &key, drawn_count))?;
            let judge = |table: &EmbeddingTable, row: usize, class: ClassIndex| {
                let is_right = |fit: &Fit| self.is_right(fit, table, row, class);
                (is_right(&of_random), is_right(&of_queried))
            };
            let judged: Vec<(bool, bool)> = match self.input.test {
                Some((table, classes)) => {
                    classes.iter().enumerate().map(|(row, class)| judge(table, row, *class)).collect()
                }
                None => keep(random, &folds, |of| of == fold)
                    .iter()
                    .map(|item| judge(self.input.table, item.index, item.class))
                    .collect(),
            };
            tally.add(&judged, self.input.test.is_some());
        }
        Ok(tally.finish(drawn_count))
    }

    /// The fold of each item: each class is dealt out in an order drawn by content.
    fn split(&self, items: &[LabeledItem], name: &str) -> Vec<usize> {
        let key = StreamKey::new(self.input.seed, name);
        let hash = |place: &usize| -> &ContentHash { &self.input.table.hashes[items[*place].index] };
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_cached_key(|place| {
            (items[*place].class, key.clone().with_content(hash(place)).number(), *hash(place))
        });
        let mut folds = vec![0; items.len()];
        for (number, place) in order.into_iter().enumerate() {
            folds[place] = number % FOLD_COUNT;
        }
        folds
    }

    fn draw(&self, items: &[LabeledItem], key: &StreamKey, count: usize) -> Vec<LabeledItem> {
        let mut drawn = items.to_vec();
        drawn.sort_by_cached_key(|item| {
            let hash = self.input.table.hashes[item.index];
            (key.clone().with_content(&hash).number(), hash)
        });
        drawn.truncate(count);
        drawn
    }
}

fn keep(items: &[LabeledItem], folds: &[usize], wanted: impl Fn(usize) -> bool) -> Vec<LabeledItem> {
    items.iter().zip(folds).filter(|(_, fold)| wanted(**fold)).map(|(item, _)| *item).collect()
}

/// Right answers of both kinds of models.
#[derive(Default)]
struct Tally {
    /// For each item Σ of (right after queried − right after random).
    differences: Vec<f64>,
    /// Mean difference of each draw that met all items.
    draws: Vec<f64>,
    answer_count: f64,
    random_count: f64,
    queried_count: f64,
}

impl Tally {
    /// `again`: the items are those of the draw before.
    fn add(&mut self, judged: &[(bool, bool)], again: bool) {
        let number = |right: bool| f64::from(u8::from(right));
        let differences: Vec<f64> =
            judged.iter().map(|(random, queried)| number(*queried) - number(*random)).collect();
        self.answer_count += judged.len() as f64;
        self.random_count += judged.iter().map(|(random, _)| number(*random)).sum::<f64>();
        self.queried_count += judged.iter().map(|(_, queried)| number(*queried)).sum::<f64>();
        if again {
            self.draws.push(differences.iter().sum::<f64>() / differences.len().max(1) as f64);
            self.differences.resize(differences.len(), 0.0);
            let shared = 1.0 / FOLD_COUNT as f64;
            self.differences.iter_mut().zip(differences).for_each(|(sum, d)| *sum += d * shared);
        } else {
            self.differences.extend(differences);
        }
    }

    fn finish(self, label_count: usize) -> Option<Comparison> {
        if self.differences.is_empty() {
            return None;
        }
        let over_items = variance(&self.differences) / self.differences.len() as f64;
        let over_draws = variance(&self.draws) / self.draws.len().max(1) as f64;
        Some(Comparison {
            label_count,
            evaluated_count: self.differences.len(),
            random_accuracy: self.random_count / self.answer_count,
            queried_accuracy: self.queried_count / self.answer_count,
            difference_deviation: (over_items + over_draws).sqrt(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::label_errors::suspect;
    use crate::learner::embed;
    use crate::learner::fixture::{self, CLASS_COUNT, go_on};

    fn table(count: usize, name: &str) -> (EmbeddingTable, Vec<ClassIndex>) {
        let (pool, classes) = fixture::pool(count, name);
        let pretext = fixture::pretext(&fixture::pool(60, "audited").0);
        (embed(&candle_core::Device::Cpu, &pretext, &pool, &mut go_on).unwrap(), classes)
    }

    fn input<'a>(table: &'a EmbeddingTable, labeled: &'a [LabeledItem]) -> AuditInput<'a> {
        AuditInput {
            table,
            labeled,
            random: &[],
            queried: &[],
            test: None,
            class_count: CLASS_COUNT,
            seed: 7,
        }
    }

    #[test]
    fn swapped_labels_are_suspected_and_named_rightly() {
        let (table, classes) = table(160, "audited");
        let mut labeled = fixture::labeled(160, &classes);
        let swapped = [3usize, 40, 77, 121];
        for place in swapped {
            labeled[place].class = ClassIndex((labeled[place].class.0 + 1) % CLASS_COUNT as u16);
        }
        let findings = audit(input(&table, &labeled), &mut go_on).unwrap();
        assert_eq!(findings.comparison, None);
        let rows = findings.probabilities.chunks_exact(CLASS_COUNT);
        assert!(rows.map(|row| row.iter().sum::<f32>()).all(|sum| (sum - 1.0).abs() < 1e-4));
        let given: Vec<ClassIndex> = labeled.iter().map(|item| item.class).collect();
        let suspects = suspect(&findings.probabilities, &given, CLASS_COUNT);
        let first: Vec<_> = suspects.iter().take(4).map(|suspect| suspect.item).collect();
        let found = swapped.iter().filter(|place| first.contains(place)).count();
        assert!(found >= 3, "{suspects:?}");
        let right = suspects.iter().take(4).filter(|s| s.suggested == classes[s.item]).count();
        assert!(right >= 3, "{suspects:?}");
    }

    #[test]
    fn the_order_of_labels_changes_no_bit() {
        let (table, classes) = table(60, "audited");
        let labeled = fixture::labeled(40, &classes);
        let turned: Vec<LabeledItem> = labeled.iter().rev().copied().collect();
        let one = audit(input(&table, &labeled), &mut go_on).unwrap().probabilities;
        let two = audit(input(&table, &turned), &mut go_on).unwrap().probabilities;
        let rows = two.chunks_exact(CLASS_COUNT).rev().flatten().copied().collect::<Vec<_>>();
        assert!(one == rows);
    }

    #[test]
    fn labels_of_one_class_teach_less_than_random_ones() {
        let (table, classes) = table(200, "audited");
        let labeled = fixture::labeled(200, &classes);
        let (test, test_classes) = self::table(80, "compared");
        let random = &labeled[..40];
        let lopsided: Vec<LabeledItem> =
            labeled[40..].iter().filter(|item| item.class.0 < 2).copied().collect();
        for test in [None, Some((&test, test_classes.as_slice()))] {
            let input = AuditInput { random, queried: &lopsided, test, ..input(&table, &labeled) };
            let found = audit(input, &mut go_on).unwrap().comparison.expect("enough of both");
            assert_eq!(found.label_count, 32);
            assert_eq!(found.evaluated_count, if test.is_some() { 80 } else { 40 });
            let difference = found.queried_accuracy - found.random_accuracy;
            assert!(difference + 1.96 * found.difference_deviation < 0.0, "{found:?}");
        }
        let few = AuditInput { random: &labeled[..19], queried: &lopsided, ..input(&table, &labeled) };
        assert_eq!(audit(few, &mut go_on).unwrap().comparison, None);
    }
}
