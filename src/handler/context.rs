//! What one run of a handler can know.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::dlq::envelope::Envelope;
use crate::inbox::{Claim, Inbox};
use crate::key::Key;
use crate::message::{Delivery, Message};

/// Everything one run of a handler can know: the delivery, its key, the claim it runs under. Extractors take their values
/// from it, and it is the request type of the handler's `tower` service. Clones share.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    delivery: Arc<Delivery>,
    key: Key,
    attempt: u32,
    queue: Arc<str>,
    envelope: Option<Arc<Envelope>>,
    claim: Option<(Arc<dyn Inbox>, Arc<Claim>)>,
    cancellation: CancellationToken,
    /// None without a claim.
    kept: Option<Kept>,
}

/// What was kept last under a claim: by the run before, until this one keeps something itself. Clones share, so that runs
/// under one claim go on from each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Mutex<KeptState>>);

#[derive(Debug, Default)]
struct KeptState {
    checkpoint: Option<Bytes>,
    unsure: bool,
    /// How many saves were begun under the claim.
    saves: u64,
}

impl Kept {
    /// What the record held when it was claimed, or claimed again after runs that had `before`.
    pub(crate) fn of(claim: &Claim, before: Option<&Self>) -> Self {
        Self(Arc::new(Mutex::new(KeptState {
            checkpoint: claim.checkpoint.clone(),
            unsure: false,
            saves: before.map_or(0, |before| before.lock().saves),
        })))
    }

    /// Whether a save was begun whose end nobody saw: only the record knows what is kept.
    pub(crate) fn is_unsure(&self) -> bool {
        self.lock().unsure
    }

    fn lock(&self) -> MutexGuard<'_, KeptState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    /// A run of `delivery` under `key`, as attempt number `attempt` (from 1) on the queue named `queue`.
    #[must_use]
    pub fn new(delivery: Arc<Delivery>, key: Key, attempt: u32, queue: Arc<str>) -> Self {
        let envelope = Envelope::of(&delivery.message).map(Arc::new);
        let (claim, kept) = (None, None);
        Self::assembled(
            delivery,
            key,
            attempt,
            queue,
            envelope,
            claim,
            kept,
            CancellationToken::new(),
        )
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "all that a run can know, assembled in one place"
    )]
    pub(crate) fn assembled(
        delivery: Arc<Delivery>,
        key: Key,
        attempt: u32,
        queue: Arc<str>,
        envelope: Option<Arc<Envelope>>,
        claim: Option<(Arc<dyn Inbox>, Arc<Claim>)>,
        kept: Option<Kept>,
        cancellation: CancellationToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                delivery,
                key,
                attempt,
                queue,
                envelope,
                claim,
                cancellation,
                kept,
            }),
        }
    }

    /// The delivery.
    #[must_use]
    pub fn delivery(&self) -> &Arc<Delivery> {
        &self.inner.delivery
    }

    /// The message delivered.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.inner.delivery.message
    }

    /// The key that deduplication is by.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.inner.key
    }

    /// Which attempt this is, from 1: handler runs of this message that failed, plus this one. Without an inbox, the
    /// queue's receive count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// The name of the queue it was received from.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.inner.queue
    }

    /// The dead-letter envelope, if the message was replayed or redriven.
    #[must_use]
    pub fn envelope(&self) -> Option<&Envelope> {
        self.inner.envelope.as_deref()
    }

    /// The claim it runs under, unless the worker has no inbox.
    #[must_use]
    pub fn claim(&self) -> Option<&Arc<Claim>> {
        self.inner.claim.as_ref().map(|(_, claim)| claim)
    }

    /// The inbox that holds the claim.
    #[must_use]
    pub fn inbox(&self) -> Option<&Arc<dyn Inbox>> {
        self.inner.claim.as_ref().map(|(inbox, _)| inbox)
    }

    /// Fires when the run's result is no longer wanted: its lease is lost, or the drain's deadline has come.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        &self.inner.cancellation
    }

    /// What was kept last for this message.
    pub(crate) fn checkpoint(&self) -> Option<Bytes> {
        self.inner.kept.as_ref()?.lock().checkpoint.clone()
    }

    /// A save begins, of this number under its claim: until it is known to have ended, what is kept is unsure.
    pub(crate) fn keeping_checkpoint(&self) -> u64 {
        let Some(kept) = &self.inner.kept else { return 0 };
        let mut kept = kept.lock();
        kept.unsure = true;
        kept.saves = kept.saves.saturating_add(1);
        kept.saves
    }

    /// Remembers what this run kept.
    pub(crate) fn keep_checkpoint(&self, data: Bytes) {
        let Some(kept) = &self.inner.kept else { return };
        let mut kept = kept.lock();
        kept.checkpoint = Some(data);
        kept.unsure = false;
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("queue", &self.inner.queue)
            .field("message_id", &self.inner.delivery.message.id)
            .field("key", &self.inner.key)
            .field("attempt", &self.inner.attempt)
            .finish_non_exhaustive()
    }
}
