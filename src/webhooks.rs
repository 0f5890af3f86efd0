//! Webhooks: events sent to addresses that tools named, each at least once and in order, signed after Standard Webhooks.
//!
//! Nothing here stands in a submit's way: an event is a row of the submit's transaction, the relay numbers it, and only then the sender of one
//! server (`Sender`) copies it into the outbox of each webhook that wants it and moves that webhook's cursor, in one transaction. From
//! the outbox it is sent until the receiver takes it. A failed attempt holds back what comes after it, so order is kept; after days of
//! failures the webhook is silenced, and goes on where it was when somebody enables it. `message` has the bytes, `signature` the secret.

mod message;
mod sender;
mod signature;

pub use sender::Sender;
pub use signature::SigningSecret;

use std::io;

use crate::access::key::SecretKey;
use crate::domain::ids::WebhookId;

/// A webhook's secret as the database keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSecret {
    /// The sealed bytes.
    pub bytes: Vec<u8>,
    /// Fingerprint of the key that opens them.
    pub sealed_by: String,
}

/// Seals a webhook's secret under this server's key.
pub fn seal_secret(key: &SecretKey, webhook: WebhookId, secret: &SigningSecret) -> io::Result<SealedSecret> {
    Ok(SealedSecret { bytes: key.seal(&owner(webhook), secret.bytes())?, sealed_by: key.fingerprint() })
}

/// Opens a webhook's secret; `None` when another server's key sealed it.
fn open_secret(key: &SecretKey, webhook: WebhookId, sealed: &[u8]) -> Option<SigningSecret> {
    key.open_sealed(&owner(webhook), sealed).map(SigningSecret::from_bytes)
}

fn owner(webhook: WebhookId) -> String {
    format!("webhook {webhook}")
}
