//! When a worker that is to end with its queue has nothing left to do. Pure.

use std::time::Duration;

use redrive::clock::Instant;
use redrive::queue::QueueAttributes;
use redrive::worker::Status;

/// How long lies between two looks at the queue.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// How many looks in a row must find nothing: SQS's counts are approximate.
const LOOKS: u32 = 2;

/// Watches for the end: nothing is held, a receive has come back empty since, and the queue itself counts no message,
/// also none that is delayed or in flight somewhere.
#[derive(Debug, Default)]
pub(super) struct Emptiness {
    /// Since when nothing is held, and how many deliveries had been received by then.
    idle: Option<(Instant, u64)>,
    looked_at: Option<Instant>,
    looks: u32,
}

impl Emptiness {
    /// Whether the queue should be looked at now.
    pub(super) fn wants_a_look(&mut self, now: Instant, status: &Status) -> bool {
        let held = status.running + status.waiting + status.ending;
        let received = status.totals.received;
        if !status.started || held > 0 {
            *self = Self::default();
            return false;
        }
        let since = match self.idle {
            Some((since, before)) if before == received => since,
            _ => {
                *self = Self {
                    idle: Some((now, received)),
                    ..Self::default()
                };
                now
            }
        };
        // While a breaker is open nothing is received: then the queue's own counts have to do.
        let empty_receive = status
            .last_receive
            .is_some_and(|age| age < now.saturating_duration_since(since));
        if !empty_receive && !status.held_up {
            return false;
        }
        self.looked_at
            .is_none_or(|at| now.saturating_duration_since(at) >= BETWEEN_LOOKS)
    }

    /// Takes what a look found; answers whether that was the end.
    pub(super) fn looked(&mut self, now: Instant, queue: &QueueAttributes) -> bool {
        self.looked_at = Some(now);
        let count = queue.visible + queue.in_flight + queue.delayed;
        self.looks = if count == 0 && self.idle.is_some() {
            self.looks + 1
        } else {
            0
        };
        self.looks >= LOOKS
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use redrive::clock::Clock;
    use redrive::worker::WithoutDeadLetters;
    use redrive::{MemoryQueue, Worker};

    use super::*;

    fn idle(last_receive: Duration) -> Status {
        let worker = Worker::builder(MemoryQueue::new("orders").unwrap())
            .without_dead_letters(WithoutDeadLetters::Keep)
            .handler(async || Ok::<(), redrive::Failure>(()))
            .build()
            .unwrap();
        let mut status = worker.handle().status();
        status.started = true;
        status.last_receive = Some(last_receive);
        status
    }

    fn queue(in_flight: u64) -> QueueAttributes {
        let mut attributes = QueueAttributes::new("orders");
        attributes.in_flight = in_flight;
        attributes
    }

    #[test]
    fn it_takes_an_empty_receive_and_two_looks_that_find_nothing() {
        let begun = Clock::system().now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut emptiness = Emptiness::default();
        // The last receive is older than the idleness: it may have brought what is done by now.
        assert!(!emptiness.wants_a_look(at(0), &idle(Duration::from_secs(1))));
        assert!(!emptiness.wants_a_look(at(2), &idle(Duration::from_secs(3))));
        assert!(emptiness.wants_a_look(at(3), &idle(Duration::from_secs(1))));
        // Somebody has a message in flight, or it waits for another attempt.
        assert!(!emptiness.looked(at(3), &queue(1)));
        assert!(!emptiness.wants_a_look(at(3), &idle(Duration::from_secs(1))));
        assert!(emptiness.wants_a_look(at(5), &idle(Duration::from_secs(1))));
        assert!(!emptiness.looked(at(5), &queue(0)));
        assert!(emptiness.wants_a_look(at(6), &idle(Duration::from_secs(1))));
        assert!(emptiness.looked(at(6), &queue(0)));
    }

    #[test]
    fn work_in_between_starts_it_over() {
        let begun = Clock::system().now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut emptiness = Emptiness::default();
        let fresh = Duration::from_millis(10);
        assert!(!emptiness.wants_a_look(at(0), &idle(fresh)));
        assert!(emptiness.wants_a_look(at(1), &idle(fresh)));
        assert!(!emptiness.looked(at(1), &queue(0)));
        let mut busy = idle(fresh);
        busy.running = 1;
        assert!(!emptiness.wants_a_look(at(2), &busy));
        assert!(!emptiness.looked(at(2), &queue(0)));
        let mut more = idle(fresh);
        more.totals.received = 3;
        assert!(!emptiness.wants_a_look(at(3), &more));
        assert!(emptiness.wants_a_look(at(4), &more));
        assert!(!emptiness.looked(at(4), &queue(0)));
    }

    #[test]
    fn an_open_breaker_with_nothing_behind_it_is_no_reason_to_stay() {
        let begun = Clock::system().now();
        let mut emptiness = Emptiness::default();
        let mut status = idle(Duration::from_secs(90));
        status.held_up = true;
        assert!(emptiness.wants_a_look(begun, &status));
    }
}
