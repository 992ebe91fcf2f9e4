//! The judge of a run: told of everything that reaches a service, of every answer and of every handler's run, it keeps the
//! history and says which invariant (by its number in the design) was broken first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use redrive::clock::{Clock, Instant};
use redrive::dlq::Envelope;
use redrive::inbox::{Change, Record, Status};
use redrive::key::RecordKey;
use redrive::message::Receipt;
use redrive::queue::MAX_VISIBILITY;
use redrive::{MemoryInbox, MemoryQueue};

use crate::plan::UNPLANNED;

/// How long a worker may take to notice that a lease has ended, and to stop its handler.
const GRACE: Duration = Duration::from_millis(100);

/// How long after it stood still a worker is not judged by the clock.
const RECOVERY: Duration = Duration::from_secs(1);

/// Events after which a run counts as one that does not end.
const MOST_EVENTS: usize = 400_000;

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

/// What a worker's process goes through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    pub(crate) stalled: bool,
    /// When it last stood still.
    pub(crate) went_on: Option<Instant>,
    pub(crate) most_runs: usize,
    /// Its handler takes several deliveries at once, and stops only when none of them is wanted.
    pub(crate) batches: bool,
}

#[derive(Clone, Debug)]
pub(super) struct ClaimState {
    pub(super) who: Who,
    pub(super) label: String,
    pub(super) message: usize,
    /// The end of its lease, as the inbox holds it.
    pub(super) lease_until: u64,
    pub(super) ended: Option<Status>,
    /// Its holder knows that there is nothing left to be done under it.
    pub(super) known_ended: bool,
    /// Its holder was told that it is its own.
    pub(super) told: bool,
    /// Its holder gave it up for lost, which it may do before it is.
    pub(super) given_up: bool,
}

/// What the inbox last said to a worker of a message.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) at: Instant,
    pub(super) claim: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) message: usize,
    pub(super) number: u32,
    pub(super) at: Instant,
    /// When a delete, a release or a delay of it was first sent.
    pub(super) settled: Option<(Instant, &'static str)>,
}

#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) who: Who,
    pub(super) message: usize,
    pub(super) claim: String,
}

pub(crate) struct Checker {
    pub(super) clock: Clock,
    pub(super) start: Instant,
    pub(super) queue: MemoryQueue,
    pub(super) dead: MemoryQueue,
    pub(super) inbox: MemoryInbox,
    pub(super) visibility: Duration,
    pub(super) max_attempts: u32,
    history: Vec<String>,
    violation: Option<Violation>,
    pub(super) messages: Vec<Sent>,
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
    letters: BTreeMap<usize, Vec<String>>,
    letters_seen: usize,
    /// What may be in the queue still when the run ends.
    still_queued: BTreeSet<usize>,
}

impl Checker {
    pub(crate) fn new(
        clock: Clock,
        queue: MemoryQueue,
        dead: MemoryQueue,
        inbox: MemoryInbox,
        visibility: Duration,
        max_attempts: u32,
    ) -> Self {
        Self {
            start: clock.now(),
            clock,
            queue,
            dead,
            inbox,
            visibility,
            max_attempts,
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
            letters: BTreeMap::new(),
            letters_seen: 0,
            still_queued: BTreeSet::new(),
        }
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
        let at = self.clock.now().saturating_duration_since(self.start);
        self.history
            .push(format!("{:>10.3} {who:<5} {}", at.as_secs_f64(), text.as_ref()));
        if self.history.len() > MOST_EVENTS {
            self.broken(
                "end",
                format!("more than {MOST_EVENTS} events: it does not come to rest"),
            );
        }
    }

