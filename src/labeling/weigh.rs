//! Weighing votes: what all votes of a project together say about the items that several people judged.
//!
//! Read from the database, numbered, and handed to `domain::agreement::dawid_skene` on a blocking thread. Gold votes take part under the class that
//! their item is known to have; of a voter's several votes on an item the newest counts. While labelers don't repeat enough there is no
//! weighing, and the plurality stands.

use std::collections::HashMap;

use crate::domain::agreement::dawid_skene::{Ballot, Consensus, Prior, estimate, repeats_enough};
use crate::domain::ids::{ItemId, TokenId};
use crate::domain::project::ClassIndex;
use crate::store::agreement::{SharedVote, list_shared_votes};
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, StoreError, pool};

use super::votes::Weighed;

/// Why votes couldn't be weighed or compared; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum WeighError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The counting panicked, or the process is stopping.
    #[error("the votes could not be counted: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

/// Votes that are weighed at most, the newest.
pub(crate) const SHARED_VOTE_COUNT_MAX: i64 = 200_000;

/// A labeler: a token, and the person when a tool labels for several.
pub(crate) type VoterKey = (TokenId, Option<String>);

/// One item with the newest vote of each voter.
#[derive(Clone, Debug)]
pub(crate) struct SharedItem {
    /// The item.
    pub(crate) item: ItemId,
    /// The class that its votes gave it.
    pub(crate) settled_class: Option<ClassIndex>,
    /// The class that it was known to have, when these are votes of gold tasks.
    pub(crate) gold_class: Option<ClassIndex>,
    /// Number of the voter, and the class it gave.
    pub(crate) votes: Vec<(usize, ClassIndex)>,
}

/// Comparable votes with items and voters numbered.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedVotes {
    /// The voters by number.
    pub(crate) voters: Vec<VoterKey>,
    /// The items; gold votes on an item stand apart from others.
    pub(crate) items: Vec<SharedItem>,
}

impl SharedVotes {
    /// Numbers votes that come by contents and within them oldest first.
    pub(crate) fn of(rows: Vec<SharedVote>) -> Self {
        let mut shared = Self::default();
        let mut numbers: HashMap<VoterKey, usize> = HashMap::new();
        let mut places: HashMap<(ItemId, bool), usize> = HashMap::new();
        for row in rows {
            let voter = *numbers.entry((row.labeler, row.person.clone())).or_insert_with(|| {
                shared.voters.push((row.labeler, row.person.clone()));
                shared.voters.len() - 1
            });
            let place = *places.entry((row.item, row.gold_class.is_some())).or_insert_with(|| {
                let (item, votes) = (row.item, Vec::new());
                let (settled_class, gold_class) = (row.settled_class, row.gold_class);
                shared.items.push(SharedItem { item, settled_class, gold_class, votes });
                shared.items.len() - 1
            });
            let votes = &mut shared.items[place].votes;
            votes.retain(|(known, _)| *known != voter);
            votes.push((voter, row.class));
        }
        shared
    }

    /// What everybody's errors say about the items; `None` while voters don't repeat enough.
    pub(crate) fn weigh(&self, class_count: usize) -> Option<Consensus> {
        let fits = |class: ClassIndex| usize::from(class.0) < class_count;
        let ballots: Vec<Ballot> = (0..)
            .zip(&self.items)
            .flat_map(|(item, of_item)| of_item.votes.iter().map(move |vote| (item, *vote)))
            .filter(|(_, (_, class))| fits(*class))
            .map(|(item, (labeler, class))| Ballot { item, labeler, class })
            .collect();
        let known: Vec<_> = self.items.iter().map(|item| item.gold_class.filter(|c| fits(*c))).collect();
        let voter_count = self.voters.len();
        repeats_enough(&ballots, voter_count, class_count)
            .then(|| estimate(&ballots, &known, voter_count, class_count, Prior::DECENT))
    }

