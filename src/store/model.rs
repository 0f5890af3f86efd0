//! Models: the pretext model of a project and the versions of its downstream model.
//!
//! The rows name checkpoints in the blob store, which are written before the row. A version is published in the transaction that ends its
//! training job, so a model exists exactly when its job is done.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::StoreError;
use crate::domain::ids::{JobId, ProjectId};

/// The pretext model of a project.
#[derive(Clone, Debug, PartialEq)]
pub struct PretextModelRow {
    /// Blob key of the checkpoint.
    pub checkpoint: String,
    /// How it was trained.
    pub manifest: Value,
    /// The job that trained it.
    pub job: JobId,
    /// When it was published.
    pub created_at: DateTime<Utc>,
}

/// A version of the downstream model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelRow {
    /// 1, 2, …
    pub version: i32,
    /// The round whose labels trained it.
    pub round: i32,
    /// Blob key of the checkpoint.
    pub checkpoint: String,
    /// How it was trained.
    pub manifest: Value,
    /// Accuracy on the test split; none without one.
    pub test_accuracy: Option<f64>,
    /// Items of the test split.
    pub test_count: i32,
    /// Labelled items it learned from.
    pub label_count: i32,
    /// Accepted votes paid when its training began.
    pub vote_count: i64,
    /// The job that trained it.
    pub job: JobId,
    /// When it was published.
    pub created_at: DateTime<Utc>,
}

/// A downstream model to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct NewModel {
    /// Its version, above every other of the project.
    pub version: i32,
    /// The round whose labels trained it.
    pub round: i32,
    /// Blob key of the checkpoint.
    pub checkpoint: String,
    /// How it was trained.
    pub manifest: Value,
    /// Accuracy on the test split; none without one.
    pub test_accuracy: Option<f64>,
    /// Items of the test split.
    pub test_count: i32,
    /// Labelled items it learned from.
    pub label_count: i32,
    /// Accepted votes paid when its training began.
    pub vote_count: i64,
    /// The job that trained it.
    pub job: JobId,
}

/// Publishes the pretext model, in place of an earlier one.
pub async fn publish_pretext(
    connection: &mut PgConnection,
    project: ProjectId,
    checkpoint: &str,
    manifest: &Value,
    job: JobId,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into pretext_model (project, checkpoint, manifest, job) values ($1, $2, $3, $4)
         on conflict (project) do update
           set checkpoint = excluded.checkpoint, manifest = excluded.manifest, job = excluded.job, created_at = now()",
        project as ProjectId,
        checkpoint,
        manifest,
        job as JobId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The pretext model of a project.
pub async fn find_pretext(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Option<PretextModelRow>, StoreError> {
    let row = sqlx::query_as!(
        PretextModelRow,
        r#"select checkpoint, manifest, job as "job: JobId", created_at from pretext_model where project = $1"#,
        project as ProjectId
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// The version that the project's next model gets.
pub async fn next_version(connection: &mut PgConnection, project: ProjectId) -> Result<i32, StoreError> {
    let version = sqlx::query_scalar!(
        r#"select coalesce(max(version), 0) + 1 as "version!" from model where project = $1"#,
        project as ProjectId
    )
    .fetch_one(connection)
    .await?;
    Ok(version)
}

/// Inserts a model and makes it the project's published version.
pub async fn publish(
    connection: &mut PgConnection,
    project: ProjectId,
    model: &NewModel,
) -> Result<(), StoreError> {
    sqlx::query!(
        "with published as (update project set model_version = $2 where id = $1)
         insert into model (project, version, round, checkpoint, manifest, test_accuracy, test_count, label_count, vote_count, job)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        project as ProjectId,
        model.version,
        model.round,
        model.checkpoint,
        model.manifest,
        model.test_accuracy,
        model.test_count,
        model.label_count,
        model.vote_count,
        model.job as JobId
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The model of this version.
pub async fn find(
    connection: &mut PgConnection,
    project: ProjectId,
    version: i32,
) -> Result<Option<ModelRow>, StoreError> {
    let row = sqlx::query_as!(
        ModelRow,
        r#"select version, round, checkpoint, manifest, test_accuracy, test_count, label_count, vote_count, job as "job: JobId",
             created_at
           from model where project = $1 and version = $2"#,
        project as ProjectId,
        version
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// Models after version `after`, oldest first; the points of the learning curve.
pub async fn list(
    connection: &mut PgConnection,
    project: ProjectId,
    after: i32,
    limit: i64,
) -> Result<Vec<ModelRow>, StoreError> {
    let rows = sqlx::query_as!(
        ModelRow,
        r#"select version, round, checkpoint, manifest, test_accuracy, test_count, label_count, vote_count, job as "job: JobId",
             created_at
           from model where project = $1 and version > $2 order by version limit $3"#,
        project as ProjectId,
        after,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// The version that a job published, if it did.
pub async fn find_version_of_job(
    connection: &mut PgConnection,
    job: JobId,
) -> Result<Option<i32>, StoreError> {
    let version = sqlx::query_scalar!("select version from model where job = $1", job as JobId)
        .fetch_optional(connection)
        .await?;
    Ok(version)
}

/// How often the guesses of the model that asked were right on the settled items of one round, drawn or chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuessCounts {
    /// The round.
    pub round: i32,
    /// Whether the items were drawn at random or chosen by the rule, asked ahead included.
    pub drawn: bool,
    /// The model that guessed.
    pub model_version: i32,
    /// Labelled items it learned from.
    pub label_count: i32,
    /// Settled items with a guess, at least 1.
    pub item_count: i64,
    /// Of these, items whose class was the first guess.
    pub correct_count: i64,
    /// Items that could be asked when the round chose.
    pub askable_count: Option<i64>,
    /// Items of the pool then.
    pub pool_count: Option<i64>,
}

/// The guesses of a project in the order of rounds and versions; rounds without any are left out.
pub async fn list_guess_counts(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Vec<GuessCounts>, StoreError> {
    let rows = sqlx::query_as!(
        GuessCounts,
        r#"select t.round_number as round, t.source = 'random' as "drawn!", m.version as model_version, m.label_count,
             count(*) as "item_count!",
             count(*) filter (where (t.suggestions -> 0 ->> 'class')::smallint = i.class) as "correct_count!",
             max(r.askable_count) as askable_count, max(r.pool_count) as pool_count
           from task t
             join item i on i.id = t.item
             join model m on m.project = t.project and m.version = t.model_version
             left join round r on r.project = t.project and r.number = t.round_number
           where t.project = $1 and t.source in ('query', 'random', 'ahead') and t.state = 'settled' and i.class is not null
             and jsonb_array_length(t.suggestions) > 0
           group by t.round_number, 2, m.version, m.label_count order by t.round_number, m.version, 2"#,
        project as ProjectId
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
