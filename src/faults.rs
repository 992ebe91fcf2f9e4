//! Faults on purpose: what the embedded queue and inbox do wrong when told to.
//!
//! A [`FaultPlan`] is asked once per call and answers with a [`FaultDecision`]. It draws from a seed, so the same seed and
//! the same calls give the same faults; scripted faults go before drawn ones.
//!
//! ```
//! use redrive::faults::{Fault, FaultPlan, Operation, Rates};
//!
//! let plan = FaultPlan::seeded(7).on(Operation::Send, Rates::new().throttled(0.1));
//! plan.fail_next(Operation::Send, 1, Fault::After);
//! assert_eq!(plan.next(Operation::Send, 10).fault, Some(Fault::After));
//! plan.set_unreachable(true);
//! assert_eq!(plan.next(Operation::Receive, 0).fault, Some(Fault::Before));
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::clock::Random;
use crate::sync::{Mutex, MutexGuard};

/// What a fault is drawn for: the calls of a queue, and of an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// [`Queue::receive`](crate::queue::Queue::receive).
    Receive,
    /// [`Queue::delete`](crate::queue::Queue::delete).
    Delete,
    /// [`Queue::change_visibility`](crate::queue::Queue::change_visibility).
    ChangeVisibility,
    /// [`Queue::send`](crate::queue::Queue::send).
    Send,
    /// [`Queue::describe`](crate::queue::Queue::describe), and its like of an inbox.
    Describe,
    /// An inbox's claims.
    Claim,
    /// An inbox's fenced writes.
    Write,
    /// An inbox's reads.
    Get,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 8] = [
        Self::Receive,
        Self::Delete,
        Self::ChangeVisibility,
        Self::Send,
        Self::Describe,
        Self::Claim,
        Self::Write,
        Self::Get,
    ];
}

/// How a whole call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The request is lost: no effect, and the caller sees an outage.
    Before,
    /// The reply is lost: the call has its effect, and the caller sees an outage all the same.
    After,
    /// Refused for being one too many: no effect, and the caller sees throttling.
    Throttled,
}

/// How often calls of one operation go wrong, and how long they take. Probabilities are from 0 to 1; what is outside is
/// cut to that, and what is no number counts as 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    before: f64,
    after: f64,
    throttled: f64,
    entry: f64,
    latency: (Duration, Duration),
}

impl Rates {
    /// No faults, no latency.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The probability that a call fails before its effect.
    #[must_use]
    pub fn before(mut self, probability: f64) -> Self {
        self.before = share(probability);
        self
    }

    /// The probability that a call fails after its effect.
    #[must_use]
    pub fn after(mut self, probability: f64) -> Self {
        self.after = share(probability);
        self
    }

    /// The probability that a call is throttled.
    #[must_use]
    pub fn throttled(mut self, probability: f64) -> Self {
        self.throttled = share(probability);
        self
    }

    /// The probability, for each entry of a batch by itself, that it fails without effect.
    #[must_use]
    pub fn entries(mut self, probability: f64) -> Self {
        self.entry = share(probability);
        self
    }

    /// How long a call takes beyond the work itself, drawn evenly from `least` to `most`: half of it before the effect,
    /// half after.
    #[must_use]
    pub fn latency(mut self, least: Duration, most: Duration) -> Self {
        self.latency = (least.min(most), least.max(most));
        self
    }
}

fn share(probability: f64) -> f64 {
    if probability.is_nan() {
        0.0
    } else {
        probability.clamp(0.0, 1.0)
    }
}

/// What happens to one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultDecision {
    /// Wait this long before the effect.
    pub before_effect: Duration,
    /// Wait this long after the effect, before the answer.
    pub after_effect: Duration,
    /// How the whole call fails, if it does.
    pub fault: Option<Fault>,
    /// The positions, in rising order, of the entries that fail without effect.
    pub failed_entries: Vec<usize>,
}

impl FaultDecision {
    /// Whether the entry at this position fails without effect.
    #[must_use]
    pub fn fails_entry(&self, position: usize) -> bool {
        self.failed_entries.binary_search(&position).is_ok()
    }

    /// Whether the call must not have its effect.
    #[must_use]
    pub fn prevents_effect(&self) -> bool {
        matches!(self.fault, Some(Fault::Before | Fault::Throttled))
    }
}

