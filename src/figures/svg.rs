//! What all figures share: ink that follows the page, a name for screen readers, and figures below one another.

use std::fmt::Write;

use plotters::style::RGBColor;

/// Stands for the reader's text colour until the drawing is done; no series has it.
pub(super) const INK: RGBColor = RGBColor(1, 1, 1);
const INK_HEX: &str = "#010101";

/// Gives a drawing the reader's ink and its name.
pub(super) fn finish(svg: &str, title: &str) -> String {
    let title = escape(title);
    svg.replace(INK_HEX, "currentColor").replacen(
        "<svg ",
        &format!("<svg role=\"img\" aria-label=\"{title}\" "),
        1,
    )
}

/// Several figures below one another in one document; a single one stays as it is.
#[must_use]
pub fn stack_svg(figures: &[String]) -> String {
    if let [single] = figures {
        return single.clone();
    }
    let (mut width, mut height, mut inner) = (0.0, 0.0, String::new());
    for figure in figures {
        let start = figure.find("<svg ").unwrap_or_default();
        let (own_width, own_height) = (attribute(figure, "width"), attribute(figure, "height"));
        let placed = figure[start..].replacen("<svg ", &format!("<svg y=\"{height}\" "), 1);
        writeln!(inner, "{placed}").expect("text takes any line");
        width = f64::max(width, own_width);
        height += own_height;
    }
    format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" xmlns=\"http://www.w3.org/2000/svg\">\n{inner}</svg>\n"
    )
}

/// A number of the outermost element.
fn attribute(svg: &str, name: &str) -> f64 {
    let marker = format!(" {name}=\"");
    let value = svg.split_once(marker.as_str()).and_then(|(_, rest)| rest.split_once('"'));
    value.and_then(|(value, _)| value.parse().ok()).unwrap_or_default()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_below_one_another_at_their_own_size() {
        let figure =
            |width: u32, height: u32| format!("<svg width=\"{width}\" height=\"{height}\"><g/></svg>");
        let single = figure(10, 20);
        assert_eq!(stack_svg(std::slice::from_ref(&single)), single);
        let stacked = stack_svg(&[figure(10, 20), figure(30, 5)]);
        assert!(stacked.starts_with("<svg width=\"30\" height=\"25\" "), "{stacked}");
        assert!(
            stacked.contains("<svg y=\"0\" width=\"10\"") && stacked.contains("<svg y=\"20\" width=\"30\"")
        );
    }
}
