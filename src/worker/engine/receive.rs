//! Receiving, and taking in what was received.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::gate::Gate;
use super::guard::guard;
use super::{ByMessageId, CALL_LIMIT, Engine, Event, Id, Instant, Item, Phase, Step, unanswered};
use crate::dlq::envelope::Envelope;
use crate::flaw::{self, Flaw};
use crate::inbox::{Change, ClaimAnswer, Rejection};
use crate::key::{Key, RecordKey};
use crate::message::Delivery;
use crate::outcome::Reason;
use crate::queue::{MAX_BATCH, QueueError, Receive};
use crate::telemetry::{said, shown};
use crate::worker::in_flight::Holder;
use crate::worker::status::Fate;

impl Engine {
    /// Starts receives, as many as demand and breakers allow.
    pub(super) fn receive(&mut self, now: Instant) {
        self.start_receives(now);
        let receiving = self.intake.in_flight() > 0 || self.intake.next_at(now).is_some();
        self.receiving_since = if receiving && !self.paused && self.drain.is_none() {
            Some(self.receiving_since.unwrap_or(now))
        } else {
            None
        };
        self.watch_for_stall(now);
    }

    fn start_receives(&mut self, now: Instant) {
        if self.paused || self.drain.is_some() {
            return;
        }
        match self.gate(now) {
            Gate::Shut if !flaw::is(Flaw::ReceivesWhileOpen) => {}
            Gate::Probe => {
                if self.wants_other_probes()
                    && self.probe_is_free(now)
                    && let Some(max) = self.intake.ask_probe(now)
                {
                    self.start_receive(max);
                }
            }
            Gate::Open | Gate::Shut => {
                // A dry limiter holds up what is there already: nothing more is fetched to wait behind it.
                let dry = self.token_at.is_some_and(|at| at > now) && !self.ready.is_empty();
                let ending_full = self.ending() >= self.most_ending();
                if dry || ending_full {
                    return;
                }
                // What waits aside, for a limit of its own, as a suspect, or for another of its group, keeps nobody's slot.
                let behind = self.groups.behind();
                let aside = self.held_back + self.suspects.len() + behind;
                let held = self.running + self.waiting.saturating_sub(aside);
                // A receive brings up to ten of one group, of which one can run.
                let most_behind = MAX_BATCH * self.slots * self.batch_size();
                while (!self.fifo || behind + self.intake.expected() <= most_behind)
                    && let Some(max) = self.intake.ask(self.slots * self.batch_size(), held, now)
                {
                    self.start_receive(max);
                }
            }
        }
    }

    /// How many deliveries may be recorded and settled at once before no more are started.
    pub(super) fn most_ending(&self) -> usize {
        (self.slots * 10).max(1_000)
    }

    /// How many deliveries a slot runs at once.
    pub(super) fn batch_size(&self) -> usize {
        self.handler.batch().map_or(1, |policy| policy.max)
    }

    fn start_receive(&mut self, max: usize) {
        self.intake.started(max);
        self.meter.receive_call();
        let queue = Arc::clone(&self.queue);
        let name = Arc::clone(&self.queue_name);
        let mut request = Receive::new(max, self.config.long_poll);
        // The queue's own may be set anew while the worker runs: heartbeats go by what was asked for.
        request.visibility = Some(self.config.visibility);
        let clock = self.config.clock.clone();
        self.call(
            self.config.long_poll + CALL_LIMIT,
            async move {
                let result = queue.receive(request).await;
                (clock.now(), result)
            },
            {
                let clock = self.config.clock.clone();
                move |why| (clock.now(), Err(unanswered(&name, "ReceiveMessage", why)))
            },
            move |(answered, result)| Event::Received {
                asked: max,
                answered,
                result,
            },
        );
    }

