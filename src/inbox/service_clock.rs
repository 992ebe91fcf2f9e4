//! The time of a service, as the `Date` headers of its answers bound it.
//!
//! Host clocks lie and jump, so leases are timed by the service that holds them. A `Date` has a resolution of one second and
//! was written some time between the request and the answer: that makes an interval, and the intervals of many answers meet
//! in a narrow one. No host's wall clock is ever read.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::clock::{Instant, Moment};
use crate::inbox::ServiceTime;
use crate::sync::{Mutex, MutexGuard};

/// An answer slower than this says too little to be used.
pub(super) const SLOWEST_ANSWER: Duration = Duration::from_secs(2);

/// By how much the wall clock may run ahead of the monotonic one while an answer is awaited. Beyond it the host may have been
/// suspended meanwhile, and how old the answer is is not known.
const MOST_AHEAD: Duration = Duration::from_secs(1);

/// How fast the monotonic clock may drift from the service's, in millionths: as fast as `ntpd` slews a clock that is wrong, and
/// kernels let others. A daemon that is set to slew faster must not be used.
const DRIFT_PPM: i128 = 500;

/// What a `Date` leaves open: it is cut to the second.
const DATE_RESOLUTION_NS: i128 = 1_000_000_000;

/// Bounds of a service's time, kept from its answers.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceClock {
    bounds: Option<Bounds>,
    /// What contradicts them.
    rival: Option<Rival>,
    restarts: u64,
}

/// An interval the service's time was within at a moment of the monotonic clock, in ns since 1970.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    at: Instant,
    lo: i128,
    hi: i128,
}

/// Bounds that contradict those known.
#[derive(Clone, Copy, Debug)]
struct Rival {
    bounds: Bounds,
    since: Instant,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    /// The bounds are within it now.
    Used,
    /// It took too long to say anything, or may have.
    TooSlow,
    /// It contradicts what was known: the time is within either, until another answer tells which.
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
        let met = known.met_with(fresh);
        let Some(rival) = self.rival else {
            return match met {
                Some(_) => {
                    self.bounds = met;
                    Observed::Used
                }
                None => self.start_over(fresh),
            };
        };
        let rival_met = rival.bounds.met_with(fresh);
        // What was asked before the contradiction is no judge of it.
        let decides = sent >= rival.since;
        match (met, rival_met) {
            (None, None) => return self.start_over(fresh),
            (Some(_), None) if decides => {
                self.bounds = met;
                self.rival = None;
            }
            (None, Some(_)) if decides => {
                self.bounds = rival_met;
                self.rival = None;
            }
            _ => {
                self.bounds = met.or(self.bounds);
                let bounds = rival_met.unwrap_or(rival.bounds);
                self.rival = Some(Rival { bounds, ..rival });
            }
        }
        Observed::Used
    }

    /// One answer may be a proxy's, or of a host whose clock is wrong: both count until another one agrees with either.
    fn start_over(&mut self, fresh: Bounds) -> Observed {
        self.rival = Some(Rival {
            bounds: fresh,
            since: fresh.at,
        });
        self.restarts += 1;
        Observed::StartedOver
    }

    /// The bounds at `now`; none before the first answer that could be used. What contradicts them lowers the lower one, so that
    /// no lease is taken over that it says is held. It does not raise the upper one, or one wrong answer would end every lease:
    /// whoever holds one must ask ([`in_doubt`](Self::in_doubt)).
    pub(super) fn time(&self, now: Instant) -> Option<ServiceTime> {
        let mut bounds = self.bounds?.aged_to(now);
        if let Some(rival) = self.rival {
            bounds.lo = bounds.lo.min(rival.bounds.aged_to(now).lo);
        }
        Some(ServiceTime {
            lo: u64::try_from(bounds.lo.div_euclid(1_000_000)).unwrap_or(0),
            hi: u64::try_from((bounds.hi + 999_999).div_euclid(1_000_000)).unwrap_or(u64::MAX),
        })
    }

    /// Whether the last answers contradict each other, and the next has to tell which is right.
    pub(super) fn in_doubt(&self) -> bool {
        self.rival.is_some()
    }

    /// How often an answer contradicted what was known.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }
}

