//! What is sent: the body of a delivery and its headers. A delivery's id and body are the same in every attempt and redelivery, so that a
//! receiver can tell what it has seen; timestamp and signature are those of the attempt.

use serde_json::json;

use super::SigningSecret;
use crate::domain::ids::WebhookId;
use crate::store::webhook_delivery::PendingDelivery;

/// One message as it goes over the wire.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// `webhook-id`.
    pub id: String,
    /// The JSON.
    pub body: Vec<u8>,
}

impl Message {
    /// The message of a delivery to a webhook.
    pub fn of(webhook: WebhookId, delivery: &PendingDelivery) -> Self {
        let (id, body) = match &delivery.event {
            Some(event) => (
                format!("evt_{}", event.id.0.simple()),
                json!({
                    "type": event.kind, "timestamp": delivery.created_at, "number": event.number, "project": event.project,
                    "data": event.payload,
                }),
            ),
            None => (
                format!("test_{}", delivery.id.0.simple()),
                json!({
                    "type": "webhook.test", "timestamp": delivery.created_at, "number": null, "project": null,
                    "data": {"webhook": webhook},
                }),
            ),
        };
        Self { id, body: body.to_string().into_bytes() }
    }

    /// The headers of an attempt at `timestamp` (seconds since 1970).
    pub fn headers(&self, secret: &SigningSecret, timestamp: i64) -> [(&'static str, String); 3] {
        [
            ("webhook-id", self.id.clone()),
            ("webhook-timestamp", timestamp.to_string()),
            ("webhook-signature", secret.sign(&self.id, timestamp, &self.body)),
        ]
    }
}
