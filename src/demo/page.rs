//! The page of the demo, served on the gateway's own port, and its token endpoint.
//!
//! Everything here answers only to this machine: the peer is loopback, and `Host` is a loopback name with the gateway's
//! own port, so that a foreign name that was made to point here (DNS rebinding) gets nothing. A token is only made for a request of the page itself.
//! Without the demo, none of this is there.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY};
use http::header::{HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::demo::stage::{Issuer, revoke};
use crate::gateway::Fallback;
use crate::registry::Registry;
use crate::ws::handshake::only;

/// The page and the issuer behind it.
pub(super) struct Page {
    issuer: Issuer,
    clock: Clock,
    gate: Arc<OnceLock<Gate>>,
}

/// What the page knows of the gateway that it stands on.
pub(super) struct Gate {
    /// Its port.
    pub(super) port: u16,
    /// Its live streams.
    pub(super) registry: Registry,
}

impl Page {
    /// The page of a gateway; until that is known, nothing is answered.
    pub(super) fn new(issuer: Issuer, clock: Clock, gate: Arc<OnceLock<Gate>>) -> Self {
        Self { issuer, clock, gate }
    }

    /// What the gateway asks about requests that are no upgrades.
    pub(super) fn fallback(self) -> Fallback {
        Arc::new(move |request, peer| self.answer(request, peer))
    }

    fn answer(&self, request: &Parts, peer: SocketAddr) -> Option<Response<Bytes>> {
        let host = only(&request.headers, &HOST)?.to_str().ok()?;
        // Browsers send the target without a host; in any other form it has no business here.
        let plain = request.uri.authority().is_none() && request.uri.scheme().is_none();
        let gate = self.gate.get()?;
        if !plain || !peer.ip().to_canonical().is_loopback() || loopback_port(host) != Some(gate.port) {
            return None;
        }
        match request.uri.path() {
            TOKEN_PATH => return Some(self.token(request, host)),
            REVOKE_PATH => return Some(self.revoke(request, gate, host)),
            _ => {}
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            return None;
        }
        let (kind, content) = match request.uri.path() {
            "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
            "/portcullis.js" => ("text/javascript; charset=utf-8", include_str!("../../clients/js/portcullis.js")),
            "/page.js" => ("text/javascript; charset=utf-8", include_str!("page/page.js")),
            "/page.css" => ("text/css; charset=utf-8", include_str!("page/page.css")),
            "/icon.svg" => ("image/svg+xml", include_str!("page/icon.svg")),
            _ => return None,
        };
        Some(reply(StatusCode::OK, kind, content.into(), host))
    }

    fn token(&self, request: &Parts, host: &str) -> Response<Bytes> {
        if !is_own(request, host) {
            return refusal(StatusCode::FORBIDDEN, "only the page itself may ask for a token", host);
        }
        let Some(wish) = Wish::read(request.uri.query().unwrap_or_default()) else {
            return refusal(StatusCode::BAD_REQUEST, "message, ttl or kind cannot be used", host);
        };
        let (issuer, now, ttl) = (&self.issuer, self.clock.now(), Duration::from_secs(wish.ttl));
        let minted = match wish.kind {
            Kind::Good => issuer.issue(&wish.message, &wish.session, ttl, now),
            Kind::Expired => issuer.expired(&wish.message, &wish.session, ttl, now),
            Kind::Forged => issuer.forge(&wish.message, &wish.session, ttl, now),
            Kind::WrongAudience => issuer.misdirect(&wish.message, &wish.session, ttl, now),
        };
        let Ok(minted) = minted else {
            return refusal(StatusCode::INTERNAL_SERVER_ERROR, "the token cannot be signed", host);
        };
        let left = minted.expires.saturating_since(self.clock.now().wall);
        let body = json!({
            "token": minted.token.expose(),
            "expires_in": left.as_secs_f64(),
            "lifetime": wish.ttl,
        });
        reply(StatusCode::OK, "application/json", body.to_string().into(), host)
    }

    fn revoke(&self, request: &Parts, gate: &Gate, host: &str) -> Response<Bytes> {
        if !is_own(request, host) {
            return refusal(StatusCode::FORBIDDEN, "only the page itself may revoke", host);
        }
        let session = request.uri.query().and_then(|query| query.strip_prefix("session="));
        let Some(session) = session.filter(|session| is_session(session)) else {
            return refusal(StatusCode::BAD_REQUEST, "session cannot be used", host);
        };
        match revoke(&gate.registry, session, self.clock.now()) {
            Some(ended) => {
                reply(StatusCode::OK, "application/json", json!({ "ended": ended }).to_string().into(), host)
            }
            None => refusal(StatusCode::INSUFFICIENT_STORAGE, "there is no room for another ban", host),
        }
    }
}

/// Which token is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Expired,
    Forged,
    Good,
    WrongAudience,
}

