//! In place of the spans of deliveries, where they are not compiled in: nothing.

use crate::clock::{Clock, Instant};
use crate::message::{Delivery, Outgoing};
use crate::outcome::Outcome;

/// There is none.
pub(super) fn current_context() -> Option<super::TraceContext> {
    None
}

pub(crate) struct Traces;

pub(crate) struct DeliveryTrace;

pub(crate) struct RunTrace;

pub(crate) struct SendTrace;

impl Traces {
    pub(crate) fn new(_queue: &str, _clock: &Clock) -> Self {
        Self
    }

    pub(crate) fn received(&mut self, _: Instant, _: &Delivery, _: &str, _: Option<&str>) -> DeliveryTrace {
        DeliveryTrace
    }

    pub(crate) fn batch<'a>(&self, _: Instant, _: impl Iterator<Item = &'a DeliveryTrace>) -> RunTrace {
        RunTrace
    }
}

#[allow(
    clippy::unused_self,
    clippy::needless_pass_by_ref_mut,
    reason = "as where spans are made"
)]
impl DeliveryTrace {
    pub(crate) fn claim_sent(&mut self, _: Instant) {}

    pub(crate) fn claim_answered(&mut self, _: Instant, _: Result<&'static str, &'static str>) {}

    pub(crate) fn claimed(&mut self, _: u64) {}

    pub(crate) fn received_again(&mut self, _: Instant) {}

    pub(crate) fn run_started(&mut self, _: Instant, _: u32, _: &tracing::Span) -> RunTrace {
        RunTrace
    }

    pub(crate) fn run_ended(&mut self, _: Instant, _: Option<&Outcome>) {}

    pub(crate) fn settling(&mut self, _: Instant) {}

    pub(crate) fn settled(&mut self, _: Instant, _: &'static str) {}

    pub(crate) fn ended(self, _: Instant, _: &'static str, _: Option<&str>) {}
}

#[allow(clippy::unused_self, reason = "as where spans are made")]
impl RunTrace {
    pub(crate) fn around<F: Future>(self, run: F) -> F {
        run
    }
}

#[allow(
    clippy::unused_self,
    clippy::needless_pass_by_ref_mut,
    reason = "as where spans are made"
)]
impl SendTrace {
    pub(crate) fn begun(_queue: &str, _max_bytes: usize, _: &Clock, _: &mut Outgoing) -> Self {
        Self
    }

    pub(crate) fn answered(&mut self, _: Result<&str, &str>) {}
}
