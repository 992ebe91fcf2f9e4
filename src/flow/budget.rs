use std::time::Duration;

use super::error::{FlowError, require};
use super::window::Window;
use crate::clock::Instant;

const WINDOW: Duration = Duration::from_secs(10);
const HIGHEST_RATIO: f64 = 10.0;
const HIGHEST_FLOOR: f64 = 100_000.0;

/// Limits retries to a share of the calls, so that retrying cannot turn a slow service into a dead one.
///
/// Within any 10 s, retries are at most the larger of `ratio` × calls and `floor` × 10 s. The idea is that of the Google SRE
/// book, "Addressing Cascading Failures". Takes `now` and reads no clock.
///
/// ```
/// use redrive::clock::Clock;
/// use redrive::flow::RetryBudget;
///
/// let now = Clock::system().now();
/// let mut budget = RetryBudget::new(0.1, 0.0)?;
/// for _ in 0..20 {
///     budget.call(now);
/// }
/// assert!(budget.try_retry(now) && budget.try_retry(now));
/// assert!(!budget.try_retry(now));
/// # Ok::<(), redrive::flow::FlowError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RetryBudget {
    ratio: f64,
    floor: f64,
    window: Window<Tally>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    calls: u64,
    retries: u64,
}

impl Default for RetryBudget {
    /// A tenth of the calls, and 3 a second where there are few.
    fn default() -> Self {
        Self {
            ratio: 0.1,
            floor: 3.0,
            window: Window::new(WINDOW),
        }
    }
}

impl RetryBudget {
    /// Retries up to `ratio` (0 to 10) of the calls, and `floor` (0 to 100,000) per second where that is more.
    ///
    /// # Errors
    ///
    /// [`FlowError::OutOfRange`] if one is outside its range or not a number.
    pub fn new(ratio: f64, floor: f64) -> Result<Self, FlowError> {
        let allowed = "a number from 0 to 10";
        require((0.0..=HIGHEST_RATIO).contains(&ratio), "budget.ratio", ratio, allowed)?;
        let allowed = "a number from 0 to 100000 per second";
        require((0.0..=HIGHEST_FLOOR).contains(&floor), "budget.floor", floor, allowed)?;
        Ok(Self {
            ratio,
            floor,
            ..Self::default()
        })
    }

    /// Counts a call: its first try, not its retries.
    pub fn call(&mut self, now: Instant) {
        self.window.at(now).calls += 1;
    }

    /// Whether one more retry is within the budget; counts it if so.
    #[must_use]
    pub fn try_retry(&mut self, now: Instant) -> bool {
        let (mut calls, mut retries) = (0u64, 0u64);
        for tally in self.window.live(now) {
            calls += tally.calls;
            retries += tally.retries;
        }
        let most = (self.ratio * calls as f64).max(self.floor * WINDOW.as_secs_f64());
        let within = (retries + 1) as f64 <= most;
        if within {
            self.window.at(now).retries += 1;
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn with_few_calls_the_floor_holds() {
        let (mut budget, now) = (RetryBudget::default(), Clock::system().now());
        budget.call(now);
        assert_eq!((0..100).filter(|_| budget.try_retry(now)).count(), 30);
        assert!(!budget.try_retry(now + Duration::from_secs(8)));
        assert!(budget.try_retry(now + Duration::from_secs(10)));
    }

    #[test]
    fn with_many_calls_a_tenth_of_them_may_be_retries() {
        let (mut budget, now) = (RetryBudget::default(), Clock::system().now());
        for _ in 0..10_000 {
            budget.call(now);
        }
        assert_eq!((0..10_000).filter(|_| budget.try_retry(now)).count(), 1_000);
    }

    #[test]
    fn an_empty_budget_allows_none() {
        let (mut budget, now) = (RetryBudget::new(0.0, 0.0).unwrap(), Clock::system().now());
        budget.call(now);
        assert!(!budget.try_retry(now));
    }

    #[test]
    fn absurd_settings_are_refused_by_name() {
        for (result, setting) in [
            (RetryBudget::new(-0.1, 3.0), "budget.ratio"),
            (RetryBudget::new(f64::NAN, 3.0), "budget.ratio"),
            (RetryBudget::new(0.1, -1.0), "budget.floor"),
            (RetryBudget::new(0.1, f64::INFINITY), "budget.floor"),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.starts_with(&format!("{setting} is ")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn inv05_retries_stay_within_their_share_in_every_window(
            steps in proptest::collection::vec((0u64..3_000, 0u32..40, 0u32..40), 1..100),
        ) {
            let (mut budget, mut now) = (RetryBudget::new(0.2, 1.0).unwrap(), Clock::system().now());
            let (mut calls, mut retries) = (Vec::new(), Vec::new());
            for (gap, called, tried) in steps {
                now += Duration::from_millis(gap);
                for _ in 0..called {
                    budget.call(now);
                    calls.push(now);
                }
                for _ in 0..tried {
                    if !budget.try_retry(now) {
                        continue;
                    }
                    retries.push(now);
                    let within = |all: &[Instant], age| all.iter().filter(|at| now - **at < age).count() as f64;
                    let recent = within(&retries, WINDOW * 9 / 10);
                    prop_assert!(recent <= (0.2 * within(&calls, WINDOW)).max(10.0));
                }
            }
        }
    }
}
