//! Where something is fetched from.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use rustls::pki_types::ServerName;

/// A checked URL: `https://`, or `http://` to this machine.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
    secure: bool,
    /// In lower case, an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// At least `/`.
    path: String,
    query: Option<String>,
}

/// Why a URL cannot be used. None of these repeats it: it may hold what is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// A part after `#`.
    #[error("the URL has a fragment: end it before the #")]
    Fragment,
    /// No host, or one that is no name and no address.
    #[error("the host of the URL is no host name and no address")]
    Host,
    /// Not a URL at all.
    #[error("this is no URL such as https://sso.example.com/path")]
    NotUrl,
    /// `http://` to another machine.
    #[error("http:// is for this machine only (127.0.0.1, [::1], localhost): write https://")]
    Plaintext,
    /// The port is no number from 1 to 65535.
    #[error("the URL has no usable port")]
    Port,
    /// A query where something is to be put after the path.
    #[error("the URL has a query: end it before the ?")]
    Query,
    /// Another scheme, or none.
    #[error("the URL must begin with https://")]
    Scheme,
    /// A user name or a password.
    #[error("the URL holds a user name or a password: take them out")]
    UserInfo,
}

impl Url {
    /// Reads a URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        // `Uri` would take a fragment off without a word.
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        if text.len() > LONGEST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError::NotUrl);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::NotUrl)?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlError::Scheme),
        };
        let authority = uri.authority().ok_or(UrlError::Host)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInfo);
        }
        let host = authority.host();
        let colon = authority.as_str().strip_prefix(host).unwrap_or_default();
        let port = match (colon, authority.port_u16()) {
            ("", _) if secure => 443,
            ("", _) => 80,
            (_, Some(port)) if port != 0 => port,
            _ => return Err(UrlError::Port),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_ascii_lowercase();
        if ServerName::try_from(host.as_str()).is_err() {
            return Err(UrlError::Host);
        }
        let query = uri.query().map(str::to_owned);
        let url = Self { secure, host, port, path: uri.path().to_owned(), query };
        if secure || url.is_loopback() { Ok(url) } else { Err(UrlError::Plaintext) }
    }

    /// Whether the host is this machine by its name or its address, in whatever spelling.
    pub fn is_loopback(&self) -> bool {
        let name = self.host.strip_suffix('.').unwrap_or(&self.host);
        name == "localhost" || self.host.parse().is_ok_and(is_here)
    }

    /// Whether scheme, host and port are the same.
    pub fn same_origin(&self, other: &Self) -> bool {
        (self.secure, &self.host, self.port) == (other.secure, &other.host, other.port)
    }

    /// The URL with `suffix`, which begins with `/`, after its path; a `/` at the path's end goes first (OpenID Connect
    /// Discovery, section 4). `Err` if it has a query.
    pub fn join_path(&self, suffix: &str) -> Result<Self, UrlError> {
        if self.query.is_some() {
            return Err(UrlError::Query);
        }
        Self::parse(&format!("{}{}{suffix}", self.origin(), self.path.trim_end_matches('/')))
    }

    /// What a `Location` that came from here names (RFC 9110, section 10.2.2), without its fragment. Dot segments stay
    /// as they are.
    pub(super) fn follow(&self, location: &str) -> Result<Self, UrlError> {
        let location = location.split('#').next().unwrap_or_default();
        let origin = self.origin();
        let absolute = if location.split(['/', '?']).next().is_some_and(|start| start.contains(':')) {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{}:{location}", self.scheme())
        } else if location.starts_with('/') {
            format!("{origin}{location}")
        } else if location.starts_with('?') {
            format!("{origin}{}{location}", self.path)
        } else {
            let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{origin}{folder}/{location}")
        };
        Self::parse(&absolute)
    }

    /// Whether TLS is used.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Host name or address, without the brackets of IPv6.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What `Host` says: the scheme's own port is left out.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let default = if self.secure { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }

    /// Path and query, as the request line has them.
    pub(super) fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority())
    }

    fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

