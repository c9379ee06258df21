//! One request and its answer, over a connection of its own. The caller bounds it in time.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, HOST, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::url::is_here;
use super::{FetchError, Fetched, Fetcher, Url};
use crate::upstream::dial;
use crate::upstream::handshake::alongside;
use crate::ws::handshake::headers_size;

/// Connects, asks, and reads the answer.
pub(super) async fn exchange(
    fetcher: &Fetcher,
    url: &Url,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    limit: usize,
) -> Result<Fetched, FetchError> {
    let request = request(url, method, headers, body)?;
    let tcp = connect(fetcher, url).await?;
    if !url.is_secure() {
        return ask(tcp, request, limit).await;
    }
    let name = ServerName::try_from(url.host().to_owned()).map_err(|_| FetchError::Request("the host"))?;
    let stream = TlsConnector::from(fetcher.tls.clone()).connect(name, tcp).await;
    ask(stream.map_err(|error| FetchError::Tls(short(&error)))?, request, limit).await
}

fn request(url: &Url, method: Method, mut headers: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, FetchError> {
    headers.insert(HOST, HeaderValue::from_str(&url.authority()).map_err(|_| FetchError::Request("the host"))?);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION"))));
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = url.target().parse().map_err(|_| FetchError::Request("the path"))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// All addresses of a name share the time.
async fn connect(fetcher: &Fetcher, url: &Url) -> Result<TcpStream, FetchError> {
    let found = lookup_host((url.host(), url.port())).await.map_err(|error| FetchError::Lookup(short(&error)))?;
    let addresses = allowed(url, fetcher.elsewhere, found.collect())?;
    let tcp = dial::any_of(&addresses, fetcher.timeout).await.map_err(|error| FetchError::Connect(short(&error)))?;
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}

/// The addresses that may be dialled: without TLS, only those of this machine; `elsewhere`, all but those.
fn allowed(url: &Url, elsewhere: bool, mut addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, FetchError> {
    addresses.retain(|address| if is_here(address.ip()) { !elsewhere } else { url.is_secure() });
    match addresses.is_empty() {
        false => Ok(addresses),
        true if elsewhere => Err(FetchError::ThisMachine),
        true => Err(FetchError::NotLoopback),
    }
}

async fn ask<T>(stream: T, request: Request<Full<Bytes>>, limit: usize) -> Result<Fetched, FetchError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let builder = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream));
    let (mut sender, connection) = builder.await.map_err(|error| broken(&error))?;
    alongside(connection, async move {
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        read(answer, limit).await
    })
    .await
}

async fn read(answer: Response<Incoming>, limit: usize) -> Result<Fetched, FetchError> {
    let (parts, mut body) = answer.into_parts();
    // hyper's own bound is soft: one read may go beyond it.
    if headers_size(&parts.headers) > MAX_HEAD {
        return Err(FetchError::HeadTooLarge);
    }
    let only = |name: HeaderName, word: &str| {
        parts.headers.get_all(name).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(word.as_bytes()))
    };
    if !only(CONTENT_ENCODING, "identity") || !only(TRANSFER_ENCODING, "chunked") {
        return Err(FetchError::Encoded);
    }
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(FetchError::TooLarge(limit));
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers are left alone.
        if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
            if bytes.len().saturating_add(data.len()) > limit {
                return Err(FetchError::TooLarge(limit));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(Fetched { status: parts.status, headers: parts.headers, body: bytes.freeze() })
}

fn broken(error: &hyper::Error) -> FetchError {
    if error.is_parse_too_large() { FetchError::HeadTooLarge } else { FetchError::Http(short(error)) }
}

/// What an error says, in one line that is not long: a certificate may name thousands of hosts.
fn short(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    // The number of an error of the system adds nothing to its text.
    let text = text.split(" (os error").next().unwrap_or_default();
    text.chars().filter(|character| !character.is_control()).take(LONGEST_REASON).collect()
}

/// Bytes.
const MAX_HEAD: usize = 32 * 1024;
/// Characters.
const LONGEST_REASON: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_only_addresses_of_this_machine_are_dialled() {
        let here: SocketAddr = ([127, 0, 0, 1], 80).into();
        let there: SocketAddr = ([192, 0, 2, 1], 80).into();
        let here_too: SocketAddr = (std::net::Ipv6Addr::LOCALHOST, 80).into();
        let plain = Url::parse("http://localhost/").unwrap();
        assert_eq!(allowed(&plain, false, vec![there, here, here_too]).unwrap(), [here, here_too]);
        assert!(matches!(allowed(&plain, false, vec![there]), Err(FetchError::NotLoopback)));
        let secure = Url::parse("https://localhost/").unwrap();
        assert_eq!(allowed(&secure, false, vec![there, here]).unwrap(), [there, here]);
    }

    #[test]
    fn whoever_goes_elsewhere_dials_no_address_of_this_machine_whatever_name_has_led_to_it() {
        let name = Url::parse("https://sso.example.com/").unwrap();
        let there: SocketAddr = "192.0.2.1:443".parse().unwrap();
        for here in ["127.0.0.1:443", "127.9.8.7:443", "0.0.0.0:443", "[::1]:443", "[::]:443", "[::ffff:127.0.0.1]:443"]
        {
            let here = here.parse().unwrap();
            assert!(matches!(allowed(&name, true, vec![here]), Err(FetchError::ThisMachine)), "{here}");
            assert_eq!(allowed(&name, true, vec![here, there]).unwrap(), [there], "{here}");
        }
        let plain = Url::parse("http://localhost/").unwrap();
        assert!(allowed(&plain, true, vec![there, "127.0.0.1:80".parse().unwrap()]).is_err());
    }
}