#[derive(Debug, PartialEq, Eq)]
struct Wish {
    message: String,
    /// Whose token it is: its `sid`.
    session: String,
    /// Seconds.
    ttl: u64,
    kind: Kind,
}

impl Wish {
    /// Reads `message=..&session=..&ttl=..&kind=..`; `None` if anything in it is unknown or out of range.
    fn read(query: &str) -> Option<Self> {
        let mut wish = Self { message: String::new(), session: String::new(), ttl: 10, kind: Kind::Good };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            let value = percent_decode_str(value).decode_utf8().ok()?;
            match name {
                "message" if value.chars().count() <= MAX_MESSAGE => wish.message = value.into_owned(),
                "session" if is_session(&value) => wish.session = value.into_owned(),
                "ttl" => wish.ttl = value.parse().ok().filter(|seconds| TTL.contains(seconds))?,
                "kind" => {
                    wish.kind = match value.as_ref() {
                        "good" => Kind::Good,
                        "forged" => Kind::Forged,
                        "expired" => Kind::Expired,
                        "audience" => Kind::WrongAudience,
                        _ => return None,
                    }
                }
                _ => return None,
            }
        }
        Some(wish).filter(|wish| !wish.session.is_empty())
    }
}

/// The page makes them up, one for each person that it plays.
fn is_session(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The port in `Host` if its name is one of this machine that nobody else can give out.
fn loopback_port(host: &str) -> Option<u16> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (name, port.parse().ok()?)
        }
        _ => (host, 443),
    };
    (name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]").then_some(port)
}

/// Whether the page itself asks for something to be done.
fn is_own(request: &Parts, host: &str) -> bool {
    request.method == Method::POST && same_origin(request, host)
}

/// Whether a page of this very origin asks: browsers set both headers, each once, and a script cannot.
fn same_origin(request: &Parts, host: &str) -> bool {
    let own = format!("https://{host}");
    let site = HeaderName::from_static("sec-fetch-site");
    let from_here =
        only(&request.headers, &ORIGIN).is_some_and(|origin| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()));
    let to_here = only(&request.headers, &site).is_some_and(|site| site == "same-origin");
    from_here && (to_here || !request.headers.contains_key(&site))
}

fn refusal(status: StatusCode, why: &str, host: &str) -> Response<Bytes> {
    let body: Value = json!({ "error": why });
    reply(status, "application/json", body.to_string().into(), host)
}

/// `host` was checked by [`loopback_port`], so it can stand in a header.
fn reply(status: StatusCode, kind: &'static str, body: Bytes, host: &str) -> Response<Bytes> {
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' wss://{host}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    let nothing = HeaderValue::from_static("default-src 'none'");
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_str(&policy).unwrap_or(nothing));
    response
}

