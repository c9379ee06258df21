//! Silence: how long nothing was heard on a stream, and whether its client still answers.
//!
//! A stream that nobody uses ends after `idle`; a client that is not heard is asked by a ping, and if it is not heard after
//! that either, it is gone. Whatever comes from a side is life, a ping's answer too. Nobody is blamed for what another one
//! holds up: a client that is not read cannot be heard, and one that takes what it is sent, however slowly, is there.
//!
//! Nothing is done per frame: the relay notes when a side was last heard, and that is looked at when a deadline comes.

use std::time::Duration;

use crate::clock::Mono;

/// What a route says of silence; the default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How long both sides may be silent.
    pub idle: Option<Duration>,
    /// Whether the client is asked.
    pub ping: Option<Ping>,
}

/// When a client is asked whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// After so long without a word from it.
    pub interval: Duration,
    /// How long it may take to be heard.
    pub timeout: Duration,
}

/// What is known of a stream when a deadline has come.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// When the client was last heard.
    pub downstream: Mono,
    /// When the service was last heard.
    pub upstream: Mono,
    /// When the last ping went out; `None` while it waits for the end of a frame.
    pub pinged: Option<Mono>,
    /// The client is not read, because the service takes no more.
    pub unread: bool,
    /// The client takes no more.
    pub untaken: bool,
    /// Bytes that have passed so far, both ways.
    pub passed: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    Nothing,
    /// The client is to be sent a ping.
    Ping,
    /// The stream is to end.
    End,
}

/// The silence of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    rules: Rules,
    /// When the client was asked, and has not been heard since.
    asked: Option<Mono>,
    /// Until when there was life, and until when the client was excused, that was not heard.
    moved: Mono,
    excused: Mono,
    /// Bytes that had passed when it was last looked at.
    passed: u64,
    next: Mono,
}

impl Silence {
    /// The silence of a stream that begins now; `None`, and the time is not asked for, where the route says nothing of it.
    pub fn new(rules: Rules, now: impl FnOnce() -> Mono) -> Option<Self> {
        let first = [rules.idle, rules.ping.map(|ping| ping.interval)].into_iter().flatten().min()?;
        let now = now();
        Some(Self { rules, asked: None, moved: now, excused: now, passed: 0, next: now.saturating_add(first) })
    }

    /// When to look at the latest.
    pub const fn next(&self) -> Mono {
        self.next
    }

    /// Looks, if it is time.
    pub fn look(&mut self, life: &Life, now: Mono) -> Wanted {
        if now < self.next {
            return Wanted::Nothing;
        }
        let held_up = life.unread || life.untaken;
        let moving = held_up && life.passed != self.passed;
        self.passed = life.passed;
        if moving {
            self.moved = now;
        }
        if life.unread || (life.untaken && moving) {
            self.excused = now;
        }
        let idle = self.rules.idle.map(|idle| self.moved.max(life.downstream).max(life.upstream).saturating_add(idle));
        if idle.is_some_and(|end| now >= end) {
            return Wanted::End;
        }
        let (wanted, ping) = match self.rules.ping {
            None => (Wanted::Nothing, None),
            Some(ping) => self.ask(ping, life, now),
        };
        if let Some(next) = [idle, ping].into_iter().flatten().min() {
            self.next = next;
        }
        wanted
    }

