//! The inbox record and the pure decisions about it.

use bytes::Bytes;

use crate::key::{Fingerprint, RecordKey};
use crate::outcome::StoredResult;

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
    /// The MessageId the attempts and the rejection belong to.
    pub message_id: String,
    /// When the key was first seen, in ms since 1970.
    pub first_seen: u64,
    /// When the record ends, in **seconds** since 1970.
    pub expires_at: u64,
}
