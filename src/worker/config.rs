//! A worker's settings, after they were checked.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::settings::Settings;
use crate::flow::{FlowError, KeyedBuckets};
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

/// The settings as they were made, and what was worked out where they leave something open.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) settings: Settings,
    pub(super) name: String,
    pub(super) consumer: String,
    /// How many handlers run at once at first.
    pub(super) concurrency: usize,
    pub(super) held_back: usize,
    pub(super) dead_letters: DeadLetters,
    pub(super) key_source: KeySource,
    pub(super) lease: Duration,
    pub(super) visibility: Duration,
    pub(super) max_receives: usize,
    pub(super) stall_after: Duration,
}

impl Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
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
