//! Header hygiene: what of a request's headers goes on to the service, and what of its answer comes back.
//!
//! Owns the rules on names and the values that the gateway sets itself; pure functions over a header map. Does not
//! know where the token stood (`token::carrier` has taken it out before). Called by the `forward` stage, which cleans
//! first and sets afterwards, so that nothing a client names in `Connection` can remove what the gateway sets.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::gateway::identity::Introduction;
use crate::gateway::route::Rewrite;
use crate::names;
use crate::upstream;
use crate::ws::handshake::items;

/// Removes from a client's request what is not for the service to see, or not for a client to say: hop-by-hop headers
/// and those named in `Connection`; the gateway's own headers and those of the introduction, in any [`spelling`]; `Proxy`,
/// which CGI services take for their own `HTTP_PROXY`; and the headers by which proxies tell where a request came from,
/// unless the peer is a trusted proxy. A trusted proxy is believed for their exact names only: it would pass on a
/// client's `X_Forwarded_For` unseen.
pub fn clean_request(headers: &mut HeaderMap, trusted: bool, introduction: &Introduction) {
    remove_hop_by_hop(headers);
    headers.remove(EXPECT);
    let introduction = introduction.spellings();
    remove_where(headers, |name| {
        let spelled = spelling(name);
        spelled.starts_with(names::HEADER_PREFIX)
            || spelled == "proxy"
            || introduction.contains(&spelled)
            || (tells_origin(&spelled) && !(trusted && spelled == name))
    });
}

/// Removes from a service's answer what belongs to its connection with us, and what only the gateway may say.
pub fn clean_answer(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(SEC_WEBSOCKET_ACCEPT);
    remove_where(headers, |name| spelling(name).starts_with(names::HEADER_PREFIX));
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub struct Hop<'a> {
    /// The peer's address.
    pub peer: IpAddr,
    /// Whether what the peer says of earlier hops is believed.
    pub trusted: bool,
    /// Whether the request came over TLS.
    pub secure: bool,
    /// `Host` as the client sent it.
    pub host: &'a HeaderValue,
    /// The path prefix that was taken off.
    pub stripped: Option<&'a str>,
}

/// Sets `X-Forwarded-For`, `-Proto`, `-Host` (and `-Prefix`, if one was taken off) and `Forwarded` (RFC 7239). What a
/// trusted peer has said stays: addresses and `Forwarded` elements are appended, protocol and host are kept.
pub fn set_forwarded(headers: &mut HeaderMap, hop: &Hop<'_>) {
    let peer = hop.peer.to_canonical();
    let proto = if hop.secure { "https" } else { "http" };
    append(headers, X_FORWARDED_FOR, peer.to_string().as_bytes());
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(proto));
    headers.entry(X_FORWARDED_HOST).or_insert_with(|| hop.host.clone());
    if let Some(prefix) = hop.stripped {
        let mut whole = headers.get(X_FORWARDED_PREFIX).map(|outer| outer.as_bytes().to_vec()).unwrap_or_default();
        whole.extend(prefix.as_bytes());
        set(headers, X_FORWARDED_PREFIX, &whole);
    }
    let node = match peer {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    let mut element = format!("for={node};host=\"").into_bytes();
    for byte in hop.host.as_bytes() {
        if matches!(byte, b'"' | b'\\') {
            element.push(b'\\');
        }
        element.push(*byte);
    }
    element.extend(format!("\";proto={proto}").as_bytes());
    append(headers, FORWARDED, &element);
}

/// Sets `Host` and `Origin` as the route says. `Host` is there in any case; `Origin` only if the client sent one.
pub fn rewrite(
    headers: &mut HeaderMap,
    host: &Rewrite,
    origin: &Rewrite,
    client_host: &HeaderValue,
    to: &upstream::Config,
) {
    let authority = to.authority();
    match host {
        Rewrite::Preserve => drop(headers.insert(HOST, client_host.clone())),
        Rewrite::Upstream => set(headers, HOST, authority.as_bytes()),
        Rewrite::Fixed(value) => drop(headers.insert(HOST, value.clone())),
    }
    if headers.contains_key(ORIGIN) {
        let scheme = if to.tls.is_some() { "https" } else { "http" };
        match origin {
            Rewrite::Preserve => {}
            Rewrite::Upstream => set(headers, ORIGIN, format!("{scheme}://{authority}").as_bytes()),
            Rewrite::Fixed(value) => drop(headers.insert(ORIGIN, value.clone())),
        }
    }
}

