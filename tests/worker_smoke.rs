//! The whole path on the embedded backends.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redrive::clock::{Clock, Random};
use redrive::extract::{IdempotencyKey, State};
use redrive::message::{Attribute, Outgoing};
use redrive::queue::Queue as _;
use redrive::{Failure, MemoryInbox, MemoryQueue, Worker};

#[derive(Clone, Default)]
struct Ledger(Arc<AtomicUsize>);

async fn charge(State(ledger): State<Ledger>, _key: IdempotencyKey) -> Result<u32, Failure> {
    ledger.0.fetch_add(1, Ordering::SeqCst);
    Ok(7)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_messages_are_processed_once() {
    let clock = Clock::starting_at(1_700_000_000_000);
    let dead = MemoryQueue::builder("orders-dlq")
        .clock(clock.clone())
        .random(Random::seeded(1))
        .build()
        .unwrap();
    let queue = MemoryQueue::builder("orders")
        .clock(clock.clone())
        .random(Random::seeded(1))
        .dead_letter(&dead, 15)
        .build()
        .unwrap();
    for n in 0..1_000 {
        let message =
            Outgoing::new(format!("{n}")).attribute("Idempotency-Key", Attribute::string(format!("k{}", n / 2)));
        queue.send(vec![message]).await.unwrap().pop().unwrap().unwrap();
    }
    let inbox = MemoryInbox::builder().clock(clock.clone()).build();
    let ledger = Ledger::default();
    let worker = Worker::builder(queue.clone())
        .inbox(inbox)
        .clock(clock)
        .random(Random::seeded(2))
        .without_fingerprint()
        .state(ledger.clone())
        .concurrency(16)
        .handler(charge)
        .build()
        .unwrap();
    let handle = worker.handle();
    let run = worker.run_until_drained();
    tokio::pin!(run);
    tokio::select! {
        r = &mut run => panic!("ended {r:?}"),
        () = async { while !queue.is_empty() { tokio::time::sleep(Duration::from_millis(100)).await } } => {}
    }
    handle.drain();
    run.await.unwrap();
    println!("{:#?} {:?}", handle.status().totals, queue.calls());
    assert_eq!(ledger.0.load(Ordering::SeqCst), 500);
}
