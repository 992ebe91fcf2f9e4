//! A worker that charges each order once, whatever happens: run it with
//!
//! ```sh
//! cargo run --example quickstart
//! ```
//!
//! Nothing else is needed: queue, dead-letter queue and inbox are the embedded ones. With `RUST_LOG=redrive=info` the worker says
//! what it does.
//!
//! | file | |
//! |---|---|
//! | `main.rs` | the course of events |
//! | `worker.rs` | handlers and worker: what you would write |
//! | `gateway.rs` | the client of a card gateway, and a gateway that misbehaves |
//! | `orders.rs` | the input, and the producer |
//! | `progress.rs`, `report.rs` | what is shown |
//! | `proof.rs` | whether it is true |
#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

mod gateway;
mod orders;
mod progress;
mod proof;
mod report;
mod worker;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use redrive::dlq::{Browser, Replay, Visit};
use redrive::faults::{FaultPlan, Operation, Rates};
use redrive::worker::WorkerHandle;
use redrive::{MemoryInbox, MemoryQueue};

use gateway::{Acquirer, Gateway};
use orders::Line;
use progress::Progress;
use proof::Expected;
use report::{Summary, heading};

/// Whatever ends the quickstart early.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What all of it is about.
struct Shop {
    lines: Vec<Line>,
    queue: MemoryQueue,
    dead: MemoryQueue,
    inbox: MemoryInbox,
    acquirer: Acquirer,
    gateway: Gateway,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failed> {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
    }
    let shop = Shop::open()?;
    let worker = worker::worker(shop.queue.clone(), shop.inbox.clone(), shop.gateway.clone())?;
    let handle = worker.handle();
    let running = worker.run(); // until it is drained, by the handle or by ctrl-c
    tokio::pin!(running);
    let proved = tokio::select! {
        ended = &mut running => {
            ended?;
            println!("  stopped before the end: nothing is proved");
            return Ok(ExitCode::FAILURE);
        }
        proved = shop.story(&handle) => proved?,
    };
    handle.drain();
    running.await?;
    Ok(if proved { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Shop {
    fn open() -> Result<Self, Failed> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/orders.jsonl");
        let dead = MemoryQueue::new("orders-dlq")?;
        let queue = MemoryQueue::builder("orders")
            .visibility_timeout(worker::VISIBILITY)
            .dead_letter(&dead, 15) // three times the worker's attempts: SQS counts receives, and attempts are not all of them
            .faults(slow_as_sqs())
            .build()?;
        let acquirer = Acquirer::new();
        Ok(Self {
            lines: orders::read(&path)?,
            queue,
            dead,
            inbox: MemoryInbox::new(),
            gateway: Gateway::new(acquirer.clone())?,
            acquirer,
        })
    }

    /// All that happens while the worker runs. Answers whether everything was as it must be.
    async fn story(&self, worker: &WorkerHandle) -> Result<bool, Failed> {
        let expected = Expected::of(&self.lines);
        println!(
            "redrive quickstart: {} messages ask a worker to charge {} orders.",
            self.lines.len(),
            expected.orders()
        );
        println!(
            "The gateway times out now and then, and is down for a while. Some orders come twice, some are broken.\n"
        );
        self.work_off(worker, &expected).await?;
        let mut checks = vec![expected.check_dead_letters(&self.dead.messages())];

        heading("Three of the dead letters");
        self.show_three().await?;

        heading("Repair and replay");
        self.repair_and_replay().await?;

        heading("Proof, from the gateway's own ledger");
        let slow = self.lines.first().map_or("", |line| &line.key);
        checks.extend(expected.check_ledger(&self.acquirer.ledger(), self.queue.len(), &self.dead.messages(), slow));
        Ok(report::verdict(&checks))
    }

    /// The shop sends, the worker works, until nothing is left; then the table.
    async fn work_off(&self, worker: &WorkerHandle, expected: &Expected) -> Result<(), Failed> {
        let progress = Progress::new(self.lines.len());
        let work = async {
            let (produced, ()) = tokio::join!(
                orders::produce(&self.lines, &self.queue, &progress),
                progress.until_done(&self.queue)
            );
            produced
        };
        let twice = tokio::select! {
            never = progress.follow(self.gateway.downstream().breaker()) => match never {},
            twice = work => twice?,
        };
        report::table(&Summary {
            messages: self.lines.len(),
            orders: expected.orders(),
            twice,
            totals: worker.status().totals,
            ledger: self.acquirer.ledger(),
            pauses: progress.pauses(),
            calls: self.queue.calls(),
            dead_letter_calls: self.dead.calls(),
        });
        Ok(())
    }

    /// Looks into the dead-letter queue until it has seen a letter of each of three reasons.
    async fn show_three(&self) -> Result<(), Failed> {
        let mut shown: Vec<String> = Vec::new();
        let browser = Browser::new(Arc::new(self.dead.clone()));
        browser
            .scan(|letter| {
                if !shown.iter().any(|reason| reason == letter.reason()) {
                    shown.push(letter.reason().to_owned());
                    report::letter(letter);
                }
                if shown.len() < 3 { Visit::Keep } else { Visit::Stop }
            })
            .await?;
        Ok(())
    }

    /// Repairs what made the dead letters, sends them back, and waits until the worker is through with them.
    async fn repair_and_replay(&self) -> Result<(), Failed> {
        self.acquirer.accept("maestro");
        println!("  The gateway takes maestro cards now. Bodies that could not be read are mended on the way.");
        let report = Replay::new(Arc::new(self.dead.clone()), Arc::new(self.queue.clone()), "quickstart")
            // A key that was used for another amount is nobody's to repair: these stay where they are.
            .filter(|letter| letter.reason() != "fingerprint_mismatch")
            .edit(|letter, message| {
                if letter.reason() == "malformed" {
                    message.body = orders::mended(&message.body)?;
                }
                Ok(())
            })
            // Not all at once: what could not be charged for hours would come as a wave.
            .rate(100.0)?
            .run()
            .await?;
        while !self.queue.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("  {} of {} were replayed, and charged.", report.replayed, report.seen);
        println!(
            "  {} stay: their key was used before, for another amount. A person must decide.",
            report.skipped
        );
        Ok(())
    }
}

/// Calls take a few milliseconds, as those to SQS do.
fn slow_as_sqs() -> FaultPlan {
    let latency = Rates::new().latency(Duration::from_millis(2), Duration::from_millis(8));
    FaultPlan::none()
        .on(Operation::Receive, latency)
        .on(Operation::Delete, latency)
        .on(Operation::ChangeVisibility, latency)
        .on(Operation::Send, latency)
}
