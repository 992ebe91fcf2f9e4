//! One deadline per held delivery, in order of time: what replaces a timer and a task per message.

use std::collections::{BTreeSet, HashMap};

use super::item::Id;
use crate::clock::Instant;

/// The next deadline of each id. Setting one replaces the id's earlier one.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    due: BTreeSet<(Instant, Id)>,
    at: HashMap<Id, Instant>,
}

impl Deadlines {
    pub(super) fn set(&mut self, id: Id, at: Instant) {
        if let Some(old) = self.at.insert(id, at) {
            self.due.remove(&(old, id));
        }
        self.due.insert((at, id));
    }

    pub(super) fn at(&self, id: Id) -> Option<Instant> {
        self.at.get(&id).copied()
    }

    /// All that have a deadline, earliest first.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        self.due.iter().map(|&(_, id)| id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Answers whether there was one.
    pub(super) fn clear(&mut self, id: Id) -> bool {
        let old = self.at.remove(&id);
        if let Some(old) = old {
            self.due.remove(&(old, id));
        }
        old.is_some()
    }

    /// Takes out all whose deadline is not after `until`, earliest first.
    pub(super) fn take_due(&mut self, until: Instant) -> Vec<Id> {
        let mut ids = Vec::new();
        while let Some(&(at, id)) = self.due.first() {
            if at > until {
                break;
            }
            self.due.pop_first();
            self.at.remove(&id);
            ids.push(id);
        }
        ids
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.due.first().map(|&(at, _)| at)
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
}
