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

use std::io::IsTerminal as _;
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
use proof::{Check, Expected};
use report::{Summary, heading, thousands};

/// Whatever ends the quickstart early.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What all of it is about.
struct Shop {
    lines: Vec<Line>,
    expected: Expected,
    queue: MemoryQueue,
    dead: MemoryQueue,
    inbox: MemoryInbox,
    acquirer: Acquirer,
    gateway: Gateway,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failed> {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .init();
    }
    let shop = Shop::open()?;
    let worker = worker::worker(shop.queue.clone(), shop.inbox.clone(), shop.gateway.clone())?;
    let handle = worker.handle();
    let running = worker.run(); // until it is drained, by the handle or by ctrl-c
    tokio::pin!(running);
    let faults = tokio::select! {
        ended = &mut running => {
            ended?;
            println!("Stopped before the end: nothing is proved.");
            return Ok(ExitCode::FAILURE);
        }
        faults = shop.story(&handle) => faults?,
    };
    handle.drain();
    running.await?;
    let proved = shop.proof(faults);
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
        let lines = orders::read(&path)?;
        Ok(Self {
            expected: Expected::of(&lines),
            lines,
            queue,
            dead,
            inbox: MemoryInbox::new(),
            gateway: Gateway::new(acquirer.clone())?,
            acquirer,
        })
    }

    /// All that happens while the worker runs. Answers the check of the dead letters as they were before the repair.
    async fn story(&self, worker: &WorkerHandle) -> Result<Check, Failed> {
        println!(
            "A worker is to charge {} orders, by way of a queue. Some are sent twice, some are broken, and the",
            thousands(self.expected.orders())
        );
        println!("card gateway times out now and then and is down for a while. All of it runs in this process.\n");
        self.work_off(worker).await?;
        let faults = self.expected.only_faulty_dead_letters(&self.dead.messages());
        heading("Three of the dead letters");
        self.show_three().await?;
        heading("Repair and replay");
        self.repair_and_replay(worker).await?;
        Ok(faults)
    }

    /// The shop sends, the worker works, until nothing is left; then the table.
    async fn work_off(&self, worker: &WorkerHandle) -> Result<(), Failed> {
        let progress = Progress::new(self.lines.len(), self.queue.clone());
        let work = async {
            let produce = orders::produce(&self.lines, &self.queue, &progress);
            tokio::join!(produce, progress.until_done())
        };
        let (doubled, ()) = tokio::select! {
            never = progress.follow(self.gateway.downstream().breaker()) => match never {},
            done = work => done,
        };
        let ledger = self.acquirer.ledger();
        report::table(&Summary {
            messages: self.lines.len(),
            orders: self.expected.orders(),
            doubled: doubled?,
            totals: worker.status().totals,
            // The first line is the order whose handler outlives its visibility timeout.
            slow_calls: self.lines.first().map_or(0, |line| ledger.calls_for(&line.key)),
            ledger,
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
    async fn repair_and_replay(&self, worker: &WorkerHandle) -> Result<(), Failed> {
        self.acquirer.accept("maestro");
        println!("  The gateway takes maestro cards now; bodies that could not be read are mended on their way back.");
        println!("  Replaying at 100 a second …");
        let dead_lettered = worker.status().totals.dead_lettered;
        let repaired = dead_lettered.iter().filter(|(reason, _)| is_repaired(reason));
        let report = Replay::new(Arc::new(self.dead.clone()), Arc::new(self.queue.clone()), "quickstart")
            .filter(|letter| is_repaired(letter.reason()))
            .edit(|letter, message| {
                if letter.reason() == "malformed" {
                    message.body = orders::mended(&message.body)?;
                }
                Ok(())
            })
            .rate(100.0)? // not all at once: after a long outage that would be a flood
            .limit(repaired.map(|(_, count)| count).sum()) // without a limit it looks on for some seconds, for stragglers
            .run()
            .await?;
        while !self.queue.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!(
            "  {} of {} dead letters were replayed.",
            report.replayed,
            self.dead.len() as u64 + report.replayed
        );
        println!(
            "  {} stay: which of a key's two amounts is right, a person must say.",
            self.dead.len()
        );
        Ok(())
    }

    /// Says what the gateway's ledger proves, and answers whether it is what it must be.
    fn proof(&self, faults: Check) -> bool {
        let (ledger, dead) = (self.acquirer.ledger(), self.dead.messages());
        heading("Proof, from the gateway's own ledger");
        report::ledger(&ledger);
        println!();
        report::verdict(&[
            self.expected.nobody_charged_twice(&ledger),
            self.expected.everybody_charged(&ledger),
            self.expected.nothing_lost(&ledger, self.queue.len(), &dead),
            faults,
        ])
    }
}

/// Whether what made letters of this reason dead is repaired.
fn is_repaired(reason: &str) -> bool {
    matches!(reason, "card_declined" | "malformed")
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
