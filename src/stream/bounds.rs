//! What a client may send: how large its frames and messages may be, and how many of them may come.
//!
//! Each frame is judged by its head, before a byte of it goes on. Nothing is reassembled: of a message in fragments only
//! its size so far is known. What counts is what is on the wire, compressed where the two sides compress.

use crate::clock::Mono;
use crate::stream::CloseReason;
use crate::ws::{Head, Opcode};

/// The bounds of a route; the default is none at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of payload in one frame.
    pub max_frame: Option<u64>,
    /// Bytes of payload in one message, all its fragments together. A fragment without payload counts as one byte, unless
    /// it is the last: so no message has more fragments than this either.
    pub max_message: Option<u64>,
    /// Messages, pings and pongs.
    pub messages: Option<Rate>,
    /// Bytes of all frames, heads included.
    pub bytes: Option<Rate>,
}

/// So many in the long run, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u64,
    /// At once, after a time without any.
    pub burst: u64,
}

/// What one stream has made of its bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Size of the message under way.
    message: u64,
    messages: Account,
    bytes: Account,
}

/// The time at which everything so far would have come at the rate of the long run (the "theoretical arrival time" of the
/// generic cell rate algorithm, ITU-T I.371), times that rate: in billionths of what is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account(u128);

impl Bounds {
    /// Whether everything may pass.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// Why a frame with this head may not start `now`; if it may, it is counted. Since `unread` it may have waited to be
    /// read, through no fault of its sender: it counts as if it had come then.
    pub fn judge(&self, spent: &mut Spent, head: &Head, now: Mono, unread: Mono) -> Option<CloseReason> {
        if head.opcode == Opcode::Close {
            return None;
        }
        let mut after = *spent;
        if !head.opcode.is_control() {
            let before = if head.opcode == Opcode::Continuation { spent.message } else { 0 };
            after.message = before.saturating_add(head.payload.max(u64::from(!head.fin)));
            let over = |most: Option<u64>, size| most.is_some_and(|most| size > most);
            if over(self.max_frame, head.payload) || over(self.max_message, after.message) {
                return Some(CloseReason::TooBig);
            }
        }
        let whole = head.payload.saturating_add(u64::from(head.length));
        let messages = u64::from(head.opcode != Opcode::Continuation);
        let charge = |rate: Option<Rate>, account: &mut Account, cost| {
            rate.is_none_or(|rate| account.charge(rate, cost, now, unread))
        };
        if !charge(self.messages, &mut after.messages, messages) || !charge(self.bytes, &mut after.bytes, whole) {
            return Some(CloseReason::RateLimited);
        }
        *spent = after;
        None
    }
}

impl Account {
    /// Whether `cost` may come now. What is more than the burst may come when nothing else has come for long enough, and
    /// is made up for before anything else comes: else a large frame could never pass.
    fn charge(&mut self, rate: Rate, cost: u64, now: Mono, unread: Mono) -> bool {
        let Rate { per_second, burst } = rate;
        let at = |time: Mono| time.since_origin().as_nanos().saturating_mul(u128::from(per_second));
        let units = |count: u64| u128::from(count).saturating_mul(NANOS);
        let due = self.0.max(at(now.min(unread)));
        let most = at(now).saturating_add(units(burst.saturating_sub(cost)));
        if due > most {
            return false;
        }
        self.0 = due.saturating_add(units(cost));
        true
    }
}