/// Which calls go wrong, and how. Clones share one plan, so a test keeps one and changes it while others run.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    random: Random,
    rates: BTreeMap<Operation, Rates>,
    scripts: BTreeMap<Operation, VecDeque<Step>>,
    unreachable: bool,
    injected: u64,
}

#[derive(Debug)]
struct Step {
    calls: u64,
    what: Scripted,
}

#[derive(Clone, Debug)]
enum Scripted {
    Fault(Fault),
    Entries(Vec<usize>),
    Slow(Duration),
}

impl FaultPlan {
    /// Nothing goes wrong, until told otherwise.
    #[must_use]
    pub fn none() -> Self {
        Self::seeded(0)
    }

    /// A plan that draws from this seed. Without rates nothing is drawn.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::with_random(Random::seeded(seed))
    }

    /// A plan that draws from `random`.
    #[must_use]
    pub fn with_random(random: Random) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                random,
                rates: BTreeMap::new(),
                scripts: BTreeMap::new(),
                unreachable: false,
                injected: 0,
            })),
        }
    }

    /// Sets the rates of one operation, when a plan is made.
    #[must_use]
    pub fn on(self, operation: Operation, rates: Rates) -> Self {
        self.set(operation, rates);
        self
    }

    /// Sets the rates of every operation, when a plan is made.
    #[must_use]
    pub fn on_all(self, rates: Rates) -> Self {
        self.set_all(rates);
        self
    }

    /// Sets the rates of one operation from its next call on.
    pub fn set(&self, operation: Operation, rates: Rates) {
        self.lock().rates.insert(operation, rates);
    }

    /// Sets the rates of every operation from its next call on.
    pub fn set_all(&self, rates: Rates) {
        for operation in Operation::ALL {
            self.set(operation, rates);
        }
    }

    /// Cuts the connection, or mends it: while cut every call fails before its effect.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.lock().unreachable = unreachable;
    }

    /// Whether the connection is cut.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.lock().unreachable
    }

    /// Fails the next `calls` calls of an operation, after what was scripted for it earlier.
    pub fn fail_next(&self, operation: Operation, calls: u64, fault: Fault) {
        self.script(operation, calls, Scripted::Fault(fault));
    }

    /// Fails these entries, by position, of the next call of an operation, without effect.
    pub fn fail_next_entries(&self, operation: Operation, positions: impl IntoIterator<Item = usize>) {
        let mut positions: Vec<usize> = positions.into_iter().collect();
        positions.sort_unstable();
        self.script(operation, 1, Scripted::Entries(positions));
    }

    /// Makes the next `calls` calls of an operation take this long, half of it before the effect, half after.
    pub fn slow_next(&self, operation: Operation, calls: u64, latency: Duration) {
        self.script(operation, calls, Scripted::Slow(latency));
    }

    /// Ends all faults: rates, scripts and the cut connection.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.rates.clear();
        state.scripts.clear();
        state.unreachable = false;
    }

    /// How many calls went wrong so far, wholly or in part; latency alone does not count.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.lock().injected
    }

    /// Decides the next call of an operation with this many entries: one answer per call.
    #[must_use]
    pub fn next(&self, operation: Operation, entries: usize) -> FaultDecision {
        let mut state = self.lock();
        let decision = state.decide(operation, entries);
        if decision.fault.is_some() || !decision.failed_entries.is_empty() {
            state.injected += 1;
        }
        decision
    }

    fn script(&self, operation: Operation, calls: u64, what: Scripted) {
        if calls > 0 {
            let step = Step { calls, what };
            self.lock().scripts.entry(operation).or_default().push_back(step);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self::none()
    }
}

