//! The body of a pretext-loss job: `v` of a shard of the pool, once for each pretext model.
//!
//! It costs several views an item and the first batch does without, so it runs while people label.

use std::sync::Arc;

use crate::blob::pretext_loss_key;
use crate::engine::{Outcome, Work};
use crate::rounds::request::{ShardOutcome, to_json};
use crate::store::job::JobRow;
use crate::store::project::ProjectRow;

use super::attempt::Attempt;
use super::embed::{load_pretext, open_shard};
use super::finish::Finished;
use super::{BodyError, Workshop};

pub(super) async fn run(
    workshop: &Workshop,
    project: &ProjectRow,
    row: &JobRow,
    attempt: &Attempt,
) -> Result<Finished, BodyError> {
    let Some(pool) = open_shard(workshop, project, row).await? else {
        return Ok(Finished::Outcome(to_json(&ShardOutcome { key: None, item_count: 0 })));
    };
    let (_, pretext) = load_pretext(workshop, project).await?;
    let work = Work::PretextLosses { model: pretext, pool: Arc::new(pool) };
    let Outcome::PretextLosses(table) = workshop.engine()?.run(project.id, work, attempt.hook()).await?
    else {
        return Err(BodyError::failed("the engine answered a measurement of v with something else"));
    };
    let key = pretext_loss_key(project.id, row.id);
    workshop.blob.put(&key, table.to_bytes()).await?;
    Ok(Finished::Outcome(to_json(&ShardOutcome { key: Some(key), item_count: table.rows.len() as u64 })))
}
