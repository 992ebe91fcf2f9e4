//! Sending: keys, types, groups and trace context in, full batches out, every sender with an answer of its own.

mod buffer;
mod drive;
mod message;
#[cfg(test)]
mod model;
#[cfg(all(test, redrive_shuttle))]
mod shuttle_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::clock::{Clock, Instant, Random};
use crate::flow::Backoff;
use crate::queue::{EntryError, Queue, QueueError};
use crate::sync::Mutex;
use crate::telemetry::SendTrace;

pub use crate::queue::MAX_DELAY;
use buffer::{Buffer, Entry};
pub use message::NewMessage;

/// Sends messages to one queue.
///
/// Messages sent at about the same time share a call: a batch goes when it has ten messages or 1 MiB, or after a few
/// milliseconds. Of a batch that fails in part, only what failed is sent again, with backoff; what can never succeed is answered
/// to its own sender. On a FIFO queue the order within a group holds even then.
///
/// Clones share buffer and batches. No task is spawned: whoever waits for an answer drives the sending, for all. So dropping
/// a send's future takes back a message that is not under way yet, and touches no other.
///
/// ```
/// use redrive::producer::{NewMessage, Producer};
/// # use std::sync::Arc;
/// # use redrive::queue::Queue;
///
/// # async fn example(queue: Arc<dyn Queue>) -> Result<(), redrive::producer::ProducerError> {
/// let producer = Producer::new(queue);
/// let message_id = producer
///     .send(NewMessage::text(r#"{"amount":12}"#).key("order-7").message_type("order.created"))
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("queue", &self.inner.queue.attributes().name)
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}

/// How a [`Producer`] is set up.
#[derive(Clone)]
pub struct ProducerBuilder {
    queue: Arc<dyn Queue>,
    settings: Settings,
    clock: Clock,
    random: Option<Random>,
}

impl fmt::Debug for ProducerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerBuilder")
            .field("queue", &self.queue.attributes().name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Settings {
    linger: Duration,
    buffer: usize,
    batches: usize,
    attempts: u32,
    give_up_after: Duration,
    backoff: Backoff,
    own_keys: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            buffer: 1_000,
            batches: 8,
            attempts: 10,
            give_up_after: Duration::from_secs(60),
            backoff: Backoff::default(),
            own_keys: true,
        }
    }
}

impl ProducerBuilder {
    /// How long a message waits for others to share its batch; 5 ms unless set, at most 1 s. Zero sends at once.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// How many messages may be taken and not yet answered; 1,000 unless set. Beyond that, sending waits.
    #[must_use]
    pub fn buffer(mut self, messages: usize) -> Self {
        self.settings.buffer = messages;
        self
    }

    /// How many batches may be under way at once; 8 unless set.
    #[must_use]
    pub fn batches_in_flight(mut self, batches: usize) -> Self {
        self.settings.batches = batches;
        self
    }

