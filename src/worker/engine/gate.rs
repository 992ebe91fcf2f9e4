//! Whether breakers let anything be received and started: the worker's own, the inbox's, and those it watches.

use std::time::Duration;

use super::{Engine, Fate, Id, Instant};
use crate::flow::{BreakerState, CircuitBreaker, Transition, report_state, report_transition};
use crate::queue::{MAX_BATCH, MAX_VISIBILITY};

/// For how long a message goes away that failed in an outage and was kept long enough.
pub(super) const AWAY: Duration = Duration::from_secs(30);

/// The last receives before the redrive policy moves a message: in an outage those are held on to.
const LAST_RECEIVES: u32 = 3;

/// How much of SQS's 12 hours is left when what is on its last receives is given back all the same.
pub(super) const RESERVE: Duration = Duration::from_secs(30 * 60);

/// What all breakers together allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Everything.
    Open,
    /// One probe at a time.
    Probe,
    /// Nothing.
    Shut,
}

impl Engine {
    pub(super) fn gate(&self, now: Instant) -> Gate {
        let own = [self.breaker.as_ref(), self.inbox_breaker.as_ref()];
        let own = own.into_iter().flatten().map(|breaker| breaker.state(now));
        let watched = self.watched.iter().map(|watch| watch.state(now));
        own.chain(watched).fold(Gate::Open, |gate, state| match (gate, state) {
            (Gate::Shut, _) | (_, BreakerState::Open { .. }) => Gate::Shut,
            (_, BreakerState::HalfOpen) => Gate::Probe,
            (gate, BreakerState::Closed) => gate,
        })
    }

    /// Whether a breaker that the worker only watches is not closed.
    pub(super) fn watched_shut(&self, now: Instant) -> bool {
        self.watched.iter().any(|watch| !watch.state(now).is_closed())
    }

    /// Whether every half-open breaker waits for a probe.
    pub(super) fn probe_is_free(&self, now: Instant) -> bool {
        let own = [self.breaker.as_ref(), self.inbox_breaker.as_ref()];
        self.watched_probe.is_none() && own.into_iter().flatten().all(|breaker| breaker.admits(now))
    }

    /// Whether any breaker that counts handler runs is not closed.
    pub(super) fn outage(&self, now: Instant) -> bool {
        self.watched_shut(now)
            || self
                .breaker
                .as_ref()
                .is_some_and(|breaker| !breaker.state(now).is_closed())
    }

    /// When the gate changes by time alone.
    pub(super) fn gate_at(&self, now: Instant) -> Option<Instant> {
        let own = [self.breaker.as_ref(), self.inbox_breaker.as_ref()];
        let own = own.into_iter().flatten().map(|breaker| breaker.state(now));
        let watched = self.watched.iter().map(|watch| watch.state(now));
        own.chain(watched)
            .filter_map(|state| match state {
                BreakerState::Open { until } => Some(until),
                BreakerState::HalfOpen | BreakerState::Closed => None,
            })
            .min()
    }

    /// Shows the states at the start: what is watched for an outage must be there before the first one.
    pub(super) fn report_breakers(&self, now: Instant) {
        for which in ["worker", "inbox"] {
            if let Some(breaker) = self.own_breaker(which) {
                report_state(&self.breaker_name(which), breaker.state(now));
            }
        }
        for watch in &self.watched {
            watch.report();
        }
    }

    /// Lets time act on the breakers, and notes when the gate shuts and opens.
    pub(super) fn turn_breakers(&mut self, now: Instant) {
        let moved = self.breaker.as_mut().and_then(|breaker| breaker.turn(now));
        self.note_transition(now, "worker", moved);
        let moved = self.inbox_breaker.as_mut().and_then(|breaker| breaker.turn(now));
        self.note_transition(now, "inbox", moved);
        for watch in &self.watched {
            watch.turn(now);
        }
        let gate = self.gate(now);
        self.probes_exhausted &= gate == Gate::Probe;
        let shut = gate == Gate::Shut;
        if gate == Gate::Open && !self.paused && std::mem::take(&mut self.keeping) {
            for item in self.items.values_mut() {
                item.kept_since = None;
                item.failed_in_outage = false;
                item.probed_in_vain = 0;
            }
        }
        if shut && !self.gate_was_shut {
            tracing::warn!(worker = %self.config.name, "receiving pauses: a breaker is open");
            self.meter.paused(true);
            self.shared.count(|totals| totals.pauses += 1);
        } else if !shut && self.gate_was_shut {
            tracing::info!(worker = %self.config.name, "receiving goes on");
            self.meter.paused(false);
            self.last_receive = now;
        }
        self.gate_was_shut = shut;
        self.gate_was_open = gate == Gate::Open;
    }

