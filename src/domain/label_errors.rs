//! Labels that are probably wrong: confident learning on probabilities that a model gave without having seen the label.
//!
//! C. Northcutt, L. Jiang, I. Chuang, *Confident Learning*, JAIR 70:1373, 2021: a class counts as confident for an item when its probability
//! reaches the mean that items given this class have (Eq. 2), here at most `CONFIDENT_AT`; an item whose likeliest confident class isn't its own stands off the diagonal
//! of the confident joint and is suspected. Ranked by normalised margin. Pure.

use super::project::ClassIndex;

/// Items of a class below which nothing is said about it: no fold of a cross-validation could learn it.
pub const CLASS_ITEM_COUNT_MIN: usize = 5;

/// A probability that is confident whatever the class's mean is: where a model is nearly always certain, the mean would leave nothing to
/// suspect.
const CONFIDENT_AT: f64 = 0.8;

/// An item whose class is suspected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suspicion {
    /// Its index among the items.
    pub item: usize,
    /// The class that it probably has.
    pub suggested: ClassIndex,
    /// The model's probability of the suggested class.
    pub suggested_probability: f64,
    /// The model's probability of the class it was given.
    pub given_probability: f64,
}

/// The suspected items, the most suspicious first; `probabilities` is [N, C] row-major, `given` has one class an item.
///
/// An item whose given class lies outside the probabilities is left out.
#[must_use]
pub fn suspect(probabilities: &[f32], given: &[ClassIndex], class_count: usize) -> Vec<Suspicion> {
    let rows = || probabilities.chunks_exact(class_count.max(1)).zip(given);
    let (mut sums, mut counts) = (vec![0.0; class_count], vec![0usize; class_count]);
    for (row, class) in rows() {
        if let Some(probability) = row.get(usize::from(class.0)) {
            sums[usize::from(class.0)] += f64::from(*probability);
            counts[usize::from(class.0)] += 1;
        }
    }
    let threshold = |class: usize| {
        (counts[class] >= CLASS_ITEM_COUNT_MIN)
            .then(|| (sums[class] / counts[class] as f64).min(CONFIDENT_AT))
    };
    let thresholds: Vec<Option<f64>> = (0..class_count).map(threshold).collect();
    let mut suspicions: Vec<Suspicion> =
        rows().enumerate().filter_map(|(item, (row, class))| judge(item, row, *class, &thresholds)).collect();
    let margin = |suspicion: &Suspicion| suspicion.given_probability - suspicion.suggested_probability;
    suspicions.sort_by(|a, b| margin(a).total_cmp(&margin(b)).then(a.item.cmp(&b.item)));
    suspicions
}

fn judge(item: usize, row: &[f32], given: ClassIndex, thresholds: &[Option<f64>]) -> Option<Suspicion> {
    // A class that no fold could learn makes every item of it look wrong.
    thresholds.get(usize::from(given.0)).copied().flatten()?;
    let mut best: Option<(usize, f64)> = None;
    for (class, (probability, threshold)) in row.iter().zip(thresholds).enumerate() {
        let probability = f64::from(*probability);
        let is_confident = threshold.is_some_and(|threshold| probability >= threshold);
        if is_confident && best.is_none_or(|(_, highest)| probability > highest) {
            best = Some((class, probability));
        }
    }
    let (class, suggested_probability) = best.filter(|(class, _)| *class != usize::from(given.0))?;
    let suggested = ClassIndex(u16::try_from(class).ok()?);
    let given_probability = f64::from(row[usize::from(given.0)]);
    Some(Suspicion { item, suggested, suggested_probability, given_probability })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: thresholds are (4·.9 + .2)/5 = .76 and (4·.8 + .3)/5 = .70. The item given 0 at (.2, .8) is confident in 1, the one
    /// given 1 at (.7, .3) isn't confident in 0.
    #[test]
    fn an_item_that_is_confident_in_another_class_is_suspected() {
        let mut probabilities = [0.9, 0.1].repeat(4);
        probabilities.extend([0.2, 0.8]);
        probabilities.extend([0.2, 0.8].repeat(4));
        probabilities.extend([0.7, 0.3]);
        let given: Vec<ClassIndex> = [vec![ClassIndex(0); 5], vec![ClassIndex(1); 5]].concat();
        let found = suspect(&probabilities, &given, 2);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].item, found[0].suggested), (4, ClassIndex(1)));
        assert!((found[0].given_probability - 0.2).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn the_most_suspicious_stands_first_and_rare_classes_are_not_judged() {
        let mut probabilities = [0.8, 0.1, 0.1].repeat(6);
        probabilities.extend([0.1, 0.8, 0.1].repeat(6));
        let mut given = [vec![ClassIndex(0); 6], vec![ClassIndex(1); 6]].concat();
        // Two that were swapped, one more strongly than the other; and one of a class that stands alone.
        for (class, row) in [(1, [0.9, 0.05, 0.05]), (0, [0.02, 0.97, 0.01]), (2, [0.9, 0.1, 0.0])] {
            probabilities.extend(row);
            given.push(ClassIndex(class));
        }
        let found: Vec<_> =
            suspect(&probabilities, &given, 3).iter().map(|s| (s.item, s.suggested)).collect();
        assert_eq!(found, [(13, ClassIndex(1)), (12, ClassIndex(0))]);
    }
}
