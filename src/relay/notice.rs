//! What the gateway itself says to a client on a stream, on routes that ask for it: short text messages.

use std::time::Duration;

use serde_json::json;

use crate::stream::RenewalError;
use crate::token::Denial;

/// The token is about to expire.
pub(super) fn expiring(left: Duration) -> Vec<u8> {
    message(&json!({ "portcullis": "expiring", "expires_in": left.as_secs() }))
}

/// The token was renewed.
pub(super) fn renewed(expires_in: Option<Duration>) -> Vec<u8> {
    message(&json!({ "portcullis": "renewed", "expires_in": expires_in.map(|left| left.as_secs()) }))
}

/// It was not, because of the token.
pub(super) fn denied(denial: &Denial) -> Vec<u8> {
    refused(denial.public.as_str())
}

/// It was not, because of the stream.
pub(super) fn kept(error: RenewalError) -> Vec<u8> {
    refused(error.as_str())
}

fn refused(reason: &str) -> Vec<u8> {
    message(&json!({ "portcullis": "refused", "reason": reason }))
}

/// One unmasked text frame (RFC 6455, section 5.2). All texts are far shorter than 64 KiB.
fn message(text: &serde_json::Value) -> Vec<u8> {
    let text = text.to_string();
    let mut frame = vec![0x81];
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(length @ ..126), _) => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        _ => return Vec::new(),
    }
    frame.extend(text.into_bytes());
    frame
}
