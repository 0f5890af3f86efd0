//! The learning curve: accuracy against labels and cost, measured, honest and predicted, as numbers and as a drawing.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::budget::Budget;
use crate::domain::interval::{Interval, Z_95};
use crate::domain::job::JobKind;
use crate::domain::learning_curve::{self, LearningCurve};
use crate::domain::random_slice::PoolAccuracy;
use crate::domain::settings::ProjectSettings;
use crate::figures::{self, CurveFigure, CurveSeries, curve_svg_sized};
use crate::http::AppState;
use crate::http::auth::{Labeler, find_project};
use crate::http::extract::{Path, Query};
use crate::http::figure::{FigureWidth, svg_answer};
use crate::http::problem::ApiError;
use crate::rounds::curve::{MODEL_COUNT_MAX, ModelSlice, read_slices};
use crate::rounds::request::{AuditOutcome, SampleComparison, from_json};
use crate::store;
use crate::store::model::ModelRow;

/// Batches ahead that are predicted.
const PREDICTED_STEP_COUNT: u32 = 5;

/// The curves of a project.
#[derive(Debug, Serialize, ToSchema)]
pub struct Curve {
    /// One point a model, measured on the test split.
    points: Vec<CurvePoint>,
    /// One point a model, measured on the items drawn at random into the batch after it: an honest estimate without a test split.
    random_points: Vec<RandomPoint>,
    /// What the next batches will bring, if the curve goes on as a power law; empty before three points.
    predictions: Vec<PredictedPoint>,
    /// Whether asking by the strategy teaches more than asking at random; null before an audit has enough of both.
    active_sampling: Option<ActiveSampling>,
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
    /// Over the whole pool: the random items stand for what was unlabelled, guesses made before their label for what was asked earlier.
    accuracy: f64,
    interval: Interval,
    /// Over what was unlabelled when the batch was chosen: the random items alone.
    unlabeled_accuracy: f64,
    unlabeled_interval: Interval,
    /// How many items were drawn and settled.
    item_count: u64,
}

/// What a further batch will bring.
#[derive(Debug, Serialize, ToSchema)]
pub struct PredictedPoint {
    /// Labelled items to learn from.
    label_count: u32,
    /// What the labels will have cost.
    cost: f64,
    accuracy: f64,
    /// Where the accuracy lies with 95 % probability, as far as the power law holds.
    interval: Interval,
}

/// Two models that learned from equal counts of labels: one from random items, one from queried ones.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActiveSampling {
    verdict: SamplingVerdict,
    /// Labels that each model learned from (linear on embeddings, five draws).
    label_count: u32,
    random_accuracy: f64,
    queried_accuracy: f64,
    /// 95 % interval of queried minus random accuracy.
    difference_interval: DifferenceInterval,
    /// Items that both were asked about.
    evaluated_count: u32,
    /// Whether these are the test split, or random items that neither had seen.
    on_test_split: bool,
}

/// Bounds of a difference, −1 to 1.
#[derive(Debug, Serialize, ToSchema)]
pub struct DifferenceInterval {
    low: f64,
    high: f64,
}

/// Whether active sampling helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SamplingVerdict {
    /// Queried labels teach more, with confidence.
    Helps,
    /// Random labels teach more, with confidence.
    Hurts,
    /// The labels so far can't tell.
    Unclear,
}