const TOKEN_PATH: &str = "/token";
const REVOKE_PATH: &str = "/revoke";
/// Characters.
const MAX_MESSAGE: usize = 200;
/// Seconds.
const TTL: std::ops::RangeInclusive<u64> = 2..=3600;

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::secret::Secret;

    fn page() -> Page {
        let secret = Secret::new(b"an example secret of enough bytes".to_vec());
        let issuer = Issuer::new(&secret, Duration::from_secs(10)).unwrap();
        let clock = Clock::system();
        let gate = Gate { port: 8443, registry: Registry::new(&clock) };
        Page::new(issuer, clock, Arc::new(OnceLock::from(gate)))
    }

    fn ask(method: &str, target: &str, peer: &str, headers: &[(&str, &str)]) -> Option<Response<Bytes>> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        page().answer(&request.body(()).unwrap().into_parts().0, format!("{peer}:5000").parse().unwrap())
    }

    const HERE: (&str, &str) = ("host", "localhost:8443");
    const FROM_PAGE: (&str, &str) = ("origin", "https://localhost:8443");

    #[tokio::test]
    async fn the_page_runs_no_inline_script_and_loads_nothing_from_elsewhere() {
        let html = include_str!("page/index.html");
        assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick"));
        assert_eq!(html.matches("<script").count(), html.matches("<script src=\"/page.js\"").count());
        assert!(!html.contains("http://") && !html.contains("https://"));
        let response = ask("GET", "/", "127.0.0.1", &[HERE]).unwrap();
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        for path in ["/page.js", "/portcullis.js", "/page.css", "/icon.svg"] {
            assert_eq!(ask("GET", path, "127.0.0.1", &[HERE]).unwrap().status(), 200, "{path}");
        }
        assert!(ask("GET", "/other", "127.0.0.1", &[HERE]).is_none());
    }

    #[tokio::test]
    async fn a_token_is_made_for_the_page_itself_and_for_nobody_else() {
        let token = "/token?message=hi%20there&session=me-1&ttl=5&kind=good";
        let revoke = "/revoke?session=me-1";
        let made = ask("POST", token, "127.0.0.1", &[HERE, FROM_PAGE, ("sec-fetch-site", "same-origin")]).unwrap();
        assert_eq!(made.status(), 200);
        assert_eq!(made.headers()[CACHE_CONTROL], "no-store");
        let made: Value = serde_json::from_slice(made.body()).unwrap();
        assert_eq!(made["lifetime"], 5);
        let status = |method: &str, headers: &[(&str, &str)]| {
            let answers = [token, revoke].map(|target| ask(method, target, "127.0.0.1", headers));
            let [made, revoked] = answers.map(|answer| answer.map(|response| response.status().as_u16()));
            assert_eq!(made, revoked);
            made
        };
        assert_eq!(status("POST", &[HERE, FROM_PAGE]), Some(200));
        assert_eq!(status("POST", &[HERE]), Some(403), "no origin");
        assert_eq!(status("GET", &[HERE, FROM_PAGE]), Some(403), "a link or an image");
        assert_eq!(status("POST", &[HERE, ("origin", "https://evil.example")]), Some(403));
        assert_eq!(status("POST", &[HERE, ("origin", "http://localhost:8443")]), Some(403));
        assert_eq!(status("POST", &[HERE, ("origin", "https://localhost:9999")]), Some(403));
        assert_eq!(status("POST", &[HERE, FROM_PAGE, ("sec-fetch-site", "same-site")]), Some(403));
        let rebound = [("host", "evil.example:8443"), ("origin", "https://evil.example:8443")];
        assert_eq!(status("POST", &rebound), None, "a foreign name that points here");
        assert!(ask("POST", token, "192.0.2.7", &[HERE, FROM_PAGE]).is_none(), "another machine");
        assert_eq!(status("POST", &[HERE, HERE, FROM_PAGE]), None, "two hosts");
        assert_eq!(status("POST", &[HERE, FROM_PAGE, FROM_PAGE]), Some(403), "two origins");
        let same = ("sec-fetch-site", "same-origin");
        assert_eq!(status("POST", &[HERE, FROM_PAGE, same, ("sec-fetch-site", "cross-site")]), Some(403));
        let elsewhere = [("host", "localhost:9999"), ("origin", "https://localhost:9999")];
        assert_eq!(status("POST", &elsewhere), None, "a port that is another's");
        assert_eq!(status("POST", &[("host", "localhost"), ("origin", "https://localhost")]), None, "port 443");
        for target in ["https://localhost:8443/token", "https://evil.example/token"] {
            assert!(ask("POST", target, "127.0.0.1", &[HERE, FROM_PAGE]).is_none(), "{target}");
        }
    }

    #[test]
    fn loopback_names_are_few() {
        let good =
            [("localhost", 443), ("LOCALHOST:1", 1), ("127.0.0.1:8443", 8443), ("[::1]:8443", 8443), ("[::1]", 443)];
        for (host, port) in good {
            assert_eq!(loopback_port(host), Some(port), "{host}");
        }
        for bad in [
            "",
            "localhost.evil.example",
            "localhost:",
            "localhost:65536",
            "localhost:1; x",
            "127.0.0.1.evil.example:1",
            "::1",
            "127.1",
        ] {
            assert_eq!(loopback_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn wishes_out_of_range_are_refused() {
        let wish = Wish::read("message=a%26b+c&session=A-1&ttl=3600&kind=audience").unwrap();
        assert_eq!(wish, Wish { message: "a&b+c".into(), session: "A-1".into(), ttl: 3600, kind: Kind::WrongAudience });
        let long = format!("message={}", "x".repeat(201));
        for bad in ["ttl=1", "ttl=3601", "ttl=-5", "ttl=1e3", "kind=x", "other=1", "message", "message=%ff", &long] {
            assert!(Wish::read(&format!("session=me&{bad}")).is_none(), "{bad}");
        }
        let long = format!("session={}", "x".repeat(65));
        for bad in ["message=hi", "session=", "session=a%20b", "session=%22", &long] {
            assert!(Wish::read(bad).is_none(), "{bad}");
        }
    }
}
