//! What runs beside workers for as long as they do: a health endpoint, a recorder of metrics.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::WorkersHandle;
use crate::clock::Clock;

/// How long companions may take to end after their workers have.
const GRACE: Duration = Duration::from_secs(1);

/// Something that runs beside workers, from before their preflight until they have ended: attach it with
/// [`Builder::beside`](super::Builder::beside) or [`Workers::beside`](super::Workers::beside).
///
/// It runs in a task of its own and never holds the work up: what goes wrong in it is its own to log, and a panic ends it
/// alone. When the workers have ended it has a second for what is left to do.
///
/// ```
/// use redrive::worker::{Beside, Companion};
///
/// /// Says how much was done.
/// struct Farewell;
///
/// impl Companion for Farewell {
///     async fn run(self, beside: Beside) {
///         beside.ended().await;
///         for status in beside.workers().status() {
///             println!("{} completed {}", status.name, status.totals.completed);
///         }
///     }
/// }
/// ```
pub trait Companion: Send + 'static {
    /// Runs until [`Beside::ended`], and a little longer at most; it may end earlier.
    fn run(self, beside: Beside) -> impl Future<Output = ()> + Send;
}

/// What is there by choice, or not.
impl<C: Companion> Companion for Option<C> {
    async fn run(self, beside: Beside) {
        if let Some(companion) = self {
            companion.run(beside).await;
        }
    }
}

/// The workers that a [`Companion`] runs beside.
#[derive(Clone, Debug)]
pub struct Beside {
    workers: WorkersHandle,
    clock: Clock,
    ended: CancellationToken,
}

impl Beside {
    /// Asks them how they are, and steers them.
    #[must_use]
    pub fn workers(&self) -> &WorkersHandle {
        &self.workers
    }

    /// The clock they go by.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Waits until all of them have ended, or failed to start.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// A companion that waits for its workers to start.
pub(super) struct Waiting {
    name: &'static str,
    /// Never locked: it makes `Sync` what need not be.
    run: Mutex<Box<Run>>,
}

type Run = dyn FnOnce(Beside) -> BoxFuture<'static, ()> + Send;

impl Waiting {
    pub(super) fn new<C: Companion>(companion: C) -> Self {
        Self {
            name: std::any::type_name::<C>(),
            run: Mutex::new(Box::new(move |beside| companion.run(beside).boxed())),
        }
    }
}

/// Companions that run; dropped, they end at once.
pub(super) struct Companions {
    tasks: JoinSet<()>,
    ended: CancellationToken,
}

impl Companions {
    pub(super) fn start(companions: Vec<Waiting>, workers: &WorkersHandle, clock: &Clock) -> Self {
        let ended = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for Waiting { name, run } in companions {
            let beside = Beside {
                workers: workers.clone(),
                clock: clock.clone(),
                ended: ended.clone(),
            };
            let run = run.into_inner().unwrap_or_else(PoisonError::into_inner);
            tasks.spawn(async move {
                // What it does before its first await can panic too.
                let ran = std::panic::AssertUnwindSafe(async move { run(beside).await });
                let ran = ran.catch_unwind().await;
                if ran.is_err() {
                    tracing::error!(companion = name, "it panicked, and the work goes on without it");
                }
            });
        }
        Self { tasks, ended }
    }

    /// Tells them that the workers have ended, and waits for them, but not for long.
    pub(super) async fn end(mut self) {
        self.ended.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(GRACE, all).await.is_ok();
        if !in_time {
            tracing::warn!(
                still = self.tasks.len(),
                "what ran beside the workers did not end within a second"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::logged::Log;
    use crate::worker::{WithoutDeadLetters, Worker, Workers};
    use crate::{Failure, MemoryQueue};

    async fn nothing() -> Result<(), Failure> {
        Ok(())
    }

    fn worker(name: &str) -> crate::worker::Builder {
        Worker::builder(MemoryQueue::new(name).unwrap())
            .without_dead_letters(WithoutDeadLetters::Keep)
            .handler(nothing)
    }

    /// Counts what it saw of its workers: started, then ended.
    #[derive(Clone, Default)]
    struct Counts {
        seen: Arc<AtomicUsize>,
        after: Arc<AtomicUsize>,
    }

    impl Companion for Counts {
        async fn run(self, beside: Beside) {
            while !beside.workers().status().iter().all(|status| status.started) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.seen.fetch_add(beside.workers().status().len(), Ordering::Relaxed);
            beside.workers().drain();
            beside.ended().await;
            // What is left to do is waited for.
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.after.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Panics;

    impl Companion for Panics {
        async fn run(self, _: Beside) {
            panic!("a bug");
        }
    }

    /// Panics before there is a future.
    struct PanicsAtOnce;

    impl Companion for PanicsAtOnce {
        #[allow(clippy::manual_async_fn, reason = "what is in an async fn does not run at once")]
        fn run(self, _: Beside) -> impl Future<Output = ()> + Send {
            assert!(size_of_val(&self) > 0, "a bug at once");
            async {}
        }
    }

    struct Stays;

    impl Companion for Stays {
        async fn run(self, _: Beside) {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_companion_sees_its_worker_from_start_to_end_and_is_waited_for() {
        let counts = Counts::default();
        let worker = worker("orders").beside(Some(counts.clone())).beside(None::<Counts>);
        worker.build().unwrap().run_until_drained().await.unwrap();
        assert_eq!(counts.seen.load(Ordering::Relaxed), 1);
        assert_eq!(counts.after.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_companion_of_several_workers_sees_all_of_them() {
        let counts = Counts::default();
        let workers = Workers::new()
            .with(worker("orders").build().unwrap())
            .with(worker("mails").build().unwrap())
            .beside(counts.clone());
        workers.run_until_drained().await.unwrap();
        assert_eq!(counts.seen.load(Ordering::Relaxed), 2);
        assert_eq!(counts.after.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_panics_and_one_that_does_not_end_hold_up_neither_work_nor_end() {
        let counts = Counts::default();
        let worker = worker("orders").beside(Panics).beside(Stays).beside(counts.clone());
        let clock = Clock::system();
        let began = clock.now();
        worker.build().unwrap().run_until_drained().await.unwrap();
        assert_eq!(counts.after.load(Ordering::Relaxed), 1);
        assert!(clock.now().saturating_duration_since(began) >= GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_panics_is_named_in_the_log_wherever_it_does() {
        let log = Log::default();
        let _logged = log.take();
        let worker = worker("orders").beside(Panics).beside(PanicsAtOnce).build().unwrap();
        worker.handle().drain();
        worker.run_until_drained().await.unwrap();
        let said = log.text();
        for name in ["::Panics\"", "::PanicsAtOnce\""] {
            let named = |line: &&str| line.contains(name) && line.contains("it panicked");
            assert_eq!(said.lines().filter(named).count(), 1, "{name} in {said}");
        }
    }
}
