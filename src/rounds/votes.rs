//! How many votes a project may still ask for, and how they are shared out.

use crate::domain::budget::Budget;
use crate::store::project::ProjectRow;
use crate::store::{PgConnection, StoreError, label, slot};

/// Votes that the budget still buys beyond those that are paid or reserved.
pub(super) async fn free_votes(
    connection: &mut PgConnection,
    project: &ProjectRow,
) -> Result<u64, StoreError> {
    let budget = Budget { total: project.settings.budget, cost_per_label: project.settings.cost_per_label };
    let paid_count = label::count_paid(connection, project.id).await?.unsigned_abs();
    let reserved_count = slot::count_reserved(connection, project.id).await?.unsigned_abs();
    Ok(budget.free_votes(paid_count, reserved_count))
}

/// A share of a batch in whole items, to the nearest.
pub(super) fn share_of(count: u32, fraction: f64) -> u32 {
    // Rounding a product of a u32 and a fraction up to 1 stays within u32.
    (f64::from(count) * fraction).round().clamp(0.0, f64::from(count)) as u32
}