    pub(super) fn received(
        &mut self,
        now: Instant,
        asked: usize,
        answered: Instant,
        result: Result<Vec<Delivery>, QueueError>,
    ) {
        let deliveries = match result {
            Ok(deliveries) => deliveries,
            Err(error) => {
                let (backoff, random) = (&self.call_backoff, &self.config.random);
                self.probes_exhausted = true;
                self.intake
                    .failed(asked, now, |failures| backoff.delay(failures, random));
                tracing::warn!(worker = %self.config.name, error = %said(&error), "a receive failed");
                return;
            }
        };
        self.last_receive = now;
        self.stalled = false;
        self.shared.received(now);
        self.intake.received(now, asked, deliveries.len());
        if deliveries.is_empty() {
            self.probes_exhausted = true;
            return;
        }
        self.meter.received(&deliveries, self.service_now());
        let count = deliveries.len() as u64;
        self.shared.count(|totals| totals.received += count);
        let mut fresh = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            if let Some(&held) = self.by_message.get(delivery.message.id.as_str()) {
                self.adopt(now, held, answered, delivery);
            } else {
                fresh.push(self.hold(now, answered, delivery));
            }
        }
        let draining = self.drain.is_some();
        let going_back = self.groups_going_back();
        let behind = |id: &Id| {
            let group = self.items.get(id).and_then(|item| item.group.as_ref());
            group.is_some_and(|group| going_back.contains(group))
        };
        let (back, fresh): (Vec<Id>, Vec<Id>) = fresh.into_iter().partition(|id| draining || behind(id));
        for id in back {
            self.release(now, id);
        }
        self.admit(now, fresh);
    }

    /// The groups of which something held goes back to the queue: that may come before what was just received of them, so this
    /// goes back too.
    fn groups_going_back(&self) -> BTreeSet<Arc<str>> {
        if !self.fifo {
            return BTreeSet::new();
        }
        // One whose claim is not answered yet goes back as soon as it is.
        let goes_back = |item: &Item| {
            item.orphaned || (item.phase == Phase::Ending && item.plan.iter().any(|step| matches!(step, Step::Hide(_))))
        };
        let going = self.items.values().filter(|item| goes_back(item));
        going.filter_map(|item| item.group.clone()).collect()
    }

    /// A held message was received again: its newer receipt is the one that counts.
    fn adopt(&mut self, now: Instant, id: Id, answered: Instant, delivery: Delivery) {
        let visibility = self.config.visibility;
        let Some(item) = self.items.get_mut(&id) else { return };
        self.shared.count(|totals| totals.in_flight_duplicates += 1);
        self.meter.duplicate("held");
        // Of two receives in flight the later one may be answered first.
        if delivery.receive_count <= item.receive_count {
            return;
        }
        item.visible_at = answered + visibility;
        item.visibility_lost = false;
        item.receipt = delivery.receipt;
        item.received_at = delivery.received_at;
        item.receive_count = delivery.receive_count;
        item.trace.received_again(now);
        tracing::debug!(
            worker = %self.config.name, message_id = %shown(item.message_id()), "received again while held: the newer receipt is used"
        );
        // No heartbeat once it is being settled.
        let settling = matches!(item.plan.front(), Some(Step::Delete | Step::Hide(_)));
        if !settling {
            // Its visibility is renewed, and its lease is not: received again and again, it must be renewed all the same.
            let due = self.beats.at(id).filter(|_| self.config.heartbeat);
            self.schedule_beat_by(now, id, due);
        }
    }

    /// Takes a delivery in.
    fn hold(&mut self, now: Instant, answered: Instant, mut delivery: Delivery) -> Id {
        self.last_id += 1;
        let id = self.last_id;
        // Handlers see the attributes the message was first sent with.
        let envelope = Envelope::take(&mut delivery.message);
        let key_source = &self.config.key_source;
        let key = guard("key", || key_source.key_of(&delivery.message, envelope.as_ref()));
        let mut unreadable = key.is_none().then_some("the function that tells its key panicked");
        let key = key.unwrap_or_else(|| Key::new(delivery.message.id.as_str()));
        let record_key = RecordKey::new(&self.config.consumer, &key);
        let group: Option<Arc<str>> = if self.fifo {
            delivery.message.group_id.as_deref().map(Arc::from)
        } else {
            None
        };
        let fingerprint = self.inbox.as_ref().and_then(|_| {
            let fingerprint = guard("fingerprint", || self.config.fingerprint.of(&delivery.message));
            if fingerprint.is_none() {
                unreadable = Some("the function that tells its fingerprint panicked");
            }
            fingerprint.flatten()
        });
        let earlier = envelope.as_ref().and_then(|envelope| envelope.trace.as_deref());
        let trace = self.traces.received(answered, &delivery, key.as_str(), earlier);
        let item = Item {
            trace,
            receipt: delivery.receipt.clone(),
            received_at: delivery.received_at,
            receive_count: delivery.receive_count,
            fingerprint,
            visible_at: answered + self.config.visibility,
            delivery: Arc::new(delivery),
            key,
            record_key,
            envelope: envelope.map(Arc::new),
            group,
            claim_id: None,
            looked_up: false,
            unanswered: 0,
            claim: None,
            kept: None,
            lease_until: 0,
            proven_at: now,
            beat_at: now,
            visibility_lost: false,
            phase: Phase::Unclaimed,
            beating: false,
            parked: false,
            stepping: false,
            tries: 0,
            plan: std::collections::VecDeque::new(),
            rejection: None,
            rejected_before: false,
            unreadable,
            answer: None,
            orphaned: false,
            fate: Fate::Released,
            freed_attempts: None,
            announced: false,
            ticket: None,
            permit: None,
            tenant_admitted: false,
            stop: None,
            ready_since: now,
            failed_in_outage: false,
            probed_in_vain: 0,
            not_before: None,
            kept_since: None,
        };
        self.by_message.insert(ByMessageId(Arc::clone(&item.delivery)), id);
        if let Some(group) = &item.group {
            self.groups.push(group, id);
        }
        self.waiting += 1;
        self.items.insert(id, Box::new(item));
        id
    }

    /// What a receive brought goes on: to its claim, or without an inbox to its turn.
    fn admit(&mut self, now: Instant, fresh: Vec<Id>) {
        let fresh = self.without_unreadable(now, fresh);
        if self.inbox.is_none() {
            for id in fresh {
                self.schedule_beat(now, id);
                if self.is_head(id) {
                    self.make_ready(now, id);
                } else {
                    // Its turn comes when the one before it in its group has a durable outcome.
                    self.enter(id, Phase::Waiting);
                }
            }
            return;
        }
        let mut to_claim = Vec::with_capacity(fresh.len());
        for id in fresh {
            let Some(item) = self.items.get(&id) else { continue };
            if item.phase != Phase::Unclaimed {
                continue;
            }
            if self.runs_lost(&item.record_key) {
                self.in_flight_duplicate(now, id, Holder::Here);
            } else if let Some(&held) = self.by_key.get(&item.record_key).filter(|_| !self.config.shadow) {
                self.local_duplicate(now, id, held);
            } else {
                self.by_key.insert(item.record_key.clone(), id);
                to_claim.push(id);
            }
        }
        self.claim(now, to_claim);
    }

    /// What has no key, or no fingerprint, can be no handler's: it is given up, and its record left alone.
    fn without_unreadable(&mut self, now: Instant, mut fresh: Vec<Id>) -> Vec<Id> {
        fresh.retain(|&id| {
            let Some(why) = self.items.get(&id).and_then(|item| item.unreadable) else {
                return true;
            };
            let rejection = Rejection {
                reason: Reason::Malformed,
                error: why.to_owned(),
                attempts: 0,
            };
            self.give_up(now, id, rejection, &Reason::Malformed, false);
            false
        });
        fresh
    }

    /// Its key is held by this very worker: an in-flight duplicate, answered without asking the inbox. In a FIFO group it
    /// waits for its turn, when the other one is done.
    fn local_duplicate(&mut self, now: Instant, id: Id, held: Id) {
        if self.differs_from_claimed(id, held) {
            self.answered(now, id, ClaimAnswer::FingerprintMismatch);
            return;
        }
        let in_group = self.items.get(&id).is_some_and(|item| item.group.is_some());
        if in_group && !self.is_head(id) {
            self.schedule_beat(now, id);
            return;
        }
        self.in_flight_duplicate(now, id, Holder::Here);
    }

    /// Whether another payload than this one's is claimed under its key, and is processed or done: only then the inbox would
    /// say so too. What goes back or is given up frees the key.
    fn differs_from_claimed(&self, id: Id, held: Id) -> bool {
        let fingerprint = |id| self.items.get(&id).and_then(|item| item.fingerprint);
        let goes_on = |step: &Step| matches!(step, Step::Run | Step::Write(Change::Complete { .. }));
        let claimed = self.items.get(&held).is_some_and(|item| {
            let processed = item.phase != Phase::Ending || item.plan.iter().any(goes_on);
            item.claim.is_some() && !item.rejected_before && processed
        });
        claimed && matches!((fingerprint(id), fingerprint(held)), (Some(this), Some(that)) if this != that)
    }

    /// Whether a handler still runs for the key although its delivery was lost: one of a batch that goes on for the others.
    fn runs_lost(&self, key: &RecordKey) -> bool {
        self.handler.batch().is_some() && self.lost_runs.values().any(|lost| lost.record_key == *key)
    }

    pub(super) fn is_head(&self, id: Id) -> bool {
        self.items.get(&id).is_some_and(|item| match &item.group {
            Some(group) => self.groups.is_head(group, id),
            None => true,
        })
    }

    /// It is its group's turn to go on with this one.
    pub(super) fn head_of_group(&mut self, now: Instant, id: Id) {
        let Some(item) = self.items.get_mut(&id) else { return };
        match item.phase {
            // Claimed as soon as the inbox answers.
            Phase::Unclaimed if self.unclaimed.at(id).is_some() && self.drain.is_none() => {}
            Phase::Unclaimed if self.inbox.is_some() => {
                if self.drain.is_some() {
                    self.release(now, id);
                    return;
                }
                let held_by = self.by_key.get(&item.record_key).copied();
                match held_by {
                    Some(other) if other != id => self.in_flight_duplicate(now, id, Holder::Here),
                    _ => {
                        self.by_key.insert(item.record_key.clone(), id);
                        self.claim(now, vec![id]);
                    }
                }
            }
            Phase::Waiting | Phase::Unclaimed => {
                if let Some(answer) = item.answer.take() {
                    self.answered(now, id, answer);
                } else {
                    self.make_ready(now, id);
                }
            }
            Phase::Claiming | Phase::Running | Phase::Ending => {}
        }
    }

    /// The time by the service's clock where the inbox knows it, else the host's; in ms since 1970.
    pub(super) fn service_now(&self) -> u64 {
        match &self.inbox {
            Some(inbox) => inbox.time().hi,
            None => self.config.clock.epoch_ms(),
        }
    }

    /// Since when a receive should have succeeded, if any should: since the last one did, or since receiving began again.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.receiving_since.map(|since| since.max(self.last_receive))
    }

    /// When the stall watchdog looks next.
    pub(super) fn stall_at(&self) -> Option<Instant> {
        let since = self.silent_since().filter(|_| !self.stalled)?;
        Some(since + self.config.stall_after)
    }

    fn watch_for_stall(&mut self, now: Instant) {
        if self.stall_at().is_some_and(|at| now >= at) {
            self.stalled = true;
            tracing::error!(
                worker = %self.config.name, since_ms = super::millis(now.saturating_duration_since(self.last_receive)),
                "no receive has succeeded for too long: look at the network, the credentials and the queue"
            );
        }
    }
}
