//! Flow control: when to call, when to wait, when to stop calling.

mod backoff;
mod breaker;
mod bulkhead;
mod error;
mod keyed;
mod rate;
mod window;

pub use backoff::{Backoff, Jitter, LONGEST_DELAY};
pub use breaker::{Admission, BreakerConfig, BreakerState, CircuitBreaker, Recorded, Ticket, Transition, Verdict};
pub use bulkhead::{Bulkhead, BulkheadPermit};
pub use error::FlowError;
pub use keyed::KeyedBuckets;
pub use rate::{RateLimit, TokenBucket};

use std::hash::{DefaultHasher, Hash, Hasher};

/// A key as the breaker wants it: the same number for the same key, in this process and in a second run of it.
#[must_use]
pub fn key_hash(key: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
