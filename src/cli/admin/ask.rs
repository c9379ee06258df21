//! Finds the admin listener and asks it one thing at a time.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::{Where, shown};
use crate::admin::{Address, Admin};
use crate::cli::Failure;
use crate::client::tls::trust_as;
use crate::config::{said, trim_newline};
use crate::secret::Secret;

/// The listener, and what it wants to be shown.
pub(in crate::cli) struct Operator {
    place: Place,
    /// What it is called.
    host: String,
    secret: Option<Secret>,
    /// The config has a secret, but for another listener.
    withheld: bool,
    tls: Option<Arc<ClientConfig>>,
}

enum Place {
    /// Name or address, and port.
    Tcp(String, u16),
    Unix(std::path::PathBuf),
}

impl Operator {
    pub(in crate::cli) fn find(place: &Where) -> Result<Self, Failure> {
        let config = match &place.admin {
            // The config may know the listener, but need not be there.
            Some(_) if place.secret_file.is_some() || !place.file.config.exists() => None,
            _ => Some(place.file.load()?),
        };
        let admin = config.and_then(|config| config.admin.admin);
        let secure = admin.as_ref().is_some_and(|admin| admin.tls.is_some());
        let (place_of, secure) = match (&place.admin, admin.as_ref().map(|admin| &admin.address)) {
            (Some(typed), _) => parse(typed, secure)?,
            (None, Some(Address::Unix(path))) => (Place::Unix(path.clone()), false),
            (None, Some(Address::Tcp(address))) => {
                let ip = match address.ip() {
                    ip if !ip.is_unspecified() => ip,
                    IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
                };
                (Place::Tcp(ip.to_string(), address.port()), secure)
            }
            (None, None) => {
                let text = "the config has no admin listener: set [admin] address, or say --admin ADDRESS";
                return Err(anyhow!(text).into());
            }
        };
        let host = match &place_of {
            Place::Tcp(name, port) if name.contains(':') => format!("[{name}]:{port}"),
            Place::Tcp(name, port) => format!("{name}:{port}"),
            Place::Unix(_) => "localhost".to_owned(),
        };
        let known = admin.as_ref().is_some_and(|admin| place.admin.is_none() || is_at(admin, &place_of, secure));
        let of_config = admin.and_then(|admin| admin.secret);
        let withheld = !known && of_config.is_some();
        let secret = match &place.secret_file {
            Some(file) => Some(read_secret(file)?),
            // Another listener learns it only from whoever means it to.
            None => of_config.filter(|_| known),
        };
        if let Place::Tcp(name, _) = &place_of
            && secret.is_some()
            && !secure
            && !is_loopback(name)
        {
            return Err(Failure::Usage(format!(
                "the secret would travel in clear to {host}: give the listener a certificate and say --admin \
                 https://{host}, or ask through loopback or a Unix socket"
            )));
        }
        let tls = if secure { Some(tls(place)?) } else { None };
        Ok(Self { place: place_of, host, secret, withheld, tls })
    }

    /// Asks, and gives the answer if it is a good one.
    pub(in crate::cli) fn ask(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(async {
            let asked = tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await;
            asked.unwrap_or_else(|_| Err(anyhow!("no answer within {PATIENCE:?}")))
        });
        let (status, answer) = answer.with_context(|| format!("cannot ask the admin listener at {}", self.shown()))?;
        if status.is_success() {
            return Ok(answer);
        }
        let detail = match shown(&answer["detail"]) {
            detail if detail.is_empty() => "no reason was told".to_owned(),
            detail => detail,
        };
        let hint = match status.as_u16() {
            401 if self.withheld => "; that of the config is for the listener of the config: say --secret-file FILE",
            401 => "; the secret is that of [admin] in the config, or in --secret-file FILE",
            _ => "",
        };
        Err(anyhow!("the admin listener refuses ({}): {detail}{hint}", status.as_u16()).into())
    }

