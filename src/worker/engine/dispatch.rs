//! What starts next: tokens, slots, bulkheads, tenants, suspects and batches.

use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use super::guard::guard;
use super::run::{Begun, Lease, Start, Stop};
use super::{Engine, Fate, Id, Instant, Phase, Step};
use crate::flow::Admission;
use crate::inbox::Change;

/// The longest that what finds no room to wait aside is sent back for, before jitter of as much again.
const LONGEST_OVERFLOW: Duration = Duration::from_secs(5 * 60 * 60);

/// How many suspects wait for their turn at most.
const MAX_SUSPECTS: usize = 20;

/// How long a suspect runs at most until it has proven itself, where the lease is longer.
const PROVING: Duration = Duration::from_secs(30);

/// How long a worker has run before it runs what has a death against it. Processes that die soon after each start, of whatever,
/// would have their suspects taken for the cause, one after the other.
const SETTLING: Duration = Duration::from_secs(30);

/// From this receive count on, or when the queue is about to move it, that is not waited for: workers may be meant to live no
/// longer.
const OFTEN_RECEIVED: u32 = 12;

impl Engine {
    /// It is to be run when its turn comes.
    pub(super) fn make_ready(&mut self, now: Instant, id: Id) {
        self.enter(id, Phase::Waiting);
        let Some(item) = self.items.get_mut(&id) else { return };
        item.ready_since = now;
        if let Some(at) = item.not_before.take().filter(|at| *at > now) {
            self.held_back += 1;
            self.at_rate.set(id, at);
            return;
        }
        if item.is_unannounced_suspect() && !self.config.shadow {
            self.line_up_suspect(now, id);
        } else {
            self.ready.push_back(id);
        }
    }

    /// Beyond as many as have their turn soon, suspects go back. Their claim is left to run out: a release would make them none.
    /// They come again when all before them have run, as far as can be told from how long suspects take; and later each time.
    fn line_up_suspect(&mut self, now: Instant, id: Id) {
        let turns = self.suspect_pace * u32::try_from(MAX_SUSPECTS).unwrap_or(u32::MAX);
        let receives = self.items.get(&id).map_or(1, |item| item.receive_count);
        let spread = self
            .config
            .lease
            .saturating_mul(1 << receives.saturating_sub(2).min(10));
        let delay = self.config.lease + Duration::from_secs(1) + self.config.random.up_to(spread.min(turns));
        // Those that wait for the worker to have lived for long enough are in nobody's way.
        let is_due = |id: Id| self.may_be_risked_at(id).is_some_and(|at| at <= now);
        let like_it = |other: &&Id| is_due(**other) == is_due(id);
        if self.suspects.iter().filter(like_it).count() < MAX_SUSPECTS || self.outlives_retention(id, delay) {
            self.suspects.push_back(id);
        } else {
            self.finish(now, id, Fate::Released, [Step::Hide(delay), Step::ReleaseTail]);
        }
    }

    /// The turn of the suspect that ran is over.
    pub(super) fn end_suspects_turn(&mut self, now: Instant) {
        if let Some((_, Some(begun))) = self.suspect_running.take() {
            let took = now.saturating_duration_since(begun).min(self.proving());
            self.suspect_pace = (self.suspect_pace + took) / 2;
        }
    }

    /// How long a suspect runs until it has proven itself and the next may run.
    fn proving(&self) -> Duration {
        self.config.lease.min(PROVING)
    }

    /// Starts as many handlers as slots, tokens and breakers allow.
    pub(super) fn dispatch(&mut self, now: Instant) {
        self.token_at = None;
        if self.paused || self.drain.is_some() {
            return;
        }
        // Oldest first: what is put to the front last is taken first.
        for id in self.at_rate.take_due(now).into_iter().rev() {
            self.held_back = self.held_back.saturating_sub(1);
            self.ready.push_front(id);
        }
        self.let_in_proven();
        self.let_in_from_bulkheads();
        self.let_in_a_suspect(now);
        while self.slots_used < self.slots && !self.ready.is_empty() && self.ending_has_room() {
            let gate = self.gate(now);
            if gate == Gate::Shut || (gate == Gate::Probe && self.watched_probe.is_some()) {
                return;
            }
            if gate == Gate::Probe && !self.choose_probe() {
                return;
            }
            if self.handler.batch().is_none() {
                let Some(id) = self.admit_next(now, gate) else { return };
                self.start_one(now, id);
                continue;
            }
            let size = if gate == Gate::Probe { 1 } else { self.batch_size() };
            if size > 1 && !self.batch_is_due(now, size) {
                return;
            }
            let mut ids = Vec::with_capacity(size.min(self.ready.len()));
            while ids.len() < size
                && let Some(id) = self.admit_next(now, gate)
            {
                ids.push(id);
            }
            if ids.is_empty() {
                return;
            }
            self.start_batch(now, ids);
        }
    }

    fn ending_has_room(&self) -> bool {
        self.ending() < self.most_ending()
    }

    fn batch_is_due(&self, now: Instant, size: usize) -> bool {
        self.ready.len() >= size || self.batch_at().is_none_or(|at| now >= at)
    }

