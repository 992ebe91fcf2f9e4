//! Entries by a number that rises.

use std::collections::{BTreeMap, VecDeque};

/// Entries by their numbers, which are given out in order, so that almost all are found by counting.
///
/// Those that outlive most that came with them are kept apart, so that what it takes goes by how many entries there are and
/// not by how many there were.
#[derive(Debug)]
pub(super) struct Window<T> {
    /// The first number that is looked for in `recent`.
    first: u64,
    recent: VecDeque<Option<T>>,
    /// Those before `first`.
    old: BTreeMap<u64, T>,
    len: usize,
}

/// How many places there may be for each entry.
const SPARSE: usize = 8;

/// How many places there may be in any case.
const FEW: usize = 256;

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self {
            first: 0,
            recent: VecDeque::new(),
            old: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<T> Window<T> {
    /// Adds an entry under the next number.
    pub(super) fn push(&mut self, entry: T) {
        self.recent.push_back(Some(entry));
        self.len += 1;
    }

    /// The number that the next entry gets.
    pub(super) fn next(&self) -> u64 {
        self.first + self.recent.len() as u64
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        match self.place(number) {
            Some(place) => self.recent.get(place)?.as_ref(),
            None => self.old.get(&number),
        }
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        match self.place(number) {
            Some(place) => self.recent.get_mut(place)?.as_mut(),
            None => self.old.get_mut(&number),
        }
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let entry = match self.place(number) {
            Some(place) => self.recent.get_mut(place)?.take(),
            None => self.old.remove(&number),
        }?;
        self.len -= 1;
        while let Some(None) = self.recent.front() {
            self.recent.pop_front();
            self.first += 1;
        }
        if self.recent.len() > FEW + SPARSE * self.len {
            self.put_apart();
        }
        Some(entry)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All entries, in the order of their numbers.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.old.values().chain(self.recent.iter().flatten())
    }

    /// The least number of an entry.
    pub(super) fn first(&self) -> Option<u64> {
        let old = self.old.first_key_value().map(|(number, _)| *number);
        // What is at the front of the recent ones is never a gap.
        old.or_else(|| self.recent.front().map(|_| self.first))
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }

    /// Puts the older half apart, most of which is gaps.
    fn put_apart(&mut self) {
        let half = self.recent.len() / 2;
        for (number, entry) in (self.first..).zip(self.recent.drain(..half)) {
            if let Some(entry) = entry {
                self.old.insert(number, entry);
            }
        }
        self.first += half as u64;
        while let Some(None) = self.recent.front() {
            self.recent.pop_front();
            self.first += 1;
        }
        self.recent.shrink_to(2 * self.recent.len());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::clock::Random;

    #[test]
    fn it_is_a_map_by_numbers_and_takes_no_more_places_than_its_entries_need() {
        let dice = Random::seeded(3);
        let mut window = Window::default();
        let mut map: BTreeMap<u64, u64> = BTreeMap::new();
        let mut next = 0;
        let mut apart = 0;
        for round in 0..40_000_u64 {
            // Grows for a while, then shrinks, with stragglers.
            let grows = round / 5_000 % 2 == 0;
            if dice.chance(if grows { 0.6 } else { 0.2 }) {
                assert_eq!(window.next(), next);
                window.push(round);
                map.insert(next, round);
                next += 1;
            }
            let back = dice.below(if dice.chance(0.9) { 40 } else { next + 1 });
            let oldest = map.keys().nth(usize::try_from(back.min(60)).unwrap()).copied();
            let number = if dice.chance(0.5) {
                oldest.unwrap_or(0)
            } else {
                next.saturating_sub(back)
            };
            assert_eq!(window.get(number), map.get(&number));
            assert_eq!(window.get_mut(number), map.get_mut(&number));
            if dice.chance(0.6) {
                assert_eq!(window.remove(number), map.remove(&number));
            }
            assert_eq!((window.len(), window.first()), (map.len(), map.keys().next().copied()));
            assert!(window.recent.len() <= FEW + 1 + SPARSE * (window.len() + 1));
            apart = apart.max(window.old.len());
            if round % 100 == 0 {
                assert!(window.values().eq(map.values()));
            }
        }
        assert!(apart > 0, "some were put apart");
    }

    #[test]
    fn one_that_stays_takes_no_places_for_those_that_come_and_go() {
        let mut window = Window::default();
        window.push("stays");
        for number in 1..100_000 {
            window.push("goes");
            assert_eq!(window.remove(number), Some("goes"));
        }
        assert_eq!((window.get(0), window.len()), (Some(&"stays"), 1));
        assert!(window.recent.capacity() < 2_000, "{}", window.recent.capacity());
    }
}
