//! What a route says of the Closes that its clients get.

use super::file;
use super::files::Context;
use super::problem::{Placed, Problem, suggest};
use crate::stream::{CloseCodes, Preset};
use crate::ws::CloseText;
use crate::ws::close::CloseTextError;

/// What the client is told: a preset, and on top of it what the route says of single causes.
pub(super) fn codes(typed: &file::Close, context: &Context<'_>) -> CloseCodes {
    let mut codes = CloseCodes::preset(typed.preset.as_ref().map_or(Preset::Generic, |typed| preset(typed, context)));
    for (typed, text) in [
        (&typed.expired, &mut codes.expired),
        (&typed.revoked, &mut codes.revoked),
        (&typed.key_removed, &mut codes.key_removed),
        (&typed.stream_limit, &mut codes.stream_limit),
        (&typed.idle, &mut codes.idle),
        (&typed.drain, &mut codes.drain),
        (&typed.too_big, &mut codes.too_big),
        (&typed.rate_limited, &mut codes.rate_limited),
        (&typed.replaced, &mut codes.replaced),
        (&typed.protocol, &mut codes.protocol),
        (&typed.upstream_lost, &mut codes.upstream_lost),
        (&typed.unauthorized, &mut codes.unauthorized),
        (&typed.forbidden, &mut codes.forbidden),
        (&typed.unavailable, &mut codes.unavailable),
        (&typed.first_message, &mut codes.first_message),
        (&typed.auth_timeout, &mut codes.auth_timeout),
    ] {
        let Some(typed) = typed else { continue };
        let code = typed.code.as_ref().and_then(|code| u16::try_from(code.value).ok()).unwrap_or(text.code());
        let reason = typed.reason.as_ref().map_or_else(|| text.reason().to_owned(), |reason| reason.value.clone());
        match CloseText::new(code, reason) {
            Ok(new) => *text = new,
            Err(error) => {
                let at = match error {
                    CloseTextError::Code(_) => typed.code.as_ref().map(|code| &code.place),
                    CloseTextError::Reason(_) => typed.reason.as_ref().map(|reason| &reason.place),
                };
                context.add(Problem::new(at.unwrap_or(&typed.place), error.to_string()));
            }
        }
    }
    codes
}

fn preset(typed: &Placed<String>, context: &Context<'_>) -> Preset {
    match typed.value.as_str() {
        "generic" => Preset::Generic,
        "graphql-ws" => Preset::GraphqlWs,
        "centrifuge" => Preset::Centrifuge,
        other => {
            let problem = Problem::new(&typed.place, format!("`{other}` is no preset"));
            context.add(problem.remedy(suggest(other, ["generic", "graphql-ws", "centrifuge"])));
            Preset::Generic
        }
    }
}