    /// How often a message is sent before it is given up; 10 times unless set.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.settings.attempts = attempts;
        self
    }

    /// After how long a message is not sent again; 60 s unless set. Also the longest that one call may take.
    #[must_use]
    pub fn give_up_after(mut self, time: Duration) -> Self {
        self.settings.give_up_after = time;
        self
    }

    /// How long to wait before a message is sent again; 500 ms doubling to 30 s with full jitter unless set.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// Whether a message without a key gets one of its own, so that consumers recognise the copy which a lost answer makes
    /// the producer send; on unless set.
    #[must_use]
    pub fn own_keys(mut self, on: bool) -> Self {
        self.settings.own_keys = on;
        self
    }

    /// The clock; the host's unless set.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Where jitter and keys come from; seeded by the system unless set.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.random = Some(random);
        self
    }

    /// The producer.
    ///
    /// # Errors
    /// [`ProducerError::Setting`] if a setting cannot work.
    pub fn build(self) -> Result<Producer, ProducerError> {
        let settings = self.settings.clone();
        let wrong = |name, value: String, allowed| Err(ProducerError::Setting { name, value, allowed });
        if settings.linger > Duration::from_secs(1) {
            return wrong("linger", format!("{:?}", settings.linger), "at most 1 s");
        }
        if !(1..=100_000).contains(&settings.buffer) {
            return wrong("buffer", settings.buffer.to_string(), "1 to 100,000 messages");
        }
        if !(1..=1_000).contains(&settings.batches) {
            return wrong("batches_in_flight", settings.batches.to_string(), "1 to 1,000");
        }
        if settings.attempts == 0 {
            return wrong("attempts", "0".to_owned(), "at least 1");
        }
        if settings.give_up_after < Duration::from_millis(100) {
            return wrong(
                "give_up_after",
                format!("{:?}", settings.give_up_after),
                "at least 100 ms",
            );
        }
        Ok(Self { settings, ..self }.assembled())
    }

    fn assembled(self) -> Producer {
        let settings = self.settings;
        Producer {
            inner: Arc::new(Inner {
                space: Arc::new(Semaphore::new(settings.buffer)),
                state: Mutex::new(State {
                    buffer: Buffer::new(settings.linger),
                    driver: None,
                    unanswered: BTreeSet::new(),
                    parked: Parked::Listening,
                }),
                changed: Notify::new(),
                answered: Notify::new(),
                random: self.random.unwrap_or_default(),
                clock: self.clock,
                fifo: self.queue.attributes().fifo,
                queue: self.queue,
                settings,
            }),
        }
    }
}

/// What can go wrong with sending a message.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProducerError {
    /// The queue would refuse the message: it was not sent.
    #[error("a message for queue `{queue}` cannot be sent: {what}: {why}")]
    Invalid {
        /// The queue.
        queue: String,
        /// Which part of the message.
        what: String,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// The queue refused the message.
    #[error("queue `{queue}` refused a message: {error}")]
    Refused {
        /// The queue.
        queue: String,
        /// What it said.
        error: EntryError,
    },
    /// It was tried as often, or as long, as it may be. It may have been sent all the same.
    #[error(
        "a message for queue `{queue}` was given up after {attempts} attempts; it may have been sent; the last error: {last}"
    )]
    GivenUp {
        /// The queue.
        queue: String,
        /// How often it was sent.
        attempts: u32,
        /// The last error.
        last: String,
    },
    /// An earlier message of its FIFO group failed: this one was not sent, so that the order holds.
    #[error(
        "a message for queue `{queue}` was not sent: an earlier one of its group `{group}` failed ({earlier}); send both again in their order"
    )]
    GroupFailed {
        /// The queue.
        queue: String,
        /// The group.
        group: String,
        /// What the earlier message failed with.
        earlier: String,
    },
    /// The call failed, and would fail again.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A setting cannot work.
    #[error("the producer's setting `{name}` cannot be {value}: allowed is {allowed}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The queue's implementation ended without an answer. The message may have been sent.
    #[error("queue `{queue}` gave no answer for a message; it may have been sent")]
    NoAnswer {
        /// The queue.
        queue: String,
    },
}

impl ProducerError {
    /// Its kind, as metrics and traces have it.
    fn kind(&self) -> &str {
        match self {
            Self::Refused { error, .. } => &error.code,
            Self::GivenUp { .. } => "given_up",
            Self::GroupFailed { .. } => "group_failed",
            _ => "call_failed",
        }
    }
}

type Answer = Result<String, ProducerError>;

struct Sender {
    answer: oneshot::Sender<Answer>,
    /// The place in the buffer, given back with the answer.
    _place: OwnedSemaphorePermit,
}

type Driver = Shared<BoxFuture<'static, ()>>;

struct Inner {
    queue: Arc<dyn Queue>,
    settings: Settings,
    fifo: bool,
    clock: Clock,
    random: Random,
    space: Arc<Semaphore>,
    state: Mutex<State>,
    /// Something was added, taken back, or is to be flushed.
    changed: Notify,
    /// Something was answered, or nobody waits for it any more: flushes look again.
    answered: Notify,
}

struct State {
    buffer: Buffer<Sender>,
    /// The sending of all, driven by all who wait. Weak: it lives as long as somebody waits.
    driver: Option<WeakShared<BoxFuture<'static, ()>>>,
    /// The numbers of messages whose senders still wait.
    unanswered: BTreeSet<u64>,
    parked: Parked,
}

