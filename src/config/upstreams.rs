//! What a URL of a service means: where it is, and how it is reached.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::pki_types::ServerName;

use super::files::Context;
use super::problem::{Placed, Problem};
use super::server::positive;
use crate::upstream::trust::{RootsError, TrustError, trusting};
use crate::upstream::{self, trust};

/// How the endpoints of a service are reached, as it was typed: by a route for its own one, or by an `[[upstream]]`.
pub(super) struct Reach<'a> {
    /// The key that holds the URLs.
    pub(super) urls: &'static str,
    /// The key for the CA, and its value.
    pub(super) ca: (&'static str, Option<&'a Placed<String>>),
    /// The key for the name that certificates must cover, and its value.
    pub(super) name: (&'static str, Option<&'a Placed<String>>),
    pub(super) connect_timeout: Option<&'a Placed<Duration>>,
    pub(super) response_timeout: Option<&'a Placed<Duration>>,
}

/// The places behind these URLs, if all of it is said right.
pub(super) fn places(urls: &[Placed<String>], by: &Reach<'_>, context: &Context<'_>) -> Option<Vec<upstream::Config>> {
    let connect_timeout = positive(by.connect_timeout, "connect_timeout", 5_000, context);
    let response_timeout = positive(by.response_timeout, "response_timeout", 10_000, context);
    let parsed = |url: &'_ Placed<String>| match parse(&url.value, by.urls) {
        Ok(parts) => Some(parts),
        Err((message, remedy)) => {
            context.add(Problem::new(&url.place, message).remedy(remedy));
            None
        }
    };
    let found: Vec<_> = urls.iter().filter_map(|url| Some((url, parsed(url)?))).collect();
    let plain = found.iter().all(|(_, (secure, ..))| !secure);
    let (mut client, mut name) = (None, None);
    match found.first() {
        Some((url, _)) if plain => {
            for (key, typed) in [by.ca, by.name] {
                if let Some(typed) = typed {
                    let problem = Problem::new(&typed.place, format!("`{key}` counts for wss:// only"));
                    context.add(problem.other(&url.place, "no TLS here").remedy("write wss://, or take the key out"));
                }
            }
        }
        // Where no URL is right, what else is wrong is told in the same run.
        first => {
            client = self::client(first.map(|(url, _)| *url), by, context);
            name = by.name.1.map(|name| server_name(&name.value, name, context));
        }
    }
    let place = |(url, (secure, host, port)): (&Placed<String>, (bool, String, u16))| {
        let tls = if secure {
            let name = name.clone().unwrap_or_else(|| server_name(&host, url, context));
            Some(upstream::Tls { config: client.clone()?, server_name: name? })
        } else {
            None
        };
        Some(upstream::Config { url: url.value.clone(), host, port, tls, connect_timeout, response_timeout })
    };
    let places: Vec<upstream::Config> = found.into_iter().filter_map(place).collect();
    (places.len() == urls.len()).then_some(places)
}

/// Whether TLS is wanted, host and port; an error tells what is wrong with `key`, and a remedy.
fn parse(url: &str, key: &str) -> Result<(bool, String, u16), (String, String)> {
    let example = "for example \"ws://127.0.0.1:9001\" or \"wss://service.internal:8443\"";
    let refuse = |message: &str, remedy: &str| Err((format!("`{key}` {message}"), remedy.to_owned()));
    let Ok(uri) = url.parse::<Uri>() else {
        return refuse("is no URL", example);
    };
    let (secure, default_port) = match uri.scheme_str() {
        Some("ws") => (false, 80),
        Some("wss") => (true, 443),
        Some("http") => return refuse("is a WebSocket service", "write ws:// instead of http://"),
        Some("https") => return refuse("is a WebSocket service", "write wss:// instead of https://"),
        _ => return refuse("must begin with ws:// or wss://", example),
    };
    let Some(authority) = uri.authority() else {
        return refuse("names no host", example);
    };
    if authority.as_str().contains('@') {
        return refuse("holds user and password", "they are not sent: take them out");
    }
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") || url.contains('#') {
        return refuse(
            "holds a path or a query",
            "the client's own path and query go to the service: end the URL after the port",
        );
    }
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let colon = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    let port = match (colon, authority.port_u16()) {
        ("", _) => default_port,
        (_, Some(port)) if port != 0 => port,
        _ => return refuse("has no usable port", example),
    };
    if ServerName::try_from(host).is_err() {
        return refuse("has a host that is no host name and no address", example);
    }
    Ok((secure, host.to_ascii_lowercase(), port))
}

/// Our end of TLS; `None` if there is no URL, or it cannot be had.
fn client(url: Option<&Placed<String>>, by: &Reach<'_>, context: &Context<'_>) -> Option<Arc<rustls::ClientConfig>> {
    let (key, file) = by.ca;
    let ca = match file {
        Some(file) => Some(roots(file, key, context)?),
        None => None,
    };
    let url = url?;
    let mut config = match trusting(ca) {
        Ok(builder) => builder.with_no_client_auth(),
        Err(error) => {
            let problem = Problem::new(&url.place, error.to_string());
            context.add(match error {
                TrustError::System(_) => {
                    problem.remedy(format!("install the package ca-certificates, or name the CA with {key}"))
                }
                TrustError::Setup(_) => problem,
            });
            return None;
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(config))
}

/// The name that the service's certificate must cover; `at` is where it was typed.
fn server_name(name: &str, at: &Placed<String>, context: &Context<'_>) -> Option<ServerName<'static>> {
    let parsed = ServerName::try_from(name.to_owned()).ok();
    if parsed.is_none() {
        context.add(Problem::new(&at.place, format!("`{name}` is no name that a certificate can cover")));
    }
    parsed
}

/// The certificates of the file that `key` names, at least one.
pub(super) fn roots(file: &Placed<String>, key: &str, context: &Context<'_>) -> Option<rustls::RootCertStore> {
    let pem = context.read(file, "the CA", "the certificate, PEM, that has signed the other side's certificate")?;
    match trust::roots(&pem) {
        Ok(roots) => Some(roots),
        Err(RootsError::Broken(error)) => {
            context.add(Problem::new(&file.place, format!("a certificate in `{key}` cannot be used: {error}")));
            None
        }
        Err(RootsError::Empty) => {
            let problem = Problem::new(&file.place, "the file has no certificate");
            context.add(problem.remedy("PEM is wanted: it begins with -----BEGIN CERTIFICATE-----"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_scheme_a_host_and_a_port_and_nothing_else() {
        let read = |url| parse(url, "upstream");
        assert_eq!(read("ws://127.0.0.1:9001").unwrap(), (false, "127.0.0.1".into(), 9001));
        assert_eq!(read("ws://Service.Internal").unwrap(), (false, "service.internal".into(), 80));
        assert_eq!(read("wss://service/").unwrap(), (true, "service".into(), 443));
        assert_eq!(read("wss://[::1]:8443").unwrap(), (true, "::1".into(), 8443));
        for bad in [
            "",
            "127.0.0.1:9001",
            "localhost",
            "http://x",
            "https://x",
            "ftp://x",
            "ws://",
            "ws:///x",
            "ws://x/path",
            "ws://x?q=1",
            "ws://x/?q",
            "ws://x#f",
            "ws://u:p@x",
            "ws://u@x:1",
            "ws://x:0",
            "ws://x:99999",
            "ws://x:",
            "ws://a b",
            "ws://x:1:2",
            "ws://-x",
            "ws://x:port",
            "ws://[::1",
            "ws://é",
        ] {
            assert!(read(bad).is_err(), "{bad}: {:?}", read(bad));
        }
    }
}
