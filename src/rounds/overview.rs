//! What a selection saw of the pool, kept for people to look at: a map in two dimensions, and how u and v spread.
//!
//! The worker writes it to the object store beside its choice, `http` reads it. Nothing is decided by it, and a round whose selection left
//! none (it was made by an older gleaner, or there was no embedding) merely has nothing to show.

use serde::{Deserialize, Serialize};

use crate::domain::ids::{ItemId, ProjectId};
use crate::domain::job::JobKind;
use crate::store::{PgConnection, StoreError, job};

use super::subject_of_round;

/// What a selection saw of the pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolOverview {
    /// Fractions of the embeddings' variance along both axes of the map.
    pub explained: [f64; 2],
    /// A sample of the unlabelled items, one of the labelled, and the whole batch.
    pub points: Vec<MapPoint>,
    /// `u` of the pool and of the batch; none without a model.
    pub uncertainty: Option<ScoreHistogram>,
    /// `v` of the pool and of the batch; none where the rule doesn't read it.
    pub pretext_loss: Option<ScoreHistogram>,
}

/// An item in the plane.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapPoint {
    /// The item.
    pub item: ItemId,
    /// Along the first axis, in its standard deviations, to a thousandth.
    pub x: f64,
    /// Along the second axis, in standard deviations of the first, to a thousandth.
    pub y: f64,
}

/// How a score spreads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreHistogram {
    /// Ends of the bins, rising; one more than there are bins.
    pub edges: Vec<f64>,
    /// Items of the pool in each bin.
    pub pool_counts: Vec<u64>,
    /// Items of the batch in each bin.
    pub batch_counts: Vec<u64>,
}

/// Blob key of the overview that the selection of a round left.
pub async fn find_overview_key(
    connection: &mut PgConnection,
    project: ProjectId,
    round: i32,
) -> Result<Option<String>, StoreError> {
    let outcome = job::find_outcome(connection, project, JobKind::Select, &subject_of_round(round)).await?;
    let key = outcome.and_then(|(_, outcome)| outcome?.get("overview")?.as_str().map(str::to_owned));
    Ok(key)
}
