//! Steering a worker that runs.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::status::{Shared, Status};
use crate::clock::Clock;
use crate::flow::{FlowError, RateLimit};

/// What a handle asks of its worker.
#[derive(Debug)]
pub(super) enum Command {
    Pause,
    Resume,
    SetRate(Option<RateLimit>),
    SetConcurrency(usize),
    /// Asks for how long the longest of the runs under way has run.
    LongestRun(oneshot::Sender<Duration>),
    Drain,
    Stop,
}

/// Steers a running worker and asks how it is. Clones steer the same worker; none of them keeps it running.
///
/// ```
/// # async fn example(worker: redrive::Worker) -> Result<(), redrive::Error> {
/// let handle = worker.handle();
/// let running = async { worker.run().await };
/// let operating = async {
///     handle.pause();
///     handle.set_concurrency(8)?;
///     handle.resume();
///     handle.drain();
///     Ok::<_, redrive::Error>(())
/// };
/// let (ended, operated) = futures::join!(running, operating);
/// operated?;
/// ended
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) shared: Shared,
    pub(super) clock: Clock,
}

impl WorkerHandle {
    /// Stops receiving and starting handlers; what is held is kept with its heartbeat.
    pub fn pause(&self) {
        self.send(Command::Pause);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.send(Command::Resume);
    }

    /// Sets or lifts the worker's rate limit.
    pub fn set_rate(&self, rate: Option<RateLimit>) {
        self.send(Command::SetRate(rate));
    }

    /// Sets how many handlers may run at once; running ones are let finish. A number that found itself until now does so no
    /// more: this one holds, within its bounds or not, until the worker ends.
    ///
    /// # Errors
    /// When it is 0; [`pause`](Self::pause) is for that.
    pub fn set_concurrency(&self, concurrency: usize) -> Result<(), FlowError> {
        super::config::check_concurrency(concurrency)?;
        self.send(Command::SetConcurrency(concurrency));
        Ok(())
    }

    /// Begins an orderly shutdown: as on SIGTERM.
    pub fn drain(&self) {
        self.send(Command::Drain);
    }

    /// Ends the worker at once: as on a second SIGTERM. What is held comes back by its visibility timeout.
    pub fn stop(&self) {
        self.send(Command::Stop);
    }

    /// How the worker is.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.snapshot(self.clock.now())
    }

    /// What it goes by, as text, by the names of the builder's methods: for people, and without secrets. Functions, state and
    /// addresses are not in it.
    #[must_use]
    pub fn settings(&self) -> &[(&'static str, String)] {
        self.shared.settings()
    }

    /// For how long the longest of the runs under way has run; zero if none does, or the worker has ended. It is answered by
    /// the worker's loop, which looks through all that it holds: ask now and then, not often.
    pub async fn longest_run(&self) -> Duration {
        let (answer, answered) = oneshot::channel();
        self.send(Command::LongestRun(answer));
        answered.await.unwrap_or_default()
    }

    fn send(&self, command: Command) {
        // A worker that ended needs no steering.
        let _ = self.commands.send(command);
    }
}
