//! Fitting: brings a decoded image to a project's size and channels.
//!
//! Transparent pixels are laid over white; RGB becomes grey by the ITU-R BT.601 weights that Pillow uses; the largest centred square is
//! resized with an antialiased triangle filter, which is the same as resizing the shorter edge and cropping the centre. Pure; each
//! thread keeps one resizer.

use std::cell::RefCell;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::domain::settings::ImageShape;

use super::decode::DecodedImage;

thread_local! {
    // A resizer keeps its intermediate buffers, which cost more than resizing a small image.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// Says how channels are changed when an image of `from` channels joins a project of `to` channels; `None` when they aren't.
#[must_use]
pub fn conversion(from: u32, to: u32) -> Option<String> {
    (from != to).then(|| format!("converted from {} to {}", channels_name(from), channels_name(to)))
}

fn channels_name(channels: u32) -> &'static str {
    match channels {
        1 => "grey",
        2 => "grey with alpha",
        3 => "RGB",
        _ => "RGBA",
    }
}

/// The packed row of `image`: u8 `[size, size, channels]` of `shape`.
#[must_use]
pub fn fit(image: &DecodedImage, shape: ImageShape) -> Vec<u8> {
    let converted;
    let pixels = if image.channels == shape.channels {
        &image.pixels
    } else {
        converted = convert(&image.pixels, image.channels, shape.channels);
        &converted
    };
    if image.width == shape.size && image.height == shape.size {
        return pixels.clone();
    }
    resize(pixels, image.width, image.height, shape)
}

fn resize(pixels: &[u8], width: u32, height: u32, shape: ImageShape) -> Vec<u8> {
    let pixel_type = if shape.channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
    let source =
        ImageRef::new(width, height, pixels, pixel_type).expect("pixels are as many as width and height say");
    let mut target = Image::new(shape.size, shape.size, pixel_type);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .fit_into_destination(Some((0.5, 0.5)));
    RESIZER
        .with_borrow_mut(|resizer| resizer.resize(&source, &mut target, &options))
        .expect("source and target have one pixel type and at least one pixel");
    target.into_vec()
}

fn convert(pixels: &[u8], from: u32, to: u32) -> Vec<u8> {
    match (from, to) {
        (1, _) => pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
        (2, 1) => pixels.as_chunks().0.iter().map(|&[grey, alpha]| over_white(grey, alpha)).collect(),
        (2, _) => {
            pixels.as_chunks().0.iter().flat_map(|&[grey, alpha]| [over_white(grey, alpha); 3]).collect()
        }
        (3, _) => pixels.as_chunks().0.iter().map(|&[r, g, b]| luma(r, g, b)).collect(),
        (_, 1) => {
            let opaque = |&[r, g, b, alpha]: &[u8; 4]| {
                luma(over_white(r, alpha), over_white(g, alpha), over_white(b, alpha))
            };
            pixels.as_chunks().0.iter().map(opaque).collect()
        }
        _ => {
            let opaque = |&[r, g, b, alpha]: &[u8; 4]| [r, g, b].map(|value| over_white(value, alpha));
            pixels.as_chunks().0.iter().flat_map(opaque).collect()
        }
    }
}

fn over_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

fn luma(r: u8, g: u8, b: u8) -> u8 {
    // 0.299, 0.587 and 0.114 in 16-bit fixed point, as in Pillow's convert("L").
    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: u32, height: u32, channels: u32, pixels: Vec<u8>) -> DecodedImage {
        DecodedImage { width, height, channels, media_type: "image/png", pixels }
    }

    #[test]
    fn an_image_of_the_right_shape_is_taken_as_it_is() {
        let pixels: Vec<u8> = (0..64).collect();
        assert_eq!(fit(&image(8, 8, 1, pixels.clone()), ImageShape { size: 8, channels: 1 }), pixels);
        assert_eq!(conversion(1, 1), None);
    }

    #[test]
    fn channels_are_converted_and_said_so() {
        let grey = ImageShape { size: 1, channels: 1 };
        let rgb = ImageShape { size: 1, channels: 3 };
        assert_eq!(fit(&image(1, 1, 1, vec![9]), rgb), [9, 9, 9]);
        // Pillow: Image.new("RGB", (1, 1), (200, 100, 50)).convert("L") is 124.
        assert_eq!(fit(&image(1, 1, 3, vec![200, 100, 50]), grey), [124]);
        assert_eq!(fit(&image(1, 1, 4, vec![0, 0, 0, 0]), rgb), [255, 255, 255]);
        assert_eq!(fit(&image(1, 1, 4, vec![0, 100, 255, 255]), rgb), [0, 100, 255]);
        assert_eq!(fit(&image(1, 1, 4, vec![0, 0, 0, 51]), grey), [204]);
        assert_eq!(fit(&image(1, 1, 2, vec![0, 51]), grey), [204]);
        assert_eq!(fit(&image(1, 1, 2, vec![7, 255]), rgb), [7, 7, 7]);
        assert_eq!(conversion(4, 1).as_deref(), Some("converted from RGBA to grey"));
        assert_eq!(conversion(1, 3).as_deref(), Some("converted from grey to RGB"));
    }

    #[test]
    fn a_wide_image_loses_its_sides_and_a_tall_one_its_ends() {
        // Black | white | black in three 8-pixel squares: only the middle one is left.
        let wide: Vec<u8> =
            (0..8).flat_map(|_| (0..24).map(|x| if (8..16).contains(&x) { 255 } else { 0 })).collect();
        let shape = ImageShape { size: 8, channels: 1 };
        assert_eq!(fit(&image(24, 8, 1, wide), shape), [255; 64]);
        let tall: Vec<u8> = (0..24).flat_map(|y| [if (8..16).contains(&y) { 255 } else { 0 }; 8]).collect();
        assert_eq!(fit(&image(8, 24, 1, tall), shape), [255; 64]);
    }

    #[test]
    fn shrinking_averages_instead_of_dropping_pixels() {
        let checkers: Vec<u8> =
            (0..64 * 64).map(|at| if (at % 64 + at / 64) % 2 == 0 { 255 } else { 0 }).collect();
        let fitted = fit(&image(64, 64, 1, checkers), ImageShape { size: 8, channels: 1 });
        assert!(fitted.iter().all(|&value| (120..=135).contains(&value)), "{fitted:?}");
    }

    #[test]
    fn extreme_aspects_and_single_pixels_fit() {
        let shape = ImageShape { size: 16, channels: 3 };
        assert_eq!(fit(&image(1, 1, 3, vec![1, 2, 3]), shape), [1, 2, 3].repeat(256));
        assert_eq!(fit(&image(4000, 1, 1, vec![5; 4000]), shape), [5; 768]);
        assert_eq!(fit(&image(1, 4000, 1, vec![5; 4000]), shape), [5; 768]);
    }
}
