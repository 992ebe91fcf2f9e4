use std::time::Duration;

use super::error::{FlowError, require};
use crate::clock::Random;

/// The longest delay SQS can hold a received message back for: the 12 hours a visibility timeout may reach.
pub const LONGEST_DELAY: Duration = Duration::from_secs(12 * 60 * 60);

const SHORTEST_BASE: Duration = Duration::from_millis(1);

/// How many steps of a decorrelated sequence are played at most: by then it has reached any cap.
const DECORRELATED_STEPS: u32 = 256;

/// How chance spreads the delays of a [`Backoff`], so that what failed together does not come back together.
///
/// The kinds are those of the AWS Architecture Blog, "Exponential Backoff And Jitter". With `ceiling` = the smaller of the
/// cap and base × 2^(attempt − 1):
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Jitter {
    /// Anything from nothing to the ceiling: least work for the service that recovers. The default.
    #[default]
    Full,
    /// Half the ceiling, and up to the other half by chance: never at once.
    Equal,
    /// From the base to three times the delay before, at most the cap.
    Decorrelated,
    /// The ceiling itself: only where something else spreads the load.
    None,
}

/// How long to wait after the n-th failure: exponential, capped, jittered.
///
/// ```
/// use redrive::clock::Random;
/// use redrive::flow::{Backoff, Jitter};
/// use std::time::Duration;
///
/// let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60))?.jitter(Jitter::Equal);
/// let third = backoff.delay(3, &Random::seeded(1));
/// assert!(third >= Duration::from_secs(2) && third <= Duration::from_secs(4));
/// # Ok::<(), redrive::flow::FlowError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    jitter: Jitter,
}

impl Default for Backoff {
    /// 500 ms doubling to 30 s, full jitter.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
            jitter: Jitter::Full,
        }
    }
}

impl Backoff {
    /// Delays that double from `base` up to `cap`, with full jitter.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if `base` is under 1 ms, `cap` under `base`, or `cap` over [`LONGEST_DELAY`].
    pub fn new(base: Duration, cap: Duration) -> Result<Self, FlowError> {
        let range = "at least 1 ms and at most the cap";
        require(
            base >= SHORTEST_BASE && base <= cap,
            "backoff.base",
            format!("{base:?}"),
            range,
        )?;
        let range = "at most 12 hours, the longest SQS can hold a message back";
        require(cap <= LONGEST_DELAY, "backoff.cap", format!("{cap:?}"), range)?;
        Ok(Self {
            base,
            cap,
            jitter: Jitter::Full,
        })
    }

    /// 100 ms doubling to 5 s, full jitter: for retries within one call, where a handler waits for them.
    pub(super) fn in_a_call() -> Self {
        Self {
            base: Duration::from_millis(100),
            cap: Duration::from_secs(5),
            jitter: Jitter::Full,
        }
    }

    /// The same delays, spread in another way.
    #[must_use]
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// How the delays are spread.
    #[must_use]
    pub fn jitter_kind(&self) -> Jitter {
        self.jitter
    }

    /// The first ceiling.
    #[must_use]
    pub fn base(&self) -> Duration {
        self.base
    }

    /// What no delay exceeds.
    #[must_use]
    pub fn cap(&self) -> Duration {
        self.cap
    }

