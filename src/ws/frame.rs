//! Frame heads (RFC 6455, section 5.2): parsed and checked, never built.

/// Which side sent a frame: clients mask theirs, services do not (RFC 6455, section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The client.
    Client,
    /// The service.
    Upstream,
}

/// The extensions that the two sides have agreed on, as far as they change what a head may look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extensions {
    /// None: every reserved bit must be 0.
    #[default]
    None,
    /// permessage-deflate (RFC 7692): RSV1 on the first frame of a message.
    Deflate,
    /// Something else: any reserved bit on any frame. Opcodes that RFC 6455 reserves stay refused.
    Other,
}

impl Extensions {
    /// What the service's `Sec-WebSocket-Extensions` answer agrees to; repeated headers are one list.
    pub fn agreed<'a>(answers: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut agreed = Self::None;
        for answer in answers {
            for offer in answer.split(|&byte| byte == b',') {
                let name = offer.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
                match (name.is_empty(), name.eq_ignore_ascii_case(b"permessage-deflate")) {
                    (true, _) => {}
                    (false, true) if agreed == Self::None => agreed = Self::Deflate,
                    (false, true) => {}
                    (false, false) => agreed = Self::Other,
                }
            }
        }
        agreed
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the standard's own
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    /// Close, Ping and Pong: at most 125 bytes, never fragmented, allowed between the fragments of a message.
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The head of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whether this is the last frame of its message.
    pub fin: bool,
    /// The reserved bits: 4 is RSV1, 2 RSV2, 1 RSV3.
    pub rsv: u8,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key, of frames that a client sends.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload, below 2^63.
    pub payload: u64,
    /// Bytes of this head, 2 to 14.
    pub length: u8,
}

/// A way in which a frame breaks RFC 6455.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// Close with a payload that no endpoint may send (sections 5.5.1, 7.4).
    #[error("a Close with an impossible code or a single byte of payload")]
    Close,
    /// A continuation frame without a message to continue (section 5.4).
    #[error("a continuation frame without a message to continue")]
    Continuation,
    /// A fragmented control frame (section 5.5).
    #[error("a fragmented control frame")]
    ControlFragmented,
    /// A control frame with more than 125 bytes of payload (section 5.5).
    #[error("a control frame of more than 125 bytes")]
    ControlLength,
    /// A new message before the last one has ended (section 5.4).
    #[error("a new message before the last one has ended")]
    Interleaved,
    /// A 64-bit length with its top bit set (section 5.2).
    #[error("a 64-bit length with its top bit set")]
    LengthTopBit,
    /// A length in more bytes than it needs (section 5.2).
    #[error("a length in more bytes than it needs")]
    LengthNotMinimal,
    /// A frame of the service that is masked (section 5.1).
    #[error("a masked frame from the service")]
    Masked,
    /// An opcode that RFC 6455 reserves (section 5.2).
    #[error("a reserved opcode")]
    Opcode,
    /// A reserved bit that no agreed extension gives a meaning (section 5.2).
    #[error("a reserved bit without an agreed extension")]
    ReservedBits,
    /// A frame of the client that is not masked (section 5.1).
    #[error("an unmasked frame from the client")]
    Unmasked,
}

impl Head {
    /// The longest head: two bytes, a 64-bit length and a masking key.
    pub const MAX: usize = 14;

    /// Reads the head at the start of `bytes`: `None` if more bytes are needed. Whatever breaks a rule is found as soon
    /// as the bytes that show it are there.
    pub fn parse(bytes: &[u8], sender: Sender, extensions: Extensions) -> Result<Option<Self>, Violation> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(Violation::Opcode)?;
        let (fin, rsv) = (first & 0x80 != 0, (first >> 4) & 0x07);
        check_reserved(rsv, opcode, extensions)?;
        match (sender, second & 0x80 != 0) {
            (Sender::Client, false) => return Err(Violation::Unmasked),
            (Sender::Upstream, true) => return Err(Violation::Masked),
            _ => {}
        }
        let short = second & 0x7f;
        if opcode.is_control() {
            if !fin {
                return Err(Violation::ControlFragmented);
            }
            if short > 125 {
                return Err(Violation::ControlLength);
            }
        }
        let extended = match short {
            126 => rest.split_first_chunk::<2>().map(|(bytes, rest)| (u64::from(u16::from_be_bytes(*bytes)), rest, 2)),
            127 => rest.split_first_chunk::<8>().map(|(bytes, rest)| (u64::from_be_bytes(*bytes), rest, 8)),
            _ => Some((u64::from(short), rest, 0)),
        };
        let Some((payload, rest, extended)) = extended else {
            return Ok(None);
        };
        if payload >> 63 != 0 {
            return Err(Violation::LengthTopBit);
        }
        if (extended == 2 && payload < 126) || (extended == 8 && u16::try_from(payload).is_ok()) {
            return Err(Violation::LengthNotMinimal);
        }
        let mask = match sender {
            Sender::Upstream => None,
            Sender::Client => match rest.first_chunk::<4>() {
                None => return Ok(None),
                key => key.copied(),
            },
        };
        let key = if mask.is_some() { 4 } else { 0 };
        Ok(Some(Self { fin, rsv, opcode, mask, payload, length: 2 + extended + key }))
    }
}