    /// Whether a probe must be received: nothing is held that could be one, or all of it has failed in this outage already,
    /// and a message that always fails must not be the only one that a breaker is judged by. What is held for it stays bounded.
    pub(super) fn wants_other_probes(&self) -> bool {
        let fresh = |id| self.is_fresh(id);
        if self.claiming > 0
            || !self.suspects.is_empty()
            || self.ready.iter().copied().any(fresh)
            || self.unclaimed.ids().any(|id| !self.failed_in_outage(id))
        {
            return false;
        }
        let waits = |id: &Id| {
            self.items
                .get(id)
                .is_some_and(|item| item.phase == super::Phase::Waiting)
        };
        let could_probe = self.ready.iter().any(waits) || !self.unclaimed.is_empty();
        !could_probe || (!self.probes_exhausted && self.waiting < 2 * self.slots.max(MAX_BATCH))
    }

    /// Puts first what has not failed in this outage, if some is ready; answers whether there is a probe to be run now.
    pub(super) fn choose_probe(&mut self) -> bool {
        if let Some(at) = self.ready.iter().position(|&id| self.is_fresh(id))
            && let Some(id) = self.ready.remove(at)
        {
            self.ready.push_front(id);
            return true;
        }
        // One that is being claimed is waited for.
        self.claiming == 0 && !self.wants_other_probes()
    }

    pub(super) fn failed_in_outage(&self, id: Id) -> bool {
        self.items.get(&id).is_some_and(|item| item.failed_in_outage)
    }

    fn is_fresh(&self, id: Id) -> bool {
        let item = self.items.get(&id);
        item.is_some_and(|item| item.phase == super::Phase::Waiting && !item.failed_in_outage)
    }

    pub(super) fn note_transition(&mut self, now: Instant, which: &'static str, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        if transition == Transition::Opened {
            self.shared.count(|totals| totals.breaker_opened += 1);
        }
        if let Some(breaker) = self.own_breaker(which) {
            report_transition(&self.breaker_name(which), transition, breaker.state(now));
        }
    }

    fn own_breaker(&self, which: &'static str) -> Option<&CircuitBreaker> {
        if which == "inbox" {
            self.inbox_breaker.as_ref()
        } else {
            self.breaker.as_ref()
        }
    }

    fn breaker_name(&self, which: &'static str) -> String {
        format!("{}/{which}", self.config.name)
    }

    /// When the oldest of what is kept for an open breaker has been kept long enough.
    pub(super) fn keep_until(&self) -> Option<Instant> {
        if self.gate_was_open && !self.paused {
            return None;
        }
        self.items
            .iter()
            .filter(|&(&id, item)| item.is_kept() && self.is_head(id))
            .filter_map(|(&id, item)| Some(self.keep_for(id, item.kept_since?)))
            .min()
    }

    /// Until when it is kept, for an open breaker or a pause. Given back, it is received again for the next probe; and what is
    /// received once more than the redrive policy allows is moved to the dead-letter queue, by an outage alone.
    pub(super) fn keep_for(&self, id: Id, since: Instant) -> Instant {
        let keep = since + self.config.keep_while_open;
        let Some(item) = self.items.get(&id) else { return keep };
        if !self.is_on_last_receives(id)
            || !self.config.heartbeat
            || item.visibility_lost
            || self.outlives_retention(id, RESERVE)
        {
            return keep;
        }
        keep.max(item.received_at + MAX_VISIBILITY.saturating_sub(RESERVE))
    }

    /// Whether the redrive policy moves it after a few receives more.
    pub(super) fn is_on_last_receives(&self, id: Id) -> bool {
        let policy = self.queue.attributes().redrive.as_ref();
        match (policy, self.items.get(&id)) {
            (Some(policy), Some(item)) => item.receive_count.saturating_add(LAST_RECEIVES) > policy.max_receive_count,
            _ => false,
        }
    }

    /// While a breaker is open, or the worker is paused, what is held is kept with its heartbeat, but not for ever. What is behind
    /// another in its group goes back with that one, never before it.
    pub(super) fn keep_or_give_back(&mut self, now: Instant) {
        if self.gate_was_open && !self.paused {
            return;
        }
        self.keeping = true;
        let mut over = Vec::new();
        for item in self.items.values_mut().filter(|item| item.is_kept()) {
            item.kept_since.get_or_insert(now);
        }
        for (&id, item) in &self.items {
            if item.is_kept() && self.is_head(id) && self.keep_for(id, item.kept_since.unwrap_or(now)) <= now {
                over.push(id);
            }
        }
        let probing = self.gate(now) == Gate::Probe;
        for id in over {
            if self.unclaimed.at(id).is_some() {
                self.give_back_unclaimed(now, id);
            } else if probing || self.failed_in_outage(id) {
                // Visible at once it would be the first to be received as a probe, before what might succeed, or again and
                // again while it may not start.
                self.go_back(now, id, Fate::Released, None, AWAY);
            } else {
                self.release(now, id);
            }
        }
    }
}