    fn shown(&self) -> String {
        match &self.place {
            Place::Tcp(..) => self.host.clone(),
            Place::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(http::StatusCode, Value)> {
        let unreachable = |error: std::io::Error| anyhow!("{}; is the gateway running?", said(&error));
        match (&self.place, &self.tls) {
            (Place::Unix(path_of), _) => {
                let socket = UnixStream::connect(path_of).await.map_err(unreachable)?;
                self.speak(socket, method, path, body).await
            }
            (Place::Tcp(name, port), None) => {
                let tcp = TcpStream::connect((name.as_str(), *port)).await.map_err(unreachable)?;
                // "localhost" is what the system says it is.
                if self.secret.is_some() && !tcp.peer_addr()?.ip().is_loopback() {
                    return Err(anyhow!("the secret would travel in clear: it is not on this machine"));
                }
                self.speak(tcp, method, path, body).await
            }
            (Place::Tcp(name, port), Some(config)) => {
                let tcp = TcpStream::connect((name.as_str(), *port)).await.map_err(unreachable)?;
                let server = ServerName::try_from(name.clone()).context("it is called by no name TLS knows")?;
                let tls = TlsConnector::from(config.clone()).connect(server, tcp).await;
                let tls = tls.context("no TLS with it (--ca FILE names the CA that signed its certificate)")?;
                self.speak(tls, method, path, body).await
            }
        }
    }

    async fn speak(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(http::StatusCode, Value)> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.host);
        if let Some(secret) = &self.secret {
            let value = [b"Bearer ", secret.expose()].concat();
            let mut value = http::HeaderValue::from_bytes(&value).context("the secret cannot stand in a header")?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if *method != Method::GET {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST).collect().await.map_err(|error| anyhow!("{error}"))?.to_bytes();
        let value = serde_json::from_slice(&body).context("it answers no JSON: is it the admin listener?")?;
        Ok((head.status, value))
    }
}

/// `127.0.0.1:9443`, `unix:/path`, `https://name:port`; whether TLS is wanted.
fn parse(typed: &str, secure: bool) -> Result<(Place, bool), Failure> {
    let wrong = || {
        let typed = crate::secret::mask_typed(typed);
        Failure::Usage(format!("--admin takes 127.0.0.1:9443, unix:/path or https://name:port, not {typed}"))
    };
    if let Some(path) = typed.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok((Place::Unix(path.into()), false));
    }
    let (rest, secure) = match (typed.strip_prefix("https://"), typed.strip_prefix("http://")) {
        (Some(rest), _) => (rest, true),
        (_, Some(rest)) => (rest, false),
        _ => (typed, secure),
    };
    let (name, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(wrong)?;
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let port = port.parse().map_err(|_| wrong())?;
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(wrong());
    }
    Ok((Place::Tcp(name.to_owned(), port), secure))
}

/// Whether this place is the listener of the config.
fn is_at(admin: &Admin, place: &Place, secure: bool) -> bool {
    match (&admin.address, place) {
        (Address::Unix(path), Place::Unix(typed)) => {
            let real = |path: &Path| std::fs::canonicalize(path).ok();
            path == typed || real(path).is_some_and(|path| Some(path) == real(typed))
        }
        (Address::Tcp(address), Place::Tcp(name, port)) => {
            let ip = address.ip();
            let same = match name.parse::<IpAddr>() {
                Ok(typed) => typed == ip || ip.is_unspecified() && typed.is_loopback(),
                Err(_) if is_loopback(name) => ip.is_loopback() || ip.is_unspecified(),
                // Its certificate must prove it.
                Err(_) => secure && admin.hosts.contains(&name.to_ascii_lowercase()),
            };
            same && *port == address.port()
        }
        _ => false,
    }
}

fn is_loopback(name: &str) -> bool {
    name.parse().map_or_else(|_| name.eq_ignore_ascii_case("localhost"), |ip: IpAddr| ip.is_loopback())
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| anyhow!("cannot read {}: {}", file.display(), said(&error)).into())
}

fn read_secret(file: &Path) -> Result<Secret, Failure> {
    let mut bytes = read(file)?;
    trim_newline(&mut bytes);
    Ok(Secret::new(bytes))
}

fn tls(place: &Where) -> Result<Arc<ClientConfig>, Failure> {
    let ca = place.ca.as_deref().map(read).transpose()?;
    let client = match (&place.certificate, &place.key) {
        (Some(certificate), Some(key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificate)?).collect();
            let chain = chain.map_err(|error| anyhow!("{}: {error}", certificate.display()))?;
            let private = PrivateKeyDer::from_pem_slice(&read(key)?);
            Some((chain, private.map_err(|error| anyhow!("{}: {error}", key.display()))?))
        }
        _ => None,
    };
    Ok(trust_as(ca.as_deref(), client).map_err(anyhow::Error::from)?)
}

/// For connecting, asking and the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any page of a list.
const LARGEST: usize = 64 * 1024 * 1024;
