//! Everything at once: several workers, a thousand messages, and faults by chance on every call of both services.

use std::collections::BTreeMap;
use std::time::Duration;

use redrive::clock::Random;

use crate::aws_lab::Lab;
use crate::fault_proxy::RuleId;
use crate::faults::Call;
use crate::scene::{DRAIN_DEADLINE, Job, Scene, TABLE};

/// Set, it is the seed; else the seed is always the same.
const SEED: &str = "REDRIVE_NETWORK_SEED";

const MESSAGES: usize = 1_000;

/// How likely it is that some fault meets a call.
const CHANCE: f64 = 0.10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_mix_of_faults_on_both_services_loses_nothing_and_doubles_nothing() {
    let Some(lab) = Lab::open() else { return };
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(4);
    let inbox = lab.inbox(TABLE).await;
    // Long enough that a lease is not lost to faults by chance: another worker would make the effect again, as it must.
    let scene = Scene::with_lease(&lab, &inbox, "mix", seed, 12).await;
    let random = Random::seeded(seed);
    let jobs: Vec<Job> = (0..MESSAGES)
        .map(|_| match random.below(100) {
            0..85 => Job::Plain,
            85..90 => Job::Slow,
            90..95 => Job::Flaky,
            _ => Job::Reject,
        })
        .collect();
    let (once, twice) = jobs.split_at(MESSAGES * 9 / 10);
    let workers = [scene.worker().await, scene.worker().await];
    let mut rules: BTreeMap<RuleId, String> = BTreeMap::new();
    for call in Call::ALL {
        let faults = call.faults();
        let chance = CHANCE / faults.len() as f64;
        for fault in faults {
            let what = format!("{fault:?} on {call:?}");
            rules.insert(call.proxy(&scene).add(call.rule(fault).chance(chance)), what);
        }
    }
    scene.send("once", once, 1).await;
    scene.send("twice", twice, 2).await;
    // Half of the time with faults, and what is left without them.
    let spared = tokio::time::timeout(Duration::from_secs(25), scene.settled(&workers)).await;
    let struck = rules.len();
    scene.sqs.heal();
    scene.dynamodb.heal();
    if let Ok(ended) = spared {
        ended.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    } else {
        let ended = scene.settled(&workers).await;
        ended.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    let faulted = |counts: BTreeMap<String, crate::fault_proxy::Counts>| -> u64 {
        counts.values().map(|counts| counts.faulted).sum()
    };
    let faulted = faulted(scene.sqs.counts()) + faulted(scene.dynamodb.counts());
    assert!(
        faulted > 50,
        "seed {seed}: {faulted} calls of {struck} rules were faulted"
    );
    scene
        .verdict(1)
        .await
        .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    for worker in workers {
        worker
            .drain(DRAIN_DEADLINE)
            .await
            .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}