impl CurvePoint {
    fn new(model: &ModelRow, budget: Budget) -> Self {
        let test_count = u64::try_from(model.test_count).unwrap_or_default();
        let interval = model.test_accuracy.and_then(|accuracy| Interval::wilson(accuracy, test_count));
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
    fn new(slice: &ModelSlice, points: &[CurvePoint]) -> Option<Self> {
        let found = PoolAccuracy::of(&slice.slice, Z_95)?;
        Some(Self {
            model_version: slice.model_version,
            label_count: slice.label_count,
            cost: points.iter().find(|point| point.model_version == slice.model_version)?.cost,
            accuracy: found.accuracy,
            interval: found.interval,
            unlabeled_accuracy: found.unlabeled_accuracy,
            unlabeled_interval: found.unlabeled_interval,
            item_count: slice.slice.random.item_count,
        })
    }
}

impl From<SampleComparison> for ActiveSampling {
    fn from(found: SampleComparison) -> Self {
        let difference = found.queried_accuracy - found.random_accuracy;
        let half = Z_95 * found.difference_deviation;
        let (low, high) = ((difference - half).max(-1.0), (difference + half).min(1.0));
        let verdict = if low > 0.0 {
            SamplingVerdict::Helps
        } else if high < 0.0 {
            SamplingVerdict::Hurts
        } else {
            SamplingVerdict::Unclear
        };
        Self {
            verdict,
            label_count: found.label_count,
            random_accuracy: found.random_accuracy,
            queried_accuracy: found.queried_accuracy,
            difference_interval: DifferenceInterval { low, high },
            evaluated_count: found.evaluated_count,
            on_test_split: found.on_test_split,
        }
    }
}

/// Shows accuracy, labels and cost of every model, the honest curve of the random items, and what the next batches will bring.
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
        let models = store::model::list(&mut connection, row.id, 0, MODEL_COUNT_MAX).await?;
        let slices = read_slices(&mut connection, &row).await?;
        let audit = store::job::find_newest_outcome(&mut connection, row.id, JobKind::Audit).await?;
        let audit = audit.map(|(_, outcome)| from_json::<AuditOutcome>("outcome", &outcome));
        let audit = audit.transpose().map_err(ApiError::internal)?;
        let points: Vec<_> = models.iter().map(|model| CurvePoint::new(model, budget)).collect();
        let random_points = slices.iter().filter_map(|slice| RandomPoint::new(slice, &points)).collect();
        Ok(Self {
            points,
            random_points,
            predictions: predict(&models, &slices, &row.settings, budget),
            active_sampling: audit.and_then(|audit| audit.comparison).map(ActiveSampling::from),
        })
    }

    /// What is drawn: the test split's line, the random slice's where there is one, and where the first of them is expected to go on.
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
        let forecast = self.predictions.iter().map(|point| figures::CurvePoint {
            position: match axis {
                CurveAxis::Labels => f64::from(point.label_count),
                CurveAxis::Cost => point.cost,
            },
            accuracy: point.accuracy,
            interval: Some(ends(point.interval)),
        });
        CurveFigure {
            title: "Learning curve: accuracy as labels are added".to_owned(),
            axis: axis.into(),
            series: series.into_iter().filter(|series| !series.points.is_empty()).collect(),
            forecast: forecast.collect(),
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

/// The next batches by the points of the test split, or without one by the honest points.
fn predict(
    models: &[ModelRow],
    slices: &[ModelSlice],
    settings: &ProjectSettings,
    budget: Budget,
) -> Vec<PredictedPoint> {
    let count = |count: i32| u32::try_from(count).unwrap_or_default();
    let tested: Vec<_> = models
        .iter()
        .filter_map(|model| {
            let test_count = u64::try_from(model.test_count).ok()?;
            let label_count = count(model.label_count);
            Some(learning_curve::CurvePoint::counted(label_count, model.test_accuracy?, test_count))
        })
        .collect();
    let honest = || -> Vec<_> {
        slices
            .iter()
            .filter_map(|slice| {
                let found = PoolAccuracy::of(&slice.slice, Z_95)?;
                let deviation = (found.interval.high - found.interval.low) / (2.0 * Z_95);
                let label_count = count(slice.label_count);
                Some(learning_curve::CurvePoint { label_count, accuracy: found.accuracy, deviation })
            })
            .collect()
    };
    let points = if tested.is_empty() { honest() } else { tested };
    let (Some(curve), Some(newest)) = (LearningCurve::fit(&points), models.last()) else {
        return Vec::new();
    };
    let (label_count, vote_count) = (count(newest.label_count), newest.vote_count.unsigned_abs());
    let step = |number: u32| {
        let further = number.saturating_mul(settings.batch_size);
        let votes = u64::from(further) * u64::from(settings.votes_per_task);
        let label_count = label_count.saturating_add(further);
        let predicted = curve.predict(label_count);
        PredictedPoint {
            label_count,
            cost: budget.spent(vote_count + votes),
            accuracy: predicted.accuracy,
            interval: predicted.interval,
        }
    };
    (1..=PREDICTED_STEP_COUNT).map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(random_accuracy: f64, queried_accuracy: f64, difference_deviation: f64) -> SamplingVerdict {
        let found = SampleComparison {
            label_count: 100,
            evaluated_count: 1000,
            on_test_split: true,
            random_accuracy,
            queried_accuracy,
            difference_deviation,
        };
        ActiveSampling::from(found).verdict
    }

    #[test]
    fn a_difference_within_its_error_is_no_verdict() {
        assert_eq!(verdict(0.80, 0.83, 0.01), SamplingVerdict::Helps);
        assert_eq!(verdict(0.83, 0.80, 0.01), SamplingVerdict::Hurts);
        assert_eq!(verdict(0.80, 0.81, 0.01), SamplingVerdict::Unclear);
    }
}
