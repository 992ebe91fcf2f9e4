use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::advice::Advice;
use super::backoff::LONGEST_DELAY;

/// Reads the value of an HTTP `Retry-After` header: whole seconds, or a date, of which `now_epoch_ms` (milliseconds since
/// 1970) is taken off (RFC 9110 §10.2.3).
///
/// A date that has passed is no wait at all; what is longer than [`LONGEST_DELAY`] is cut down to it; anything else is
/// `None`.
///
/// ```
/// use redrive::flow::parse_retry_after;
/// use std::time::Duration;
///
/// assert_eq!(parse_retry_after("120", 0), Some(Duration::from_secs(120)));
/// let five_seconds_before = 784_111_772_000;
/// assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", five_seconds_before), Some(Duration::from_secs(5)));
/// assert_eq!(parse_retry_after("soon", 0), None);
/// ```
#[must_use]
pub fn parse_retry_after(value: &str, now_epoch_ms: u64) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only too many digits can fail here.
        value.parse().map_or(LONGEST_DELAY, Duration::from_secs)
    } else {
        let date: SystemTime = httpdate::parse_http_date(value).ok()?;
        let date = date.duration_since(UNIX_EPOCH).ok()?;
        date.saturating_sub(Duration::from_millis(now_epoch_ms))
    };
    Some(wait.min(LONGEST_DELAY))
}

/// What an HTTP status says about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StatusAdvice {
    /// It succeeded.
    Ok,
    /// Worth a retry, with backoff.
    Retry,
    /// Worth a retry, as late as `Retry-After` says if it is there, else with backoff.
    RetryHonouringRetryAfter,
    /// The same request will be answered the same.
    Reject,
}

/// Which HTTP status is worth a retry.
///
/// | status | advice | why |
/// |---|---|---|
/// | 2xx | ok | |
/// | 408, 500, 502, 504 | retry | a timeout or a fault of the service |
/// | 429, 503 | retry, honouring `Retry-After` | the service asks for time |
/// | other 4xx | reject | the request is at fault |
/// | 501, 505 | reject | the service lacks what the request needs, and will when asked again |
/// | other 5xx | retry | a status that is not known is to be taken as the x00 of its class (RFC 9110 §15) |
/// | 3xx | reject | a redirect that the client was not set to follow; 304 needs a request that asked for it |
/// | 1xx, under 100, over 599 | retry | no final answer, or no HTTP: something between here and there is broken |
///
/// ```
/// use redrive::flow::{StatusAdvice, classify_status};
///
/// assert_eq!(classify_status(429), StatusAdvice::RetryHonouringRetryAfter);
/// assert_eq!(classify_status(404), StatusAdvice::Reject);
/// ```
#[must_use]
pub fn classify_status(status: u16) -> StatusAdvice {
    match status {
        200..=299 => StatusAdvice::Ok,
        429 | 503 => StatusAdvice::RetryHonouringRetryAfter,
        408 => StatusAdvice::Retry,
        300..=499 | 501 | 505 => StatusAdvice::Reject,
        _ => StatusAdvice::Retry,
    }
}

impl Advice {
    /// The advice that an HTTP answer gives: its status, and the value of its `Retry-After` header where the status is one
    /// that honours it. `None` for a success.
    ///
    /// ```
    /// use redrive::flow::Advice;
    /// use std::time::Duration;
    ///
    /// let now_epoch_ms = 0;
    /// assert_eq!(Advice::of_http(503, Some("7"), now_epoch_ms), Some(Advice::RetryAfter(Duration::from_secs(7))));
    /// assert_eq!(Advice::of_http(503, None, now_epoch_ms), Some(Advice::Retry));
    /// assert_eq!(Advice::of_http(422, None, now_epoch_ms), Some(Advice::Reject));
    /// assert_eq!(Advice::of_http(204, None, now_epoch_ms), None);
    /// ```
    #[must_use]
    pub fn of_http(status: u16, retry_after: Option<&str>, now_epoch_ms: u64) -> Option<Self> {
        match classify_status(status) {
            StatusAdvice::Ok => None,
            StatusAdvice::Retry => Some(Self::Retry),
            StatusAdvice::Reject => Some(Self::Reject),
            StatusAdvice::RetryHonouringRetryAfter => {
                let wait = retry_after.and_then(|value| parse_retry_after(value, now_epoch_ms));
                Some(wait.map_or(Self::Retry, Self::RetryAfter))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const DATE_MS: u64 = 784_111_777_000;

    #[test]
    fn seconds_are_read() {
        assert_eq!(parse_retry_after("0", 5), Some(Duration::ZERO));
        assert_eq!(parse_retry_after(" 30 ", 5), Some(Duration::from_secs(30)));
    }

    #[test]
    fn all_three_http_dates_are_read() {
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(
                parse_retry_after(date, DATE_MS - 1_500),
                Some(Duration::from_millis(1_500))
            );
            assert_eq!(
                parse_retry_after(date, DATE_MS + 1),
                Some(Duration::ZERO),
                "{date} has passed"
            );
        }
    }

    #[test]
    fn absurd_values_are_cut_down() {
        for value in ["43201", "99999999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(parse_retry_after(value, DATE_MS), Some(LONGEST_DELAY), "{value}");
        }
    }

    #[test]
    fn garbage_is_nothing() {
        for value in [
            "",
            " ",
            "-1",
            "+5",
            "1.5",
            "5s",
            "soon",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "٣",
        ] {
            assert_eq!(parse_retry_after(value, DATE_MS), None, "{value}");
        }
    }

    #[test]
    fn every_status_has_the_advice_of_the_table() {
        for status in 0..=u16::MAX {
            let expected = match status {
                200..=299 => StatusAdvice::Ok,
                408 | 500 | 502 | 504 => StatusAdvice::Retry,
                429 | 503 => StatusAdvice::RetryHonouringRetryAfter,
                501 | 505 => StatusAdvice::Reject,
                300..=499 => StatusAdvice::Reject,
                0..=199 | 506.. => StatusAdvice::Retry,
            };
            assert_eq!(classify_status(status), expected, "{status}");
        }
    }

    #[test]
    fn only_statuses_that_honour_retry_after_read_it() {
        assert_eq!(Advice::of_http(500, Some("9"), 0), Some(Advice::Retry));
        assert_eq!(
            Advice::of_http(429, Some("9"), 0),
            Some(Advice::RetryAfter(Duration::from_secs(9)))
        );
        assert_eq!(Advice::of_http(429, Some("?"), 0), Some(Advice::Retry));
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic_or_wait_longer_than_the_longest(value in ".*", now in any::<u64>()) {
            prop_assert!(parse_retry_after(&value, now).is_none_or(|wait| wait <= LONGEST_DELAY));
        }

        #[test]
        fn nothing_that_looks_like_a_date_makes_it_panic(
            value in "(Sun|Mon|Sunday)?,? ?[0-9]{1,3}[ -](Nov|Feb|Foo)[ -][0-9]{2,5} [0-9]{2}:[0-9]{2}:[0-9]{2} (GMT|UTC)?",
            now in any::<u64>(),
        ) {
            prop_assert!(parse_retry_after(&value, now).is_none_or(|wait| wait <= LONGEST_DELAY));
        }
    }
}
