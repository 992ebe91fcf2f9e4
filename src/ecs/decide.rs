//! When to ask for protection, when to renew it, and when to end it. Pure.

use std::time::Duration;

use crate::clock::Instant;

/// How long protection is asked for at a time: short, so that the task of a process that died is free soon.
pub(super) const EXPIRY: Duration = Duration::from_secs(10 * 60);

/// How long nothing may need protection before it is ended.
pub(super) const IDLE: Duration = Duration::from_secs(15);

/// How long handlers must run in [`Mode::Auto`] before protection is asked for: what is over sooner needs none.
pub(super) const MOMENT: Duration = Duration::from_secs(1);

/// How long a task that was protected for as long as it may be stays without, busy or not: deployments and scaling, which look
/// every minute or so, get their turn.
pub(super) const REST: Duration = Duration::from_secs(3 * 60);

/// How often the workers are looked at.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// How often they are looked at where nothing can need protection soon.
const LOOK_IDLE: Duration = Duration::from_secs(5);

/// What ECS takes as an expiry.
pub(super) const SHORTEST: Duration = Duration::from_secs(60);
pub(super) const LONGEST: Duration = Duration::from_secs(48 * 60 * 60);

/// The pause after a call that failed, doubling.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_MOST: Duration = Duration::from_secs(60);

/// What needs protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Off,
    /// Whatever runs.
    Auto,
    /// What has run for as long.
    LongJobs(Duration),
}

/// What the workers do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) running: usize,
    /// For how long the longest of the runs under way has run.
    pub(super) longest: Duration,
    pub(super) draining: bool,
}

/// What to ask of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Protect { minutes: u64 },
    Release,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    Done,
    /// It was not done.
    Refused,
    /// Nobody knows whether it was done.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Machine {
    mode: Mode,
    most: Duration,
    /// Since when protection was needed, at every look.
    needed_since: Option<Instant>,
    /// Since when it was not, at every look.
    idle_since: Option<Instant>,
    held: Option<Held>,
    /// Since when it is protected at a stretch; an expiry that was not renewed in time makes no end of it unless it lasts.
    stretch: Option<Instant>,
    /// Since when it is not protected although nobody released it.
    bare_since: Option<Instant>,
    /// Since when it rests, having been protected for as long as it may be.
    spent: Option<Instant>,
    failures: u32,
    /// No call before this, after one that failed.
    not_before: Option<Instant>,
    /// Until when protection that was given up half asked may still come about.
    loose: Option<Instant>,
    draining: bool,
}

/// The task is protected, or may be.
#[derive(Clone, Copy, Debug)]
struct Held {
    until: Instant,
    /// Whether the agent has said so.
    sure: bool,
}

impl Machine {
    pub(super) fn new(mode: Mode, most: Duration) -> Self {
        Self {
            mode,
            most,
            needed_since: None,
            idle_since: None,
            held: None,
            stretch: None,
            bare_since: None,
            spent: None,
            failures: 0,
            not_before: None,
            loose: None,
            draining: false,
        }
    }

    /// Whether the agent has said that the task is protected, and it still is.
    pub(super) fn is_protected(&self, now: Instant) -> bool {
        self.held.is_some_and(|held| held.sure && held.until > now)
    }

    /// Whether it was protected for as long as it may be, and rests.
    pub(super) fn is_spent(&self) -> bool {
        self.spent.is_some()
    }

    /// Takes what is seen, and says what to ask now.
    pub(super) fn look(&mut self, now: Instant, seen: Seen) -> Option<Ask> {
        let needed = match self.mode {
            Mode::Off => false,
            Mode::Auto => seen.running > 0,
            Mode::LongJobs(after) => seen.running > 0 && seen.longest >= after,
        };
        if needed {
            self.needed_since.get_or_insert(now);
            self.idle_since = None;
        } else {
            self.idle_since.get_or_insert(now);
            self.needed_since = None;
        }
        self.lapse(now);
        self.rest(now);
        if seen.draining && !std::mem::replace(&mut self.draining, true) {
            // Not even a call that failed a moment ago keeps this one waiting.
            self.not_before = None;
        }
        if self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.ask(now, needed)
    }

    /// What is left to ask when the workers have ended: no call that failed keeps it waiting.
    pub(super) fn farewell(&self, now: Instant) -> Option<Ask> {
        self.held.filter(|held| held.until > now).map(|_| Ask::Release)
    }

