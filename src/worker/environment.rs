//! Settings of a deployment, from `REDRIVE_*` variables.

use std::time::Duration;

use super::config::AfterReject;
use super::error::BuildError;
use crate::flow::{BreakerConfig, FlowError, Jitter};

/// What the environment sets. A variable that is not set, or is empty, leaves the code's setting alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Environment {
    pub(super) concurrency: Option<usize>,
    pub(super) concurrency_min: Option<usize>,
    pub(super) concurrency_max: Option<usize>,
    pub(super) concurrency_start: Option<usize>,
    pub(super) rate: Option<f64>,
    pub(super) burst: Option<u32>,
    pub(super) max_attempts: Option<u32>,
    pub(super) handler_timeout: Option<Duration>,
    pub(super) backoff: Option<Duration>,
    pub(super) backoff_cap: Option<Duration>,
    pub(super) drain_deadline: Option<Duration>,
    pub(super) long_poll: Option<Duration>,
    pub(super) inbox_retention: Option<Duration>,
    pub(super) max_receives: Option<usize>,
    pub(super) shadow: Option<bool>,
    pub(super) name: Option<String>,
    pub(super) consumer: Option<String>,
    pub(super) held_back: Option<usize>,
    pub(super) backoff_jitter: Option<Jitter>,
    pub(super) keep_while_open: Option<Duration>,
    pub(super) dead_letters: Option<DeadLetterMode>,
    pub(super) after_reject: Option<AfterReject>,
    pub(super) key_from_deduplication_id: Option<bool>,
    pub(super) fingerprint: Option<bool>,
    pub(super) lease: Option<Duration>,
    pub(super) heartbeat: Option<bool>,
    pub(super) in_flight_delay: Option<Duration>,
    pub(super) linger: Option<Duration>,
    pub(super) stall_after: Option<Duration>,
    pub(super) breaker: Option<bool>,
    pub(super) tuning: BreakerTuning,
}

/// Where dead letters go, as far as a variable can say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeadLetterMode {
    Send,
    Policy,
    Keep,
    Discard,
}

/// What the environment changes of the breaker.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct BreakerTuning {
    pub(super) failures: Option<u32>,
    pub(super) keys: Option<u32>,
    pub(super) share: Option<f64>,
    pub(super) share_of: Option<u32>,
    pub(super) window: Option<Duration>,
    pub(super) open_for: Option<Duration>,
    pub(super) open_for_most: Option<Duration>,
    pub(super) jitter: Option<f64>,
    pub(super) probes: Option<u32>,
}

/// Every variable that is read, with what it sets.
#[cfg(test)]
pub(super) const VARIABLES: [(&str, &str); 37] = [
    ("REDRIVE_CONCURRENCY", "handlers at once"),
    (
        "REDRIVE_CONCURRENCY_MIN",
        "the fewest handlers at once that the worker may find best",
    ),
    ("REDRIVE_CONCURRENCY_MAX", "the most"),
    ("REDRIVE_CONCURRENCY_START", "how many at first"),
    ("REDRIVE_RATE", "handler starts per second"),
    ("REDRIVE_BURST", "handler starts at once above the rate"),
    ("REDRIVE_MAX_ATTEMPTS", "attempts per message"),
    (
        "REDRIVE_HANDLER_TIMEOUT",
        "a handler's longest run, as 500ms, 30s, 5m or 2h",
    ),
    ("REDRIVE_BACKOFF", "the first backoff"),
    ("REDRIVE_BACKOFF_CAP", "the longest backoff"),
    ("REDRIVE_DRAIN_DEADLINE", "the longest drain"),
    ("REDRIVE_LONG_POLL", "the longest wait of a receive"),
    ("REDRIVE_INBOX_RETENTION", "how long the inbox keeps records"),
    ("REDRIVE_MAX_RECEIVES", "receives in flight at once"),
    ("REDRIVE_SHADOW", "true or false: shadow mode"),
    ("REDRIVE_HELD_BACK", "how many wait aside"),
    ("REDRIVE_BACKOFF_JITTER", "how chance spreads the backoff"),
    (
        "REDRIVE_KEEP_WHILE_OPEN",
        "how long messages are held while a breaker is open",
    ),
    ("REDRIVE_DEAD_LETTERS", "where dead letters go"),
    ("REDRIVE_AFTER_REJECT", "what a FIFO group does after a reject"),
    (
        "REDRIVE_KEY_FROM_DEDUPLICATION_ID",
        "true or false: the key is the deduplication id",
    ),
    ("REDRIVE_FINGERPRINT", "true or false: payloads of one key are compared"),
    ("REDRIVE_LEASE", "how long a claim holds without a heartbeat"),
    ("REDRIVE_HEARTBEAT", "true or false: leases are extended"),
    (
        "REDRIVE_IN_FLIGHT_DELAY",
        "the first delay of a message whose key runs elsewhere",
    ),
    ("REDRIVE_LINGER", "how long a write waits for others to share a call"),
    ("REDRIVE_STALL_AFTER", "how long no receive may succeed"),
    ("REDRIVE_BREAKER", "true or false: the worker's own breaker"),
    ("REDRIVE_BREAKER_FAILURES", "failures in a row that open it"),
    ("REDRIVE_BREAKER_KEYS", "keys that must have failed"),
    ("REDRIVE_BREAKER_SHARE", "the share of failures that opens it"),
    (
        "REDRIVE_BREAKER_SHARE_OF",
        "the outcomes that the share is of, at least",
    ),
    ("REDRIVE_BREAKER_WINDOW", "the time that the share is of"),
    ("REDRIVE_BREAKER_OPEN_FOR", "how long it stays open first"),
    ("REDRIVE_BREAKER_OPEN_FOR_MOST", "how long it stays open at most"),
    (
        "REDRIVE_BREAKER_JITTER",
        "the share of an open time that chance takes off",
    ),
    ("REDRIVE_BREAKER_PROBES", "successful probes that close it"),
];

