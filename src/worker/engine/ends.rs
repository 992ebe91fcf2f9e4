//! What follows from how a handler's run ended.

use std::time::Duration;

use super::gate::Gate;
use super::guard::guard;
use super::run::Ended;
use super::{Engine, Fate, Id, Instant, Phase, Step, millis};
use crate::flow::{Verdict, key_hash};
use crate::handler::Kept;
use crate::inbox::{Attempted, Change, Rejection};
use crate::outcome::{Failure, Outcome, Reason};
use crate::queue::MAX_VISIBILITY;
use crate::telemetry::{said, shown};

impl Engine {
    pub(super) fn ended(&mut self, now: Instant, ended: Ended) {
        // The slot is free again, before anything is recorded or settled.
        self.slots_used = self.slots_used.saturating_sub(1);
        self.adapt(now, &ended);
        // One call that fails a whole batch is one failure for the breaker, not as many as it had messages.
        let mut batch_verdict = None;
        match ended {
            Ended::One { id, outcome, took } => self.ended_one(now, id, outcome, took, &mut batch_verdict),
            Ended::Batch { ids, outcomes, took } => {
                let mut outcomes = outcomes.into_iter();
                for id in ids {
                    let outcome = outcomes.next().flatten();
                    self.ended_one(now, id, outcome, took, &mut batch_verdict);
                }
            }
        }
    }

    fn ended_one(
        &mut self,
        now: Instant,
        id: Id,
        outcome: Option<Outcome>,
        took: Duration,
        batch_verdict: &mut Option<bool>,
    ) {
        if self.watched_probe == Some(id) {
            self.watched_probe = None;
        }
        self.remember_lost_run(id, outcome.as_ref());
        // A run whose lease was lost was given up already.
        let Some(item) = self.items.get_mut(&id) else { return };
        if item.phase != Phase::Running {
            return;
        }
        item.stop = None;
        item.permit = None;
        item.trace.run_ended(now, outcome.as_ref());
        self.meter.handled(outcome.as_ref(), took);
        match outcome {
            None => {
                self.record_verdict(now, id, Verdict::Ignored);
                self.release(now, id);
            }
            Some(Outcome::Done(result)) => {
                self.record_verdict(now, id, Verdict::Success);
                self.complete(now, id, result);
            }
            Some(Outcome::Failed(failure)) => self.failed(now, id, &failure, batch_verdict),
        }
    }

    /// A run that went on although its delivery was lost: what it did must not be done again here.
    fn remember_lost_run(&mut self, id: Id, outcome: Option<&Outcome>) {
        if let (Some(payload), Some(Outcome::Done(result))) = (self.lost_runs.remove(&id), outcome) {
            self.remember(payload, result.clone());
        }
    }

    fn failed(&mut self, now: Instant, id: Id, failure: &Failure, told: &mut Option<bool>) {
        if let Some(reason) = failure.reason() {
            self.record_verdict(now, id, Verdict::Ignored);
            let attempts = self.items.get(&id).map_or(0, |item| item.attempts_before()) + 1;
            let rejection = Rejection {
                reason: reason.clone(),
                error: failure.error().to_owned(),
                attempts,
            };
            let reason = reason.clone();
            self.give_up(now, id, rejection, &reason, true);
            return;
        }
        let watched = self.watched_shut(now);
        let counts = !watched
            && failure.counts()
            && self
                .config
                .counts_as_failure
                .as_ref()
                .is_none_or(|counts| guard("breaker_counts", || counts(failure)).unwrap_or(true));
        let verdict = if counts { Verdict::Failure } else { Verdict::Ignored };
        let recorded = match *told {
            Some(recorded) => {
                self.forget_ticket(now, id);
                recorded
            }
            None => self.record_verdict(now, id, verdict),
        };
        *told = Some(recorded);
        let is_attempt = recorded && !watched && failure.counts();
        let Some(item) = self.items.get(&id) else { return };
        tracing::info!(
            worker = %self.config.name, key = %shown(item.key.as_str()), message_id = %shown(item.message_id()),
            attempt = item.attempts_before() + 1, counted = is_attempt, error = %said(failure.error()),
            "a handler failed"
        );
        self.meter.retried(failure.cause(), is_attempt);
        if !is_attempt {
            self.shared.count(|totals| totals.uncounted_failures += 1);
            self.keep_or_release(now, id, failure);
            return;
        }
        let attempts = item.attempts_before() + 1;
        if attempts >= self.config.max_attempts {
            let rejection = Rejection {
                reason: Reason::AttemptsExhausted,
                error: failure.error().to_owned(),
                attempts,
            };
            self.give_up(now, id, rejection, &Reason::AttemptsExhausted, true);
            return;
        }
        let delay = failure
            .delay()
            .unwrap_or_else(|| self.config.backoff.delay(attempts, &self.config.random))
            .min(MAX_VISIBILITY);
        let attempted = Attempted {
            attempts,
            error: failure.error().to_owned(),
        };
        self.go_back(now, id, Fate::Retried, Some(attempted), delay);
    }

