//! Flow control: when to call, when to wait, when to stop calling.
//!
//! | | keeps |
//! |---|---|
//! | [`Backoff`] | what failed together from coming back together |
//! | [`TokenBucket`], [`KeyedBuckets`] | a rate, of all or of each tenant |
//! | [`AdaptiveConcurrency`] | more from being started than what they call can take |
//! | [`Bulkhead`] | what is slow in its own compartment |
//! | [`CircuitBreaker`] | an outage from being taken for failures of the messages |
//! | [`RetryBudget`] | retries from making an outage |
//! | [`Downstream`] | all of it around one call to another service |
//!
//! All but `Downstream` and the waiting side of `Bulkhead` are plain state machines that take `now`. Settings are checked
//! when they are made: a [`FlowError`] names the setting, the value, and what would be accepted.

mod adaptive;
mod advice;
mod backoff;
mod breaker;
mod budget;
mod bulkhead;
mod downstream;
mod error;
mod keyed;
#[cfg(test)]
mod model;
mod rate;
mod retry_after;
#[cfg(all(test, redrive_shuttle))]
mod shuttle_tests;
mod window;

use std::hash::{DefaultHasher, Hash, Hasher};

pub use adaptive::AdaptiveConcurrency;
pub(crate) use adaptive::AdaptiveLimit;
pub use advice::{Advice, Classify};
pub use backoff::{Backoff, Jitter, LONGEST_DELAY};
pub use breaker::{Admission, BreakerConfig, BreakerState, CircuitBreaker, Recorded, Ticket, Transition, Verdict};
#[allow(unused_imports, reason = "for the worker, whose breaker is reported in the same way")]
pub(crate) use breaker::{report_state, report_transition};
pub use budget::RetryBudget;
pub use bulkhead::{Bulkhead, BulkheadPermit};
pub use downstream::{BreakerWatch, Downstream, DownstreamBuilder, DownstreamError};
pub use error::FlowError;
pub use keyed::KeyedBuckets;
pub use rate::{RateLimit, TokenBucket};
pub use retry_after::{StatusAdvice, classify_status, parse_retry_after};

/// A key as [`CircuitBreaker::record`] wants it: the same number for the same key in every process of one build.
#[must_use]
pub fn key_hash(key: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
