//! The embedded queue, held to what every queue must do, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/queue_conformance.rs"]
mod queue_conformance;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use std::time::Duration;

use futures::future::BoxFuture;
use queue_conformance::{Engine, QueueLab, Spec};
use redrive::message::Outgoing;
use redrive::queue::{MAX_WAIT, MemoryQueue, Queue, Receive};
use tokio::task::JoinSet;

#[derive(Default)]
struct Embedded {
    made: AtomicUsize,
}

impl QueueLab for Embedded {
    fn engine(&self) -> Engine {
        Engine::Embedded
    }

    fn queue(&self, spec: Spec) -> BoxFuture<'_, Arc<dyn Queue>> {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        let suffix = if spec.fifo { ".fifo" } else { "" };
        let mut builder = MemoryQueue::builder(format!("q{made}{suffix}"))
            .content_based_deduplication(spec.content_based_deduplication)
            .deduplication_by_group(spec.deduplication_by_group);
        if let Some(visibility) = spec.visibility {
            builder = builder.visibility_timeout(visibility);
        }
        if let Some(delay) = spec.delay {
            builder = builder.delay(delay);
        }
        if let Some(bytes) = spec.max_message_bytes {
            builder = builder.max_message_bytes(bytes);
        }
        if let Some(receives) = spec.max_receive_count {
            let dead = MemoryQueue::new(format!("dead{made}{suffix}")).expect("the name is plain");
            builder = builder.dead_letter(&dead, receives);
        }
        let queue = builder.build().expect("the suite asks for queues that can be");
        Box::pin(async move { Arc::new(queue) as Arc<dyn Queue> })
    }
}

macro_rules! tests {
    ($($case:ident,)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $case() {
                queue_conformance::$case(&Embedded::default()).await;
            }
        )*
    };
}

queue_conformance::for_each_case!(tests);

/// Real threads and real time: a wake-up lost between looking and waiting would leave a receiver waiting for its full 20 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn receivers_and_senders_on_several_threads_miss_nothing() {
    const BATCHES: usize = 500;
    let queue = MemoryQueue::new("threads").unwrap();
    let mut senders = JoinSet::new();
    let mut receivers = JoinSet::new();
    let received = Arc::new(AtomicUsize::new(0));
    for _ in 0..4 {
        let (queue, received) = (queue.clone(), received.clone());
        receivers.spawn(async move {
            loop {
                let deliveries = queue.receive(Receive::new(10, MAX_WAIT)).await.unwrap();
                assert!(!deliveries.is_empty(), "a message was there and nobody woke up");
                received.fetch_add(deliveries.len(), Ordering::Relaxed);
                let receipts = deliveries.into_iter().map(|delivery| delivery.receipt).collect();
                assert!(queue.delete(receipts).await.unwrap().iter().all(Result::is_ok));
            }
        });
    }
    for _ in 0..4 {
        let queue = queue.clone();
        senders.spawn(async move {
            for n in 0..BATCHES {
                assert!(queue.send(vec![Outgoing::new("a")]).await.unwrap()[0].is_ok());
                if n % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
    senders.join_all().await;
    let drained = tokio::time::timeout(Duration::from_secs(10), async {
        while !queue.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    drained
        .await
        .expect("receivers that wait wake up when messages are there");
    assert_eq!(received.load(Ordering::Relaxed), 4 * BATCHES);
    assert_eq!(receivers.len(), 4);
    assert!(receivers.try_join_next().is_none(), "no receiver failed");
}
