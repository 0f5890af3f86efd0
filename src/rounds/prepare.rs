//! What must be computed before a batch can be chosen: the pretext model, embeddings, scores and the selection, each by jobs.
//!
//! Each function looks whether its jobs are done and queues those that are missing; a segment that an import added later is covered by
//! further shards. Embeddings and `v` belong to the pretext model and are computed once for each segment; `v` only for a rule that ranks by
//! it, and not before the first batch is open, which does without.

use std::collections::HashSet;

use super::blind::gold_key;
use super::error::TickError;
use super::request::{
    AuditOutcome, AuditRequest, PretrainRequest, SelectRequest, Selection, ShardOutcome, ShardRequest,
    from_json, to_json,
};
use super::subject_of_round;
use super::votes::{free_votes, share_of};
use crate::domain::job::{JobKind, JobState};
use crate::domain::strategy::ScoreScope;
use crate::store::job::JobRow;
use crate::store::pool::SegmentExtent;
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, job, pool, task};

/// Items of a shard, more or less: small enough that projects take turns and a crash costs little.
const SHARD_ITEM_COUNT: i64 = 16_384;

/// Labelled items below which an audit says nothing.
const AUDIT_ITEM_COUNT_MIN: usize = 20;

/// Labelled items that an audit looks at; of more a sample.
const AUDIT_ITEM_COUNT_MAX: usize = 20_000;

/// Items times classes beyond which an audit would take minutes.
const AUDIT_WEIGHT_MAX: u64 = 2_000_000;

/// What a shard of the pretext model asks for, but for its segments.
const OF_PRETEXT_MODEL: ShardRequest = ShardRequest {
    first_segment: 0,
    last_segment: 0,
    model_version: None,
    round: 0,
    scope: ScoreScope { probabilities: false, features: false, labeled: false, losses: false, dropout: None },
};

/// How far the jobs of one kind are.
#[derive(Debug)]
pub(super) enum Prepared<T> {
    /// All are done; what they give.
    Done(T),
    /// Some are queued, run or have failed.
    Waiting,
}

