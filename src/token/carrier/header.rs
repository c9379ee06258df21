//! The token in `Authorization: Bearer` (RFC 6750, section 2.1) or in a cookie (RFC 6265, section 4.2).

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue};

use super::{Carrier, Found, check_size};
use crate::token::{Denial, Public};

/// Takes every `Authorization` header with the scheme `Bearer` out. Other schemes are left alone.
pub(super) fn take_authorization(headers: &mut HeaderMap, found: &mut Found) -> Result<(), Denial> {
    let mut kept = Vec::new();
    let mut taken = false;
    for value in headers.get_all(AUTHORIZATION) {
        match bearer(value.as_bytes()) {
            Some(credential) => {
                check_size(credential)?;
                found.add(credential.to_vec())?;
                taken = true;
            }
            None => kept.push(value.clone()),
        }
    }
    if taken {
        replace(headers, &AUTHORIZATION, kept);
    }
    Ok(())
}

/// What follows the scheme `Bearer`, in any spelling of case; `None` for another scheme.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    let (scheme, rest) = value.split_at_checked(end)?;
    scheme.eq_ignore_ascii_case(b"bearer").then(|| rest.trim_ascii())
}

/// Cuts the carriers' cookies out of the `Cookie` headers. The others keep their bytes and their order; a header of
/// which nothing is left goes.
pub(super) fn take_cookies(carriers: &[Carrier], headers: &mut HeaderMap, found: &mut Found) -> Result<(), Denial> {
    if !carriers.iter().any(|carrier| matches!(carrier, Carrier::Cookie(_))) {
        return Ok(());
    }
    let mut kept = Vec::new();
    let mut taken = false;
    for value in headers.get_all(COOKIE) {
        match cut_cookies(carriers, value.as_bytes(), found)? {
            None => kept.push(value.clone()),
            Some(rest) => {
                taken = true;
                if !rest.trim_ascii().is_empty() {
                    kept.push(HeaderValue::from_bytes(&rest).map_err(|_| {
                        Denial::new(Public::BadRequest, "cookies_malformed", "the Cookie header cannot be read")
                    })?);
                }
            }
        }
    }
    if taken {
        replace(headers, &COOKIE, kept);
    }
    Ok(())
}

/// The header without the carriers' cookies; `None` if none of them is in it.
fn cut_cookies(carriers: &[Carrier], header: &[u8], found: &mut Found) -> Result<Option<Vec<u8>>, Denial> {
    let mut rest = Vec::new();
    let mut taken = false;
    for piece in header.split(|byte| *byte == b';') {
        if let Some(value) = our_value(carriers, piece) {
            check_size(value)?;
            found.add(value.to_vec())?;
            taken = true;
        } else {
            rest.push(piece);
        }
    }
    // The space before the first cookie that is left belongs to the separator that went.
    Ok(taken.then(|| rest.join(&b';').trim_ascii_start().to_vec()))
}

/// The value of the cookie, without quotes, if it is a carrier's. Names count in their exact case.
fn our_value<'a>(carriers: &[Carrier], piece: &'a [u8]) -> Option<&'a [u8]> {
    let equals = piece.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (piece.get(..equals)?.trim_ascii(), piece.get(equals + 1..)?.trim_ascii());
    let ours = |carrier: &Carrier| matches!(carrier, Carrier::Cookie(wanted) if wanted.as_bytes() == name);
    carriers
        .iter()
        .any(ours)
        .then(|| value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value))
}

fn replace(headers: &mut HeaderMap, name: &http::HeaderName, values: Vec<HeaderValue>) {
    headers.remove(name);
    for value in values {
        headers.append(name, value);
    }
}