/// Those that take any text.
#[cfg(test)]
pub(super) const TEXTS: [&str; 2] = ["REDRIVE_NAME", "REDRIVE_CONSUMER"];

impl BreakerTuning {
    /// The first variable that is set, and its value.
    pub(super) fn first(&self) -> Option<(&'static str, String)> {
        fn shown(value: Option<impl ToString>) -> Option<String> {
            value.map(|value| value.to_string())
        }
        fn span(value: Option<Duration>) -> Option<String> {
            value.map(|value| format!("{value:?}"))
        }
        [
            ("REDRIVE_BREAKER_FAILURES", shown(self.failures)),
            ("REDRIVE_BREAKER_KEYS", shown(self.keys)),
            ("REDRIVE_BREAKER_SHARE", shown(self.share)),
            ("REDRIVE_BREAKER_SHARE_OF", shown(self.share_of)),
            ("REDRIVE_BREAKER_WINDOW", span(self.window)),
            ("REDRIVE_BREAKER_OPEN_FOR", span(self.open_for)),
            ("REDRIVE_BREAKER_OPEN_FOR_MOST", span(self.open_for_most)),
            ("REDRIVE_BREAKER_JITTER", shown(self.jitter)),
            ("REDRIVE_BREAKER_PROBES", shown(self.probes)),
        ]
        .into_iter()
        .find_map(|(variable, value)| Some((variable, value?)))
    }

    /// `config` with what is set; an error comes with the variables and values that it is of.
    pub(super) fn applied_to(
        &self,
        mut config: BreakerConfig,
    ) -> Result<BreakerConfig, (&'static str, String, FlowError)> {
        if let Some(n) = self.failures {
            config = config
                .failures_in_a_row(n)
                .map_err(|error| ("REDRIVE_BREAKER_FAILURES", n.to_string(), error))?;
        }
        if let Some(n) = self.keys {
            config = config
                .distinct_keys(n)
                .map_err(|error| ("REDRIVE_BREAKER_KEYS", n.to_string(), error))?;
        }
        if self.share.is_some() || self.share_of.is_some() {
            let (share, of) = config.share_setting();
            let (share, of) = (self.share.unwrap_or(share), self.share_of.unwrap_or(of));
            config = config.failure_share(share, of).map_err(|error| {
                let variables = "REDRIVE_BREAKER_SHARE, REDRIVE_BREAKER_SHARE_OF";
                (variables, format!("{share}, {of}"), error)
            })?;
        }
        if let Some(window) = self.window {
            config = config
                .window(window)
                .map_err(|error| ("REDRIVE_BREAKER_WINDOW", format!("{window:?}"), error))?;
        }
        if self.open_for.is_some() || self.open_for_most.is_some() {
            let (first, most) = config.open_setting();
            let first = self.open_for.unwrap_or(first);
            // Whoever only asks for a longer first time means that one to be the longest too.
            let most = self.open_for_most.unwrap_or_else(|| most.max(first));
            config = config.open_for(first, most).map_err(|error| {
                let variables = "REDRIVE_BREAKER_OPEN_FOR, REDRIVE_BREAKER_OPEN_FOR_MOST";
                (variables, format!("{first:?}, {most:?}"), error)
            })?;
        }
        if let Some(share) = self.jitter {
            config = config
                .jitter(share)
                .map_err(|error| ("REDRIVE_BREAKER_JITTER", share.to_string(), error))?;
        }
        if let Some(n) = self.probes {
            config = config
                .probe_successes(n)
                .map_err(|error| ("REDRIVE_BREAKER_PROBES", n.to_string(), error))?;
        }
        Ok(config)
    }
}

