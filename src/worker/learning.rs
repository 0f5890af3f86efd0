//! Learning: pretrain, embed, train and score on the engine.
//!
//! Each body loads its frozen input, hands owned work to the engine, stores the result in the object store and then ends the job with a row
//! that names it; so a row never names what isn't there, and a job that is done twice writes the same object. In `head` mode training and
//! scoring work on the embeddings that were computed once.

use std::sync::Arc;

use serde_json::json;
use tokio::task::spawn_blocking;

use super::attempt::Attempt;
use super::materials::failed;
use super::publication::Publication;
use super::tables::{index_by_hash, load_embeddings, take_rows};
use super::{BodyError, Worker};
use crate::blob::{embedding_key, model_key, pretext_key, score_key};
use crate::domain::job::{JobKind, JobState};
use crate::domain::project::ClassIndex;
use crate::domain::settings::FineTuneMode;
use crate::engine::{Outcome, Work};
use crate::learner::{EmbedScope, EmbeddingTable, Evaluation, LabeledItem};
use crate::nn::checkpoint::Checkpoint;
use crate::rounds::request::{
    PretrainRequest, ShardOutcome, ShardRequest, TrainOutcome, TrainRequest, from_json, to_json,
};
use crate::store::job::{self, JobRow};
use crate::store::model::{self, NewModel};
use crate::store::pool::{self, PoolItem};
use crate::store::project::ProjectRow;

/// Trains the pretext task.
pub(super) async fn pretrain(
    worker: &Worker,
    job: &JobRow,
    attempt: &Attempt,
) -> Result<(), BodyError> {
    let request: PretrainRequest = from_json("request", &job.request)?;
    let project = worker.materials.project(job.project).await?;
    let items = pool::list_items(
        &mut *worker.store.acquire().await?,
        project.id,
        0,
        request.last_segment,
    )
    .await?;
    let work = Work::Pretrain {
        pool: worker.materials.pool(&project, &items).await?,
        settings: Box::new(project.settings.clone()),
        resume: last_checkpoint(worker, job).await?,
        sink: Box::new(attempt.checkpoints(&worker.blob)),
    };
    let model = run_model(worker, &project, work, attempt).await?;
    let key = pretext_key(project.id, job.id);
    let manifest = store_model(worker, &key, &model).await?;
    attempt
        .finish(
            &json!({}),
            &Publication::Pretext {
                checkpoint: key,
                manifest,
            },
        )
        .await?;
    drop_checkpoint(worker, job, attempt).await;
    Ok(())
}

/// Embeds a shard and measures `v`.
pub(super) async fn embed(
    worker: &Worker,
    job: &JobRow,
    attempt: &Attempt,
) -> Result<(), BodyError> {
    let request: ShardRequest = from_json("request", &job.request)?;
    let project = worker.materials.project(job.project).await?;
    let (first, last) = (request.first_segment, request.last_segment);
    let items =
        pool::list_items(&mut *worker.store.acquire().await?, project.id, first, last).await?;
    let mut outcome = ShardOutcome {
        key: None,
        item_count: items.len() as u64,
    };
    if !items.is_empty() {
        let table = embed_items(worker, &project, &items, attempt).await?;
        let key = embedding_key(project.id, job.id);
        worker.blob.put(&key, table.to_bytes()).await?;
        outcome.key = Some(key);
    }
    attempt
        .finish(&to_json(&outcome), &Publication::Outcome)
        .await
}

/// Fine-tunes and evaluates a model on the frozen D_l, and publishes it.
pub(super) async fn train(
    worker: &Worker,
    job: &JobRow,
    attempt: &Attempt,
) -> Result<(), BodyError> {
    let request: TrainRequest = from_json("request", &job.request)?;
    let project = worker.materials.project(job.project).await?;
    let pretext = worker.materials.pretext(project.id).await?;
    let model = match project.settings.fine_tune.mode {
        FineTuneMode::Full => fine_tune(worker, job, &project, &request, pretext, attempt).await?,
        FineTuneMode::Head => fine_tune_head(worker, &project, &request, pretext, attempt).await?,
    };
    let model = Arc::new(model);
    let evaluation = evaluate(worker, &project, &request, &model, attempt).await?;
    let version = model::next_version(&mut *worker.store.acquire().await?, project.id).await?;
    let key = model_key(project.id, version, job.id);
    let mut manifest = store_model(worker, &key, &model).await?;
    if let (Some(evaluation), Some(fields)) = (&evaluation, manifest.as_object_mut()) {
        fields.insert("confusion".to_owned(), json!(evaluation.confusion));
    }
    let test_accuracy = evaluation.as_ref().map(|evaluation| evaluation.accuracy);
    let published = NewModel {
        version,
        round: request.round,
        checkpoint: key,
        manifest,
        test_accuracy,
        test_count: evaluation.map_or(0, |evaluation| {
            i32::try_from(evaluation.count).unwrap_or(i32::MAX)
        }),
        label_count: i32::try_from(request.labeled.len()).unwrap_or(i32::MAX),
        vote_count: request.vote_count,
        job: job.id,
    };
    let outcome = to_json(&TrainOutcome {
        version,
        test_accuracy,
    });
    attempt
        .finish(&outcome, &Publication::Model(Box::new(published)))
        .await?;
    worker
        .engine()?
        .publish(project.id, version.unsigned_abs(), model);
    drop_checkpoint(worker, job, attempt).await;
    Ok(())
}

