use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter, clock};

use super::backoff::LONGEST_DELAY;
use super::error::{FlowError, require};
use crate::clock::Instant;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

const SLOWEST: f64 = 1.0 / 86_400.0;
const FASTEST: f64 = 1_000_000.0;
const LARGEST_BURST: u32 = 100_000;

/// So many per second on average, and so many at once.
///
/// In any stretch of `t` seconds, at most `burst + per_second × t` go through.
///
/// ```
/// use redrive::flow::RateLimit;
///
/// let one_every_ten_seconds = RateLimit::per_second(0.1)?;
/// assert_eq!(one_every_ten_seconds.burst_size(), 1);
/// assert!(RateLimit::per_second(0.0).is_err());
/// # Ok::<(), redrive::flow::FlowError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    per_second: f64,
    period: Duration,
    burst: NonZeroU32,
}

impl RateLimit {
    /// `n` per second, from one a day to a million a second; as many at once as come in one second, at least one.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `n` is outside that range or not a number.
    pub fn per_second(n: f64) -> Result<Self, FlowError> {
        let range = "a number from 1/86400 (one a day) to 1000000 per second";
        require((SLOWEST..=FASTEST).contains(&n), "rate.per_second", n, range)?;
        Ok(Self {
            per_second: n,
            // Up to the next nanosecond, so that the rate is never exceeded.
            period: Duration::from_nanos((1e9 / n).ceil() as u64),
            burst: NonZeroU32::new((n as u32).min(LARGEST_BURST)).unwrap_or(NonZeroU32::MIN),
        })
    }

    /// The same rate with `n` at once, from 1 to 100,000.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `n` is outside that range.
    pub fn burst(self, n: u32) -> Result<Self, FlowError> {
        let range = "a number from 1 to 100000";
        require(n <= LARGEST_BURST, "rate.burst", n, range)?;
        let Some(burst) = NonZeroU32::new(n) else {
            return Err(FlowError::OutOfRange {
                setting: "rate.burst",
                value: n.to_string(),
                allowed: range,
            });
        };
        Ok(Self { burst, ..self })
    }

    /// How many per second, on average.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.per_second
    }

    /// How many at once, after a rest.
    #[must_use]
    pub fn burst_size(&self) -> u32 {
        self.burst.get()
    }

    /// How long an empty bucket of this limit takes to fill.
    #[must_use]
    pub fn fill_time(&self) -> Duration {
        self.period.saturating_mul(self.burst.get())
    }

    pub(super) fn limiter<S: StateStore>(self, state: S, reading: Reading) -> Limiter<S> {
        let quota = Quota::with_period(self.period).unwrap_or(Quota::per_second(self.burst));
        RateLimiter::new(quota.allow_burst(self.burst), state, reading)
    }

    fn period_nanos(&self) -> f64 {
        self.period.as_nanos() as f64
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s, {} at once", self.per_second, self.burst)
    }
}

/// A governor limiter over a [`Reading`].
pub(super) type Limiter<S> = RateLimiter<<S as StateStore>::Key, S, Reading, NoOpMiddleware<Nanos>>;

/// A governor clock that shows the `now` last handed in, in nanoseconds since the first. It never goes back.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    origin: Arc<OnceLock<Instant>>,
    nanos: Arc<AtomicU64>,
}

impl Reading {
    pub(super) fn set(&self, now: Instant) {
        self.nanos.fetch_max(self.of(now).as_u64(), Ordering::AcqRel);
    }

    /// Shows another time, also an earlier one.
    fn show(&self, nanos: Nanos) {
        self.nanos.store(nanos.as_u64(), Ordering::Release);
    }

    pub(super) fn of(&self, now: Instant) -> Nanos {
        let passed = now.saturating_duration_since(*self.origin.get_or_init(|| now));
        Nanos::new(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl clock::Clock for Reading {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.nanos.load(Ordering::Acquire))
    }
}

/// The state of one bucket: when it will be full again, in nanoseconds since its limiter was made. Kept here instead of in
/// governor's own store because a changed limit takes the tokens over.
#[derive(Clone, Debug, Default)]
struct FullAt(Arc<Mutex<u64>>);

impl FullAt {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for FullAt {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut full_at = self.lock();
        let (verdict, next) = f(Some(Nanos::new(*full_at)))?;
        *full_at = next.as_u64();
        Ok(verdict)
    }
}

#[derive(Debug)]
struct Limited {
    limit: RateLimit,
    limiter: Limiter<FullAt>,
    full_at: FullAt,
    /// The reading when the limiter was made, from which `full_at` counts.
    start: u64,
}

impl Limited {
    fn new(limit: RateLimit, reading: &Reading, tokens: f64) -> Self {
        let missing = (f64::from(limit.burst_size()) - tokens).max(0.0);
        let full_at = FullAt(Arc::new(Mutex::new((missing * limit.period_nanos()) as u64)));
        Self {
            limit,
            limiter: limit.limiter(full_at.clone(), reading.clone()),
            full_at,
            start: clock::Clock::now(reading).as_u64(),
        }
    }

