//! Heartbeats: one keeper for all that is held, extending lease and visibility together.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, join, ready};

use super::{Engine, Event, Id, Instant, Phase, Step, unanswered, unanswered_inbox};
use crate::flaw::{self, Flaw};
use crate::inbox::{Answers, Change, InboxError, Write, Written};
use crate::message::Receipt;
use crate::queue::{EntryError, EntryResults, MAX_BATCH, MAX_VISIBILITY, QueueError};
use crate::telemetry::{said, shown};

/// Heartbeats due within this part of the lease go along with those due now, so that they share calls: as much as the jitter
/// sets those apart that began together.
const ALONG: u32 = 10;

/// How soon a heartbeat that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is said of a call that was not answered within its limit.
const NO_ANSWER: &str = "no answer in time";

/// Heartbeats that came back.
pub(super) struct Beat {
    renewed: Vec<Id>,
    renewals: Answers<Written>,
    extended: Vec<(Id, Receipt)>,
    extensions: Result<EntryResults<()>, QueueError>,
    /// What visibility was asked for, from when on.
    until: Vec<Instant>,
}

/// What a held delivery's next deadline asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Beat,
    Lost(&'static str),
    Nothing(Instant),
}

impl Engine {
    /// Sets when it is looked at next: half of its lease or visibility from now, jittered, or when it runs out.
    pub(super) fn schedule_beat(&mut self, now: Instant, id: Id) {
        let Some(item) = self.items.get(&id) else { return };
        let ends = self.ends_at(now, id);
        if !self.config.heartbeat {
            if let Some(ends) = ends {
                self.beats.set(id, ends);
            }
            return;
        }
        let half = self.beat_period(item.claim.is_some());
        let at = now + half - self.config.random.up_to(half / 5);
        let at = ends.map_or(at, |ends| at.min(ends));
        self.beats.set(id, at);
    }

    /// As [`schedule_beat`](Self::schedule_beat), and no later than `due`.
    pub(super) fn schedule_beat_by(&mut self, now: Instant, id: Id, due: Option<Instant>) {
        self.schedule_beat(now, id);
        if let (Some(due), Some(at)) = (due, self.beats.at(id))
            && due < at
        {
            self.beats.set(id, due);
        }
    }

    /// How long from one heartbeat to the next, at most: half of what is held by, the shorter of lease and visibility.
    pub(super) fn beat_period(&self, claimed: bool) -> Duration {
        let held_for = if claimed {
            self.config.lease.min(self.config.visibility)
        } else {
            self.config.visibility
        };
        held_for / 2
    }

    /// When what it is held by ends: the lease, where it has one, else its visibility.
    fn ends_at(&self, now: Instant, id: Id) -> Option<Instant> {
        let item = self.items.get(&id)?;
        match (&item.claim, &self.inbox) {
            (Some(_), Some(inbox)) => {
                let left = item.lease_until.saturating_sub(inbox.time().hi);
                Some(now + Duration::from_millis(left))
            }
            _ => Some(item.visible_at),
        }
    }

    /// Whether its lease still holds by the inbox's own time.
    pub(super) fn holds(&self, id: Id) -> bool {
        let (Some(item), Some(inbox)) = (self.items.get(&id), &self.inbox) else {
            return true;
        };
        item.claim.is_none() || inbox.time().hi < item.lease_until
    }

    fn due(&self, now: Instant, id: Id) -> Option<Due> {
        let item = self.items.get(&id)?;
        if item.claim.is_some() {
            if !self.holds(id) {
                return Some(Due::Lost("lease"));
            }
        } else if item.visible_at <= now && item.phase != Phase::Claiming {
            return Some(Due::Lost("visibility"));
        }
        // Whatever is under way, it is looked at again when what it is held by ends.
        let ends = self.ends_at(now, id).map(|at| at.max(now + Duration::from_millis(1)));
        let soon = now + Duration::from_millis(250);
        let settles = item.stepping && !item.is_sending();
        let given = matches!(item.plan.front(), Some(Step::Hide(_) | Step::Delete));
        if settles && given && !flaw::is(Flaw::BeatsAfterSettling) {
            // None follows its settle, whatever that is answered.
            return None;
        }
        if (settles && !flaw::is(Flaw::BeatsAfterSettling)) || item.beating {
            return Some(Due::Nothing(ends.map_or(soon, |ends| soon.min(ends))));
        }
        if !self.config.heartbeat && self.is_proven(id) {
            return Some(Due::Nothing(ends.unwrap_or(soon)));
        }
        Some(Due::Beat)
    }

