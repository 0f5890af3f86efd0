//! The learning curve: accuracy against labels and cost.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::budget::Budget;
use crate::http::AppState;
use crate::http::auth::{Labeler, find_project};
use crate::http::extract::Path;
use crate::http::problem::ApiError;
use crate::store;
use crate::store::model::{ModelRow, RandomSlice};

/// The most points of a curve; a project of more rounds than that doesn't occur.
const POINT_COUNT_MAX: i64 = 10_000;

/// Both curves of a project.
#[derive(Debug, Serialize, ToSchema)]
pub struct Curve {
    /// One point a model, measured on the test split.
    points: Vec<CurvePoint>,
    /// One point a model, measured on the items drawn at random into the batch after it: an honest estimate without a test split.
    random_points: Vec<RandomPoint>,
}

/// A model on the test split.
#[derive(Debug, Serialize, ToSchema)]
pub struct CurvePoint {
    round: i32,
    model_version: i32,
    /// Labelled items it learned from, imported ones included.
    label_count: i32,
    /// What the labels had cost when it was trained.
    cost: f64,
    /// Fraction of the test split it gets right; null without one.
    test_accuracy: Option<f64>,
    /// 95 % interval of the accuracy (Wilson 1927).
    interval: Option<Interval>,
    test_count: i32,
    created_at: DateTime<Utc>,
}

/// A model on items drawn at random.
#[derive(Debug, Serialize, ToSchema)]
pub struct RandomPoint {
    /// The model that guessed before the labels came.
    model_version: i32,
    /// Labelled items it learned from.
    label_count: i32,
    /// Fraction of its guesses that the labels confirmed.
    accuracy: f64,
    interval: Interval,
    /// How many items were drawn and settled.
    item_count: i64,
}

/// Bounds within which the true accuracy lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Interval {
    low: f64,
    high: f64,
}

impl Interval {
    /// The Wilson score interval of `accuracy` over `count` trials (E. B. Wilson, JASA 22:209, 1927), z = 1.96.
    fn wilson(accuracy: f64, count: i64) -> Option<Self> {
        if count <= 0 {
            return None;
        }
        let (z, n) = (1.959_964, count as f64);
        let centre = (accuracy + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let half = z / (1.0 + z * z / n) * (accuracy * (1.0 - accuracy) / n + z * z / (4.0 * n * n)).sqrt();
        Some(Self { low: (centre - half).max(0.0), high: (centre + half).min(1.0) })
    }
}

impl CurvePoint {
    fn new(model: &ModelRow, budget: Budget) -> Self {
        let interval =
            model.test_accuracy.and_then(|accuracy| Interval::wilson(accuracy, i64::from(model.test_count)));
        Self {
            round: model.round,
            model_version: model.version,
            label_count: model.label_count,
            cost: budget.spent(u64::try_from(model.vote_count).unwrap_or_default()),
            test_accuracy: model.test_accuracy,
            interval,
            test_count: model.test_count,
            created_at: model.created_at,
        }
    }
}

impl RandomPoint {
    fn new(slice: RandomSlice) -> Option<Self> {
        let accuracy = slice.correct_count as f64 / slice.item_count as f64;
        Some(Self {
            model_version: slice.model_version,
            label_count: slice.label_count,
            accuracy,
            interval: Interval::wilson(accuracy, slice.item_count)?,
            item_count: slice.item_count,
        })
    }
}

/// Shows accuracy, labels and cost of every model, and the curve of the random slice.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/curve",
    operation_id = "get_curve",
    tag = "results",
    params(("project" = String, Path, description = "Name or id")),
    responses(
        (status = 200, description = "The curves", body = Curve),
    ),
)]
pub async fn get_curve(
    State(app): State<AppState>,
    caller: Labeler,
    Path(project): Path<String>,
) -> Result<axum::Json<Curve>, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let budget = Budget { total: row.settings.budget, cost_per_label: row.settings.cost_per_label };
    let models = store::model::list(&mut connection, row.id, 0, POINT_COUNT_MAX).await?;
    let slices = store::model::list_random_slices(&mut connection, row.id).await?;
    Ok(axum::Json(Curve {
        points: models.iter().map(|model| CurvePoint::new(model, budget)).collect(),
        random_points: slices.into_iter().filter_map(RandomPoint::new).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // statsmodels.stats.proportion.proportion_confint(80, 100, method="wilson") = (0.7111708, 0.8666331)
    #[test]
    fn the_interval_is_wilsons() {
        let interval = Interval::wilson(0.8, 100).expect("a hundred trials");
        assert!(
            (interval.low - 0.711_170_8).abs() < 1e-6 && (interval.high - 0.866_633_1).abs() < 1e-6,
            "{interval:?}"
        );
        let certain = Interval::wilson(1.0, 10).expect("ten trials");
        assert!(certain.high <= 1.0 && certain.low < 1.0);
        assert_eq!(Interval::wilson(0.5, 0), None);
    }
}
