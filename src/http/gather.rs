//! Calls that arrive together are served together.
//!
//! Whoever finds nobody at work under its key starts at once; whoever comes meanwhile waits and is served with all others that wait, in the
//! order of arrival. So an idle service adds no delay, and a busy one pays for a transaction, its round trips and its flush to disk once for
//! many callers instead of once for each. A client that goes away takes nothing with it: the work runs on a task of its own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::problem::ApiError;
use crate::store::StoreError;

/// What may be served at once: as many weights as keep one transaction short.
const WEIGHT_MAX: usize = 1_000;

/// Questions of one kind with their answers; a handle to clone.
pub struct Gather<Q, A>(Arc<Mutex<Queues<Q, A>>>);

/// Who waits, by key; an entry says that somebody serves its key.
type Queues<Q, A> = HashMap<String, VecDeque<Waiting<Q, A>>>;

struct Waiting<Q, A> {
    question: Q,
    weight: usize,
    answer: oneshot::Sender<A>,
}

impl<Q, A> Default for Gather<Q, A> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<Q: Send + 'static, A: Send + 'static> Gather<Q, A> {
    /// Asks one question, with others of the same key if some wait; `serve` gives an answer for each of its questions, in their order.
    ///
    /// `weight` says how much work it is, in rows or so. The error says that serving panicked.
    pub async fn ask<S, F>(&self, key: &str, weight: usize, question: Q, serve: S) -> Result<A, ApiError>
    where
        S: Fn(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { question, weight, answer };
        let is_first = {
            let mut queues = self.lock();
            match queues.get_mut(key) {
                Some(queue) => {
                    queue.push_back(waiting);
                    false
                }
                // The entry itself says that somebody serves this key.
                None => queues.insert(key.to_owned(), VecDeque::from([waiting])).is_none(),
            }
        };
        if is_first {
            tokio::spawn(Self(Arc::clone(&self.0)).serve_all(key.to_owned(), serve));
        }
        answered.await.map_err(|_| ApiError::internal("serving calls that came together panicked"))
    }

    async fn serve_all<S, F>(self, key: String, serve: S)
    where
        S: Fn(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        while let Some((questions, answers)) = self.take(&key) {
            // On a task of its own, so that a panic ends these calls alone: their senders are dropped.
            match tokio::spawn(serve(questions)).await {
                Ok(served) => {
                    for (answer, served) in answers.into_iter().zip(served) {
                        // Fails when the client has gone.
                        let _ = answer.send(served);
                    }
                }
                Err(error) => tracing::error!(error = %error, "serving calls that came together panicked"),
            }
        }
    }

    /// The next calls that are served at once; `None` when nobody waits, and then nobody serves the key any more.
    fn take(&self, key: &str) -> Option<(Vec<Q>, Vec<oneshot::Sender<A>>)> {
        let mut queues = self.lock();
        let queue = queues.get_mut(key)?;
        let (mut questions, mut answers, mut weight) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = queue.front()
            && (questions.is_empty() || weight + next.weight <= WEIGHT_MAX)
            && let Some(next) = queue.pop_front()
        {
            weight += next.weight;
            questions.push(next.question);
            answers.push(next.answer);
        }
        if questions.is_empty() {
            queues.remove(key);
            return None;
        }
        Some((questions, answers))
    }

    fn lock(&self) -> MutexGuard<'_, Queues<Q, A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a service gathers; calls find it in their `AppState`.
#[derive(Default)]
pub struct Gathers {
    /// Lookups of tokens by their hashes.
    pub tokens:
        Gather<crate::access::token::TokenHash, Result<Option<crate::store::token::TokenRow>, ApiError>>,
    /// Lease calls, by project.
    pub leases: super::together::Calls<super::v1::leases::Lease>,
    /// Submits, by project.
    pub submits: super::together::Calls<super::v1::labels::Submit>,
}

/// Hands each of `count` callers its answer, or all of them the error.
pub fn answer_each<A>(count: usize, served: Result<Vec<A>, StoreError>) -> Vec<Result<A, ApiError>> {
    match served {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(error) => {
            let error = ApiError::from(error);
            (0..count).map(|_| Err(error.repeat())).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    /// Serves with the size of the batch, once the gate lets it.
    async fn ask(gather: &Gather<usize, usize>, gate: &Arc<Semaphore>, key: &str, weight: usize) -> usize {
        let gate = Arc::clone(gate);
        let serve = move |questions: Vec<usize>| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                questions.iter().map(|_| questions.len()).collect()
            }
        };
        gather.ask(key, weight, weight, serve).await.unwrap()
    }

    #[tokio::test]
    async fn who_comes_while_one_is_served_is_served_with_the_others_that_wait() {
        let (gather, gate) = (Gather::default(), Arc::new(Semaphore::new(0)));
        let asked = join_all((0..5).map(|_| ask(&gather, &gate, "a", 1)));
        let other = ask(&gather, &gate, "b", 1);
        let open = async { gate.add_permits(3) };
        let (sizes, other, ()) = tokio::join!(asked, other, open);
        // All five had asked before the first was served, but it was taken alone or with the rest, as its task came to run.
        assert_eq!(
            sizes.iter().map(|size| 1.0 / *size as f64).sum::<f64>().round() as usize,
            3 - gate.available_permits() - 1
        );
        assert_eq!(other, 1);
        assert!(gather.lock().is_empty());
    }

    #[tokio::test]
    async fn what_is_served_at_once_has_a_limit_and_one_call_may_exceed_it() {
        let (gather, gate) = (Gather::default(), Arc::new(Semaphore::new(100)));
        let sizes = join_all([600, 600, 5_000, 400].map(|weight| ask(&gather, &gate, "a", weight))).await;
        assert_eq!(sizes, [1, 1, 1, 1]);
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_calls_alone() {
        let gather = Gather::<u32, u32>::default();
        let serve = |questions: Vec<u32>| async move {
            assert!(!questions.contains(&7), "a question that breaks the service");
            questions
        };
        assert!(gather.ask("a", 1, 7, serve).await.is_err());
        assert_eq!(gather.ask("a", 1, 8, serve).await.unwrap(), 8);
    }
}