/// The pretext model, and the keys of embedding tables that cover the pool.
pub(super) async fn embeddings(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<Prepared<Vec<String>>, TickError> {
    let segments = pool::list_segments(connection, project.id).await?;
    let Some(last) = segments.last() else {
        return Ok(Prepared::Done(Vec::new()));
    };
    let request = to_json(&PretrainRequest { last_segment: last.number });
    if ensure(connection, project, JobKind::Pretrain, "pretext", || request).await?.is_none() {
        return Ok(Prepared::Waiting);
    }
    shards(connection, project, JobKind::Embed, &segments, OF_PRETEXT_MODEL).await
}

/// The keys of tables of `v` that cover the pool; none for a rule that doesn't rank by it.
///
/// The pretext model must be there.
pub(super) async fn pretext_losses(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<Prepared<Vec<String>>, TickError> {
    if !project.settings.strategy.needs_pretext_loss() {
        return Ok(Prepared::Done(Vec::new()));
    }
    let segments = pool::list_segments(connection, project.id).await?;
    shards(connection, project, JobKind::PretextLoss, &segments, OF_PRETEXT_MODEL).await
}

/// The keys of score tables of the published model that cover what round `round` left unlabelled; none without a model.
///
/// A strategy that was changed after the scoring may read more than was computed; then the pool is scored anew.
pub(super) async fn scores(
    connection: &mut PgConnection,
    project: &ProjectRow,
    round: i32,
) -> Result<Prepared<Vec<String>>, TickError> {
    let Some(version) = project.model_version else {
        return Ok(Prepared::Done(Vec::new()));
    };
    let segments = pool::list_segments(connection, project.id).await?;
    let scope = project.settings.strategy.score_scope();
    let shard =
        ShardRequest { first_segment: 0, last_segment: 0, model_version: Some(version), round, scope };
    shards(connection, project, JobKind::Score, &segments, shard).await
}

/// What a selection chooses by: keys of tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub embeddings: Vec<String>,
    pub pretext_losses: Vec<String>,
    pub scores: Vec<String>,
}

/// The choice for round `round`.
pub(super) async fn selection(
    connection: &mut PgConnection,
    project: &ProjectRow,
    round: i32,
    tables: Tables,
) -> Result<Prepared<Selection>, TickError> {
    let subject = subject_of_round(round);
    if let Some(job) = job::find_by_subject(connection, project.id, JobKind::Select, &subject).await? {
        return selection_of(&job);
    }
    let settings = &project.settings;
    let votes = u64::from(settings.votes_per_task);
    // Open tasks that were asked ahead may yet be withdrawn, so their votes may become free.
    let ahead_count = u32::try_from(task::count_batch(connection, project.id, round).await?).unwrap_or(0);
    let affordable = free_votes(connection, project).await? / votes + u64::from(ahead_count);
    let count = settings.batch_size.min(u32::try_from(affordable).unwrap_or(u32::MAX));
    let random_count = share_of(count, settings.random_fraction);
    let model_version = project.model_version;
    let class_count = pool::count_outputs(connection, project.id).await?;
    let request = SelectRequest {
        round,
        class_count: u32::try_from(class_count).unwrap_or(u32::MAX),
        strategy: if model_version.is_some() { settings.strategy } else { settings.seed_strategy.strategy() },
        model_version,
        random_count,
        query_count: count - random_count,
        spare_count: ahead_count + if settings.look_ahead { settings.batch_size / 2 } else { 0 },
        embeddings: tables.embeddings,
        pretext_losses: tables.pretext_losses,
        scores: tables.scores,
    };
    job::enqueue(connection, project.id, JobKind::Select, &subject, &to_json(&request)).await?;
    Ok(Prepared::Waiting)
}

/// What the last audit found, where blind tasks are made by it; `previous` is the round before the one to come.
///
/// The audit of the round before that one ran while people labelled. The first time there is none, and it is waited for.
pub(super) async fn audit(
    connection: &mut PgConnection,
    project: &ProjectRow,
    previous: i32,
) -> Result<Prepared<Option<AuditOutcome>>, TickError> {
    let settings = &project.settings;
    if project.model_version.is_none() || (settings.gold_fraction == 0.0 && settings.relabel_fraction == 0.0)
    {
        return Ok(Prepared::Done(None));
    }
    for round in [previous - 1, previous] {
        let subject = subject_of_round(round);
        match job::find_outcome(connection, project.id, JobKind::Audit, &subject).await? {
            Some((JobState::Done, outcome)) => {
                let outcome = outcome.map(|outcome| from_json("outcome", &outcome)).transpose()?;
                return Ok(Prepared::Done(outcome));
            }
            Some(_) => return Ok(Prepared::Waiting),
            None => {}
        }
    }
    let queued = queue_audit(connection, project, previous).await?;
    Ok(if queued { Prepared::Waiting } else { Prepared::Done(None) })
}

/// Queues the audit of what is labelled after round `round`; false where there is too little to look at, or too much.
pub(super) async fn queue_audit(
    connection: &mut PgConnection,
    project: &ProjectRow,
    round: i32,
) -> Result<bool, TickError> {
    if project.model_version.is_none() {
        return Ok(false);
    }
    let class_count = u32::try_from(pool::count_outputs(connection, project.id).await?).unwrap_or(u32::MAX);
    let mut labeled = pool::list_labeled(connection, project.id).await?;
    let weight_count = labeled.len().min(AUDIT_ITEM_COUNT_MAX) as u64 * u64::from(class_count);
    if labeled.len() < AUDIT_ITEM_COUNT_MIN || weight_count > AUDIT_WEIGHT_MAX {
        return Ok(false);
    }
    let gold = gold_key(project, round);
    // The gold candidates lead, so that a sample of D_l keeps them.
    labeled.sort_by_cached_key(|item| (gold.clone().with_content(&item.hash).number(), item.hash));
    labeled.truncate(AUDIT_ITEM_COUNT_MAX);
    let gold_count = share_of(project.settings.batch_size, project.settings.gold_fraction) as usize;
    // Twice as many as a batch asks: some are asked or suspected by then.
    let gold = labeled.iter().take(2 * gold_count).map(|item| item.id).collect();
    labeled.sort_unstable_by_key(|item| item.hash);
    let (random, queried) = pool::list_samples(connection, project.id).await?;
    let labeled = labeled.into_iter().filter_map(|item| Some((item.id, item.class?))).collect();
    let request = AuditRequest { round, class_count, labeled, random, queried, gold };
    let subject = subject_of_round(round);
    job::enqueue(connection, project.id, JobKind::Audit, &subject, &to_json(&request)).await?;
    Ok(true)
}

/// What the selection of a round chose, if it is done.
pub(super) fn selection_of(job: &JobRow) -> Result<Prepared<Selection>, TickError> {
    match &job.outcome {
        Some(outcome) if job.state == JobState::Done => Ok(Prepared::Done(from_json("outcome", outcome)?)),
        _ => Ok(Prepared::Waiting),
    }
}

/// The done job of this kind and subject; queues it when there is none.
async fn ensure(
    connection: &mut PgConnection,
    project: &ProjectRow,
    kind: JobKind,
    subject: &str,
    request: impl FnOnce() -> serde_json::Value,
) -> Result<Option<JobRow>, TickError> {
    match job::find_by_subject(connection, project.id, kind, subject).await? {
        Some(job) => Ok((job.state == JobState::Done).then_some(job)),
        None => {
            job::enqueue(connection, project.id, kind, subject, &request()).await?;
            Ok(None)
        }
    }
}

/// Queues shards for the segments that no job of this kind and model covers; the tables' keys once all are done.
async fn shards(
    connection: &mut PgConnection,
    project: &ProjectRow,
    kind: JobKind,
    segments: &[SegmentExtent],
    shape: ShardRequest,
) -> Result<Prepared<Vec<String>>, TickError> {
    let mut covered = HashSet::new();
    let mut keys = Vec::new();
    let mut all_done = true;
    for job in job::list_by_kind(connection, project.id, kind).await? {
        let shard: ShardRequest = from_json("request", &job.request)?;
        if (shard.model_version, shard.scope) != (shape.model_version, shape.scope) {
            continue;
        }
        covered.extend(shard.first_segment..=shard.last_segment);
        match &job.outcome {
            Some(outcome) if job.state == JobState::Done => {
                keys.extend(from_json::<ShardOutcome>("outcome", outcome)?.key);
            }
            _ => all_done = false,
        }
    }
    let uncovered: Vec<SegmentExtent> =
        segments.iter().copied().filter(|segment| !covered.contains(&segment.number)).collect();
    for (first, last) in group_segments(&uncovered) {
        let shard = ShardRequest { first_segment: first, last_segment: last, ..shape };
        let subject = match shape.model_version {
            Some(version) => format!("model-{version}-segments-{first}-{last}{}", shape.scope.suffix()),
            None => format!("segments-{first}-{last}"),
        };
        job::enqueue(connection, project.id, kind, &subject, &to_json(&shard)).await?;
    }
    Ok(if all_done && uncovered.is_empty() { Prepared::Done(keys) } else { Prepared::Waiting })
}

/// Cuts segments, in the order of numbers, into runs of neighbours of about a shard's size: `(first, last)` numbers.
fn group_segments(segments: &[SegmentExtent]) -> Vec<(i32, i32)> {
    let mut groups: Vec<(i32, i32, i64)> = Vec::new();
    for segment in segments {
        let item_count = i64::from(segment.item_count);
        match groups.last_mut() {
            Some((_, last, count))
                if *last + 1 == segment.number && *count + item_count <= SHARD_ITEM_COUNT =>
            {
                *last = segment.number;
                *count += item_count;
            }
            _ => groups.push((segment.number, segment.number, item_count)),
        }
    }
    groups.into_iter().map(|(first, last, _)| (first, last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::SegmentId;

    fn segment(number: i32, item_count: i32) -> SegmentExtent {
        SegmentExtent { id: SegmentId::generate(), number, item_count }
    }

    #[test]
    fn shards_hold_neighbouring_segments_up_to_their_size() {
        let segments: Vec<_> = (0..6).map(|number| segment(number, 4_096)).chain([segment(8, 10)]).collect();
        assert_eq!(group_segments(&segments), [(0, 3), (4, 5), (8, 8)]);
        assert_eq!(group_segments(&[segment(0, 100_000)]), [(0, 0)]);
        assert_eq!(group_segments(&[]), []);
    }
}
