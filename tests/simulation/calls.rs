//! What the judge makes of calls: when they are sent, when they reach the service, and when they are answered.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redrive::dlq::Envelope;
use redrive::inbox::{Answers, Change, ClaimAnswer, ClaimRequest, InboxError, Record, Status, Write, Written};
use redrive::key::RecordKey;
use redrive::message::{Delivery, Message, Outgoing, Receipt};
use redrive::queue::{EntryResults, MAX_BATCH, QueueError};

use crate::checker::{Checker, ClaimState, Ended, Held, Known, Life, MOVED, Told, Who, change_name, label};
use crate::plan::{InboxMode, Letters};

/// Writes to the inbox in one call.
const MAX_WRITES: usize = 25;

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
                told: None,
                settled: None,
                answered: false,
                lost: false,
                over: false,
            };
            let of = (Arc::clone(who), delivery.receipt.clone());
            self.by_message.entry(message).or_default().push(of.clone());
            self.receipts.insert(of, held);
        }
        self.note(who, format!("receive: {}", names.join(" ")));
        self.look_for_dead_letters(who);
        self.look_for_lost_messages();
    }

    /// The worker has what it received.
    pub(crate) fn received_told(&mut self, who: &Who, answer: &Result<Vec<Delivery>, QueueError>) {
        let now = self.now();
        for delivery in answer.iter().flatten() {
            if let Some(held) = self.receipts.get_mut(&(Arc::clone(who), delivery.receipt.clone())) {
                held.told = Some(now);
            }
        }
    }

    /// A batch of deletes or of visibility changes was answered.
    pub(crate) fn settle_told(
        &mut self,
        who: &Who,
        what: &str,
        receipts: &[Receipt],
        answer: &Result<EntryResults<()>, QueueError>,
    ) {
        self.note(who, format!("{what} answered: {}", in_short(answer)));
        for (receipt, answer) in receipts.iter().zip(answer.iter().flatten()) {
            let Some(held) = self.receipts.get_mut(&(Arc::clone(who), receipt.clone())) else {
                continue;
            };
            match answer {
                Ok(()) => held.answered |= held.settled.is_some(),
                Err(error) => held.lost |= error.is_stale_receipt() || error.sender_fault,
            }
        }
    }

    fn check_batch(&mut self, who: &Who, entries: usize, most: usize) {
        if entries == 0 || entries > most {
            self.broken(
                "inv05",
                format!("{who} sends a batch of {entries}, where {most} are allowed"),
            );
        }
    }

    /// What was settled and answered so is not settled again.
    fn check_once(&mut self, who: &Who, held: &Held) {
        if held.answered {
            self.broken(
                "inv11",
                format!("{who} settles {} again, which succeeded before", label(held.message)),
            );
        }
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
        self.check_batch(who, receipts.len(), MAX_BATCH);
        for receipt in receipts {
            let Some(held) = self.held(who, receipt) else { continue };
            self.check_once(who, &held);
            self.is_given_up_by_receives(who, &held);
            if !self.is_durable(held.message) {
                self.broken(
                    "inv01",
                    format!("{who} deletes {} whose outcome is not durable", label(held.message)),
                );
            }
            if let Some((_, claim)) = self.claim_for(who, &held)
                && claim.ended.is_none()
                && self.modes.inbox == InboxMode::Used
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

    /// Without an inbox the attempts are the receives: a run that failed on the last of them gives its message up.
    fn is_given_up_by_receives(&mut self, who: &Who, held: &Held) {
        let ended = self.ran.get(&(Arc::clone(who), held.message));
        // A batch that fails as a whole fails what had not begun, too.
        let failed = self.hosts.get(who).is_some_and(|host| host.batches)
            || ended.is_some_and(|(at, how)| *at >= held.at && *how != Ended::Done);
        if self.modes.inbox == InboxMode::Without && failed && held.number >= self.max_attempts {
            self.given_up.insert(held.message);
        }
    }

    pub(crate) fn visibility_sent(&mut self, who: &Who, changes: &[(Receipt, Duration)]) {
        let names: Vec<String> = changes
            .iter()
            .map(|(receipt, by)| format!("{} by {:.3}", self.name_of(who, receipt), by.as_secs_f64()))
            .collect();
        self.note(who, format!("hide {} ...", names.join(" ")));
        self.check_batch(who, changes.len(), MAX_BATCH);
        for (receipt, by) in changes {
            let Some(held) = self.held(who, receipt) else { continue };
            if *by == self.visibility {
                self.check_extension(who, &held, *by);
                continue;
            }
            self.check_tail(who, receipt, &held);
            if let Some((id, claim)) = self.claim_for(who, &held)
                && claim.ended.is_none()
                && !claim.given_up
                // One that finds no room among the suspects keeps its claim until that runs out.
                && !claim.took_over
                && self.modes.inbox == InboxMode::Used
                && self.is_held_under(&id, &claim)
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
                self.check_once(who, &held);
                self.mark_settled(who, receipt, if by.is_zero() { "release" } else { "delay" });
            }
        }
    }

    /// The last heartbeats before SQS's limit are shorter than the others.
    fn is_nearly_twelve_hours_old(&self, who: &Who, held: &Held) -> bool {
        let limit = Duration::from_secs(12 * 3600 - 300);
        // Received again it has one invisibility from its first receive on, until its worker is done with it.
        self.held_of(held.message).any(|(holder, _, first)| {
            holder == who && !first.over && self.now().saturating_duration_since(first.at) > limit
        })
    }

    /// Dead letters are sent; answers whose they are that are sent under a claim.
    pub(crate) fn letters_sent(&mut self, who: &Who, letters: &[Outgoing]) -> Vec<Option<usize>> {
        self.check_batch(who, letters.len(), MAX_BATCH);
        let mut whose = Vec::with_capacity(letters.len());
        for letter in letters {
            let claimed = self.sent_as_letter(who, letter).filter(|(_, claimed)| *claimed);
            let message = claimed.map(|(message, _)| message);
            whose.push(message);
            let Some(message) = message else { continue };
            if self
                .claim_told_of(who, message)
                .is_some_and(|claim| self.letters_told.contains(&claim))
            {
                let text = format!(
                    "{who} sends the dead letter of {} again, which was sent",
                    label(message)
                );
                self.broken("inv11", text);
            }
        }
        whose
    }

    fn claim_told_of(&self, who: &Who, message: usize) -> Option<String> {
        self.told.get(&(Arc::clone(who), message))?.claim.clone()
    }

    /// Whose letter it is, and whether it is sent under a claim: what collides with another's payload has none, and without an
    /// inbox nothing has.
    fn sent_as_letter(&mut self, who: &Who, letter: &Outgoing) -> Option<(usize, bool)> {
        let mut message = Message::new("", letter.body.clone());
        message.attributes = letter.attributes.clone();
        let envelope = Envelope::of(&message)?;
        let first = *self.by_id.get(&envelope.message_id)?;
        let life = (self.messages[first].life.0, envelope.replays);
        let lives = |number: &usize| self.messages[*number].life == life;
        // The one of this life that it holds. A replay that was killed may have left two: then the one that was rejected.
        let held = |number: &usize| self.held_of(*number).any(|(holder, _, _)| holder == who);
        let rejected = self
            .record_of(first)
            .and_then(|record| self.message_under(&record.claim_id));
        let rejected = rejected.filter(|number| lives(number) && held(number));
        let message = rejected.or_else(|| (0..self.messages.len()).find(|number| lives(number) && held(number)))?;
        self.note(who, format!("send dead letter of {} ...", label(message)));
        let claimed = envelope.reason != "fingerprint_mismatch" && self.modes.inbox == InboxMode::Used;
        if self.is_excused(who) || !claimed {
            return Some((message, claimed));
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
        Some((message, claimed))
    }

    /// Dead letters were answered.
    pub(crate) fn letters_told(
        &mut self,
        who: &Who,
        whose: &[Option<usize>],
        answer: &Result<EntryResults<String>, QueueError>,
    ) {
        self.note(who, format!("send answered: {}", in_short(answer)));
        for (message, answer) in whose.iter().zip(answer.iter().flatten()) {
            if let (Some(message), Ok(_)) = (message, answer) {
                self.letters_told.extend(self.claim_told_of(who, *message));
            }
        }
    }
}

/// Calls to the inbox.
impl Checker {
    pub(crate) fn claim_sent(&mut self, who: &Who, requests: &[ClaimRequest]) {
        let asked = self.now();
        let mut names = Vec::with_capacity(requests.len());
        for request in requests {
            let message = self.by_id[&request.message_id];
            let name = format!("{who}/c{}", request.claim_id.rsplit('-').next().unwrap_or("?"));
            names.push(format!("{} as {name}", label(message)));
            let state = ClaimState {
                who: Arc::clone(who),
                label: name,
                message,
                asked,
                lease_until: 0,
                ended: None,
                known_ended: false,
                told: false,
                given_up: false,
                suspect: false,
                took_over: false,
                goes_back: false,
                taken: false,
                last_run: None,
                checkpoints: Vec::new(),
            };
            match self.claims.entry(request.claim_id.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(state);
                }
                // A claim whose answer was lost, or that is looked up again, is asked for under its own id.
                Entry::Occupied(mut entry) if entry.get().is_asked_again(who, message) => {
                    entry.get_mut().asked = asked;
                }
                Entry::Occupied(_) => {
                    self.broken("inv02", format!("{who} uses claim id {} twice", request.claim_id));
                }
            }
        }
        self.know(requests.iter().map(|request| request.key.clone()));
        self.check_batch(who, requests.len(), MAX_BATCH);
        self.note(who, format!("claim {} ...", names.join(", ")));
    }

    /// The claims had their effect, or not.
    pub(crate) fn claim_landed(&mut self, who: &Who, requests: &[ClaimRequest], answers: &Answers<ClaimAnswer>) {
        let now_ms = self.now_ms();
        for key in keys(requests.iter().map(|request| &request.key)) {
            let (before, after) = self.look_at(&key);
            let claim_of = |record: &Option<Record>| {
                let claim = |record: &Record| (record.claim_id.clone(), record.fencing_token);
                record.as_ref().map(claim)
            };
            let again = claim_of(&before) == claim_of(&after);
            let Some(after) = after else { continue };
            if again {
                if let Some(state) = self.claims.get_mut(&after.claim_id) {
                    state.lease_until = after.lease_until;
                }
                continue;
            }
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
            let before = before.filter(|before| before.expires_at > now_ms / 1000);
            let Some(before) = before else { continue };
            let held = now_ms < before.lease_until
                && (before.status == Status::Processing
                    || (before.status == Status::Rejected && !before.dead_letter_sent));
            if held || before.status == Status::Completed {
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
            let same = before.message_id == after.message_id;
            let carried = if same { before.attempts } else { 0 };
            if after.attempts != carried {
                let (was, is) = (before.attempts, after.attempts);
                self.broken(
                    "inv09",
                    format!(
                        "a claim of {} takes {was} attempts to {is}, same message {same}",
                        key.as_str()
                    ),
                );
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
                // A shadow runs what has spent its attempts.
                if claim.attempts > self.max_attempts && self.modes.inbox == InboxMode::Used {
                    self.broken("inv09", format!("{} attempts of {}", claim.attempts, label(message)));
                }
                if let Some(state) = self.claims.get_mut(&claim.claim_id) {
                    state.told = true;
                    state.took_over = claim.suspect;
                    state.suspect = claim.suspect;
                }
            }
            let mut claim = claim.map(|claim| claim.claim_id.clone());
            let of = (Arc::clone(who), message);
            if answer.is_err() {
                // What it was told of this very claim before still stands.
                let before = self.told.get(&of).and_then(|told| told.claim.clone());
                claim = before.filter(|before| *before == request.claim_id);
            }
            let asked = self.claims.get(&request.claim_id).map_or(at, |claim| claim.asked);
            // A late answer to an earlier delivery's claim changes nothing about the claim of a later one.
            if self.told.get(&of).is_none_or(|told| told.asked <= asked) {
                self.told.insert(of, Told { at, asked, claim });
            }
        }
        self.note(who, format!("claim answered: {}", names.join(", ")));
    }

    pub(crate) fn write_sent(&mut self, who: &Who, writes: &[Write]) {
        let names: Vec<String> = writes.iter().map(|write| self.write_name(write)).collect();
        self.note(who, format!("write {} ...", names.join(", ")));
        self.check_batch(who, writes.len(), MAX_WRITES);
        for write in writes {
            let Some(claim) = self.claims.get(&write.claim.claim_id).cloned() else {
                continue;
            };
            if let Change::Checkpoint { data, .. } = &write.change
                && let Some(claim) = self.claims.get_mut(&write.claim.claim_id)
            {
                claim.checkpoints.push(data.clone());
            }
            if let Some(claim) = self.claims.get_mut(&write.claim.claim_id) {
                claim.goes_back |= matches!(write.change, Change::Release { .. });
            }
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
            let settled = self.held_of(claim.message).any(|(holder, _, held)| {
                holder == who && held.settled.zip(told_at).is_some_and(|((at, _), told)| at >= told)
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

    pub(crate) fn write_landed(&mut self, who: &Who, writes: &[Write], answers: &Answers<Written>) {
        for key in keys(writes.iter().map(|write| &write.claim.key)) {
            let (before, after) = self.look_at(&key);
            for (write, answer) in writes.iter().zip(answers).filter(|(write, _)| write.claim.key == key) {
                let current = before.as_ref().is_some_and(|record| {
                    record.claim_id == write.claim.claim_id && record.fencing_token == write.claim.fencing_token
                });
                if answer.is_ok() && !current {
                    let name = self.write_name(write);
                    self.broken("inv03", format!("{name} succeeded although another has the key now"));
                }
            }
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
        self.check_attempts(before, after, writes);
        self.check_checkpoint(before, after);
        if before.status != after.status && before.status != Status::Processing {
            self.broken(
                "inv03",
                format!("{} goes from {:?} to {:?}", key.as_str(), before.status, after.status),
            );
        }
        let Some(message) = self.message_under(&after.claim_id) else {
            return;
        };
        if let Some(claim) = self.claims.get_mut(&after.claim_id) {
            claim.lease_until = after.lease_until;
            if after.status != Status::Processing {
                claim.ended = Some(after.status);
            }
        }
        let payload = self.messages[message].payload;
        if after.status == Status::Rejected {
            self.given_up.insert(message);
        }
        if after.status == Status::Rejected && before.status != Status::Rejected {
            let letters = self.letters_like(message);
            self.letters_before.insert(key.clone(), letters);
        }
        if after.status == Status::Completed && before.status != Status::Completed {
            self.note(who, format!("  {} is completed", label(message)));
            *self.completions.entry(key.clone()).or_default() += 1;
            self.done.insert((key.clone(), payload));
            if after.fingerprint.is_none() {
                self.done_any.insert(key.clone());
            }
            self.completed.insert(message);
            if !self.ledger.close(key, payload, after.fencing_token) && self.modes.inbox == InboxMode::Used {
                let text = format!("{} is completed, and its effect does not stand", label(message));
                self.broken("inv03", text);
            }
            if self.completions[key] > 1 {
                self.broken("inv03", format!("{} is completed for the second time", key.as_str()));
            }
            // Once it came back as another message, the record tells of that one: a late copy of the dead one may run.
            let (first, lives) = self.messages[message].life;
            let came_back = self
                .messages
                .iter()
                .any(|other| other.life.0 == first && other.life.1 > lives);
            // A letter that was sent twice may be replayed twice: what became of the one says nothing of the other.
            let twin = |other: usize| other != message && self.messages[other].life == (first, lives);
            // And a record tells of one message: of another that was buried under it before, it tells no more.
            let told = self.buried.contains(&message) && self.last_buried.get(key) == Some(&message);
            let not_it = !told && (0..self.messages.len()).any(twin);
            // The queue moves what it likes to, also a copy of what is held here.
            let by_worker = |reason: &String| reason != MOVED;
            let dead = self.dead_letter_reasons(message).iter().any(by_worker) && !came_back && !not_it;
            if dead && self.has_its_key_to_itself(message) {
                self.broken(
                    "inv03",
                    format!("{} is dead-lettered and completed after that", label(message)),
                );
            }
        }
        if after.status == Status::Rejected && after.dead_letter_sent && !before.dead_letter_sent {
            let sends = self.modes.letters == Letters::Sent;
            let before = self.letters_before.get(key).copied().unwrap_or_default();
            // A FIFO queue takes the same message's second letter and keeps the first.
            let kept = self.messages[message].group.is_some() && !self.dead_letter_reasons(message).is_empty();
            if sends && !kept && self.letters_like(message) <= before {
                self.broken(
                    "inv01",
                    format!("the dead letter of {} counts as sent and is not there", label(message)),
                );
            }
            self.suppressed.insert((key.clone(), payload));
            if let Some(&buried) = self.by_id.get(&after.message_id) {
                self.buried.insert(buried);
                self.last_buried.insert(key.clone(), buried);
            }
            if after.fingerprint.is_none() {
                self.dead_any.insert(key.clone());
            }
        }
    }

    /// How many dead letters there ever were of its key and payload: a producer's duplicate may have sent the one that is due.
    fn letters_like(&self, message: usize) -> usize {
        let this = &self.messages[message];
        let like_it = |that: &&Known| this.key == that.key && this.payload == that.payload;
        let lives: BTreeSet<Life> = self.messages.iter().filter(like_it).map(|that| that.life).collect();
        let ended = |life| self.post.ended.get(&life).map_or(0, Vec::len);
        lives.into_iter().map(ended).sum()
    }

    /// The message that a claim was made for.
    fn message_under(&self, claim: &str) -> Option<usize> {
        self.claims.get(claim).map(|claim| claim.message)
    }

    /// Checkpoints of one claim are kept in the order in which its handler made them.
    fn check_checkpoint(&mut self, before: &Record, after: &Record) {
        if before.checkpoint == after.checkpoint {
            return;
        }
        let Some(claim) = self.claims.get(&after.claim_id) else {
            return;
        };
        let place = |data: &Option<Bytes>| {
            let data = data.as_ref()?;
            claim.checkpoints.iter().rposition(|kept| kept == data)
        };
        if let (Some(was), Some(is)) = (place(&before.checkpoint), place(&after.checkpoint))
            && is < was
        {
            let name = label(claim.message);
            self.broken(
                "inv03",
                format!("the checkpoint of {name} goes back from its number {was} to {is}"),
            );
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

/// Each key once.
fn keys<'a>(keys: impl Iterator<Item = &'a RecordKey>) -> BTreeSet<RecordKey> {
    keys.cloned().collect()
}