/// What the driver waits for, so that it is woken only for what changes its mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parked {
    /// For anything new.
    Listening,
    /// For a time, or a full batch.
    Until(Instant),
    /// For a batch in flight; anything new has to wait.
    Busy,
}

impl Producer {
    /// A producer for `queue` with the defaults.
    #[must_use]
    pub fn new(queue: impl Queue) -> Self {
        Self::builder(queue).assembled()
    }

    /// A producer for `queue` to be set up.
    #[must_use]
    pub fn builder(queue: impl Queue) -> ProducerBuilder {
        ProducerBuilder {
            queue: Arc::new(queue),
            settings: Settings::default(),
            clock: Clock::system(),
            random: None,
        }
    }

    /// Sends a message and says the MessageId it was given.
    ///
    /// Waits for a place in the buffer, then for the answer. Dropping the future takes the message back if it is not under way.
    ///
    /// # Errors
    /// When the message is one that the queue would refuse or refuses, or when it could not be sent in time.
    pub async fn send(&self, message: impl Into<NewMessage>) -> Result<String, ProducerError> {
        self.accept(message.into()).await?.await
    }

    /// Whether the queue would take this message, as far as that is known without sending it: so that a whole file can be
    /// checked before its first message goes.
    ///
    /// ```
    /// use redrive::MemoryQueue;
    /// use redrive::producer::{NewMessage, Producer};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let producer = Producer::new(MemoryQueue::builder("orders").build()?);
    /// assert!(producer.check(&NewMessage::text("{}")).is_ok());
    /// assert!(producer.check(&NewMessage::text("")).is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ProducerError::Invalid`], as [`send`](Self::send) would answer.
    pub fn check(&self, message: &NewMessage) -> Result<(), ProducerError> {
        let inner = &self.inner;
        let keys = inner.settings.own_keys.then_some(&inner.random);
        message.clone().prepared(inner.queue.attributes(), keys).map(|_| ())
    }

