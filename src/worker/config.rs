//! A worker's settings, after they were checked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Random};
use crate::flow::{Backoff, BreakerConfig, BreakerWatch, FlowError, KeyedBuckets, RateLimit};
use crate::key::{Fingerprint, Key, KeySource};
use crate::message::Message;
use crate::outcome::{Failure, StoredResult};
use crate::queue::Queue;

/// The most handlers that may run at once in one worker.
pub(super) const MAX_CONCURRENCY: usize = 100_000;

/// What becomes of messages that are given up where no dead-letter queue is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutDeadLetters {
    /// They stay in the queue, delayed again and again, until its retention ends or its redrive policy moves them.
    Keep,
    /// They are deleted.
    Discard,
}

/// What a FIFO group does after one of its messages was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterReject {
    /// It goes on with the next message; the rejected one is in the dead-letter queue.
    #[default]
    Continue,
    /// It stays blocked: the rejected message is kept at the group's head, delayed again and again, until somebody deletes or
    /// moves it.
    Block,
}

#[derive(Clone)]
pub(super) enum DeadLetters {
    Queue(Arc<dyn Queue>),
    RedrivePolicy,
    Without(WithoutDeadLetters),
}

/// What a payload is recognised by.
#[derive(Clone, Default)]
pub(super) enum FingerprintSource {
    #[default]
    Body,
    Function(PayloadOf),
    Off,
}

impl FingerprintSource {
    pub(super) fn of(&self, message: &Message) -> Option<Fingerprint> {
        match self {
            Self::Body => Some(Fingerprint::of(message.body.as_bytes())),
            Self::Function(function) => Some(Fingerprint::of(&function(message))),
            Self::Off => None,
        }
    }
}

pub(super) type PayloadOf = Arc<dyn Fn(&Message) -> Vec<u8> + Send + Sync>;
pub(super) type TenantOf = Arc<dyn Fn(&Message) -> Option<String> + Send + Sync>;
pub(super) type CountsAsFailure = Arc<dyn Fn(&Failure) -> bool + Send + Sync>;
pub(super) type OnDuplicate = Arc<dyn Fn(&Key, &StoredResult) + Send + Sync>;
pub(super) type Observer = Arc<dyn Fn(&super::Observation<'_>) + Send + Sync>;

/// A limit per tenant: who a message belongs to, and what each may have.
#[derive(Clone)]
pub(super) struct TenantLimit {
    pub(super) tenant_of: TenantOf,
    pub(super) buckets: Arc<KeyedBuckets>,
}

#[derive(Clone)]
pub(super) struct Config {
    pub(super) name: String,
    pub(super) consumer: String,
    pub(super) concurrency: usize,
    pub(super) rate: Option<RateLimit>,
    pub(super) tenants: Option<TenantLimit>,
    pub(super) bulkheads: BTreeMap<String, usize>,
    pub(super) held_back: usize,
    pub(super) handler_timeout: Option<Duration>,
    pub(super) backoff: Backoff,
    pub(super) max_attempts: u32,
    pub(super) breaker: Option<BreakerConfig>,
    pub(super) counts_as_failure: Option<CountsAsFailure>,
    pub(super) watched: Vec<BreakerWatch>,
    pub(super) keep_while_open: Duration,
    pub(super) dead_letters: DeadLetters,
    pub(super) after_reject: AfterReject,
    pub(super) key_source: KeySource,
    pub(super) fingerprint: FingerprintSource,
    pub(super) shadow: bool,
    pub(super) retention: Duration,
    pub(super) lease: Duration,
    pub(super) visibility: Duration,
    pub(super) heartbeat: bool,
    pub(super) in_flight_delay: Duration,
    pub(super) drain_deadline: Duration,
    pub(super) long_poll: Duration,
    pub(super) max_receives: usize,
    pub(super) linger: Duration,
    pub(super) stall_after: Duration,
    pub(super) on_duplicate: Option<OnDuplicate>,
    pub(super) observer: Option<Observer>,
    pub(super) clock: Clock,
    pub(super) random: Random,
}

pub(super) fn check_concurrency(concurrency: usize) -> Result<(), FlowError> {
    if (1..=MAX_CONCURRENCY).contains(&concurrency) {
        Ok(())
    } else {
        Err(FlowError::OutOfRange {
            setting: "concurrency",
            value: concurrency.to_string(),
            allowed: "1 to 100,000",
        })
    }
}