/// Whether who connects to this address meets this machine: a loopback address, or the unspecified one.
pub(super) fn is_here(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

/// Without its query.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// Bytes.
const LONGEST: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn https_goes_anywhere_and_http_to_this_machine_only() {
        for (text, shown, loopback) in [
            ("https://SSO.example.com", "https://sso.example.com/", false),
            ("HTTPS://sso.example.com:443/realms/main", "https://sso.example.com/realms/main", false),
            ("https://sso.example.com:8443/a?tenant=SECRET", "https://sso.example.com:8443/a", false),
            ("https://192.0.2.7/", "https://192.0.2.7/", false),
            ("https://localhost/", "https://localhost/", true),
            ("http://localhost:8080/x", "http://localhost:8080/x", true),
            ("http://127.0.0.1", "http://127.0.0.1/", true),
            ("http://127.9.8.7:80/", "http://127.9.8.7/", true),
            ("http://[::1]:9000/", "http://[::1]:9000/", true),
            ("https://localhost./", "https://localhost./", true),
            ("https://0.0.0.0/", "https://0.0.0.0/", true),
            ("https://[::]/", "https://[::]/", true),
            ("https://[::ffff:127.0.0.1]:8443/", "https://[::ffff:127.0.0.1]:8443/", true),
            ("https://[0:0:0:0:0:ffff:7f00:2]/", "https://[0:0:0:0:0:ffff:7f00:2]/", true),
            ("https://[::ffff:0:0]/", "https://[::ffff:0:0]/", true),
            ("https://[::ffff:192.0.2.7]/", "https://[::ffff:192.0.2.7]/", false),
        ] {
            let url = url(text);
            assert_eq!((url.to_string().as_str(), url.is_loopback()), (shown, loopback), "{text}");
            assert!(!format!("{url:?}").contains("SECRET"));
        }
        for (text, error) in [
            ("", UrlError::NotUrl),
            ("/path", UrlError::Scheme),
            ("sso.example.com", UrlError::Scheme),
            ("ftp://a/", UrlError::Scheme),
            ("wss://a/", UrlError::Scheme),
            ("https://", UrlError::NotUrl),
            ("https:///x", UrlError::NotUrl),
            ("https://a b/", UrlError::NotUrl),
            ("https://a/\u{e9}", UrlError::NotUrl),
            ("https://a/x\n", UrlError::NotUrl),
            ("https://a/#x", UrlError::Fragment),
            ("https://u:p@a/", UrlError::UserInfo),
            ("https://u@a/", UrlError::UserInfo),
            ("https://a:0/", UrlError::Port),
            ("https://a:/", UrlError::Port),
            ("https://-a/", UrlError::Host),
            ("http://a/", UrlError::Plaintext),
            ("http://127.1/", UrlError::Host),
            ("http://localhost.example.com/", UrlError::Plaintext),
            ("http://10.0.0.1/", UrlError::Plaintext),
            ("http://[::ffff:10.0.0.1]/", UrlError::Plaintext),
        ] {
            assert_eq!(Url::parse(text), Err(error), "{text}");
        }
        assert!(Url::parse("https://a:99999/").is_err());
        assert_eq!(Url::parse(&format!("https://a/{}", "x".repeat(9000))), Err(UrlError::NotUrl));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert!(url("https://a/x").same_origin(&url("https://A:443/y?z")));
        for other in ["https://b/x", "https://a:444/x"] {
            assert!(!url("https://a/x").same_origin(&url(other)), "{other}");
        }
        assert!(!url("http://localhost:443/").same_origin(&url("https://localhost/")));
    }

    #[test]
    fn a_suffix_goes_after_the_path_whether_it_ends_with_a_slash_or_not() {
        let join = |text: &str| url(text).join_path("/.well-known/x").map(|url| url.to_string());
        assert_eq!(join("https://a").unwrap(), "https://a/.well-known/x");
        assert_eq!(join("https://a/").unwrap(), "https://a/.well-known/x");
        assert_eq!(join("https://a/realms/main").unwrap(), "https://a/realms/main/.well-known/x");
        assert_eq!(join("https://a/realms/main/").unwrap(), "https://a/realms/main/.well-known/x");
        assert_eq!(join("https://a/?q=1"), Err(UrlError::Query));
    }

    #[test]
    fn a_location_is_read_relative_to_where_it_came_from() {
        let base = url("https://a:8443/x/y?old");
        for (location, whole) in [
            ("https://b/z", "https://b/z"),
            ("HTTPS://a:8443/z", "https://a:8443/z"),
            ("//b/z", "https://b/z"),
            ("/z?q=a:b/c", "https://a:8443/z?q=a:b/c"),
            ("z", "https://a:8443/x/z"),
            ("?q", "https://a:8443/x/y?q"),
            ("/z#part", "https://a:8443/z"),
        ] {
            let followed = base.follow(location).unwrap();
            assert_eq!(format!("{}{}", followed.origin(), followed.target()), whole, "{location}");
        }
        for refused in ["http://a:8443/", "javascript:x", "file:///etc/passwd", "https://u:p@a/", "//"] {
            assert!(base.follow(refused).is_err(), "{refused}");
        }
    }
}
