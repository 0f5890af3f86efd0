//! Who is right when labelers differ: Dawid and Skene's estimate of classes and of each labeler's errors, by EM.
//!
//! A. P. Dawid, A. M. Skene, Applied Statistics 28(1):20, 1979. Pure and deterministic: sums run in the order of the ballots, from the start
//! that the paper gives (the shares of the votes). A `Prior` of imagined votes keeps labelers with few votes near the plurality; items
//! whose class is known (gold) stay at it and so teach how each labeler errs.

use crate::domain::project::ClassIndex;

/// Steps at most; labels of real projects need a few dozen.
const ITERATION_COUNT_MAX: usize = 200;

/// The largest change of a posterior at which the estimate is finished.
const CHANGE_MIN: f64 = 1e-9;

/// Labelers that must repeat before their errors are estimated.
const LABELER_COUNT_MIN: usize = 3;

/// Votes on shared items from which a labeler repeats.
const SHARED_VOTE_COUNT_MIN: usize = 20;

/// The largest table of confusions in numbers (labelers × classes²); above it the plurality stands.
const CONFUSION_COUNT_MAX: usize = 4_000_000;

/// One vote: labeler number `labeler` gave `class` to item number `item`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// Index of the item.
    pub item: usize,
    /// Index of the labeler.
    pub labeler: usize,
    /// The class.
    pub class: ClassIndex,
}

/// Votes that each labeler is imagined to have given on items of each class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// Right ones, at least 0.
    pub correct: f64,
    /// Wrong ones, spread over the other classes, at least 0.
    pub wrong: f64,
}

impl Prior {
    /// No imagined votes: the paper's maximum likelihood.
    pub const NONE: Self = Self { correct: 0.0, wrong: 0.0 };

    /// Four right votes and one wrong: labelers are better than chance until they show otherwise.
    pub const DECENT: Self = Self { correct: 4.0, wrong: 1.0 };
}

/// What EM came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Consensus {
    class_count: usize,
    /// [items, C]: the probability of each class.
    posteriors: Vec<f64>,
    /// [labelers, C, C]: the probability that a labeler gives the second class to an item of the first.
    confusions: Vec<f64>,
    /// [C]: the share of each class among the items.
    class_shares: Vec<f64>,
}

/// Whether labelers repeat enough on shared items for their errors to be told from the items' difficulty.
#[must_use]
pub fn repeats_enough(ballots: &[Ballot], labeler_count: usize, class_count: usize) -> bool {
    let mut counts = vec![0usize; labeler_count];
    ballots.iter().for_each(|ballot| counts[ballot.labeler] += 1);
    let is_small = labeler_count
        .checked_mul(class_count)
        .and_then(|count| count.checked_mul(class_count))
        .is_some_and(|count| count <= CONFUSION_COUNT_MAX);
    is_small && counts.iter().filter(|count| **count >= SHARED_VOTE_COUNT_MIN).count() >= LABELER_COUNT_MIN
}

/// Estimates posteriors, confusions and class shares; `known` has an entry for each item, and every index lies within the counts.
#[must_use]
pub fn estimate(
    ballots: &[Ballot],
    known: &[Option<ClassIndex>],
    labeler_count: usize,
    class_count: usize,
    prior: Prior,
) -> Consensus {
    let mut consensus = Consensus {
        class_count,
        posteriors: vec![0.0; known.len() * class_count],
        confusions: vec![0.0; labeler_count * class_count * class_count],
        class_shares: vec![0.0; class_count],
    };
    for ballot in ballots {
        consensus.posteriors[ballot.item * class_count + usize::from(ballot.class.0)] += 1.0;
    }
    consensus.finish_posteriors(known);
    for _ in 0..ITERATION_COUNT_MAX {
        consensus.measure_labelers(ballots, prior);
        let before = consensus.posteriors.clone();
        consensus.judge_items(ballots);
        consensus.finish_posteriors(known);
        let moved = before.iter().zip(&consensus.posteriors).map(|(a, b)| (a - b).abs());
        if moved.fold(0.0, f64::max) < CHANGE_MIN {
            break;
        }
    }
    consensus
}

impl Consensus {
    /// The probability of each class of an item, [C].
    #[must_use]
    pub fn posterior(&self, item: usize) -> &[f64] {
        &self.posteriors[item * self.class_count..][..self.class_count]
    }

    /// How a labeler answers items of each class, [C, C].
    #[must_use]
    pub fn confusion(&self, labeler: usize) -> &[f64] {
        let size = self.class_count * self.class_count;
        &self.confusions[labeler * size..][..size]
    }

    /// The share of each class, [C].
    #[must_use]
    pub fn class_shares(&self) -> &[f64] {
        &self.class_shares
    }

