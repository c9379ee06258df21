//! `[[upstream]]` as it was typed.

use std::time::Duration;

use super::{Key, List};
use crate::config::section::Section;

/// `[[upstream]]`
#[derive(Debug)]
pub(in crate::config) struct Upstream {
    pub(in crate::config) name: Key<String>,
    pub(in crate::config) endpoints: Key<List>,
    pub(in crate::config) balance: Key<String>,
    pub(in crate::config) ca: Key<String>,
    pub(in crate::config) server_name: Key<String>,
    pub(in crate::config) connect_timeout: Key<Duration>,
    pub(in crate::config) response_timeout: Key<Duration>,
    pub(in crate::config) max_streams: Key<usize>,
    pub(in crate::config) retries: Key<usize>,
    pub(in crate::config) fail_after: Key<usize>,
    pub(in crate::config) fail_pause: Key<Duration>,
    pub(in crate::config) health: Health,
    pub(in crate::config) resolve_interval: Key<Duration>,
}

/// What it says of checks.
#[derive(Debug)]
pub(in crate::config) struct Health {
    pub(in crate::config) kind: Key<String>,
    pub(in crate::config) path: Key<String>,
    pub(in crate::config) interval: Key<Duration>,
    pub(in crate::config) timeout: Key<Duration>,
    pub(in crate::config) rise: Key<usize>,
    pub(in crate::config) fall: Key<usize>,
}

pub(super) fn upstream(mut s: Section<'_>) -> Upstream {
    let upstream = Upstream {
        name: s.needed("name", "\"chat\""),
        endpoints: needed_texts(&mut s, "endpoints", "[\"ws://10.0.0.1:9001\", \"ws://10.0.0.2:9001\"]"),
        balance: s.text("balance", "\"least_streams\""),
        ca: s.text("ca", "\"certs/upstream-ca.pem\""),
        server_name: s.text("server_name", "\"service.internal\""),
        connect_timeout: s.duration("connect_timeout"),
        response_timeout: s.duration("response_timeout"),
        max_streams: s.number("max_streams", 0, 10_000_000, 5_000),
        retries: s.number("retries", 0, 10, 2),
        fail_after: s.number("fail_after", 0, 1_000, 3),
        fail_pause: s.duration("fail_pause"),
        health: Health {
            kind: s.text("health", "\"http\""),
            path: s.text("health_path", "\"/healthz\""),
            interval: s.duration("health_interval"),
            timeout: s.duration("health_timeout"),
            rise: s.number("health_rise", 1, 1_000, 2),
            fall: s.number("health_fall", 1, 1_000, 3),
        },
        resolve_interval: s.duration("resolve_interval"),
    };
    s.finish();
    upstream
}

fn needed_texts(s: &mut Section<'_>, key: &'static str, example: &str) -> Key<List> {
    if !s.has(key) {
        s.missing(key, example);
    }
    s.texts(key, example)
}
