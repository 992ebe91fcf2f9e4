//! A limit on what runs at once that finds itself.
//!
//! Below its knee, a downstream takes as long however much runs; above, what is added only waits. Little's law ties the
//! three figures together: what runs at once = throughput × time. So the limit that fills the downstream and makes nothing
//! wait is its highest throughput × the time it takes when nothing waits. Neither can be measured in one place: throughput is
//! highest above the knee, time is shortest below. [`AdaptiveLimit`] measures at two levels near each other, one after the
//! other, and takes the throughput from the higher and the time from the lower. That is the bandwidth-delay product as BBR
//! estimates it (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue 2016), and where the time between the
//! levels grows in full, it is the limit of TCP Vegas (Brakmo and Peterson, 1995) without a queue. Windows of samples, and
//! growth only where the limit is what holds work up, are as in Netflix's concurrency-limits.
//!
//! What is known to go wrong with such limits, and what is done about it:
//!
//! - A baseline that was measured under load drifts up until the limit does not bind any more. Here there is none: each
//!   comparison measures both levels anew, the lower one by a dip of the limit.
//! - Growth while the limit does not bind. A stretch of time in which fewer ran than the limit allows decides nothing.
//! - Noise. A stretch lasts until its mean is known well enough for the step that is judged by it; the noisier the time, the
//!   longer the stretch or the larger the step. A difference within the error of the two moves nothing.
//! - Failures that come fast make the mean time short. What is compared is time per message *done*: the runs that failed are
//!   part of what those cost, so refusals, timeouts and a throughput that collapses all count as slower. Many failures at once
//!   end a stretch before its time.

mod measure;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::clock::Instant;
use measure::{History, Measured, Starts, Sums};

/// Where the limit of a worker's handlers finds itself, and where from.
///
/// For handlers whose downstream has a knee: up to so many calls at once it answers as fast as ever, beyond that only slower,
/// or not at all. The worker measures what its handlers take at two levels of concurrency near each other and moves to where
/// more of them would do no more per second. `docs/flow-control.md` says more.
///
/// ```
/// use redrive::flow::AdaptiveConcurrency;
///
/// let limit = AdaptiveConcurrency::between(4, 256).start_at(32);
/// assert_eq!((limit.min(), limit.start(), limit.max()), (4, 32, 256));
/// assert_eq!(AdaptiveConcurrency::between(4, 256).start(), 16);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveConcurrency {
    min: usize,
    max: usize,
    start: Option<usize>,
}

/// Where it starts unless set: what the concurrency of a worker is unless set.
const START: usize = 16;

impl AdaptiveConcurrency {
    /// At least `min` and at most `max` handlers at once. Checked when the worker is built: 1 to 100,000, and `min` no more
    /// than `max`.
    #[must_use]
    pub const fn between(min: usize, max: usize) -> Self {
        Self { min, max, start: None }
    }

    /// Starts with `handlers` at once; 16, or what is next to it within the bounds, unless set.
    #[must_use]
    pub const fn start_at(mut self, handlers: usize) -> Self {
        self.start = Some(handlers);
        self
    }

    /// The fewest handlers at once.
    #[must_use]
    pub const fn min(&self) -> usize {
        self.min
    }

    /// The most handlers at once.
    #[must_use]
    pub const fn max(&self) -> usize {
        self.max
    }

    /// How many run at once at the start.
    #[must_use]
    pub fn start(&self) -> usize {
        // `clamp` panics where the bounds are the wrong way round, which is found out later.
        self.start.unwrap_or_else(|| START.min(self.max).max(self.min))
    }

    /// Where it starts, if that was set.
    pub(crate) const fn start_setting(&self) -> Option<usize> {
        self.start
    }

    /// What contradicts itself.
    pub(crate) fn problem(&self, largest: usize) -> Option<String> {
        let Self { min, max, .. } = *self;
        let start = self.start();
        if min == 0 {
            Some("a minimum of 0 would never run a handler; give at least 1".to_owned())
        } else if min > max {
            Some(format!("the minimum, {min}, is over the maximum, {max}"))
        } else if max > largest {
            Some(format!("the maximum, {max}, is over {largest}"))
        } else if !(min..=max).contains(&start) {
            Some(format!("the start, {start}, is outside {min} to {max}"))
        } else {
            None
        }
    }
}

