//! The whole worker in a simulation: two to five workers, producers and operators on the embedded queue and inbox under
//! virtual time, with faults and accidents drawn from a seed, and a judge that looks at every call, every answer and every
//! handler's run.
//!
//! One seed gives one history. `cargo test --test simulation` runs [`SEEDS`] of them, in blocks that are trials of their own.
//! By hand: `cargo test --test simulation -- --seeds 100000` runs more of them, `--from 500` others, `--seed 7` one, and
//! `--events 1000` shows more of a broken history.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "simulation/arguments.rs"]
mod arguments;
#[path = "simulation/bugs.rs"]
mod bugs;
#[path = "simulation/build.rs"]
mod build;
#[path = "simulation/calls.rs"]
mod calls;
#[path = "simulation/checker/mod.rs"]
mod checker;
#[path = "simulation/gate.rs"]
mod gate;
#[path = "simulation/handler.rs"]
mod handler;
#[path = "simulation/host.rs"]
mod host;
#[path = "simulation/old.rs"]
mod old;
#[path = "simulation/operator.rs"]
mod operator;
#[path = "simulation/plan/mod.rs"]
mod plan;
#[path = "simulation/planted.rs"]
mod planted;
#[path = "simulation/producers.rs"]
mod producers;
#[path = "simulation/runner.rs"]
mod runner;
#[path = "simulation/scene.rs"]
mod scene;
#[path = "simulation/shrink.rs"]
mod shrink;
#[path = "simulation/watch.rs"]
mod watch;

use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use redrive::clock::{Clock, Random};
use redrive::flow::RateLimit;
use redrive::message::Outgoing;
use redrive::queue::Queue as _;
use redrive::worker::WithoutDeadLetters;
use redrive::{Failure, MemoryInbox, MemoryQueue, Worker};

use arguments::Asked;
use bugs::Bug;
use gate::Gated;
use plan::Plan;
use scene::run;

/// Seeds that are run unless told otherwise.
const SEEDS: u64 = 500;

/// Seeds beyond these that have shown what was wrong with the library.
const BROKE_ONCE: [u64; 4] = [3_951, 4_478, 5_725, 16_844];

/// Seeds of one trial.
const BLOCK: u64 = 25;

/// In how many seeds a bug on purpose has to be found.
const SEEDS_OF_BUGS: u64 = 200;

/// Trials named as the functions that they run.
macro_rules! trials {
    ($($test:ident),* $(,)?) => {
        vec![$(Trial::test(stringify!($test), || {
            $test();
            Ok(())
        })),*]
    };
}

