//! Carrying out what is left to do for a delivery: record, dead letter, delete, delay, each in batches, each entry on its own.

use std::sync::Arc;
use std::time::Duration;

use super::heartbeat::no_answer;
use super::{CALL_LIMIT, Engine, Event, Fate, Id, Instant, Payload, Phase, Step, unanswered, unanswered_inbox};
use crate::dlq::envelope::{Envelope, dead_letter};
use crate::flaw::{self, Flaw};
use crate::inbox::{Answers, Change, InboxError, Write, Written};
use crate::message::{Outgoing, Receipt};
use crate::outcome::StoredResult;
use crate::queue::{EntryError, EntryResults, MAX_VISIBILITY, QueueError};
use crate::telemetry::{said, shown};

/// How often a dead letter is tried to be sent before the message is delayed instead.
const SEND_TRIES: u32 = 5;

/// How often a delete or a visibility change is tried.
const SETTLE_TRIES: u32 = 6;

impl Engine {
    /// Begins the next step of its plan, once no heartbeat for it is under way.
    pub(super) fn advance(&mut self, now: Instant, id: Id) {
        loop {
            let Some(item) = self.items.get_mut(&id) else { return };
            if item.phase != Phase::Ending || item.stepping {
                return;
            }
            if item.beating {
                item.parked = true;
                return;
            }
            let Some(step) = item.plan.front().cloned() else {
                self.forget(now, id);
                return;
            };
            match step {
                Step::Write(change) => {
                    let Some(claim) = item.claim.clone() else {
                        item.plan.pop_front();
                        continue;
                    };
                    item.stepping = true;
                    self.writes.push(now, (id, Write::new(claim, change)));
                }
                Step::SendDeadLetter => {
                    if !self.holds(id) {
                        self.lose(now, id, "lease");
                        return;
                    }
                    let Some(letter) = self.letter(id) else {
                        // Nothing says what or where to send: it must not go on to be deleted.
                        self.delay_dead_letter(now, id, 1);
                        return;
                    };
                    self.sends.push(now, (id, letter));
                }
                Step::Delete => {
                    item.stepping = true;
                    let receipt = item.receipt.clone();
                    self.end_beats(now, id);
                    self.deletes.push(now, (id, receipt));
                }
                // Its receipt is no longer good: it is visible, or in somebody else's hands.
                Step::Hide(_) if item.visibility_lost => {
                    item.plan.pop_front();
                    continue;
                }
                Step::Hide(delay) => {
                    item.stepping = true;
                    let receipt = item.receipt.clone();
                    // SQS refuses what would pass 12 hours in all from the receive.
                    let last = item.received_at + MAX_VISIBILITY;
                    let room = last
                        .saturating_duration_since(now)
                        .saturating_sub(Duration::from_secs(1));
                    self.end_beats(now, id);
                    self.hides.push(now, (id, receipt, delay.min(room)));
                }
                Step::Next => {
                    item.plan.pop_front();
                    self.note(id);
                    self.go_on(now, id);
                    continue;
                }
                Step::ReleaseTail => {
                    item.plan.pop_front();
                    self.note(id);
                    self.release_tail(now, id);
                    continue;
                }
                Step::Run => {
                    item.plan.pop_front();
                    self.enter(id, Phase::Waiting);
                    // No heartbeat is due while a step is under way for longer than the lease.
                    self.schedule_beat(now, id);
                    if self.drain.is_some() {
                        self.release(now, id);
                    } else {
                        self.ready.push_front(id);
                    }
                }
            }
            return;
        }
    }

    /// It is about to be settled: no heartbeat for it from here on.
    fn end_beats(&mut self, now: Instant, id: Id) {
        if flaw::is(Flaw::BeatsAfterSettling) {
            self.beats.set(id, now);
        } else {
            self.beats.clear(id);
        }
    }