impl State {
    fn decide(&mut self, operation: Operation, entries: usize) -> FaultDecision {
        let mut decision = FaultDecision::default();
        if self.unreachable {
            decision.fault = Some(Fault::Before);
            return decision;
        }
        if let Some(scripted) = self.next_scripted(operation) {
            match scripted {
                Scripted::Fault(fault) => decision.fault = Some(fault),
                Scripted::Entries(positions) => {
                    decision.failed_entries = positions.into_iter().filter(|position| *position < entries).collect();
                }
                Scripted::Slow(latency) => decision.split(latency),
            }
            return decision;
        }
        let Some(rates) = self.rates.get(&operation) else {
            return decision;
        };
        let (least, most) = rates.latency;
        if !most.is_zero() {
            decision.split(least + self.random.up_to(most - least));
        }
        decision.fault = if self.random.chance(rates.before) {
            Some(Fault::Before)
        } else if self.random.chance(rates.throttled) {
            Some(Fault::Throttled)
        } else if self.random.chance(rates.after) {
            Some(Fault::After)
        } else {
            None
        };
        decision.failed_entries = (0..entries).filter(|_| self.random.chance(rates.entry)).collect();
        decision
    }

    fn next_scripted(&mut self, operation: Operation) -> Option<Scripted> {
        let script = self.scripts.get_mut(&operation)?;
        let step = script.front_mut()?;
        step.calls -= 1;
        let what = step.what.clone();
        if step.calls == 0 {
            script.pop_front();
        }
        Some(what)
    }
}

impl FaultDecision {
    fn split(&mut self, latency: Duration) {
        self.before_effect = latency / 2;
        self.after_effect = latency - self.before_effect;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_calls_give_the_same_faults() {
        let rates = Rates::new()
            .before(0.2)
            .after(0.2)
            .throttled(0.2)
            .entries(0.3)
            .latency(Duration::from_millis(1), Duration::from_millis(50));
        let history = |seed| {
            let plan = FaultPlan::seeded(seed).on_all(rates);
            (0..200)
                .map(|n| plan.next(Operation::ALL[n % 8], 10))
                .collect::<Vec<_>>()
        };
        assert_eq!(history(3), history(3));
        assert_ne!(history(3), history(4));
        let drawn = history(3);
        for fault in [Fault::Before, Fault::After, Fault::Throttled] {
            assert!(drawn.iter().any(|d| d.fault == Some(fault)), "{fault:?} is drawn");
        }
        assert!(
            drawn
                .iter()
                .any(|d| !d.failed_entries.is_empty() && d.failed_entries.len() < 10)
        );
        let latency = |d: &FaultDecision| d.before_effect + d.after_effect;
        assert!(drawn.iter().all(|d| (1..=50).contains(&latency(d).as_millis())));
    }

    #[test]
    fn scripted_faults_come_in_order_for_their_operation_only_then_end() {
        let plan = FaultPlan::none();
        plan.fail_next(Operation::Claim, 2, Fault::Throttled);
        plan.fail_next_entries(Operation::Claim, [4, 1, 99]);
        plan.slow_next(Operation::Claim, 1, Duration::from_millis(5));
        assert_eq!(plan.next(Operation::Write, 5), FaultDecision::default());
        assert!(plan.next(Operation::Claim, 5).prevents_effect());
        assert_eq!(plan.next(Operation::Claim, 5).fault, Some(Fault::Throttled));
        let partial = plan.next(Operation::Claim, 5);
        assert_eq!(partial.failed_entries, [1, 4]);
        assert!(partial.fails_entry(4) && !partial.fails_entry(0));
        let slow = plan.next(Operation::Claim, 5);
        assert_eq!(slow.before_effect + slow.after_effect, Duration::from_millis(5));
        assert_eq!(plan.next(Operation::Claim, 5), FaultDecision::default());
        assert_eq!(plan.injected(), 3);
    }

    #[test]
    fn an_unreachable_service_fails_every_call_until_it_is_mended() {
        let plan = FaultPlan::none();
        let shared = plan.clone();
        shared.set_unreachable(true);
        for operation in Operation::ALL {
            assert_eq!(plan.next(operation, 1).fault, Some(Fault::Before));
        }
        shared.heal();
        assert!(
            Operation::ALL
                .iter()
                .all(|op| plan.next(*op, 1) == FaultDecision::default())
        );
    }

    #[test]
    fn absurd_probabilities_are_cut_to_their_bounds() {
        let rates = Rates::new().before(f64::NAN).after(7.0).throttled(-1.0);
        let plan = FaultPlan::seeded(1).on(Operation::Get, rates);
        assert!((0..50).all(|_| plan.next(Operation::Get, 1).fault == Some(Fault::After)));
    }
}
