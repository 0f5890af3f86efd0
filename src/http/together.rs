//! POSTs of one kind and project that arrive together share one transaction: its reads, its writes and its flush to disk.
//!
//! For the two calls of the hot path, lease and submit. Each keeps what `idempotency` promises: key, work and answer are durable together or
//! not at all, a replay gets the first answer, another body under the key is 409. One call can't harm another: if a shared transaction
//! fails, each of its calls is carried out again in one of its own, where only the one at fault fails.

use std::collections::HashSet;

use axum::http::StatusCode;
use serde::Serialize;

use super::AppState;
use super::gather::{Gather, answer_each};
use super::idempotency::{Call, Replay, mismatch};
use super::problem::ApiError;
use crate::access::principal::Principal;
use crate::domain::ids::ProjectId;
use crate::store::idempotency::{Begun, KeptAnswer, Key};
use crate::store::project::ProjectRow;
use crate::store::{self, PgConnection, StoreError};

/// A kind of POST whose calls can share a transaction.
pub trait Shareable: Send + Sync + Sized + 'static {
    /// What is answered, and kept under the key.
    type Answer: Serialize + Send + 'static;

    /// Where calls of this kind gather.
    fn calls(app: &AppState) -> &Calls<Self>;

    /// What a shared transaction leaves for `after_commit`.
    type Residue: Default + Send;

    /// How many rows this call writes, about.
    fn weight(&self) -> usize;

    /// Carries out these calls on one project; an answer for each, in their order.
    fn carry_out(
        app: &AppState,
        connection: &mut PgConnection,
        project: &ProjectRow,
        calls: &[(&Principal, &Self)],
        residue: &mut Self::Residue,
    ) -> impl Future<Output = Result<Vec<Self::Answer>, StoreError>> + Send;

    /// Completes the answers once all of it is durable, with what isn't kept. No other transaction of the kind and project runs meanwhile.
    fn after_commit(
        _app: &AppState,
        _project: ProjectId,
        _residue: Self::Residue,
        _answers: Vec<&mut Self::Answer>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        async { Ok(()) }
    }
}

/// Calls of one kind on their way.
pub type Calls<C> = Gather<Sent<C>, Result<Shared<C>, ApiError>>;

/// A call that was sent.
pub struct Sent<C> {
    caller: Principal,
    key: Option<Key>,
    body_hash: [u8; 32],
    content: C,
}

/// What is said of a call.
type SharedResult<C> = Result<Shared<C>, ApiError>;

/// What became of a call; all of it is durable.
pub struct Shared<C: Shareable> {
    /// The project it was about.
    pub project: ProjectId,
    /// Its answer.
    pub outcome: Outcome<C::Answer>,
}

/// Whether a call was carried out now.
pub enum Outcome<A> {
    /// It was carried out.
    Done(A),
    /// It had been before; this is the first answer.
    Replay(Replay),
}

impl Call {
    /// Carries the call out, with others of its kind and project that have come at the same time.
    pub async fn share<C: Shareable>(
        self,
        app: &AppState,
        caller: &Principal,
        project: &str,
        content: C,
    ) -> Result<Shared<C>, ApiError> {
        let weight = content.weight().max(1);
        let (key, body_hash) = self.into_key(caller.token);
        let sent = Sent { caller: caller.clone(), key, body_hash, content };
        let (state, name) = (app.clone(), project.to_owned());
        let serve = move |calls: Vec<Sent<C>>| {
            let (app, project) = (state.clone(), name.clone());
            async move { serve(&app, &project, &calls).await }
        };
        C::calls(app).ask(project, weight, sent, serve).await?
    }
}

async fn serve<C: Shareable>(
    app: &AppState,
    project: &str,
    calls: &[Sent<C>],
) -> Vec<Result<Shared<C>, ApiError>> {
    match commit(app, project, &calls.iter().collect::<Vec<_>>()).await {
        Ok(committed) => committed.complete(app).await,
        // Nothing would be gained by asking an absent database for each.
        Err(error) if calls.len() == 1 || error.is_unavailable() => answer_each(calls.len(), Err(error)),
        Err(error) => {
            tracing::warn!(error = %error, calls.count = calls.len(), "calls that came together are carried out one by one");
            let mut answers = Vec::with_capacity(calls.len());
            for call in calls {
                match commit(app, project, &[call]).await {
                    Ok(committed) => answers.extend(committed.complete(app).await),
                    Err(error) => answers.push(Err(error.into())),
                }
            }
            answers
        }
    }
}

