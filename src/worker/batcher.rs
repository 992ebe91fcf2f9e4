//! Gathering single requests into batches: full ones go at once, the rest after a short linger.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

/// What waits to go out in batches of at most `size`, with at most `max_in_flight` batches under way. Pure: it is told
/// what time it is and says what to send.
#[derive(Debug)]
pub(super) struct Batcher<T> {
    waiting: VecDeque<T>,
    first_at: Option<Instant>,
    size: usize,
    linger: Duration,
    in_flight: usize,
    max_in_flight: usize,
}

impl<T> Batcher<T> {
    pub(super) fn new(size: usize, linger: Duration, max_in_flight: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            first_at: None,
            size: size.max(1),
            linger,
            in_flight: 0,
            max_in_flight: max_in_flight.max(1),
        }
    }

    pub(super) fn push(&mut self, now: Instant, entry: T) {
        self.first_at.get_or_insert(now);
        self.waiting.push_back(entry);
    }

    /// The next batch that is due: a full one, or one whose linger is over, or any when `hurry`.
    pub(super) fn take(&mut self, now: Instant, hurry: bool) -> Option<Vec<T>> {
        let lingered = self.first_at.is_some_and(|first| now >= first + self.linger);
        let due = self.waiting.len() >= self.size || (!self.waiting.is_empty() && (hurry || lingered));
        if !due || self.in_flight >= self.max_in_flight {
            return None;
        }
        self.in_flight += 1;
        let take = self.waiting.len().min(self.size);
        let batch = self.waiting.drain(..take).collect();
        // What is left came later, if not long ago: its linger starts now.
        self.first_at = (!self.waiting.is_empty()).then_some(now);
        Some(batch)
    }

    /// A batch came back.
    pub(super) fn returned(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Whether nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight == 0
    }

    /// When the next batch is due, if none is before. `None` while as many as may be are under way: one coming back wakes.
    pub(super) fn next_at(&self) -> Option<Instant> {
        if self.in_flight >= self.max_in_flight {
            return None;
        }
        self.first_at.map(|first| first + self.linger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const LINGER: Duration = Duration::from_millis(5);

    #[test]
    fn a_full_batch_goes_at_once_and_the_rest_after_its_linger() {
        let now = Clock::system().now();
        let mut batcher = Batcher::new(10, LINGER, 4);
        (0..13).for_each(|n| batcher.push(now, n));
        assert_eq!(batcher.take(now, false), Some((0..10).collect()));
        assert_eq!(batcher.take(now, false), None);
        assert_eq!(batcher.next_at(), Some(now + LINGER));
        assert_eq!(batcher.take(now + LINGER, false), Some(vec![10, 11, 12]));
        assert_eq!(batcher.next_at(), None);
    }

    #[test]
    fn inv05_no_more_batches_are_under_way_than_allowed() {
        let now = Clock::system().now();
        let mut batcher = Batcher::new(1, LINGER, 2);
        (0..5).for_each(|n| batcher.push(now, n));
        assert!(batcher.take(now, true).is_some());
        assert!(batcher.take(now, true).is_some());
        assert_eq!(batcher.take(now, true), None);
        assert_eq!(batcher.next_at(), None);
        batcher.returned();
        assert_eq!(batcher.take(now, true), Some(vec![2]));
    }
}
