//! Ctrl-C and SIGTERM: the first ends a command in order, the second at once.

use std::io;
use std::process;

use tokio_util::sync::CancellationToken;

use crate::failure::INTERRUPTED;

/// Listens for the rest of the process's life. The token fires at the first signal; whoever holds messages gives them back.
pub(crate) fn listen() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let fired = token.clone();
    let mut signals = Signals::new()?;
    #[allow(clippy::disallowed_methods, reason = "it listens for as long as the process lives")]
    tokio::spawn(async move {
        signals.next().await;
        fired.cancel();
        signals.next().await;
        // Nothing is dropped by this: what a command runs must be ended here.
        crate::exec::group::kill_all();
        process::exit(i32::from(INTERRUPTED));
    });
    Ok(token)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // An error means that no handler could be installed: then there is nothing to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