/// Offers exactly these subprotocols. Lines that say the same already stay as they are.
pub fn offer(headers: &mut HeaderMap, subprotocols: &[String]) {
    let same = items(headers, &SEC_WEBSOCKET_PROTOCOL).eq(subprotocols.iter().map(String::as_bytes));
    if subprotocols.is_empty() {
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
    } else if !same {
        set(headers, SEC_WEBSOCKET_PROTOCOL, subprotocols.join(", ").as_bytes());
    }
}

/// Hop-by-hop headers (RFC 9110, section 7.6.1) and those that `Connection` names.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        items(headers, &CONNECTION).filter_map(|option| HeaderName::from_bytes(option).ok()).collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "http2-settings"] {
        headers.remove(name);
    }
}

/// Whether this header, spelled with `-`, is one by which proxies tell where a request came from.
fn tells_origin(spelled: &str) -> bool {
    matches!(spelled, "forwarded" | "x-real-ip")
        || ["x-forwarded-", "x-original-", "x-rewrite-"].iter().any(|prefix| spelled.starts_with(prefix))
}

/// A name as services that read headers through CGI variables may see it: lower case, each byte that is no letter and no
/// digit is `-`. `X_User` and `x.user` are `x-user`.
pub fn spelling(name: &str) -> String {
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte.to_ascii_lowercase()) } else { '-' };
    name.bytes().map(fold).collect()
}

/// Removes the headers with such names, which are in lower case.
pub fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Makes the list under `name` one value that ends in `last`.
fn append(headers: &mut HeaderMap, name: HeaderName, last: &[u8]) {
    let mut parts: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    parts.retain(|part| !part.is_empty());
    parts.push(last);
    let joined = parts.join(&b", "[..]);
    set(headers, name, &joined);
}

