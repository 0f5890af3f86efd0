//! The learning curve: test accuracy against labels or cost, with an interval around it.
//!
//! Private to `figures`. Colours: M. Okabe, K. Ito, "Color universal design", 2008.

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext, SeriesLabelPosition};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, Cross, PathElement, Polygon};
use plotters::series::{DashedLineSeries, LineSeries};
use plotters::style::{Color, IntoFont, RGBColor};

use super::svg::{INK, finish};

const WIDTH: u32 = 720;
const HEIGHT: u32 = 420;

const SERIES_COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(128, 128, 128),
];

/// What the horizontal axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurveAxis {
    /// Labels in the training set.
    Labels,
    /// Cost so far, in the project's unit.
    Cost,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    /// Labels or cost.
    pub position: f64,
    /// Test accuracy, 0 to 1.
    pub accuracy: f64,
    /// Ends of its interval, 0 to 1, the lower first.
    pub interval: Option<(f64, f64)>,
}

/// One line of a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct CurveSeries {
    /// What stands in the legend; with one series there is none.
    pub name: String,
    /// Measurements by rising position; those that are no numbers are left out.
    pub points: Vec<CurvePoint>,
}

/// What `curve_svg` draws.
#[derive(Clone, Debug, PartialEq)]
pub struct CurveFigure {
    /// What the figure shows, read out by screen readers.
    pub title: String,
    /// What the horizontal axis counts.
    pub axis: CurveAxis,
    /// The lines.
    pub series: Vec<CurveSeries>,
}

/// Draws a learning curve as an SVG document of 720 by 420 that scales to any width; without points it holds only axes.
#[must_use]
pub fn curve_svg(figure: &CurveFigure) -> String {
    let mut svg = String::new();
    let series: Vec<_> = figure.series.iter().map(|series| (series, drawable(&series.points))).collect();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
    draw(&area, figure, &series).expect("drawing finite numbers into a string can't fail");
    drop(area);
    finish(&svg, &figure.title)
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    figure: &CurveFigure,
    series: &[(&CurveSeries, Vec<CurvePoint>)],
) -> Drawn {
    let points = || series.iter().flat_map(|(_, points)| points);
    let right = points().map(|point| point.position).fold(1.0, f64::max);
    let ends = points().map(|point| point.interval.unwrap_or((point.accuracy, point.accuracy)));
    let (low, high) =
        ends.fold((1.0, 0.0), |(low, high): (f64, f64), ends| (low.min(ends.0), high.max(ends.1)));
    // To the next twentieth, so that the axis has round ends and the line keeps off them.
    let (bottom, top) = if low > high {
        (0.0, 1.0)
    } else {
        (((low - 0.01) * 20.0).floor() / 20.0, ((high + 0.01) * 20.0).ceil() / 20.0)
    };
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..right * 1.02, bottom.max(0.0)..top.min(1.0))?;
    let label = ("sans-serif", 14).into_font().color(&INK);
    chart
        .configure_mesh()
        .axis_style(INK.mix(0.6))
        .bold_line_style(INK.mix(0.12))
        .light_line_style(INK.mix(0.0))
        .label_style(label.clone())
        .axis_desc_style(label)
        .x_desc(match figure.axis {
            CurveAxis::Labels => "labels",
            CurveAxis::Cost => "cost",
        })
        .y_desc("test accuracy")
        .x_label_formatter(&|position| format!("{position:.0}"))
        .y_label_formatter(&|accuracy| format!("{accuracy:.2}"))
        .draw()?;
    for (place, (series, points)) in series.iter().enumerate() {
        let colour = SERIES_COLOURS[place % SERIES_COLOURS.len()];
        // Beyond the colours lines are told apart by their marks.
        draw_series(&mut chart, &series.name, points, colour, place >= SERIES_COLOURS.len())?;
    }
    if series.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .label_font(("sans-serif", 14).into_font().color(&INK))
            .draw()?;
    }
    area.present()
}

