//! One-time login codes: what the demo's link carries instead of a token.
//!
//! Kept in the memory of the process that serves the pages; a restart forgets them. A code opens one session and is then gone.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::key::random_bytes;
use crate::domain::ids::TokenId;

/// How long a code waits for its use.
const VALID: Duration = Duration::from_secs(24 * 3600);

/// The codes that are still good.
#[derive(Default)]
pub struct LoginCodes {
    // Keyed by the hash, so that a lookup's timing tells nothing about a code.
    open: Mutex<HashMap<[u8; 32], (TokenId, Instant)>>,
}

impl LoginCodes {
    /// A fresh code that opens one session of `token` within a day.
    pub fn mint(&self, token: TokenId) -> io::Result<String> {
        let code = hex::encode(random_bytes()?);
        let now = Instant::now();
        let mut open = self.lock();
        open.retain(|_, (_, minted)| now.duration_since(*minted) < VALID);
        open.insert(Sha256::digest(code.as_bytes()).into(), (token, now));
        Ok(code)
    }

    /// Uses a code up; `None` when it is unknown, used or too old.
    pub fn redeem(&self, code: &str) -> Option<TokenId> {
        let hash: [u8; 32] = Sha256::digest(code.as_bytes()).into();
        let (token, minted) = self.lock().remove(&hash)?;
        (minted.elapsed() < VALID).then_some(token)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (TokenId, Instant)>> {
        // A panic while the lock was held can't leave the map half changed: each change is one call.
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_works_once() {
        let codes = LoginCodes::default();
        let token = TokenId::generate();
        let code = codes.mint(token).expect("random bytes");
        assert_eq!(codes.redeem("something else"), None);
        assert_eq!(codes.redeem(&code), Some(token));
        assert_eq!(codes.redeem(&code), None);
    }
}
