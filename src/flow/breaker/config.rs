use std::time::Duration;

use crate::flow::error::{FlowError, require};

const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
const MOST_KEYS: u32 = 64;

/// When a [`CircuitBreaker`](super::CircuitBreaker) opens, for how long, and what closes it.
///
/// Every setter checks its value, so a configuration that exists is one that works.
///
/// ```
/// use redrive::flow::BreakerConfig;
/// use std::time::Duration;
///
/// let config = BreakerConfig::default()
///     .failures_in_a_row(10)?
///     .open_for(Duration::from_secs(5), Duration::from_secs(60))?;
/// # Ok::<(), redrive::flow::FlowError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    pub(super) in_a_row: u32,
    pub(super) distinct_keys: usize,
    pub(super) share: f64,
    pub(super) of_at_least: u32,
    pub(super) window: Duration,
    pub(super) first_open: Duration,
    pub(super) longest_open: Duration,
    pub(super) jitter: f64,
    pub(super) successes: u32,
}

impl Default for BreakerConfig {
    /// Opens after 5 failures in a row, or when half of at least 20 outcomes within 30 s are failures, both over at least
    /// 3 distinct keys; stays open for 30 s, doubling to 5 min, shortened by up to a fifth; closes after 3 successes.
    fn default() -> Self {
        Self {
            in_a_row: 5,
            distinct_keys: 3,
            share: 0.5,
            of_at_least: 20,
            window: Duration::from_secs(30),
            first_open: Duration::from_secs(30),
            longest_open: Duration::from_secs(300),
            jitter: 0.2,
            successes: 3,
        }
    }
}

impl BreakerConfig {
    /// The share of failures that opens it, and of how many outcomes at least.
    pub(crate) fn share_setting(&self) -> (f64, u32) {
        (self.share, self.of_at_least)
    }

    /// How long it stays open: first, and at most.
    pub(crate) fn open_setting(&self) -> (Duration, Duration) {
        (self.first_open, self.longest_open)
    }

    /// Opens after `n` failures in a row, at least 1: with no success between them, and none before them of a run that was
    /// admitted after theirs. So at any rate an outage opens it by the `n`-th failure of what began in it, as
    /// soon as older runs succeed no more; slow timeouts that end together after later calls have succeeded do not.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `n` is 0.
    pub fn failures_in_a_row(mut self, n: u32) -> Result<Self, FlowError> {
        require(n >= 1, "breaker.failures_in_a_row", n, "at least 1")?;
        self.in_a_row = n;
        Ok(self)
    }

    /// Opens only if the failures are those of at least `n` keys, from 1 to 64. With 1, a single poison pill that is tried
    /// again and again can open it.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `n` is outside that range.
    pub fn distinct_keys(mut self, n: u32) -> Result<Self, FlowError> {
        require(
            (1..=MOST_KEYS).contains(&n),
            "breaker.distinct_keys",
            n,
            "a number from 1 to 64",
        )?;
        self.distinct_keys = usize::try_from(n).unwrap_or(usize::MAX);
        Ok(self)
    }

    /// Opens when at least `share` (above 0, at most 1) of at least `of_at_least` outcomes within the window are failures.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `share` is outside that range or `of_at_least` is 0.
    pub fn failure_share(mut self, share: f64, of_at_least: u32) -> Result<Self, FlowError> {
        require(
            share > 0.0 && share <= 1.0,
            "breaker.failure_share",
            share,
            "a number above 0, at most 1",
        )?;
        require(
            of_at_least >= 1,
            "breaker.failure_share.of_at_least",
            of_at_least,
            "at least 1",
        )?;
        self.share = share;
        self.of_at_least = of_at_least;
        Ok(self)
    }

    /// The stretch of time whose outcomes the share is taken of, from 1 s to 24 h. It slides in tenths of itself.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `window` is outside that range.
    pub fn window(mut self, window: Duration) -> Result<Self, FlowError> {
        require(
            (Duration::from_secs(1)..=LONGEST).contains(&window),
            "breaker.window",
            format!("{window:?}"),
            "a time from 1 s to 24 hours",
        )?;
        self.window = window;
        Ok(self)
    }

    /// Stays open for `first`, doubling with every failed probe up to `longest`, each from 1 ms to 24 h.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if one is outside that range or `longest` is shorter than `first`.
    pub fn open_for(mut self, first: Duration, longest: Duration) -> Result<Self, FlowError> {
        require(
            first >= Duration::from_millis(1) && first <= longest,
            "breaker.open_for.first",
            format!("{first:?}"),
            "at least 1 ms and at most the longest",
        )?;
        require(
            longest <= LONGEST,
            "breaker.open_for.longest",
            format!("{longest:?}"),
            "at most 24 hours",
        )?;
        self.first_open = first;
        self.longest_open = longest;
        Ok(self)
    }

    /// Shortens every open time by up to this share of it, by chance, so that workers do not all probe at once: from 0
    /// (never) to 1.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `share` is outside that range.
    pub fn jitter(mut self, share: f64) -> Result<Self, FlowError> {
        require(
            (0.0..=1.0).contains(&share),
            "breaker.jitter",
            share,
            "a number from 0 to 1",
        )?;
        self.jitter = share;
        Ok(self)
    }

    /// Closes after `n` successful probes, at least 1.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `n` is 0.
    pub fn probe_successes(mut self, n: u32) -> Result<Self, FlowError> {
        require(n >= 1, "breaker.probe_successes", n, "at least 1")?;
        self.successes = n;
        Ok(self)
    }
}
