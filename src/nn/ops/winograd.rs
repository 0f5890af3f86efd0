//! Winograd's F(4×4, 3×3) for stride-1 convolutions with enough channels: a quarter of the multiplications.
//!
//! A 6 × 6 patch of the input and the 3 × 3 kernel are transformed (Bᵀ d B and G g Gᵀ), multiplied channel-wise as 36
//! independent matrix products, and transformed back to 4 × 4 outputs (Aᵀ m A). Lavin & Gray 2015 (arXiv:1509.09308).
//! The gradient of the weight is the transpose, F(3×3, 4×4): Gᵀ [ Σ (Bᵀ d B) ⊙ (A y Aᵀ) ] G over all tiles, y being the
//! output's gradient. The rounding error is some ten times that of the direct sum; the tests bound it.

mod convolve;
mod transforms;
mod weight_gradient;
mod weights;

use super::geometry::{Geometry, Layout};

pub use weight_gradient::ChannelPart;
pub use weights::WinogradWeights;

/// Side of the input patch.
const PATCH: usize = 6;

/// Side of the output tile.
const TILE: usize = 4;

/// Products a tile consists of.
const POINTS: usize = PATCH * PATCH;

/// Tiles that are transformed and multiplied together: their transforms stay in the second-level cache.
pub const BLOCK: usize = 64;

/// Fewest channels for which the transforms pay.
const CHANNELS_MIN: usize = 16;

/// Largest weight whose transform, four times as large, still pays to be streamed for the few tiles of a span. The
/// weight's gradient streams no weight and has no such limit.
const WEIGHT_PAIRS_MAX: usize = 256 * 256;

/// A convolution's place in Winograd form: layouts and tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winograd {
    input: Layout,
    output: Layout,
    tile_rows: usize,
    tile_columns: usize,
}

impl Winograd {
    /// Whether a convolution is one that this form serves, and faster than the direct sum.
    pub fn pays(geometry: &Geometry) -> bool {
        Self::pays_for_weight(geometry) && geometry.in_channels * geometry.out_channels <= WEIGHT_PAIRS_MAX
    }

    /// Whether the gradient of a convolution's weight is faster in this form than as a direct sum.
    pub fn pays_for_weight(geometry: &Geometry) -> bool {
        (geometry.kernel, geometry.stride, geometry.padding) == (3, 1, 1)
            && geometry.in_channels.min(geometry.out_channels) >= CHANNELS_MIN
    }

    /// The form of a 3 × 3 convolution with stride 1 and padding 1, from `input` images to `output` images.
    ///
    /// # Panics
    /// For another convolution, or when a layout has another shape or the input no border.
    pub fn new(geometry: &Geometry, input: Layout, output: Layout) -> Self {
        assert_eq!(
            (geometry.kernel, geometry.stride, geometry.padding),
            (3, 1, 1),
            "not a 3 × 3 convolution of stride 1"
        );
        assert_eq!(input.with_border(0), geometry.input(), "the input's layout has another shape");
        assert_eq!(output.with_border(0), geometry.output(), "the output's layout has another shape");
        assert!(input.border >= 1, "the input's border is narrower than the padding");
        let (tile_rows, tile_columns) = (output.height.div_ceil(TILE), output.width.div_ceil(TILE));
        Self { input, output, tile_rows, tile_columns }
    }

    /// Tiles of an image.
    pub fn tile_count(&self) -> usize {
        self.tile_rows * self.tile_columns
    }

    /// The place of a tile, counted through all images of a batch.
    #[inline(always)]
    fn site(&self, tile: usize) -> Site {
        let (image, tile) = (tile / self.tile_count(), tile % self.tile_count());
        Site { image, y: tile / self.tile_columns * TILE, x: tile % self.tile_columns * TILE }
    }
}

/// A tile's place: where its image starts, and its first output pixel.
#[derive(Clone, Copy)]
struct Site {
    image: usize,
    y: usize,
    x: usize,
}
