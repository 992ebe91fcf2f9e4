//! How long a delivery is put off whose key runs elsewhere.

use std::time::Duration;

/// The longest of all.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// What two workers may differ by in the service's time: its answers are dated to the second.
const RESOLUTION: Duration = Duration::from_secs(1);

/// Who holds the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// This worker, which lives.
    Here,
    /// Another claim, with at most this much of its lease left.
    Elsewhere { lease_left: Duration },
}

/// What holders keep to, taken to be the same for all workers of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) lease: Duration,
    /// How often a living holder renews its lease; none without heartbeats.
    pub(super) beat: Option<Duration>,
}

impl Terms {
    /// Whether so little of a lease is left that its holder has missed a heartbeat, and is probably dead. A tenth of the lease
    /// is allowed for the call. Nobody renews a lease without heartbeats: its end is then the end of the wait, either way.
    fn is_overdue(self, lease_left: Duration) -> bool {
        match self.beat {
            Some(beat) => lease_left < self.lease.saturating_sub(beat + self.lease / 10),
            None => lease_left <= self.lease,
        }
    }
}

/// The delay before jitter, at the message's n-th receive. A holder that lives may take long, so each receive doubles the
/// delay from `first`, and few are spent. One that is overdue is waited for no longer than its lease. What is left of a lease
/// beyond the longest it can be here was written by a worker that has longer ones, or whose service clock was ten minutes
/// ahead when it wrote: by receives is soon enough for the one, and the other's work is long done.
pub(super) fn delay(holder: Holder, receives: u32, first: Duration, terms: Terms) -> Duration {
    let doublings = receives.saturating_sub(1).min(10);
    let by_receives = first.saturating_mul(1 << doublings);
    let delay = match holder {
        Holder::Here => by_receives,
        Holder::Elsewhere { lease_left } if terms.is_overdue(lease_left) => lease_left + RESOLUTION,
        Holder::Elsewhere { lease_left } => by_receives.max(lease_left.min(terms.lease + RESOLUTION)),
    };
    delay.min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(30);
    const TERMS: Terms = Terms {
        lease: Duration::from_secs(30),
        beat: Some(Duration::from_secs(15)),
    };

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn elsewhere(left: u64) -> Holder {
        Holder::Elsewhere { lease_left: secs(left) }
    }

    #[test]
    fn a_holder_that_lives_is_waited_for_longer_with_each_receive() {
        for holder in [Holder::Here, elsewhere(30), elsewhere(13)] {
            let delays: Vec<u64> = (1..=8)
                .map(|receives| delay(holder, receives, FIRST, TERMS).as_secs())
                .collect();
            assert_eq!(delays, [30, 60, 120, 240, 480, 900, 900, 900], "{holder:?}");
        }
        assert_eq!(delay(elsewhere(30), u32::MAX, FIRST, TERMS), secs(900));
    }

    #[test]
    fn a_longer_lease_is_waited_out() {
        let terms = Terms {
            lease: secs(300),
            beat: Some(secs(15)),
        };
        assert_eq!(delay(elsewhere(290), 1, FIRST, terms), secs(290));
    }

    #[test]
    fn a_lease_longer_than_any_here_is_not_waited_out_at_once() {
        let delays = [1, 2, 3, 6].map(|receives| delay(elsewhere(608), receives, FIRST, TERMS).as_secs());
        assert_eq!(delays, [31, 60, 120, 900]);
    }

    #[test]
    fn a_holder_that_missed_its_heartbeat_is_waited_for_no_longer_than_its_lease() {
        for receives in [1, 2, 9] {
            assert_eq!(delay(elsewhere(11), receives, FIRST, TERMS), secs(12));
            assert_eq!(delay(elsewhere(0), receives, FIRST, TERMS), secs(1));
        }
        // A lease much longer than the visibility timeout, whose half is the time between two heartbeats.
        let terms = Terms {
            lease: secs(300),
            beat: Some(secs(15)),
        };
        assert_eq!(delay(elsewhere(250), 6, FIRST, terms), secs(251));
    }

    #[test]
    fn without_heartbeats_a_lease_ends_when_it_says() {
        let terms = Terms { beat: None, ..TERMS };
        assert_eq!(delay(elsewhere(29), 4, FIRST, terms), secs(30));
        let longer = delay(elsewhere(100), 1, FIRST, terms);
        assert_eq!(longer, secs(31), "another's longer lease");
    }
}
