//! Which entries are of which MessageId.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The entries of each MessageId: more than one where the queue holds duplicates.
#[derive(Debug, Default)]
pub(super) struct Ids {
    // Only looked up in, for its order is no order.
    entries: HashMap<String, Copies, BuildHasherDefault<IdHasher>>,
}

/// The entries of one MessageId, in the order of their making.
#[derive(Debug)]
struct Copies {
    first: u64,
    more: Vec<u64>,
}

impl Ids {
    pub(super) fn add(&mut self, id: &str, seq: u64) {
        match self.entries.get_mut(id) {
            Some(copies) => copies.more.push(seq),
            None => {
                let more = Vec::new();
                self.entries.insert(id.to_owned(), Copies { first: seq, more });
            }
        }
    }

    pub(super) fn remove(&mut self, id: &str, seq: u64) {
        // Few have copies, and without any it is gone at the first go.
        let Some((id, mut copies)) = self.entries.remove_entry(id) else {
            return;
        };
        if copies.first != seq {
            copies.more.retain(|held| *held != seq);
        } else if copies.more.is_empty() {
            return;
        } else {
            copies.first = copies.more.remove(0);
        }
        self.entries.insert(id, copies);
    }

    /// How many MessageIds have an entry.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn first(&self, id: &str) -> Option<u64> {
        self.entries.get(id).map(|copies| copies.first)
    }

    /// The entries of a MessageId, in the order of their making.
    pub(super) fn of(&self, id: &str) -> impl Iterator<Item = u64> {
        let copies = self.entries.get(id);
        copies
            .into_iter()
            .flat_map(|copies| std::iter::once(copies.first).chain(copies.more.iter().copied()))
    }
}

/// For MessageIds, which the queue mints itself and of random numbers: nobody can choose them so that they collide.
#[derive(Default)]
struct IdHasher(u64);

impl IdHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.mix(u64::from(*byte));
        }
    }

    /// What ends a text: there is nothing after it that it could run together with.
    fn write_u8(&mut self, _: u8) {}

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_kept_in_order_and_forgotten_one_by_one() {
        let mut ids = Ids::default();
        for (id, seq) in [("a", 0), ("b", 1), ("a", 2), ("a", 5)] {
            ids.add(id, seq);
        }
        let of = |ids: &Ids, id| ids.of(id).collect::<Vec<_>>();
        assert_eq!((of(&ids, "a"), of(&ids, "b"), ids.len()), (vec![0, 2, 5], vec![1], 2));
        ids.remove("a", 2);
        assert_eq!(of(&ids, "a"), [0, 5]);
        ids.remove("a", 7);
        ids.remove("a", 0);
        assert_eq!((of(&ids, "a"), ids.first("a")), (vec![5], Some(5)));
        ids.remove("a", 5);
        ids.remove("a", 5);
        assert_eq!((of(&ids, "a"), ids.first("a"), ids.len()), (vec![], None, 1));
    }
}