    /// What is in the bucket at this reading, with the fraction that is on its way; less than nothing where tokens to come
    /// are reserved.
    fn tokens(&self, now: Nanos) -> f64 {
        let full_at = self.start.saturating_add(*self.full_at.lock());
        let missing = full_at.saturating_sub(now.as_u64()) as f64 / self.limit.period_nanos();
        f64::from(self.limit.burst_size()) - missing
    }
}

/// A token bucket: what takes a token may go on, what gets none is told how long to wait.
///
/// The limit can be changed while it is in use; a new limit keeps the tokens that are in the bucket, so that changing it
/// again and again gives no extra bursts. Time comes in as `now`; the arithmetic is `governor`'s (GCRA).
///
/// ```
/// use redrive::clock::Clock;
/// use redrive::flow::{RateLimit, TokenBucket};
/// use std::time::Duration;
///
/// let now = Clock::system().now();
/// let bucket = TokenBucket::new(Some(RateLimit::per_second(2.0)?.burst(1)?));
/// assert_eq!(bucket.take(now), Ok(()));
/// assert_eq!(bucket.take(now), Err(Duration::from_millis(500)));
/// assert_eq!(bucket.take(now + Duration::from_millis(500)), Ok(()));
/// bucket.set(None);
/// assert_eq!(bucket.take(now), Ok(()));
/// # Ok::<(), redrive::flow::FlowError>(())
/// ```
#[derive(Debug, Default)]
pub struct TokenBucket {
    reading: Reading,
    limited: Mutex<Option<Limited>>,
}

impl TokenBucket {
    /// A full bucket; without a limit, one that never runs dry.
    #[must_use]
    pub fn new(limit: Option<RateLimit>) -> Self {
        let bucket = Self::default();
        bucket.set(limit);
        bucket
    }

    /// Takes a token.
    ///
    /// # Errors
    ///
    /// How long after `now` there will be one, if none is taken before.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let limited = self.lock();
        self.reading.set(now);
        match &*limited {
            None => Ok(()),
            Some(limited) => (limited.limiter.check()).map_err(|not| not.wait_time_from(self.reading.of(now))),
        }
    }

    /// Takes the next token though it may yet have to come, if it comes within `patience`: how long after `now` the caller
    /// must wait before it goes on. No patience lasts longer than [`LONGEST_DELAY`]. Reservations are served in the order of asking; one that is not used is lost.
    ///
    /// # Errors
    ///
    /// How long after `now` there will be one, where that is longer than `patience`; nothing is taken then.
    pub fn reserve(&self, now: Instant, patience: Duration) -> Result<Duration, Duration> {
        let limited = self.lock();
        self.reading.set(now);
        let Some(limited) = &*limited else {
            return Ok(Duration::ZERO);
        };
        let Err(not) = limited.limiter.check() else {
            return Ok(Duration::ZERO);
        };
        let wait = not.wait_time_from(self.reading.of(now));
        if wait > patience.min(LONGEST_DELAY) {
            return Err(wait);
        }
        // Taken as if it were that time already; the bucket is locked, so nobody else sees the reading.
        let present = clock::Clock::now(&self.reading);
        self.reading.show(not.earliest_possible());
        let taken = limited.limiter.check();
        self.reading.show(present);
        taken.map(|()| wait).map_err(|_| wait)
    }

