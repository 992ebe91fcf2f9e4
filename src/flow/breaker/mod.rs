mod config;
mod report;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod traffic;

pub use config::BreakerConfig;
pub(crate) use report::{report_state, report_transition};

use super::window::Window;
use crate::clock::{Instant, Random};

/// What a circuit breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything: what is called answers.
    Closed,
    /// Nothing until then.
    Open {
        /// When it turns half-open.
        until: Instant,
    },
    /// One probe at a time, to find out whether what is called answers again.
    HalfOpen,
}

impl BreakerState {
    /// The state that time makes of this one: open turns into half-open when its time is over.
    #[must_use]
    pub fn at(self, now: Instant) -> Self {
        match self {
            Self::Open { until } if until <= now => Self::HalfOpen,
            other => other,
        }
    }

    /// Whether everything may go through.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

/// What [`CircuitBreaker::admit`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Go on, and [`record`](CircuitBreaker::record) what comes of it.
    Run(Ticket),
    /// Go on as the one probe. Until it is recorded or [forgotten](CircuitBreaker::forget), nothing else may.
    Probe(Ticket),
    /// Not now.
    Wait {
        /// When to ask again; `None` while a probe is out: ask again when it is recorded or forgotten.
        until: Option<Instant>,
    },
}

/// One admission: what was let through comes back with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    generation: u64,
    /// The how many-th admission it is.
    serial: u64,
    /// Which probe it is, counted from 1; 0 if none.
    probe: u64,
}

impl Ticket {
    /// Whether this run is a probe of a half-open breaker.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.probe != 0
    }
}

/// What a run says about the health of what it called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered.
    Success,
    /// It did not, or not in time, or not with sense.
    Failure,
    /// Nothing either way: a reject, a cancellation, a drain, or a failure that is set not to count.
    Ignored,
}

/// What followed from a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Whether the run, if it failed, is an attempt of its message. It is none if it opened the breaker, ended while the
    /// breaker was open or half-open, or was a probe: an outage is not a failure of the message.
    pub counts_as_attempt: bool,
    /// The change of state, if there was one.
    pub transition: Option<Transition>,
}

/// A change of a breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It opened, from closed or after a failed probe.
    Opened,
    /// Its open time is over.
    HalfOpened,
    /// Enough probes succeeded.
    Closed,
}

/// A circuit breaker as a pure state machine: it takes `now`, reads no clock and starts no timer.
///
/// Closed, it counts; open, it lets nothing through; half-open, one probe at a time. What it counts as failure is the
/// caller's to say ([`Verdict`]). One key's failures alone do not open it, so a poison pill cannot. Failures are in a row
/// if no success is recorded between them and nothing that was admitted after them has succeeded before: the late timeout
/// of a run that others have overtaken does not speak for an outage. Its memory is bounded and does not grow with traffic.
/// The pattern is Michael Nygard's (*Release It!*).
///
/// ```
/// use redrive::clock::{Clock, Random};
/// use redrive::flow::{Admission, BreakerConfig, BreakerState, CircuitBreaker, Transition, Verdict};
///
/// let now = Clock::system().now();
/// let mut breaker = CircuitBreaker::new(BreakerConfig::default(), Random::seeded(1));
/// let mut last = None;
/// for key in 0..5 {
///     if let Admission::Run(ticket) = breaker.admit(now) {
///         last = breaker.record(now, ticket, key, Verdict::Failure).transition;
///     }
/// }
/// assert_eq!(last, Some(Transition::Opened));
/// assert!(matches!(breaker.admit(now), Admission::Wait { until: Some(_) }));
/// ```
#[derive(Debug)]
pub struct CircuitBreaker {
    config: BreakerConfig,
    random: Random,
    phase: Phase,
    /// Counts the times it opened or closed. A run of an older generation says nothing about the present one.
    generation: u64,
    admissions: u64,
    probes: u64,
    /// Openings since it was last closed.
    openings: u32,
}

