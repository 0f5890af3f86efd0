//! Signed, expiring addresses of images, since an `<img>` element can't send a bearer token.
//!
//! The end is rounded up to a full hour, so that a page that asks twice gets the same address and the browser's cache serves it.

use chrono::{DateTime, Utc};

use super::key::SecretKey;
use crate::domain::ids::ItemId;

/// The least time an address stays valid.
const VALID_SECONDS: i64 = 3600;

/// The path and query under which an item's image is served to whoever holds it.
#[must_use]
pub fn image_url(key: &SecretKey, item: ItemId, now: DateTime<Utc>) -> String {
    image_url_at(key, item, (now.timestamp() / VALID_SECONDS + 2) * VALID_SECONDS)
}

/// The same, valid until `end`, for tools that keep addresses.
#[must_use]
pub fn image_url_until(key: &SecretKey, item: ItemId, end: DateTime<Utc>) -> String {
    image_url_at(key, item, end.timestamp())
}

fn image_url_at(key: &SecretKey, item: ItemId, expires: i64) -> String {
    let signature = key.sign(&purpose(item, expires));
    format!("/api/v1/items/{item}/image?expires={expires}&signature={signature}")
}

/// Whether `expires` and `signature` let their bearer see the image of `item`.
#[must_use]
pub fn verify(key: &SecretKey, item: ItemId, expires: i64, signature: &str, now: DateTime<Utc>) -> bool {
    now.timestamp() < expires && key.verify(&purpose(item, expires), signature)
}

fn purpose(item: ItemId, expires: i64) -> String {
    format!("image:{item}:{expires}")
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn parts(url: &str) -> (i64, String) {
        let query = url.split_once('?').expect("a query").1;
        let (expires, signature) = query.split_once('&').expect("two parameters");
        let number = expires.trim_start_matches("expires=").parse().expect("seconds");
        (number, signature.trim_start_matches("signature=").to_owned())
    }

    #[test]
    fn an_address_shows_its_own_image_for_one_to_two_hours() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let (item, now) = (ItemId::generate(), Utc::now());
        let (expires, signature) = parts(&image_url(&key, item, now));
        assert!((3600..=7200).contains(&(expires - now.timestamp())));
        assert!(verify(&key, item, expires, &signature, now));
        assert!(!verify(&key, ItemId::generate(), expires, &signature, now));
        assert!(!verify(&key, item, expires + 1, &signature, now));
        assert!(!verify(&key, item, expires, &signature, now + TimeDelta::hours(3)));
    }
}
