//! Holding what was received: SQS has no browsing, so whoever looks keeps what it saw invisible until it is done looking.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future;
use futures::stream::{self, StreamExt as _};

use crate::clock::{Clock, Instant, Random};
use crate::flow::Backoff;
use crate::message::{Delivery, Receipt};
use crate::queue::{EntryError, EntryResults, MAX_BATCH, MAX_VISIBILITY, Queue, QueueError, Receive};
use crate::telemetry::{self, CONSUMED, OPERATION, QUEUE, said};

/// How often a call is made before it is given up.
const TRIES: u32 = 8;

/// How many batches of one settling are under way at once: what is held is renewed by the ten thousand.
const BATCHES: usize = 8;

/// How many are renewed or given back before the next are looked at: what a hundred thousand need at once would be much.
const PORTION: usize = 1_000;

/// How long before the end of SQS's 12 hours nothing is renewed any more.
const LAST_RENEWAL: Duration = Duration::from_secs(60);

/// A queue's calls, with the patience of somebody who is not in a hurry: what fails and may succeed is tried again.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) backoff: Backoff,
}

/// One entry that did not succeed.
#[derive(Clone, Debug)]
pub(super) struct Failed(pub(super) String);

impl Calls {
    pub(super) fn new(queue: Arc<dyn Queue>, clock: Clock, random: Random) -> Self {
        Self {
            queue,
            clock,
            random,
            backoff: Backoff::default(),
        }
    }