impl Environment {
    /// Reads the variables by `get`.
    pub(super) fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, BuildError> {
        let number = |name| parse(&get, name, "give a whole number", |text| text.parse::<u32>().ok());
        let size = |name| {
            parse(&get, name, "give a whole number above 0", |text| {
                text.parse::<usize>().ok().filter(|&n| n > 0)
            })
        };
        let span = |name| {
            parse(
                &get,
                name,
                "give a duration such as 500ms, 30s, 5m, 2h or 35d",
                duration,
            )
        };
        let switch = |name| parse(&get, name, "give true or false", |text| text.parse::<bool>().ok());
        let text = |name| parse(&get, name, "", |text| Some(text.to_owned()));
        let share = |name| {
            parse(&get, name, "give a share from 0 to 1", |text| {
                text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share))
            })
        };
        Ok(Self {
            name: text("REDRIVE_NAME")?,
            consumer: text("REDRIVE_CONSUMER")?,
            held_back: parse(&get, "REDRIVE_HELD_BACK", "give a whole number", |text| {
                text.parse().ok()
            })?,
            backoff_jitter: parse(
                &get,
                "REDRIVE_BACKOFF_JITTER",
                "give full, equal, decorrelated or none",
                |text| {
                    Some(match text {
                        "full" => Jitter::Full,
                        "equal" => Jitter::Equal,
                        "decorrelated" => Jitter::Decorrelated,
                        "none" => Jitter::None,
                        _ => return None,
                    })
                },
            )?,
            keep_while_open: span("REDRIVE_KEEP_WHILE_OPEN")?,
            dead_letters: parse(
                &get,
                "REDRIVE_DEAD_LETTERS",
                "give send, policy, keep or discard",
                |text| {
                    Some(match text {
                        "send" => DeadLetterMode::Send,
                        "policy" => DeadLetterMode::Policy,
                        "keep" => DeadLetterMode::Keep,
                        "discard" => DeadLetterMode::Discard,
                        _ => return None,
                    })
                },
            )?,
            after_reject: parse(
                &get,
                "REDRIVE_AFTER_REJECT",
                "give continue or block",
                |text| match text {
                    "continue" => Some(AfterReject::Continue),
                    "block" => Some(AfterReject::Block),
                    _ => None,
                },
            )?,
            key_from_deduplication_id: switch("REDRIVE_KEY_FROM_DEDUPLICATION_ID")?,
            fingerprint: switch("REDRIVE_FINGERPRINT")?,
            lease: span("REDRIVE_LEASE")?,
            heartbeat: switch("REDRIVE_HEARTBEAT")?,
            in_flight_delay: span("REDRIVE_IN_FLIGHT_DELAY")?,
            linger: span("REDRIVE_LINGER")?,
            stall_after: span("REDRIVE_STALL_AFTER")?,
            breaker: switch("REDRIVE_BREAKER")?,
            tuning: BreakerTuning {
                failures: number("REDRIVE_BREAKER_FAILURES")?,
                keys: number("REDRIVE_BREAKER_KEYS")?,
                share: share("REDRIVE_BREAKER_SHARE")?,
                share_of: number("REDRIVE_BREAKER_SHARE_OF")?,
                window: span("REDRIVE_BREAKER_WINDOW")?,
                open_for: span("REDRIVE_BREAKER_OPEN_FOR")?,
                open_for_most: span("REDRIVE_BREAKER_OPEN_FOR_MOST")?,
                jitter: share("REDRIVE_BREAKER_JITTER")?,
                probes: number("REDRIVE_BREAKER_PROBES")?,
            },
            concurrency: size("REDRIVE_CONCURRENCY")?,
            concurrency_min: size("REDRIVE_CONCURRENCY_MIN")?,
            concurrency_max: size("REDRIVE_CONCURRENCY_MAX")?,
            concurrency_start: size("REDRIVE_CONCURRENCY_START")?,
            rate: parse(&get, "REDRIVE_RATE", "give messages per second above 0", |text| {
                text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0)
            })?,
            burst: number("REDRIVE_BURST")?,
            max_attempts: number("REDRIVE_MAX_ATTEMPTS")?,
            handler_timeout: span("REDRIVE_HANDLER_TIMEOUT")?,
            backoff: span("REDRIVE_BACKOFF")?,
            backoff_cap: span("REDRIVE_BACKOFF_CAP")?,
            drain_deadline: span("REDRIVE_DRAIN_DEADLINE")?,
            long_poll: span("REDRIVE_LONG_POLL")?,
            inbox_retention: span("REDRIVE_INBOX_RETENTION")?,
            max_receives: size("REDRIVE_MAX_RECEIVES")?,
            shadow: switch("REDRIVE_SHADOW")?,
        })
    }
}

