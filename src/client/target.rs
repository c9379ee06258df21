//! Where the client goes: a `ws://` or `wss://` URL, and the request that opens a stream there with a token in it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, CONNECTION, COOKIE, HOST, ORIGIN, SEC_WEBSOCKET_KEY};
use http::header::{SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Uri};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::secret::{Token, mask_typed};
use crate::token::Carrier;

/// A checked `ws://` or `wss://` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether TLS is used.
    pub tls: bool,
    /// Host name or address, without the brackets of IPv6.
    pub host: String,
    /// Port; by default 80 or 443.
    pub port: u16,
    /// What `Host` says: host, and port unless it is the default one.
    authority: String,
    /// Path, at least `/`.
    path: String,
    query: Option<String>,
}

/// Why a URL or a request cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a URL at all, or without a host.
    #[error("{0} is no URL such as wss://host:port/path")]
    Url(String),
    /// Another scheme.
    #[error("the URL must begin with ws:// or wss://, not with {0}://")]
    Scheme(String),
    /// A user name or password in the URL.
    #[error("the URL holds a user name or a password; only a token opens a stream")]
    UserInfo,
    /// The token, a subprotocol, the origin or a name cannot stand in a request.
    #[error("{0} cannot stand in a request header")]
    Header(&'static str),
}

impl std::str::FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let shown = || TargetError::Url(mask_typed(text));
        let uri: Uri = text.parse().map_err(|_| shown())?;
        let tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            Some(other) => return Err(TargetError::Scheme(mask_typed(other))),
            None => return Err(shown()),
        };
        let authority = uri.authority().ok_or_else(shown)?;
        if authority.as_str().contains('@') {
            return Err(TargetError::UserInfo);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(shown());
        }
        Ok(Self {
            tls,
            host,
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
        })
    }
}

impl Target {
    /// Whether the token would go out readable by anyone on the way: no TLS, and not to this machine.
    pub fn exposes_token(&self) -> bool {
        let here = self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        !self.tls && !here
    }

    /// Whether the query has a parameter that a token travels in: `access_token`, or that of `carrier`.
    pub fn holds_token(&self, carrier: &Carrier) -> bool {
        let names = self.query.iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split('=').next());
        let mut names = names.map(|name| percent_decode_str(name).decode_utf8_lossy());
        names.any(|name| name == "access_token" || matches!(carrier, Carrier::Query(own) if name == own.as_str()))
    }

    /// The URL without its query, for people to read.
    pub fn shown(&self) -> String {
        format!("{}://{}{}", if self.tls { "wss" } else { "ws" }, self.authority, self.path)
    }

    /// What `Host` says.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// One of the gateway's own paths, `path`, for what is opened here.
    pub(super) fn below(&self, path: &str) -> String {
        format!("{}{path}", self.path.trim_end_matches('/'))
    }

    /// The upgrade request (RFC 6455, section 4.1) with `token`, if there is one, in the place that `carrier` names.
    pub(super) fn request(
        &self,
        token: Option<&Token>,
        carrier: &Carrier,
        subprotocols: &[String],
        origin: Option<&str>,
        key: &str,
    ) -> Result<Request<()>, TargetError> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, value(&self.authority, "the host")?);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, value(key, "the key")?);
        if let Some(origin) = origin {
            headers.insert(ORIGIN, value(origin, "the origin")?);
        }
        let mut query = self.query.clone();
        let mut entries = Vec::new();
        if let Some(token) = token {
            place(token, carrier, &mut headers, &mut query, &mut entries)?;
        }
        entries.extend(subprotocols.iter().cloned());
        if !entries.is_empty() {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, secret(&entries.join(", "), "a subprotocol")?);
        }
        let target = query.map_or_else(|| self.path.clone(), |query| format!("{}?{query}", self.path));
        let mut request = Request::new(());
        *request.uri_mut() = target.parse().map_err(|_| TargetError::Header("the query"))?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Puts the token into its place.
fn place(
    token: &Token,
    carrier: &Carrier,
    headers: &mut HeaderMap,
    query: &mut Option<String>,
    entries: &mut Vec<String>,
) -> Result<(), TargetError> {
    let text = token.expose();
    match carrier {
        Carrier::Query(name) | Carrier::Ticket(name) => {
            let pair = format!("{}={}", encode(name), encode(text));
            *query = Some(match query.take() {
                Some(rest) if !rest.is_empty() => format!("{rest}&{pair}"),
                _ => pair,
            });
        }
        Carrier::SubprotocolPair => entries.extend(["bearer".to_owned(), text.to_owned()]),
        Carrier::SubprotocolPrefix(prefix) => entries.push(format!("{prefix}{text}")),
        Carrier::SubprotocolEncoded(prefix) => entries.push(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(text))),
        Carrier::Header => {
            headers.insert(AUTHORIZATION, bearer(token)?);
        }
        Carrier::Cookie(name) => {
            headers.insert(COOKIE, secret(&format!("{name}={text}"), "the token")?);
        }
        // Whoever opens the stream sends it there.
        Carrier::Message => {}
    }
    Ok(())
}

