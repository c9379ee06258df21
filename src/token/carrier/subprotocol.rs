//! The token among the subprotocols, and what to answer (RFC 6455, sections 1.9, 4.1 and 4.2.2).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use super::{Carrier, Found, check_size};
use crate::secret::{Token, mask_tokens};
use crate::token::{Denial, Public};

/// The entry that announces the token in the pair form.
const MARKER: &str = "bearer";

/// What the client offered, without the token's entries.
#[derive(Default)]
pub(super) struct Offer {
    /// The entries that go on to the service.
    pub(super) rest: Vec<String>,
    /// How many entries were offered; if any, one of them must be answered.
    offered: usize,
    /// Whether the pair form was used; then the marker is an answer.
    pair: bool,
}

impl Offer {
    /// Takes out every entry that is `token` itself, if there is one, plain or as base64url, however it got there: nothing of it goes on
    /// to the service or back to the client. Then makes the header say what is left: one header if anything was taken
    /// out, and as it came otherwise.
    pub(super) fn settle(&mut self, token: Option<&Token>, headers: &mut HeaderMap) -> Result<(), Denial> {
        if let Some(token) = token {
            let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(token.expose()));
            self.rest.retain(|entry| entry != token.expose() && *entry != *encoded);
        }
        if self.rest.len() < self.offered {
            headers.remove(SEC_WEBSOCKET_PROTOCOL);
            if !self.rest.is_empty() {
                let value = HeaderValue::from_str(&self.rest.join(", ")).map_err(|_| malformed())?;
                headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
            }
        }
        Ok(())
    }

    /// The answer if the service chooses none. Browsers fail a stream whose offer is not answered, so an offer with
    /// nothing to answer is refused.
    pub(super) fn fallback(&self) -> Result<Option<String>, Denial> {
        if self.pair {
            return Ok(Some(MARKER.to_owned()));
        }
        match self.rest.first() {
            Some(first) => Ok(Some(first.clone())),
            None if self.offered == 0 => Ok(None),
            None => Err(Denial::new(
                Public::SubprotocolCompanionMissing,
                "subprotocol_companion_missing",
                "the token's entry is the only subprotocol offered, so there is none to answer with",
            )),
        }
    }
}

/// Finds the token's entries in `Sec-WebSocket-Protocol`; repeated headers are one list. The header stays as it is until
/// [`Offer::settle`].
pub(super) fn take(carriers: &[Carrier], headers: &HeaderMap, found: &mut Found) -> Result<Offer, Denial> {
    let entries = entries(headers)?;
    let mut offer = Offer { offered: entries.len(), ..Offer::default() };
    let pair = carriers.contains(&Carrier::SubprotocolPair);
    let mut entries = entries.into_iter().peekable();
    while let Some(entry) = entries.next() {
        if pair && entry == MARKER && entries.peek().is_some() {
            let token = entries.next().unwrap_or_default();
            check_size(token.as_bytes())?;
            found.add(token.into_bytes())?;
            offer.pair = true;
        } else if !take_prefixed(carriers, &entry, found)? {
            offer.rest.push(entry);
        }
    }
    Ok(offer)
}

/// The first entry that a client can be answered with before its token is judged, or without: neither the token's own, by
/// the carriers' forms or by its looks, nor, if there is a list, one that is not in it.
pub(super) fn answerable(
    carriers: &[Carrier],
    headers: &HeaderMap,
    among: Option<&[String]>,
) -> Result<Option<String>, Denial> {
    let prefixed = |entry: &str| {
        carriers.iter().any(|carrier| match carrier {
            Carrier::SubprotocolPrefix(prefix) | Carrier::SubprotocolEncoded(prefix) => entry.starts_with(prefix),
            _ => false,
        })
    };
    let pair = carriers.contains(&Carrier::SubprotocolPair);
    let mut after_marker = false;
    let mut candidates = entries(headers)?.into_iter().filter(|entry| {
        let token = after_marker || prefixed(entry) || mask_tokens(entry, "").is_some();
        after_marker = pair && !after_marker && entry == MARKER;
        !token
    });
    Ok(candidates.find(|entry| among.is_none_or(|among| among.contains(entry))))
}

/// Counts `entry` as the token if one of the carriers' prefixes stands before it; the first such carrier decides.
fn take_prefixed(carriers: &[Carrier], entry: &str, found: &mut Found) -> Result<bool, Denial> {
    for carrier in carriers {
        let (prefix, encoded) = match carrier {
            Carrier::SubprotocolPrefix(prefix) => (prefix, false),
            Carrier::SubprotocolEncoded(prefix) => (prefix, true),
            _ => continue,
        };
        let Some(raw) = entry.strip_prefix(prefix.as_str()) else { continue };
        check_size(raw.as_bytes())?;
        if encoded {
            let token = URL_SAFE_NO_PAD.decode(raw).map_err(|_| {
                Denial::new(Public::TokenInvalid, "token_not_base64url", "the subprotocol entry is not base64url")
            })?;
            found.add(token)?;
        } else {
            found.add(raw.as_bytes().to_vec())?;
        }
        return Ok(true);
    }
    Ok(false)
}

/// The client's entries. RFC 6455, section 4.1: one or more, each a `token` of RFC 9110, section 5.6.2.
fn entries(headers: &HeaderMap) -> Result<Vec<String>, Denial> {
    let mut entries = Vec::new();
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for entry in value.as_bytes().split(|byte| *byte == b',') {
            let entry = entry.trim_ascii();
            if entry.is_empty() || !entry.iter().all(|byte| is_token_byte(*byte)) {
                return Err(malformed());
            }
            entries.push(String::from_utf8(entry.to_vec()).map_err(|_| malformed())?);
        }
    }
    Ok(entries)
}

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

fn malformed() -> Denial {
    Denial::new(
        Public::BadRequest,
        "subprotocols_malformed",
        "Sec-WebSocket-Protocol is not a list of names: an entry is empty or has a character that is not allowed",
    )
}
