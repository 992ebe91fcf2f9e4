//! What an embedded queue holds, as a state machine that takes `now`: no clock, no waiting, no faults.
//!
//! Every step costs O(log n): what is visible is ordered by when it became so, and what will become visible or expire by
//! when it is due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::clock::{Instant, Random};
use crate::message::{Message, Outgoing, Receipt};
use crate::queue::rules::whole_seconds;
use crate::queue::{EntryError, MAX_VISIBILITY};

use super::groups::Groups;
use super::limits;

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
    pub(super) deliveries: Vec<(Message, Receipt, u32)>,
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
    next_seq: u64,
    entries: BTreeMap<u64, Entry>,
    /// The entries of each MessageId: more than one where the queue holds duplicates.
    ids: BTreeMap<String, Vec<u64>>,
    /// Visible messages of a standard queue, by when they became visible.
    visible: BTreeSet<(Instant, u64)>,
    groups: Groups,
    timers: BTreeSet<(Instant, u64)>,
    expiries: BTreeSet<(Instant, u64)>,
    accepted: BTreeMap<(String, String), String>,
    accepted_until: VecDeque<(Instant, (String, String))>,
    deleted: VecDeque<Entry>,
    in_flight: usize,
    delayed: usize,
    wake: bool,
}

impl Store {
    pub(super) fn new(settings: Settings, name: &str, random: Random) -> Self {
        let tag = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            settings,
            tag: tag ^ random.next_u64(),
            random,
            minted: 0,
            next_seq: 0,
            entries: BTreeMap::new(),
            ids: BTreeMap::new(),
            visible: BTreeSet::new(),
            groups: Groups::default(),
            timers: BTreeSet::new(),
            expiries: BTreeSet::new(),
            accepted: BTreeMap::new(),
            accepted_until: VecDeque::new(),
            deleted: VecDeque::new(),
            in_flight: 0,
            delayed: 0,
            wake: false,
        }
    }

    /// Whether a waiting receive has reason to look again; asking resets it.
    pub(super) fn take_wake(&mut self) -> bool {
        std::mem::take(&mut self.wake)
    }

    /// When the next message becomes visible by itself.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    pub(super) fn at_in_flight_cap(&self) -> bool {
        self.in_flight >= self.settings.in_flight_cap
    }

    pub(super) fn messages(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn delayed(&self) -> usize {
        self.delayed
    }

    pub(super) fn visible(&self) -> usize {
        self.entries.len() - self.in_flight - self.delayed
    }

    /// What is held, in the order of sending; duplicates follow as entries of their own.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn find(&self, id: &str) -> Option<&Entry> {
        self.ids.get(id)?.first().and_then(|seq| self.entries.get(seq))
    }

    /// Brings everything to `now`: delays and visibility timeouts end, what is past retention vanishes.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some((due, seq)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.pop_first();
            self.show(seq, due);
        }
        while let Some((_, seq)) = self.expiries.first().copied().filter(|(due, _)| *due <= now) {
            self.expiries.pop_first();
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
        let room = self.settings.in_flight_cap.saturating_sub(self.in_flight);
        let mut limit = max.min(room);
        if limit > 0 && self.visible() > 0 && self.random.chance(self.settings.short_receives) {
            limit = if may_be_empty {
                self.below(limit + 1)
            } else {
                1 + self.below(limit)
            };
        }
        let visibility = visibility.unwrap_or(self.settings.visibility);
        if self.settings.fifo {
            self.take_groups(now, limit, visibility, &mut taken);
        } else {
            while taken.deliveries.len() < limit {
                let nth = self.place(self.visible.len());
                let Some((_, seq)) = self.visible.iter().nth(nth).copied() else {
                    break;
                };
                self.hand_out(now, seq, visibility, &mut taken);
            }
        }
        taken
    }

    fn take_groups(&mut self, now: Instant, limit: usize, visibility: Duration, taken: &mut Taken) {
        while taken.deliveries.len() < limit {
            let nth = self.place(self.groups.open());
            let Some(group) = self.groups.nth_open(nth) else {
                return;
            };
            for seq in self.groups.first_members(&group, limit - taken.deliveries.len()) {
                let visible =
                    matches!(self.entries.get(&seq), Some(entry) if matches!(entry.state, State::Visible { .. }));
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
        let Some(entry) = self.entries.get(&seq) else {
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
        self.withdraw(seq);
        let until = now + visibility;
        self.in_flight += 1;
        self.set_timer(until, seq);
        if let Some(entry) = self.entries.get_mut(&seq) {
            entry.state = State::InFlight {
                until,
                received_at: now,
            };
            entry.delivery += 1;
            let receipt = limits::receipt(self.tag, seq, entry.delivery);
            taken.deliveries.push((entry.message.clone(), receipt, count));
            if let Some(group) = entry.message.group_id.as_deref().filter(|_| self.settings.fifo) {
                self.groups.lock(group);
            }
            for copy in self.ids.get(&entry.message.id).into_iter().flatten() {
                if let Some(copy) = self.entries.get_mut(copy) {
                    copy.receive_count = count;
                }
            }
        }
    }

    pub(super) fn delete(&mut self, receipt: &Receipt) -> Result<Deleted, EntryError> {
        let (seq, delivery) = self.resolve(receipt)?;
        let Some(entry) = self.entries.get(&seq) else {
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
        let Some(entry) = self.entries.get(&seq) else {
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
        self.timers.remove(&(until, seq));
        let until = now + timeout;
        self.set_timer(until, seq);
        if let Some(entry) = self.entries.get_mut(&seq) {
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
        if self.ids.contains_key(id) {
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
        let Some(seqs) = self.ids.get(id) else {
            return false;
        };
        for seq in seqs {
            if let Some(entry) = self.entries.get_mut(seq) {
                entry.receive_count = entry.receive_count.saturating_add(by);
            }
        }
        true
    }

    /// Removes everything held; what was accepted for deduplication stays.
    pub(super) fn purge(&mut self) {
        while let Some(seq) = self.entries.keys().next().copied() {
            self.remove(seq);
        }
    }

    fn resolve(&self, receipt: &Receipt) -> Result<(u64, u64), EntryError> {
        limits::parse_receipt(self.tag, receipt)
            .filter(|(seq, _)| *seq < self.next_seq)
            .ok_or_else(|| limits::unknown_receipt(receipt))
    }

    fn insert(&mut self, now: Instant, enqueued_at: Instant, delay: Duration, message: Message, receive_count: u32) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.ids.entry(message.id.clone()).or_default().push(seq);
        self.expiries.insert((enqueued_at + self.settings.retention, seq));
        if let Some(group) = message.group_id.as_deref().filter(|_| self.settings.fifo) {
            self.groups.join(group, seq);
        }
        let until = now + delay;
        let entry = Entry {
            message,
            receive_count,
            state: State::Delayed { until },
            enqueued_at,
            delivery: 0,
        };
        self.entries.insert(seq, entry);
        self.delayed += 1;
        if delay.is_zero() {
            self.show(seq, now);
        } else {
            self.set_timer(until, seq);
        }
    }

    fn set_timer(&mut self, due: Instant, seq: u64) {
        self.timers.insert((due, seq));
        if self.timers.first() == Some(&(due, seq)) {
            self.wake = true;
        }
    }

    /// Makes a message visible, whatever it was before.
    fn show(&mut self, seq: u64, since: Instant) {
        self.withdraw(seq);
        let Some(entry) = self.entries.get_mut(&seq) else {
            return;
        };
        entry.state = State::Visible { since };
        self.wake = true;
        if !self.settings.fifo {
            self.visible.insert((since, seq));
        } else if let Some(group) = self
            .entries
            .get(&seq)
            .and_then(|entry| entry.message.group_id.as_deref())
        {
            Self::refresh(&mut self.groups, &self.entries, group);
        }
    }

    /// Takes a message out of the counts and the order that its state put it in. The state itself is for the caller to set.
    fn withdraw(&mut self, seq: u64) {
        let Some(entry) = self.entries.get(&seq) else {
            return;
        };
        match entry.state {
            State::Visible { since } => {
                self.visible.remove(&(since, seq));
            }
            State::Delayed { until } => {
                self.timers.remove(&(until, seq));
                self.delayed -= 1;
            }
            State::InFlight { until, .. } => {
                self.timers.remove(&(until, seq));
                self.in_flight -= 1;
                self.wake = true;
                if let Some(group) = entry.message.group_id.as_deref().filter(|_| self.settings.fifo) {
                    self.groups.unlock(group);
                }
            }
        }
    }

    /// Removes every copy of the message that an entry is of, and answers the entry.
    fn remove_message(&mut self, seq: u64) -> Option<Entry> {
        let id = &self.entries.get(&seq)?.message.id;
        let copies: Vec<u64> = self
            .ids
            .get(id)
            .into_iter()
            .flatten()
            .copied()
            .filter(|copy| *copy != seq)
            .collect();
        for copy in copies {
            self.remove(copy);
        }
        self.remove(seq)
    }

    fn remove(&mut self, seq: u64) -> Option<Entry> {
        self.withdraw(seq);
        let entry = self.entries.remove(&seq)?;
        self.expiries
            .remove(&(entry.enqueued_at + self.settings.retention, seq));
        if let Some(seqs) = self.ids.get_mut(&entry.message.id) {
            seqs.retain(|held| *held != seq);
            if seqs.is_empty() {
                self.ids.remove(&entry.message.id);
            }
        }
        if let Some(group) = entry.message.group_id.as_deref().filter(|_| self.settings.fifo) {
            self.groups.leave(group, seq);
            Self::refresh(&mut self.groups, &self.entries, group);
        }
        Some(entry)
    }

    fn refresh(groups: &mut Groups, entries: &BTreeMap<u64, Entry>, group: &str) {
        groups.refresh(
            group,
            |head| matches!(entries.get(&head), Some(entry) if matches!(entry.state, State::Visible { .. })),
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
