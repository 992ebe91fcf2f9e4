//! An embedded queue that behaves as SQS does.

mod builder;
mod counts;
mod groups;
mod ids;
mod limits;
#[cfg(test)]
mod model;
#[cfg(test)]
mod reference;
mod schedule;
mod store;
#[cfg(test)]
mod tests;
mod window;

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Notify;

use crate::clock::{Clock, Instant};
use crate::faults::{Fault, FaultDecision, FaultPlan, Operation};
use crate::message::{Delivery, Message, Outgoing, Receipt};
use crate::sync::{Mutex, MutexGuard};

use super::rules::whole_seconds;
use super::{EntryError, EntryResults, Queue, QueueAttributes, QueueError, Receive};

use store::{Deleted, Moved, State, Store, Taken};

pub use builder::MemoryQueueBuilder;
pub use counts::CallCounts;

/// A queue in this process, faithful to SQS: for tests, examples and local work. Clones are the same queue.
///
/// Visibility timeouts, receive counts, redrive to a dead-letter queue, FIFO groups and deduplication, delays, retention, stale
/// receipt handles, the in-flight cap and the limits of messages and batches are SQS's. Time is the runtime's, so under a
/// paused runtime it is virtual; the same seed and the same calls give the same history. What SQS does rarely can be had on
/// demand: [`duplicate`](Self::duplicate) and [`ghost`](Self::ghost) deliveries, receives
/// [out of order](MemoryQueueBuilder::reorder) and [short of messages](MemoryQueueBuilder::short_receives), and
/// [faults](MemoryQueueBuilder::faults).
///
/// ```
/// use std::time::Duration;
/// use redrive::message::Outgoing;
/// use redrive::queue::{MemoryQueue, Queue, Receive};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), redrive::queue::QueueError> {
/// let dead = MemoryQueue::new("orders-dlq")?;
/// let orders = MemoryQueue::builder("orders")
///     .visibility_timeout(Duration::from_secs(30))
///     .dead_letter(&dead, 1)
///     .build()?;
/// orders.send(vec![Outgoing::new("an order")]).await?;
///
/// let received = orders.receive(Receive::new(10, Duration::ZERO)).await?;
/// assert_eq!(received[0].message.body, "an order");
/// // Nobody deletes it, so it comes back after 30 s; that would be the second receive, so it moves instead.
/// assert!(orders.receive(Receive::new(10, Duration::from_secs(20))).await?.is_empty());
/// assert!(orders.receive(Receive::new(10, Duration::from_secs(20))).await?.is_empty());
/// assert!(orders.is_empty());
/// assert_eq!(dead.messages()[0].body, "an order");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryQueue {
    shared: Arc<Shared>,
}

struct Shared {
    attributes: QueueAttributes,
    dead_letter: Option<MemoryQueue>,
    clock: Clock,
    faults: FaultPlan,
    arrivals: Notify,
    inner: Mutex<Inner>,
}

struct Inner {
    store: Store,
    calls: CallCounts,
}

/// A message as an embedded queue holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// The message.
    pub message: Message,
    /// How often it was handed out so far.
    pub receive_count: u32,
    /// What it waits for.
    pub state: HeldState,
}

/// What a held message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeldState {
    /// To be received.
    Visible,
    /// To be deleted, or to become visible again.
    InFlight {
        /// When it becomes visible.
        until: Instant,
    },
    /// For its delay to end.
    Delayed {
        /// When it becomes visible.
        until: Instant,
    },
}

impl MemoryQueue {
    /// A queue with SQS's defaults. A name that ends in `.fifo` makes a FIFO queue.
    ///
    /// # Errors
    /// [`QueueError::Invalid`] if SQS would not take the name.
    pub fn new(name: impl Into<String>) -> Result<Self, QueueError> {
        Self::builder(name).build()
    }

    /// Sets up a queue. A name that ends in `.fifo` makes a FIFO queue.
    pub fn builder(name: impl Into<String>) -> MemoryQueueBuilder {
        MemoryQueueBuilder::new(name.into())
    }

    fn assemble(
        attributes: QueueAttributes,
        dead_letter: Option<MemoryQueue>,
        clock: Clock,
        faults: FaultPlan,
        store: Store,
    ) -> Self {
        let inner = Inner {
            store,
            calls: CallCounts::default(),
        };
        Self {
            shared: Arc::new(Shared {
                attributes,
                dead_letter,
                clock,
                faults,
                arrivals: Notify::new(),
                inner: Mutex::new(inner),
            }),
        }
    }

