//! Who may do what: tokens, roles, sessions of pages, one-time login codes and signed image addresses.
//!
//! Owns every secret of the service and every comparison with one. `http` and `commands` call it; it reads tokens through the
//! store and writes nothing. Tokens are stored as SHA-256 only, since 256 random bits need no slow hash; whatever is compared
//! with a secret is compared in constant time.

pub mod key;
pub mod login_code;
pub mod principal;
pub mod seal;
pub mod session;
pub mod signed_image;
pub mod token;

use std::io;
use std::path::PathBuf;

/// What can go wrong with a secret of the service itself; a wrong token of a caller is no error of this kind.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The key file could not be read or made.
    #[error(
        "the key file {path} can't be used: {source}; check that its folder belongs to the user gleaner runs as"
    )]
    KeyFile {
        /// Where the key lies.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The key file holds something else than a key.
    #[error(
        "the key file {path} holds no key of 64 hexadecimal digits; remove it to have a new one made (pages will have to log in again)"
    )]
    KeyMalformed {
        /// Where the key lies.
        path: PathBuf,
    },
}
