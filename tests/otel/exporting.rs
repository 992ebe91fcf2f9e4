//! A program as users write it, in a process of its own, with collectors that answer, refuse and hang.

use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redrive::clock::{Clock, Instant};
use redrive::otel::Otel;
use redrive::worker::{Beside, Companion};
use redrive::{Failure, MemoryQueue, NewMessage, Producer, Worker};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::child::Process;
use crate::collector::{collector, times};

/// Notes when the worker has ended.
struct Stopwatch(Arc<Mutex<Option<Instant>>>);

impl Companion for Stopwatch {
    async fn run(self, beside: Beside) {
        beside.ended().await;
        *self.0.lock().unwrap() = Some(beside.clock().now());
    }
}

/// The program: works off as many messages as it is told, and says how many were done, and how long it took to end after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the program that others of these tests run"]
async fn program() {
    let otel = Otel::from_env();
    let Ok(otel) = otel.map_err(|error| println!("refused: {error}")) else {
        return;
    };
    tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(std::io::stderr)
                .with_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"))),
        )
        .with(otel.as_ref().map(Otel::layer))
        .init();
    let messages: u64 = std::env::var("MESSAGES").unwrap().parse().unwrap();
    let dead = MemoryQueue::builder("exported-dlq").retention(Duration::from_secs(14 * 24 * 60 * 60));
    let queue = MemoryQueue::builder("exported")
        .dead_letter(&dead.build().unwrap(), 15)
        .build()
        .unwrap();
    let producer = Producer::new(queue.clone());
    let sent = producer
        .send_all((0..messages).map(|n| NewMessage::text("the payload").key(format!("k{n}"))))
        .await;
    assert!(sent.iter().all(Result::is_ok));
    let ended = Arc::default();
    let worker = Worker::builder(queue)
        .long_poll(Duration::from_secs(1))
        .handler(async || {
            tokio::time::sleep(Duration::from_millis(20)).await;
            tracing::info_span!("charge").in_scope(|| ());
            Ok::<_, Failure>(())
        })
        .beside(otel)
        .beside(Stopwatch(Arc::clone(&ended)))
        .build()
        .unwrap();
    let handle = worker.handle();
    let done = async {
        while handle.status().totals.completed < messages {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        handle.drain();
    };
    let (run, ()) = tokio::join!(worker.run_until_drained(), done);
    run.unwrap();
    let ended = ended.lock().unwrap().unwrap();
    let took = Clock::system().now().saturating_duration_since(ended);
    println!("completed {}", handle.status().totals.completed);
    println!("took {} ms to end", took.as_millis());
}

/// What a run of the program said.
struct Said {
    output: Vec<String>,
    log: Vec<String>,
    ended: Duration,
}

impl Said {
    fn of(messages: u64, variables: &[(&str, String)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "exporting::program", "--nocapture"]);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_") || name == "RUST_LOG") {
            command.env_remove(name);
        }
        command
            .env("MESSAGES", messages.to_string())
            .envs(variables.iter().cloned());
        let (output, log) = <(Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<String>>>)>::default();
        let keep = |lines: &Arc<Mutex<Vec<String>>>| {
            let lines = Arc::clone(lines);
            move |line: &str| {
                lines
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line.to_owned())
            }
        };
        let clock = Clock::system();
        let began = clock.now();
        let mut process = Process::start(command, keep(&output), keep(&log));
        while process.ended().is_none() {
            assert!(
                clock.now().saturating_duration_since(began) < Duration::from_secs(60),
                "it does not end"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let ended = clock.now().saturating_duration_since(began);
        process.hear_out();
        let lines = |lines: &Mutex<Vec<String>>| std::mem::take(&mut *lines.lock().unwrap());
        Self {
            output: lines(&output),
            log: lines(&log),
            ended,
        }
    }

    fn count(&self, text: &str) -> usize {
        self.log.iter().filter(|line| line.contains(text)).count()
    }

    fn says(&self, text: &str) -> bool {
        self.output.iter().any(|line| line.contains(text))
    }

    /// How long it took to end when its worker had, in ms.
    fn took(&self) -> u64 {
        let line = self.output.iter().find_map(|line| line.split_once("took ")).unwrap().1;
        line.split_once(' ').unwrap().0.parse().unwrap()
    }
}

