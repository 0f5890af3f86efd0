//! Skips: who gave up on which task, and why.

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use crate::domain::ids::{ItemId, ProjectId, SlotId, TaskId, TokenId};
use crate::domain::item::Exclusion;
use crate::domain::task::SkipReason;

/// Notes one skip.
pub async fn create(
    connection: &mut PgConnection,
    project: ProjectId,
    task: TaskId,
    slot: SlotId,
    labeler: TokenId,
    person: Option<&str>,
    reason: SkipReason,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into skip (id, project, task, slot, labeler, person, reason) values ($1, $2, $3, $4, $5, $6, $7)",
        Uuid::now_v7(),
        project as ProjectId,
        task as TaskId,
        slot as SlotId,
        labeler as TokenId,
        person,
        reason as SkipReason
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether this labeler has skipped the task.
pub async fn exists(
    connection: &mut PgConnection,
    task: TaskId,
    labeler: TokenId,
    person: Option<&str>,
) -> Result<bool, StoreError> {
    let exists = sqlx::query_scalar!(
        r#"select exists (select from skip where task = $1 and labeler = $2 and person is not distinct from $3) as "exists!""#,
        task as TaskId,
        labeler as TokenId,
        person
    )
    .fetch_one(connection)
    .await?;
    Ok(exists)
}

/// Takes an item out of the pool for good.
pub async fn exclude_item(
    connection: &mut PgConnection,
    item: ItemId,
    why: Exclusion,
) -> Result<(), StoreError> {
    sqlx::query!("update item set excluded = $2 where id = $1", item as ItemId, why as Exclusion)
        .execute(connection)
        .await?;
    Ok(())
}

/// Lets an item rest until the round of this number.
pub async fn rest_item(
    connection: &mut PgConnection,
    item: ItemId,
    until_round: i32,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update item set ask_from_round = greatest(ask_from_round, $2) where id = $1",
        item as ItemId,
        until_round
    )
    .execute(connection)
    .await?;
    Ok(())
}
