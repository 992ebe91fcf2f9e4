//! SIGTERM to a busy process: the orders example on the stand-in of `benches/stand_in`, where what is handed back is visible
//! at once, with a second worker beside it that takes what it gives back. All times are from when the signal was sent.
#![cfg(all(feature = "aws", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/aws.rs"]
mod aws;
#[path = "support/orders.rs"]
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::clock::{Clock, Instant};
use redrive::extract::IdempotencyKey;
use redrive::producer::{NewMessage, Producer};
use redrive::{DynamoInbox, Failure, SqsQueue, Worker};
use redrive_stand_in::{Counts, Setup, StandIn};
use tokio::task::JoinSet;

use program::{Ledger, Line, Program, Signal};

/// How long a condition is awaited, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Within which what waits must run elsewhere.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A charge is in the gateway's books after half of the time that it takes: the other half is left then.
const GATEWAY_MS: u64 = 4_000;

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "waited {PATIENCE:?} in vain: {what}");
}

fn now() -> Instant {
    Clock::system().now()
}

/// Queues and a table of a test's own.
struct Stage {
    stand_in: StandIn,
    queue: SqsQueue,
    inbox: DynamoInbox,
    ledger: Ledger,
}

impl Stage {
    /// What is held is visible again only after a minute by itself: whatever comes sooner was handed back.
    async fn set(name: &str) -> Self {
        let stand_in = StandIn::start().unwrap();
        let setup = Setup {
            messages: Some(0),
            visibility_s: 60,
            latency_ms: 2.0,
            ..Setup::default()
        };
        stand_in.setup(setup).unwrap();
        stand_in.open();
        let aws = aws::config(stand_in.endpoint());
        Self {
            queue: SqsQueue::connect(&aws, "bench").await.unwrap(),
            inbox: DynamoInbox::connect(&aws, "bench-inbox").await.unwrap(),
            ledger: Ledger::new(&format!("sigterm-{name}-{}", std::process::id())),
            stand_in,
        }
    }

    async fn send(&self, ids: Range<usize>) {
        let producer = Producer::new(Arc::new(self.queue.clone()));
        let orders = ids.map(|id| {
            let body = format!(r#"{{"id":"{id}","amount_cents":100,"card":"tok_visa_1"}}"#);
            NewMessage::text(body).key(key(id)).message_type("order.card")
        });
        futures::future::try_join_all(orders.map(|order| producer.send(order)))
            .await
            .unwrap();
    }

    /// The example, working, with the long poll that a worker has unless it is set.
    async fn process(&self, gateway_ms: u64, slots: usize) -> Program {
        self.process_with(gateway_ms, slots, &[]).await
    }

    async fn process_with(&self, gateway_ms: u64, slots: usize, variables: &[(&str, &str)]) -> Program {
        let program = Program::new(&["work"])
            .set("AWS_ENDPOINT_URL", self.stand_in.endpoint())
            .set("AWS_REGION", "us-east-1")
            .set("AWS_ACCESS_KEY_ID", "test")
            .set("AWS_SECRET_ACCESS_KEY", "test")
            .set("ORDERS_QUEUE", "bench")
            .set("ORDERS_TABLE", "bench-inbox")
            .set("ORDERS_LEDGER", self.ledger.path())
            .set("ORDERS_GATEWAY_MS", &gateway_ms.to_string())
            .set("REDRIVE_CONCURRENCY", &slots.to_string())
            // Deletes linger for four times as long: what was completed waits for its delete when the signal comes.
            .set("REDRIVE_LINGER", "1s");
        let set = |program: Program, &(name, value): &(&str, &str)| program.set(name, value);
        let program = variables.iter().fold(program, set).start();
        program.said("working").await;
        program
    }

    fn charged(&self) -> BTreeSet<String> {
        let lines = self.ledger.read();
        lines.into_iter().filter(Line::is_charge).map(|line| line.key).collect()
    }

    async fn until_charged(&self, orders: usize) {
        until("so many orders are charged", async || self.charged().len() == orders).await;
    }

    async fn until_counted(&self, what: &str, counted: impl Fn(&Counts) -> bool) {
        until(what, async || counted(&self.stand_in.counts())).await;
    }
}

fn key(id: usize) -> String {
    format!("order-{id}")
}

fn keys(ids: Range<usize>) -> BTreeSet<String> {
    ids.map(key).collect()
}

/// When the other worker ran what.
type Runs = Arc<Mutex<BTreeMap<String, Instant>>>;

/// Another worker of the same queue, in this process.
struct Other {
    runs: Runs,
    handle: redrive::worker::WorkerHandle,
    tasks: JoinSet<Result<(), redrive::Error>>,
}

impl Other {
    /// With its receive under way.
    async fn start(stage: &Stage) -> Self {
        let receives = |counts: &Counts| counts.calls.sqs["ReceiveMessage"].calls;
        let before = receives(&stage.stand_in.counts());
        let runs = Runs::default();
        let noted = Arc::clone(&runs);
        let handler = move |key: IdempotencyKey| {
            let noted = Arc::clone(&noted);
            async move {
                noted.lock().unwrap().insert(key.to_string(), now());
                Ok::<(), Failure>(())
            }
        };
        let worker = Worker::builder(stage.queue.clone())
            .inbox(stage.inbox.clone())
            .long_poll(Duration::from_secs(1))
            .handler(handler)
            .build()
            .unwrap();
        let handle = worker.handle();
        let mut tasks = JoinSet::new();
        tasks.spawn(worker.run_until_drained());
        stage
            .until_counted("the other worker receives", |counts| receives(counts) > before)
            .await;
        Self { runs, handle, tasks }
    }

