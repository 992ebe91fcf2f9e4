//! The time of a service, as the `Date` headers of its answers bound it.
//!
//! Host clocks lie and jump, so leases are timed by the service that holds them. A `Date` has a resolution of one second and
//! was written some time between the request and the answer: that makes an interval, and the intervals of many answers meet
//! in a narrow one. No host's wall clock is ever read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Instant;
use crate::inbox::ServiceTime;

/// An answer slower than this says too little to be used.
pub(super) const SLOWEST_ANSWER: Duration = Duration::from_secs(2);

/// How fast the monotonic clock may drift from the service's, in millionths.
const DRIFT_PPM: i128 = 200;

/// What a `Date` leaves open: it is cut to the second.
const DATE_RESOLUTION_NS: i128 = 1_000_000_000;

/// Bounds of a service's time, kept from its answers.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceClock {
    bounds: Option<Bounds>,
    /// The last answer, where it contradicted the bounds: one host of a service may be wrong alone, so another must agree.
    doubt: Option<Bounds>,
    restarts: u64,
}

/// An interval the service's time was within at a moment of the monotonic clock, in ns since 1970.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    at: Instant,
    lo: i128,
    hi: i128,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// The bounds are within it now.
    Used,
    /// It took too long to say anything.
    TooSlow,
    /// It contradicts what is known, and waits for another that agrees with it.
    Doubted,
    /// It and the one before it contradict what was known, which was thrown away.
    StartedOver,
}

impl ServiceClock {
    /// Takes in an answer that said `date_s` (s since 1970) to a request sent at `sent`, received at `received`.
    pub(super) fn observe(&mut self, sent: Instant, received: Instant, date_s: u64) -> Observed {
        let latency = received.saturating_duration_since(sent);
        if latency > SLOWEST_ANSWER {
            return Observed::TooSlow;
        }
        let date = i128::from(date_s) * DATE_RESOLUTION_NS;
        let fresh = Bounds {
            at: received,
            lo: date,
            hi: date + DATE_RESOLUTION_NS + nanos(latency),
        };
        let Some(known) = self.bounds else {
            self.bounds = Some(fresh);
            return Observed::Used;
        };
        if let Some(met) = known.meet(fresh) {
            self.bounds = Some(met);
            self.doubt = None;
            return Observed::Used;
        }
        match self.doubt.and_then(|doubt| doubt.meet(fresh)) {
            None => {
                self.doubt = Some(fresh);
                Observed::Doubted
            }
            Some(met) => {
                self.bounds = Some(met);
                self.doubt = None;
                self.restarts += 1;
                Observed::StartedOver
            }
        }
    }

    /// The bounds at `now`; none before the first answer that could be used. An answer in doubt lowers the lower one, so that
    /// no lease is taken over that it says is held; it does not raise the upper one, or one wrong answer would end all leases.
    pub(super) fn time(&self, now: Instant) -> Option<ServiceTime> {
        let bounds = self.bounds?.aged_to(now);
        let lo = self
            .doubt
            .map_or(bounds.lo, |doubt| bounds.lo.min(doubt.aged_to(now).lo));
        Some(ServiceTime {
            lo: u64::try_from(lo.div_euclid(1_000_000)).unwrap_or(0),
            hi: u64::try_from((bounds.hi + 999_999).div_euclid(1_000_000)).unwrap_or(u64::MAX),
        })
    }

    /// How often answers contradicted what was known, so that it was thrown away.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }
}

impl Bounds {
    /// What both leave open, at the later moment of the two; none where they contradict each other.
    fn meet(self, other: Self) -> Option<Self> {
        // Answers of concurrent calls may be taken in out of order.
        let at = self.at.max(other.at);
        let (this, that) = (self.aged_to(at), other.aged_to(at));
        let (lo, hi) = (this.lo.max(that.lo), this.hi.min(that.hi));
        (lo <= hi).then_some(Self { at, lo, hi })
    }

    /// The same bounds at another moment, wider by what the clocks may have drifted apart.
    fn aged_to(self, now: Instant) -> Self {
        let (passed, back) = match now.checked_duration_since(self.at) {
            Some(passed) => (nanos(passed), false),
            None => (nanos(self.at.saturating_duration_since(now)), true),
        };
        let drift = (passed * DRIFT_PPM).div_euclid(1_000_000) + 1;
        let passed = if back { -passed } else { passed };
        Self {
            at: now,
            lo: self.lo + passed - drift,
            hi: self.hi + passed + drift,
        }
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX >> 16)
}

