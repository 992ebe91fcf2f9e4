//! The host may have been suspended: its monotonic clock stood still, and leases it takes for held have run out.
//!
//! Nothing tells a process so. What gives it away is a clock that ran ahead of the monotonic one: the wall clock, or the inbox's
//! time once an answer has told it. Both may be set by hand too, so this is a reason to ask, and no more: what is held is
//! renewed, which the inbox refuses to whoever was passed over, and nothing is started before its lease is proven so.

use std::time::Duration;

use super::{Engine, Id, Instant, Phase, Step, millis};
use crate::clock::Moment;

/// How far a clock may run ahead of the monotonic one between two looks before that is a reason to ask.
const AHEAD: Duration = Duration::from_secs(2);

/// How often the clocks are looked at while anything is held under a claim, as nothing else wakes a worker that slept.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the clocks said at the last look.
#[derive(Debug)]
pub(super) struct Clocks {
    moment: Moment,
    /// The latest that it could be by the inbox's time.
    hi: Option<u64>,
    /// Answers of the inbox contradicted each other on its time.
    contradicted: bool,
    /// Leases proven by requests before this are in doubt.
    doubted_before: Option<Instant>,
    /// To be run, once their leases are proven.
    doubtful: Vec<Id>,
}

impl Clocks {
    pub(super) fn new(moment: Moment) -> Self {
        Self {
            moment,
            hi: None,
            contradicted: false,
            doubted_before: None,
            doubtful: Vec::new(),
        }
    }
}

impl Engine {
    /// When the clocks are looked at next.
    pub(super) fn clocks_at(&self) -> Option<Instant> {
        let holds = self.inbox.is_some() && !self.items.is_empty();
        holds.then(|| self.clocks.moment.at + LOOK_EVERY)
    }

    /// Asks for every lease that is held if a clock ran ahead.
    pub(super) fn look_at_clocks(&mut self, now: Instant) {
        let Some(inbox) = &self.inbox else { return };
        let (moment, hi) = (self.config.clock.moment(), inbox.time().hi);
        let contradicted = inbox.time_is_in_doubt();
        let is_news = contradicted && !std::mem::replace(&mut self.clocks.contradicted, contradicted);
        let passed = millis(moment.at.saturating_duration_since(self.clocks.moment.at));
        let by_inbox = self.clocks.hi.map_or(0, |before| hi.saturating_sub(before));
        let by_inbox = Duration::from_millis(by_inbox.saturating_sub(passed));
        let ahead = moment.wall_ran_ahead_since(&self.clocks.moment).max(by_inbox);
        self.clocks.moment = moment;
        self.clocks.hi = Some(hi);
        if ahead <= AHEAD && !is_news {
            return;
        }
        self.clocks.doubted_before = Some(now);
        let settles = |step: Option<&Step>| matches!(step, Some(Step::Delete | Step::Hide(_)));
        let held: Vec<Id> = self
            .items
            .iter()
            .filter(|(_, item)| item.claim.is_some() && !settles(item.plan.front()))
            .map(|(&id, _)| id)
            .collect();
        if !held.is_empty() {
            tracing::warn!(
                worker = %self.config.name, ahead_ms = millis(ahead), held = held.len(),
                "a clock ran ahead: this host was suspended, or a clock was set; what is held is renewed before anything starts"
            );
        }
        for id in held {
            self.beats.set(id, now);
        }
    }

    /// Whether its lease was proven since the last doubt.
    pub(super) fn is_proven(&self, id: Id) -> bool {
        let Some(doubted_before) = self.clocks.doubted_before.filter(|_| !self.config.shadow) else {
            return true;
        };
        let Some(item) = self.items.get(&id) else { return true };
        item.claim.is_none() || item.proven_at >= doubted_before
    }

    /// It is not run before its lease is proven.
    pub(super) fn await_proof(&mut self, now: Instant, id: Id) {
        self.beats.set(id, now);
        self.clocks.doubtful.push(id);
    }

    /// Those that waited for it go on.
    pub(super) fn let_in_proven(&mut self) {
        if self.clocks.doubtful.is_empty() {
            return;
        }
        let doubtful = std::mem::take(&mut self.clocks.doubtful);
        for id in doubtful.into_iter().rev() {
            match self.items.get(&id) {
                Some(item) if item.phase == Phase::Waiting && self.is_proven(id) => self.ready.push_front(id),
                Some(item) if item.phase == Phase::Waiting => self.clocks.doubtful.insert(0, id),
                // Lost, or given back.
                _ => {}
            }
        }
    }
}