    /// The dead letter of a delivery that was given up; marks its step as begun.
    fn letter(&mut self, id: Id) -> Option<Outgoing> {
        let envelope = self.envelope(id)?;
        let target = self.dead_letter_queue.as_ref()?;
        let item = self.items.get_mut(&id)?;
        item.stepping = true;
        let attributes = target.attributes();
        Some(dead_letter(
            &item.delivery.message,
            &envelope,
            attributes.fifo,
            attributes.max_message_bytes,
        ))
    }

    /// Whether its dead letter is so large that there is no room for the envelope.
    pub(super) fn goes_without_envelope(&self, id: Id) -> bool {
        let (Some(target), Some(item)) = (&self.dead_letter_queue, self.items.get(&id)) else {
            return false;
        };
        let max = target.attributes().max_message_bytes;
        let letter = self.envelope(id);
        letter.is_some_and(|envelope| envelope.attached_to(&item.delivery.message, max).is_none())
    }

    /// What its dead letter says of it.
    fn envelope(&self, id: Id) -> Option<Envelope> {
        let item = self.items.get(&id)?;
        let rejection = item.rejection.as_ref()?;
        let message = &item.delivery.message;
        let envelope = Envelope {
            key: item.key.as_str().to_owned(),
            reason: rejection.reason.to_string(),
            error: rejection.error.clone(),
            attempts: rejection.attempts,
            message_id: message.id.clone(),
            source: self.queue.attributes().arn.clone(),
            trace: message.trace_context().map(str::to_owned),
            dead_at_ms: self.service_now(),
            ..Envelope::default()
        };
        Some(match &item.envelope {
            Some(earlier) => envelope.after(earlier),
            None => envelope,
        })
    }

    /// Its outcome is durable: the next of its group may run, and the inbox can say what became of the key.
    fn go_on(&mut self, now: Instant, id: Id) {
        let Some(item) = self.items.get_mut(&id) else { return };
        if self.by_key.get(&item.record_key) == Some(&id) {
            self.by_key.remove(&item.record_key);
        }
        if let Some(group) = item.group.take()
            && let Some(head) = self.groups.remove(&group, id)
        {
            self.head_of_group(now, head);
        }
    }

    /// The rest of its group that is held goes back to the queue, unrun.
    pub(super) fn release_tail(&mut self, now: Instant, id: Id) {
        let Some(group) = self.items.get(&id).and_then(|item| item.group.clone()) else {
            return;
        };
        for later in self.groups.take_behind(&group, id) {
            let Some(item) = self.items.get_mut(&later) else {
                continue;
            };
            match item.phase {
                // Answered later; not the head of anything then, it is released by `orphaned`.
                Phase::Claiming => item.orphaned = true,
                Phase::Unclaimed | Phase::Waiting => self.release(now, later),
                // It goes back already, with all the others of a drain.
                Phase::Running | Phase::Ending => {}
            }
        }
    }

    /// Begins the batches that are due.
    pub(super) fn flush(&mut self, now: Instant) {
        let draining = self.drain.is_some();
        // In a FIFO queue the next of a group waits for the one before: no linger on that way.
        let hurry_writes = draining || self.fifo;
        while let Some(batch) = self.writes.take(now, hurry_writes) {
            self.send_writes(batch);
        }
        // With an inbox the next of a group that is held goes on before the delete; but the queue gives no more of the group
        // until then, and with nothing else to do that is what is waited for.
        let idle = self.running + self.waiting == 0 && self.writes.is_idle();
        let hurry_deletes = draining || (self.fifo && (self.inbox.is_none() || idle));
        while let Some(entries) = self.deletes.take(now, hurry_deletes) {
            self.meter.delete_call(entries.len());
            let queue = Arc::clone(&self.queue);
            let name = Arc::clone(&self.queue_name);
            let receipts = entries.iter().map(|(_, receipt)| receipt.clone()).collect();
            self.call(
                CALL_LIMIT,
                async move { queue.delete(receipts).await },
                move |why| Err(unanswered(&name, "DeleteMessage", why)),
                move |result| Event::Deleted { entries, result },
            );
        }
        while let Some(entries) = self.hides.take(now, draining || self.fifo) {
            self.meter.visibility_call(entries.len());
            let queue = Arc::clone(&self.queue);
            let name = Arc::clone(&self.queue_name);
            let changes = entries
                .iter()
                .map(|(_, receipt, delay)| (receipt.clone(), *delay))
                .collect();
            self.call(
                CALL_LIMIT,
                async move { queue.change_visibility(changes).await },
                move |why| Err(unanswered(&name, "ChangeMessageVisibility", why)),
                move |result| Event::Hidden { entries, result },
            );
        }
        while let Some(batch) = self.sends.take(now, draining || self.fifo) {
            let batch = self.letters_still_held(now, batch);
            if batch.is_empty() {
                self.sends.returned();
            } else {
                self.send_letters(batch);
            }
        }
    }

