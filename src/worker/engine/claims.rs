//! Claiming what was received, and what follows from the inbox's answers.

use std::sync::Arc;
use std::time::Duration;

use super::guard::guard;
use super::{CALL_LIMIT, Engine, Event, Id, Instant, Phase, Step, unanswered_inbox};
use crate::flaw::{self, Flaw};
use crate::flow::{Admission, Ticket, Transition, Verdict, key_hash};
use crate::handler::Kept;
use crate::inbox::{
    Answers, Attempted, Change, Claim, ClaimAnswer, ClaimRequest, InboxError, MAX_DEATHS, Rejection, Write,
};
use crate::outcome::{MAX_ERROR_BYTES, Reason, StoredResult, bounded};
use crate::telemetry::{said, shown};
use crate::worker::config::{DeadLetters, WithoutDeadLetters};
use crate::worker::in_flight::{self, Holder, Terms};
use crate::worker::status::Fate;

/// The longest a message is delayed because it is kept where it cannot be dead-lettered.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

impl Engine {
    /// Asks the inbox for these keys.
    pub(super) fn claim(&mut self, now: Instant, ids: Vec<Id>) {
        let Some(inbox) = self.inbox.clone() else { return };
        if ids.is_empty() {
            return;
        }
        let ticket = match self.inbox_breaker.as_mut().map(|breaker| breaker.admit(now)) {
            Some(Admission::Run(ticket) | Admission::Probe(ticket)) => Some(ticket),
            None => None,
            Some(Admission::Wait { .. }) => {
                for id in ids {
                    self.inbox_unreachable(now, id, false);
                }
                return;
            }
        };
        let mut requests = Vec::with_capacity(ids.len());
        let mut claimed = Vec::with_capacity(ids.len());
        for id in ids {
            let fresh_id = self.next_claim_id();
            let (lease, retention) = (self.config.lease, self.config.retention);
            let Some(item) = self.items.get_mut(&id) else { continue };
            item.proven_at = now;
            item.trace.claim_sent(now);
            let claim_id = item.claim_id.get_or_insert(fresh_id).clone();
            requests.push(ClaimRequest {
                key: item.record_key.clone(),
                claim_id,
                message_id: item.message_id().to_owned(),
                fingerprint: item.fingerprint,
                lease,
                retention,
                receive_count: item.delivery.receive_count,
                replayed: item.envelope.is_some(),
            });
            claimed.push(id);
            self.unclaimed.clear(id);
            self.enter(id, Phase::Claiming);
            // An answer may take longer than its visibility.
            if self.config.heartbeat && self.beats.at(id).is_none() {
                self.schedule_beat(now, id);
            }
        }
        self.meter.claim_call();
        let count = requests.len();
        self.call(
            CALL_LIMIT,
            async move { inbox.claim(requests).await },
            move |why| unanswered_inbox(count, "claim", why),
            move |answers| Event::Claimed {
                ids: claimed,
                ticket,
                answers,
            },
        );
    }

    pub(super) fn claimed(&mut self, now: Instant, ids: &[Id], ticket: Option<Ticket>, answers: Answers<ClaimAnswer>) {
        let mut answers = answers.into_iter();
        let mut verdict = Verdict::Ignored;
        let mut failed_key = 0;
        for &id in ids {
            let answer = answers.next().unwrap_or(Err(InboxError::NoAnswer));
            match &answer {
                Ok(_) => verdict = Verdict::Success,
                Err(InboxError::Corrupt { .. }) => {}
                Err(_) if verdict == Verdict::Ignored => {
                    verdict = Verdict::Failure;
                    failed_key = self.items.get(&id).map_or(0, |item| key_hash(&item.record_key));
                }
                Err(_) => {}
            }
            let Some(item) = self.items.get_mut(&id).filter(|item| item.phase == Phase::Claiming) else {
                if let Ok(ClaimAnswer::Claimed(claim)) = answer {
                    self.free_unheld(now, id, Write::new(claim, Change::Release { failure: None }));
                }
                continue;
            };
            item.trace.claim_answered(now, in_short(&answer));
            match answer {
                Ok(answer) => self.answer_of(now, id, answer),
                Err(InboxError::Corrupt { inbox, key, why }) => {
                    tracing::error!(
                        worker = %self.config.name, inbox = %shown(&inbox), key = %shown(key.as_str()), why = %said(&why),
                        "a record of the inbox cannot be read: mend or remove it; its message waits, and is moved by the redrive policy in the end"
                    );
                    self.record_unreadable(now, id);
                }
                Err(error) => {
                    tracing::warn!(worker = %self.config.name, error = %said(&error), "a claim failed");
                    self.inbox_unreachable(now, id, true);
                }
            }
        }
        if let (Some(breaker), Some(ticket)) = (self.inbox_breaker.as_mut(), ticket) {
            let moved = breaker.record(now, ticket, failed_key, verdict).transition;
            self.note_transition(now, "inbox", moved);
            if moved == Some(Transition::Closed) {
                self.claim_all_now(now);
            }
        }
    }