/// Scores what is unlabelled of a shard.
pub(super) async fn score(
    worker: &Worker,
    job: &JobRow,
    attempt: &Attempt,
) -> Result<(), BodyError> {
    let request: ShardRequest = from_json("request", &job.request)?;
    let version = request
        .model_version
        .ok_or_else(|| failed("the request names no model"))?;
    let project = worker.materials.project(job.project).await?;
    let (first, last) = (request.first_segment, request.last_segment);
    let items = pool::list_unlabeled(
        &mut *worker.store.acquire().await?,
        project.id,
        request.round,
        first,
        last,
    )
    .await?;
    let mut outcome = ShardOutcome {
        key: None,
        item_count: items.len() as u64,
    };
    if !items.is_empty() {
        let model = worker.materials.model(project.id, version).await?;
        let work = match project.settings.fine_tune.mode {
            FineTuneMode::Full => Work::Score {
                model,
                pool: worker.materials.pool(&project, &items).await?,
            },
            FineTuneMode::Head => {
                let table = embeddings_of(worker, &project, &items, attempt).await?;
                Work::ScoreEmbeddings {
                    model,
                    table: Arc::new(table),
                }
            }
        };
        let Outcome::Scores(table) = worker
            .engine()?
            .run(project.id, work, attempt.hook())
            .await?
        else {
            return Err(unexpected());
        };
        let key = score_key(project.id, version, job.id);
        worker.blob.put(&key, table.to_bytes()).await?;
        outcome.key = Some(key);
    }
    attempt
        .finish(&to_json(&outcome), &Publication::Outcome)
        .await
}

async fn fine_tune(
    worker: &Worker,
    job: &JobRow,
    project: &ProjectRow,
    request: &TrainRequest,
    pretext: Arc<Checkpoint>,
    attempt: &Attempt,
) -> Result<Checkpoint, BodyError> {
    let items = labeled_items(worker, request).await?;
    let work = Work::FineTune {
        pretext,
        pool: worker.materials.pool(project, &items).await?,
        labeled: number_labels(&items, request),
        class_count: request.class_count as usize,
        settings: Box::new(project.settings.clone()),
        round: request.round.unsigned_abs(),
        resume: last_checkpoint(worker, job).await?,
        sink: Box::new(attempt.checkpoints(&worker.blob)),
    };
    run_model(worker, project, work, attempt).await
}

async fn fine_tune_head(
    worker: &Worker,
    project: &ProjectRow,
    request: &TrainRequest,
    pretext: Arc<Checkpoint>,
    attempt: &Attempt,
) -> Result<Checkpoint, BodyError> {
    let items = labeled_items(worker, request).await?;
    let work = Work::FineTuneHead {
        pretext,
        table: Arc::new(embeddings_of(worker, project, &items, attempt).await?),
        labeled: number_labels(&items, request),
        class_count: request.class_count as usize,
        settings: Box::new(project.settings.clone()),
        round: request.round.unsigned_abs(),
    };
    run_model(worker, project, work, attempt).await
}

async fn evaluate(
    worker: &Worker,
    project: &ProjectRow,
    request: &TrainRequest,
    model: &Arc<Checkpoint>,
    attempt: &Attempt,
) -> Result<Option<Evaluation>, BodyError> {
    let mut items = pool::list_test(&mut *worker.store.acquire().await?, project.id).await?;
    // A class that was added after the training began isn't known to the model.
    let is_known = |class: ClassIndex| u32::from(class.0) < request.class_count;
    items.retain(|item| item.class.is_some_and(is_known));
    if items.is_empty() {
        return Ok(None);
    }
    let classes = items.iter().filter_map(|item| item.class).collect();
    let pool = worker.materials.pool(project, &items).await?;
    let work = Work::Evaluate {
        model: Arc::clone(model),
        pool,
        classes,
    };
    match worker
        .engine()?
        .run(project.id, work, attempt.hook())
        .await?
    {
        Outcome::Evaluation(evaluation) => Ok(Some(evaluation)),
        _ => Err(unexpected()),
    }
}

