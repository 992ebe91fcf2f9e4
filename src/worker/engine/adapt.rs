//! The limit that finds itself: told of runs, and taken over.

use super::run::Ended;
use super::{Engine, Instant};
use crate::outcome::Outcome;

impl Engine {
    /// What a run took tells the limit that finds itself; only the run itself counts, not what it waited for before.
    pub(super) fn adapt(&mut self, now: Instant, ended: &Ended) {
        let Some(adaptive) = &mut self.adaptive else { return };
        let count = |wanted: fn(&Outcome) -> bool| {
            let outcomes = ended.outcomes.iter().flatten();
            outcomes.filter(|outcome| wanted(outcome)).count()
        };
        let failed = count(|outcome| matches!(outcome, Outcome::Failed(failure) if !failure.is_reject()));
        // A reject is the message's own: the run did what it could.
        let done = count(|_| true) - failed;
        adaptive.ended(now, ended.took, done, failed);
        let limit = adaptive.limit();
        let was = std::mem::replace(&mut self.slots, limit);
        if limit.abs_diff(was) > was / 4 {
            tracing::debug!(worker = %self.config.name, from = was, to = limit, "the concurrency adapts");
        }
    }

    /// How many run now that all have begun that may.
    pub(super) fn note_load(&mut self, now: Instant) {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.running(now, self.slots_used);
        }
    }

    /// Set by hand, it holds.
    pub(super) fn set_concurrency(&mut self, slots: usize) {
        if self.adaptive.take().is_some() {
            tracing::info!(worker = %self.config.name, concurrency = slots, "the concurrency was set by hand and adapts no more");
        }
        self.slots = slots;
    }
}
