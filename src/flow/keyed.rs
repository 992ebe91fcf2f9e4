use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use governor::nanos::Nanos;
use governor::state::StateStore;

use super::error::{FlowError, require};
use super::rate::{Limiter, RateLimit, Reading};
use crate::clock::Instant;
use crate::sync::{Mutex, MutexGuard};

const DEFAULT_MOST_KEYS: usize = 10_000;
const LARGEST_MOST_KEYS: usize = 1_000_000;
const FIRST_SWEEP: usize = 256;

/// A token bucket per key: per tenant, say, so that one tenant's backlog does not spend another's rate.
///
/// Memory is bounded. A bucket that has filled up again is as good as a new one, so full buckets are forgotten; at most
/// 10,000 others ([`most_keys`](Self::most_keys)) are kept. Keys for which there is no room share **one** bucket of the
/// same limit until there is, so that a flood of new keys is limited too. A key is kept as given: bound its length
/// before.
///
/// ```
/// use redrive::clock::Clock;
/// use redrive::flow::{KeyedBuckets, RateLimit};
/// use std::time::Duration;
///
/// let now = Clock::system().now();
/// let tenants = KeyedBuckets::new(RateLimit::per_second(1.0)?);
/// assert_eq!(tenants.take("acme", now), Ok(()));
/// assert_eq!(tenants.take("acme", now), Err(Duration::from_secs(1)));
/// assert_eq!(tenants.take("globex", now), Ok(()));
/// # Ok::<(), redrive::flow::FlowError>(())
/// ```
#[derive(Debug)]
pub struct KeyedBuckets {
    limit: RateLimit,
    reading: Reading,
    buckets: Buckets,
    limiter: Limiter<Buckets>,
}

impl KeyedBuckets {
    /// Buckets of this limit, each full at first, for at most 10,000 keys at a time.
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        Self::bounded(limit, DEFAULT_MOST_KEYS)
    }

    /// The same limit with room for `n` keys at a time, from 1 to 1,000,000. Every bucket starts full.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `n` is outside that range.
    pub fn most_keys(self, n: usize) -> Result<Self, FlowError> {
        let range = "a number from 1 to 1000000";
        require((1..=LARGEST_MOST_KEYS).contains(&n), "rate.most_keys", n, range)?;
        Ok(Self::bounded(self.limit, n))
    }

    fn bounded(limit: RateLimit, most_keys: usize) -> Self {
        let reading = Reading::default();
        let buckets = Buckets::new(most_keys, limit.fill_time());
        Self {
            limit,
            limiter: limit.limiter(buckets.clone(), reading.clone()),
            buckets,
            reading,
        }
    }

    /// Takes a token from this key's bucket.
    ///
    /// # Errors
    ///
    /// How long after `now` there will be one, if none is taken before.
    pub fn take(&self, key: &str, now: Instant) -> Result<(), Duration> {
        self.reading.set(now);
        let at = self.reading.of(now);
        self.buckets.lock().forget_full(at.as_u64());
        self.limiter
            .check_key(&key.to_owned())
            .map_err(|not| not.wait_time_from(at))
    }

    /// The limit of every bucket.
    #[must_use]
    pub fn limit(&self) -> RateLimit {
        self.limit
    }
}

#[derive(Clone, Debug)]
struct Buckets(Arc<Mutex<State>>);

/// When each bucket will be full again, in nanoseconds on the reading (the limiter is made at reading zero).
#[derive(Debug)]
struct State {
    full_at: BTreeMap<String, u64>,
    shared_full_at: u64,
    most_keys: usize,
    /// The number of keys that starts a sweep: twice what the last one left, so that a sweep's cost is shared by the takes
    /// that made it due.
    sweep_from: usize,
    /// A table that stays full is not swept at every take.
    sweep_not_before: u64,
    sweep_pause: u64,
}

