//! What a run is set up with.

use serde::{Deserialize, Serialize};

/// The settings of a run; all have defaults, and an unknown one is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setup {
    /// How many ms after its arrival every call is answered.
    pub latency_ms: f64,
    /// How many bytes a message's body has, at least the 19 of one without padding.
    pub body_bytes: usize,
    /// How many groups the messages are of; with none, the queue is a standard one.
    pub fifo_groups: u64,
    /// Which part of the messages repeats the idempotency key of the one before, from 0 to 0.9.
    pub duplicates: f64,
    /// The queue's visibility timeout in s.
    pub visibility_s: u64,
    /// How many messages there are from the opening on; endlessly many where neither this nor `rate` is given.
    pub messages: Option<u64>,
    /// How many messages appear per s, evenly spaced.
    pub rate: Option<f64>,
    /// How many records the inbox's table holds already.
    pub inbox_items: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            latency_ms: 0.0,
            body_bytes: 200,
            fifo_groups: 0,
            duplicates: 0.0,
            visibility_s: 30,
            messages: None,
            rate: None,
            inbox_items: 0,
        }
    }
}

impl Setup {
    /// What is wrong with it.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if !(0.0..=60_000.0).contains(&self.latency_ms) {
            return Some("latency_ms must be from 0 to 60000");
        }
        if !(0.0..=0.9).contains(&self.duplicates) {
            return Some("duplicates must be from 0 to 0.9");
        }
        if self.body_bytes > 1024 * 1024 {
            return Some("body_bytes must be at most 1048576");
        }
        if self.visibility_s > 43_200 {
            return Some("visibility_s must be at most 43200");
        }
        if self.rate.is_some_and(|rate| !(0.001..=1_000_000.0).contains(&rate)) {
            return Some("rate must be from 0.001 to 1000000");
        }
        (self.rate.is_some() && self.messages.is_some()).then_some("messages and rate exclude each other")
    }
}
