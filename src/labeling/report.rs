//! The report on agreement: of the project, of each class, of each labeler and each pair of them, and accuracy on gold.
//!
//! Agreement is measured on items that several people judged, gold votes left out: those are measured against what is known. Counting
//! runs on a blocking thread.

use std::collections::BTreeMap;

use super::weigh::{SHARED_VOTE_COUNT_MAX, SharedItem, SharedVotes, VoterKey, WeighError};
use crate::domain::agreement::coefficients::{class_alpha, cohen_kappa, fleiss_kappa, krippendorff_alpha};
use crate::domain::interval::Interval;
use crate::domain::project::ClassIndex;
use crate::store::agreement::{LabelerCounts, list_labelers, list_shared_votes};
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, pool};

/// Voters up to whose number every pair is compared.
const PAIRED_VOTER_COUNT_MAX: usize = 30;

/// How far the labelers of a project agree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgreementReport {
    /// Items that several people judged.
    pub item_count: u64,
    /// Votes on them.
    pub vote_count: u64,
    /// Fleiss' κ; none while it isn't defined.
    pub fleiss_kappa: Option<f64>,
    /// Krippendorff's α; none while it isn't defined.
    pub krippendorff_alpha: Option<f64>,
    /// Each class that has votes on shared items.
    pub classes: Vec<ClassAgreement>,
    /// Every labeler, most votes first.
    pub labelers: Vec<LabelerAgreement>,
    /// Pairs who judged the same items; none with more than 30 voters.
    pub pairs: Vec<PairAgreement>,
}

/// How far labelers agree about a class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassAgreement {
    /// The class.
    pub class: ClassIndex,
    /// Votes for it on shared items.
    pub vote_count: u64,
    /// Krippendorff's α of this class against all others.
    pub krippendorff_alpha: Option<f64>,
}

/// How far a labeler agrees with the others, and with what is known.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelerAgreement {
    /// Its votes and gold answers.
    pub counts: LabelerCounts,
    /// Votes on items that others judged too.
    pub shared_count: u64,
    /// Cohen's κ against all others together, over every shared item and other vote.
    pub cohen_kappa: Option<f64>,
    /// How often it is right by the weighed votes; none while labelers don't repeat enough.
    pub estimated_accuracy: Option<f64>,
    /// 95 % interval of the accuracy on gold.
    pub gold_interval: Option<Interval>,
}

/// How far two labelers agree.
#[derive(Clone, Debug, PartialEq)]
pub struct PairAgreement {
    /// One, and its person.
    pub first: VoterKey,
    /// The other, and its person.
    pub second: VoterKey,
    /// Items that both judged.
    pub item_count: u64,
    /// Cohen's κ.
    pub cohen_kappa: Option<f64>,
}

