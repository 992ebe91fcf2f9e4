//! The inbox record: what is kept of a key.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::inbox::{Claim, Rejection, ServiceTime};
use crate::key::{Fingerprint, RecordKey};
use crate::outcome::{Reason, StoredResult};

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Claimed; held while the lease runs.
    Processing,
    /// Done.
    Completed,
    /// Given up.
    Rejected,
    /// Given back, to be claimed again.
    Released,
}

impl Status {
    /// The status's text form, as the table holds it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Rejected => "rejected",
            Self::Released => "released",
        }
    }

    /// The status with this text form, if there is one.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::Processing, Self::Completed, Self::Rejected, Self::Released]
            .into_iter()
            .find(|known| known.as_str() == text)
    }
}

/// What the inbox holds of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The key, with its consumer.
    pub key: RecordKey,
    /// Where it stands.
    pub status: Status,
    /// The last claim.
    pub claim_id: String,
    /// The last claim's fencing token.
    pub fencing_token: u64,
    /// When its lease ends or ended, in ms since 1970 by the inbox's time.
    pub lease_until: u64,
    /// Attempts counted for the message of `message_id`.
    pub attempts: u32,
    /// The last error.
    pub last_error: Option<String>,
    /// Why it was given up.
    pub reason: Option<String>,
    /// Whether its dead letter was sent.
    pub dead_letter_sent: bool,
    /// Whether a suspect's run was announced and has not ended since.
    pub started: bool,
    /// How many processes died while running it, as far as is known.
    pub deaths: u32,
    /// The payload's fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// What the handler returned.
    pub result: StoredResult,
    /// What the last run kept.
    pub checkpoint: Option<Bytes>,
    /// How many saves of a checkpoint the last claim has made, as far as they arrived.
    pub checkpoint_serial: u64,
    /// The MessageId the attempts and the rejection belong to.
    pub message_id: String,
    /// When the key was first seen, in ms since 1970.
    pub first_seen: u64,
    /// When the record ends, in **seconds** since 1970.
    pub expires_at: u64,
}

impl Record {
    /// A record of `key` without a history: released, no claim, nothing counted, never expiring. For tests and tools that
    /// plant records; workers make them by claiming.
    ///
    /// ```
    /// use redrive::inbox::{Record, Status};
    /// use redrive::key::{Key, RecordKey};
    ///
    /// let mut record = Record::new(RecordKey::new("orders", &Key::new("o-1")));
    /// record.status = Status::Completed;
    /// record.expires_at = 1_700_000_000; // seconds since 1970
    /// ```
    #[must_use]
    pub fn new(key: RecordKey) -> Self {
        Self {
            key,
            status: Status::Released,
            claim_id: String::new(),
            fencing_token: 0,
            lease_until: 0,
            attempts: 0,
            last_error: None,
            reason: None,
            dead_letter_sent: false,
            started: false,
            deaths: 0,
            fingerprint: None,
            result: StoredResult::Nothing,
            checkpoint: None,
            checkpoint_serial: 0,
            message_id: String::new(),
            first_seen: 0,
            expires_at: u64::MAX,
        }
    }

    /// Whether the record has certainly ended by `time`, and so counts as none. Stores delete late, so every read of a
    /// record asks this too.
    #[must_use]
    pub fn is_expired(&self, time: ServiceTime) -> bool {
        self.expires_at <= time.lo / 1000
    }

    /// Whether its lease may still hold at `time`.
    pub(crate) fn is_leased(&self, time: ServiceTime) -> bool {
        time.lo < self.lease_until
    }

    /// How long its lease holds at most from `time`.
    pub(crate) fn lease_left(&self, time: ServiceTime) -> Duration {
        Duration::from_millis(self.lease_until.saturating_sub(time.lo))
    }

    /// The claim this record was last claimed by.
    pub(crate) fn claim(&self, suspect: bool, retention: Duration) -> Arc<Claim> {
        Arc::new(Claim {
            key: self.key.clone(),
            claim_id: self.claim_id.clone(),
            fencing_token: self.fencing_token,
            lease_until: self.lease_until,
            attempts: self.attempts,
            last_error: self.last_error.clone(),
            suspect,
            deaths: self.deaths,
            checkpoint: self.checkpoint.clone(),
            first_seen: self.first_seen,
            retention,
        })
    }

    /// Why it was rejected, for a dead letter that is sent late.
    pub(crate) fn rejection(&self) -> Rejection {
        Rejection {
            reason: self.reason.as_deref().map_or(Reason::Rejected, Reason::from_text),
            error: self.last_error.clone().unwrap_or_default(),
            attempts: self.attempts,
        }
    }

    /// Keeps the record for `retention` from `time`, and never shorter than its lease.
    pub(crate) fn keep(&mut self, retention: Duration, time: ServiceTime) {
        let until = after(time, retention).max(self.lease_until);
        self.expires_at = until.div_ceil(1000);
    }
}

/// The first moment that is certainly `duration` after `time`, in ms since 1970.
pub(crate) fn after(time: ServiceTime, duration: Duration) -> u64 {
    time.hi
        .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    #[test]
    fn every_status_survives_its_text_form() {
        for status in [
            Status::Processing,
            Status::Completed,
            Status::Rejected,
            Status::Released,
        ] {
            assert_eq!(Status::from_text(status.as_str()), Some(status));
        }
        assert_eq!(Status::from_text("Completed"), None);
    }

    #[test]
    fn a_record_expires_only_when_that_is_certain_and_never_before_its_lease() {
        let mut record = Record::new(RecordKey::new("orders", &Key::new("k")));
        record.lease_until = 60_000;
        record.keep(Duration::from_millis(1), ServiceTime { lo: 9_000, hi: 10_000 });
        assert_eq!(record.expires_at, 60);
        record.keep(Duration::from_millis(50_001), ServiceTime { lo: 9_000, hi: 10_000 });
        assert_eq!(record.expires_at, 61);
        assert!(!record.is_expired(ServiceTime { lo: 60_999, hi: 70_000 }));
        assert!(record.is_expired(ServiceTime { lo: 61_000, hi: 70_000 }));
    }
}