    fn send_writes(&mut self, batch: Vec<(Id, Write)>) {
        let Some(inbox) = self.inbox.clone() else { return };
        self.meter.write_call();
        let (ids, writes): (Vec<Id>, Vec<Write>) = batch.into_iter().unzip();
        let count = writes.len();
        self.call(
            self.short_limit(),
            async move { inbox.write(writes).await },
            move |why| unanswered_inbox(count, "write", why),
            move |answers| Event::Wrote { ids, answers },
        );
    }

    /// Without those whose lease was lost while they waited to be sent: whoever has them now sends them.
    fn letters_still_held(&mut self, now: Instant, mut batch: Vec<(Id, Outgoing)>) -> Vec<(Id, Outgoing)> {
        batch.retain(|&(id, _)| {
            let waits = self.items.get(&id).is_some_and(|item| item.is_sending());
            if waits && !self.holds(id) {
                self.lose(now, id, "lease");
                return false;
            }
            waits
        });
        batch
    }

    fn send_letters(&mut self, batch: Vec<(Id, Outgoing)>) {
        let Some(queue) = self.dead_letter_queue.clone() else {
            return;
        };
        let name = queue.attributes().name.clone();
        self.meter.send_call(&name, batch.len());
        let (ids, letters): (Vec<Id>, Vec<Outgoing>) = batch.into_iter().unzip();
        self.call(
            CALL_LIMIT,
            async move { send_each(&*queue, letters).await },
            move |why| Err(unanswered(&name, "SendMessage", why)),
            move |result| Event::Sent { ids, result },
        );
    }

    pub(super) fn wrote(&mut self, now: Instant, ids: &[Id], answers: Answers<Written>) {
        self.writes.returned();
        let mut answers = answers.into_iter();
        for &id in ids {
            let answer = answers.next().unwrap_or(Err(InboxError::NoAnswer));
            let Some(item) = self.items.get_mut(&id) else {
                self.late_wrote(now, id, &answer);
                continue;
            };
            item.stepping = false;
            match answer {
                // A shadow's record changes nothing about its message.
                Err(_) if self.config.shadow => {
                    self.leases -= usize::from(item.claim.take().is_some());
                    self.step_over(id);
                    self.advance(now, id);
                }
                Ok(_) => {
                    if let Some(Step::Write(Change::Complete { .. })) = item.plan.front() {
                        let key = item.record_key.clone();
                        self.unrecorded.remove(&key);
                    }
                    let freed = matches!(item.plan.front(), Some(Step::Write(Change::Release { .. })));
                    self.step_done(now, id);
                    if freed {
                        self.goes_on_unclaimed(id);
                    }
                    self.advance(now, id);
                }
                Err(error) if error.is_lease_lost() => {
                    self.remember_unrecorded(id);
                    self.lose(now, id, "lease");
                }
                Err(error) => {
                    tracing::warn!(worker = %self.config.name, error = %said(&error), "an inbox write failed");
                    if self.holds(id) {
                        self.again_later(now, id);
                    } else {
                        self.remember_unrecorded(id);
                        self.lose_by_time(now, id, "lease");
                    }
                }
            }
        }
    }

