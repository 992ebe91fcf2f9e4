//! What waits to be sent, and the pure decision which of it makes the next batch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Instant;
use crate::message::Outgoing;
use crate::queue::{MAX_BATCH, MAX_BYTES};

/// A message that waits, with whatever its sender is answered by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<A> {
    pub(super) outgoing: Outgoing,
    pub(super) size: usize,
    /// The group whose order binds it: FIFO queues only.
    pub(super) group: Option<String>,
    pub(super) joined: Instant,
    /// Not to be sent before this: backoff.
    pub(super) not_before: Instant,
    pub(super) tries: u32,
    /// To be sent by itself: the batch it was in was refused as a whole.
    pub(super) alone: bool,
    pub(super) answer: A,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan<B> {
    /// Send these, in this order.
    Send(B),
    /// Nothing before this time, unless something is added.
    WaitUntil(Instant),
    /// Nothing until a batch in flight comes back: all places for batches are taken.
    WaitForPlace,
    /// Nothing until a batch in flight comes back or something is added: what waits is behind its group.
    WaitForGroup,
    /// Nothing waits.
    Idle,
}

/// Messages in the order in which they came, by number.
#[derive(Debug)]
pub(super) struct Buffer<A> {
    waiting: BTreeMap<u64, Entry<A>>,
    linger: Duration,
    next: u64,
    /// What has a lower number does not linger.
    flush_before: u64,
}

pub(super) type Batch<A> = Vec<(u64, Entry<A>)>;

impl<A> Buffer<A> {
    pub(super) fn new(linger: Duration) -> Self {
        Self {
            waiting: BTreeMap::new(),
            linger,
            next: 0,
            flush_before: 0,
        }
    }

    /// Adds one at the end and says its number.
    pub(super) fn push(&mut self, entry: Entry<A>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.waiting.insert(number, entry);
        number
    }

