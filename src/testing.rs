//! A test kit: your real worker, in process, on the embedded backends, under virtual time.
//!
//! A [`Bench`] has a queue, its dead-letter queue and an inbox that behave as SQS and DynamoDB do, and a worker builder
//! wired to them. Under a paused runtime (`#[tokio::test(start_paused = true)]`) hours of backoff take milliseconds, and the
//! same seed gives the same history. [`FaultPlan`] breaks things on purpose.
//!
//! ```
//! use redrive::extract::Json;
//! use redrive::testing::Bench;
//! use redrive::{Failure, FailureExt};
//!
//! async fn charge(Json(amount): Json<u32>) -> Result<u32, Failure> {
//!     u32::try_from(i64::from(amount) - 1).reject()
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), redrive::Error> {
//! let bench = Bench::new("orders", 7)?;
//! bench.send("key-1", "12").await?;
//! bench.send("key-1", "12").await?; // the producer sent it twice
//! bench.send("key-2", "0").await?;
//!
//! let status = bench.run(bench.worker().handler(charge).build()?).await?;
//! assert_eq!((status.totals.completed, status.totals.duplicates), (1, 1));
//! assert_eq!(bench.dead_letters()[0].reason, "rejected");
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use crate::clock::{Clock, Random};
use crate::dlq::envelope::Envelope;
use crate::error::Error;
use crate::message::{Attribute, KEY_ATTRIBUTE, Outgoing};
use crate::queue::{Queue, QueueError};
use crate::worker::{Builder, Status, Worker};

pub use crate::faults::{Fault, FaultPlan, Operation, Rates};
pub use crate::inbox::MemoryInbox;
pub use crate::queue::MemoryQueue;

/// When a bench's clock starts, in ms since 1970: the same for every run.
const EPOCH_MS: u64 = 1_750_000_000_000;

/// How often a bench looks whether its worker is done.
const LOOK: Duration = Duration::from_millis(10);

/// A queue, its dead-letter queue and an inbox, all embedded, with one clock and one seed.
#[derive(Debug)]
pub struct Bench {
    queue: MemoryQueue,
    dead: MemoryQueue,
    inbox: MemoryInbox,
    faults: FaultPlan,
    clock: Clock,
    random: Random,
}

impl Bench {
    /// A bench whose queue has this name; a name that ends in `.fifo` makes a FIFO queue. The same seed gives the same
    /// history.
    ///
    /// # Errors
    /// When the name can be no queue's.
    pub fn new(name: &str, seed: u64) -> Result<Self, QueueError> {
        let clock = Clock::starting_at(EPOCH_MS);
        let random = Random::seeded(seed);
        let faults = FaultPlan::with_random(random.clone());
        let dead_name = match name.strip_suffix(".fifo") {
            Some(stem) => format!("{stem}-dlq.fifo"),
            None => format!("{name}-dlq"),
        };
        let dead = MemoryQueue::builder(dead_name)
            .retention(Duration::from_secs(14 * 24 * 60 * 60))
            .clock(clock.clone())
            .random(random.clone())
            .build()?;
        let queue = MemoryQueue::builder(name)
            .dead_letter(&dead, 50)
            .clock(clock.clone())
            .random(random.clone())
            .faults(faults.clone())
            .build()?;
        let inbox = MemoryInbox::builder()
            .clock(clock.clone())
            .faults(faults.clone())
            .build();
        Ok(Self {
            queue,
            dead,
            inbox,
            faults,
            clock,
            random,
        })
    }

    /// A builder of a worker on this bench: queue, inbox, clock and seed are set.
    pub fn worker(&self) -> Builder {
        Worker::builder(self.queue.clone())
            .inbox(self.inbox.clone())
            .clock(self.clock.clone())
            .random(self.random.clone())
    }

    /// Sends a message with this idempotency key and body; on a FIFO queue in the group `group`, with a deduplication id of
    /// its own.
    ///
    /// # Errors
    /// When the queue refuses it, as SQS would.
    pub async fn send(&self, key: &str, body: &str) -> Result<String, QueueError> {
        let mut message = Outgoing::new(body).attribute(KEY_ATTRIBUTE, Attribute::string(key));
        if self.queue.attributes().fifo {
            message = message
                .group("group")
                .deduplication_id(format!("{:016x}", self.random.next_u64()));
        }
        self.send_message(message).await
    }

    /// Sends any message; answers its MessageId.
    ///
    /// # Errors
    /// When the queue refuses it, as SQS would.
    pub async fn send_message(&self, message: Outgoing) -> Result<String, QueueError> {
        let answer = self.queue.send(vec![message]).await?.pop();
        answer
            .unwrap_or_else(|| Ok(String::new()))
            .map_err(|error| QueueError::Refused {
                queue: self.queue.attributes().name.clone(),
                operation: "SendMessage",
                code: error.code,
                detail: error.message,
                request_id: None,
            })
    }

    /// Runs the worker until its queue is empty and nothing is in flight, then drains it; answers its last status.
    ///
    /// A message that never ends (kept without a dead-letter queue, say) keeps it running: for those use
    /// [`Worker::run_until_drained`] with a [`WorkerHandle`](crate::worker::WorkerHandle).
    ///
    /// # Errors
    /// As [`Worker::run_until_drained`].
    pub async fn run(&self, worker: Worker) -> Result<Status, Error> {
        let handle = worker.handle();
        let done = async {
            loop {
                let status = handle.status();
                if status.ended || (self.queue.is_empty() && status.running + status.waiting + status.ending == 0) {
                    break handle.drain();
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let (ended, ()) = futures::join!(worker.run_until_drained(), done);
        ended.map(|()| handle.status())
    }

    /// The envelopes of the dead letters, in the order they came.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<Envelope> {
        self.dead.messages().iter().filter_map(Envelope::of).collect()
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &MemoryQueue {
        &self.queue
    }

    /// The dead-letter queue.
    #[must_use]
    pub fn dead_letter_queue(&self) -> &MemoryQueue {
        &self.dead
    }

    /// The inbox.
    #[must_use]
    pub fn inbox(&self) -> &MemoryInbox {
        &self.inbox
    }

    /// What goes wrong on the queue and the inbox: nothing, until set.
    #[must_use]
    pub fn faults(&self) -> &FaultPlan {
        &self.faults
    }

    /// The clock of the queue, the inbox and the worker.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}
