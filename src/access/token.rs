//! Bearer tokens: `gl_<role letter>_<64 hexadecimal digits>`, 256 random bits.
//!
//! The text is shown once, when it is minted; what is kept is its SHA-256. The role's letter is for people and secret scanners; the
//! role that counts stands in the database.

use std::io;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::key::random_bytes;
use crate::domain::role::Role;

/// The SHA-256 of a token's text: what the database keeps.
pub type TokenHash = [u8; 32];

/// The text of a token; `Debug` doesn't show it.
#[derive(Clone)]
pub struct TokenText(String);

impl TokenText {
    /// A fresh token for a role, from the operating system's random source.
    pub fn mint(role: Role) -> io::Result<Self> {
        Ok(Self(format!("gl_{}_{}", role_letter(role), hex::encode(random_bytes()?))))
    }

    /// Takes a text for a token; `None` when it can't be one (empty, longer than 200 bytes, or not printable ASCII). A token given
    /// by the operator (`GLEANER_ADMIN_TOKEN`) need not have the minted form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plausible =
            !text.is_empty() && text.len() <= 200 && text.bytes().all(|byte| byte.is_ascii_graphic());
        plausible.then(|| Self(text.to_owned()))
    }

    /// The text, to be shown once or sent.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The hash that the database keeps.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// Whether `stored` is the hash of this token, compared in constant time.
    #[must_use]
    pub fn matches(&self, stored: &[u8]) -> bool {
        self.hash().as_slice().ct_eq(stored).into()
    }
}

impl std::fmt::Debug for TokenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenText(…)")
    }
}

fn role_letter(role: Role) -> char {
    match role {
        Role::Labeler => 'l',
        Role::Tool => 't',
        Role::Operator => 'o',
        Role::Admin => 'a',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_minted_tokens_differ_and_each_matches_only_its_own_hash() {
        let first = TokenText::mint(Role::Labeler).expect("random bytes");
        let second = TokenText::mint(Role::Labeler).expect("random bytes");
        assert!(first.expose().starts_with("gl_l_") && first.expose().len() == 5 + 64);
        assert!(first.matches(&first.hash()));
        assert!(!first.matches(&second.hash()));
        assert!(!first.matches(&[]));
    }

    #[test]
    fn a_text_that_no_header_could_carry_is_no_token() {
        for bad in ["", "two words", "line\nbreak", &"x".repeat(201)] {
            assert!(TokenText::parse(bad).is_none(), "{bad:?}");
        }
        assert!(TokenText::parse("chosen-by-the-operator").is_some());
    }

    #[test]
    fn debug_output_hides_the_token() {
        let token = TokenText::parse("gl_a_secret").expect("a plausible token");
        assert!(!format!("{token:?}").contains("secret"));
    }
}
