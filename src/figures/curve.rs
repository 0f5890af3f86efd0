//! The learning curve: accuracy against labels or cost, with an interval around it, and where it is expected to go on.
//!
//! Private to `figures`.

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext, SeriesLabelPosition};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, Cross, PathElement, Polygon};
use plotters::series::{DashedLineSeries, LineSeries};
use plotters::style::{Color, IntoFont, RGBAColor, RGBColor};

use super::frame::{FigureSize, INK, SERIES_COLOURS, annotate, finish};

/// What a report holds.
const REPORT_SIZE: FigureSize = FigureSize { width: 720, height: 420 };

/// What the forecast is called.
const FORECAST_NAME: &str = "forecast";

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
    /// What is expected beyond them, by rising position: dashed, in the first line's colour.
    pub forecast: Vec<CurvePoint>,
}

/// Draws a learning curve as an SVG document of 720 by 420 that scales to any width; without points it holds only axes.
#[must_use]
pub fn curve_svg(figure: &CurveFigure) -> String {
    curve_svg_sized(figure, REPORT_SIZE)
}

/// Draws a learning curve in another size.
#[must_use]
pub fn curve_svg_sized(figure: &CurveFigure, size: FigureSize) -> String {
    let mut svg = String::new();
    let series: Vec<_> = figure.series.iter().map(|series| (series, drawable(&series.points))).collect();
    let forecast = drawable(&figure.forecast);
    let area = SVGBackend::with_string(&mut svg, (size.width, size.height)).into_drawing_area();
    draw(&area, figure, &series, &forecast).expect("drawing finite numbers into a string can't fail");
    drop(area);
    let dotted = series.iter().take(SERIES_COLOURS.len());
    let name =
        |series: &CurveSeries| if figure.series.len() > 1 { series.name.clone() } else { String::new() };
    let measured = dotted.flat_map(|(series, points)| {
        points.iter().map(move |point| describe(figure.axis, &name(series), point))
    });
    let expected = forecast.iter().map(|point| describe(figure.axis, FORECAST_NAME, point));
    finish(&annotate(&svg, "<circle ", measured.chain(expected)), &figure.title)
}

/// What a measurement says when it is pointed at; `name` is empty where there is only one line.
fn describe(axis: CurveAxis, name: &str, point: &CurvePoint) -> String {
    let place = match axis {
        CurveAxis::Labels => format!("{:.0} labels", point.position),
        CurveAxis::Cost => format!("a cost of {:.0}", point.position),
    };
    let name = if name.is_empty() { String::new() } else { format!("{name}: ") };
    let interval = point.interval.map(|(low, high)| format!(" ({:.1} to {:.1})", low * 100.0, high * 100.0));
    let accuracy = point.accuracy * 100.0;
    format!("{name}{accuracy:.1} %{} at {place}", interval.unwrap_or_default())
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    figure: &CurveFigure,
    series: &[(&CurveSeries, Vec<CurvePoint>)],
    forecast: &[CurvePoint],
) -> Drawn {
    let points = || series.iter().flat_map(|(_, points)| points);
    let right = points().chain(forecast).map(|point| point.position).fold(1.0, f64::max);
    // A forecast's interval may be wide; only where it leads decides what is in sight.
    let ends = points()
        .map(|point| point.interval.unwrap_or((point.accuracy, point.accuracy)))
        .chain(forecast.iter().map(|point| (point.accuracy, point.accuracy)));
    let (low, high) =
        ends.fold((1.0, 0.0), |(low, high): (f64, f64), ends| (low.min(ends.0), high.max(ends.1)));
    // To the next twentieth, so that the axis has round ends and the line keeps off them.
    let (bottom, top) = if low > high {
        (0.0, 1.0)
    } else {
        (((low - 0.01) * 20.0).floor() / 20.0, ((high + 0.01) * 20.0).ceil() / 20.0)
    };
    let (bottom, top) = (bottom.max(0.0), top.min(1.0));
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..right * 1.02, bottom..top)?;
    let label = ("sans-serif", 14).into_font().color(&INK);
    chart
        .configure_mesh()
        .axis_style(INK.mix(0.6))
        .bold_line_style(INK.mix(0.12))
        .light_line_style(INK.mix(0.0))
        .x_labels(if area.dim_in_pixel().0 < FigureSize::WIDE.width { 5 } else { 10 })
        .label_style(label.clone())
        .axis_desc_style(label)
        .x_desc(match figure.axis {
            CurveAxis::Labels => "labels",
            CurveAxis::Cost => "cost",
        })
        .y_desc("accuracy")
        .x_label_formatter(&|position| format!("{position:.0}"))
        .y_label_formatter(&|accuracy| format!("{accuracy:.2}"))
        .draw()?;
    for (place, (series, points)) in series.iter().enumerate() {
        let colour = SERIES_COLOURS[place % SERIES_COLOURS.len()];
        // Beyond the colours lines are told apart by their marks.
        draw_series(&mut chart, &series.name, points, colour, place >= SERIES_COLOURS.len())?;
    }
    draw_forecast(&mut chart, series.first().and_then(|(_, points)| points.last()), forecast, (bottom, top))?;
    if series.len() > 1 || !forecast.is_empty() {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .label_font(("sans-serif", 14).into_font().color(&INK))
            .draw()?;
    }
    area.present()
}