fn endpoint(url: &str) -> (&'static str, String) {
    ("OTEL_EXPORTER_OTLP_ENDPOINT", url.to_owned())
}

/// As often as a test can wait for.
fn soon() -> (&'static str, String) {
    ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned())
}

#[test]
fn a_collector_gets_every_span_the_last_ones_when_the_worker_ends_and_no_payload() {
    let (url, requests) = collector();
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer hunter2".to_owned());
    let service = ("OTEL_SERVICE_NAME", "shop".to_owned());
    let loud = ("RUST_LOG", "trace".to_owned());
    let said = Said::of(30, &[endpoint(&url), headers, service, loud]);
    assert!(said.says("completed 30"), "{:?}", said.output);
    let requests = requests.lock().unwrap();
    assert!(!requests.is_empty());
    let mut all = Vec::new();
    for (head, body) in requests.iter() {
        assert!(head.starts_with("post /v1/traces "), "{head}");
        assert!(head.contains("content-type: application/x-protobuf"), "{head}");
        assert!(head.contains("authorization: bearer hunter2"), "{head}");
        all.extend_from_slice(body);
    }
    for name in ["process exported", "handle exported", "settle exported", "charge"] {
        assert_eq!(times(&all, name), 30, "{name}");
    }
    assert!(times(&all, "shop") >= 1, "the service's name");
    assert_eq!(times(&all, "the payload"), 0);
    assert_eq!(said.count("WARN"), 0, "{:#?}", said.log);
    assert!(
        said.count("TRACE") + said.count("DEBUG") > 0,
        "it was loud: {:#?}",
        said.log
    );
    assert_eq!(said.count("hunter2"), 0);
}

#[test]
fn a_collector_that_refuses_is_told_of_once_and_holds_nothing_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://user:hunter2@{}", listener.local_addr().unwrap());
    drop(listener);
    let said = Said::of(300, &[endpoint(&url), soon()]);
    assert!(said.says("completed 300"), "{:?}", said.output);
    assert_eq!(said.count("traces cannot be exported"), 1, "{:#?}", said.log);
    assert_eq!(said.count("these were not exported"), 1, "{:#?}", said.log);
    // Four of redrive's own and one of the handler's, but for the claim.
    assert_eq!(said.count("spans=1200"), 1, "{:#?}", said.log);
    assert_eq!(said.count("hunter2"), 0, "{:#?}", said.log);
    assert!(said.took() < 1_000, "{}", said.took());
}

#[test]
fn a_collector_that_hangs_holds_up_neither_the_work_nor_the_end_for_more_than_a_second() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let held = std::thread::spawn(move || {
        // Taken, and never answered.
        let first = listener.accept();
        let _others: Vec<_> = first
            .into_iter()
            .chain(std::iter::from_fn(|| listener.accept().ok()))
            .collect();
    });
    let few = ("OTEL_BSP_MAX_QUEUE_SIZE", "64".to_owned());
    let said = Said::of(300, &[endpoint(&url), soon(), few]);
    assert!(said.says("completed 300"), "{:?}", said.output);
    assert!(said.took() < 1_500, "{}", said.took());
    assert!(said.ended < Duration::from_secs(15), "{:?}", said.ended);
    assert_eq!(
        said.count("more spans are made than can be exported"),
        1,
        "{:#?}",
        said.log
    );
    assert_eq!(said.count("these were not exported"), 1, "{:#?}", said.log);
    assert_eq!(said.count("spans=1200"), 1, "{:#?}", said.log);
    assert_eq!(said.count("did not end within a second"), 0, "{:#?}", said.log);
    assert!(!held.is_finished());
}

#[test]
fn without_an_endpoint_nothing_is_exported_and_one_that_is_none_is_an_error_that_names_it() {
    let said = Said::of(3, &[]);
    assert!(said.says("completed 3"), "{:?}", said.output);
    assert_eq!(said.count("WARN"), 0, "{:#?}", said.log);
    let said = Said::of(3, &[endpoint("localhost:4318")]);
    assert!(
        said.says("refused: OTEL_EXPORTER_OTLP_ENDPOINT=`localhost:4318`: give the URL of a collector"),
        "{:?}",
        said.output
    );
}