/// Sets a value made of text that came out of other header values; one that is none is left out.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    match HeaderValue::from_bytes(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_) => drop(headers.remove(name)),
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gateway::identity::{Credential, Encoding, Form, Identity};
    use crate::secret::Secret;
    use crate::token::claims::named::Claim;

    fn introduction() -> Introduction {
        let identity = Identity {
            header: HeaderName::from_static("x-user-id"),
            claim: Claim::parse("sub").unwrap(),
            form: Form::Json,
            encoding: Encoding::Percent,
        };
        let header = HeaderName::from_static("x-gate-key");
        let credential = Credential { header, value: Secret::new(Vec::new()) };
        Introduction { identity: vec![identity], pass_token: true, credential: Some(credential) }
    }

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn hop(host: &HeaderValue, trusted: bool) -> Hop<'_> {
        Hop { peer: "192.0.2.7".parse().unwrap(), trusted, secure: true, host, stripped: None }
    }

    fn service(tls: bool) -> upstream::Config {
        let config = rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty());
        let tls = tls.then(|| upstream::Tls {
            config: config.with_no_client_auth().into(),
            server_name: "service".try_into().unwrap(),
        });
        upstream::Config {
            url: String::new(),
            host: "service".into(),
            port: 9001,
            tls,
            connect_timeout: Duration::ZERO,
            response_timeout: Duration::ZERO,
        }
    }

    #[test]
    fn an_identity_header_cannot_be_spoofed_in_any_spelling() {
        for name in [
            "x-user-id",
            "X-User-Id",
            "X-USER-ID",
            "x_user_id",
            "X_User_Id",
            "x-user_id",
            "X_user-ID",
            "portcullis-stream",
            "Portcullis_Stream",
            "PORTCULLIS-EXPIRES-IN",
            "portcullis_x",
            "x.user.id",
            "X-User.Id",
            "x|user~id",
            "portcullis.stream",
            "X-Gate-Key",
            "x_gate_key",
            "AUTHORIZATION",
        ] {
            for trusted in [false, true] {
                let mut headers = map(&[(name, "root"), (name, "root"), ("x-userid", "kept")]);
                clean_request(&mut headers, trusted, &introduction());
                assert_eq!(headers, map(&[("x-userid", "kept")]), "{name}, trusted: {trusted}");
            }
        }
    }

    #[test]
    fn headers_that_tell_where_a_request_came_from_are_believed_of_trusted_proxies_only() {
        let names = [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-anything",
            "forwarded",
            "x-real-ip",
            "x-original-url",
            "x-original-host",
            "x-rewrite-url",
        ];
        for name in names {
            let mut headers = map(&[(name, "1")]);
            clean_request(&mut headers, false, &Introduction::default());
            assert!(headers.is_empty(), "{name} from anyone");
            let mut headers = map(&[(name, "1")]);
            clean_request(&mut headers, true, &Introduction::default());
            assert_eq!(headers, map(&[(name, "1")]), "{name} from a trusted proxy");
            let other = name.replace('-', "_");
            if other != name {
                let mut headers = map(&[(&other, "1")]);
                clean_request(&mut headers, true, &Introduction::default());
                assert!(headers.is_empty(), "{other} from a trusted proxy");
            }
        }
    }

    #[test]
    fn hop_by_hop_headers_and_those_named_in_connection_stay_here() {
        let mut headers = map(&[
            ("connection", "Upgrade, X-Secret"),
            ("connection", "x-other"),
            ("upgrade", "websocket"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("proxy-connection", "x"),
            ("proxy-authorization", "x"),
            ("proxy-authenticate", "x"),
            ("content-length", "0"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ]);
        clean_request(&mut headers, false, &Introduction::default());
        assert_eq!(headers, map(&[("cookie", "a=1"), ("cookie", "b=2")]));
    }

    #[test]
    fn the_service_learns_where_a_request_came_from() {
        let host = HeaderValue::from_static("gate.example:8443");
        let mut headers = HeaderMap::new();
        set_forwarded(&mut headers, &hop(&host, false));
        let expected = map(&[
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "gate.example:8443"),
            ("forwarded", "for=192.0.2.7;host=\"gate.example:8443\";proto=https"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_trusted_proxys_word_is_kept_and_added_to() {
        let host = HeaderValue::from_static("gate");
        let mut headers = map(&[
            ("x-forwarded-for", "203.0.113.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "outer"),
            ("x-forwarded-prefix", "/outer"),
            ("forwarded", "for=203.0.113.1"),
        ]);
        let hop = Hop { peer: "2001:db8::1".parse().unwrap(), stripped: Some("/chat"), ..hop(&host, true) };
        set_forwarded(&mut headers, &hop);
        let expected = map(&[
            ("x-forwarded-for", "203.0.113.1, 10.0.0.1, 2001:db8::1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "outer"),
            ("x-forwarded-prefix", "/outer/chat"),
            ("forwarded", "for=203.0.113.1, for=\"[2001:db8::1]\";host=\"gate\";proto=https"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_header_that_becomes_a_proxy_variable_stays_here() {
        for trusted in [false, true] {
            let mut headers = map(&[("Proxy", "http://evil.example"), ("x-forwarded.for", "1"), ("x-proxy", "kept")]);
            clean_request(&mut headers, trusted, &Introduction::default());
            assert_eq!(headers, map(&[("x-proxy", "kept")]));
        }
    }

    #[test]
    fn host_and_origin_go_on_as_the_route_says() {
        let client = HeaderValue::from_static("gate.example");
        let fixed = Rewrite::Fixed(HeaderValue::from_static("fixed"));
        let table = [
            (Rewrite::Preserve, false, "gate.example", "https://page"),
            (Rewrite::Upstream, false, "service:9001", "http://service:9001"),
            (Rewrite::Upstream, true, "service:9001", "https://service:9001"),
            (fixed, false, "fixed", "fixed"),
        ];
        for (rule, tls, host, origin) in table {
            let mut headers = map(&[("origin", "https://page")]);
            rewrite(&mut headers, &rule, &rule, &client, &service(tls));
            assert_eq!(headers, map(&[("host", host), ("origin", origin)]));
            let mut headers = HeaderMap::new();
            rewrite(&mut headers, &rule, &rule, &client, &service(tls));
            assert_eq!(headers, map(&[("host", host)]), "no Origin is made up");
        }
    }

    #[test]
    fn subprotocol_lines_keep_their_bytes_unless_an_entry_was_taken_out() {
        let lines = [("sec-websocket-protocol", "a,b"), ("sec-websocket-protocol", "c")];
        let mut headers = map(&lines);
        offer(&mut headers, &["a".into(), "b".into(), "c".into()]);
        assert_eq!(headers, map(&lines));
        offer(&mut headers, &["b".into(), "c".into()]);
        assert_eq!(headers, map(&[("sec-websocket-protocol", "b, c")]));
        offer(&mut headers, &[]);
        assert!(headers.is_empty());
    }
}
