//! The inbox: which keys are claimed, by whom, until when, and what became of them.
//!
//! A claim is the right to handle a key, held under a lease and carrying a fencing token that grows with every claim of the
//! key. Everything written after the claim is conditional on it: see [`Change`].
//!
//! [`MemoryInbox`] keeps its records in the process, for tests, examples and local work; `DynamoInbox` in a table, for
//! production. Both follow one set of rules and pass one suite.

pub(crate) mod decide;
#[cfg(feature = "aws")]
mod dynamodb;
mod error;
mod memory;
pub mod record;
#[cfg(any(test, feature = "aws"))]
#[cfg_attr(
    not(feature = "aws"),
    allow(dead_code, reason = "only the inbox on DynamoDB uses all of it")
)]
mod service_clock;
#[cfg(all(test, redrive_shuttle))]
mod shuttle_tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::key::{Fingerprint, RecordKey};
use crate::outcome::{Reason, StoredResult};

#[cfg(feature = "aws")]
pub use dynamodb::{
    DynamoInbox, DynamoInboxBuilder, InboxEntry, InboxPage, InboxScan, InboxScanEnd, InboxScanReport, Intervention,
    Leases, TableFacts,
};
pub use error::InboxError;
pub use memory::{InboxCounts, MemoryInbox, MemoryInboxBuilder, OperationCounts};
pub use record::{Record, Status};

/// The shortest lease.
pub const MIN_LEASE: Duration = Duration::from_secs(10);

/// The longest lease.
pub const MAX_LEASE: Duration = Duration::from_secs(15 * 60);

/// The most bytes of a result or a checkpoint, unless set higher.
pub const DEFAULT_MAX_RESULT: usize = 4 * 1024;

/// The most bytes a result or a checkpoint can be allowed.
pub const MAX_RESULT: usize = 256 * 1024;

/// How many deaths of its process make a message a dead letter.
pub const MAX_DEATHS: u32 = 2;

/// Answers by position: the n-th is the n-th entry's.
pub type Answers<T> = Vec<Result<T, InboxError>>;

/// `bytes` as an inbox's bound on results and checkpoints.
pub(crate) fn checked_max_result(bytes: usize) -> Result<usize, InboxError> {
    if bytes > MAX_RESULT {
        return Err(InboxError::TooLarge {
            what: "a bound on results and checkpoints",
            size: bytes,
            limit: MAX_RESULT,
        });
    }
    Ok(bytes)
}

/// What decides whether a key may be handled, by atomic conditional writes.
///
/// Batches may have any size and may name a key more than once; implementations split them as their service asks.
pub trait Inbox: Send + Sync + 'static {
    /// Claims keys. Of several claims of one key in a batch, the first is tried and the others are answered
    /// [`ClaimAnswer::Running`].
    fn claim(&self, requests: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>>;

    /// Writes changes under claims. A change whose claim no longer holds is [`InboxError::LeaseLost`] and changes nothing; one
    /// that finds itself already made has succeeded.
    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>>;

    /// Reads a record, consistently; one past its expiry is none.
    fn get<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>>;

    /// The bounds of the inbox's own time, now.
    fn time(&self) -> ServiceTime;

    /// Whether what the inbox said of its time contradicts itself, so that a lease may be over that [`time`](Self::time) takes
    /// for held. A worker then starts nothing before it has renewed what it holds. Never, unless implemented.
    fn time_is_in_doubt(&self) -> bool {
        false
    }

    /// The most bytes of a result or a checkpoint.
    fn max_result(&self) -> usize {
        DEFAULT_MAX_RESULT
    }

    /// Checks that the inbox can be used as it is set up, for the worker's preflight: every finding is a sentence that says
    /// what is wrong and what to do.
    ///
    /// # Errors
    /// When the service cannot be asked.
    fn check(&self) -> BoxFuture<'_, Result<Vec<String>, InboxError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Extends leases. See [`write`](Self::write).
    fn renew(&self, claims: Vec<Arc<Claim>>, lease: Duration) -> BoxFuture<'_, Answers<Written>> {
        self.write(
            claims
                .into_iter()
                .map(|claim| Write::new(claim, Change::Renew { lease }))
                .collect(),
        )
    }

    /// Records results. See [`write`](Self::write).
    fn complete(&self, completions: Vec<(Arc<Claim>, StoredResult)>) -> BoxFuture<'_, Answers<Written>> {
        let write = |(claim, result)| Write::new(claim, Change::Complete { result });
        self.write(completions.into_iter().map(write).collect())
    }

    /// Gives claims back unrun, counting no attempt. See [`write`](Self::write).
    fn release(&self, claims: Vec<Arc<Claim>>) -> BoxFuture<'_, Answers<Written>> {
        self.write(
            claims
                .into_iter()
                .map(|claim| Write::new(claim, Change::Release { failure: None }))
                .collect(),
        )
    }

    /// Rejects for good, before the dead letter is sent. See [`write`](Self::write).
    fn reject(&self, rejections: Vec<(Arc<Claim>, Rejection)>) -> BoxFuture<'_, Answers<Written>> {
        let write = |(claim, rejection)| Write::new(claim, Change::Reject(rejection));
        self.write(rejections.into_iter().map(write).collect())
    }

    /// Keeps `data` for the key's next run, while this claim holds, as the `serial`-th save under it, from 1. See
    /// [`write`](Self::write).
    fn checkpoint(&self, claim: Arc<Claim>, serial: u64, data: Bytes) -> BoxFuture<'_, Result<(), InboxError>> {
        Box::pin(async move {
            let change = Change::Checkpoint { serial, data };
            let mut answers = self.write(vec![Write::new(claim, change)]).await;
            answers.pop().unwrap_or(Err(InboxError::NoAnswer)).map(|_| ())
        })
    }
}

