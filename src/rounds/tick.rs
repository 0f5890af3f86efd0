//! `tick`: one look at one project, and at most one transition.
//!
//! Everything is read from the database under the project's lock and written in the same transaction, so two supervisors, a crash at any
//! instant and a restart all give the same course. It only enqueues jobs; their results are read from their rows.

use crate::domain::ids::ProjectId;
use crate::domain::job::JobKind;
use crate::domain::job::JobState;
use crate::domain::project::{FinishReason, ProjectEvent, ProjectState};
use crate::domain::round::{RoundEvent, RoundState};
use crate::domain::strategy::Strategy;
use crate::store::project::{self, ProjectRow};
use crate::store::round::RoundRow;
use crate::store::{PgConnection, Store, StoreError, item, job, label, pool, round, slot, task};

use super::batch;
use super::error::TickError;
use super::moves::{end_project, move_project, move_round, note_round};
use super::prepare::{self, Prepared, Tables};
use super::request::{Selection, TrainOutcome, TrainRequest, from_json, to_json};
use super::subject_of_round;
use super::ties::{apply_weighed_votes, break_ties, withdraw_open};
use super::votes::free_votes;
use super::{curve, prepare::queue_audit};

/// What a look at a project came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TickOutcome {
    /// Something was moved or queued: look again.
    Moved,
    /// Nothing to do until a label, a job or an operator changes something.
    Idle,
    /// Another process looks at this project right now.
    Busy,
    /// The project doesn't exist any more.
    Gone,
}

/// Looks at one project and makes at most one transition, in one transaction.
pub async fn tick(store: &Store, id: ProjectId) -> Result<TickOutcome, TickError> {
    let mut transaction = store.begin().await?;
    if !round::try_lock_project(&mut transaction, id).await? {
        return Ok(TickOutcome::Busy);
    }
    let Some(project) = project::find(&mut transaction, id).await? else {
        return Ok(TickOutcome::Gone);
    };
    let outcome = advance(&mut transaction, &project).await?;
    transaction.commit().await?;
    Ok(outcome)
}

async fn advance(connection: &mut PgConnection, project: &ProjectRow) -> Result<TickOutcome, TickError> {
    match project.state {
        ProjectState::Empty | ProjectState::Ready | ProjectState::Finished => {
            return Ok(TickOutcome::Idle);
        }
        ProjectState::Importing => return end_importing(connection, project).await,
        _ => {}
    }
    slot::open_expired(connection, project.id).await?;
    if project.finish_requested {
        withdraw_open(connection, project).await?;
    }
    break_ties(connection, project).await?;
    match project.state {
        ProjectState::Pretraining => open_first_batch(connection, project).await,
        ProjectState::Labeling => complete_batch(connection, project).await,
        ProjectState::Training => end_training(connection, project).await,
        ProjectState::Scoring => open_next_batch(connection, project).await,
        ProjectState::Empty | ProjectState::Importing | ProjectState::Ready | ProjectState::Finished => {
            Ok(TickOutcome::Idle)
        }
    }
}

