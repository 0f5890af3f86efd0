//! Distorted views of an image, of which contrastive tasks compare two: random resized crop, flip, colour jitter, grey and blur, as published
//! with MoCo (He et al. 2020, arXiv:1911.05722; v2: Chen et al. 2020, arXiv:2003.04297).
//!
//! What is drawn depends on (seed, stream name, epoch, view, content hash) alone, and what each step does to the pixels is torchvision's. An image
//! of one channel has no colours: brightness and contrast are all that is done to it, and nothing else is drawn. A view is written straight
//! into the caller's batch, in place but for the blur, which small images never see.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::domain::content_hash::ContentHash;
use crate::domain::seed::StreamKey;
use crate::domain::settings::ImageShape;

use super::augment::SIZE_MAX;
use super::normalization::Normalization;

/// Largest value of a pixel.
const WHITE: f32 = 255.0;

/// Weights of red, green and blue in grey (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// Crops that are drawn before the whole image is taken.
const CROP_TRIES: usize = 10;

/// Which distorted views are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distortion {
    shape: ImageShape,
    /// Whether half of the views are blurred.
    blur: bool,
}

impl Distortion {
    /// Least share of the image that a crop shows.
    const SCALE_MIN: f64 = 0.2;
    /// Largest ratio of a crop's edges.
    const RATIO_MAX: f64 = 4.0 / 3.0;
    /// Share of views with jitter.
    const JITTER_CHANCE: f64 = 0.8;
    /// How far brightness, contrast and saturation leave 1.
    const JITTER: f32 = 0.4;
    /// How far the hue turns, as a part of the circle.
    const HUE: f32 = 0.1;
    /// Share of views in grey.
    const GREY_CHANCE: f64 = 0.2;
    /// Share of blurred views, where there are any.
    const BLUR_CHANCE: f64 = 0.5;
    /// Standard deviations of the blur in pixels.
    const BLUR: std::ops::Range<f32> = 0.1..2.0;

    /// The recipe for images of `shape`, blurring half of them when asked.
    #[must_use]
    pub fn contrastive(shape: ImageShape, blur: bool) -> Self {
        Self { shape, blur }
    }

    /// Draws view number `view` of one image; `key` holds seed, stream name and epoch.
    #[must_use]
    pub fn draw(&self, key: &StreamKey, hash: &ContentHash, view: u32) -> DistortedView {
        let mut stream = key.clone().with_number(u64::from(view)).with_content(hash).stream();
        let crop = Crop::draw(self.shape.size, &mut stream);
        let flip = stream.random::<bool>();
        let is_coloured = self.shape.channels == 3;
        let jitter = stream.random_bool(Self::JITTER_CHANCE).then(|| Jitter::draw(is_coloured, &mut stream));
        let grey = is_coloured && stream.random_bool(Self::GREY_CHANCE);
        let blurred = self.blur && stream.random_bool(Self::BLUR_CHANCE);
        let blur = blurred.then(|| stream.random_range(Self::BLUR));
        DistortedView { crop, flip, jitter, grey, blur }
    }
}

/// The part of an image that is shown, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Rows above it.
    pub top: u32,
    /// Columns left of it.
    pub left: u32,
    /// Its rows, at least 1.
    pub height: u32,
    /// Its columns, at least 1.
    pub width: u32,
}

impl Crop {
    /// torchvision's `RandomResizedCrop`: area uniform, ratio log-uniform.
    fn draw(size: u32, stream: &mut ChaCha8Rng) -> Self {
        let area = f64::from(size) * f64::from(size);
        let ratio_bound = Distortion::RATIO_MAX.ln();
        for _ in 0..CROP_TRIES {
            let target = area * stream.random_range(Distortion::SCALE_MIN..1.0);
            let ratio = stream.random_range(-ratio_bound..ratio_bound).exp();
            let width = (target * ratio).sqrt().round() as u32;
            let height = (target / ratio).sqrt().round() as u32;
            if (1..=size).contains(&width) && (1..=size).contains(&height) {
                let top = stream.random_range(0..=size - height);
                let left = stream.random_range(0..=size - width);
                return Self { top, left, height, width };
            }
        }
        Self { top: 0, left: 0, height: size, width: size }
    }
}

