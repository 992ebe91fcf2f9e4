//! The limit that finds itself: told of runs, and taken over.

use super::run::Ended;
use super::{Engine, Instant};
use crate::outcome::Outcome;

/// Whether a run did what it could, or its message is to be tried again. A reject is the message's own.
fn is_done(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Failed(failure) if !failure.is_reject())
}

impl Engine {
    /// What a run took tells the limit that finds itself; only the run itself counts, not what it waited for before.
    pub(super) fn adapt(&mut self, now: Instant, ended: &Ended) {
        let Some(adaptive) = &mut self.adaptive else { return };
        let ((done, all), took) = match ended {
            Ended::One { outcome, took, .. } => {
                let done = outcome.as_ref().is_some_and(is_done);
                ((usize::from(done), usize::from(outcome.is_some())), took)
            }
            Ended::Batch { outcomes, took, .. } => {
                let known = || outcomes.iter().flatten();
                (
                    (known().filter(|outcome| is_done(outcome)).count(), known().count()),
                    took,
                )
            }
        };
        adaptive.ended(now, *took, done, all - done);
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
