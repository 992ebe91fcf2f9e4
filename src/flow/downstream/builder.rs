use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Downstream, Inner};
use crate::clock::{Clock, Random};
use crate::flow::breaker::report_state;
use crate::flow::error::require;
use crate::flow::{
    Backoff, BreakerConfig, BreakerState, Bulkhead, CircuitBreaker, FlowError, LONGEST_DELAY, RateLimit, RetryBudget,
    TokenBucket,
};
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU64;

const MOST_RETRIES: u32 = 20;
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// Settings of a [`Downstream`]; [`build`](Self::build) checks them.
#[derive(Clone, Debug)]
#[must_use = "call `build` to get the `Downstream`"]
pub struct DownstreamBuilder {
    name: String,
    timeout: Duration,
    retries: u32,
    max_wait: Duration,
    backoff: Backoff,
    budget: RetryBudget,
    breaker: BreakerConfig,
    rate: Option<RateLimit>,
    bulkhead: Option<usize>,
    clock: Clock,
    random: Random,
}

impl DownstreamBuilder {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            timeout: Duration::from_secs(10),
            retries: 2,
            max_wait: Duration::from_secs(5),
            backoff: Backoff::in_a_call(),
            budget: RetryBudget::default(),
            breaker: BreakerConfig::default(),
            rate: None,
            bulkhead: None,
            clock: Clock::system(),
            random: Random::from_system(),
        }
    }

    /// The time one try has, from 1 ms to 12 h; 10 s unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often a failed call is tried again, from 0 to 20; 2 unless set. The message it is for will be tried again
    /// anyway, so a few are enough.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// The longest that one try waits for a token, and then for a slot, and the longest `Retry-After` that is waited for
    /// here, from 0 to 1 h; 5 s unless set. The handler holds its slot meanwhile: a longer wait is the queue's, and the
    /// error says how long.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// How long to wait between tries; 100 ms doubling to 5 s with full jitter unless set.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How many of the calls may be retries; a tenth, and 3 a second where there are few, unless set.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// When the circuit breaker opens and closes.
    pub fn breaker(mut self, config: BreakerConfig) -> Self {
        self.breaker = config;
        self
    }

    /// How many tries per second; no limit unless set.
    pub fn rate(mut self, limit: RateLimit) -> Self {
        self.rate = Some(limit);
        self
    }

    /// How many tries at once, from 1 to 1,000,000; no limit unless set.
    pub fn bulkhead(mut self, limit: usize) -> Self {
        self.bulkhead = Some(limit);
        self
    }

    /// Where the time comes from.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Where chance comes from.
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// The downstream.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] for the first setting that cannot be right.
    pub fn build(self) -> Result<Downstream, FlowError> {
        require(!self.name.trim().is_empty(), "downstream.name", "empty", "a name")?;
        require(
            self.timeout >= Duration::from_millis(1) && self.timeout <= LONGEST_DELAY,
            "downstream.timeout",
            format!("{:?}", self.timeout),
            "from 1 ms to 12 hours",
        )?;
        require(
            self.retries <= MOST_RETRIES,
            "downstream.retries",
            self.retries,
            "at most 20",
        )?;
        require(
            self.max_wait <= LONGEST_WAIT,
            "downstream.max_wait",
            format!("{:?}", self.max_wait),
            "at most 1 hour",
        )?;
        let bulkhead = match self.bulkhead {
            Some(limit) => Some(Bulkhead::new(self.name.clone(), limit)?),
            None => None,
        };
        report_state(&self.name, BreakerState::Closed);
        Ok(Downstream {
            key: None,
            inner: Arc::new(Inner {
                name: self.name.into(),
                timeout: self.timeout,
                retries: self.retries,
                max_wait: self.max_wait,
                backoff: self.backoff,
                budget: Mutex::new(self.budget),
                breaker: Mutex::new(CircuitBreaker::new(self.breaker, self.random.clone())),
                states: watch::Sender::new(BreakerState::Closed),
                bucket: TokenBucket::new(self.rate),
                bulkhead,
                calls: AtomicU64::new(0),
                clock: self.clock,
                random: self.random,
            }),
        })
    }
}
