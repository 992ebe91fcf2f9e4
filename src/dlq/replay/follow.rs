//! What becomes of what was sent, as the inbox tells it. Pure: it says whose record is to be read, and is told what it says.

use std::collections::VecDeque;

use crate::inbox::{Record, Status};
use crate::key::RecordKey;

/// The most messages that are followed; beyond, the oldest are let go.
const MOST: usize = 10_000;

/// How many records are read at a time.
const AT_ONCE: usize = 100;

/// A message that was sent and is not known to have ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Followed {
    pub(super) key: RecordKey,
    /// The fencing token that its record had before it was sent.
    pub(super) before: u64,
    pub(super) work: u128,
}

/// How a message that was sent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Handled,
    Died,
}

/// What was sent and is not known to have ended.
#[derive(Debug, Default)]
pub(super) struct Follow {
    open: VecDeque<Followed>,
    /// How many records are being read.
    reading: usize,
    /// Some were let go: the end of all will never be known.
    let_go: bool,
}

impl Follow {
    pub(super) fn add(&mut self, followed: Followed) {
        if self.open.len() >= MOST {
            self.open.pop_front();
            self.let_go = true;
        }
        self.open.push_back(followed);
    }

    /// Takes those whose records are to be read next, the longest unread first.
    pub(super) fn take(&mut self) -> Vec<Followed> {
        let many = self.open.len().min(AT_ONCE);
        self.reading += many;
        self.open.drain(..many).collect()
    }

    /// Notes that one that was taken has ended, or, if it is given back, has not.
    pub(super) fn read(&mut self, still_open: Option<Followed>) {
        self.reading = self.reading.saturating_sub(1);
        self.open.extend(still_open);
    }

    /// Whether the end of all that was sent is known.
    pub(super) fn all_known(&self) -> bool {
        self.open.is_empty() && self.reading == 0 && !self.let_go
    }
}

/// How it ended, if its record says so.
pub(super) fn end_of(followed: &Followed, record: Option<&Record>) -> Option<End> {
    let record = record?;
    match record.status {
        Status::Completed => Some(End::Handled),
        // A rejection of the same claim as before is the death from which it was replayed.
        Status::Rejected if record.fencing_token > followed.before => Some(End::Died),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::key::Key;

    fn followed(n: usize) -> Followed {
        Followed {
            key: RecordKey::new("orders", &Key::new(format!("k{n}"))),
            before: 7,
            work: n as u128,
        }
    }

    #[test]
    fn a_rejection_counts_only_if_it_is_of_a_later_claim() {
        let mut record = Record::new(followed(0).key);
        let mut end = |status, token| {
            record.status = status;
            record.fencing_token = token;
            end_of(&followed(0), Some(&record))
        };
        assert_eq!(end(Status::Rejected, 7), None);
        assert_eq!(end(Status::Processing, 8), None);
        assert_eq!(end(Status::Released, 8), None);
        assert_eq!(end(Status::Rejected, 8), Some(End::Died));
        assert_eq!(end(Status::Completed, 8), Some(End::Handled));
        assert_eq!(end_of(&followed(0), None), None);
    }

    #[test]
    fn inv05_what_is_followed_is_bounded_and_then_never_all_known() {
        let mut follow = Follow::default();
        for n in 0..MOST {
            follow.add(followed(n));
        }
        let drain = |follow: &mut Follow| loop {
            let taken = follow.take();
            if taken.is_empty() {
                return;
            }
            assert!(taken.len() <= AT_ONCE && !follow.all_known());
            taken.iter().for_each(|_| follow.read(None));
        };
        drain(&mut follow);
        assert!(follow.all_known());
        for n in 0..=MOST {
            follow.add(followed(n));
        }
        assert_eq!(follow.open.len(), MOST);
        drain(&mut follow);
        assert!(!follow.all_known());
    }
}