    /// Sends many messages in their order, batch after batch, several at once, and answers each by its position.
    ///
    /// One that fails does not keep the others from being sent, except that on a FIFO queue nothing of a group passes what
    /// failed before it. Of a stream, send by `stream.map(|message| producer.send(message)).buffered(100)`.
    pub async fn send_all<I>(&self, messages: I) -> Vec<Result<String, ProducerError>>
    where
        I: IntoIterator,
        I::Item: Into<NewMessage>,
    {
        let mut accepted = Vec::new();
        // What a group's first refused message was refused for: the buffer never sees it, so cannot stop its group.
        let mut refused: BTreeMap<String, String> = BTreeMap::new();
        for message in messages {
            let message: NewMessage = message.into();
            let group = message.group_id().filter(|_| self.inner.fifo).map(ToOwned::to_owned);
            let earlier = group.as_ref().and_then(|group| refused.get(group)).cloned();
            let waiting = match (earlier, group) {
                (Some(earlier), Some(group)) => Err(ProducerError::GroupFailed {
                    queue: self.inner.name(),
                    group,
                    earlier,
                }),
                (_, group) => {
                    let waiting = self.accept(message).await;
                    if let (Err(error), Some(group)) = (&waiting, group) {
                        refused.insert(group, error.to_string());
                    }
                    waiting
                }
            };
            accepted.push(waiting);
        }
        let mut answers = Vec::with_capacity(accepted.len());
        for waiting in accepted {
            answers.push(match waiting {
                Ok(waiting) => waiting.await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Sends what was taken so far without waiting for batches to fill, and waits until each of these messages is answered
    /// (or its sender has gone).
    pub async fn flush(&self) {
        let before = {
            let mut state = self.inner.lock();
            let before = state.buffer.flush();
            self.inner.changed.notify_one();
            before
        };
        let mut driving = Driving::of(&self.inner);
        loop {
            // Another may drive while this looks, and wakes it for what it drives only.
            let mut answered = pin!(self.inner.answered.notified());
            answered.as_mut().enable();
            let done = poll_fn(|cx| {
                driving.poll(cx);
                let first = self.inner.lock().unanswered.first().copied();
                match first {
                    Some(number) if number < before => answered.as_mut().poll(cx).map(|()| false),
                    _ => Poll::Ready(true),
                }
            })
            .await;
            if done {
                return;
            }
        }
    }

    /// Checks the message, waits for its place, and puts it in the buffer.
    async fn accept(&self, message: NewMessage) -> Result<Waiting, ProducerError> {
        let inner = &self.inner;
        let keys = inner.settings.own_keys.then_some(&inner.random);
        let moved = message.is_verbatim();
        let mut outgoing = message.prepared(inner.queue.attributes(), keys)?;
        let trace = (!moved).then(|| {
            let queue = inner.queue.attributes();
            SendTrace::begun(&queue.name, queue.max_message_bytes, &inner.clock, &mut outgoing)
        });
        let mut place = pin!(Arc::clone(&inner.space).acquire_owned());
        let mut driving = Driving::of(inner);
        let place = poll_fn(|cx| {
            if let Poll::Ready(place) = place.as_mut().poll(cx) {
                return Poll::Ready(place);
            }
            driving.poll(cx);
            place.as_mut().poll(cx)
        })
        .await;
        let Ok(place) = place else {
            return Err(ProducerError::NoAnswer { queue: inner.name() });
        };
        let (answer, answered) = oneshot::channel();
        let now = inner.clock.now();
        let entry = Entry {
            size: outgoing.size(),
            group: outgoing.group_id.clone().filter(|_| inner.fifo),
            outgoing,
            joined: now,
            not_before: now,
            tries: 0,
            alone: false,
            answer: Sender { answer, _place: place },
        };
        let mut state = inner.lock();
        let number = state.buffer.push(entry);
        state.unanswered.insert(number);
        let wake = match state.parked {
            Parked::Listening => true,
            Parked::Until(at) => {
                state.buffer.len().is_multiple_of(crate::queue::MAX_BATCH) || now + state.buffer.linger() < at
            }
            Parked::Busy => false,
        };
        // Held from the start, in the same breath: what is under way ends when nobody holds the driver.
        let driver = Inner::driver(inner, &mut state);
        drop(state);
        if wake {
            inner.changed.notify_one();
        }
        Ok(Waiting {
            trace,
            number,
            answered,
            driving: Driving {
                inner: Arc::clone(inner),
                driver,
            },
        })
    }
}

/// A message in the buffer, and its sender's wait for the answer.
struct Waiting {
    trace: Option<SendTrace>,
    number: u64,
    answered: oneshot::Receiver<Answer>,
    driving: Driving,
}

impl Future for Waiting {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let this = &mut *self;
        let mut answered = Pin::new(&mut this.answered).poll(cx);
        if answered.is_pending() {
            this.driving.poll(cx);
            answered = Pin::new(&mut this.answered).poll(cx);
        }
        answered.map(|answer| {
            let answer = answer.unwrap_or_else(|_| {
                Err(ProducerError::NoAnswer {
                    queue: this.driving.inner.name(),
                })
            });
            if let Some(trace) = &mut this.trace {
                trace.answered(answer.as_deref().map_err(ProducerError::kind));
            }
            answer
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let inner = &self.driving.inner;
        let mut state = inner.lock();
        let gone = state.unanswered.remove(&self.number);
        let taken_back = state.buffer.remove(self.number);
        drop(state);
        if gone {
            inner.answered.notify_waiters();
        }
        if taken_back.is_some() {
            inner.changed.notify_one();
        }
    }
}

/// One waiter's share in driving the sending of all.
struct Driving {
    inner: Arc<Inner>,
    driver: Option<Driver>,
}

impl Driving {
    fn of(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::clone(inner),
            driver: None,
        }
    }

    /// Drives the sending until there is nothing to do for now. What waits is woken when there is again.
    fn poll(&mut self, cx: &mut Context<'_>) {
        loop {
            if self.driver.is_none() {
                self.driver = Inner::driver(&self.inner, &mut self.inner.lock());
            }
            let Some(driver) = self.driver.as_mut() else {
                return;
            };
            if driver.poll_unpin(cx).is_pending() {
                return;
            }
            self.driver = None;
        }
    }
}
