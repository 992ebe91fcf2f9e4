//! The last word on a claim whose lease ran out by time alone.
//!
//! When the inbox cannot be reached for longer than a lease, whoever held it lives, and knows what came of it. Nobody may have
//! taken the key over yet: then the write that could not be made is still allowed by its fence, and keeps what was done from
//! being done again, and a run that was cut off from being taken for a death.

use super::{Engine, Id, Instant, MAX_UNRECORDED, Phase, Step};
use crate::inbox::{Change, InboxError, Write, Written};

/// How often a last word is tried: for about half an hour.
const MOST_TRIES: u32 = 700;

/// A write for a delivery that is no longer held.
#[derive(Clone, Debug)]
pub(super) struct LateWrite {
    write: Write,
    tries: u32,
}

impl Engine {
    /// Its lease ran out by time: it is lost, but for a last word.
    pub(super) fn lose_by_time(&mut self, now: Instant, id: Id, why: &'static str) {
        let write = self.last_word(id);
        self.lose(now, id, why);
        let Some(write) = write else { return };
        self.remember_last_word(id, write);
        self.try_later(now, id);
    }

    /// A claim is answered whose delivery was lost meanwhile: the key must not stay claimed for it.
    pub(super) fn free_unheld(&mut self, now: Instant, id: Id, write: Write) {
        self.remember_last_word(id, write);
        self.retry_late(now, id);
    }

    fn remember_last_word(&mut self, id: Id, write: Write) {
        if self.late.len() >= MAX_UNRECORDED
            && let Some((oldest, _)) = self.late.pop_first()
        {
            self.retries.clear(oldest);
        }
        self.late.insert(id, LateWrite { write, tries: 0 });
    }

    /// What ends the claim as it was to end; where that was still open, it is given back, and nothing counted.
    fn last_word(&self, id: Id) -> Option<Write> {
        let item = self.items.get(&id)?;
        let claim = item.claim.clone().filter(|_| !self.config.shadow)?;
        let change = match (item.phase, item.plan.front()) {
            (Phase::Ending, Some(Step::Write(Change::Start))) => Change::Release { failure: None },
            (Phase::Ending, Some(Step::Write(change))) => change.clone(),
            (Phase::Ending, _) => return None,
            // Its record stays rejected.
            _ if item.rejected_before => return None,
            _ => Change::Release { failure: None },
        };
        Some(Write::new(claim, change))
    }

    /// Tries again what is due; answers whether it was a last word.
    pub(super) fn retry_late(&mut self, now: Instant, id: Id) -> bool {
        let Some(late) = self.late.get(&id) else { return false };
        self.writes.push(now, (id, late.write.clone()));
        true
    }

    /// What became of a last word. Whoever took the key over meanwhile has it.
    pub(super) fn late_wrote(&mut self, now: Instant, id: Id, answer: &Result<Written, InboxError>) {
        let Some(late) = self.late.get_mut(&id) else { return };
        late.tries += 1;
        let again = matches!(answer, Err(error) if !error.is_lease_lost()) && late.tries < MOST_TRIES;
        if again {
            self.try_later(now, id);
            return;
        }
        let Some(late) = self.late.remove(&id) else { return };
        if answer.is_ok() {
            tracing::info!(
                worker = %self.config.name, key = %late.write.claim.key,
                "recorded after its lease ran out: nobody had taken it over"
            );
            if matches!(late.write.change, Change::Complete { .. }) {
                self.unrecorded.remove(&late.write.claim.key);
            }
        }
    }

    fn try_later(&mut self, now: Instant, id: Id) {
        let tries = self.late.get(&id).map_or(0, |late| late.tries);
        let delay = self.call_backoff.delay(tries + 1, &self.config.random);
        self.retries
            .set(id, now + delay.max(std::time::Duration::from_millis(50)));
    }
}
