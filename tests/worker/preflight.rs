//! What is looked at before a worker starts, and what is said of it.

use redrive::faults::{Fault, Operation};
use redrive::queue::Queue as _;
use redrive::worker::{Finding, Severity};
use redrive::{Error, MemoryQueue, Worker};

use crate::support::{DAY, Rig, secs, start};

async fn findings(worker: &Worker, severity: Severity) -> Vec<String> {
    let all: Vec<Finding> = worker.preflight().await;
    all.into_iter()
        .filter(|finding| finding.severity == severity)
        .map(|finding| finding.text)
        .collect()
}

fn said(texts: &[String], names: &[&str]) {
    let found = texts.iter().any(|text| names.iter().all(|name| text.contains(name)));
    assert!(found, "nothing says {names:?}: {texts:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_set_up_well_has_no_findings() {
    let rig = Rig::new();
    let worker = rig.worker().handler(rig.succeeds()).build().unwrap();
    assert_eq!(worker.preflight().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_redrive_policy_that_moves_too_early_is_a_warning_for_each_kind_of_queue() {
    let rig = Rig::with(|queue| queue.dead_letter(&Rig::new().dead, 14));
    let worker = rig.worker().handler(rig.succeeds()).build().unwrap();
    said(
        &findings(&worker, Severity::Warning).await,
        &["maxReceiveCount", "`orders`", "is 14", "15", "3 × 5"],
    );
    let rig = Rig::named("orders.fifo", |queue| queue.dead_letter(&Rig::fifo().dead, 49));
    let worker = rig.worker().handler(rig.succeeds()).build().unwrap();
    said(
        &findings(&worker, Severity::Warning).await,
        &["maxReceiveCount", "`orders.fifo`", "is 49", "50", "10 × 5"],
    );
}

#[tokio::test(start_paused = true)]
async fn no_redrive_policy_behind_it_is_a_warning() {
    let rig = Rig::new();
    let queue = MemoryQueue::builder("bare").clock(rig.clock.clone()).build().unwrap();
    let worker = Worker::builder(queue)
        .dead_letter(rig.dead.clone())
        .handler(rig.succeeds())
        .build()
        .unwrap();
    said(
        &findings(&worker, Severity::Warning).await,
        &["`bare` has no redrive policy", "maxReceiveCount 15"],
    );
}

#[tokio::test(start_paused = true)]
async fn two_dead_letter_queues_are_a_warning() {
    let (rig, other) = (Rig::new(), Rig::named("others", |queue| queue));
    let worker = rig
        .worker()
        .dead_letter(other.dead.clone())
        .handler(rig.succeeds())
        .build()
        .unwrap();
    said(
        &findings(&worker, Severity::Warning).await,
        &["orders-dlq", "others-dlq", "one queue for both"],
    );
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_vanish_before_their_source_are_a_problem_and_nothing_starts() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let short = MemoryQueue::builder("short-dlq")
        .retention(DAY)
        .clock(rig.clock.clone())
        .build()
        .unwrap();
    let worker = rig.worker().dead_letter(short).handler(rig.succeeds()).build().unwrap();
    said(
        &findings(&worker, Severity::Problem).await,
        &["`short-dlq`", "for 1 day,", "4 days", "14 days"],
    );
    let Err(Error::Preflight(error)) = start(worker).ended().await else {
        panic!("it started")
    };
    assert_eq!((error.worker.as_str(), error.problems.len()), ("orders", 1));
    assert!(error.to_string().contains("does not start"), "{error}");
    assert_eq!((rig.log.len(), rig.queue.calls().receive), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_queue_that_takes_only_smaller_messages_is_a_problem() {
    let rig = Rig::new();
    let small = MemoryQueue::builder("small-dlq")
        .retention(14 * DAY)
        .max_message_bytes(256 * 1024)
        .clock(rig.clock.clone())
        .build()
        .unwrap();
    let worker = rig.worker().dead_letter(small).handler(rig.succeeds()).build().unwrap();
    said(
        &findings(&worker, Severity::Problem).await,
        &["`small-dlq`", "262144 bytes", "`orders`", "1048576 bytes", "MaximumMessageSize"],
    );
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_circle_are_a_problem() {
    let rig = Rig::new();
    // Its dead-letter queue redrives back to it.
    let dead = MemoryQueue::builder("circle-dlq")
        .retention(14 * DAY)
        .dead_letter(&rig.queue, 5)
        .build()
        .unwrap();
    let worker = rig.worker().dead_letter(dead).handler(rig.succeeds()).build().unwrap();
    said(
        &findings(&worker, Severity::Problem).await,
        &["`circle-dlq` redrives to `orders` and back"],
    );
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_forgets_too_early_is_a_warning() {
    let rig = Rig::new();
    let worker = rig
        .worker()
        .inbox_retention(17 * DAY)
        .handler(rig.succeeds())
        .build()
        .unwrap();
    said(
        &findings(&worker, Severity::Warning).await,
        &["17 days", "18 days", "inbox_retention"],
    );
    let worker = rig
        .worker()
        .inbox_retention(18 * DAY)
        .handler(rig.succeeds())
        .build()
        .unwrap();
    assert_eq!(worker.preflight().await, []);
}

#[tokio::test(start_paused = true)]
async fn polling_without_waiting_is_a_warning() {
    let rig = Rig::new();
    let worker = rig.worker().long_poll(secs(0)).handler(rig.succeeds()).build().unwrap();
    said(&findings(&worker, Severity::Warning).await, &["`orders`", "long_poll"]);
}

#[tokio::test(start_paused = true)]
async fn services_that_are_down_for_a_moment_are_warnings_and_the_worker_starts() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    for faults in [rig.queue.faults(), rig.dead.faults(), rig.inbox.faults()] {
        faults.fail_next(Operation::Describe, 2, Fault::Before);
    }
    let worker = rig.worker().handler(rig.succeeds()).build().unwrap();
    let warnings = findings(&worker, Severity::Warning).await;
    said(&warnings, &["the queue could not be looked at"]);
    said(&warnings, &["the dead-letter queue could not be looked at"]);
    said(&warnings, &["the inbox could not be looked at"]);
    let running = start(worker);
    rig.emptied(&running).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn findings_read_well() {
    let rig = Rig::new();
    let worker = rig.worker().long_poll(secs(0)).handler(rig.succeeds()).build().unwrap();
    let finding = worker.preflight().await.pop().unwrap();
    assert!(finding.to_string().starts_with("warning: `orders`"), "{finding}");
    assert!(Severity::Problem > Severity::Warning);
    assert_eq!(rig.queue.attributes().name, "orders");
}