    fn ask(&self, now: Instant, needed: bool) -> Option<Ask> {
        let left = self.left(now);
        let minutes = left.min(EXPIRY).as_secs() / 60;
        let Some(held) = self.held else {
            let moment = if self.mode == Mode::Auto {
                MOMENT
            } else {
                Duration::ZERO
            };
            let long_enough = self
                .needed_since
                .is_some_and(|since| now.saturating_duration_since(since) >= moment);
            let may = needed && long_enough && self.spent.is_none() && !self.draining;
            return (may && minutes > 0).then_some(Ask::Protect { minutes });
        };
        let idle = self
            .idle_since
            .is_some_and(|since| now.saturating_duration_since(since) >= IDLE);
        if self.draining || idle || left.is_zero() {
            return Some(Ask::Release);
        }
        let due = !held.sure || held.until.saturating_duration_since(now) <= EXPIRY / 2;
        // Near the longest that is allowed, a renewal is worth a call only if it reaches a minute further.
        let least = if held.sure { SHORTEST } else { Duration::ZERO };
        let longer = now + Duration::from_secs(60 * minutes) >= held.until + least;
        (needed && due && minutes > 0 && longer).then_some(Ask::Protect { minutes })
    }

    /// How much longer it may be protected at this stretch.
    fn left(&self, now: Instant) -> Duration {
        self.stretch
            .map_or(self.most, |since| (since + self.most).saturating_duration_since(now))
    }

    /// An expiry that nothing renewed is over.
    fn lapse(&mut self, now: Instant) {
        if self.held.is_some_and(|held| held.until <= now) {
            self.held = None;
            self.bare_since = Some(now);
        }
        if self.held.is_some() || self.stretch.is_none() {
            return;
        }
        if self.left(now) < SHORTEST {
            self.stretch = None;
            self.spent = Some(now);
        } else if self.bare_since.is_none_or(|since| now >= since + REST) {
            self.stretch = None;
        }
    }

    /// What was protected for long enough may be again after a rest, whatever ran meanwhile: a task that is always busy would
    /// else never be.
    fn rest(&mut self, now: Instant) {
        self.spent = self.spent.filter(|&since| now < since + REST);
    }

    /// What came of a call that was begun at `asked` and answered at `now`.
    pub(super) fn answered(&mut self, asked: Instant, now: Instant, ask: Ask, answered: Answered) {
        if answered == Answered::Done {
            self.failures = 0;
            self.not_before = None;
        } else {
            let pause = PAUSE.saturating_mul(1 << self.failures.min(8)).min(PAUSE_MOST);
            self.failures = self.failures.saturating_add(1);
            self.not_before = Some(now + pause);
        }
        match (ask, answered) {
            (_, Answered::Refused) => {}
            (Ask::Protect { minutes }, _) => {
                // ECS counts from some moment in between: the last is the safe one to go by.
                let until = now + Duration::from_secs(60 * minutes);
                self.stretch.get_or_insert(asked);
                let held = self.held.get_or_insert(Held { until, sure: false });
                held.until = held.until.max(until);
                held.sure |= answered == Answered::Done;
            }
            (Ask::Release, Answered::Done) if self.loose.is_some_and(|until| until > asked) => {
                // What was given up may have overtaken it: once more, when it no longer can.
                self.not_before = self.loose;
                if let Some(held) = &mut self.held {
                    held.sure = false;
                }
            }
            (Ask::Release, Answered::Done) => {
                if self.left(now).is_zero() {
                    self.spent = Some(now);
                }
                self.held = None;
                self.stretch = None;
            }
            (Ask::Release, Answered::Unknown) => {}
        }
    }

    /// A call that was begun at `asked` was given up at `now`, and may take effect until `until`.
    pub(super) fn gave_up(&mut self, asked: Instant, now: Instant, ask: Ask, until: Instant) {
        self.answered(asked, now, ask, Answered::Unknown);
        if matches!(ask, Ask::Protect { .. }) {
            self.loose = Some(until);
        }
    }

    /// When to look again.
    pub(super) fn look_at(&self, now: Instant, seen: Seen) -> Instant {
        let soonest = match self.mode {
            Mode::LongJobs(after) if self.held.is_none() => after.saturating_sub(seen.longest),
            _ => LOOK,
        };
        now + soonest.clamp(LOOK, LOOK_IDLE)
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
