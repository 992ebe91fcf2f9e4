//! Time and chance, handed in from outside.
//!
//! Nothing in the crate reads a clock or draws a random number by itself: a [`Clock`] and a [`Random`] are given to what
//! needs them. Monotonic time is the runtime's (`tokio::time`), so a whole worker runs under a paused runtime in virtual
//! time, and one seed gives one history.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicI64, Ordering};

/// A point on the runtime's monotonic clock; virtual when the runtime's time is paused.
pub use tokio::time::Instant;

/// Where the time comes from: a monotonic clock for durations and a wall clock for dates.
///
/// ```
/// use redrive::clock::Clock;
///
/// let clock = Clock::system();
/// assert!(clock.epoch_ms() > 1_700_000_000_000);
/// ```
#[derive(Clone)]
pub struct Clock {
    wall: Wall,
}

#[derive(Clone)]
enum Wall {
    System,
    Follows {
        origin: Instant,
        origin_ms: i64,
        /// By how many milliseconds it was set since, for all its clones.
        stepped_ms: Arc<AtomicI64>,
    },
}

impl Clock {
    /// The host's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self { wall: Wall::System }
    }

    /// A wall clock that reads `epoch_ms` (milliseconds since 1970) now and from here on follows the runtime's clock, so
    /// that it is virtual where the runtime's time is.
    #[must_use]
    pub fn starting_at(epoch_ms: u64) -> Self {
        Self {
            wall: Wall::Follows {
                origin: runtime_now(),
                origin_ms: i64::try_from(epoch_ms).unwrap_or(i64::MAX),
                stepped_ms: Arc::default(),
            },
        }
    }

    /// The same clock with its wall time wrong by `ms` milliseconds: another host's clock, in tests.
    #[must_use]
    pub fn skewed_by(&self, ms: i64) -> Self {
        let now = runtime_now();
        let here = i64::try_from(self.epoch_ms()).unwrap_or(i64::MAX);
        Self {
            wall: Wall::Follows {
                origin: now,
                origin_ms: here.saturating_add(ms),
                stepped_ms: Arc::default(),
            },
        }
    }

    /// Sets the wall time forwards, or backwards, by `ms` milliseconds, for every clone of this clock, as a host's clock is
    /// set while its processes run: in tests. The [system](Self::system)'s clock is not ours to set, so that stays.
    pub fn step_by(&self, ms: i64) {
        if let Wall::Follows { stepped_ms, .. } = &self.wall {
            stepped_ms.fetch_add(ms, Ordering::Relaxed);
        }
    }

    /// Now, on the monotonic clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        runtime_now()
    }

    /// Now, by both.
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            at: self.now(),
            epoch_ms: self.epoch_ms(),
        }
    }

    /// Now, by the wall clock, as exactly as it tells.
    #[cfg(feature = "otel")]
    #[allow(clippy::disallowed_methods, reason = "the clock is where time is read")]
    pub(crate) fn system_time(&self) -> SystemTime {
        match &self.wall {
            Wall::System => SystemTime::now(),
            Wall::Follows { .. } => UNIX_EPOCH + Duration::from_millis(self.epoch_ms()),
        }
    }

    /// Now, in milliseconds since 1970. Host clocks lie and jump: nothing that must be right compares two hosts' values.
    #[must_use]
    pub fn epoch_ms(&self) -> u64 {
        match &self.wall {
            Wall::System => system_epoch_ms(),
            Wall::Follows {
                origin,
                origin_ms,
                stepped_ms,
            } => {
                let passed = runtime_now().saturating_duration_since(*origin);
                let ms = origin_ms
                    .saturating_add(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX))
                    .saturating_add(stepped_ms.load(Ordering::Relaxed));
                u64::try_from(ms).unwrap_or(0)
            }
        }
    }
}

/// A moment by both of a clock's times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    epoch_ms: u64,
}

impl Moment {
    /// By how much the wall time ran ahead of the monotonic one since `earlier`: it was set, or the host was suspended, where
    /// the monotonic clock stands still. Nothing, where it fell behind.
    pub(crate) fn wall_ran_ahead_since(&self, earlier: &Self) -> Duration {
        let wall = Duration::from_millis(self.epoch_ms.saturating_sub(earlier.epoch_ms));
        wall.saturating_sub(self.at.saturating_duration_since(earlier.at))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.wall {
            Wall::System => "system",
            Wall::Follows { .. } => "follows the runtime",
        };
        f.debug_tuple("Clock").field(&kind).finish()
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
fn runtime_now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn system_epoch_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
}

/// A source of random numbers that can be seeded. Clones share one sequence.
///
/// ```
/// use redrive::clock::Random;
///
/// let (a, b) = (Random::seeded(7), Random::seeded(7));
/// assert_eq!(a.below(1_000), b.below(1_000));
/// ```
#[derive(Clone, Debug)]
pub struct Random {
    rng: Arc<Mutex<fastrand::Rng>>,
}

impl Random {
    /// A source that gives the same sequence for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            rng: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
        }
    }

    /// A source seeded by the operating system.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that seeds from the system")]
    pub fn from_system() -> Self {
        Self {
            rng: Arc::new(Mutex::new(fastrand::Rng::new())),
        }
    }

    /// A number from 0 up to, not including, `bound`; 0 if `bound` is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        self.draw(|rng| rng.u64(0..bound))
    }

    /// Any 64-bit number.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        self.draw(|rng| rng.u64(..))
    }

    /// A number from 0 up to, not including, 1.
    #[must_use]
    pub fn unit(&self) -> f64 {
        self.draw(fastrand::Rng::f64)
    }

    /// Whether an event of this probability (0 to 1) happens.
    #[must_use]
    pub fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// A duration from zero up to and including `most`, in nanosecond steps.
    #[must_use]
    pub fn up_to(&self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX - 1);
        Duration::from_nanos(self.below(nanos.saturating_add(1)))
    }

    fn draw<T>(&self, f: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        f(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::from_system()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_following_clock_is_virtual_and_skew_moves_only_its_wall_time() {
        let clock = Clock::starting_at(1_000_000);
        let other = clock.skewed_by(-600_000);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.epoch_ms(), 1_005_000);
        assert_eq!(other.epoch_ms(), 405_000);
        assert_eq!(clock.now(), other.now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_moves_the_wall_time_of_all_clones_and_of_no_other_clock() {
        let clock = Clock::starting_at(1_000_000);
        let (same, other) = (clock.clone(), clock.skewed_by(0));
        let before = clock.now();
        clock.step_by(-600_000);
        assert_eq!((same.epoch_ms(), other.epoch_ms()), (400_000, 1_000_000));
        assert_eq!(clock.now(), before);
        clock.step_by(700_000);
        assert_eq!(same.epoch_ms(), 1_100_000);
        assert_eq!(same.skewed_by(1).epoch_ms(), 1_100_001);
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let random = Random::seeded(1);
        for _ in 0..1_000 {
            assert!(random.below(3) < 3);
            assert!(random.up_to(Duration::from_millis(5)) <= Duration::from_millis(5));
        }
        assert_eq!(random.below(0), 0);
        assert!(!random.chance(0.0));
        assert!(random.chance(1.0));
    }
}
