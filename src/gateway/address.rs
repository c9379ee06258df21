//! Where a request comes from, for counting: the peer, or what trusted proxies say of it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::ws::handshake::items;

/// The address of the client: the last one in `X-Forwarded-For` or in `Forwarded` (RFC 7239) that is no trusted proxy's,
/// if `peer` is one; a client can write whatever it likes in front of that. What cannot be read ends the walk at the proxy
/// that said it. If both headers are there and disagree, the proxies write one of them only, and the other one is the
/// client's own word: then the peer counts. IPv6 addresses stand for their /64, of which one client has them all.
pub fn client(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let believed = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let peer = peer.to_canonical();
    let walk = |said: Vec<Option<IpAddr>>| {
        let mut address = peer;
        for said in said.into_iter().rev() {
            let (true, Some(said)) = (believed(&address), said) else { break };
            address = said;
        }
        address
    };
    let by_list = || walk(items(headers, &X_FORWARDED_FOR).map(node).collect());
    let by_elements = || walk(items(headers, &FORWARDED).map(forwarded_for).collect());
    let address = match (headers.contains_key(X_FORWARDED_FOR), headers.contains_key(FORWARDED)) {
        (false, _) => by_elements(),
        (true, false) => by_list(),
        (true, true) => Some(by_list()).filter(|address| *address == by_elements()).unwrap_or(peer),
    };
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & NETWORK)),
    }
}

/// The value of `for` in one element of `Forwarded`.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let pairs = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let value = pairs.filter_map(|pair| pair.split_at_checked(4)).find(|(name, _)| name.eq_ignore_ascii_case(b"for="));
    let (_, value) = value?;
    node(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// An address with or without a port, an IPv6 one with or without brackets.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The first 64 bits.
const NETWORK: u128 = !0 << 64;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_client_is_counted_by_the_address_that_trusted_proxies_show() {
        let table: [(&str, &[(&str, &str)], &str); 19] = [
            ("203.0.113.1", &[], "203.0.113.1"),
            ("203.0.113.1", &[("x-forwarded-for", "198.51.100.1")], "203.0.113.1"),
            ("::ffff:203.0.113.1", &[], "203.0.113.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.1, 10.0.0.2")], "198.51.100.1"),
            ("10.0.0.1", &[("x-forwarded-for", "192.0.2.9, 198.51.100.1")], "198.51.100.1"),
            ("10.0.0.1", &[("x-forwarded-for", "192.0.2.9"), ("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.1:4711")], "198.51.100.1"),
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.1, unknown")], "10.0.0.1"),
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.1, unknown, 10.0.0.2")], "10.0.0.2"),
            ("10.0.0.1", &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
            ("10.0.0.1", &[("x-forwarded-for", "[2001:db8:1:2:3::4]:80")], "2001:db8:1:2::"),
            ("10.0.0.1", &[("forwarded", "for=198.51.100.1;proto=https")], "198.51.100.1"),
            ("10.0.0.1", &[("forwarded", "for=192.0.2.9, proto=https; For=\"[2001:db8::1]:8\"")], "2001:db8::"),
            ("10.0.0.1", &[("forwarded", "for=_hidden")], "10.0.0.1"),
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=192.0.2.9")], "10.0.0.1"),
            ("10.0.0.1", &[("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=198.51.100.1")], "198.51.100.1"),
            ("2001:db8:1:2:3:4:5:6", &[], "2001:db8:1:2::"),
        ];
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        for (peer, sent, expected) in table {
            let pairs =
                sent.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            let headers: HeaderMap = pairs.collect();
            assert_eq!(client(&headers, peer.parse().unwrap(), &trusted).to_string(), expected, "{peer} {sent:?}");
        }
    }
}
