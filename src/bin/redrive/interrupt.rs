//! Ctrl-C, SIGTERM and their like: the first ends a command in order, the second at once.

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
        signals.first().await;
        fired.cancel();
        signals.second().await;
        // Nothing is dropped by this: what a command runs must be ended here.
        crate::child::group::kill_all();
        process::exit(i32::from(INTERRUPTED));
    });
    Ok(token)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// The terminal was closed. None where that is to be ignored.
    hangup: Option<tokio::signal::unix::Signal>,
    quit: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let unless_ignored = |kind: SignalKind| {
            if is_ignored(kind.as_raw_value()) {
                Ok(None)
            } else {
                signal(kind).map(Some)
            }
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: unless_ignored(SignalKind::hangup())?,
            quit: unless_ignored(SignalKind::quit())?,
        })
    }

    async fn first(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = received(self.hangup.as_mut()) => {}
            () = received(self.quit.as_mut()) => {}
        }
    }

    /// A second hangup is none: for one closed terminal there is one from the shell and another from the kernel.
    async fn second(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = received(self.quit.as_mut()) => {}
        }
    }
}

#[cfg(unix)]
async fn received(signal: Option<&mut tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether whoever started this process has it ignore the signal, as `nohup` does with SIGHUP. Only Linux tells.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, signal))
}

/// What a process's status in /proc says of a signal.
#[cfg(unix)]
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn first(&mut self) {
        // An error means that no handler could be installed: then there is nothing to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn second(&mut self) {
        self.first().await;
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_read_from_the_mask() {
        let status =
            "Name:\tredrive\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000000005\nSigCgt:\t0000000000000000\n";
        let ignored: Vec<i32> = (1..=31).filter(|&signal| ignores(status, signal)).collect();
        assert_eq!(ignored, [1, 3]);
        assert!(!ignores("Name:\tredrive\n", 1));
    }
}
