//! What a route asks of its streams beyond a good token, as it was typed.

use std::time::Duration;

use super::Key;
use crate::config::section::Section;

/// What a route asks of its streams beyond a good token.
#[derive(Debug)]
pub(in crate::config) struct Policies {
    pub(in crate::config) max_frame: Key<u64>,
    pub(in crate::config) max_message: Key<u64>,
    pub(in crate::config) messages_per_second: Key<usize>,
    pub(in crate::config) messages_burst: Key<usize>,
    pub(in crate::config) bytes_per_second: Key<u64>,
    pub(in crate::config) bytes_burst: Key<u64>,
    pub(in crate::config) idle_timeout: Key<Duration>,
    pub(in crate::config) ping_interval: Key<Duration>,
    pub(in crate::config) ping_timeout: Key<Duration>,
    pub(in crate::config) max_streams_per_principal: Key<usize>,
    pub(in crate::config) max_streams_per_address: Key<usize>,
    pub(in crate::config) when_full: Key<String>,
}

pub(super) fn policies(s: &mut Section<'_>) -> Policies {
    Policies {
        max_frame: s.size("max_frame"),
        max_message: s.size("max_message"),
        messages_per_second: s.number("messages_per_second", 0, 1_000_000_000, 50),
        messages_burst: s.number("messages_burst", 0, 1_000_000_000, 100),
        bytes_per_second: s.size("bytes_per_second"),
        bytes_burst: s.size("bytes_burst"),
        idle_timeout: s.duration("idle_timeout"),
        ping_interval: s.duration("ping_interval"),
        ping_timeout: s.duration("ping_timeout"),
        max_streams_per_principal: s.number("max_streams_per_principal", 0, 10_000_000, 3),
        max_streams_per_address: s.number("max_streams_per_address", 0, 10_000_000, 100),
        when_full: s.text("when_full", "\"close_oldest\""),
    }
}
