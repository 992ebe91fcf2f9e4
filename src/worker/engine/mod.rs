//! The worker's engine: one loop that owns everything held, told of what ended and deciding what begins.
//!
//! Each turn of the loop starts what is due (receives, handlers, batches, heartbeats), then waits for the first thing to
//! happen: something under way ended, a command came, a deadline passed. Calls and handlers run in one set of tasks owned by the
//! loop, so that nothing outlives it.

mod adapt;
mod alarm;
mod claims;
mod dispatch;
mod ends;
mod gate;
mod guard;
mod heartbeat;
mod late;
mod receive;
mod run;
mod steps;
mod suspended;
mod unclaimed;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub(super) use run::Stop;

use self::alarm::{Alarm, after_what_is_ready};
use super::batcher::Batcher;
use super::config::{AfterReject, Config};
use super::deadlines::Deadlines;
use super::drain::{Drain, Stage};
use super::fifo::Groups;
use super::handle::Command;
use super::intake::Intake;
use super::item::{ByMessageId, Id, Item, Phase, Step};
use super::meter::Meter;
use super::status::{Fate, Shared};
use super::unrecorded::{MAX_UNRECORDED, Payload, Unrecorded};
use crate::clock::Instant;
use crate::flaw::{self, Flaw};
use crate::flow::{AdaptiveLimit, Backoff, BreakerWatch, Bulkhead, CircuitBreaker, Ticket, TokenBucket};
use crate::handler::SharedHandler;
use crate::inbox::{Answers, ClaimAnswer, Inbox, InboxError, Write, Written};
use crate::key::RecordKey;
use crate::message::{Delivery, Outgoing, Receipt};
use crate::queue::{EntryResults, MAX_BATCH, Queue, QueueError};
use crate::telemetry::{Traces, said, shown};

/// Inbox writes per batch: what DynamoDB takes in one `BatchExecuteStatement`.
const WRITE_BATCH: usize = 25;

/// How many times as long as an inbox write a delete waits for others: nobody waits for it. Of a FIFO group that has nothing else
/// here the queue does, see `flush`.
const DELETES_LINGER: u32 = 4;

/// Batches of one kind under way at once.
const BATCHES_IN_FLIGHT: usize = 16;

/// How long a call may take beyond what it waits for by itself, before it counts as failed.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Events taken in one turn at most, before what is due is looked at again.
const EVENTS_PER_TURN: usize = 64;

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All was settled or given back.
    Drained,
    /// The drain's deadline came first.
    DeadlineOver,
    /// It was told to stop at once.
    Stopped,
}

/// Something under way ended.
enum Event {
    Received {
        asked: usize,
        answered: Instant,
        result: Result<Vec<Delivery>, QueueError>,
    },
    Claimed {
        ids: Vec<Id>,
        ticket: Option<Ticket>,
        answers: Answers<ClaimAnswer>,
    },
    Ended(run::Ended),
    Wrote {
        ids: Vec<Id>,
        answers: Answers<Written>,
    },
    Deleted {
        entries: Vec<(Id, Receipt)>,
        result: Result<EntryResults<()>, QueueError>,
    },
    Hidden {
        entries: Vec<(Id, Receipt, Duration)>,
        result: Result<EntryResults<()>, QueueError>,
    },
    Sent {
        ids: Vec<Id>,
        result: Result<EntryResults<String>, QueueError>,
    },
    Beat(heartbeat::Beat),
    BreakerMoved {
        index: usize,
        watch: BreakerWatch,
    },
}

/// What an engine is made of.
pub(super) struct Parts {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) inbox: Option<Arc<dyn Inbox>>,
    pub(super) handler: SharedHandler,
    pub(super) config: Config,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) shared: Shared,
    /// Unique to this worker's life: part of every claim id.
    pub(super) epoch: String,
}

pub(super) struct Engine {
    queue: Arc<dyn Queue>,
    queue_name: Arc<str>,
    fifo: bool,
    inbox: Option<Arc<dyn Inbox>>,
    handler: SharedHandler,
    config: Config,
    commands: mpsc::UnboundedReceiver<Command>,
    shared: Shared,
    meter: Meter,
    traces: Traces,
    epoch: String,
    claims_made: u64,
    began: Instant,

