//! The codes and reasons that a route closes with, as they were typed.

use super::Key;
use crate::config::problem::Place;
use crate::config::section::Section;

/// `close.*` of a route.
#[derive(Debug, Default)]
pub(in crate::config) struct Close {
    pub(in crate::config) preset: Key<String>,
    pub(in crate::config) expired: Option<CloseText>,
    pub(in crate::config) revoked: Option<CloseText>,
    pub(in crate::config) key_removed: Option<CloseText>,
    pub(in crate::config) stream_limit: Option<CloseText>,
    pub(in crate::config) idle: Option<CloseText>,
    pub(in crate::config) drain: Option<CloseText>,
    pub(in crate::config) too_big: Option<CloseText>,
    pub(in crate::config) rate_limited: Option<CloseText>,
    pub(in crate::config) replaced: Option<CloseText>,
    pub(in crate::config) protocol: Option<CloseText>,
    pub(in crate::config) upstream_lost: Option<CloseText>,
    pub(in crate::config) unauthorized: Option<CloseText>,
    pub(in crate::config) forbidden: Option<CloseText>,
    pub(in crate::config) unavailable: Option<CloseText>,
    pub(in crate::config) first_message: Option<CloseText>,
    pub(in crate::config) auth_timeout: Option<CloseText>,
}

/// One of `close.*`.
#[derive(Debug)]
pub(in crate::config) struct CloseText {
    pub(in crate::config) place: Place,
    pub(in crate::config) code: Key<usize>,
    pub(in crate::config) reason: Key<String>,
}

pub(super) fn close(mut s: Section<'_>) -> Close {
    let preset = s.text("preset", "\"generic\"");
    let mut text = |key, example| s.table(key, "route.close.*", "a close text", example).map(close_text);
    let close = Close {
        preset,
        expired: text("expired", "{ code = 3000, reason = \"token expired\" }"),
        revoked: text("revoked", "{ code = 3003, reason = \"token revoked\" }"),
        key_removed: text("key_removed", "{ code = 3000, reason = \"key removed\" }"),
        stream_limit: text("stream_limit", "{ code = 3000, reason = \"stream limit\" }"),
        idle: text("idle", "{ code = 3008, reason = \"idle\" }"),
        drain: text("drain", "{ code = 1012, reason = \"service restart\" }"),
        too_big: text("too_big", "{ code = 1009, reason = \"too big\" }"),
        rate_limited: text("rate_limited", "{ code = 1008, reason = \"rate limited\" }"),
        replaced: text("replaced", "{ code = 1008, reason = \"replaced\" }"),
        protocol: text("protocol", "{ code = 1002, reason = \"protocol error\" }"),
        upstream_lost: text("upstream_lost", "{ code = 1013, reason = \"upstream lost\" }"),
        unauthorized: text("unauthorized", "{ code = 3000, reason = \"sign in\" }"),
        forbidden: text("forbidden", "{ code = 3003, reason = \"not for you\" }"),
        unavailable: text("unavailable", "{ code = 1013, reason = \"try again later\" }"),
        first_message: text("first_message", "{ code = 1008, reason = \"no token\" }"),
        auth_timeout: text("auth_timeout", "{ code = 3008, reason = \"no first message\" }"),
    };
    s.finish();
    close
}

fn close_text(mut s: Section<'_>) -> CloseText {
    let text = CloseText {
        place: s.place.clone(),
        code: s.number("code", 0, 65_535, 3000),
        reason: s.text("reason", "\"token expired\""),
    };
    s.finish();
    text
}
