//! Entries by a moment of theirs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::clock::Instant;

/// Entries in the order of a moment of theirs, and of sending where the moments are equal.
///
/// What one call sends or hands out shares a moment and has numbers that are near each other, so one block holds most of it.
/// Each step costs O(log n) without that too.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Which of the 64 entries from a number on have this moment. No block is empty.
    blocks: BTreeMap<(Instant, u64), u64>,
    len: usize,
}

/// The block of an entry, and its bit there.
fn split(moment: Instant, seq: u64) -> ((Instant, u64), u64) {
    ((moment, seq / 64), 1 << (seq % 64))
}

/// The entry of a block's lowest bit.
fn lowest(block: u64, bits: u64) -> u64 {
    block * 64 + u64::from(bits.trailing_zeros())
}

impl Schedule {
    pub(super) fn insert(&mut self, moment: Instant, seq: u64) {
        let (block, bit) = split(moment, seq);
        let mut add = |bits: &mut u64| {
            self.len += usize::from(*bits & bit == 0);
            *bits |= bit;
        };
        // Mostly the last block is the one, and is found without a search.
        match self.blocks.last_entry() {
            Some(mut last) if *last.key() == block => add(last.get_mut()),
            _ => add(self.blocks.entry(block).or_default()),
        }
    }

    pub(super) fn remove(&mut self, moment: Instant, seq: u64) {
        let (block, bit) = split(moment, seq);
        // Mostly the first block is the one, and is found without a search.
        let mut held = match self.blocks.first_entry() {
            Some(first) if *first.key() == block => first,
            _ => match self.blocks.entry(block) {
                Entry::Occupied(held) => held,
                Entry::Vacant(_) => return,
            },
        };
        let bits = held.get_mut();
        self.len -= usize::from(*bits & bit != 0);
        *bits &= !bit;
        if *bits == 0 {
            held.remove();
        }
    }

    pub(super) fn first(&self) -> Option<(Instant, u64)> {
        let ((moment, block), bits) = self.blocks.first_key_value()?;
        Some((*moment, lowest(*block, *bits)))
    }

    /// Takes the first one off, if its moment is not after `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, u64)> {
        let first = self.first().filter(|(moment, _)| *moment <= now)?;
        self.remove(first.0, first.1);
        Some(first)
    }

    pub(super) fn nth(&self, mut nth: usize) -> Option<u64> {
        if nth == 0 {
            return self.first().map(|(_, seq)| seq);
        }
        for ((_, block), bits) in &self.blocks {
            let count = bits.count_ones() as usize;
            if nth < count {
                let rest = (0..nth).fold(*bits, |bits, _| bits & (bits - 1));
                return Some(lowest(*block, rest));
            }
            nth -= count;
        }
        None
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;
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
            let seq = dice.below(200);
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
            assert!(schedule.blocks.values().all(|bits| *bits != 0));
        }
    }
}
