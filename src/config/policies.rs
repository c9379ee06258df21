//! What a route's keys on its streams' frames, silence and crowds mean.

use std::time::Duration;

use super::file;
use super::files::Context;
use super::problem::{Placed, Problem, nearest};
use super::server::{duration, positive};
use crate::gateway::route::Crowds;
use crate::registry::WhenFull;
use crate::stream::bounds::Rate;
use crate::stream::silence::{Ping, Rules};
use crate::stream::{Bounds, Policies};

pub(super) fn policies(typed: &file::Policies, context: &Context<'_>) -> Policies {
    let size = |typed: &Option<Placed<u64>>| typed.as_ref().map(|size| size.value).filter(|size| *size != 0);
    let (max_frame, max_message) = (size(&typed.max_frame), size(&typed.max_message));
    if let (Some(frame), Some(message), Some(typed)) = (max_frame, max_message, &typed.max_frame)
        && frame > message
    {
        let problem = Problem::new(&typed.place, "`max_frame` is larger than `max_message`");
        context
            .add(problem.remedy("no frame may be larger than its message: leave `max_frame` out, or make it smaller"));
    }
    let number = |typed: &Option<Placed<usize>>| {
        typed.as_ref().map(|typed| Placed { value: typed.value as u64, place: typed.place.clone() })
    };
    let messages = rate("messages", number(&typed.messages_per_second), number(&typed.messages_burst), context);
    let bytes = rate("bytes", typed.bytes_per_second.clone(), typed.bytes_burst.clone(), context);
    let some = |typed: Option<&Placed<Duration>>| Some(duration(typed, 0)).filter(|time| !time.is_zero());
    let timeout = positive(typed.ping_timeout.as_ref(), "ping_timeout", 10_000, context);
    Policies {
        bounds: Bounds { max_frame, max_message, messages, bytes },
        silence: Rules {
            idle: some(typed.idle_timeout.as_ref()),
            ping: some(typed.ping_interval.as_ref()).map(|interval| Ping { interval, timeout }),
        },
    }
}

/// How many streams belong together.
pub(super) fn crowds(typed: &file::Policies, context: &Context<'_>) -> Crowds {
    let most = |typed: &Option<Placed<usize>>| typed.as_ref().map(|most| most.value).filter(|most| *most != 0);
    let when_full = typed.when_full.as_ref().map_or(WhenFull::default(), |typed| when_full(typed, context));
    let (per_principal, per_address) = (most(&typed.max_streams_per_principal), most(&typed.max_streams_per_address));
    if let (WhenFull::CloseOldest, None, None, Some(typed)) = (when_full, per_principal, per_address, &typed.when_full)
    {
        let problem = Problem::new(&typed.place, "`when_full` counts only where a principal or an address has a limit");
        context
            .add(problem.remedy("set max_streams_per_principal or max_streams_per_address, or leave `when_full` out"));
    }
    Crowds { per_principal, per_address, when_full }
}

fn when_full(typed: &Placed<String>, context: &Context<'_>) -> WhenFull {
    match typed.value.as_str() {
        "reject_new" => WhenFull::RejectNew,
        "close_oldest" => WhenFull::CloseOldest,
        other => {
            let problem = Problem::new(&typed.place, format!("`{other}` cannot be `when_full`"));
            let remedy = nearest(other, ["reject_new", "close_oldest"]).map_or_else(
                || "\"reject_new\" or \"close_oldest\"".to_owned(),
                |near| format!("did you mean \"{near}\"?"),
            );
            context.add(problem.remedy(remedy));
            WhenFull::default()
        }
    }
}

fn rate(of: &str, rate: Option<Placed<u64>>, burst: Option<Placed<u64>>, context: &Context<'_>) -> Option<Rate> {
    let per_second = rate.map_or(0, |rate| rate.value);
    let burst = burst.filter(|burst| burst.value != 0);
    if per_second == 0 {
        if let Some(burst) = burst {
            let problem = Problem::new(&burst.place, format!("`{of}_burst` counts only where there is a rate"));
            context.add(problem.remedy(format!("set {of}_per_second, or leave {of}_burst out")));
        }
        return None;
    }
    Some(Rate { per_second, burst: burst.map_or(per_second.saturating_mul(2), |burst| burst.value) })
}
