//! When to receive and how many to ask for.
//!
//! Receives are asked for in full tens where there is room, as many at once as demand shows, and none while what is already
//! held would not start soon. Pure: told what is held, it says what to ask.

use std::time::Duration;

use crate::clock::Instant;
use crate::queue::MAX_BATCH;

/// How far ahead of the handlers messages are fetched, at most, in time to start.
const HORIZON: Duration = Duration::from_secs(1);

/// The least time between two receives that find nothing.
const IDLE_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Intake {
    /// Receives that may be in flight at once, found by how full they come back.
    allowed: usize,
    max_receives: usize,
    /// Messages asked for and not yet answered.
    expected: usize,
    in_flight: usize,
    /// No receive before this, after failed ones.
    not_before: Option<Instant>,
    failures: u32,
    starts: StartRate,
    horizon: Duration,
    /// The long poll.
    wait: Duration,
}

impl Intake {
    pub(super) fn new(max_receives: usize, lease: Duration, wait: Duration) -> Self {
        Self {
            allowed: 1,
            max_receives: max_receives.max(1),
            expected: 0,
            in_flight: 0,
            not_before: None,
            failures: 0,
            starts: StartRate::default(),
            horizon: HORIZON.min(lease / 4),
            wait,
        }
    }

    /// How many messages to hold beyond the running ones, so that receives stay full while what waits starts soon.
    pub(super) fn prefetch(&self, slots: usize, now: Instant) -> usize {
        let most = slots.saturating_mul(2).max(2 * MAX_BATCH);
        match self.starts.per_second(now) {
            None => slots.min(MAX_BATCH),
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bounded by the clamp that follows"
            )]
            Some(rate) => ((rate * self.horizon.as_secs_f64()).ceil() as usize).clamp(1, most),
        }
    }

    /// The size of the receive to start now, if one is to be started, where `held` messages run or wait on `slots` slots.
    pub(super) fn ask(&self, slots: usize, held: usize, now: Instant) -> Option<usize> {
        if self.in_flight >= self.allowed || self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        let prefetch = self.prefetch(slots, now);
        let room = (slots + prefetch).saturating_sub(held + self.expected);
        let worth_a_call = prefetch.div_ceil(2).min(MAX_BATCH);
        (room >= worth_a_call).then(|| room.min(MAX_BATCH))
    }

    /// The size of a receive that looks for a probe of a half-open breaker.
    pub(super) fn ask_probe(&self, now: Instant) -> Option<usize> {
        (self.in_flight == 0 && self.not_before.is_none_or(|at| now >= at)).then_some(1)
    }

    /// Messages asked for and not yet answered.
    pub(super) fn expected(&self) -> usize {
        self.expected
    }

    pub(super) fn started(&mut self, asked: usize) {
        self.in_flight += 1;
        self.expected += asked;
    }

    /// A receive came back with `got` of the `asked` messages.
    pub(super) fn received(&mut self, now: Instant, asked: usize, got: usize) {
        self.returned(asked);
        self.failures = 0;
        self.not_before = None;
        if got >= asked {
            self.allowed = (self.allowed + 1).min(self.max_receives);
        } else if got == 0 {
            self.allowed = 1;
            // A queue polled without waiting is not asked as fast as it answers.
            self.not_before = (self.wait < IDLE_PAUSE).then(|| now + IDLE_PAUSE);
        } else {
            self.allowed = (self.allowed - 1).max(1);
        }
    }

    /// A receive failed; `pause` says how long to wait after the n-th failure in a row.
    pub(super) fn failed(&mut self, asked: usize, now: Instant, pause: impl FnOnce(u32) -> Duration) {
        self.returned(asked);
        self.failures = self.failures.saturating_add(1);
        self.allowed = 1;
        self.not_before = Some(now + pause(self.failures));
    }

    pub(super) fn message_started(&mut self, now: Instant) {
        self.starts.count(now);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// When a pause after failed receives ends.
    pub(super) fn next_at(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|&at| at > now)
    }

    fn returned(&mut self, asked: usize) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.expected = self.expected.saturating_sub(asked);
    }
}

/// Handler starts per second, over the last full second or so.
#[derive(Debug, Default)]
struct StartRate {
    window: Option<Instant>,
    count: u32,
    last: Option<f64>,
}

impl StartRate {
    const WINDOW: Duration = Duration::from_secs(1);

    fn count(&mut self, now: Instant) {
        let window = *self.window.get_or_insert(now);
        let passed = now.saturating_duration_since(window);
        if passed >= Self::WINDOW {
            self.last = Some(f64::from(self.count) / passed.as_secs_f64());
            self.window = Some(now);
            self.count = 0;
        }
        self.count += 1;
    }