    async fn until_ran(&self, keys: &BTreeSet<String>) {
        until("the other worker ran what was handed back", async || {
            keys.iter().all(|key| self.runs.lock().unwrap().contains_key(key))
        })
        .await;
    }

    /// What it ran, and how long after the signal.
    fn ran(&self, asked: Instant) -> BTreeMap<String, Duration> {
        let runs = self.runs.lock().unwrap();
        runs.iter().map(|(key, &at)| (key.clone(), at - asked)).collect()
    }

    async fn drain(mut self) {
        self.handle.drain();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn inv08_sigterm_lets_the_running_finish_hands_the_rest_back_within_a_second_flushes_and_ends() {
    let stage = Stage::set("busy").await;
    stage.send(0..16).await;
    let mut process = stage.process(GATEWAY_MS, 4).await;
    // Four are completed, four run and have half of their time before them, and what waits is all that is left.
    stage.until_charged(8).await;
    stage
        .until_counted("all are held", |counts| counts.left == Some(0) && counts.received == 16)
        .await;
    let other = Other::start(&stage).await;
    let before = stage.stand_in.counts();

    let asked = now();
    process.signal(Signal::Terminate);
    let back: BTreeSet<_> = keys(0..16).difference(&stage.charged()).cloned().collect();
    other.until_ran(&back).await;
    let ended = process.ended().await;
    let took = now() - asked;

    let ran = other.ran(asked);
    assert_eq!(ran.keys().cloned().collect::<BTreeSet<_>>(), back);
    assert!(ran.values().all(|&after| after < AT_ONCE), "{ran:#?}");
    assert_eq!(ended.status.code(), Some(0), "{}", ended.shown());
    assert!(ended.stderr.contains("drained"), "{}", ended.shown());
    let rest = Duration::from_millis(GATEWAY_MS / 2);
    let (soonest, latest) = (rest - AT_ONCE, rest + 2 * AT_ONCE);
    assert!(took > soonest && took < latest, "{took:?}: {}", ended.shown());
    assert_eq!(stage.charged().len(), 8, "no handler was started: {}", ended.shown());

    other.drain().await;
    let counts = stage.stand_in.counts();
    assert_eq!(before.deleted, 0, "nothing was left to be flushed");
    assert_eq!((counts.deleted, counts.left, counts.in_flight), (16, Some(0), 0));
}

#[tokio::test]
async fn inv08_a_receive_under_way_delays_neither_what_waited_nor_what_it_brings_after_the_signal() {
    let stage = Stage::set("polling").await;
    stage.send(0..6).await;
    // Slots for four and room for more: it waits for messages while it holds some.
    let mut process = stage.process(GATEWAY_MS, 4).await;
    stage.until_charged(4).await;
    let other = Other::start(&stage).await;

    let asked = now();
    process.signal(Signal::Terminate);
    process.said("draining").await;
    let sent = now();
    stage.send(6..9).await;
    let back: BTreeSet<_> = keys(0..9).difference(&stage.charged()).cloned().collect();
    other.until_ran(&back).await;
    let ran = other.ran(asked);
    assert!(ran.values().all(|&after| after < AT_ONCE + (sent - asked)), "{ran:#?}");
    assert_eq!(ran.keys().cloned().collect::<BTreeSet<_>>(), back);

    let ended = process.ended().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.shown());
    assert!(ended.stderr.contains("receives=1"), "{}", ended.shown());
    other.drain().await;
    let counts = stage.stand_in.counts();
    assert_eq!((counts.deleted, counts.left, counts.in_flight), (9, Some(0), 0));
}

#[tokio::test]
async fn inv08_a_second_sigterm_ends_the_process_at_once() {
    let stage = Stage::set("twice").await;
    stage.send(0..2).await;
    let mut process = stage.process(2 * GATEWAY_MS, 2).await;
    stage.until_charged(2).await;
    process.signal(Signal::Terminate);
    process.said("draining").await;
    let asked = now();
    process.signal(Signal::Terminate);
    let ended = process.ended().await;
    let took = now() - asked;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.shown());
    assert!(took < AT_ONCE, "{took:?}: {}", ended.shown());
    assert!(ended.stderr.contains("stopped at once"), "{}", ended.shown());
    let held = stage.stand_in.counts().in_flight;
    assert_eq!(held, 2, "what was held comes back by its visibility timeout");
}

#[cfg(feature = "otel")]
#[tokio::test]
async fn inv08_a_second_sigterm_waits_for_no_collector() {
    let stage = Stage::set("collector").await;
    stage.send(0..2).await;
    // It takes connections and never answers.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hangs.local_addr().unwrap());
    hangs.set_nonblocking(true).unwrap();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let mut process = stage.process_with(2 * GATEWAY_MS, 2, &variables).await;
    stage.until_charged(2).await;
    let mut export = None;
    until("it exports", async || {
        export = export.take().or_else(|| hangs.accept().ok());
        export.is_some()
    })
    .await;
    process.signal(Signal::Terminate);
    process.said("draining").await;
    let asked = now();
    process.signal(Signal::Terminate);
    let ended = process.ended().await;
    let took = now() - asked;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.shown());
    assert!(took < AT_ONCE, "{took:?}: {}", ended.shown());
    assert!(ended.stderr.contains("stopped at once"), "{}", ended.shown());
    let flushed = ended.stderr.contains("were not exported");
    assert!(!flushed, "{}", ended.shown());
}