fn main() -> ExitCode {
    let asked = match Asked::read(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    if let Some(by_hand) = &asked.by_hand {
        return if runner::by_hand(by_hand) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let mut trials = trials![
        the_same_seed_gives_the_same_history,
        the_same_seed_gives_the_same_history_in_another_process,
        a_broken_plan_shrinks_to_a_small_one_that_breaks_the_same,
        a_paused_worker_with_a_tenant_over_its_rate_waits_without_spinning,
        a_worker_that_deletes_too_early_is_caught,
        a_worker_that_does_not_record_completions_is_caught,
        a_worker_that_ignores_lost_leases_is_caught,
        a_worker_that_runs_what_another_claimed_is_caught,
        a_worker_that_keeps_its_claims_is_caught,
        a_worker_that_loses_dead_letters_is_caught,
    ];
    let blocks = (0..SEEDS).step_by(usize::try_from(BLOCK).unwrap());
    trials.extend(blocks.map(every_invariant_holds));
    trials.push(Trial::test("every_invariant_holds::seeds_that_broke_once", || {
        runner::block(BROKE_ONCE).map_err(Failed::from)
    }));
    #[cfg(feature = "flaws")]
    trials.extend(FLAWS.into_iter().map(a_flaw_is_caught));
    let (arguments, trials) = asked.select(trials);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Every invariant holds in every history of a block of seeds.
fn every_invariant_holds(from: u64) -> Trial {
    let seeds = from..from + BLOCK;
    let name = format!(
        "every_invariant_holds::seeds_{:03}_to_{:03}",
        seeds.start,
        seeds.end - 1
    );
    Trial::test(name, move || runner::block(seeds).map_err(Failed::from))
}

fn the_same_seed_gives_the_same_history() {
    for seed in 0..6 {
        let (first, second) = (runner::seed(seed), runner::seed(seed));
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

fn the_same_seed_gives_the_same_history_in_another_process() {
    for seed in 6..10 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--seed", &seed.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8(child.stdout).unwrap();
        let line = format!("history {} of", runner::digest(&runner::seed(seed)));
        assert!(
            said.contains(&line),
            "{line} is not what another process says of seed {seed}: {said}"
        );
    }
}

fn a_broken_plan_shrinks_to_a_small_one_that_breaks_the_same() {
    let bug = Bug::CompletesInItsHead;
    let broken = (0..SEEDS_OF_BUGS).map(|seed| run(Plan::of_seed(seed), bug));
    let broken = broken.into_iter().find(|report| report.violation.is_some()).unwrap();
    let [first, second] = [shrink::shrink(&broken, bug), shrink::shrink(&broken, bug)];
    assert_eq!(first.report.plan, second.report.plan, "shrinking is deterministic");
    let small = &first.report.plan;
    let invariant = |report: &scene::Report| report.violation.as_ref().map(|violation| violation.invariant);
    let again = run(small.clone(), bug);
    assert_eq!(invariant(&again), invariant(&broken), "{small}");
    assert_eq!(again.history, first.report.history, "{small}");
    assert!(broken.plan.messages.len() > 5, "{}", broken.plan);
    assert_eq!((small.messages.len(), small.workers.len()), (1, 1), "{small}");
    assert!(
        small.workers[0].events.is_empty() && small.accidents.is_empty(),
        "{small}"
    );
    assert!(first.report.history.len() * 2 < broken.history.len(), "{small}");
}

fn a_paused_worker_with_a_tenant_over_its_rate_waits_without_spinning() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(waits_without_spinning());
}

async fn waits_without_spinning() {
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
    let run = |seed: u64| run(Plan::of_seed(seed), bug);
    let found = (0..SEEDS_OF_BUGS).find_map(|seed| run(seed).violation.map(|violation| (seed, violation)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{bug:?} is not noticed in {SEEDS_OF_BUGS} seeds"));
    eprintln!(
        "{bug:?}: seed {seed} breaks {}: {}",
        violation.invariant, violation.text
    );
    violation.invariant.to_owned()
}

/// The bugs that can be switched on in the library itself, and the invariant that each breaks.
#[cfg(feature = "flaws")]
const FLAWS: [(redrive::flaw::Flaw, &str); 10] = {
    use redrive::flaw::Flaw;
    [
        (Flaw::DeletesBeforeItCompletes, "inv01"),
        (Flaw::CompletesUnfenced, "inv03"),
        (Flaw::ClaimsByCheckThenAct, "inv02"),
        (Flaw::BeatsAfterSettling, "inv06"),
        (Flaw::ReceivesWhileOpen, "inv04"),
        (Flaw::LosesSettlesAtDrain, "inv08"),
        (Flaw::RenewsForAnybody, "inv03"),
        (Flaw::CountsReleases, "inv09"),
        (Flaw::SendsLettersUnfenced, "inv03"),
        (Flaw::ReplaysUnderOneDeduplicationId, "inv01"),
    ]
};

#[cfg(feature = "flaws")]
fn a_flaw_is_caught((flaw, invariant): (redrive::flaw::Flaw, &'static str)) -> Trial {
    Trial::test(format!("a_flaw_within_is_caught::{flaw:?}"), move || {
        assert_eq!(caught(Bug::Within(flaw)), invariant, "{flaw:?}");
        Ok(())
    })
}

fn a_worker_that_deletes_too_early_is_caught() {
    assert_eq!(caught(Bug::DeletesAtReceive), "inv01");
}

fn a_worker_that_does_not_record_completions_is_caught() {
    assert_eq!(caught(Bug::CompletesInItsHead), "inv01");
}

fn a_worker_that_ignores_lost_leases_is_caught() {
    assert!(["inv01", "inv02", "inv03"].contains(&caught(Bug::IgnoresLostLeases).as_str()));
}

fn a_worker_that_runs_what_another_claimed_is_caught() {
    assert!(["inv02", "inv03"].contains(&caught(Bug::ClaimsWhatIsRunning).as_str()));
}

fn a_worker_that_keeps_its_claims_is_caught() {
    assert_eq!(caught(Bug::KeepsItsClaims), "inv08");
}

fn a_worker_that_loses_dead_letters_is_caught() {
    assert_eq!(caught(Bug::LosesDeadLetters), "inv01");
}
