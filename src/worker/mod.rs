//! Workers: receive, claim, run, record, settle, and end in order.

mod batcher;
#[cfg(redrive_bench)]
pub(crate) mod bench;
mod builder;
mod companion;
mod config;
mod deadlines;
mod drain;
mod engine;
pub(crate) mod environment;
mod error;
mod fifo;
mod handle;
mod in_flight;
mod intake;
mod item;
mod meter;
#[cfg(test)]
mod model;
mod preflight;
mod settings;
#[cfg(all(test, redrive_shuttle))]
mod shuttle_tests;
mod signals;
mod status;
mod told;
mod unrecorded;
mod workers;

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::error::Error;
use crate::handler::SharedHandler;
use crate::inbox::Inbox;
use crate::key::Key;
use crate::message::Message;
use crate::queue::Queue;

pub use builder::Builder;
pub use companion::{Beside, Companion};
pub use config::{AfterReject, WithoutDeadLetters};
pub use error::{BuildError, PreflightError};
pub use handle::WorkerHandle;
pub use preflight::{Finding, Severity};
pub use status::{Fate, Status, Totals};
pub use workers::{Workers, WorkersHandle};

use companion::{Companions, Waiting};
use config::Config;
use engine::{End, Engine, Parts};
use handle::Command;
use signals::run_with_signals;
use status::Shared;

/// What a delivery came to, as [`Builder::observe`] is told of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Observation<'a> {
    /// The message.
    pub message: &'a Message,
    /// Its key.
    pub key: &'a Key,
    /// What it came to.
    pub fate: &'a Fate,
    /// Attempts counted before this delivery's.
    pub attempts: u32,
}

/// A worker of one queue, ready to run. Made by [`Worker::builder`].
pub struct Worker {
    queue: Arc<dyn Queue>,
    inbox: Option<Arc<dyn Inbox>>,
    handler: SharedHandler,
    config: Config,
    commands: mpsc::UnboundedSender<Command>,
    inbound: mpsc::UnboundedReceiver<Command>,
    shared: Shared,
    companions: Vec<Waiting>,
}

impl Worker {
    /// Sets up a worker of `queue`.
    pub fn builder(queue: impl Queue) -> Builder {
        Builder::new(Arc::new(queue))
    }

    /// Steers it and asks how it is, while [`run`](Self::run) runs.
    #[must_use]
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle {
            commands: self.commands.clone(),
            shared: self.shared.clone(),
            clock: self.config.clock.clone(),
        }
    }

    /// The worker's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Runs until SIGTERM, ctrl-c or [`WorkerHandle::drain`], then drains. A second signal ends it at once; what was held
    /// then comes back by its visibility timeout. It works in a task of its own, which ends when this future is dropped.
    ///
    /// # Errors
    /// When the preflight finds what would lose or repeat work, or signals cannot be listened for. Once it runs, failures of
    /// services are survived and reported by logs, metrics and [`Status`].
    pub async fn run(self) -> Result<(), Error> {
        let handle = self.handle();
        run_with_signals(self.run_until_drained(), || handle.drain(), || handle.stop()).await
    }

    /// As [`run`](Self::run), without listening for signals: until [`WorkerHandle::drain`] or [`WorkerHandle::stop`].
    ///
    /// Dropping the future stops at once, as a crash would: nothing is lost, and what was held comes back by its visibility
    /// timeout.
    ///
    /// # Errors
    /// As [`run`](Self::run), signals excepted.
    pub async fn run_until_drained(mut self) -> Result<(), Error> {
        let handle = WorkersHandle::of(vec![self.handle()]);
        let companions = Companions::start(std::mem::take(&mut self.companions), &handle, &self.config.clock);
        let ended = async {
            let findings = self.preflight().await;
            preflight::judge(&self.config.name, &findings)?;
            self.work().await;
            Ok(())
        }
        .await;
        companions.end().await;
        ended
    }

    /// Looks whether queue, dead-letter queue and inbox are set up as they must be; [`run`](Self::run) does so first.
    pub async fn preflight(&self) -> Vec<Finding> {
        preflight::preflight(&self.config, &*self.queue, self.inbox.as_deref()).await
    }

    /// The work itself, after the preflight.
    async fn work(self) {
        let clock = self.config.clock.clone();
        let began = clock.now();
        let name = self.config.name.clone();
        let queue = self.queue.attributes().name.clone();
        let epoch = format!("{:x}-{:016x}", clock.epoch_ms(), self.config.random.next_u64());
        tracing::info!(
            worker = %name, %queue, concurrency = self.config.concurrency, inbox = self.inbox.is_some(),
            version = env!("CARGO_PKG_VERSION"), "working"
        );
        crate::telemetry::describe();
        let parts = Parts {
            queue: self.queue,
            inbox: self.inbox,
            handler: self.handler,
            config: self.config,
            commands: self.inbound,
            shared: self.shared,
            epoch,
        };
        let meter = meter::Meter::new(&queue);
        let (end, drain_began) = Engine::new(parts).run().await;
        if let Some(at) = drain_began {
            let how = if end == End::Drained { "clean" } else { "deadline" };
            meter.drained(how, clock.now().saturating_duration_since(at));
        }
        let ran_ms = engine::millis(clock.now().saturating_duration_since(began));
        match end {
            End::Drained => tracing::info!(worker = %name, ran_ms, "drained"),
            End::DeadlineOver => tracing::warn!(
                worker = %name, ran_ms,
                "the drain's deadline came first: what was still held comes back by its visibility timeout"
            ),
            End::Stopped => tracing::warn!(worker = %name, ran_ms, "stopped at once"),
        }
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.config.name)
            .field("queue", &self.queue.attributes().name)
            .finish_non_exhaustive()
    }
}
