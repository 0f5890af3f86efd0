//! Named random streams: every random choice of gleaner is drawn from a stream keyed by the project's seed, a name and what it is about.
//!
//! A key never holds an id, an arrival time, a folder order or a shard number, so the same images and labels give the same draws in
//! another database. Streams are ChaCha8 (portable, counter-based) under a SHA-256 of the key.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

use super::content_hash::ContentHash;

/// The key of a random stream while it is being put together.
#[derive(Clone)]
pub struct StreamKey(Sha256);

impl StreamKey {
    /// Starts a key from the project's seed and the stream's name (`"augment"`, `"head.init"`, …).
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Self {
        let mut digest = Sha256::new();
        digest.update(seed.to_le_bytes());
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name.as_bytes());
        Self(digest)
    }

    /// Adds a number to the key: a round, an epoch, a view.
    #[must_use]
    pub fn with_number(mut self, number: u64) -> Self {
        self.0.update([1]);
        self.0.update(number.to_le_bytes());
        self
    }

    /// Adds an image to the key.
    #[must_use]
    pub fn with_content(mut self, hash: &ContentHash) -> Self {
        self.0.update([2]);
        self.0.update(hash.0);
        self
    }

    /// The stream under this key.
    #[must_use]
    pub fn stream(self) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.0.finalize().into())
    }

    /// One number under this key, for orders and ties that need no whole stream.
    #[must_use]
    pub fn number(self) -> u64 {
        let digest: [u8; 32] = self.0.finalize().into();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(first)
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn the_same_key_gives_the_same_stream_and_another_name_another() {
        let draw = |name: &str| StreamKey::new(7, name).with_number(3).stream().random::<u64>();
        assert_eq!(draw("augment"), draw("augment"));
        assert_ne!(draw("augment"), draw("order"));
    }

    #[test]
    fn a_number_and_a_content_hash_of_the_same_bytes_are_different_keys() {
        let by_number = StreamKey::new(7, "x").with_number(0).number();
        let by_content = StreamKey::new(7, "x").with_content(&ContentHash([0; 32])).number();
        assert_ne!(by_number, by_content);
    }
}
