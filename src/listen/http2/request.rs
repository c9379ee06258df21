//! From a request of HTTP/2 to the one that the pipeline knows.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use http_body::{Body, Frame, SizeHint};

use crate::ws::handshake::{self, Key, only};

/// Brings the head into the form that HTTP/1.1 has it in: `Host` from `:authority` (RFC 9113, section 8.3.1), a target
/// that is a path unless the two disagree, one `Cookie` (section 8.2.3).
pub(super) fn unify(head: &mut Parts) {
    if let Some(authority) = head.uri.authority() {
        if !head.headers.contains_key(HOST)
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            head.headers.insert(HOST, host);
        }
        let same = |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
        let web = head.uri.scheme_str().is_some_and(|scheme| scheme == "https" || scheme == "http");
        let path = head.uri.path_and_query().filter(|path| path.as_str().starts_with('/'));
        if let (true, true, Some(path)) = (web, only(&head.headers, &HOST).is_some_and(same), path) {
            head.uri = Uri::from(path.clone());
        }
    }
    let cookies = head.headers.get_all(COOKIE);
    if cookies.iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = cookies.iter().map(HeaderValue::as_bytes).collect();
        if let Ok(mut cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            cookie.set_sensitive(true);
            head.headers.insert(COOKIE, cookie);
        }
    }
}

/// If it opens a WebSocket by extended CONNECT (RFC 8441, section 5), makes it the upgrade that HTTP/1.1 has for it, with
/// a key of ours: the client has none.
pub(super) fn upgrade(head: &mut Parts) -> bool {
    let protocol = head.extensions.get::<Protocol>();
    if head.method != Method::CONNECT || protocol.is_none_or(|protocol| protocol.as_str() != "websocket") {
        return false;
    }
    let version = only(&head.headers, &http::header::SEC_WEBSOCKET_VERSION).cloned();
    handshake::make_request(&mut head.headers, &Key::new(rand::random()));
    // The client's own word on the version counts, and none is as bad as another one.
    head.headers.remove(http::header::SEC_WEBSOCKET_VERSION);
    if let Some(version) = version {
        head.headers.insert(http::header::SEC_WEBSOCKET_VERSION, version);
    }
    head.method = Method::GET;
    head.version = Version::HTTP_11;
    true
}

/// The body of a request. What is read opens the client's window.
pub(super) struct Upload {
    recv: RecvStream,
    length: Option<u64>,
    /// Whether the data has ended; trailers may follow.
    ended: bool,
}

impl Upload {
    pub(super) fn new(recv: RecvStream, headers: &HeaderMap) -> Self {
        let length = only(headers, &CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { recv, length, ended: false }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        if !this.ended {
            match ready!(this.recv.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _ = this.recv.flow_control().release_capacity(data.len());
                    this.length = this.length.map(|length| length.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.ended = true,
            }
        }
        let trailers = ready!(this.recv.poll_trailers(cx));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.recv.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn host_is_the_authority_and_crumbs_are_one_cookie() {
        let request = Request::get("https://gate.example:8443/x").header("cookie", "a=1").header("cookie", "b=2");
        let mut head = head(request.version(Version::HTTP_2));
        unify(&mut head);
        assert_eq!(head.headers["host"], "gate.example:8443");
        assert_eq!(head.uri, "/x", "a path, as in HTTP/1.1");
        assert_eq!(head.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
        let mut named = Request::get("https://gate.example/").header("host", "other.example").body(()).unwrap();
        *named.version_mut() = Version::HTTP_2;
        let mut named = named.into_parts().0;
        unify(&mut named);
        assert_eq!(named.headers["host"], "other.example");
        assert_eq!(named.uri, "https://gate.example/", "the pipeline sees that they disagree");
    }

    #[test]
    fn extended_connect_for_a_websocket_is_the_upgrade_of_http_1_with_a_key_of_ours() {
        let connect = |protocol: Option<&'static str>| {
            let request = Request::builder().method("CONNECT").uri("https://gate.example/x?y").version(Version::HTTP_2);
            let mut head = head(request.header("sec-websocket-version", "13").header("sec-websocket-key", "theirs"));
            if let Some(protocol) = protocol {
                head.extensions.insert(Protocol::from_static(protocol));
            }
            unify(&mut head);
            (upgrade(&mut head), head)
        };
        let (made, head) = connect(Some("websocket"));
        assert!(made);
        assert!(handshake::check_request(&head.method, head.version, &head.headers).is_ok());
        assert_ne!(head.headers["sec-websocket-key"], "theirs");
        for other in [None, Some("connect-udp")] {
            let (made, head) = connect(other);
            assert!(!made);
            assert_eq!(head.method, Method::CONNECT);
        }
    }
}
