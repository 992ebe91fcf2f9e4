//! What the judge makes of calls: when they are sent, when they reach the service, and when they are answered.

use std::sync::Arc;
use std::time::Duration;

use redrive::dlq::Envelope;
use redrive::inbox::{Answers, Change, ClaimAnswer, ClaimRequest, InboxError, Record, Status, Write, Written};
use redrive::key::RecordKey;
use redrive::message::{Delivery, Message, Outgoing, Receipt};
use redrive::queue::{EntryResults, QueueError};

use crate::checker::{Checker, ClaimState, Held, Told, Who, change_name, label};

/// What a reply says, in short.
pub(crate) fn in_short<T>(result: &Result<EntryResults<T>, QueueError>) -> String {
    match result {
        Ok(entries) => {
            let failed: Vec<&str> = entries
                .iter()
                .filter_map(|entry| entry.as_ref().err().map(|error| error.code.as_str()))
                .collect();
            if failed.is_empty() {
                "ok".to_owned()
            } else {
                format!("failed entries {failed:?}")
            }
        }
        Err(error) => whole(error).to_owned(),
    }
}

fn whole(error: &QueueError) -> &'static str {
    match error {
        QueueError::Throttled { .. } => "throttled",
        QueueError::Unavailable { .. } => "unavailable",
        _ => "refused",
    }
}

fn inbox_error(error: &InboxError) -> &'static str {
    match error {
        InboxError::LeaseLost { .. } => "LEASE LOST",
        InboxError::Throttled { .. } => "throttled",
        InboxError::Unavailable { .. } => "unavailable",
        _ => "refused",
    }
}

/// Calls to the queues.
impl Checker {
    pub(crate) fn received(&mut self, who: &Who, answer: &Result<Vec<Delivery>, QueueError>) {
        let now = self.now();
        let deliveries = match answer {
            Ok(deliveries) if deliveries.is_empty() => return,
            Ok(deliveries) => deliveries,
            Err(error) => return self.note(who, format!("receive: {}", whole(error))),
        };
        let mut names = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let message = self.by_id[&delivery.message.id];
            let number = delivery.receive_count;
            names.push(format!("{}#{number}", label(message)));
            let held = Held {
                message,
                number,
                at: now,
                settled: None,
            };
            self.receipts.insert((Arc::clone(who), delivery.receipt.clone()), held);
        }
        self.note(who, format!("receive: {}", names.join(" ")));
        self.look_for_lost_messages();
    }

    fn name_of(&self, who: &Who, receipt: &Receipt) -> String {
        self.receipts.get(&(Arc::clone(who), receipt.clone())).map_or_else(
            || "?".to_owned(),
            |held| format!("{}#{}", label(held.message), held.number),
        )
    }

    pub(crate) fn delete_sent(&mut self, who: &Who, receipts: &[Receipt]) {
        let names: Vec<String> = receipts.iter().map(|receipt| self.name_of(who, receipt)).collect();
        self.note(who, format!("delete {} ...", names.join(" ")));
        for receipt in receipts {
            let Some(held) = self.held(who, receipt) else { continue };
            if !self.is_durable(held.message) {
                self.broken(
                    "inv01",
                    format!("{who} deletes {} whose outcome is not durable", label(held.message)),
                );
            }
            if let Some((_, claim)) = self.claim_for(who, &held)
                && claim.ended.is_none()
                && self.dead_letter_reasons(held.message).is_empty()
            {
                self.broken(
                    "inv03",
                    format!(
                        "{who} deletes {} although nothing ended under its {}",
                        label(held.message),
                        claim.label
                    ),
                );
            }
            self.mark_settled(who, receipt, "delete");
        }
    }

    pub(crate) fn visibility_sent(&mut self, who: &Who, changes: &[(Receipt, Duration)]) {
        let names: Vec<String> = changes
            .iter()
            .map(|(receipt, by)| format!("{} by {:.3}", self.name_of(who, receipt), by.as_secs_f64()))
            .collect();
        self.note(who, format!("hide {} ...", names.join(" ")));
        for (receipt, by) in changes {
            let Some(held) = self.held(who, receipt) else { continue };
            if *by == self.visibility {
                self.check_extension(who, &held, *by);
                continue;
            }
            let now_ms = self.now_ms();
            if let Some((id, claim)) = self.claim_for(who, &held)
                && claim.ended.is_none()
                && !claim.given_up
                && now_ms < claim.lease_until
                && self.record_of(held.message).is_some_and(|record| record.claim_id == id)
                && !self.is_nearly_twelve_hours_old(who, &held)
            {
                self.broken(
                    "inv08",
                    format!(
                        "{who} gives {} back before {} is free",
                        label(held.message),
                        claim.label
                    ),
                );
            }
            if !self.is_nearly_twelve_hours_old(who, &held) {
                self.mark_settled(who, receipt, if by.is_zero() { "release" } else { "delay" });
            }
        }
    }

    /// The last heartbeats before SQS's limit are shorter than the others.
    fn is_nearly_twelve_hours_old(&self, who: &Who, held: &Held) -> bool {
        let limit = Duration::from_secs(12 * 3600 - 300);
        self.receipts.iter().any(|((holder, _), first)| {
            holder == who && first.message == held.message && self.now().saturating_duration_since(first.at) > limit
        })
    }

    pub(crate) fn letters_sent(&mut self, who: &Who, letters: &[Outgoing]) {
        for letter in letters {
            let mut message = Message::new("", letter.body.clone());
            message.attributes = letter.attributes.clone();
            let Some(envelope) = Envelope::of(&message) else {
                continue;
            };
            let Some(&message) = self.by_id.get(&envelope.message_id) else {
                continue;
            };
            self.note(who, format!("send dead letter of {} ...", label(message)));
            // What collides with another's payload has no claim and no record of its own.
            if self.is_excused(who) || envelope.reason == "fingerprint_mismatch" {
                continue;
            }
            let mine = self.record_of(message).is_some_and(|record| {
                record.status == Status::Rejected
                    && self.claims.get(&record.claim_id).is_some_and(|claim| claim.who == *who)
            });
            if !mine && !self.is_durable(message) {
                self.broken(
                    "inv03",
                    format!(
                        "{who} dead-letters {} without a rejection under a claim of its own",
                        label(message)
                    ),
                );
            }
        }
    }
}

