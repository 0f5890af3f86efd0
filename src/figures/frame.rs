//! What all drawings share: their sizes, ink, and the words that a mark shows when it is pointed at.
//!
//! Private to `figures`, but for the sizes.

use plotters::style::RGBColor;

/// Stands for the reader's text colour until the drawing is done; no series has it.
pub(super) const INK: RGBColor = RGBColor(1, 1, 1);
const INK_HEX: &str = "#010101";

/// Colours of M. Okabe, K. Ito, "Color universal design", 2008.
pub(super) const SERIES_COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(128, 128, 128),
];

/// Units of a drawing; it scales to any width, so this decides how large its words are beside its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FigureSize {
    /// Across.
    pub width: u32,
    /// Down.
    pub height: u32,
}

impl FigureSize {
    /// A report, or a panel of a desktop page.
    pub const WIDE: Self = Self { width: 720, height: 360 };
    /// A phone.
    pub const NARROW: Self = Self { width: 400, height: 300 };
}

/// Ends a drawing: the reader's ink, and a title for screen readers.
pub(super) fn finish(svg: &str, title: &str) -> String {
    let title = escape(title);
    svg.replace(INK_HEX, "currentColor").replacen(
        "<svg ",
        &format!("<svg role=\"img\" aria-label=\"{title}\" "),
        1,
    )
}

/// Gives the first elements that begin with `start` (as in `<circle `) their words in turn; browsers show them to whoever points there.
pub(super) fn annotate(svg: &str, start: &str, words: impl Iterator<Item = String>) -> String {
    let mut words = words;
    let mut annotated = String::with_capacity(svg.len() * 2);
    let mut rest = svg;
    while let Some(place) = rest.find(start) {
        let (before, element) = rest.split_at(place);
        let Some((end, words)) = element.find("/>").and_then(|end| Some((end, words.next()?))) else {
            break;
        };
        let words = escape(&words);
        annotated.push_str(before);
        annotated.push_str(&format!(
            "{} class=\"mark\"{}",
            start.trim_end(),
            &element[start.trim_end().len()..end]
        ));
        annotated.push_str(&format!("><title>{words}</title></{}>", start[1..].trim_end()));
        rest = &element[end + 2..];
    }
    annotated.push_str(rest);
    annotated
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_get_their_words_in_turn_and_those_without_stay_as_they_are() {
        let svg = "<svg><circle r=\"1\"/>\n<rect/><circle r=\"2\"/><circle r=\"3\"/></svg>";
        let words = ["a < b".to_owned(), "c".to_owned()];
        assert_eq!(
            annotate(svg, "<circle ", words.into_iter()),
            "<svg><circle class=\"mark\" r=\"1\"><title>a &lt; b</title></circle>\n<rect/>\
             <circle class=\"mark\" r=\"2\"><title>c</title></circle><circle r=\"3\"/></svg>"
        );
    }
}
