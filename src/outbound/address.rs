//! Which addresses the service may call on somebody's behalf.
//!
//! Whoever may name an address to call could otherwise reach what only this machine reaches: its own ports, the neighbours in the private
//! network, a cloud's metadata service. So addresses that aren't public are refused, by name and by number, unless the operator allows them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

/// An address that may be called; its text is in normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(pub(super) Url);

/// Why an address can't be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is no address of the web.
    #[error("must be an address such as https://tools.example.org/hook")]
    Malformed,
    /// It holds a name or password, which everybody who may list it would see.
    #[error("must hold no user name or password; its own secret path or the signature proves who calls")]
    Credentials,
    /// It leads into a private network.
    #[error(
        "{0} is not a public address; an operator may allow private ones with GLEANER_OUTBOUND_ALLOW_PRIVATE"
    )]
    Private(String),
}

impl Address {
    /// Takes a text for an http(s) address of at most 2,000 bytes. A private number is refused here, a name once it is resolved.
    pub fn parse(text: &str, allow_private: bool) -> Result<Self, AddressError> {
        let mut url = Url::parse(text).ok().filter(|_| text.len() <= 2000).ok_or(AddressError::Malformed)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AddressError::Malformed);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Credentials);
        }
        let host = url.host_str().ok_or(AddressError::Malformed)?;
        // The parser has turned every way of writing a number (0x7f.1, 2130706433) into the usual one.
        let number: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let local_name = host.trim_end_matches('.');
        let is_local_name = local_name == "localhost" || local_name.ends_with(".localhost");
        if !allow_private && (is_local_name || number.is_some_and(|number| !is_public(number))) {
            return Err(AddressError::Private(host.to_owned()));
        }
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// The address in normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Whether an address belongs to the public internet (IANA's special-purpose registries).
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(embedded) = embedded_v4(address) {
        return is_public_v4(embedded);
    }
    let [first, second, ..] = address.segments();
    // Only 2000::/3 is handed out; of it documentation, benchmarks, ORCHID and Teredo aren't places.
    let handed_out = (0x2000..=0x3fff).contains(&first);
    let special = (first == 0x2001 && (second < 0x0200 || second == 0x0db8)) || first == 0x3fff;
    handed_out && !special
}

/// The IPv4 address that a mapped, translated (NAT64) or tunnelled (6to4) address leads to.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("93.184.215.14", true)]
    #[case("172.15.0.1", true)]
    #[case("2606:2800:220:1::1", true)]
    #[case("::ffff:93.184.215.14", true)]
    #[case("127.0.0.1", false)]
    #[case("10.1.2.3", false)]
    #[case("172.16.0.1", false)]
    #[case("192.168.1.1", false)]
    #[case("169.254.169.254", false)]
    #[case("100.100.0.1", false)]
    #[case("0.0.0.0", false)]
    #[case("224.0.0.1", false)]
    #[case("255.255.255.255", false)]
    #[case("::1", false)]
    #[case("::", false)]
    #[case("fe80::1", false)]
    #[case("fd00::1", false)]
    #[case("ff02::1", false)]
    #[case("2001:db8::1", false)]
    #[case("::ffff:127.0.0.1", false)]
    #[case("64:ff9b::a00:1", false)]
    #[case("2002:7f00:1::", false)]
    fn only_the_internet_is_public(#[case] address: &str, #[case] public: bool) {
        assert_eq!(is_public(address.parse().unwrap()), public);
    }

    #[rstest::rstest]
    #[case("http://127.0.0.1/hook")]
    #[case("http://0x7f.1/")]
    #[case("http://2130706433/")]
    #[case("http://[::1]:8080/")]
    #[case("https://LOCALHOST/")]
    #[case("https://a.localhost./")]
    #[case("http://169.254.169.254/latest/meta-data")]
    fn private_addresses_are_refused_however_they_are_written(#[case] text: &str) {
        assert!(matches!(Address::parse(text, false), Err(AddressError::Private(_))), "{text}");
        assert!(Address::parse(text, true).is_ok(), "{text}");
    }

    #[test]
    fn what_is_no_address_of_the_web_is_refused() {
        for text in ["", "hook", "ftp://example.org/", "file:///etc/passwd", "http://", "https://?"] {
            assert_eq!(Address::parse(text, true), Err(AddressError::Malformed), "{text}");
        }
        let long = format!("https://example.org/{}", "a".repeat(2000));
        assert_eq!(Address::parse(&long, true), Err(AddressError::Malformed));
        assert_eq!(Address::parse("https://me:pw@example.org/", true), Err(AddressError::Credentials));
        let address = Address::parse("https://EXAMPLE.org/hook?a=1#part", false).unwrap();
        assert_eq!(address.as_str(), "https://example.org/hook?a=1");
    }
}