/// Measures the agreement of a project, over its newest 200,000 votes on shared items.
///
/// # Errors
/// The database, or a count that broke off.
pub async fn report_agreement(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<AgreementReport, WeighError> {
    let counts = list_labelers(connection, project.id).await?;
    let rows = list_shared_votes(connection, project.id, SHARED_VOTE_COUNT_MAX).await?;
    let class_count = usize::try_from(pool::count_outputs(connection, project.id).await?).unwrap_or_default();
    let work = move || measure(&SharedVotes::of(rows), counts, class_count);
    Ok(tokio::task::spawn_blocking(work).await?)
}

fn measure(shared: &SharedVotes, counts: Vec<LabelerCounts>, class_count: usize) -> AgreementReport {
    let judged: Vec<&SharedItem> =
        shared.items.iter().filter(|item| item.gold_class.is_none() && item.votes.len() > 1).collect();
    let units: Vec<Vec<ClassIndex>> =
        judged.iter().map(|item| item.votes.iter().map(|(_, class)| *class).collect()).collect();
    let mut class_votes: BTreeMap<ClassIndex, u64> = BTreeMap::new();
    units.iter().flatten().for_each(|class| *class_votes.entry(*class).or_default() += 1);
    let consensus = shared.weigh(class_count);
    let labelers = counts.into_iter().map(|counts| {
        let voter = shared
            .voters
            .iter()
            .position(|(token, person)| (*token, person) == (counts.labeler, &counts.person));
        let compared = voter.map(|voter| compare_to_others(&judged, voter)).unwrap_or_default();
        let gold_count = counts.gold_count.unsigned_abs();
        let gold_accuracy = counts.gold_correct_count as f64 / gold_count.max(1) as f64;
        LabelerAgreement {
            shared_count: compared.0,
            cohen_kappa: cohen_kappa(&compared.1),
            estimated_accuracy: voter.zip(consensus.as_ref()).map(|(voter, votes)| votes.accuracy(voter)),
            gold_interval: Interval::wilson(gold_accuracy, gold_count),
            counts,
        }
    });
    AgreementReport {
        item_count: units.len() as u64,
        vote_count: units.iter().map(|unit| unit.len() as u64).sum(),
        fleiss_kappa: fleiss_kappa(&units),
        krippendorff_alpha: krippendorff_alpha(&units),
        labelers: labelers.collect(),
        classes: class_votes
            .into_iter()
            .map(|(class, vote_count)| ClassAgreement {
                class,
                vote_count,
                krippendorff_alpha: class_alpha(&units, class),
            })
            .collect(),
        pairs: compare_pairs(shared, &judged),
    }
}

/// A voter's items, and its vote beside each other vote on them.
fn compare_to_others(judged: &[&SharedItem], voter: usize) -> (u64, Vec<(ClassIndex, ClassIndex)>) {
    let mut item_count = 0;
    let mut compared = Vec::new();
    for item in judged {
        let Some((_, own)) = item.votes.iter().find(|(of, _)| *of == voter) else {
            continue;
        };
        item_count += 1;
        let others = item.votes.iter().filter(|(of, _)| *of != voter);
        compared.extend(others.map(|(_, other)| (*own, *other)));
    }
    (item_count, compared)
}

fn compare_pairs(shared: &SharedVotes, judged: &[&SharedItem]) -> Vec<PairAgreement> {
    if shared.voters.len() > PAIRED_VOTER_COUNT_MAX {
        return Vec::new();
    }
    let mut pairs: BTreeMap<(usize, usize), Vec<(ClassIndex, ClassIndex)>> = BTreeMap::new();
    for item in judged {
        for (first, of_first) in &item.votes {
            for (second, of_second) in item.votes.iter().filter(|(second, _)| first < second) {
                pairs.entry((*first, *second)).or_default().push((*of_first, *of_second));
            }
        }
    }
    let describe = |((first, second), compared): ((usize, usize), Vec<_>)| PairAgreement {
        first: shared.voters[first].clone(),
        second: shared.voters[second].clone(),
        item_count: compared.len() as u64,
        cohen_kappa: cohen_kappa(&compared),
    };
    pairs.into_iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{ItemId, TokenId};

    fn item(votes: &[(usize, u16)], gold: Option<u16>) -> SharedItem {
        SharedItem {
            item: ItemId::generate(),
            settled_class: Some(ClassIndex(0)),
            gold_class: gold.map(ClassIndex),
            votes: votes.iter().map(|(voter, class)| (*voter, ClassIndex(*class))).collect(),
        }
    }

    /// Two labelers over Cohen's table: 20 and 15 agreed, 5 and 10 not; a third who shares nothing but gold.
    #[test]
    fn labelers_pairs_and_classes_are_compared_on_what_they_share() {
        let tokens: Vec<TokenId> = (0..3).map(|_| TokenId::generate()).collect();
        let mut items = Vec::new();
        for (classes, count) in [([0, 0], 20), ([0, 1], 5), ([1, 0], 10), ([1, 1], 15)] {
            items.extend((0..count).map(|_| item(&[(0, classes[0]), (1, classes[1])], None)));
        }
        items.push(item(&[(2, 0), (0, 1)], Some(0)));
        let shared = SharedVotes { voters: tokens.iter().map(|token| (*token, None)).collect(), items };
        let counts = |labeler, gold_count, gold_correct_count| LabelerCounts {
            labeler,
            person: None,
            name: "n".to_owned(),
            vote_count: 50,
            set_aside_count: 0,
            gold_count,
            gold_correct_count,
        };
        let counts = vec![counts(tokens[0], 1, 0), counts(tokens[1], 0, 0), counts(tokens[2], 10, 10)];
        let report = measure(&shared, counts, 2);
        assert_eq!((report.item_count, report.vote_count, report.pairs.len()), (50, 100, 1));
        let kappa = |value: Option<f64>| value.expect("a coefficient");
        assert!((kappa(report.pairs[0].cohen_kappa) - 0.4).abs() < 1e-12);
        assert!((kappa(report.labelers[0].cohen_kappa) - 0.4).abs() < 1e-12);
        assert_eq!((report.labelers[0].shared_count, report.labelers[2].shared_count), (50, 0));
        assert_eq!(report.labelers[2].cohen_kappa, None);
        // Of two classes either is against the other.
        let alphas: Vec<f64> = report.classes.iter().map(|class| kappa(class.krippendorff_alpha)).collect();
        assert!(alphas.iter().all(|alpha| (alpha - kappa(report.krippendorff_alpha)).abs() < 1e-12));
        assert_eq!(report.labelers[1].gold_interval, None);
        assert!(report.labelers[2].gold_interval.is_some_and(|interval| interval.low > 0.7));
    }
}
