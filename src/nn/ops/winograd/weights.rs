//! A 3 × 3 weight in Winograd's form: G g Gᵀ for each pair of channels, packed in panels, one matrix a point.
//!
//! Packed once a step (or once a model, for inference) on the calling thread; `convolve` only reads it.

use super::transforms::transform_kernel;
use super::{PATCH, POINTS};
use crate::nn::ops::Kernel;
use crate::nn::ops::buffers::AlignedBuffer;
use crate::nn::ops::pack::{Panel, panels};
use crate::nn::ops::simd::{Simd, Task, run};

/// A weight's transform: 36 matrices in panels, for one kernel variant.
#[derive(Clone, Debug)]
pub struct WinogradWeights {
    pub(super) kernel: Kernel,
    pub(super) depth: usize,
    pub(super) width: usize,
    pub(super) panels: Vec<Panel>,
    /// Floats of one point's matrix.
    pub(super) matrix_len: usize,
    pub(super) values: AlignedBuffer,
}

/// How a 3 × 3 weight is read for its transform.
#[derive(Clone, Copy)]
enum Reading<'a> {
    /// HWIO as it is, each output channel times its scale if given.
    Forward { scale: Option<&'a [f32]> },
    /// Turned by 180° with inputs and outputs exchanged: the convolution that gives the input's gradient.
    Gradient,
}

impl WinogradWeights {
    /// Zeros, to be filled by one of the `pack` functions, for a convolution from `depth` to `width` channels.
    pub fn new(kernel: Kernel, depth: usize, width: usize) -> Self {
        let panels = panels(kernel, depth, width);
        let matrix_len =
            panels.last().map_or(0, |panel| panel.start + depth * panel.vectors * kernel.lanes());
        Self { kernel, depth, width, panels, matrix_len, values: AlignedBuffer::zeroed(POINTS * matrix_len) }
    }

    /// Transforms an HWIO weight `[3, 3, depth, width]`, each output channel times its `scale` if given.
    ///
    /// # Panics
    /// When a length differs.
    pub fn pack(&mut self, weight: &[f32], scale: Option<&[f32]>) {
        assert!(scale.is_none_or(|scale| scale.len() == self.width), "one scale a channel");
        self.transform(weight, Reading::Forward { scale });
    }

    /// Transforms an HWIO weight `[3, 3, width, depth]` for the gradient of its convolution's input.
    ///
    /// # Panics
    /// When the length differs.
    pub fn pack_gradient(&mut self, weight: &[f32]) {
        self.transform(weight, Reading::Gradient);
    }

    fn transform(&mut self, weight: &[f32], reading: Reading<'_>) {
        assert_eq!(weight.len(), 9 * self.depth * self.width, "the weight has another size");
        let kernel = self.kernel;
        // SAFETY: the weight holds 9 numbers a pair of channels, the scale one an output channel, and the values 36
        // matrices whose panels have `depth` rows of whole vectors.
        unsafe {
            run(kernel, Transform { weights: self, weight, reading });
        }
    }
}

struct Transform<'a> {
    weights: &'a mut WinogradWeights,
    weight: &'a [f32],
    reading: Reading<'a>,
}

impl Task for Transform<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (depth, width, matrix_len) = (self.weights.depth, self.weights.width, self.weights.matrix_len);
        for panel in 0..self.weights.panels.len() {
            let panel = self.weights.panels[panel];
            for row in 0..depth {
                for vector in 0..panel.vectors {
                    let column = panel.column + vector * S::LANES;
                    let lanes = (width - column).min(S::LANES);
                    // SAFETY: channels `row` and `column..column + lanes` exist, and so does this row of the panel.
                    unsafe {
                        let taps = self.read::<S>(row, column, lanes);
                        let to = panel.start + (row * panel.vectors + vector) * S::LANES;
                        let to = self.weights.values.as_mut_ptr().add(to);
                        let mut half = [[S::zero(); 3]; PATCH];
                        for column in 0..3 {
                            let line =
                                transform_kernel::<S>([taps[column], taps[3 + column], taps[6 + column]]);
                            for row in 0..PATCH {
                                half[row][column] = line[row];
                            }
                        }
                        for row in 0..PATCH {
                            let line = transform_kernel::<S>(half[row]);
                            for column in 0..PATCH {
                                S::store(to.add((row * PATCH + column) * matrix_len), line[column]);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Transform<'_> {
    /// The nine taps from depth channel `row` to `lanes` width channels from `column` on.
    #[inline(always)]
    unsafe fn read<S: Simd>(&self, row: usize, column: usize, lanes: usize) -> [S::Vector; 9] {
        let (depth, width) = (self.weights.depth, self.weights.width);
        // SAFETY: the caller's channels exist, so every index below is inside the weight or the scale.
        unsafe {
            let mut taps = [S::zero(); 9];
            match self.reading {
                Reading::Forward { scale } => {
                    for tap in 0..9 {
                        let from = self.weight.as_ptr().add((tap * depth + row) * width + column);
                        taps[tap] = S::load_up_to(from, lanes);
                        if let Some(scale) = scale {
                            let scale = S::load_up_to(scale.as_ptr().add(column), lanes);
                            taps[tap] = S::mul_add(taps[tap], scale, S::zero());
                        }
                    }
                }
                Reading::Gradient => {
                    for tap in 0..9 {
                        let mut line = [0.0; 16];
                        let from = self.weight.as_ptr().add(((8 - tap) * width + column) * depth + row);
                        for lane in 0..lanes {
                            line[lane] = *from.add(lane * depth);
                        }
                        taps[tap] = S::load(line.as_ptr());
                    }
                }
            }
            taps
        }
    }
}
