//! What `[probes]`, `[admin]` and `[revocation]` mean.

use std::net::SocketAddr;

use super::file;
use super::files::Context;
use super::problem::{Place, Placed, Problem};
use super::server::certificate;
use crate::admin::{self, Address, TlsFiles};
use crate::revocation;
use crate::secret::Secret;
use crate::token::keys::unfit_secret;

pub(super) fn revocation(typed: &file::Revocation, context: &Context<'_>) -> revocation::Config {
    let default = revocation::Config::default();
    revocation::Config {
        file: typed.file.as_ref().filter(|file| !file.value.is_empty()).map(|file| context.path(&file.value)),
        max_entries: typed.max_entries.as_ref().map_or(default.max_entries, |most| most.value),
    }
}

pub(super) fn admin(file: &file::File, context: &Context<'_>) -> admin::Config {
    let probes = file.probes.address.as_ref().filter(|typed| !typed.value.is_empty());
    let probes = probes.and_then(|typed| Some((tcp(typed, "probes", context)?, &typed.place)));
    let admin = listener(&file.admin, context);
    if let (Some((probes, first)), Some(typed), Some(admin)) = (&probes, &file.admin.address, &admin)
        && admin.address == Address::Tcp(*probes)
        && probes.port() != 0
    {
        let problem = Problem::new(&typed.place, format!("two listeners have the address {probes}"));
        context.add(
            problem
                .other(first, "the first one")
                .remedy("the admin listener serves what the probes listener does: leave [probes] out, or change one"),
        );
    }
    admin::Config { probes: probes.map(|(address, _)| address), admin }
}

fn listener(typed: &file::Admin, context: &Context<'_>) -> Option<admin::Admin> {
    context.mask_secret(typed.secret_file.as_ref(), typed.secret_env.as_ref());
    let hosts = hosts(typed, context);
    let secret = secret(typed, context);
    let tls = tls(typed, context);
    let Some(place) = typed.address.as_ref().filter(|address| !address.value.is_empty()) else {
        let others = [&typed.secret_file, &typed.secret_env, &typed.certificate, &typed.key, &typed.client_ca];
        let first = others.into_iter().flatten().map(|typed| &typed.place);
        if let Some(place) =
            first.chain(typed.hosts.iter().flat_map(|hosts| &hosts.value).map(|host| &host.place)).next()
        {
            let problem = Problem::new(place, "[admin] has no `address`, so there is no admin listener");
            context.add(problem.remedy("add a line: address = \"127.0.0.1:9443\", or leave [admin] out"));
        }
        return None;
    };
    let address = match place.value.strip_prefix("unix:") {
        Some(path) => {
            if path.is_empty() {
                let problem = Problem::new(&place.place, "`unix:` names no path");
                context.add(problem.remedy("for example \"unix:/run/portcullis/admin.sock\""));
            }
            Address::Unix(context.path(path))
        }
        None => Address::Tcp(tcp(place, "admin", context)?),
    };
    match &address {
        Address::Unix(_) => {
            if let Some(typed) = &typed.certificate {
                let problem = Problem::new(&typed.place, "a Unix socket has no use for TLS");
                context.add(
                    problem
                        .other(&place.place, "this one")
                        .remedy("take certificate, key and client_ca out: only the gateway's own user can connect"),
                );
            }
        }
        Address::Tcp(tcp) if !tcp.ip().is_loopback() => {
            let proof = typed.secret_file.is_some() || typed.secret_env.is_some() || typed.client_ca.is_some();
            if !proof {
                let problem = Problem::new(&place.place, format!("anyone who reaches {tcp} could end every stream"));
                context.add(problem.label("not loopback").remedy(
                    "listen on 127.0.0.1 or unix:/path; or ask for a secret (secret_file, secret_env) or for a client \
                     certificate (client_ca with certificate and key)",
                ));
            } else if tls.is_none() && typed.certificate.is_none() {
                context
                    .report
                    .note("[admin]: the secret travels in clear outside loopback; add certificate and key".to_owned());
            }
        }
        Address::Tcp(_) => {}
    }
    Some(admin::Admin { address, hosts, secret, tls })
}

