//! What operators may do to records, and what it does to who holds them.

use std::time::Duration;

use crate::inbox::ServiceTime;
use crate::inbox::record::{Record, Status};

/// Whether somebody may hold a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nobody does.
    Free,
    /// A lease may hold for this long at most.
    Until(Duration),
    /// The record does not say until when.
    Unknown,
}

impl Hold {
    /// Who holds `record` at `time`. A rejection is held, too, until its dead letter is known to be sent.
    pub(crate) fn of(record: &Record, time: ServiceTime) -> Self {
        let held = match record.status {
            Status::Processing => true,
            Status::Rejected => !record.dead_letter_sent,
            _ => false,
        };
        if held && record.is_leased(time) && !record.is_expired(time) {
            Self::Until(record.lease_left(time))
        } else {
            Self::Free
        }
    }

    /// Who holds a record of which only this much can be read.
    pub(crate) fn of_damaged(status: Option<Status>, lease_until: Option<u64>, time: ServiceTime) -> Self {
        match (status, lease_until) {
            (Some(Status::Completed | Status::Released), _) => Self::Free,
            (_, Some(until)) if until <= time.lo => Self::Free,
            (_, Some(until)) => Self::Until(Duration::from_millis(until - time.lo)),
            (_, None) => Self::Unknown,
        }
    }
}

/// Whether `record` is a claim whose lease has certainly run out.
pub(crate) fn is_stuck(record: &Record, time: ServiceTime) -> bool {
    record.status == Status::Processing && !record.is_leased(time) && !record.is_expired(time)
}

/// A claim's record after an operator released it under the name of `claim_id`.
///
/// It is a claim of its own that is given back at once: with another id and a larger token, so that every later write of the
/// old holder is lost to it, its release too. Attempts and deaths stay; a run that was announced and never ended stays
/// announced where the lease ran out, and counts as a death at the next claim. Where the holder was still alive (`taken`), no
/// process died.
pub(crate) fn released(record: &Record, claim_id: &str, taken: bool, time: ServiceTime) -> Record {
    let mut record = record.clone();
    record.status = Status::Released;
    record.claim_id = claim_id.to_owned();
    record.fencing_token = record.fencing_token.saturating_add(1).max(time.hi);
    record.lease_until = record.lease_until.min(time.lo);
    record.started &= !taken;
    record
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::inbox::decide::{Applied, Decision, apply_write, decide_claim};
    use crate::inbox::{Attempted, Change, ClaimAnswer, ClaimRequest, Rejection, Write};
    use crate::key::{Key, RecordKey};
    use crate::outcome::{Reason, StoredResult};

    const NOW: ServiceTime = ServiceTime {
        lo: 1_000_000,
        hi: 1_001_000,
    };

    fn request(claim_id: &str) -> ClaimRequest {
        ClaimRequest {
            key: RecordKey::new("orders", &Key::new("k")),
            claim_id: claim_id.into(),
            message_id: "m-1".into(),
            fingerprint: None,
            lease: Duration::from_secs(30),
            retention: Duration::from_secs(3_600),
            receive_count: 1,
            replayed: false,
        }
    }

    fn claimed(
        existing: Option<&Record>,
        claim_id: &str,
        time: ServiceTime,
    ) -> (Record, std::sync::Arc<crate::inbox::Claim>) {
        match decide_claim(existing, &request(claim_id), time) {
            Decision::Take(record, ClaimAnswer::Claimed(claim)) => (*record, claim),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn inv03_every_later_write_of_a_holder_is_lost_to_an_operators_release() {
        let (held, claim) = claimed(None, "w1", NOW);
        let record = released(&held, "operator-1", true, NOW);
        assert!(record.fencing_token > held.fencing_token);
        let attempted = Attempted {
            attempts: 1,
            error: "no".into(),
        };
        let rejection = Rejection {
            reason: Reason::Rejected,
            error: "no".into(),
            attempts: 1,
        };
        for change in [
            Change::Renew {
                lease: Duration::from_secs(30),
            },
            Change::Start,
            Change::Checkpoint {
                serial: 1,
                data: Bytes::from_static(b"x"),
            },
            Change::Complete {
                result: StoredResult::Nothing,
            },
            Change::Release { failure: None },
            Change::Release {
                failure: Some(attempted),
            },
            Change::Reject(rejection),
            Change::DeadLetterSent,
        ] {
            let write = Write::new(claim.clone(), change);
            assert_eq!(apply_write(Some(&record), &write, NOW), Applied::Lost, "{write:?}");
            assert_eq!(apply_write(None, &write, NOW), Applied::Lost, "{write:?}");
        }
    }

    #[test]
    fn a_released_key_is_claimed_with_a_larger_token_and_its_attempts() {
        let (mut held, _) = claimed(None, "w1", NOW);
        held.attempts = 3;
        let record = released(&held, "operator-1", true, NOW);
        let (again, _) = claimed(Some(&record), "w2", NOW);
        assert!(again.fencing_token > record.fencing_token);
        assert_eq!(again.attempts, 3);
    }

    #[test]
    fn a_run_that_never_ended_still_counts_as_a_death_and_a_holder_that_was_taken_from_does_not() {
        let (mut held, _) = claimed(None, "w1", NOW);
        held.started = true;
        for (taken, deaths) in [(false, 1), (true, 0)] {
            let record = released(&held, "operator-1", taken, NOW);
            assert_eq!(claimed(Some(&record), "w2", NOW).0.deaths, deaths);
        }
    }

    #[test]
    fn a_lease_holds_until_it_has_certainly_run_out() {
        let (mut record, _) = claimed(None, "w1", NOW);
        record.lease_until = NOW.lo + 1;
        assert_eq!(Hold::of(&record, NOW), Hold::Until(Duration::from_millis(1)));
        assert!(!is_stuck(&record, NOW));
        record.lease_until = NOW.lo;
        assert_eq!(Hold::of(&record, NOW), Hold::Free);
        assert!(is_stuck(&record, NOW));
        record.lease_until = NOW.hi + 1;
        record.status = Status::Rejected;
        assert!(matches!(Hold::of(&record, NOW), Hold::Until(_)));
        record.dead_letter_sent = true;
        assert_eq!(Hold::of(&record, NOW), Hold::Free);
    }

    #[test]
    fn inv02_what_cannot_be_read_of_a_lease_counts_as_held() {
        for (status, lease_until, hold) in [
            (None, None, Hold::Unknown),
            (Some(Status::Processing), None, Hold::Unknown),
            (Some(Status::Completed), None, Hold::Free),
            (None, Some(NOW.lo), Hold::Free),
            (None, Some(NOW.lo + 5), Hold::Until(Duration::from_millis(5))),
        ] {
            assert_eq!(Hold::of_damaged(status, lease_until, NOW), hold);
        }
    }
}
