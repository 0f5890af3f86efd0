//! The engine: the one thread that owns the device, behind an asynchronous handle.
//!
//! `Engine` is cheap to clone. Training, embedding and scoring wait in a bounded queue that serves projects in turn; predictions wait in
//! another and are answered from the last published weights: on a CPU by a second thread beside the training, on CUDA between its
//! mini-batches. A caller that goes away cancels its work. A panic is a failed piece of work with its reason; the thread drops everything it
//! held and goes on with the published weights. Only plain data crosses the border.

pub mod device;
mod predictor;
mod queue;
pub mod work;
mod worker;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use thiserror::Error;
use tokio::sync::oneshot;

use crate::config::DeviceChoice;
use crate::domain::ids::ProjectId;
use crate::domain::settings::ProjectSettings;
use crate::learner::StepHook;
use crate::nn::checkpoint::Checkpoint;
use crate::nn::graph::Architecture;
use crate::nn::ops;
use crate::nn::state_dict::read_backbone;

use queue::{Command, PredictCommand, Queue};
pub use work::{Audit, Outcome, Work};

/// What the engine needs to start.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Where to compute.
    pub device: DeviceChoice,
    /// Compute threads, at least 1.
    pub threads: usize,
}

/// Whether a project's network can begin with these weights; the error says which tensor doesn't fit, and how. Takes some time.
pub fn check_initial_weights(bytes: &[u8], settings: &ProjectSettings) -> Result<(), String> {
    let architecture = Architecture::new(settings.backbone, settings.image);
    read_backbone(bytes, &architecture).map(drop).map_err(|error| error.to_string())
}

/// Why the engine didn't do something.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Too much is waiting already; try again later.
    #[error("the engine's queue is full, try again in a few seconds")]
    QueueFull,
    /// The work's hook stopped it, its caller went away, or the engine is shutting down.
    #[error("stopped before the end")]
    Stopped,
    /// The work panicked; the engine goes on.
    #[error("the learner broke off: {0}")]
    Panicked(String),
    /// The work failed with this reason.
    #[error("{0}")]
    Failed(String),
    /// No model is published for the project.
    #[error("the project has no model yet")]
    NoModel,
    /// The device can't be used.
    #[error("the device {device} can't be used: {reason}")]
    Device {
        /// As configured.
        device: String,
        /// Why.
        reason: String,
    },
    /// The system gave no thread, or compute threads are already set otherwise.
    #[error("the engine's threads can't start: {0}")]
    Threads(String),
}

/// Class probabilities of a batch of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// Version of the published model that answered.
    pub model_version: u32,
    /// One row an image.
    pub rows: Vec<Prediction>,
}

/// What a model thinks of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// One probability a class, in the order of the class indices.
    pub probabilities: Vec<f32>,
    /// Normalised entropy, 0 to 1.
    pub uncertainty: f32,
}

/// A model that answers predictions; immutable once published.
#[derive(Clone, Debug)]
struct Published {
    version: u32,
    model: Arc<Checkpoint>,
}

/// The last published model of each project.
#[derive(Debug, Default)]
struct Models(RwLock<HashMap<ProjectId, Published>>);

impl Models {
    fn find(&self, project: ProjectId) -> Option<Published> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&project).cloned()
    }

    /// Replaces an older version; a late older one changes nothing.
    fn publish(&self, project: ProjectId, published: Published) {
        let mut models = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let newer = models.get(&project).is_none_or(|known| known.version <= published.version);
        if newer {
            models.insert(project, published);
        }
    }
}

/// The handle; clones speak to the same thread.
#[derive(Clone, Debug)]
pub struct Engine {
    queue: Arc<Queue>,
    models: Arc<Models>,
}

/// Keeps the engine's threads; dropping it stops the running work at its next mini-batch and waits for them.
#[derive(Debug)]
pub struct EngineGuard {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for EngineGuard {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an engine thread ended by a panic");
            }
        }
    }
}

impl Engine {
    /// Opens the device and starts the threads.
    ///
    /// # Errors
    /// A device that can't be opened, threads that can't start, or a thread count that differs from one already in force.
    pub fn start(config: &EngineConfig) -> Result<(Self, EngineGuard), EngineError> {
        ops::set_thread_count(config.threads).map_err(|error| EngineError::Threads(error.to_string()))?;
        let device = device::open(config.device)?;
        tracing::info!(
            device.kind = device::name(&device),
            device.kernel = crate::nn::device::kernel_name(&device),
            threads.count = ops::thread_count(),
            "engine started"
        );
        let queue = Arc::new(Queue::default());
        let models = Arc::new(Models::default());
        let mut guard = EngineGuard { queue: Arc::clone(&queue), threads: Vec::new() };
        let mut spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
            thread
                .map(|thread| guard.threads.push(thread))
                .map_err(|error| EngineError::Threads(error.to_string()))
        };
        if device.is_cpu() {
            let (queue, models, device) = (Arc::clone(&queue), Arc::clone(&models), device.clone());
            spawn("gleaner-predict", Box::new(move || predictor::run(&queue, &models, &device)))?;
        }
        let worker = worker::Worker::new(Arc::clone(&queue), Arc::clone(&models), config.device, device);
        spawn("gleaner-engine", Box::new(move || worker.run()))?;
        Ok((Self { queue, models }, guard))
    }

    /// Does `work` for `project` and waits for its outcome; `hook` is called on the engine's thread, once a mini-batch.
    ///
    /// Dropping the future cancels the work at its next mini-batch, or before it begins.
    ///
    /// # Errors
    /// `QueueFull` at once; otherwise how the work ended.
    pub async fn run(
        &self,
        project: ProjectId,
        work: Work,
        hook: impl StepHook + Send + 'static,
    ) -> Result<Outcome, EngineError> {
        let (reply, answer) = oneshot::channel();
        let span = tracing::Span::current();
        self.queue.push(Command { project, work, hook: Box::new(hook), span, reply })?;
        answer.await.unwrap_or(Err(EngineError::Stopped))
    }

    /// Pieces of work, and predictions, that wait behind those under way.
    #[must_use]
    pub fn waiting_counts(&self) -> (usize, usize) {
        self.queue.waiting_counts()
    }

    /// Makes `model` the one that answers the project's predictions, unless a newer version already does.
    pub fn publish(&self, project: ProjectId, version: u32, model: Arc<Checkpoint>) {
        self.models.publish(project, Published { version, model });
    }

    /// The version that answers the project's predictions.
    #[must_use]
    pub fn published_version(&self, project: ProjectId) -> Option<u32> {
        self.models.find(project).map(|published| published.version)
    }

    /// Class probabilities of `images`, packed u8 rows of the project's shape, under the published model.
    ///
    /// # Errors
    /// `NoModel`, `QueueFull`, or how the prediction ended.
    pub async fn predict(
        &self,
        project: ProjectId,
        images: Vec<Vec<u8>>,
    ) -> Result<Predictions, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.queue.push_prediction(PredictCommand { project, images, reply })?;
        answer.await.unwrap_or(Err(EngineError::Stopped))
    }
}

/// The text of a panic.
fn panic_reason(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no reason given".to_owned())
}

#[cfg(test)]
mod tests;
