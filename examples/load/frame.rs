//! Frames as a client sends them and as a service answers (RFC 6455, section 5.2). Written apart from the gateway's own
//! reading of frames, so that a mistake there shows here.

/// A message that can be sent again and again, each time with another number in its first eight bytes.
pub struct Message {
    /// Head and masked payload.
    frame: Vec<u8>,
    /// Where the payload starts in it.
    start: usize,
    /// What the payload is, and what must come back.
    payload: Vec<u8>,
}

impl Message {
    /// A binary message of `size` bytes, masked as a client must. `seed` sets its bytes.
    pub fn from_client(size: usize, seed: u64) -> Self {
        let payload = pattern(size, seed);
        let mut frame = head(size, true);
        frame.extend_from_slice(&KEY);
        let start = frame.len();
        frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
        Self { frame, start, payload }
    }

    /// The same message as a service sends it.
    pub fn from_service(size: usize, seed: u64) -> Self {
        let payload = pattern(size, seed);
        let mut frame = head(size, false);
        let start = frame.len();
        frame.extend_from_slice(&payload);
        Self { frame, start, payload }
    }

    /// Writes `number` over the first bytes.
    pub fn set_number(&mut self, number: u64) {
        let masked = self.start >= 6;
        let sent = self.frame.get_mut(self.start..).unwrap_or_default();
        for (at, ((sent, plain), byte)) in sent.iter_mut().zip(&mut self.payload).zip(number.to_le_bytes()).enumerate()
        {
            *plain = byte;
            *sent = if masked { byte ^ KEY.get(at % 4).copied().unwrap_or_default() } else { byte };
        }
    }

    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// A Close with code 1000, from a client.
pub const CLOSE: [u8; 8] = [0x88, 0x82, KEY[0], KEY[1], KEY[2], KEY[3], KEY[0] ^ 0x03, KEY[1] ^ 0xe8];

/// The masking key of every frame: what is measured does not depend on its being random.
const KEY: [u8; 4] = [0x5a, 0xc3, 0x17, 0x9e];

/// The head of an unmasked frame: its first byte, its payload length and its own length. `None` if more is needed.
pub fn parse(bytes: &[u8]) -> Option<(u8, u64, usize)> {
    let (&[first, second], rest) = bytes.split_first_chunk::<2>()?;
    Some(match second & 0x7f {
        126 => (first, u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (first, u64::from_be_bytes(*rest.first_chunk()?), 10),
        short => (first, u64::from(short), 2),
    })
}

/// The first bytes of a binary frame, up to its masking key.
#[allow(clippy::cast_possible_truncation)] // each arm holds what fits
pub fn head(size: usize, masked: bool) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    match size {
        0..126 => vec![0x82, bit | size as u8],
        126..0x1_0000 => [&[0x82, bit | 126][..], &(size as u16).to_be_bytes()].concat(),
        _ => [&[0x82, bit | 127][..], &(size as u64).to_be_bytes()].concat(),
    }
}

/// Bytes that differ from place to place and from seed to seed (xorshift).
fn pattern(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use portcullis::ws::{Extensions, Head, Sender};

    use super::*;

    #[test]
    fn what_is_sent_is_the_payload_under_its_mask() {
        for size in [1, 3, 8, 125, 126, 65_535, 65_536] {
            let mut message = Message::from_client(size, 7);
            message.set_number(0x0102_0304_0506_0708);
            let head = Head::parse(message.frame(), Sender::Client, Extensions::None).unwrap().unwrap();
            assert_eq!(head.payload, size as u64);
            let key = head.mask.unwrap();
            let body = &message.frame()[usize::from(head.length)..];
            let plain: Vec<u8> = body.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
            assert_eq!(plain, message.payload());
            assert_eq!(message.payload()[0], 8);
            let service = Message::from_service(size, 7);
            assert_eq!(parse(service.frame()), Some((0x82, size as u64, service.frame().len() - size)));
            assert_eq!(service.payload().get(8..), message.payload().get(8..), "one seed, one message");
        }
    }

    #[test]
    fn the_close_says_1000() {
        let head = Head::parse(&CLOSE, Sender::Client, Extensions::None).unwrap().unwrap();
        assert_eq!((head.payload, CLOSE[6] ^ CLOSE[2], CLOSE[7] ^ CLOSE[3]), (2, 0x03, 0xe8));
    }
}