impl<I: Inbox + ?Sized> Inbox for Arc<I> {
    fn claim(&self, requests: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>> {
        (**self).claim(requests)
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        (**self).write(writes)
    }

    fn get<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>> {
        (**self).get(key)
    }

    fn time(&self) -> ServiceTime {
        (**self).time()
    }

    fn time_is_in_doubt(&self) -> bool {
        (**self).time_is_in_doubt()
    }

    fn max_result(&self) -> usize {
        (**self).max_result()
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<String>, InboxError>> {
        (**self).check()
    }
}

/// Bounds of a service's own time, in ms since 1970: it is not before `lo` and not after `hi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceTime {
    /// Not earlier than this.
    pub lo: u64,
    /// Not later than this.
    pub hi: u64,
}

/// One claim to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The key, with its consumer.
    pub key: RecordKey,
    /// Unique to this claim: worker epoch and counter.
    pub claim_id: String,
    /// The MessageId of the delivery.
    pub message_id: String,
    /// The payload's fingerprint, unless fingerprints are off.
    pub fingerprint: Option<Fingerprint>,
    /// How long the lease is to hold.
    pub lease: Duration,
    /// How long the record is to be kept.
    pub retention: Duration,
    /// How often the queue handed the message out; above 1 a record is likely to be there already.
    pub receive_count: u32,
    /// Whether the delivery carries our dead-letter envelope: a redrive or a replay, which is claimed afresh after a rejection.
    pub replayed: bool,
}

/// What the inbox says to a [`ClaimRequest`].
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimAnswer {
    /// It is ours: run it.
    Claimed(Arc<Claim>),
    /// It is ours, and was rejected before its dead letter was sent: send that, run nothing.
    FinishDeadLetter(Arc<Claim>, Rejection),
    /// It is done already.
    Completed(StoredResult),
    /// It was rejected and its dead letter was sent.
    Rejected,
    /// Its key is completed or running with another payload: never run it.
    FingerprintMismatch,
    /// Another claim holds it.
    Running {
        /// How long that lease holds at most from now.
        lease_left: Duration,
    },
}

/// A claim that was won.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// The key, with its consumer.
    pub key: RecordKey,
    /// Unique to this claim.
    pub claim_id: String,
    /// Larger than that of every earlier claim of the key.
    pub fencing_token: u64,
    /// When the lease written by the claim ends, in ms since 1970 by the inbox's time.
    pub lease_until: u64,
    /// Attempts counted so far for this message.
    pub attempts: u32,
    /// The last error kept for this message.
    pub last_error: Option<String>,
    /// Whether a process died or lost its lease with this key: its run is announced by [`Change::Start`].
    pub suspect: bool,
    /// How many processes died while running it, as far as is known.
    pub deaths: u32,
    /// What the last run kept.
    pub checkpoint: Option<Bytes>,
    /// When the key was first seen, in ms since 1970 by the inbox's time: later than an earlier claim's token only if the
    /// inbox has forgotten the key in between.
    pub first_seen: u64,
    /// How long the record is kept from its last write.
    pub retention: Duration,
}

/// Why and how often a message failed that is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// The last error, bounded.
    pub error: String,
    /// Attempts counted.
    pub attempts: u32,
}

/// A change under a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The claim it is made under.
    pub claim: Arc<Claim>,
    /// What is changed.
    pub change: Change,
}

impl Write {
    /// `change`, made under `claim`.
    #[must_use]
    pub fn new(claim: Arc<Claim>, change: Change) -> Self {
        Self { claim, change }
    }
}

/// What can be written under a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Extend the lease to this long from now.
    Renew {
        /// How long the lease is to hold.
        lease: Duration,
    },
    /// Announce the run of a suspect.
    Start,
    /// Keep this for the key's next run.
    Checkpoint {
        /// Counts the saves under this claim, from 1. A request may reach the store after its sender gave it up and saved
        /// something newer: one that is not newer than what is kept changes nothing, and succeeds.
        serial: u64,
        /// What is kept.
        data: Bytes,
    },
    /// It is done.
    Complete {
        /// What the handler returned.
        result: StoredResult,
    },
    /// Give the claim back.
    Release {
        /// The failed attempt that is counted by it; `None` counts nothing.
        failure: Option<Attempted>,
    },
    /// It is given up; its dead letter is not sent yet.
    Reject(Rejection),
    /// Its dead letter was sent.
    DeadLetterSent,
}

/// A failed attempt to be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// Attempts including this one.
    pub attempts: u32,
    /// Its error, bounded.
    pub error: String,
}

/// A change that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// When the lease ends, in ms since 1970 by the inbox's time, where the change set it ([`Change::Renew`]).
    pub lease_until: Option<u64>,
}
