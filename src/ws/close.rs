//! Close frames (RFC 6455, sections 5.5.1 and 7.4).

use std::borrow::Cow;

/// A code and a reason to close with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseText {
    code: u16,
    reason: Cow<'static, str>,
}

/// Why a code and a reason cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseTextError {
    /// The code may not appear in a Close frame.
    #[error("{0} is no code that a Close frame may carry: use 1000-1003, 1007-1013 or 3000-4999")]
    Code(u16),
    /// The reason is too long.
    #[error("the reason has {0} bytes, at most 123 fit into a Close frame")]
    Reason(usize),
}

impl CloseText {
    /// A code that may be sent, and at most 123 bytes of reason.
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>) -> Result<Self, CloseTextError> {
        let reason = reason.into();
        if !sendable(code) {
            return Err(CloseTextError::Code(code));
        }
        if reason.len() > MAX_REASON {
            return Err(CloseTextError::Reason(reason.len()));
        }
        Ok(Self { code, reason })
    }

    /// The code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The reason.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The same code with this reason.
    pub(crate) fn with_reason(&self, reason: &'static str) -> Self {
        Self::known(self.code, reason)
    }

    /// This, or if it has no reason, the same code with this one.
    pub(crate) fn or_reason(&self, reason: &'static str) -> Self {
        if self.reason.is_empty() { self.with_reason(reason) } else { self.clone() }
    }

    /// The text of a constant code and reason that are known to be right.
    pub(crate) const fn known(code: u16, reason: &'static str) -> Self {
        debug_assert!(sendable(code) && reason.len() <= MAX_REASON);
        Self { code, reason: Cow::Borrowed(reason) }
    }

    /// The whole frame: unmasked towards the client; masked with `key` towards the service (RFC 6455, section 5.1).
    pub fn frame(&self, key: Option<[u8; 4]>) -> Vec<u8> {
        build(Some(self.code), self.reason(), key)
    }
}

/// The answer to a Close with this code (RFC 6455, section 5.5.1: it typically echoes the code); an empty one if the code
/// is one that we do not send.
pub fn echo(code: Option<u16>, key: Option<[u8; 4]>) -> Vec<u8> {
    build(code.filter(|code| sendable(*code)), "", key)
}

fn build(code: Option<u16>, reason: &str, key: Option<[u8; 4]>) -> Vec<u8> {
    let code = code.map(u16::to_be_bytes);
    let payload = code.iter().flatten().copied().chain(reason.bytes());
    let length = u8::try_from(code.iter().flatten().count() + reason.len()).unwrap_or(125);
    let mut frame = Vec::with_capacity(6 + usize::from(length));
    frame.push(0x88);
    match key {
        None => {
            frame.push(length);
            frame.extend(payload);
        }
        Some(key) => {
            frame.push(0x80 | length);
            frame.extend(key);
            frame.extend(payload.zip(key.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
    }
    frame
}

/// The payload of a Close that a side sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// Its code; `None` if the payload is empty.
    pub code: Option<u16>,
}

/// A Close payload that no endpoint may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidClose;

impl CloseFrame {
    /// Reads the (masked, if `mask` is given) payload of a Close frame: empty, or a valid code and a reason in UTF-8
    /// (RFC 6455, section 5.5.1). A service that finds a bad reason may leave without an answer, and the gateway's own
    /// answer would then make a clean end of it.
    pub fn parse(payload: &[u8], mask: Option<[u8; 4]>) -> Result<Self, InvalidClose> {
        let mut plain = [0u8; 125];
        let key = mask.unwrap_or_default();
        let plain = plain.get_mut(..payload.len()).ok_or(InvalidClose)?;
        for ((to, from), mask) in plain.iter_mut().zip(payload).zip(key.into_iter().cycle()) {
            *to = from ^ mask;
        }
        match plain {
            [] => Ok(Self { code: None }),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !receivable(code) || std::str::from_utf8(reason).is_err() {
                    return Err(InvalidClose);
                }
                Ok(Self { code: Some(code) })
            }
            [_] => Err(InvalidClose),
        }
    }
}

/// Codes that a peer may send: 0-999, 1004-1006, 1015-2999 and 5000 and up are impossible.
const fn receivable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Codes that we may send: as above, but 1014, which some clients refuse as invalid.
const fn sendable(code: u16) -> bool {
    receivable(code) && code != 1014
}

/// A control frame carries at most 125 bytes, two of which are the code (RFC 6455, section 5.5).
const MAX_REASON: usize = 123;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_frame_reads_back_masked_and_unmasked() {
        let text = CloseText::new(3000, "token expired").unwrap();
        let down = text.frame(None);
        assert_eq!(&down[..4], &[0x88, 15, 0x0b, 0xb8]);
        assert_eq!(CloseFrame::parse(&down[2..], None), Ok(CloseFrame { code: Some(3000) }));
        let up = text.frame(Some([1, 2, 3, 4]));
        assert_eq!(&up[..6], &[0x88, 0x80 | 15, 1, 2, 3, 4]);
        assert_eq!(CloseFrame::parse(&up[6..], Some([1, 2, 3, 4])), Ok(CloseFrame { code: Some(3000) }));
    }

    #[test]
    fn impossible_closes_are_refused() {
        for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535] {
            assert_eq!(CloseFrame::parse(&u16::to_be_bytes(code), None), Err(InvalidClose), "{code}");
            assert!(CloseText::new(code, "").is_err(), "{code}");
        }
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert_eq!(CloseFrame::parse(&u16::to_be_bytes(code), None), Ok(CloseFrame { code: Some(code) }));
        }
        assert_eq!(CloseFrame::parse(&[3], None), Err(InvalidClose));
        assert_eq!(CloseFrame::parse(&[], None), Ok(CloseFrame { code: None }));
        assert_eq!(CloseFrame::parse(&[0; 126], None), Err(InvalidClose));
        assert!(CloseText::new(1014, "").is_err());
        assert!(CloseText::new(3000, "x".repeat(124)).is_err());
        assert!(CloseText::new(3000, "x".repeat(123)).is_ok());
    }
}