    pub(crate) fn broken(&mut self, invariant: &'static str, text: impl Into<String>) {
        if self.violation.is_none() {
            let text = text.into();
            self.note("!", format!("BROKEN {invariant}: {text}"));
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

    /// The producer's send was taken.
    pub(crate) fn sent(&mut self, sent: Sent) {
        let number = self.messages.len();
        let what = format!(
            "{} arrives: planned {}, payload {}",
            label(number),
            sent.planned,
            sent.payload
        );
        self.by_id.insert(sent.id.clone(), number);
        self.messages.push(sent);
        self.note("queue", what);
    }

    /// Whether the message's outcome is durable, or it is a known duplicate of one whose outcome is.
    pub(super) fn is_durable(&self, message: usize) -> bool {
        let sent = &self.messages[message];
        self.letters.contains_key(&message) || self.done.contains(&(sent.key.clone(), sent.payload))
    }

    pub(super) fn record_of(&self, message: usize) -> Option<Record> {
        self.inbox.record(&self.messages[message].key)
    }

    /// Looks whether messages have left the queue since, and whether they might.
    pub(crate) fn look_for_lost_messages(&mut self) {
        for message in 0..self.messages.len() {
            let sent = &self.messages[message];
            if sent.held && !self.queue.contains(&sent.id) {
                self.messages[message].held = false;
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
        self.messages[message].held = true;
    }

    /// Takes note of dead letters that arrived.
    pub(crate) fn look_for_dead_letters(&mut self, who: &str) {
        if self.dead.len() == self.letters_seen {
            return;
        }
        let letters = self.dead.messages();
        for letter in letters.iter().skip(self.letters_seen) {
            let Some(envelope) = Envelope::of(letter) else {
                self.broken("inv10", "a dead letter carries no envelope");
                continue;
            };
            let Some(&message) = self.by_id.get(&envelope.message_id) else {
                self.broken(
                    "inv10",
                    format!("a dead letter names no message that was sent: {envelope:?}"),
                );
                continue;
            };
            self.note(
                who,
                format!(
                    "  dead letter of {} arrives: {}, {} attempts",
                    label(message),
                    envelope.reason,
                    envelope.attempts
                ),
            );
            if envelope.reason.is_empty() || envelope.key.is_empty() {
                self.broken(
                    "inv10",
                    format!("the dead letter of {} does not explain itself", label(message)),
                );
            }
            if envelope.attempts > self.max_attempts {
                self.broken(
                    "inv09",
                    format!(
                        "{} attempts of {} in a dead letter",
                        envelope.attempts, self.max_attempts
                    ),
                );
            }
            if self.completed.contains(&message) && self.has_its_key_to_itself(message) {
                self.broken(
                    "inv03",
                    format!("{} is completed and dead-lettered after that", label(message)),
                );
            }
            self.letters.entry(message).or_default().push(envelope.reason);
        }
        self.letters_seen = letters.len();
    }

    /// Whether its key came with no other payload. Where one did, the record tells of the last only: what was dead-lettered
    /// and comes back all the same, for its delete was lost, may run.
    pub(super) fn has_its_key_to_itself(&self, message: usize) -> bool {
        let sent = &self.messages[message];
        let others = self.messages.iter().filter(|other| other.key == sent.key);
        others.into_iter().all(|other| other.payload == sent.payload)
    }

    pub(super) fn dead_letter_reasons(&self, message: usize) -> &[String] {
        self.letters.get(&message).map_or(&[], Vec::as_slice)
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
        self.check_start(who, message, claim);
        let who = Arc::clone(who);
        let claim = claim.to_owned();
        self.runs.insert(run, Run { who, message, claim });
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
        if !(excused || current && leased) {
            self.broken(
                "inv03",
                format!(
                    "{who} starts a handler on {} under {}, whose lease does not hold (current {current}, leased {leased})",
                    label(message),
                    self.claim_label(claim)
                ),
            );
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
            let given_back = state.ended.is_some();
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
        let mine = self.runs.values().filter(|run| run.who == *who).count();
        let most = self.hosts.get(who).map_or(usize::MAX, |host| host.most_runs);
        if mine >= most {
            self.broken("inv05", format!("{who} runs more than {most} handlers"));
        }
        if let Some(group) = self.messages[message].group {
            for earlier in 0..message {
                if self.messages[earlier].group == Some(group) && !self.is_durable(earlier) {
                    self.broken(
                        "inv07",
                        format!(
                            "{who} starts {} before {} of the same group has a durable outcome",
                            label(message),
                            label(earlier)
                        ),
                    );
                }
            }
        }
    }

    /// A handler's run ended, or was stopped.
    pub(crate) fn run_ended(&mut self, run: u64, how: &str) {
        self.look_at_leases();
        if let Some(run) = self.runs.remove(&run) {
            self.note(&run.who, format!("handler ends on {}: {how}", label(run.message)));
        }
    }

    /// Looks for handlers that run on although their lease has ended and their worker could know.
    pub(crate) fn look_at_leases(&mut self) {
        let now_ms = self.now_ms();
        let grace = u64::try_from(GRACE.as_millis()).unwrap_or(0);
        let late = self.runs.values().find(|run| {
            self.claims
                .get(&run.claim)
                .is_some_and(|claim| now_ms > claim.lease_until + grace)
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
        if ["completed", "duplicate", "dead_lettered"].contains(&fate) && !self.is_durable(message) {
            self.broken(
                "inv01",
                format!("{who} takes {} for {fate}, and it is not", label(message)),
            );
        }
    }

    /// The worker ended by itself after a drain. `clean`: it says that it holds nothing.
    pub(crate) fn drained(&mut self, who: &Who, clean: bool, took: Option<Duration>, deadline: Duration) {
        self.note(who, format!("drained in {took:?}, clean {clean}"));
        if took.is_some_and(|took| took > deadline + GRACE) && !self.is_excused(who) {
            self.broken("inv08", format!("{who} took {took:?} of {deadline:?} to drain"));
        }
        if !clean {
            return;
        }
        let now_ms = self.now_ms();
        let left = self.claims.iter().find(|(id, claim)| {
            claim.who == *who
                && claim.told
                && !claim.given_up
                && self.record_of(claim.message).is_some_and(|record| {
                    record.claim_id == **id && record.status == Status::Processing && now_ms < record.lease_until
                })
        });
        if let Some((_, claim)) = left {
            let text = format!(
                "{who} drained cleanly and left {} on {}",
                claim.label,
                label(claim.message)
            );
            self.broken("inv08", text);
        }
    }

    /// What must be true when all is quiet.
    pub(crate) fn at_the_end(&mut self) {
        for message in 0..self.messages.len() {
            let queued = self.messages[message].held && self.still_queued.contains(&message);
            if !self.is_durable(message) && !queued {
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
        self.queue.is_empty()
            && self.runs.is_empty()
            && (0..self.messages.len()).all(|message| self.is_durable(message))
    }

    /// Whether a planned message has no durable outcome yet.
    pub(crate) fn waits_for_planned(&self) -> bool {
        (0..self.messages.len()).any(|message| self.messages[message].planned < UNPLANNED && !self.is_durable(message))
    }

    /// Takes it for settled that what always fails, and what is behind it in its group, is still in the queue; answers what
    /// that is. Anything else is broken.
    pub(crate) fn wait_for_what_fails(&mut self, can_be_done: impl Fn(usize) -> bool) -> String {
        let open: Vec<usize> = (0..self.messages.len()).filter(|&n| !self.is_durable(n)).collect();
        let mut names = open.iter().take(40).map(|&n| label(n)).collect::<Vec<_>>().join(" ");
        if open.len() > 40 {
            let _ = write!(names, " and {} more", open.len() - 40);
        }
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

    /// The claim that the worker was told it has for this delivery, if that was since it was received.
    pub(super) fn claim_for(&self, who: &Who, held: &Held) -> Option<(String, ClaimState)> {
        let told = self.told.get(&(Arc::clone(who), held.message))?;
        let id = told.claim.clone().filter(|_| told.at >= held.at)?;
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
        Change::Checkpoint(_) => "checkpoint",
        Change::Complete { .. } => "complete",
        Change::Release { failure: None } => "release",
        Change::Release { .. } => "release+attempt",
        Change::Reject(_) => "reject",
        Change::DeadLetterSent => "dead letter sent",
    }
}
