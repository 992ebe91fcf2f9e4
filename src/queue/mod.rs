//! Queues: a small batch-first trait and its implementations.
//!
//! | | `SqsQueue` | [`MemoryQueue`] |
//! |---|---|---|
//! | for | production | tests, examples, local work |
//! | time | the service's | the injected clock, real or virtual |
//! | faults | the cloud's | injected, seeded |

mod error;
pub mod memory;
pub(crate) mod rules;
#[cfg(feature = "aws")]
mod sqs;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::message::{Delivery, Outgoing, Receipt};

pub use error::{EntryError, QueueError};
pub use memory::MemoryQueue;
#[cfg(feature = "aws")]
pub use sqs::{
    Changes, ClockSkew, MAX_MOVE_RATE, MoveStatus, MoveTask, QueuePlan, QueueRole, QueueSettings, RedriveAllow,
    SetUpState, SetUpStep, SqsQueue, SqsQueueBuilder,
};

/// The most entries SQS takes in one batch, and the most messages it hands out in one receive.
pub const MAX_BATCH: usize = 10;

/// The longest SQS keeps a received message invisible, counted from the receive.
pub const MAX_VISIBILITY: Duration = Duration::from_secs(12 * 60 * 60);

/// The longest SQS keeps a message hidden when it is sent.
pub const MAX_DELAY: Duration = Duration::from_secs(15 * 60);

/// The longest a long poll may wait.
pub const MAX_WAIT: Duration = Duration::from_secs(20);

/// The most bytes a message, and a batch of messages, may have (1 MiB).
pub const MAX_BYTES: usize = 1024 * 1024;

/// The most message attributes a message may have.
pub const MAX_ATTRIBUTES: usize = 10;

/// Outcomes of a batch, by position: the n-th answer is the n-th entry's.
pub type EntryResults<T> = Vec<Result<T, EntryError>>;

/// A queue with SQS's semantics. Batches have at most [`MAX_BATCH`] entries; implementations answer every entry by its
/// position, and fail the call as a whole only when no entry had an effect that is known.
pub trait Queue: Send + Sync + 'static {
    /// What was read of the queue when it was opened.
    fn attributes(&self) -> &QueueAttributes;

    /// The queue that the redrive policy names, where there is one and it could be opened.
    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>>;

    /// Why the queue that the redrive policy names could not be opened, where that is so: what is wrong and what to do.
    fn dead_letter_problem(&self) -> Option<&str> {
        None
    }

    /// Reads the queue's attributes and counts afresh.
    ///
    /// # Errors
    /// When the service cannot be reached, refuses, or the queue is gone.
    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>>;

    /// Waits up to `request.wait` for up to `request.max` messages. Fewer may come although more are there.
    ///
    /// # Errors
    /// When the service cannot be reached or refuses.
    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>>;

    /// Deletes deliveries' messages.
    ///
    /// # Errors
    /// When the batch as a whole failed; whether it had an effect is then unknown.
    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>>;

    /// Sets how long from now each delivery stays invisible, in whole seconds (rounded up) to 12 hours in all from its
    /// receive; zero makes it visible at once.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    fn change_visibility(
        &self,
        changes: Vec<(Receipt, Duration)>,
    ) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>>;

    /// Sends messages and answers each with its MessageId.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>>;
}

impl<Q: Queue + ?Sized> Queue for Arc<Q> {
    fn attributes(&self) -> &QueueAttributes {
        (**self).attributes()
    }

    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        (**self).dead_letter_queue()
    }

    fn dead_letter_problem(&self) -> Option<&str> {
        (**self).dead_letter_problem()
    }

    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        (**self).describe()
    }

    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        (**self).receive(request)
    }

    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        (**self).delete(receipts)
    }

    fn change_visibility(
        &self,
        changes: Vec<(Receipt, Duration)>,
    ) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        (**self).change_visibility(changes)
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        (**self).send(messages)
    }
}

/// One receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receive {
    /// At most this many messages, 1 to [`MAX_BATCH`].
    pub max: usize,
    /// How long to wait for the first, up to [`MAX_WAIT`].
    pub wait: Duration,
    /// How long what is received stays invisible; the queue's own timeout unless set.
    pub visibility: Option<Duration>,
}

impl Receive {
    /// A receive of up to `max` messages that waits up to `wait`.
    #[must_use]
    pub fn new(max: usize, wait: Duration) -> Self {
        Self {
            max: max.clamp(1, MAX_BATCH),
            wait: wait.min(MAX_WAIT),
            visibility: None,
        }
    }
}

/// What a queue says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueAttributes {
    /// The queue's name.
    pub name: String,
    /// Where requests go: the queue's URL, or the name of an embedded queue.
    pub url: String,
    /// The queue's ARN.
    pub arn: String,
    /// Whether it is a FIFO queue.
    pub fifo: bool,
    /// Whether a FIFO queue makes deduplication ids from bodies.
    pub content_based_deduplication: bool,
    /// Whether a FIFO queue's deduplication is by message group.
    pub deduplication_by_group: bool,
    /// How long a received message stays invisible.
    pub visibility_timeout: Duration,
    /// How long a message is kept.
    pub retention: Duration,
    /// The most bytes a message may have.
    pub max_message_bytes: usize,
    /// The redrive policy.
    pub redrive: Option<RedrivePolicy>,
    /// About how many messages are visible.
    pub visible: u64,
    /// About how many are in flight.
    pub in_flight: u64,
    /// About how many are delayed.
    pub delayed: u64,
}

impl QueueAttributes {
    /// A standard queue with SQS's defaults: 30 s visibility, 4 days retention, 1 MiB, no redrive policy.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            url: name.clone(),
            arn: format!("arn:aws:sqs:local:000000000000:{name}"),
            fifo: name.ends_with(".fifo"),
            name,
            content_based_deduplication: false,
            deduplication_by_group: false,
            visibility_timeout: Duration::from_secs(30),
            retention: Duration::from_secs(4 * 24 * 60 * 60),
            max_message_bytes: MAX_BYTES,
            redrive: None,
            visible: 0,
            in_flight: 0,
            delayed: 0,
        }
    }
}

/// Where SQS moves a message by itself, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedrivePolicy {
    /// The dead-letter queue's ARN.
    pub dead_letter_arn: String,
    /// A message received more often than this is moved instead of handed out.
    pub max_receive_count: u32,
}

impl RedrivePolicy {
    /// A policy that moves to `dead_letter_arn` what was received more than `max_receive_count` times.
    pub fn new(dead_letter_arn: impl Into<String>, max_receive_count: u32) -> Self {
        Self {
            dead_letter_arn: dead_letter_arn.into(),
            max_receive_count,
        }
    }
}