/// Nanoseconds in a second.
const NANOS: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TEXT: Opcode = Opcode::Text;
    const MORE: Opcode = Opcode::Continuation;

    fn head(opcode: Opcode, fin: bool, payload: u64) -> Head {
        Head { fin, rsv: 0, opcode, mask: Some([0; 4]), payload, length: 6 }
    }

    fn at(millis: u64) -> Mono {
        Mono::from_origin(Duration::from_millis(1_000_000 + millis))
    }

    /// The first frame that may not start, and why.
    fn first_cut(bounds: Bounds, frames: &[(Opcode, bool, u64)]) -> Option<(usize, CloseReason)> {
        let mut spent = Spent::default();
        frames.iter().enumerate().find_map(|(index, (opcode, fin, payload))| {
            let reason = bounds.judge(&mut spent, &head(*opcode, *fin, *payload), at(0), at(0));
            reason.map(|reason| (index, reason))
        })
    }

    #[test]
    fn a_frame_is_held_to_its_size_whatever_its_message_is() {
        let bounds = Bounds { max_frame: Some(10), ..Bounds::default() };
        let big = |index| Some((index, CloseReason::TooBig));
        assert_eq!(first_cut(bounds, &[(TEXT, true, 10), (Opcode::Binary, true, 0)]), None);
        assert_eq!(first_cut(bounds, &[(TEXT, true, 11)]), big(0));
        assert_eq!(first_cut(bounds, &[(TEXT, false, 10), (MORE, false, 10), (MORE, true, 11)]), big(2));
        assert_eq!(first_cut(bounds, &[(Opcode::Ping, true, 125), (Opcode::Pong, true, 125)]), None);
        assert_eq!(first_cut(bounds, &[(TEXT, true, u64::MAX >> 1)]), big(0));
    }

    #[test]
    fn a_message_is_held_to_its_size_across_its_fragments_and_the_next_one_begins_anew() {
        let bounds = Bounds { max_message: Some(10), ..Bounds::default() };
        let big = |index| Some((index, CloseReason::TooBig));
        let ping = (Opcode::Ping, true, 100);
        assert_eq!(
            first_cut(bounds, &[(TEXT, false, 4), ping, (MORE, false, 4), (MORE, true, 2), (TEXT, true, 10)]),
            None
        );
        assert_eq!(first_cut(bounds, &[(TEXT, false, 4), ping, (MORE, false, 4), (MORE, true, 3)]), big(3));
        assert_eq!(first_cut(bounds, &[(TEXT, false, 1), (MORE, false, u64::MAX >> 1)]), big(1));
        // Empty fragments come to an end too; the last one of a message may be empty.
        let empty = [vec![(TEXT, false, 0); 1], vec![(MORE, false, 0); 20]].concat();
        assert_eq!(first_cut(bounds, &empty), big(10));
        assert_eq!(first_cut(bounds, &[(TEXT, false, 10), (MORE, true, 0), (TEXT, true, 0)]), None);
    }

    /// How many of these frames may start at each of these times.
    fn passed(bounds: Bounds, frame: &Head, times: &[u64]) -> Vec<usize> {
        let mut spent = Spent::default();
        let mut many = |now| (0..1000).take_while(|_| bounds.judge(&mut spent, frame, now, now).is_none()).count();
        times.iter().map(|time| many(at(*time))).collect()
    }

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate_of_the_long_run() {
        let messages = Bounds { messages: Some(Rate { per_second: 4, burst: 8 }), ..Bounds::default() };
        let times = [0, 1, 249, 250, 500, 1500, 3000, 60_000];
        assert_eq!(passed(messages, &head(TEXT, true, 1000), &times), [8, 0, 0, 1, 1, 4, 6, 8]);
        assert_eq!(passed(messages, &head(Opcode::Ping, true, 0), &times), [8, 0, 0, 1, 1, 4, 6, 8]);
        let bytes = Bounds { bytes: Some(Rate { per_second: 400, burst: 800 }), ..Bounds::default() };
        assert_eq!(
            passed(bytes, &head(MORE, false, 94), &times),
            [8, 0, 0, 1, 1, 4, 6, 8],
            "with its head a hundred bytes"
        );
    }

    #[test]
    fn fragments_are_one_message_and_a_close_always_passes() {
        let bounds = Bounds { messages: Some(Rate { per_second: 1, burst: 2 }), ..Bounds::default() };
        let mut frames = vec![(TEXT, false, 5)];
        frames.extend([(MORE, false, 5); 50]);
        frames.extend([(MORE, true, 5), (TEXT, true, 5), (Opcode::Close, true, 2), (TEXT, true, 5)]);
        assert_eq!(first_cut(bounds, &frames), Some((54, CloseReason::RateLimited)));
    }

    #[test]
    fn a_frame_larger_than_the_burst_passes_alone_and_is_made_up_for() {
        let bounds = Bounds { bytes: Some(Rate { per_second: 1000, burst: 500 }), ..Bounds::default() };
        let mut spent = Spent::default();
        let mut passes =
            |payload, time| bounds.judge(&mut spent, &head(TEXT, true, payload), at(time), at(time)).is_none();
        assert!(passes(94, 0));
        assert!(!passes(9_994, 99), "something has come just now");
        assert!(passes(9_994, 100));
        assert!(!passes(94, 9_600) && passes(94, 9_800), "ten thousand bytes take ten seconds");
    }

    #[test]
    fn what_came_while_nobody_read_counts_as_if_it_had_been_read() {
        let bounds = Bounds { messages: Some(Rate { per_second: 10, burst: 5 }), ..Bounds::default() };
        let mut spent = Spent::default();
        let mut passes = |now, unread| bounds.judge(&mut spent, &head(TEXT, true, 1), at(now), at(unread)).is_none();
        assert_eq!((0..100).filter(|_| passes(0, 0)).count(), 5);
        // Three seconds in which the service took nothing: thirty may have come.
        assert_eq!((0..100).filter(|_| passes(3_000, 0)).count(), 30);
        assert_eq!((0..100).filter(|_| passes(4_000, 4_000)).count(), 5, "and not again");
    }

    #[test]
    fn no_rate_and_no_size_overflows() {
        let rate = Some(Rate { per_second: u64::MAX, burst: u64::MAX });
        let bounds = Bounds { messages: rate, bytes: rate, max_message: Some(u64::MAX), max_frame: None };
        let mut spent = Spent::default();
        let far = Mono::from_origin(Duration::MAX);
        for _ in 0..3 {
            let huge = head(MORE, false, u64::MAX >> 1);
            assert_eq!(bounds.judge(&mut spent, &huge, far, far), None);
        }
        assert!(!bounds.is_off() && Bounds::default().is_off());
    }
}