    fn per_second(&self, now: Instant) -> Option<f64> {
        let window = self.window?;
        let passed = now.saturating_duration_since(window).as_secs_f64();
        if passed < 1.0 {
            // It began with a start: what lies between the starts counts, or one would be taken for ten a second.
            let between = self.count.checked_sub(1).filter(|&count| count > 0);
            let current = between.map(|count| f64::from(count) / passed.max(0.001));
            // A young window says little: the last full one stands in for it.
            return match (self.last, current) {
                (Some(last), _) if passed < 0.1 => Some(last),
                (Some(last), current) => Some(last.max(current.unwrap_or(0.0))),
                (None, current) => current,
            };
        }
        Some(f64::from(self.count) / passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const LEASE: Duration = Duration::from_secs(30);
    const WAIT: Duration = Duration::from_secs(20);

    #[test]
    fn one_receive_when_idle_and_more_while_they_come_back_full() {
        let now = Clock::system().now();
        let mut intake = Intake::new(4, LEASE, WAIT);
        assert_eq!(intake.ask(64, 0, now), Some(10));
        intake.started(10);
        assert_eq!(intake.ask(64, 0, now), None);
        intake.received(now, 10, 10);
        intake.started(10);
        assert_eq!(intake.ask(64, 10, now), Some(10));
        intake.started(10);
        assert_eq!(intake.ask(64, 10, now), None);
        intake.received(now, 10, 0);
        intake.received(now, 10, 3);
        intake.started(10);
        assert_eq!(intake.ask(64, 0, now), None, "back to one");
    }

    #[test]
    fn nothing_is_asked_for_while_what_is_held_would_not_start_soon() {
        let start = Clock::system().now();
        let mut intake = Intake::new(4, LEASE, WAIT);
        // Four slots and a start every ten seconds: nothing may wait but one.
        for n in 0..4 {
            intake.message_started(start + Duration::from_secs(10 * n));
        }
        let now = start + Duration::from_secs(31);
        assert_eq!(intake.prefetch(4, now), 1);
        assert_eq!(intake.ask(4, 5, now), None);
        assert_eq!(intake.ask(4, 4, now), Some(1));
    }

    #[test]
    fn a_slow_handler_that_has_just_started_is_not_taken_for_a_fast_one() {
        let start = Clock::system().now();
        let mut intake = Intake::new(4, LEASE, WAIT);
        for n in 0..4 {
            intake.message_started(start + Duration::from_secs(5 * n));
            for ms in [1, 50, 100, 150, 500, 999, 1_000, 4_999] {
                let now = start + Duration::from_secs(5 * n) + Duration::from_millis(ms);
                assert_eq!(intake.prefetch(1, now), 1, "{ms} ms after start {n}");
            }
        }
    }

    #[test]
    fn under_load_it_asks_in_full_tens() {
        let start = Clock::system().now();
        let mut intake = Intake::new(4, LEASE, WAIT);
        for n in 0..2_000 {
            intake.message_started(start + Duration::from_millis(n));
        }
        let now = start + Duration::from_millis(2_000);
        let prefetch = intake.prefetch(8, now);
        assert_eq!(prefetch, 20);
        for held in 0..40 {
            if let Some(asked) = intake.ask(8, held, now) {
                assert_eq!(asked, 10, "held {held}");
            }
        }
    }

    #[test]
    fn an_idle_queue_that_is_polled_without_waiting_is_not_hammered() {
        let now = Clock::system().now();
        let mut intake = Intake::new(4, LEASE, Duration::ZERO);
        intake.started(10);
        intake.received(now, 10, 0);
        assert_eq!(intake.ask(4, 0, now), None);
        assert_eq!(intake.next_at(now), Some(now + IDLE_PAUSE));
        assert!(intake.ask(4, 0, now + IDLE_PAUSE).is_some());
    }

    #[test]
    fn failures_pause_receiving_until_one_succeeds() {
        let now = Clock::system().now();
        let mut intake = Intake::new(4, LEASE, WAIT);
        intake.started(10);
        intake.failed(10, now, |n| Duration::from_secs(u64::from(n)));
        assert_eq!(intake.ask(4, 0, now), None);
        assert_eq!(intake.next_at(now), Some(now + Duration::from_secs(1)));
        let later = now + Duration::from_secs(1);
        assert_eq!(intake.ask(4, 0, later), Some(8));
    }
}
