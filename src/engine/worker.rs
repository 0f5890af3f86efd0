//! The engine's thread: takes one piece of work after the other and answers its caller.
//!
//! Between mini-batches it looks at three reasons to stop (the hook, a caller that went away, shutdown) and, on CUDA, answers predictions.
//! After a panic the device is opened anew; what the work held is gone, the published weights are not, since they lie in shared memory.
//! A CUDA context that stays broken ends the process with its reason, because nothing of it computes any more.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use tokio::sync::oneshot;

use super::queue::{Command, Next, Queue};
use super::work::Outcome;
use super::{EngineError, Models, device, panic_reason, predictor};
use crate::config::DeviceChoice;
use crate::learner::{LearnerError, StepHook, Stopped};

/// Exit status of a process whose CUDA context is beyond use.
const DEVICE_LOST_STATUS: i32 = 70;

/// How far the engine's threads stand below the server's in the scheduler, as the compute threads do.
const NICE_STEP: i32 = 5;

/// What the engine's thread owns.
pub(super) struct Worker {
    queue: Arc<Queue>,
    models: Arc<Models>,
    choice: DeviceChoice,
    device: Device,
}

impl Worker {
    pub(super) fn new(queue: Arc<Queue>, models: Arc<Models>, choice: DeviceChoice, device: Device) -> Self {
        Self { queue, models, choice, device }
    }

    /// The body of the thread: works until the queue closes.
    pub(super) fn run(mut self) {
        lower_priority();
        loop {
            match self.queue.wait(!self.device.is_cpu()) {
                Next::Close => return,
                Next::Prediction(command) => predictor::answer(command, &self.models, &self.device),
                Next::Work(command) => self.perform(*command),
            }
        }
    }

    fn perform(&mut self, command: Command) {
        let Command { project, work, mut hook, span, reply } = command;
        if reply.is_closed() {
            return;
        }
        let _entered = span.enter();
        let name = work.name();
        let started = Instant::now();
        let mut watch = Watch { hook: hook.as_mut(), reply: &reply, worker: self };
        let ended = catch_unwind(AssertUnwindSafe(|| work.perform(&watch.worker.device, &mut watch)));
        let outcome = match ended {
            Ok(outcome) => outcome.map_err(|error| match error {
                LearnerError::Stopped => EngineError::Stopped,
                error => EngineError::Failed(error.to_string()),
            }),
            Err(payload) => Err(EngineError::Panicked(panic_reason(payload.as_ref()))),
        };
        let duration_ms = started.elapsed().as_millis() as u64;
        match &outcome {
            Ok(_) => tracing::debug!(work.name = name, %project, duration_ms, "work done"),
            Err(EngineError::Stopped) => {
                tracing::info!(work.name = name, %project, duration_ms, "work stopped");
            }
            Err(error) => {
                tracing::error!(work.name = name, %project, duration_ms, %error, "work failed");
                self.recover(matches!(error, EngineError::Panicked(_)));
            }
        }
        // The caller may have gone away meanwhile; then nobody misses the outcome.
        let _ = reply.send(outcome);
    }

    /// Leaves a usable device behind a failure.
    fn recover(&mut self, panicked: bool) {
        if panicked {
            match device::open(self.choice) {
                Ok(device) => self.device = device,
                Err(error) => {
                    tracing::error!(%error, "device not opened again, keeping the old one");
                }
            }
        }
        if !self.device.is_cpu() && !device::is_usable(&self.device) {
            tracing::error!(
                "the CUDA device no longer computes, ending the process so that it can be started anew"
            );
            std::process::exit(DEVICE_LOST_STATUS);
        }
    }
}

/// The hook that the learner sees: the caller's, and the engine's own reasons to stop.
struct Watch<'a> {
    hook: &'a mut (dyn StepHook + Send),
    reply: &'a oneshot::Sender<Result<Outcome, EngineError>>,
    worker: &'a Worker,
}

impl StepHook for Watch<'_> {
    fn step(&mut self, done: u64, total: u64) -> ControlFlow<Stopped> {
        let worker = self.worker;
        if self.reply.is_closed() || worker.queue.is_closed() {
            return ControlFlow::Break(Stopped);
        }
        if !worker.device.is_cpu() {
            while let Some(command) = worker.queue.take_prediction() {
                predictor::answer(command, &worker.models, &worker.device);
            }
        }
        self.hook.step(done, total)
    }
}

/// Nices the calling thread; a system that refuses leaves it as it is, which costs only responsiveness.
fn lower_priority() {
    let current = rustix::process::getpriority_process(None).unwrap_or(0);
    if let Err(error) = rustix::process::setpriority_process(None, current + NICE_STEP) {
        tracing::debug!(%error, "the engine's thread keeps the process's priority");
    }
}