/// The items of the frozen D_l, in the order of content hashes.
async fn labeled_items(
    worker: &Worker,
    request: &TrainRequest,
) -> Result<Vec<PoolItem>, BodyError> {
    let ids: Vec<_> = request.labeled.iter().map(|(item, _)| *item).collect();
    Ok(pool::list_by_ids(&mut *worker.store.acquire().await?, &ids).await?)
}

fn number_labels(items: &[PoolItem], request: &TrainRequest) -> Vec<LabeledItem> {
    let classes: std::collections::HashMap<_, _> = request.labeled.iter().copied().collect();
    let label = |(index, item): (usize, &PoolItem)| {
        classes.get(&item.id).map(|class| LabeledItem {
            index,
            class: *class,
        })
    };
    items.iter().enumerate().filter_map(label).collect()
}

/// Embeddings of these items in their order: from the tables of done shards, and computed for those that no shard covers yet.
async fn embeddings_of(
    worker: &Worker,
    project: &ProjectRow,
    items: &[PoolItem],
    attempt: &Attempt,
) -> Result<EmbeddingTable, BodyError> {
    let jobs = job::list_by_kind(
        &mut *worker.store.acquire().await?,
        project.id,
        JobKind::Embed,
    )
    .await?;
    let mut keys = Vec::new();
    for outcome in jobs
        .iter()
        .filter(|job| job.state == JobState::Done)
        .filter_map(|job| job.outcome.as_ref())
    {
        keys.extend(from_json::<ShardOutcome>("outcome", outcome)?.key);
    }
    let known = load_embeddings(&worker.blob, &keys).await?;
    let places = index_by_hash(known.iter().flat_map(|table| table.hashes.iter().copied()));
    let missing: Vec<PoolItem> = items
        .iter()
        .filter(|item| !places.contains_key(&item.hash))
        .cloned()
        .collect();
    let mut whole = known;
    if !missing.is_empty() {
        let fresh = embed_items(worker, project, &missing, attempt).await?;
        match &mut whole {
            Some(table) => table.append(&fresh).map_err(failed)?,
            None => whole = Some(fresh),
        }
    }
    let whole = whole.ok_or_else(|| failed("there is no item to embed"))?;
    let places = index_by_hash(whole.hashes.iter().copied());
    let rows: Vec<usize> = items
        .iter()
        .filter_map(|item| places.get(&item.hash).copied())
        .collect();
    Ok(take_rows(&whole, &rows))
}

async fn embed_items(
    worker: &Worker,
    project: &ProjectRow,
    items: &[PoolItem],
    attempt: &Attempt,
) -> Result<EmbeddingTable, BodyError> {
    let model = worker.materials.pretext(project.id).await?;
    let work = Work::Embed {
        model,
        pool: worker.materials.pool(project, items).await?,
        scope: EmbedScope::EmbeddingsAndLosses,
    };
    match worker
        .engine()?
        .run(project.id, work, attempt.hook())
        .await?
    {
        Outcome::Embeddings(table) => Ok(table),
        _ => Err(unexpected()),
    }
}

async fn run_model(
    worker: &Worker,
    project: &ProjectRow,
    work: Work,
    attempt: &Attempt,
) -> Result<Checkpoint, BodyError> {
    match worker
        .engine()?
        .run(project.id, work, attempt.hook())
        .await?
    {
        Outcome::Model(model) => Ok(*model),
        _ => Err(unexpected()),
    }
}

/// Stores a model and returns its manifest.
async fn store_model(
    worker: &Worker,
    key: &str,
    model: &Checkpoint,
) -> Result<serde_json::Value, BodyError> {
    let owned = model.clone();
    let bytes = spawn_blocking(move || owned.to_bytes())
        .await?
        .map_err(failed)?;
    worker.blob.put(key, bytes).await?;
    serde_json::to_value(&model.manifest).map_err(failed)
}

/// The checkpoint of an earlier attempt; one that is gone means starting anew.
async fn last_checkpoint(worker: &Worker, job: &JobRow) -> Result<Option<Vec<u8>>, BodyError> {
    match &job.checkpoint {
        Some(key) if worker.blob.exists(key).await? => Ok(Some(worker.blob.get(key).await?)),
        _ => Ok(None),
    }
}

/// Removes what an earlier attempt and this one kept in the middle; the job is done, so nobody needs it.
async fn drop_checkpoint(worker: &Worker, job: &JobRow, attempt: &Attempt) {
    for key in job
        .checkpoint
        .iter()
        .cloned()
        .chain(attempt.last_checkpoint())
    {
        if let Err(error) = worker.blob.delete(&key).await {
            tracing::warn!(job.id = %job.id, error = %error, "a checkpoint that nobody needs stays");
        }
    }
}

fn unexpected() -> BodyError {
    failed("the engine answered with the outcome of other work")
}