    /// Its claim is free, and its dead letter still to be sent: there is no lease to be renewed, and none to be lost.
    fn goes_on_unclaimed(&mut self, id: Id) {
        if let Some(item) = self.items.get_mut(&id).filter(|item| item.is_sending()) {
            let freed = item.claim.take();
            self.leases -= usize::from(freed.is_some());
            item.freed_attempts = freed.map(|claim| claim.attempts);
        }
    }

    pub(super) fn deleted(
        &mut self,
        now: Instant,
        entries: Vec<(Id, Receipt)>,
        result: Result<EntryResults<()>, QueueError>,
    ) {
        self.deletes.returned();
        let mut answers = by_entry(entries.len(), result).into_iter();
        for (id, receipt) in entries {
            let answer = answers.next().unwrap_or_else(|| Err(no_answer()));
            let Some(item) = self.items.get_mut(&id) else { continue };
            item.stepping = false;
            let recorded = item.claim.is_some() || item.freed_attempts.is_some();
            let renewed = item.receipt != receipt;
            match answer {
                _ if renewed => {}
                Ok(()) => self.step_done(now, id),
                Err(error) if error.is_stale_receipt() => {
                    self.shared.count(|totals| totals.late_deletes += 1);
                    self.meter.late_delete();
                    self.undeleted(id);
                }
                // Without a record it is tried for as long as nobody else can have it.
                Err(error) if item.tries >= SETTLE_TRIES && (recorded || item.visible_at <= now) => {
                    tracing::warn!(
                        worker = %self.config.name, message_id = %shown(item.message_id()), error = %said(&error),
                        "a delete was given up: the message will come again and be recognised by its key"
                    );
                    self.undeleted(id);
                }
                Err(_) => {
                    self.again_later(now, id);
                    continue;
                }
            }
            self.advance(now, id);
        }
    }

    /// It could not be deleted and will come again: where its group waits for the delete, it must not go on.
    fn undeleted(&mut self, id: Id) {
        self.step_over(id);
        if let Some(item) = self.items.get_mut(&id) {
            for step in &mut item.plan {
                if *step == Step::Next {
                    *step = Step::ReleaseTail;
                }
            }
        }
    }

    pub(super) fn hidden(
        &mut self,
        now: Instant,
        entries: Vec<(Id, Receipt, Duration)>,
        result: Result<EntryResults<()>, QueueError>,
    ) {
        self.hides.returned();
        let mut answers = by_entry(entries.len(), result).into_iter();
        for (id, receipt, _) in entries {
            let answer = answers.next().unwrap_or_else(|| Err(no_answer()));
            let Some(item) = self.items.get_mut(&id) else { continue };
            item.stepping = false;
            let given_up = item.tries >= SETTLE_TRIES;
            match answer {
                _ if item.receipt != receipt => {}
                Err(error) if !error.is_stale_receipt() && !error.sender_fault && !given_up => {
                    self.again_later(now, id);
                    continue;
                }
                Ok(()) => self.step_done(now, id),
                // An old receipt: it is visible, or in somebody else's hands.
                Err(_) => self.step_over(id),
            }
            self.advance(now, id);
        }
    }

    pub(super) fn sent(&mut self, now: Instant, ids: &[Id], result: Result<EntryResults<String>, QueueError>) {
        self.sends.returned();
        let mut answers = by_entry(ids.len(), result).into_iter();
        for &id in ids {
            let answer = answers.next().unwrap_or_else(|| Err(no_answer()));
            let Some(item) = self.items.get_mut(&id) else { continue };
            item.stepping = false;
            match answer {
                Ok(_) => {
                    self.step_done(now, id);
                    self.advance(now, id);
                }
                Err(error) => {
                    tracing::error!(
                        worker = %self.config.name, message_id = %shown(item.message_id()), error = %said(&error), "a dead letter could not be sent"
                    );
                    let tries = item.tries;
                    let may_hold = self.holds(id) && self.drain.is_none();
                    // Put aside beyond the queue's retention it would be gone: then it is tried for as long as it is held.
                    if may_hold && (tries < SEND_TRIES || self.vanishes_aside(id)) {
                        self.again_later(now, id);
                    } else {
                        self.delay_dead_letter(now, id, tries);
                    }
                }
            }
        }
    }