    tasks: JoinSet<Event>,
    /// Calls under way, without handlers and watches.
    calls: usize,

    /// Boxed: a map of large values moves them about.
    items: BTreeMap<Id, Box<Item>>,
    /// Claims among them.
    leases: usize,
    last_id: Id,
    by_message: HashMap<ByMessageId, Id>,
    by_key: HashMap<RecordKey, Id>,
    groups: Groups,

    /// To be run, in order.
    ready: VecDeque<Id>,
    /// Suspects that wait for their turn: one runs at a time, so that a death points at one.
    suspects: VecDeque<Id>,
    /// The suspect whose turn it is, and since when it runs.
    suspect_running: Option<(Id, Option<Instant>)>,
    /// How long such a turn takes lately.
    suspect_pace: Duration,
    /// Waiting aside for a bulkhead, by its name.
    at_bulkhead: BTreeMap<String, VecDeque<Id>>,
    /// Waiting aside for their tenant's rate, or until they may be probes again.
    at_rate: Deadlines,
    held_back: usize,
    bulkheads: BTreeMap<String, Bulkhead>,
    bucket: TokenBucket,
    /// A token was taken and its handler did not start yet.
    token_in_hand: bool,
    token_at: Option<Instant>,
    slots: usize,
    slots_used: usize,
    adaptive: Option<AdaptiveLimit>,
    /// Deliveries whose handler runs; a batch has several in one slot.
    running: usize,
    /// Deliveries that wait for their claim or their turn.
    waiting: usize,
    /// Of these, those whose claim is under way.
    claiming: usize,

    breaker: Option<CircuitBreaker>,
    inbox_breaker: Option<CircuitBreaker>,
    watched: Vec<BreakerWatch>,
    /// The run that probes a watched breaker.
    watched_probe: Option<Id>,
    gate_was_shut: bool,
    gate_was_open: bool,
    /// Some of what is held was kept while a breaker was open.
    keeping: bool,
    /// In this half-open time the queue had nothing to probe with but what is held.
    probes_exhausted: bool,

    intake: Intake,
    last_receive: Instant,
    /// Since when receives are in flight, or wait after failed ones, without a break.
    receiving_since: Option<Instant>,
    stalled: bool,

    beats: Deadlines,
    retries: Deadlines,
    /// What the inbox could not answer for, and when it is asked again.
    unclaimed: Deadlines,
    writes: Batcher<(Id, Write)>,
    deletes: Batcher<(Id, Receipt)>,
    hides: Batcher<(Id, Receipt, Duration)>,
    sends: Batcher<(Id, Outgoing)>,
    dead_letter_queue: Option<Arc<dyn Queue>>,
    call_backoff: Backoff,
    unrecorded: Unrecorded,
    clocks: suspended::Clocks,
    /// Writes under leases that ran out by time, by their deliveries, which are no longer held.
    late: BTreeMap<Id, late::LateWrite>,
    /// Runs that go on, or are just being stopped, although their delivery was lost.
    lost_runs: BTreeMap<Id, Payload>,

    paused: bool,
    drain: Option<Drain>,
    drain_began: Option<Instant>,
}