fn check_reserved(rsv: u8, opcode: Opcode, extensions: Extensions) -> Result<(), Violation> {
    let allowed = match extensions {
        Extensions::None => 0,
        Extensions::Deflate if matches!(opcode, Opcode::Text | Opcode::Binary) => 0b100,
        Extensions::Deflate => 0,
        Extensions::Other => 0b111,
    };
    if rsv & !allowed == 0 { Ok(()) } else { Err(Violation::ReservedBits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(bytes: &[u8]) -> Result<Option<Head>, Violation> {
        Head::parse(bytes, Sender::Client, Extensions::None)
    }

    fn upstream(bytes: &[u8]) -> Result<Option<Head>, Violation> {
        Head::parse(bytes, Sender::Upstream, Extensions::None)
    }

    #[test]
    fn heads_of_every_length_are_read() {
        let head = upstream(&[0x82, 5, 1, 2]).unwrap().unwrap();
        assert_eq!((head.fin, head.opcode, head.payload, head.length, head.mask), (true, Opcode::Binary, 5, 2, None));
        let head = client(&[0x01, 0x80 | 126, 1, 0, 9, 8, 7, 6]).unwrap().unwrap();
        assert_eq!((head.fin, head.payload, head.length, head.mask), (false, 256, 8, Some([9, 8, 7, 6])));
        let head = client(&[0x81, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]).unwrap().unwrap();
        assert_eq!((head.payload, usize::from(head.length)), (0x7f00_0000_0000_0000, Head::MAX));
    }

    #[test]
    fn an_unfinished_head_asks_for_more() {
        let whole = [0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4];
        for cut in 0..whole.len() {
            assert_eq!(client(&whole[..cut]), Ok(None), "{cut}");
        }
        assert!(client(&whole).unwrap().is_some());
    }

    #[test]
    fn each_rule_on_heads_has_its_violation() {
        let rows: &[(&[u8], Sender, Extensions, Violation)] = &[
            (&[0x83, 0x80], Sender::Client, Extensions::None, Violation::Opcode),
            (&[0x87, 0x80], Sender::Client, Extensions::None, Violation::Opcode),
            (&[0x8b, 0x80], Sender::Client, Extensions::Other, Violation::Opcode),
            (&[0xc1, 0x80], Sender::Client, Extensions::None, Violation::ReservedBits),
            (&[0xa1, 0x80], Sender::Client, Extensions::Deflate, Violation::ReservedBits),
            (&[0xc0, 0x80], Sender::Client, Extensions::Deflate, Violation::ReservedBits),
            (&[0xc9, 0x80], Sender::Client, Extensions::Deflate, Violation::ReservedBits),
            (&[0x81, 0x05], Sender::Client, Extensions::None, Violation::Unmasked),
            (&[0x81, 0x85], Sender::Upstream, Extensions::None, Violation::Masked),
            (&[0x09, 0x80], Sender::Client, Extensions::None, Violation::ControlFragmented),
            (&[0x89, 0xfe], Sender::Client, Extensions::None, Violation::ControlLength),
            (&[0x88, 0x7f], Sender::Upstream, Extensions::None, Violation::ControlLength),
            (&[0x82, 0x7e, 0, 125], Sender::Upstream, Extensions::None, Violation::LengthNotMinimal),
            (
                &[0x82, 0x7f, 0, 0, 0, 0, 0, 0, 255, 255],
                Sender::Upstream,
                Extensions::None,
                Violation::LengthNotMinimal,
            ),
            (&[0x82, 0x7f, 128, 0, 0, 0, 0, 0, 0, 0], Sender::Upstream, Extensions::None, Violation::LengthTopBit),
        ];
        for (bytes, sender, extensions, violation) in rows {
            assert_eq!(Head::parse(bytes, *sender, *extensions), Err(*violation), "{bytes:02x?}");
        }
        assert!(Head::parse(&[0xc1, 0x80, 0, 0, 0, 0], Sender::Client, Extensions::Deflate).unwrap().is_some());
        assert!(Head::parse(&[0xf0, 0x80, 0, 0, 0, 0], Sender::Client, Extensions::Other).unwrap().is_some());
    }

    #[test]
    fn agreed_extensions_are_read_from_every_header() {
        let agreed = |answers: &[&str]| Extensions::agreed(answers.iter().map(|answer| answer.as_bytes()));
        assert_eq!(agreed(&[]), Extensions::None);
        assert_eq!(agreed(&[" , "]), Extensions::None);
        assert_eq!(agreed(&["Permessage-Deflate; server_max_window_bits=10"]), Extensions::Deflate);
        assert_eq!(agreed(&["permessage-deflate, x-mux"]), Extensions::Other);
        assert_eq!(agreed(&["x-mux", "permessage-deflate"]), Extensions::Other);
    }
}
