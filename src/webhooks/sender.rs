//! The sender: takes the leases of webhooks that have something to send, and sends for each in a task of its own, so that a receiver that hangs
//! holds up nobody else's messages.
//!
//! Any number of servers run one; a lease in Postgres lets one at a time send for a webhook. A killed server's leases end by themselves.
//! No connection to the database is held while a receiver is waited for.

use std::time::{Duration, Instant};

use chrono::Utc;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::message::Message;
use super::{SigningSecret, open_secret};
use crate::access::key::SecretKey;
use crate::domain::event::EventKind;
use crate::domain::ids::WebhookId;
use crate::domain::webhook::{
    ATTEMPT_COUNT_MAX, DeliveryOrigin, DeliveryState, DisabledReason, wait_as_asked,
};
use crate::events::Events;
use crate::outbound::{CallError, GuardedClient, Reply};
use crate::store::webhook::{self, LeasedWebhook};
use crate::store::webhook_delivery::{self, Attempt, PendingDelivery};
use crate::store::{Store, StoreError, event};
use crate::telemetry::metric;

/// How long a lease lasts without a sign of its holder: longer than any attempt.
const LEASE_SECONDS: f64 = 60.0;

/// Webhooks that one server sends for at the same moment.
const CONCURRENT_MAX: usize = 64;

/// How often attempts that are due again are looked for.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long events are gathered before they are looked at, so that a busy hour isn't a transaction an event.
const GATHER_TIME: Duration = Duration::from_millis(50);

/// How long an attempt at hand may take when the service stops.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Events looked at in one transaction, and messages sent from one look.
const PAGE_COUNT: i64 = 100;

/// Sends for the webhooks of a database; cheap to clone.
#[derive(Clone)]
pub struct Sender {
    store: Store,
    events: Events,
    key: SecretKey,
    client: GuardedClient,
    lease: Uuid,
}

/// Whether a webhook's turn goes on after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    GoesOn,
    /// The receiver refused, or somebody changed the webhook.
    Ended,
}

impl Sender {
    /// A sender that opens secrets with `key`.
    #[must_use]
    pub fn new(store: Store, events: Events, key: SecretKey, client: GuardedClient) -> Self {
        Self { store, events, key, client, lease: Uuid::now_v7() }
    }

    /// Sends until `stop` is cancelled; then lets the attempts at hand end, and gives its leases back.
    pub async fn run(self, stop: CancellationToken) {
        let mut turns = JoinSet::new();
        stop.run_until_cancelled(self.start_turns(&mut turns, &stop)).await;
        let ended = async { while turns.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_PATIENCE, ended).await.is_err() {
            turns.shutdown().await;
        }
        let released = async { webhook::release(&mut *self.store.acquire().await?, None, self.lease).await };
        if let Err(error) = released.await {
            tracing::warn!(error = %error, "the webhooks' leases could not be given back and end by themselves");
        }
    }

    /// Starts a turn for every webhook that has something to send, as long as it is polled.
    async fn start_turns(&self, turns: &mut JoinSet<()>, stop: &CancellationToken) {
        let mut clock = tokio::time::interval(POLL_INTERVAL);
        let mut heard = self.events.subscribe(None, None).await.ok();
        loop {
            while turns.try_join_next().is_some() {}
            match self.claim(CONCURRENT_MAX - turns.len()).await {
                Ok(claimed) => {
                    for id in claimed {
                        let (sender, stop) = (self.clone(), stop.clone());
                        turns.spawn(async move { sender.take_turn(id, &stop).await });
                    }
                }
                Err(error) => tracing::warn!(error = %error, "webhooks wait for the database"),
            }
            let event = async {
                match &mut heard {
                    Some(subscription) => subscription.next().await.map(drop),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = clock.tick() => {}
                // After an error the subscription goes on where it was.
                outcome = event => {
                    tokio::time::sleep(if outcome.is_ok() { GATHER_TIME } else { POLL_INTERVAL }).await;
                }
                Some(_) = turns.join_next() => {}
            }
        }
    }

    /// Sends whatever is due now, for all webhooks at once, and waits until that is done; returns how many had something to send.
    pub async fn send_due(&self) -> Result<usize, StoreError> {
        let claimed = self.claim(CONCURRENT_MAX).await?;
        let (count, never) = (claimed.len(), CancellationToken::new());
        futures_util::future::join_all(claimed.into_iter().map(|id| self.take_turn(id, &never))).await;
        Ok(count)
    }

    async fn claim(&self, limit: usize) -> Result<Vec<WebhookId>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut connection = self.store.acquire().await?;
        webhook::claim(&mut connection, self.lease, &self.key.fingerprint(), LEASE_SECONDS, limit).await
    }

