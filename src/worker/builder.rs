//! Setting up a worker.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Worker;
use super::companion::{Companion, Waiting};
use super::config::{AfterReject, DeadLetters, FingerprintSource, TenantLimit, WithoutDeadLetters};
use super::environment::Environment;
use super::error::BuildError;
use super::settings::{Check, Settings};
use super::status::Shared;
use crate::clock::{Clock, Random};
use crate::flow::{AdaptiveConcurrency, Backoff, BreakerConfig, Downstream, KeyedBuckets, RateLimit};
use crate::handler::{BoxedHandler, Handler, SharedHandler};
use crate::inbox::Inbox;
use crate::key::{Key, KeySource};
use crate::message::Message;
use crate::outcome::{Failure, StoredResult};
use crate::queue::Queue;

/// Sets up a [`Worker`]. Every setting has a default, given at its method; contradictory ones are refused by [`build`](Self::build).
///
/// ```
/// use redrive::{Failure, MemoryInbox, MemoryQueue, Worker, extract::{Json, State}};
/// use redrive::worker::WithoutDeadLetters;
///
/// #[derive(Clone)]
/// struct Gateway;
///
/// async fn charge(State(_gateway): State<Gateway>, Json(_amount): Json<u32>) -> Result<(), Failure> {
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), redrive::Error> {
/// let worker = Worker::builder(MemoryQueue::new("orders")?)
///     .inbox(MemoryInbox::new())
///     .without_dead_letters(WithoutDeadLetters::Keep)
///     .state(Gateway)
///     .concurrency(64)
///     .handler(charge)
///     .build()?;
/// # drop(worker);
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<S = ()> {
    queue: Arc<dyn Queue>,
    inbox: Option<Arc<dyn Inbox>>,
    state: S,
    handler: Option<BoxedHandler<S>>,
    /// `.state(…)` came after `.handler(…)`, which lost the handler.
    handler_lost: bool,
    settings: Settings,
    companions: Vec<Waiting>,
}

impl Builder<()> {
    pub(super) fn new(queue: Arc<dyn Queue>) -> Self {
        Self {
            queue,
            inbox: None,
            state: (),
            handler: None,
            handler_lost: false,
            settings: Settings::default(),
            companions: Vec::new(),
        }
    }

    /// Hands this to handlers that ask for [`State`](crate::extract::State). Set it before the handler.
    pub fn state<S: Clone + Send + Sync + 'static>(self, state: S) -> Builder<S> {
        Builder {
            queue: self.queue,
            inbox: self.inbox,
            state,
            handler: None,
            handler_lost: self.handler.is_some(),
            settings: self.settings,
            companions: self.companions,
        }
    }
}