    fn fixed(&self) -> &QueueAttributes {
        &self.shared.attributes
    }

    /// The plan of what goes wrong with this queue; it can be changed at any time.
    #[must_use]
    pub fn faults(&self) -> &FaultPlan {
        &self.shared.faults
    }

    /// The calls made to this queue so far, as a client of SQS would be billed for them.
    #[must_use]
    pub fn calls(&self) -> CallCounts {
        self.lock().calls
    }

    /// Starts counting calls anew, and answers what was counted.
    pub fn reset_calls(&self) -> CallCounts {
        std::mem::take(&mut self.lock().calls)
    }

    /// How many messages are held, whatever their state; duplicates of one message count once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.with(|store, _| store.messages())
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many deliveries a receive could hand out, FIFO locks aside.
    #[must_use]
    pub fn visible(&self) -> usize {
        self.with(|store, _| store.visible())
    }

    /// How many deliveries are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.with(|store, _| store.in_flight())
    }

    /// How many messages are delayed since they were sent.
    #[must_use]
    pub fn delayed(&self) -> usize {
        self.with(|store, _| store.delayed())
    }

    /// The messages held, whatever their state, in the order of sending. Receives nothing.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.with(|store, _| store.entries().map(|entry| entry.message.clone()).collect())
    }

    /// A held message and its state, without receiving it.
    #[must_use]
    pub fn peek(&self, message_id: &str) -> Option<Held> {
        self.with(|store, _| store.find(message_id).map(Held::of))
    }

    /// Whether a message is held, whatever its state.
    #[must_use]
    pub fn contains(&self, message_id: &str) -> bool {
        self.with(|store, _| store.find(message_id).is_some())
    }

    /// Hands a visible or in-flight message out once more, as a standard queue sometimes does: a second delivery with a
    /// receipt handle of its own, even while the first is in flight. Deleting either deletes the message.
    ///
    /// # Errors
    /// [`QueueError::Invalid`] if the message is not visible or in flight, or the queue is FIFO, which makes no duplicates.
    pub fn duplicate(&self, message_id: &str) -> Result<(), QueueError> {
        self.only_standard(message_id)?;
        self.with(|store, now| store.duplicate(now, message_id))
            .then_some(())
            .ok_or_else(|| wrong_message(message_id, "no such message is visible or in flight"))
    }

    /// Hands a deleted message out once more, as a standard queue does when one of its servers missed the delete. The last
    /// 1,024 deleted messages can come back.
    ///
    /// # Errors
    /// [`QueueError::Invalid`] if no such message was deleted lately, if it is held, or if the queue is FIFO.
    pub fn ghost(&self, message_id: &str) -> Result<(), QueueError> {
        self.only_standard(message_id)?;
        self.with(|store, now| store.ghost(now, message_id))
            .then_some(())
            .ok_or_else(|| wrong_message(message_id, "no such message was deleted lately, or it is held again"))
    }

    /// Counts receives that no client saw, as SQS does for replies that got lost.
    ///
    /// # Errors
    /// [`QueueError::Invalid`] if the message is not held.
    pub fn raise_receive_count(&self, message_id: &str, by: u32) -> Result<(), QueueError> {
        self.with(|store, _| store.raise_receive_count(message_id, by))
            .then_some(())
            .ok_or_else(|| wrong_message(message_id, "no such message is held"))
    }

    /// Removes every message.
    pub fn purge(&self) {
        self.with(|store, _| store.purge());
    }

    fn only_standard(&self, message_id: &str) -> Result<(), QueueError> {
        if self.fixed().fifo {
            return Err(wrong_message(message_id, "a FIFO queue hands out no duplicates"));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a step on the store brought to now, and wakes waiting receives if they have reason to look.
    fn with<T>(&self, step: impl FnOnce(&mut Store, Instant) -> T) -> T {
        let now = self.shared.clock.now();
        let mut inner = self.lock();
        inner.store.advance(now);
        let answer = step(&mut inner.store, now);
        let wake = inner.store.take_wake();
        drop(inner);
        if wake {
            self.shared.arrivals.notify_waiters();
        }
        answer
    }

    fn count(&self, count: impl FnOnce(&mut CallCounts)) {
        count(&mut self.lock().calls);
    }

    /// What comes before a call's effect: its fault, drawn, and the way there.
    async fn begin(&self, operation: Operation, entries: usize) -> Result<FaultDecision, QueueError> {
        let decision = self.shared.faults.next(operation, entries);
        if !decision.before_effect.is_zero() {
            tokio::time::sleep(decision.before_effect).await;
        }
        match decision.fault {
            Some(Fault::Before) => Err(self.unavailable(operation, "the request was lost")),
            Some(Fault::Throttled) => Err(QueueError::Throttled {
                queue: self.fixed().name.clone(),
                operation: action(operation),
                detail: "too many requests; send fewer".to_owned(),
                request_id: None,
            }),
            _ => Ok(decision),
        }
    }

    /// What comes after a call's effect: the way back.
    async fn end(&self, operation: Operation, decision: &FaultDecision) -> Result<(), QueueError> {
        if !decision.after_effect.is_zero() {
            tokio::time::sleep(decision.after_effect).await;
        }
        if decision.fault == Some(Fault::After) {
            return Err(self.unavailable(operation, "the reply was lost"));
        }
        Ok(())
    }

    fn unavailable(&self, operation: Operation, detail: &str) -> QueueError {
        QueueError::Unavailable {
            queue: self.fixed().name.clone(),
            operation: action(operation),
            detail: detail.to_owned(),
            request_id: None,
        }
    }

    fn refused(&self, operation: Operation, (code, detail): limits::Refusal) -> QueueError {
        QueueError::Refused {
            queue: self.fixed().name.clone(),
            operation: action(operation),
            code: code.to_owned(),
            detail,
            request_id: None,
        }
    }

    /// Waits for messages until `deadline`, woken by whatever may bring one.
    async fn poll(&self, request: Receive, asked: Instant, deadline: Instant) -> Result<Vec<Delivery>, QueueError> {
        loop {
            let mut arrival = std::pin::pin!(self.shared.arrivals.notified());
            arrival.as_mut().enable();
            let (mut taken, next_due) = self.take(&request)?;
            if !taken.is_empty() {
                for delivery in &mut taken {
                    delivery.received_at = asked;
                }
                return Ok(taken);
            }
            if self.shared.clock.now() >= deadline {
                return Ok(Vec::new());
            }
            let look_again = next_due.map_or(deadline, |due| due.min(deadline));
            tokio::select! {
                biased;
                () = arrival => {}
                () = tokio::time::sleep_until(look_again) => {}
            }
            if self.shared.faults.is_unreachable() {
                return Err(self.unavailable(Operation::Receive, "the connection was cut"));
            }
        }
    }

    fn take(&self, request: &Receive) -> Result<(Vec<Delivery>, Option<Instant>), QueueError> {
        let fifo = self.fixed().fifo;
        let epoch_ms = self.shared.clock.epoch_ms();
        let taken = self.with(|store, now| {
            if !fifo && store.at_in_flight_cap() {
                return None;
            }
            let visibility = request.visibility.map(whole_seconds);
            let Taken { deliveries, moved } = store.take(now, request.max, visibility, request.wait.is_zero());
            // Under this queue's lock, so that nobody finds a message in neither queue. A queue's dead-letter queue was built
            // before it, so locks nest in one order only.
            if let Some(dead_letter) = &self.shared.dead_letter {
                dead_letter.accept(moved, epoch_ms, &self.fixed().arn);
            }
            Some((deliveries, store.next_due()))
        });
        taken.ok_or_else(|| QueueError::InFlightLimit {
            queue: self.fixed().name.clone(),
            operation: action(Operation::Receive),
            detail: "OverLimit".to_owned(),
            request_id: None,
        })
    }

    fn accept(&self, moved: Vec<Moved>, epoch_ms: u64, source: &str) {
        if !moved.is_empty() {
            self.with(|store, now| {
                for mut moved in moved {
                    moved.message.dead_letter_source = Some(source.to_owned());
                    store.accept(now, epoch_ms, moved);
                }
            });
        }
    }
}

impl Queue for MemoryQueue {
    fn attributes(&self) -> &QueueAttributes {
        self.fixed()
    }

    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        let queue = self.shared.dead_letter.clone()?;
        Some(Arc::new(queue))
    }

    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        Box::pin(async move {
            self.count(|calls| calls.describe += 1);
            let decision = self.begin(Operation::Describe, 0).await?;
            let mut attributes = self.fixed().clone();
            (attributes.visible, attributes.in_flight, attributes.delayed) = self.with(|store, _| {
                let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
                (count(store.visible()), count(store.in_flight()), count(store.delayed()))
            });
            self.end(Operation::Describe, &decision).await?;
            Ok(attributes)
        })
    }

    fn receive(&self, request: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        Box::pin(async move {
            let asked = self.shared.clock.now();
            self.count(|calls| calls.receive += 1);
            let decision = self.begin(Operation::Receive, 0).await?;
            limits::check_receive(&request).map_err(|refusal| self.refused(Operation::Receive, refusal))?;
            let deadline = self.shared.clock.now() + request.wait;
            let deliveries = self.poll(request, asked, deadline).await?;
            self.end(Operation::Receive, &decision).await?;
            self.count(|calls| {
                calls.empty_receives += u64::from(deliveries.is_empty());
                calls.received += counts::count(&deliveries);
            });
            Ok(deliveries)
        })
    }

    fn delete(&self, receipts: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async move {
            const DELETE: Operation = Operation::Delete;
            self.count(|calls| {
                calls.delete += 1;
                calls.delete_entries += counts::count(&receipts);
            });
            let decision = self.begin(DELETE, receipts.len()).await?;
            limits::check_batch(receipts.len()).map_err(|refusal| self.refused(DELETE, refusal))?;
            let mut stale = 0;
            let results = self.with(|store, _| {
                entry_by_entry(&decision, receipts, |receipt| {
                    let deleted = store.delete(&receipt)?;
                    stale += u64::from(deleted == Deleted::Nothing);
                    Ok(())
                })
            });
            self.count(|calls| calls.stale_deletes += stale);
            self.end(DELETE, &decision).await?;
            Ok(results)
        })
    }

    fn change_visibility(
        &self,
        changes: Vec<(Receipt, Duration)>,
    ) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        Box::pin(async move {
            const CHANGE: Operation = Operation::ChangeVisibility;
            self.count(|calls| {
                calls.change_visibility += 1;
                calls.change_visibility_entries += counts::count(&changes);
            });
            let decision = self.begin(CHANGE, changes.len()).await?;
            limits::check_batch(changes.len()).map_err(|refusal| self.refused(CHANGE, refusal))?;
            let results = self.with(|store, now| {
                entry_by_entry(&decision, changes, |(receipt, timeout)| {
                    store.change_visibility(now, &receipt, timeout)
                })
            });
            self.end(CHANGE, &decision).await?;
            Ok(results)
        })
    }

    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        Box::pin(async move {
            const SEND: Operation = Operation::Send;
            self.count(|calls| {
                calls.send += 1;
                calls.send_entries += counts::count(&messages);
            });
            let decision = self.begin(SEND, messages.len()).await?;
            limits::check_batch(messages.len())
                .and_then(|()| limits::check_batch_bytes(&messages))
                .map_err(|refusal| self.refused(SEND, refusal))?;
            let epoch_ms = self.shared.clock.epoch_ms();
            let results = self
                .with(|store, now| entry_by_entry(&decision, messages, |message| store.send(now, epoch_ms, message)));
            self.end(SEND, &decision).await?;
            Ok(results)
        })
    }
}