/// One step of a colour jitter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum JitterStep {
    /// All values times a factor.
    Brightness(f32),
    /// Away from the mean grey of the image by a factor.
    Contrast(f32),
    /// Away from each pixel's grey by a factor.
    Saturation(f32),
    /// The hue turned by a part of the circle.
    Hue(f32),
}

/// Steps of a colour jitter, in the order of their application.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter {
    steps: [JitterStep; 4],
    count: usize,
}

impl Jitter {
    fn draw(is_coloured: bool, stream: &mut ChaCha8Rng) -> Self {
        let mut factor = || stream.random_range(1.0 - Distortion::JITTER..1.0 + Distortion::JITTER);
        let mut steps = [
            JitterStep::Brightness(factor()),
            JitterStep::Contrast(factor()),
            JitterStep::Saturation(1.0),
            JitterStep::Hue(0.0),
        ];
        if is_coloured {
            steps[2] = JitterStep::Saturation(factor());
            steps[3] = JitterStep::Hue(stream.random_range(-Distortion::HUE..Distortion::HUE));
        }
        let count = if is_coloured { 4 } else { 2 };
        steps[..count].shuffle(stream);
        Self { steps, count }
    }
}

/// One distorted way to look at an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistortedView {
    /// The part that is shown, scaled back to the whole size.
    pub crop: Crop,
    /// Mirrored left to right.
    pub flip: bool,
    /// Colour jitter.
    pub jitter: Option<Jitter>,
    /// Colours replaced by their grey.
    pub grey: bool,
    /// Standard deviation of a Gaussian blur in pixels.
    pub blur: Option<f32>,
}

impl DistortedView {
    /// Writes the view of `pixels` (u8 `[size, size, channels]`) into `out` (f32, same shape), normalised.
    ///
    /// Panics when a slice doesn't have the shape's length: both come from our own pools and batches.
    pub fn write(&self, pixels: &[u8], shape: ImageShape, normalization: &Normalization, out: &mut [f32]) {
        assert_eq!(pixels.len(), shape.byte_count(), "pixels have the pool's shape");
        assert_eq!(out.len(), shape.byte_count(), "the batch has the pool's shape");
        match shape.channels {
            1 => self.write_channels::<1>(pixels, shape.size as usize, normalization, out),
            3 => self.write_channels::<3>(pixels, shape.size as usize, normalization, out),
            channels => unreachable!("a validated image shape has 1 or 3 channels, not {channels}"),
        }
    }

    fn write_channels<const C: usize>(
        &self,
        pixels: &[u8],
        size: usize,
        normalization: &Normalization,
        out: &mut [f32],
    ) {
        self.crop_into::<C>(pixels, size, out);
        if let Some(jitter) = &self.jitter {
            jitter.steps[..jitter.count].iter().for_each(|step| step.apply::<C>(out));
        }
        if self.grey {
            for pixel in out.chunks_exact_mut(C) {
                let grey = luma::<C>(pixel);
                pixel.fill(grey);
            }
        }
        if let Some(deviation) = self.blur {
            blur::<C>(out, size, deviation);
        }
        for channel in 0..C {
            let (scale, bias) = normalization.scale_and_bias(channel);
            out.iter_mut().skip(channel).step_by(C).for_each(|value| *value = *value * scale + bias);
        }
    }