/// A dashed line from the last measurement on, with hollow dots and a paler band that ends where the axes do.
fn draw_forecast(
    chart: &mut Chart<'_, '_>,
    last: Option<&CurvePoint>,
    forecast: &[CurvePoint],
    (bottom, top): (f64, f64),
) -> Drawn {
    let Some(last) = last.filter(|_| !forecast.is_empty()) else {
        return Ok(());
    };
    let colour = SERIES_COLOURS[0];
    let clipped: Vec<_> = forecast
        .iter()
        .map(|point| {
            let (low, high) = point.interval.unwrap_or((point.accuracy, point.accuracy));
            let interval = Some((low.clamp(bottom, top), high.clamp(bottom, top)));
            CurvePoint { interval, ..*point }
        })
        .collect();
    draw_band(chart, std::iter::once(last).chain(&clipped), colour.mix(0.08))?;
    let line = std::iter::once(last).chain(forecast).map(|point| (point.position, point.accuracy));
    let stroke = colour.stroke_width(2);
    let swatch = move |(x, y)| PathElement::new([(x, y), (x + 7, y)], stroke);
    chart.draw_series(DashedLineSeries::new(line, 5, 5, stroke))?.label(FORECAST_NAME).legend(swatch);
    chart
        .draw_series(forecast.iter().map(|point| Circle::new((point.position, point.accuracy), 3, stroke)))?;
    Ok(())
}

/// The area between the ends of the intervals of `points`, where there are two at least.
fn draw_band<'a>(
    chart: &mut Chart<'_, '_>,
    points: impl Iterator<Item = &'a CurvePoint>,
    colour: RGBAColor,
) -> Drawn {
    let bounds: Vec<_> =
        points.filter_map(|point| point.interval.map(|(low, high)| (point.position, low, high))).collect();
    if bounds.len() > 1 {
        let lower = bounds.iter().map(|&(position, low, _)| (position, low));
        let upper = bounds.iter().rev().map(|&(position, _, high)| (position, high));
        let band: Vec<_> = lower.chain(upper).collect();
        chart.draw_series([Polygon::new(band, colour.filled())])?;
    }
    Ok(())
}

fn draw_series(
    chart: &mut Chart<'_, '_>,
    name: &str,
    points: &[CurvePoint],
    colour: RGBColor,
    has_crosses: bool,
) -> Drawn {
    draw_band(chart, points.iter(), colour.mix(0.18))?;
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
        let title = "Accuracy of <demo> & co".to_owned();
        CurveFigure { title, axis: CurveAxis::Labels, series, forecast: Vec::new() }
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
        assert!(svg.contains("<title>70.0 % (69.0 to 71.0) at 200 labels</title></circle>"), "{svg}");
        assert!(svg.contains("#0072B2") && svg.contains("accuracy"));
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
    fn a_forecast_goes_on_from_the_last_measurement_within_the_axes() {
        let far = CurvePoint { position: 400.0, accuracy: 0.8, interval: Some((0.1, 1.0)) };
        let measured = figure(vec![series("margin", &[0.6, 0.7, 0.75])]);
        let svg = curve_svg(&CurveFigure { forecast: vec![far], ..measured.clone() });
        assert_eq!((svg.matches("<circle").count(), svg.matches("<polygon").count()), (4, 2));
        assert!(
            svg.contains("<title>forecast: 80.0 % (10.0 to 100.0) at 400 labels</title></circle>"),
            "{svg}"
        );
        // Its wide interval doesn't change what is in sight: 0.55 to 0.85.
        assert!(svg.contains("0.85") && !svg.contains(">\n0.20\n"), "{svg}");
        let nothing = CurveFigure { series: Vec::new(), forecast: vec![far], ..measured };
        assert_eq!(curve_svg(&nothing).matches("<polygon").count(), 0);
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
