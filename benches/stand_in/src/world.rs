//! All that the stand-in holds.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::answer::Answer;
use crate::counts::{Calls, Counts, cpu_us};
use crate::dynamodb::Database;
use crate::setup::Setup;
use crate::sqs::message::Message;
use crate::sqs::queue::{DeadLetters, Queue};

/// How often a message of a standard queue is received at most.
const MAX_RECEIVE_COUNT: u32 = 15;

/// The same of a FIFO queue, where a message waits for those before it.
const MAX_RECEIVE_COUNT_FIFO: u32 = 50;

/// The account that everything belongs to.
const ACCOUNT: &str = "000000000000";

/// Why a call, or one entry of it, was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// As the answer to a call of a service whose errors are of this namespace.
    pub(crate) fn answer(&self, namespace: &str) -> Answer {
        Answer::error(&format!("{namespace}#{}", self.code), &self.message)
    }

    /// As the answer to an entry of a batch of SQS.
    pub(crate) fn entry(&self, id: &str) -> Value {
        let code = self.code.strip_suffix("Exception").unwrap_or(self.code);
        json!({ "Id": id, "SenderFault": true, "Code": code, "Message": self.message })
    }
}

/// The ARN of a queue.
pub(crate) fn arn(queue: &str) -> String {
    format!("arn:aws:sqs:us-east-1:{ACCOUNT}:{queue}")
}

/// Everything, of one thread.
pub(crate) struct World {
    endpoint: String,
    pub(crate) setup: Setup,
    started: (Instant, u64),
    queues: Vec<Queue>,
    pub(crate) database: Database,
    /// How many messages were sent.
    pub(crate) sent: u64,
    pub(crate) calls: Tallies,
    pub(crate) first_receive: Option<Instant>,
    changes: Rc<Notify>,
}

/// Calls by operation; the names are those of constants.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    pub(crate) sqs: std::collections::BTreeMap<&'static str, crate::counts::SqsCalls>,
    pub(crate) dynamodb: std::collections::BTreeMap<&'static str, crate::counts::DynamoCalls>,
}

impl World {
    /// One that is set up with the defaults, and closed. `changes` is told when something may be received that could not
    /// before.
    pub(crate) fn new(endpoint: String, changes: Rc<Notify>) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut world = Self {
            endpoint,
            setup: Setup::default(),
            started: (Instant::now(), u64::try_from(unix.as_micros()).unwrap_or(u64::MAX)),
            queues: Vec::new(),
            database: Database::new(0),
            sent: 0,
            calls: Tallies::default(),
            first_receive: None,
            changes,
        };
        world.set_up(Setup::default());
        world
    }

    /// Forgets everything, and starts closed with these settings.
    pub(crate) fn set_up(&mut self, setup: Setup) {
        let visibility = Duration::from_secs(setup.visibility_s);
        let queue = |name: &str, dead: &str, max_receive_count| {
            let dead_letters = DeadLetters {
                queue: dead.to_owned(),
                max_receive_count,
            };
            Queue::new(name, visibility, Some(dead_letters))
        };
        let mut standard = queue("bench", "bench-dlq", MAX_RECEIVE_COUNT);
        let mut fifo = queue("bench.fifo", "bench-dlq.fifo", MAX_RECEIVE_COUNT_FIFO);
        if setup.fifo_groups == 0 {
            standard = standard.with_source(&setup);
        } else {
            fifo = fifo.with_source(&setup);
        }
        self.queues = vec![
            standard,
            fifo,
            Queue::new("bench-dlq", visibility, None),
            Queue::new("bench-dlq.fifo", visibility, None),
        ];
        self.database = Database::new(setup.inbox_items);
        self.sent = 0;
        self.calls = Tallies::default();
        self.first_receive = None;
        self.setup = setup;
        self.changed();
    }

    /// How long a call takes.
    pub(crate) fn latency(&self) -> Duration {
        Duration::from_secs_f64(self.setup.latency_ms / 1_000.0)
    }

    /// The wall clock at a moment, in µs since 1970. It does not jump.
    pub(crate) fn unix_us(&self, now: Instant) -> u64 {
        self.started.1 + micros(now.saturating_duration_since(self.started.0))
    }

    /// Lets messages appear.
    pub(crate) fn open(&mut self, now: Instant) {
        let unix_us = self.unix_us(now);
        self.main_queue().open(now, unix_us);
        self.changed();
    }

    /// Lets no more appear.
    pub(crate) fn close(&mut self, now: Instant) {
        self.main_queue().close(now);
    }

    fn main_queue(&mut self) -> &mut Queue {
        let at = usize::from(self.setup.fifo_groups > 0);
        &mut self.queues[at]
    }

    /// The queue of this URL or name.
    pub(crate) fn queue(&mut self, url: &str) -> Result<&mut Queue, Failure> {
        let name = url.rsplit('/').next().unwrap_or_default();
        self.queues
            .iter_mut()
            .find(|queue| queue.name == name)
            .ok_or_else(|| Failure::new("QueueDoesNotExist", format!("There is no queue {name}.")))
    }

    pub(crate) fn queue_names(&self) -> impl Iterator<Item = &str> {
        self.queues.iter().map(|queue| queue.name.as_str())
    }

    pub(crate) fn url(&self, queue: &str) -> String {
        format!("{}/{ACCOUNT}/{queue}", self.endpoint)
    }

    /// Moves messages that were received too often from a queue to its dead-letter queue.
    pub(crate) fn bury(&mut self, now: Instant, from: &str, dead: Vec<Message>) {
        if dead.is_empty() {
            return;
        }
        let Ok(Some(letters)) = self.queue(from).map(|queue| queue.dead_letters.clone()) else {
            return;
        };
        let source: Rc<str> = arn(from).into();
        if let Ok(queue) = self.queue(&letters.queue) {
            for mut message in dead {
                message.source_arn = Some(Rc::clone(&source));
                queue.put(now, message, Duration::ZERO);
            }
        }
        self.changed();
    }

    /// Something may be received that could not before.
    pub(crate) fn changed(&self) {
        self.changes.notify_waiters();
    }

    /// As [`changed`](Self::changed), after messages of a queue were deleted, or their visibility changed.
    pub(crate) fn may_have_freed(&mut self, url: &str, visibility_changed: bool) {
        if visibility_changed || self.queue(url).is_ok_and(|queue| queue.is_fifo()) {
            self.changed();
        }
    }

    /// What was counted since the setup.
    pub(crate) fn counts(&mut self, now: Instant) -> Counts {
        let started = self.started.0;
        let since = |moment: Instant| micros(moment.saturating_duration_since(started));
        let first_receive_call_us = self.first_receive.map(since);
        let calls = Calls {
            sqs: self
                .calls
                .sqs
                .iter()
                .map(|(name, calls)| ((*name).to_owned(), *calls))
                .collect(),
            dynamodb: self
                .calls
                .dynamodb
                .iter()
                .map(|(name, calls)| ((*name).to_owned(), *calls))
                .collect(),
        };
        let queue = self.main_queue();
        Counts {
            now_us: since(now),
            received: queue.tally.received,
            deleted: queue.tally.deleted,
            in_flight: queue.in_flight(now),
            left: queue.left(now),
            redelivered: queue.tally.redelivered,
            sent_to_dlq: queue.tally.dead,
            first_receive_call_us,
            calls,
            cpu_us: cpu_us(),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
