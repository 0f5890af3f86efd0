//! Views of an image: random crop with padding, horizontal flip, and rotation by quarter turns, from u8 to normalised f32.
//!
//! What is drawn depends on (seed, stream name, epoch, content hash) alone. A view is written straight into the caller's batch in one
//! pass without allocation, since at 2,000 to 4,000 images a second a few microseconds an image are all that loading may cost. The order is
//! crop, flip, rotate (RotNet, Gidaris et al. 2018: the four rotations of an image share one crop).

use crate::domain::content_hash::ContentHash;
use crate::domain::seed::StreamKey;
use crate::domain::settings::ImageShape;

use super::normalization::Normalization;

/// Largest edge of a packed image (`ImageShape`'s limit); the tables of a view live on the stack.
pub(super) const SIZE_MAX: usize = 512;

/// What stands beyond an image's border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Black pixels.
    Zero,
    /// The image mirrored at its border pixel.
    Reflect,
}

/// Which random views are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Augmentation {
    /// Pixels by which the crop may be shifted in each direction.
    pub crop_padding: u32,
    /// What stands beyond the border.
    pub padding: Padding,
    /// Whether half of the views are mirrored left to right.
    pub flip: bool,
}

impl Augmentation {
    /// The usual recipe for small images: a crop shifted by up to an eighth of the edge (4 of 32), reflected borders, and mirroring.
    #[must_use]
    pub fn crop_and_flip(shape: ImageShape) -> Self {
        Self { crop_padding: (shape.size / 8).max(1), padding: Padding::Reflect, flip: true }
    }

    /// Draws the view of one image; `key` holds seed, stream name and epoch.
    #[must_use]
    pub fn draw(&self, key: &StreamKey, hash: &ContentHash) -> View {
        let bits = key.clone().with_content(hash).number();
        let span = i64::from(self.crop_padding) * 2 + 1;
        // 24 bits each: the bias towards small shifts stays below 2^-14 for the widest padding.
        let shift = |bits: u64| (((bits & 0xff_ffff) as i64 * span) >> 24) as i32 - self.crop_padding as i32;
        View {
            shift_x: shift(bits),
            shift_y: shift(bits >> 24),
            flip: self.flip && (bits >> 48) & 1 == 1,
            quarter_turns: 0,
            padding: self.padding,
        }
    }
}

/// One way to look at an image; the default is the image itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Pixels by which the crop lies right of the image.
    pub shift_x: i32,
    /// Pixels by which the crop lies below the image.
    pub shift_y: i32,
    /// Mirrored left to right after the crop.
    pub flip: bool,
    /// Counter-clockwise quarter turns after crop and flip; taken modulo 4.
    pub quarter_turns: u8,
    /// What stands beyond the border.
    pub padding: Padding,
}

impl Default for View {
    fn default() -> Self {
        Self { shift_x: 0, shift_y: 0, flip: false, quarter_turns: 0, padding: Padding::Reflect }
    }
}

impl View {
    /// Writes the view of `pixels` (u8 `[size, size, channels]`) into `out` (f32, same shape), normalised.
    ///
    /// Panics when a slice doesn't have the shape's length: both come from our own pools and batches.
    pub fn write(&self, pixels: &[u8], shape: ImageShape, normalization: &Normalization, out: &mut [f32]) {
        assert!(shape.size as usize <= SIZE_MAX, "an image shape is at most 512 pixels wide");
        assert_eq!(pixels.len(), shape.byte_count(), "pixels have the pool's shape");
        assert_eq!(out.len(), shape.byte_count(), "the batch has the pool's shape");
        match shape.channels {
            1 => {
                self.write_channels::<1>(pixels, shape.size as usize, [normalization.scale_and_bias(0)], out);
            }
            3 => {
                let affine = [0, 1, 2].map(|channel| normalization.scale_and_bias(channel));
                self.write_channels::<3>(pixels, shape.size as usize, affine, out);
            }
            channels => unreachable!("a validated image shape has 1 or 3 channels, not {channels}"),
        }
    }

