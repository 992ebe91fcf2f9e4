//! The whole worker on real APIs: SQS and DynamoDB servers in place of the embedded backends.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/aws.rs"]
mod aws;
#[path = "support/aws_lab.rs"]
mod aws_lab;
#[path = "support/localstack.rs"]
mod localstack;

#[path = "worker_aws/bad_input.rs"]
mod bad_input;
#[path = "worker_aws/failures.rs"]
mod failures;
#[path = "worker_aws/fences.rs"]
mod fences;
#[path = "worker_aws/fifo.rs"]
mod fifo;
#[path = "worker_aws/once.rs"]
mod once;
#[path = "worker_aws/outages.rs"]
mod outages;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::key::{Key, RecordKey};
use redrive::message::{Attribute, KEY_ATTRIBUTE, Outgoing};
use redrive::queue::Queue;
use redrive::worker::{Builder, Status, WorkerHandle};
use redrive::{DynamoInbox, Error, SqsQueue, Worker};
use tokio::task::JoinSet;

use aws_lab::{Lab, Queues, Setup, is_empty, take_all, until};

/// The table of these tests; each has a consumer of its own, by its queue's name.
const TABLE: &str = "redrive-worker-tests";

/// A message with this key.
fn keyed(key: &str, body: &str) -> Outgoing {
    Outgoing::new(body).attribute(KEY_ATTRIBUTE, Attribute::string(key))
}

async fn send(queue: &SqsQueue, messages: Vec<Outgoing>) {
    for batch in messages.chunks(10) {
        for sent in queue.send(batch.to_vec()).await.expect("the batch is sent") {
            sent.expect("the message is sent");
        }
    }
}

/// Where the record of this key of the queue's messages stands.
fn record_key(queue: &SqsQueue, key: &str) -> RecordKey {
    RecordKey::new(&queue.attributes().name, &Key::new(key))
}

/// A worker with settings by which a test takes seconds, and not minutes.
fn quick(queue: &SqsQueue, inbox: &DynamoInbox) -> Builder {
    Worker::builder(queue.clone())
        .inbox(inbox.clone())
        .long_poll(Duration::from_secs(1))
        .lease(Duration::from_secs(2))
        .in_flight_delay(Duration::from_secs(1))
        .drain_deadline(Duration::from_secs(20))
}

/// A worker that runs beside the test; dropped, it ends at once, as if it had crashed.
struct Running {
    handle: WorkerHandle,
    tasks: JoinSet<Result<(), Error>>,
}

impl Running {
    fn start(worker: Worker) -> Self {
        let handle = worker.handle();
        let mut tasks = JoinSet::new();
        tasks.spawn(worker.run_until_drained());
        Self { handle, tasks }
    }

    fn status(&self) -> Status {
        self.handle.status()
    }

    /// Waits until its status is such.
    async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) {
        until(what, async || holds(&self.status())).await;
    }

    /// Lets it drain, and answers how it stood at its end.
    async fn drained(mut self) -> Status {
        self.handle.drain();
        self.ended().await.expect("the worker ends well");
        self.status()
    }

    async fn ended(&mut self) -> Result<(), Error> {
        let ended = self.tasks.join_next().await.expect("it ran");
        ended.expect("the worker does not panic")
    }
}

/// What handlers did, in order.
#[derive(Clone, Debug)]
struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Log<T> {
    fn push(&self, entry: T) {
        self.0.lock().unwrap().push(entry);
    }

    fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }
}