    /// What the client's own silence asks for, and when to look again.
    fn ask(&mut self, ping: Ping, life: &Life, now: Mono) -> (Wanted, Option<Mono>) {
        let heard = self.excused.max(life.downstream);
        if let Some(asked) = self.asked.filter(|asked| heard < *asked) {
            let sent = life.pinged.map_or(asked, |sent| sent.max(asked));
            let end = sent.saturating_add(ping.timeout);
            return match life.pinged {
                _ if now < end => (Wanted::Nothing, Some(end)),
                // The service is in the middle of a frame, and the client takes all that comes of it.
                None if !life.untaken => {
                    self.asked = Some(now);
                    (Wanted::Nothing, Some(now.saturating_add(ping.timeout)))
                }
                _ => (Wanted::End, None),
            };
        }
        let due = heard.saturating_add(ping.interval);
        if now < due {
            self.asked = None;
            return (Wanted::Nothing, Some(due));
        }
        self.asked = Some(now);
        (Wanted::Ping, Some(now.saturating_add(ping.timeout)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Option<Duration> = Some(Duration::from_secs(60));
    const PING: Option<Ping> = Some(Ping { interval: Duration::from_secs(30), timeout: Duration::from_secs(10) });

    fn at(seconds: u64) -> Mono {
        Mono::from_origin(Duration::from_secs(1000 + seconds))
    }

    /// Nothing was heard, and nothing is held up; the pings went out at once.
    fn silent() -> Life {
        let (downstream, upstream) = (Mono::default(), Mono::default());
        Life { downstream, upstream, pinged: Some(Mono::default()), unread: false, untaken: false, passed: 0 }
    }

    fn silence(idle: Option<Duration>, ping: Option<Ping>) -> Silence {
        Silence::new(Rules { idle, ping }, || at(0)).unwrap()
    }

    #[test]
    fn a_stream_ends_when_neither_side_was_heard_for_long_enough() {
        let mut silence = silence(IDLE, None);
        assert_eq!((silence.next(), silence.look(&silent(), at(59))), (at(60), Wanted::Nothing));
        let heard = Life { downstream: at(10), upstream: at(45), ..silent() };
        assert_eq!((silence.look(&heard, at(60)), silence.next()), (Wanted::Nothing, at(105)));
        let heard = Life { downstream: at(50), ..heard };
        assert_eq!((silence.look(&heard, at(105)), silence.next()), (Wanted::Nothing, at(110)), "either side counts");
        assert_eq!(silence.look(&heard, at(110)), Wanted::End);
    }

    #[test]
    fn a_silent_client_is_asked_and_whatever_it_says_is_an_answer() {
        let mut silence = silence(None, PING);
        let talking = Life { upstream: at(29), downstream: at(5), ..silent() };
        assert_eq!((silence.look(&talking, at(30)), silence.next()), (Wanted::Nothing, at(35)));
        assert_eq!(silence.look(&talking, at(35)), Wanted::Ping, "whatever the service says");
        let answered = Life { downstream: at(35), pinged: Some(at(35)), ..talking };
        assert_eq!(silence.next(), at(45));
        assert_eq!((silence.look(&answered, at(45)), silence.next()), (Wanted::Nothing, at(65)));
        assert_eq!(silence.look(&answered, at(65)), Wanted::Ping);
        let asked = Life { pinged: Some(at(65)), ..answered };
        assert_eq!(silence.look(&asked, at(74)), Wanted::Nothing);
        assert_eq!(silence.look(&asked, at(75)), Wanted::End);
    }

    #[test]
    fn the_time_to_answer_begins_when_the_ping_has_gone_out() {
        let mut silence = silence(None, PING);
        let waits = Life { pinged: None, ..silent() };
        assert_eq!(silence.look(&waits, at(30)), Wanted::Ping);
        assert_eq!(
            (silence.look(&waits, at(40)), silence.next()),
            (Wanted::Nothing, at(50)),
            "a long frame of the service"
        );
        let out = Life { pinged: Some(at(48)), ..waits };
        assert_eq!((silence.look(&out, at(50)), silence.next()), (Wanted::Nothing, at(58)));
        assert_eq!(silence.look(&out, at(58)), Wanted::End);
    }

    #[test]
    fn a_client_that_takes_nothing_is_gone_and_one_that_takes_it_slowly_is_not() {
        let mut silence = silence(None, PING);
        let stuck = Life { pinged: None, untaken: true, passed: 500, ..silent() };
        let slow = |passed| Life { passed, ..stuck };
        assert_eq!(silence.look(&Life { untaken: false, ..stuck }, at(30)), Wanted::Ping);
        assert_eq!(silence.look(&slow(501), at(40)), Wanted::Nothing);
        assert_eq!(silence.look(&slow(501), silence.next()), Wanted::Ping);
        assert_eq!(silence.look(&slow(501), silence.next()), Wanted::End, "nothing more was taken");
    }

    #[test]
    fn a_client_that_is_not_read_is_not_missed() {
        let mut silence = silence(IDLE, PING);
        let unread = |passed| Life { unread: true, passed, ..silent() };
        let (mut now, mut moved) = (0, 0);
        while now < 200 {
            now = now.max(silence.next().saturating_since(at(0)).as_secs());
            moved += 1;
            assert_eq!(silence.look(&unread(moved), at(now)), Wanted::Nothing, "{now}");
        }
        // Not idle while anything moves. A service that takes nothing for so long has made the stream a dead one.
        let ended = (0..5).any(|_| silence.look(&unread(moved), silence.next()) == Wanted::End);
        assert!(ended);
    }

    #[test]
    fn where_a_route_says_nothing_there_is_nothing_to_look_at() {
        assert!(Silence::new(Rules::default(), || at(0)).is_none());
    }
}