    fn write_channels<const C: usize>(
        &self,
        pixels: &[u8],
        size: usize,
        affine: [(f32, f32); C],
        out: &mut [f32],
    ) {
        let (vertical, horizontal) = self.axes(size, C);
        let border = affine.map(|(_, bias)| bias);
        for (y, row) in out.chunks_exact_mut(size * C).enumerate() {
            let Some(base) = vertical.offset(y) else {
                row.chunks_exact_mut(C).for_each(|pixel| pixel.copy_from_slice(&border));
                continue;
            };
            if horizontal.contiguous {
                write_row(&pixels[base..base + size * C], affine, row);
                continue;
            }
            for (x, pixel) in row.chunks_exact_mut(C).enumerate() {
                match horizontal.offset(x) {
                    Some(offset) => {
                        write_row(&pixels[base + offset..base + offset + C], affine, pixel);
                    }
                    None => pixel.copy_from_slice(&border),
                }
            }
        }
    }

    /// Where the rows and columns of the view lie in the image, as byte offsets to be added.
    ///
    /// With `a` along the view's rows and `b` along its columns, a quarter turn swaps which of the two walks down the image: the view at
    /// `(y, x)` shows the flipped crop at `(y, x)`, `(x, n−y)`, `(n−y, n−x)` or `(n−x, y)` for 0 to 3 turns, with `n = size − 1`.
    fn axes(&self, size: usize, channels: usize) -> (Axis, Axis) {
        let turns = self.quarter_turns % 4;
        let down = |reversed| Axis::new(size, size * channels, self.shift_y, reversed, self.padding);
        let across =
            |reversed: bool| Axis::new(size, channels, self.shift_x, reversed != self.flip, self.padding);
        match turns {
            0 => (down(false), across(false).mark_contiguous()),
            1 => (across(true), down(false)),
            2 => (down(true), across(true).mark_contiguous()),
            _ => (across(false), down(true)),
        }
    }
}

/// Byte offsets of the image's rows or columns that one direction of a view shows.
struct Axis {
    offsets: [u32; SIZE_MAX],
    plain: bool,
    contiguous: bool,
}

impl Axis {
    const OUTSIDE: u32 = u32::MAX;

    fn new(size: usize, stride: usize, shift: i32, reversed: bool, padding: Padding) -> Self {
        let mut offsets = [Self::OUTSIDE; SIZE_MAX];
        let last = size as i64 - 1;
        for (at, offset) in (0..=last).zip(&mut offsets) {
            let position = if reversed { last - at } else { at } + i64::from(shift);
            let inside = match padding {
                Padding::Reflect => Some(reflect(position, last)),
                Padding::Zero => (0..=last).contains(&position).then_some(position),
            };
            if let Some(position) = inside {
                // At most 512 × 512 × 3, far below the sentinel.
                *offset = position as u32 * stride as u32;
            }
        }
        Self { offsets, plain: !reversed && shift == 0, contiguous: false }
    }

    /// Declares that neighbours along this axis are neighbours in memory, so an axis that shows the image as it is can be copied.
    fn mark_contiguous(mut self) -> Self {
        self.contiguous = self.plain;
        self
    }

    fn offset(&self, at: usize) -> Option<usize> {
        let offset = self.offsets[at];
        (offset != Self::OUTSIDE).then_some(offset as usize)
    }
}

/// Mirrors a position at 0 and `last` until it lies between them.
pub(super) fn reflect(position: i64, last: i64) -> i64 {
    if last == 0 {
        return 0;
    }
    let position = position.rem_euclid(2 * last);
    position.min(2 * last - position)
}

