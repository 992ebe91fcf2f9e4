//! The held messages of each FIFO group, in order. Only the head of a group may run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::item::Id;

#[derive(Debug, Default)]
pub(super) struct Groups {
    queues: BTreeMap<Arc<str>, VecDeque<Id>>,
    held: usize,
}

impl Groups {
    pub(super) fn push(&mut self, group: &Arc<str>, id: Id) {
        self.queues.entry(Arc::clone(group)).or_default().push_back(id);
        self.held += 1;
    }

    /// How many wait for another of their group: more of those would not keep a handler busy.
    pub(super) fn behind(&self) -> usize {
        self.held - self.queues.len()
    }

    pub(super) fn is_head(&self, group: &str, id: Id) -> bool {
        self.queues.get(group).and_then(VecDeque::front) == Some(&id)
    }

    /// Takes `id` out; answers the group's new head if it was the head.
    pub(super) fn remove(&mut self, group: &str, id: Id) -> Option<Id> {
        let queue = self.queues.get_mut(group)?;
        let was_head = queue.front() == Some(&id);
        let before = queue.len();
        queue.retain(|&held| held != id);
        self.held -= before - queue.len();
        let head = queue.front().copied();
        if queue.is_empty() {
            self.queues.remove(group);
        }
        head.filter(|_| was_head)
    }

    /// Takes out those behind `id`, in order. What is before it stays: it may run.
    pub(super) fn take_behind(&mut self, group: &str, id: Id) -> Vec<Id> {
        let Some(queue) = self.queues.get_mut(group) else {
            return Vec::new();
        };
        let at = queue.iter().position(|&held| held == id);
        let behind: Vec<Id> = at.map_or_else(Vec::new, |at| queue.split_off(at + 1).into());
        self.held -= behind.len();
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inv07_only_the_head_of_a_group_may_run() {
        let group: Arc<str> = "g".into();
        let other: Arc<str> = "h".into();
        let mut groups = Groups::default();
        for id in 1..=3 {
            groups.push(&group, id);
        }
        groups.push(&other, 9);
        assert!(groups.is_head("g", 1) && !groups.is_head("g", 2) && groups.is_head("h", 9));
        assert_eq!(groups.behind(), 2);
        assert_eq!(
            groups.remove("g", 2),
            None,
            "taking one out of the middle moves no head"
        );
        assert_eq!(groups.remove("g", 1), Some(3));
        groups.push(&group, 4);
        assert_eq!(groups.take_behind("g", 3), vec![4]);
        assert_eq!(groups.remove("g", 3), None);
        assert_eq!(groups.behind(), 0);
        assert!(!groups.is_head("g", 3));
    }

    #[test]
    fn inv07_what_goes_back_takes_along_only_what_is_behind_it() {
        let group: Arc<str> = "g".into();
        let mut groups = Groups::default();
        for id in 1..=4 {
            groups.push(&group, id);
        }
        assert_eq!(groups.take_behind("g", 2), vec![3, 4]);
        assert!(groups.is_head("g", 1), "the head runs on");
        assert_eq!(groups.take_behind("g", 9), Vec::<Id>::new());
        assert_eq!(groups.take_behind("h", 1), Vec::<Id>::new());
        assert_eq!(groups.remove("g", 1), Some(2));
    }
}