    /// Takes the claim over if it was won; acts on the answer when its turn has come.
    fn answer_of(&mut self, now: Instant, id: Id, answer: ClaimAnswer) {
        let answer = if self.config.shadow {
            self.in_shadow(answer)
        } else {
            Some(answer)
        };
        self.take_answer(now, id, answer);
    }

    /// As [`answer_of`](Self::answer_of); without an answer it is run under no claim.
    pub(super) fn take_answer(&mut self, now: Instant, id: Id, answer: Option<ClaimAnswer>) {
        let claim = match &answer {
            Some(ClaimAnswer::Claimed(claim) | ClaimAnswer::FinishDeadLetter(claim, _)) => Some(Arc::clone(claim)),
            _ => None,
        };
        if let (Some(claim), Some(item)) = (claim, self.items.get_mut(&id)) {
            item.lease_until = claim.lease_until;
            item.trace.claimed(claim.fencing_token);
            item.kept = Some(Kept::of(&claim, item.kept.as_ref()));
            self.leases += usize::from(item.claim.replace(claim).is_none());
            item.rejected_before = matches!(answer, Some(ClaimAnswer::FinishDeadLetter(..)));
        }
        self.enter(id, Phase::Waiting);
        if let Some(item) = self.items.get_mut(&id) {
            item.unanswered = 0;
            // One whose run failed already was only looked up.
            if !std::mem::replace(&mut item.looked_up, false) {
                item.kept_since = None;
                item.failed_in_outage = false;
            }
        }
        // Its visibility may run out before half of its lease is over.
        self.schedule_beat_by(now, id, self.beats.at(id));
        if self.must_go_back(id) {
            self.release(now, id);
        } else if !self.is_head(id) {
            // Its turn comes with its group's head.
            if let Some(item) = self.items.get_mut(&id) {
                item.answer = answer;
            }
        } else if let Some(answer) = answer {
            self.answered(now, id, answer);
        } else {
            self.make_ready(now, id);
        }
    }

    /// Shadow mode: what the inbox would have suppressed is counted and run all the same, under no claim.
    fn in_shadow(&self, answer: ClaimAnswer) -> Option<ClaimAnswer> {
        let kind = match answer {
            ClaimAnswer::Claimed(_) => return Some(answer),
            ClaimAnswer::FinishDeadLetter(..) | ClaimAnswer::Rejected => "shadow_rejected",
            ClaimAnswer::Completed(_) => "shadow_completed",
            ClaimAnswer::FingerprintMismatch => "shadow_fingerprint_mismatch",
            ClaimAnswer::Running { .. } => "shadow_running",
        };
        self.meter.duplicate(kind);
        self.shared.count(|totals| totals.shadowed += 1);
        None
    }

    /// Whether it is to be given back as soon as its claim is answered.
    pub(super) fn must_go_back(&self, id: Id) -> bool {
        self.drain.is_some() || self.items.get(&id).is_some_and(|item| item.orphaned)
    }

    /// What follows from the inbox's answer, for a delivery whose turn it is.
    pub(super) fn answered(&mut self, now: Instant, id: Id, answer: ClaimAnswer) {
        match answer {
            ClaimAnswer::Claimed(claim) => self.won(now, id, &claim),
            ClaimAnswer::FinishDeadLetter(_, rejection) => {
                let reason = rejection.reason.clone();
                self.give_up(now, id, rejection, &reason, false);
            }
            ClaimAnswer::Completed(result) => {
                if let (Some(hook), Some(item)) = (&self.config.on_duplicate, self.items.get(&id)) {
                    guard("on_duplicate", || hook(&item.key, &result));
                }
                self.meter.duplicate("completed");
                self.finish(now, id, Fate::Duplicate, [Step::Next, Step::Delete]);
            }
            ClaimAnswer::Rejected => {
                self.meter.duplicate("rejected");
                self.finish(now, id, Fate::Duplicate, [Step::Next, Step::Delete]);
            }
            ClaimAnswer::FingerprintMismatch => {
                self.give_up(now, id, mismatch(), &Reason::FingerprintMismatch, false);
            }
            ClaimAnswer::Running { lease_left } => {
                self.in_flight_duplicate(now, id, Holder::Elsewhere { lease_left });
            }
        }
    }

