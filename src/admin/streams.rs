//! Live streams: a list in pages, and the end of one.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::Desk;
use super::reply::{json, problem};
use crate::clock::Now;
use crate::registry::{Glimpse, Kind};
use crate::stream::Signal;

impl Desk {
    /// `GET /streams?after=N&limit=N`, in the order of their numbers.
    pub(super) fn streams(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let page = Page::read(query, |text| text.parse::<u64>().ok());
        let Some(Page { after, limit }) = page else { return unknown_page() };
        let registry = &self.0.registry;
        let glimpses = registry.glimpses(after.unwrap_or(0), limit);
        let now = self.0.clock.now();
        let next = (glimpses.len() == limit).then(|| glimpses.last().map(|last| last.id)).flatten();
        let streams: Vec<Value> = glimpses.iter().map(|glimpse| shown(glimpse, now)).collect();
        json(StatusCode::OK, &json!({ "streams": streams, "total": registry.len(), "next": next }))
    }

    /// `DELETE /streams/N`.
    pub(super) fn end(&self, id: &str) -> Response<Full<Bytes>> {
        let id = id.parse::<u64>().ok().filter(|id| self.0.registry.signal(*id, Signal::End));
        match id {
            Some(id) => {
                tracing::info!(stream = id, "an operator has ended a stream");
                json(StatusCode::ACCEPTED, &json!({ "ended": id }))
            }
            None => problem(StatusCode::NOT_FOUND, "stream_gone", "there is no live stream of this number"),
        }
    }
}

fn shown(glimpse: &Glimpse, now: Now) -> Value {
    json!({
        "id": glimpse.id,
        "kind": match glimpse.kind {
            Kind::Http => "http",
            Kind::Stream => "stream",
        },
        "route": &*glimpse.route,
        "address": glimpse.peer.to_string(),
        "principal": glimpse.principal.to_string(),
        "jti": glimpse.jti.as_deref(),
        "since": glimpse.since.as_secs(),
        // Of a stream whose time has come, but whose Close has not, yet.
        "expires_in": glimpse.expiry.map(|expiry| seconds(expiry.saturating_since(now.wall))),
        "renewals": glimpse.renewals,
        "frames_up": glimpse.upward.frames,
        "bytes_up": glimpse.upward.bytes,
        "frames_down": glimpse.downward.frames,
        "bytes_down": glimpse.downward.bytes,
    })
}

/// Seconds, to the millisecond.
fn seconds(time: Duration) -> f64 {
    let millis = Duration::from_millis(time.subsec_millis().into());
    Duration::from_secs(time.as_secs()).saturating_add(millis).as_secs_f64()
}

/// Which part of a list is wanted.
pub(super) struct Page<T> {
    pub(super) after: Option<T>,
    pub(super) limit: usize,
}

impl<T> Page<T> {
    /// Reads a query; `None` if it says anything else.
    pub(super) fn read(query: Option<&str>, parse: impl Fn(&str) -> Option<T>) -> Option<Self> {
        let mut page = Self { after: None, limit: LARGEST_PAGE };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=')? {
                ("after", value) => page.after = Some(parse(value)?),
                ("limit", value) => {
                    page.limit = value.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit))?;
                }
                _ => return None,
            }
        }
        Some(page)
    }
}

pub(super) fn unknown_page() -> Response<Full<Bytes>> {
    let detail = "the query is after=<the last one seen> and limit=<1 to 1000>, each optional";
    problem(StatusCode::BAD_REQUEST, "query", detail)
}

/// Entries of a page: so many take about a millisecond.
const LARGEST_PAGE: usize = 1000;
