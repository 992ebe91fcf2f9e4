//! What a replay did.

use std::collections::BTreeMap;

/// The most failures that a report names; all are counted.
const MAX_FAILURES: usize = 100;

/// The most reasons that are counted apart.
const MAX_REASONS: usize = 100;

/// What a replay did, or would do. Every message seen is in exactly one of the counts from `replayed` to `failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayReport {
    /// Messages looked at.
    pub seen: u64,
    /// Messages sent and confirmed; in a dry run, those that would be.
    pub replayed: u64,
    /// Messages that were sent by an earlier run of the job (says its journal) and now were only deleted.
    pub resumed: u64,
    /// Messages left because their key is completed.
    pub completed: u64,
    /// Messages deleted because their key is completed.
    pub dropped: u64,
    /// Messages left because the filter said no.
    pub skipped: u64,
    /// Messages left because an earlier one of their FIFO group was.
    pub behind_group: u64,
    /// FIFO groups that were not seen to their end: what is left of them hides what comes behind, but for the first ten.
    pub unseen_groups: u64,
    /// Messages left because the limit was reached or the replay was ended before their turn.
    pub not_reached: u64,
    /// Messages left because they died again since they were replayed by this run, or by an earlier one of the job as far as
    /// its journal knows.
    pub came_back: u64,
    /// Messages left because they could not be replayed.
    pub failed: u64,
    /// Why: the first hundred.
    pub failures: Vec<ReplayFailure>,
    /// Of those that failed, the messages for which there is no queue: see [`Replay::to_sources`](super::Replay::to_sources).
    pub unrouted: u64,
    /// Of those this run replayed, how many are known to have died again: they came back, or the inbox says so.
    pub died_again: u64,
    /// Of those this run replayed, how many the inbox is known to have as completed since; followed only with
    /// [`watch`](super::Replay::watch) or [`stop_when`](super::Replay::stop_when).
    pub handled: u64,
    /// Of those replayed, the messages without an envelope for which no key was found but their MessageId in the dead-letter
    /// queue: workers with keys of their own would know them by another. See [`keys`](super::Replay::keys) and
    /// [`keys_by_worker`](super::Replay::keys_by_worker).
    pub keyed_by_message_id: u64,
    /// Of those sent, the messages that could not be deleted: they are in both queues, and their key tells.
    pub not_deleted: u64,
    /// Of those dropped, the messages that could not be deleted: they come back.
    pub not_dropped: u64,
    /// Messages that could not be given back, or no longer be held: they come back by themselves.
    pub lost_hold: u64,
    /// What was seen and replayed, by reason.
    pub by_reason: BTreeMap<String, ReasonCount>,
    /// Why it ended.
    pub end: ReplayEnd,
}

/// A reason's share in a [`ReplayReport`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReasonCount {
    /// Messages looked at.
    pub seen: u64,
    /// Messages replayed; in a dry run, those that would be.
    pub replayed: u64,
}

/// A message that could not be replayed. It is where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayFailure {
    /// Its MessageId in the dead-letter queue.
    pub message_id: String,
    /// Its key.
    pub key: String,
    /// Why.
    pub error: String,
}

/// Why a replay ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplayEnd {
    /// Nothing more could be received.
    #[default]
    Exhausted,
    /// As many were replayed as were asked for.
    Limit,
    /// It was cancelled.
    Cancelled,
    /// The rule said so that was set with [`stop_when`](super::Replay::stop_when).
    Stopped,
    /// No more can be in flight on the dead-letter queue: what was left is in the way.
    InFlightLimit,
    /// It failed; the error says why.
    Failed,
}

impl ReplayReport {
    pub(super) fn reason(&mut self, reason: &str) -> &mut ReasonCount {
        let known = self.by_reason.contains_key(reason) || self.by_reason.len() < MAX_REASONS;
        self.by_reason
            .entry(if known { reason } else { "(others)" }.to_owned())
            .or_default()
    }

    pub(super) fn fail(&mut self, message_id: &str, key: &str, error: String) {
        self.failed += 1;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(ReplayFailure {
                message_id: message_id.to_owned(),
                key: key.to_owned(),
                error,
            });
        }
    }
}