#[inline]
fn write_row<const C: usize>(pixels: &[u8], affine: [(f32, f32); C], out: &mut [f32]) {
    for (from, to) in pixels.chunks_exact(C).zip(out.chunks_exact_mut(C)) {
        for channel in 0..C {
            let (scale, bias) = affine[channel];
            to[channel] = f32::from(from[channel]) * scale + bias;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: View =
        View { shift_x: 0, shift_y: 0, flip: false, quarter_turns: 0, padding: Padding::Zero };

    fn raw(channels: usize) -> Normalization {
        // Leaves pixels as they are: (p / 255 − 0) / (1 / 255).
        Normalization { mean: vec![0.0; channels], std: vec![1.0 / 255.0; channels] }
    }

    fn view(view: View, pixels: &[u8], channels: u32) -> Vec<u8> {
        let size = ((pixels.len() / channels as usize) as f64).sqrt() as u32;
        let mut out = vec![f32::NAN; pixels.len()];
        view.write(pixels, ImageShape { size, channels }, &raw(channels as usize), &mut out);
        out.into_iter().map(|value| value.round() as u8).collect()
    }

    #[test]
    fn quarter_turns_are_counter_clockwise_like_rot90_of_pytorch() {
        // torch.rot90(torch.arange(1, 10).reshape(3, 3), k) for k = 0 … 3
        let image = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let turned = |quarter_turns| view(View { quarter_turns, ..PLAIN }, &image, 1);
        assert_eq!(turned(0), image);
        assert_eq!(turned(1), [3, 6, 9, 2, 5, 8, 1, 4, 7]);
        assert_eq!(turned(2), [9, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(turned(3), [7, 4, 1, 8, 5, 2, 9, 6, 3]);
    }

    #[test]
    fn crop_comes_before_flip_and_flip_before_rotation() {
        let image = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let shifted = View { shift_x: 1, shift_y: -1, ..PLAIN };
        assert_eq!(view(shifted, &image, 1), [0, 0, 0, 2, 3, 0, 5, 6, 0]);
        assert_eq!(view(View { flip: true, ..shifted }, &image, 1), [0, 0, 0, 0, 3, 2, 0, 6, 5]);
        let all = View { flip: true, quarter_turns: 1, ..shifted };
        assert_eq!(view(all, &image, 1), [0, 2, 5, 0, 3, 6, 0, 0, 0]);
        let reflected = View { padding: Padding::Reflect, ..shifted };
        assert_eq!(view(reflected, &image, 1), [5, 6, 5, 2, 3, 2, 5, 6, 5]);
    }

    #[test]
    fn channels_stay_together_and_have_their_own_scale() {
        let image = [1, 10, 100, 2, 20, 200, 3, 30, 130, 4, 40, 140];
        let turned = view(View { quarter_turns: 1, ..PLAIN }, &image, 3);
        assert_eq!(turned, [2, 20, 200, 4, 40, 140, 1, 10, 100, 3, 30, 130]);
        let normalization = Normalization { mean: vec![0.0, 0.5, 1.0], std: vec![1.0, 0.5, 0.25] };
        let mut out = [0.0; 12];
        View::default().write(&[255; 12], ImageShape { size: 2, channels: 3 }, &normalization, &mut out);
        assert_eq!(out[..3], [1.0, 1.0, 0.0]);
    }

    #[test]
    fn draws_repeat_cover_the_whole_range_and_differ_between_epochs() {
        let augmentation = Augmentation { crop_padding: 2, padding: Padding::Zero, flip: true };
        let key = |epoch| StreamKey::new(7, "augment").with_number(epoch);
        let mut seen = std::collections::HashSet::new();
        let mut changed = 0;
        for item in 0..2000u32 {
            let hash = ContentHash::of_file(&item.to_le_bytes());
            let drawn = augmentation.draw(&key(0), &hash);
            assert_eq!(drawn, augmentation.draw(&key(0), &hash));
            changed += usize::from(drawn != augmentation.draw(&key(1), &hash));
            seen.insert((drawn.shift_x, drawn.shift_y, drawn.flip));
        }
        assert_eq!(seen.len(), 5 * 5 * 2);
        assert!(changed > 1900, "{changed}");
    }

    #[test]
    fn a_shift_wider_than_the_image_still_reflects() {
        assert_eq!([-7, -1, 0, 2, 3, 9].map(|position| reflect(position, 2)), [1, 1, 0, 2, 1, 1]);
        assert_eq!(reflect(5, 0), 0);
    }
}
