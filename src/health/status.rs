//! The page `/status`. Its fields are added over time, and not renamed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::flow::BreakerState;
use crate::worker::{Status, WorkerHandle, WorkersHandle};

#[derive(Serialize)]
pub(super) struct Page {
    version: &'static str,
    workers: Vec<OfWorker>,
}

#[derive(Serialize)]
struct OfWorker {
    name: String,
    queue: String,
    healthy: bool,
    started: bool,
    paused: bool,
    held_up: bool,
    stalled: bool,
    stuck: bool,
    draining: bool,
    ended: bool,
    running: usize,
    waiting: usize,
    ending: usize,
    leases: usize,
    concurrency: usize,
    adaptive: bool,
    /// Absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inbox_breaker: Option<&'static str>,
    /// Null before the first.
    last_receive_ms: Option<u64>,
    totals: Totals,
    settings: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Totals {
    received: u64,
    completed: u64,
    duplicates: u64,
    in_flight_duplicates: u64,
    retried: u64,
    uncounted_failures: u64,
    dead_lettered: BTreeMap<String, u64>,
    given_up: u64,
    released: u64,
    shadowed: u64,
    delayed: u64,
    lost: u64,
    pauses: u64,
    breaker_opened: u64,
    late_deletes: u64,
    heartbeats: u64,
}

pub(super) fn page(workers: &WorkersHandle) -> Page {
    Page {
        version: env!("CARGO_PKG_VERSION"),
        workers: workers.workers().iter().map(of_worker).collect(),
    }
}

fn of_worker(worker: &WorkerHandle) -> OfWorker {
    let status = worker.status();
    let healthy = status.is_healthy();
    let Status {
        name,
        queue,
        started,
        paused,
        held_up,
        draining,
        ended,
        running,
        waiting,
        ending,
        leases,
        concurrency,
        adaptive,
        breaker,
        inbox_breaker,
        last_receive,
        stalled,
        stuck,
        turns: _,
        totals,
    } = status;
    let word = |state: BreakerState| match state {
        BreakerState::Closed => "closed",
        BreakerState::HalfOpen => "half open",
        BreakerState::Open { .. } => "open",
    };
    OfWorker {
        name,
        queue,
        healthy,
        started,
        paused,
        held_up,
        stalled,
        stuck,
        draining,
        ended,
        running,
        waiting,
        ending,
        leases,
        concurrency,
        adaptive,
        breaker: breaker.map(word),
        inbox_breaker: inbox_breaker.map(word),
        last_receive_ms: last_receive.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
        totals: Totals {
            received: totals.received,
            completed: totals.completed,
            duplicates: totals.duplicates,
            in_flight_duplicates: totals.in_flight_duplicates,
            retried: totals.retried,
            uncounted_failures: totals.uncounted_failures,
            dead_lettered: totals.dead_lettered,
            given_up: totals.given_up,
            released: totals.released,
            shadowed: totals.shadowed,
            delayed: totals.delayed,
            lost: totals.lost,
            pauses: totals.pauses,
            breaker_opened: totals.breaker_opened,
            late_deletes: totals.late_deletes,
            heartbeats: totals.heartbeats,
        },
        settings: worker.settings().iter().cloned().collect(),
    }
}