    /// The class of each item that was settled by the votes of several, where the weighed votes have one.
    fn settle(&self, consensus: &Consensus) -> Weighed {
        let settled = |(place, item): (usize, &SharedItem)| {
            let voted: Vec<ClassIndex> = item.votes.iter().map(|(_, class)| *class).collect();
            let several = item.gold_class.is_none() && voted.len() > 1;
            several.then(|| consensus.likeliest(place, &voted)).flatten().map(|class| (item.item, class))
        };
        self.items.iter().enumerate().filter_map(settled).collect()
    }
}

/// What weighing came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdicts {
    /// The class of every item that several judged; empty while voters don't repeat enough.
    pub(crate) weighed: Weighed,
    /// Items whose class their votes gave them otherwise.
    pub(crate) changed: Vec<(ItemId, ClassIndex)>,
}

/// Weighs the votes of a project.
pub(crate) async fn weigh_votes(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<Verdicts, WeighError> {
    let rows = list_shared_votes(connection, project.id, SHARED_VOTE_COUNT_MAX).await?;
    if rows.is_empty() {
        return Ok(Verdicts::default());
    }
    let class_count = usize::try_from(pool::count_outputs(connection, project.id).await?).unwrap_or_default();
    let work = move || {
        let shared = SharedVotes::of(rows);
        let Some(consensus) = shared.weigh(class_count) else {
            return Verdicts::default();
        };
        let weighed = shared.settle(&consensus);
        let differs = |item: &SharedItem| {
            let (settled, said) = (item.settled_class?, *weighed.get(&item.item)?);
            (item.gold_class.is_none() && settled != said).then_some((item.item, said))
        };
        let changed = shared.items.iter().filter_map(differs).collect();
        Verdicts { weighed, changed }
    };
    // A failure must not pass for "nothing to weigh": the verdict would be the plurality's.
    Ok(tokio::task::spawn_blocking(work).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::content_hash::ContentHash;

    fn vote(item: ItemId, labeler: TokenId, class: u16, gold: Option<u16>) -> SharedVote {
        SharedVote {
            item,
            hash: ContentHash([1; 32]),
            settled_class: Some(ClassIndex(0)),
            labeler,
            person: None,
            class: ClassIndex(class),
            gold_class: gold.map(ClassIndex),
        }
    }

    #[test]
    fn a_voters_newest_vote_counts_and_gold_stands_apart() {
        let (item, ana, ben) = (ItemId::generate(), TokenId::generate(), TokenId::generate());
        let rows = vec![
            vote(item, ana, 1, None),
            vote(item, ben, 0, None),
            vote(item, ana, 0, Some(0)),
            vote(item, ana, 2, None),
        ];
        let shared = SharedVotes::of(rows);
        assert_eq!(shared.voters.len(), 2);
        assert_eq!(shared.items.len(), 2);
        assert_eq!(shared.items[0].votes, [(1, ClassIndex(0)), (0, ClassIndex(2))]);
        assert_eq!(shared.items[1].votes, [(0, ClassIndex(0))]);
        assert!(shared.weigh(3).is_none());
    }

    #[test]
    fn two_who_repeat_well_outweigh_three_who_show_on_gold_that_they_do_not() {
        let voters: Vec<TokenId> = (0..5).map(|_| TokenId::generate()).collect();
        let mut rows = Vec::new();
        for number in 0..40 {
            let gold = ItemId::generate();
            for (place, voter) in voters.iter().enumerate() {
                // The last three take class 0 for 1 most of the time.
                let class = u16::from(place < 2 || number % 4 == 0);
                rows.push(vote(gold, *voter, class, Some(1)));
            }
        }
        let disputed = ItemId::generate();
        for (place, voter) in voters.iter().enumerate() {
            rows.push(vote(disputed, *voter, u16::from(place < 2), None));
        }
        let shared = SharedVotes::of(rows);
        let consensus = shared.weigh(2).expect("five who repeat");
        assert_eq!(shared.settle(&consensus).get(&disputed), Some(&ClassIndex(1)));
    }
}