    fn won(&mut self, now: Instant, id: Id, claim: &Arc<Claim>) {
        if self.config.shadow {
            self.make_ready(now, id);
            return;
        }
        if self.done_here(now, id, claim.first_seen) {
            return;
        }
        if claim.suspect && claim.deaths > 0 {
            self.meter.death();
        }
        if claim.deaths >= MAX_DEATHS {
            let rejection = Rejection {
                reason: Reason::WorkerDied,
                error: format!("{} processes died while they ran it", claim.deaths),
                attempts: claim.attempts,
            };
            self.give_up(now, id, rejection, &Reason::WorkerDied, true);
            return;
        }
        if claim.attempts >= self.config.max_attempts {
            let rejection = Rejection {
                reason: Reason::AttemptsExhausted,
                error: claim.last_error.clone().unwrap_or_default(),
                attempts: claim.attempts,
            };
            self.give_up(now, id, rejection, &Reason::AttemptsExhausted, true);
            return;
        }
        self.make_ready(now, id);
    }

    /// Whether this worker's handler was done for its key before, only could not be recorded before the lease was lost: then it
    /// is recorded now, and never run again. Another payload under that key is no duplicate of it.
    fn done_here(&mut self, now: Instant, id: Id, first_seen: u64) -> bool {
        let Some(item) = self.items.get(&id) else { return false };
        let Some(done) = self.unrecorded.of_claim(now, &item.record_key, first_seen) else {
            return false;
        };
        let differs = matches!((done.payload.fingerprint, item.fingerprint), (Some(that), Some(this)) if that != this);
        if differs && done.payload.message_id != item.message_id() {
            let rejection = mismatch();
            if let Some(item) = self.items.get_mut(&id) {
                item.rejection = Some(rejection);
            }
            let steps = [
                Step::Write(Change::Release { failure: None }),
                Step::SendDeadLetter,
                Step::Next,
                Step::Delete,
            ];
            let fate = Fate::DeadLettered(Reason::FingerprintMismatch.to_string());
            match self.config.dead_letters {
                DeadLetters::Queue(_) => self.finish(now, id, fate, steps),
                DeadLetters::RedrivePolicy | DeadLetters::Without(_) => {
                    self.give_up(now, id, mismatch(), &Reason::FingerprintMismatch, false);
                }
            }
            return true;
        }
        let result = done.result.clone();
        self.complete(now, id, result);
        true
    }

    /// Its key runs elsewhere: not a failure, not an attempt.
    pub(super) fn in_flight_duplicate(&mut self, now: Instant, id: Id, holder: Holder) {
        let Some(item) = self.items.get(&id) else { return };
        let terms = Terms {
            lease: self.config.lease,
            beat: self.config.heartbeat.then(|| self.beat_period(true)),
        };
        let mut delay = in_flight::delay(holder, item.delivery.receive_count, self.config.in_flight_delay, terms);
        if self.outlives_retention(id, delay + delay / 10) {
            // No longer than that lease: its holder may be dead, and this the last of the message.
            let lease_left = match holder {
                Holder::Here => Duration::ZERO,
                Holder::Elsewhere { lease_left } => lease_left,
            };
            delay = delay.min(lease_left + Duration::from_secs(1));
        }
        let delay = delay + self.config.random.up_to(delay / 10);
        self.meter.duplicate("in_flight");
        self.go_back(now, id, Fate::InFlightDuplicate, None, delay);
    }

    /// It is done: the record first, then the delete.
    pub(super) fn complete(&mut self, now: Instant, id: Id, result: StoredResult) {
        let Some(item) = self.items.get(&id) else { return };
        if item.claim.is_some() {
            let mut steps = [Step::Write(Change::Complete { result }), Step::Next, Step::Delete];
            if flaw::is(Flaw::DeletesBeforeItCompletes) {
                steps.rotate_right(1);
            }
            self.finish(now, id, Fate::Completed, steps);
        } else {
            // Without a record the delete is what makes it durable.
            self.finish(now, id, Fate::Completed, [Step::Delete, Step::Next]);
        }
    }

