//! NumericDate (RFC 7519, section 2): seconds since the epoch, as JSON writes numbers, exact to the nanosecond.

use std::time::Duration;

use crate::clock::Wall;

/// Why a claim is no point of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DateError {
    /// A string, `null`, a boolean, an array or an object.
    #[error("is not a number")]
    NotANumber,
    /// Below zero.
    #[error("is negative")]
    Negative,
    /// More seconds than 64 bits hold.
    #[error("is too large")]
    TooLarge,
}

/// Reads a point of time from the JSON text of a number: an integer, a fraction, with or without an exponent.
///
/// Digits below the nanosecond are cut off, so that a time is never read as later than it is. A floating-point number
/// could not do this: at the present time its steps are a quarter of a microsecond.
pub fn parse(json: &str) -> Result<Wall, DateError> {
    let json = json.trim_ascii();
    if json.starts_with('-') {
        return Err(DateError::Negative);
    }
    if !json.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(DateError::NotANumber);
    }
    let (mantissa, exponent) = json.split_once(['e', 'E']).unwrap_or((json, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let leading = whole.bytes().chain(fraction.bytes()).take_while(|digit| *digit == b'0').count();
    let mut digits = whole.bytes().chain(fraction.bytes()).skip(leading).peekable();
    if digits.peek().is_none() {
        return Ok(Wall::from_epoch(Duration::ZERO));
    }
    // How many digits, from the first that is not zero, stand before the point; negative for zeros behind it.
    let before = length(whole).saturating_sub_unsigned(leading as u64).saturating_add(parse_exponent(exponent)?);
    if before > MAX_SECOND_DIGITS {
        return Err(DateError::TooLarge);
    }
    let mut seconds: u64 = 0;
    for _ in 0..before.max(0) {
        let digit = digit(digits.next())?;
        seconds = seconds.checked_mul(10).and_then(|tens| tens.checked_add(digit)).ok_or(DateError::TooLarge)?;
    }
    let mut nanos: u64 = 0;
    for place in 0..9_i64 {
        // Places between the point and the first digit are zeros.
        let next = if place < before.saturating_neg() { 0 } else { digit(digits.next())? };
        nanos = nanos * 10 + next;
    }
    let date = Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos)).ok_or(DateError::TooLarge)?;
    Ok(Wall::from_epoch(date))
}

/// 2^64 has 20 digits.
const MAX_SECOND_DIGITS: i64 = 20;

fn length(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

/// Digits that are not written are zeros.
fn digit(byte: Option<u8>) -> Result<u64, DateError> {
    match byte {
        None => Ok(0),
        Some(byte) if byte.is_ascii_digit() => Ok(u64::from(byte - b'0')),
        Some(_) => Err(DateError::NotANumber),
    }
}

/// The exponent, at most a million either way: further makes no difference to a text of a token's size.
fn parse_exponent(text: &str) -> Result<i64, DateError> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut exponent: i64 = 0;
    for byte in digits.bytes() {
        let digit = digit(Some(byte))?;
        exponent = exponent.saturating_mul(10).saturating_add_unsigned(digit).min(1_000_000);
    }
    Ok(exponent * sign)
}