impl Buckets {
    fn new(most_keys: usize, fill_time: Duration) -> Self {
        Self(Arc::new(Mutex::new(State {
            full_at: BTreeMap::new(),
            shared_full_at: 0,
            most_keys,
            sweep_from: FIRST_SWEEP.min(most_keys),
            sweep_not_before: 0,
            sweep_pause: u64::try_from((fill_time / 16).as_nanos()).unwrap_or(u64::MAX),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_full(&mut self, now: u64) {
        if self.full_at.len() < self.sweep_from || now < self.sweep_not_before {
            return;
        }
        self.full_at.retain(|_, full_at| *full_at > now);
        self.sweep_from = (self.full_at.len() * 2).max(FIRST_SWEEP).min(self.most_keys);
        self.sweep_not_before = now.saturating_add(self.sweep_pause);
    }
}

impl StateStore for Buckets {
    type Key = String;

    fn measure_and_replace<T, F, E>(&self, key: &String, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut state = self.lock();
        if let Some(full_at) = state.full_at.get_mut(key) {
            let (verdict, next) = f(Some(Nanos::new(*full_at)))?;
            *full_at = next.as_u64();
            return Ok(verdict);
        }
        if state.full_at.len() >= state.most_keys {
            let (verdict, next) = f(Some(Nanos::new(state.shared_full_at)))?;
            state.shared_full_at = next.as_u64();
            return Ok(verdict);
        }
        let (verdict, next) = f(None)?;
        state.full_at.insert(key.clone(), next.as_u64());
        Ok(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn buckets(per_second: f64, burst: u32) -> KeyedBuckets {
        KeyedBuckets::new(RateLimit::per_second(per_second).unwrap().burst(burst).unwrap())
    }

    fn kept(buckets: &KeyedBuckets) -> usize {
        buckets.buckets.lock().full_at.len()
    }

    #[test]
    fn one_key_does_not_spend_what_another_has() {
        let (buckets, now) = (buckets(1.0, 2), Clock::system().now());
        assert_eq!(buckets.take("a", now), Ok(()));
        assert_eq!(buckets.take("a", now), Ok(()));
        assert_eq!(buckets.take("a", now), Err(Duration::from_secs(1)));
        assert_eq!(buckets.take("b", now), Ok(()));
        assert_eq!(buckets.take("a", now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn inv05_a_key_that_was_forgotten_comes_back_with_a_full_bucket_and_no_more() {
        let buckets = buckets(1.0, 3).most_keys(8).unwrap();
        let start = Clock::system().now();
        for second in 0..100u32 {
            let now = start + Duration::from_secs(second.into());
            if second % 10 == 0 {
                assert!(!buckets.buckets.lock().full_at.contains_key("a"));
                let taken = (0..10).filter(|_| buckets.take("a", now).is_ok()).count();
                assert_eq!(taken, 3, "in second {second}");
            }
            for other in 0..5 {
                assert_eq!(buckets.take(&format!("other-{second}-{other}"), now), Ok(()));
            }
        }
    }

    #[test]
    fn inv05_memory_is_bounded_and_a_flood_of_keys_is_limited_as_one() {
        let buckets = buckets(1.0, 1).most_keys(100).unwrap();
        let now = Clock::system().now();
        let through = (0..5_000)
            .filter(|n| buckets.take(&format!("key-{n}"), now).is_ok())
            .count();
        assert_eq!(through, 101);
        assert_eq!(kept(&buckets), 100);
        assert!(buckets.take("key-100", now).is_err());
    }

    #[test]
    fn idle_keys_are_forgotten() {
        let buckets = buckets(10.0, 1);
        let start = Clock::system().now();
        for n in 0..20_000u32 {
            let now = start + Duration::from_millis(u64::from(n) * 10);
            assert_eq!(buckets.take(&format!("key-{n}"), now), Ok(()));
            assert!(kept(&buckets) <= FIRST_SWEEP + 1);
        }
    }

    #[test]
    fn a_bound_that_means_nothing_is_refused_by_name() {
        let error = buckets(1.0, 1).most_keys(0).unwrap_err().to_string();
        assert!(error.starts_with("rate.most_keys is 0"), "{error}");
    }
}
