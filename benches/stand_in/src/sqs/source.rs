//! Messages that are there without having been sent: made when they are received.

use std::rc::Rc;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};

use crate::setup::Setup;

/// The first number of the messages that are sent; those before are made.
pub(crate) const SENT_FROM: u64 = 1 << 44;

/// A body with what an answer needs of it, made once.
#[derive(Debug)]
pub(crate) struct Body {
    /// As it stands between the quotes of a JSON string.
    pub(crate) escaped: bytes::Bytes,
    pub(crate) md5: String,
    /// Its size unescaped.
    pub(crate) bytes: usize,
}

impl Body {
    pub(crate) fn new(text: &str) -> Self {
        let quoted = serde_json::to_vec(text).unwrap_or_else(|_| b"\"\"".to_vec());
        let inner = quoted.len().saturating_sub(1);
        Self {
            escaped: bytes::Bytes::from(quoted).slice(1.min(inner)..inner),
            md5: hex(&Md5::digest(text)),
            bytes: text.len(),
        }
    }

    /// The body of a made message: `sent` in µs since 1970, and padding.
    fn made(sent_us: u64, bytes: usize) -> Self {
        let frame = format!("{{\"sent\":{sent_us},\"pad\":\"\"}}").len();
        let pad = "x".repeat(bytes.saturating_sub(frame));
        Self::new(&format!("{{\"sent\":{sent_us},\"pad\":\"{pad}\"}}"))
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// How messages appear.
#[derive(Clone, Copy, Debug)]
enum Supply {
    Endless,
    Backlog(u64),
    /// One every so many ns.
    Rate(u64),
}

/// The messages of a queue that are made, numbered from 1.
#[derive(Debug)]
pub(crate) struct Source {
    supply: Supply,
    opened: Option<(Instant, u64)>,
    closed: Option<Instant>,
    duplicates: f64,
    body_bytes: usize,
    body: Rc<Body>,
}

impl Source {
    pub(crate) fn new(setup: &Setup) -> Self {
        let supply = match (setup.messages, setup.rate) {
            (Some(messages), _) => Supply::Backlog(messages.min(SENT_FROM - 1)),
            (None, Some(rate)) => Supply::Rate(((1e9 / rate) as u64).max(1)),
            (None, None) => Supply::Endless,
        };
        Self {
            supply,
            opened: None,
            closed: None,
            duplicates: setup.duplicates,
            body_bytes: setup.body_bytes,
            body: Rc::new(Body::made(0, setup.body_bytes)),
        }
    }

    /// Lets the messages appear, `unix_us` being the time now.
    pub(crate) fn open(&mut self, now: Instant, unix_us: u64) {
        if self.opened.is_none() {
            self.opened = Some((now, unix_us));
        }
    }

    /// Lets no more appear.
    pub(crate) fn close(&mut self, now: Instant) {
        self.closed.get_or_insert(now);
    }

    /// Whether there is always another message.
    pub(crate) fn is_endless(&self) -> bool {
        matches!(self.supply, Supply::Endless) && self.opened.is_some() && self.closed.is_none()
    }

    /// The number of the last message that is there.
    pub(crate) fn last(&self, now: Instant) -> u64 {
        match (self.opened, self.supply) {
            (None, _) => 0,
            (Some(_), Supply::Backlog(messages)) => messages,
            (Some(_), Supply::Endless) if self.closed.is_some() => 0,
            (Some(_), Supply::Endless) => SENT_FROM - 1,
            (Some((opened, _)), Supply::Rate(period)) => {
                let until = self.closed.map_or(now, |closed| closed.min(now));
                nanoseconds(until.saturating_duration_since(opened)) / period
            }
        }
    }

    /// When the next message appears by itself.
    pub(crate) fn next_moment(&self, now: Instant) -> Option<Instant> {
        match (self.opened, self.closed, self.supply) {
            (Some((opened, _)), None, Supply::Rate(period)) => {
                Some(opened + Duration::from_nanos((self.last(now) + 1).saturating_mul(period)))
            }
            _ => None,
        }
    }

    /// When the message appeared, in µs since 1970.
    pub(crate) fn sent_us(&self, number: u64) -> u64 {
        match (self.opened, self.supply) {
            (None, _) => 0,
            (Some((_, unix_us)), Supply::Rate(period)) => unix_us + number.saturating_mul(period) / 1_000,
            (Some((_, unix_us)), _) => unix_us,
        }
    }

    /// The message's body, which tells in rate mode when it appeared.
    pub(crate) fn body(&self, number: u64) -> Rc<Body> {
        match self.supply {
            Supply::Rate(_) => Rc::new(Body::made(self.sent_us(number), self.body_bytes)),
            _ => Rc::clone(&self.body),
        }
    }

    /// The message's idempotency key, where there are duplicates.
    pub(crate) fn key(&self, number: u64) -> Option<String> {
        if self.duplicates <= 0.0 {
            return None;
        }
        let repeats = |number: u64| {
            let before = |number: u64| (number as f64 * self.duplicates + 1e-6).floor();
            number > 1 && before(number) > before(number - 1)
        };
        let mut first = number;
        while repeats(first) {
            first -= 1;
        }
        Some(format!("order-{first:012x}"))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(setup: Setup) -> Source {
        Source::new(&setup)
    }

    #[test]
    fn a_body_is_json_of_the_size_that_was_set_with_its_md5() {
        let body = Body::made(0, 200);
        assert_eq!(body.bytes, 200);
        let text: String = serde_json::from_str(&format!("\"{}\"", str::from_utf8(&body.escaped).unwrap())).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["sent"], 0);
        assert_eq!(body.md5, hex(&Md5::digest(&text)));
        assert_eq!(Body::new("hello").md5, "5d41402abc4b2a76b9719d911017c592");
        assert_eq!(Body::made(1_700_000_000_000_000, 200).bytes, 200);
    }

    #[test]
    fn messages_at_a_rate_appear_each_in_its_moment() {
        let mut source = source(Setup {
            rate: Some(10.0),
            ..Setup::default()
        });
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!((source.last(at(500)), source.next_moment(start)), (0, None));
        source.open(start, 1_000_000);
        assert_eq!([99, 100, 250, 300].map(|ms| source.last(at(ms))), [0, 1, 2, 3]);
        assert_eq!(source.next_moment(at(250)), Some(at(300)));
        assert_eq!(source.sent_us(3), 1_300_000);
        let body = source.body(3);
        assert!(body.escaped.starts_with(br#"{\"sent\":1300000,"#) && body.bytes == 200);
        source.close(at(450));
        assert_eq!((source.last(at(900)), source.next_moment(at(900))), (4, None));
    }

    #[test]
    fn an_endless_backlog_ends_when_it_is_closed_and_a_counted_one_stays() {
        let now = Instant::now();
        let mut endless = source(Setup::default());
        endless.open(now, 0);
        assert!(endless.is_endless() && endless.last(now) == SENT_FROM - 1);
        endless.close(now);
        assert!(!endless.is_endless() && endless.last(now) == 0);
        let mut counted = source(Setup {
            messages: Some(7),
            ..Setup::default()
        });
        assert_eq!(counted.last(now), 0);
        counted.open(now, 0);
        counted.close(now);
        assert_eq!(counted.last(now), 7);
    }

    #[test]
    fn each_tenth_message_repeats_the_key_of_the_one_before() {
        let tenth = source(Setup {
            duplicates: 0.1,
            ..Setup::default()
        });
        let keys: Vec<_> = (1..=1_000).map(|number| tenth.key(number).unwrap()).collect();
        for (at, pair) in keys.windows(2).enumerate() {
            assert_eq!(pair[0] == pair[1], (at + 2) % 10 == 0, "{at}");
        }
        let most = source(Setup {
            duplicates: 0.9,
            ..Setup::default()
        });
        let distinct: std::collections::BTreeSet<_> = (1..=1_000).map(|number| most.key(number).unwrap()).collect();
        assert!((100..=102).contains(&distinct.len()), "{}", distinct.len());
        assert_eq!(source(Setup::default()).key(10), None);
    }
}
