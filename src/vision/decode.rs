//! Decoding: from the bytes of an image file to u8 pixels, safely.
//!
//! The only place that meets hostile image bytes. Size limits are checked on the header before a pixel is decoded; every refusal says why in
//! words that stand in an import's report. Sixteen-bit images become eight-bit, the first frame stands for an animation, and the EXIF
//! orientation is applied, so the network sees what a browser shows.

use std::io::{self, Cursor};

use image::error::ImageError;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader};

/// What one image may ask for.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    /// Pixels (width × height) at most.
    pub pixel_count_max: u64,
    /// Bytes of decoded pixels at most.
    pub decoded_bytes_max: u64,
}

impl Default for DecodeLimits {
    /// 50 megapixels and 256 MiB.
    fn default() -> Self {
        Self { pixel_count_max: 50_000_000, decoded_bytes_max: 256 << 20 }
    }
}

/// Why bytes are no usable image.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// 0 bytes.
    #[error("the file is empty (0 bytes)")]
    Empty,
    /// None of the known formats.
    #[error("not an image in a supported format (JPEG, PNG, GIF, BMP or WebP)")]
    NotAnImage,
    /// Over `DecodeLimits::pixel_count_max`.
    #[error("{width} x {height} pixels are over the limit of {} megapixels", .pixel_count_max / 1_000_000)]
    TooLarge {
        /// Width that the header states.
        width: u32,
        /// Height that the header states.
        height: u32,
        /// The limit.
        pixel_count_max: u64,
    },
    /// Over `DecodeLimits::decoded_bytes_max`.
    #[error("the image needs more than {} MiB when decoded", .0 >> 20)]
    TooMuchMemory(u64),
    /// The file ends before its image does.
    #[error("the {0} file is truncated: it ends before the image does")]
    Truncated(&'static str),
    /// The decoder refused.
    #[error("broken {format} file: {reason}")]
    Broken {
        /// Format that the first bytes promise.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
}

/// A decoded image and what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedImage {
    /// Width in pixels, orientation applied.
    pub width: u32,
    /// Height in pixels, orientation applied.
    pub height: u32,
    /// 1 grey, 2 grey with alpha, 3 RGB, 4 RGB with alpha.
    pub channels: u32,
    /// Media type of the file, such as `image/png`.
    pub media_type: &'static str,
    /// u8 `[height, width, channels]`.
    pub pixels: Vec<u8>,
}

/// The size that an image's header states, `(width, height)`, without decoding a pixel.
pub fn measure(bytes: &[u8]) -> Result<(u32, u32), DecodeError> {
    let format = recognise(bytes)?;
    let reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.into_dimensions().map_err(|error| refusal(format, error, &DecodeLimits::default()))
}

/// Decodes an image file in any supported format.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<DecodedImage, DecodeError> {
    let format = recognise(bytes)?;
    // The decoder fills the rest of a cut JPEG with grey and says nothing.
    if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
        return Err(DecodeError::Truncated(name_of(format)));
    }
    let refuse = |error| refusal(format, error, limits);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut allowance = image::Limits::default();
    allowance.max_alloc = Some(limits.decoded_bytes_max);
    reader.limits(allowance);
    let mut decoder = reader.into_decoder().map_err(refuse)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > limits.pixel_count_max {
        return Err(DecodeError::TooLarge { width, height, pixel_count_max: limits.pixel_count_max });
    }
    if decoder.total_bytes() > limits.decoded_bytes_max {
        return Err(DecodeError::TooMuchMemory(limits.decoded_bytes_max));
    }
    if width == 0 || height == 0 {
        return Err(DecodeError::Broken { format: name_of(format), reason: "it has no pixels".to_owned() });
    }
    // A broken EXIF block says nothing about the pixels.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(refuse)?;
    image.apply_orientation(orientation);
    Ok(unpack(image, format))
}

fn recognise(bytes: &[u8]) -> Result<ImageFormat, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let format = image::guess_format(bytes).map_err(|_| DecodeError::NotAnImage)?;
    if format.reading_enabled() { Ok(format) } else { Err(DecodeError::NotAnImage) }
}

fn name_of(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::WebP => "WebP",
        _ => "image",
    }
}

fn refusal(format: ImageFormat, error: ImageError, limits: &DecodeLimits) -> DecodeError {
    match error {
        ImageError::Limits(_) => DecodeError::TooMuchMemory(limits.decoded_bytes_max),
        ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated(name_of(format))
        }
        other => DecodeError::Broken { format: name_of(format), reason: other.to_string() },
    }
}

