//! The body of a train job: fine-tunes a copy from the pretext weights on the frozen D_l, and evaluates it on the test split.
//!
//! Algorithm 1, line 10. The model becomes the published one with the commit that ends the job.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;

use crate::blob::model_key;
use crate::domain::ids::{ItemId, ProjectId};
use crate::domain::project::ClassIndex;
use crate::domain::settings::FineTuneMode;
use crate::engine::{Outcome, Work};
use crate::learner::{EmbeddingTable, Evaluation, LabeledItem};
use crate::nn::checkpoint::Checkpoint;
use crate::rounds::request::{TrainRequest, from_json, to_json};
use crate::store::job::JobRow;
use crate::store::model::NewModel;
use crate::store::pool::{PoolItem, SegmentExtent};
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, model, pool};

use super::attempt::Attempt;
use super::embed::{embed, load_pretext};
use super::finish::Finished;
use super::pretrain::{MidwaySink, expect_model, load_resume, store_model};
use super::score::find_embeddings;
use super::{BodyError, Workshop};

/// What a training reads from the database.
struct Inputs {
    extents: Vec<SegmentExtent>,
    labeled: Vec<PoolItem>,
    test: Vec<PoolItem>,
    version: i32,
}

pub(super) async fn run(
    workshop: &Workshop,
    project: &ProjectRow,
    row: &JobRow,
    attempt: &Attempt,
) -> Result<Finished, BodyError> {
    let request: TrainRequest = from_json("request", &row.request)?;
    let classes: HashMap<ItemId, ClassIndex> = request.labeled.iter().copied().collect();
    let inputs = read(workshop, project.id, &request).await?;
    let (pretext_key, pretext) = load_pretext(workshop, project).await?;
    let trained = match project.settings.fine_tune.mode {
        FineTuneMode::Full => {
            full(workshop, project, row, attempt, &request, &inputs, &classes, pretext).await?
        }
        FineTuneMode::Head => {
            head(workshop, project, attempt, &request, &inputs, &classes, &pretext_key, pretext).await?
        }
    };
    let (model, evaluation) = trained;
    let key = model_key(project.id, inputs.version, row.id);
    store_model(workshop, &key, &model).await?;
    let manifest = json!({
        "training": to_json(&model.manifest),
        "evaluation": evaluation.as_ref().map(|evaluation| json!({ "confusion": evaluation.confusion })),
    });
    Ok(Finished::Model(Box::new(NewModel {
        version: inputs.version,
        round: request.round,
        checkpoint: key,
        manifest,
        test_accuracy: evaluation.as_ref().map(|evaluation| evaluation.accuracy),
        test_count: i32::try_from(inputs.test.len()).map_err(BodyError::failed)?,
        label_count: i32::try_from(request.labeled.len()).map_err(BodyError::failed)?,
        vote_count: request.vote_count,
        job: row.id,
    })))
}

async fn read(workshop: &Workshop, project: ProjectId, request: &TrainRequest) -> Result<Inputs, BodyError> {
    let ids: Vec<ItemId> = request.labeled.iter().map(|(item, _)| *item).collect();
    let mut connection = workshop.store.acquire().await?;
    Ok(Inputs {
        extents: pool::list_segments(&mut connection, project).await?,
        labeled: pool::list_by_ids(&mut connection, &ids).await?,
        test: list_known_test(&mut connection, project, request.class_count).await?,
        version: model::next_version(&mut connection, project).await?,
    })
}

/// The test split without items of a class that was added after the training was queued, which the model doesn't know.
pub(super) async fn list_known_test(
    connection: &mut PgConnection,
    project: ProjectId,
    class_count: u32,
) -> Result<Vec<PoolItem>, BodyError> {
    let mut test = pool::list_test(connection, project).await?;
    test.retain(|item| item.class.is_some_and(|class| u32::from(class.0) < class_count));
    Ok(test)
}

/// D_l as rows, with the classes that the request froze.
pub(super) fn label_rows<'a>(
    rows: impl Iterator<Item = &'a PoolItem>,
    classes: &HashMap<ItemId, ClassIndex>,
) -> Vec<LabeledItem> {
    let label = |(index, item): (usize, &PoolItem)| {
        classes.get(&item.id).map(|class| LabeledItem { index, class: *class })
    };
    rows.enumerate().filter_map(label).collect()
}

pub(super) fn test_classes(test: &[PoolItem]) -> Vec<ClassIndex> {
    test.iter().filter_map(|item| item.class).collect()
}

type Trained = (Arc<Checkpoint>, Option<Evaluation>);

