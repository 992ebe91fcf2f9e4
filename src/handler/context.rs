//! What one run of a handler can know.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

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
    envelope: Option<Envelope>,
    claim: Option<(Arc<dyn Inbox>, Arc<Claim>)>,
    cancellation: CancellationToken,
    /// What was kept last: by the run before, until this one keeps something itself.
    checkpoint: Mutex<Option<Bytes>>,
}

impl Context {
    /// A run of `delivery` under `key`, as attempt number `attempt` (from 1) on the queue named `queue`.
    #[must_use]
    pub fn new(delivery: Arc<Delivery>, key: Key, attempt: u32, queue: Arc<str>) -> Self {
        let envelope = Envelope::of(&delivery.message);
        Self::assembled(delivery, key, attempt, queue, envelope, None, CancellationToken::new())
    }

    pub(crate) fn assembled(
        delivery: Arc<Delivery>,
        key: Key,
        attempt: u32,
        queue: Arc<str>,
        envelope: Option<Envelope>,
        claim: Option<(Arc<dyn Inbox>, Arc<Claim>)>,
        cancellation: CancellationToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                delivery,
                key,
                attempt,
                queue,
                envelope,
                checkpoint: Mutex::new(claim.as_ref().and_then(|(_, claim)| claim.checkpoint.clone())),
                claim,
                cancellation,
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
        self.inner.envelope.as_ref()
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
        self.inner
            .checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Remembers what this run kept.
    pub(crate) fn keep_checkpoint(&self, data: Bytes) {
        *self.inner.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(data);
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
