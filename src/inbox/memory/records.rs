//! The records of an embedded inbox, by key and by when they end.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use crate::inbox::Record;
use crate::key::RecordKey;

/// Records that are found by their key, and deleted when they have ended.
#[derive(Default)]
pub(super) struct Records {
    /// Where each key's record stands. Only looked up in, for its order is no order.
    places: HashMap<RecordKey, usize>,
    /// The records, with gaps where some were deleted.
    held: Vec<Option<Held>>,
    gaps: Vec<usize>,
    /// By the second in which to see whether a record has expired: which of the 64 places from one on. A record that is kept
    /// longer than it was to be stays here as it is until then, so that its change costs nothing. No entry is empty.
    looks: BTreeMap<(u64, usize), u64>,
}

struct Held {
    // Boxed, for that is how decisions make them.
    record: Box<Record>,
    /// The second it stands under in `looks`, never after the one it expires in.
    look_at: u64,
}

impl Records {
    pub(super) fn get(&self, key: &RecordKey) -> Option<&Record> {
        self.at(*self.places.get(key)?)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// All of them, in the order of their keys.
    pub(super) fn sorted(&self) -> Vec<Record> {
        let mut records: Vec<Record> = self.held.iter().flatten().map(|held| (*held.record).clone()).collect();
        records.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        records
    }

    /// Decides on the record of `key`: what is to stand there from now on, if that changes, and an answer.
    pub(super) fn change<T>(
        &mut self,
        key: &RecordKey,
        decide: impl FnOnce(Option<&Record>) -> (Option<Box<Record>>, T),
    ) -> T {
        match self.places.entry(key.clone()) {
            Entry::Occupied(entry) => {
                let place = *entry.get();
                let (record, answer) = decide(self.at(place));
                if let Some(record) = record {
                    self.replace(place, record);
                }
                answer
            }
            Entry::Vacant(entry) => {
                let (record, answer) = decide(None);
                if let Some(record) = record {
                    let look_at = record.expires_at;
                    let held = Some(Held { record, look_at });
                    let place = match self.gaps.pop() {
                        Some(gap) => {
                            self.held[gap] = held;
                            gap
                        }
                        None => {
                            self.held.push(held);
                            self.held.len() - 1
                        }
                    };
                    entry.insert(place);
                    self.look(look_at, place);
                }
                answer
            }
        }
    }

    pub(super) fn put(&mut self, record: Box<Record>) {
        let key = record.key.clone();
        self.change(&key, |_| (Some(record), ()));
    }

    pub(super) fn take(&mut self, key: &RecordKey) -> Option<Record> {
        let place = self.places.remove(key)?;
        let held = self.held.get_mut(place)?.take()?;
        self.gaps.push(place);
        self.forget(held.look_at, place);
        Some(*held.record)
    }

    /// Deletes those that expire in the second `before` or earlier.
    pub(super) fn purge(&mut self, before: u64) {
        while let Some((&(second, places), bits)) = self.looks.first_key_value() {
            if second > before {
                return;
            }
            let place = places * 64 + bits.trailing_zeros() as usize;
            self.forget(second, place);
            let Some(held) = self.held.get_mut(place).and_then(Option::as_mut) else {
                continue;
            };
            if held.record.expires_at > before {
                let later = held.record.expires_at;
                held.look_at = later;
                self.look(later, place);
                continue;
            }
            self.places.remove(&held.record.key);
            self.held[place] = None;
            self.gaps.push(place);
        }
    }

    fn at(&self, place: usize) -> Option<&Record> {
        self.held.get(place)?.as_ref().map(|held| &*held.record)
    }

    fn replace(&mut self, place: usize, record: Box<Record>) {
        let Some(held) = self.held.get_mut(place).and_then(Option::as_mut) else {
            return;
        };
        let (expires_at, look_at) = (record.expires_at, held.look_at);
        held.record = record;
        if expires_at < look_at {
            held.look_at = expires_at;
            self.forget(look_at, place);
            self.look(expires_at, place);
        }
    }

    fn look(&mut self, second: u64, place: usize) {
        let (places, bit) = ((second, place / 64), 1 << (place % 64));
        // Mostly the last entry is the one, and is found without a search.
        match self.looks.last_entry() {
            Some(mut last) if *last.key() == places => *last.get_mut() |= bit,
            _ => *self.looks.entry(places).or_default() |= bit,
        }
    }

    fn forget(&mut self, second: u64, place: usize) {
        let places = (second, place / 64);
        if let Some(bits) = self.looks.get_mut(&places) {
            *bits &= !(1 << (place % 64));
            if *bits == 0 {
                self.looks.remove(&places);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::clock::Random;
    use crate::key::Key;

    #[test]
    fn they_are_a_map_by_key_that_loses_what_has_expired() {
        let dice = Random::seeded(5);
        let mut records = Records::default();
        let mut plain: BTreeMap<RecordKey, Record> = BTreeMap::new();
        let (mut now, mut purged) = (0, 0);
        for round in 0..20_000 {
            let key = RecordKey::new("orders", &Key::new(dice.below(200).to_string()));
            match dice.below(8) {
                0..=3 => {
                    let mut record = Record::new(key.clone());
                    record.expires_at = now + dice.below(50);
                    record.fencing_token = round;
                    let before = records.change(&key, |old| (Some(Box::new(record.clone())), old.cloned()));
                    assert_eq!(before, plain.insert(key, record));
                }
                4 => assert_eq!(
                    records.change(&key, |old| (None, old.cloned())),
                    plain.get(&key).cloned()
                ),
                5 => assert_eq!(records.take(&key), plain.remove(&key)),
                6 => assert_eq!(records.get(&key), plain.get(&key)),
                _ => {
                    now += dice.below(10);
                    records.purge(now);
                    purged += plain.extract_if(.., |_, record| record.expires_at <= now).count();
                }
            }
            assert_eq!(records.len(), plain.len());
            assert_eq!(records.held.len() - records.gaps.len(), plain.len(), "no place is lost");
            let looks: u32 = records.looks.values().map(|bits| bits.count_ones()).sum();
            assert_eq!(looks as usize, plain.len());
            assert!(records.looks.values().all(|bits| *bits != 0));
            if round % 50 == 0 {
                assert_eq!(records.sorted(), plain.values().cloned().collect::<Vec<_>>());
            }
        }
        assert!(purged > 1_000, "{purged}");
    }
}