    /// It is given up for `reason`: dead-lettered, or what is set instead. `record` says whether its record is still to be
    /// written.
    pub(super) fn give_up(&mut self, now: Instant, id: Id, rejection: Rejection, reason: &Reason, record: bool) {
        let Some(item) = self.items.get_mut(&id) else { return };
        tracing::warn!(
            worker = %self.config.name, key = %shown(item.key.as_str()), message_id = %shown(item.message_id()),
            reason = %shown(reason.as_str()), attempts = rejection.attempts, error = %said(&rejection.error), "given up"
        );
        item.rejection = Some(rejection.clone());
        let group_blocks = item.group.is_some() && self.config.after_reject == super::AfterReject::Block;
        let has_record = item.claim.is_some();
        let mut steps = Vec::with_capacity(6);
        // Moved back by SQS, what has no envelope is told from a producer's duplicate by nothing: its record must not say
        // `rejected`, or it would be deleted unrun.
        let by_policy = matches!(self.config.dead_letters, DeadLetters::RedrivePolicy) && !group_blocks;
        let bare = has_record && !group_blocks && self.goes_without_envelope(id);
        if by_policy || (bare && record) {
            let attempts = rejection.attempts.max(self.config.max_attempts);
            let error = match record {
                true if *reason != Reason::AttemptsExhausted => {
                    bounded(format!("{reason}: {}", rejection.error), MAX_ERROR_BYTES)
                }
                _ => rejection.error.clone(),
            };
            steps.push(Step::Write(Change::Release {
                failure: Some(Attempted { attempts, error }),
            }));
        }
        if by_policy {
            steps.extend([Step::Hide(Duration::ZERO), Step::ReleaseTail]);
            self.finish(now, id, Fate::GivenUp(reason.to_string()), steps);
            return;
        }
        if record && has_record && !bare && !flaw::is(Flaw::SendsLettersUnfenced) {
            steps.push(Step::Write(Change::Reject(rejection)));
        }
        let sent = (has_record && !bare).then_some(Step::Write(Change::DeadLetterSent));
        // Without an inbox nothing but the delete keeps it from coming again.
        let last = if self.inbox.is_some() {
            [Step::Next, Step::Delete]
        } else {
            [Step::Delete, Step::Next]
        };
        let fate = match &self.config.dead_letters {
            _ if group_blocks => {
                steps.extend([Step::Hide(LONGEST_WAIT), Step::ReleaseTail]);
                Fate::GivenUp(reason.to_string())
            }
            DeadLetters::Queue(_) => {
                steps.push(Step::SendDeadLetter);
                steps.extend(sent);
                steps.extend(last);
                Fate::DeadLettered(reason.to_string())
            }
            DeadLetters::Without(WithoutDeadLetters::Discard) => {
                steps.extend(sent);
                steps.extend(last);
                Fate::GivenUp(reason.to_string())
            }
            DeadLetters::RedrivePolicy | DeadLetters::Without(WithoutDeadLetters::Keep) => {
                steps.extend([Step::Hide(LONGEST_WAIT), Step::ReleaseTail]);
                Fate::GivenUp(reason.to_string())
            }
        };
        self.finish(now, id, fate, steps);
    }

    /// Gives it back unrun, counting nothing: the claim first, then visible at once.
    pub(super) fn release(&mut self, now: Instant, id: Id) {
        let counted = flaw::is(Flaw::CountsReleases).then(|| Attempted {
            attempts: self.items.get(&id).map_or(0, |item| item.attempts_before()) + 1,
            error: String::new(),
        });
        self.go_back(now, id, Fate::Released, counted, Duration::ZERO);
    }
}

/// An answer, or the kind of an error, as a trace says it.
fn in_short(answer: &Result<ClaimAnswer, InboxError>) -> Result<&'static str, &'static str> {
    match answer {
        Ok(ClaimAnswer::Claimed(_)) => Ok("claimed"),
        Ok(ClaimAnswer::FinishDeadLetter(..)) => Ok("finish_dead_letter"),
        Ok(ClaimAnswer::Completed(_)) => Ok("completed"),
        Ok(ClaimAnswer::Rejected) => Ok("rejected"),
        Ok(ClaimAnswer::FingerprintMismatch) => Ok("fingerprint_mismatch"),
        Ok(ClaimAnswer::Running { .. }) => Ok("running"),
        Err(InboxError::Corrupt { .. }) => Err("inbox_corrupt"),
        Err(InboxError::Throttled { .. }) => Err("inbox_throttled"),
        Err(_) => Err("inbox_unavailable"),
    }
}

fn mismatch() -> Rejection {
    Rejection {
        reason: Reason::FingerprintMismatch,
        error: "its key was already used with another payload".to_owned(),
        attempts: 0,
    }
}
