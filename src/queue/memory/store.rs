//! What an embedded queue holds, as a state machine that takes `now`: no clock, no waiting, no faults.
//!
//! Every step costs O(log n): what is visible is ordered by when it became so, and what will become visible or expire by
//! when it is due.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::{Instant, Random};
use crate::message::{Delivery, Message, Outgoing, Receipt};
use crate::queue::rules::whole_seconds;
use crate::queue::{EntryError, MAX_VISIBILITY};

use super::groups::Groups;
use super::ids::Ids;
use super::limits;
use super::schedule::Schedule;
use super::window::Window;

/// How long a FIFO queue swallows a repeated deduplication id (Amazon SQS Developer Guide, "Exactly-once processing").
const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(5 * 60);

/// How many deleted messages are remembered so that they can come back as ghosts.
const REMEMBERED_DELETES: usize = 1_024;

/// Among how many of the first in line an out-of-order receive chooses.
const REORDER_WITHIN: u64 = 64;

/// The settings a store works by.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) fifo: bool,
    pub(super) content_based_deduplication: bool,
    pub(super) deduplication_by_group: bool,
    pub(super) visibility: Duration,
    pub(super) retention: Duration,
    pub(super) delay: Duration,
    pub(super) max_message_bytes: usize,
    pub(super) in_flight_cap: usize,
    pub(super) max_receive_count: Option<u32>,
    pub(super) reorder: f64,
    pub(super) short_receives: f64,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) message: Message,
    pub(super) receive_count: u32,
    pub(super) state: State,
    enqueued_at: Instant,
    delivery: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Visible { since: Instant },
    InFlight { until: Instant, received_at: Instant },
    Delayed { until: Instant },
}

/// A message that its receive count takes to the dead-letter queue.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) message: Message,
    pub(super) enqueued_at: Instant,
}

/// What a receive brought about.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) moved: Vec<Moved>,
}

/// What became of a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deleted {
    Message,
    Nothing,
}

#[derive(Debug)]
pub(super) struct Store {
    settings: Settings,
    random: Random,
    tag: u64,
    minted: u64,
    entries: Window<Box<Entry>>,
    ids: Ids,
    order: Order,
    expiries: Schedule,
    accepted: BTreeMap<(String, String), String>,
    accepted_until: VecDeque<(Instant, (String, String))>,
    deleted: VecDeque<Box<Entry>>,
}

/// What is visible in which order, and what else waits until when.
#[derive(Debug, Default)]
struct Order {
    fifo: bool,
    /// Visible messages of a standard queue, by when they became visible.
    visible: Schedule,
    groups: Groups,
    timers: Schedule,
    in_flight: usize,
    delayed: usize,
    wake: bool,
}

impl Store {
    pub(super) fn new(settings: Settings, name: &str, random: Random) -> Self {
        let tag = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let order = Order {
            fifo: settings.fifo,
            ..Order::default()
        };
        Self {
            settings,
            tag: tag ^ random.next_u64(),
            random,
            minted: 0,
            entries: Window::default(),
            ids: Ids::default(),
            order,
            expiries: Schedule::default(),
            accepted: BTreeMap::new(),
            accepted_until: VecDeque::new(),
            deleted: VecDeque::new(),
        }
    }

    /// Whether a waiting receive has reason to look again; asking resets it.
    pub(super) fn take_wake(&mut self) -> bool {
        std::mem::take(&mut self.order.wake)
    }