    /// How often a labeler is right, over the classes' shares.
    #[must_use]
    pub fn accuracy(&self, labeler: usize) -> f64 {
        let right = self.confusion(labeler).iter().step_by(self.class_count + 1);
        right.zip(&self.class_shares).map(|(right, share)| right * share).sum()
    }

    /// The likeliest of the classes that somebody gave to the item, the smallest index among equals; `None` without votes.
    #[must_use]
    pub fn likeliest(&self, item: usize, voted: &[ClassIndex]) -> Option<ClassIndex> {
        let posterior = self.posterior(item);
        let mut best: Option<(ClassIndex, f64)> = None;
        let mut sorted = voted.to_vec();
        sorted.sort_unstable();
        for class in sorted {
            let probability = posterior[usize::from(class.0)];
            if best.is_none_or(|(_, highest)| probability > highest) {
                best = Some((class, probability));
            }
        }
        best.map(|(class, _)| class)
    }

    /// M step: confusions and shares from the posteriors.
    fn measure_labelers(&mut self, ballots: &[Ballot], prior: Prior) {
        let count = self.class_count;
        let wrong = prior.wrong / (count.max(2) - 1) as f64;
        for (place, confusion) in self.confusions.iter_mut().enumerate() {
            let (truth, given) = (place / count % count, place % count);
            *confusion = if truth == given { prior.correct } else { wrong };
        }
        for ballot in ballots {
            let posterior = &self.posteriors[ballot.item * count..][..count];
            let of_labeler = &mut self.confusions[ballot.labeler * count * count..][..count * count];
            for (row, probability) in of_labeler.chunks_exact_mut(count).zip(posterior) {
                row[usize::from(ballot.class.0)] += probability;
            }
        }
        for row in self.confusions.chunks_exact_mut(count) {
            let sum: f64 = row.iter().sum();
            // A labeler who met no item of the class: nothing is known, so nothing is said.
            row.iter_mut().for_each(|p| *p = if sum > 0.0 { *p / sum } else { 1.0 / count as f64 });
        }
        self.class_shares.fill(0.0);
        for posterior in self.posteriors.chunks_exact(count) {
            self.class_shares.iter_mut().zip(posterior).for_each(|(share, p)| *share += p);
        }
        let sum: f64 = self.class_shares.iter().sum();
        self.class_shares.iter_mut().for_each(|share| *share /= sum.max(f64::MIN_POSITIVE));
    }

    /// E step: each item's log probability of each class, up to a constant.
    fn judge_items(&mut self, ballots: &[Ballot]) {
        let count = self.class_count;
        for posterior in self.posteriors.chunks_exact_mut(count) {
            posterior.iter_mut().zip(&self.class_shares).for_each(|(p, share)| *p = share.ln());
        }
        for ballot in ballots {
            let posterior = &mut self.posteriors[ballot.item * count..][..count];
            let of_labeler = &self.confusions[ballot.labeler * count * count..][..count * count];
            for (p, row) in posterior.iter_mut().zip(of_labeler.chunks_exact(count)) {
                *p += row[usize::from(ballot.class.0)].ln();
            }
        }
        for posterior in self.posteriors.chunks_exact_mut(count) {
            let top = posterior.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            posterior.iter_mut().for_each(|p| *p = if top.is_finite() { (*p - top).exp() } else { 1.0 });
        }
    }

