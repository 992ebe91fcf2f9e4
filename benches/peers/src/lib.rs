//! What every driver of a peer shares: the settings it is started with, the handler, and the one line it reports.
//!
//! A driver is started with the `BENCH_*` variables, works until SIGTERM, finishes what it runs and prints one line
//! of JSON. The handler takes the decoded body, notes when it started, and sleeps.

use std::collections::HashMap;
use std::env;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The most latencies a driver reports.
const MOST_LATENCIES: usize = 200_000;

/// The most receivers of a FIFO queue.
const MOST_OF_FIFO: usize = 256;

/// The body of a message; what pads it is parsed and dropped.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Body {
    /// When the message was enqueued, in µs since 1970; 0 when it was there from the start.
    pub sent: u64,
    /// The message's own number, where the body tells it.
    #[serde(default)]
    pub n: Option<u64>,
}

/// What a driver is asked to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where SQS is.
    pub endpoint: String,
    /// The queue's address.
    pub queue_url: String,
    /// How long a handler sleeps.
    pub handler: Duration,
    /// Handlers at once.
    pub concurrency: usize,
    /// Whether the queue is FIFO.
    pub fifo: bool,
    /// The groups of a FIFO queue.
    pub groups: u64,
    /// What a trial changes, by name.
    pub extra: Extra,
}

/// Changes to the configuration chosen, for trying others (`BENCH_EXTRA`); what is for other drivers is passed over.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Extra {
    /// Receivers (subscriptions of the same queue) instead of the number chosen.
    pub sources: Option<usize>,
    /// Slots of the framework, while `BENCH_CONCURRENCY` still bounds the handlers.
    pub slots: Option<usize>,
}

impl Settings {
    /// Reads the `BENCH_*` variables; ends the process with a line on stderr when one is missing or malformed.
    #[must_use]
    pub fn from_env() -> Self {
        let text = |name: &str| env::var(name).unwrap_or_else(|_| refuse(&format!("{name} is not set")));
        let number = |name: &str, default: &str| -> f64 {
            let value = env::var(name).unwrap_or_else(|_| default.to_owned());
            value
                .parse()
                .unwrap_or_else(|_| refuse(&format!("{name} is {value:?}, and is to be a number")))
        };
        let extra = env::var("BENCH_EXTRA").unwrap_or_default();
        let extra = if extra.trim().is_empty() { "{}" } else { &extra };
        Self {
            endpoint: text("BENCH_ENDPOINT"),
            queue_url: text("BENCH_QUEUE_URL"),
            handler: Duration::from_secs_f64(number("BENCH_HANDLER_MS", "20") / 1000.0),
            concurrency: (number("BENCH_CONCURRENCY", "64") as usize).max(1),
            fifo: number("BENCH_FIFO", "0") != 0.0,
            groups: number("BENCH_FIFO_GROUPS", "1").max(1.0) as u64,
            extra: serde_json::from_str(extra)
                .unwrap_or_else(|error| refuse(&format!("BENCH_EXTRA is {extra:?}: {error}"))),
        }
    }
}

fn refuse(why: &str) -> ! {
    eprintln!("{why}");
    process::exit(2)
}

/// Ends the process the way a driver does that cannot do what it is asked.
pub fn cannot(why: &str) -> ! {
    eprintln!("cannot: {why}");
    process::exit(3)
}

/// The number in a message's id, which the stand-in counts up from 1.
#[must_use]
pub fn number_of(message_id: &str) -> Option<u64> {
    u64::from_str_radix(message_id.rsplit('-').next()?, 16).ok()
}

/// A run: its settings and what has been seen so far.
#[derive(Debug)]
pub struct Run {
    /// What was asked for.
    pub settings: Settings,
    /// Bounds the handlers when the framework has more slots than that, in a trial.
    gate: Option<tokio::sync::Semaphore>,
    handled: AtomicU64,
    latencies: Mutex<Vec<u64>>,
    groups: Mutex<Groups>,
}

/// The order of each group, as far as handlers' starts show it.
#[derive(Debug, Default)]
struct Groups {
    /// By group: the last message started, and how many run.
    seen: HashMap<u64, (u64, u32)>,
    violations: u64,
    /// Whether a message came whose number nothing told.
    blind: bool,
}

