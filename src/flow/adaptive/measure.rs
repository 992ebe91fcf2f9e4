//! What a stretch of time at one level tells.

use std::time::Duration;

use super::as_f64;

/// Sums over the runs that ended in a stretch of time, and over what ran in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    runs: usize,
    took: f64,
    took_squared: f64,
    done: f64,
    done_squared: f64,
    took_done: f64,
    failed: f64,
    /// Seconds.
    span: f64,
    /// Seconds of all slots in use.
    used: f64,
}

impl Sums {
    pub(super) fn pass(&mut self, passed: Duration, in_flight: usize) {
        self.span += passed.as_secs_f64();
        self.used += passed.as_secs_f64() * as_f64(in_flight);
    }

    pub(super) fn add(&mut self, took: Duration, done: usize, failed: usize) {
        let (took, done) = (took.as_secs_f64(), as_f64(done));
        self.runs += 1;
        self.took += took;
        self.took_squared += took * took;
        self.done += done;
        self.done_squared += done * done;
        self.took_done += took * done;
        self.failed += as_f64(failed);
    }

    pub(super) fn runs(&self) -> usize {
        self.runs
    }

    /// In seconds.
    pub(super) fn span(&self) -> f64 {
        self.span
    }

    /// How many ran, on average over time.
    pub(super) fn in_flight(&self) -> f64 {
        if self.span > 0.0 { self.used / self.span } else { 0.0 }
    }

    /// How long a run took, on average; in seconds.
    pub(super) fn mean_time(&self) -> f64 {
        self.took / as_f64(self.runs.max(1))
    }

    /// The variance of one run's part in the logarithm of the time per message done: that of a ratio of two means, by the
    /// delta method.
    fn variance(&self) -> f64 {
        if self.runs == 0 || self.took <= 0.0 || self.done <= 0.0 {
            return 0.0;
        }
        let runs = as_f64(self.runs);
        let (took, done) = (self.took / runs, self.done / runs);
        let of_took = self.took_squared / runs / (took * took);
        let of_done = self.done_squared / runs / (done * done);
        let of_both = self.took_done / runs / (took * done);
        (of_took + of_done - 2.0 * of_both).max(0.0)
    }

    /// The square of the error of that logarithm; without end where nothing is known.
    pub(super) fn error_squared(&self, history: &History) -> f64 {
        if self.done <= 0.0 {
            return f64::INFINITY;
        }
        history.variance_with(self) / as_f64(self.runs.max(1))
    }

    /// What was measured, if anything was done and took any time.
    pub(super) fn measured(&self, history: &History) -> Option<Measured> {
        let fits = self.done > 0.0 && self.took > 0.0 && self.span > 0.0 && self.used > 0.0;
        fits.then(|| Measured {
            in_flight: self.in_flight(),
            cost: self.took / self.done,
            mean_time: self.mean_time(),
            variance: history.variance_with(self),
            error_squared: self.error_squared(history),
            failing: self.failed / (self.done + self.failed),
            rate: as_f64(self.runs) / self.span,
            span: self.span,
        })
    }
}

/// How much the times of single runs vary, as far as it is known from many of them: where one in a hundred takes ten times as
/// long, a few runs look as if they knew better.
#[derive(Clone, Debug)]
pub(super) struct History {
    variance: f64,
    runs: f64,
    /// Seconds that a run took lately.
    mean_time: f64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            variance: 1.0,
            runs: 10.0,
            mean_time: 0.0,
        }
    }
}

impl History {
    /// The most that the past counts.
    const MEMORY: f64 = 2_000.0;

    fn variance_with(&self, sums: &Sums) -> f64 {
        let runs = as_f64(sums.runs);
        (self.variance * self.runs + sums.variance() * runs) / (self.runs + runs)
    }

    pub(super) fn take(&mut self, sums: &Sums) {
        if sums.done > 0.0 {
            self.variance = self.variance_with(sums);
            self.runs = (self.runs + as_f64(sums.runs)).min(Self::MEMORY);
            self.mean_time = sums.mean_time();
        }
    }

    /// How long a change of the level takes to show in all that ends: of what was under way then, the mean remaining time,
    /// twice, as renewal theory has it.
    pub(super) fn settles_in(&self) -> Duration {
        Duration::try_from_secs_f64(1.5 * self.mean_time * (1.0 + self.variance).min(2.0)).unwrap_or_default()
    }
}

/// A level as it was measured.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// How many ran, on average over time.
    pub(super) in_flight: f64,
    /// Seconds of a slot per message done.
    cost: f64,
    /// Seconds that a run took.
    pub(super) mean_time: f64,
    /// Of one run's part in the logarithm of the cost.
    pub(super) variance: f64,
    pub(super) error_squared: f64,
    /// The share of the messages that failed.
    pub(super) failing: f64,
    /// Runs per second.
    rate: f64,
    /// Seconds.
    pub(super) span: f64,
}

/// A difference of two levels, as logarithms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// How much longer a message took.
    pub(super) slower: f64,
    pub(super) error: f64,
}

impl Measured {
    pub(super) fn slower_than(&self, other: &Self) -> Change {
        Change {
            slower: (self.cost / other.cost).ln(),
            error: (self.error_squared + other.error_squared)
                .sqrt()
                .max(super::LEAST_ERROR),
        }
    }

    /// How many runs end in so many seconds.
    pub(super) fn runs_in(&self, seconds: f64) -> f64 {
        self.rate * seconds
    }
}

/// The runs that began at the present level.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Starts {
    done: f64,
    failed: f64,
    took: f64,
    took_done: f64,
}

impl Starts {
    pub(super) fn add(&mut self, took: Duration, done: usize, failed: usize) {
        let took = took.as_secs_f64();
        self.done += as_f64(done);
        self.failed += as_f64(failed);
        self.took += took;
        self.took_done += took * as_f64(done) / as_f64((done + failed).max(1));
    }

    /// The share of the messages that failed.
    pub(super) fn failing(&self) -> f64 {
        self.failed / (self.done + self.failed).max(1.0)
    }

    /// Whether more failed than would by chance where the share `known` fails.
    pub(super) fn exceed(&self, known: f64, beyond: f64) -> bool {
        let all = self.done + self.failed;
        let spread = (all * known * (1.0 - known)).max(0.0).sqrt();
        self.failed > all * known + 3.0 * spread + beyond
    }

    /// The share of the time that went into what was done.
    pub(super) fn useful(&self) -> f64 {
        if self.took > 0.0 {
            self.took_done / self.took
        } else {
            0.0
        }
    }
}