fn tcp(typed: &Placed<String>, section: &str, context: &Context<'_>) -> Option<SocketAddr> {
    let parsed = typed.value.parse().ok();
    if parsed.is_none() {
        let unix = if section == "admin" { ", or \"unix:/run/portcullis/admin.sock\"" } else { "" };
        let example = if section == "admin" { "127.0.0.1:9443" } else { "0.0.0.0:9090" };
        let problem = Problem::new(&typed.place, format!("`{}` is no address to listen on", typed.value));
        context.add(problem.remedy(format!("an IP address and a port: \"{example}\"{unix}")));
    }
    parsed
}

fn hosts(typed: &file::Admin, context: &Context<'_>) -> Vec<String> {
    let mut hosts = Vec::new();
    for typed in typed.hosts.iter().flat_map(|list| &list.value) {
        let host = typed.value.to_ascii_lowercase();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let address = address.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
        if address || (!host.is_empty() && host.bytes().all(plain)) {
            hosts.push(host);
        } else {
            let problem = Problem::new(&typed.place, format!("`{}` is no host name", typed.value));
            context.add(problem.remedy("a name without scheme, port and \"*\": \"gateway.internal\""));
        }
    }
    hosts
}

fn secret(typed: &file::Admin, context: &Context<'_>) -> Option<Secret> {
    let (place, secret) = match (&typed.secret_file, &typed.secret_env) {
        (Some(file), Some(variable)) => {
            let problem = Problem::new(&variable.place, "the secret comes from a file and from a variable");
            context.add(problem.other(&file.place, "the file").remedy("keep one of the two"));
            return None;
        }
        (Some(file), None) => (&file.place, context.secret_file(file)?),
        (None, Some(name)) => (&name.place, Secret::new(context.variable(name)?.as_bytes().to_vec())),
        (None, None) => return None,
    };
    let short = secret.expose().len() < LEAST_SECRET;
    let visible = secret.expose().iter().all(u8::is_ascii_graphic);
    let wrong = match unfit_secret(secret.expose()) {
        Some(_) => Some("it is PEM, or one byte repeated"),
        None if short => Some("it is shorter than 32 bytes"),
        None if !visible => Some("it has bytes that cannot stand in a header: blanks, control characters or no ASCII"),
        None => None,
    };
    if let Some(wrong) = wrong {
        let problem = Problem::new(place, format!("the secret of [admin] cannot be used: {wrong}"));
        context.add(problem.remedy("openssl rand -base64 48 makes a good one"));
        return None;
    }
    Some(secret)
}

fn tls(typed: &file::Admin, context: &Context<'_>) -> Option<TlsFiles> {
    let lone = |have: &Placed<String>, missing: &str| {
        let problem = Problem::new(&have.place, format!("[admin] has no `{missing}`"));
        context.add(problem.remedy("certificate and key go together, and client_ca needs both"));
    };
    let (chain, key) = match (&typed.certificate, &typed.key, &typed.client_ca) {
        (Some(chain), Some(key), _) => (chain, key),
        (Some(chain), None, _) => {
            lone(chain, "key");
            return None;
        }
        (None, Some(other), _) | (None, None, Some(other)) => {
            lone(other, "certificate");
            return None;
        }
        (None, None, None) => return None,
    };
    let certificate = certificate(chain, key, &mut Vec::new(), context)?;
    let files = TlsFiles { certificate, client_ca: typed.client_ca.as_ref().map(|file| context.path(&file.value)) };
    if let Err(error) = admin::check_tls(&files) {
        let place: &Place = typed.client_ca.as_ref().map_or(&chain.place, |file| &file.place);
        context.add(
            Problem::new(place, error.to_string())
                .remedy("the CA's certificate, PEM, that has signed those of clients"),
        );
    }
    Some(files)
}

/// As long as the secrets that sign tokens.
const LEAST_SECRET: usize = 32;
