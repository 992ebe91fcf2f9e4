//! The judge of a run: told of everything that reaches a service, of every answer and of every handler's run, it keeps the
//! history and says which invariant (by its number in the design) was broken first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redrive::clock::{Clock, Instant};
use redrive::inbox::{Change, Record, Status};
use redrive::key::RecordKey;
use redrive::message::Receipt;
use redrive::queue::memory::HeldState;
use redrive::queue::{MAX_VISIBILITY, Queue as _};
use redrive::{MemoryInbox, MemoryQueue};
use tokio::task::JoinSet;

use crate::plan::{InboxMode, Letters, Plan, UNPLANNED};
use attempts::{LastRun, Over};
use effects::Ledger;
use letters::Post;

pub(crate) use attempts::Ended;
pub(crate) use host::{Host, Turning};
pub(crate) use letters::{Life, MOVED};

mod attempts;
mod effects;
mod groups;
mod host;
mod letters;
mod limits;

/// How long a worker may take to notice that a lease has ended, and to stop its handler.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// How long after it stood still a worker is not judged by the clock.
const RECOVERY: Duration = Duration::from_secs(1);

/// Events after which a run counts as one that does not end.
const MOST_EVENTS: usize = 2_000_000;

pub(crate) type Who = Arc<str>;

/// The first invariant that was broken.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) text: String,
}

/// A message as the producer sent it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) id: String,
    pub(crate) key: RecordKey,
    /// Its number in the plan; what the producer sends to keep things going has others.
    pub(crate) planned: usize,
    pub(crate) payload: usize,
    pub(crate) group: Option<u64>,
    /// Whether the queue holds it.
    pub(crate) held: bool,
}

/// A message as the judge knows it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    sent: Sent,
    /// The key's text.
    pub(super) plain_key: String,
    pub(super) body: String,
    pub(super) moved_group: Option<String>,
    /// Which message it was at first, and how often it came back.
    pub(super) life: Life,
    /// It was delivered twice, or again after it was deleted.
    pub(super) copied: bool,
}

impl std::ops::Deref for Known {
    type Target = Sent;

    fn deref(&self) -> &Sent {
        &self.sent
    }
}

/// What a run promises: less without an inbox, or without dead letters of the workers' own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Modes {
    pub(super) inbox: InboxMode,
    pub(super) letters: Letters,
    /// Attempts are the queue's receives.
    pub(super) counts_receives: bool,
    /// What is given up counts all of its attempts at once.
    pub(super) attempts_jump: bool,
    /// Some workers take no fingerprints.
    pub(super) any_payload: bool,
    /// What is given up stays in the queue, and its group behind it.
    pub(super) keeps: bool,
    /// That of a group does, whatever is done with others.
    pub(super) blocks: bool,
    pub(super) fifo: bool,
}

