//! How a score spreads over a pool, and over the batch that was asked because of it.
//!
//! Private to `figures`. Both are drawn as shares of their own, since a batch is small beside its pool.

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, SeriesLabelPosition};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::Rectangle;
use plotters::style::{Color, IntoFont, RGBColor};

use super::frame::{FigureSize, INK, SERIES_COLOURS, annotate, finish};

/// What `histogram_svg` draws.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramFigure {
    /// What the figure shows, read out by screen readers.
    pub title: String,
    /// What the horizontal axis measures.
    pub axis: String,
    /// Ends of the bins, rising; one more than there are bins. Their places on the axis are even, their values need not be.
    pub edges: Vec<f64>,
    /// Items of the pool in each bin.
    pub pool_counts: Vec<u64>,
    /// Items of the batch in each bin.
    pub batch_counts: Vec<u64>,
}

/// Draws the pool's spread with the batch's over it.
#[must_use]
pub fn histogram_svg(figure: &HistogramFigure, size: FigureSize) -> String {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (size.width, size.height)).into_drawing_area();
    draw(&area, figure).expect("drawing finite numbers into a string can't fail");
    drop(area);
    let words = [("pool", &figure.pool_counts), ("batch", &figure.batch_counts)].into_iter().flat_map(
        |(name, counts)| {
            counts.iter().enumerate().filter(|(_, count)| **count > 0).map(move |(bin, count)| {
                let edge = |place: usize| write_value(figure.edges.get(place).copied().unwrap_or_default());
                format!("{name}: {count} from {} to {}", edge(bin), edge(bin + 1))
            })
        },
    );
    finish(&annotate(&svg, "<rect ", words), &figure.title)
}

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(area: &DrawingArea<SVGBackend<'_>, Shift>, figure: &HistogramFigure) -> Drawn {
    let bin_count = figure.edges.len().saturating_sub(1);
    let (pool, batch) = (shares(&figure.pool_counts), shares(&figure.batch_counts));
    let most = pool.iter().chain(&batch).copied().fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..(bin_count.max(1) as f64), 0.0..(most * 1.08).max(0.01))?;
    let label = ("sans-serif", 14).into_font().color(&INK);
    let edge_at = |place: &f64| {
        // Bounded by the number of edges, so neither cast can lose anything.
        let nearest = place.round().clamp(0.0, bin_count as f64) as usize;
        write_value(figure.edges.get(nearest).copied().unwrap_or_default())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .axis_style(INK.mix(0.6))
        .bold_line_style(INK.mix(0.12))
        .light_line_style(INK.mix(0.0))
        .label_style(label.clone())
        .axis_desc_style(label)
        .x_labels(5)
        .y_labels(5)
        .x_desc(figure.axis.as_str())
        .x_label_formatter(&edge_at)
        .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
        .draw()?;
    for (name, shares, colour, opacity, inset) in
        [("pool", &pool, SERIES_COLOURS[6], 0.45, 0.0), ("batch", &batch, SERIES_COLOURS[1], 0.85, 0.22)]
    {
        chart.draw_series(bars(shares, colour, opacity, inset))?.label(name).legend(move |(x, y)| {
            Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.mix(opacity).filled())
        });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(("sans-serif", 14).into_font().color(&INK))
        .draw()?;
    area.present()
}

/// A bar for each bin that isn't empty.
fn bars(
    shares: &[f64],
    colour: RGBColor,
    opacity: f64,
    inset: f64,
) -> impl Iterator<Item = Rectangle<(f64, f64)>> + '_ {
    let full = shares.iter().enumerate().filter(|(_, share)| **share > 0.0);
    full.map(move |(bin, share)| {
        let left = bin as f64;
        Rectangle::new([(left + inset, 0.0), (left + 1.0 - inset, *share)], colour.mix(opacity).filled())
    })
}

fn shares(counts: &[u64]) -> Vec<f64> {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    counts.iter().map(|count| *count as f64 / total).collect()
}

/// A score with two digits that say something.
fn write_value(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || size >= 10.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        size if size >= 0.01 => format!("{value:.2}"),
        _ => format!("{value:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(pool_counts: Vec<u64>, batch_counts: Vec<u64>) -> HistogramFigure {
        HistogramFigure {
            title: "u of pool & batch".to_owned(),
            axis: "uncertainty u".to_owned(),
            edges: vec![0.0, 0.25, 0.5, 0.75, 1.0],
            pool_counts,
            batch_counts,
        }
    }

    #[test]
    fn every_bin_with_items_has_a_bar_that_says_how_many() {
        let svg = histogram_svg(&figure(vec![70, 20, 0, 10], vec![0, 0, 1, 3]), FigureSize::WIDE);
        assert!(svg.starts_with("<svg role=\"img\" aria-label=\"u of pool &amp; batch\" "), "{svg}");
        assert_eq!(svg.matches("class=\"mark\"").count(), 5, "{svg}");
        for words in ["pool: 70 from 0 to 0.25", "batch: 3 from 0.75 to 1.0"] {
            assert!(svg.contains(&format!("<title>{words}</title>")), "{svg}");
        }
        assert!(svg.contains("uncertainty u") && !svg.contains("#010101"));
    }

    #[test]
    fn an_empty_pool_leaves_empty_axes() {
        let svg = histogram_svg(&figure(vec![0; 4], vec![0; 4]), FigureSize::NARROW);
        assert!(!svg.contains("class=\"mark\"") && svg.contains("batch"), "{svg}");
    }

    #[rstest::rstest]
    #[case(0.0, "0")]
    #[case(0.00012, "1e-4")]
    #[case(0.254, "0.25")]
    #[case(4.44, "4.4")]
    #[case(123.4, "123")]
    fn values_are_short(#[case] value: f64, #[case] text: &str) {
        assert_eq!(write_value(value), text);
    }
}