    /// Puts back in its place what was sent and is to be sent again.
    pub(super) fn put_back(&mut self, number: u64, entry: Entry<A>) {
        self.waiting.insert(number, entry);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Entry<A>> {
        self.waiting.remove(&number)
    }

    /// Takes out all that wait in this group.
    pub(super) fn take_group(&mut self, group: &str) -> Batch<A> {
        self.waiting
            .extract_if(.., |_, entry| entry.group.as_deref() == Some(group))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Lets nothing that is here now linger, and says the number all of it is under.
    pub(super) fn flush(&mut self) -> u64 {
        self.flush_before = self.next;
        self.next
    }

    pub(super) fn linger(&self) -> Duration {
        self.linger
    }

    /// Decides what is done at `now`, while messages of the groups in `flying` are under way and `place` says whether
    /// another batch may be.
    ///
    /// Of a group, one message at a time is under way, and none passes one before it: a batch can fail in part.
    pub(super) fn plan(&mut self, now: Instant, flying: &BTreeSet<String>, place: bool) -> Plan<Batch<A>> {
        if self.waiting.is_empty() {
            return Plan::Idle;
        }
        if !place {
            return Plan::WaitForPlace;
        }
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut numbers = Vec::new();
        let mut bytes = 0;
        let mut full = false;
        let mut ripe_at: Option<Instant> = None;
        let mut earliest = |at: Instant| ripe_at = Some(ripe_at.map_or(at, |other| other.min(at)));
        for (&number, entry) in &self.waiting {
            if let Some(group) = entry.group.as_deref()
                && (flying.contains(group) || !seen.insert(group))
            {
                continue;
            }
            if entry.not_before > now {
                earliest(entry.not_before);
                continue;
            }
            if entry.alone && !numbers.is_empty() {
                full = true;
                break;
            }
            if bytes + entry.size > MAX_BYTES && !numbers.is_empty() {
                full = true;
                break;
            }
            bytes += entry.size;
            numbers.push(number);
            let lingers = entry.tries == 0 && number >= self.flush_before;
            earliest(if lingers { entry.joined + self.linger } else { now });
            if entry.alone || numbers.len() == MAX_BATCH {
                full = true;
                break;
            }
        }
        match ripe_at {
            _ if full => Plan::Send(self.take(&numbers)),
            None => Plan::WaitForGroup,
            Some(at) if at <= now => Plan::Send(self.take(&numbers)),
            Some(at) => Plan::WaitUntil(at),
        }
    }

    fn take(&mut self, numbers: &[u64]) -> Batch<A> {
        numbers
            .iter()
            .filter_map(|&number| Some((number, self.waiting.remove(&number)?)))
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const LINGER: Duration = Duration::from_millis(5);

    struct Bench {
        buffer: Buffer<()>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                buffer: Buffer::new(LINGER),
                now: Clock::system().now(),
            }
        }

        fn add(&mut self, group: Option<&str>, size: usize) -> u64 {
            self.buffer.push(Entry {
                outgoing: Outgoing::new("x"),
                size,
                group: group.map(str::to_owned),
                joined: self.now,
                not_before: self.now,
                tries: 0,
                alone: false,
                answer: (),
            })
        }

        fn plan(&mut self, flying: &[&str]) -> Plan<Vec<u64>> {
            let flying = flying.iter().map(|&group| group.to_owned()).collect();
            match self.buffer.plan(self.now, &flying, true) {
                Plan::Send(batch) => Plan::Send(batch.into_iter().map(|(number, _)| number).collect()),
                Plan::WaitUntil(at) => Plan::WaitUntil(at),
                Plan::WaitForPlace => Plan::WaitForPlace,
                Plan::WaitForGroup => Plan::WaitForGroup,
                Plan::Idle => Plan::Idle,
            }
        }
    }

    #[test]
    fn a_batch_goes_when_it_is_full_or_its_first_has_lingered() {
        let mut bench = Bench::new();
        assert_eq!(bench.plan(&[]), Plan::Idle);
        for _ in 0..12 {
            bench.add(None, 100);
        }
        assert_eq!(bench.plan(&[]), Plan::Send((0..10).collect()));
        assert_eq!(bench.plan(&[]), Plan::WaitUntil(bench.now + LINGER));
        bench.now += LINGER;
        assert_eq!(bench.plan(&[]), Plan::Send(vec![10, 11]));
    }

    #[test]
    fn inv05_a_batch_stays_within_one_mebibyte() {
        let mut bench = Bench::new();
        for size in [MAX_BYTES / 2, MAX_BYTES / 2, 1, MAX_BYTES] {
            bench.add(None, size);
        }
        assert_eq!(bench.plan(&[]), Plan::Send(vec![0, 1]));
        assert_eq!(bench.plan(&[]), Plan::Send(vec![2]));
        bench.now += LINGER;
        assert_eq!(bench.plan(&[]), Plan::Send(vec![3]));
    }

    #[test]
    fn inv05_nothing_is_sent_while_all_places_are_taken() {
        let mut bench = Bench::new();
        for _ in 0..10 {
            bench.add(None, 1);
        }
        assert_eq!(
            bench.buffer.plan(bench.now, &BTreeSet::new(), false),
            Plan::WaitForPlace
        );
        assert_eq!(bench.buffer.len(), 10);
    }

    #[test]
    fn inv07_of_a_group_one_message_at_a_time_is_under_way_in_order() {
        let mut bench = Bench::new();
        for group in ["a", "a", "b", "c"] {
            bench.add(Some(group), 1);
        }
        bench.now += LINGER;
        assert_eq!(bench.plan(&["c"]), Plan::Send(vec![0, 2]));
        assert_eq!(bench.plan(&["a", "b", "c"]), Plan::WaitForGroup);
        assert_eq!(bench.plan(&["b", "c"]), Plan::Send(vec![1]));
    }

    #[test]
    fn inv07_what_backs_off_holds_back_its_group_and_only_that() {
        let mut bench = Bench::new();
        for group in ["a", "a", "b"] {
            bench.add(Some(group), 1);
        }
        bench.now += LINGER;
        let mut failed = bench.buffer.remove(0).unwrap();
        failed.tries = 1;
        failed.not_before = bench.now + Duration::from_secs(1);
        bench.buffer.put_back(0, failed);
        assert_eq!(bench.plan(&[]), Plan::Send(vec![2]));
        assert_eq!(bench.plan(&[]), Plan::WaitUntil(bench.now + Duration::from_secs(1)));
        bench.now += Duration::from_secs(1);
        assert_eq!(bench.plan(&[]), Plan::Send(vec![0]));
    }

    #[test]
    fn inv11_what_was_refused_with_others_goes_alone() {
        let mut bench = Bench::new();
        for _ in 0..4 {
            bench.add(None, 1);
        }
        for number in [1, 2] {
            let mut entry = bench.buffer.remove(number).unwrap();
            entry.alone = true;
            bench.buffer.put_back(number, entry);
        }
        bench.now += LINGER;
        assert_eq!(bench.plan(&[]), Plan::Send(vec![0]));
        assert_eq!(bench.plan(&[]), Plan::Send(vec![1]));
        assert_eq!(bench.plan(&[]), Plan::Send(vec![2]));
        assert_eq!(bench.plan(&[]), Plan::Send(vec![3]));
    }

    #[test]
    fn a_flush_ends_the_lingering_of_what_is_there() {
        let mut bench = Bench::new();
        bench.add(None, 1);
        bench.buffer.flush();
        bench.add(None, 1);
        assert_eq!(bench.plan(&[]), Plan::Send(vec![0, 1]));
        bench.add(None, 1);
        assert_eq!(bench.plan(&[]), Plan::WaitUntil(bench.now + LINGER));
    }
}
