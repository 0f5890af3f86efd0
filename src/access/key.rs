//! The secret key of a server, kept in a 0600 file in its home.
//!
//! It signs image addresses and page sessions. One key signs both: each signed text begins with its purpose, so a signature made
//! for one is worthless for the other. Servers behind one address share the file, or pages log in again.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::hmac;

use super::AccessError;

/// A key for HMAC-SHA256; it can sign and verify, and is never shown.
#[derive(Clone)]
pub struct SecretKey(hmac::Key);

impl SecretKey {
    /// A key from 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Reads the key in `path`, or makes a new one there (mode 0600) when the file doesn't exist. Blocks on the disk.
    pub fn load_or_create(path: &Path) -> Result<Self, AccessError> {
        let failed = |source| AccessError::KeyFile { path: path.to_owned(), source };
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).ok_or_else(|| AccessError::KeyMalformed { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let bytes = random_bytes().map_err(failed)?;
                // Written whole before it gets its name, so that a server starting beside this one never reads half a key.
                let draft = path.with_extension(format!("draft-{}", std::process::id()));
                let mut file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&draft)
                    .map_err(failed)?;
                file.write_all(hex::encode(bytes).as_bytes())
                    .and_then(|()| file.sync_all())
                    .map_err(failed)?;
                let placed = fs::hard_link(&draft, path);
                fs::remove_file(&draft).map_err(failed)?;
                match placed {
                    Ok(()) => Ok(Self::from_bytes(&bytes)),
                    // The neighbour was first; its key counts.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load_or_create(path),
                    Err(error) => Err(failed(error)),
                }
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 32] = hex::decode(text.trim()).ok()?.try_into().ok()?;
        Some(Self::from_bytes(&bytes))
    }

    /// The signature of `text`, 64 hexadecimal digits.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        hex::encode(hmac::sign(&self.0, text.as_bytes()))
    }

    /// Whether `signature` is the one of `text`, compared in constant time.
    #[must_use]
    pub fn verify(&self, text: &str, signature: &str) -> bool {
        hex::decode(signature).is_ok_and(|tag| hmac::verify(&self.0, text.as_bytes(), &tag).is_ok())
    }
}

/// 32 bytes of the operating system's random source.
pub fn random_bytes() -> io::Result<[u8; 32]> {
    let random: ring::rand::Random<[u8; 32]> = ring::rand::generate(&ring::rand::SystemRandom::new())
        .map_err(|_| io::Error::other("the operating system gave no random bytes"))?;
    Ok(random.expose())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_with_mode_0600_and_read_back_after_that() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("secret");
        let signature = SecretKey::load_or_create(&path).expect("a new key").sign("text");
        assert!(SecretKey::load_or_create(&path).expect("the same key").verify("text", &signature));
        assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "no draft stays");
    }

    #[test]
    fn a_damaged_key_file_is_named_and_not_replaced() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("secret");
        fs::write(&path, "short").expect("a damaged file");
        let error = SecretKey::load_or_create(&path).map(|_| ()).expect_err("no key");
        assert!(error.to_string().contains("secret"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("untouched"), "short");
    }

    #[test]
    fn a_signature_holds_for_its_text_and_key_only() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let signature = key.sign("text");
        assert!(key.verify("text", &signature));
        assert!(!key.verify("other", &signature));
        assert!(!SecretKey::from_bytes(&[2; 32]).verify("text", &signature));
        assert!(!key.verify("text", "not hexadecimal"));
    }
}