/// The largest step between two levels that are compared.
const LARGEST_STEP: f64 = std::f64::consts::LN_2;

/// The smallest: a factor of 1.1.
const SMALLEST_STEP: f64 = 0.095_31;

/// The smallest where failures tell: a fortieth.
const FINEST_STEP: f64 = 0.025;

/// How well the difference of two levels is to be known, as a share of the step between them.
const PRECISION: f64 = 0.3;

/// The least error of a difference that is believed in.
const LEAST_ERROR: f64 = 0.01;

/// How much below the knee the limit is kept.
const HEADROOM: f64 = 0.97;

/// How long a stretch of time should last at most, if it is more than a few runs long.
const STRETCH: Duration = Duration::from_secs(8);

/// The fewest runs that tell anything.
const FEWEST_RUNS: usize = 16;

/// The share of a level that must be in use for what is measured there to say anything about it.
const IN_USE: f64 = 0.8;

/// How long the limit stays, first and at most, after nothing better was found.
const HOLD: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// The same in the time that a run takes.
const HOLD_RUNS: (f64, f64) = (20.0, 100.0);

/// What the present stretch of time is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To know what is.
    Base,
    /// To know what more would do.
    Up,
    /// To know what less would do.
    Down,
}

/// A stretch of time at one level.
#[derive(Debug)]
struct Stretch {
    purpose: Purpose,
    level: usize,
    /// Since when this has been the level.
    since: Instant,
    /// Runs to end before anything counts: as many as were under way when the level changed.
    settling: usize,
    /// When it counts at the earliest.
    settled_at: Instant,
    settled: bool,
    sums: Sums,
    /// What was started at this level and has ended in this stretch.
    starts: Starts,
}

/// A limit on what runs at once that finds itself by how long runs take. See the [module](self).
///
/// Told what runs, and of each run that ended; asked for the limit after either.
#[derive(Debug)]
pub(crate) struct AdaptiveLimit {
    min: usize,
    max: usize,
    /// The level that was found best.
    base: usize,
    /// The step to the level that is compared with it, as a logarithm.
    step: f64,
    stretch: Stretch,
    history: History,
    /// The base, as it was measured last.
    latest: Option<Measured>,
    /// The base as it was measured when its hold began.
    anchor: Option<Measured>,
    up_first: bool,
    tried_up: bool,
    tried_down: bool,
    /// The base was changed since it was last held.
    moved: bool,
    /// The base was measured again because what was found did not fit.
    doubted: bool,
    /// The lowest level above the base that was refused because runs failed there.
    surged: Option<usize>,
    hold: Duration,
    hold_until: Option<Instant>,
    in_flight: usize,
    at: Instant,
}

impl AdaptiveLimit {
    pub(crate) fn new(setting: AdaptiveConcurrency, now: Instant) -> Self {
        let min = setting.min.max(1);
        let max = setting.max.max(min);
        let start = setting.start().clamp(min, max);
        Self {
            min,
            max,
            base: start,
            step: LARGEST_STEP,
            stretch: Stretch {
                purpose: Purpose::Base,
                level: start,
                since: now,
                // All begin at once, so those that end first are the shortest.
                settling: 2 * start,
                settled_at: now,
                settled: false,
                sums: Sums::default(),
                starts: Starts::default(),
            },
            history: History::default(),
            latest: None,
            anchor: None,
            up_first: false,
            tried_up: false,
            tried_down: false,
            moved: false,
            doubted: false,
            surged: None,
            hold: Duration::ZERO,
            hold_until: None,
            in_flight: 0,
            at: now,
        }
    }

    /// How many may run at once.
    pub(crate) fn limit(&self) -> usize {
        self.stretch.level
    }

