//! Where the token stands in the upgrade request, and how it is taken out.
//!
//! Owns the rule that there is exactly one token, and that nothing of it goes on to the service. Does not look into
//! the token and knows nothing of routes; the gateway calls [`take`] once per upgrade request, with the route's own
//! carriers. What other carriers would take stays in the request untouched.

mod header;
pub mod message;
mod query;
mod subprotocol;

use http::HeaderMap;

use crate::secret::{Opaque, Token};
use crate::token::{Denial, Public};

/// The largest token, in bytes as they stand in the request, before any decoding.
pub const MAX_TOKEN: usize = 8 * 1024;

/// A place in the upgrade request where a token may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// `query:NAME`: `?NAME=<jwt>`; names are compared after percent- and plus-decoding.
    Query(String),
    /// `subprotocol:pair`: the entry after `bearer` in `Sec-WebSocket-Protocol`.
    SubprotocolPair,
    /// `subprotocol:prefix`: one entry, this prefix followed by the token.
    SubprotocolPrefix(String),
    /// `subprotocol:k8s`: one entry, this prefix followed by the unpadded base64url of the token.
    SubprotocolEncoded(String),
    /// `header`: `Authorization: Bearer <jwt>`.
    Header,
    /// `cookie:NAME`: one cookie.
    Cookie(String),
    /// `ticket:NAME`: `?NAME=<ticket>`, in the place of a token. [`take_parameter`] takes it out.
    Ticket(String),
    /// `message`: nowhere in the request; in the stream's first message. The only carrier of its route.
    Message,
}

/// The token, and the request as the service behind may see it.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The one token.
    pub token: Token,
    /// The query without the token, `None` if nothing is left of it (then the `?` goes too) or there was none.
    pub query: Option<String>,
    /// The headers without the token. Others are as they came.
    pub headers: HeaderMap,
    /// The subprotocols that go on to the service, in the client's order.
    pub subprotocols: Vec<String>,
    /// What to answer if the service chooses no subprotocol: always an entry the client sent, never the token. `None`
    /// only if the client offered none.
    pub fallback_subprotocol: Option<String>,
}

/// Finds the one token in the carriers' places and takes every copy of it out.
///
/// The same token in several places is one token. Refuses with [`Public::BadRequest`] two different tokens, one of
/// more than [`MAX_TOKEN`] bytes and a malformed list of subprotocols; with [`Public::TokenMissing`] a request without
/// a token; with [`Public::SubprotocolCompanionMissing`] one whose only subprotocol is the token's own entry.
pub fn take(carriers: &[Carrier], query: Option<&str>, headers: &HeaderMap) -> Result<Taken, Denial> {
    let (token, left) = take_any(carriers, query, headers)?;
    let token = token.ok_or_else(missing)?;
    let Left { query, headers, subprotocols, fallback_subprotocol } = left;
    Ok(Taken { token, query, headers, subprotocols, fallback_subprotocol })
}

/// No token was found, and one is needed.
pub fn missing() -> Denial {
    Denial::new(Public::TokenMissing, "token_missing", "no token in any of the route's carriers")
}

/// The request as the service behind may see it; the fields are those of [`Taken`].
#[derive(Clone, Debug)]
#[allow(missing_docs)] // see above
pub struct Left {
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub subprotocols: Vec<String>,
    pub fallback_subprotocol: Option<String>,
}

/// What [`take`] does, for a request that may have something else in the place of a token.
pub fn take_any(
    carriers: &[Carrier],
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<(Option<Token>, Left), Denial> {
    let mut found = Found::default();
    let mut headers = headers.clone();
    let query = query::take(carriers, query, &mut found)?;
    let mut offer = subprotocol::take(carriers, &headers, &mut found)?;
    if carriers.contains(&Carrier::Header) {
        header::take_authorization(&mut headers, &mut found)?;
    }
    header::take_cookies(carriers, &mut headers, &mut found)?;

    offer.settle(found.0.as_ref(), &mut headers)?;
    // Without a token it is that which is missing, and not a companion.
    let fallback_subprotocol = if found.0.is_some() { offer.fallback()? } else { offer.rest.first().cloned() };
    Ok((found.0, Left { query, headers, subprotocols: offer.rest, fallback_subprotocol }))
}

/// Takes every pair with this name out of a query, as it is done with a token: each with exactly one `&`, names compared
/// after decoding; `None` if nothing is left. And the value of the pairs; two different ones are refused.
pub fn take_parameter(query: Option<&str>, name: &str) -> Result<(Option<String>, Option<Opaque>), Denial> {
    let (rest, values) = query::take_parameter(query, name);
    match values.as_slice() {
        [] => Ok((rest, None)),
        [value] => match Opaque::parse(value) {
            Some(value) => Ok((rest, Some(value))),
            None => Err(Denial::new(Public::BadRequest, "handle_malformed", MALFORMED)),
        },
        _ => Err(Denial::new(Public::BadRequest, "two_handles", "the query names two different handles")),
    }
}

/// A query without the pairs with this name, whatever they hold; `None` if nothing is left.
pub fn without_parameter(query: Option<&str>, name: &str) -> Option<String> {
    query::take_parameter(query, name).0
}

/// What [`take_parameter`] would take if it were alone in the query: every value that has the form of one.
pub fn parameters(query: Option<&str>, name: &str) -> impl Iterator<Item = Opaque> {
    let (_, values) = query::take_parameter(query, name);
    values.into_iter().filter_map(|value| Opaque::parse(&value))
}

const MALFORMED: &str = "a handle or ticket in the query is 22 to 64 characters of base64url";

/// What a client that is answered before its token is judged, or without, is answered as its subprotocol: the first of
/// its entries that is not the token's and stands in `among`, if that is given. `None` if there is none. Refuses a
/// malformed list with [`Public::BadRequest`].
pub fn answerable(
    carriers: &[Carrier],
    headers: &HeaderMap,
    among: Option<&[String]>,
) -> Result<Option<String>, Denial> {
    subprotocol::answerable(carriers, headers, among)
}

/// The one token that was found so far.
#[derive(Default)]
struct Found(Option<Token>);

impl Found {
    /// Counts `bytes`, decoded, as the token. Nothing is no token.
    fn add(&mut self, bytes: Vec<u8>) -> Result<(), Denial> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Ok(text) = String::from_utf8(bytes) else {
            return Err(Denial::new(Public::TokenInvalid, "token_not_text", "the token is not UTF-8"));
        };
        let token = Token::new(text);
        if self.0.as_ref().is_some_and(|first| *first != token) {
            return Err(Denial::new(Public::BadRequest, "two_tokens", "the request carries two different tokens"));
        }
        self.0 = Some(token);
        Ok(())
    }
}

/// Refuses a token that is too large as it stands in the request, before it is decoded.
fn check_size(raw: &[u8]) -> Result<(), Denial> {
    if raw.len() > MAX_TOKEN {
        return Err(Denial::new(Public::BadRequest, "token_too_large", "the token is larger than 8 KiB"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
