//! FIFO groups: one at a time, in order, and given back from the head.

use redrive::message::Receipt;

use super::{Checker, Ended, Held, Who, label};

impl Checker {
    /// A handler is about to start on this message.
    pub(crate) fn check_order(&mut self, who: &Who, message: usize) {
        let Some(group) = self.messages[message].group else {
            return;
        };
        let Some((mut settled, members)) = self.groups.remove(&group) else {
            return;
        };
        while members.get(settled).is_some_and(|&member| self.is_durable(member)) {
            settled += 1;
        }
        let earlier = members.get(settled).copied().filter(|&earlier| earlier < message);
        self.groups.insert(group, (settled, members));
        if let Some(earlier) = earlier {
            self.broken(
                "inv07",
                format!(
                    "{who} starts {} before {} of the same group has a durable outcome",
                    label(message),
                    label(earlier)
                ),
            );
        }
    }

    /// It gives this one back: none before it in its group may be still in its hands, unless all of them go.
    pub(crate) fn check_tail(&mut self, who: &Who, receipt: &Receipt, held: &Held) {
        let Some(group) = self.messages[held.message].group else {
            return;
        };
        if self.is_excused(who) || self.hosts.get(who).is_none_or(|host| host.is_draining()) {
            return;
        }
        // What could not be claimed goes back for reasons of its own.
        if self.claim_for(who, held).is_none() {
            return;
        }
        let members = self.groups.get(&group).map_or(&[][..], |(_, members)| members);
        let earlier = members.iter().take_while(|&&member| member < held.message);
        let head = earlier
            .flat_map(|&member| self.held_of(member))
            .find(|(holder, other, head)| {
                *holder == who
                    && *other != receipt
                    && head.told.is_some_and(|at| at < self.now())
                    && head.settled.is_none()
                    && !head.lost
                    && self.messages[head.message].held
                    && !self.is_durable(head.message)
                    && self.is_current(head)
                    && self.runs_ended_since(who, head)
                    && !self.is_given_up(who, head.message)
            });
        // It may go for one that is nearer.
        let head = head.filter(|(_, _, head)| {
            let between = members
                .iter()
                .filter(|&&member| (head.message + 1..held.message).contains(&member));
            let mut others = between.flat_map(|&member| self.held_of(member));
            let is_lost = |held: &Held| self.claim_for(who, held).is_some_and(|(_, claim)| claim.given_up);
            !others.any(|(holder, _, other)| {
                holder == who && ((other.at >= head.at && (other.settled.is_some() || other.lost)) || is_lost(other))
            })
        });
        if let Some((_, _, head)) = head {
            let (tail, head) = (label(held.message), label(head.message));
            self.broken(
                "inv07",
                format!("{who} gives {tail} back before {head}, which is ahead of it in its group"),
            );
        }
    }

    /// Whether a handler of this worker ran on it since it was received, and is not done and runs no more.
    fn runs_ended_since(&self, who: &Who, held: &Held) -> bool {
        let runs = self
            .runs
            .values()
            .any(|run| run.who == *who && run.message == held.message);
        let ended = self.ran.get(&(std::sync::Arc::clone(who), held.message));
        !runs && ended.is_some_and(|(at, how)| *at >= held.at && *at < self.now() && *how != Ended::Done)
    }
}