impl ClaimState {
    /// Whether this worker may ask for it once more: for the same message, before it has ended it.
    pub(crate) fn is_asked_again(&self, who: &Who, message: usize) -> bool {
        self.who == *who && self.message == message && !self.known_ended
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ClaimState {
    pub(super) who: Who,
    pub(super) label: String,
    pub(super) message: usize,
    /// When it was last asked for.
    pub(super) asked: Instant,
    /// The end of its lease, as the inbox holds it.
    pub(super) lease_until: u64,
    pub(super) ended: Option<Status>,
    /// Its holder knows that there is nothing left to be done under it.
    pub(super) known_ended: bool,
    /// Its holder was told that it is its own.
    pub(super) told: bool,
    /// Its holder gave it up for lost, which it may do before it is.
    pub(super) given_up: bool,
    /// It took over a lease that had run out.
    pub(super) took_over: bool,
    /// Its holder has it wait for its turn as a suspect.
    pub(super) suspect: bool,
    /// Its holder gives it back.
    pub(super) goes_back: bool,
    /// An operator took it away.
    pub(super) taken: bool,
    pub(super) last_run: Option<LastRun>,
    /// What its handlers kept, in the order of the calls.
    pub(super) checkpoints: Vec<Bytes>,
}

/// What the inbox last said to a worker of a message.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(super) at: Instant,
    /// When that was asked: what was received since is another delivery.
    pub(super) asked: Instant,
    pub(super) claim: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(super) message: usize,
    pub(super) number: u32,
    pub(super) at: Instant,
    /// When its worker was told of it.
    pub(super) told: Option<Instant>,
    /// When a delete, a release or a delay of it was first sent.
    pub(super) settled: Option<(Instant, &'static str)>,
    /// That was answered with success.
    pub(super) answered: bool,
    /// Its worker was told that its receipt is no longer good, or took it for lost by time.
    pub(super) lost: bool,
    /// Its worker said what became of it.
    pub(super) over: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(super) who: Who,
    pub(super) message: usize,
    pub(super) claim: String,
    pub(super) began: Instant,
    pub(super) was_probe: bool,
}

pub(crate) struct Checker {
    pub(super) clock: Clock,
    pub(super) start: Instant,
    pub(super) queue: MemoryQueue,
    pub(super) dead: MemoryQueue,
    pub(super) inbox: MemoryInbox,
    pub(super) visibility: Duration,
    pub(super) max_attempts: u32,
    pub(super) modes: Modes,
    /// The queue's ARN.
    pub(super) source: String,
    /// Calls on their way, whoever waits for them.
    wires: JoinSet<()>,
    history: Vec<String>,
    violation: Option<Violation>,
    pub(super) messages: Vec<Known>,
    pub(super) by_id: BTreeMap<String, usize>,
    pub(super) hosts: BTreeMap<Who, Host>,
    pub(super) claims: BTreeMap<String, ClaimState>,
    pub(super) told: BTreeMap<(Who, usize), Told>,
    pub(super) receipts: BTreeMap<(Who, Receipt), Held>,
    pub(super) runs: BTreeMap<u64, Run>,
    pub(super) runs_made: u64,
    runs_of: BTreeMap<usize, u64>,
    /// Payloads whose outcome is durable under a key, whatever becomes of the record later.
    pub(super) done: BTreeSet<(RecordKey, usize)>,
    pub(super) completions: BTreeMap<RecordKey, u32>,
    pub(super) completed: BTreeSet<usize>,
    /// Those that the queue holds.
    held_now: BTreeSet<usize>,
    /// The messages of each group in their order, and how many of the first of them have an outcome.
    pub(super) groups: BTreeMap<u64, (usize, Vec<usize>)>,
    /// The receipts of each message.
    pub(super) by_message: BTreeMap<usize, Vec<(Who, Receipt)>>,
    /// Keys that were completed, and whose dead letter was sent, by records without a fingerprint: for every payload.
    pub(super) done_any: BTreeSet<RecordKey>,
    pub(super) dead_any: BTreeSet<RecordKey>,
    /// Rejected, and their dead letters sent: producers' duplicates of these are deleted.
    pub(super) suppressed: BTreeSet<(RecordKey, usize)>,
    /// Messages whose handler ended well.
    ran_well: BTreeSet<usize>,
    /// Messages that were given up, as far as their worker said so or must.
    pub(super) given_up: BTreeSet<usize>,
    /// When a handler of a worker last ended on a message, and how.
    pub(super) ran: BTreeMap<(Who, usize), (Instant, Ended)>,
    /// How many runs under each key ended in no success.
    pub(super) failures: BTreeMap<RecordKey, u32>,
    /// Keys whose record an operator deleted.
    forgotten: BTreeSet<RecordKey>,
    /// Keys that had a record before anybody asked for them.
    pub(super) strangers: BTreeSet<RecordKey>,
    pub(super) over: BTreeMap<u64, Over>,
    pub(super) post: Post,
    /// Messages whose record says that they were rejected and their dead letter sent, whichever delivery of their key sent it.
    pub(super) buried: BTreeSet<usize>,
    /// The last of them of each key, of which its record tells.
    pub(super) last_buried: BTreeMap<RecordKey, usize>,
    /// How many dead letters of a key and payload there had been when its record was last rejected.
    pub(super) letters_before: BTreeMap<RecordKey, usize>,
    /// Claims under which a worker knows its dead letter to be sent.
    pub(super) letters_told: BTreeSet<String>,
    pub(super) ledger: Ledger,
    /// Operators at work.
    pub(crate) operators: usize,
    /// Records as the last call left them that reached the inbox.
    pub(super) mirror: BTreeMap<RecordKey, Option<Record>>,
    /// What may be in the queue still when the run ends.
    still_queued: BTreeSet<usize>,
}

impl Checker {
    pub(crate) fn new(clock: Clock, queue: MemoryQueue, dead: MemoryQueue, inbox: MemoryInbox, plan: &Plan) -> Self {
        let policy = matches!(plan.letters, Letters::ByPolicy(_));
        Self {
            start: clock.now(),
            clock,
            source: queue.attributes().arn.clone(),
            queue,
            dead,
            inbox,
            visibility: plan.visibility,
            max_attempts: plan.max_attempts,
            modes: Modes {
                inbox: plan.inbox,
                letters: plan.letters,
                counts_receives: plan.inbox != InboxMode::Used,
                attempts_jump: policy,
                any_payload: plan.workers.iter().any(|worker| worker.old),
                keeps: plan.letters == Letters::Kept || plan.rejects_block,
                blocks: plan.rejects_block,
                fifo: plan.fifo,
            },
            wires: JoinSet::new(),
            history: Vec::new(),
            violation: None,
            messages: Vec::new(),
            by_id: BTreeMap::new(),
            hosts: BTreeMap::new(),
            claims: BTreeMap::new(),
            told: BTreeMap::new(),
            receipts: BTreeMap::new(),
            runs: BTreeMap::new(),
            runs_made: 0,
            runs_of: BTreeMap::new(),
            done: BTreeSet::new(),
            completions: BTreeMap::new(),
            completed: BTreeSet::new(),
            held_now: BTreeSet::new(),
            groups: BTreeMap::new(),
            by_message: BTreeMap::new(),
            done_any: BTreeSet::new(),
            dead_any: BTreeSet::new(),
            suppressed: BTreeSet::new(),
            ran_well: BTreeSet::new(),
            given_up: BTreeSet::new(),
            ran: BTreeMap::new(),
            failures: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            strangers: BTreeSet::new(),
            over: BTreeMap::new(),
            post: Post::default(),
            buried: BTreeSet::new(),
            last_buried: BTreeMap::new(),
            letters_before: BTreeMap::new(),
            letters_told: BTreeSet::new(),
            ledger: Ledger::default(),
            operators: 0,
            mirror: BTreeMap::new(),
            still_queued: BTreeSet::new(),
        }
    }

    /// Something is on its way to a service, and goes on whoever waits for it.
    pub(crate) fn on_the_wire(&mut self, call: impl Future<Output = ()> + Send + 'static) {
        while self.wires.try_join_next().is_some() {}
        self.wires.spawn(call);
    }

    pub(crate) fn into_report(self) -> (Vec<String>, Option<Violation>) {
        (self.history, self.violation)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.violation.is_some()
    }

    pub(crate) fn note(&mut self, who: &str, text: impl AsRef<str>) {
        if self.is_broken() {
            return;
        }
        self.write_down(who, text.as_ref());
        if self.history.len() > MOST_EVENTS {
            self.broken(
                "end",
                format!("more than {MOST_EVENTS} events: it does not come to rest"),
            );
        }
    }

    fn write_down(&mut self, who: &str, text: &str) {
        let at = self.clock.now().saturating_duration_since(self.start);
        self.history.push(format!("{:>10.3} {who:<5} {text}", at.as_secs_f64()));
    }

    pub(crate) fn broken(&mut self, invariant: &'static str, text: impl Into<String>) {
        if self.violation.is_none() {
            let text = text.into();
            // Not by `note`, which is what says that there are too many.
            self.write_down("!", &format!("BROKEN {invariant}: {text}"));
            self.violation = Some(Violation { invariant, text });
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The service's time.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.epoch_ms()
    }

    /// Whether it stands still, or did a moment ago: then it is not judged by the clock.
    pub(super) fn is_excused(&self, who: &Who) -> bool {
        self.hosts.get(who).is_none_or(|host| {
            host.stalled
                || host
                    .went_on
                    .is_some_and(|at| self.now().saturating_duration_since(at) < RECOVERY)
        })
    }

    pub(crate) fn host(&mut self, who: &Who) -> &mut Host {
        self.hosts.entry(Arc::clone(who)).or_default()
    }

    /// A message came into the queue.
    pub(crate) fn sent(&mut self, sent: Sent) {
        let number = self.messages.len();
        let what = format!(
            "{} arrives: planned {}, payload {}",
            label(number),
            sent.planned,
            sent.payload
        );
        self.by_id.insert(sent.id.clone(), number);
        let message = self.queue.peek(&sent.id).map(|held| held.message);
        let life = message
            .as_ref()
            .map_or((number, 0), |message| self.life_of(number, message));
        self.held_now.insert(number);
        if let Some(group) = sent.group {
            self.groups.entry(group).or_default().1.push(number);
        }
        let plain_key = sent.key.as_str().split_once('#').map_or("", |(_, key)| key).to_owned();
        self.messages.push(Known {
            plain_key,
            moved_group: message.as_ref().and_then(|message| message.group_id.clone()),
            body: message.map_or_else(String::new, |message| message.body),
            life,
            copied: false,
            sent,
        });
        if life.1 > 0 {
            self.note("queue", format!("{what}, life {} of {}", life.1, label(life.0)));
        } else {
            self.note("queue", what);
        }
    }

    /// Whether the message's outcome is durable, or it is a known duplicate of one whose outcome is.
    pub(super) fn is_durable(&self, message: usize) -> bool {
        let sent = &self.messages[message];
        let work = (sent.key.clone(), sent.payload);
        self.post.ended.contains_key(&sent.life)
            || self.buried.contains(&message)
            || self.done.contains(&work)
            || self.done_any.contains(&sent.key)
            || (sent.life.1 == 0 && (self.suppressed.contains(&work) || self.dead_any.contains(&sent.key)))
            || (self.modes.any_payload && self.is_done_as_another(&sent.key, sent.life.1 == 0))
            || (self.modes.inbox != InboxMode::Used && self.ran_well.contains(&message))
            || (self.modes.letters == Letters::Discarded
                && !(self.modes.blocks && sent.group.is_some())
                && self.given_up.contains(&message))
    }

    /// Whether its key is done, or dead, with any payload: what a worker without fingerprints takes for the same.
    fn is_done_as_another(&self, key: &RecordKey, first_life: bool) -> bool {
        let of = |set: &BTreeSet<(RecordKey, usize)>| {
            set.range((key.clone(), 0)..=(key.clone(), usize::MAX)).next().is_some()
        };
        of(&self.done) || (first_life && of(&self.suppressed))
    }

    /// Whether it was given up and is in the queue all the same, for good, and its group behind it.
    fn stays(&self, message: usize) -> bool {
        self.modes.keeps && self.given_up.contains(&message) && self.messages[message].held
    }

    /// Whether nothing more is to be done about it: it has an outcome, or was given up where that leaves it in the queue.
    fn is_at_rest(&self, message: usize) -> bool {
        let group = self.messages[message].group;
        let behind = |head: usize| self.messages[head].group == group && self.stays(head);
        self.is_durable(message) || self.stays(message) || (group.is_some() && (0..message).any(behind))
    }

    /// An operator is about to take a claim away: until its holder hears of it, it may run on.
    pub(crate) fn taken_away(&mut self, record: &Record) {
        if let Some(claim) = self.claims.get_mut(&record.claim_id) {
            claim.taken = true;
            claim.given_up = true;
        }
    }

    /// An operator is about to delete a record: its key's work may be done again.
    pub(crate) fn forgotten(&mut self, record: &Record) {
        self.ledger.reopen(&record.key);
        self.completions.remove(&record.key);
        self.forgotten.insert(record.key.clone());
    }

    /// The record as the last call left it that reached the inbox; from now on as it is.
    pub(crate) fn look_at(&mut self, key: &RecordKey) -> (Option<Record>, Option<Record>) {
        let after = self.inbox.record(key);
        let before = self
            .mirror
            .insert(key.clone(), after.clone())
            .unwrap_or_else(|| after.clone());
        (before, after)
    }

    /// Keys that are about to be asked for, whose records are known before.
    pub(super) fn know(&mut self, keys: impl IntoIterator<Item = RecordKey>) {
        for key in keys {
            if self.mirror.contains_key(&key) {
                continue;
            }
            let record = self.inbox.record(&key);
            if let Some(record) = &record {
                self.strangers.insert(key.clone());
                if record.status == Status::Rejected && record.dead_letter_sent {
                    self.dead_any.insert(key.clone());
                }
            }
            self.mirror.insert(key, record);
        }
    }

    /// Which of its tenants a message belongs to.
    pub(super) fn tenant_of(&self, message: usize) -> Option<String> {
        let body = &self.messages[message].body;
        body.bytes().last().map(|byte| (byte % 3).to_string())
    }

    pub(super) fn record_of(&self, message: usize) -> Option<Record> {
        self.inbox.record(&self.messages[message].key)
    }

    /// Takes note of what the queue has moved by itself: it is not lost, and may be on its way back already.
    pub(crate) fn look_for_moved(&mut self) {
        if matches!(self.modes.letters, Letters::ByPolicy(_)) {
            self.look_for_dead_letters("queue");
        }
    }

    /// Looks whether messages have left the queue since, and whether they might.
    pub(crate) fn look_for_lost_messages(&mut self) {
        self.look_for_moved();
        let held: Vec<usize> = self.held_now.iter().copied().collect();
        for message in held {
            if !self.queue.contains(&self.messages[message].id) {
                self.messages[message].sent.held = false;
                self.held_now.remove(&message);
                if !self.is_durable(message) {
                    self.broken(
                        "inv01",
                        format!("{} left the queue without a durable outcome", label(message)),
                    );
                }
            }
        }
    }

    /// The queue holds a deleted message again.
    pub(crate) fn came_back(&mut self, message: usize) {
        let known = &mut self.messages[message];
        known.sent.held = true;
        known.copied = true;
        self.held_now.insert(message);
    }

    /// Whether its key came with no other payload, and its record was always there to tell of it. Where one did, the record tells of the last only: what was dead-lettered
    /// and comes back all the same, for its delete was lost, may run.
    pub(super) fn has_its_key_to_itself(&self, message: usize) -> bool {
        let sent = &self.messages[message];
        if self.modes.inbox != InboxMode::Used || self.forgotten.contains(&sent.key) {
            return false;
        }
        let others = self.messages.iter().filter(|other| other.key == sent.key);
        others.into_iter().all(|other| other.payload == sent.payload)
    }

    /// A handler's run begins; answers its number, its message's in the plan, and which run on that message it is.
    pub(crate) fn run_started(&mut self, who: &Who, message_id: &str, claim: &str) -> (u64, usize, u64) {
        let planned = self.messages[self.by_id[message_id]].planned;
        let message = self.by_id[message_id];
        let run = self.runs_made;
        self.runs_made += 1;
        let of_message = self.runs_of.entry(message).or_default();
        *of_message += 1;
        let of_message = *of_message;
        self.note(
            who,
            format!("handler starts on {} under {}", label(message), self.claim_label(claim)),
        );
        if self.modes.inbox == InboxMode::Used {
            self.check_start(who, message, claim);
        }
        self.check_order(who, message);
        self.check_limits(who, message);
        if let Some(claim) = self.claims.get_mut(claim) {
            claim.suspect = false;
        }
        let (began, was_probe) = self.beginning(who);
        let started = Run {
            who: Arc::clone(who),
            message,
            claim: claim.to_owned(),
            began,
            was_probe,
        };
        self.runs.insert(run, started);
        (run, planned, of_message)
    }

    fn check_start(&mut self, who: &Who, message: usize, claim: &str) {
        let excused = self.is_excused(who);
        let now_ms = self.now_ms();
        let key = self.messages[message].key.clone();
        let record = self.inbox.record(&key);
        let current = record
            .as_ref()
            .is_some_and(|record| record.claim_id == claim && record.status == Status::Processing);
        let leased = self.claims.get(claim).is_some_and(|claim| now_ms < claim.lease_until);
        let taken = self.claims.get(claim).is_some_and(|claim| claim.taken);
        if !(excused || taken || current && leased) {
            self.broken(
                "inv03",
                format!(
                    "{who} starts a handler on {} under {}, whose lease does not hold (current {current}, leased {leased})",
                    label(message),
                    self.claim_label(claim)
                ),
            );
        }
        if taken {
            // It may run on until its holder hears of it.
            return;
        }
        let others: Vec<Run> = self
            .runs
            .values()
            .filter(|run| self.messages[run.message].key == key)
            .cloned()
            .collect();
        for other in others {
            let Some(state) = self.claims.get(&other.claim) else {
                continue;
            };
            let given_back = state.ended.is_some() || state.taken;
            if now_ms < state.lease_until && !given_back {
                self.broken(
                    "inv02",
                    format!(
                        "{who} runs {} while {} runs {} of the same key under a lease that holds for {} ms",
                        label(message),
                        other.who,
                        label(other.message),
                        state.lease_until - now_ms
                    ),
                );
            }
        }
    }

    /// A handler's run ended, or was stopped.
    pub(crate) fn run_ended(&mut self, number: u64, ended: Ended) {
        self.look_at_leases();
        let Some(run) = self.runs.remove(&number) else { return };
        self.note(&run.who, format!("handler ends on {}: {ended:?}", label(run.message)));
        self.ran
            .insert((Arc::clone(&run.who), run.message), (self.now(), ended));
        match ended {
            Ended::Done => {
                self.ran_well.insert(run.message);
            }
            Ended::Rejected => {
                self.given_up.insert(run.message);
            }
            Ended::Failed | Ended::Unsaved | Ended::Panicked | Ended::Stopped => {}
        }
        // A batch that fails as a whole fails what was done in it, too.
        if ended != Ended::Done || self.hosts.get(&run.who).is_some_and(|host| host.batches) {
            let key = self.messages[run.message].key.clone();
            *self.failures.entry(key).or_default() += 1;
        }
        self.is_over(number, &run, ended);
    }

    /// Looks for handlers that run on although their lease has ended and their worker could know.
    pub(crate) fn look_at_leases(&mut self) {
        // A shadow's lease holds nothing up.
        if self.modes.inbox != InboxMode::Used {
            return;
        }
        let now_ms = self.now_ms();
        let grace = u64::try_from(GRACE.as_millis()).unwrap_or(0);
        let late = self.runs.values().find(|run| {
            self.claims
                .get(&run.claim)
                .is_some_and(|claim| now_ms > claim.lease_until + grace && !claim.taken)
                && !self.is_excused(&run.who)
                && !self.hosts[&run.who].batches
        });
        if let Some(run) = late.cloned() {
            self.broken(
                "inv03",
                format!(
                    "{} lets its handler run on {} although the lease of {} has ended",
                    run.who,
                    label(run.message),
                    self.claim_label(&run.claim)
                ),
            );
        }
    }

    pub(super) fn claim_label(&self, claim: &str) -> String {
        self.claims
            .get(claim)
            .map_or_else(|| "no claim".to_owned(), |claim| claim.label.clone())
    }

    /// The worker says what became of a delivery.
    pub(crate) fn observed(&mut self, who: &Who, message_id: &str, fate: &str) {
        let message = self.by_id[message_id];
        self.note(who, format!("{} is {fate}", label(message)));
        let told = self
            .told
            .get(&(Arc::clone(who), message))
            .and_then(|told| told.claim.clone());
        if let Some(claim) = told.and_then(|claim| self.claims.get_mut(&claim)) {
            claim.given_up |= fate == "lost";
        }
        if fate == "given_up" {
            self.given_up.insert(message);
        }
        let of = |(holder, _): &&(Who, Receipt)| holder == who;
        let mine = self.by_message.get(&message).into_iter().flatten().filter(of);
        for of in mine.cloned().collect::<Vec<_>>() {
            if let Some(held) = self.receipts.get_mut(&of) {
                held.over = true;
                held.lost |= fate == "lost";
            }
        }
        if ["completed", "duplicate", "dead_lettered"].contains(&fate) && !self.is_durable(message) {
            self.broken(
                "inv01",
                format!("{who} takes {} for {fate}, and it is not", label(message)),
            );
        }
    }

    /// Whether a claim's record says that it is held.
    pub(super) fn is_held_under(&self, id: &str, claim: &ClaimState) -> bool {
        let now_ms = self.now_ms();
        self.record_of(claim.message).is_some_and(|record| {
            record.claim_id == id && record.status == Status::Processing && now_ms < record.lease_until
        })
    }

    /// Whether the message is invisible by this receive, as far as that can be told.
    pub(super) fn is_current(&self, held: &Held) -> bool {
        let newer = self
            .held_of(held.message)
            .any(|(_, _, other)| other.number > held.number);
        let sent = &self.messages[held.message];
        let state = self.queue.peek(&sent.id).map(|held| held.state);
        !newer && !sent.copied && matches!(state, Some(HeldState::InFlight { until }) if until > self.now())
    }

    /// What must be true when all is quiet.
    pub(crate) fn at_the_end(&mut self) {
        for message in 0..self.messages.len() {
            let queued = self.messages[message].held && self.still_queued.contains(&message);
            if !self.is_at_rest(message) && !queued {
                self.broken("inv01", format!("{} has no durable outcome in the end", label(message)));
            }
        }
        let twice = self.completions.iter().find(|(_, times)| **times > 1);
        if let Some((key, times)) = twice.map(|(key, times)| (key.clone(), *times)) {
            self.broken("inv03", format!("{} was completed {times} times", key.as_str()));
        }
        let mut text = String::new();
        for message in 0..self.messages.len() {
            let reasons = self.dead_letter_reasons(message).join(", ");
            let done = if self.completed.contains(&message) {
                "completed"
            } else {
                ""
            };
            let _ = write!(text, "{} {done}{reasons}; ", label(message));
        }
        self.note("end", text);
    }

    /// Whether all that was sent is accounted for and nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.runs.is_empty()
            && self.operators == 0
            && (0..self.messages.len()).all(|message| {
                self.is_at_rest(message)
                    && (self.stays(message) || !(self.messages[message].held && self.is_durable(message)))
            })
    }

    /// Whether a planned message has no durable outcome yet.
    pub(crate) fn waits_for_planned(&self) -> bool {
        (0..self.messages.len()).any(|message| self.messages[message].planned < UNPLANNED && !self.is_at_rest(message))
    }

    /// Takes it for settled that what always fails, and what is behind it in its group, is still in the queue; answers what
    /// that is. Anything else is broken.
    pub(crate) fn wait_for_what_fails(&mut self, can_be_done: impl Fn(usize) -> bool) -> String {
        let open: Vec<usize> = (0..self.messages.len()).filter(|&n| !self.is_at_rest(n)).collect();
        let names = open.iter().map(|&n| label(n)).collect::<Vec<_>>().join(" ");
        let planned: Vec<usize> = self.messages.iter().map(|sent| sent.planned).collect();
        let can_be_done = |message: usize| can_be_done(planned[message]);
        for &message in &open {
            let group = self.messages[message].group;
            let blocked = group.is_some()
                && open
                    .iter()
                    .any(|&n| n < message && self.messages[n].group == group && !can_be_done(n));
            if can_be_done(message) && !blocked {
                self.broken(
                    "inv01",
                    format!("{} is never settled; open are {names}", label(message)),
                );
            }
        }
        self.still_queued.extend(open);
        names
    }

    /// Everybody's deliveries of a message.
    pub(super) fn held_of(&self, message: usize) -> impl Iterator<Item = (&Who, &Receipt, &Held)> {
        let receipts = self.by_message.get(&message).into_iter().flatten();
        receipts.filter_map(|of| Some((&of.0, &of.1, self.receipts.get(of)?)))
    }

    /// A heartbeat or a settle of this receipt is sent: `None` if the worker never had it.
    pub(super) fn held(&mut self, who: &Who, receipt: &Receipt) -> Option<Held> {
        let held = self.receipts.get(&(Arc::clone(who), receipt.clone())).cloned();
        if held.is_none() {
            self.broken("inv03", format!("{who} uses a receipt it was never given"));
        }
        held
    }

    pub(super) fn mark_settled(&mut self, who: &Who, receipt: &Receipt, how: &'static str) {
        let now = self.now();
        if let Some(held) = self.receipts.get_mut(&(Arc::clone(who), receipt.clone())) {
            held.settled.get_or_insert((now, how));
        }
    }

    /// Whether the worker has lost or is giving back what it last claimed the message under, whichever receive that was for.
    pub(super) fn is_given_up(&self, who: &Who, message: usize) -> bool {
        let told = self.told.get(&(Arc::clone(who), message));
        let claim = told.and_then(|told| self.claims.get(told.claim.as_ref()?));
        claim.is_some_and(|claim| claim.given_up || claim.goes_back)
    }

    /// The claim that the worker was told it has for this delivery: asked for since it was received.
    pub(super) fn claim_for(&self, who: &Who, held: &Held) -> Option<(String, ClaimState)> {
        let told = self.told.get(&(Arc::clone(who), held.message))?;
        let id = told.claim.clone().filter(|_| told.asked >= held.at)?;
        let state = self.claims.get(&id)?.clone();
        Some((id, state))
    }

    pub(super) fn check_extension(&mut self, who: &Who, held: &Held, by: Duration) {
        if let Some((_, how)) = held.settled {
            self.broken(
                "inv06",
                format!(
                    "{who} extends the visibility of {} after its {how} was sent",
                    label(held.message)
                ),
            );
        }
        if self.now() + by > held.at + MAX_VISIBILITY + Duration::from_secs(1) {
            self.broken(
                "inv06",
                format!("{who} asks for more than 12 hours for {}", label(held.message)),
            );
        }
    }
}

pub(crate) fn label(message: usize) -> String {
    format!("m{message:02}")
}

pub(super) fn change_name(change: &Change) -> &'static str {
    match change {
        Change::Renew { .. } => "renew",
        Change::Start => "start",
        Change::Checkpoint { .. } => "checkpoint",
        Change::Complete { .. } => "complete",
        Change::Release { failure: None } => "release",
        Change::Release { .. } => "release+attempt",
        Change::Reject(_) => "reject",
        Change::DeadLetterSent => "dead letter sent",
    }
}