    /// The crop, bilinearly scaled to the whole size. It is never larger than the image, so there is nothing to average.
    fn crop_into<const C: usize>(&self, pixels: &[u8], size: usize, out: &mut [f32]) {
        let Crop { top, left, height, width } = self.crop;
        let down = Line::new(size, top, height, false);
        let across = Line::new(size, left, width, self.flip);
        for (y, row) in out.chunks_exact_mut(size * C).enumerate() {
            let (upper, lower, of_lower) = down.at(y);
            let (upper, lower) =
                (&pixels[upper * size * C..][..size * C], &pixels[lower * size * C..][..size * C]);
            for (x, pixel) in row.chunks_exact_mut(C).enumerate() {
                let (near, far, of_far) = across.at(x);
                for channel in 0..C {
                    let mix = |line: &[u8]| {
                        let near = f32::from(line[near * C + channel]);
                        near + of_far * (f32::from(line[far * C + channel]) - near)
                    };
                    let above = mix(upper);
                    pixel[channel] = above + of_lower * (mix(lower) - above);
                }
            }
        }
    }
}

/// Where the rows or columns of a scaled crop lie in the image: two neighbours and the share of the further one.
struct Line {
    near: [u16; SIZE_MAX],
    far: [u16; SIZE_MAX],
    of_far: [f32; SIZE_MAX],
}

impl Line {
    /// `size` places spread over `length` pixels from `start` on; pixels are squares with their value in the middle.
    fn new(size: usize, start: u32, length: u32, reversed: bool) -> Self {
        let mut line = Self { near: [0; SIZE_MAX], far: [0; SIZE_MAX], of_far: [0.0; SIZE_MAX] };
        let scale = length as f32 / size as f32;
        for at in 0..size {
            let position = ((at as f32 + 0.5) * scale - 0.5).clamp(0.0, (length - 1) as f32);
            let near = position as u32;
            let place = if reversed { size - 1 - at } else { at };
            line.near[place] = (start + near) as u16;
            line.far[place] = (start + (near + 1).min(length - 1)) as u16;
            line.of_far[place] = position - near as f32;
        }
        line
    }

    fn at(&self, place: usize) -> (usize, usize, f32) {
        (usize::from(self.near[place]), usize::from(self.far[place]), self.of_far[place])
    }
}

impl JitterStep {
    fn apply<const C: usize>(self, image: &mut [f32]) {
        match self {
            Self::Brightness(factor) => image.iter_mut().for_each(|value| *value = clamped(*value * factor)),
            Self::Contrast(factor) => {
                let sum: f64 = image.chunks_exact(C).map(|pixel| f64::from(luma::<C>(pixel))).sum();
                let rest = (1.0 - factor) * (sum / (image.len() / C) as f64) as f32;
                image.iter_mut().for_each(|value| *value = clamped(*value * factor + rest));
            }
            Self::Saturation(factor) => {
                for pixel in image.chunks_exact_mut(C) {
                    let rest = (1.0 - factor) * luma::<C>(pixel);
                    pixel.iter_mut().for_each(|value| *value = clamped(*value * factor + rest));
                }
            }
            Self::Hue(turn) => {
                for pixel in image.chunks_exact_mut(C) {
                    if let &mut [ref mut red, ref mut green, ref mut blue] = pixel {
                        [*red, *green, *blue] = turn_hue([*red, *green, *blue], turn);
                    }
                }
            }
        }
    }
}

fn clamped(value: f32) -> f32 {
    value.clamp(0.0, WHITE)
}

/// Grey of a pixel.
fn luma<const C: usize>(pixel: &[f32]) -> f32 {
    if C == 3 { LUMA[0] * pixel[0] + LUMA[1] * pixel[1] + LUMA[2] * pixel[2] } else { pixel[0] }
}

/// A colour whose hue is turned by a part of the circle; value and saturation stay.
fn turn_hue([red, green, blue]: [f32; 3], turn: f32) -> [f32; 3] {
    let (most, least) = (red.max(green).max(blue), red.min(green).min(blue));
    let spread = most - least;
    if spread <= 0.0 {
        return [red, green, blue];
    }
    // In sixths of the circle from red on.
    let hue = if most == red {
        (green - blue) / spread
    } else if most == green {
        2.0 + (blue - red) / spread
    } else {
        4.0 + (red - green) / spread
    };
    let hue = (hue + 6.0 * turn).rem_euclid(6.0);
    // Each channel is the most, the least or on the way between them, by its distance from its own sixth.
    let channel = |shift: f32| {
        let place = (hue + shift).rem_euclid(6.0);
        most - spread * place.min(4.0 - place).clamp(0.0, 1.0)
    };
    [channel(5.0), channel(3.0), channel(1.0)]
}

