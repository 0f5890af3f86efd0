//! Sessions of pages: a signed text that names a token and an end, kept in an HttpOnly cookie.
//!
//! The cookie never holds the token itself, so a browser's profile leaks none. The token is looked up at every request, so revoking
//! it ends its sessions at once.

use chrono::{DateTime, Utc};

use super::key::SecretKey;
use crate::domain::ids::TokenId;

/// How long a page stays logged in.
pub const SESSION_SECONDS: i64 = 30 * 24 * 3600;

/// The cookie's value for a session of `token` that ends at `expires_at`.
#[must_use]
pub fn seal(key: &SecretKey, token: TokenId, expires_at: DateTime<Utc>) -> String {
    let body = format!("{token}.{}", expires_at.timestamp());
    let signature = key.sign(&purpose(&body));
    format!("{body}.{signature}")
}

/// The token of a session, or `None` when the value is forged, damaged or past its end.
#[must_use]
pub fn open(key: &SecretKey, value: &str, now: DateTime<Utc>) -> Option<TokenId> {
    let (body, signature) = value.rsplit_once('.')?;
    if !key.verify(&purpose(body), signature) {
        return None;
    }
    let (token, expires_at) = body.split_once('.')?;
    let alive = expires_at.parse::<i64>().is_ok_and(|end| now.timestamp() < end);
    if alive { token.parse().ok() } else { None }
}

fn purpose(body: &str) -> String {
    format!("session:{body}")
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_session_opens_until_its_end_and_not_when_a_character_was_changed() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let token = TokenId::generate();
        let now = Utc::now();
        let value = seal(&key, token, now + TimeDelta::seconds(60));
        assert_eq!(open(&key, &value, now), Some(token));
        assert_eq!(open(&key, &value, now + TimeDelta::seconds(61)), None);
        let forged = value.replacen(&token.to_string(), &TokenId::generate().to_string(), 1);
        assert_eq!(open(&key, &forged, now), None);
        assert_eq!(open(&key, "nonsense", now), None);
    }
}
