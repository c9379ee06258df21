//! Request targets: which ones two programs may read differently, and how a prefix is matched and taken off.
//!
//! Owns the rules on paths and host names, nothing else: pure functions over text. Called by the `route` stage.

/// Why a path is ambiguous: a program behind may see another resource than the one that was checked.
///
/// Dot segments (raw or encoded), encoded slashes and backslashes, backslashes, empty segments, path parameters, NUL and
/// bad percent-encoding. `path` is the target's path as the client sent it, without the query.
pub fn ambiguity(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("the target does not start with a slash");
    }
    if path.contains("//") {
        return Some("empty path segment");
    }
    if path.contains(['\\', ';', '\0']) {
        return Some("backslash, semicolon or NUL in the path");
    }
    let bytes = path.as_bytes();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        match decoded(bytes, at) {
            None => return Some("bad percent-encoding"),
            Some(b'/' | b'\\' | 0) => return Some("encoded slash, backslash or NUL in the path"),
            Some(_) => {}
        }
    }
    let dots = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    path.split('/').any(dots).then_some("dot segment")
}

/// What of `path` comes after `prefix`, if `path` lies under it: matched on segment boundaries, percent-encoding of the
/// same character counts as the same (RFC 3986, section 6.2.2.2), letters differ by case.
///
/// The rest is a slice of `path`, byte for byte; it is empty or starts with `/`, except under a prefix that ends in one.
pub fn after_prefix<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    if prefix == "/" {
        return path.starts_with('/').then_some(path);
    }
    let (mut at, mut prefix_at) = (0, 0);
    while let Some((expected, next)) = character(prefix.as_bytes(), prefix_at) {
        let (found, after) = character(path.as_bytes(), at)?;
        if found != expected {
            return None;
        }
        (at, prefix_at) = (after, next);
    }
    let rest = path.get(at..)?;
    (rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/')).then_some(rest)
}

/// How well `host` (lower case, no port) fits one of a route's host patterns: 2 for the very name, 1 for a wildcard of one
/// label, 0 for `*`.
pub fn host_rank(pattern: &str, host: &str) -> Option<u8> {
    if pattern == "*" {
        return Some(0);
    }
    if let Some(suffix) = pattern.strip_prefix("*.") {
        let label = host.strip_suffix(suffix)?.strip_suffix('.')?;
        return (!label.is_empty() && !label.contains('.')).then_some(1);
    }
    (pattern == host).then_some(2)
}

/// The name or address in a `Host` value: lower case, without port and final dot; brackets of IPv6 stay. `None` if it is
/// none: RFC 3986 would let a name hold commas and more, which two programs may read differently.
pub fn host_name(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('@'))?;
    let authority: http::uri::Authority = text.parse().ok()?;
    // `host:` is a legal empty port; anything else after the name must be a number.
    let port = authority.as_str().get(authority.host().len()..)?;
    if !matches!(port, "" | ":") && authority.port_u16().is_none() {
        return None;
    }
    let name = authority.host().to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    is_name(name).then(|| name.to_owned())
}

/// Whether `name` is made of letters, digits, `.`, `-` and `_`, or is an IPv6 address in brackets.
fn is_name(name: &str) -> bool {
    match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    }
}

/// The character at `at`, and where the next one starts. An encoded slash stays apart from a slash.
fn character(text: &[u8], at: usize) -> Option<((u8, bool), usize)> {
    match (text.get(at)?, decoded(text, at)) {
        (b'%', Some(b'/')) => Some(((b'/', true), at + 3)),
        (b'%', Some(byte)) => Some(((byte, false), at + 3)),
        (byte, _) => Some(((*byte, false), at + 1)),
    }
}

