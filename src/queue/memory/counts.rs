//! How many calls a queue was asked.

/// The calls made to an embedded queue. Failed calls count, as they do for a client of SQS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallCounts {
    /// Receives, those that still wait among them.
    pub receive: u64,
    /// Receives that ended without a message.
    pub empty_receives: u64,
    /// Messages that receives answered.
    pub received: u64,
    /// Delete batches.
    pub delete: u64,
    /// Entries of delete batches.
    pub delete_entries: u64,
    /// Deletes that succeeded and deleted nothing: the receipt handle was stale, or the message gone.
    pub stale_deletes: u64,
    /// Change-visibility batches.
    pub change_visibility: u64,
    /// Entries of change-visibility batches.
    pub change_visibility_entries: u64,
    /// Send batches.
    pub send: u64,
    /// Entries of send batches.
    pub send_entries: u64,
    /// Reads of the queue's attributes.
    pub describe: u64,
}

impl CallCounts {
    /// All calls, each batch as one.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.receive + self.delete + self.change_visibility + self.send + self.describe
    }
}

pub(super) fn count<T>(entries: &[T]) -> u64 {
    u64::try_from(entries.len()).unwrap_or(u64::MAX)
}
