//! Several workers in one process.

use std::time::Duration;

use futures::future::join_all;

use super::companion::{Companion, Companions, Waiting};
use super::handle::WorkerHandle;
use super::signals::run_with_signals;
use super::status::Status;
use super::{Worker, preflight};
use crate::error::Error;

/// Several workers in one process, with slots, limits and breakers of their own: one signal handler, one drain deadline, one
/// health.
///
/// ```
/// # use redrive::{Failure, MemoryQueue, Worker, worker::{WithoutDeadLetters, Workers}};
/// # async fn handle() -> Result<(), Failure> { Ok(()) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), redrive::Error> {
/// # let worker = |name: &str| Worker::builder(MemoryQueue::new(name).expect("a name")).without_dead_letters(WithoutDeadLetters::Keep)
/// #     .long_poll(std::time::Duration::ZERO).handler(handle).build();
/// let (orders, mails) = (worker("orders")?, worker("mails")?);
/// let workers = Workers::new().with(orders).with(mails);
/// let handle = workers.handle();
/// handle.drain(); // as SIGTERM would
/// workers.run().await
/// # }
/// ```
#[derive(Default)]
#[must_use = "workers do nothing until they are run"]
pub struct Workers {
    workers: Vec<Worker>,
    companions: Vec<Waiting>,
}

/// Steers several workers at once.
#[derive(Clone, Debug)]
pub struct WorkersHandle {
    handles: Vec<WorkerHandle>,
}

impl Workers {
    /// No workers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a worker.
    pub fn with(mut self, worker: Worker) -> Self {
        self.workers.push(worker);
        self
    }

    /// Runs this beside them, from before the preflight until all have ended: a health endpoint, say.
    pub fn beside(mut self, companion: impl Companion) -> Self {
        self.companions.push(Waiting::new(companion));
        self
    }

    /// One drain deadline for all; else each has its own, and the longest counts.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        for worker in &mut self.workers {
            worker.config.settings.drain_deadline = deadline;
        }
        self
    }

    /// Steers them and asks how they are, while they run.
    #[must_use]
    pub fn handle(&self) -> WorkersHandle {
        WorkersHandle {
            handles: self.workers.iter().map(Worker::handle).collect(),
        }
    }

    /// Runs all of them until SIGTERM, ctrl-c or [`WorkersHandle::drain`], then drains all. None starts before the preflight of
    /// each has passed.
    ///
    /// # Errors
    /// As [`Worker::run`].
    pub async fn run(self) -> Result<(), Error> {
        let handle = self.handle();
        run_with_signals(self.run_until_drained(), || handle.drain(), || handle.stop()).await
    }

    /// As [`run`](Self::run), without listening for signals.
    ///
    /// # Errors
    /// As [`Worker::run_until_drained`].
    pub async fn run_until_drained(mut self) -> Result<(), Error> {
        let clock = self.workers.first().map(|worker| worker.config.clock.clone());
        let mut beside = vec![Companions::start(
            std::mem::take(&mut self.companions),
            &self.handle(),
            &clock.unwrap_or_default(),
        )];
        for worker in &mut self.workers {
            let handle = WorkersHandle::of(vec![worker.handle()]);
            let own = std::mem::take(&mut worker.companions);
            beside.push(Companions::start(own, &handle, &worker.config.clock));
        }
        let ended = async {
            let findings = join_all(self.workers.iter().map(Worker::preflight)).await;
            for (worker, findings) in self.workers.iter().zip(&findings) {
                preflight::judge(worker.name(), findings)?;
            }
            join_all(self.workers.into_iter().map(Worker::work)).await;
            Ok(())
        }
        .await;
        join_all(beside.into_iter().map(Companions::end)).await;
        ended
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers")
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

impl WorkersHandle {
    pub(super) fn of(handles: Vec<WorkerHandle>) -> Self {
        Self { handles }
    }

    /// The handle of each, in the order they were added.
    #[must_use]
    pub fn workers(&self) -> &[WorkerHandle] {
        &self.handles
    }

    /// Begins an orderly shutdown of all.
    pub fn drain(&self) {
        self.handles.iter().for_each(WorkerHandle::drain);
    }

    /// Ends all at once.
    pub fn stop(&self) {
        self.handles.iter().for_each(WorkerHandle::stop);
    }

    /// Whether all of them are healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.handles.iter().all(|handle| handle.status().is_healthy())
    }

    /// How each of them is.
    #[must_use]
    pub fn status(&self) -> Vec<Status> {
        self.handles.iter().map(WorkerHandle::status).collect()
    }
}