#[derive(Debug)]
enum Phase {
    Closed(Evidence),
    Open { until: Instant },
    HalfOpen { probe: Option<u64>, successes: u32 },
}

impl CircuitBreaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(config: BreakerConfig, random: Random) -> Self {
        Self {
            phase: Phase::Closed(Evidence::new(&config)),
            config,
            random,
            generation: 0,
            admissions: 0,
            probes: 0,
            openings: 0,
        }
    }

    /// The state at `now`.
    #[must_use]
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.phase {
            Phase::Closed(_) => BreakerState::Closed,
            Phase::Open { until } => BreakerState::Open { until }.at(now),
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Carries out the turn to half-open if its time has come. [`admit`](Self::admit) and [`record`](Self::record) do so
    /// themselves; this is for who wants to hear of it.
    pub fn turn(&mut self, now: Instant) -> Option<Transition> {
        match self.phase {
            Phase::Open { until } if until <= now => {
                self.phase = Phase::HalfOpen {
                    probe: None,
                    successes: 0,
                };
                Some(Transition::HalfOpened)
            }
            _ => None,
        }
    }

    /// Whether [`admit`](Self::admit) would let one run through.
    #[must_use]
    pub fn admits(&self, now: Instant) -> bool {
        match &self.phase {
            Phase::Closed(_) => true,
            Phase::Open { until } => *until <= now,
            Phase::HalfOpen { probe, .. } => probe.is_none(),
        }
    }

    /// Asks to let one run through. Whoever is let through must [`record`](Self::record) or [`forget`](Self::forget) it.
    pub fn admit(&mut self, now: Instant) -> Admission {
        self.turn(now);
        let (generation, serial) = (self.generation, self.admissions + 1);
        let ticket = |probe| Ticket {
            generation,
            serial,
            probe,
        };
        match &mut self.phase {
            Phase::Closed(_) => {
                self.admissions = serial;
                Admission::Run(ticket(0))
            }
            Phase::Open { until } => Admission::Wait { until: Some(*until) },
            Phase::HalfOpen { probe: Some(_), .. } => Admission::Wait { until: None },
            Phase::HalfOpen { probe, .. } => {
                self.admissions = serial;
                self.probes += 1;
                *probe = Some(self.probes);
                Admission::Probe(ticket(self.probes))
            }
        }
    }

    /// Takes in how a run ended. `key_hash` says whose run it was; see [`key_hash`](super::key_hash).
    pub fn record(&mut self, now: Instant, ticket: Ticket, key_hash: u64, verdict: Verdict) -> Recorded {
        let turned = self.turn(now);
        let was_closed = matches!(self.phase, Phase::Closed(_));
        let moved = match self.next(now, ticket, key_hash, verdict) {
            Next::Stay => None,
            Next::Open => {
                self.open(now);
                Some(Transition::Opened)
            }
            Next::Close => {
                self.phase = Phase::Closed(Evidence::new(&self.config));
                self.generation += 1;
                self.openings = 0;
                Some(Transition::Closed)
            }
        };
        Recorded {
            counts_as_attempt: was_closed && moved.is_none() && !ticket.is_probe(),
            transition: moved.or(turned),
        }
    }

    /// Takes back an admission of which nothing will ever be recorded: a lost probe makes room for the next one.
    pub fn forget(&mut self, now: Instant, ticket: Ticket) {
        self.turn(now);
        self.take_probe(ticket);
    }

    fn next(&mut self, now: Instant, ticket: Ticket, key_hash: u64, verdict: Verdict) -> Next {
        if ticket.is_probe() {
            if !self.take_probe(ticket) {
                return Next::Stay;
            }
            let Phase::HalfOpen { successes, .. } = &mut self.phase else {
                return Next::Stay;
            };
            return match verdict {
                Verdict::Ignored => Next::Stay,
                Verdict::Failure => Next::Open,
                Verdict::Success => {
                    *successes += 1;
                    if *successes >= self.config.successes {
                        Next::Close
                    } else {
                        Next::Stay
                    }
                }
            };
        }
        let Phase::Closed(evidence) = &mut self.phase else {
            return Next::Stay;
        };
        if ticket.generation != self.generation {
            return Next::Stay;
        }
        match verdict {
            Verdict::Ignored => Next::Stay,
            Verdict::Success => {
                evidence.success(now, ticket.serial);
                Next::Stay
            }
            Verdict::Failure => {
                evidence.failure(now, ticket.serial, key_hash, self.config.distinct_keys);
                if evidence.is_enough(now, &self.config) {
                    Next::Open
                } else {
                    Next::Stay
                }
            }
        }
    }

    /// Frees the probe's place if this ticket is the probe that is out.
    fn take_probe(&mut self, ticket: Ticket) -> bool {
        match &mut self.phase {
            Phase::HalfOpen { probe, .. } if ticket.is_probe() && *probe == Some(ticket.probe) => {
                *probe = None;
                true
            }
            _ => false,
        }
    }

    fn open(&mut self, now: Instant) {
        let most = 2u32
            .checked_pow(self.openings)
            .and_then(|by| self.config.first_open.checked_mul(by))
            .map_or(self.config.longest_open, |time| time.min(self.config.longest_open));
        let time = most - self.random.up_to(most.mul_f64(self.config.jitter)).min(most);
        self.phase = Phase::Open { until: now + time };
        self.generation += 1;
        self.openings = self.openings.saturating_add(1);
    }
}

