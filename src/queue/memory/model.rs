//! Random calls on the store, with its books checked after each: what is accepted stays held until it is deleted, moved or
//! past retention, and every index agrees with the entries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::{Clock, Instant, Random};
use crate::message::{Outgoing, Receipt};
use crate::queue::MAX_BYTES;

use super::store::{Deleted, Settings, State, Store};

const GROUPS: u64 = 4;

fn settings(fifo: bool) -> Settings {
    Settings {
        fifo,
        content_based_deduplication: false,
        deduplication_by_group: false,
        visibility: Duration::from_secs(20),
        retention: Duration::from_secs(600),
        delay: Duration::ZERO,
        max_message_bytes: MAX_BYTES,
        in_flight_cap: 25,
        max_receive_count: Some(4),
        reorder: 0.3,
        short_receives: 0.3,
    }
}

struct Run {
    store: Store,
    dice: Random,
    fifo: bool,
    now: Instant,
    /// What must be held, and when it may vanish.
    held: BTreeMap<String, Instant>,
    /// When each message accepted expires; a ghost expires as if it had never been deleted.
    expires: BTreeMap<String, Instant>,
    receipts: Vec<(Receipt, String)>,
    bodies: u64,
    moved: usize,
    deleted: usize,
}

impl Run {
    fn new(seed: u64, fifo: bool) -> Self {
        Self {
            store: Store::new(settings(fifo), "q", Random::seeded(seed)),
            dice: Random::seeded(!seed),
            fifo,
            now: Clock::system().now(),
            held: BTreeMap::new(),
            expires: BTreeMap::new(),
            receipts: Vec::new(),
            bodies: 0,
            moved: 0,
            deleted: 0,
        }
    }

    fn step(&mut self) {
        self.store.advance(self.now);
        self.held.retain(|_, until| *until > self.now);
        match self.dice.below(10) {
            0..=2 => self.send(),
            3..=5 => self.receive(),
            6 => self.delete(),
            7 => self.change(),
            8 if !self.fifo => self.copy(),
            _ => self.now += self.dice.up_to(Duration::from_secs(15)),
        }
        self.store.advance(self.now);
        self.held.retain(|_, until| *until > self.now);
        self.check();
    }

    fn send(&mut self) {
        self.bodies += 1;
        let mut message = Outgoing::new(self.bodies.to_string());
        if self.fifo {
            let group = self.dice.below(GROUPS);
            message = message
                .group(group.to_string())
                .deduplication_id(self.bodies.to_string());
        } else if self.dice.chance(0.3) {
            message = message.delay(self.dice.up_to(Duration::from_secs(30)));
        }
        let id = self.store.send(self.now, 0, message).unwrap();
        let expires = self.now + Duration::from_secs(600);
        self.expires.insert(id.clone(), expires);
        self.held.insert(id, expires);
    }

    fn receive(&mut self) {
        let locked = self.groups_in_flight();
        let room = 25 - self.store.in_flight();
        let max = usize::try_from(1 + self.dice.below(10)).unwrap();
        let taken = self.store.take(self.now, max, None, self.dice.chance(0.5));
        assert!(taken.deliveries.len() <= max.min(room));
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for delivery in taken.deliveries {
            let (message, receipt) = (delivery.message, delivery.receipt);
            assert!(delivery.receive_count <= 4);
            if let Some(group) = message.group_id {
                assert!(!locked.contains(&group), "group {group} is in flight");
                let body: u64 = message.body.parse().unwrap();
                assert!(
                    last.insert(group, body).is_none_or(|before| before < body),
                    "out of order"
                );
            }
            self.receipts.push((receipt, message.id));
        }
        for moved in taken.moved {
            self.held.remove(&moved.message.id).expect("what moves was held");
            self.moved += 1;
        }
    }

    fn delete(&mut self) {
        if let Some((receipt, id)) = self.any_receipt()
            && self.store.delete(&receipt) == Ok(Deleted::Message)
        {
            self.held.remove(&id).expect("what is deleted was held");
            self.deleted += 1;
        }
    }

    fn change(&mut self) {
        if let Some((receipt, _)) = self.any_receipt() {
            let timeout = if self.dice.chance(0.5) {
                Duration::ZERO
            } else {
                self.dice.up_to(Duration::from_secs(60))
            };
            let _ = self.store.change_visibility(self.now, &receipt, timeout);
        }
    }

    fn copy(&mut self) {
        if let Some((_, id)) = self.any_receipt() {
            if self.dice.chance(0.5) {
                assert!(!self.store.duplicate(self.now, &id) || self.held.contains_key(&id));
            } else if self.store.ghost(self.now, &id) {
                self.held.insert(id.clone(), self.expires[&id]);
            }
        }
    }

    fn any_receipt(&mut self) -> Option<(Receipt, String)> {
        let len = u64::try_from(self.receipts.len()).unwrap();
        // Mostly late ones, which are the fresh ones.
        let back = self.dice.below(self.dice.below(len.min(40)) + 1);
        let at = usize::try_from((len.checked_sub(1)?).saturating_sub(back)).unwrap();
        self.receipts.get(at).cloned()
    }

    fn groups_in_flight(&self) -> BTreeSet<String> {
        let in_flight = self
            .store
            .entries()
            .filter(|entry| matches!(entry.state, State::InFlight { .. }));
        in_flight.filter_map(|entry| entry.message.group_id.clone()).collect()
    }

    fn check(&self) {
        let ids: BTreeSet<&str> = self.store.entries().map(|entry| entry.message.id.as_str()).collect();
        let held: BTreeSet<&str> = self.held.keys().map(String::as_str).collect();
        assert_eq!(
            ids, held,
            "held are those that were accepted and not deleted, moved or expired"
        );
        assert_eq!(self.store.messages(), ids.len());
        let count = |want: fn(&State) -> bool| self.store.entries().filter(|entry| want(&entry.state)).count();
        assert_eq!(
            self.store.visible(),
            count(|state| matches!(state, State::Visible { .. }))
        );
        assert_eq!(
            self.store.in_flight(),
            count(|state| matches!(state, State::InFlight { .. }))
        );
        assert_eq!(
            self.store.delayed(),
            count(|state| matches!(state, State::Delayed { .. }))
        );
        let due = self.store.entries().filter_map(|entry| match entry.state {
            State::Visible { .. } => None,
            State::InFlight { until, .. } | State::Delayed { until } => Some(until),
        });
        assert_eq!(self.store.next_due(), due.min());
    }

    /// Everything still held can be received and deleted in the end.
    fn drain(&mut self) {
        for _ in 0..2_000 {
            self.now += Duration::from_millis(50);
            self.store.advance(self.now);
            let taken = self.store.take(self.now, 10, None, false);
            self.moved += taken.moved.len();
            for delivery in taken.deliveries {
                self.store.delete(&delivery.receipt).unwrap();
            }
            if self.store.messages() == 0 {
                return;
            }
        }
        panic!("{} messages cannot be received", self.store.messages());
    }
}

#[tokio::test]
async fn whatever_is_called_nothing_is_lost_and_the_books_agree() {
    let (mut moved, mut deleted) = (0, 0);
    for seed in 0..60 {
        let mut run = Run::new(seed, seed % 2 == 0);
        for _ in 0..400 {
            run.step();
        }
        moved += run.moved;
        deleted += run.deleted;
        run.drain();
    }
    assert!(
        moved > 100 && deleted > 100,
        "the runs are lively: {moved} moved, {deleted} deleted"
    );
}