/// The byte that the percent-encoding at `at` stands for.
fn decoded(text: &[u8], at: usize) -> Option<u8> {
    let digit = |offset: usize| text.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
    if text.get(at) != Some(&b'%') {
        return None;
    }
    u8::try_from(digit(1)? * 16 + digit(2)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_two_programs_may_read_differently_are_found() {
        let table = [
            ("/", true),
            ("/chat", true),
            ("/chat/room%20one", true),
            ("/a.b/..c/...", true),
            ("/caf%C3%A9", true),
            ("/%252e%252e/x", true),
            ("/a/../b", false),
            ("/a/..", false),
            ("/a/./b", false),
            ("/.", false),
            ("/a/%2e%2E/b", false),
            ("/a/.%2e", false),
            ("/a/%2E", false),
            ("/a%2fb", false),
            ("/a%2Fb", false),
            ("/a%5cb", false),
            ("/a\\b", false),
            ("//a", false),
            ("/a//b", false),
            ("/a/;x=1/b", false),
            ("/a%00", false),
            ("/a\0", false),
            ("/a%", false),
            ("/a%2", false),
            ("/a%zz", false),
            ("/a%%41", false),
            ("*", false),
            ("", false),
        ];
        for (path, plain) in table {
            assert_eq!(ambiguity(path).is_none(), plain, "{path:?}: {:?}", ambiguity(path));
        }
    }

    #[test]
    fn prefixes_end_at_segment_boundaries_and_see_through_encoding() {
        let table = [
            ("/chat", "/chat", Some("")),
            ("/chat/room", "/chat", Some("/room")),
            ("/chatter", "/chat", None),
            ("/Chat", "/chat", None),
            ("/ch%61t/r%6Fom", "/chat", Some("/r%6Fom")),
            ("/chat%2Froom", "/chat", None),
            ("/chat%2Froom", "/chat/room", None),
            ("/chat", "/chat/", None),
            ("/chat/room", "/chat/", Some("room")),
            ("/anything", "/", Some("/anything")),
            ("/cha", "/chat", None),
            ("/a%20b/c", "/a%20b", Some("/c")),
        ];
        for (path, prefix, expected) in table {
            assert_eq!(after_prefix(path, prefix), expected, "{path:?} under {prefix:?}");
        }
    }

    #[test]
    fn a_host_name_fits_itself_then_a_wildcard_then_any() {
        assert_eq!(host_rank("chat.example.com", "chat.example.com"), Some(2));
        assert_eq!(host_rank("*.example.com", "chat.example.com"), Some(1));
        assert_eq!(host_rank("*.example.com", "a.chat.example.com"), None);
        assert_eq!(host_rank("*.example.com", "example.com"), None);
        assert_eq!(host_rank("*.example.com", ".example.com"), None);
        assert_eq!(host_rank("*", "example.com"), Some(0));
        assert_eq!(host_rank("example.com", "chat.example.com"), None);
    }

    #[test]
    fn a_host_value_gives_its_name_or_nothing() {
        let table: [(&[u8], Option<&str>); 22] = [
            (b"Chat.Example.com:8443", Some("chat.example.com")),
            (b"example.com.", Some("example.com")),
            (b"example.com:", Some("example.com")),
            (b"127.0.0.1:80", Some("127.0.0.1")),
            (b"[::1]:8443", Some("[::1]")),
            (b"[::1]", Some("[::1]")),
            (b"", None),
            (b".", None),
            (b"user@example.com", None),
            (b"example.com:99999", None),
            (b"example.com:8x", None),
            (b"example.com/path", None),
            (b"ex\xff.com", None),
            (b"_x-1.example.com", Some("_x-1.example.com")),
            (b"localhost,x.example.com", None),
            (b"a;b.example.com", None),
            (b"a'b.example.com", None),
            (b"a(b).example.com", None),
            (b"$x.example.com", None),
            (b"x%2e.example.com", None),
            (b"[::1,x]", None),
            (b"[v1.x]", None),
        ];
        for (value, expected) in table {
            assert_eq!(host_name(value).as_deref(), expected, "{:?}", String::from_utf8_lossy(value));
        }
    }
}
