//! Buckets, budgets and backoffs against models in whole nanoseconds that keep everything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::clock::{Clock, Instant, Random};
use crate::prop::cases;

/// A bucket that fills by one nanosecond each nanosecond, and of which a token is a period.
#[derive(Clone, Copy, Debug)]
struct Credit {
    period: i128,
    burst: i128,
    credit: i128,
    at: i128,
    /// How far it may be off: a change of the limit carries a fraction of a token over.
    slack: i128,
}

impl Credit {
    fn full(limit: RateLimit) -> Self {
        let burst = i128::from(limit.burst_size());
        let period = (1e9 / limit.rate()).ceil() as i128;
        Self {
            period,
            burst,
            credit: burst * period,
            at: 0,
            slack: 0,
        }
    }

    fn pass_to(&mut self, now: i128) {
        if now > self.at {
            self.credit = (self.credit + now - self.at).min(self.burst * self.period);
            self.at = now;
        }
    }

    /// How long after `now` a token is there.
    fn wait(&self, now: i128) -> i128 {
        (self.period - self.credit).max(0) + if self.credit < self.period { self.at - now } else { 0 }
    }

    fn changed_to(&self, limit: RateLimit) -> Self {
        let mut new = Self::full(limit);
        let tokens = self.credit as f64 / self.period as f64;
        new.credit = new.credit.min((tokens * new.period as f64) as i128);
        new.at = self.at;
        new.slack = new.period / 100_000 + 4 + self.slack * new.period / self.period;
        new
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Take {
        back: u64,
    },
    /// With so much patience; `None` with just as much as it takes.
    Reserve(Option<u64>),
    Look,
    Set(RateLimit),
    Pass(u64),
}

fn limit() -> impl Strategy<Value = RateLimit> {
    let rate = prop_oneof![0.05f64..5.0, 5.0f64..3_000.0, Just(1_000_000.0), Just(1.0)];
    (rate, 1u32..60).prop_map(|(rate, burst)| RateLimit::per_second(rate).unwrap().burst(burst).unwrap())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop_oneof![9 => Just(0u64), 1 => 0u64..2_000_000_000].prop_map(|back| Step::Take { back }),
        3 => prop::option::weighted(0.7, prop_oneof![0u64..50_000_000, 0u64..20_000_000_000]).prop_map(Step::Reserve),
        3 => Just(Step::Look),
        1 => limit().prop_map(Step::Set),
        6 => prop_oneof![0u64..3_000_000, 0u64..4_000_000_000].prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(cases(512))]

    /// To the nanosecond: what goes through, and how long what does not is told to wait.
    #[test]
    fn inv05_the_bucket_is_the_plain_one(first in limit(), changes in any::<bool>(), steps in prop::collection::vec(step(), 1..120)) {
        let origin = Clock::system().now();
        let bucket = TokenBucket::new(Some(first));
        let mut model = Credit::full(first);
        let mut now = 10_000_000_000u64;
        let at = |nanos: u64| origin + Duration::from_nanos(nanos);
        // The bucket's time begins with the first that it is told.
        prop_assert_eq!(bucket.take(at(0)), Ok(()));
        model.credit -= model.period;
        for step in steps {
            match step {
                Step::Take { back } => {
                    let asked = now - back;
                    model.pass_to(asked.into());
                    let got = bucket.take(at(asked));
                    let unsure = (model.credit - model.period).abs() <= model.slack;
                    if got.is_ok() {
                        prop_assert!(unsure || model.credit >= model.period, "{model:?}");
                        model.credit -= model.period;
                    } else {
                        prop_assert!(unsure || model.credit < model.period, "{model:?}");
                        let told = nanos(got.unwrap_err());
                        prop_assert!((told - model.wait(asked.into())).abs() <= model.slack, "{told} {model:?}");
                    }
                }
                Step::Reserve(patience) => {
                    model.pass_to(now.into());
                    let (wait, slack) = (model.wait(now.into()), model.slack);
                    let patience = patience.unwrap_or(u64::try_from(wait).unwrap());
                    match bucket.reserve(at(now), Duration::from_nanos(patience)) {
                        Ok(told) => {
                            prop_assert!((nanos(told) - wait).abs() <= slack);
                            prop_assert!(told <= Duration::from_nanos(patience));
                            model.credit -= model.period;
                        }
                        Err(told) => {
                            prop_assert!((nanos(told) - wait).abs() <= slack);
                            prop_assert!(told > Duration::from_nanos(patience));
                        }
                    }
                }
                Step::Look => {
                    // A look moves nothing on, not even time.
                    let mut model = model;
                    model.pass_to(now.into());
                    let (wait, there) = (nanos(bucket.wait(at(now))), bucket.available(at(now)).unwrap());
                    // Looking reckons in fractions of a token.
                    let slack = model.slack + model.period / 1_000_000 + 1;
                    prop_assert!((wait - model.wait(now.into())).abs() <= slack, "{wait} {model:?}");
                    let low = (model.credit - slack).max(0) / model.period;
                    let high = (model.credit + slack).max(0) / model.period;
                    prop_assert!((low..=high).contains(&i128::from(there)), "{there} {model:?}");
                }
                Step::Set(limit) if changes => {
                    // The bucket goes by the last time it was told to take at.
                    let told = bucket.reserve(at(now), Duration::ZERO);
                    model.pass_to(now.into());
                    if told.is_ok() {
                        model.credit -= model.period;
                    }
                    bucket.set(Some(limit));
                    model = model.changed_to(limit);
                }
                Step::Set(_) => {}
                Step::Pass(nanos) => now += nanos,
            }
        }
    }

