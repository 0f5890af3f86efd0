//! Batches: what a round asks, what is asked ahead of it, and how the budget bounds both.
//!
//! Votes are reserved when slots are made, and slots are made only here, for ties and for votes set aside, always under the project's lock; so paid plus
//! reserved votes never exceed the budget. `batch_size` counts distinct items; gold tasks and checks come on top, as far as the budget goes.

use std::collections::HashSet;

use serde_json::json;

use super::blind::{choose_checks, choose_gold, mingle};
use super::error::TickError;
use super::prepare::{Prepared, selection_of};
use super::request::{AuditOutcome, ChosenItem, SelectRequest, Selection, from_json};
use super::subject_of_round;
use super::votes::{free_votes, share_of};
use crate::domain::event::EventKind;
use crate::domain::ids::{ItemId, RoundId};
use crate::domain::job::JobKind;
use crate::domain::round::RoundState;
use crate::domain::strategy::Strategy;
use crate::domain::task::TaskSource;
use crate::store::project::ProjectRow;
use crate::store::round::RoundRow;
use crate::store::task::{BatchOrigin, NewTask};
use crate::store::{PgConnection, StoreError, event, item, job, pool, round, slot, task};

/// A batch that can be opened.
#[derive(Debug, Default)]
pub(super) struct PlannedBatch {
    /// Items asked ahead that are leased or answered, and so stay.
    ahead_count: usize,
    /// Tasks to be made, in the order of ranks.
    tasks: Vec<NewTask>,
    /// How many of them fill the batch; the others are gold and checks.
    fresh_count: usize,
    /// Slots of older tasks that the round waits for, since their votes were set aside.
    asked_again_count: u64,
    /// Items that could be asked when the batch was planned.
    askable_count: i64,
}

impl PlannedBatch {
    /// Distinct items of the batch, gold and checks not counted.
    fn item_count(&self) -> usize {
        self.ahead_count + self.fresh_count
    }

    /// Whether a round with it would have nothing to wait for.
    pub(super) fn is_empty(&self) -> bool {
        self.item_count() == 0 && self.asked_again_count == 0
    }
}

/// Withdraws what was asked ahead of round `number` and nobody touched, and plans the rest of its batch.
pub(super) async fn plan(
    connection: &mut PgConnection,
    project: &ProjectRow,
    number: i32,
    selection: &Selection,
    audit: Option<&AuditOutcome>,
) -> Result<PlannedBatch, TickError> {
    let settings = &project.settings;
    let votes = u64::from(settings.votes_per_task);
    let asked = task::lock_with_open_slot(connection, project.id, number).await?;
    task::withdraw_untouched(connection, &asked).await?;
    let ahead_count = task::count_batch(connection, project.id, number).await?.unsigned_abs();
    let free = free_votes(connection, project).await?;
    let affordable = free / votes;
    let room = u64::from(settings.batch_size).saturating_sub(ahead_count).min(affordable);
    let chosen: Vec<ItemId> =
        selection.random.iter().chain(&selection.ranking).map(|choice| choice.item).collect();
    let askable: HashSet<ItemId> =
        pool::filter_askable(connection, &chosen, number).await?.into_iter().collect();
    // The random slice first: it must not shrink because tasks were asked ahead.
    let random = pick(&selection.random, &askable, room);
    let query = pick(&selection.ranking, &askable, room - random.len() as u64);
    let fresh_count = random.len() + query.len();
    let gold_count = u64::from(share_of(
        u32::try_from(ahead_count + fresh_count as u64).unwrap_or(u32::MAX),
        settings.gold_fraction,
    ))
    .min(affordable - fresh_count as u64);
    let shows_guesses =
        settings.show_suggestions && query.iter().chain(&random).any(|choice| !choice.suggestions.is_empty());
    let gold = choose_gold(connection, project, number, gold_count, shows_guesses, audit).await?;
    let asked_votes = votes * (fresh_count + gold.len()) as u64;
    let checks =
        choose_checks(connection, project, number, audit, free - asked_votes, asked_votes, &gold).await?;
    let of_source = |choices: Vec<&ChosenItem>, source| -> Vec<NewTask> {
        choices.into_iter().map(|choice| choice.to_task(0, source)).collect()
    };
    let mut spread = of_source(random, TaskSource::Random);
    spread.extend(gold);
    spread.extend(checks);
    let first_rank = i32::try_from(ahead_count).unwrap_or(i32::MAX);
    Ok(PlannedBatch {
        ahead_count: ahead_count as usize,
        tasks: mingle(settings.seed, number, of_source(query, TaskSource::Query), spread, first_rank),
        fresh_count,
        asked_again_count: slot::count_asked_again(connection, project.id, number).await?.unsigned_abs(),
        askable_count: pool::count_askable(connection, project.id, number).await?,
    })
}