    /// How long after `now` a token will be there; zero if one is. Takes nothing.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        match &*self.lock() {
            None => Duration::ZERO,
            Some(limited) => {
                let missing = 1.0 - limited.tokens(self.reading.of(now));
                Duration::from_nanos((missing.max(0.0) * limited.limit.period_nanos()).ceil() as u64)
            }
        }
    }

    /// How many tokens are in the bucket; `None` without a limit. Takes nothing.
    #[must_use]
    pub fn available(&self, now: Instant) -> Option<u32> {
        (self.lock().as_ref()).map(|limited| limited.tokens(self.reading.of(now)).max(0.0) as u32)
    }

    /// The limit in force.
    #[must_use]
    pub fn limit(&self) -> Option<RateLimit> {
        self.lock().as_ref().map(|limited| limited.limit)
    }

    /// Changes the limit; `None` lifts it. The tokens in the bucket stay, up to the new burst size; where there was no
    /// limit before, the bucket starts full.
    pub fn set(&self, limit: Option<RateLimit>) {
        let mut limited = self.lock();
        *limited = limit.map(|limit| {
            let tokens = match &*limited {
                Some(old) => old.tokens(clock::Clock::now(&self.reading)),
                None => f64::INFINITY,
            };
            Limited::new(limit, &self.reading, tokens)
        });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Limited>> {
        self.limited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    fn limit(per_second: f64, burst: u32) -> Option<RateLimit> {
        Some(RateLimit::per_second(per_second).unwrap().burst(burst).unwrap())
    }

    fn now() -> Instant {
        Clock::system().now()
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Takes all that can be taken from `start` for `stretch`, waiting as told; how many that were.
    fn drain(bucket: &TokenBucket, start: Instant, stretch: Duration) -> u32 {
        let (mut at, mut taken) = (start, 0);
        while at <= start + stretch {
            match bucket.take(at) {
                Ok(()) => taken += 1,
                Err(wait) => at += wait,
            }
        }
        taken
    }

    #[test]
    fn rates_that_mean_nothing_are_refused_by_name() {
        for n in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9, 1e9] {
            let error = RateLimit::per_second(n).unwrap_err().to_string();
            assert!(error.starts_with("rate.per_second is "), "{error}");
        }
        for n in [0, 100_001] {
            let error = RateLimit::per_second(1.0).unwrap().burst(n).unwrap_err().to_string();
            assert!(error.starts_with("rate.burst is "), "{error}");
        }
    }

    #[test]
    fn the_slowest_rate_with_the_largest_burst_does_not_overflow() {
        let bucket = TokenBucket::new(limit(SLOWEST, LARGEST_BURST));
        let start = now();
        assert_eq!(drain(&bucket, start, Duration::ZERO), LARGEST_BURST);
        assert!(bucket.take(start).unwrap_err() > Duration::from_secs(86_399));
    }

    #[test]
    fn a_rate_below_one_a_second_gives_one_token_per_period() {
        let (bucket, start) = (TokenBucket::new(limit(0.1, 1)), now());
        assert_eq!(bucket.take(start), Ok(()));
        assert_eq!(bucket.take(start + ms(4_000)), Err(ms(6_000)));
        assert_eq!(drain(&bucket, start, Duration::from_secs(60)), 6);
    }

    #[test]
    fn without_a_limit_it_never_runs_dry() {
        let (bucket, start) = (TokenBucket::new(None), now());
        assert!((0..100_000).all(|_| bucket.take(start).is_ok()));
        assert_eq!(bucket.available(start), None);
        assert_eq!(bucket.wait(start), Duration::ZERO);
    }

    #[test]
    fn a_new_limit_counts_from_now_and_gives_no_second_burst() {
        let (bucket, start) = (TokenBucket::new(limit(10.0, 10)), now());
        assert_eq!(drain(&bucket, start, Duration::ZERO), 10);
        bucket.set(limit(100.0, 50));
        assert_eq!(bucket.take(start), Err(ms(10)));
        assert_eq!(drain(&bucket, start + ms(10), Duration::ZERO), 1);
        assert_eq!(drain(&bucket, start + ms(10_000), Duration::ZERO), 50);
        bucket.set(None);
        bucket.set(limit(1.0, 5));
        assert_eq!(drain(&bucket, start + ms(10_000), Duration::ZERO), 5);
    }

    #[test]
    fn changing_the_limit_often_does_not_starve_the_bucket() {
        let (bucket, start) = (TokenBucket::new(limit(1.0, 1)), now());
        let mut taken = 0;
        for step in 0..1_000 {
            bucket.set(limit(if step % 2 == 0 { 1.0 } else { 1.1 }, 1));
            taken += u32::from(bucket.take(start + ms(step * 100)).is_ok());
        }
        assert!((90..=112).contains(&taken), "{taken} in 100 s at about 1/s");
    }

    #[test]
    fn a_now_that_goes_back_gives_no_tokens_twice() {
        let (bucket, start) = (TokenBucket::new(limit(1.0, 1)), now());
        assert_eq!(bucket.take(start + ms(5_000)), Ok(()));
        assert_eq!(bucket.take(start), Err(ms(1_000)));
        assert_eq!(bucket.take(start + ms(6_000)), Ok(()));
    }

    #[test]
    fn reserved_tokens_come_one_after_the_other_in_the_order_of_asking() {
        let (bucket, start) = (TokenBucket::new(limit(10.0, 2)), now());
        let waits: Vec<_> = (0..6).map(|_| bucket.reserve(start, ms(300))).collect();
        assert_eq!(
            waits,
            [
                Ok(ms(0)),
                Ok(ms(0)),
                Ok(ms(100)),
                Ok(ms(200)),
                Ok(ms(300)),
                Err(ms(400))
            ]
        );
        assert_eq!(bucket.take(start), Err(ms(400)));
        assert_eq!((bucket.wait(start), bucket.available(start)), (ms(400), Some(0)));
        assert_eq!(bucket.take(start + ms(400)), Ok(()));
        assert_eq!(TokenBucket::new(None).reserve(start, ms(0)), Ok(ms(0)));
    }

    #[test]
    fn reservations_outlive_a_change_of_the_limit() {
        let (bucket, start) = (TokenBucket::new(limit(10.0, 1)), now());
        assert_eq!(bucket.take(start), Ok(()));
        assert_eq!(bucket.reserve(start, ms(300)), Ok(ms(100)));
        bucket.set(limit(5.0, 1));
        assert_eq!(bucket.take(start + ms(300)), Err(ms(100)));
    }

    proptest! {
        #[test]
        fn inv05_no_more_than_burst_plus_rate_times_time_go_through(
            rate in 0.05f64..2_000.0,
            burst in 1u32..200,
            steps in proptest::collection::vec((0u64..5_000_000_000, 1u32..50), 1..60),
        ) {
            let (bucket, start) = (TokenBucket::new(limit(rate, burst)), now());
            let (mut at, mut taken) = (start, 0u32);
            for (nanos, tries) in steps {
                at += Duration::from_nanos(nanos);
                for _ in 0..tries {
                    let (wait, available) = (bucket.wait(at), bucket.available(at).unwrap());
                    let got = bucket.take(at);
                    // Looking agrees with taking, up to the rounding of a fraction of a token.
                    match got {
                        Ok(()) => prop_assert!(wait <= Duration::from_micros(1)),
                        Err(told) => {
                            prop_assert_eq!(available, 0);
                            prop_assert!(told > Duration::ZERO);
                            prop_assert!(told.abs_diff(wait) <= Duration::from_micros(1), "{told:?} {wait:?}");
                        }
                    }
                    taken += u32::from(got.is_ok());
                }
                let most = f64::from(burst) + rate * (at - start).as_secs_f64();
                prop_assert!(f64::from(taken) <= most + 1e-6, "{taken} > {most}");
            }
        }

        #[test]
        fn inv05_reserved_and_taken_together_stay_within_the_rate(
            rate in 0.05f64..2_000.0,
            burst in 1u32..20,
            steps in proptest::collection::vec((0u64..2_000_000_000, any::<bool>()), 1..100),
        ) {
            let (bucket, start) = (TokenBucket::new(limit(rate, burst)), now());
            let (mut at, mut used) = (start, Vec::new());
            for (nanos, reserve) in steps {
                at += Duration::from_nanos(nanos);
                if !reserve {
                    used.extend(bucket.take(at).is_ok().then_some(at));
                } else if let Ok(wait) = bucket.reserve(at, ms(5_000)) {
                    prop_assert!(wait <= ms(5_000));
                    used.push(at + wait);
                }
            }
            used.sort();
            for (first, from) in used.iter().enumerate() {
                for (last, to) in used.iter().enumerate().skip(first) {
                    let most = f64::from(burst) + rate * (*to - *from).as_secs_f64();
                    prop_assert!((last - first + 1) as f64 <= most + 1e-3);
                }
            }
        }

        #[test]
        fn whoever_waits_as_told_gets_a_token(rate in 0.05f64..2_000.0, burst in 1u32..20, nanos in 0u64..1_000_000_000) {
            let (bucket, start) = (TokenBucket::new(limit(rate, burst)), now());
            prop_assert_eq!(drain(&bucket, start, Duration::ZERO), burst);
            let at = start + Duration::from_nanos(nanos);
            if let Err(wait) = bucket.take(at) {
                prop_assert_eq!(bucket.take(at + wait), Ok(()));
            }
        }
    }
}