pub(crate) fn parse<T>(
    get: impl Fn(&str) -> Option<String>,
    variable: &str,
    why: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, BuildError> {
    let Some(value) = get(variable).filter(|value| !value.trim().is_empty()) else {
        return Ok(None);
    };
    match parse(value.trim()) {
        Some(parsed) => Ok(Some(parsed)),
        None => Err(BuildError::Variable {
            variable: variable.to_owned(),
            value,
            why: why.to_owned(),
        }),
    }
}

/// A duration as people write it: a whole number and a unit.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit.trim() {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" | "min" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            set.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn what_is_set_is_read_and_the_rest_left_alone() {
        let read = Environment::read(with(&[
            ("REDRIVE_CONCURRENCY", "64"),
            ("REDRIVE_RATE", "0.5"),
            ("REDRIVE_HANDLER_TIMEOUT", "90s"),
            ("REDRIVE_INBOX_RETENTION", "35d"),
            ("REDRIVE_SHADOW", "true"),
            ("REDRIVE_BURST", ""),
            ("REDRIVE_CONSUMER", "billing"),
            ("REDRIVE_DEAD_LETTERS", "keep"),
            ("REDRIVE_BREAKER_SHARE", "0.25"),
        ]))
        .unwrap();
        assert_eq!(read.concurrency, Some(64));
        assert_eq!(read.rate, Some(0.5));
        assert_eq!(read.handler_timeout, Some(Duration::from_secs(90)));
        assert_eq!(read.inbox_retention, Some(Duration::from_secs(35 * 24 * 3600)));
        assert_eq!(read.shadow, Some(true));
        assert_eq!(read.burst, None);
        assert_eq!(read.consumer.as_deref(), Some("billing"));
        assert_eq!(read.dead_letters, Some(DeadLetterMode::Keep));
        assert_eq!(read.tuning.share, Some(0.25));
        assert_eq!(Environment::read(|_| None).unwrap(), Environment::default());
    }

    #[test]
    fn inv12_a_wrong_value_is_an_error_that_names_its_variable() {
        for (variable, _) in VARIABLES {
            let error = Environment::read(with(&[(variable, "a few")])).unwrap_err();
            assert!(error.to_string().contains(variable), "{error}");
            assert!(error.to_string().contains("a few"), "{error}");
        }
        for text in TEXTS {
            assert_ne!(
                Environment::read(with(&[(text, "a few")])).unwrap(),
                Environment::default()
            );
        }
        assert!(Environment::read(with(&[("REDRIVE_BREAKER_SHARE", "1.5")])).is_err());
        assert!(Environment::read(with(&[("REDRIVE_CONCURRENCY", "0")])).is_err());
        assert!(Environment::read(with(&[("REDRIVE_RATE", "NaN")])).is_err());
        assert!(Environment::read(with(&[("REDRIVE_DRAIN_DEADLINE", "99999999999999999999s")])).is_err());
        assert!(Environment::read(with(&[("REDRIVE_DRAIN_DEADLINE", "999999999999999999d")])).is_err());
    }
}
