//! The backbone on our own kernels: what runs on a CPU.
//!
//! The whole network is one operation with its own tape (`forward`, `backward`), so activations come from buffers that
//! are reused from step to step; only the loss over the features is candle's. Inference folds the norms into the weights
//! (`folded`). Holds no weights; any thread may call it, and passes run on the pool of `ops::threads`.
//!
//! The same store, batch and kernel variant give the same bits, for any number of threads.

mod backward;
mod batch;
mod folded;
mod forward;
mod part;
mod plan;
mod tape;
mod weight_sum;
mod weights;

use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor, Var};

use super::backbone::{Backbone, LossFn, Mode, StepGradients, check_batch};
use super::graph::{Architecture, Representation};
use super::ops::linear::with_floats;
use super::ops::{Kernel, install};
use super::parameters::{BatchStatistics, ParameterStore};
use super::{NnError, Result};

use batch::Batch;
use folded::{ActivationCache, FoldedWeights};
use plan::NetworkPlan;
use tape::Tape;

/// A graph on the CPU's kernels.
#[derive(Debug)]
pub struct NativeBackbone {
    architecture: Architecture,
    kernel: Kernel,
    plan: NetworkPlan,
    /// Tapes between passes, as many as ran at the same time.
    tapes: Mutex<Vec<Tape>>,
    activations: ActivationCache,
}

impl NativeBackbone {
    /// A backbone that computes `architecture` with the best kernels of this processor.
    #[must_use]
    pub fn new(architecture: Architecture) -> Self {
        Self::with_kernel(architecture, Kernel::best())
    }

    /// A backbone on one kernel variant.
    ///
    /// # Panics
    /// Its passes panic when the processor lacks the variant.
    #[must_use]
    pub fn with_kernel(architecture: Architecture, kernel: Kernel) -> Self {
        let plan = NetworkPlan::new(&architecture);
        Self { architecture, kernel, plan, tapes: Mutex::default(), activations: ActivationCache::default() }
    }

    /// Folds the norms of `parameters` into its weights, for many batches of inference with the same store.
    #[must_use]
    pub fn fold(&self, parameters: &ParameterStore) -> FoldedBackbone<'_> {
        let (values, buffers) = (&parameters.values, &parameters.buffers);
        let weights = install(|| FoldedWeights::new(self.kernel, &self.plan, values, buffers));
        FoldedBackbone { backbone: self, weights }
    }

    fn take_tape(&self, image_count: usize) -> Tape {
        let free = self.tapes.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.filter(|tape| tape.capacity() >= image_count)
            .unwrap_or_else(|| Tape::new(self.kernel, &self.plan, image_count))
    }

    fn put_tape(&self, tape: Tape) {
        self.tapes.lock().unwrap_or_else(PoisonError::into_inner).push(tape);
    }

    fn train(
        &self,
        values: &[f32],
        images: &Tensor,
        groups: usize,
    ) -> Result<(Tensor, BatchStatistics, Tape)> {
        let batch = Batch { image_count: images.dims()[0], group_count: groups };
        let images = images.contiguous()?;
        let mut tape = self.take_tape(batch.image_count);
        let (features, statistics) = with_floats(&images, |images| {
            Ok(install(|| forward::forward(self.kernel, &self.plan, values, images, batch, &mut tape)))
        })?;
        Ok((self.feature_tensor(features)?, statistics, tape))
    }

    fn feature_tensor(&self, features: Vec<f32>) -> Result<Tensor> {
        let count = self.plan.feature_count;
        Ok(Tensor::from_vec(features, ((), count), &Device::Cpu)?)
    }
}

impl Backbone for NativeBackbone {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn features(
        &self,
        parameters: &ParameterStore,
        images: &Tensor,
        mode: Mode,
    ) -> Result<(Tensor, Option<BatchStatistics>)> {
        check_batch(&self.architecture, images, mode)?;
        match mode {
            Mode::Eval => Ok((self.represent(parameters, images, Representation::Features)?, None)),
            Mode::Train { groups } | Mode::TrainWithoutTape { groups } => {
                let (features, statistics, tape) = self.train(&parameters.values, images, groups)?;
                self.put_tape(tape);
                Ok((features, Some(statistics)))
            }
        }
    }

    fn represent(
        &self,
        parameters: &ParameterStore,
        images: &Tensor,
        representation: Representation,
    ) -> Result<Tensor> {
        self.fold(parameters).represent(images, representation)
    }

    fn step_gradients(
        &self,
        parameters: &ParameterStore,
        head: &ParameterStore,
        images: &Tensor,
        groups: usize,
        loss: &mut LossFn<'_>,
    ) -> Result<StepGradients> {
        check_batch(&self.architecture, images, Mode::Train { groups })?;
        let (features, statistics, mut tape) = self.train(&parameters.values, images, groups)?;
        let features = Var::from_tensor(&features)?;
        let outcome = loss_gradients(&features, head, loss)?;
        let mut scratch = tape.take_scratch(self.kernel, &self.plan);
        let backbone = install(|| {
            let gradient = &outcome.of_features;
            backward::backward(self.kernel, &self.plan, &parameters.values, gradient, &tape, &mut scratch)
        });
        tape.scratch = Some(scratch);
        self.put_tape(tape);
        Ok(StepGradients {
            loss: outcome.loss,
            features: features.as_detached_tensor(),
            backbone,
            head: outcome.of_head,
            statistics,
        })
    }
}

/// The loss and its gradients, by candle.
struct LossGradients {
    loss: f32,
    of_features: Vec<f32>,
    of_head: Vec<f32>,
}

fn loss_gradients(features: &Var, head: &ParameterStore, loss: &mut LossFn<'_>) -> Result<LossGradients> {
    let variables = head
        .value_ranges()
        .map(|range| Var::from_slice(&head.values[range.range.clone()], range.shape.as_slice(), &Device::Cpu))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = variables.iter().map(|variable| variable.as_tensor().clone()).collect();
    let scalar = loss(features, &tensors)?;
    let gradients = scalar.backward()?;
    let mut of_head = vec![0.0; head.values.len()];
    for (range, variable) in head.value_ranges().zip(&variables) {
        if let Some(gradient) = gradients.get(variable) {
            of_head[range.range.clone()].copy_from_slice(&gradient.flatten_all()?.to_vec1::<f32>()?);
        }
    }
    let of_features = match gradients.get(features) {
        Some(gradient) => gradient.flatten_all()?.to_vec1::<f32>()?,
        None => vec![0.0; features.elem_count()],
    };
    Ok(LossGradients { loss: scalar.to_scalar::<f32>()?, of_features, of_head })
}

/// A backbone with the norms of one store folded into its weights: inference only.
#[derive(Debug)]
pub struct FoldedBackbone<'a> {
    backbone: &'a NativeBackbone,
    weights: FoldedWeights,
}

impl FoldedBackbone<'_> {
    /// Features [N, D] or embeddings [N, E] of images [N, H, W, C] with running statistics.
    ///
    /// # Errors
    /// A batch of another shape than the graph's, or one that isn't f32 on the CPU.
    pub fn represent(&self, images: &Tensor, representation: Representation) -> Result<Tensor> {
        check_batch(&self.backbone.architecture, images, Mode::Eval)?;
        let images = images.contiguous()?;
        let NativeBackbone { plan, activations, architecture, .. } = self.backbone;
        let width = architecture.width(representation);
        let rows = with_floats(&images, |images| {
            let weights = &self.weights;
            Ok(install(|| folded::represent(plan, weights, activations, images, representation, width)))
        });
        Ok(Tensor::from_vec(rows.map_err(NnError::from)?, ((), width), &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests;
