//! The pairwise penalty matrix: how often each strategy beats each other one significantly.
//!
//! Private to `figures`. J. Ash et al., "Deep batch active learning by diverse, uncertain gradient lower bounds", 2020, section 4.

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontTransform, IntoFont, RGBColor, TextStyle};

use super::svg::{INK, finish};

const CELL_WIDTH: i32 = 64;
const CELL_HEIGHT: i32 = 34;
const NAME_WIDTH: i32 = 230;
const NAME_HEIGHT: i32 = 170;
const MARGIN: i32 = 12;
const FILL: RGBColor = RGBColor(0, 114, 178);

/// What `penalty_svg` draws.
#[derive(Clone, Debug, PartialEq)]
pub struct PenaltyFigure {
    /// What the figure shows, read out by screen readers.
    pub title: String,
    /// Names of the strategies.
    pub names: Vec<String>,
    /// `penalties[i][j]`: share, 0 to 1, at which strategy i beats j significantly.
    pub penalties: Vec<Vec<f64>>,
}

/// Draws a penalty matrix as an SVG document; the row beats, the column pays, the last row is what each column pays in the mean.
#[must_use]
pub fn penalty_svg(figure: &PenaltyFigure) -> String {
    let count = i32::try_from(figure.names.len()).unwrap_or(i32::MAX / 1000).min(100);
    let width = (2 * MARGIN + NAME_WIDTH + CELL_WIDTH * count.max(1)).unsigned_abs();
    let height = (2 * MARGIN + NAME_HEIGHT + CELL_HEIGHT * (count + 1) + 10).unsigned_abs();
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
    draw(&area, figure).expect("drawing into a string can't fail");
    drop(area);
    finish(&svg, &figure.title)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(area: &Area<'_>, figure: &PenaltyFigure) -> Drawn {
    for (place, name) in (0..).zip(&figure.names) {
        let (x, y) = (MARGIN + NAME_WIDTH, MARGIN + NAME_HEIGHT);
        let row_middle = y + CELL_HEIGHT * place + CELL_HEIGHT / 2;
        write(area, name, (x - 8, row_middle), HPos::Right)?;
        let turned = style(HPos::Left, VPos::Center).transform(FontTransform::Rotate270);
        let column_middle = x + CELL_WIDTH * place + CELL_WIDTH / 2;
        area.draw(&Text::new(name.as_str(), (column_middle, y - 8), turned))?;
    }
    for (row, shares) in (0..).zip(&figure.penalties) {
        draw_row(area, row, shares, 0)?;
    }
    let count = figure.penalties.len();
    let mean = |column: usize| {
        let paid: f64 =
            figure.penalties.iter().filter_map(|row| row.get(column)).filter(|p| p.is_finite()).sum();
        paid / count.max(1) as f64
    };
    let means: Vec<f64> = (0..figure.names.len()).map(mean).collect();
    let row = i32::try_from(count).unwrap_or(i32::MAX / 1000);
    let y = MARGIN + NAME_HEIGHT + CELL_HEIGHT * row + CELL_HEIGHT / 2 + 10;
    write(area, "mean penalty", (MARGIN + NAME_WIDTH - 8, y), HPos::Right)?;
    draw_row(area, row, &means, 10)?;
    area.present()
}

fn draw_row(area: &Area<'_>, row: i32, shares: &[f64], shift: i32) -> Drawn {
    for (column, &share) in (0..).zip(shares) {
        let left = MARGIN + NAME_WIDTH + CELL_WIDTH * column;
        let top = MARGIN + NAME_HEIGHT + CELL_HEIGHT * row + shift;
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        let corners = [(left + 1, top + 1), (left + CELL_WIDTH - 1, top + CELL_HEIGHT - 1)];
        // At most half as dark as the colour itself, so that the numbers stay readable on light and dark pages.
        area.draw(&Rectangle::new(corners, FILL.mix(0.06 + 0.44 * share).filled()))?;
        let middle = (left + CELL_WIDTH / 2, top + CELL_HEIGHT / 2);
        write(area, &format!("{share:.2}"), middle, HPos::Center)?;
    }
    Ok(())
}

fn write(area: &Area<'_>, text: &str, at: (i32, i32), anchor: HPos) -> Drawn {
    area.draw(&Text::new(text, at, style(anchor, VPos::Center)))
}

fn style(horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", 14).into_font()).color(&INK).pos(Pos::new(horizontal, vertical))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_a_cell_and_every_column_a_mean() {
        let figure = PenaltyFigure {
            title: "Penalties".to_owned(),
            names: vec!["margin".to_owned(), "u < v".to_owned()],
            penalties: vec![vec![0.0, 0.75], vec![0.25, f64::NAN]],
        };
        let svg = penalty_svg(&figure);
        assert!(svg.starts_with("<svg role=\"img\" aria-label=\"Penalties\" "), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 6);
        for text in ["0.75", "0.25", "0.38", "0.12", "mean penalty", "u &lt; v"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        assert!(svg.contains("currentColor") && !svg.contains("#010101"));
    }

    #[test]
    fn no_strategies_leave_an_empty_drawing() {
        let svg = penalty_svg(&PenaltyFigure { title: String::new(), names: vec![], penalties: vec![] });
        assert!(svg.contains("</svg>") && !svg.contains("<rect"));
    }
}