/// Calls to the inbox.
impl Checker {
    pub(crate) fn records(&self, keys: impl IntoIterator<Item = RecordKey>) -> Vec<(RecordKey, Option<Record>)> {
        let mut keys: Vec<RecordKey> = keys.into_iter().collect();
        keys.sort();
        keys.dedup();
        keys.into_iter()
            .map(|key| {
                let record = self.inbox.record(&key);
                (key, record)
            })
            .collect()
    }

    pub(crate) fn claim_sent(&mut self, who: &Who, requests: &[ClaimRequest]) {
        let mut names = Vec::with_capacity(requests.len());
        for request in requests {
            let message = self.by_id[&request.message_id];
            let name = format!("{who}/c{}", request.claim_id.rsplit('-').next().unwrap_or("?"));
            names.push(format!("{} as {name}", label(message)));
            let state = ClaimState {
                who: Arc::clone(who),
                label: name,
                message,
                lease_until: 0,
                ended: None,
                known_ended: false,
                told: false,
                given_up: false,
            };
            if self.claims.insert(request.claim_id.clone(), state).is_some() {
                self.broken("inv02", format!("{who} uses claim id {} twice", request.claim_id));
            }
        }
        self.note(who, format!("claim {} ...", names.join(", ")));
    }

    /// The claims had their effect, or not.
    pub(crate) fn claim_landed(
        &mut self,
        who: &Who,
        before: Vec<(RecordKey, Option<Record>)>,
        requests: &[ClaimRequest],
        answers: &Answers<ClaimAnswer>,
    ) {
        let now_ms = self.now_ms();
        for (key, before) in before {
            let after = self.inbox.record(&key);
            let claim_of = |record: &Option<Record>| record.as_ref().map(|record| record.claim_id.clone());
            if claim_of(&before) == claim_of(&after) {
                continue;
            }
            let Some(after) = after else { continue };
            if !requests.iter().any(|request| request.claim_id == after.claim_id) {
                self.broken(
                    "inv02",
                    format!("a claim of {} was made that nobody asked for", key.as_str()),
                );
            }
            if let Some(state) = self.claims.get_mut(&after.claim_id) {
                state.lease_until = after.lease_until;
                if after.status != Status::Processing {
                    state.ended = Some(after.status);
                }
            }
            let Some(before) = before else { continue };
            let held = now_ms < before.lease_until
                && (before.status == Status::Processing
                    || (before.status == Status::Rejected && !before.dead_letter_sent));
            let done = before.status == Status::Completed && before.expires_at > now_ms / 1000;
            if held || done {
                self.broken(
                    "inv02",
                    format!(
                        "{who} was given {} while {} holds it",
                        key.as_str(),
                        self.claim_label(&before.claim_id)
                    ),
                );
            }
            if after.fencing_token <= before.fencing_token {
                self.broken("inv03", format!("the fencing token of {} does not grow", key.as_str()));
            }
            if after.attempts > before.attempts {
                self.broken("inv09", format!("a claim of {} counts an attempt", key.as_str()));
            }
        }
        for (request, answer) in requests.iter().zip(answers) {
            if let Ok(ClaimAnswer::Claimed(_) | ClaimAnswer::FinishDeadLetter(..)) = answer
                && self
                    .inbox
                    .record(&request.key)
                    .is_none_or(|record| record.claim_id != request.claim_id)
            {
                self.broken(
                    "inv02",
                    format!("{who} is told that it has {} and has not", request.key.as_str()),
                );
            }
        }
    }

