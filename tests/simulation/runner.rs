//! Running many seeds, and telling what came of it.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::arguments::ByHand;
use crate::bugs::Bug;
use crate::plan::Plan;
use crate::scene::{Report, Totals, run};
use crate::shrink::{Shrunk, shrink};

/// Broken seeds after which a run by hand ends.
const ENOUGH: usize = 20;

pub(crate) fn seed(seed: u64) -> Report {
    run(Plan::of_seed(seed), Bug::None)
}

/// The history's fingerprint: one seed has one, in whatever process it runs.
pub(crate) fn digest(report: &Report) -> String {
    let mut digest = Sha256::new();
    for event in &report.history {
        digest.update(event.as_bytes());
        digest.update(b"\n");
    }
    digest.finalize().iter().take(16).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Plan, the history's end, and what was broken.
pub(crate) fn story(report: &Report, events: usize) -> String {
    let skipped = report.history.len().saturating_sub(events);
    let mut text = format!("{}\n... {skipped} events before\n", report.plan);
    for event in &report.history[skipped..] {
        let _ = writeln!(text, "{event}");
    }
    if let Some(violation) = &report.violation {
        let seed = report.plan.seed;
        let _ = writeln!(text, "\nseed {seed} breaks {}: {}", violation.invariant, violation.text);
    }
    text
}

/// The story of a broken seed: first of its plan, then of the smallest plan that breaks the same.
pub(crate) fn broken_story(report: &Report, events: usize) -> String {
    let seed = report.plan.seed;
    let Shrunk { report: small, reruns } = shrink(report, Bug::None);
    format!(
        "seed {seed}\n{}\nshrunk in {reruns} reruns from {} events to {}:\n{}\n\
         again: cargo test --test simulation -- --seed {seed} --events 1000\n",
        story(report, events),
        report.history.len(),
        small.history.len(),
        story(&small, events),
    )
}

/// Runs seeds on `threads` threads and calls `look` with every report; it answers whether to go on.
fn run_all(seeds: Range<u64>, threads: usize, look: impl Fn(Report) -> bool + Sync) {
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= seeds.end || !look(seed(number)) {
                        next.store(seeds.end, Ordering::SeqCst);
                        return;
                    }
                }
            });
        }
    });
}

/// Runs a block of seeds in this thread.
///
/// # Errors
/// The story of the first that breaks something.
pub(crate) fn block(seeds: impl IntoIterator<Item = u64>) -> Result<(), String> {
    for number in seeds {
        let report = seed(number);
        if report.violation.is_some() {
            return Err(broken_story(&report, 120));
        }
    }
    Ok(())
}

#[derive(Default)]
struct Found {
    broken: Vec<Report>,
    totals: Totals,
    seeds: u64,
}

/// Runs seeds by hand and prints what came of it; whether all passed.
#[allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a report of a run by hand, with its speed"
)]
pub(crate) fn by_hand(asked: &ByHand) -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let found = Mutex::new(Found::default());
    let began = Instant::now();
    let spoke = Mutex::new(began);
    run_all(asked.seeds.clone(), asked.threads.unwrap_or(cores), |report| {
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.totals += report.totals;
        found.seeds += 1;
        let mut spoke = spoke.lock().unwrap_or_else(PoisonError::into_inner);
        if spoke.elapsed() > Duration::from_secs(60) {
            *spoke = Instant::now();
            println!("{} seeds so far, {} of them broken", found.seeds, found.broken.len());
        }
        if let Some(violation) = &report.violation {
            println!(
                "seed {} breaks {}: {}",
                report.plan.seed, violation.invariant, violation.text
            );
            found.broken.push(report);
        } else if asked.seeds.end - asked.seeds.start == 1 {
            println!("history {} of {} events", digest(&report), report.history.len());
        }
        found.broken.len() < ENOUGH
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.broken.sort_by_key(|report| report.plan.seed);
    if let Some(first) = found.broken.first() {
        // Shrinking takes a while.
        println!("\n{}", story(first, asked.events));
        println!("\n{}", broken_story(first, asked.events));
        for report in &found.broken {
            let violation = report.violation.as_ref().expect("it is broken");
            println!("{} ({}): {}", report.plan.seed, violation.invariant, violation.text);
        }
    }
    let took = began.elapsed().as_secs_f64();
    let Totals {
        messages,
        faults,
        crashes,
        events,
    } = found.totals;
    println!(
        "{} seeds, {} broken: {messages} messages, {faults} faults injected, {crashes} crashes, {events} events; {took:.1} s, {:.1} seeds/s",
        found.seeds,
        found.broken.len(),
        found.seeds as f64 / took,
    );
    found.broken.is_empty()
}
