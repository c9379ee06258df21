//! What is in a token: the compact form, strict JSON, and times.
//!
//! Owns the reading of a token before anything in it is believed: three parts (RFC 7515, section 3.1), base64url with
//! exactly one spelling per value, JSON objects without duplicate members at any level. Judges nothing and checks no
//! signature; [`super::verify`] calls it. No error here holds text of the token.

pub mod date;
pub mod json;
pub mod named;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::clock::Wall;
use crate::token::carrier::MAX_TOKEN;
use crate::token::{Denial, Public};
use date::DateError;
use json::JsonError;

/// The three parts of a token in the compact form, still encoded.
#[derive(Clone, Copy)]
pub struct Parts<'t> {
    /// The JOSE header.
    pub header: &'t str,
    /// The claims.
    pub claims: &'t str,
    /// The signature.
    pub signature: &'t str,
    /// What the signature is made over: header, dot, claims.
    pub signed: &'t [u8],
}

impl<'t> Parts<'t> {
    /// Splits a token of at most [`MAX_TOKEN`] bytes at its dots.
    pub fn split(token: &'t str) -> Result<Self, Denial> {
        if token.len() > MAX_TOKEN {
            return Err(Denial::new(Public::BadRequest, "token_too_large", "the token is larger than 8 KiB"));
        }
        let dots = token.bytes().filter(|byte| *byte == b'.').count();
        if dots == 4 {
            return Err(invalid("token_encrypted", "the token has five parts: it is encrypted (JWE), not signed"));
        }
        let parts = token.rsplit_once('.').and_then(|(signed, signature)| {
            let (header, claims) = signed.split_once('.')?;
            Some(Self { header, claims, signature, signed: signed.as_bytes() })
        });
        match parts {
            Some(parts) if dots == 2 => Ok(parts),
            _ => Err(invalid("token_malformed", "the token does not have three parts separated by dots")),
        }
    }

    /// The members of the JOSE header.
    pub fn read_header(&self) -> Result<Map<String, Value>, Denial> {
        let text = decode_text(self.header, "header_not_base64url", "the header is not canonical base64url of UTF-8")?;
        json::object(&text, json::Dates::Plain).map(|object| object.members).map_err(|error| match error {
            JsonError::Duplicate => invalid("header_duplicate_member", "a member stands twice in the header"),
            JsonError::Deep => invalid("header_too_deep", "the header is nested too deep"),
            JsonError::Malformed => invalid("header_not_json", "the header is not a JSON object"),
        })
    }

    /// The claims, unverified.
    pub fn read_claims(&self) -> Result<Claims, Denial> {
        let text = decode_text(self.claims, "claims_not_base64url", "the claims are not canonical base64url of UTF-8")?;
        json::object(&text, json::Dates::Kept).map_err(|error| match error {
            JsonError::Duplicate => invalid("claims_duplicate_member", "a member stands twice in the claims"),
            JsonError::Deep => invalid("claims_too_deep", "the claims are nested too deep"),
            JsonError::Malformed => invalid("claims_not_json", "the claims are not a JSON object"),
        })
    }

    /// The bytes of the signature.
    pub fn read_signature(&self) -> Result<Vec<u8>, Denial> {
        if self.signature.is_empty() {
            return Err(invalid("signature_missing", "the token has no signature"));
        }
        URL_SAFE_NO_PAD
            .decode(self.signature)
            .map_err(|_| invalid("signature_not_base64url", "the signature is not canonical base64url"))
    }
}

/// The members of a claims set, with its times read exactly.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Every claim.
    pub members: Map<String, Value>,
    /// `exp` (RFC 7519, section 4.1.4); `None` if it is absent.
    pub exp: Option<Result<Wall, DateError>>,
    /// `nbf` (section 4.1.5); `None` if it is absent.
    pub nbf: Option<Result<Wall, DateError>>,
    /// `iat` (section 4.1.6); `None` if it is absent.
    pub iat: Option<Result<Wall, DateError>>,
}

/// Only the canonical spelling decodes: no padding, no whitespace, no bits that do not count. Otherwise one signed
/// token would have several texts.
fn decode_text(part: &str, reason: &'static str, detail: &'static str) -> Result<String, Denial> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| invalid(reason, detail))?;
    String::from_utf8(bytes).map_err(|_| invalid(reason, detail))
}

fn invalid(reason: &'static str, detail: &'static str) -> Denial {
    Denial::new(Public::TokenInvalid, reason, detail)
}

#[cfg(test)]
mod tests;
