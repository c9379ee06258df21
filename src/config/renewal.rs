//! What a route's keys on renewals mean.

use super::file;
use super::files::Context;
use super::problem::{Placed, Problem, nearest};
use super::server::duration;
use crate::gateway::route::Renewal;
use crate::relay::in_band::Mode;

pub(super) fn renewal(typed: &file::Renewal, context: &Context<'_>) -> Renewal {
    let default = Renewal::default();
    let in_band = typed.renew_in_band.as_ref().and_then(|typed| mode(typed, context));
    if let Some(prefix) = &typed.prefix {
        if typed.renew_in_band.is_none() {
            let problem = Problem::new(&prefix.place, "`renewal_prefix` counts for messages only, and none are read");
            context.add(problem.remedy("set renew_in_band to \"consume\" or \"forward\", or leave the prefix out"));
        }
        if prefix.value.len() > LONGEST_PREFIX {
            let problem = Problem::new(&prefix.place, "`renewal_prefix` is longer than 256 bytes");
            context.add(problem.remedy("a few characters are enough: \"renew:\""));
        }
    }
    let max_renewals = typed.max_renewals.as_ref().and_then(|most| u32::try_from(most.value).ok());
    Renewal {
        out_of_band: typed.renew.as_ref().map_or(default.out_of_band, |renew| renew.value),
        in_band,
        prefix: typed.prefix.as_ref().map_or(default.prefix, |prefix| prefix.value.as_str().into()),
        interval: duration(typed.interval.as_ref(), 1_000),
        max_renewals: max_renewals.filter(|most| *most != 0),
        allow_shorter: typed.allow_shorter.as_ref().map_or(default.allow_shorter, |allow| allow.value),
    }
}

fn mode(typed: &Placed<String>, context: &Context<'_>) -> Option<Mode> {
    match typed.value.as_str() {
        "off" => None,
        "consume" => Some(Mode::Consume),
        "forward" => Some(Mode::Forward),
        other => {
            let problem = Problem::new(&typed.place, format!("`{other}` cannot be `renew_in_band`"));
            let remedy = nearest(other, ["off", "consume", "forward"]).map_or_else(
                || "\"off\", \"consume\" or \"forward\"".to_owned(),
                |near| format!("did you mean \"{near}\"?"),
            );
            context.add(problem.remedy(remedy));
            None
        }
    }
}

/// Bytes.
const LONGEST_PREFIX: usize = 256;
