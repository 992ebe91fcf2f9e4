//! What a worker says of itself while it runs.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::clock::Instant;
use crate::flow::BreakerState;
use crate::sync::Mutex;

/// How a delivery ended, as it is counted and shown to observers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// Its handler is done and its outcome is durable.
    Completed,
    /// Its key was completed, or rejected and dead-lettered, before; deleted.
    Duplicate,
    /// Its key runs elsewhere; delayed.
    InFlightDuplicate,
    /// Its handler failed; delayed for another attempt.
    Retried,
    /// Dead-lettered, for this reason.
    DeadLettered(String),
    /// Given up and kept in the queue, or thrown away, as set for workers without dead letters.
    GivenUp(String),
    /// Given back unrun, or uncounted.
    Released,
    /// The inbox could not be reached, or its record could not be read; delayed.
    Delayed,
    /// Its lease or visibility was lost; left to whoever has it now.
    Lost,
}

impl Fate {
    /// Why it was given up.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::DeadLettered(reason) | Self::GivenUp(reason) => Some(reason),
            _ => None,
        }
    }

    /// Its label in metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Duplicate => "duplicate",
            Self::InFlightDuplicate => "in_flight_duplicate",
            Self::Retried => "retried",
            Self::DeadLettered(_) => "dead_lettered",
            Self::GivenUp(_) => "given_up",
            Self::Released => "released",
            Self::Delayed => "delayed",
            Self::Lost => "lost",
        }
    }
}

/// How many reasons for dead letters are counted apart.
const MAX_REASONS: usize = 100;

/// What further reasons are counted as.
const OTHER_REASONS: &str = "other";

/// Totals since the worker started. Counts are deliveries unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Deliveries received.
    pub received: u64,
    /// Completed.
    pub completed: u64,
    /// Deleted as duplicates.
    pub duplicates: u64,
    /// Delayed because their key was running.
    pub in_flight_duplicates: u64,
    /// Attempts that failed and were counted.
    pub retried: u64,
    /// Runs that failed and were not counted: a breaker was open or opened by them, or the failure is no attempt in itself, as
    /// that of a save while the inbox is away.
    pub uncounted_failures: u64,
    /// Dead-lettered, by reason. Beyond 100 reasons all others are counted as `other`, so that a reason made up anew for each
    /// message costs no memory for ever.
    pub dead_lettered: BTreeMap<String, u64>,
    /// Given up without a dead letter, as set.
    pub given_up: u64,
    /// Given back.
    pub released: u64,
    /// What shadow mode would have suppressed.
    pub shadowed: u64,
    /// Given back because the inbox could not be reached for as long as they were held, or their record could not be read.
    pub delayed: u64,
    /// Left to others after a lost lease or visibility.
    pub lost: u64,
    /// Times a breaker, its own or one that it watches, began to hold receiving up.
    pub pauses: u64,
    /// Times a breaker of this worker opened.
    pub breaker_opened: u64,
    /// Deletes that came too late: their receipt was no longer good.
    pub late_deletes: u64,
    /// Heartbeats made, one per message and beat.
    pub heartbeats: u64,
}

impl Totals {
    /// Counts it; answers what the reason of a dead letter was counted as.
    pub(super) fn add<'a>(&mut self, fate: &'a Fate) -> Option<&'a str> {
        match fate {
            Fate::Completed => self.completed += 1,
            Fate::Duplicate => self.duplicates += 1,
            Fate::InFlightDuplicate => self.in_flight_duplicates += 1,
            Fate::Retried => self.retried += 1,
            Fate::DeadLettered(reason) => {
                let known = self.dead_lettered.contains_key(reason) || self.dead_lettered.len() < MAX_REASONS;
                let reason = if known { reason.as_str() } else { OTHER_REASONS };
                *self.dead_lettered.entry(reason.to_owned()).or_default() += 1;
                return Some(reason);
            }
            Fate::GivenUp(_) => self.given_up += 1,
            Fate::Released => self.released += 1,
            Fate::Delayed => self.delayed += 1,
            Fate::Lost => self.lost += 1,
        }
        None
    }

    /// All dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.dead_lettered.values().sum()
    }
}

