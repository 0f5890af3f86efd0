//! Which item a task shows.
//!
//! Exports of gleaner put the item's id into the task as `gleaner_item`, which survives Label Studio's round trip. Tasks that came another way are
//! matched by their image's address, and only where that leaves no doubt: a label on the wrong item is worse than none.

use std::collections::HashSet;

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::domain::class_folder::decode;
use crate::domain::ids::ItemId;

/// The key in a task's `data` that names the item.
const ITEM_KEY: &str = "gleaner_item";

/// What may name an item.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ItemKey {
    /// Its id.
    Id(ItemId),
    /// Its name.
    Name(String),
}

/// What may name the item of a task, the surest first. `image_key` is the key of the image's address, when the config is known.
#[must_use]
pub fn item_keys(data: &Map<String, Value>, image_key: Option<&str>) -> Vec<ItemKey> {
    let mut keys = Vec::new();
    if let Some(named) = data.get(ITEM_KEY).and_then(Value::as_str) {
        // Whoever names an item means that one: another that the address might fit must not take its place.
        return vec![
            Uuid::parse_str(named)
                .map_or_else(|_| ItemKey::Name(named.to_owned()), |id| ItemKey::Id(ItemId(id))),
        ];
    }
    let addresses: Vec<&str> = match image_key.and_then(|key| data.get(key)).and_then(Value::as_str) {
        Some(address) => vec![address],
        // Without a config whatever looks like a file may be the image.
        None if image_key.is_none() => {
            data.values().filter_map(Value::as_str).filter(|text| text.contains(['/', '.'])).collect()
        }
        None => Vec::new(),
    };
    for address in addresses {
        keys.extend(address_keys(address));
    }
    let mut seen = HashSet::new();
    keys.retain(|key| seen.insert(key.clone()));
    keys
}

/// What an image's address may name: one of gleaner's own leads to an id, any other to a name.
fn address_keys(address: &str) -> Vec<ItemKey> {
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    if let Some(id) = own_image(path) {
        return vec![ItemKey::Id(id)];
    }
    let mut names = vec![address.to_owned()];
    let without_scheme = path.split_once("://").map_or(path, |(_, rest)| rest);
    let below_host = match path.contains("://") {
        true => without_scheme.split_once('/').map_or("", |(_, below)| below),
        false => without_scheme.trim_start_matches('/'),
    };
    names.push(decode(without_scheme));
    names.push(decode(below_host));
    // Label Studio serves its own machine's files as /data/local-files/?d=folder/name.
    if below_host.ends_with("data/local-files/") {
        names.extend(query.split('&').filter_map(|pair| pair.strip_prefix("d=")).map(decode));
    }
    // An upload is /data/upload/<project>/<eight digits>-<name>.
    if let Some(upload) = below_host.split("data/upload/").nth(1)
        && let Some((_, file)) = upload.split_once('/')
        && let Some((digits, name)) = file.split_once('-')
        && digits.len() == 8
        && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    {
        names.push(decode(name));
    }
    names.into_iter().filter(|name| !name.is_empty()).map(ItemKey::Name).collect()
}

/// The item whose image gleaner itself serves under this path.
fn own_image(path: &str) -> Option<ItemId> {
    let rest = path.split("/api/v1/items/").nth(1)?;
    let id = rest.strip_suffix("/image")?;
    Uuid::parse_str(id).ok().map(ItemId)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(data: &Value, image_key: Option<&str>) -> Vec<ItemKey> {
        item_keys(data.as_object().unwrap(), image_key)
    }

    fn names(address: &str) -> Vec<String> {
        keys(&json!({"image": address}), Some("image"))
            .into_iter()
            .map(|key| match key {
                ItemKey::Name(name) => name,
                ItemKey::Id(id) => id.to_string(),
            })
            .collect()
    }

    #[test]
    fn a_task_that_names_its_item_means_no_other() {
        let id = ItemId::generate();
        let data = json!({"image": "http://127.0.0.1:1/9.png", "gleaner_item": id});
        assert_eq!(keys(&data, Some("image")), [ItemKey::Id(id)]);
        let named = json!({"gleaner_item": "pool/9.png", "image": "x"});
        assert_eq!(keys(&named, None), [ItemKey::Name("pool/9.png".to_owned())]);
    }

    #[test]
    fn an_address_of_gleaner_itself_leads_to_the_item() {
        let id = ItemId::generate();
        let address = format!("https://gleaner.example.org/api/v1/items/{id}/image?expires=1&signature=ab");
        assert_eq!(keys(&json!({"image": address}), Some("image")), [ItemKey::Id(id)]);
    }

    #[test]
    fn other_addresses_are_names_in_full_or_below_their_host() {
        assert_eq!(
            names("http://127.0.0.1:1/pile/9%20a.png?token=1"),
            ["http://127.0.0.1:1/pile/9%20a.png?token=1", "127.0.0.1:1/pile/9 a.png", "pile/9 a.png"]
        );
        assert_eq!(
            names("s3://bucket/pile/9.png"),
            ["s3://bucket/pile/9.png", "bucket/pile/9.png", "pile/9.png"]
        );
        assert_eq!(names("/data/local-files/?d=pile/9%2Fb.png").last().unwrap(), "pile/9/b.png");
        assert_eq!(names("/data/upload/1/0123abcd-cat-1.png").last().unwrap(), "cat-1.png");
        assert_eq!(names("/data/upload/1/cat-1.png").last().unwrap(), "data/upload/1/cat-1.png");
        assert_eq!(names("100%.png"), ["100%.png"]);
    }

    #[test]
    fn without_a_config_whatever_looks_like_a_file_may_be_the_address() {
        let found = keys(&json!({"pool_id": "p9", "number": 9, "photo": "a.png"}), None);
        assert_eq!(found, [ItemKey::Name("a.png".to_owned())]);
        assert_eq!(keys(&json!({"pool_id": "p9"}), Some("image")), []);
    }
}