impl fmt::Debug for MemoryQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryQueue")
            .field("name", &self.fixed().name)
            .finish_non_exhaustive()
    }
}

impl Held {
    fn of(entry: &store::Entry) -> Self {
        Self {
            message: entry.message.clone(),
            receive_count: entry.receive_count,
            state: match entry.state {
                State::Visible { .. } => HeldState::Visible,
                State::InFlight { until, .. } => HeldState::InFlight { until },
                State::Delayed { until } => HeldState::Delayed { until },
            },
        }
    }
}

fn entry_by_entry<E, T>(
    decision: &FaultDecision,
    entries: Vec<E>,
    mut effect: impl FnMut(E) -> Result<T, EntryError>,
) -> EntryResults<T> {
    let entries = entries.into_iter().enumerate();
    entries
        .map(|(position, entry)| {
            if decision.fails_entry(position) {
                return Err(EntryError::new(
                    "InternalError",
                    "the service failed on this entry; send it again",
                    false,
                ));
            }
            effect(entry)
        })
        .collect()
}

fn action(operation: Operation) -> &'static str {
    match operation {
        Operation::Delete => "DeleteMessage",
        Operation::ChangeVisibility => "ChangeMessageVisibility",
        Operation::Send => "SendMessage",
        Operation::Describe => "GetQueueAttributes",
        _ => "ReceiveMessage",
    }
}

fn wrong_message(message_id: &str, why: &str) -> QueueError {
    QueueError::Invalid {
        what: "message id",
        value: message_id.to_owned(),
        why: why.to_owned(),
    }
}