    /// An outage's failure is nobody's attempt: while there is one, the message stays held and waits for the breaker, behind
    /// the others; so no receive is spent either.
    fn keep_or_release(&mut self, now: Instant, id: Id, failure: &Failure) {
        // Its record says that it runs: a release takes that back, so that a death meanwhile is not put on it.
        let announced = self.items.get(&id).is_some_and(|item| item.announced);
        if self.outage(now) && self.drain.is_none() && self.config.heartbeat && !announced {
            let pause = self.pause_of_probe(now, id, failure);
            if pause.is_some() && self.held_back >= self.config.held_back {
                self.go_back(
                    now,
                    id,
                    Fate::Released,
                    None,
                    pause.unwrap_or_default().min(MAX_VISIBILITY),
                );
                return;
            }
            let Some(item) = self.items.get_mut(&id) else { return };
            item.failed_in_outage = true;
            item.not_before = pause.map(|pause| now + pause);
            if item.claim.is_some() && item.kept.as_ref().is_some_and(Kept::is_unsure) {
                self.look_up(now, id);
            } else {
                self.make_ready(now, id);
            }
            return;
        }
        let delay = failure
            .delay()
            .unwrap_or_else(|| self.config.backoff.delay(1, &self.config.random));
        self.go_back(now, id, Fate::Released, None, delay.min(MAX_VISIBILITY));
    }

    /// How long a probe waits that failed and left its breaker half open, for it told the breaker nothing. Where it opened the
    /// breaker, that is what it waits for.
    fn pause_of_probe(&mut self, now: Instant, id: Id, failure: &Failure) -> Option<Duration> {
        if self.gate(now) != Gate::Probe {
            return None;
        }
        let item = self.items.get_mut(&id)?;
        item.probed_in_vain = item.probed_in_vain.saturating_add(1);
        let tries = item.probed_in_vain;
        let pause = || self.config.backoff.delay(tries, &self.config.random);
        Some(failure.delay().unwrap_or_else(pause))
    }

    /// Tells the worker's breaker; answers whether a failure is an attempt.
    fn record_verdict(&mut self, now: Instant, id: Id, verdict: Verdict) -> bool {
        let Some(item) = self.items.get_mut(&id) else {
            return true;
        };
        let (Some(breaker), Some(ticket)) = (self.breaker.as_mut(), item.ticket.take()) else {
            return true;
        };
        let recorded = breaker.record(now, ticket, key_hash(&item.record_key), verdict);
        self.note_transition(now, "worker", recorded.transition);
        recorded.counts_as_attempt
    }

    fn forget_ticket(&mut self, now: Instant, id: Id) {
        let ticket = self.items.get_mut(&id).and_then(|item| item.ticket.take());
        if let (Some(ticket), Some(breaker)) = (ticket, self.breaker.as_mut()) {
            breaker.forget(now, ticket);
        }
    }

    /// It goes back to the queue: the claim is freed first, durably, then it is made visible after `delay`, then the rest of its
    /// group that is held goes back unrun.
    pub(super) fn go_back(&mut self, now: Instant, id: Id, fate: Fate, failure: Option<Attempted>, delay: Duration) {
        if !delay.is_zero() && self.outlives_retention(id, delay) {
            let rejection = self.expiring(id, failure, delay);
            self.give_up(now, id, rejection, &Reason::Expiring, true);
            return;
        }
        let rejected_before = self.items.get(&id).is_some_and(|item| item.rejected_before);
        if rejected_before {
            // Its record stays rejected: whoever gets it once the lease is over goes on with the dead letter.
            let delay = delay.max(self.config.lease + Duration::from_secs(1));
            self.finish(now, id, fate, [Step::Hide(delay), Step::ReleaseTail]);
            return;
        }
        let steps = [
            Step::Write(Change::Release { failure }),
            Step::Hide(delay),
            Step::ReleaseTail,
        ];
        self.finish(now, id, fate, steps);
    }

    /// Why it is given up before it expires: the failure that would have delayed it, or else what is known of those before.
    fn expiring(&self, id: Id, failure: Option<Attempted>, delay: Duration) -> Rejection {
        let claim = self.items.get(&id).and_then(|item| item.claim.as_deref());
        let why = || format!("delayed by {} ms it would outlive the queue's retention", millis(delay));
        let (attempts, error) = match (failure, claim) {
            (Some(failure), _) => (failure.attempts, failure.error),
            (None, Some(claim)) => {
                let last = claim
                    .last_error
                    .as_ref()
                    .map(|last| format!("; its last attempt failed: {last}"));
                (claim.attempts, why() + &last.unwrap_or_default())
            }
            // Without a claim an inbox's count is not known.
            (None, None) if self.inbox.is_some() => (0, why()),
            (None, None) => (self.items.get(&id).map_or(0, |item| item.attempts_before()), why()),
        };
        Rejection {
            reason: Reason::Expiring,
            attempts,
            error,
        }
    }

    /// Whether the queue would drop it before it could be received again.
    pub(super) fn outlives_retention(&self, id: Id, delay: Duration) -> bool {
        let attributes = self.queue.attributes();
        let Some(sent) = self.items.get(&id).and_then(|item| item.delivery.message.sent_at_ms) else {
            return false;
        };
        let ends = sent.saturating_add(millis(attributes.retention));
        self.service_now()
            .saturating_add(millis(delay + attributes.visibility_timeout))
            >= ends
    }

    /// What is left to do for it, in this order.
    pub(super) fn finish(&mut self, now: Instant, id: Id, fate: Fate, steps: impl IntoIterator<Item = Step>) {
        self.enter(id, Phase::Ending);
        self.unclaimed.clear(id);
        self.suspects.retain(|&waiting| waiting != id);
        self.forget_ticket(now, id);
        let Some(item) = self.items.get_mut(&id) else { return };
        item.fate = fate;
        item.trace.settling(now);
        item.plan.clear();
        item.plan.extend(steps);
        item.tries = 0;
        item.permit = None;
        item.kept_since = None;
        if self.suspect_running.is_some_and(|(suspect, _)| suspect == id) {
            self.end_suspects_turn(now);
        }
        self.advance(now, id);
    }
}
