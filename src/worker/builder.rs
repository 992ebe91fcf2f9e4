//! Setting up a worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Worker;
use super::config::{
    AfterReject, Config, DeadLetters, FingerprintSource, TenantLimit, WithoutDeadLetters, check_concurrency,
};
use super::environment::Environment;
use super::error::BuildError;
use super::status::Shared;
use crate::clock::{Clock, Random};
use crate::flow::{Backoff, BreakerConfig, BreakerWatch, Downstream, FlowError, KeyedBuckets, RateLimit};
use crate::handler::{BoxedHandler, Handler, SharedHandler};
use crate::inbox::{Inbox, MAX_LEASE, MIN_LEASE};
use crate::key::{Key, KeySource};
use crate::message::Message;
use crate::outcome::{Failure, StoredResult};
use crate::queue::{MAX_VISIBILITY, MAX_WAIT, Queue};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Sets up a [`Worker`]. Every setting has the default that DESIGN's table and the docs give; contradictory ones are refused
/// by [`build`](Self::build).
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
}

/// What was set, before it is checked.
struct Settings {
    name: Option<String>,
    consumer: Option<String>,
    concurrency: usize,
    rate: Option<RateLimit>,
    tenants: Option<TenantLimit>,
    bulkheads: BTreeMap<String, usize>,
    held_back: Option<usize>,
    handler_timeout: Option<Duration>,
    backoff: Backoff,
    max_attempts: u32,
    breaker: Option<BreakerConfig>,
    counts_as_failure: Option<super::config::CountsAsFailure>,
    watched: Vec<BreakerWatch>,
    keep_while_open: Duration,
    dead_letters: Option<DeadLetters>,
    after_reject: AfterReject,
    key_source: KeySource,
    key_by_deduplication_id: bool,
    fingerprint: FingerprintSource,
    shadow: bool,
    retention: Duration,
    lease: Option<Duration>,
    heartbeat: bool,
    in_flight_delay: Duration,
    drain_deadline: Duration,
    long_poll: Duration,
    max_receives: Option<usize>,
    linger: Duration,
    stall_after: Option<Duration>,
    on_duplicate: Option<super::config::OnDuplicate>,
    observer: Option<super::config::Observer>,
    clock: Clock,
    random: Random,
    problem: Option<BuildError>,
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
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: None,
            consumer: None,
            concurrency: 16,
            rate: None,
            tenants: None,
            bulkheads: BTreeMap::new(),
            held_back: None,
            handler_timeout: None,
            backoff: Backoff::default(),
            max_attempts: 5,
            breaker: Some(BreakerConfig::default()),
            counts_as_failure: None,
            watched: Vec::new(),
            keep_while_open: Duration::from_secs(15 * 60),
            dead_letters: None,
            after_reject: AfterReject::default(),
            key_source: KeySource::default(),
            key_by_deduplication_id: false,
            fingerprint: FingerprintSource::default(),
            shadow: false,
            retention: 35 * DAY,
            lease: None,
            heartbeat: true,
            in_flight_delay: Duration::from_secs(30),
            drain_deadline: Duration::from_secs(110),
            long_poll: MAX_WAIT,
            max_receives: None,
            linger: Duration::from_millis(5),
            stall_after: None,
            on_duplicate: None,
            observer: None,
            clock: Clock::system(),
            random: Random::from_system(),
            problem: None,
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
        self.settings.concurrency = handlers;
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

    /// How long messages are held while a breaker is open before they are given back; 15 min unless set.
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

    /// How long a delete, a visibility change or an inbox write waits for others to share a call; 5 ms unless set.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// How long no receive may succeed before the worker counts as stalled; three long polls and a minute unless set.
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
        let shared = Shared::new(&config.name, config.concurrency, config.stall_after);
        Ok(Worker {
            queue: self.queue,
            inbox: self.inbox,
            handler,
            config,
            commands,
            inbound,
            shared,
        })
    }
}

/// Makes errors that name the worker.
struct Check<'a> {
    worker: &'a str,
}

impl Check<'_> {
    fn wrong(&self, setting: &'static str, why: impl std::fmt::Display) -> BuildError {
        BuildError::Setting {
            worker: self.worker.to_owned(),
            setting,
            why: why.to_string(),
        }
    }

    fn flow(&self, source: FlowError) -> BuildError {
        BuildError::Flow {
            worker: self.worker.to_owned(),
            source,
        }
    }

    fn span(&self, setting: &'static str, value: Duration, least: Duration, most: Duration) -> Result<(), BuildError> {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(self.wrong(setting, format_args!("{value:?} is outside {least:?} to {most:?}")))
    }
}