impl<S: Clone + Send + Sync + 'static> Builder<S> {
    /// What runs for each message: an `async fn` of extractors, a [`Router`](crate::Router), a batch handler.
    pub fn handler<M, H: Handler<M, S>>(mut self, handler: H) -> Self {
        self.handler = Some(BoxedHandler::new(handler));
        self.handler_lost = false;
        self
    }

    /// Where keys are claimed. Without one, messages are processed at least once and may be processed twice.
    pub fn inbox(mut self, inbox: impl Inbox) -> Self {
        self.inbox = Some(Arc::new(inbox));
        self
    }

    /// The worker's name in logs, metrics and status; the queue's name unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Whose keys these are, so that two consumers of one event do not hide it from each other; the queue's name unless
    /// set. No `#`.
    pub fn consumer(mut self, consumer: impl Into<String>) -> Self {
        self.settings.consumer = Some(consumer.into());
        self
    }

    /// How many handlers run at once; 16 unless set.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.settings.concurrency = Some(handlers);
        self
    }

    /// Lets the worker find how many handlers run at once, by how long they take: for handlers whose downstream has a knee.
    /// Instead of [`concurrency`](Self::concurrency), and of each worker alone.
    pub fn adaptive_concurrency(mut self, between: AdaptiveConcurrency) -> Self {
        self.settings.adaptive = Some(between);
        self
    }

    /// How many handlers start per second, at most.
    pub fn rate(mut self, rate: RateLimit) -> Self {
        self.settings.rate = Some(rate);
        self
    }

    /// How many handlers start per second for each tenant; `tenant_of` says whose a message is. A tenant over its rate waits
    /// aside and takes nobody's slot.
    pub fn rate_by(
        mut self,
        tenant_of: impl Fn(&Message) -> Option<String> + Send + Sync + 'static,
        rate: RateLimit,
    ) -> Self {
        self.settings.tenants = Some(TenantLimit {
            tenant_of: Arc::new(tenant_of),
            buckets: Arc::new(KeyedBuckets::new(rate)),
        });
        self
    }

    /// How many handlers of the routes in this bulkhead run at once. Every bulkhead that a router names is set here.
    pub fn bulkhead(mut self, name: impl Into<String>, handlers: usize) -> Self {
        self.settings.bulkheads.insert(name.into(), handlers);
        self
    }

    /// How many messages may wait aside for a bulkhead or a tenant's rate; more are given back to the queue, delayed. As many
    /// as there are slots, and at least 100, unless set.
    pub fn held_back(mut self, messages: usize) -> Self {
        self.settings.held_back = Some(messages);
        self
    }

    /// The longest a handler may run; a longer run is a failed attempt. No limit unless set.
    pub fn handler_timeout(mut self, limit: Duration) -> Self {
        self.settings.handler_timeout = Some(limit);
        self
    }

    /// How long a failed message waits for its next attempt; 500 ms doubling to 30 s with full jitter unless set.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// How many attempts a message has before it is dead-lettered; 5 unless set.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts;
        self
    }

    /// When the worker's circuit breaker opens and closes.
    pub fn breaker(mut self, config: BreakerConfig) -> Self {
        self.settings.breaker = Some(config);
        self
    }

    /// Runs without a breaker of its own; breakers that it watches still count.
    pub fn without_breaker(mut self) -> Self {
        self.settings.breaker = None;
        self
    }

    /// Which failures the worker's breaker counts; all but rejects unless set. Rejects never count.
    pub fn breaker_counts(mut self, counts: impl Fn(&Failure) -> bool + Send + Sync + 'static) -> Self {
        self.settings.counts_as_failure = Some(Arc::new(counts));
        self
    }

    /// Pauses with this downstream's breaker: while that is open nothing is received or started, and what fails meanwhile is
    /// no attempt.
    pub fn watch(mut self, downstream: &Downstream) -> Self {
        self.settings.watched.push(downstream.breaker());
        self
    }

    /// How long messages are held while a breaker is open, or the inbox cannot be reached, before they are given back; 15 min
    /// unless set. What is on the last three receives that the queue's redrive policy allows is held for 11½ h, or the outage
    /// alone would make SQS move it.
    pub fn keep_while_open(mut self, keep: Duration) -> Self {
        self.settings.keep_while_open = keep;
        self
    }

    /// Sends dead letters here, instead of where the queue's redrive policy says.
    pub fn dead_letter(mut self, queue: impl Queue) -> Self {
        self.settings.dead_letters = Some(DeadLetters::Queue(Arc::new(queue)));
        self
    }

    /// Sends no dead letters: a message that is given up is released until the queue's redrive policy moves it. For roles that
    /// may not send.
    pub fn dead_letter_by_redrive_policy(mut self) -> Self {
        self.settings.dead_letters = Some(DeadLetters::RedrivePolicy);
        self
    }

    /// Has no dead letters: says what becomes of messages that are given up.
    pub fn without_dead_letters(mut self, instead: WithoutDeadLetters) -> Self {
        self.settings.dead_letters = Some(DeadLetters::Without(instead));
        self
    }

    /// What a FIFO group does after one of its messages was given up; it goes on unless set.
    pub fn after_reject(mut self, after: AfterReject) -> Self {
        self.settings.after_reject = after;
        self
    }

    /// Where a message's key comes from, if not from its `Idempotency-Key` attribute. Where the function gives none, that
    /// attribute counts, then the MessageId.
    pub fn key(mut self, key_of: impl Fn(&Message) -> Option<String> + Send + Sync + 'static) -> Self {
        self.settings.key_source = KeySource::Function(Arc::new(key_of));
        self
    }

    /// Takes the FIFO deduplication id as key, with the group id where the queue's deduplication is by group. SQS means that
    /// id for five minutes, the inbox for as long as it keeps records: only for producers that never use one again.
    pub fn key_from_deduplication_id(mut self) -> Self {
        self.settings.key_by_deduplication_id = true;
        self
    }

    /// What a payload is recognised by, instead of its whole body: give the bytes of what makes two messages of one key the
    /// same.
    pub fn fingerprint(mut self, of: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.settings.fingerprint = FingerprintSource::Function(Arc::new(of));
        self
    }

    /// Takes every message with a known key for a duplicate, whatever is in it.
    pub fn without_fingerprint(mut self) -> Self {
        self.settings.fingerprint = FingerprintSource::Off;
        self
    }

    /// Shadow mode: the inbox records and counts, and suppresses nothing.
    pub fn shadow(mut self, shadow: bool) -> Self {
        self.settings.shadow = shadow;
        self
    }

    /// How long the inbox keeps a key from its last write; 35 days unless set. Less than source and dead-letter retention
    /// together forgets keys whose messages can still come back.
    pub fn inbox_retention(mut self, retention: Duration) -> Self {
        self.settings.retention = retention;
        self
    }

    /// How long a claim holds without a heartbeat, 1 s to 15 min; the queue's visibility timeout, between 10 s and 15 min,
    /// unless set.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = Some(lease);
        self
    }

    /// Never extends visibility or lease: a handler that runs longer than either loses its message.
    pub fn without_heartbeat(mut self) -> Self {
        self.settings.heartbeat = false;
        self
    }

    /// The first delay of a message whose key is running elsewhere; doubles with its receives, to 15 min. 30 s unless set.
    pub fn in_flight_delay(mut self, delay: Duration) -> Self {
        self.settings.in_flight_delay = delay;
        self
    }

    /// How long a drain may take; 110 s unless set, for ECS's `stopTimeout` of 120 s.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.settings.drain_deadline = deadline;
        self
    }

    /// How long a receive waits for a message; 20 s, SQS's longest, unless set. A drain waits for receives in flight.
    pub fn long_poll(mut self, wait: Duration) -> Self {
        self.settings.long_poll = wait;
        self
    }

    /// The most receives in flight at once; found by demand below that.
    pub fn max_receives(mut self, receives: usize) -> Self {
        self.settings.max_receives = Some(receives);
        self
    }

    /// How long an inbox write or a visibility change waits for others to share a call, and a delete four times as long, as
    /// nobody waits for it; 5 ms unless set.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// How long no receive may succeed before the worker counts as stalled, and its loop may stand still before it counts as
    /// stuck; a second above the long poll at least. Three long polls and a minute unless set.
    pub fn stall_after(mut self, limit: Duration) -> Self {
        self.settings.stall_after = Some(limit);
        self
    }

    /// Called with key and stored result when a message is deleted because its key was completed before.
    pub fn on_duplicate(mut self, hook: impl Fn(&Key, &StoredResult) + Send + Sync + 'static) -> Self {
        self.settings.on_duplicate = Some(Arc::new(hook));
        self
    }

    /// Called with every delivery's fate as it is decided. Must not block.
    pub fn observe(mut self, observer: impl Fn(&super::Observation<'_>) + Send + Sync + 'static) -> Self {
        self.settings.observer = Some(Arc::new(observer));
        self
    }

    /// Runs this beside the worker, from before its preflight until it has ended: a health endpoint, say. For several workers
    /// in one process attach it to [`Workers::beside`](super::Workers::beside).
    pub fn beside(mut self, companion: impl Companion) -> Self {
        self.companions.push(Waiting::new(companion));
        self
    }

    /// The clock it goes by.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Where its random numbers come from.
    pub fn random(mut self, random: Random) -> Self {
        self.settings.random = random;
        self
    }

    /// Takes the settings that `REDRIVE_*` variables give, over those made in code before. A wrong value is an error of
    /// [`build`](Self::build) that names the variable.
    pub fn from_env(self) -> Self {
        self.from_variables(|name| std::env::var(name).ok())
    }

    /// As [`from_env`](Self::from_env), with variables from elsewhere.
    pub fn from_variables(mut self, get: impl Fn(&str) -> Option<String>) -> Self {
        if let Err(problem) = Environment::read(get).and_then(|env| self.settings.apply(&env)) {
            self.settings.problem.get_or_insert(problem);
        }
        self
    }

    /// Checks the settings against each other and against what the queue says of itself.
    ///
    /// # Errors
    /// [`BuildError`] for settings that cannot be right, alone or together: it names them and says what to do.
    pub fn build(self) -> Result<Worker, BuildError> {
        let attributes = self.queue.attributes().clone();
        let name = self.settings.name.clone().unwrap_or_else(|| attributes.name.clone());
        if let Some(problem) = self.settings.problem {
            return Err(problem);
        }
        let check = Check { worker: &name };
        if self.handler_lost {
            return Err(check.wrong(
                "state",
                "call `.state(…)` before `.handler(…)`; it takes effect on handlers set after it",
            ));
        }
        let Some(handler) = self.handler else {
            return Err(BuildError::NoHandler { worker: name });
        };
        let handler: SharedHandler = handler.with_state(self.state);
        let settings = self.settings;
        if let Some(extractor) = handler.needs_inbox() {
            if self.inbox.is_none() {
                return Err(check.wrong(
                    "handler",
                    format_args!(
                        "it takes `{extractor}`, which comes from the inbox, but there is none; set `.inbox(…)`"
                    ),
                ));
            }
            if settings.shadow {
                return Err(check.wrong(
                    "shadow",
                    format_args!("the handler takes `{extractor}`, which holds for one run only; shadow mode suppresses no second one"),
                ));
            }
        }
        let config = settings.check(&check, &*self.queue, &name, &*handler, self.inbox.is_some())?;
        let (commands, inbound) = mpsc::unbounded_channel();
        let told = super::told::settings(&config, self.inbox.is_some());
        let shared = Shared::new(&config.name, config.concurrency, config.stall_after).telling(&attributes.name, told);
        Ok(Worker {
            queue: self.queue,
            inbox: self.inbox,
            handler,
            config,
            commands,
            inbound,
            shared,
            companions: self.companions,
        })
    }
}
