//! Entries by a moment of theirs.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Instant;

/// Entries in the order of a moment of theirs, and of sending where the moments are equal.
///
/// What one call sends or hands out shares a moment, so the moments are far fewer than the entries, and most steps look at
/// one or two short lists. That holds without it too: each step costs O(log n).
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// No moment is without an entry.
    moments: BTreeMap<Instant, BTreeSet<u64>>,
    len: usize,
}

impl Schedule {
    pub(super) fn insert(&mut self, moment: Instant, seq: u64) {
        self.len += usize::from(self.moments.entry(moment).or_default().insert(seq));
    }

    pub(super) fn remove(&mut self, moment: Instant, seq: u64) {
        let Some(entries) = self.moments.get_mut(&moment) else {
            return;
        };
        self.len -= usize::from(entries.remove(&seq));
        if entries.is_empty() {
            self.moments.remove(&moment);
        }
    }

    pub(super) fn first(&self) -> Option<(Instant, u64)> {
        let (moment, entries) = self.moments.first_key_value()?;
        Some((*moment, *entries.first()?))
    }

    /// Takes the first one off, if its moment is not after `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, u64)> {
        let mut first = self.moments.first_entry().filter(|first| *first.key() <= now)?;
        let due = (*first.key(), first.get_mut().pop_first()?);
        self.len -= 1;
        if first.get().is_empty() {
            first.remove();
        }
        Some(due)
    }

    pub(super) fn nth(&self, nth: usize) -> Option<u64> {
        match nth {
            0 => self.first().map(|(_, seq)| seq),
            _ => self.moments.values().flatten().nth(nth).copied(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, Random};

    #[tokio::test]
    async fn it_agrees_with_a_set_of_moments_and_entries() {
        let start = Clock::system().now();
        let dice = Random::seeded(11);
        let mut schedule = Schedule::default();
        let mut set: BTreeSet<(Instant, u64)> = BTreeSet::new();
        for _ in 0..20_000 {
            let moment = start + Duration::from_millis(dice.below(20));
            let seq = dice.below(20);
            match dice.below(8) {
                0..=3 => {
                    schedule.insert(moment, seq);
                    set.insert((moment, seq));
                }
                4..=5 => {
                    schedule.remove(moment, seq);
                    set.remove(&(moment, seq));
                }
                6 => {
                    let due = set.first().copied().filter(|(first, _)| *first <= moment);
                    assert_eq!(schedule.pop_due(moment), due);
                    due.inspect(|due| assert!(set.remove(due)));
                }
                _ => {
                    let nth = usize::try_from(dice.below(100)).unwrap();
                    assert_eq!(schedule.nth(nth), set.iter().nth(nth).map(|(_, seq)| *seq));
                }
            }
            assert_eq!((schedule.first(), schedule.len()), (set.first().copied(), set.len()));
            assert!(schedule.moments.values().all(|entries| !entries.is_empty()));
        }
    }
}
