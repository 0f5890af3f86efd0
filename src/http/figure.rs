//! Drawings as answers: how wide they are asked, and their media type.
//!
//! Drawing is arithmetic over text that may take milliseconds, so it happens on a blocking thread.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::problem::ApiError;
use crate::figures::FigureSize;

/// How wide a drawing is meant to be shown.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FigureWidth {
    /// A panel of a desktop page.
    #[default]
    Wide,
    /// A phone.
    Narrow,
}

impl From<FigureWidth> for FigureSize {
    fn from(width: FigureWidth) -> Self {
        match width {
            FigureWidth::Wide => Self::WIDE,
            FigureWidth::Narrow => Self::NARROW,
        }
    }
}

/// How a drawing is asked.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FigureQuery {
    /// `narrow` for a phone.
    #[serde(default)]
    #[param(inline)]
    pub size: FigureWidth,
}

/// Draws, and answers the drawing.
pub async fn svg_answer(
    width: FigureWidth,
    draw: impl FnOnce(FigureSize) -> String + Send + 'static,
) -> Result<Response, ApiError> {
    let svg = tokio::task::spawn_blocking(move || draw(width.into())).await.map_err(ApiError::internal)?;
    Ok(([(CONTENT_TYPE, "image/svg+xml")], svg).into_response())
}