    /// Sends for one leased webhook until nothing is left, the receiver refuses, or the lease is lost.
    async fn take_turn(&self, id: WebhookId, stop: &CancellationToken) {
        if let Err(error) = self.send_all(id, stop).await {
            // The lease ends by itself, after which what is left is sent.
            tracing::warn!(webhook.id = %id, error = %error, "a webhook's turn broke off");
        }
    }

    async fn send_all(&self, id: WebhookId, stop: &CancellationToken) -> Result<(), StoreError> {
        while let Some((leased, page)) = self.next_page(id).await? {
            let Some(secret) = open_secret(&self.key, id, &leased.secret) else {
                tracing::error!(webhook.id = %id, "a webhook's secret is damaged; give it a new one");
                break;
            };
            let mut failure_count = leased.failure_count.unsigned_abs();
            for delivery in &page {
                let outcome = self.attempt(id, &leased.url, &secret, delivery).await;
                let turn = if outcome.is_success() {
                    failure_count = 0;
                    self.note_success(id, delivery, &outcome).await?
                } else {
                    self.note_failure(id, failure_count + 1, delivery, &outcome).await?
                };
                if turn == Turn::Ended || stop.is_cancelled() {
                    return Ok(());
                }
            }
        }
        webhook::release(&mut *self.store.acquire().await?, Some(id), self.lease).await
    }

    /// Fills the outbox when it is empty and reads what is to be sent; `None` when there is nothing, or the lease is lost.
    async fn next_page(
        &self,
        id: WebhookId,
    ) -> Result<Option<(LeasedWebhook, Vec<PendingDelivery>)>, StoreError> {
        let mut tx = self.store.begin().await?;
        let Some(leased) = webhook::renew(&mut tx, id, self.lease, LEASE_SECONDS).await? else {
            return Ok(None);
        };
        let mut cursor = leased.cursor;
        let mut page = webhook_delivery::list_pending(&mut tx, id, leased.sends_events, PAGE_COUNT).await?;
        while page.is_empty() && leased.sends_events {
            let (kinds, projects) = (leased.kinds.as_deref(), leased.projects.as_deref());
            let candidates =
                webhook_delivery::list_candidates(&mut tx, cursor, kinds, projects, PAGE_COUNT).await?;
            let Some((last, _)) = candidates.last() else { break };
            cursor = *last;
            let wanted: Vec<i64> =
                candidates.iter().filter(|(_, is_wanted)| *is_wanted).map(|(number, _)| *number).collect();
            webhook_delivery::insert_all(&mut tx, id, &wanted, DeliveryOrigin::Event).await?;
            webhook::write_cursor(&mut tx, id, cursor).await?;
            page = webhook_delivery::list_pending(&mut tx, id, true, PAGE_COUNT).await?;
        }
        tx.commit().await?;
        Ok((!page.is_empty()).then_some((leased, page)))
    }