impl Bounds {
    /// Where both hold, unless they contradict each other.
    fn met_with(self, other: Self) -> Option<Self> {
        // Answers of concurrent calls may be taken in out of order.
        let at = self.at.max(other.at);
        let (one, other) = (self.aged_to(at), other.aged_to(at));
        let (lo, hi) = (one.lo.max(other.lo), one.hi.min(other.hi));
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
    /// See [`ServiceClock::observe`]; nothing, if the host may have been suspended while the answer was awaited.
    pub(super) fn answered(&self, sent: &Moment, received: &Moment, date_s: u64) -> Observed {
        if received.wall_ran_ahead_since(sent) > MOST_AHEAD {
            return Observed::TooSlow;
        }
        self.observe(sent.at, received.at, date_s)
    }

    /// See [`ServiceClock::observe`].
    pub(super) fn observe(&self, sent: Instant, received: Instant, date_s: u64) -> Observed {
        self.lock().observe(sent, received, date_s)
    }

    /// See [`ServiceClock::time`].
    pub(super) fn time(&self, now: Instant) -> Option<ServiceTime> {
        self.lock().time(now)
    }

    /// See [`ServiceClock::in_doubt`].
    pub(super) fn in_doubt(&self) -> bool {
        self.lock().in_doubt()
    }

    /// See [`ServiceClock::restarts`].
    pub(super) fn restarts(&self) -> u64 {
        self.lock().restarts()
    }

    fn lock(&self) -> MutexGuard<'_, ServiceClock> {
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
    fn of_two_answers_that_contradict_each_other_both_are_in_doubt_until_a_third_agrees_with_one() {
        for later in [0, 3_600_000] {
            let (mut service, mut clock) = (service(0, 0), ServiceClock::default());
            service.answer(&mut clock, ms(0), ms(1), ms(1));
            service.offset_ns += 3_600_000 * 1_000_000;
            assert_eq!(service.answer(&mut clock, ms(100), ms(1), ms(1)), Observed::StartedOver);
            assert!(clock.in_doubt());
            service.offset_ns = 0;
            service.assert_within(&clock, ms(200));
            service.offset_ns = later * 1_000_000;
            assert_eq!(
                service.answer(&mut clock, ms(50), ms(1), ms(80)),
                Observed::Used,
                "asked before"
            );
            assert!(clock.in_doubt());
            service.answer(&mut clock, ms(300), ms(1), ms(1));
            assert!(!clock.in_doubt());
            let time = clock.time(service.origin + ms(302)).unwrap();
            assert!(time.hi - time.lo <= 1_100, "{time:?}");
            service.assert_within(&clock, ms(302));
            assert_eq!(clock.restarts(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_awaited_while_the_host_was_suspended_is_ignored() {
        let (clock, shared) = (Clock::starting_at(0), SharedServiceClock::default());
        let sent = clock.moment();
        clock.step_by(1_000);
        assert_eq!(shared.answered(&sent, &clock.moment(), 1_000), Observed::Used);
        clock.step_by(-7_200_000);
        assert_eq!(
            shared.answered(&sent, &clock.moment(), 1_000),
            Observed::Used,
            "set back"
        );
        clock.step_by(7_500_000);
        assert_eq!(shared.answered(&sent, &clock.moment(), 1_000), Observed::TooSlow);
    }

    #[test]
    fn an_old_answer_is_trusted_less_the_older_it_is() {
        let (service, mut clock) = (service(0, 0), ServiceClock::default());
        service.answer(&mut clock, ms(0), ms(1), ms(1));
        let width = |at| {
            let time = clock.time(service.origin + at).unwrap();
            time.hi - time.lo
        };
        // 500 ppm of an hour to either side.
        let grown = width(Duration::from_secs(3_600)) - width(ms(2));
        assert!(grown.abs_diff(3_600) <= 2, "{grown}");
    }

    #[test]
    fn an_answer_taken_in_late_still_counts_for_its_own_moment() {
        let (service, mut clock) = (service(400, 0), ServiceClock::default());
        service.answer(&mut clock, ms(5_000), ms(1), ms(1));
        service.answer(&mut clock, ms(1_000), ms(1), ms(1));
        assert_eq!(clock.restarts(), 0);
        service.assert_within(&clock, ms(5_002));
    }

    /// One answer of a service whose clock drifts now one way, now the other.
    #[derive(Clone, Debug)]
    struct Answer {
        pause_ms: u64,
        to_ms: u64,
        from_ms: u64,
        ppm: i128,
        jump_ms: i64,
        /// Taken in after the next one.
        late: bool,
    }

    fn any_answer() -> impl Strategy<Value = Answer> {
        let pause = prop_oneof![4 => 0u64..3_000, 1 => 0u64..4_000_000];
        let leg = || prop_oneof![6 => 0u64..900, 1 => 0u64..2_500];
        let jump = prop_oneof![30 => Just(0i64), 1 => -600_000i64..600_000];
        (pause, leg(), leg(), -499i128..=499, jump, prop::bool::weighted(0.2)).prop_map(
            |(pause_ms, to_ms, from_ms, ppm, jump_ms, late)| Answer {
                pause_ms,
                to_ms,
                from_ms,
                ppm,
                jump_ms,
                late,
            },
        )
    }

    /// The rule as it is said: every answer kept, each aged by itself, all of them met; and beside them those that contradict
    /// them, until an answer to a later request agrees with one side only.
    #[derive(Default)]
    struct Kept {
        answers: Vec<Interval>,
        rivals: Option<(Vec<Interval>, Instant)>,
        restarts: u64,
    }

    type Interval = (Instant, i128, i128);

    fn meet(answers: &[Interval], now: Instant) -> Option<(i128, i128)> {
        let aged = answers.iter().map(|&(at, lo, hi)| {
            let passed = nanos(now.saturating_duration_since(at)) - nanos(at.saturating_duration_since(now));
            let drift = passed.abs() / 2_000;
            (lo + passed - drift, hi + passed + drift)
        });
        aged.reduce(|one, other| (one.0.max(other.0), one.1.min(other.1)))
    }

    /// The answers with one more, if all of them meet.
    fn with(answers: &[Interval], one: Interval) -> Option<Vec<Interval>> {
        let all: Vec<Interval> = answers.iter().copied().chain([one]).collect();
        let latest = all.iter().map(|answer| answer.0).max().unwrap();
        // What all but meets is left to the rounding of nanoseconds.
        meet(&all, latest).filter(|(lo, hi)| lo <= hi).map(|_| all)
    }

    impl Kept {
        fn bounds(&self, now: Instant) -> Option<(i128, i128)> {
            let known = meet(&self.answers, now)?;
            let rivals = self.rivals.as_ref().and_then(|(rivals, _)| meet(rivals, now));
            Some(rivals.map_or(known, |rival| (known.0.min(rival.0), known.1)))
        }

        fn observe(&mut self, sent: Instant, received: Instant, date_s: u64) -> Observed {
            let latency = received - sent;
            if latency > Duration::from_secs(2) {
                return Observed::TooSlow;
            }
            let lo = i128::from(date_s) * 1_000_000_000;
            let answer = (received, lo, lo + 1_000_000_000 + nanos(latency));
            let known = with(&self.answers, answer);
            let rivals = self
                .rivals
                .as_ref()
                .map(|(rivals, since)| (with(rivals, answer), *since));
            match (known, rivals) {
                (None, None | Some((None, _))) => {
                    self.rivals = Some((vec![answer], received));
                    self.restarts += 1;
                    return Observed::StartedOver;
                }
                (Some(known), None) => self.answers = known,
                (Some(known), Some((None, since))) => {
                    self.answers = known;
                    if sent >= since {
                        self.rivals = None;
                    }
                }
                (None, Some((Some(rivals), since))) if sent >= since => {
                    self.answers = rivals;
                    self.rivals = None;
                }
                (None, Some((Some(rivals), since))) => self.rivals = Some((rivals, since)),
                (Some(known), Some((Some(rivals), since))) => {
                    self.answers = known;
                    self.rivals = Some((rivals, since));
                }
            }
            Observed::Used
        }
    }

    proptest! {
        #![proptest_config(crate::prop::cases(384))]

        #[test]
        fn bounds_are_where_all_answers_meet_and_the_truth_is_within_them(answers in prop::collection::vec(any_answer(), 1..80)) {
            let origin = Clock::system().now();
            let (mut clock, mut kept) = (ServiceClock::default(), Kept::default());
            let (mut at, mut truth) = (Duration::ZERO, START_NS);
            let mut waiting: Option<(Instant, Instant, u64)> = None;
            // Since the last jump, every answer that was given before it must have been contradicted, or none taken in.
            let mut jumped = false;
            let pass = |at: &mut Duration, truth: &mut i128, ms_: u64, ppm: i128| {
                *at += ms(ms_);
                *truth += i128::from(ms_) * 1_000_000 * (1_000_000 + ppm) / 1_000_000;
            };
            for answer in answers {
                pass(&mut at, &mut truth, answer.pause_ms, answer.ppm);
                truth += i128::from(answer.jump_ms) * 1_000_000;
                jumped |= answer.jump_ms != 0;
                let sent = origin + at;
                pass(&mut at, &mut truth, answer.to_ms, answer.ppm);
                let date_s = u64::try_from(truth / 1_000_000_000).unwrap();
                pass(&mut at, &mut truth, answer.from_ms, answer.ppm);
                let taken_in = (sent, origin + at, date_s);
                let mut now_taken = Vec::new();
                if answer.late && waiting.is_none() {
                    waiting = Some(taken_in);
                } else {
                    now_taken.push(taken_in);
                    now_taken.extend(waiting.take());
                }
                for (sent, received, date_s) in now_taken {
                    let (seen, expected) = (clock.observe(sent, received, date_s), kept.observe(sent, received, date_s));
                    prop_assert_eq!(seen, expected);
                    prop_assert!(jumped || seen != Observed::StartedOver, "nothing jumped");
                }
                prop_assert_eq!(clock.restarts(), kept.restarts);
                for ahead in [0, 700, 90_000] {
                    let now = origin + at + ms(ahead);
                    let Some((lo, hi)) = kept.bounds(now) else {
                        prop_assert_eq!(clock.time(now), None);
                        continue;
                    };
                    let time = clock.time(now).unwrap();
                    prop_assert!((i128::from(time.lo) - lo.div_euclid(1_000_000)).abs() <= 1, "{time:?} {lo}");
                    prop_assert!((i128::from(time.hi) - hi.div_euclid(1_000_000)).abs() <= 2, "{time:?} {hi}");
                    let truth = (truth + i128::from(ahead) * 1_000_000) / 1_000_000;
                    let true_ms = i128::from(u64::try_from(truth).unwrap());
                    prop_assert!(
                        jumped || i128::from(time.lo) <= true_ms + 1 && true_ms <= i128::from(time.hi) + 1,
                        "{true_ms} is not within {time:?}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_services_time_is_always_within_the_bounds(
            offset_ms in -5_000_000i64..5_000_000,
            ppm in -490i128..=490,
            answers in prop::collection::vec((0u64..20_000, 0u64..1_500, 0u64..1_500, 0u64..600_000), 1..60),
        ) {
            let (service, mut clock) = (service(offset_ms, ppm), ServiceClock::default());
            let mut at = Duration::ZERO;
            for (pause, to, from, idle) in answers {
                at += ms(pause);
                let seen = service.answer(&mut clock, at, ms(to), ms(from));
                prop_assert_ne!(seen, Observed::StartedOver);
                at += ms(to + from);
                if clock.time(service.origin + at).is_some() {
                    service.assert_within(&clock, at);
                    service.assert_within(&clock, at + ms(idle));
                }
            }
        }

        #[test]
        fn a_jump_of_the_services_clock_starts_the_bounds_over(
            jump_ms in prop_oneof![-600_000i64..-8_000, 8_000i64..600_000],
            answers in prop::collection::vec((0u64..2_000, 0u64..900, 0u64..900), 2..30),
        ) {
            let (mut service, mut clock) = (service(0, 0), ServiceClock::default());
            let mut at = Duration::ZERO;
            let half = answers.len() / 2;
            for (n, (pause, to, from)) in answers.into_iter().enumerate() {
                if n == half {
                    service.offset_ns += i128::from(jump_ms) * 1_000_000;
                }
                at += ms(pause);
                service.answer(&mut clock, at, ms(to), ms(from));
                at += ms(to + from);
                // In doubt, what is ahead is not believed yet.
                if !clock.in_doubt() {
                    service.assert_within(&clock, at);
                }
            }
            prop_assert_eq!(clock.restarts(), 1);
        }
    }
}
