use super::{BreakerState, Transition};
use crate::telemetry::{self, BREAKER_OPENED, BREAKER_STATE, NAME};

/// Tells operators what state a breaker is in: gauge `redrive.breaker.state`, 0 closed, 1 half-open, 2 open.
pub(crate) fn report_state(name: &str, state: BreakerState) {
    let level = match state {
        BreakerState::Closed => 0.0,
        BreakerState::HalfOpen => 1.0,
        BreakerState::Open { .. } => 2.0,
    };
    telemetry::gauge(&BREAKER_STATE, &[(NAME, name)]).set(level);
}

/// Logs and counts a transition of a breaker to the state it led to, and shows the state.
pub(crate) fn report_transition(name: &str, transition: Transition, state: BreakerState) {
    match transition {
        Transition::Opened => {
            telemetry::counter(&BREAKER_OPENED, &[(NAME, name)]).increment(1);
            tracing::warn!(breaker = name, "circuit breaker opened: calls are held back");
        }
        Transition::HalfOpened => tracing::info!(breaker = name, "circuit breaker is half-open: probing"),
        Transition::Closed => tracing::info!(breaker = name, "circuit breaker closed: calls go on"),
    }
    report_state(name, state);
}
