//! What reaches a recorder of the calls that the producer, the browser and a replay make.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use redrive::clock::Random;
use redrive::dlq::{Browser, Replay, Visit};
use redrive::message::Outgoing;
use redrive::queue::Queue;
use redrive::{MemoryQueue, NewMessage, Producer};

/// Calls and filled entries by queue and operation.
type Calls = BTreeMap<(String, String), (u64, f64)>;

/// What `work` counts. It runs on this thread, which a recorder can be set for.
async fn counted(work: impl Future) -> Calls {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    {
        let _recording = metrics::set_default_local_recorder(&recorder);
        work.await;
    }
    let mut calls = Calls::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        let label = |name| {
            key.labels()
                .find(|label| label.key() == name)
                .map(|label| label.value().to_owned())
        };
        let by = || {
            let queue = label("messaging.destination.name").expect("it is counted by its queue");
            (
                queue,
                label("messaging.operation.name").expect("it is counted by its operation"),
            )
        };
        match (key.name(), value) {
            ("redrive.api.calls", DebugValue::Counter(count)) => calls.entry(by()).or_default().0 = count,
            ("redrive.batch.fill", DebugValue::Histogram(values)) => {
                calls.entry(by()).or_default().1 = values.into_iter().map(f64::from).sum();
            }
            _ => {}
        }
    }
    calls
}

async fn filled(name: &str, count: usize) -> MemoryQueue {
    let queue = MemoryQueue::new(name).unwrap();
    let bodies: Vec<_> = (0..count).map(|n| Outgoing::new(n.to_string())).collect();
    for batch in bodies.chunks(10) {
        assert!(queue.send(batch.to_vec()).await.unwrap().iter().all(Result::is_ok));
    }
    queue
}

fn of(calls: &Calls, queue: &str, operation: &str) -> (u64, f64) {
    let key = (queue.to_owned(), operation.to_owned());
    calls.get(&key).copied().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_producers_batches_are_counted_as_they_are_sent() {
    let queue = Arc::new(MemoryQueue::new("orders").unwrap());
    let producer = Producer::builder(queue.clone())
        .random(Random::seeded(1))
        .build()
        .unwrap();
    let messages = (0..25).map(|n| NewMessage::text(n.to_string()));
    let calls = counted(producer.send_all(messages)).await;
    assert_eq!(of(&calls, "orders", "send"), (3, 25.0));
    assert_eq!(queue.calls().send, 3);
}

#[tokio::test(start_paused = true)]
async fn a_scan_counts_what_it_receives_and_gives_back() {
    let queue = filled("orders-dlq", 25).await;
    let browser = Browser::new(Arc::new(queue.clone())).random(Random::seeded(1));
    let calls = counted(async { browser.scan(|_| Visit::Keep).await.unwrap() }).await;
    let made = queue.calls();
    assert_eq!(of(&calls, "orders-dlq", "receive"), (made.receive, 25.0));
    assert_eq!(
        of(&calls, "orders-dlq", "change_visibility"),
        (made.change_visibility, 25.0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_replay_counts_its_calls_of_both_queues() {
    let dlq = filled("orders-dlq", 25).await;
    let orders = filled("orders", 0).await;
    let replay = Replay::new(Arc::new(dlq.clone()), Arc::new(orders.clone()), "job-1").random(Random::seeded(1));
    let calls = counted(async { replay.run().await.unwrap() }).await;
    assert_eq!(orders.len(), 25);
    assert_eq!(of(&calls, "orders-dlq", "receive"), (dlq.calls().receive, 25.0));
    assert_eq!(of(&calls, "orders-dlq", "delete"), (dlq.calls().delete, 25.0));
    assert_eq!(of(&calls, "orders", "send"), (orders.calls().send, 25.0));
}
