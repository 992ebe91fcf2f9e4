use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tokio::time::sleep_until;

use super::Inner;
use crate::clock::Instant;
use crate::flow::{BreakerState, report_state};

/// Follows the circuit breaker of a [`Downstream`](super::Downstream): a worker that watches one stops receiving while it
/// is open.
#[derive(Clone, Debug)]
pub struct BreakerWatch {
    name: Arc<str>,
    downstream: Weak<Inner>,
    states: watch::Receiver<BreakerState>,
    /// The open time whose end has been told of.
    told: Option<Instant>,
}

impl BreakerWatch {
    pub(super) fn new(downstream: &Arc<Inner>) -> Self {
        let (states, now) = (downstream.states.subscribe(), downstream.clock.now());
        let told = match *states.borrow() {
            BreakerState::Open { until } if until <= now => Some(until),
            _ => None,
        };
        Self {
            name: downstream.name.clone(),
            downstream: Arc::downgrade(downstream),
            states,
            told,
        }
    }

    /// Tells operators of a turn to half-open by time, which the downstream itself does not notice before its next call.
    pub(crate) fn turn(&self, now: Instant) {
        let until = match *self.states.borrow() {
            BreakerState::Open { until } => until,
            BreakerState::HalfOpen | BreakerState::Closed => return,
        };
        if until <= now
            && let Some(downstream) = self.downstream.upgrade()
        {
            downstream.with_breaker(|_, _| ());
        }
    }

    /// Shows operators the state.
    pub(crate) fn report(&self) {
        if let Some(downstream) = self.downstream.upgrade() {
            downstream.with_breaker(|breaker, now| report_state(&downstream.name, breaker.state(now)));
        }
    }

    /// The name of the downstream whose breaker this is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The state of the breaker.
    #[must_use]
    pub fn state(&self, now: Instant) -> BreakerState {
        self.states.borrow().at(now)
    }

    /// Waits until the state has changed since the last call, also when it turns half-open by time alone. Look at
    /// [`state`](Self::state) then: it may have changed more than once, or back. Dropping the future loses no change.
    /// Without its downstream a breaker changes no more, and this waits for ever.
    pub async fn changed(&mut self) {
        let until = match *self.states.borrow() {
            BreakerState::Open { until } if self.told != Some(until) => Some(until),
            _ => None,
        };
        let turned = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(turned);
        tokio::select! {
            biased;
            changed = self.states.changed() => {
                if changed.is_ok() {
                    return;
                }
                turned.await;
            }
            () = &mut turned => {}
        }
        self.told = until;
    }
}
