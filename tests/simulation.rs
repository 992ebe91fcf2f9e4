//! The whole worker in a simulation: two workers on the embedded queue and inbox under virtual time, with faults and
//! accidents drawn from a seed, and a judge that looks at every call, every answer and every handler's run.
//!
//! One seed gives one history. `REDRIVE_SEED=7 cargo test --test simulation` runs one seed and shows its history if it fails;
//! `REDRIVE_SEEDS=5000` runs more of them, `REDRIVE_FROM=100` others, `REDRIVE_EVENTS=500` shows more of the history.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "simulation/bugs.rs"]
mod bugs;
#[path = "simulation/calls.rs"]
mod calls;
#[path = "simulation/checker.rs"]
mod checker;
#[path = "simulation/gate.rs"]
mod gate;
#[path = "simulation/handler.rs"]
mod handler;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/scene.rs"]
mod scene;
#[path = "simulation/watch.rs"]
mod watch;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::clock::{Clock, Random};
use redrive::flow::RateLimit;
use redrive::message::Outgoing;
use redrive::queue::Queue as _;
use redrive::worker::WithoutDeadLetters;
use redrive::{Failure, MemoryInbox, MemoryQueue, Worker};

use bugs::Bug;
use gate::Gated;
use scene::{Report, run};

/// Seeds that are run unless told otherwise.
const SEEDS: u64 = 100;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

/// The seeds to be run.
fn seeds() -> std::ops::Range<u64> {
    if let Some(seed) = number("REDRIVE_SEED") {
        return seed..seed + 1;
    }
    let from = number("REDRIVE_FROM").unwrap_or(0);
    from..from + number("REDRIVE_SEEDS").unwrap_or(SEEDS)
}

/// Plan, the history's end, what was broken, and how to see it again.
fn story(report: &Report) -> String {
    let seed = report.plan.seed;
    let shown = number("REDRIVE_EVENTS").map_or(120, |events| usize::try_from(events).unwrap_or(usize::MAX));
    let skipped = report.history.len().saturating_sub(shown);
    let mut text = format!("seed {seed}\n{}\n... {skipped} events before\n", report.plan);
    for event in &report.history[skipped..] {
        let _ = writeln!(text, "{event}");
    }
    if let Some(violation) = &report.violation {
        let _ = writeln!(text, "\nseed {seed} breaks {}: {}", violation.invariant, violation.text);
    }
    let _ = writeln!(
        text,
        "again: REDRIVE_SEED={seed} REDRIVE_EVENTS=1000 cargo test --test simulation"
    );
    text
}

/// Runs all seeds on all cores, until `stop` says so of a report.
fn run_all(seeds: std::ops::Range<u64>, bug: Bug, stop: impl Fn(&Report) -> bool + Sync) -> Vec<Report> {
    let next = AtomicU64::new(seeds.start);
    let stopped = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run(seed, bug);
                    if stop(&report) {
                        stopped.lock().unwrap().push(report);
                    }
                }
            });
        }
    });
    let mut stopped = stopped.into_inner().unwrap();
    stopped.sort_by_key(|report| report.plan.seed);
    stopped
}

#[test]
fn inv01_inv02_inv03_inv06_inv07_inv08_hold_in_a_hundred_histories() {
    let seeds = seeds();
    let broken = run_all(seeds.clone(), Bug::None, |report| report.violation.is_some());
    if let Some(first) = broken.first() {
        let all: Vec<String> = broken
            .iter()
            .map(|report| {
                let violation = report.violation.as_ref().unwrap();
                format!("{} ({}): {}", report.plan.seed, violation.invariant, violation.text)
            })
            .collect();
        panic!(
            "{}\n{} of {seeds:?} seeds fail:\n{}",
            story(first),
            all.len(),
            all.join("\n")
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let from = seeds().start;
    for seed in from..from + 6 {
        let (first, second) = (run(seed, Bug::None), run(seed, Bug::None));
        let differs = first.history.iter().zip(&second.history).position(|(a, b)| a != b);
        if let Some(at) = differs {
            panic!(
                "seed {seed} differs at event {at}:\n{}\n{}",
                first.history[at], second.history[at]
            );
        }
        assert_eq!(first.history.len(), second.history.len(), "seed {seed}");
        assert!(first.history.len() > 50, "seed {seed} is a history");
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_worker_with_a_tenant_over_its_rate_waits_without_spinning() {
    let clock = Clock::starting_at(1_750_000_000_000);
    let queue = MemoryQueue::new("orders").unwrap();
    for number in 0..5 {
        let sent = queue.send(vec![Outgoing::new(number.to_string())]).await.unwrap();
        assert!(sent.iter().all(Result::is_ok));
    }
    let worker = Worker::builder(queue.clone())
        .inbox(MemoryInbox::builder().clock(clock.clone()).build())
        .without_dead_letters(WithoutDeadLetters::Keep)
        .clock(clock.clone())
        .random(Random::seeded(1))
        .rate_by(
            |_| Some("tenant".to_owned()),
            RateLimit::per_second(0.1).unwrap().burst(1).unwrap(),
        )
        .handler(async || Ok::<(), Failure>(()))
        .build()
        .unwrap();
    let handle = worker.handle();
    // Fails where the worker is polled for ever at one instant.
    let run = Gated::new(Arc::default(), clock, worker.run_until_drained());
    let steer = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        handle.pause();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(queue.len(), 4, "nothing starts while it is paused");
        handle.resume();
        while !queue.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        handle.drain();
    };
    let (ended, ()) = futures::join!(run, steer);
    ended.unwrap();
}

/// Runs seeds until the bug is found, and says what it broke.
fn caught(bug: Bug) -> String {
    let found = (0..SEEDS).find_map(|seed| run(seed, bug).violation.map(|violation| (seed, violation)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{bug:?} is not noticed in {SEEDS} seeds"));
    eprintln!(
        "{bug:?}: seed {seed} breaks {}: {}",
        violation.invariant, violation.text
    );
    violation.invariant.to_owned()
}

#[test]
fn a_worker_that_deletes_too_early_is_caught() {
    assert_eq!(caught(Bug::DeletesAtReceive), "inv01");
}

#[test]
fn a_worker_that_does_not_record_completions_is_caught() {
    assert_eq!(caught(Bug::CompletesInItsHead), "inv01");
}

#[test]
fn a_worker_that_ignores_lost_leases_is_caught() {
    assert!(["inv01", "inv02", "inv03"].contains(&caught(Bug::IgnoresLostLeases).as_str()));
}

#[test]
fn a_worker_that_runs_what_another_claimed_is_caught() {
    assert!(["inv02", "inv03"].contains(&caught(Bug::ClaimsWhatIsRunning).as_str()));
}

/// Each bug that can be switched on in the library, and the invariants that it breaks.
#[cfg(feature = "flaws")]
#[test]
fn each_flaw_of_the_library_is_caught() {
    use redrive::flaw::Flaw;
    let mut missed = Vec::new();
    for flaw in Flaw::ALL {
        let r = std::panic::catch_unwind(|| caught(Bug::Within(flaw)));
        missed.push((flaw, r.ok()));
    }
    panic!("{missed:#?}");
}

#[test]
fn a_worker_that_keeps_its_claims_is_caught() {
    assert_eq!(caught(Bug::KeepsItsClaims), "inv08");
}

#[test]
fn a_worker_that_loses_dead_letters_is_caught() {
    assert_eq!(caught(Bug::LosesDeadLetters), "inv01");
}