    /// The longest that [`delay`](Self::delay) gives for this attempt (1 = after the first failure).
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        if self.jitter == Jitter::Decorrelated {
            // Each delay is at most three times the one before.
            return self.scaled(3, attempt.max(1));
        }
        self.scaled(2, attempt.saturating_sub(1))
    }

    /// How long to wait after failure number `attempt` (1 = the first; 0 is taken as 1).
    ///
    /// For [`Jitter::Decorrelated`], whose delays depend on the one before, this plays the sequence from its start; a
    /// caller that knows the last delay calls [`delay_after`](Self::delay_after).
    #[must_use]
    pub fn delay(&self, attempt: u32, random: &Random) -> Duration {
        self.delay_after(attempt, None, random)
    }

    /// Like [`delay`](Self::delay), for a caller that knows the `previous` delay.
    #[must_use]
    pub fn delay_after(&self, attempt: u32, previous: Option<Duration>, random: &Random) -> Duration {
        let ceiling = self.ceiling(attempt);
        match self.jitter {
            Jitter::Full => random.up_to(ceiling),
            Jitter::Equal => {
                let half = ceiling / 2;
                half + random.up_to(ceiling - half)
            }
            Jitter::None => ceiling,
            Jitter::Decorrelated => match previous {
                Some(previous) => self.decorrelated(previous, random),
                None => (0..attempt.clamp(1, DECORRELATED_STEPS))
                    .fold(self.base, |previous, _| self.decorrelated(previous, random)),
            },
        }
    }

    fn decorrelated(&self, previous: Duration, random: &Random) -> Duration {
        let most = previous.saturating_mul(3).clamp(self.base, self.cap);
        self.base + random.up_to(most - self.base)
    }

    fn scaled(&self, factor: u32, times: u32) -> Duration {
        factor
            .checked_pow(times)
            .and_then(|by| self.base.checked_mul(by))
            .map_or(self.cap, |delay| delay.min(self.cap))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_jitter() -> impl Strategy<Value = Jitter> {
        prop_oneof![
            Just(Jitter::Full),
            Just(Jitter::Equal),
            Just(Jitter::Decorrelated),
            Just(Jitter::None)
        ]
    }

    #[test]
    fn the_default_doubles_from_half_a_second_to_thirty_seconds() {
        let backoff = Backoff::default();
        let ceilings: Vec<u128> = (1..=9).map(|n| backoff.ceiling(n).as_millis()).collect();
        assert_eq!(
            ceilings,
            [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
        );
        assert_eq!(backoff.jitter, Jitter::Full);
    }

    #[test]
    fn absurd_settings_are_refused_by_name() {
        let hour = Duration::from_secs(3_600);
        for (base, cap, setting) in [
            (Duration::ZERO, hour, "backoff.base"),
            (hour * 2, hour, "backoff.base"),
            (hour, hour * 13, "backoff.cap"),
        ] {
            let error = Backoff::new(base, cap).unwrap_err().to_string();
            assert!(error.starts_with(setting), "{error}");
        }
        assert!(Backoff::new(hour, LONGEST_DELAY).is_ok());
    }

    #[test]
    fn full_jitter_uses_the_whole_range() {
        let (backoff, random) = (Backoff::default(), Random::seeded(3));
        let drawn: Vec<Duration> = (0..1_000).map(|_| backoff.delay(7, &random)).collect();
        assert!(drawn.iter().any(|d| *d < Duration::from_secs(3)));
        assert!(drawn.iter().any(|d| *d > Duration::from_secs(27)));
        let mean = drawn.iter().sum::<Duration>() / 1_000;
        assert!(
            mean > Duration::from_secs(13) && mean < Duration::from_secs(17),
            "{mean:?}"
        );
    }

    #[test]
    fn decorrelated_delays_grow_towards_the_cap() {
        let backoff = Backoff::default().jitter(Jitter::Decorrelated);
        let random = Random::seeded(5);
        let mean = |attempt| (0..500).map(|_| backoff.delay(attempt, &random)).sum::<Duration>() / 500;
        let (first, late) = (mean(1), mean(40));
        assert!(first < Duration::from_millis(1_500), "{first:?}");
        assert!(late > first * 4, "{first:?} then {late:?}");
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_bounds(
            base_ms in 1u64..=43_200_000,
            above_ms in 0u64..=43_200_000,
            attempt in any::<u32>(),
            previous_ns in proptest::option::of(any::<u64>()),
            jitter in any_jitter(),
            seed in any::<u64>(),
        ) {
            let base = Duration::from_millis(base_ms);
            let cap = (base + Duration::from_millis(above_ms)).min(LONGEST_DELAY);
            let backoff = Backoff::new(base, cap).unwrap().jitter(jitter);
            let random = Random::seeded(seed);
            let previous = previous_ns.map(Duration::from_nanos);
            for delay in [backoff.delay(attempt, &random), backoff.delay_after(attempt, previous, &random)] {
                prop_assert!(delay <= cap);
                match jitter {
                    Jitter::Full => prop_assert!(delay <= backoff.ceiling(attempt)),
                    Jitter::Equal => {
                        prop_assert!(delay >= backoff.ceiling(attempt) / 2);
                        prop_assert!(delay <= backoff.ceiling(attempt));
                    }
                    Jitter::None => prop_assert_eq!(delay, backoff.ceiling(attempt)),
                    Jitter::Decorrelated => prop_assert!(delay >= base),
                }
            }
            if let (Jitter::Decorrelated, Some(previous)) = (jitter, previous) {
                let next = backoff.delay_after(attempt, Some(previous), &random);
                prop_assert!(next <= previous.saturating_mul(3).max(base));
            }
        }

        #[test]
        fn ceilings_never_fall_as_attempts_rise(attempt in 1u32..100, jitter in any_jitter()) {
            let backoff = Backoff::default().jitter(jitter);
            prop_assert!(backoff.ceiling(attempt) <= backoff.ceiling(attempt + 1));
        }
    }
}
