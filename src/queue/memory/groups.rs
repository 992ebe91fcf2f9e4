//! FIFO message groups: who is in line, and which groups may be received from.

use std::collections::{BTreeMap, BTreeSet};

/// The groups of a FIFO queue. A group is open when its head is visible and none of it is in flight; it is opened anew by
/// [`Groups::refresh`] only.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: BTreeMap<String, Group>,
    /// The open groups by their head, so that the oldest message comes first.
    open: BTreeMap<u64, String>,
}

#[derive(Debug, Default)]
struct Group {
    members: BTreeSet<u64>,
    in_flight: usize,
    open_at: Option<u64>,
}

impl Groups {
    pub(super) fn join(&mut self, group: &str, seq: u64) {
        match self.groups.get_mut(group) {
            Some(group) => {
                group.members.insert(seq);
            }
            None => {
                self.groups.entry(group.to_owned()).or_default().members.insert(seq);
            }
        }
    }

    pub(super) fn leave(&mut self, group: &str, seq: u64) {
        if let Some(group) = self.groups.get_mut(group) {
            group.members.remove(&seq);
        }
    }

    /// One more of the group is in flight.
    pub(super) fn lock(&mut self, group: &str) {
        if let Some(group) = self.groups.get_mut(group) {
            group.in_flight += 1;
            if let Some(head) = group.open_at.take() {
                self.open.remove(&head);
            }
        }
    }

    /// One less of the group is in flight.
    pub(super) fn unlock(&mut self, group: &str) {
        if let Some(group) = self.groups.get_mut(group) {
            group.in_flight = group.in_flight.saturating_sub(1);
        }
    }

    /// Opens or closes a group by what it is now, and forgets it when it is empty.
    pub(super) fn refresh(&mut self, name: &str, visible: impl FnOnce(u64) -> bool) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let head = group.members.first().copied();
        let open_at = head.filter(|head| group.in_flight == 0 && visible(*head));
        if group.open_at != open_at {
            if let Some(old) = group.open_at.take() {
                self.open.remove(&old);
            }
            if let Some(new) = open_at {
                self.open.insert(new, name.to_owned());
            }
            group.open_at = open_at;
        }
        if head.is_none() {
            self.groups.remove(name);
        }
    }

    /// How many groups are open.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    pub(super) fn nth_open(&self, nth: usize) -> Option<String> {
        self.open.values().nth(nth).cloned()
    }

    /// The first members of a group, in order.
    pub(super) fn first_members(&self, group: &str, most: usize) -> Vec<u64> {
        let members = self.groups.get(group).map(|group| group.members.iter().copied());
        members.into_iter().flatten().take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_open_only_while_its_head_is_visible_and_none_of_it_is_in_flight() {
        let mut groups = Groups::default();
        groups.join("a", 1);
        groups.join("a", 2);
        groups.join("b", 3);
        groups.refresh("a", |_| true);
        groups.refresh("b", |_| false);
        assert_eq!((groups.open(), groups.nth_open(0).as_deref()), (1, Some("a")));
        assert_eq!(groups.first_members("a", 9), [1, 2]);
        groups.lock("a");
        groups.refresh("a", |_| true);
        assert_eq!(groups.open(), 0, "locked");
        groups.unlock("a");
        groups.leave("a", 1);
        groups.refresh("a", |_| true);
        assert_eq!(groups.first_members("a", 9), [2]);
        groups.leave("a", 2);
        groups.refresh("a", |_| true);
        assert_eq!(
            (groups.open(), groups.groups.len()),
            (0, 1),
            "an empty group is forgotten"
        );
    }
}