impl Engine {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            queue,
            inbox,
            handler,
            config,
            commands,
            shared,
            epoch,
        } = parts;
        let now = config.clock.now();
        let random = config.random.clone();
        let breaker = config
            .breaker
            .clone()
            .map(|breaker| CircuitBreaker::new(breaker, random.clone()));
        // In shadow mode nothing waits for the inbox.
        let needs_inbox = inbox.is_some() && !config.shadow;
        let inbox_breaker = needs_inbox.then(|| CircuitBreaker::new(Default::default(), random));
        let bulkheads = config
            .bulkheads
            .iter()
            .filter_map(|(name, &limit)| Some((name.clone(), Bulkhead::new(name.clone(), limit).ok()?)))
            .collect();
        let dead_letter_queue = match &config.dead_letters {
            super::config::DeadLetters::Queue(queue) => Some(Arc::clone(queue)),
            _ => None,
        };
        let attributes = queue.attributes();
        Self {
            meter: Meter::new(&attributes.name),
            traces: Traces::new(&attributes.name, &config.clock),
            queue_name: attributes.name.as_str().into(),
            fifo: attributes.fifo,
            inbox,
            handler,
            commands,
            shared,
            epoch,
            claims_made: 0,
            began: now,
            tasks: JoinSet::new(),
            calls: 0,
            items: BTreeMap::new(),
            leases: 0,
            last_id: 0,
            by_message: HashMap::new(),
            by_key: HashMap::new(),
            groups: Groups::default(),
            ready: VecDeque::new(),
            suspects: VecDeque::new(),
            suspect_running: None,
            // Most are quick; those that are not tell soon.
            suspect_pace: Duration::from_secs(1),
            at_bulkhead: BTreeMap::new(),
            at_rate: Deadlines::default(),
            held_back: 0,
            bulkheads,
            bucket: TokenBucket::new(config.rate),
            token_in_hand: false,
            token_at: None,
            slots: config.concurrency,
            slots_used: 0,
            adaptive: config.adaptive.map(|setting| AdaptiveLimit::new(setting, now)),
            running: 0,
            waiting: 0,
            claiming: 0,
            breaker,
            inbox_breaker,
            watched: config.watched.clone(),
            watched_probe: None,
            gate_was_shut: false,
            gate_was_open: true,
            keeping: false,
            probes_exhausted: false,
            intake: Intake::new(config.max_receives, config.lease, config.long_poll),
            last_receive: now,
            receiving_since: None,
            stalled: false,
            beats: Deadlines::default(),
            retries: Deadlines::default(),
            unclaimed: Deadlines::default(),
            writes: Batcher::new(WRITE_BATCH, config.linger, BATCHES_IN_FLIGHT),
            deletes: Batcher::new(MAX_BATCH, config.linger * DELETES_LINGER, BATCHES_IN_FLIGHT),
            hides: Batcher::new(MAX_BATCH, config.linger, BATCHES_IN_FLIGHT),
            sends: Batcher::new(MAX_BATCH, config.linger, BATCHES_IN_FLIGHT),
            dead_letter_queue,
            call_backoff: call_backoff(),
            unrecorded: Unrecorded::new(config.retention),
            clocks: suspended::Clocks::new(config.clock.moment()),
            late: BTreeMap::new(),
            lost_runs: BTreeMap::new(),
            paused: false,
            drain: None,
            drain_began: None,
            queue,
            config,
        }
    }

    /// Runs until it has drained, or was told to stop; answers also when the drain began.
    pub(super) async fn run(mut self) -> (End, Option<Instant>) {
        self.report_breakers(self.config.clock.now());
        for index in 0..self.watched.len() {
            let watch = self.watched[index].clone();
            self.await_breaker(index, watch);
        }
        let mut commands_open = true;
        let mut alarm = pin!(Alarm::default());
        loop {
            // What was asked before the first turn counts in it.
            while let Ok(command) = self.commands.try_recv() {
                if matches!(command, Command::Stop) {
                    self.shared.update(|status| status.ended = true);
                    return (End::Stopped, self.drain_began);
                }
                self.command(command);
            }
            let now = self.config.clock.now();
            self.turn(now);
            let next = self.next_deadline(now);
            self.publish(now, next);
            if let Some(end) = self.end(now) {
                self.shared.update(|status| status.ended = true);
                return (end, self.drain_began);
            }
            alarm.as_mut().set(next);
            tokio::select! {
                biased;
                command = self.commands.recv(), if commands_open => match command {
                    Some(Command::Stop) => {
                        self.shared.update(|status| status.ended = true);
                        return (End::Stopped, self.drain_began);
                    }
                    Some(command) => self.command(command),
                    None => commands_open = false,
                },
                Some(event) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    // What ended together is taken together: one turn for all of it.
                    after_what_is_ready().await;
                    let now = self.config.clock.now();
                    self.take(now, event);
                    for _ in 1..EVENTS_PER_TURN {
                        match self.tasks.try_join_next() {
                            Some(event) => self.take(now, event),
                            None => break,
                        }
                    }
                }
                () = alarm.as_mut() => {}
            }
        }
    }

    /// Starts whatever is due.
    fn turn(&mut self, now: Instant) {
        self.look_at_clocks(now);
        self.turn_breakers(now);
        self.stage(now);
        self.retry_steps(now);
        self.claim_again(now);
        self.beat(now);
        self.dispatch(now);
        self.note_load(now);
        // What can probe a breaker has begun to by now.
        self.keep_or_give_back(now);
        self.flush(now);
        self.receive(now);
    }

    fn take(&mut self, now: Instant, event: Result<Event, tokio::task::JoinError>) {
        let event = match event {
            Ok(event) => event,
            // Calls catch their panics and are never aborted: there is nothing to give back here.
            Err(error) => {
                tracing::error!(worker = %self.config.name, error = %said(&error), "a task of the worker ended without an answer");
                return;
            }
        };
        if !matches!(event, Event::Ended(_) | Event::BreakerMoved { .. }) {
            self.calls = self.calls.saturating_sub(1);
        }
        match event {
            Event::Received {
                asked,
                answered,
                result,
            } => self.received(now, asked, answered, result),
            Event::Claimed { ids, ticket, answers } => self.claimed(now, &ids, ticket, answers),
            Event::Ended(ended) => self.ended(now, ended),
            Event::Wrote { ids, answers } => self.wrote(now, &ids, answers),
            Event::Deleted { entries, result } => self.deleted(now, entries, result),
            Event::Hidden { entries, result } => self.hidden(now, entries, result),
            Event::Sent { ids, result } => self.sent(now, &ids, result),
            Event::Beat(beat) => self.beaten(now, beat),
            Event::BreakerMoved { index, watch } => self.await_breaker(index, watch),
        }
    }

    fn command(&mut self, command: Command) {
        let now = self.config.clock.now();
        match command {
            Command::Pause => self.paused = true,
            Command::Resume => self.paused = false,
            Command::SetRate(rate) => {
                self.bucket.set(rate);
                self.config.settings.rate = rate;
                self.token_at = None;
            }
            Command::SetConcurrency(slots) => self.set_concurrency(slots),
            Command::LongestRun(answer) => {
                let runs = self.items.values().filter(|item| item.phase == Phase::Running);
                let longest = runs.map(|item| now.saturating_duration_since(item.ready_since)).max();
                // Whoever asked may be gone.
                let _ = answer.send(longest.unwrap_or_default());
            }
            Command::Drain => self.begin_drain(now),
            // Taken in `run`, where it ends the loop.
            Command::Stop => {}
        }
    }

    fn begin_drain(&mut self, now: Instant) {
        if self.drain.is_some() {
            return;
        }
        tracing::info!(
            worker = %self.config.name, running = self.running, waiting = self.waiting, receives = self.intake.in_flight(),
            deadline_ms = millis(self.config.drain_deadline), "draining"
        );
        self.drain_began = Some(now);
        self.drain = Some(Drain::begin(now, self.config.drain_deadline));
        let held: Vec<Id> = self
            .items
            .iter()
            .filter(|(_, item)| item.is_waiting())
            .map(|(&id, _)| id)
            .collect();
        for id in held {
            // A claim under way is released when it is answered.
            if self.items.get(&id).is_some_and(|item| item.phase != Phase::Claiming) {
                self.release(now, id);
            }
        }
    }

    /// Goes through the stages of a drain.
    fn stage(&mut self, now: Instant) {
        match self.drain.map(|drain| drain.stage(now)) {
            Some(Stage::Cancelling) => {
                for item in self.items.values() {
                    if let Some(stop) = &item.stop {
                        stop.ask();
                    }
                }
            }
            Some(Stage::Flushing) => {
                for item in self.items.values() {
                    if let Some(stop) = &item.stop {
                        stop.now();
                    }
                }
            }
            _ => {}
        }
    }

    fn end(&self, now: Instant) -> Option<End> {
        let drain = self.drain?;
        let settled = self.items.is_empty() && self.late.is_empty() && self.calls == 0;
        let flushed = settled || flaw::is(Flaw::LosesSettlesAtDrain);
        if flushed && self.slots_used == 0 {
            return Some(End::Drained);
        }
        (drain.stage(now) == Stage::Over).then_some(End::DeadlineOver)
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let drain = self.drain.map(|drain| drain.next_at(now));
        let batches = [
            self.writes.next_at(),
            self.deletes.next_at(),
            self.hides.next_at(),
            self.sends.next_at(),
        ];
        let others = [
            drain,
            self.beats.next_at(),
            self.retries.next_at(),
            self.unclaimed.next_at(),
            self.at_rate.next_at().filter(|_| !self.paused && self.drain.is_none()),
            self.token_at,
            // One that is due and did not start waits for something else.
            self.batch_at().filter(|&at| at > now),
            self.intake.next_at(now),
            self.gate_at(now),
            self.keep_until(),
            self.stall_at(),
            self.suspect_turn_at().filter(|&at| at > now),
            self.clocks_at(),
        ];
        batches.into_iter().chain(others).flatten().min()
    }

    fn publish(&self, now: Instant, next: Option<Instant>) {
        self.shared.watch(self.silent_since(), next.map(|at| at.max(now)));
        let breaker = self.breaker.as_ref().map(|breaker| breaker.state(now));
        let inbox_breaker = self.inbox_breaker.as_ref().map(|breaker| breaker.state(now));
        let ending = self.ending();
        self.meter.held(self.running, self.waiting, ending);
        self.meter.concurrency(self.slots);
        self.meter.silent(now.saturating_duration_since(self.last_receive));
        self.shared.update(|status| {
            status.started = true;
            status.turns += 1;
            status.paused = self.paused;
            status.held_up = self.gate_was_shut;
            status.draining = self.drain.is_some();
            status.running = self.running;
            status.waiting = self.waiting;
            status.ending = ending;
            status.leases = self.leases;
            status.concurrency = self.slots;
            status.adaptive = self.adaptive.is_some();
            status.breaker = breaker;
            status.inbox_breaker = inbox_breaker;
        });
    }

    /// Runs a call in the loop's set of tasks. A call that takes too long, or panics, is answered by `failed`.
    fn call<T, F, E>(&mut self, limit: Duration, call: F, failed: E, event: impl FnOnce(T) -> Event + Send + 'static)
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
        E: FnOnce(&'static str) -> T + Send + 'static,
    {
        self.calls += 1;
        self.tasks.spawn(async move {
            // The whole of it: what is dropped at the limit may panic too.
            let guarded = std::panic::AssertUnwindSafe(tokio::time::timeout(limit, call)).catch_unwind();
            let answer = match guarded.await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => failed("no answer in time"),
                Err(_) => failed("the implementation panicked"),
            };
            event(answer)
        });
    }

    fn await_breaker(&mut self, index: usize, mut watch: BreakerWatch) {
        self.tasks.spawn(async move {
            watch.changed().await;
            Event::BreakerMoved { index, watch }
        });
    }

    fn next_claim_id(&mut self) -> String {
        self.claims_made += 1;
        format!("{}-{}", self.epoch, self.claims_made)
    }

    fn enter(&mut self, id: Id, phase: Phase) {
        let Some(item) = self.items.get_mut(&id) else { return };
        let was = std::mem::replace(&mut item.phase, phase);
        self.uncount(was);
        match phase {
            Phase::Running => self.running += 1,
            Phase::Ending => {}
            Phase::Unclaimed | Phase::Claiming | Phase::Waiting => self.waiting += 1,
        }
        if phase == Phase::Claiming {
            self.claiming += 1;
        }
    }

    fn uncount(&mut self, phase: Phase) {
        match phase {
            Phase::Running => self.running = self.running.saturating_sub(1),
            Phase::Ending => {}
            Phase::Unclaimed | Phase::Claiming | Phase::Waiting => self.waiting = self.waiting.saturating_sub(1),
        }
        if phase == Phase::Claiming {
            self.claiming = self.claiming.saturating_sub(1);
        }
    }

    /// How many deliveries are being recorded and settled.
    fn ending(&self) -> usize {
        self.items.len().saturating_sub(self.running + self.waiting)
    }

    /// Drops all that is known of a held delivery; whatever is under way for it is ignored when it comes back.
    fn forget(&mut self, now: Instant, id: Id) {
        self.beats.clear(id);
        self.retries.clear(id);
        self.unclaimed.clear(id);
        if self.at_rate.clear(id) {
            self.held_back = self.held_back.saturating_sub(1);
        }
        self.suspects.retain(|&waiting| waiting != id);
        let Some(item) = self.items.remove(&id) else { return };
        self.leases -= usize::from(item.claim.is_some());
        self.uncount(item.phase);
        if self.by_message.get(item.message_id()) == Some(&id) {
            self.by_message.remove(item.message_id());
        }
        if !self.by_key.is_empty() && self.by_key.get(&item.record_key) == Some(&id) {
            self.by_key.remove(&item.record_key);
        }
        if self.suspect_running.is_some_and(|(running, _)| running == id) {
            self.end_suspects_turn(now);
        }
        if self.watched_probe == Some(id) && item.phase != Phase::Running {
            self.watched_probe = None;
        }
        if let (Some(ticket), Some(breaker)) = (item.ticket, self.breaker.as_mut()) {
            breaker.forget(now, ticket);
        }
        if let Some(group) = &item.group
            && let Some(head) = self.groups.remove(group, id)
        {
            self.head_of_group(now, head);
        }
        item.trace.ended(now, item.fate.as_str(), item.fate.reason());
    }

    /// A claim or a delivery is no longer ours: its handler is stopped and nothing more is done for it.
    fn lose(&mut self, now: Instant, id: Id, why: &'static str) {
        let Some(item) = self.items.get_mut(&id) else { return };
        tracing::warn!(
            worker = %self.config.name, key = %shown(item.key.as_str()), message_id = %shown(item.message_id()), why,
            "lost: left to whoever has it now"
        );
        if let Some(stop) = item.stop.take() {
            stop.now();
        }
        item.fate = Fate::Lost;
        if item.phase == Phase::Running && self.inbox.is_some() {
            self.lost_runs.insert(id, item.payload());
        }
        if why == "lease" {
            self.meter.lost_lease();
        } else {
            self.meter.lost_visibility();
        }
        self.note(id);
        self.release_tail(now, id);
        self.forget(now, id);
    }

    /// The longest an inbox write or a heartbeat may take: well within what it extends.
    fn short_limit(&self) -> Duration {
        (self.config.lease.min(self.config.visibility) / 4).clamp(Duration::from_secs(1), CALL_LIMIT)
    }

    /// Counts a fate and shows it to the observer.
    fn note(&self, id: Id) {
        let Some(item) = self.items.get(&id) else { return };
        let mut reason = None;
        self.shared.count(|totals| reason = totals.add(&item.fate));
        self.meter.settled(&item.fate, reason);
        if let Some(observer) = &self.config.observer {
            let observation = super::Observation {
                message: &item.delivery.message,
                key: &item.key,
                fate: &item.fate,
                attempts: item.attempts_before(),
            };
            guard::guard("observe", || observer(&observation));
        }
    }
}

/// How long a call that failed waits for its next try.
fn call_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(5)).unwrap_or_default()
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A queue's failure made here, for a call that gave no answer.
fn unanswered(queue: &str, operation: &'static str, detail: &str) -> QueueError {
    QueueError::Unavailable {
        queue: queue.to_owned(),
        operation,
        detail: detail.to_owned(),
        request_id: None,
    }
}

/// An inbox's failure made here, for every entry of a call that gave no answer.
fn unanswered_inbox<T>(entries: usize, operation: &'static str, detail: &str) -> Answers<T> {
    (0..entries)
        .map(|_| {
            Err(InboxError::Unavailable {
                inbox: "inbox".to_owned(),
                operation,
                detail: detail.to_owned(),
                request_id: None,
            })
        })
        .collect()
}