impl Groups {
    fn start(&mut self, group: u64, number: u64) {
        let (last, running) = self.seen.entry(group).or_default();
        if *running > 0 || number <= *last {
            self.violations += 1;
        }
        *last = number;
        *running += 1;
    }

    fn end(&mut self, group: u64) {
        if let Some((_, running)) = self.seen.get_mut(&group) {
            *running -= 1;
        }
    }
}

impl Run {
    /// A run that has seen nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Arc<Self> {
        let gate = settings
            .extra
            .slots
            .map(|_| tokio::sync::Semaphore::new(settings.concurrency));
        Arc::new(Self {
            settings,
            gate,
            handled: AtomicU64::new(0),
            latencies: Mutex::default(),
            groups: Mutex::default(),
        })
    }

    /// The handler: notes its start, sleeps, and counts. `number` is the message's, where the peer tells its id.
    pub async fn handle(&self, body: &Body, number: Option<u64>) {
        let _permit = match &self.gate {
            Some(gate) => gate.acquire().await.ok(),
            None => None,
        };
        if body.sent > 0 {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_micros();
            let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            if latencies.len() < MOST_LATENCIES {
                latencies.push(u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(body.sent));
            }
        }
        let mut group = None;
        if self.settings.fifo {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            match number.or(body.n) {
                Some(number) => {
                    let of = number % self.settings.groups;
                    groups.start(of, number);
                    group = Some(of);
                }
                None => groups.blind = true,
            }
        }
        if !self.settings.handler.is_zero() {
            tokio::time::sleep(self.settings.handler).await;
        }
        if let Some(group) = group {
            self.groups.lock().unwrap_or_else(PoisonError::into_inner).end(group);
        }
        self.handled.fetch_add(1, Ordering::Relaxed);
    }

    /// The slots the framework is given: the handlers asked for, unless a trial gives it others.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.settings.extra.slots.unwrap_or(self.settings.concurrency)
    }

    /// The receivers: as many as a trial says, else one for each `each` slots, and from `least` to `most`.
    ///
    /// Of a FIFO queue one for each slot, to `MOST_OF_FIFO`: what one call brings is mostly of one group, and then
    /// fills one slot of those its receiver feeds.
    #[must_use]
    pub fn sources(&self, each: usize, least: usize, most: usize) -> usize {
        let chosen = if self.settings.fifo {
            self.slots().min(MOST_OF_FIFO)
        } else {
            self.slots().div_ceil(each).clamp(least, most)
        };
        self.settings.extra.sources.unwrap_or(chosen).clamp(1, self.slots())
    }

    /// Prints the report; the last thing a driver does.
    pub fn report(&self, driver: &str, version: &str) {
        #[derive(Serialize)]
        struct Report<'a> {
            driver: &'a str,
            version: &'a str,
            handled: u64,
            /// Null when the peer tells its handler nothing a message's place could be known by.
            order_violations: Option<u64>,
            latencies_us: &'a [u64],
        }
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let report = Report {
            driver,
            version,
            handled: self.handled.load(Ordering::Relaxed),
            order_violations: (!groups.blind).then_some(groups.violations),
            latencies_us: &latencies,
        };
        match serde_json::to_string(&report) {
            Ok(line) => println!("{line}"),
            Err(error) => refuse(&format!("the report could not be written: {error}")),
        }
    }
}

/// `total` in `parts` shares that differ by one at most.
pub fn shares(total: usize, parts: usize) -> impl Iterator<Item = usize> {
    (0..parts).map(move |part| total / parts + usize::from(part < total % parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_message_is_the_end_of_its_id() {
        assert_eq!(number_of("00000000-0000-4000-8000-00000000001f"), Some(31));
        assert_eq!(number_of("nothing of the kind"), None);
    }

    #[test]
    fn a_start_beside_another_or_before_an_earlier_one_violates_the_order() {
        let mut groups = Groups::default();
        groups.start(1, 1);
        groups.end(1);
        groups.start(1, 3);
        assert_eq!(groups.violations, 0);
        groups.start(1, 5);
        assert_eq!(groups.violations, 1);
        groups.end(1);
        groups.end(1);
        groups.start(1, 4);
        assert_eq!(groups.violations, 2);
        groups.start(0, 2);
        assert_eq!(groups.violations, 2);
    }

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(64, 3).collect::<Vec<_>>(), [22, 21, 21]);
    }
}
