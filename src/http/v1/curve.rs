//! The learning curve: accuracy against labels and cost, as numbers and as a drawing.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::budget::Budget;
use crate::figures::{self, CurveFigure, CurveSeries, curve_svg_sized};
use crate::http::AppState;
use crate::http::auth::{Labeler, find_project};
use crate::http::extract::{Path, Query};
use crate::http::figure::{FigureWidth, svg_answer};
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
    /// What the labels had cost when it was trained.
    cost: f64,
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
    fn new(slice: RandomSlice, points: &[CurvePoint]) -> Option<Self> {
        let accuracy = slice.correct_count as f64 / slice.item_count as f64;
        Some(Self {
            model_version: slice.model_version,
            label_count: slice.label_count,
            cost: points.iter().find(|point| point.model_version == slice.model_version)?.cost,
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
    Ok(axum::Json(Curve::read(&app, &caller, &project).await?))
}

impl Curve {
    async fn read(app: &AppState, caller: &Labeler, project: &str) -> Result<Self, ApiError> {
        let mut connection = app.store.acquire().await?;
        let row = find_project(&mut connection, caller, project).await?;
        let budget = Budget { total: row.settings.budget, cost_per_label: row.settings.cost_per_label };
        let models = store::model::list(&mut connection, row.id, 0, POINT_COUNT_MAX).await?;
        let slices = store::model::list_random_slices(&mut connection, row.id).await?;
        let points: Vec<_> = models.iter().map(|model| CurvePoint::new(model, budget)).collect();
        let random_points = slices.into_iter().filter_map(|slice| RandomPoint::new(slice, &points)).collect();
        Ok(Self { points, random_points })
    }

    /// What is drawn: the test split's line, and the random slice's where there is one.
    fn figure(&self, axis: CurveAxis) -> CurveFigure {
        let position = |labels: i32, cost: f64| match axis {
            CurveAxis::Labels => f64::from(labels),
            CurveAxis::Cost => cost,
        };
        let ends = |interval: Interval| (interval.low, interval.high);
        let tested = self.points.iter().filter_map(|point| {
            Some(figures::CurvePoint {
                position: position(point.label_count, point.cost),
                accuracy: point.test_accuracy?,
                interval: point.interval.map(ends),
            })
        });
        let random = self.random_points.iter().map(|point| figures::CurvePoint {
            position: position(point.label_count, point.cost),
            accuracy: point.accuracy,
            interval: Some(ends(point.interval)),
        });
        let series = [
            CurveSeries { name: "test split".to_owned(), points: tested.collect() },
            CurveSeries { name: "random slice".to_owned(), points: random.collect() },
        ];
        CurveFigure {
            title: "Learning curve: accuracy as labels are added".to_owned(),
            axis: axis.into(),
            series: series.into_iter().filter(|series| !series.points.is_empty()).collect(),
        }
    }
}

/// What the horizontal axis counts.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CurveAxis {
    /// Labelled items.
    #[default]
    Labels,
    /// Cost.
    Cost,
}

impl From<CurveAxis> for figures::CurveAxis {
    fn from(axis: CurveAxis) -> Self {
        match axis {
            CurveAxis::Labels => Self::Labels,
            CurveAxis::Cost => Self::Cost,
        }
    }
}

/// How the curve is drawn.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CurveFigureQuery {
    /// What the horizontal axis counts.
    #[serde(default)]
    #[param(inline)]
    axis: CurveAxis,
    /// `narrow` for a phone.
    #[serde(default)]
    #[param(inline)]
    size: FigureWidth,
}

/// Draws both curves with their intervals.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/curve.svg",
    operation_id = "draw_curve",
    tag = "results",
    params(("project" = String, Path, description = "Name or id"), CurveFigureQuery),
    responses(
        (status = 200, description = "The drawing", body = String, content_type = "image/svg+xml"),
    ),
)]
pub async fn draw_curve(
    State(app): State<AppState>,
    caller: Labeler,
    Path(project): Path<String>,
    Query(query): Query<CurveFigureQuery>,
) -> Result<Response, ApiError> {
    let figure = Curve::read(&app, &caller, &project).await?.figure(query.axis);
    svg_answer(query.size, move |size| curve_svg_sized(&figure, size)).await
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
