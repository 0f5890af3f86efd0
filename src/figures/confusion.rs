//! The confusion matrix: what a model takes each class of the test split for.
//!
//! Private to `figures`. A row is a class as it is, a column a class as guessed; a cell is as dark as its share of the row, so that rare
//! classes read like common ones. Many classes are cut to those with the most mistakes, which are what one looks for.

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontTransform, IntoFont, RGBColor, TextStyle};

use super::frame::{INK, SERIES_COLOURS, annotate, finish};

/// Classes that are drawn at most.
const CLASS_COUNT_MAX: usize = 40;

/// Cells hold their numbers up to so many classes.
const NUMBERED_COUNT_MAX: usize = 16;

/// Width of the longest class names, and the height of those over the columns.
const NAME_SPACE: i32 = 96;
const NAME_LENGTH_MAX: usize = 14;
const MARGIN: i32 = 8;

/// What `confusion_svg` draws.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfusionFigure {
    /// What the figure shows, read out by screen readers.
    pub title: String,
    /// Names of the classes.
    pub names: Vec<String>,
    /// `counts[c][p]`: items of class c that were taken for p.
    pub counts: Vec<Vec<u32>>,
}

/// Draws a confusion matrix as a square that scales to any width.
#[must_use]
pub fn confusion_svg(figure: &ConfusionFigure) -> String {
    let shown = choose_classes(figure);
    let cell = (560 / shown.len().max(1) as i32).clamp(14, 46);
    let edge = NAME_SPACE + MARGIN + cell * shown.len() as i32 + MARGIN;
    let mut svg = String::new();
    let area =
        SVGBackend::with_string(&mut svg, (edge.unsigned_abs(), edge.unsigned_abs())).into_drawing_area();
    draw(&area, figure, &shown, cell).expect("drawing into a string can't fail");
    drop(area);
    let words =
        shown.iter().flat_map(|&class| shown.iter().map(move |&guess| describe(figure, class, guess)));
    finish(&annotate(&svg, "<rect ", words), &figure.title)
}

/// The classes to draw, in their order: all, or those with the most mistakes in row and column.
fn choose_classes(figure: &ConfusionFigure) -> Vec<usize> {
    let count = figure.names.len().min(figure.counts.len());
    let mut classes: Vec<usize> = (0..count).collect();
    if count > CLASS_COUNT_MAX {
        let mistakes = |class: usize| -> u64 {
            let others = || (0..count).filter(|other| *other != class);
            others()
                .map(|other| u64::from(at(figure, class, other)) + u64::from(at(figure, other, class)))
                .sum()
        };
        classes.sort_by_cached_key(|&class| std::cmp::Reverse(mistakes(class)));
        classes.truncate(CLASS_COUNT_MAX);
        classes.sort_unstable();
    }
    classes
}

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    figure: &ConfusionFigure,
    shown: &[usize],
    cell: i32,
) -> Drawn {
    let start = NAME_SPACE + MARGIN;
    let place = |index: usize| start + cell * index as i32;
    for (row, &class) in shown.iter().enumerate() {
        let total: u32 = figure.counts[class].iter().sum();
        for (column, &guess) in shown.iter().enumerate() {
            let share = f64::from(at(figure, class, guess)) / f64::from(total.max(1));
            let corner = (place(column) + 1, place(row) + 1);
            let far = (place(column) + cell - 1, place(row) + cell - 1);
            area.draw(&Rectangle::new([corner, far], shade(class == guess, share).filled()))?;
        }
    }
    let right = text_style(12, HPos::Right);
    let upwards = ("sans-serif", 12)
        .into_font()
        .transform(FontTransform::Rotate270)
        .color(&INK)
        .pos(Pos::new(HPos::Left, VPos::Center));
    let small = text_style(11, HPos::Center);
    for (index, &class) in shown.iter().enumerate() {
        let middle = place(index) + cell / 2;
        let name = shorten(&figure.names[class]);
        area.draw(&Text::new(name.clone(), (NAME_SPACE, middle), right.clone()))?;
        area.draw(&Text::new(name, (middle, NAME_SPACE), upwards.clone()))?;
        if shown.len() > NUMBERED_COUNT_MAX {
            continue;
        }
        for (column, &guess) in shown.iter().enumerate().filter(|(_, guess)| at(figure, class, **guess) > 0) {
            let count = at(figure, class, guess).to_string();
            area.draw(&Text::new(count, (place(column) + cell / 2, middle), small.clone()))?;
        }
    }
    area.present()
}

fn text_style(size: u32, across: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK).pos(Pos::new(across, VPos::Center))
}

/// Right guesses in one colour, mistakes in another; never so dark that ink on it can't be read in either theme.
fn shade(is_right: bool, share: f64) -> plotters::style::RGBAColor {
    let colour: RGBColor = if is_right { SERIES_COLOURS[2] } else { SERIES_COLOURS[4] };
    // Most mistakes are a few in a hundred, so they are told apart by the root of their share.
    let opacity = if is_right { 0.10 + 0.45 * share } else { 0.75 * share.sqrt() };
    if share > 0.0 { colour.mix(opacity) } else { INK.mix(0.05) }
}

fn describe(figure: &ConfusionFigure, class: usize, guess: usize) -> String {
    let total: u32 = figure.counts[class].iter().sum();
    let count = at(figure, class, guess);
    let verb = if class == guess { "recognised as" } else { "taken for" };
    format!("{count} of {total} × {} {verb} {}", figure.names[class], figure.names[guess])
}

fn at(figure: &ConfusionFigure, class: usize, guess: usize) -> u32 {
    figure.counts.get(class).and_then(|row| row.get(guess)).copied().unwrap_or_default()
}

fn shorten(name: &str) -> String {
    if name.chars().count() <= NAME_LENGTH_MAX {
        return name.to_owned();
    }
    name.chars().take(NAME_LENGTH_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(count: usize) -> ConfusionFigure {
        let row = |class: usize| {
            (0..count).map(|guess| if guess == class { 90 } else { u32::from(guess > 40) }).collect()
        };
        ConfusionFigure {
            title: "Confusion".to_owned(),
            names: (0..count).map(|class| format!("class numbered {class}")).collect(),
            counts: (0..count).map(row).collect(),
        }
    }

    #[test]
    fn every_cell_says_what_was_taken_for_what() {
        let mut figure = figure(3);
        figure.counts[1][2] = 10;
        let svg = confusion_svg(&figure);
        assert_eq!(svg.matches("class=\"mark\"").count(), 9, "{svg}");
        assert!(
            svg.contains("<title>10 of 100 × class numbered 1 taken for class numbered 2</title>"),
            "{svg}"
        );
        assert!(
            svg.contains("<title>90 of 90 × class numbered 0 recognised as class numbered 0</title>"),
            "{svg}"
        );
        assert!(svg.contains(">\nclass numbere…\n<") && !svg.contains("#010101"));
    }

    #[test]
    fn of_many_classes_those_with_the_most_mistakes_are_drawn() {
        let svg = confusion_svg(&figure(60));
        assert_eq!(svg.matches("class=\"mark\"").count(), CLASS_COUNT_MAX * CLASS_COUNT_MAX);
        assert!(svg.contains("class numbered 59 taken") || svg.contains("taken for class numbered 59"));
    }

    #[test]
    fn no_classes_are_an_empty_square() {
        let empty = ConfusionFigure { title: "x".into(), names: Vec::new(), counts: Vec::new() };
        assert!(confusion_svg(&empty).trim_end().ends_with("</svg>"));
    }
}
