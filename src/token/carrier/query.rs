//! The token in the query: `?NAME=<jwt>` (RFC 6750, section 2.3).

use percent_encoding::percent_decode;

use super::{Carrier, Found, check_size};
use crate::token::Denial;

/// Takes every pair with a carrier's name out of the query, each with exactly one `&`. All other pairs, empty ones
/// too, keep their bytes and their order. `None` if nothing is left.
pub(super) fn take(carriers: &[Carrier], query: Option<&str>, found: &mut Found) -> Result<Option<String>, Denial> {
    let Some(query) = query else { return Ok(None) };
    if !carriers.iter().any(|carrier| matches!(carrier, Carrier::Query(_))) {
        return Ok(Some(query.to_owned()));
    }
    let mut kept = Vec::new();
    let mut taken = false;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !is_ours(carriers, name) {
            kept.push(pair);
            continue;
        }
        taken = true;
        check_size(value.as_bytes())?;
        found.add(percent_decode(value.as_bytes()).collect())?;
    }
    let rest = kept.join("&");
    Ok((!taken || !rest.is_empty()).then_some(rest))
}

/// Takes every pair with this name out of the query, as [`take`] does, and gives the decoded values that differ.
pub(super) fn take_parameter(query: Option<&str>, wanted: &str) -> (Option<String>, Vec<Vec<u8>>) {
    let Some(query) = query else { return (None, Vec::new()) };
    let (ours, kept): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|pair| decodes_to(pair.split_once('=').unwrap_or((pair, "")).0, wanted));
    let mut values: Vec<Vec<u8>> = Vec::new();
    for pair in &ours {
        let value = percent_decode(pair.split_once('=').unwrap_or_default().1.as_bytes()).collect();
        if !values.contains(&value) {
            values.push(value);
        }
    }
    let rest = kept.join("&");
    ((ours.is_empty() || !rest.is_empty()).then_some(rest), values)
}

/// Whether `name`, as it stands in the query, is the name of one of the carriers.
fn is_ours(carriers: &[Carrier], name: &str) -> bool {
    carriers.iter().any(|carrier| matches!(carrier, Carrier::Query(wanted) if decodes_to(name, wanted)))
}

fn decodes_to(raw: &str, wanted: &str) -> bool {
    if !raw.contains(['%', '+']) {
        return raw == wanted;
    }
    // The plus must go before the percent signs: `%2B` is a plus, not a space.
    let spaced = raw.replace('+', " ");
    percent_decode(spaced.as_bytes()).eq(wanted.bytes())
}
