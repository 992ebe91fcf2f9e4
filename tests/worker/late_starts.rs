//! A process may be stopped, or its machine be busy, between the look at a lease and the handler's first step.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use redrive::clock::{Clock, Random};
use redrive::extract::Text;
use redrive::flow::RateLimit;
use redrive::handler::batch;
use redrive::inbox::{ClaimAnswer, ClaimRequest, Inbox as _};
use redrive::key::{Key, RecordKey};
use redrive::message::Message;
use redrive::{Failure, MemoryInbox};

use crate::support::{Rig, ms, secs, sleep, start};

/// An inbox whose time can be moved on alone, while the worker's loop is between two steps.
fn inbox_of(rig: &Rig) -> (MemoryInbox, Clock) {
    let service = rig.clock.skewed_by(0);
    (MemoryInbox::builder().clock(service.clone()).build(), service)
}

/// Asked for a message's tenant, which a worker is after it has looked at the lease and before it starts the run: there,
/// `then` happens, once, for the message of this body.
fn just_before_the_start(
    of: &'static str,
    then: impl Fn() + Send + Sync + 'static,
) -> (impl Fn(&Message) -> Option<String> + Send + Sync + 'static, RateLimit) {
    let happened = AtomicBool::new(false);
    let hook = move |message: &Message| {
        if message.body == of && !happened.swap(true, Ordering::SeqCst) {
            then();
        }
        None
    };
    (hook, RateLimit::per_second(1_000.0).unwrap())
}

#[tokio::test(start_paused = true)]
async fn inv02_a_run_that_begins_after_its_lease_is_over_is_not_called_beside_whoever_took_the_key_over() {
    let rig = Rig::new();
    let (inbox, service) = inbox_of(&rig);
    rig.send("k", "1").await;
    let other = Arc::new(Mutex::new(None));
    let (hook, rate) = just_before_the_start("1", {
        let (inbox, other) = (inbox.clone(), other.clone());
        move || {
            service.step_by(300_000);
            let request = ClaimRequest {
                key: RecordKey::new("orders", &Key::new("k")),
                claim_id: "other-1".to_owned(),
                message_id: "another delivery's worker".to_owned(),
                fingerprint: None,
                lease: secs(900),
                retention: secs(86_400),
                receive_count: 2,
                replayed: false,
            };
            let answer = inbox.claim(vec![request]).now_or_never().unwrap().pop().unwrap();
            *other.lock().unwrap() = Some(answer.unwrap());
        }
    });
    let worker = rig.bare().inbox(inbox.clone()).rate_by(hook, rate);
    let running = start(worker.handler(rig.succeeds()).build().unwrap());
    running.until("it is lost", |status| status.totals.lost == 1).await;
    assert_eq!(rig.log.len(), 0, "{:?}", rig.log.runs());
    let Some(ClaimAnswer::Claimed(claim)) = other.lock().unwrap().take() else {
        panic!("it was there to be taken over")
    };
    let completed = inbox
        .complete(vec![(claim, redrive::outcome::StoredResult::Nothing)])
        .await;
    assert!(completed[0].is_ok(), "{completed:?}");
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), running.status().totals.duplicates > 0), (0, true));
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv09_a_run_that_did_not_begin_in_time_is_no_attempt_and_runs_under_another_claim() {
    let rig = Rig::new();
    let (inbox, service) = inbox_of(&rig);
    rig.send("k", "1").await;
    let token = Arc::new(Mutex::new(0));
    let (hook, rate) = just_before_the_start("1", {
        let (inbox, token) = (inbox.clone(), token.clone());
        move || {
            *token.lock().unwrap() = inbox.records()[0].fencing_token;
            service.step_by(300_000);
        }
    });
    let worker = rig.bare().inbox(inbox.clone()).rate_by(hook, rate);
    let running = start(worker.handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    let runs = rig.log.runs();
    assert_eq!((runs.len(), runs[0].attempt), (1, 1), "{runs:?}");
    assert!(runs[0].token > Some(*token.lock().unwrap()), "{runs:?}");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv02_of_a_batch_only_what_is_still_held_is_called() {
    let rig = Rig::new();
    let (inbox, service) = inbox_of(&rig);
    let calls: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
    let noted = calls.clone();
    let handler = batch(3, secs(25), move |bodies: Vec<Text>| {
        let bodies: Vec<String> = bodies.iter().map(|body| body.to_string()).collect();
        noted.lock().unwrap().push(bodies.clone());
        async move { bodies.iter().map(|_| Ok(())).collect::<Vec<Result<(), Failure>>>() }
    });
    // Held for 30 s: "0" and "1" until then, "2" for 15 s longer.
    let (hook, rate) = just_before_the_start("2", move || service.step_by(20_000));
    let worker = rig.bare().inbox(inbox).without_heartbeat().rate_by(hook, rate);
    let running = start(worker.random(Random::seeded(3)).handler(handler).build().unwrap());
    rig.send_many(2).await;
    running.until("two wait", |status| status.waiting == 2).await;
    sleep(secs(15)).await;
    rig.send("k2", "2").await;
    running
        .until("it was called", |_| !calls.lock().unwrap().is_empty())
        .await;
    assert_eq!(*calls.lock().unwrap(), [["2"]]);
    rig.emptied(&running).await;
    let mut called: Vec<String> = calls.lock().unwrap().concat();
    called.sort();
    assert_eq!(called, ["0", "1", "2"]);
    sleep(ms(1)).await;
    running.drain().await;
}