    pub(super) async fn receive(&self, request: Receive) -> Result<Vec<Delivery>, QueueError> {
        let mut tries = 0;
        let name = &self.queue.attributes().name;
        loop {
            telemetry::count_call(name, "receive");
            match self.queue.receive(request).await {
                Ok(deliveries) if !deliveries.is_empty() => {
                    telemetry::count_entries(name, "receive", deliveries.len());
                    telemetry::counter(&CONSUMED, &[(QUEUE, name), (OPERATION, "receive")])
                        .increment(deliveries.len() as u64);
                    return Ok(deliveries);
                }
                // Whoever holds so many is to give some back, not to wait; and somebody is to log in again.
                Err(error @ (QueueError::InFlightLimit { .. } | QueueError::Credentials { .. })) => return Err(error),
                Err(error) if error.is_transient() && tries + 1 < TRIES => {
                    tries += 1;
                    tokio::time::sleep(self.backoff.delay(tries, &self.random)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Deletes all of these, or sets their visibility, in batches of ten; answers by position. Entries that failed and may
    /// succeed are tried again, and a batch refused whole one by one. Without credentials nothing more is tried.
    pub(super) async fn settle(&self, receipts: Vec<Receipt>, settle: Settle) -> Vec<Result<(), Failed>> {
        let mut answers: Vec<Result<(), Failed>> = vec![Err(Failed("no answer".to_owned())); receipts.len()];
        let mut open: Vec<usize> = (0..receipts.len()).collect();
        let mut width = MAX_BATCH;
        let name = &self.queue.attributes().name;
        // In a FIFO group nothing may come back before what precedes it.
        let at_once = if self.queue.attributes().fifo { 1 } else { BATCHES };
        let mut tries = 0;
        while !open.is_empty() && tries < TRIES {
            if tries > 0 {
                tokio::time::sleep(self.backoff.delay(tries, &self.random)).await;
            }
            tries += 1;
            let mut again = Vec::new();
            let mut refused = false;
            let locked_out = AtomicBool::new(false);
            let mut answered_entries = 0;
            let call = |batch: &[usize]| {
                let entries = batch.iter().filter_map(|&at| receipts.get(at).cloned());
                telemetry::count_call(name, settle.operation());
                telemetry::count_entries(name, settle.operation(), batch.len());
                match settle {
                    Settle::Delete => self.queue.delete(entries.collect()),
                    Settle::Visibility(to) => {
                        let changes = entries.map(|receipt| (receipt, to)).collect();
                        self.queue.change_visibility(changes)
                    }
                }
            };
            // Owned, so that a task of its own may wait for them: the compiler takes no closure over borrowed ones for `Send`.
            let batches: Vec<Vec<usize>> = open.chunks(width).map(<[usize]>::to_vec).collect();
            let mut answered = stream::iter(batches)
                .take_while(|_| future::ready(!locked_out.load(Ordering::Relaxed)))
                .map(|batch| {
                    let answer = call(&batch);
                    async move { (batch, answer.await) }
                })
                .buffered(at_once);
            let mut why = None;
            while let Some((batch, answer)) = answered.next().await {
                answered_entries += batch.len();
                if let Err(error @ QueueError::Credentials { .. }) = &answer {
                    locked_out.store(true, Ordering::Relaxed);
                    why = Some(Failed(error.to_string()));
                }
                let one_may_be_why = matches!(answer, Err(QueueError::Refused { .. })) && batch.len() > 1;
                refused |= one_may_be_why;
                for (position, &at) in batch.iter().enumerate() {
                    let (outcome, retry) = verdict(&answer, position);
                    if retry || one_may_be_why {
                        again.push(at);
                    }
                    if let Some(slot) = answers.get_mut(at) {
                        *slot = outcome;
                    }
                }
            }
            drop(answered);
            if let Some(why) = why {
                for &at in open.iter().skip(answered_entries) {
                    if let Some(slot) = answers.get_mut(at) {
                        *slot = Err(why.clone());
                    }
                }
                break;
            }
            if refused {
                width = 1;
            }
            open = again;
        }
        answers
    }
}

/// How what was received is settled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Settle {
    Delete,
    Visibility(Duration),
}

impl Settle {
    /// What it is called in metrics.
    fn operation(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Visibility(_) => "change_visibility",
        }
    }
}

/// What came of the entry at `position`, and whether it is worth another try.
fn verdict(answer: &Result<EntryResults<()>, QueueError>, position: usize) -> (Result<(), Failed>, bool) {
    match answer {
        Ok(entries) => match entries.get(position) {
            Some(Ok(())) => (Ok(()), false),
            Some(Err(error)) => (Err(Failed(error.to_string())), worth_retry(error)),
            None => (Err(Failed("the queue gave no answer for it".to_owned())), true),
        },
        Err(error) => (Err(Failed(error.to_string())), error.is_transient()),
    }
}

fn worth_retry(error: &EntryError) -> bool {
    !error.sender_fault && !error.is_stale_receipt()
}

/// The deliveries that are held, and when each is to be renewed. Pure: it says what is due, and others do it.
#[derive(Debug)]
pub(super) struct Held {
    visibility: Duration,
    held: BTreeMap<u64, (Receipt, Instant)>,
    /// In order of time, as all are renewed after the same while.
    due: VecDeque<(Instant, u64)>,
    next: u64,
}

impl Held {
    pub(super) fn new(visibility: Duration) -> Self {
        Self {
            visibility,
            held: BTreeMap::new(),
            due: VecDeque::new(),
            next: 0,
        }
    }

    pub(super) fn visibility(&self) -> Duration {
        self.visibility
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Holds a delivery, and says the number it is held under.
    pub(super) fn add(&mut self, delivery: &Delivery) -> u64 {
        let number = self.next;
        self.next += 1;
        self.held
            .insert(number, (delivery.receipt.clone(), delivery.received_at));
        // Receives that overlap answer in any order.
        let at = delivery.received_at + self.visibility / 2;
        let place = self.due.partition_point(|&(other, _)| other <= at);
        self.due.insert(place, (at, number));
        number
    }

    /// Holds it no longer.
    pub(super) fn remove(&mut self, number: u64) -> Option<Receipt> {
        self.held.remove(&number).map(|(receipt, _)| receipt)
    }

    pub(super) fn receipt(&self, number: u64) -> Option<Receipt> {
        self.held.get(&number).map(|(receipt, _)| receipt.clone())
    }

    pub(super) fn next_renewal(&self) -> Option<Instant> {
        self.due.front().map(|&(at, _)| at)
    }

    /// Takes what is to be renewed by `until`, a portion of it if it is much. What nears SQS's 12 hours is not: it comes back
    /// by itself.
    pub(super) fn take_due(&mut self, now: Instant, until: Instant) -> Vec<(u64, Receipt)> {
        let mut due = Vec::new();
        while let Some(&(at, number)) = self.due.front() {
            if at > until || due.len() >= PORTION {
                break;
            }
            self.due.pop_front();
            let Some((receipt, received_at)) = self.held.get(&number) else {
                continue;
            };
            if now + self.visibility + LAST_RENEWAL < *received_at + MAX_VISIBILITY {
                due.push((number, receipt.clone()));
            }
        }
        due
    }

    /// Notes that a renewal was asked for at `now` and made.
    pub(super) fn renewed(&mut self, number: u64, now: Instant) {
        if self.held.contains_key(&number) {
            let at = now + self.visibility / 2;
            let place = self.due.partition_point(|&(other, _)| other <= at);
            self.due.insert(place, (at, number));
        }
    }

    /// Takes out a portion of what is held, in the order in which it was received; nothing when nothing is held.
    pub(super) fn take_some(&mut self) -> Vec<Receipt> {
        let mut taken = Vec::new();
        while taken.len() < PORTION
            && let Some((_, (receipt, _))) = self.held.pop_first()
        {
            taken.push(receipt);
        }
        if self.held.is_empty() {
            self.due.clear();
        }
        taken
    }
}

/// Renews what is due until `renewed_until`, at most a batch of ten at a time. What the queue no longer lets be renewed is
/// held no longer; says how many those were.
pub(super) async fn renew(held: &Mutex<Held>, calls: &Calls) -> u64 {
    let mut lost = 0;
    loop {
        let now = calls.clock.now();
        let (mut due, visibility) = {
            let mut held = lock(held);
            let visibility = held.visibility();
            // A little ahead of time, so that what falls due at nearly the same time shares a call.
            (held.take_due(now, now + visibility / 8), visibility)
        };
        if due.is_empty() {
            return lost;
        }
        let receipts = due.iter().map(|(_, receipt)| receipt.clone()).collect();
        let answers = calls.settle(receipts, Settle::Visibility(visibility)).await;
        let mut held = lock(held);
        for ((number, _), answer) in due.drain(..).zip(answers) {
            match answer {
                Ok(()) => held.renewed(number, now),
                Err(Failed(error)) => {
                    tracing::debug!(error = %said(&error), "a held message could not be renewed");
                    lost += u64::from(held.remove(number).is_some());
                }
            }
        }
    }
}

/// Gives back all that is held; says how many could be given back, and how many come back by themselves.
pub(super) async fn release(held: &Mutex<Held>, calls: &Calls) -> (u64, u64) {
    let (mut released, mut lost) = (0, 0);
    loop {
        let receipts = lock(held).take_some();
        if receipts.is_empty() {
            return (released, lost);
        }
        for answer in calls.settle(receipts, Settle::Visibility(Duration::ZERO)).await {
            match answer {
                Ok(()) => released += 1,
                Err(_) => lost += 1,
            }
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::message::Message;

    const VISIBILITY: Duration = Duration::from_secs(60);

    fn delivery(n: u64, received_at: Instant) -> Delivery {
        Delivery::new(
            Message::new(n.to_string(), "{}"),
            Receipt::new(n.to_string()),
            1,
            received_at,
        )
    }

    #[test]
    fn what_is_held_falls_due_at_half_its_visibility_in_order_of_time() {
        let start = Clock::system().now();
        let at = |s| start + Duration::from_secs(s);
        let mut held = Held::new(VISIBILITY);
        held.add(&delivery(0, at(10)));
        held.add(&delivery(1, at(5)));
        let gone = held.add(&delivery(2, at(6)));
        held.remove(gone);
        assert_eq!(held.next_renewal(), Some(at(35)));
        assert!(held.take_due(at(34), at(34)).is_empty());
        let due: Vec<_> = held
            .take_due(at(40), at(40))
            .into_iter()
            .map(|(number, _)| number)
            .collect();
        assert_eq!(due, [1, 0]);
        held.renewed(1, at(40));
        assert_eq!(held.next_renewal(), Some(at(70)));
        assert_eq!((held.take_some().len(), held.take_some().len()), (2, 0));
        assert_eq!((held.len(), held.next_renewal()), (0, None));
    }

    #[test]
    fn inv06_nothing_is_renewed_into_sqs_twelve_hours() {
        let start = Clock::system().now();
        let mut held = Held::new(VISIBILITY);
        let number = held.add(&delivery(0, start));
        let last = start + MAX_VISIBILITY - VISIBILITY - LAST_RENEWAL;
        assert_eq!(held.take_due(last - Duration::from_secs(1), last).len(), 1);
        held.renewed(number, last);
        let late = last + VISIBILITY / 2;
        assert!(held.take_due(late, late).is_empty());
        assert_eq!(held.len(), 1, "it can still be released or deleted");
    }
}