    /// When a gathering batch starts although it is not full.
    pub(super) fn batch_at(&self) -> Option<Instant> {
        let policy = self.handler.batch()?;
        if self.slots_used >= self.slots || self.paused {
            return None;
        }
        let first = self.ready.front().and_then(|id| self.items.get(id))?;
        Some(first.ready_since + policy.linger)
    }

    /// The next delivery that may start now, with its tokens and its admission.
    fn admit_next(&mut self, now: Instant, gate: Gate) -> Option<Id> {
        while let Some(id) = self.ready.pop_front() {
            if self.items.get(&id).is_none_or(|item| item.phase != Phase::Waiting) {
                continue;
            }
            if !self.holds(id) {
                self.lose_by_time(now, id, "lease");
                continue;
            }
            if !self.is_proven(id) {
                self.await_proof(now, id);
                continue;
            }
            if !self.admit_tenant(now, id) || !self.admit_bulkhead(now, id) {
                continue;
            }
            if !self.take_token(now) {
                self.leave_bulkhead(id);
                self.ready.push_front(id);
                return None;
            }
            if self.announce(now, id) {
                continue;
            }
            if !self.admit_breaker(now, id, gate) {
                self.leave_bulkhead(id);
                self.ready.push_front(id);
                return None;
            }
            self.token_in_hand = false;
            return Some(id);
        }
        None
    }

    /// The worker's rate token; one that was taken for a handler that did not start is kept for the next.
    fn take_token(&mut self, now: Instant) -> bool {
        if self.token_in_hand {
            return true;
        }
        match self.bucket.take(now) {
            Ok(()) => {
                self.token_in_hand = true;
                true
            }
            Err(wait) => {
                self.token_at = Some(now + wait);
                self.meter.limiter_wait("worker", wait);
                false
            }
        }
    }

    /// A tenant over its rate waits aside, without a slot.
    fn admit_tenant(&mut self, now: Instant, id: Id) -> bool {
        let Some(limit) = &self.config.tenants else { return true };
        let Some(item) = self.items.get_mut(&id) else {
            return false;
        };
        if item.tenant_admitted {
            return true;
        }
        let Some(tenant) = guard("rate_by", || (limit.tenant_of)(&item.delivery.message)).flatten() else {
            return true;
        };
        match limit.buckets.take(&tenant, now) {
            Ok(()) => {
                item.tenant_admitted = true;
                true
            }
            Err(wait) => {
                self.meter.limiter_wait("tenant", wait);
                if self.held_back < self.config.held_back {
                    self.held_back += 1;
                    self.at_rate.set(id, now + wait);
                } else {
                    self.delay_overflow(now, id, wait);
                }
                false
            }
        }
    }

    /// A route whose bulkhead is full waits aside, without a slot.
    fn admit_bulkhead(&mut self, now: Instant, id: Id) -> bool {
        let Some(item) = self.items.get_mut(&id) else {
            return false;
        };
        if item.permit.is_some() {
            return true;
        }
        let Some(name) = self.handler.bulkhead(&item.delivery.message) else {
            return true;
        };
        let Some(bulkhead) = self.bulkheads.get(name) else {
            return true;
        };
        if let Some(permit) = bulkhead.try_enter() {
            item.permit = Some(permit);
            return true;
        }
        self.meter.bulkhead_full(name);
        let name = name.to_owned();
        if self.held_back < self.config.held_back {
            self.held_back += 1;
            self.at_bulkhead.entry(name).or_default().push_back(id);
        } else {
            self.delay_overflow(now, id, Duration::from_secs(1));
        }
        false
    }

    fn leave_bulkhead(&mut self, id: Id) {
        if let Some(item) = self.items.get_mut(&id) {
            item.permit = None;
        }
    }

    /// Those at a bulkhead that has room go to the front again with their permit, oldest first.
    fn let_in_from_bulkheads(&mut self) {
        if self.at_bulkhead.is_empty() || self.slots_used >= self.slots {
            return;
        }
        let mut let_in = Vec::new();
        for (name, queue) in &mut self.at_bulkhead {
            let Some(bulkhead) = self.bulkheads.get(name) else {
                continue;
            };
            while !queue.is_empty() {
                let Some(permit) = bulkhead.try_enter() else { break };
                let Some(id) = queue.pop_front() else { break };
                self.held_back = self.held_back.saturating_sub(1);
                if let Some(item) = self.items.get_mut(&id)
                    && item.phase == Phase::Waiting
                {
                    item.permit = Some(permit);
                    let_in.push(id);
                }
            }
        }
        self.at_bulkhead.retain(|_, queue| !queue.is_empty());
        for id in let_in.into_iter().rev() {
            self.ready.push_front(id);
        }
    }

    /// One suspect runs at a time, so that a death points at one; one that has run for half a minute, or for its lease if that is
    /// shorter, has proven itself.
    fn let_in_a_suspect(&mut self, now: Instant) {
        if self.suspect_turn_at().is_none_or(|at| now < at) {
            return;
        }
        let is_due = |&id: &Id| self.may_be_risked_at(id).is_some_and(|at| at <= now);
        let due = self.suspects.iter().position(is_due);
        if let Some(id) = due.and_then(|due| self.suspects.remove(due)) {
            self.end_suspects_turn(now);
            self.suspect_running = Some((id, None));
            self.ready.push_front(id);
        }
    }