    /// The dead-letter queue cannot be reached: it is delayed beyond the lease, so that whoever gets it next goes on with the
    /// dead letter, and is never run again.
    fn delay_dead_letter(&mut self, now: Instant, id: Id, tries: u32) {
        let delay = self.aside_for(id) + self.config.backoff.delay(tries, &self.config.random);
        self.finish(now, id, Fate::Delayed, [Step::Hide(delay), Step::ReleaseTail]);
    }

    /// How long a dead letter that cannot be sent is put aside at least: until its claim can be taken over.
    fn aside_for(&self, id: Id) -> Duration {
        match self.items.get(&id) {
            Some(item) if item.claim.is_some() => self.config.lease + Duration::from_secs(1),
            _ => Duration::ZERO,
        }
    }

    fn vanishes_aside(&self, id: Id) -> bool {
        self.config.heartbeat && self.outlives_retention(id, self.aside_for(id) + self.config.backoff.cap())
    }

    fn step_done(&mut self, now: Instant, id: Id) {
        if let Some(item) = self.items.get_mut(&id)
            && let Some(step) = item.next_step()
        {
            item.trace.settled(now, step.done());
        }
    }

    /// The step need not be tried any more.
    fn step_over(&mut self, id: Id) {
        if let Some(item) = self.items.get_mut(&id) {
            item.next_step();
        }
    }

    /// The step failed; it is tried again after a backoff, with heartbeats in between.
    fn again_later(&mut self, now: Instant, id: Id) {
        let Some(item) = self.items.get_mut(&id) else { return };
        item.tries = item.tries.saturating_add(1);
        let delay = self
            .call_backoff
            .delay(item.tries, &self.config.random)
            .max(Duration::from_millis(50));
        self.retries.set(id, now + delay);
    }

    pub(super) fn retry_steps(&mut self, now: Instant) {
        for id in self.retries.take_due(now) {
            if !self.retry_late(now, id) {
                self.advance(now, id);
            }
        }
    }

    /// Its handler is done, but that could not be recorded while the lease held: this worker must not run it again.
    pub(super) fn remember_unrecorded(&mut self, id: Id) {
        let Some(item) = self.items.get(&id) else { return };
        if let Some(Step::Write(Change::Complete { result })) = item.plan.front() {
            self.remember(item.payload(), result.clone());
        }
    }

    pub(super) fn remember(&mut self, payload: Payload, result: StoredResult) {
        // What the inbox would not keep is not kept here either.
        let bound = self.inbox.as_ref().map_or(0, |inbox| inbox.max_result());
        let result = match result {
            StoredResult::Json(json) if json.len() > bound => StoredResult::Omitted,
            other => other,
        };
        self.unrecorded.add(self.config.clock.now(), payload, result);
    }
}

/// Sends a batch; one that is refused as a whole is sent one by one, so that one bad entry fails alone.
async fn send_each(
    queue: &dyn crate::queue::Queue,
    letters: Vec<Outgoing>,
) -> Result<EntryResults<String>, QueueError> {
    let one_by_one = (letters.len() > 1).then(|| letters.clone());
    match (queue.send(letters).await, one_by_one) {
        (Err(QueueError::Refused { .. }), Some(letters)) => {
            let mut answers = Vec::with_capacity(letters.len());
            for letter in letters {
                answers.push(match queue.send(vec![letter]).await {
                    Ok(mut answer) => answer.pop().unwrap_or_else(|| Err(no_answer())),
                    Err(error) => Err(EntryError::new("Batch", error.to_string(), !error.is_transient())),
                });
            }
            Ok(answers)
        }
        (result, _) => result,
    }
}

/// Answers by entry, also where the batch failed as a whole.
fn by_entry<T>(entries: usize, result: Result<EntryResults<T>, QueueError>) -> EntryResults<T> {
    match result {
        Ok(answers) => answers,
        Err(error) => (0..entries)
            .map(|_| Err(EntryError::new("Batch", error.to_string(), false)))
            .collect(),
    }
}
