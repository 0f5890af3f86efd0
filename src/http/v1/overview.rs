//! What the selection of a round saw of the pool: a map in two dimensions, and how u and v spread.

use std::collections::HashMap;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::ids::ItemId;
use crate::figures::{HistogramFigure, histogram_svg};
use crate::http::AppState;
use crate::http::auth::{Operator, find_project};
use crate::http::extract::{Path, Query};
use crate::http::figure::{FigureWidth, svg_answer};
use crate::http::problem::{ApiError, Problem};
use crate::rounds::overview::{PoolOverview, ScoreHistogram, find_overview_key};
use crate::store::class::ClassNames;
use crate::store::item::{self, ItemStanding};
use crate::store::project::ProjectRow;

/// The pool in the plane in which its embeddings vary most.
#[derive(Debug, Serialize, ToSchema)]
pub struct PoolMap {
    /// The round whose selection saw it so.
    round: i32,
    /// Fractions of the embeddings' variance along both axes.
    explained: [f64; 2],
    /// A sample of the pool, the same in every round, with the whole batch.
    points: Vec<PoolMapPoint>,
}

/// An item on the map.
#[derive(Debug, Serialize, ToSchema)]
pub struct PoolMapPoint {
    item: ItemId,
    /// In standard deviations along the first axis.
    x: f64,
    y: f64,
    /// Whether the round's batch asks it.
    in_batch: bool,
    /// Its class by now; null while it is unlabelled.
    class: Option<String>,
}

/// How the scores of a round's selection spread over the pool and over its batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoundScores {
    /// `u`; null for a seed batch, which no model has scored.
    uncertainty: Option<HistogramAnswer>,
    /// `v`; null where the rule doesn't read it.
    pretext_loss: Option<HistogramAnswer>,
}

/// Counts in bins.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistogramAnswer {
    /// Ends of the bins, rising; one more than there are bins.
    edges: Vec<f64>,
    /// Items that could be asked, in each bin.
    pool_counts: Vec<u64>,
    /// Items of the batch in each bin.
    batch_counts: Vec<u64>,
}

impl From<ScoreHistogram> for HistogramAnswer {
    fn from(histogram: ScoreHistogram) -> Self {
        let ScoreHistogram { edges, pool_counts, batch_counts } = histogram;
        Self { edges, pool_counts, batch_counts }
    }
}

/// Shows the pool as the selection of a round saw it, in two dimensions; with classes as they are known by now.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/rounds/{number}/map",
    operation_id = "get_round_map",
    tag = "rounds",
    params(("project" = String, Path, description = "Name or id"), ("number" = i32, Path, description = "The round's number")),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The map", body = PoolMap),
    ),
)]
pub async fn get_round_map(
    State(app): State<AppState>,
    caller: Operator,
    Path((project, number)): Path<(String, i32)>,
) -> Result<axum::Json<PoolMap>, ApiError> {
    let (row, overview) = find_overview(&app, &caller, &project, number).await?;
    let items: Vec<ItemId> = overview.points.iter().map(|point| point.item).collect();
    let mut connection = app.store.acquire().await?;
    let class_names = ClassNames::read(&mut connection, row.id).await?;
    let standings = item::list_standings(&mut connection, row.id, number, &items).await?;
    drop(connection);
    let standings: HashMap<ItemId, ItemStanding> =
        standings.into_iter().map(|standing| (standing.id, standing)).collect();
    let points = overview.points.iter().filter_map(|point| {
        let standing = standings.get(&point.item)?;
        Some(PoolMapPoint {
            item: point.item,
            x: point.x,
            y: point.y,
            in_batch: standing.in_batch,
            class: standing.class.map(|class| class_names.name(class)),
        })
    });
    Ok(axum::Json(PoolMap { round: number, explained: overview.explained, points: points.collect() }))
}

/// Shows how u and v spread over the pool of a round's selection, and over its batch.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/rounds/{number}/scores",
    operation_id = "get_round_scores",
    tag = "rounds",
    params(("project" = String, Path, description = "Name or id"), ("number" = i32, Path, description = "The round's number")),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The histograms", body = RoundScores),
    ),
)]
pub async fn get_round_scores(
    State(app): State<AppState>,
    caller: Operator,
    Path((project, number)): Path<(String, i32)>,
) -> Result<axum::Json<RoundScores>, ApiError> {
    let (_, overview) = find_overview(&app, &caller, &project, number).await?;
    Ok(axum::Json(RoundScores {
        uncertainty: overview.uncertainty.map(HistogramAnswer::from),
        pretext_loss: overview.pretext_loss.map(HistogramAnswer::from),
    }))
}

/// Which score is drawn.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScoreMeasure {
    /// u.
    Uncertainty,
    /// v.
    PretextLoss,
}

/// Which score is drawn, and how wide.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ScoreFigureQuery {
    /// The score.
    #[param(inline)]
    measure: ScoreMeasure,
    /// `narrow` for a phone.
    #[serde(default)]
    #[param(inline)]
    size: FigureWidth,
}

/// Draws how a score spreads over the pool of a round's selection, and over its batch.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/rounds/{number}/scores.svg",
    operation_id = "draw_round_scores",
    tag = "rounds",
    params(
        ("project" = String, Path, description = "Name or id"),
        ("number" = i32, Path, description = "The round's number"),
        ScoreFigureQuery,
    ),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "The drawing", body = String, content_type = "image/svg+xml"),
    ),
)]
pub async fn draw_round_scores(
    State(app): State<AppState>,
    caller: Operator,
    Path((project, number)): Path<(String, i32)>,
    Query(query): Query<ScoreFigureQuery>,
) -> Result<Response, ApiError> {
    let (_, overview) = find_overview(&app, &caller, &project, number).await?;
    let (histogram, name) = match query.measure {
        ScoreMeasure::Uncertainty => (overview.uncertainty, "uncertainty u"),
        ScoreMeasure::PretextLoss => (overview.pretext_loss, "pretext loss v"),
    };
    let histogram = histogram.ok_or_else(|| ApiError::not_found("histogram of round", number))?;
    let figure = HistogramFigure {
        title: format!("{name} of the pool and of the batch of round {number}"),
        axis: name.to_owned(),
        edges: histogram.edges,
        pool_counts: histogram.pool_counts,
        batch_counts: histogram.batch_counts,
    };
    svg_answer(query.size, move |size| histogram_svg(&figure, size)).await
}

/// The overview that a round's selection left.
async fn find_overview(
    app: &AppState,
    caller: &Operator,
    project: &str,
    number: i32,
) -> Result<(ProjectRow, PoolOverview), ApiError> {
    let (row, key) = {
        let mut connection = app.store.acquire().await?;
        let row = find_project(&mut connection, caller, project).await?;
        let key = find_overview_key(&mut connection, row.id, number).await?;
        (row, key.ok_or_else(|| ApiError::not_found("overview of round", number))?)
    };
    let bytes = app.blob.get(&key).await?;
    // A map of 18,000 points takes some milliseconds to read.
    let overview = tokio::task::spawn_blocking(move || serde_json::from_slice(&bytes))
        .await
        .map_err(ApiError::internal)?
        .map_err(ApiError::internal)?;
    Ok((row, overview))
}