fn encode(text: &str) -> String {
    // What RFC 3986 never needs encoded, so that a JWT stays as it is.
    const RESERVED: percent_encoding::AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// A token as the value of `Authorization` (RFC 6750, section 2.1).
pub(super) fn bearer(token: &Token) -> Result<HeaderValue, TargetError> {
    secret(&format!("Bearer {}", token.expose()), "the token")
}

/// A value that may be printed.
pub(super) fn value(text: &str, what: &'static str) -> Result<HeaderValue, TargetError> {
    HeaderValue::from_str(text).map_err(|_| TargetError::Header(what))
}

/// A value that must not appear where headers are printed.
pub(super) fn secret(text: &str, what: &'static str) -> Result<HeaderValue, TargetError> {
    let mut value = value(text, what)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_their_defaults() {
        let target: Target = "wss://chat.example.com/room?x=1".parse().unwrap();
        assert_eq!((target.tls, target.host.as_str(), target.port), (true, "chat.example.com", 443));
        assert_eq!(target.shown(), "wss://chat.example.com/room");
        let target: Target = "ws://[::1]:9001".parse().unwrap();
        assert_eq!((target.tls, target.host.as_str(), target.port), (false, "::1", 9001));
        assert_eq!(target.shown(), "ws://[::1]:9001/");
        assert!(!target.exposes_token());
        assert!("ws://example.com/".parse::<Target>().unwrap().exposes_token());
        assert!(!"wss://example.com/".parse::<Target>().unwrap().exposes_token());
    }

    #[test]
    fn urls_that_cannot_be_opened_are_refused_and_their_query_is_not_repeated() {
        let error = |text: &str| text.parse::<Target>().unwrap_err();
        assert_eq!(error("https://a/"), TargetError::Scheme("https".into()));
        assert_eq!(error("wss://user:pass@a/"), TargetError::UserInfo);
        assert!(matches!(error("a/b"), TargetError::Url(_)));
        assert!(matches!(error("wss:///x"), TargetError::Url(_)));
        assert!(!error("wss://a b/?access_token=eyJx").to_string().contains("eyJx"));
        assert!(!error("eyJhead.eyJbody.c2ln").to_string().contains("eyJ"));
        assert!(!error("wss://user:pass word@a/").to_string().contains("pass"));
    }

    #[test]
    fn a_stream_is_renewed_below_the_path_that_it_was_opened_at() {
        let path = |url: &str| url.parse::<Target>().unwrap().below("/.portcullis/renew");
        assert_eq!(path("wss://a"), "/.portcullis/renew");
        assert_eq!(path("wss://a/"), "/.portcullis/renew");
        assert_eq!(path("wss://a/chat?x=1"), "/chat/.portcullis/renew");
        assert_eq!(path("wss://a/chat/"), "/chat/.portcullis/renew");
    }

    #[test]
    fn a_token_in_the_url_is_known_by_its_name() {
        let holds = |url: &str, carrier: &Carrier| url.parse::<Target>().unwrap().holds_token(carrier);
        let own = Carrier::Query("jwt".into());
        for url in ["wss://a/?access_token=x", "wss://a/?x=1&access%5Ftoken=x", "wss://a/?access_token"] {
            assert!(holds(url, &own) && holds(url, &Carrier::Header), "{url}");
        }
        assert!(holds("wss://a/?jwt=x", &own) && !holds("wss://a/?jwt=x", &Carrier::Header));
        assert!(!holds("wss://a/?x=access_token", &own) && !holds("wss://a/access_token", &own));
    }

    #[test]
    fn the_token_stands_where_its_carrier_says() {
        let target: Target = "wss://a:8443/p?x=1".parse().unwrap();
        let token = Token::new("eyJh.eyJi.s-_g".into());
        let request = |carrier: &Carrier| target.request(Some(&token), carrier, &["chat".into()], None, "k").unwrap();
        let protocol =
            |carrier: &Carrier| request(carrier).headers()[SEC_WEBSOCKET_PROTOCOL].to_str().unwrap().to_owned();

        let query = request(&Carrier::Query("access token".into()));
        assert_eq!(query.uri(), "/p?x=1&access%20token=eyJh.eyJi.s-_g");
        assert_eq!(query.headers()[SEC_WEBSOCKET_PROTOCOL], "chat");
        assert_eq!(query.headers()[HOST], "a:8443");
        assert_eq!(protocol(&Carrier::SubprotocolPair), "bearer, eyJh.eyJi.s-_g, chat");
        assert_eq!(protocol(&Carrier::SubprotocolPrefix("bearer.".into())), "bearer.eyJh.eyJi.s-_g, chat");
        assert_eq!(protocol(&Carrier::SubprotocolEncoded("k8s.".into())), "k8s.ZXlKaC5leUppLnMtX2c, chat");
        assert_eq!(request(&Carrier::Header).headers()[AUTHORIZATION], "Bearer eyJh.eyJi.s-_g");
        assert_eq!(request(&Carrier::Cookie("t".into())).headers()[COOKIE], "t=eyJh.eyJi.s-_g");
        assert!(!format!("{:?}", request(&Carrier::Header).headers()).contains("eyJ"));

        let none = target.request(None, &Carrier::Header, &[], None, "k").unwrap();
        assert!(none.headers().get(SEC_WEBSOCKET_PROTOCOL).is_none());
        let bad = Token::new("line\nbreak".into());
        assert!(target.request(Some(&bad), &Carrier::Header, &[], None, "k").is_err());
    }
}