/// Gaussian blur, rows and then columns, over three deviations to each side; the border is mirrored.
fn blur<const C: usize>(image: &mut [f32], size: usize, deviation: f32) {
    let radius = (3.0 * deviation).ceil() as usize;
    let bell: Vec<f32> =
        (0..=2 * radius).map(|at| (-0.5 * ((at as f32 - radius as f32) / deviation).powi(2)).exp()).collect();
    let total: f32 = bell.iter().sum();
    let mut line = vec![0.0; size + 2 * radius];
    let mut blur_line = |start: usize, stride: usize| {
        for (at, value) in line.iter_mut().enumerate() {
            let position = super::augment::reflect(at as i64 - radius as i64, size as i64 - 1);
            *value = image[start + position as usize * stride];
        }
        for at in 0..size {
            let weighed = line[at..].iter().zip(&bell).map(|(value, weight)| value * weight);
            image[start + at * stride] = weighed.sum::<f32>() / total;
        }
    };
    for channel in 0..C {
        (0..size).for_each(|y| blur_line(y * size * C + channel, C));
        (0..size).for_each(|x| blur_line(x * C + channel, size * C));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 8;

    const PLAIN: DistortedView = DistortedView {
        crop: Crop { top: 0, left: 0, height: SIZE, width: SIZE },
        flip: false,
        jitter: None,
        grey: false,
        blur: None,
    };

    /// The image of the reference script.
    fn image(channels: usize) -> Vec<u8> {
        (0..64 * channels).map(|index| ((index * 37 + index * index * 11) % 256) as u8).collect()
    }

    fn shape(channels: u32) -> ImageShape {
        ImageShape { size: SIZE, channels }
    }

    /// The four values that the reference script prints.
    fn picked(view: DistortedView, channels: u32) -> [f32; 4] {
        let raw =
            Normalization { mean: vec![0.0; channels as usize], std: vec![1.0 / 255.0; channels as usize] };
        let mut out = vec![f32::NAN; shape(channels).byte_count()];
        view.write(&image(channels as usize), shape(channels), &raw, &mut out);
        [out[0], out[13], out[38], out[out.len() - 1]]
    }

    fn jittered(step: JitterStep) -> DistortedView {
        DistortedView { jitter: Some(Jitter { steps: [step; 4], count: 1 }), ..PLAIN }
    }

    // Expected numbers: src/vision/distort_reference.py. torchvision's weights of grey have four digits more.
    #[test]
    fn every_step_is_torchvisions() {
        let crop = Crop { top: 1, left: 2, height: 5, width: 6 };
        let cropped = DistortedView { crop, ..PLAIN };
        let grey = DistortedView { grey: true, ..PLAIN };
        let blurred = DistortedView { blur: Some(1.0), ..PLAIN };
        let cases = [
            (1, cropped, [190.0, 157.375, 108.625, 182.0]),
            (1, DistortedView { flip: true, ..cropped }, [214.0, 142.125, 130.375, 222.0]),
            (1, jittered(JitterStep::Brightness(1.3)), [0.0, 46.8, 179.4, 215.8]),
            (1, jittered(JitterStep::Contrast(0.7)), [41.4, 66.6, 138.0, 157.6]),
            (3, cropped, [2.0, 124.5, 123.125, 86.0]),
            (3, DistortedView { flip: true, ..cropped }, [132.0, 55.5, 96.875, 128.0]),
            (3, jittered(JitterStep::Brightness(1.3)), [0.0, 46.8, 179.4, 49.4]),
            (3, jittered(JitterStep::Contrast(0.7)), [38.311, 63.511, 134.911, 64.911]),
            (3, jittered(JitterStep::Saturation(1.4)), [0.0, 8.533, 149.316, 7.212]),
            (3, jittered(JitterStep::Hue(0.1)), [22.8, 78.0, 44.0, 98.4]),
            (3, jittered(JitterStep::Hue(-0.07)), [0.0, 36.0, 215.28, 38.0]),
            (3, grey, [41.628, 104.668, 109.709, 114.969]),
            (3, blurred, [84.522, 106.392, 124.26, 114.15]),
        ];
        for (channels, view, expected) in cases {
            let found = picked(view, channels);
            let near = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.05);
            assert!(near, "{view:?}: {found:?} for {expected:?}");
        }
    }

    fn draw(distortion: Distortion, count: u32, view: u32) -> Vec<DistortedView> {
        let key = StreamKey::new(7, "views").with_number(0);
        (0..count)
            .map(|item| distortion.draw(&key, &ContentHash::of_file(&item.to_le_bytes()), view))
            .collect()
    }

    #[test]
    fn draws_repeat_and_differ_between_views() {
        let distortion = Distortion::contrastive(shape(3), true);
        let (first, second) = (draw(distortion, 500, 1), draw(distortion, 500, 2));
        assert_eq!(first, draw(distortion, 500, 1));
        assert!(first.iter().zip(&second).filter(|(a, b)| a == b).count() < 5);
    }

    #[test]
    fn shares_and_ranges_are_the_recipes() {
        let shape = ImageShape { size: 96, channels: 3 };
        let drawn = draw(Distortion::contrastive(shape, true), 4000, 1);
        let share =
            |is: fn(&DistortedView) -> bool| drawn.iter().filter(|view| is(view)).count() as f64 / 4000.0;
        let shares = [
            share(|view| view.flip),
            share(|view| view.jitter.is_some()),
            share(|view| view.grey),
            share(|view| view.blur.is_some()),
        ];
        for (share, expected) in shares.into_iter().zip([0.5, 0.8, 0.2, 0.5]) {
            assert!((share - expected).abs() < 0.03, "{shares:?}");
        }
        let mut area = 0.0;
        for view in &drawn {
            let Crop { top, left, height, width } = view.crop;
            assert!(top + height <= 96 && left + width <= 96, "{view:?}");
            let part = f64::from(height * width) / (96.0 * 96.0);
            let ratio = f64::from(width) / f64::from(height);
            assert!((0.19..=1.0).contains(&part) && (0.72..1.4).contains(&ratio), "{view:?}");
            area += part;
        }
        // Of a uniform area large crops that are not square are drawn again, so the mean is under 0.6.
        assert!((0.52..0.57).contains(&(area / 4000.0)), "{area}");
        let orders = drawn.iter().filter_map(|view| view.jitter).map(|jitter| match jitter.steps[0] {
            JitterStep::Brightness(factor)
            | JitterStep::Contrast(factor)
            | JitterStep::Saturation(factor) => {
                assert!((0.6..1.4).contains(&factor));
                0
            }
            JitterStep::Hue(turn) => {
                assert!((-0.1..0.1).contains(&turn));
                1
            }
        });
        let hue_first = orders.sum::<i32>();
        assert!((650..950).contains(&hue_first), "{hue_first} of about 3200");
    }

    #[test]
    fn grey_images_see_brightness_and_contrast_alone() {
        let drawn = draw(Distortion::contrastive(shape(1), false), 1000, 1);
        assert!(drawn.iter().all(|view| !view.grey && view.blur.is_none()));
        let jitters: Vec<Jitter> = drawn.iter().filter_map(|view| view.jitter).collect();
        let is_colour = |step: &JitterStep| matches!(step, JitterStep::Saturation(_) | JitterStep::Hue(_));
        assert!(jitters.iter().all(|jitter| !jitter.steps[..jitter.count].iter().any(is_colour)));
        assert!(jitters.len() > 700);
    }
}
