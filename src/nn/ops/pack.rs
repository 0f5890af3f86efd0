//! Weight matrices, packed into the panels that the product's tiles read.
//!
//! A panel holds 2 · lanes output channels (the last may hold one vector's worth when no more are left), row after row
//! of the weight matrix, zero-filled past the last channel. Packing is a copy a step and costs nothing beside it.

use rayon::prelude::*;

use super::Kernel;
use super::buffers::AlignedBuffer;
use super::geometry::{Geometry, GradientClass};

/// One panel of a packed matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    /// First float of the panel in the packed buffer.
    pub start: usize,
    /// First column of the matrix.
    pub column: usize,
    /// Columns of the matrix in the panel.
    pub columns: usize,
    /// Vectors a row: 1 or 2.
    pub vectors: usize,
}

/// The panels of a matrix with `depth` rows and `width` columns.
pub(super) fn panels(kernel: Kernel, depth: usize, width: usize) -> Vec<Panel> {
    let lanes = kernel.lanes();
    let mut start = 0;
    (0..width)
        .step_by(2 * lanes)
        .map(|column| {
            let columns = (width - column).min(2 * lanes);
            let vectors = columns.div_ceil(lanes);
            let panel = Panel { start, column, columns, vectors };
            start += depth * vectors * lanes;
            panel
        })
        .collect()
}

/// A weight matrix in panels, for one kernel variant.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    kernel: Kernel,
    depth: usize,
    width: usize,
    panels: Vec<Panel>,
    values: AlignedBuffer,
}

impl PackedMatrix {
    /// An unpacked matrix of zeros, to be filled by one of the `pack_` functions.
    pub fn new(kernel: Kernel, depth: usize, width: usize) -> Self {
        let panels = panels(kernel, depth, width);
        let len = panels.last().map_or(0, |panel| panel.start + depth * panel.vectors * kernel.lanes());
        Self { kernel, depth, width, panels, values: AlignedBuffer::zeroed(len) }
    }

    /// The variant it is packed for.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Rows of the matrix.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Columns of the matrix.
    pub fn width(&self) -> usize {
        self.width
    }

    pub(super) fn panels(&self) -> &[Panel] {
        &self.panels
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Packs a row-major `[depth, width]` matrix, which an HWIO weight is, each column times its `scale` if given.
    ///
    /// # Panics
    /// When a length differs.
    pub fn pack_rows(&mut self, matrix: &[f32], scale: Option<&[f32]>) {
        assert_eq!(matrix.len(), self.depth * self.width, "the matrix has another size");
        assert!(scale.is_none_or(|scale| scale.len() == self.width), "one scale a column");
        let width = self.width;
        self.for_each_panel(|panel, row_len, values| {
            for (row, target) in values.chunks_exact_mut(row_len).enumerate() {
                let source = &matrix[row * width + panel.column..][..panel.columns];
                match scale {
                    None => target[..panel.columns].copy_from_slice(source),
                    Some(scale) => {
                        let scale = &scale[panel.column..][..panel.columns];
                        for ((target, source), scale) in target.iter_mut().zip(source).zip(scale) {
                            *target = source * scale;
                        }
                    }
                }
            }
        });
    }

    /// Packs the transpose of a row-major `[width, depth]` matrix.
    ///
    /// # Panics
    /// When the length differs.
    pub fn pack_columns(&mut self, matrix: &[f32]) {
        assert_eq!(matrix.len(), self.depth * self.width, "the matrix has another size");
        let depth = self.depth;
        self.for_each_panel(|panel, row_len, values| {
            for column in 0..panel.columns {
                let source = &matrix[(panel.column + column) * depth..][..depth];
                for (target, value) in values.chunks_exact_mut(row_len).zip(source) {
                    target[column] = *value;
                }
            }
        });
    }

    /// Packs an HWIO weight for one class of the input's gradient: rows are (tap, output channel), columns input channels.
    ///
    /// # Panics
    /// When a length differs.
    pub fn pack_gradient(&mut self, geometry: &Geometry, class: &GradientClass, weight: &[f32]) {
        let (inputs, outputs) = (geometry.in_channels, geometry.out_channels);
        assert_eq!(weight.len(), geometry.weight_len(), "the weight has another size");
        assert_eq!(
            (self.depth, self.width),
            (class.taps.len() * outputs, inputs),
            "packed for another class"
        );
        self.for_each_panel(|panel, row_len, values| {
            for (tap, rows) in class.taps.iter().zip(values.chunks_exact_mut(outputs * row_len)) {
                for column in 0..panel.columns {
                    let source = &weight[(tap * inputs + panel.column + column) * outputs..][..outputs];
                    for (target, value) in rows.chunks_exact_mut(row_len).zip(source) {
                        target[column] = *value;
                    }
                }
            }
        });
    }

    /// Calls `fill` with each panel, the length of its rows and its floats, on several threads.
    fn for_each_panel(&mut self, fill: impl Fn(&Panel, usize, &mut [f32]) + Sync) {
        let (lanes, depth) = (self.kernel.lanes(), self.depth);
        if depth == 0 {
            return;
        }
        let mut rest = &mut self.values[..];
        let mut parts = Vec::with_capacity(self.panels.len());
        for panel in &self.panels {
            let (part, tail) = rest.split_at_mut(depth * panel.vectors * lanes);
            rest = tail;
            parts.push((panel, part));
        }
        parts.into_par_iter().for_each(|(panel, values)| fill(panel, panel.vectors * lanes, values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_are_two_vectors_wide_but_the_last_one() {
        let panels = panels(Kernel::Portable, 3, 17);
        let shape: Vec<_> =
            panels.iter().map(|panel| (panel.start, panel.column, panel.columns, panel.vectors)).collect();
        assert_eq!(shape, vec![(0, 0, 8, 2), (24, 8, 8, 2), (48, 16, 1, 1)]);
    }

    #[test]
    fn rows_and_columns_pack_to_the_same_panels() {
        let (depth, width) = (5, 11);
        let matrix: Vec<f32> = (0..depth * width).map(|value| value as f32).collect();
        let transposed: Vec<f32> =
            (0..width).flat_map(|column| (0..depth).map(move |row| (row * width + column) as f32)).collect();
        let mut rows = PackedMatrix::new(Kernel::Portable, depth, width);
        let mut columns = rows.clone();
        rows.pack_rows(&matrix, None);
        columns.pack_columns(&transposed);
        assert_eq!(rows.values(), columns.values());
        assert_eq!(rows.values().iter().sum::<f32>(), matrix.iter().sum::<f32>());
    }
}
