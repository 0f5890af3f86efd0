//! Sealing: secrets that the service must be able to read again, kept in the database so that the database alone gives none away.
//!
//! ChaCha20-Poly1305 under a key that is derived from the server's secret key and used for nothing else; the row that a secret belongs to is
//! authenticated with it, so a sealed secret that is moved to another row doesn't open.

use std::io;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::key::{SecretKey, random_bytes};

/// Separates this use of the key from its others.
const PURPOSE: &str = "gleaner sealed secrets 1";

impl SecretKey {
    /// Which key this is, without telling it: 16 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.sign("gleaner key fingerprint")[..16].to_owned()
    }

    /// Seals a secret for the row named by `owner`; each call gives other bytes.
    pub fn seal(&self, owner: &str, secret: &[u8]) -> io::Result<Vec<u8>> {
        let random = random_bytes()?;
        let mut sealed = random[..NONCE_LEN].to_vec();
        let mut text = secret.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| broken())?;
        self.sealing_key()?
            .seal_in_place_append_tag(nonce, Aad::from(owner), &mut text)
            .map_err(|_| broken())?;
        sealed.extend(text);
        Ok(sealed)
    }

    /// Opens what `seal` made for the same row; `None` when it was made with another key, for another row, or was changed.
    #[must_use]
    pub fn open_sealed(&self, owner: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let secret = self.sealing_key().ok()?.open_in_place(nonce, Aad::from(owner), &mut text).ok()?;
        Some(secret.to_vec())
    }

    fn sealing_key(&self) -> io::Result<LessSafeKey> {
        let bytes = hex::decode(self.sign(PURPOSE)).map_err(|_| broken())?;
        UnboundKey::new(&CHACHA20_POLY1305, &bytes).map(LessSafeKey::new).map_err(|_| broken())
    }
}

fn broken() -> io::Error {
    io::Error::other("the secret can't be sealed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_under_its_key_for_its_row_only() {
        let (key, other) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
        let sealed = key.seal("webhook 1", b"secret").unwrap();
        assert_eq!(key.open_sealed("webhook 1", &sealed).as_deref(), Some(b"secret".as_slice()));
        assert_eq!(key.open_sealed("webhook 2", &sealed), None);
        assert_eq!(other.open_sealed("webhook 1", &sealed), None);
        assert_ne!(key.seal("webhook 1", b"secret").unwrap(), sealed);
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(key.open_sealed("webhook 1", &changed), None);
        }
        assert_eq!(key.open_sealed("webhook 1", &[]), None);
        assert_ne!(key.fingerprint(), other.fingerprint());
        assert_eq!(key.fingerprint(), SecretKey::from_bytes(&[1; 32]).fingerprint());
    }
}
