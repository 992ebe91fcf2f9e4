//! The worker's share of [`crate::bench`].
#![allow(missing_docs, reason = "no public item, whatever its visibility")]

use std::time::Duration;

use super::batcher::Batcher;
use super::deadlines::Deadlines;
use crate::clock::Instant;

/// The batcher of deletes, writes and visibility changes.
pub struct Batches(Batcher<u64>);

impl Batches {
    #[must_use]
    pub fn new(size: usize, linger: Duration, in_flight: usize) -> Self {
        Self(Batcher::new(size, linger, in_flight))
    }

    pub fn push(&mut self, now: Instant, entry: u64) {
        self.0.push(now, entry);
    }

    pub fn take(&mut self, now: Instant) -> Option<Vec<u64>> {
        self.0.take(now, false)
    }

    pub fn returned(&mut self) {
        self.0.returned();
    }
}

/// When what is held is extended next.
#[derive(Default)]
pub struct Leases(Deadlines);

impl Leases {
    pub fn set(&mut self, id: u64, at: Instant) {
        self.0.set(id, at);
    }

    pub fn clear(&mut self, id: u64) -> bool {
        self.0.clear(id)
    }

    pub fn take_due(&mut self, until: Instant) -> Vec<u64> {
        self.0.take_due(until)
    }

    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        self.0.next_at()
    }
}