/// A snapshot of a worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The worker's name.
    pub name: String,
    /// Its queue's name.
    pub queue: String,
    /// Whether it has started and passed its preflight.
    pub started: bool,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether a breaker, its own or one that it watches, holds receiving up.
    pub held_up: bool,
    /// Whether it drains.
    pub draining: bool,
    /// Whether it has ended.
    pub ended: bool,
    /// Handlers running.
    pub running: usize,
    /// Deliveries held that wait for their turn.
    pub waiting: usize,
    /// Deliveries whose outcome is being recorded or settled.
    pub ending: usize,
    /// Keys that it has claimed in its inbox, under leases that it keeps, until their deliveries are settled.
    pub leases: usize,
    /// Slots; with [`adaptive_concurrency`](super::Builder::adaptive_concurrency), as many as are thought best now.
    pub concurrency: usize,
    /// Whether that number finds itself.
    pub adaptive: bool,
    /// Whether its own breaker is open, half open or closed; `None` without one.
    pub breaker: Option<BreakerState>,
    /// The inbox's breaker.
    pub inbox_breaker: Option<BreakerState>,
    /// How long ago the last receive succeeded.
    pub last_receive: Option<Duration>,
    /// The watchdog of its receives: they should succeed, and have not for `stall_after`. Its queue cannot be reached, or does
    /// not let it; a restart would change nothing.
    pub stalled: bool,
    /// The watchdog of its loop: what was due has not been done for `stall_after`. Its handlers block the threads that it needs,
    /// or it has been stopped.
    pub stuck: bool,
    /// How often its loop has turned: it stands still while nothing happens, and while something blocks it.
    pub turns: u64,
    /// Counts since the start.
    pub totals: Totals,
}

impl Status {
    /// Whether it does what it should: started, neither stalled nor stuck, not ended.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.started && !self.stalled && !self.stuck && !self.ended
    }
}

/// What the engine and its handles share: written by the engine after each turn, read by handles.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    state: Arc<Mutex<Inner>>,
    settings: Arc<[(&'static str, String)]>,
}

#[derive(Debug)]
struct Inner {
    status: Status,
    last_receive: Option<Instant>,
    /// Since when a receive should have succeeded; none while nothing is to be received.
    silent_since: Option<Instant>,
    /// By when its loop is to turn again; none while nothing is due.
    due: Option<Instant>,
    stall_after: Duration,
}

impl Shared {
    pub(super) fn new(name: &str, concurrency: usize, stall_after: Duration) -> Self {
        let status = Status {
            name: name.to_owned(),
            queue: name.to_owned(),
            started: false,
            paused: false,
            held_up: false,
            draining: false,
            ended: false,
            running: 0,
            waiting: 0,
            ending: 0,
            leases: 0,
            concurrency,
            adaptive: false,
            breaker: None,
            inbox_breaker: None,
            last_receive: None,
            stalled: false,
            stuck: false,
            turns: 0,
            totals: Totals::default(),
        };
        let inner = Inner {
            status,
            last_receive: None,
            silent_since: None,
            due: None,
            stall_after,
        };
        Self {
            state: Arc::new(Mutex::new(inner)),
            settings: Arc::default(),
        }
    }

    /// With the queue's name, and the settings that may be shown.
    pub(super) fn telling(self, queue: &str, settings: Vec<(&'static str, String)>) -> Self {
        self.update(|status| queue.clone_into(&mut status.queue));
        Self {
            settings: settings.into(),
            ..self
        }
    }

    pub(super) fn settings(&self) -> &[(&'static str, String)] {
        &self.settings
    }

    /// The watchdogs are in the reader: a loop that is blocked cannot say so itself.
    pub(super) fn snapshot(&self, now: Instant) -> Status {
        let inner = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut status = inner.status.clone();
        let age = |at: Instant| now.saturating_duration_since(at);
        status.last_receive = inner.last_receive.map(age);
        status.stalled = inner.silent_since.is_some_and(|at| age(at) >= inner.stall_after);
        status.stuck = !status.ended && inner.due.is_some_and(|at| age(at) >= inner.stall_after);
        status
    }

    pub(super) fn update(&self, f: impl FnOnce(&mut Status)) {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).status);
    }

    pub(super) fn count(&self, f: impl FnOnce(&mut Totals)) {
        self.update(|status| f(&mut status.totals));
    }

    pub(super) fn received(&self, now: Instant) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last_receive = Some(now);
    }

    pub(super) fn watch(&self, silent_since: Option<Instant>, due: Option<Instant>) {
        let mut inner = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        inner.silent_since = silent_since;
        inner.due = due;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inv05_reasons_made_up_for_each_message_are_counted_in_bounded_memory() {
        let mut totals = Totals::default();
        for n in 0..5_000 {
            let fate = Fate::DeadLettered(format!("order_{n}_is_wrong"));
            let counted = totals.add(&fate);
            assert_eq!(counted == Some("other"), n >= MAX_REASONS);
        }
        let known = Fate::DeadLettered("order_7_is_wrong".to_owned());
        assert_eq!(totals.add(&known), Some("order_7_is_wrong"));
        assert_eq!(totals.dead_lettered.len(), MAX_REASONS + 1);
        assert_eq!(totals.dead_letters(), 5_001);
        assert_eq!(totals.add(&Fate::Completed), None);
    }
}
