//! Blind tasks: gold, which measures labelers, and relabel, which checks suspected labels; and hiding both among the others.
//!
//! Both come on top of a batch. Labelers see them as queries, at places drawn from a stream, and with a guess where the others have one: an item
//! that has a class was learned by the model, so its guess comes from the audit, whose models hadn't seen it. Without a guess among
//! guesses a gold task would be known for one, so none is asked then.

use std::collections::{HashMap, HashSet};

use super::request::AuditOutcome;
use crate::domain::ids::ItemId;
use crate::domain::project::ClassIndex;
use crate::domain::seed::StreamKey;
use crate::domain::task::TaskSource;
use crate::store::project::ProjectRow;
use crate::store::task::{NewTask, Suggestion};
use crate::store::{PgConnection, StoreError, label, pool, slot, task};

/// Items of known class, drawn by content from a stream of the round, or in the audit's order where tasks show guesses.
pub(super) async fn choose_gold(
    connection: &mut PgConnection,
    project: &ProjectRow,
    number: i32,
    count: u64,
    shows_guesses: bool,
    audit: Option<&AuditOutcome>,
) -> Result<Vec<NewTask>, StoreError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let suspects: HashSet<ItemId> =
        audit.iter().flat_map(|audit| &audit.suspects).map(|suspect| suspect.item).collect();
    let mut known = pool::list_known(connection, project.id).await?;
    known.retain(|item| !suspects.contains(&item.id));
    let limit = usize::try_from(count).unwrap_or(usize::MAX);
    let gold = |item: ItemId, class: Option<ClassIndex>, suggestions: Vec<Suggestion>| {
        new_task(item, TaskSource::Gold, class, suggestions)
    };
    if shows_guesses {
        let classes: HashMap<ItemId, Option<ClassIndex>> =
            known.iter().map(|item| (item.id, item.class)).collect();
        let guessed = audit.iter().flat_map(|audit| &audit.gold);
        let chosen = guessed.filter_map(|guess| {
            classes.get(&guess.item).map(|class| gold(guess.item, *class, guess.suggestions.clone()))
        });
        return Ok(chosen.take(limit).collect());
    }
    let key = gold_key(project, number);
    known.sort_by_cached_key(|item| (key.clone().with_content(&item.hash).number(), item.hash));
    Ok(known.into_iter().take(limit).map(|item| gold(item.id, item.class, Vec::new())).collect())
}

/// The stream that orders the gold candidates of a round.
pub(super) fn gold_key(project: &ProjectRow, number: i32) -> StreamKey {
    StreamKey::new(project.settings.seed, "gold").with_number(u64::from(number.unsigned_abs()))
}

/// Suspected items that are asked again, the most suspicious first: at most `free` votes, and within the project's share of all votes.
///
/// `asked_votes`: votes that the rest of the batch reserves.
pub(super) async fn choose_checks(
    connection: &mut PgConnection,
    project: &ProjectRow,
    number: i32,
    audit: Option<&AuditOutcome>,
    free: u64,
    asked_votes: u64,
    gold: &[NewTask],
) -> Result<Vec<NewTask>, StoreError> {
    let Some(audit) = audit.filter(|_| project.settings.relabel_fraction > 0.0) else {
        return Ok(Vec::new());
    };
    let paid = label::count_paid(connection, project.id).await?.unsigned_abs();
    let reserved = slot::count_reserved(connection, project.id).await?.unsigned_abs();
    let spent = slot::count_relabel(connection, project.id).await?.unsigned_abs();
    let share = (paid + reserved + asked_votes) as f64 * project.settings.relabel_fraction;
    let allowed = (share.floor().clamp(0.0, 1e15) as u64).saturating_sub(spent).min(free);
    if allowed == 0 {
        return Ok(Vec::new());
    }
    let items: Vec<ItemId> = audit.suspects.iter().map(|suspect| suspect.item).collect();
    let classes: HashMap<ItemId, ClassIndex> =
        task::filter_relabelable(connection, &items, number).await?.into_iter().collect();
    let is_gold = |item: ItemId| gold.iter().any(|task| task.item == item);
    // A class that changed since the audit isn't the one that was suspected.
    let checks = audit
        .suspects
        .iter()
        .filter(|suspect| classes.get(&suspect.item) == Some(&suspect.class) && !is_gold(suspect.item))
        .map(|suspect| {
            new_task(suspect.item, TaskSource::Relabel, Some(suspect.class), suspect.suggestions.clone())
        });
    Ok(checks.take(usize::try_from(allowed).unwrap_or(usize::MAX)).collect())
}

/// Numbers the tasks of a round from `first_rank` on: `ordered` keep their order, `spread` stand at drawn places among them.
pub(super) fn mingle(
    seed: u64,
    number: i32,
    ordered: Vec<NewTask>,
    spread: Vec<NewTask>,
    first_rank: i32,
) -> Vec<NewTask> {
    let key = StreamKey::new(seed, "mingle").with_number(u64::from(number.unsigned_abs()));
    let length = ordered.len() as f64;
    let drawn = (0u64..).zip(spread).map(|(place, task)| {
        let share = key.clone().with_number(place).number() as f64 / 2f64.powi(64);
        (share * length, task)
    });
    let mut placed: Vec<(f64, NewTask)> =
        (0u32..).zip(ordered).map(|(place, task)| (f64::from(place) + 0.5, task)).chain(drawn).collect();
    placed.sort_by(|a, b| a.0.total_cmp(&b.0));
    placed.into_iter().zip(first_rank..).map(|((_, task), rank)| NewTask { rank, ..task }).collect()
}

fn new_task(
    item: ItemId,
    source: TaskSource,
    known_class: Option<ClassIndex>,
    suggestions: Vec<Suggestion>,
) -> NewTask {
    NewTask {
        item,
        rank: 0,
        source,
        score: None,
        uncertainty: None,
        pretext_loss: None,
        suggestions,
        known_class,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(source: TaskSource, count: usize) -> Vec<NewTask> {
        (0..count).map(|_| new_task(ItemId::generate(), source, None, Vec::new())).collect()
    }

    #[test]
    fn gold_stands_anywhere_among_the_queries_which_keep_their_order() {
        let (queries, gold) = (tasks(TaskSource::Query, 100), tasks(TaskSource::Gold, 10));
        let mingled = mingle(7, 3, queries.clone(), gold.clone(), 5);
        let ranks: Vec<i32> = mingled.iter().map(|task| task.rank).collect();
        assert_eq!(ranks, (5..115).collect::<Vec<_>>());
        let items = |source| -> Vec<ItemId> {
            mingled.iter().filter(|task| task.source == source).map(|task| task.item).collect()
        };
        assert_eq!(items(TaskSource::Query), queries.iter().map(|task| task.item).collect::<Vec<_>>());
        let places: Vec<i32> =
            mingled.iter().filter(|task| task.source == TaskSource::Gold).map(|task| task.rank).collect();
        assert_eq!(places.len(), 10);
        assert!(places[0] < 45 && places[9] > 75, "{places:?}");
        assert_eq!(mingle(7, 3, queries.clone(), gold.clone(), 5), mingled);
        assert_ne!(mingle(7, 4, queries, gold, 5), mingled);
    }
}
