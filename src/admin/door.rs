//! Who may ask the admin listener what: the name it was called by, where a page that asks comes from, and the secret.
//!
//! A page of another site can make an operator's browser ask a listener on that machine: under a name that leads here by
//! DNS rebinding, or by a form. `Host` shows the one, `Origin`, `Sec-Fetch-Site` and a content type that no form can send
//! show the other. Pure; called for each request before anything of it is done.

use std::net::IpAddr;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use subtle::ConstantTimeEq as _;

use crate::secret::{Secret, sha256};

/// What the listener asks of those who come.
#[derive(Debug)]
pub struct Door {
    /// Names by which it may be called, beside those of loopback: lower case, no port.
    pub hosts: Vec<String>,
    /// The address that it is configured with; it may be called by that.
    pub address: Option<IpAddr>,
    /// What callers must show, if anything.
    pub secret: Option<Secret>,
    /// Whether it speaks TLS.
    pub secure: bool,
}

/// How much a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Anyone may: nothing of the gateway's own is told.
    Nothing,
    /// To see.
    Read,
    /// To change something.
    Change,
}

/// Why a request is turned away: status, reason and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub StatusCode, pub &'static str, pub &'static str);

impl Door {
    /// Lets a request in, or says why not.
    pub fn check(&self, request: &Parts, need: Need) -> Result<(), Refusal> {
        let host = only(&request.headers, &header::HOST).filter(|host| self.is_ours(host));
        let Some(host) = host else {
            return Err(Refusal(
                StatusCode::MISDIRECTED_REQUEST,
                "host",
                "Host is neither a loopback name, nor the listener's own address, nor in [admin] hosts",
            ));
        };
        if need == Need::Nothing {
            return Ok(());
        }
        if !self.is_own_page(&request.headers, host) {
            return Err(Refusal(StatusCode::FORBIDDEN, "cross_site", "a page of another site asks"));
        }
        if let Some(secret) = &self.secret
            && !bears(&request.headers, secret)
        {
            return Err(Refusal(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "Authorization: Bearer with the listener's secret is wanted",
            ));
        }
        if need == Need::Change && !is_json(&request.headers) {
            return Err(Refusal(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content_type",
                "changes need Content-Type: application/json",
            ));
        }
        Ok(())
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        LOOPBACK.contains(&name.as_str())
            || self.hosts.contains(&name)
            || bare.parse().is_ok_and(|address: IpAddr| Some(address) == self.address)
    }

    /// Whether no page asks, or only one that came from here.
    fn is_own_page(&self, headers: &HeaderMap, host: &str) -> bool {
        let scheme = if self.secure { "https" } else { "http" };
        let own = format!("{scheme}://{host}");
        let origin = !headers.contains_key(header::ORIGIN)
            || only(headers, &header::ORIGIN).is_some_and(|origin| origin.eq_ignore_ascii_case(&own));
        let site = !headers.contains_key(SEC_FETCH_SITE)
            || only(headers, &SEC_FETCH_SITE).is_some_and(|site| ["same-origin", "none"].contains(&site));
        origin && site
    }
}

/// How much a method needs on what is the gateway's own.
pub fn need(method: &Method) -> Need {
    if *method == Method::GET || *method == Method::HEAD { Need::Read } else { Need::Change }
}

/// The one value of a header.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

fn bears(headers: &HeaderMap, secret: &Secret) -> bool {
    let shown = only(headers, &header::AUTHORIZATION).and_then(|value| value.split_once(' '));
    let shown = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map_or("", |(_, token)| token.trim());
    // Of hashes, so that not even the length shows in the time it takes.
    sha256(shown.as_bytes()).ct_eq(&sha256(secret.expose())).into()
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = only(headers, &header::CONTENT_TYPE).and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "an admin secret, longer than 32 bytes";

    fn door(secret: bool) -> Door {
        Door {
            hosts: vec!["admin.example".into()],
            address: Some([10, 0, 0, 5].into()),
            secret: secret.then(|| Secret::new(SECRET.into())),
            secure: false,
        }
    }

    fn asked(door: &Door, need: Need, headers: &[(&str, &str)]) -> u16 {
        let mut request = http::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        door.check(&parts, need).err().map_or(200, |Refusal(status, ..)| status.as_u16())
    }

    #[test]
    fn only_names_of_its_own_lead_here() {
        let door = door(false);
        for host in
            ["localhost", "LOCALHOST:1", "127.0.0.1:9443", "[::1]", "[::1]:80", "admin.example:7", "10.0.0.5:9443"]
        {
            assert_eq!(asked(&door, Need::Read, &[("host", host)]), 200, "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9443",
            "10.0.0.6",
            "::1",
            "a@localhost",
        ] {
            assert_eq!(asked(&door, Need::Nothing, &[("host", host)]), 421, "{host}");
        }
        assert_eq!(asked(&door, Need::Nothing, &[]), 421);
        assert_eq!(asked(&door, Need::Nothing, &[("host", "localhost"), ("host", "localhost")]), 421);
    }

    #[test]
    fn pages_of_other_sites_neither_see_nor_change_anything() {
        let door = door(false);
        let json = ("content-type", "application/json; charset=utf-8");
        let host = ("host", "localhost:9443");
        for (headers, status) in [
            (vec![json], 200),
            (vec![json, ("origin", "http://localhost:9443"), ("sec-fetch-site", "same-origin")], 200),
            (vec![json, ("sec-fetch-site", "none")], 200),
            (vec![json, ("origin", "http://localhost:9444")], 403),
            (vec![json, ("origin", "https://localhost:9443")], 403),
            (vec![json, ("origin", "http://evil.example")], 403),
            (vec![json, ("origin", "null")], 403),
            (vec![json, ("origin", "http://localhost:9443"), ("origin", "http://evil.example")], 403),
            (vec![json, ("sec-fetch-site", "cross-site")], 403),
            (vec![json, ("sec-fetch-site", "same-site")], 403),
        ] {
            let headers: Vec<_> = headers.into_iter().chain([host]).collect();
            assert_eq!(asked(&door, Need::Change, &headers), status, "{headers:?}");
            assert_eq!(asked(&door, Need::Read, &headers), status, "{headers:?}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"] {
            assert_eq!(asked(&door, Need::Change, &[host, ("content-type", kind)]), 415, "{kind}");
        }
        assert_eq!(asked(&door, Need::Change, &[host]), 415);
        assert_eq!(asked(&door, Need::Read, &[host]), 200);
    }

    #[test]
    fn the_secret_opens_and_nothing_like_it_does() {
        let door = door(true);
        let with = |value: &str| asked(&door, Need::Read, &[("host", "localhost"), ("authorization", value)]);
        assert_eq!(with(&format!("Bearer {SECRET}")), 200);
        assert_eq!(with(&format!("bearer {SECRET}")), 200);
        for wrong in [SECRET, "", "Bearer", "Bearer ", &format!("Basic {SECRET}"), &format!("Bearer {SECRET}x")] {
            assert_eq!(with(wrong), 401, "{wrong}");
        }
        assert_eq!(asked(&door, Need::Read, &[("host", "localhost")]), 401);
        assert_eq!(asked(&door, Need::Nothing, &[("host", "localhost")]), 200);
    }
}