impl Settings {
    fn apply(&mut self, env: &Environment) -> Result<(), BuildError> {
        fn set<T: Clone>(to: &mut T, from: Option<&T>) {
            if let Some(value) = from {
                *to = value.clone();
            }
        }
        let refuse = |variable: &str, value: &dyn std::fmt::Display, error: FlowError| BuildError::Variable {
            variable: variable.to_owned(),
            value: value.to_string(),
            why: error.to_string(),
        };
        set(&mut self.concurrency, env.concurrency.as_ref());
        set(&mut self.max_attempts, env.max_attempts.as_ref());
        set(&mut self.drain_deadline, env.drain_deadline.as_ref());
        set(&mut self.long_poll, env.long_poll.as_ref());
        set(&mut self.retention, env.inbox_retention.as_ref());
        set(&mut self.shadow, env.shadow.as_ref());
        self.handler_timeout = env.handler_timeout.or(self.handler_timeout);
        self.max_receives = env.max_receives.or(self.max_receives);
        if let Some(rate) = env.rate {
            self.rate = Some(RateLimit::per_second(rate).map_err(|error| refuse("REDRIVE_RATE", &rate, error))?);
        }
        if let Some(burst) = env.burst {
            let rate = self.rate.ok_or_else(|| BuildError::Variable {
                variable: "REDRIVE_BURST".to_owned(),
                value: burst.to_string(),
                why: "there is no rate limit that it could belong to; set REDRIVE_RATE too".to_owned(),
            })?;
            self.rate = Some(
                rate.burst(burst)
                    .map_err(|error| refuse("REDRIVE_BURST", &burst, error))?,
            );
        }
        if env.backoff.is_some() || env.backoff_cap.is_some() {
            let base = env.backoff.unwrap_or_else(|| self.backoff.base());
            let cap = env.backoff_cap.unwrap_or_else(|| self.backoff.cap());
            let jitter = self.backoff.jitter_kind();
            self.backoff = Backoff::new(base, cap)
                .map_err(|error| {
                    refuse(
                        "REDRIVE_BACKOFF, REDRIVE_BACKOFF_CAP",
                        &format!("{base:?}, {cap:?}"),
                        error,
                    )
                })?
                .jitter(jitter);
        }
        Ok(())
    }

