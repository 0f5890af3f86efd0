//! The identity of an image's content: SHA-256 of what was supplied.
//!
//! For encoded images it is the hash of the file's bytes; for raw formats (IDX, CIFAR binary) of a header (width, height, channels as
//! little-endian u32) and the pixels. It doesn't depend on a decoder's version, so random streams and ties keyed by it repeat for years.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// SHA-256 of an image's content; the order of these hashes is the order of training sets and ties.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// Hash of an encoded image file.
    #[must_use]
    pub fn of_file(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Hash of a raw image: its size and its pixels, row by row, channels last.
    #[must_use]
    pub fn of_pixels(width: u32, height: u32, channels: u32, pixels: &[u8]) -> Self {
        let mut digest = Sha256::new();
        for extent in [width, height, channels] {
            digest.update(extent.to_le_bytes());
        }
        digest.update(pixels);
        Self(digest.finalize().into())
    }

    /// The hash written in lower-case hexadecimal, 64 characters.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Reads a hash back from its 32 bytes; `None` when the length differs.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> Self {
        hash.to_hex()
    }
}

impl TryFrom<String> for ContentHash {
    type Error = String;

    /// Reads what `to_hex` wrote.
    fn try_from(text: String) -> Result<Self, String> {
        let bytes = hex::decode(&text).ok().and_then(|bytes| Self::from_slice(&bytes));
        bytes.ok_or_else(|| format!("'{text}' is no content hash: 64 hexadecimal digits are expected"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_back_from_its_digits() {
        let hash = ContentHash::of_file(b"an image");
        assert_eq!(ContentHash::try_from(hash.to_hex()), Ok(hash));
        let error = ContentHash::try_from("12ab".to_owned()).unwrap_err();
        assert!(error.contains("12ab"), "{error}");
    }
}
