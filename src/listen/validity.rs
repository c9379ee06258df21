//! From when until when a certificate counts, and which names it covers, so that an operator hears of it before clients
//! do. Decides nothing about connections; the config calls it.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};

use crate::clock::{Wall, humane};
use crate::token::keys::der::{Der, GENERALIZED_TIME, INTEGER, SEQUENCE, UTC_TIME, VERSION};

/// The time in which a certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its `notBefore`.
    pub begin: Wall,
    /// Its `notAfter`.
    pub end: Wall,
}

impl Validity {
    /// The dates of a certificate (RFC 5280, section 4.1.2.5); `None` if they cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let mut outer = Der(certificate);
        let mut certificate = Der(outer.take(SEQUENCE)?);
        let mut body = Der(certificate.take(SEQUENCE)?);
        // The version is absent in certificates of version 1.
        let _ = body.take(VERSION);
        body.take(INTEGER)?;
        // Signature algorithm, issuer.
        body.take(SEQUENCE)?;
        body.take(SEQUENCE)?;
        let mut dates = Der(body.take(SEQUENCE)?);
        Some(Self { begin: date(&mut dates)?, end: date(&mut dates)? })
    }

    /// What the operator of the certificate in the file `name` should know of its dates, if there is something.
    pub fn note(self, name: &str, now: Wall) -> Option<String> {
        let days = |span: Duration| match span.as_secs() / DAY {
            0 => humane(Duration::from_secs(span.as_secs())),
            1 => "1 day".to_owned(),
            days => format!("{days} days"),
        };
        let lifetime = self.end.saturating_since(self.begin);
        let left = self.end.saturating_since(now);
        if now > self.end {
            let ago = days(now.saturating_since(self.end));
            return Some(format!("certificate {name} expired {ago} ago ({}): clients will refuse it", shown(self.end)));
        }
        if now < self.begin {
            let ahead = days(self.begin.saturating_since(now));
            return Some(format!(
                "certificate {name} counts only in {ahead} ({}): until then clients will refuse it",
                shown(self.begin)
            ));
        }
        // One that is made for a few days only is renewed late in them.
        (left < SOON.min(lifetime / 3))
            .then(|| format!("certificate {name} expires in {} ({}): renew it", days(left), shown(self.end)))
    }
}

/// Whether the certificate covers this host: a name, or an address without brackets.
pub fn covers(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let certificate = webpki::EndEntityCert::try_from(certificate);
    let (Ok(certificate), Ok(host)) = (certificate, ServerName::try_from(host)) else { return false };
    certificate.verify_is_valid_for_subject_name(&host).is_ok()
}

/// `UTCTime` or `GeneralizedTime`, both in UTC and to the second (RFC 5280, section 4.1.2.5).
fn date(dates: &mut Der<'_>) -> Option<Wall> {
    let (year, rest) = if let Some(text) = dates.take(UTC_TIME) {
        let (year, rest) = text.split_at_checked(2)?;
        let year = number(year)?;
        (if year < 50 { year + 2000 } else { year + 1900 }, rest)
    } else {
        let (year, rest) = dates.take(GENERALIZED_TIME)?.split_at_checked(4)?;
        (number(year)?, rest)
    };
    let mut fields = rest.strip_suffix(b"Z")?.chunks_exact(2).map(number);
    let mut field = |most: u64| fields.next()?.filter(|value| *value <= most);
    let (month, day) = (field(12)?, field(31)?);
    let (hour, minute, second) = (field(23)?, field(59)?, field(59)?);
    if month == 0 || day == 0 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    Some(Wall::from_epoch(Duration::from_secs(seconds)))
}

fn number(digits: &[u8]) -> Option<u64> {
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Days of the Gregorian calendar, 0 for earlier ones. The year has at most four digits.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    // The year begins in March, so that the leap day is its last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.saturating_sub(1), month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    days.saturating_sub(MARCH_0_TO_1970)
}

fn shown(date: Wall) -> String {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + date.since_epoch()).to_string()
}

const DAY: u64 = 86_400;
/// From when on an end is worth a note.
const SOON: Duration = Duration::from_secs(14 * DAY);
/// Days from the first of March of the year 0, less one, to 1970.
const MARCH_0_TO_1970: u64 = 719_469;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::selfsigned::self_signed;
    use rustls::pki_types::pem::PemObject as _;

    fn made(names: &[&str], days: u64, now: Wall) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = self_signed(&names, Duration::from_secs(days * DAY), now).unwrap();
        CertificateDer::from_pem_slice(made.chain.as_bytes()).unwrap()
    }

    fn at(seconds: u64) -> Wall {
        Wall::from_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn dates_are_read_before_and_after_2050() {
        for seconds in [0, 951_827_696, 1_709_164_800, 1_800_000_000, 2_524_607_999, 2_524_608_000, 4_102_444_800] {
            let validity = Validity::of(&made(&["a"], 90, at(seconds))).unwrap();
            assert_eq!(validity.end, at(seconds + 90 * DAY), "{seconds}");
            assert_eq!(validity.begin, at(seconds.saturating_sub(3600)), "{seconds}");
        }
        assert_eq!(Validity::of(&CertificateDer::from(vec![0x30, 3, 0x30, 1, 0])), None);
    }

    #[test]
    fn an_end_that_is_over_or_near_is_noted() {
        let start = 1_800_000_000;
        let validity = Validity::of(&made(&["a"], 90, at(start))).unwrap();
        let note = |day: u64| validity.note("x.pem", at(start + day * DAY + 1));
        assert_eq!(note(0), None);
        assert_eq!(note(75), None);
        assert_eq!(note(76).unwrap(), "certificate x.pem expires in 13 days (2027-04-15T08:00:00Z): renew it");
        assert!(note(89).unwrap().contains("expires in 23h 59m 59s"), "{note:?}", note = note(89));
        let said = note(1990 + 90).unwrap();
        assert_eq!(said, "certificate x.pem expired 1990 days ago (2027-04-15T08:00:00Z): clients will refuse it");
        let early = validity.note("x.pem", at(start - 2 * DAY - 7200)).unwrap();
        assert!(early.contains("counts only in 2 days"), "{early}");
        let short = Validity::of(&made(&["a"], 6, at(start))).unwrap();
        assert_eq!(short.note("x.pem", at(start + 3 * DAY)), None, "it is renewed late");
        assert!(short.note("x.pem", at(start + 5 * DAY)).is_some());
    }

    #[test]
    fn names_and_addresses_are_covered_or_not() {
        let certificate = made(&["chat.example.com", "*.wild.example", "10.0.0.7", "::1"], 1, at(1_800_000_000));
        for (host, covered) in [
            ("chat.example.com", true),
            ("other.example.com", false),
            ("a.wild.example", true),
            ("a.b.wild.example", false),
            ("10.0.0.7", true),
            ("10.0.0.8", false),
            ("::1", true),
            ("no host", false),
        ] {
            assert_eq!(covers(&certificate, host), covered, "{host}");
        }
    }
}