    fn check(
        self,
        check: &Check<'_>,
        queue: &dyn Queue,
        name: &str,
        handler: &dyn crate::handler::ErasedHandler,
        has_inbox: bool,
    ) -> Result<Config, BuildError> {
        let attributes = queue.attributes();
        check_concurrency(self.concurrency).map_err(|error| check.flow(error))?;
        if self.max_attempts == 0 {
            return Err(check.wrong(
                "max_attempts",
                "0 would dead-letter every message unseen; give at least 1",
            ));
        }
        if self.max_receives == Some(0) {
            return Err(check.wrong("max_receives", "0 would never receive; give at least 1"));
        }
        let second = Duration::from_secs(1);
        check.span("long_poll", self.long_poll, Duration::ZERO, MAX_WAIT)?;
        check.span("drain_deadline", self.drain_deadline, Duration::ZERO, 2 * DAY)?;
        check.span("linger", self.linger, Duration::ZERO, second)?;
        check.span(
            "in_flight_delay",
            self.in_flight_delay,
            Duration::ZERO,
            Duration::from_secs(15 * 60),
        )?;
        check.span("inbox_retention", self.retention, Duration::from_secs(60), 3650 * DAY)?;
        if let Some(limit) = self.handler_timeout {
            check.span("handler_timeout", limit, Duration::from_millis(1), 7 * DAY)?;
        }
        if let Some(lease) = self.lease {
            check.span("lease", lease, second, MAX_LEASE)?;
        }
        let consumer = self.consumer.unwrap_or_else(|| attributes.name.clone());
        if consumer.is_empty() || consumer.contains('#') || consumer.len() > 512 {
            return Err(check.wrong(
                "consumer",
                format_args!("`{consumer}` cannot name a consumer; give 1 to 512 bytes without `#`"),
            ));
        }
        if self.shadow && !has_inbox {
            return Err(check.wrong("shadow", "there is no inbox that could record; set `.inbox(…)`"));
        }
        for (bulkhead, &limit) in &self.bulkheads {
            if limit == 0 {
                return Err(check.wrong(
                    "bulkhead",
                    format_args!("`{bulkhead}` of 0 would never run a handler; give at least 1"),
                ));
            }
        }
        for wanted in handler.bulkheads() {
            if !self.bulkheads.contains_key(&wanted) {
                return Err(check.wrong(
                    "bulkhead",
                    format_args!(
                        "a route runs in `{wanted}`, which is not set; add `.bulkhead(\"{wanted}\", handlers)`"
                    ),
                ));
            }
        }
        if let Some(problem) = handler.problems().into_iter().next() {
            return Err(check.wrong("handler", problem));
        }
        let key_source = if self.key_by_deduplication_id {
            if !attributes.fifo {
                return Err(check.wrong(
                    "key_from_deduplication_id",
                    format_args!(
                        "queue `{}` is not a FIFO queue, so its messages have no deduplication id",
                        attributes.name
                    ),
                ));
            }
            if attributes.content_based_deduplication {
                return Err(check.wrong(
                    "key_from_deduplication_id",
                    format_args!(
                        "queue `{}` makes deduplication ids of bodies: two orders alike would be one; send an `Idempotency-Key` \
                         attribute, or turn content-based deduplication off",
                        attributes.name
                    ),
                ));
            }
            KeySource::DeduplicationId {
                by_group: attributes.deduplication_by_group,
            }
        } else {
            self.key_source
        };
        let dead_letters = dead_letters(check, queue, self.dead_letters)?;
        let visibility = attributes.visibility_timeout;
        if visibility.is_zero() {
            return Err(check.wrong(
                "queue",
                format_args!(
                    "the visibility timeout of `{}` is 0: every message would be received again at once; raise it",
                    attributes.name
                ),
            ));
        }
        let lease = self.lease.unwrap_or_else(|| visibility.clamp(MIN_LEASE, MAX_LEASE));
        if !self.heartbeat && self.handler_timeout.is_some_and(|limit| limit > lease.min(visibility)) {
            return Err(check.wrong(
                "handler_timeout",
                format_args!("it is over the visibility timeout or lease and the heartbeat is off: every long run would be lost and run again"),
            ));
        }
        Ok(Config {
            name: name.to_owned(),
            consumer,
            concurrency: self.concurrency,
            rate: self.rate,
            tenants: self.tenants,
            bulkheads: self.bulkheads,
            held_back: self.held_back.unwrap_or_else(|| self.concurrency.max(100)),
            handler_timeout: self.handler_timeout,
            backoff: self.backoff,
            max_attempts: self.max_attempts,
            breaker: self.breaker,
            counts_as_failure: self.counts_as_failure,
            watched: self.watched,
            keep_while_open: self.keep_while_open,
            dead_letters,
            after_reject: self.after_reject,
            key_source,
            fingerprint: self.fingerprint,
            shadow: self.shadow,
            retention: self.retention,
            lease,
            visibility: visibility.min(MAX_VISIBILITY),
            heartbeat: self.heartbeat,
            in_flight_delay: self.in_flight_delay,
            drain_deadline: self.drain_deadline,
            long_poll: self.long_poll,
            max_receives: self.max_receives.unwrap_or_else(|| (1 + self.concurrency / 4).min(16)),
            linger: self.linger,
            stall_after: self.stall_after.unwrap_or(3 * self.long_poll + Duration::from_secs(60)),
            on_duplicate: self.on_duplicate,
            observer: self.observer,
            clock: self.clock,
            random: self.random,
        })
    }
}

/// Where dead letters go, or why that cannot be said.
fn dead_letters(check: &Check<'_>, queue: &dyn Queue, set: Option<DeadLetters>) -> Result<DeadLetters, BuildError> {
    let attributes = queue.attributes();
    let chosen = match set {
        Some(chosen) => chosen,
        None => DeadLetters::Queue(queue.dead_letter_queue().ok_or_else(|| {
            BuildError::NoDeadLetterQueue {
                worker: check.worker.to_owned(),
                queue: attributes.name.clone(),
                detail: attributes
                    .redrive
                    .as_ref()
                    .map_or_else(String::new, |policy| format!(" (it names {})", policy.dead_letter_arn)),
            }
        })?),
    };
    match &chosen {
        DeadLetters::Queue(dead) => {
            let dead = dead.attributes();
            if dead.arn == attributes.arn {
                return Err(check.wrong(
                    "dead_letter",
                    format_args!(
                        "`{}` is the source itself: its dead letters would be received again for ever",
                        dead.name
                    ),
                ));
            }
            if dead.fifo != attributes.fifo {
                return Err(check.wrong(
                    "dead_letter",
                    format_args!(
                        "`{}` and `{}` must both be FIFO queues or both be standard queues",
                        attributes.name, dead.name
                    ),
                ));
            }
        }
        DeadLetters::RedrivePolicy if attributes.redrive.is_none() => {
            return Err(check.wrong(
                "dead_letter_by_redrive_policy",
                format_args!(
                    "queue `{}` has no redrive policy: what is given up would come back for ever",
                    attributes.name
                ),
            ));
        }
        DeadLetters::RedrivePolicy | DeadLetters::Without(_) => {}
    }
    Ok(chosen)
}