enum Next {
    Stay,
    Open,
    Close,
}

/// What speaks for an outage while the breaker is closed.
#[derive(Debug)]
struct Evidence {
    row: u64,
    row_keys: Keys,
    /// The latest admission that succeeded.
    newest_success: u64,
    window: Window<Tally>,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    successes: u64,
    failures: u64,
    keys: Keys,
}

impl Evidence {
    fn new(config: &BreakerConfig) -> Self {
        Self {
            row: 0,
            row_keys: Keys::default(),
            newest_success: 0,
            window: Window::new(config.window),
        }
    }

    fn success(&mut self, now: Instant, serial: u64) {
        self.row = 0;
        self.row_keys = Keys::default();
        self.newest_success = self.newest_success.max(serial);
        self.window.at(now).successes += 1;
    }

    fn failure(&mut self, now: Instant, serial: u64, key: u64, most_keys: usize) {
        // What started later has succeeded since: this failure says nothing about the present. At a high rate timeouts of
        // runs that started together would make a row otherwise.
        if serial > self.newest_success {
            self.row += 1;
            self.row_keys.note(key, most_keys);
        }
        let tally = self.window.at(now);
        tally.failures += 1;
        tally.keys.note(key, most_keys);
    }

    fn is_enough(&mut self, now: Instant, config: &BreakerConfig) -> bool {
        if self.row >= u64::from(config.in_a_row) && self.row_keys.0.len() >= config.distinct_keys {
            return true;
        }
        let (mut all, mut failures, mut keys) = (0u64, 0u64, Keys::default());
        for tally in self.window.live(now) {
            failures += tally.failures;
            all += tally.failures + tally.successes;
            for key in &tally.keys.0 {
                keys.note(*key, config.distinct_keys);
            }
        }
        all >= u64::from(config.of_at_least)
            && failures as f64 >= config.share * all as f64
            && keys.0.len() >= config.distinct_keys
    }
}

/// The first few distinct keys: as many as a rule asks for.
#[derive(Clone, Debug, Default)]
struct Keys(Vec<u64>);

impl Keys {
    fn note(&mut self, key: u64, most: usize) {
        if self.0.len() < most && !self.0.contains(&key) {
            self.0.push(key);
        }
    }
}
