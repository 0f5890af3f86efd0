//! Agreement beyond chance: Cohen's κ, Fleiss' κ, Krippendorff's α.
//!
//! Pure. Votes may be missing: a unit (an item) with fewer than two votes says nothing and is left out. A coefficient is `None` when
//! there is nothing to compare or when chance alone would agree always, since everybody used one class; then it isn't defined.

use std::collections::BTreeMap;

use crate::domain::project::ClassIndex;

/// Cohen's κ of two labelers over the items that both judged: `(first's class, second's class)` of each.
///
/// J. Cohen, Educational and Psychological Measurement 20(1):37, 1960.
#[must_use]
pub fn cohen_kappa(pairs: &[(ClassIndex, ClassIndex)]) -> Option<f64> {
    if pairs.is_empty() {
        return None;
    }
    let count = pairs.len() as f64;
    let mut margins: BTreeMap<ClassIndex, (f64, f64)> = BTreeMap::new();
    let mut equal_count = 0.0;
    for (first, second) in pairs {
        margins.entry(*first).or_default().0 += 1.0;
        margins.entry(*second).or_default().1 += 1.0;
        equal_count += f64::from(u8::from(first == second));
    }
    let expected = margins.values().map(|(first, second)| first * second).sum::<f64>() / (count * count);
    beyond_chance(equal_count / count, expected)
}

/// Fleiss' κ of the votes on each item, whoever gave them.
///
/// J. L. Fleiss, Psychological Bulletin 76(5):378, 1971, with each item's agreement over its own number of votes.
#[must_use]
pub fn fleiss_kappa<U: AsRef<[ClassIndex]>>(units: &[U]) -> Option<f64> {
    let tally = Tally::count(units);
    if tally.unit_count == 0 {
        return None;
    }
    let expected = tally.classes.values().map(|count| (count / tally.vote_count).powi(2)).sum();
    beyond_chance(tally.agreement_sum / tally.unit_count as f64, expected)
}

/// Krippendorff's α for nominal classes.
///
/// K. Krippendorff, *Computing Krippendorff's Alpha-Reliability*, 2011: 1 − observed / expected disagreement.
#[must_use]
pub fn krippendorff_alpha<U: AsRef<[ClassIndex]>>(units: &[U]) -> Option<f64> {
    let tally = Tally::count(units);
    let n = tally.vote_count;
    let same = tally.classes.values().map(|count| count * count).sum::<f64>();
    alpha(tally.disagreement_sum, n * n - same, n)
}

/// Krippendorff's α of one class against all others.
#[must_use]
pub fn class_alpha<U: AsRef<[ClassIndex]>>(units: &[U], class: ClassIndex) -> Option<f64> {
    let (mut n, mut of_class, mut disagreement_sum) = (0.0, 0.0, 0.0);
    for unit in units.iter().map(AsRef::as_ref).filter(|unit| unit.len() > 1) {
        let votes = unit.len() as f64;
        let chosen = unit.iter().filter(|vote| **vote == class).count() as f64;
        n += votes;
        of_class += chosen;
        disagreement_sum += 2.0 * chosen * (votes - chosen) / (votes - 1.0);
    }
    alpha(disagreement_sum, 2.0 * of_class * (n - of_class), n)
}

/// `disagreement_sum` / n observed against `unlike_pairs` / n(n − 1) expected.
fn alpha(disagreement_sum: f64, unlike_pairs: f64, n: f64) -> Option<f64> {
    (unlike_pairs > 0.0).then(|| 1.0 - disagreement_sum / unlike_pairs * (n - 1.0))
}

fn beyond_chance(observed: f64, expected: f64) -> Option<f64> {
    (expected < 1.0).then(|| (observed - expected) / (1.0 - expected))
}

/// Sums over the items with at least two votes.
#[derive(Default)]
struct Tally {
    unit_count: usize,
    vote_count: f64,
    classes: BTreeMap<ClassIndex, f64>,
    /// Σ over items of the fraction of its pairs of votes that agree.
    agreement_sum: f64,
    /// Σ over items of disagreeing ordered pairs / (votes − 1).
    disagreement_sum: f64,
}

