//! Class names as folders: what a file system can't hold is percent-encoded (`T-shirt%2Ftop`), on the way out and back in.

/// A name as a file or folder of that name: `/`, `\`, `%`, control characters and a leading dot are encoded.
#[must_use]
pub fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for (at, character) in name.char_indices() {
        if matches!(character, '/' | '\\' | '%') || character.is_control() || (at == 0 && character == '.') {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                encoded.push_str(&format!("%{byte:02X}"));
            }
        } else {
            encoded.push(character);
        }
    }
    encoded
}

/// The name that a file or folder stands for; what is no valid encoding stays as it is.
#[must_use]
pub fn decode(folder: &str) -> String {
    let bytes = folder.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|digits| hex::decode(digits).ok());
        match hex.as_deref() {
            Some(&[value]) if byte == b'%' => {
                decoded.push(value);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::any;
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn what_is_no_encoding_stays_as_it_is() {
        assert_eq!(["100%", "%zz", "a%2", "%C3%A4", "%ff"].map(decode), ["100%", "%zz", "a%2", "ä", "%ff"]);
        assert_eq!(["T-shirt/top", "..", "50 %", "ä"].map(encode), ["T-shirt%2Ftop", "%2E.", "50 %25", "ä"]);
    }

    proptest! {
        #[test]
        fn every_name_comes_back_and_never_leaves_its_folder(name in any::<String>()) {
            let folder = encode(&name);
            prop_assert_eq!(decode(&folder), name);
            prop_assert!(!folder.contains(['/', '\\', '\0']) && folder != "." && folder != "..");
        }
    }
}