/// A [`ServiceClock`] that calls running at once share.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedServiceClock(Arc<Mutex<ServiceClock>>);

impl SharedServiceClock {
    /// See [`ServiceClock::observe`].
    pub(super) fn observe(&self, sent: Instant, received: Instant, date_s: u64) -> Observed {
        self.lock().observe(sent, received, date_s)
    }

    /// See [`ServiceClock::time`].
    pub(super) fn time(&self, now: Instant) -> Option<ServiceTime> {
        self.lock().time(now)
    }

    /// See [`ServiceClock::restarts`].
    pub(super) fn restarts(&self) -> u64 {
        self.lock().restarts()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ServiceClock> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    const START_NS: i128 = 1_800_000_000_000_000_000;

    /// A service whose clock runs at `ppm` against the monotonic one, which starts at `origin`.
    struct Service {
        origin: Instant,
        offset_ns: i128,
        ppm: i128,
    }

    impl Service {
        fn ns_at(&self, at: Duration) -> i128 {
            let at = nanos(at);
            START_NS + self.offset_ns + at + at * self.ppm / 1_000_000
        }

        /// An answer to a request sent at `sent`, dated after `to`, received after `from` more.
        fn answer(&self, clock: &mut ServiceClock, sent: Duration, to: Duration, from: Duration) -> Observed {
            let date_s = u64::try_from(self.ns_at(sent + to) / 1_000_000_000).unwrap();
            clock.observe(self.origin + sent, self.origin + sent + to + from, date_s)
        }

        fn assert_within(&self, clock: &ServiceClock, at: Duration) {
            let time = clock.time(self.origin + at).unwrap();
            let true_ms = self.ns_at(at) / 1_000_000;
            assert!(
                i128::from(time.lo) <= true_ms && true_ms <= i128::from(time.hi),
                "{true_ms} is not within {time:?}"
            );
        }
    }

    fn service(offset_ms: i64, ppm: i128) -> Service {
        Service {
            origin: Clock::system().now(),
            offset_ns: i128::from(offset_ms) * 1_000_000,
            ppm,
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn nothing_is_known_before_the_first_answer() {
        let clock = ServiceClock::default();
        assert_eq!(clock.time(Clock::system().now()), None);
    }

    #[test]
    fn one_answer_bounds_the_time_by_a_second_and_its_latency() {
        let (service, mut clock) = (service(250, 0), ServiceClock::default());
        service.answer(&mut clock, ms(0), ms(10), ms(20));
        let time = clock.time(service.origin + ms(30)).unwrap();
        let date = u64::try_from(START_NS / 1_000_000).unwrap();
        assert!(time.lo.abs_diff(date) <= 1, "{time:?}");
        assert!(time.hi.abs_diff(date + 1_030) <= 1, "{time:?}");
    }

    #[test]
    fn answers_around_a_full_second_narrow_the_bounds_to_their_latency() {
        let (service, mut clock) = (service(0, 0), ServiceClock::default());
        for step in 0..100 {
            service.answer(&mut clock, ms(step * 37), ms(2), ms(2));
        }
        let time = clock.time(service.origin + ms(3_700)).unwrap();
        assert!(time.hi - time.lo <= 50, "{time:?}");
        service.assert_within(&clock, ms(3_700));
    }

    #[test]
    fn an_answer_slower_than_two_seconds_is_ignored() {
        let (service, mut clock) = (service(0, 0), ServiceClock::default());
        assert_eq!(service.answer(&mut clock, ms(0), ms(1_500), ms(501)), Observed::TooSlow);
        assert_eq!(clock.time(service.origin + ms(2_001)), None);
        assert_eq!(service.answer(&mut clock, ms(3_000), ms(0), ms(2_000)), Observed::Used);
        service.assert_within(&clock, ms(5_000));
    }

    #[test]
    fn an_old_answer_is_trusted_less_the_older_it_is() {
        let (service, mut clock) = (service(0, 0), ServiceClock::default());
        service.answer(&mut clock, ms(0), ms(1), ms(1));
        let width = |at| {
            let time = clock.time(service.origin + at).unwrap();
            time.hi - time.lo
        };
        // 200 ppm of an hour to either side.
        let grown = width(Duration::from_secs(3_600)) - width(ms(2));
        assert!(grown.abs_diff(1_440) <= 2, "{grown}");
    }

    #[test]
    fn an_answer_taken_in_late_still_counts_for_its_own_moment() {
        let (service, mut clock) = (service(400, 0), ServiceClock::default());
        service.answer(&mut clock, ms(5_000), ms(1), ms(1));
        service.answer(&mut clock, ms(1_000), ms(1), ms(1));
        assert_eq!(clock.restarts(), 0);
        service.assert_within(&clock, ms(5_002));
    }

    proptest! {
        #[test]
        fn the_services_time_is_always_within_the_bounds(
            offset_ms in -5_000_000i64..5_000_000,
            ppm in -190i128..=190,
            answers in prop::collection::vec((0u64..20_000, 0u64..1_500, 0u64..1_500, 0u64..600_000), 1..60),
        ) {
            let (service, mut clock) = (service(offset_ms, ppm), ServiceClock::default());
            let mut at = Duration::ZERO;
            for (pause, to, from, idle) in answers {
                at += ms(pause);
                let seen = service.answer(&mut clock, at, ms(to), ms(from));
                prop_assert!(!matches!(seen, Observed::StartedOver | Observed::Doubted));
                at += ms(to + from);
                if clock.time(service.origin + at).is_some() {
                    service.assert_within(&clock, at);
                    service.assert_within(&clock, at + ms(idle));
                }
            }
        }

        #[test]
        fn inv02_answers_that_are_wrong_alone_end_no_lease_and_open_none(
            answers in prop::collection::vec(
                (0u64..2_000, 0u64..900, 0u64..900, prop_oneof![-50_000i64..-10, 10i64..50_000]), 1..30,
            ),
        ) {
            let (service, mut clock) = (service(0, 0), ServiceClock::default());
            let mut at = ms(2);
            service.answer(&mut clock, ms(0), ms(1), ms(1));
            for (pause, to, from, wrong_s) in answers {
                at += ms(pause);
                let wrong = Service { offset_ns: i128::from(wrong_s) * 1_000_000_000, ..service };
                prop_assert_eq!(wrong.answer(&mut clock, at, ms(to), ms(from)), Observed::Doubted);
                at += ms(to + from);
                let time = clock.time(service.origin + at).unwrap();
                let true_ms = service.ns_at(at) / 1_000_000;
                prop_assert!(i128::from(time.lo) <= true_ms, "{:?}", time);
                prop_assert!((true_ms..true_ms + 4_000).contains(&i128::from(time.hi)), "{:?}", time);
                prop_assert_eq!(service.answer(&mut clock, at, ms(to), ms(from)), Observed::Used);
                at += ms(to + from);
                service.assert_within(&clock, at);
            }
            prop_assert_eq!(clock.restarts(), 0);
        }

        #[test]
        fn a_jump_of_the_services_clock_starts_the_bounds_over(
            jump_ms in prop_oneof![-600_000i64..-8_000, 8_000i64..600_000],
            answers in prop::collection::vec((0u64..2_000, 0u64..900, 0u64..900), 4..30),
        ) {
            let (mut service, mut clock) = (service(0, 0), ServiceClock::default());
            let mut at = Duration::ZERO;
            let half = answers.len() / 2;
            for (n, (pause, to, from)) in answers.into_iter().enumerate() {
                if n == half {
                    service.offset_ns += i128::from(jump_ms) * 1_000_000;
                }
                at += ms(pause);
                let seen = service.answer(&mut clock, at, ms(to), ms(from));
                at += ms(to + from);
                if n == half {
                    prop_assert_eq!(seen, Observed::Doubted);
                    let lo = i128::from(clock.time(service.origin + at).unwrap().lo);
                    prop_assert!(lo <= service.ns_at(at) / 1_000_000, "nothing is taken over too early");
                } else {
                    service.assert_within(&clock, at);
                }
            }
            prop_assert_eq!(clock.restarts(), 1);
        }
    }
}
