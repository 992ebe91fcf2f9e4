//! How a FIFO queue is seen to its end although some of it is left. Pure: it says what is to be given back, so that it
//! comes again with what is behind it.
//!
//! SQS hands out nothing more of a group while one of it is held, and the first ten of it otherwise. So a letter that is
//! left hides those behind it for as long as it is held, and ten that are left hide them for good.

use std::collections::BTreeMap;

use crate::queue::MAX_BATCH;

/// A letter of a page, once the page is done.
#[derive(Clone, Debug)]
pub(super) struct Looked {
    pub(super) group: String,
    pub(super) number: u64,
    /// It was not seen before.
    pub(super) news: bool,
    /// It is still held: neither sent nor dropped.
    pub(super) left: bool,
    /// One before it in its group was left, and it is for that reason.
    pub(super) behind: bool,
}

/// The groups in which something was left.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: BTreeMap<String, Group>,
    /// The whole queue was seen once, but for what is hidden.
    through: bool,
}

#[derive(Debug)]
struct Group {
    /// The numbers under which what is left of it is held.
    held: Vec<u64>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All of it was given back, and comes again.
    Returned(usize),
    /// There may be more behind what is held.
    Unsure,
    /// There is no more; or it is known that there is, and it is to stay.
    Ended,
    /// There may be more, and it cannot be seen.
    Hidden,
}

impl Groups {
    /// Takes in a page that is done; `full` where no more could have come with it. Says which are to be given back now.
    pub(super) fn page(&mut self, page: &[Looked], full: bool) -> Vec<u64> {
        let mut of_page: BTreeMap<&str, Vec<&Looked>> = BTreeMap::new();
        for letter in page {
            of_page.entry(&letter.group).or_default().push(letter);
        }
        let mut back = Vec::new();
        for (name, letters) in of_page {
            let returned = match self.groups.get(name).map(|group| group.state) {
                Some(State::Returned(many)) => many,
                _ => 0,
            };
            let mut held = self.groups.remove(name).map_or_else(Vec::new, |group| group.held);
            held.extend(letters.iter().filter(|letter| letter.left).map(|letter| letter.number));
            if held.is_empty() {
                continue;
            }
            let moved = letters.iter().any(|letter| !letter.left);
            let news = letters.iter().any(|letter| letter.news);
            let state = if letters.iter().any(|letter| letter.behind) {
                State::Ended
            } else if held.len() >= MAX_BATCH {
                State::Hidden
            } else if moved && news {
                // It is likely to be long.
                let many = held.len();
                back.append(&mut held);
                State::Returned(many)
            } else if news || full || letters.len() < returned {
                State::Unsure
            } else {
                State::Ended
            };
            self.groups.insert(name.to_owned(), Group { held, state });
        }
        back.sort_unstable();
        back
    }

    /// Nothing more comes while all is held that is.
    pub(super) fn exhausted(&mut self) {
        self.through = true;
    }

    /// What is to be given back to see what is behind it, a few groups at a time: so few that something new must come with
    /// them where there is more than a receive can bring. Nothing while what was given back before has not come again,
    /// unless `nothing_comes`.
    pub(super) fn look_behind(&mut self, nothing_comes: bool) -> Vec<u64> {
        let awaited = |group: &Group| matches!(group.state, State::Returned(_));
        if !self.through || !nothing_comes && self.groups.values().any(awaited) {
            return Vec::new();
        }
        let mut back = Vec::new();
        for group in self.groups.values_mut().filter(|group| group.state == State::Unsure) {
            if back.len() + group.held.len() < MAX_BATCH {
                group.state = State::Returned(group.held.len());
                back.append(&mut group.held);
            }
        }
        back.sort_unstable();
        back
    }

    /// How many groups were not seen to their end.
    pub(super) fn unseen(&self) -> u64 {
        let ended = |group: &&Group| group.state == State::Ended;
        (self.groups.len() - self.groups.values().filter(ended).count()) as u64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn letters(group: &str, numbers: std::ops::Range<u64>, left: impl Fn(u64) -> bool, news: bool) -> Vec<Looked> {
        numbers
            .map(|number| Looked {
                group: group.into(),
                number,
                news,
                left: left(number),
                behind: false,
            })
            .collect()
    }

    #[test]
    fn a_group_that_moves_on_past_what_is_left_comes_again_until_nothing_new_does() {
        let mut groups = Groups::default();
        let back = groups.page(&letters("a", 0..10, |number| number == 0, true), true);
        assert_eq!((back, groups.unseen()), (vec![0], 1));
        assert!(groups.page(&letters("a", 20..21, |_| true, false), false).is_empty());
        assert_eq!(groups.unseen(), 0);
    }

    #[test]
    fn what_was_seen_in_a_full_page_only_is_looked_behind_at_the_end_a_few_groups_at_a_time() {
        let mut groups = Groups::default();
        for (at, group) in ["a", "b", "c"].into_iter().enumerate() {
            let first = at as u64 * 100;
            assert!(
                groups
                    .page(&letters(group, first..first + 4, |_| true, true), true)
                    .is_empty()
            );
        }
        assert!(
            groups.look_behind(false).is_empty(),
            "not before the queue was seen once"
        );
        groups.exhausted();
        assert_eq!(groups.look_behind(true), [0, 1, 2, 3, 100, 101, 102, 103]);
        groups.page(&letters("a", 300..304, |_| true, false), false);
        assert!(groups.look_behind(false).is_empty(), "b has not come again");
        groups.page(&letters("b", 400..403, |_| true, false), false);
        assert_eq!(groups.unseen(), 2, "not all of b came again");
        assert_eq!(groups.look_behind(false), [200, 201, 202, 203, 400, 401, 402]);
    }

    #[test]
    fn ten_that_are_left_hide_the_rest_and_what_is_known_to_stay_behind_is_not_looked_for() {
        let mut groups = Groups::default();
        assert!(groups.page(&letters("a", 0..10, |_| true, true), true).is_empty());
        groups.exhausted();
        assert_eq!((groups.look_behind(true).len(), groups.unseen()), (0, 1));
        let mut stopped = letters("b", 10..13, |number| number > 10, true);
        stopped[2].behind = true;
        assert!(groups.page(&stopped, false).is_empty());
        assert_eq!((groups.look_behind(true).len(), groups.unseen()), (0, 1));
    }
}
