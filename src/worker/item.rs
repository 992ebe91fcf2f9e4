//! A delivery the worker holds, and what is still to be done for it.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::engine::Stop;
use super::status::Fate;
use crate::clock::Instant;
use crate::dlq::envelope::Envelope;
use crate::flow::BulkheadPermit;
use crate::flow::Ticket;
use crate::handler::Kept;
use crate::inbox::{Change, Claim, ClaimAnswer, Rejection};
use crate::key::{Fingerprint, Key, RecordKey};
use crate::message::{Delivery, Receipt};
use crate::telemetry::DeliveryTrace;

/// Names a held delivery within its worker, in the order of receives.
pub(super) type Id = u64;

/// A map by ids. Their hash need not withstand anybody: the worker counts them itself.
pub(super) type IdMap<V> = HashMap<Id, V, BuildHasherDefault<IdHasher>>;

/// Spreads ids, which are counted, over a table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        // 2^64 divided by the golden ratio: what Knuth's multiplicative hashing takes.
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A held delivery as the key of a map by MessageId, so that the id is not stored twice.
#[derive(Clone, Debug)]
pub(super) struct ByMessageId(pub(super) Arc<Delivery>);

impl Borrow<str> for ByMessageId {
    fn borrow(&self) -> &str {
        &self.0.message.id
    }
}

impl PartialEq for ByMessageId {
    fn eq(&self, other: &Self) -> bool {
        self.0.message.id == other.0.message.id
    }
}

impl Eq for ByMessageId {}

impl Hash for ByMessageId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.message.id.as_str().hash(state);
    }
}

/// A delivery from its receive until it is settled or given up.
pub(super) struct Item {
    pub(super) delivery: Arc<Delivery>,
    pub(super) trace: DeliveryTrace,
    /// The newest receipt: a redelivery of a held message hands in a better one.
    pub(super) receipt: Receipt,
    /// When that receive was asked for: SQS's 12 hours run from here.
    pub(super) received_at: Instant,
    /// The receive count of that receive.
    pub(super) receive_count: u32,
    pub(super) key: Key,
    pub(super) record_key: RecordKey,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) envelope: Option<Arc<Envelope>>,
    pub(super) group: Option<Arc<str>>,
    /// The id of its claim, from the first try on: a claim whose reply was lost is taken up again under it.
    pub(super) claim_id: Option<String>,
    /// Claimed again only to learn what its run kept.
    pub(super) looked_up: bool,
    /// How often it was tried to be claimed without an answer.
    pub(super) unanswered: u32,
    pub(super) claim: Option<Arc<Claim>>,
    /// What its runs under this claim kept last.
    pub(super) kept: Option<Kept>,
    /// When the lease ends by the inbox's time, in ms since 1970.
    pub(super) lease_until: u64,
    /// When the request was made whose answer last proved its lease, or is to prove it.
    pub(super) proven_at: Instant,
    /// When its heartbeat that is under way was sent.
    pub(super) beat_at: Instant,
    /// When the queue makes it visible again, at the earliest, unless it is settled or extended.
    pub(super) visible_at: Instant,
    /// Its visibility ran out, so that its receipt is no longer good; with an inbox the lease still holds.
    pub(super) visibility_lost: bool,
    pub(super) phase: Phase,
    /// A heartbeat for it is under way; nothing else is done for it until that is back.
    pub(super) beating: bool,
    /// Its next step waits for the heartbeat to come back.
    pub(super) parked: bool,
    /// A step of its plan is under way.
    pub(super) stepping: bool,
    /// How often the current step failed.
    pub(super) tries: u32,
    pub(super) plan: VecDeque<Step>,
    pub(super) rejection: Option<Rejection>,
    /// Its record says that it was rejected and its dead letter not sent: nothing can be released.
    pub(super) rejected_before: bool,
    /// Why it cannot be handled at all: a function that was to tell its key or fingerprint panicked.
    pub(super) unreadable: Option<&'static str>,
    /// What the inbox said, kept until it is the head of its group.
    pub(super) answer: Option<ClaimAnswer>,
    /// Its group was given back while its claim was under way: it goes back too when that is answered.
    pub(super) orphaned: bool,
    pub(super) fate: Fate,
    /// The attempts that its claim knew of, which it has freed although it is not settled yet.
    pub(super) freed_attempts: Option<u32>,
    /// Announced in the inbox as a suspect that runs.
    pub(super) announced: bool,
    pub(super) ticket: Option<Ticket>,
    pub(super) permit: Option<BulkheadPermit>,
    pub(super) tenant_admitted: bool,
    /// Ends its run.
    pub(super) stop: Option<Stop>,
    /// Since when it is ready to run, or runs.
    pub(super) ready_since: Instant,
    /// Its run, or its claim, failed while a breaker was not closed: others are probes before it is one again.
    pub(super) failed_in_outage: bool,
    /// How often it was a probe in vain: it failed, and left the breaker half open.
    pub(super) probed_in_vain: u32,
    /// When it may be a probe again.
    pub(super) not_before: Option<Instant>,
    /// Since when it waits for a breaker to close.
    pub(super) kept_since: Option<Instant>,
}

