//! Orders that are charged once each: produced from a JSONL file and worked off, on SQS and DynamoDB or on the embedded
//! backends.
//!
//! ```text
//! cargo run --example orders -- examples/data/orders.jsonl      sends the orders, works until the queue is empty, drains
//! cargo run --example orders -- produce FILE|-                  sends only
//! cargo run --example orders -- work                            works only, until SIGTERM or ctrl-c, then drains
//! ```
//!
//! `-` is the standard input. A line is `{"key": …, "type": …, "body": …}` with an optional `"group"`: the body is sent as it
//! is if it is a string, else as JSON.
//!
//! It runs on SQS and DynamoDB if one of `AWS_REGION`, `AWS_DEFAULT_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`,
//! `AWS_ENDPOINT_URL_SQS` and `AWS_ENDPOINT_URL_DYNAMODB` is set and not empty, and on the embedded backends otherwise; the
//! embedded queue lives and ends with the process, so `produce` and `work` want AWS. On the servers of this repository, two
//! workers at once:
//!
//! ```text
//! localstack/up && eval "$(localstack/env)" && export ORDERS_LEDGER=/tmp/ledger.jsonl
//! cargo run --example orders -- work & cargo run --example orders -- work &
//! cargo run --example orders -- produce examples/data/orders.jsonl
//! ```
//!
//! | variable | what it sets |
//! |---|---|
//! | `ORDERS_QUEUE` | the queue's name, URL or ARN; `orders` unless set |
//! | `ORDERS_TABLE` | the inbox's table; `redrive-inbox` unless set |
//! | `ORDERS_LEDGER` | the payment gateway's books, a file that all processes share; in memory unless set |
//! | `ORDERS_GATEWAY_MS` | how long the gateway takes, 5 ms unless set |
//! | `REDRIVE_…` | the worker's settings: `REDRIVE_CONCURRENCY`, `REDRIVE_DRAIN_DEADLINE` and so on |
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | where traces go, `http://localhost:4318` say, if built with `--features otel` |
//! | `RUST_LOG` | what is logged to the standard error; `info` unless set |

mod gateway;
mod ledger;
mod logs;
mod produce;
mod report;
mod settings;
mod work;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use redrive::inbox::InboxError;
use redrive::producer::Producer;
use redrive::queue::{Queue, QueueError};
use redrive::{DynamoInbox, MemoryInbox, MemoryQueue, SqsQueue, Worker};
use tracing::Instrument as _;

use gateway::Gateway;
use ledger::Ledger;
use settings::{Backend, Command, Settings, USAGE};