    /// When the next suspect may run, if one waits.
    pub(super) fn suspect_turn_at(&self) -> Option<Instant> {
        let first = self.suspects.iter().filter_map(|&id| self.may_be_risked_at(id)).min()?;
        match self.suspect_running {
            None => Some(first),
            // One that has not begun to run has proven nothing.
            Some((_, begun)) => begun.map(|begun| first.max(begun + self.proving())),
        }
    }

    /// From when on a suspect may run as far as its deaths are concerned.
    fn may_be_risked_at(&self, id: Id) -> Option<Instant> {
        let item = self.items.get(&id)?;
        let has_a_death = item.claim.as_ref().is_some_and(|claim| claim.deaths > 0);
        let comes_too_often = item.receive_count >= OFTEN_RECEIVED || self.is_on_last_receives(id);
        // Without heartbeats what waits is lost.
        if has_a_death && self.config.heartbeat && !comes_too_often {
            Some(item.ready_since.max(self.began + SETTLING))
        } else {
            Some(item.ready_since)
        }
    }

    /// There is no room to wait aside: it goes back to the queue for as long as the limiter says, and for twice as long each
    /// time it comes again, so that a large backlog spends few receives.
    fn delay_overflow(&mut self, now: Instant, id: Id, wait: Duration) {
        let Some(item) = self.items.get(&id) else { return };
        let doublings = item.delivery.receive_count.saturating_sub(1).min(16);
        let wait = wait
            .max(Duration::from_secs(1))
            .saturating_mul(1 << doublings)
            .min(LONGEST_OVERFLOW);
        let wait = wait + self.config.random.up_to(wait);
        self.go_back(now, id, Fate::Released, None, wait);
    }

    fn admit_breaker(&mut self, now: Instant, id: Id, gate: Gate) -> bool {
        let ticket = match self.breaker.as_mut().map(|breaker| breaker.admit(now)) {
            None => None,
            Some(Admission::Run(ticket) | Admission::Probe(ticket)) => Some(ticket),
            Some(Admission::Wait { .. }) => return false,
        };
        if gate == Gate::Probe && self.watched_shut(now) {
            self.watched_probe = Some(id);
        }
        if let Some(item) = self.items.get_mut(&id) {
            item.ticket = ticket;
        }
        true
    }

    /// A suspect's run is written down before it starts, so that its process's death can be told from a neighbour's. Answers
    /// whether that write had to be begun.
    fn announce(&mut self, now: Instant, id: Id) -> bool {
        let Some(item) = self.items.get_mut(&id) else {
            return false;
        };
        if !item.is_unannounced_suspect() || self.config.shadow {
            return false;
        }
        item.announced = true;
        item.permit = None;
        item.plan.extend([Step::Write(Change::Start), Step::Run]);
        self.enter(id, Phase::Ending);
        self.advance(now, id);
        true
    }

    fn start_batch(&mut self, now: Instant, ids: Vec<Id>) {
        self.slots_used += 1;
        let begun = ids.into_iter().filter_map(|id| self.begin(now, id)).collect();
        self.run_batch(now, begun);
    }

    fn start_one(&mut self, now: Instant, id: Id) {
        if let Some(begun) = self.begin(now, id) {
            self.slots_used += 1;
            self.run_one(begun);
        }
    }

    /// It is running from here on.
    fn begin(&mut self, now: Instant, id: Id) -> Option<Begun> {
        self.enter(id, Phase::Running);
        self.intake.message_started(now);
        let item = self.items.get_mut(&id)?;
        let (stop, asked, stopped) = Stop::new();
        self.meter
            .starting(now.saturating_duration_since(item.delivery.received_at));
        item.stop = Some(stop);
        item.ready_since = now;
        item.tenant_admitted = false;
        if let Some((suspect, begun)) = &mut self.suspect_running
            && *suspect == id
        {
            *begun = Some(now);
        }
        let claim = self.inbox.clone().zip(item.claim.clone());
        // A shadow's lease keeps nothing from running.
        let lease = claim.as_ref().filter(|_| !self.config.shadow).map(|(inbox, _)| Lease {
            inbox: Arc::clone(inbox),
            until: item.lease_until,
        });
        let context = crate::handler::Context::assembled(
            Arc::clone(&item.delivery),
            item.key.clone(),
            item.attempts_before() + 1,
            Arc::clone(&self.queue_name),
            item.envelope.clone(),
            claim,
            item.kept.clone(),
            asked,
        );
        let span = match self.handler.batch() {
            Some(_) => tracing::Span::none(),
            None => crate::telemetry::delivery_span(
                context.queue(),
                context.message(),
                context.key().as_str(),
                context.attempt(),
                context.claim().map(|claim| claim.fencing_token),
            ),
        };
        let trace = item.trace.run_started(now, context.attempt(), &span);
        let start = Start {
            id,
            context,
            stopped,
            lease,
        };
        Some(Begun { start, span, trace })
    }
}
