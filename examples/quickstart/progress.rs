//! What is shown while it runs: a bar on a terminal, plain lines elsewhere.

use std::convert::Infallible;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use redrive::MemoryQueue;
use redrive::clock::{Clock, Instant};
use redrive::flow::{BreakerState, BreakerWatch};

use crate::report::thousands;

/// How often the bar moves, and how often a line is written where there is none.
const TICK: Duration = Duration::from_millis(50);
const LINE: Duration = Duration::from_secs(1);

/// Shows how far it is.
pub(crate) struct Progress {
    queue: MemoryQueue,
    clock: Clock,
    started: Instant,
    messages: usize,
    sent: AtomicUsize,
    bar: Option<ProgressBar>,
    pauses: Mutex<Pauses>,
}

/// The times the breaker was open.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pauses {
    /// How often the worker paused.
    pub(crate) count: u64,
    /// How long in all.
    pub(crate) lasted: Duration,
    /// Receives that the worker made meanwhile.
    pub(crate) receives: u64,
}

impl Progress {
    /// Of so many messages that are to go through this queue.
    pub(crate) fn new(messages: usize, queue: MemoryQueue) -> Self {
        let clock = Clock::system();
        Self {
            queue,
            started: clock.now(),
            clock,
            messages,
            sent: AtomicUsize::new(0),
            bar: std::io::stderr().is_terminal().then(|| bar(messages)),
            pauses: Mutex::default(),
        }
    }

    /// Notes that so many more messages were sent.
    pub(crate) fn sent(&self, messages: usize) {
        self.sent.fetch_add(messages, Ordering::Relaxed);
    }

    /// Says that something happened.
    pub(crate) fn note(&self, text: &str) {
        let line = format!("  {:>4.1} s  {text}", self.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) if !bar.is_finished() => bar.println(line),
            _ => println!("{line}"),
        }
    }

    /// How long it has been running.
    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.now() - self.started
    }

    pub(crate) fn pauses(&self) -> Pauses {
        *self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the queue until all messages were sent and none is left.
    pub(crate) async fn until_done(&self) {
        let mut next_line = self.clock.now() + LINE;
        loop {
            let (sent, left) = (self.sent.load(Ordering::Relaxed), self.queue.len());
            if let Some(bar) = &self.bar {
                bar.set_position(sent.saturating_sub(left) as u64);
                bar.set_message(format!("{} in the queue", thousands(left)));
            } else if self.clock.now() >= next_line {
                next_line += LINE;
                self.note(&format!(
                    "{} messages sent, {} in the queue",
                    thousands(sent),
                    thousands(left)
                ));
            }
            if sent == self.messages && left == 0 {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.note(&format!("all {} messages are done", thousands(self.messages)));
    }

    /// Follows the gateway's circuit breaker, for ever.
    pub(crate) async fn follow(&self, mut breaker: BreakerWatch) -> Infallible {
        let mut paused: Option<(Instant, u64)> = None;
        loop {
            breaker.changed().await;
            let (now, receives) = (self.clock.now(), self.queue.calls().receive);
            match (breaker.state(now), paused) {
                (BreakerState::Open { .. }, None) => {
                    paused = Some((now, receives));
                    self.count(|pauses| pauses.count += 1);
                    self.note("the gateway fails: its circuit breaker opens, the worker stops receiving");
                }
                (BreakerState::Closed, Some((at, _))) => {
                    paused = None;
                    self.count(|pauses| pauses.lasted += now - at);
                    self.note("three probes succeeded: the breaker closes, the worker goes on");
                }
                (state, Some((at, before))) => {
                    paused = Some((at, receives));
                    self.count(|pauses| pauses.receives += receives - before);
                    if matches!(state, BreakerState::Open { .. }) {
                        self.note("one order was tried as a probe, and failed: the pause goes on");
                    }
                }
                _ => {}
            }
        }
    }

    fn count(&self, f: impl FnOnce(&mut Pauses)) {
        f(&mut self.pauses.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn bar(messages: usize) -> ProgressBar {
    let template = "  {elapsed:>4}  {bar:36.cyan/dim} {human_pos} of {human_len} done  {msg:.dim}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(messages as u64).with_style(style.progress_chars("━╸─"))
}