    pub(crate) fn claim_told(&mut self, who: &Who, requests: &[ClaimRequest], answers: &Answers<ClaimAnswer>) {
        let at = self.now();
        let mut names = Vec::with_capacity(requests.len());
        for (request, answer) in requests.iter().zip(answers) {
            let message = self.by_id[&request.message_id];
            let (claim, name) = match answer {
                Ok(ClaimAnswer::Claimed(claim)) => (Some(claim), format!("claimed, {} attempts", claim.attempts)),
                Ok(ClaimAnswer::FinishDeadLetter(claim, _)) => (Some(claim), "finish dead letter".to_owned()),
                Ok(ClaimAnswer::Completed(_)) => (None, "completed".to_owned()),
                Ok(ClaimAnswer::Rejected) => (None, "rejected".to_owned()),
                Ok(ClaimAnswer::FingerprintMismatch) => (None, "other payload".to_owned()),
                Ok(ClaimAnswer::Running { lease_left }) => (None, format!("running for {lease_left:?}")),
                Err(error) => (None, inbox_error(error).to_owned()),
            };
            names.push(format!("{} {name}", label(message)));
            if let Some(claim) = claim {
                if claim.attempts > self.max_attempts {
                    self.broken("inv09", format!("{} attempts of {}", claim.attempts, label(message)));
                }
                if let Some(state) = self.claims.get_mut(&claim.claim_id) {
                    state.told = true;
                }
            }
            let claim = claim.map(|claim| claim.claim_id.clone());
            self.told.insert((Arc::clone(who), message), Told { at, claim });
        }
        self.note(who, format!("claim answered: {}", names.join(", ")));
    }

    pub(crate) fn write_sent(&mut self, who: &Who, writes: &[Write]) {
        let names: Vec<String> = writes.iter().map(|write| self.write_name(write)).collect();
        self.note(who, format!("write {} ...", names.join(", ")));
        for write in writes {
            let Some(claim) = self.claims.get(&write.claim.claim_id).cloned() else {
                continue;
            };
            if !matches!(write.change, Change::Renew { .. }) {
                continue;
            }
            if claim.known_ended {
                self.broken(
                    "inv06",
                    format!("{who} renews {}, which it knows has ended", claim.label),
                );
            }
            let told_at = self
                .told
                .get(&(Arc::clone(who), claim.message))
                .filter(|told| told.claim.as_ref() == Some(&write.claim.claim_id))
                .map(|told| told.at);
            let settled = self.receipts.iter().any(|((holder, _), held)| {
                holder == who
                    && held.message == claim.message
                    && held.settled.zip(told_at).is_some_and(|((at, _), told)| at >= told)
            });
            if settled {
                self.broken(
                    "inv06",
                    format!(
                        "{who} renews {} after it sent the settle of {}",
                        claim.label,
                        label(claim.message)
                    ),
                );
            }
        }
    }

    fn write_name(&self, write: &Write) -> String {
        let claim = self.claims.get(&write.claim.claim_id);
        let message = claim.map_or_else(|| "?".to_owned(), |claim| label(claim.message));
        let claim = self.claim_label(&write.claim.claim_id);
        format!("{} {message} under {claim}", change_name(&write.change))
    }

    pub(crate) fn write_landed(
        &mut self,
        who: &Who,
        before: Vec<(RecordKey, Option<Record>)>,
        writes: &[Write],
        answers: &Answers<Written>,
    ) {
        for (write, answer) in writes.iter().zip(answers) {
            let known = before.iter().find(|(key, _)| *key == write.claim.key);
            let current = known.and_then(|(_, record)| record.as_ref()).is_some_and(|record| {
                record.claim_id == write.claim.claim_id && record.fencing_token == write.claim.fencing_token
            });
            if answer.is_ok() && !current {
                self.broken(
                    "inv03",
                    format!("{} succeeded although another has the key now", self.write_name(write)),
                );
            }
        }
        for (key, before) in before {
            let after = self.inbox.record(&key);
            if before != after {
                self.changed(who, &key, before.as_ref(), after.as_ref(), writes);
            }
        }
    }