impl Tally {
    fn count<U: AsRef<[ClassIndex]>>(units: &[U]) -> Self {
        let mut tally = Self::default();
        for unit in units.iter().map(AsRef::as_ref).filter(|unit| unit.len() > 1) {
            let votes = unit.len() as f64;
            let mut sorted = unit.to_vec();
            sorted.sort_unstable();
            let mut squares = 0.0;
            for run in sorted.chunk_by(|a, b| a == b) {
                squares += (run.len() * run.len()) as f64;
                *tally.classes.entry(run[0]).or_default() += run.len() as f64;
            }
            tally.unit_count += 1;
            tally.vote_count += votes;
            tally.agreement_sum += (squares - votes) / (votes * (votes - 1.0));
            tally.disagreement_sum += (votes * votes - squares) / (votes - 1.0);
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, expected: f64, tolerance: f64) {
        assert!(found.is_some_and(|found| (found - expected).abs() < tolerance), "{found:?} for {expected}");
    }

    fn unit(classes: &[u16]) -> Vec<ClassIndex> {
        classes.iter().copied().map(ClassIndex).collect()
    }

    /// Krippendorff 2011, section C: four observers, twelve units, missing votes; nominal α = .743.
    fn krippendorff_example() -> Vec<Vec<ClassIndex>> {
        let units: [&[u16]; 12] = [
            &[1, 1, 1],
            &[2, 2, 3, 2],
            &[3, 3, 3, 3],
            &[3, 3, 3, 3],
            &[2, 2, 2, 2],
            &[1, 2, 3, 4],
            &[4, 4, 4, 4],
            &[1, 1, 2, 1],
            &[2, 2, 2, 2],
            &[5, 5, 5],
            &[1, 1],
            &[3],
        ];
        units.into_iter().map(unit).collect()
    }

    #[test]
    fn krippendorffs_example_with_missing_votes_gives_743() {
        close(krippendorff_alpha(&krippendorff_example()), 0.743, 5e-4);
    }

    /// By hand: class 5 is never disputed; class 2 has D_o = 6/40 and D_e = 2·13·27/(40·39).
    #[test]
    fn a_class_has_its_own_alpha() {
        let units = krippendorff_example();
        close(class_alpha(&units, ClassIndex(5)), 1.0, 1e-12);
        close(class_alpha(&units, ClassIndex(2)), 2.0 / 3.0, 1e-12);
        assert_eq!(class_alpha(&units, ClassIndex(9)), None);
    }

    /// The worked example of fourteen raters, ten subjects and five categories: κ = .210.
    #[test]
    fn fleiss_example_gives_210() {
        let counts = [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ];
        let units: Vec<Vec<ClassIndex>> = counts
            .iter()
            .map(|row| (0..).zip(row).flat_map(|(class, count)| vec![ClassIndex(class); *count]).collect())
            .collect();
        close(fleiss_kappa(&units), 0.210, 5e-4);
        close(fleiss_kappa(&[units, vec![unit(&[3])]].concat()), 0.210, 5e-4);
    }

    /// Twenty and fifteen agreed, five and ten didn't: p_o = .7, p_e = .5, κ = .4.
    #[test]
    fn cohens_example_gives_four_tenths() {
        let table = [((0, 0), 20), ((0, 1), 5), ((1, 0), 10), ((1, 1), 15)];
        let pairs: Vec<_> = table
            .into_iter()
            .flat_map(|((first, second), count)| vec![(ClassIndex(first), ClassIndex(second)); count])
            .collect();
        close(cohen_kappa(&pairs), 0.4, 1e-12);
    }

    #[test]
    fn where_chance_would_always_agree_there_is_no_coefficient() {
        let alike = vec![unit(&[1, 1]), unit(&[1, 1])];
        assert_eq!((fleiss_kappa(&alike), krippendorff_alpha(&alike)), (None, None));
        assert_eq!(cohen_kappa(&[(ClassIndex(1), ClassIndex(1))]), None);
        let alone = vec![unit(&[1]), unit(&[2])];
        assert_eq!((fleiss_kappa(&alone), krippendorff_alpha(&alone), cohen_kappa(&[])), (None, None, None));
    }
}
