//! Figures as SVG: what an experiment or a project came to, drawn the same for pages, reports and `simulate`.
//!
//! Pure: numbers in, text out. No fonts are read: text is SVG text in the reader's own sans-serif. Axes and text take `currentColor`, so one
//! figure suits light and dark pages; series have the colours of Okabe and Ito, told apart by every common kind of colour blindness.

mod curve;
mod penalty;
mod svg;

pub use curve::{CurveAxis, CurveFigure, CurvePoint, CurveSeries, curve_svg};
pub use penalty::{PenaltyFigure, penalty_svg};
pub use svg::stack_svg;