#[expect(clippy::too_many_arguments, reason = "what a training needs, each from another place")]
async fn full(
    workshop: &Workshop,
    project: &ProjectRow,
    row: &JobRow,
    attempt: &Attempt,
    request: &TrainRequest,
    inputs: &Inputs,
    classes: &HashMap<ItemId, ClassIndex>,
    pretext: Arc<Checkpoint>,
) -> Result<Trained, BodyError> {
    let shape = project.settings.image;
    let pool = workshop.materials.open_pool(project.id, shape, &inputs.extents, &inputs.labeled).await?;
    let work = Work::FineTune {
        pretext,
        pool: Arc::new(pool),
        labeled: label_rows(inputs.labeled.iter(), classes),
        class_count: request.class_count as usize,
        settings: Box::new(project.settings.clone()),
        round: request.round.unsigned_abs(),
        resume: load_resume(workshop, row).await?,
        sink: Box::new(MidwaySink::new(workshop, row, attempt)),
    };
    let model = expect_model(workshop.engine()?.run(project.id, work, attempt.hook()).await?)?;
    if inputs.test.is_empty() {
        return Ok((model, None));
    }
    let pool = workshop.materials.open_pool(project.id, shape, &inputs.extents, &inputs.test).await?;
    let work = Work::Evaluate {
        model: Arc::clone(&model),
        pool: Arc::new(pool),
        classes: test_classes(&inputs.test),
    };
    let evaluation = expect_evaluation(workshop.engine()?.run(project.id, work, attempt.hook()).await?)?;
    Ok((model, Some(evaluation)))
}

#[expect(clippy::too_many_arguments, reason = "what a training needs, each from another place")]
async fn head(
    workshop: &Workshop,
    project: &ProjectRow,
    attempt: &Attempt,
    request: &TrainRequest,
    inputs: &Inputs,
    classes: &HashMap<ItemId, ClassIndex>,
    pretext_key: &str,
    pretext: Arc<Checkpoint>,
) -> Result<Trained, BodyError> {
    let (table, rows) =
        embed_labeled(workshop, project, &inputs.extents, &inputs.labeled, &pretext, attempt).await?;
    let work = Work::FineTuneHead {
        pretext: Arc::clone(&pretext),
        table: Arc::new(table),
        labeled: label_rows(rows.iter(), classes),
        class_count: request.class_count as usize,
        settings: Box::new(project.settings.clone()),
        round: request.round.unsigned_abs(),
    };
    let model = expect_model(workshop.engine()?.run(project.id, work, attempt.hook()).await?)?;
    if inputs.test.is_empty() {
        return Ok((model, None));
    }
    let table =
        embed_test(workshop, project, &inputs.extents, &inputs.test, pretext_key, &pretext, attempt).await?;
    let work =
        Work::EvaluateEmbeddings { model: Arc::clone(&model), table, classes: test_classes(&inputs.test) };
    let evaluation = expect_evaluation(workshop.engine()?.run(project.id, work, attempt.hook()).await?)?;
    Ok((model, Some(evaluation)))
}

/// The embeddings of labelled items, and the items in the table's order; those that no embed job has covered are embedded now.
pub(super) async fn embed_labeled(
    workshop: &Workshop,
    project: &ProjectRow,
    extents: &[SegmentExtent],
    labeled: &[PoolItem],
    pretext: &Arc<Checkpoint>,
    attempt: &Attempt,
) -> Result<(EmbeddingTable, Vec<PoolItem>), BodyError> {
    let mut table = find_embeddings(workshop, project, labeled).await?;
    let covered: std::collections::HashSet<_> = table.hashes.iter().copied().collect();
    let (mut rows, missing): (Vec<_>, Vec<_>) =
        labeled.iter().cloned().partition(|item| covered.contains(&item.hash));
    if !missing.is_empty() {
        // Of an import that came after the pool was embedded.
        let pool =
            workshop.materials.open_pool(project.id, project.settings.image, extents, &missing).await?;
        let rest = embed(workshop, project, Arc::clone(pretext), pool, attempt).await?;
        table.append(&rest).map_err(BodyError::failed)?;
    }
    rows.extend(missing);
    Ok((table, rows))
}

/// The embeddings of the test split; computed when the split or the pretext model is new, then read back.
pub(super) async fn embed_test(
    workshop: &Workshop,
    project: &ProjectRow,
    extents: &[SegmentExtent],
    test: &[PoolItem],
    pretext_key: &str,
    pretext: &Arc<Checkpoint>,
    attempt: &Attempt,
) -> Result<Arc<EmbeddingTable>, BodyError> {
    let key = format!("{pretext_key}.test-{}.bin", test.len());
    if workshop.blob.exists(&key).await? {
        let table = workshop.materials.load_table(&key).await?;
        if table.hashes.iter().eq(test.iter().map(|item| &item.hash)) {
            return Ok(table);
        }
    }
    let pool = workshop.materials.open_pool(project.id, project.settings.image, extents, test).await?;
    let table = embed(workshop, project, Arc::clone(pretext), pool, attempt).await?;
    workshop.blob.put(&key, table.to_bytes()).await?;
    Ok(Arc::new(table))
}

fn expect_evaluation(outcome: Outcome) -> Result<Evaluation, BodyError> {
    match outcome {
        Outcome::Evaluation(evaluation) => Ok(evaluation),
        _ => Err(BodyError::failed("the engine answered an evaluation with something else")),
    }
}
