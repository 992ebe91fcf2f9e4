//! The stages of an orderly shutdown. Pure.

use std::time::Duration;

use crate::clock::Instant;

/// Where a drain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Running handlers may finish.
    Finishing,
    /// Running handlers are asked to stop.
    Cancelling,
    /// Running handlers are stopped and released; settles are flushed.
    Flushing,
    /// The deadline is over.
    Over,
}

/// A drain that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    cancel_at: Instant,
    flush_at: Instant,
    over_at: Instant,
}

impl Drain {
    /// A drain that has `deadline` from now on. The last tenth of it, at most 5 s, is kept for the last settles, and
    /// handlers are asked to stop as long before they are stopped.
    pub(super) fn begin(now: Instant, deadline: Duration) -> Self {
        let margin = (deadline / 10).min(Duration::from_secs(5));
        Self {
            cancel_at: now + deadline.saturating_sub(2 * margin),
            flush_at: now + deadline.saturating_sub(margin),
            over_at: now + deadline,
        }
    }

    pub(super) fn stage(&self, now: Instant) -> Stage {
        if now >= self.over_at {
            Stage::Over
        } else if now >= self.flush_at {
            Stage::Flushing
        } else if now >= self.cancel_at {
            Stage::Cancelling
        } else {
            Stage::Finishing
        }
    }

    /// When the next stage begins.
    pub(super) fn next_at(&self, now: Instant) -> Instant {
        match self.stage(now) {
            Stage::Finishing => self.cancel_at,
            Stage::Cancelling => self.flush_at,
            Stage::Flushing | Stage::Over => self.over_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn inv08_the_stages_come_in_order_and_end_at_the_deadline() {
        let now = Clock::system().now();
        for deadline in [0, 1, 10, 110_000] {
            let deadline = Duration::from_millis(deadline);
            let drain = Drain::begin(now, deadline);
            let mut at = now;
            let mut last = drain.stage(at);
            while last != Stage::Over {
                let next = drain.next_at(at);
                assert!(next > at && next <= now + deadline);
                at = next;
                assert!(drain.stage(at) > last);
                last = drain.stage(at);
            }
            assert_eq!(drain.stage(now + deadline), Stage::Over);
        }
    }
}
