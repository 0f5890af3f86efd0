//! A unit's weight, packed for the form that its convolution takes: the direct sum or Winograd's.

use crate::nn::ops::Kernel;
use crate::nn::ops::convolution::{Epilogue, Residual, multiply};
use crate::nn::ops::pack::PackedMatrix;
use crate::nn::ops::winograd::WinogradWeights;

use super::plan::{Route, UnitPlan};

/// Packed for the forward product.
#[derive(Debug)]
pub(super) enum ForwardWeights {
    Direct(PackedMatrix),
    Winograd(WinogradWeights),
}

impl ForwardWeights {
    pub(super) fn new(kernel: Kernel, unit: &UnitPlan) -> Self {
        let geometry = &unit.geometry;
        match unit.forward {
            Route::Direct(_) => {
                Self::Direct(PackedMatrix::new(kernel, geometry.depth(), geometry.out_channels))
            }
            Route::Winograd(_) => {
                Self::Winograd(WinogradWeights::new(kernel, geometry.in_channels, geometry.out_channels))
            }
        }
    }

    /// Packs the unit's weight, each output channel times its scale if given.
    pub(super) fn pack(&mut self, weight: &[f32], scale: Option<&[f32]>) {
        match self {
            Self::Direct(matrix) => matrix.pack_rows(weight, scale),
            Self::Winograd(weights) => weights.pack(weight, scale),
        }
    }

    /// Convolves along `route`, which is one of the unit whose weight this is.
    pub(super) fn convolve(&self, route: &Route, source: &[f32], target: &mut [f32], epilogue: Epilogue<'_>) {
        match (self, route) {
            (Self::Direct(matrix), Route::Direct(window)) => {
                multiply(source, window, matrix, target, epilogue);
            }
            (Self::Winograd(weights), Route::Winograd(form)) => {
                form.convolve(source, weights, target, epilogue);
            }
            _ => unreachable!("a unit's routes and weights have one form"),
        }
    }
}

/// Packed for the gradient of the input.
#[derive(Debug)]
pub(super) enum GradientWeights {
    /// One matrix a class of input pixels.
    Direct(Vec<PackedMatrix>),
    Winograd(WinogradWeights),
}

impl GradientWeights {
    pub(super) fn new(kernel: Kernel, unit: &UnitPlan) -> Self {
        let geometry = &unit.geometry;
        if unit.backward.is_some() {
            return Self::Winograd(WinogradWeights::new(kernel, geometry.out_channels, geometry.in_channels));
        }
        let matrices = unit.classes.iter();
        Self::Direct(
            matrices
                .map(|class| PackedMatrix::new(kernel, class.window.depth(), geometry.in_channels))
                .collect(),
        )
    }

    pub(super) fn pack(&mut self, unit: &UnitPlan, weight: &[f32]) {
        match self {
            Self::Winograd(weights) => weights.pack_gradient(weight),
            Self::Direct(matrices) => {
                for (class, matrix) in unit.classes.iter().zip(matrices) {
                    matrix.pack_gradient(&unit.geometry, class, weight);
                }
            }
        }
    }

    /// Writes the dense gradient of the input from that of the convolution's output, plus the residual.
    pub(super) fn spread(
        &self,
        unit: &UnitPlan,
        gradient: &[f32],
        target: &mut [f32],
        residual: Residual<'_>,
    ) {
        let epilogue = Epilogue { residual, ..Epilogue::default() };
        match (self, &unit.backward) {
            (Self::Winograd(weights), Some(form)) => {
                form.convolve(gradient, weights, target, epilogue);
            }
            (Self::Direct(matrices), _) => {
                for (class, matrix) in unit.classes.iter().zip(matrices) {
                    // Pixels that no tap reaches stay as they are when the gradient is added to the target.
                    if !(class.taps.is_empty() && matches!(residual, Residual::Target)) {
                        multiply(gradient, &class.window, matrix, target, epilogue);
                    }
                }
            }
            (Self::Winograd(_), None) => unreachable!("packed for the form of the unit"),
        }
    }
}
