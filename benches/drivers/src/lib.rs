//! What the drivers share: what they are told by the environment, the handler, and the one line they answer.

use std::collections::HashMap;
use std::env;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Latencies kept at most.
const MOST_LATENCIES: usize = 200_000;

/// What is to be drained, and how.
#[derive(Clone, Debug)]
pub struct Task {
    pub queue: String,
    pub queue_url: String,
    pub table: String,
    pub handler: Duration,
    pub concurrency: usize,
    pub inbox: bool,
    pub fifo: bool,
    pub fifo_groups: u64,
    /// Free settings of single cases, as JSON.
    pub extra: serde_json::Value,
}

impl Task {
    /// As the environment says.
    pub fn from_env() -> Self {
        let handler_ms: f64 = variable("BENCH_HANDLER_MS", 0.0);
        Self {
            queue: variable("BENCH_QUEUE", "bench".to_owned()),
            queue_url: variable("BENCH_QUEUE_URL", String::new()),
            table: variable("BENCH_TABLE", "bench-inbox".to_owned()),
            handler: Duration::from_secs_f64(handler_ms / 1_000.0),
            concurrency: variable("BENCH_CONCURRENCY", 64),
            inbox: variable("BENCH_INBOX", 0) == 1,
            fifo: variable("BENCH_FIFO", 0) == 1,
            fifo_groups: variable("BENCH_FIFO_GROUPS", 0),
            extra: serde_json::from_str(&variable("BENCH_EXTRA", "{}".to_owned())).expect("BENCH_EXTRA is JSON"),
        }
    }
}

fn variable<T: FromStr<Err: Display>>(name: &str, default: T) -> T {
    match env::var(name) {
        Ok(text) => match text.parse() {
            Ok(value) => value,
            Err(error) => panic!("{name} is `{text}`: {error}"),
        },
        Err(_) => default,
    }
}

/// Warnings go to stderr; stdout is for the answer.
pub fn log_warnings() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
}

/// The body of a message of the stand-in.
#[derive(Debug, Deserialize)]
pub struct Body {
    /// When it was enqueued, in µs since 1970; 0 in a backlog.
    pub sent: u64,
}

/// What the handlers of a driver do and count.
#[derive(Debug)]
pub struct Work {
    takes: Duration,
    groups: u64,
    handled: AtomicU64,
    violations: AtomicU64,
    latencies_us: Mutex<Vec<u64>>,
    /// By group: the last message that began, and how many run.
    order: Mutex<HashMap<u64, (u64, u64)>>,
}

#[derive(Serialize)]
struct Answer<'a> {
    driver: &'a str,
    version: &'a str,
    handled: u64,
    order_violations: u64,
    latencies_us: Vec<u64>,
}

impl Work {
    pub fn of(task: &Task) -> Self {
        Self {
            takes: task.handler,
            groups: if task.fifo { task.fifo_groups } else { 0 },
            handled: AtomicU64::new(0),
            violations: AtomicU64::new(0),
            latencies_us: Mutex::default(),
            order: Mutex::default(),
        }
    }

    /// The handler: takes as long as the case says.
    pub async fn handle(&self, message_id: &str, body: &Body) {
        if body.sent > 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let waited = (now.as_micros() as u64).saturating_sub(body.sent);
            let mut latencies = self.latencies_us.lock().unwrap();
            if latencies.len() < MOST_LATENCIES {
                latencies.push(waited);
            }
        }
        let group = self.begin_in_group(message_id);
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        if let Some(group) = group
            && let Some((_, running)) = self.order.lock().unwrap().get_mut(&group)
        {
            *running -= 1;
        }
        self.handled.fetch_add(1, Ordering::Relaxed);
    }

    fn begin_in_group(&self, message_id: &str) -> Option<u64> {
        if self.groups == 0 {
            return None;
        }
        let number = message_id
            .rsplit('-')
            .next()
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())?;
        let group = number % self.groups;
        let mut order = self.order.lock().unwrap();
        let (last, running) = order.entry(group).or_default();
        if *running > 0 || number <= *last {
            self.violations.fetch_add(1, Ordering::Relaxed);
        }
        *last = number;
        *running += 1;
        Some(group)
    }

    /// Prints the one line.
    #[allow(clippy::print_stdout, reason = "the answer")]
    pub fn answer(&self, driver: &str, version: &str) {
        let answer = Answer {
            driver,
            version,
            handled: self.handled.load(Ordering::Relaxed),
            order_violations: self.violations.load(Ordering::Relaxed),
            latencies_us: std::mem::take(&mut self.latencies_us.lock().unwrap()),
        };
        println!("{}", serde_json::to_string(&answer).expect("an answer is JSON"));
    }
}