    fn changed(
        &mut self,
        who: &Who,
        key: &RecordKey,
        before: Option<&Record>,
        after: Option<&Record>,
        writes: &[Write],
    ) {
        let (Some(before), Some(after)) = (before, after) else {
            return self.broken("inv03", format!("a write of {who} made or removed {}", key.as_str()));
        };
        let mine = writes
            .iter()
            .any(|write| write.claim.claim_id == before.claim_id && write.claim.fencing_token == before.fencing_token);
        if !mine || after.claim_id != before.claim_id || after.fencing_token != before.fencing_token {
            return self.broken(
                "inv03",
                format!("a write of {who} changed {}, which it does not hold", key.as_str()),
            );
        }
        let changes = || {
            writes
                .iter()
                .filter(|write| write.claim.claim_id == before.claim_id)
                .map(|write| &write.change)
        };
        let counts = changes().any(|change| matches!(change, Change::Release { failure: Some(_) } | Change::Reject(_)));
        if after.attempts > before.attempts + u32::from(counts) || after.attempts > self.max_attempts {
            self.broken(
                "inv09",
                format!(
                    "attempts of {} go from {} to {}",
                    key.as_str(),
                    before.attempts,
                    after.attempts
                ),
            );
        }
        if before.status != after.status && before.status != Status::Processing {
            self.broken(
                "inv03",
                format!("{} goes from {:?} to {:?}", key.as_str(), before.status, after.status),
            );
        }
        // What an earlier version rejected was a message of which nothing is left.
        let claimed = self.claims.get(&after.claim_id).map(|claim| claim.message);
        let Some(message) = self.by_id.get(&after.message_id).copied().or(claimed) else {
            return self.broken("inv03", format!("{} names no message that was sent", key.as_str()));
        };
        if let Some(claim) = self.claims.get_mut(&after.claim_id) {
            claim.lease_until = after.lease_until;
            if after.status != Status::Processing {
                claim.ended = Some(after.status);
            }
        }
        let payload = self.messages[message].payload;
        if after.status == Status::Completed && before.status != Status::Completed {
            self.note(who, format!("  {} is completed", label(message)));
            *self.completions.entry(key.clone()).or_default() += 1;
            self.done.insert((key.clone(), payload));
            self.completed.insert(message);
            if self.completions[key] > 1 {
                self.broken("inv03", format!("{} is completed for the second time", key.as_str()));
            }
            if !self.dead_letter_reasons(message).is_empty() && self.has_its_key_to_itself(message) {
                self.broken(
                    "inv03",
                    format!("{} is dead-lettered and completed after that", label(message)),
                );
            }
        }
        if after.status == Status::Rejected && after.dead_letter_sent && !before.dead_letter_sent {
            // A producer's duplicate may have sent it instead: same key, same payload.
            let like_it = |other: &usize| {
                let (this, that) = (&self.messages[message], &self.messages[*other]);
                this.key == that.key && this.payload == that.payload
            };
            let mut letters = (0..self.messages.len()).filter(like_it);
            if letters.all(|other| self.dead_letter_reasons(other).is_empty()) {
                self.broken(
                    "inv01",
                    format!("the dead letter of {} counts as sent and is not there", label(message)),
                );
            }
            self.done.insert((key.clone(), payload));
        }
    }

    pub(crate) fn write_told(&mut self, who: &Who, writes: &[Write], answers: &Answers<Written>) {
        let mut failed = Vec::new();
        for (write, answer) in writes.iter().zip(answers) {
            let ends = matches!(
                write.change,
                Change::Complete { .. } | Change::Release { .. } | Change::DeadLetterSent
            );
            match answer {
                Ok(_) if ends => {
                    if let Some(claim) = self.claims.get_mut(&write.claim.claim_id) {
                        claim.known_ended = true;
                    }
                }
                Ok(_) => {}
                Err(error) => failed.push(format!("{}: {}", self.write_name(write), inbox_error(error))),
            }
        }
        let text = if failed.is_empty() {
            "ok".to_owned()
        } else {
            failed.join(", ")
        };
        self.note(who, format!("write answered: {text}"));
    }
}
