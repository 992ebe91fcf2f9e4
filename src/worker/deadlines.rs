//! One deadline per held delivery, in order of time: what replaces a timer and a task per message.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::item::{Id, IdMap};
use crate::clock::Instant;

/// Entries of the heap that are no longer good, at most, beyond as many as there are deadlines.
const MOST_STALE: usize = 64;

/// The next deadline of each id. Setting one replaces the id's earlier one.
///
/// Nearly every deadline is cleared before it is due, because its message is done. So clearing only forgets it; its entry in the heap
/// goes when it comes to the top, or with all other stale ones when these are the greater part.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// The first one is always good.
    heap: BinaryHeap<Reverse<(Instant, Id)>>,
    at: IdMap<Instant>,
}

impl Deadlines {
    pub(super) fn set(&mut self, id: Id, at: Instant) {
        if self.at.insert(id, at) != Some(at) {
            self.heap.push(Reverse((at, id)));
            self.drop_stale();
        }
    }

    pub(super) fn at(&self, id: Id) -> Option<Instant> {
        self.at.get(&id).copied()
    }

    /// All that have a deadline, earliest first.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        let mut due: Vec<(Instant, Id)> = self.at.iter().map(|(&id, &at)| (at, id)).collect();
        due.sort_unstable();
        due.into_iter().map(|(_, id)| id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Answers whether there was one.
    pub(super) fn clear(&mut self, id: Id) -> bool {
        let was = !self.at.is_empty() && self.at.remove(&id).is_some();
        if was {
            self.drop_stale();
        }
        was
    }

    /// Takes out all whose deadline is not after `until`, earliest first.
    pub(super) fn take_due(&mut self, until: Instant) -> Vec<Id> {
        let mut ids = Vec::new();
        while let Some(&Reverse((at, id))) = self.heap.peek() {
            if at > until {
                break;
            }
            self.heap.pop();
            self.at.remove(&id);
            ids.push(id);
            self.drop_stale();
        }
        ids
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|&Reverse((at, _))| at)
    }

    fn drop_stale(&mut self) {
        let at = &self.at;
        let is_good = |&Reverse((due, id)): &Reverse<(Instant, Id)>| at.get(&id) == Some(&due);
        while self.heap.peek().is_some_and(|first| !is_good(first)) {
            self.heap.pop();
        }
        if self.heap.len() > 2 * at.len() + MOST_STALE {
            self.heap.retain(is_good);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use std::time::Duration;

    #[test]
    fn an_id_has_one_deadline_and_they_come_in_order() {
        let now = Clock::system().now();
        let later = |s| now + Duration::from_secs(s);
        let mut deadlines = Deadlines::default();
        deadlines.set(1, later(5));
        deadlines.set(2, later(3));
        deadlines.set(1, later(1));
        deadlines.set(3, later(9));
        assert!(deadlines.clear(3));
        assert!(!deadlines.clear(3));
        assert_eq!((deadlines.next_at(), deadlines.at(2)), (Some(later(1)), Some(later(3))));
        assert_eq!(deadlines.ids().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(deadlines.take_due(later(9)), vec![1, 2]);
        assert!(deadlines.is_empty() && deadlines.next_at().is_none());
    }

    #[test]
    fn a_deadline_set_back_and_forth_is_due_once() {
        let now = Clock::system().now();
        let later = |s| now + Duration::from_secs(s);
        let mut deadlines = Deadlines::default();
        for at in [5, 3, 5, 3] {
            deadlines.set(1, later(at));
        }
        assert_eq!(deadlines.take_due(later(4)), vec![1]);
        assert_eq!(deadlines.next_at(), None);
        assert_eq!(deadlines.take_due(later(9)), Vec::<Id>::new());
    }

    #[test]
    fn inv05_deadlines_that_were_cleared_take_no_room() {
        let now = Clock::system().now();
        let mut deadlines = Deadlines::default();
        deadlines.set(0, now);
        for id in 1..100_000 {
            deadlines.set(id, now + Duration::from_secs(15));
            assert!(deadlines.clear(id));
        }
        assert!(deadlines.heap.len() <= MOST_STALE + 2, "{}", deadlines.heap.len());
    }
}

#[cfg(test)]
mod model {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    proptest! {
        /// As a map that is searched from end to end.
        #[test]
        fn deadlines_are_what_was_set_last(steps in prop::collection::vec((0..4_u8, 0..12_u64, 0..40_u64), 0..400)) {
            let now = Clock::system().now();
            let mut deadlines = Deadlines::default();
            let mut model: BTreeMap<Id, Instant> = BTreeMap::new();
            for (kind, id, after) in steps {
                let at = now + Duration::from_secs(after);
                match kind {
                    0 | 1 => {
                        deadlines.set(id, at);
                        model.insert(id, at);
                    }
                    2 => prop_assert_eq!(deadlines.clear(id), model.remove(&id).is_some()),
                    _ => {
                        let mut due: Vec<_> = model.iter().filter(|(_, due)| **due <= at).map(|(&id, &due)| (due, id)).collect();
                        due.sort_unstable();
                        model.retain(|_, due| *due > at);
                        let due: Vec<Id> = due.into_iter().map(|(_, id)| id).collect();
                        prop_assert_eq!(deadlines.take_due(at), due);
                    }
                }
                prop_assert_eq!(deadlines.next_at(), model.values().min().copied());
                prop_assert_eq!(deadlines.is_empty(), model.is_empty());
                prop_assert_eq!(deadlines.at(id), model.get(&id).copied());
                prop_assert!(deadlines.heap.len() <= 2 * model.len() + MOST_STALE);
            }
        }
    }
}
