//! An outage of the inbox turns no healthy message into a dead letter: what cannot be claimed stays held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures::future::BoxFuture;
use redrive::faults::{Operation, Rates};
use redrive::inbox::{Answers, ClaimAnswer, ClaimRequest, Inbox, InboxError, Record, ServiceTime, Write, Written};
use redrive::key::{Key, RecordKey};
use redrive::worker::Fate;
use redrive::{MemoryInbox, MemoryQueue};

use crate::support::{Rig, Running, secs, sleep, start};

/// A rig whose redrive policy moves after 15 receives to the queue that comes with it.
fn rig_of_fifteen(name: &str) -> (Rig, MemoryQueue) {
    let moved = if name.ends_with(".fifo") { "moved.fifo" } else { "moved" };
    let moved = MemoryQueue::new(moved).unwrap();
    let rig = Rig::named(name, |queue| {
        queue.visibility_timeout(secs(120)).dead_letter(&moved, 15)
    });
    (rig, moved)
}

fn most_receives(rig: &Rig) -> u32 {
    let messages = rig.queue.messages();
    let receives = messages
        .iter()
        .map(|message| rig.queue.peek(&message.id).unwrap().receive_count);
    receives.max().unwrap_or(0)
}

async fn a_day_without_inbox(messages: usize, workers: usize) {
    let (rig, moved) = rig_of_fifteen("orders");
    rig.send_many(messages).await;
    rig.inbox.faults().set_unreachable(true);
    let running: Vec<Running> = (0..workers)
        .map(|_| start(rig.worker().handler(rig.succeeds()).build().unwrap()))
        .collect();
    for hour in 1..=24 {
        sleep(secs(3600)).await;
        assert_eq!(moved.len(), 0, "moved by SQS after {hour} hours");
        assert!(
            most_receives(&rig) <= 15,
            "{} receives after {hour} hours",
            most_receives(&rig)
        );
    }
    assert_eq!(
        (rig.log.len(), rig.queue.len()),
        (0, messages),
        "none was run, none was lost"
    );
    rig.inbox.faults().heal();
    for running in &running {
        rig.emptied(running).await;
    }
    for running in running {
        running.drain().await;
    }
    assert_eq!((rig.log.done(), moved.len(), rig.dead.len()), (messages, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn inv04_a_day_without_inbox_moves_not_the_only_message() {
    a_day_without_inbox(1, 1).await;
}

#[tokio::test(start_paused = true)]
async fn inv04_a_day_without_inbox_moves_neither_of_two_messages() {
    a_day_without_inbox(2, 1).await;
}

#[tokio::test(start_paused = true)]
async fn inv04_a_day_without_inbox_moves_none_of_four_messages_of_three_workers() {
    a_day_without_inbox(4, 3).await;
}

#[tokio::test(start_paused = true)]
async fn inv04_a_day_without_inbox_moves_none_of_fifty_messages() {
    a_day_without_inbox(50, 1).await;
    a_day_without_inbox(50, 3).await;
}

#[tokio::test(start_paused = true)]
async fn inv04_a_day_without_inbox_moves_nothing_of_a_fifo_queue_and_keeps_its_order() {
    let (rig, moved) = rig_of_fifteen("orders.fifo");
    for n in 0..6 {
        rig.send_in(&format!("g{}", n % 2), &format!("k{n}"), &n.to_string())
            .await;
    }
    rig.inbox.faults().set_unreachable(true);
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    for hour in 1..=24 {
        sleep(secs(3600)).await;
        assert_eq!(moved.len(), 0, "moved by SQS after {hour} hours");
    }
    rig.inbox.faults().heal();
    rig.emptied(&running).await;
    running.drain().await;
    for group in ["g0", "g1"] {
        let runs = rig
            .log
            .runs()
            .into_iter()
            .filter(|run| run.group.as_deref() == Some(group));
        let bodies: Vec<_> = runs.map(|run| run.body).collect();
        assert!(bodies.is_sorted() && bodies.len() == 3, "{group}: {bodies:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn inv04_what_is_held_is_claimed_within_a_minute_after_a_short_outage_of_the_inbox_without_another_receive() {
    for messages in [1, 2, 10] {
        let rig = Rig::new();
        rig.send_many(messages).await;
        rig.inbox.faults().set_unreachable(true);
        let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
        sleep(secs(20)).await;
        rig.inbox.faults().heal();
        sleep(secs(60)).await;
        assert_eq!((rig.log.done(), rig.queue.len()), (messages, 0));
        assert_eq!(rig.queue.calls().received, messages as u64, "one receive each");
        running.drain().await;
    }
}

/// A claim that is answered after longer than the visibility timeout keeps its message all the same.
#[tokio::test(start_paused = true)]
async fn inv04_a_slow_inbox_spends_no_receives() {
    let rig = Rig::with(|queue| queue.visibility_timeout(secs(10)));
    rig.send_many(2).await;
    rig.inbox.faults().slow_next(Operation::Claim, 3, secs(25));
    let running = start(rig.worker().lease(secs(60)).handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!((rig.queue.calls().received, rig.log.len()), (2, 2));
    running.drain().await;
}

/// A claim whose reply is lost is taken up again under its own id, and not waited for as somebody else's.
#[tokio::test(start_paused = true)]
async fn inv04_a_claim_whose_reply_was_lost_is_no_ones_elses() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    rig.inbox
        .faults()
        .fail_next(Operation::Claim, 1, redrive::faults::Fault::After);
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    sleep(secs(5)).await;
    assert_eq!((rig.log.done(), rig.queue.calls().received), (1, 1));
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv04_what_waits_for_the_inbox_is_given_back_by_a_drain() {
    let rig = Rig::new();
    rig.send_many(3).await;
    rig.inbox.faults().set_unreachable(true);
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    sleep(secs(60)).await;
    running.drain().await;
    assert_eq!(rig.queue.visible(), 3);
}

/// Claims that fail one by one are asked again one by one.
#[tokio::test(start_paused = true)]
async fn inv04_half_the_claims_failing_gives_nothing_back() {
    let (rig, moved) = rig_of_fifteen("orders");
    rig.inbox.faults().set(Operation::Claim, Rates::new().entries(0.5));
    rig.send_many(100).await;
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!((rig.log.done(), moved.len(), rig.dead.len()), (100, 0, 0));
    assert!(rig.fates.all().iter().all(|(_, fate, _)| *fate == Fate::Completed));
}

/// An inbox one of whose records somebody edited into something that is none.
#[derive(Clone)]
struct Edited {
    inner: MemoryInbox,
    key: RecordKey,
    mended: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
}

impl Inbox for Edited {
    fn claim(&self, requests: Vec<ClaimRequest>) -> BoxFuture<'_, Answers<ClaimAnswer>> {
        Box::pin(async move {
            let corrupt = |request: &ClaimRequest| request.key == self.key && !self.mended.load(Ordering::SeqCst);
            let (bad, good): (Vec<_>, Vec<_>) = requests.iter().cloned().partition(corrupt);
            self.asked.fetch_add(bad.len() as u32, Ordering::SeqCst);
            let mut answers = self.inner.claim(good).await.into_iter();
            let answer = |request: &ClaimRequest| match corrupt(request) {
                true => Err(InboxError::Corrupt {
                    inbox: "inbox".to_owned(),
                    key: request.key.clone(),
                    why: "its status is no text".to_owned(),
                }),
                false => answers.next().unwrap(),
            };
            requests.iter().map(answer).collect()
        })
    }

    fn write(&self, writes: Vec<Write>) -> BoxFuture<'_, Answers<Written>> {
        self.inner.write(writes)
    }

    fn get<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, Result<Option<Record>, InboxError>> {
        self.inner.get(key)
    }

    fn time(&self) -> ServiceTime {
        self.inner.time()
    }

    fn max_result(&self) -> usize {
        self.inner.max_result()
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<String>, InboxError>> {
        self.inner.check()
    }
}

#[tokio::test(start_paused = true)]
async fn inv04_a_message_with_an_unreadable_record_waits_for_a_day_and_holds_up_nobody() {
    let (rig, moved) = rig_of_fifteen("orders");
    let inbox = Edited {
        inner: rig.inbox.clone(),
        key: RecordKey::new("orders", &Key::new("edited")),
        mended: Arc::default(),
        asked: Arc::default(),
    };
    rig.send("edited", "edited").await;
    let running = start(rig.bare().inbox(inbox.clone()).handler(rig.succeeds()).build().unwrap());
    for hour in 0..24 {
        rig.send(&format!("k{hour}"), "healthy").await;
        sleep(secs(3600)).await;
        assert_eq!((moved.len(), rig.log.done()), (0, hour + 1), "after {} hours", hour + 1);
    }
    let asked = inbox.asked.load(Ordering::SeqCst);
    assert!((8..=15).contains(&asked), "asked {asked} times");
    assert_eq!(running.status().totals.breaker_opened, 0);
    inbox.mended.store(true, Ordering::SeqCst);
    sleep(secs(12 * 3600)).await;
    assert_eq!((rig.log.done(), rig.queue.len(), moved.len()), (25, 0, 0));
    running.drain().await;
}
