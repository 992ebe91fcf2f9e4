//! A stand-in with a queue and an inbox on it, workers of them, and what they spent from one moment to another.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use redrive::worker::{Builder, Status, WorkerHandle};
use redrive::{Context, DynamoInbox, Error, Failure, SqsQueue, Worker};
use redrive_stand_in::{Counts, DynamoCalls, Setup, SqsCalls, StandIn};
use tokio::task::JoinSet;

use crate::aws::config;

/// How long a condition is awaited, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) struct Rig {
    pub(crate) stand_in: StandIn,
    pub(crate) queue: SqsQueue,
    pub(crate) inbox: DynamoInbox,
}

impl Rig {
    /// Set up and closed.
    pub(crate) async fn new(setup: Setup) -> Self {
        let stand_in = StandIn::start().unwrap();
        let name = if setup.fifo_groups > 0 { "bench.fifo" } else { "bench" };
        stand_in.setup(setup).unwrap();
        let aws = config(stand_in.endpoint());
        Self {
            queue: SqsQueue::connect(&aws, name).await.unwrap(),
            inbox: DynamoInbox::connect(&aws, "bench-inbox").await.unwrap(),
            stand_in,
        }
    }

    /// A worker of 64 slots without an inbox, and with long polls of a second, so that it drains within one.
    pub(crate) fn bare(&self) -> Builder {
        Worker::builder(self.queue.clone()).concurrency(64).long_poll(secs(1))
    }

    pub(crate) fn with_inbox(&self) -> Builder {
        self.bare().inbox(self.inbox.clone())
    }

    /// Waits until the server has counted that.
    pub(crate) async fn until(&self, what: &str, counted: impl Fn(&Counts) -> bool) -> Counts {
        let began = Instant::now();
        loop {
            let counts = self.stand_in.counts();
            if counted(&counts) {
                return counts;
            }
            assert!(began.elapsed() < PATIENCE, "never came: {what}; {counts:#?}");
            tokio::time::sleep(ms(1)).await;
        }
    }

    /// Starts the worker and waits until it receives.
    pub(crate) async fn start(&self, worker: Worker) -> Running {
        let running = Running::of(worker);
        self.until("the first receive", |counts| counts.first_receive_call_us.is_some())
            .await;
        running
    }
}

/// A handler that takes so long and succeeds; without any time it is done at once.
pub(crate) fn takes(
    time: Duration,
) -> impl Fn(Context) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync + 'static {
    move |_| {
        Box::pin(async move {
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
            Ok(())
        })
    }
}

/// A worker that runs.
pub(crate) struct Running {
    tasks: JoinSet<Result<(), Error>>,
    handle: WorkerHandle,
}

impl Running {
    fn of(worker: Worker) -> Self {
        let handle = worker.handle();
        let mut tasks = JoinSet::new();
        tasks.spawn(worker.run_until_drained());
        Self { tasks, handle }
    }

    pub(crate) fn status(&self) -> Status {
        self.handle.status()
    }

    /// Waits until this holds of the worker.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) {
        let began = Instant::now();
        while !holds(&self.status()) {
            assert!(began.elapsed() < PATIENCE, "never came: {what}; {:#?}", self.status());
            tokio::time::sleep(ms(1)).await;
        }
    }

    /// Waits until no handler runs or is to run: nothing is given back by a drain then, only recorded and settled.
    pub(crate) async fn all_handled(&self) {
        self.until("all are handled", |status| status.running + status.waiting == 0)
            .await;
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    pub(crate) async fn drain(mut self) -> Status {
        self.handle.drain();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
        self.handle.status()
    }
}

/// What was asked of the server between two moments, by operation; none that was not called.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Spent {
    pub(crate) deleted: u64,
    pub(crate) sqs: BTreeMap<String, SqsCalls>,
    pub(crate) dynamodb: BTreeMap<String, DynamoCalls>,
}

impl Spent {
    pub(crate) fn between(before: &Counts, after: &Counts) -> Self {
        let mut spent = Self {
            deleted: after.deleted - before.deleted,
            sqs: after.calls.sqs.clone(),
            dynamodb: after.calls.dynamodb.clone(),
        };
        for (name, calls) in &mut spent.sqs {
            let SqsCalls {
                calls: earlier,
                entries,
                billed,
                empty,
            } = before.calls.sqs.get(name).copied().unwrap_or_default();
            calls.calls -= earlier;
            calls.entries -= entries;
            calls.billed -= billed;
            calls.empty -= empty;
        }
        for (name, calls) in &mut spent.dynamodb {
            let earlier = before.calls.dynamodb.get(name).copied().unwrap_or_default();
            calls.calls -= earlier.calls;
            calls.entries -= earlier.entries;
            calls.write_units -= earlier.write_units;
            calls.read_units -= earlier.read_units;
            calls.failed_conditions -= earlier.failed_conditions;
        }
        spent.sqs.retain(|_, calls| *calls != SqsCalls::default());
        spent.dynamodb.retain(|_, calls| *calls != DynamoCalls::default());
        spent
    }

    /// Calls of an operation of SQS.
    pub(crate) fn of(&self, operation: &str) -> SqsCalls {
        self.sqs.get(operation).copied().unwrap_or_default()
    }

    /// The operations that were called, of both services.
    pub(crate) fn operations(&self) -> Vec<&str> {
        self.sqs
            .keys()
            .chain(self.dynamodb.keys())
            .map(String::as_str)
            .collect()
    }

    pub(crate) fn dynamodb_calls(&self) -> u64 {
        self.dynamodb.values().map(|calls| calls.calls).sum()
    }

    pub(crate) fn write_units(&self) -> f64 {
        self.dynamodb.values().map(|calls| calls.write_units).sum()
    }

    pub(crate) fn read_units(&self) -> f64 {
        self.dynamodb.values().map(|calls| calls.read_units).sum()
    }

    pub(crate) fn failed_conditions(&self) -> u64 {
        self.dynamodb.values().map(|calls| calls.failed_conditions).sum()
    }
}

/// How many of a thing there were for each thousand of another.
pub(crate) fn per_thousand(count: u64, of: u64) -> f64 {
    assert!(of > 0, "nothing was done");
    count as f64 * 1_000.0 / of as f64
}