    /// As many buckets as keys, none of them ever forgotten.
    #[test]
    fn inv05_a_bucket_per_key_is_as_good_as_one_for_ever(
        limit in limit(),
        steps in prop::collection::vec((0u8..6, prop_oneof![0u64..3_000_000, 0u64..30_000_000_000], 1usize..20), 1..150),
    ) {
        let origin = Clock::system().now();
        // So few that the full ones are forgotten again and again.
        let buckets = KeyedBuckets::new(limit).most_keys(6).unwrap();
        let mut model: BTreeMap<u8, Credit> = BTreeMap::new();
        let mut now = 0u64;
        for (key, passed, tries) in steps {
            now += passed;
            for _ in 0..tries {
                let credit = model.entry(key).or_insert(Credit::full(limit));
                credit.pass_to(now.into());
                let got = buckets.take(&key.to_string(), origin + Duration::from_nanos(now));
                let expected = credit.wait(now.into());
                prop_assert_eq!(got.err().map_or(0, nanos), expected);
                if expected == 0 {
                    credit.credit -= credit.period;
                }
            }
        }
    }

    /// With room for few keys, one has at most its own bucket and the shared one.
    #[test]
    fn inv05_a_flood_of_keys_gives_none_more_than_two_buckets(
        steps in prop::collection::vec((0u8..12, 0u64..600_000_000), 1..300),
        most in 1usize..5,
    ) {
        let limit = RateLimit::per_second(2.0).unwrap().burst(3).unwrap();
        let origin = Clock::system().now();
        let buckets = KeyedBuckets::new(limit).most_keys(most).unwrap();
        let mut now = 0u64;
        let mut through: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
        for (key, passed) in steps {
            now += passed;
            if buckets.take(&key.to_string(), origin + Duration::from_nanos(now)).is_ok() {
                through.entry(key).or_default().push(now);
            }
        }
        for times in through.values() {
            for (first, from) in times.iter().enumerate() {
                for (last, to) in times.iter().enumerate().skip(first) {
                    let most = 2.0 * (3.0 + 2.0 * (to - from) as f64 / 1e9);
                    prop_assert!((last - first + 1) as f64 <= most + 1e-6);
                }
            }
        }
    }