    /// So many run from now on.
    pub(crate) fn running(&mut self, now: Instant, in_flight: usize) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        if self.stretch.settled {
            self.stretch.sums.pass(passed, self.in_flight);
        }
        self.in_flight = in_flight;
    }

    /// A run ended that took `took` and did `done` messages, while `failed` are to be tried again. Where it is none of either,
    /// it was stopped and says nothing.
    pub(crate) fn ended(&mut self, now: Instant, took: Duration, done: usize, failed: usize) {
        self.running(now, self.in_flight);
        let stretch = &mut self.stretch;
        let counts = done + failed > 0;
        if counts && now.saturating_duration_since(stretch.since) >= took {
            stretch.starts.add(took, done, failed);
        }
        if stretch.settled && counts {
            stretch.sums.add(took, done, failed);
        }
        stretch.settling = stretch.settling.saturating_sub(1);
        stretch.settled |= stretch.settling == 0 && now >= stretch.settled_at;
        if self.is_surge() {
            self.give_way(now);
        } else if self.is_known() {
            self.conclude(now);
        }
    }

    /// Whether far more failed of what was started at this level than fails anyway.
    fn is_surge(&self) -> bool {
        let known = self.latest.as_ref().map(|latest| latest.failing);
        let starts = &self.stretch.starts;
        match self.stretch.purpose {
            Purpose::Base => starts.failing() >= known.unwrap_or(0.0) + 0.1 && starts.exceed(known.unwrap_or(0.5), 4.0),
            Purpose::Up | Purpose::Down => starts.exceed(known.unwrap_or(0.5), 2.0),
        }
    }

    /// What fails now is the limit's doing, as far as can be told.
    fn give_way(&mut self, now: Instant) {
        if self.stretch.purpose == Purpose::Up {
            let surged = self.stretch.level;
            self.surged = Some(surged);
            // Failures tell at once, so the step is halved until the place is known.
            let halfway = (as_f64(surged) / as_f64(self.base)).ln() / 2.0;
            if halfway < FINEST_STEP || self.base + 1 >= surged {
                self.refuse(now);
            } else {
                self.step = halfway;
                self.begin(now, Purpose::Up);
            }
            return;
        }
        // What was of use is the share of the slots' time that went into what was done.
        let useful = self.stretch.starts.useful().clamp(0.5, 0.9);
        self.step = SMALLEST_STEP;
        self.up_first = true;
        self.move_to(now, self.level(as_f64(self.stretch.level) * useful));
    }

    /// Whether the level was measured for long enough.
    fn is_known(&self) -> bool {
        let sums = &self.stretch.sums;
        // At least every slot once.
        let runs = sums.runs();
        let turned_over = as_f64(runs) >= sums.in_flight() && sums.span() >= 0.9 * sums.mean_time();
        if runs < FEWEST_RUNS || !turned_over {
            return false;
        }
        sums.error_squared(&self.history) <= error_wanted(self.step) || sums.span() >= longest(sums.mean_time())
    }

    fn conclude(&mut self, now: Instant) {
        let measured = self.stretch.sums.measured(&self.history);
        self.history.take(&self.stretch.sums);
        match (self.stretch.purpose, measured) {
            (Purpose::Base, measured) => self.conclude_base(now, measured),
            (purpose, Some(probed)) => match self.latest.clone() {
                Some(base) => self.conclude_probe(now, purpose, &base, &probed),
                None => self.rest(now),
            },
            // Nothing at all was done.
            (Purpose::Up, None) => self.refuse(now),
            (Purpose::Down, None) => self.rest(now),
        }
    }

    fn conclude_base(&mut self, now: Instant, measured: Option<Measured>) {
        let level = self.stretch.level;
        let Some(measured) = measured.filter(|measured| measured.in_flight >= IN_USE * as_f64(level)) else {
            // Nothing is done, or something else than the limit holds work up: that says nothing of the limit.
            self.anchor = None;
            self.again(now);
            return;
        };
        let change = self.anchor.as_ref().map(|anchor| measured.slower_than(anchor));
        let changed = change.filter(|change| change.slower.abs() > (4.0 * change.error).max(SMALLEST_STEP));
        self.latest = Some(measured.clone());
        if self.anchor.is_none() {
            self.anchor = Some(measured.clone());
        }
        match (changed, self.hold_until) {
            (Some(change), _) => {
                self.anchor = Some(measured.clone());
                self.hold = Duration::ZERO;
                self.hold_until = None;
                self.up_first = change.slower < 0.0;
                self.step = change.slower.abs().clamp(finest(&measured), LARGEST_STEP);
                (self.tried_up, self.tried_down) = (false, false);
                self.probe(now);
            }
            (None, Some(until)) if now < until => self.again(now),
            (None, Some(_)) => {
                self.hold_until = None;
                self.anchor = Some(measured.clone());
                self.step = finest(&measured);
                (self.tried_up, self.tried_down) = (false, false);
                self.probe(now);
            }
            (None, None) => self.probe(now),
        }
    }

    fn conclude_probe(&mut self, now: Instant, purpose: Purpose, base: &Measured, probed: &Measured) {
        let up = purpose == Purpose::Up;
        let (high, low) = if up { (probed, base) } else { (base, probed) };
        let apart = (high.in_flight / low.in_flight).ln();
        let wanted = (as_f64(self.stretch.level) / as_f64(self.base)).ln().abs();
        if probed.in_flight < IN_USE * as_f64(self.stretch.level) || apart < wanted / 2.0 {
            // There was not work enough to fill the level.
            self.rest(now);
            return;
        }
        let change = high.slower_than(low);
        if !up && change.slower < -2.0 * change.error && !std::mem::replace(&mut self.doubted, true) {
            // Less would be slower: rather the base was measured in better times.
            self.latest = None;
            self.begin(now, Purpose::Base);
            return;
        }
        let (slower, error) = (change.slower.max(0.0), change.error);
        // Of what was added, more than half only waits.
        let inside = slower > apart / 2.0;
        // Little's law: the throughput of the higher level in the time of the lower, over what runs at the base.
        let gain = if up { apart - slower } else { -slower };
        let worth_it = if up && self.surged.is_some() {
            // Failures are what tells here.
            slower < (2.0 * error).max(apart / 2.0)
        } else if up {
            gain > (2.0 * error).max(0.4 * apart)
        } else {
            // Where less than half is saved and more was not tried in vain, it is no knee: all takes a little longer.
            slower > (1.5 * error).max(LEAST_ERROR) && (inside || self.tried(true))
        };
        if !worth_it {
            self.refuse(now);
            return;
        }
        self.moved = true;
        self.doubted = false;
        if gain.abs() > 2.0 * SMALLEST_STEP {
            self.hold = Duration::ZERO;
        }
        let whole = if up {
            slower < error.max(apart / 10.0)
        } else {
            slower > apart - (1.5 * error).max(apart / 10.0)
        };
        // It comes from the other side.
        let goes_on = (!up, up);
        if up && self.surged.is_some() {
            // As far as it goes without failures.
            self.surged = None;
            self.step = finest(probed);
            self.base = self.stretch.level;
            self.latest = Some(probed.clone());
            (self.tried_up, self.tried_down) = (true, true);
            self.rest(now);
            return;
        }
        if whole {
            self.base = self.stretch.level;
            self.latest = Some(probed.clone());
            self.anchor = self.latest.clone();
            self.step = (2.0 * self.step).min(LARGEST_STEP);
            self.up_first = up;
            (self.tried_up, self.tried_down) = goes_on;
            self.probe(now);
            return;
        }
        let was_fine = self.is_fine(base);
        let level = self.stretch.level;
        let target = as_f64(self.base) * gain.exp() * if inside { HEADROOM } else { 1.0 };
        let target = self.level(target).clamp(self.base.min(level), self.base.max(level));
        let found = inside || !up;
        self.step = if found {
            finest(probed)
        } else {
            (2.0 * self.step).min(LARGEST_STEP)
        };
        self.up_first = true;
        self.move_to(now, target);
        // The estimate of a small step is near enough.
        (self.tried_up, self.tried_down) = if found { (was_fine, was_fine) } else { goes_on };
    }

    /// The probed level is no better.
    fn refuse(&mut self, now: Instant) {
        match self.stretch.purpose {
            Purpose::Up => self.tried_up = true,
            Purpose::Down => self.tried_down = true,
            Purpose::Base => {}
        }
        self.probe(now);
    }

    /// Goes on to the next level to be compared, or holds where there is none.
    fn probe(&mut self, now: Instant) {
        let Some(latest) = self.latest.clone() else {
            self.begin(now, Purpose::Base);
            return;
        };
        if self.tried(true) && self.tried(false) {
            if self.is_fine(&latest) {
                self.rest(now);
                return;
            }
            self.step = (self.step / 2.0).max(finest(&latest));
            (self.tried_up, self.tried_down) = (false, false);
        }
        if self.tried(true) && self.tried(false) {
            self.rest(now);
        } else if latest.error_squared > 2.0 * error_wanted(self.step) && latest.span < longest(latest.mean_time) {
            self.begin(now, Purpose::Base);
        } else if (self.up_first && !self.tried(true)) || self.tried(false) {
            self.begin(now, Purpose::Up);
        } else {
            self.begin(now, Purpose::Down);
        }
    }

    /// Whether that direction has been tried, or cannot be.
    fn tried(&self, up: bool) -> bool {
        if up {
            self.tried_up || self.base >= self.max
        } else {
            self.tried_down || self.base <= self.min
        }
    }

    fn is_fine(&self, measured: &Measured) -> bool {
        self.step <= 1.05 * finest(measured)
    }

    /// Stays at the base for a while.
    fn rest(&mut self, now: Instant) {
        let took = self.latest.as_ref().map_or(0.0, |latest| latest.mean_time);
        let growth = if std::mem::take(&mut self.moved) { 1.0 } else { 2.0 };
        self.surged = None;
        self.doubted = false;
        let bound = |(time, runs): (Duration, f64)| time.as_secs_f64().max(runs * took).min(86_400.0);
        let (first, most) = (bound((HOLD.0, HOLD_RUNS.0)), bound((HOLD.1, HOLD_RUNS.1)));
        self.hold = Duration::from_secs_f64((growth * self.hold.as_secs_f64()).clamp(first, most));
        self.hold_until = Some(now + self.hold);
        if let Some(latest) = &self.latest {
            self.step = finest(latest);
        }
        self.begin(now, Purpose::Base);
    }

    /// Goes to another base, of which nothing is known yet.
    fn move_to(&mut self, now: Instant, base: usize) {
        self.base = base;
        self.latest = None;
        self.anchor = None;
        self.hold_until = None;
        (self.tried_up, self.tried_down) = (false, false);
        self.begin(now, Purpose::Base);
    }

    /// Begins a stretch.
    fn begin(&mut self, now: Instant, purpose: Purpose) {
        let (base, step) = (as_f64(self.base), self.step.exp());
        let level = match purpose {
            Purpose::Base => self.base,
            Purpose::Up => self.level(base * step).max(self.base + 1).min(self.max),
            Purpose::Down => self.level(base / step).min(self.base.saturating_sub(1)).max(self.min),
        };
        let stays = level == self.stretch.level;
        let stretch = &self.stretch;
        self.stretch = Stretch {
            purpose,
            level,
            since: if stays { stretch.since } else { now },
            settling: if stays { stretch.settling } else { self.in_flight },
            settled_at: if stays {
                stretch.settled_at
            } else {
                now + self.history.settles_in()
            },
            settled: stays && stretch.settled,
            sums: Sums::default(),
            starts: Starts::default(),
        };
    }

    /// Measures the base anew.
    fn again(&mut self, now: Instant) {
        self.begin(now, Purpose::Base);
    }

    fn level(&self, base: f64) -> usize {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a limit is far below 2^52, and one that is not in range is clamped"
        )]
        let level = base.round() as usize;
        level.clamp(self.min, self.max)
    }
}

/// The square of the error that one of two levels may have.
fn error_wanted(step: f64) -> f64 {
    (PRECISION * step).powi(2) / 2.0
}

/// How long a stretch goes on at most, in seconds, where runs take `mean` seconds.
fn longest(mean: f64) -> f64 {
    STRETCH.as_secs_f64().max(4.0 * mean)
}

/// The smallest step that can be judged in a stretch of time.
fn finest(measured: &Measured) -> f64 {
    let runs = measured.runs_in(longest(measured.mean_time));
    let error = (2.0 * measured.variance / runs.max(1.0)).sqrt();
    (error / PRECISION).clamp(SMALLEST_STEP, LARGEST_STEP)
}

#[allow(clippy::cast_precision_loss, reason = "counts of runs are far below 2^52")]
fn as_f64(n: usize) -> f64 {
    n as f64
}