fn unpack(image: DynamicImage, format: ImageFormat) -> DecodedImage {
    let (width, height) = (image.width(), image.height());
    let (channels, pixels) = match image.color() {
        ColorType::L8 | ColorType::L16 => (1, image.into_luma8().into_raw()),
        ColorType::La8 | ColorType::La16 => (2, image.into_luma_alpha8().into_raw()),
        ColorType::Rgb8 | ColorType::Rgb16 | ColorType::Rgb32F => (3, image.into_rgb8().into_raw()),
        _ => {
            let image = image.into_rgba8();
            // The GIF decoder always adds an alpha channel; an opaque GIF never had one.
            if format == ImageFormat::Gif && image.pixels().all(|pixel| pixel.0[3] == 255) {
                (3, DynamicImage::ImageRgba8(image).into_rgb8().into_raw())
            } else {
                (4, image.into_raw())
            }
        }
    };
    DecodedImage { width, height, channels, media_type: format.to_mime_type(), pixels }
}

/// Whether a JPEG's segments and scans lead to its end marker (ITU T.81, annex B).
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // To the next marker: fill bytes and whatever stray bytes stand between segments are skipped, as decoders do.
        while bytes.get(at).is_some_and(|&byte| byte != 0xff) {
            at += 1;
        }
        while bytes.get(at) == Some(&0xff) {
            at += 1;
        }
        let Some(&marker) = bytes.get(at) else {
            return false;
        };
        at += 1;
        match marker {
            0xd9 => return true,
            // Stuffed zero, restart markers and stand-alone markers carry no length; entropy-coded data is skipped like stray bytes.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => {
                let Some(length) = bytes.get(at..at + 2) else {
                    return false;
                };
                at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
    use proptest::prelude::*;

    use super::*;

    fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(vec![]);
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn gradient() -> RgbImage {
        RgbImage::from_fn(40, 30, |x, y| Rgb([(x * 6) as u8, (y * 8) as u8, ((x * y) % 256) as u8]))
    }

    #[test]
    fn every_format_decodes_to_its_own_channels() {
        let decoded = |bytes: Vec<u8>| {
            let image = decode(&bytes, &DecodeLimits::default()).unwrap();
            (image.width, image.height, image.channels, image.media_type)
        };
        assert_eq!(decoded(encode(gradient(), ImageFormat::Jpeg)), (40, 30, 3, "image/jpeg"));
        assert_eq!(decoded(encode(gradient(), ImageFormat::Bmp)), (40, 30, 3, "image/bmp"));
        assert_eq!(decoded(encode(gradient(), ImageFormat::WebP)), (40, 30, 3, "image/webp"));
        assert_eq!(decoded(encode(gradient(), ImageFormat::Gif)), (40, 30, 3, "image/gif"));
        assert_eq!(decoded(encode(GrayImage::new(5, 6), ImageFormat::Png)), (5, 6, 1, "image/png"));
        let grey_alpha = image::GrayAlphaImage::from_pixel(5, 6, LumaA([1, 2]));
        assert_eq!(decoded(encode(grey_alpha, ImageFormat::Png)), (5, 6, 2, "image/png"));
        assert_eq!(decoded(encode(RgbaImage::new(5, 6), ImageFormat::Png)), (5, 6, 4, "image/png"));
        let deep = DynamicImage::ImageRgb8(gradient()).into_rgb16();
        assert_eq!(decoded(encode(deep, ImageFormat::Png)), (40, 30, 3, "image/png"));
    }

    #[test]
    fn sixteen_bits_become_eight_and_keep_their_brightness() {
        let decoded = |image: DynamicImage| {
            let image = decode(&encode(image, ImageFormat::Png), &DecodeLimits::default()).unwrap();
            (image.channels, image.pixels)
        };
        let grey = image::ImageBuffer::from_pixel(2, 1, Luma([0xabab_u16]));
        assert_eq!(decoded(DynamicImage::ImageLuma16(grey)), (1, vec![0xab; 2]));
        let grey_alpha = image::ImageBuffer::from_pixel(1, 1, LumaA([0xabab_u16, 0x8080]));
        assert_eq!(decoded(DynamicImage::ImageLumaA16(grey_alpha)), (2, vec![0xab, 0x80]));
    }

    #[test]
    fn print_colours_and_the_first_frame_of_an_animation_are_taken() {
        // Written by Pillow 12: 8 × 8 red pixels, in the animations followed by blue ones.
        let samples: [(&str, &[u8], u32); 4] = [
            ("CMYK JPEG", include_bytes!("decode/cmyk.jpg"), 3),
            ("animated GIF", include_bytes!("decode/animated.gif"), 3),
            ("animated WebP", include_bytes!("decode/animated.webp"), 3),
            ("lossy WebP", include_bytes!("decode/lossy.webp"), 3),
        ];
        for (name, bytes, channels) in samples {
            let image = decode(bytes, &DecodeLimits::default()).unwrap();
            assert_eq!((image.width, image.height, image.channels), (8, 8, channels), "{name}");
            let (&[red, green, blue], _) = image.pixels.split_first_chunk().unwrap();
            assert!(red > 245 && green < 10 && blue < 10, "{name}: {red} {green} {blue}");
        }
    }

    #[test]
    fn lossless_pixels_come_back_exactly() {
        let image = RgbaImage::from_fn(9, 7, |x, y| Rgba([x as u8, y as u8, 200, (x * y) as u8]));
        let decoded = decode(&encode(image.clone(), ImageFormat::Png), &DecodeLimits::default()).unwrap();
        assert_eq!(decoded.pixels, image.into_raw());
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_in_every_format() {
        for format in
            [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::WebP]
        {
            let bytes = encode(gradient(), format);
            for kept in [bytes.len() / 10, bytes.len() / 3, bytes.len() / 2, bytes.len() * 3 / 4] {
                let outcome = decode(&bytes[..kept], &DecodeLimits::default());
                assert!(outcome.is_err(), "{format:?} cut to {kept} of {} bytes was taken", bytes.len());
            }
        }
        let bytes = encode(gradient(), ImageFormat::Jpeg);
        let error = decode(&bytes[..bytes.len() - 2], &DecodeLimits::default()).unwrap_err();
        assert_eq!(error.to_string(), "the JPEG file is truncated: it ends before the image does");
    }

    #[test]
    fn empty_files_and_files_that_are_no_image_say_so() {
        let reason = |bytes: &[u8]| decode(bytes, &DecodeLimits::default()).unwrap_err().to_string();
        assert_eq!(reason(b""), "the file is empty (0 bytes)");
        assert!(reason(b"name,class\na.png,cat\n").starts_with("not an image in a supported format"));
        // TIFF is recognised but not built in.
        assert!(reason(b"II*\0\x08\0\0\0").starts_with("not an image in a supported format"));
    }

    #[test]
    fn an_image_over_the_limit_is_refused_by_its_header() {
        // A BMP header that promises 10,000 x 6,000 pixels and holds none.
        let mut bytes = encode(gradient(), ImageFormat::Bmp);
        bytes[18..22].copy_from_slice(&10_000u32.to_le_bytes());
        bytes[22..26].copy_from_slice(&6_000u32.to_le_bytes());
        assert_eq!(measure(&bytes).unwrap(), (10_000, 6_000));
        let error = decode(&bytes, &DecodeLimits::default()).unwrap_err();
        assert_eq!(error.to_string(), "10000 x 6000 pixels are over the limit of 50 megapixels");
        let small = DecodeLimits { decoded_bytes_max: 1000, ..DecodeLimits::default() };
        let outcome = decode(&encode(gradient(), ImageFormat::Png), &small);
        assert!(matches!(outcome, Err(DecodeError::TooMuchMemory(1000))), "{outcome:?}");
    }

    #[test]
    fn the_exif_orientation_is_applied() {
        let plain = encode(gradient(), ImageFormat::Jpeg);
        // An APP1 segment with one big-endian TIFF entry: orientation (0x0112) = 6, a quarter turn clockwise.
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
        let mut turned = vec![0xff, 0xd8, 0xff, 0xe1];
        turned.extend((exif.len() as u16 + 2).to_be_bytes());
        turned.append(&mut exif);
        turned.extend(&plain[2..]);
        let image = decode(&turned, &DecodeLimits::default()).unwrap();
        assert_eq!((image.width, image.height), (30, 40));
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(
            format in prop::sample::select(vec![
                ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::WebP,
            ]),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = encode(gradient(), format);
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(image) = decode(&bytes, &DecodeLimits { pixel_count_max: 1_000_000, ..DecodeLimits::default() }) {
                let expected = u64::from(image.width) * u64::from(image.height) * u64::from(image.channels);
                prop_assert_eq!(image.pixels.len() as u64, expected);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes, &DecodeLimits::default());
            let _ = measure(&bytes);
        }
    }
}