    /// Every call and retry kept: a retry is refused only where it would break the rule for what is surely in the window, and
    /// allowed only where it keeps it for what is surely in it.
    #[test]
    fn inv05_the_budget_refuses_no_retry_that_is_within_it(
        ratio in prop_oneof![Just(0.0), Just(0.125), Just(0.5)],
        floor in prop_oneof![Just(0.0), Just(0.5), Just(2.0)],
        steps in prop::collection::vec((0u64..3_000, 0u32..40, 0u32..20), 1..100),
    ) {
        let (mut budget, origin) = (RetryBudget::new(ratio, floor).unwrap(), Clock::system().now());
        let (mut now, mut calls, mut retries) = (0u64, Vec::new(), Vec::new());
        for (gap, called, tried) in steps {
            now += gap;
            let at = origin + Duration::from_millis(now);
            for _ in 0..called {
                budget.call(at);
                calls.push(now);
            }
            for _ in 0..tried {
                let younger = |all: &[u64], than: u64| all.iter().filter(|at| now - **at < than).count() as f64;
                let most = |window| (ratio * younger(&calls, window)).max(floor * 10.0);
                let allowed = budget.try_retry(at);
                if !allowed {
                    prop_assert!(younger(&retries, 10_000) + 1.0 > most(9_000), "refused for nothing");
                } else {
                    prop_assert!(younger(&retries, 9_000) + 1.0 <= most(10_000), "allowed too much");
                    retries.push(now);
                }
            }
        }
    }

    /// Doubling by adding, so that nothing can overflow unseen.
    #[test]
    fn full_jitter_stays_within_base_doubled_and_uses_all_of_it(
        base_ms in 1u64..100_000,
        above_ms in 0u64..43_000_000,
        attempt in prop_oneof![0u32..70, Just(u32::MAX), any::<u32>()],
        seed in any::<u64>(),
    ) {
        let base = Duration::from_millis(base_ms);
        let cap = (base + Duration::from_millis(above_ms)).min(LONGEST_DELAY);
        let mut most = base.as_nanos();
        for _ in 1..attempt.min(200) {
            most = (most + most).min(cap.as_nanos());
        }
        let backoff = Backoff::new(base, cap).unwrap();
        let random = Random::seeded(seed);
        prop_assert_eq!(backoff.ceiling(attempt).as_nanos(), most.min(cap.as_nanos()));
        let drawn: Vec<u128> = (0..64).map(|_| backoff.delay(attempt, &random).as_nanos()).collect();
        prop_assert!(drawn.iter().all(|delay| *delay <= most));
        // Each half is missed once in 2^64.
        prop_assert!(drawn.iter().any(|delay| delay * 2 <= most) && drawn.iter().any(|delay| delay * 2 >= most));
    }

    /// Seconds are what they say, and a date is what is left until it, in any of its three forms.
    #[test]
    fn retry_after_reads_what_was_written(
        seconds in prop_oneof![0u64..100_000, any::<u64>()],
        date_s in 0u64..4_000_000_000,
        before_ms in -100_000i64..100_000_000,
        spaces in " {0,2}",
    ) {
        let longest = u64::try_from(LONGEST_DELAY.as_millis()).unwrap();
        let written = format!("{spaces}{seconds}{spaces}");
        let expected = Duration::from_millis(seconds.saturating_mul(1_000).min(longest));
        prop_assert_eq!(parse_retry_after(&written, 17), Some(expected));
        let now_ms = (i64::try_from(date_s).unwrap() * 1_000 - before_ms).max(0).cast_unsigned();
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(date_s));
        let left = (date_s * 1_000).saturating_sub(now_ms).min(longest);
        prop_assert_eq!(parse_retry_after(&format!("{date}{spaces}"), now_ms), Some(Duration::from_millis(left)));
    }
}

/// A bucket that nobody asks for long keeps no more than its burst.
#[test]
fn inv05_a_long_rest_fills_the_bucket_and_no_more() {
    let (origin, limit) = (
        Clock::system().now(),
        RateLimit::per_second(3.0).unwrap().burst(7).unwrap(),
    );
    let bucket = TokenBucket::new(Some(limit));
    let taken = |at: Instant| (0..100).filter(|_| bucket.take(at).is_ok()).count();
    assert_eq!(taken(origin), 7);
    assert_eq!(taken(origin + Duration::from_secs(400 * 24 * 3_600)), 7);
}