/// What ends the program before its work is done.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}\n{USAGE}")]
    Usage(String),
    #[error("{0}")]
    Setting(String),
    #[error("{0}")]
    Input(String),
    #[error("{0}{hint}", hint = hint(.0))]
    Redrive(Box<redrive::Error>),
    #[error("the ledger {path} cannot be used: {error}", path = .path.display())]
    Ledger {
        path: std::path::PathBuf,
        error: std::io::Error,
    },
    #[error("{0}")]
    NotRight(String),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match logs::start() {
        Ok(mut traces) => {
            let ended = run(&mut traces).await;
            traces.flush().await;
            ended
        }
        Err(problem) => Err(problem),
    };
    match ended {
        Ok(said) => {
            // Nobody may be left to read it.
            let _ = writeln!(std::io::stdout(), "{said}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "orders: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run(traces: &mut logs::Traces) -> Result<String, Problem> {
    let command = settings::command(std::env::args().skip(1)).map_err(Problem::Usage)?;
    let settings = Settings::read(|name| std::env::var(name).ok()).map_err(Problem::Setting)?;
    if command == Command::Help {
        return Ok(USAGE.to_owned());
    }
    tracing::info!(queue = settings.queue, "{}", settings.backend);
    let gateway = gateway(&settings)?;
    let stays = command == Command::Work;
    match settings.backend {
        Backend::Aws => {
            let aws = aws_config::load_from_env().await;
            let queue = SqsQueue::connect(&aws, &settings.queue).await?;
            if let Command::Produce(input) = &command {
                let sent = produce(input, &queue).await?;
                return Ok(format!("{sent} orders sent to {}", queue.attributes().url));
            }
            let inbox = DynamoInbox::connect(&aws, &settings.table).await?;
            let worker = work::worker(queue.clone(), inbox, gateway.clone(), stays)?;
            work_on(&command, queue, worker, gateway, traces, false).await
        }
        Backend::Embedded => {
            if !matches!(command, Command::ProduceAndWork(_)) {
                return Err(Problem::Setting(format!(
                    "`produce` and `work` by themselves need a queue that outlives the process, and {}; for local servers: \
                     localstack/up, then eval \"$(localstack/env)\"",
                    settings.backend
                )));
            }
            let dead = MemoryQueue::builder("orders-dlq").retention(FOURTEEN_DAYS).build()?;
            let queue = MemoryQueue::builder("orders").dead_letter(&dead, 15).build()?;
            let inbox = MemoryInbox::new();
            let worker = work::worker(queue.clone(), inbox, gateway.clone(), stays)?;
            work_on(&command, queue, worker, gateway, traces, true).await
        }
    }
}

const FOURTEEN_DAYS: std::time::Duration = std::time::Duration::from_secs(14 * 24 * 60 * 60);

/// What is the same on all backends: produce if asked to, work, report.
async fn work_on(
    command: &Command,
    queue: impl Queue + Clone,
    worker: Worker,
    gateway: Gateway,
    traces: &mut logs::Traces,
    queue_ends: bool,
) -> Result<String, Problem> {
    let clock = redrive::clock::Clock::system();
    let began = clock.now();
    let handle = worker.handle();
    let sent = match command {
        Command::ProduceAndWork(input) => {
            let sent = produce(input, &queue).await?;
            work::until_empty(worker, &queue, sent).await?;
            Some(sent)
        }
        _ => {
            work::until_told(worker).await?;
            None
        }
    };
    let status = handle.status();
    if status.running + status.waiting + status.ending > 0 {
        traces.leave();
    }
    let took = clock.now().saturating_duration_since(began);
    let report = report::Report {
        sent,
        queue_ends,
        totals: status.totals,
        books: gateway.books()?,
        took,
    };
    match report.wrong() {
        None => Ok(report.to_string()),
        Some(wrong) => Err(Problem::NotRight(format!("{wrong}\n{report}"))),
    }
}

/// Within a span, so that traces of the orders' work lead back to here.
async fn produce(input: &settings::Input, queue: &(impl Queue + Clone)) -> Result<u64, Problem> {
    let producer = Producer::new(Arc::new(queue.clone()));
    let sending = produce::send_all(input, &producer);
    sending.instrument(tracing::info_span!("produce")).await
}

fn gateway(settings: &Settings) -> Result<Gateway, Problem> {
    let ledger = match &settings.ledger {
        Some(path) => Ledger::open(path).map_err(|error| Problem::Ledger {
            path: path.clone(),
            error,
        })?,
        None => {
            if settings.backend == Backend::Aws {
                tracing::warn!(
                    "ORDERS_LEDGER is not set: this process's gateway knows nothing of other processes' charges"
                );
            }
            Ledger::in_memory()
        }
    };
    Ok(Gateway::new(ledger, settings.gateway_takes))
}

/// What to do about a queue or a table that is not there.
fn hint(error: &redrive::Error) -> &'static str {
    match error {
        redrive::Error::Queue(QueueError::NotFound { .. }) | redrive::Error::Inbox(InboxError::NotFound { .. }) => {
            "\nlocalstack/up makes a queue `orders` with its dead-letter queue and a table `redrive-inbox`; on AWS create \
             them, and name others by ORDERS_QUEUE and ORDERS_TABLE"
        }
        redrive::Error::Queue(QueueError::Unavailable { .. })
        | redrive::Error::Inbox(InboxError::Unavailable { .. }) => {
            "\nIs the endpoint right, and the server up? localstack/up starts local ones, and eval \"$(localstack/env)\" \
             points there"
        }
        _ => "",
    }
}

macro_rules! through_redrive {
    ($($error:ty),*) => {$(
        impl From<$error> for Problem {
            fn from(error: $error) -> Self {
                Self::Redrive(Box::new(error.into()))
            }
        }
    )*};
}

through_redrive!(redrive::Error, QueueError, InboxError, redrive::worker::BuildError);
