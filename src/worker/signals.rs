//! The signals that end a worker: SIGTERM, as containers are stopped, and ctrl-c.

use std::io;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::error::Error;

/// How long a worker that was told to stop at once may take for it.
const STOP_LIMIT: Duration = Duration::from_millis(500);

/// Runs until `run` ends: the first signal drains, the second stops at once, by dropping it.
///
/// It runs as a task of its own. On a runtime of several threads the caller's own future, that of `main` mostly, is polled on
/// the caller's thread and all tasks on others, so that every handler that ends would wake a thread: it made a message cost
/// 40 % more.
pub(super) async fn run_with_signals(
    run: impl Future<Output = Result<(), Error>> + Send + 'static,
    drain: impl Fn(),
    stop: impl Fn(),
) -> Result<(), Error> {
    let mut signals = Signals::listen().map_err(Error::Signals)?;
    // Dropped, it ends its task.
    let mut tasks = JoinSet::new();
    tasks.spawn(run);
    let run = async move {
        match tasks.join_next().await {
            Some(Ok(ended)) => ended,
            // As if it had run here.
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) | None => Ok(()),
        }
    };
    tokio::pin!(run);
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut run => return ended,
            () = signals.next() => {
                if std::mem::replace(&mut draining, true) {
                    stop();
                    // It stops by itself, unless something holds it up.
                    return tokio::time::timeout(STOP_LIMIT, run).await.unwrap_or(Ok(()));
                }
                drain();
            }
        }
    }
}

/// Signals being listened for.
#[derive(Debug)]
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    #[cfg(not(unix))]
    fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next one.
    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the next one.
    #[cfg(not(unix))]
    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