fn draw_series(
    chart: &mut Chart<'_, '_>,
    name: &str,
    points: &[CurvePoint],
    colour: RGBColor,
    has_crosses: bool,
) -> Drawn {
    let bounds: Vec<_> = points
        .iter()
        .filter_map(|point| point.interval.map(|(low, high)| (point.position, low, high)))
        .collect();
    if bounds.len() > 1 {
        let lower = bounds.iter().map(|&(position, low, _)| (position, low));
        let upper = bounds.iter().rev().map(|&(position, _, high)| (position, high));
        let band: Vec<_> = lower.chain(upper).collect();
        chart.draw_series([Polygon::new(band, colour.mix(0.18).filled())])?;
    }
    let line = points.iter().map(|point| (point.position, point.accuracy));
    let swatch = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2));
    let stroke = colour.stroke_width(2);
    if has_crosses {
        let drawn = chart.draw_series(DashedLineSeries::new(line.clone(), 6, 4, stroke))?;
        drawn.label(name).legend(move |at| Cross::new((at.0 + 9, at.1), 5, stroke));
        chart.draw_series(line.map(|at| Cross::new(at, 4, stroke)))?;
    } else {
        chart.draw_series(LineSeries::new(line.clone(), stroke))?.label(name).legend(swatch);
        chart.draw_series(line.map(|at| Circle::new(at, 3, colour.filled())))?;
    }
    Ok(())
}

/// The points that are numbers, their accuracies and intervals within 0 and 1.
fn drawable(points: &[CurvePoint]) -> Vec<CurvePoint> {
    let finite = points.iter().filter(|point| {
        let ends = point.interval.unwrap_or((0.0, 0.0));
        point.position >= 0.0
            && [point.position, point.accuracy, ends.0, ends.1].into_iter().all(f64::is_finite)
    });
    let inside = |value: f64| value.clamp(0.0, 1.0);
    finite
        .map(|point| CurvePoint {
            position: point.position,
            accuracy: inside(point.accuracy),
            interval: point.interval.map(|(low, high)| (inside(low), inside(high))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(series: Vec<CurveSeries>) -> CurveFigure {
        CurveFigure { title: "Accuracy of <demo> & co".to_owned(), axis: CurveAxis::Labels, series }
    }

    fn series(name: &str, accuracies: &[f64]) -> CurveSeries {
        let point = |(at, &accuracy): (usize, &f64)| CurvePoint {
            position: 100.0 * (at + 1) as f64,
            accuracy,
            interval: Some((accuracy - 0.01, accuracy + 0.01)),
        };
        CurveSeries { name: name.to_owned(), points: accuracies.iter().enumerate().map(point).collect() }
    }

    #[test]
    fn a_curve_has_a_line_a_band_and_a_dot_for_each_measurement() {
        let svg = curve_svg(&figure(vec![series("margin", &[0.6, 0.7, 0.75])]));
        assert!(
            svg.starts_with("<svg role=\"img\" aria-label=\"Accuracy of &lt;demo&gt; &amp; co\" "),
            "{svg}"
        );
        assert!(svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<circle").count(), 3);
        assert_eq!(svg.matches("<polygon").count(), 1);
        assert!(svg.contains("#0072B2") && svg.contains("test accuracy"));
        assert!(
            svg.contains("currentColor") && !svg.contains("#010101") && !svg.contains("#000000"),
            "{svg}"
        );
        assert!(!svg.contains(">\nmargin\n"), "one series needs no legend");
    }

    #[test]
    fn several_series_have_a_legend_with_escaped_names() {
        let svg = curve_svg(&figure(vec![series("u < v", &[0.6, 0.7]), series("random", &[0.5, 0.6])]));
        assert!(svg.contains("u &lt; v") && svg.contains("random") && svg.contains("#E69F00"), "{svg}");
    }

    #[test]
    fn no_points_and_points_that_are_no_numbers_leave_empty_axes() {
        let wrong = [(f64::NAN, 0.5), (100.0, f64::INFINITY), (-1.0, 0.5)];
        let points = wrong.map(|(position, accuracy)| CurvePoint { position, accuracy, interval: None });
        for series in [vec![], vec![CurveSeries { name: "x".into(), points: points.to_vec() }]] {
            let svg = curve_svg(&figure(series));
            assert!(svg.contains("labels") && !svg.contains("<circle"), "{svg}");
        }
    }

    #[test]
    fn a_single_perfect_score_is_drawn_within_the_axes() {
        let point = CurvePoint { position: 0.0, accuracy: 1.0, interval: Some((0.9, 1.2)) };
        let svg = curve_svg(&figure(vec![CurveSeries { name: "x".into(), points: vec![point] }]));
        assert_eq!(svg.matches("<circle").count(), 1);
    }
}