/// Opens a round with its planned batch.
pub(super) async fn open(
    connection: &mut PgConnection,
    project: &ProjectRow,
    number: i32,
    planned: &PlannedBatch,
) -> Result<(), TickError> {
    let select =
        job::find_by_subject(connection, project.id, JobKind::Select, &subject_of_round(number)).await?;
    let (strategy, model_version) = match &select {
        Some(job) => {
            let request: SelectRequest = from_json("request", &job.request)?;
            (request.strategy, request.model_version)
        }
        // Only what was asked ahead: the rule that would have chosen.
        None => (project.settings.strategy, project.model_version),
    };
    let task_count = i32::try_from(planned.item_count()).unwrap_or(i32::MAX);
    let row =
        insert_round(connection, project, number, RoundState::Labeling, &strategy, model_version, task_count)
            .await?;
    let pool_count = item::count(connection, project.id).await?.pool_count;
    round::note_pool(connection, row.id, planned.askable_count, pool_count).await?;
    let origin = BatchOrigin {
        project: project.id,
        round_number: number,
        strategy: strategy.name(),
        model_version,
        votes_per_task: project.settings.votes_per_task,
    };
    let (checks, others): (Vec<NewTask>, Vec<NewTask>) =
        planned.tasks.iter().cloned().partition(|task| task.source == TaskSource::Relabel);
    task::create_all(connection, origin, &others).await?;
    // A check is one more opinion beside those that the item has.
    task::create_all(connection, BatchOrigin { votes_per_task: 1, ..origin }, &checks).await?;
    Ok(())
}

/// Inserts a round with its event.
pub(super) async fn insert_round(
    connection: &mut PgConnection,
    project: &ProjectRow,
    number: i32,
    state: RoundState,
    strategy: &Strategy,
    asked_by: Option<i32>,
    task_count: i32,
) -> Result<RoundRow, StoreError> {
    let row = round::open(
        connection,
        RoundId::generate(),
        project.id,
        number,
        state,
        strategy,
        asked_by,
        task_count,
    )
    .await?;
    let payload = json!({
        "round": number, "task_count": task_count, "strategy": strategy.name(), "model_version": asked_by,
    });
    event::append(connection, Some(project.id), EventKind::RoundOpened, &payload).await?;
    tracing::info!(project.id = %project.id, round.number = number, task_count, "round opened");
    Ok(row)
}

/// Asks the next-best items of a round's ranking while it trains: at most half of the next batch, and of the free budget.
pub(super) async fn ask_ahead(
    connection: &mut PgConnection,
    project: &ProjectRow,
    row: &RoundRow,
) -> Result<(), TickError> {
    let settings = &project.settings;
    let next = row.number + 1;
    if !settings.look_ahead || project.finish_requested {
        return Ok(());
    }
    let select =
        job::find_by_subject(connection, project.id, JobKind::Select, &subject_of_round(row.number)).await?;
    let Some(select) = select else { return Ok(()) };
    let Prepared::Done(selection) = selection_of(&select)? else {
        return Ok(());
    };
    let request: SelectRequest = from_json("request", &select.request)?;
    let affordable = free_votes(connection, project).await? / u64::from(settings.votes_per_task);
    let askable_count = pool::count_askable(connection, project.id, next).await?.unsigned_abs();
    let next_batch = u64::from(settings.batch_size).min(affordable).min(askable_count);
    let items: Vec<ItemId> = selection.ranking.iter().map(|choice| choice.item).collect();
    let askable: HashSet<ItemId> =
        pool::filter_askable(connection, &items, next).await?.into_iter().collect();
    let tasks: Vec<NewTask> = pick(&selection.ranking, &askable, next_batch / 2)
        .into_iter()
        .zip(0..)
        .map(|(choice, rank)| choice.to_task(rank, TaskSource::Ahead))
        .collect();
    let origin = BatchOrigin {
        project: project.id,
        round_number: next,
        strategy: request.strategy.name(),
        model_version: request.model_version,
        votes_per_task: settings.votes_per_task,
    };
    task::create_all(connection, origin, &tasks).await?;
    Ok(())
}

fn pick<'a>(choices: &'a [ChosenItem], askable: &HashSet<ItemId>, count: u64) -> Vec<&'a ChosenItem> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    choices.iter().filter(|choice| askable.contains(&choice.item)).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_to_the_nearest_item_and_never_exceeds_the_batch() {
        assert_eq!(share_of(100, 0.05), 5);
        assert_eq!(share_of(10, 0.05), 1);
        assert_eq!(share_of(9, 0.05), 0);
        assert_eq!(share_of(3, 1.0), 3);
    }
}
