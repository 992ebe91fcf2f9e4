//! The producer on the embedded queue, with faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::{FutureExt as _, StreamExt as _};
use redrive::clock::{Clock, Random};
use redrive::faults::{Fault, FaultPlan, Operation, Rates};
use redrive::flow::Backoff;
use redrive::message::{Delivery, KEY_ATTRIBUTE, Outgoing, Receipt};
use redrive::producer::{NewMessage, Producer, ProducerError};
use redrive::queue::{EntryError, EntryResults, MemoryQueue, Queue, QueueAttributes, QueueError, Receive};

fn producer(queue: &MemoryQueue) -> Producer {
    Producer::builder(Arc::new(queue.clone()))
        .backoff(Backoff::new(Duration::from_millis(10), Duration::from_secs(1)).unwrap())
        .random(Random::seeded(1))
        .build()
        .unwrap()
}

fn bodies(queue: &MemoryQueue) -> Vec<String> {
    queue.messages().into_iter().map(|message| message.body).collect()
}

fn numbered(count: usize) -> impl Iterator<Item = NewMessage> {
    (0..count).map(|n| NewMessage::text(n.to_string()).key(format!("k{n}")))
}

fn faulty(entries: f64) -> Rates {
    Rates::new()
        .before(0.1)
        .after(0.1)
        .throttled(0.1)
        .entries(entries)
        .latency(Duration::ZERO, Duration::from_millis(50))
}

