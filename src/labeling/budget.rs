//! How many votes a project may still ask for. Whoever makes slots by it holds the project's lock.

use crate::domain::budget::Budget;
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, StoreError, label, slot};

/// Votes that the budget still buys beyond those that are paid or reserved.
pub(crate) async fn free_votes(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<u64, StoreError> {
    let budget = Budget { total: project.settings.budget, cost_per_label: project.settings.cost_per_label };
    let paid_count = label::count_paid(connection, project.id).await?.unsigned_abs();
    let reserved_count = slot::count_reserved(connection, project.id).await?.unsigned_abs();
    Ok(budget.free_votes(paid_count, reserved_count))
}
