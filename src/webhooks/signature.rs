//! Signatures after Standard Webhooks (standardwebhooks.com, version 1): HMAC-SHA256 over `id.timestamp.body`, so that a receiver knows who
//! sent a message and when, and can refuse an old one that somebody sends again.

use std::fmt;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::access::key::random_bytes;

/// How the secret's text begins.
const PREFIX: &str = "whsec_";

/// What a webhook and its receiver share; `Debug` doesn't show it.
#[derive(Clone)]
pub struct SigningSecret(Vec<u8>);

impl SigningSecret {
    /// A fresh secret of 32 bytes from the operating system's random source.
    pub fn mint() -> io::Result<Self> {
        Ok(Self(random_bytes()?.to_vec()))
    }

    /// The secret of these bytes.
    #[must_use]
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes that sign.
    #[must_use]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text to be shown once: `whsec_` and the bytes in Base64.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// The value of `webhook-signature` for a message sent at `timestamp` (seconds since 1970).
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of the specification's reference libraries: secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw.
    #[test]
    fn the_signature_is_the_one_of_the_reference_libraries() {
        let secret = SigningSecret(STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let signed = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(secret.expose(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    }

    #[test]
    fn debug_output_hides_the_secret_and_no_two_are_alike() {
        let (one, two) = (SigningSecret::mint().unwrap(), SigningSecret::mint().unwrap());
        assert_ne!(one.expose(), two.expose());
        assert!(!format!("{one:?}").contains(&one.expose()[6..]));
    }
}