#[tokio::test(start_paused = true)]
async fn messages_sent_at_the_same_time_share_full_batches() {
    let queue = MemoryQueue::new("orders").unwrap();
    let producer = producer(&queue);
    let ids = join_all(numbered(100).map(|message| producer.send(message))).await;
    let ids: BTreeSet<_> = ids.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 100);
    assert_eq!(queue.calls().total(), 10);
    assert_eq!(queue.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_lonely_message_goes_after_a_few_milliseconds_and_a_flush_sends_at_once() {
    let queue = MemoryQueue::new("orders").unwrap();
    let producer = producer(&queue);
    let start = Clock::system().now();
    producer.send(NewMessage::text("a")).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(5));
    let mut sending = pin!(producer.send(NewMessage::text("b")));
    assert!(sending.as_mut().now_or_never().is_none());
    let start = Clock::system().now();
    producer.flush().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(queue.len(), 2);
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn inv11_only_the_entries_that_failed_are_sent_again() {
    let queue = MemoryQueue::new("orders").unwrap();
    queue.faults().fail_next_entries(Operation::Send, [2, 7]);
    let answers = producer(&queue).send_all(numbered(10)).await;
    assert!(answers.iter().all(Result::is_ok));
    let mut sent = bodies(&queue);
    sent.sort();
    assert_eq!(
        sent,
        (0..10).map(|n| n.to_string()).collect::<Vec<_>>(),
        "none lost, none twice"
    );
    assert!(queue.calls().total() <= 3);
}

#[tokio::test(start_paused = true)]
async fn inv01_under_faults_of_every_kind_each_message_arrives_and_each_sender_is_answered() {
    for seed in 0..20 {
        let queue = MemoryQueue::builder("orders")
            .faults(FaultPlan::seeded(seed).on(Operation::Send, faulty(0.1)))
            .build()
            .unwrap();
        let producer = producer(&queue);
        let answers = join_all(numbered(300).map(|message| producer.send(message))).await;
        assert!(answers.iter().all(Result::is_ok), "seed {seed}: {answers:?}");
        let keys: BTreeSet<_> = queue
            .messages()
            .iter()
            .map(|message| message.attribute(KEY_ATTRIBUTE).unwrap().to_owned())
            .collect();
        assert_eq!(keys.len(), 300, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn inv07_a_fifo_group_keeps_its_order_whatever_fails() {
    for seed in 0..20 {
        let queue = MemoryQueue::builder("orders.fifo")
            .faults(FaultPlan::seeded(seed).on(Operation::Send, faulty(0.2)))
            .build()
            .unwrap();
        let messages = (0..120).map(|n| {
            NewMessage::text(n.to_string())
                .key(format!("k{n}"))
                .group(format!("g{}", n % 7))
        });
        let answers = producer(&queue).send_all(messages).await;
        assert!(answers.iter().all(Result::is_ok), "seed {seed}: {answers:?}");
        let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for message in queue.messages() {
            let number = message.body.parse().unwrap();
            groups.entry(message.group_id.unwrap()).or_default().push(number);
        }
        let count: usize = groups.values().map(Vec::len).sum();
        assert_eq!(count, 120, "seed {seed}: lost or twice");
        assert!(
            groups.values().all(|numbers| numbers.is_sorted()),
            "seed {seed}: {groups:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_a_send_takes_it_back_and_touches_no_other() {
    let queue = MemoryQueue::new("orders").unwrap();
    let producer = producer(&queue);
    let mut others = pin!(join_all(numbered(5).map(|message| producer.send(message))));
    // This one drives the batch first, then goes.
    let mut dropped = Box::pin(producer.send(NewMessage::text("dropped")));
    assert!(dropped.as_mut().now_or_never().is_none());
    assert!(others.as_mut().now_or_never().is_none());
    drop(dropped);
    assert!(others.await.iter().all(Result::is_ok));
    assert_eq!(queue.len(), 5);
    assert!(!bodies(&queue).contains(&"dropped".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn dropping_whoever_drives_a_call_under_way_leaves_no_other_hanging() {
    let queue = MemoryQueue::new("orders").unwrap();
    queue.faults().slow_next(Operation::Send, 1, Duration::from_secs(1));
    let producer = producer(&queue);
    let mut others = pin!(join_all(numbered(5).map(|message| producer.send(message))));
    let mut driving = Box::pin(producer.send(NewMessage::text("driver")));
    assert!(driving.as_mut().now_or_never().is_none());
    assert!(others.as_mut().now_or_never().is_none());
    // The call starts while both wait, and is under way when one goes.
    tokio::time::advance(Duration::from_millis(10)).await;
    assert!(driving.as_mut().now_or_never().is_none());
    drop(driving);
    assert!(others.await.iter().all(Result::is_ok));
    assert_eq!(queue.calls().total(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_send_that_is_not_polled_holds_up_nobody() {
    let queue = MemoryQueue::new("orders.fifo").unwrap();
    let producer = Producer::builder(Arc::new(queue.clone()))
        .buffer(2)
        .batches_in_flight(1)
        .random(Random::seeded(1))
        .build()
        .unwrap();
    let mut idle = Box::pin(producer.send(NewMessage::text("a").group("g")));
    assert!(idle.as_mut().now_or_never().is_none());
    // Same group, one batch, two places: each of these needs what the idle one holds.
    for body in ["b", "c", "d"] {
        producer.send(NewMessage::text(body).group("g")).await.unwrap();
    }
    assert_eq!(bodies(&queue), ["a", "b", "c", "d"]);
    idle.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn inv05_a_full_buffer_makes_senders_wait() {
    let queue = MemoryQueue::new("orders").unwrap();
    queue.faults().set_unreachable(true);
    let producer = Producer::builder(Arc::new(queue.clone()))
        .buffer(20)
        .random(Random::seeded(1))
        .build()
        .unwrap();
    let taken = std::cell::Cell::new(0);
    let messages = numbered(50).inspect(|_| taken.set(taken.get() + 1));
    let mut all = pin!(producer.send_all(messages));
    assert!(
        tokio::time::timeout(Duration::from_secs(5), all.as_mut())
            .await
            .is_err()
    );
    assert_eq!(taken.get(), 21, "twenty places, and the one that waits for the next");
    queue.faults().heal();
    assert!(all.await.iter().all(Result::is_ok));
    assert_eq!(queue.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_in_a_clear_error_within_the_bound() {
    let queue = MemoryQueue::new("orders").unwrap();
    queue.faults().set_unreachable(true);
    let producer = Producer::builder(Arc::new(queue.clone()))
        .give_up_after(Duration::from_secs(20))
        .attempts(1_000)
        .random(Random::seeded(1))
        .build()
        .unwrap();
    let start = Clock::system().now();
    let error = producer.send(NewMessage::text("a")).await.unwrap_err();
    assert!(start.elapsed() <= Duration::from_secs(20));
    assert!(
        matches!(&error, ProducerError::GivenUp { attempts, .. } if *attempts > 1),
        "{error}"
    );
    assert!(error.to_string().contains("`orders`"));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_makes_a_copy_that_has_the_same_key() {
    let queue = MemoryQueue::new("orders").unwrap();
    queue.faults().fail_next(Operation::Send, 1, Fault::After);
    producer(&queue).send(NewMessage::text("a")).await.unwrap();
    let keys: Vec<_> = queue
        .messages()
        .iter()
        .map(|message| message.attribute(KEY_ATTRIBUTE).unwrap().to_owned())
        .collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
}

#[tokio::test(start_paused = true)]
async fn inv12_a_message_the_queue_would_refuse_is_never_sent() {
    let queue = MemoryQueue::new("orders").unwrap();
    let messages = [
        NewMessage::text("good"),
        NewMessage::text(""),
        NewMessage::text("\u{0}"),
    ];
    let answers = producer(&queue).send_all(messages).await;
    assert!(answers[0].is_ok());
    assert!(matches!(&answers[1], Err(ProducerError::Invalid { .. })));
    assert!(matches!(&answers[2], Err(ProducerError::Invalid { .. })));
    assert_eq!(bodies(&queue), ["good"]);
}

#[test]
fn inv12_absurd_settings_are_named() {
    let builder = || Producer::builder(Arc::new(MemoryQueue::new("orders").unwrap()));
    for (built, name) in [
        (builder().buffer(0).build(), "buffer"),
        (builder().batches_in_flight(0).build(), "batches_in_flight"),
        (builder().attempts(0).build(), "attempts"),
        (builder().linger(Duration::from_secs(60)).build(), "linger"),
        (builder().give_up_after(Duration::ZERO).build(), "give_up_after"),
    ] {
        assert!(built.unwrap_err().to_string().contains(name));
    }
    assert!(builder().build().is_ok(), "the defaults are within the bounds");
}

/// A queue that refuses by a script: `poison` in a batch refuses the batch, `bad` refuses its entry, and of more than eight
/// entries the rest get no answer.
struct Picky {
    attributes: QueueAttributes,
    calls: Mutex<Vec<Vec<String>>>,
}

/// The queue, and a producer for it.
fn picky(name: &str) -> (Arc<Picky>, Producer) {
    let queue = Arc::new(Picky {
        attributes: QueueAttributes::new(name),
        calls: Mutex::default(),
    });
    let producer = Producer::builder(queue.clone()).random(Random::seeded(1)).build();
    (queue, producer.unwrap())
}

impl Queue for Picky {
    fn attributes(&self) -> &QueueAttributes {
        &self.attributes
    }
    fn dead_letter_queue(&self) -> Option<Arc<dyn Queue>> {
        None
    }
    fn describe(&self) -> BoxFuture<'_, Result<QueueAttributes, QueueError>> {
        async { Ok(self.attributes.clone()) }.boxed()
    }
    fn receive(&self, _: Receive) -> BoxFuture<'_, Result<Vec<Delivery>, QueueError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn delete(&self, _: Vec<Receipt>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn change_visibility(&self, _: Vec<(Receipt, Duration)>) -> BoxFuture<'_, Result<EntryResults<()>, QueueError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn send(&self, messages: Vec<Outgoing>) -> BoxFuture<'_, Result<EntryResults<String>, QueueError>> {
        let bodies: Vec<_> = messages.into_iter().map(|message| message.body).collect();
        self.calls.lock().unwrap().push(bodies.clone());
        async move {
            if bodies.contains(&"poison".to_owned()) {
                return Err(QueueError::Refused {
                    queue: self.attributes.name.clone(),
                    operation: "SendMessageBatch",
                    code: "InvalidParameterValue".into(),
                    detail: "no".into(),
                    request_id: None,
                });
            }
            Ok(bodies
                .iter()
                .take(8)
                .map(|body| match body.as_str() {
                    "bad" => Err(EntryError::new("InvalidMessageContents", "bad characters", true)),
                    body => Ok(format!("id-{body}")),
                })
                .collect())
        }
        .boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn inv11_a_batch_refused_whole_is_sent_one_by_one_and_an_entrys_fault_is_its_own() {
    let (queue, producer) = picky("orders");
    let answers = producer
        .send_all(["a", "poison", "b", "bad"].map(NewMessage::text))
        .await;
    assert_eq!(answers[0].as_deref().unwrap(), "id-a");
    assert!(matches!(
        &answers[1],
        Err(ProducerError::Queue(QueueError::Refused { .. }))
    ));
    assert_eq!(answers[2].as_deref().unwrap(), "id-b");
    assert!(matches!(&answers[3], Err(ProducerError::Refused { error, .. }) if error.sender_fault));
    let lengths: Vec<_> = queue.calls.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(lengths, [4, 1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn inv11_an_entry_left_without_an_answer_is_sent_again() {
    let (_, producer) = picky("orders");
    let answers = producer
        .send_all((0..10).map(|n| NewMessage::text(n.to_string())))
        .await;
    let ids: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids, (0..10).map(|n| format!("id-{n}")).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn inv07_behind_a_refused_message_its_group_is_not_sent_and_others_are() {
    let (queue, producer) = picky("orders.fifo");
    let message = |body: &str, group: &str| NewMessage::text(body).group(group);
    let answers = producer
        .send_all([
            message("1", "g"),
            message("bad", "g"),
            message("3", "g"),
            message("4", "h"),
        ])
        .await;
    assert!(answers[0].is_ok() && answers[3].is_ok());
    assert!(matches!(&answers[1], Err(ProducerError::Refused { .. })));
    assert!(matches!(&answers[2], Err(ProducerError::GroupFailed { group, .. }) if group == "g"));
    let sent: Vec<_> = queue.calls.lock().unwrap().concat();
    assert!(!sent.contains(&"3".to_owned()));
    let later = producer.send(message("5", "g")).await;
    assert!(later.is_ok(), "the group goes on for what is sent afterwards");
}

#[tokio::test]
async fn many_tasks_on_a_clock_that_runs_share_one_producer() {
    let queue = MemoryQueue::new("orders").unwrap();
    let producer = producer(&queue);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..20 {
        let producer = producer.clone();
        tasks.spawn(async move {
            let results: Vec<_> = futures::stream::iter(0..100)
                .map(|n| producer.send(NewMessage::text(format!("{task}-{n}"))))
                .buffer_unordered(10)
                .collect()
                .await;
            assert!(results.iter().all(Result::is_ok));
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(bodies(&queue).into_iter().collect::<BTreeSet<_>>().len(), 2_000);
    assert!(queue.calls().total() <= 400, "{} calls", queue.calls().total());
}

#[tokio::test(start_paused = true)]
async fn inv07_behind_a_message_that_is_refused_before_it_is_sent_its_group_is_not_sent_either() {
    let (queue, producer) = picky("orders.fifo");
    let message = |body: &str, group: &str| NewMessage::text(body).group(group);
    let answers = producer
        .send_all([
            message("1", "g"),
            message("\u{1}", "g"),
            message("3", "g"),
            message("4", "h"),
            message("5", "g"),
        ])
        .await;
    assert!(answers[0].is_ok() && answers[3].is_ok());
    assert!(matches!(&answers[1], Err(ProducerError::Invalid { .. })), "{answers:?}");
    for behind in [2, 4] {
        assert!(matches!(&answers[behind], Err(ProducerError::GroupFailed { group, .. }) if group == "g"));
    }
    assert_eq!(queue.calls.lock().unwrap().concat(), ["1", "4"]);
}