/// Where a held delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No claim under way: the inbox could not answer, or a later one of its group with a key that is held.
    Unclaimed,
    /// Its claim is under way.
    Claiming,
    /// To be run; waits for its turn, a token, a slot, a breaker.
    Waiting,
    /// Its handler runs.
    Running,
    /// Its plan is carried out.
    Ending,
}

/// One thing to be done for a delivery. Steps are taken in order; each can be repeated.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Write this under its claim; nothing without one.
    Write(Change),
    /// Run it, now that it is announced.
    Run,
    /// Send its dead letter.
    SendDeadLetter,
    /// Its outcome is durable: its FIFO group goes on.
    Next,
    /// It goes back to the queue: the rest of its FIFO group that is held goes back too.
    ReleaseTail,
    /// Delete it.
    Delete,
    /// Make it visible again after this long.
    Hide(Duration),
}

impl Step {
    /// What traces say when it is done.
    pub(super) fn done(&self) -> &'static str {
        match self {
            Self::Write(_) => "recorded",
            Self::Run => "announced",
            Self::SendDeadLetter => "dead_letter_sent",
            Self::Next | Self::ReleaseTail => "group_goes_on",
            Self::Delete => "deleted",
            Self::Hide(_) => "made_visible",
        }
    }
}

impl Item {
    pub(super) fn message_id(&self) -> &str {
        &self.delivery.message.id
    }

    /// The attempts counted before the run that is due.
    pub(super) fn attempts_before(&self) -> u32 {
        match &self.claim {
            Some(claim) => claim.attempts,
            None => self
                .freed_attempts
                .unwrap_or_else(|| self.delivery.receive_count.saturating_sub(1)),
        }
    }

    /// Goes on to the next step of its plan; answers the one that it leaves.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        self.stepping = false;
        self.tries = 0;
        self.plan.pop_front()
    }

    /// What it is a delivery of.
    pub(super) fn payload(&self) -> super::unrecorded::Payload {
        super::unrecorded::Payload {
            record_key: self.record_key.clone(),
            fingerprint: self.fingerprint,
            message_id: self.message_id().to_owned(),
            fencing_token: self.claim.as_ref().map_or(0, |claim| claim.fencing_token),
        }
    }

    /// Whether its run is to be written down before it starts, because the process that had it last may have died of it.
    pub(super) fn is_unannounced_suspect(&self) -> bool {
        !self.announced && self.claim.as_ref().is_some_and(|claim| claim.suspect)
    }

    /// Whether its dead letter is sent next, or waits for that: nothing is settled yet, so it is held on to.
    pub(super) fn is_sending(&self) -> bool {
        self.phase == Phase::Ending && matches!(self.plan.front(), Some(Step::SendDeadLetter))
    }

    /// Whether it waits where it can be given back: what is being claimed is given back when that is answered.
    pub(super) fn is_kept(&self) -> bool {
        self.is_waiting() && self.phase != Phase::Claiming
    }

    /// Whether it still has to get past the claim or a slot, so that intake counts it as held.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Unclaimed | Phase::Claiming | Phase::Waiting)
    }
}
