//! Settings of a deployment, from `REDRIVE_*` variables.

use std::time::Duration;

use super::error::BuildError;

/// What the environment sets. A variable that is not set, or is empty, leaves the code's setting alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Environment {
    pub(super) concurrency: Option<usize>,
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
}

/// Every variable that is read, with what it sets.
#[cfg(test)]
pub(super) const VARIABLES: [(&str, &str); 12] = [
    ("REDRIVE_CONCURRENCY", "handlers at once"),
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
];

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
        Ok(Self {
            concurrency: size("REDRIVE_CONCURRENCY")?,
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
            shadow: parse(&get, "REDRIVE_SHADOW", "give true or false", |text| text.parse().ok())?,
        })
    }
}

fn parse<T>(
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
fn duration(text: &str) -> Option<Duration> {
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
        ]))
        .unwrap();
        assert_eq!(read.concurrency, Some(64));
        assert_eq!(read.rate, Some(0.5));
        assert_eq!(read.handler_timeout, Some(Duration::from_secs(90)));
        assert_eq!(read.inbox_retention, Some(Duration::from_secs(35 * 24 * 3600)));
        assert_eq!(read.shadow, Some(true));
        assert_eq!(read.burst, None);
        assert_eq!(Environment::read(|_| None).unwrap(), Environment::default());
    }

    #[test]
    fn inv12_a_wrong_value_is_an_error_that_names_its_variable() {
        for (variable, _) in VARIABLES {
            let error = Environment::read(with(&[(variable, "a few")])).unwrap_err();
            assert!(error.to_string().contains(variable), "{error}");
            assert!(error.to_string().contains("a few"), "{error}");
        }
        assert!(Environment::read(with(&[("REDRIVE_CONCURRENCY", "0")])).is_err());
        assert!(Environment::read(with(&[("REDRIVE_RATE", "NaN")])).is_err());
        assert!(Environment::read(with(&[("REDRIVE_DRAIN_DEADLINE", "99999999999999999999s")])).is_err());
        assert!(Environment::read(with(&[("REDRIVE_DRAIN_DEADLINE", "999999999999999999d")])).is_err());
    }
}
