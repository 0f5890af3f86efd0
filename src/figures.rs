//! Figures as SVG: what an experiment or a project came to, drawn the same for pages, reports and `simulate`.
//!
//! Pure: numbers in, text out. No fonts are read: text is SVG text in the reader's own sans-serif. Axes and text take `currentColor`, so one
//! figure suits light and dark pages; series have the colours of Okabe and Ito, told apart by every common kind of colour blindness. A
//! mark (class `mark`) has its numbers in words, for whoever points at it.

mod confusion;
mod curve;
mod frame;
mod histogram;
mod penalty;
mod stack;

pub use confusion::{ConfusionFigure, confusion_svg};
pub use curve::{CurveAxis, CurveFigure, CurvePoint, CurveSeries, curve_svg, curve_svg_sized};
pub use frame::FigureSize;
pub use histogram::{HistogramFigure, histogram_svg};
pub use penalty::{PenaltyFigure, penalty_svg};
pub use stack::stack_svg;
