//! Every fault on every call that a worker makes: for a while, and then while it drains.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use redrive::clock::Clock;
use redrive::queue::Queue as _;
use redrive::{DynamoInbox, SqsQueue};

use crate::aws_lab::{Lab, Setup};
use crate::fault_proxy::Fault;
use crate::faults::Call;
use crate::scene::{DRAIN_DEADLINE, Job, Scene, TABLE};

/// How many cases run at once. They wait for most of their time.
const AT_ONCE: usize = 56;

/// How often the fault strikes before the network is well again: more often than one call is tried.
const STRIKES: u64 = 4;

#[derive(Clone, Debug)]
struct Case {
    call: Call,
    fault: Fault,
}

/// A server that answers within this has room for another case.
const QUICK: Duration = Duration::from_millis(250);

/// Waits until the server of the queues is quick: on a slow machine fewer cases run at once, instead of all of them too late.
async fn room(queue: &SqsQueue) {
    let clock = Clock::system();
    for _ in 0..40 {
        let asked = clock.now();
        let answered = queue.describe().await.is_ok();
        if answered && clock.now().saturating_duration_since(asked) < QUICK {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Runs one case; what is wrong, if anything is.
async fn run(case: &Case, lab: &Lab, inbox: &DynamoInbox, seed: u64) -> Result<(), String> {
    let scene = Scene::open(lab, inbox, "network", seed).await;
    let proxy = case.call.proxy(&scene);
    // For a while, and then all is well again.
    let worker = scene.worker().await;
    let rule = proxy.add(case.call.rule(case.fault.clone()).at_most(STRIKES));
    scene
        .send(
            "a",
            &[Job::Plain, Job::Plain, Job::Plain, Job::Slow, Job::Flaky, Job::Reject],
            1,
        )
        .await;
    scene.send("twice", &[Job::Plain, Job::Plain], 2).await;
    scene
        .settled(std::slice::from_ref(&worker))
        .await
        .map_err(|why| format!("while it passed: {why}"))?;
    if proxy.hits(rule) == 0 {
        return Err(format!("it never struck; the calls were {:?}", proxy.counts()));
    }
    scene
        .verdict(1)
        .await
        .map_err(|why| format!("after it passed: {why}"))?;
    // While it lasts, the worker drains.
    proxy.heal();
    let rule = proxy.add(case.call.rule(case.fault.clone()));
    scene
        .send("b", &[Job::Plain, Job::Plain, Job::Flaky, Job::Reject], 1)
        .await;
    let struck = async {
        while proxy.hits(rule) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Where the call is not made before, it is during the drain, or never: it is not what is looked at here.
    let _ = tokio::time::timeout(Duration::from_secs(3), struck).await;
    worker
        .drain(DRAIN_DEADLINE)
        .await
        .map_err(|why| format!("at the drain: {why}"))?;
    // Another worker does what is left.
    proxy.heal();
    let second = scene.direct_worker();
    scene
        .settled(std::slice::from_ref(&second))
        .await
        .map_err(|why| format!("with the second worker: {why}"))?;
    // An effect that the first could not record before its end is made again by the second.
    scene.verdict(2).await.map_err(|why| format!("in the end: {why}"))?;
    second
        .drain(DRAIN_DEADLINE)
        .await
        .map_err(|why| format!("at the second drain: {why}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_on_every_call_loses_nothing_and_doubles_nothing() {
    let Some(lab) = Lab::open() else { return };
    let inbox = lab.inbox(TABLE).await;
    let only = std::env::var("REDRIVE_NETWORK_CASES").unwrap_or_default();
    let cases: Vec<Case> = Call::ALL
        .into_iter()
        .flat_map(|call| call.faults().into_iter().map(move |fault| Case { call, fault }))
        .filter(|case| format!("{case:?}").contains(&only))
        .collect();
    let count = cases.len();
    let asked = lab.queues("network-room", &Setup::default()).await.source;
    assert!(count > 0, "no case is called {only}");
    let ended: Vec<Option<String>> = stream::iter(cases.into_iter().enumerate())
        .map(|(number, case)| {
            let (lab, inbox, asked) = (&lab, &inbox, &asked);
            async move {
                room(asked).await;
                let seed = u64::try_from(number).unwrap();
                let ended = run(&case, lab, inbox, seed).await;
                let wrong = ended
                    .err()
                    .map(|why| format!("{:?} on {:?}: {why}", case.fault, case.call));
                // At once, too: on a slow machine the end is far away.
                println!("{case:?}: {}", wrong.as_deref().unwrap_or("ok"));
                wrong
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    println!("{count} cases");
    let failed: Vec<String> = ended.into_iter().flatten().collect();
    assert!(
        failed.is_empty(),
        "{} of {count} cases failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
}