/// A shared transaction that is durable.
struct Committed<C: Shareable> {
    project: Option<ProjectId>,
    answers: Vec<Result<Shared<C>, ApiError>>,
    residue: C::Residue,
}

impl<C: Shareable> Committed<C> {
    async fn complete(mut self, app: &AppState) -> Vec<Result<Shared<C>, ApiError>> {
        let done = self.answers.iter_mut().filter_map(|answer| match answer {
            Ok(Shared { outcome: Outcome::Done(answer), .. }) => Some(answer),
            _ => None,
        });
        let done: Vec<_> = done.collect();
        if let Some(project) = self.project.filter(|_| !done.is_empty())
            && let Err(error) = C::after_commit(app, project, self.residue, done).await
        {
            return answer_each(self.answers.len(), Err(error));
        }
        self.answers
    }
}

/// Carries out calls in one transaction. Twins among them are told apart by the second round, which finds the answers of the first.
async fn commit<C: Shareable>(
    app: &AppState,
    project: &str,
    calls: &[&Sent<C>],
) -> Result<Committed<C>, StoreError> {
    let mut residue = C::Residue::default();
    let mut tx = app.store.begin().await?;
    let row = store::project::find_by_key(&mut tx, project).await?;
    let mut answers: Vec<Option<Result<Shared<C>, ApiError>>> = calls.iter().map(|_| None).collect();
    let mut waiting: Vec<usize> = (0..calls.len()).collect();
    let may_touch = |place: usize| row.as_ref().filter(|row| calls[place].caller.may_touch(row.id));
    for place in waiting.extract_if(.., |place| may_touch(*place).is_none()) {
        answers[place] = Some(Err(ApiError::not_found("project", project)));
    }
    if let Some(row) = &row {
        while !waiting.is_empty() {
            let mut seen = HashSet::new();
            let is_first = |place: &mut usize| calls[*place].key.as_ref().is_none_or(|key| seen.insert(key));
            let round: Vec<usize> = waiting.extract_if(.., is_first).collect();
            carry_out(app, &mut tx, row, calls, &round, (&mut answers, &mut residue)).await?;
        }
    }
    tx.commit().await?;
    app.events.nudge();
    let project = row.map(|row| row.id);
    Ok(Committed { project, answers: answers.into_iter().flatten().collect(), residue })
}

/// Carries out the calls at these places, of which no two have one key.
async fn carry_out<C: Shareable>(
    app: &AppState,
    connection: &mut PgConnection,
    project: &ProjectRow,
    calls: &[&Sent<C>],
    places: &[usize],
    (answers, residue): (&mut [Option<SharedResult<C>>], &mut C::Residue),
) -> Result<(), StoreError> {
    let keyed: Vec<(usize, &Key)> =
        places.iter().filter_map(|place| Some((*place, calls[*place].key.as_ref()?))).collect();
    let claims: Vec<_> = keyed.iter().map(|(place, key)| (*key, &calls[*place].body_hash)).collect();
    let mut fresh: HashSet<usize> = places.iter().copied().collect();
    if !claims.is_empty() {
        let begun = store::idempotency::begin_all(connection, &claims).await?;
        for ((place, key), begun) in keyed.into_iter().zip(begun) {
            let answer = match begun {
                Begun::First => continue,
                Begun::Again { status, answer } => {
                    let outcome = Outcome::Replay(Replay::new(status, answer));
                    Ok(Shared { project: project.id, outcome })
                }
                Begun::Mismatch => Err(mismatch(key)),
            };
            fresh.remove(&place);
            answers[place] = Some(answer);
        }
    }
    let fresh: Vec<usize> = places.iter().copied().filter(|place| fresh.contains(place)).collect();
    if fresh.is_empty() {
        return Ok(());
    }
    let contents: Vec<_> =
        fresh.iter().map(|place| (&calls[*place].caller, &calls[*place].content)).collect();
    let done = C::carry_out(app, connection, project, &contents, residue).await?;
    let mut kept = Vec::new();
    for (place, done) in fresh.into_iter().zip(done) {
        if let Some(key) = &calls[place].key {
            kept.push(KeptAnswer::new(key, StatusCode::OK.as_u16(), &done)?);
        }
        answers[place] = Some(Ok(Shared { project: project.id, outcome: Outcome::Done(done) }));
    }
    store::idempotency::finish_all(connection, &kept).await
}
