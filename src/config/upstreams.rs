//! What a route's `upstream` means: where the service is, and how it is reached.

use std::sync::Arc;

use http::Uri;
use rustls::pki_types::ServerName;

use super::file;
use super::files::Context;
use super::problem::{Placed, Problem};
use super::server::positive;
use crate::upstream::trust::{RootsError, TrustError, trusting};
use crate::upstream::{self, trust};

/// The service of a route, if it is said right.
pub(super) fn upstream(typed: &file::Route, context: &Context<'_>) -> Option<upstream::Config> {
    let connect_timeout = positive(typed.connect_timeout.as_ref(), "connect_timeout", 5_000, context);
    let response_timeout = positive(typed.response_timeout.as_ref(), "response_timeout", 10_000, context);
    let url = typed.upstream.as_ref()?;
    let (secure, host, port) = match parse(&url.value) {
        Ok(parts) => parts,
        Err((message, remedy)) => {
            context.add(Problem::new(&url.place, message).remedy(remedy));
            // What else is wrong is told in the same run.
            if let Some(file) = &typed.upstream_ca {
                roots(file, "upstream_ca", context);
            }
            if let Some(name) = &typed.upstream_name {
                server_name(&name.value, name, context);
            }
            return None;
        }
    };
    let tls = if secure { Some(tls(typed, &host, url, context)?) } else { None };
    if !secure {
        for (key, typed) in [("upstream_ca", &typed.upstream_ca), ("upstream_name", &typed.upstream_name)] {
            if let Some(typed) = typed {
                let problem = Problem::new(&typed.place, format!("`{key}` counts for wss:// only"));
                context.add(problem.other(&url.place, "no TLS here").remedy("write wss://, or take the key out"));
            }
        }
    }
    Some(upstream::Config { url: url.value.clone(), host, port, tls, connect_timeout, response_timeout })
}

/// Whether TLS is wanted, host (an IPv6 address without its brackets) and port.
fn parse(url: &str) -> Result<(bool, String, u16), (String, String)> {
    let example = "for example \"ws://127.0.0.1:9001\" or \"wss://service.internal:8443\"";
    let refuse = |message: &str, remedy: &str| Err((message.to_owned(), remedy.to_owned()));
    let Ok(uri) = url.parse::<Uri>() else {
        return refuse("`upstream` is no URL", example);
    };
    let (secure, default_port) = match uri.scheme_str() {
        Some("ws") => (false, 80),
        Some("wss") => (true, 443),
        Some("http") => return refuse("`upstream` is a WebSocket service", "write ws:// instead of http://"),
        Some("https") => return refuse("`upstream` is a WebSocket service", "write wss:// instead of https://"),
        _ => return refuse("`upstream` must begin with ws:// or wss://", example),
    };
    let Some(authority) = uri.authority() else {
        return refuse("`upstream` names no host", example);
    };
    if authority.as_str().contains('@') {
        return refuse("`upstream` holds user and password", "they are not sent: take them out");
    }
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") || url.contains('#') {
        return refuse(
            "`upstream` holds a path or a query",
            "the client's own path and query go to the service: end the URL after the port",
        );
    }
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let colon = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    let port = match (colon, authority.port_u16()) {
        ("", _) => default_port,
        (_, Some(port)) if port != 0 => port,
        _ => return refuse("`upstream` has no usable port", example),
    };
    if ServerName::try_from(host).is_err() {
        return refuse("the host of `upstream` is no host name and no address", example);
    }
    Ok((secure, host.to_ascii_lowercase(), port))
}

fn tls(typed: &file::Route, host: &str, url: &Placed<String>, context: &Context<'_>) -> Option<upstream::Tls> {
    let name = typed.upstream_name.as_ref().map_or(host, |name| &name.value);
    let server_name = server_name(name, typed.upstream_name.as_ref().unwrap_or(url), context);
    let ca = match &typed.upstream_ca {
        Some(file) => Some(roots(file, "upstream_ca", context)?),
        None => None,
    };
    let mut config = match trusting(ca) {
        Ok(builder) => builder.with_no_client_auth(),
        Err(error) => {
            let problem = Problem::new(&url.place, error.to_string());
            context.add(match error {
                TrustError::System(_) => {
                    problem.remedy("install the package ca-certificates, or name the CA with upstream_ca")
                }
                TrustError::Setup(_) => problem,
            });
            return None;
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(upstream::Tls { config: Arc::new(config), server_name: server_name? })
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
        assert_eq!(parse("ws://127.0.0.1:9001").unwrap(), (false, "127.0.0.1".into(), 9001));
        assert_eq!(parse("ws://Service.Internal").unwrap(), (false, "service.internal".into(), 80));
        assert_eq!(parse("wss://service/").unwrap(), (true, "service".into(), 443));
        assert_eq!(parse("wss://[::1]:8443").unwrap(), (true, "::1".into(), 8443));
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
            assert!(parse(bad).is_err(), "{bad}: {:?}", parse(bad));
        }
    }
}
