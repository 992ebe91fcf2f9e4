//! What the inbox cannot answer for: held and claimed again, so that its outage spends no receives.

use std::time::Duration;

use super::gate::{AWAY, Gate, RESERVE};
use super::{Engine, Fate, Id, Instant, Phase};
use crate::flow::{Backoff, BreakerState};
use crate::queue::{MAX_BATCH, MAX_VISIBILITY};

/// The longest from one try to claim what is held to the next, while the inbox's breaker is closed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// For how long a message first goes away that can be neither claimed nor held; doubled with each receive.
const FIRST_DELAY: Duration = Duration::from_secs(15);

/// The longest of these delays, but for the last receives before the redrive policy moves the message.
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

impl Engine {
    /// The inbox cannot say: not run, not deleted, kept with its visibility until it can. `tried` says whether it was asked.
    pub(super) fn inbox_unreachable(&mut self, now: Instant, id: Id, tried: bool) {
        if self.config.shadow {
            self.take_answer(now, id, None);
            return;
        }
        let goes_back = self.must_go_back(id);
        let outage = self.inbox_outage(now);
        let Some(item) = self.items.get_mut(&id) else { return };
        if goes_back {
            self.release(now, id);
            return;
        }
        if !self.config.heartbeat || item.visibility_lost {
            self.delay_unclaimed(now, id);
            return;
        }
        item.unanswered = item.unanswered.saturating_add(u32::from(tried));
        item.failed_in_outage |= tried && outage;
        item.kept_since.get_or_insert(now);
        let pause = self.unclaimed_pause(now, id);
        self.enter(id, Phase::Unclaimed);
        self.unclaimed.set(id, now + pause);
        if self.beats.at(id).is_none() {
            self.schedule_beat(now, id);
        }
    }

    /// Its run began to keep something, and nobody saw whether it is kept: claimed again under its own id, its record tells.
    pub(super) fn look_up(&mut self, now: Instant, id: Id) {
        self.enter(id, Phase::Unclaimed);
        self.unclaimed.set(id, now);
        if let Some(item) = self.items.get_mut(&id) {
            item.looked_up = true;
        }
    }

    /// Its record is none: nothing but an operator can help, so it goes away for long, and longest on its last receives.
    pub(super) fn record_unreadable(&mut self, now: Instant, id: Id) {
        if self.config.shadow {
            self.take_answer(now, id, None);
        } else if self.must_go_back(id) {
            self.release(now, id);
        } else {
            self.delay_unclaimed(now, id);
        }
    }

    /// Asks again for what could not be claimed: all that is due while the inbox's breaker is closed, a few as its probe
    /// while it is half open. What was kept long enough is given back.
    pub(super) fn claim_again(&mut self, now: Instant) {
        if self.unclaimed.is_empty() || self.drain.is_some() {
            return;
        }
        let mut due = Vec::new();
        for id in self.unclaimed.take_due(now) {
            let pause = self.unclaimed_pause(now, id);
            self.unclaimed.set(id, now + pause);
            let kept_since = self.items.get(&id).and_then(|item| item.kept_since).unwrap_or(now);
            if self.outlives_retention(id, 2 * LONGEST_PAUSE) {
                self.go_back(now, id, Fate::Delayed, None, 2 * LONGEST_PAUSE);
            } else if self.is_head(id) && self.keep_for(id, kept_since) <= now {
                self.give_back_unclaimed(now, id);
            } else {
                due.push(id);
            }
        }
        if self.paused {
            return;
        }
        match self.inbox_breaker.as_ref().map(|breaker| breaker.state(now)) {
            None | Some(BreakerState::Closed) => {
                for ids in due.chunks(MAX_BATCH) {
                    self.claim(now, ids.to_vec());
                }
            }
            Some(BreakerState::HalfOpen) => {
                let probe = self.claim_probe(now);
                self.claim(now, probe);
            }
            Some(BreakerState::Open { .. }) => {}
        }
    }

    fn inbox_outage(&self, now: Instant) -> bool {
        self.inbox_breaker
            .as_ref()
            .is_some_and(|breaker| !breaker.state(now).is_closed())
    }

    /// What is claimed next to find out whether the inbox answers again: first what has not failed in this outage.
    fn claim_probe(&self, now: Instant) -> Vec<Id> {
        let is_free = self.inbox_breaker.as_ref().is_some_and(|breaker| breaker.admits(now));
        if !is_free || self.claiming > 0 {
            return Vec::new();
        }
        let fresh = self.unclaimed.ids().filter(|&id| !self.failed_in_outage(id));
        let fresh: Vec<Id> = fresh.take(MAX_BATCH).collect();
        let may_receive = self.gate(now) == Gate::Probe && self.probe_is_free(now);
        if !fresh.is_empty() || (may_receive && self.wants_other_probes()) {
            return fresh;
        }
        self.unclaimed.ids().take(MAX_BATCH).collect()
    }

    /// The inbox answers again.
    pub(super) fn claim_all_now(&mut self, now: Instant) {
        let ids: Vec<Id> = self.unclaimed.ids().collect();
        for id in ids {
            self.unclaimed.set(id, now);
        }
    }

    /// It was kept long enough: another worker may reach the inbox.
    pub(super) fn give_back_unclaimed(&mut self, now: Instant, id: Id) {
        let delay = AWAY + self.config.random.up_to(AWAY / 4);
        self.go_back(now, id, Fate::Delayed, None, delay);
    }

    /// It can be neither claimed nor held.
    fn delay_unclaimed(&mut self, now: Instant, id: Id) {
        let Some(item) = self.items.get(&id) else { return };
        let doublings = item.receive_count.saturating_sub(1).min(10);
        let mut delay = FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY);
        delay = delay + self.config.random.up_to(delay / 10);
        let longest = MAX_VISIBILITY.saturating_sub(RESERVE);
        if self.is_on_last_receives(id) && !self.outlives_retention(id, longest + RESERVE) {
            delay = longest;
        }
        self.go_back(now, id, Fate::Delayed, None, delay);
    }

    fn unclaimed_pause(&self, now: Instant, id: Id) -> Duration {
        if self.inbox_outage(now) {
            // Its turn comes as a probe.
            return LONGEST_PAUSE;
        }
        let tries = self.items.get(&id).map_or(1, |item| item.unanswered.max(1));
        let backoff = Backoff::new(Duration::from_millis(500), LONGEST_PAUSE).unwrap_or_default();
        backoff.delay(tries, &self.config.random).max(Duration::from_millis(50))
    }
}