    async fn attempt(
        &self,
        id: WebhookId,
        url: &str,
        secret: &SigningSecret,
        delivery: &PendingDelivery,
    ) -> Outcome {
        let message = Message::of(id, delivery);
        let headers = message.headers(secret, Utc::now().timestamp());
        let began = Instant::now();
        let reply = self.client.post_json(url, &headers, message.body).await;
        let duration_ms = i32::try_from(began.elapsed().as_millis()).unwrap_or(i32::MAX);
        let outcome = Outcome { reply, duration_ms };
        let word = if outcome.is_success() { "delivered" } else { "failed" };
        metrics::counter!(metric::WEBHOOK_ATTEMPTS_TOTAL, "outcome" => word).increment(1);
        outcome
    }

    async fn note_success(
        &self,
        id: WebhookId,
        delivery: &PendingDelivery,
        outcome: &Outcome,
    ) -> Result<Turn, StoreError> {
        let mut tx = self.store.begin().await?;
        webhook_delivery::note_attempt(
            &mut tx,
            delivery.id,
            &outcome.as_attempt(DeliveryState::Delivered, None),
        )
        .await?;
        let held = webhook::note_success(&mut tx, id, self.lease, LEASE_SECONDS).await?;
        tx.commit().await?;
        Ok(if held { Turn::GoesOn } else { Turn::Ended })
    }

    async fn note_failure(
        &self,
        id: WebhookId,
        failure_count: u32,
        delivery: &PendingDelivery,
        outcome: &Outcome,
    ) -> Result<Turn, StoreError> {
        let error = outcome.error();
        let mut tx = self.store.begin().await?;
        if delivery.event.is_none() {
            // A test says what came of it, and nothing else changes.
            let attempt = outcome.as_attempt(DeliveryState::Failed, Some(&error));
            webhook_delivery::note_attempt(&mut tx, delivery.id, &attempt).await?;
            tx.commit().await?;
            return Ok(Turn::GoesOn);
        }
        let attempt = outcome.as_attempt(DeliveryState::Pending, Some(&error));
        webhook_delivery::note_attempt(&mut tx, delivery.id, &attempt).await?;
        let wait = wait_as_asked(failure_count, rand::random(), outcome.retry_after());
        let held = webhook::note_failure(&mut tx, id, self.lease, &error, wait.as_secs_f64()).await?;
        let reason = match outcome.status() {
            Some(410) => Some(DisabledReason::Gone),
            _ if failure_count >= ATTEMPT_COUNT_MAX => Some(DisabledReason::GivenUp),
            _ => None,
        };
        if let Some(reason) = reason.filter(|_| held) {
            webhook::disable(&mut tx, id, reason).await?;
            let payload = json!({"webhook": id, "reason": reason});
            event::append(&mut tx, None, EventKind::WebhookDisabled, &payload).await?;
            tracing::warn!(webhook.id = %id, webhook.reason = reason.as_str(), "a webhook was disabled; its events wait");
        }
        tx.commit().await?;
        self.events.nudge();
        Ok(Turn::Ended)
    }
}

/// What came of an attempt.
struct Outcome {
    reply: Result<Reply, CallError>,
    duration_ms: i32,
}

impl Outcome {
    fn status(&self) -> Option<u16> {
        self.reply.as_ref().ok().map(|reply| reply.status)
    }

    fn is_success(&self) -> bool {
        self.status().is_some_and(|status| (200..300).contains(&status))
    }

    fn retry_after(&self) -> Option<Duration> {
        self.reply.as_ref().ok().and_then(|reply| reply.retry_after)
    }

    fn error(&self) -> String {
        match &self.reply {
            Ok(reply) if (300..400).contains(&reply.status) => {
                format!("the receiver answered {}, and redirects are not followed", reply.status)
            }
            Ok(reply) => format!("the receiver answered {}", reply.status),
            Err(error) => error.to_string(),
        }
    }

    fn as_attempt<'a>(&self, state: DeliveryState, error: Option<&'a str>) -> Attempt<'a> {
        Attempt { state, status: self.status(), error, duration_ms: self.duration_ms }
    }
}