    /// Sends the heartbeats that are due; gives up what ran out.
    pub(super) fn beat(&mut self, now: Instant) {
        if self.beats.next_at().is_none_or(|at| at > now) {
            return;
        }
        let along = self.config.lease.min(self.config.visibility) / ALONG;
        let mut due = Vec::new();
        for id in self.beats.take_due(now + along) {
            match self.due(now, id) {
                None => {}
                Some(Due::Beat) => due.push(id),
                Some(Due::Nothing(at)) => self.beats.set(id, at),
                Some(Due::Lost(why)) => self.ran_out(now, id, why),
            }
        }
        let mut batch = Vec::with_capacity(MAX_BATCH);
        for id in due {
            // What was lost just now may have taken this one along: what is being given back gets no heartbeat.
            match self.due(now, id) {
                None => {}
                Some(Due::Beat) => batch.push(id),
                Some(Due::Nothing(at)) => self.beats.set(id, at),
                Some(Due::Lost(_)) => self.beats.set(id, now),
            }
            if batch.len() == MAX_BATCH {
                self.send_beat(now, std::mem::take(&mut batch));
            }
        }
        if !batch.is_empty() {
            self.send_beat(now, batch);
        }
    }

    /// Its lease or visibility ran out by time alone.
    fn ran_out(&mut self, now: Instant, id: Id, why: &'static str) {
        let Some(item) = self.items.get(&id) else { return };
        let letter_goes_stale = item.is_sending() && why == "lease";
        if item.stepping && item.phase == Phase::Ending && !letter_goes_stale {
            // A fenced write or a settle is under way: what it is answered decides.
            return;
        }
        if self.config.shadow && why == "lease" {
            if let Some(item) = self.items.get_mut(&id) {
                self.leases -= usize::from(item.claim.take().is_some());
            }
            self.schedule_beat(now, id);
            return;
        }
        self.remember_unrecorded(id);
        self.lose_by_time(now, id, why);
    }

    fn send_beat(&mut self, now: Instant, ids: Vec<Id>) {
        let mut writes = Vec::with_capacity(ids.len());
        let mut renewed = Vec::with_capacity(ids.len());
        let mut changes = Vec::with_capacity(ids.len());
        let mut extended = Vec::with_capacity(ids.len());
        let mut until = Vec::with_capacity(ids.len());
        let lease = self.config.lease;
        for id in ids {
            // Without an answer in time it ends all the same.
            if let Some(ends) = self.ends_at(now, id) {
                self.beats.set(id, ends);
            }
            let Some(item) = self.items.get_mut(&id) else { continue };
            item.beating = true;
            item.beat_at = now;
            if let Some(claim) = &item.claim {
                writes.push(Write::new(Arc::clone(claim), Change::Renew { lease }));
                renewed.push(id);
            }
            // SQS keeps a message invisible for 12 hours in all from its receive.
            let last = item.received_at + MAX_VISIBILITY;
            let room = last
                .saturating_duration_since(now)
                .saturating_sub(Duration::from_secs(1));
            let extend = self.config.visibility.min(room);
            if !item.visibility_lost && !extend.is_zero() {
                changes.push((item.receipt.clone(), extend));
                extended.push((id, item.receipt.clone()));
                until.push(now + extend);
            }
        }
        let count = (renewed.len().max(extended.len())) as u64;
        self.shared.count(|totals| totals.heartbeats += count);
        self.meter.heartbeats(count);
        if !changes.is_empty() {
            self.meter.visibility_call(changes.len());
        }
        if !writes.is_empty() {
            self.meter.write_call();
        }
        let (entries, name) = (writes.len(), Arc::clone(&self.queue_name));
        let called = Arc::clone(&name);
        // Each half has its own limit, so that neither hides the other's answer for long.
        let limit = self.short_limit();
        let queue = Arc::clone(&self.queue);
        let inbox = self.inbox.clone();
        let call = async move {
            let renewing = match inbox {
                Some(inbox) if !writes.is_empty() => Either::Left(async move {
                    let answered = tokio::time::timeout(limit, inbox.write(writes)).await;
                    answered.unwrap_or_else(|_| unanswered_inbox(entries, "renew", NO_ANSWER))
                }),
                _ => Either::Right(ready(Vec::new())),
            };
            let extending = if changes.is_empty() {
                Either::Right(ready(Ok(Vec::new())))
            } else {
                Either::Left(async move {
                    let answered = tokio::time::timeout(limit, queue.change_visibility(changes)).await;
                    answered.unwrap_or_else(|_| Err(unanswered(&called, "ChangeMessageVisibility", NO_ANSWER)))
                })
            };
            join(renewing, extending).await
        };
        self.call(
            2 * limit,
            call,
            move |why| {
                let extensions = Err(unanswered(&name, "ChangeMessageVisibility", why));
                (unanswered_inbox(entries, "renew", why), extensions)
            },
            move |(renewals, extensions)| {
                Event::Beat(Beat {
                    renewed,
                    renewals,
                    extended,
                    extensions,
                    until,
                })
            },
        );
    }

