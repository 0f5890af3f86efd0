//! Batches: what a round asks, what is asked ahead of it, and how the budget bounds both.
//!
//! Votes are reserved when slots are made, and slots are made only here and for ties, always under the project's lock; so paid plus
//! reserved votes never exceed the budget. `batch_size` counts distinct items; gold tasks come on top, as far as the budget goes.

use std::collections::HashSet;

use serde_json::json;

use super::error::TickError;
use super::prepare::{Prepared, selection_of};
use super::request::{ChosenItem, SelectRequest, Selection, from_json};
use super::subject_of_round;
use super::votes::{free_votes, share_of};
use crate::domain::event::EventKind;
use crate::domain::ids::{ItemId, RoundId};
use crate::domain::job::JobKind;
use crate::domain::round::RoundState;
use crate::domain::seed::StreamKey;
use crate::domain::strategy::Strategy;
use crate::domain::task::TaskSource;
use crate::store::project::ProjectRow;
use crate::store::round::RoundRow;
use crate::store::task::{BatchOrigin, NewTask};
use crate::store::{PgConnection, StoreError, event, job, pool, round, task};

/// A batch that can be opened.
#[derive(Debug, Default)]
pub(super) struct PlannedBatch {
    /// Items asked ahead that are leased or answered, and so stay.
    ahead_count: usize,
    /// Tasks to be made, in the order of ranks.
    tasks: Vec<NewTask>,
    /// How many of them fill the batch; the others are gold.
    fresh_count: usize,
}

impl PlannedBatch {
    /// Distinct items of the batch, gold not counted.
    pub(super) fn item_count(&self) -> usize {
        self.ahead_count + self.fresh_count
    }
}

/// Withdraws what was asked ahead of round `number` and nobody touched, and plans the rest of its batch.
pub(super) async fn plan(
    connection: &mut PgConnection,
    project: &ProjectRow,
    number: i32,
    selection: &Selection,
) -> Result<PlannedBatch, TickError> {
    let settings = &project.settings;
    let asked = task::lock_with_open_slot(connection, project.id, number).await?;
    task::withdraw_untouched(connection, &asked).await?;
    let ahead_count = task::count_batch(connection, project.id, number).await?.unsigned_abs();
    let affordable = free_votes(connection, project).await? / u64::from(settings.votes_per_task);
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
    let gold = choose_gold(connection, project, number, gold_count).await?;
    let first_rank = i32::try_from(ahead_count).unwrap_or(i32::MAX);
    let tasks = (query.into_iter().map(|choice| (choice, TaskSource::Query)))
        .chain(random.into_iter().map(|choice| (choice, TaskSource::Random)))
        .map(|(choice, source)| choice.to_task(0, source))
        .chain(gold)
        .zip(first_rank..)
        .map(|(task, rank)| NewTask { rank, ..task })
        .collect();
    Ok(PlannedBatch { ahead_count: ahead_count as usize, tasks, fresh_count })
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
    insert_round(connection, project, number, RoundState::Labeling, &strategy, model_version, task_count)
        .await?;
    let origin = BatchOrigin {
        project: project.id,
        round_number: number,
        strategy: strategy.name(),
        model_version,
        votes_per_task: project.settings.votes_per_task,
    };
    task::create_all(connection, origin, &planned.tasks).await?;
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

/// Items of known class, drawn by content from a stream of the round; none twice in a batch.
async fn choose_gold(
    connection: &mut PgConnection,
    project: &ProjectRow,
    number: i32,
    count: u64,
) -> Result<Vec<NewTask>, StoreError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let round = u64::from(number.unsigned_abs());
    let key = StreamKey::new(project.settings.seed, "gold").with_number(round);
    let mut known = pool::list_imported(connection, project.id).await?;
    known.sort_by_cached_key(|item| (key.clone().with_content(&item.hash).number(), item.hash));
    known.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    let gold = known.into_iter().map(|item| NewTask {
        item: item.id,
        rank: 0,
        source: TaskSource::Gold,
        score: None,
        uncertainty: None,
        pretext_loss: None,
        suggestions: Vec::new(),
    });
    Ok(gold.collect())
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
