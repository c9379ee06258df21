//! What a route says of first messages, and of how refusals are told.

use super::file;
use super::files::Context;
use super::problem::{Placed, Problem, suggest};
use super::server::positive;
use crate::gateway::first_message::Expected;
use crate::gateway::route::Reject;
use crate::token::Carrier;
use crate::token::carrier::message::{MessageToken, Pointer};

/// What is expected of the first message, on a route whose carrier it is.
pub(super) fn first_message(typed: &file::Route, carriers: &[Carrier], context: &Context<'_>) -> Option<Expected> {
    let door = &typed.door;
    let timeout = positive(door.auth_timeout.as_ref(), "auth_timeout", 5_000, context);
    let cap = cap(door.first_message_cap.as_ref(), context);
    let token = door.first_message.as_ref().map_or_else(MessageToken::default, |typed| token(typed, context));
    if !carriers.contains(&Carrier::Message) {
        if let Some(first) = &door.first_message {
            let problem = Problem::new(&first.place, "`first_message` counts for the carrier \"message\" only");
            context.add(problem.remedy("carriers = [\"message\"], or leave first_message out"));
        }
        return None;
    }
    if let Some(list) = typed.carriers.as_ref().filter(|_| carriers.len() > 1) {
        let problem = Problem::new(&list.place, "the carrier \"message\" stands beside another one");
        context.add(problem.remedy(
            "whoever sends no token in its request would be let in to send one later: carriers = [\"message\"], and a second route, with a path of its own, for the others",
        ));
    }
    let forward = door.first_message.as_ref().and_then(|typed| typed.forward.as_ref()).filter(|forward| forward.value);
    let consumed = typed.renewal.renew_in_band.as_ref().filter(|mode| mode.value == "consume");
    let prefixed = typed.renewal.prefix.as_ref().is_some_and(|prefix| !prefix.value.is_empty());
    if let (Some(forward), Some(consumed), None, false) = (forward, consumed, &token.pointer, prefixed) {
        let problem = Problem::new(&forward.place, "the first message, which is a token, goes on, and tokens do not");
        context.add(
            problem
                .other(&consumed.place, "a message that is a token never goes on")
                .remedy("renew_in_band = \"forward\", or a renewal_prefix, or leave `forward` out"),
        );
    }
    let subprotocols = door.subprotocols.iter().flat_map(|list| &list.value);
    Some(Expected {
        token,
        forward: forward.is_some(),
        cap,
        timeout,
        subprotocols: subprotocols.map(|entry| entry.value.clone()).collect(),
    })
}

fn token(typed: &file::FirstMessage, context: &Context<'_>) -> MessageToken {
    let pointer = |typed: &Placed<String>| {
        let pointer = Pointer::parse(&typed.value);
        if pointer.is_none() {
            let problem = Problem::new(&typed.place, format!("`{}` is no JSON pointer", typed.value));
            context.add(problem.remedy("a slash before each step (RFC 6901): \"/payload/token\""));
        }
        pointer
    };
    if let (None, Some(useless)) = (&typed.pointer, typed.kind.as_ref().or(typed.type_at.as_ref())) {
        let problem = Problem::new(&useless.place, "without `pointer` the whole message is the token, and has no type");
        context.add(problem.remedy("say where in the message the token stands: pointer = \"/payload/token\""));
    } else if let (None, Some(useless)) = (&typed.kind, &typed.type_at) {
        let problem = Problem::new(&useless.place, "`type_at` says where the type stands, and there is no `type`");
        context.add(problem.remedy("add the type that is expected there: type = \"connection_init\""));
    }
    let type_at = typed.type_at.as_ref().map_or_else(|| Pointer::parse("/type"), pointer);
    let kind = typed.kind.as_ref().and_then(|kind| Some((type_at?, kind.value.clone())));
    MessageToken { pointer: typed.pointer.as_ref().and_then(pointer), kind }
}

fn cap(typed: Option<&Placed<u64>>, context: &Context<'_>) -> usize {
    let Some(typed) = typed else { return CAP };
    match usize::try_from(typed.value) {
        Ok(cap @ 1..=LARGEST_CAP) => cap,
        Ok(0) => {
            let problem = Problem::new(&typed.place, "`first_message_cap` is too small: no token would fit");
            context.add(problem.remedy("the default is \"8KiB\""));
            CAP
        }
        _ => {
            let problem = Problem::new(&typed.place, "`first_message_cap` is too large: anyone may send that much");
            context.add(problem.remedy("at most \"64KiB\""));
            CAP
        }
    }
}

/// How refusals are told.
pub(super) fn reject(typed: Option<&Placed<String>>, context: &Context<'_>) -> Reject {
    match typed.map(|typed| (typed.value.as_str(), typed)) {
        None | Some(("http", _)) => Reject::Http,
        Some(("close", _)) => Reject::Close,
        Some((other, typed)) => {
            let problem = Problem::new(&typed.place, format!("`{other}` cannot be `reject`"));
            context.add(problem.remedy(suggest(other, ["http", "close"])));
            Reject::Http
        }
    }
}

/// Bytes.
const CAP: usize = 8 * 1024;
/// Bytes.
const LARGEST_CAP: usize = 64 * 1024;