    pub(super) fn beaten(&mut self, now: Instant, beat: Beat) {
        let Beat {
            renewed,
            renewals,
            extended,
            extensions,
            until,
        } = beat;
        let mut looked_at: Vec<Id> = renewed
            .iter()
            .copied()
            .chain(extended.iter().map(|(id, _)| *id))
            .collect();
        looked_at.sort_unstable();
        looked_at.dedup();
        let mut again = Vec::new();
        let mut lost = Vec::new();
        let mut renewals = renewals.into_iter();
        for id in renewed {
            let answer = renewals.next().unwrap_or(Err(InboxError::NoAnswer));
            let Some(item) = self.items.get_mut(&id) else { continue };
            match answer {
                Ok(written) => {
                    item.lease_until = written.lease_until.unwrap_or(item.lease_until);
                    item.proven_at = item.proven_at.max(item.beat_at);
                    if !self.is_proven(id) {
                        again.push(id);
                    }
                }
                Err(error) if error.is_lease_lost() => lost.push(id),
                Err(error) => {
                    tracing::warn!(worker = %self.config.name, error = %said(&error), "a lease could not be renewed yet");
                    again.push(id);
                }
            }
        }
        self.extended(now, extended, extensions, &until, &mut again, &mut lost);
        for id in looked_at {
            let Some(item) = self.items.get_mut(&id) else { continue };
            item.beating = false;
            // A shadow suppresses nothing: it goes on under no claim.
            let goes_on = self.config.shadow && item.claim.is_some();
            if goes_on && lost.contains(&id) {
                self.leases -= usize::from(item.claim.take().is_some());
                lost.retain(|&other| other != id);
            }
            if lost.contains(&id) && item.phase == Phase::Ending && matches!(item.plan.front(), Some(Step::Write(_))) {
                // A write whose reply was lost may have ended the claim: written again, it says so itself.
                item.parked = false;
                self.retries.clear(id);
                self.advance(now, id);
                continue;
            }
            if lost.contains(&id) {
                let why = if item.claim.is_some() { "lease" } else { "visibility" };
                self.remember_unrecorded(id);
                self.lose(now, id, why);
                continue;
            }
            self.schedule_beat(now, id);
            if again.contains(&id) {
                let ends = self.ends_at(now, id).unwrap_or(now + AGAIN);
                self.beats.set(id, (now + AGAIN).min(ends));
            }
            if let Some(item) = self.items.get_mut(&id)
                && std::mem::take(&mut item.parked)
            {
                self.advance(now, id);
            }
        }
    }

    fn extended(
        &mut self,
        now: Instant,
        entries: Vec<(Id, Receipt)>,
        answers: Result<EntryResults<()>, QueueError>,
        until: &[Instant],
        again: &mut Vec<Id>,
        lost: &mut Vec<Id>,
    ) {
        let whole = answers.as_ref().err().map(|error| {
            tracing::warn!(worker = %self.config.name, error = %said(error), "visibility could not be extended yet");
            EntryError::new("Batch", error.to_string(), false)
        });
        let mut answers = answers.unwrap_or_default().into_iter();
        for ((id, receipt), until) in entries.into_iter().zip(until) {
            let answer = match &whole {
                Some(error) => Err(error.clone()),
                None => answers.next().unwrap_or_else(|| Err(no_answer())),
            };
            let Some(item) = self.items.get_mut(&id) else { continue };
            if item.receipt != receipt {
                // Received again meanwhile: the newer receipt has its own visibility.
                continue;
            }
            match answer {
                Ok(()) => item.visible_at = *until,
                Err(error) if error.is_stale_receipt() || error.sender_fault => {
                    // With an inbox the lease is the authority: a redelivery finds the key running.
                    item.visibility_lost = true;
                    self.meter.lost_visibility();
                    tracing::warn!(
                        worker = %self.config.name, message_id = %shown(item.message_id()), error = %said(&error), "visibility was lost"
                    );
                    if item.claim.is_none() {
                        lost.push(id);
                    }
                }
                Err(_) if item.visible_at <= now && item.claim.is_none() => lost.push(id),
                Err(_) => again.push(id),
            }
        }
    }
}

/// A batch's reply that says nothing of an entry.
pub(super) fn no_answer() -> EntryError {
    EntryError::new("NoAnswer", "the reply says nothing of this entry", false)
}
