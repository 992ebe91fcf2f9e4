//! The groups of a FIFO queue: a group with a message in flight gives nothing.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

/// Groups in the order of their turns.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    by_name: HashMap<Rc<str>, usize>,
    turn: VecDeque<usize>,
    made: u64,
}

#[derive(Debug)]
struct Group {
    name: Rc<str>,
    /// The number of its next made message; none in a group that messages are only sent to.
    next: Option<u64>,
    /// The numbers of those that were sent, or came back.
    ready: BTreeSet<u64>,
    in_flight: usize,
    /// Whether it stands in the order of turns.
    queued: bool,
}

/// What a group gives next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// One that was sent or came back.
    Known(u64),
    /// One that is to be made.
    Made(u64),
}

impl Groups {
    /// Groups of made messages: number i is of group i mod `made`.
    pub(crate) fn new(made: u64) -> Self {
        let mut groups = Self {
            made,
            ..Self::default()
        };
        for rest in 0..made {
            let index = groups.index(&format!("group-{rest}"));
            groups.groups[index].next = Some(if rest == 0 { made } else { rest });
        }
        groups
    }

    /// The group of this name, made where there is none.
    pub(crate) fn index(&mut self, name: &str) -> usize {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let (index, name): (usize, Rc<str>) = (self.groups.len(), name.into());
        self.groups.push(Group {
            name: Rc::clone(&name),
            next: None,
            ready: BTreeSet::new(),
            in_flight: 0,
            queued: true,
        });
        self.by_name.insert(name, index);
        self.turn.push_back(index);
        index
    }

    pub(crate) fn name(&self, index: usize) -> Rc<str> {
        Rc::clone(&self.groups[index].name)
    }

    /// How many groups wait for their turn; so many are to be looked at by one receive.
    pub(crate) fn waiting(&self) -> usize {
        self.turn.len()
    }

    /// Takes the group whose turn it is out of the order; [`give_back`](Self::give_back) returns it there.
    pub(crate) fn turn(&mut self) -> Option<usize> {
        let index = self.turn.pop_front()?;
        self.groups[index].queued = false;
        Some(index)
    }

    /// Lets the group wait for its next turn, unless it has messages in flight.
    pub(crate) fn give_back(&mut self, index: usize) {
        let group = &mut self.groups[index];
        if group.in_flight == 0 && !group.queued {
            group.queued = true;
            self.turn.push_back(index);
        }
    }

    /// The next message of a group, `last` being the last made one that is there.
    pub(crate) fn take(&mut self, index: usize, last: u64) -> Option<Next> {
        let made = self.made;
        let group = &mut self.groups[index];
        let fresh = group.next.filter(|next| *next <= last);
        match (group.ready.first().copied(), fresh) {
            (Some(known), fresh) if fresh.is_none_or(|fresh| known < fresh) => {
                group.ready.remove(&known);
                Some(Next::Known(known))
            }
            (_, Some(fresh)) => {
                group.next = Some(fresh + made);
                Some(Next::Made(fresh))
            }
            _ => None,
        }
    }

    /// A message of the group was handed out.
    pub(crate) fn went_out(&mut self, index: usize) {
        self.groups[index].in_flight += 1;
    }

    /// One that was handed out is handed out no more.
    pub(crate) fn came_in(&mut self, index: usize) {
        let group = &mut self.groups[index];
        group.in_flight = group.in_flight.saturating_sub(1);
        self.give_back(index);
    }

    /// A message of the group can be received, in the order of its number.
    pub(crate) fn ready(&mut self, index: usize, number: u64) {
        self.groups[index].ready.insert(number);
    }

    /// How many made messages up to `last` were not handed out yet.
    pub(crate) fn fresh(&self, last: u64) -> u64 {
        let of = |next: u64| if next > last { 0 } else { (last - next) / self.made + 1 };
        self.groups.iter().filter_map(|group| group.next).map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_gives_its_numbers_in_order_and_what_came_back_before_what_is_new() {
        let mut groups = Groups::new(3);
        let one = groups.index("group-1");
        assert_eq!(
            [(); 3].map(|()| groups.take(one, 100)),
            [1, 4, 7].map(|n| Some(Next::Made(n)))
        );
        groups.ready(one, 7);
        groups.ready(one, 4);
        assert_eq!(groups.take(one, 100), Some(Next::Known(4)));
        assert_eq!(groups.take(one, 100), Some(Next::Known(7)));
        assert_eq!(groups.take(one, 9), None);
        assert_eq!(groups.take(one, 10), Some(Next::Made(10)));
        let zero = groups.index("group-0");
        assert_eq!(groups.take(zero, 100), Some(Next::Made(3)));
        assert_eq!(groups.fresh(12), 7);
    }

    #[test]
    fn a_group_has_no_turn_while_one_of_it_is_out() {
        let mut groups = Groups::new(1);
        let group = groups.turn().unwrap();
        groups.went_out(group);
        groups.went_out(group);
        groups.give_back(group);
        assert_eq!(groups.turn(), None);
        groups.came_in(group);
        assert_eq!(groups.turn(), None);
        groups.came_in(group);
        assert_eq!((groups.waiting(), groups.turn()), (1, Some(group)));
    }
}
