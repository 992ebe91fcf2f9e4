//! What a message costs in allocations, and that a worker keeps nothing of what is done: on the embedded backends, whose own
//! allocations are counted with the engine's, under virtual time and from seeds, so that a run is the same every time.
//!
//! A message's cost is what a run of twice as many takes more, so that what is allocated once is no part of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use redrive::clock::{Clock, Random};
use redrive::message::{Attribute, KEY_ATTRIBUTE, Outgoing};
use redrive::queue::Queue;
use redrive::worker::WithoutDeadLetters;
use redrive::{Error, Failure, MemoryInbox, MemoryQueue, Worker};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Allocations and bytes for a message at most.
struct Bounds {
    allocations: f64,
    bytes: f64,
}

// What was measured and a tenth more: a map that grows at another moment, or another version of the compiler, is no failure;
// three allocations more for a message without an inbox are, and four with one.
const WITHOUT_INBOX: Bounds = Bounds {
    allocations: 22.6,
    bytes: 4_293.0,
};

const WITH_INBOX: Bounds = Bounds {
    allocations: 38.4,
    bytes: 6_441.0,
};

const MESSAGES: usize = 2_000;

const BODY_BYTES: usize = 200;

/// A worker of 64 slots on a queue and an inbox of its own, on a runtime whose time is virtual.
struct Bench {
    runtime: Runtime,
    queue: MemoryQueue,
    worker: JoinSet<Result<(), Error>>,
    sent: usize,
}

impl Bench {
    /// The worker begins to run when the bench next does something.
    fn new(inbox: bool, filled: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let entered = runtime.enter();
        let clock = Clock::starting_at(1_750_000_000_000);
        let queue = MemoryQueue::builder("allocations")
            .clock(clock.clone())
            .random(Random::seeded(1))
            .build()
            .unwrap();
        let mut worker = Worker::builder(queue.clone())
            .without_dead_letters(WithoutDeadLetters::Keep)
            .concurrency(64)
            .inbox_retention(Duration::from_secs(60))
            .clock(clock.clone())
            .random(Random::seeded(2));
        if inbox {
            worker = worker.inbox(MemoryInbox::builder().clock(clock).build());
        }
        drop(entered);
        let mut bench = Self {
            runtime,
            queue,
            worker: JoinSet::new(),
            sent: 0,
        };
        bench.fill(filled);
        let worker = worker.handler(async || Ok::<_, Failure>(())).build().unwrap();
        bench
            .worker
            .spawn_on(worker.run_until_drained(), bench.runtime.handle());
        bench
    }

    /// Sends so many messages, each with a key of its own.
    fn fill(&mut self, messages: usize) {
        let numbers: Vec<usize> = (self.sent..self.sent + messages).collect();
        for ten in numbers.chunks(10) {
            let message = |n| {
                Outgoing::new("x".repeat(BODY_BYTES)).attribute(KEY_ATTRIBUTE, Attribute::string(format!("k{n:08}")))
            };
            let sent = self.queue.send(ten.iter().map(message).collect());
            assert!(self.runtime.block_on(sent).unwrap().iter().all(Result::is_ok));
        }
        self.sent += messages;
    }

    /// Lets the worker run until the queue is empty.
    fn empty(&self) {
        self.runtime.block_on(async {
            while !self.queue.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }

    /// Lets the worker be idle for so long.
    fn idle(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }
}

fn run(inbox: bool, messages: usize) -> AllocationInfo {
    let bench = Bench::new(inbox, messages);
    measure(|| bench.empty())
}

fn assert_a_message_costs_at_most(inbox: bool, most: &Bounds) {
    let (once, twice) = (run(inbox, MESSAGES), run(inbox, 2 * MESSAGES));
    let each = |once: u64, twice: u64| (twice - once) as f64 / MESSAGES as f64;
    let allocations = each(once.count_total, twice.count_total);
    let bytes = each(once.bytes_total, twice.bytes_total);
    println!("{allocations:.2} allocations, {bytes:.0} bytes a message");
    assert!(
        allocations <= most.allocations && bytes <= most.bytes,
        "{allocations} allocations and {bytes} bytes a message"
    );
}

#[test]
fn a_message_costs_few_allocations_without_an_inbox() {
    assert_a_message_costs_at_most(false, &WITHOUT_INBOX);
}

#[test]
fn a_message_costs_few_allocations_with_an_inbox() {
    assert_a_message_costs_at_most(true, &WITH_INBOX);
}

/// Rounds of messages with two minutes between them, in which the inbox forgets their keys: after so many rounds as much is
/// allocated as after as many before, and at most at once too, or it would grow with the messages. The first rounds fill what
/// is bounded: the queue's memory of what was deleted, and the capacity of maps. Numbers in ids become a digit longer now and
/// then; one allocation, or one byte, kept for each message would be thousands.
#[test]
fn memory_does_not_grow_with_the_messages_that_are_done() {
    for inbox in [false, true] {
        let mut bench = Bench::new(inbox, 0);
        let mut rounds = |n: usize| {
            for _ in 0..n {
                bench.fill(500);
                bench.empty();
                bench.idle(Duration::from_secs(125));
            }
        };
        rounds(8);
        let (once, twice) = (measure(|| rounds(5)), measure(|| rounds(10)));
        for grown in [once, twice] {
            assert!(grown.count_current < 100 && grown.bytes_current < 2_000, "{grown:?}");
        }
        assert!(
            twice.bytes_max < once.bytes_max + once.bytes_max / 50,
            "{once:?}, {twice:?}"
        );
    }
}
