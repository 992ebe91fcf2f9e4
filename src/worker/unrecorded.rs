//! What this worker's handlers did and could not record.

use std::collections::BTreeMap;
use std::time::Duration;

use super::engine::Payload;
use crate::clock::Instant;
use crate::key::RecordKey;
use crate::outcome::StoredResult;

/// The most results kept; beyond them the oldest goes.
pub(super) const MAX_UNRECORDED: usize = 10_000;

/// The result of a handler that is done, which could not be recorded.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) payload: Payload,
    pub(super) result: StoredResult,
}

/// Results that could not be recorded before their lease was lost, remembered so that this worker never runs them again.
#[derive(Debug)]
pub(super) struct Unrecorded {
    done: BTreeMap<RecordKey, (u64, Done)>,
    /// The same by their age.
    by_age: BTreeMap<u64, (Instant, RecordKey)>,
    added: u64,
    /// How long one is kept: as long as the inbox would have kept it.
    retention: Duration,
}

impl Unrecorded {
    pub(super) fn new(retention: Duration) -> Self {
        Self {
            done: BTreeMap::new(),
            by_age: BTreeMap::new(),
            added: 0,
            retention,
        }
    }

    pub(super) fn add(&mut self, now: Instant, payload: Payload, result: StoredResult) {
        self.remove(&payload.record_key);
        while let Some((&oldest, (since, key))) = self.by_age.first_key_value() {
            if self.by_age.len() < MAX_UNRECORDED && now.saturating_duration_since(*since) < self.retention {
                break;
            }
            self.done.remove(key);
            self.by_age.remove(&oldest);
        }
        self.added += 1;
        self.by_age.insert(self.added, (now, payload.record_key.clone()));
        let key = payload.record_key.clone();
        self.done.insert(key, (self.added, Done { payload, result }));
    }

    /// What is remembered of the key of a claim just won. A record that began after the claim it was done under is of new work:
    /// the inbox has forgotten the key meanwhile, by time or by an operator's hand.
    pub(super) fn of_claim(&mut self, now: Instant, key: &RecordKey, first_seen: u64) -> Option<&Done> {
        let (number, done) = self.done.get(key)?;
        let too_old = |(since, _): &(Instant, RecordKey)| now.saturating_duration_since(*since) >= self.retention;
        if done.payload.fencing_token < first_seen || self.by_age.get(number).is_some_and(too_old) {
            self.remove(key);
            return None;
        }
        self.done.get(key).map(|(_, done)| done)
    }

    pub(super) fn remove(&mut self, key: &RecordKey) {
        if let Some((number, _)) = self.done.remove(key) {
            self.by_age.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::key::Key;

    fn key(n: usize) -> RecordKey {
        RecordKey::new("orders", &Key::new(format!("k{n}")))
    }

    fn payload(n: usize, fencing_token: u64) -> Payload {
        Payload {
            record_key: key(n),
            fingerprint: None,
            message_id: "m".into(),
            fencing_token,
        }
    }

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn what_was_done_is_known_until_it_is_recorded_forgotten_or_too_old() {
        let now = Clock::system().now();
        let mut unrecorded = Unrecorded::new(DAY);
        for n in 0..4 {
            unrecorded.add(now, payload(n, 1_000), StoredResult::Nothing);
        }
        assert!(unrecorded.of_claim(now, &key(0), 1_000).is_some());
        assert!(unrecorded.of_claim(now, &key(0), 1_001).is_none(), "it is new work");
        assert!(unrecorded.of_claim(now, &key(0), 900).is_none(), "and stays so");
        unrecorded.remove(&key(1));
        assert!(unrecorded.of_claim(now, &key(1), 900).is_none());
        assert!(unrecorded.of_claim(now + DAY / 2, &key(2), 900).is_some());
        assert!(unrecorded.of_claim(now + DAY, &key(2), 900).is_none());
        unrecorded.add(now + DAY, payload(9, 2_000), StoredResult::Nothing);
        assert_eq!((unrecorded.done.len(), unrecorded.by_age.len()), (1, 1), "the old go by themselves");
    }

    #[test]
    fn inv05_beyond_the_bound_the_oldest_goes_whatever_its_key() {
        let now = Clock::system().now();
        let mut unrecorded = Unrecorded::new(DAY);
        for n in (0..MAX_UNRECORDED + 5).rev() {
            unrecorded.add(now, payload(n, 1_000), StoredResult::Nothing);
        }
        assert_eq!((unrecorded.done.len(), unrecorded.by_age.len()), (MAX_UNRECORDED, MAX_UNRECORDED));
        assert!(unrecorded.of_claim(now, &key(0), 0).is_some());
        assert!(unrecorded.of_claim(now, &key(MAX_UNRECORDED + 4), 0).is_none());
        // Done again, it is as old as that.
        unrecorded.add(now, payload(MAX_UNRECORDED - 1, 2_000), StoredResult::Nothing);
        unrecorded.add(now, payload(MAX_UNRECORDED + 9, 2_000), StoredResult::Nothing);
        assert!(unrecorded.of_claim(now, &key(MAX_UNRECORDED - 1), 0).is_some());
    }
}
