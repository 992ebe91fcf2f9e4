//! A worker that works off a filled embedded queue: everything that a message costs but the calls to AWS and the handler's work.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redrive::clock::{Clock, Random};
use redrive::extract::{Json, State};
use redrive::message::Outgoing;
use redrive::queue::Queue;
use redrive::worker::{Builder, WithoutDeadLetters, WorkerHandle};
use redrive::{Failure, MemoryInbox, MemoryQueue, Worker};
use serde::Deserialize;
use tokio::runtime::Runtime;

/// Something to go wrong in a benchmark is a mistake in it.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What the messages are made of: about 200 bytes of JSON.
#[derive(Deserialize)]
pub struct Order {
    pub order: String,
    pub amount: u64,
    pub currency: String,
    pub note: String,
}

pub(crate) fn body(n: usize) -> String {
    let note =
        "left with the neighbours on the ground floor if nobody answers the door, they know about it and are at home";
    format!(
        r#"{{"order":"A-{n:012}","amount":{},"currency":"EUR","note":"{note}"}}"#,
        1_000 + n % 9_000
    )
}

/// What varies.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Claims and completes in an embedded inbox.
    pub inbox: bool,
    /// The handler takes the body as JSON.
    pub json: bool,
    pub messages: usize,
    pub concurrency: usize,
}

/// Counts what was handled, and drains the worker after the last.
#[derive(Clone)]
struct Countdown {
    left: Arc<AtomicUsize>,
    worker: Arc<std::sync::OnceLock<WorkerHandle>>,
}

impl Countdown {
    fn handled(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1
            && let Some(worker) = self.worker.get()
        {
            worker.drain();
        }
    }
}

async fn instant(State(countdown): State<Countdown>) -> Result<(), Failure> {
    countdown.handled();
    Ok(())
}

async fn parsed(State(countdown): State<Countdown>, Json(order): Json<Order>) -> Result<(), Failure> {
    std::hint::black_box(order.amount);
    countdown.handled();
    Ok(())
}

/// A filled queue and a worker on it, ready to run.
pub struct Pipeline {
    runtime: Runtime,
    queue: MemoryQueue,
    worker: Cell<Option<Worker>>,
}

impl Pipeline {
    pub fn new(case: Case) -> Result<Self, Failed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let queue = MemoryQueue::builder("bench").in_flight_cap(1_000_000).build()?;
        runtime.block_on(fill(&queue, case.messages))?;
        let countdown = Countdown {
            left: Arc::new(AtomicUsize::new(case.messages)),
            worker: Arc::default(),
        };
        let mut builder = Worker::builder(queue.clone())
            .without_dead_letters(WithoutDeadLetters::Keep)
            .concurrency(case.concurrency)
            // So that the drain need not wait for a receive that finds nothing.
            .long_poll(Duration::ZERO)
            .clock(Clock::system())
            .random(Random::seeded(1))
            .state(countdown.clone());
        if case.inbox {
            builder = builder.inbox(MemoryInbox::new());
        }
        let worker = handled_by(builder, case.json).build()?;
        let _ = countdown.worker.set(worker.handle());
        Ok(Self {
            runtime,
            queue,
            worker: Cell::new(Some(worker)),
        })
    }

    /// Runs the worker until every message is handled and deleted.
    pub fn run(&self) -> Result<(), Failed> {
        let worker = self.worker.take().ok_or("it ran before")?;
        self.runtime.block_on(worker.run_until_drained())?;
        Ok(())
    }

    /// How many messages are left: none, or the run was none.
    pub fn left(&self) -> usize {
        self.queue.len()
    }

    /// The calls that the worker made.
    pub fn calls(&self) -> redrive::queue::memory::CallCounts {
        self.queue.calls()
    }
}

fn handled_by(builder: Builder<Countdown>, json: bool) -> Builder<Countdown> {
    if json {
        builder.handler(parsed)
    } else {
        builder.handler(instant)
    }
}

async fn fill(queue: &MemoryQueue, messages: usize) -> Result<(), Failed> {
    let numbers: Vec<usize> = (0..messages).collect();
    for ten in numbers.chunks(10) {
        for sent in queue
            .send(ten.iter().map(|&n| Outgoing::new(body(n))).collect())
            .await?
        {
            sent?;
        }
    }
    queue.reset_calls();
    Ok(())
}