    /// Brings each item's numbers to a sum of 1, and known items to their class.
    fn finish_posteriors(&mut self, known: &[Option<ClassIndex>]) {
        let count = self.class_count;
        for (posterior, known) in self.posteriors.chunks_exact_mut(count).zip(known) {
            if let Some(class) = known {
                posterior.fill(0.0);
                posterior[usize::from(class.0)] = 1.0;
                continue;
            }
            let sum: f64 = posterior.iter().sum();
            posterior.iter_mut().for_each(|p| *p = if sum > 0.0 { *p / sum } else { 1.0 / count as f64 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 1 of the paper: how five anaesthetists judged 45 patients, the first of them three times; classes 1 to 4.
    const PATIENTS: [&str; 45] = [
        "1111111", "3334334", "1122122", "2223121", "2223222", "2223322", "1222111", "3333433", "2222223",
        "2322223", "4444444", "2223343", "1111111", "2223212", "1211111", "1112111", "1111111", "1111111",
        "2222221", "2221322", "2222222", "2222221", "2223222", "2212222", "1111111", "1111111", "2322222",
        "1111111", "1111111", "1121121", "1111111", "3333233", "1111111", "2222222", "2223232", "4334333",
        "2212232", "2323233", "3333432", "1111111", "1111111", "1212111", "2322222", "1211111", "2222222",
    ];

    fn ballots(votes: &[&str], labeler_of: impl Fn(usize) -> usize) -> Vec<Ballot> {
        let mut ballots = Vec::new();
        for (item, votes) in votes.iter().enumerate() {
            for (place, vote) in votes.bytes().enumerate() {
                let class = ClassIndex(u16::from(vote - b'1'));
                ballots.push(Ballot { item, labeler: labeler_of(place), class });
            }
        }
        ballots
    }

    fn close(found: &[f64], expected: &[f64], tolerance: f64) {
        let far = found.iter().zip(expected).any(|(a, b)| (a - b).abs() > tolerance);
        assert!(found.len() == expected.len() && !far, "{found:?} for {expected:?}");
    }

    /// The paper's Tables 2 and 3 to their two decimals, and the same EM in Python to four.
    #[test]
    fn the_papers_anaesthetists_are_reproduced() {
        let ballots = ballots(&PATIENTS, |place| place.saturating_sub(2));
        let consensus = estimate(&ballots, &[None; 45], 5, 4, Prior::NONE);
        close(consensus.class_shares(), &[0.40, 0.42, 0.11, 0.07], 5e-3);
        close(consensus.class_shares(), &[0.399_555, 0.421_983, 0.111_795, 0.066_667], 1e-5);
        let first = [
            [0.8895, 0.1105, 0.0, 0.0],
            [0.0706, 0.8764, 0.053, 0.0],
            [0.0, 0.3388, 0.6612, 0.0],
            [0.0, 0.0, 0.5556, 0.4444],
        ];
        close(consensus.confusion(0), first.as_flattened(), 1e-4);
        close(&consensus.confusion(4)[4..8], &[0.159, 0.7345, 0.1064, 0.0], 1e-4);
        // Patient 36 is put into class 4 though five of seven votes say 3; patient 3 into 2.
        close(consensus.posterior(35), &[0.0, 0.0, 0.0, 1.0], 1e-4);
        close(consensus.posterior(2), &[0.0, 1.0, 0.0, 0.0], 1e-4);
        assert_eq!(consensus.likeliest(35, &[ClassIndex(2), ClassIndex(3)]), Some(ClassIndex(3)));
    }

    /// A and B always agree and C differs from them on 24 of 30 items; then A and C meet alone.
    #[test]
    fn a_labeler_who_errs_weighs_less_in_a_tie() {
        let votes: Vec<&str> = [&["112"; 12][..], &["221"; 12], &["111"; 3], &["222"; 3]].concat();
        let mut ballots = ballots(&votes, |place| place);
        let tied = votes.len();
        ballots.push(Ballot { item: tied, labeler: 0, class: ClassIndex(0) });
        ballots.push(Ballot { item: tied, labeler: 2, class: ClassIndex(1) });
        let known = vec![None; tied + 1];
        let consensus = estimate(&ballots, &known, 3, 2, Prior::DECENT);
        assert!(consensus.accuracy(0) > 0.9 && consensus.accuracy(2) < 0.5, "{consensus:?}");
        assert_eq!(consensus.likeliest(tied, &[ClassIndex(0), ClassIndex(1)]), Some(ClassIndex(0)));
        assert_eq!(consensus, estimate(&ballots, &known, 3, 2, Prior::DECENT));
    }

    /// With every class known a confusion is a plain frequency: of three items of class 1 the labeler called one 2.
    #[test]
    fn gold_items_teach_how_a_labeler_errs() {
        let ballots = ballots(&["1", "1", "2", "2"], |_| 0);
        let known = [0, 0, 0, 1].map(|class| Some(ClassIndex(class)));
        let consensus = estimate(&ballots, &known, 1, 2, Prior::NONE);
        close(consensus.confusion(0), &[2.0 / 3.0, 1.0 / 3.0, 0.0, 1.0], 1e-12);
        close(&[consensus.accuracy(0)], &[0.75 * 2.0 / 3.0 + 0.25], 1e-12);
        // Four right and one wrong imagined vote of each class: (4 + 2) / 8, (1 + 1) / 8, 1 / 6, (4 + 1) / 6.
        let consensus = estimate(&ballots, &known, 1, 2, Prior::DECENT);
        close(consensus.confusion(0), &[0.75, 0.25, 1.0 / 6.0, 5.0 / 6.0], 1e-12);
    }

    #[test]
    fn few_votes_or_too_many_classes_are_left_to_the_plurality() {
        let many = ballots(&["111"; 20], |place| place);
        assert!(repeats_enough(&many, 3, 10));
        assert!(!repeats_enough(&many[3..], 3, 10));
        assert!(!repeats_enough(&many, 3, 10_000));
        let two = ballots(&["11"; 50], |place| place);
        assert!(!repeats_enough(&two, 2, 10));
    }

    #[test]
    fn no_votes_leave_every_class_open() {
        let consensus = estimate(&[], &[None], 0, 2, Prior::DECENT);
        close(consensus.posterior(0), &[0.5, 0.5], 1e-12);
        assert_eq!(consensus.likeliest(0, &[]), None);
    }
}