async fn end_importing(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<TickOutcome, TickError> {
    if round::count_unended_imports(connection, project.id).await? > 0 {
        return Ok(TickOutcome::Idle);
    }
    let is_empty = item::count(connection, project.id).await?.pool_count == 0;
    let what = if is_empty { ProjectEvent::ImportEndedEmpty } else { ProjectEvent::ImportEndedWithItems };
    move_project(connection, project.id, project.state, what).await?;
    Ok(TickOutcome::Moved)
}

/// Pretext model and embeddings first; then the seed batch, or training at once where imported labels make it needless.
async fn open_first_batch(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<TickOutcome, TickError> {
    if project.finish_requested {
        return end(connection, project, None).await;
    }
    let Prepared::Done(embeddings) = prepare::embeddings(connection, project).await? else {
        return Ok(TickOutcome::Idle);
    };
    let (labeled_class_count, class_count) = pool::count_classes(connection, project.id).await?;
    let can_ask = can_ask(connection, project, 1).await?;
    if labeled_class_count == class_count || (labeled_class_count > 0 && !can_ask) {
        let strategy: Strategy = project.settings.strategy;
        let row =
            batch::insert_round(connection, project, 0, RoundState::Training, &strategy, None, 0).await?;
        move_project(connection, project.id, project.state, ProjectEvent::BatchCompleted).await?;
        queue_training(connection, project, &row).await?;
        return Ok(TickOutcome::Moved);
    }
    let selection = if can_ask {
        let tables = Tables { embeddings, ..Tables::default() };
        match prepare::selection(connection, project, 1, tables).await? {
            Prepared::Done(selection) => selection,
            Prepared::Waiting => return Ok(TickOutcome::Idle),
        }
    } else {
        Selection::default()
    };
    open_or_end(connection, project, None, 1, &selection).await
}

/// Labeling ends when no slot is open or leased: the labels are frozen into a training job.
async fn complete_batch(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<TickOutcome, TickError> {
    let Some(row) = round::find_under_way(connection, project.id).await? else {
        tracing::error!(project.id = %project.id, "a project is labeling without a round under way");
        return Ok(TickOutcome::Idle);
    };
    if !round::complete_labeling(connection, &row).await? {
        return Ok(TickOutcome::Idle);
    }
    note_round(connection, &row, RoundState::Labeling, RoundState::Training).await?;
    apply_weighed_votes(connection, project).await?;
    move_project(connection, project.id, project.state, ProjectEvent::BatchCompleted).await?;
    queue_training(connection, project, &row).await?;
    batch::ask_ahead(connection, project, &row).await?;
    Ok(TickOutcome::Moved)
}

/// Once the model is published the pool is scored, if another batch may follow; else the project ends.
async fn end_training(connection: &mut PgConnection, project: &ProjectRow) -> Result<TickOutcome, TickError> {
    let Some(row) = round::find_under_way(connection, project.id).await? else {
        tracing::error!(project.id = %project.id, "a project is training without a round under way");
        return Ok(TickOutcome::Idle);
    };
    let subject = subject_of_round(row.number);
    let training = job::find_outcome(connection, project.id, JobKind::Train, &subject).await?;
    let version = match training {
        // Nobody has labelled anything yet, so there was nothing to train.
        None => None,
        Some((JobState::Done, outcome)) => {
            let outcome = outcome.unwrap_or_default();
            Some(from_json::<TrainOutcome>("outcome", &outcome)?.version)
        }
        Some((JobState::Failed, _)) if project.finish_requested => {
            return end(connection, project, Some((&row, None))).await;
        }
        Some(_) => return Ok(TickOutcome::Idle),
    };
    if !project.finish_requested
        && let Some(reason) = curve::judge(connection, project).await?
    {
        // The next look ends it as an operator would: what was answered ahead still trains.
        round::request_finish(connection, project.id, reason).await?;
        return Ok(TickOutcome::Moved);
    }
    let next = row.number + 1;
    let any_ahead = task::count_batch(connection, project.id, next).await? > 0
        || slot::count_asked_again(connection, project.id, next).await? > 0;
    if !any_ahead && !can_ask(connection, project, next).await? {
        return end(connection, project, Some((&row, version))).await;
    }
    move_round(connection, &row, RoundEvent::ModelPublished, version).await?;
    move_project(connection, project.id, project.state, ProjectEvent::ModelPublished).await?;
    Ok(TickOutcome::Moved)
}

/// Scores, selects and opens the next round; without budget or candidates it takes in what was asked ahead, or ends.
async fn open_next_batch(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<TickOutcome, TickError> {
    // A reopened project has no round under way.
    let row = round::find_under_way(connection, project.id).await?;
    let number = match &row {
        Some(row) => row.number,
        None => round::last_number(connection, project.id).await?.unwrap_or(0),
    };
    if !can_ask(connection, project, number + 1).await? {
        job::cancel_learning(connection, project.id).await?;
        return open_or_end(connection, project, row.as_ref(), number + 1, &Selection::default()).await;
    }
    let Prepared::Done(embeddings) = prepare::embeddings(connection, project).await? else {
        return Ok(TickOutcome::Idle);
    };
    let Prepared::Done(pretext_losses) = prepare::pretext_losses(connection, project).await? else {
        return Ok(TickOutcome::Idle);
    };
    let Prepared::Done(scores) = prepare::scores(connection, project, number).await? else {
        return Ok(TickOutcome::Idle);
    };
    let tables = Tables { embeddings, pretext_losses, scores };
    match prepare::selection(connection, project, number + 1, tables).await? {
        Prepared::Done(selection) => {
            open_or_end(connection, project, row.as_ref(), number + 1, &selection).await
        }
        Prepared::Waiting => Ok(TickOutcome::Idle),
    }
}

async fn open_or_end(
    connection: &mut PgConnection,
    project: &ProjectRow,
    previous: Option<&RoundRow>,
    number: i32,
    selection: &Selection,
) -> Result<TickOutcome, TickError> {
    let Prepared::Done(audit) = prepare::audit(connection, project, number - 1).await? else {
        return Ok(TickOutcome::Idle);
    };
    let planned = batch::plan(connection, project, number, selection, audit.as_ref()).await?;
    if planned.is_empty() {
        return end(connection, project, previous.map(|row| (row, None))).await;
    }
    if let Some(row) = previous {
        move_round(connection, row, RoundEvent::NextBatchChosen, None).await?;
    }
    batch::open(connection, project, number, &planned).await?;
    // What the next choice will need is measured while people label; nobody waits for it here.
    prepare::pretext_losses(connection, project).await?;
    queue_audit(connection, project, number - 1).await?;
    move_project(connection, project.id, project.state, ProjectEvent::BatchOpened).await?;
    Ok(TickOutcome::Moved)
}

async fn end(
    connection: &mut PgConnection,
    project: &ProjectRow,
    round: Option<(&RoundRow, Option<i32>)>,
) -> Result<TickOutcome, TickError> {
    job::cancel_learning(connection, project.id).await?;
    if let Some((row, version)) = round {
        move_round(connection, row, RoundEvent::ProjectEnded, version).await?;
        queue_audit(connection, project, row.number).await?;
    }
    let reason = if project.finish_requested {
        FinishReason::Operator
    } else if free_votes(connection, project).await? < u64::from(project.settings.votes_per_task) {
        FinishReason::Budget
    } else {
        FinishReason::Pool
    };
    end_project(connection, project, reason).await?;
    Ok(TickOutcome::Moved)
}

/// Freezes D_l into the round's training job; without a labelled item there is none.
async fn queue_training(
    connection: &mut PgConnection,
    project: &ProjectRow,
    row: &RoundRow,
) -> Result<(), TickError> {
    let labeled: Vec<_> = pool::list_labeled(connection, project.id)
        .await?
        .into_iter()
        .filter_map(|item| Some((item.id, item.class?)))
        .collect();
    if labeled.is_empty() {
        return Ok(());
    }
    let class_count = pool::count_outputs(connection, project.id).await?;
    let request = TrainRequest {
        round: row.number,
        class_count: u32::try_from(class_count).unwrap_or(u32::MAX),
        vote_count: label::count_paid(connection, project.id).await?,
        labeled,
    };
    let subject = subject_of_round(row.number);
    job::enqueue(connection, project.id, JobKind::Train, &subject, &to_json(&request)).await?;
    Ok(())
}

/// Whether budget and pool allow another task, and the operator doesn't want the end.
async fn can_ask(
    connection: &mut PgConnection,
    project: &ProjectRow,
    round: i32,
) -> Result<bool, StoreError> {
    Ok(!project.finish_requested
        && free_votes(connection, project).await? >= u64::from(project.settings.votes_per_task)
        && pool::any_askable(connection, project.id, round).await?)
}