    /// When the next message becomes visible by itself.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.order.timers.first().map(|(due, _)| due)
    }

    pub(super) fn at_in_flight_cap(&self) -> bool {
        self.order.in_flight >= self.settings.in_flight_cap
    }

    pub(super) fn messages(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.order.in_flight
    }

    pub(super) fn delayed(&self) -> usize {
        self.order.delayed
    }

    pub(super) fn visible(&self) -> usize {
        self.entries.len() - self.order.in_flight - self.order.delayed
    }

    /// What is held, in the order of sending; duplicates follow as entries of their own.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(|entry| &**entry)
    }

    pub(super) fn find(&self, id: &str) -> Option<&Entry> {
        self.entries.get(self.ids.first(id)?).map(|entry| &**entry)
    }

    /// Brings everything to `now`: delays and visibility timeouts end, what is past retention vanishes.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some((due, seq)) = self.order.timers.pop_due(now) {
            self.show(seq, due);
        }
        while let Some((_, seq)) = self.expiries.pop_due(now) {
            self.remove(seq);
        }
        while self.accepted_until.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, key)) = self.accepted_until.pop_front() {
                self.accepted.remove(&key);
            }
        }
    }

    /// Accepts a message and answers its MessageId, or that of the message it repeats.
    pub(super) fn send(&mut self, now: Instant, epoch_ms: u64, outgoing: Outgoing) -> Result<String, EntryError> {
        limits::check_message(&outgoing, &self.settings)?;
        let deduplication_id = limits::deduplication_id(&outgoing, &self.settings);
        let delay = match outgoing.delay {
            Some(delay) if !self.settings.fifo => whole_seconds(delay),
            _ => self.settings.delay,
        };
        let window = deduplication_id.clone().filter(|_| self.settings.fifo).map(|id| {
            let by_group = self.settings.deduplication_by_group;
            (outgoing.group_id.clone().filter(|_| by_group).unwrap_or_default(), id)
        });
        if let Some(original) = window.as_ref().and_then(|key| self.accepted.get(key)) {
            return Ok(original.clone());
        }
        let id = self.mint_id();
        if let Some(key) = window {
            self.accepted_until.push_back((now + DEDUPLICATION_WINDOW, key.clone()));
            self.accepted.insert(key, id.clone());
        }
        let mut message = Message::new(id.clone(), outgoing.body);
        message.attributes = outgoing.attributes;
        message.sent_at_ms = Some(epoch_ms);
        message.group_id = outgoing.group_id;
        message.deduplication_id = deduplication_id;
        message.trace_header = outgoing.trace_header;
        self.insert(now, now, delay, message, 0);
        Ok(id)
    }

    /// Takes in what a source queue's redrive policy moves here. A standard queue keeps the time of enqueueing, by which
    /// retention runs; a FIFO queue starts it anew and gives a new deduplication id (Amazon SQS Developer Guide, "Setting-up
    /// dead-letter queue retention").
    pub(super) fn accept(&mut self, now: Instant, epoch_ms: u64, moved: Moved) {
        let Moved {
            mut message,
            mut enqueued_at,
        } = moved;
        message.id = self.mint_id();
        if self.settings.fifo {
            enqueued_at = now;
            message.sent_at_ms = Some(epoch_ms);
            message.deduplication_id = Some(message.id.clone());
        }
        self.insert(now, enqueued_at, Duration::ZERO, message, 0);
    }

    /// Hands out up to `max` messages. `may_be_empty`: a short poll asks some servers only, so it may come back empty.
    pub(super) fn take(&mut self, now: Instant, max: usize, visibility: Option<Duration>, may_be_empty: bool) -> Taken {
        let mut taken = Taken::default();
        let room = self.settings.in_flight_cap.saturating_sub(self.order.in_flight);
        let mut limit = max.min(room);
        if limit > 0 && self.visible() > 0 && self.random.chance(self.settings.short_receives) {
            limit = if may_be_empty {
                self.below(limit + 1)
            } else {
                1 + self.below(limit)
            };
        }
        let visibility = visibility.unwrap_or(self.settings.visibility);
        taken.deliveries.reserve_exact(limit.min(self.visible()));
        if self.settings.fifo {
            self.take_groups(now, limit, visibility, &mut taken);
        } else {
            while taken.deliveries.len() < limit {
                let nth = self.place(self.order.visible.len());
                let Some(seq) = self.order.visible.nth(nth) else {
                    break;
                };
                self.hand_out(now, seq, visibility, &mut taken);
            }
        }
        taken
    }

    fn take_groups(&mut self, now: Instant, limit: usize, visibility: Duration, taken: &mut Taken) {
        while taken.deliveries.len() < limit {
            let nth = self.place(self.order.groups.open());
            let Some(group) = self.order.groups.nth_open(nth) else {
                return;
            };
            for seq in self.order.groups.first_members(&group, limit - taken.deliveries.len()) {
                let visible =
                    matches!(self.entries.get(seq), Some(entry) if matches!(entry.state, State::Visible { .. }));
                if !visible {
                    break;
                }
                self.hand_out(now, seq, visibility, taken);
            }
        }
    }

    /// Where in line the next to be handed out stands: first, unless order is shaken.
    fn place(&self, len: usize) -> usize {
        if len > 1 && self.random.chance(self.settings.reorder) {
            let within = u64::try_from(len).unwrap_or(u64::MAX).min(REORDER_WITHIN);
            usize::try_from(self.random.below(within)).unwrap_or(0)
        } else {
            0
        }
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.random.below(u64::try_from(bound).unwrap_or(u64::MAX))).unwrap_or(0)
    }

    fn hand_out(&mut self, now: Instant, seq: u64, visibility: Duration, taken: &mut Taken) {
        let copied = self.holds_copies();
        let Some(entry) = self.entries.get_mut(seq) else {
            return;
        };
        let count = entry.receive_count.saturating_add(1);
        if self.settings.max_receive_count.is_some_and(|most| count > most) {
            let enqueued_at = entry.enqueued_at;
            if let Some(entry) = self.remove_message(seq) {
                taken.moved.push(Moved {
                    message: entry.message,
                    enqueued_at,
                });
            }
            return;
        }
        self.order.withdraw(seq, entry);
        let until = now + visibility;
        self.order.in_flight += 1;
        self.order.set_timer(until, seq);
        entry.state = State::InFlight {
            until,
            received_at: now,
        };
        entry.delivery += 1;
        entry.receive_count = count;
        if let Some(group) = entry.message.group_id.as_deref().filter(|_| self.settings.fifo) {
            self.order.groups.lock(group);
        }
        let receipt = limits::receipt(self.tag, seq, entry.delivery);
        let delivery = Delivery::new(entry.message.clone(), receipt, count, now);
        if copied {
            for copy in self.ids.of(&delivery.message.id) {
                if let Some(copy) = self.entries.get_mut(copy) {
                    copy.receive_count = count;
                }
            }
        }
        taken.deliveries.push(delivery);
    }

    /// Whether a message has more than one entry.
    fn holds_copies(&self) -> bool {
        self.ids.len() < self.entries.len()
    }

    pub(super) fn delete(&mut self, receipt: &Receipt) -> Result<Deleted, EntryError> {
        let (seq, delivery) = self.resolve(receipt)?;
        let Some(entry) = self.entries.get(seq) else {
            return Ok(Deleted::Nothing);
        };
        if self.settings.fifo && (entry.delivery != delivery || !matches!(entry.state, State::InFlight { .. })) {
            return Err(limits::expired_receipt(receipt));
        }
        if entry.delivery != delivery {
            return Ok(Deleted::Nothing);
        }
        if let Some(entry) = self.remove_message(seq) {
            if self.deleted.len() == REMEMBERED_DELETES {
                self.deleted.pop_front();
            }
            self.deleted.push_back(entry);
        }
        Ok(Deleted::Message)
    }

    pub(super) fn change_visibility(
        &mut self,
        now: Instant,
        receipt: &Receipt,
        timeout: Duration,
    ) -> Result<(), EntryError> {
        let timeout = whole_seconds(timeout);
        if timeout > MAX_VISIBILITY {
            return Err(limits::visibility_too_long(timeout));
        }
        let (seq, delivery) = self.resolve(receipt)?;
        let Some(entry) = self.entries.get(seq) else {
            return Err(limits::receipt_of_nothing(receipt));
        };
        let State::InFlight { until, received_at } = entry.state else {
            return Err(limits::not_in_flight());
        };
        if entry.delivery != delivery {
            return Err(limits::not_in_flight());
        }
        if now + timeout > received_at + MAX_VISIBILITY {
            return Err(limits::visibility_too_long(timeout));
        }
        if timeout.is_zero() {
            self.show(seq, now);
            return Ok(());
        }
        self.order.timers.remove(until, seq);
        let until = now + timeout;
        self.order.set_timer(until, seq);
        if let Some(entry) = self.entries.get_mut(seq) {
            entry.state = State::InFlight { until, received_at };
        }
        Ok(())
    }

    /// Makes a held message deliverable a second time, whatever its first copy is doing. `false` if it is not visible or in
    /// flight.
    pub(super) fn duplicate(&mut self, now: Instant, id: &str) -> bool {
        let Some(entry) = self
            .find(id)
            .filter(|entry| !matches!(entry.state, State::Delayed { .. }))
        else {
            return false;
        };
        let (message, enqueued_at, count) = (entry.message.clone(), entry.enqueued_at, entry.receive_count);
        self.insert(now, enqueued_at, Duration::ZERO, message, count);
        true
    }

    /// Brings a deleted message back under its old MessageId. `false` if it is not remembered, or is held.
    pub(super) fn ghost(&mut self, now: Instant, id: &str) -> bool {
        if self.ids.first(id).is_some() {
            return false;
        }
        let Some(at) = self.deleted.iter().rposition(|entry| entry.message.id == id) else {
            return false;
        };
        let Some(entry) = self.deleted.remove(at) else {
            return false;
        };
        self.insert(
            now,
            entry.enqueued_at,
            Duration::ZERO,
            entry.message,
            entry.receive_count,
        );
        true
    }

    /// Counts receives that no client saw. `false` if the message is not held.
    pub(super) fn raise_receive_count(&mut self, id: &str, by: u32) -> bool {
        for seq in self.ids.of(id) {
            if let Some(entry) = self.entries.get_mut(seq) {
                entry.receive_count = entry.receive_count.saturating_add(by);
            }
        }
        self.ids.first(id).is_some()
    }

    /// Removes everything held; what was accepted for deduplication stays.
    pub(super) fn purge(&mut self) {
        while let Some(seq) = self.entries.first() {
            self.remove(seq);
        }
    }

    fn resolve(&self, receipt: &Receipt) -> Result<(u64, u64), EntryError> {
        limits::parse_receipt(self.tag, receipt)
            .filter(|(seq, _)| *seq < self.entries.next())
            .ok_or_else(|| limits::unknown_receipt(receipt))
    }

    fn insert(&mut self, now: Instant, enqueued_at: Instant, delay: Duration, message: Message, receive_count: u32) {
        let seq = self.entries.next();
        self.ids.add(&message.id, seq);
        self.expiries.insert(enqueued_at + self.settings.retention, seq);
        if let Some(group) = message.group_id.as_deref().filter(|_| self.settings.fifo) {
            self.order.groups.join(group, seq);
        }
        let until = now + delay;
        let entry = Entry {
            message,
            receive_count,
            state: State::Delayed { until },
            enqueued_at,
            delivery: 0,
        };
        self.entries.push(Box::new(entry));
        self.order.delayed += 1;
        if delay.is_zero() {
            self.show(seq, now);
        } else {
            self.order.set_timer(until, seq);
        }
    }

    /// Makes a message visible, whatever it was before.
    fn show(&mut self, seq: u64, since: Instant) {
        let Some(entry) = self.entries.get_mut(seq) else {
            return;
        };
        self.order.withdraw(seq, entry);
        entry.state = State::Visible { since };
        self.order.wake = true;
        if !self.settings.fifo {
            self.order.visible.insert(since, seq);
        } else if let Some(group) = self
            .entries
            .get(seq)
            .and_then(|entry| entry.message.group_id.as_deref())
        {
            Self::refresh(&mut self.order.groups, &self.entries, group);
        }
    }

    /// Removes every copy of the message that an entry is of, and answers the entry.
    fn remove_message(&mut self, seq: u64) -> Option<Box<Entry>> {
        if self.holds_copies() {
            let id = &self.entries.get(seq)?.message.id;
            let copies: Vec<u64> = self.ids.of(id).filter(|copy| *copy != seq).collect();
            for copy in copies {
                self.remove(copy);
            }
        }
        self.remove(seq)
    }

    fn remove(&mut self, seq: u64) -> Option<Box<Entry>> {
        let entry = self.entries.remove(seq)?;
        self.order.withdraw(seq, &entry);
        self.expiries.remove(entry.enqueued_at + self.settings.retention, seq);
        self.ids.remove(&entry.message.id, seq);
        if let Some(group) = entry.message.group_id.as_deref().filter(|_| self.settings.fifo) {
            self.order.groups.leave(group, seq);
            Self::refresh(&mut self.order.groups, &self.entries, group);
        }
        Some(entry)
    }

    fn refresh(groups: &mut Groups, entries: &Window<Box<Entry>>, group: &str) {
        groups.refresh(
            group,
            |head| matches!(entries.get(head), Some(entry) if matches!(entry.state, State::Visible { .. })),
        );
    }

    /// A MessageId in the form of a random UUID, different also between queues that share a seed.
    fn mint_id(&mut self) -> String {
        self.minted += 1;
        let high = self.random.next_u64();
        let mixed = self.tag ^ self.minted.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let low = (mixed >> 2) | (1 << 63);
        let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0x0fff);
        format!(
            "{a:08x}-{b:04x}-4{c:03x}-{:04x}-{:012x}",
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}

impl Order {
    fn set_timer(&mut self, due: Instant, seq: u64) {
        self.timers.insert(due, seq);
        if self.timers.first() == Some((due, seq)) {
            self.wake = true;
        }
    }

    /// Takes a message out of the counts and the order that its state put it in. The state itself is for the caller to set.
    fn withdraw(&mut self, seq: u64, entry: &Entry) {
        match entry.state {
            State::Visible { since } => self.visible.remove(since, seq),
            State::Delayed { until } => {
                self.timers.remove(until, seq);
                self.delayed -= 1;
            }
            State::InFlight { until, .. } => {
                self.timers.remove(until, seq);
                self.in_flight -= 1;
                self.wake = true;
                if let Some(group) = entry.message.group_id.as_deref().filter(|_| self.fifo) {
                    self.groups.unlock(group);
                }
            }
        }
    }
}
