//! The two bounded queues between the handle and the threads.
//!
//! Work of one project is first in, first out; among projects the one that was served longest ago comes next, so a project with many
//! shards doesn't starve another. Nothing here blocks a caller: a full queue is an answer. Locks are held for moments only.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::work::{Outcome, Work};
use super::{EngineError, Predictions};
use crate::domain::ids::ProjectId;
use crate::learner::StepHook;

/// Pieces of work that wait behind the running one at most, over all projects.
const WAITING_COUNT_MAX: usize = 64;

/// Predictions that wait at most.
const PREDICTION_COUNT_MAX: usize = 64;

/// A piece of work on its way to the engine's thread.
pub(super) struct Command {
    pub project: ProjectId,
    pub work: Work,
    pub hook: Box<dyn StepHook + Send>,
    /// The caller's span, entered on the engine's thread.
    pub span: tracing::Span,
    pub reply: oneshot::Sender<Result<Outcome, EngineError>>,
}

/// A prediction on its way to the thread that answers it.
pub(super) struct PredictCommand {
    pub project: ProjectId,
    pub images: Vec<Vec<u8>>,
    pub reply: oneshot::Sender<Result<Predictions, EngineError>>,
}

/// What the engine's thread does next.
pub(super) enum Next {
    Work(Box<Command>),
    Prediction(PredictCommand),
    /// The engine is shutting down.
    Close,
}

#[derive(Default)]
struct State {
    /// One line a project, the project to serve next in front; lines are never empty.
    lines: VecDeque<(ProjectId, VecDeque<Command>)>,
    predictions: VecDeque<PredictCommand>,
    closed: bool,
}

impl State {
    fn waiting_count(&self) -> usize {
        self.lines.iter().map(|(_, line)| line.len()).sum()
    }

    fn take_work(&mut self) -> Option<Command> {
        let (project, mut line) = self.lines.pop_front()?;
        let command = line.pop_front();
        if !line.is_empty() {
            self.lines.push_back((project, line));
        }
        command
    }
}

/// Both queues under one lock.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    work_came: Condvar,
    prediction_came: Condvar,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (work, predictions) = self.waiting_counts();
        write!(f, "Queue({work} pieces of work, {predictions} predictions)")
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under the lock can leave the state half changed, so a poisoned lock is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pieces of work, and predictions, that wait.
    pub(super) fn waiting_counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.waiting_count(), state.predictions.len())
    }

    /// Puts work in its project's line.
    pub(super) fn push(&self, command: Command) -> Result<(), EngineError> {
        let mut state = self.lock();
        if state.closed {
            return Err(EngineError::Stopped);
        }
        if state.waiting_count() >= WAITING_COUNT_MAX {
            return Err(EngineError::QueueFull);
        }
        let project = command.project;
        match state.lines.iter_mut().find(|(owner, _)| *owner == project) {
            Some((_, line)) => line.push_back(command),
            None => state.lines.push_back((project, VecDeque::from([command]))),
        }
        drop(state);
        self.work_came.notify_one();
        Ok(())
    }

    /// Puts a prediction in its line.
    pub(super) fn push_prediction(&self, command: PredictCommand) -> Result<(), EngineError> {
        let mut state = self.lock();
        if state.closed {
            return Err(EngineError::Stopped);
        }
        if state.predictions.len() >= PREDICTION_COUNT_MAX {
            return Err(EngineError::QueueFull);
        }
        state.predictions.push_back(command);
        drop(state);
        self.prediction_came.notify_one();
        self.work_came.notify_one();
        Ok(())
    }

    /// Waits for the engine's thread: for work, and for predictions too when it `answers_predictions`, which then come first.
    pub(super) fn wait(&self, answers_predictions: bool) -> Next {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Next::Close;
            }
            if answers_predictions && let Some(command) = state.predictions.pop_front() {
                return Next::Prediction(command);
            }
            if let Some(command) = state.take_work() {
                return Next::Work(Box::new(command));
            }
            state = self.work_came.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for a prediction; `None` when the engine is shutting down.
    pub(super) fn wait_for_prediction(&self) -> Option<PredictCommand> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(command) = state.predictions.pop_front() {
                return Some(command);
            }
            state = self.prediction_came.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A waiting prediction, without waiting for one.
    pub(super) fn take_prediction(&self) -> Option<PredictCommand> {
        self.lock().predictions.pop_front()
    }

    /// Whether the engine is shutting down.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends both lines: what waits is dropped, which its callers see as `Stopped`.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.lines.clear();
        state.predictions.clear();
        drop(state);
        self.work_came.notify_all();
        self.prediction_came.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::learner::Stopped;

    /// A piece of work that carries a number as its total, so that a test can tell pieces apart.
    fn command(project: ProjectId) -> (Command, oneshot::Receiver<Result<Outcome, EngineError>>) {
        let (reply, answer) = oneshot::channel();
        let hook = |_: u64, _: u64| -> ControlFlow<Stopped> { ControlFlow::Continue(()) };
        let work = super::super::tests::small_work();
        (Command { project, work, hook: Box::new(hook), span: tracing::Span::none(), reply }, answer)
    }

    fn served(queue: &Queue) -> ProjectId {
        match queue.wait(false) {
            Next::Work(command) => command.project,
            Next::Prediction(_) | Next::Close => unreachable!("only work was pushed"),
        }
    }

    #[test]
    fn projects_are_served_in_turn() {
        let queue = Queue::default();
        let (busy, other) = (ProjectId::generate(), ProjectId::generate());
        for project in [busy, busy, busy, other, other] {
            queue.push(command(project).0).unwrap();
        }
        let order: Vec<_> = (0..5).map(|_| served(&queue)).collect();
        assert_eq!(order, [busy, other, busy, other, busy]);
    }

    #[test]
    fn a_full_queue_and_a_closed_one_say_so() {
        let queue = Queue::default();
        let project = ProjectId::generate();
        for _ in 0..WAITING_COUNT_MAX {
            queue.push(command(project).0).unwrap();
        }
        assert!(matches!(queue.push(command(project).0), Err(EngineError::QueueFull)));
        queue.close();
        assert!(matches!(queue.push(command(project).0), Err(EngineError::Stopped)));
        assert!(matches!(queue.wait(true), Next::Close));
        assert!(queue.wait_for_prediction().is_none());
    }
}
