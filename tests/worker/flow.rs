//! Slots, rates, bulkheads, tenants, batches and steering.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redrive::Router;
use redrive::clock::Instant;
use redrive::extract::Text;
use redrive::faults::Operation;
use redrive::flow::RateLimit;
use redrive::handler::{Handler, batch};
use redrive::message::{Attribute, Message};
use redrive::worker::Fate;
use redrive::{Failure, FailureExt};

use crate::support::{Rig, Spy, keyed, ms, never_spins, now, secs, sleep, start};

fn limit(per_second: f64, burst: u32) -> RateLimit {
    RateLimit::per_second(per_second).unwrap().burst(burst).unwrap()
}

fn tenant(message: &Message) -> Option<String> {
    message.attribute("tenant").map(str::to_owned)
}

async fn send_of(rig: &Rig, tenant: &str, n: usize) {
    for at in 0..n {
        let message = keyed(&format!("{tenant}{at}"), tenant).attribute("tenant", Attribute::string(tenant));
        rig.put(message).await;
    }
}

fn starts(rig: &Rig) -> Vec<Instant> {
    rig.log.runs().iter().map(|run| run.began).collect()
}

/// The most starts in any stretch of `window`.
fn densest(starts: &[Instant], window: Duration) -> usize {
    let from = |at: usize| {
        starts[at..]
            .iter()
            .take_while(|start| **start < starts[at] + window)
            .count()
    };
    (0..starts.len()).map(from).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn inv05_no_more_handlers_run_than_there_are_slots() {
    let rig = Rig::new();
    rig.send_many(100).await;
    let running = start(rig.worker().concurrency(7).handler(rig.takes(ms(500))).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(rig.log.peak(), 7);
}

#[tokio::test(start_paused = true)]
async fn inv05_what_is_held_is_bounded_and_so_are_receives_in_flight() {
    let rig = Rig::new();
    rig.send_many(2_000).await;
    let spy = Spy::on(&rig.queue);
    let worker = rig
        .on(spy.clone())
        .inbox(rig.inbox.clone())
        .concurrency(8)
        .max_receives(3);
    let running = start(worker.handler(rig.takes(ms(20))).build().unwrap());
    let mut most = 0;
    while !rig.queue.is_empty() {
        let status = running.status();
        most = most.max(status.running + status.waiting);
        sleep(ms(5)).await;
    }
    assert!(most <= 8 + 20 + 30, "{most} held");
    assert!(spy.at_once(Operation::Receive) <= 3);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv05_the_rate_holds_in_every_stretch_of_time() {
    let rig = Rig::new();
    rig.send_many(60).await;
    let running = start(
        rig.worker()
            .rate(limit(10.0, 3))
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    rig.emptied(&running).await;
    running.drain().await;
    let starts = starts(&rig);
    assert!(densest(&starts, secs(1)) <= 13, "{}", densest(&starts, secs(1)));
    let took = *starts.last().unwrap() - starts[0];
    assert!(took >= ms(5_600) && took < secs(8), "60 at 10 per second took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn inv04_a_dry_limiter_fetches_nothing_to_wait_behind_it() {
    let rig = Rig::new();
    rig.send_many(100).await;
    let running = start(
        rig.worker()
            .rate(limit(0.2, 1))
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    sleep(secs(120)).await;
    let receives = running.status().totals.received;
    assert!(receives <= 24 + 10, "{receives} received for 24 starts");
    let most = rig
        .queue
        .messages()
        .iter()
        .map(|m| rig.queue.peek(&m.id).unwrap().receive_count)
        .max();
    assert_eq!(most, Some(1), "none was received twice");
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn no_slot_is_held_while_waiting_for_a_token() {
    let rig = Rig::new();
    rig.send_many(6).await;
    let running = start(
        rig.worker()
            .concurrency(2)
            .rate(limit(1.0, 1))
            .handler(rig.takes(ms(10)))
            .build()
            .unwrap(),
    );
    while !rig.queue.is_empty() {
        assert!(running.status().running <= 1);
        sleep(ms(5)).await;
    }
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_over_its_rate_takes_nobodys_slot() {
    let rig = Rig::new();
    send_of(&rig, "noisy", 60).await;
    send_of(&rig, "quiet", 20).await;
    let worker = rig.worker().concurrency(4).rate_by(tenant, limit(1.0, 1));
    // The quiet tenant is under its rate: one message in two seconds.
    let quiet_only = |message: &Message| tenant(message).filter(|tenant| tenant == "noisy");
    let worker = worker.rate_by(quiet_only, limit(1.0, 1)).handler(rig.takes(ms(100)));
    let running = start(worker.build().unwrap());
    running
        .until("the quiet tenant is done", |_| {
            rig.log.bodies().iter().filter(|body| *body == "quiet").count() == 20
        })
        .await;
    let noisy = rig.log.bodies().iter().filter(|body| *body == "noisy").count();
    assert!(noisy <= 8, "{noisy} of the noisy tenant came first");
    rig.emptied(&running).await;
    running.drain().await;
    let noisy: Vec<_> = rig
        .log
        .runs()
        .iter()
        .filter(|run| run.body == "noisy")
        .map(|run| run.began)
        .collect();
    assert!(densest(&noisy, secs(1)) <= 2);
    assert!(rig.log.runs().iter().all(|run| run.attempt == 1));
}

#[tokio::test(start_paused = true)]
async fn a_tenants_backlog_beyond_the_holding_area_starves_nobody() {
    let rig = Rig::with(|queue| queue.dead_letter(&Rig::new().dead, 1_000));
    send_of(&rig, "noisy", 600).await;
    send_of(&rig, "quiet", 30).await;
    let noisy_only = |message: &Message| tenant(message).filter(|tenant| tenant == "noisy");
    let worker = rig
        .worker()
        .concurrency(4)
        .held_back(20)
        .rate_by(noisy_only, limit(1.0, 1));
    let running = start(worker.handler(rig.takes(ms(50))).build().unwrap());
    let began = now();
    running
        .until("the quiet tenant is done", |_| {
            rig.log.bodies().iter().filter(|body| *body == "quiet").count() == 30
        })
        .await;
    let took = now() - began;
    assert!(took <= secs(90), "the quiet tenant waited {took:?}");
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_room_to_wait_aside_is_delayed_uncounted() {
    let rig = Rig::new();
    send_of(&rig, "noisy", 10).await;
    let worker = rig
        .worker()
        .held_back(3)
        .rate_by(tenant, limit(0.1, 1))
        .handler(rig.succeeds());
    let running = start(worker.build().unwrap());
    sleep(secs(3)).await;
    let status = running.status();
    assert_eq!((status.totals.completed, status.waiting), (1, 3), "{status:?}");
    assert_eq!(status.totals.released, 6);
    rig.emptied(&running).await;
    running.drain().await;
    assert!(rig.log.runs().iter().all(|run| run.attempt == 1) && rig.log.len() == 10);
    assert!(rig.dead.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_starves_no_other_route() {
    let rig = Rig::new();
    for n in 0..40 {
        let kind = if n < 20 { "slow" } else { "fast" };
        rig.put(keyed(&format!("k{n}"), kind).attribute("type", Attribute::string(kind)))
            .await;
    }
    let router: Router = Router::new()
        .route("slow", rig.takes(secs(10)).bulkhead("slow"))
        .route("fast", rig.takes(ms(100)));
    let running = start(
        rig.worker()
            .concurrency(4)
            .bulkhead("slow", 2)
            .handler(router)
            .build()
            .unwrap(),
    );
    let began = now();
    let fast = || rig.log.bodies().iter().filter(|body| *body == "fast").count();
    running.until("the fast are done", |_| fast() == 20).await;
    assert!(now() - began < secs(5), "{:?}", now() - began);
    rig.emptied(&running).await;
    running.drain().await;
    let slow: Vec<_> = rig.log.runs().into_iter().filter(|run| run.body == "slow").collect();
    for run in &slow {
        let at_once = slow
            .iter()
            .filter(|other| other.began <= run.began && other.ended.unwrap() > run.began)
            .count();
        assert!(at_once <= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn bulkhead_overflow_is_delayed_and_comes_to_its_turn() {
    let rig = Rig::new();
    for n in 0..30 {
        rig.put(keyed(&format!("k{n}"), "slow").attribute("type", Attribute::string("slow")))
            .await;
    }
    let router: Router = Router::new().route("slow", rig.takes(secs(2)).bulkhead("slow"));
    let worker = rig
        .worker()
        .concurrency(8)
        .bulkhead("slow", 1)
        .held_back(4)
        .handler(router);
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!((rig.log.done(), rig.log.peak(), rig.dead.len()), (30, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pause_starts_and_receives_nothing_and_a_resume_goes_on() {
    let rig = Rig::new();
    let running = start(rig.worker().handler(rig.takes(ms(100))).build().unwrap());
    running.handle.pause();
    sleep(secs(2)).await;
    rig.send_many(20).await;
    let receives = rig.queue.calls().receive;
    sleep(secs(600)).await;
    assert_eq!((rig.log.len(), rig.queue.calls().receive), (0, receives));
    assert!(running.status().paused && running.status().is_healthy());
    running.handle.resume();
    rig.emptied(&running).await;
    assert_eq!(rig.log.done(), 20);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_at_a_pause_is_kept_or_given_back_and_not_lost() {
    let rig = Rig::new();
    rig.send_many(12).await;
    let running = start(rig.worker().concurrency(2).handler(rig.takes(secs(3))).build().unwrap());
    running
        .until("two run, others wait", |status| {
            status.running == 2 && status.waiting > 0
        })
        .await;
    running.handle.pause();
    sleep(secs(1_200)).await;
    assert_eq!(rig.log.len(), 2);
    running.handle.resume();
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(rig.log.done(), 12);
    assert!(rig.log.runs().iter().all(|run| run.attempt == 1));
}

#[test]
fn a_pause_with_tenants_waiting_aside_does_not_spin() {
    never_spins(|| async {
        let rig = Rig::new();
        send_of(&rig, "noisy", 10).await;
        let worker = rig.worker().rate_by(tenant, limit(1.0, 1)).handler(rig.succeeds());
        let running = start(worker.build().unwrap());
        running.until("some wait aside", |status| status.waiting > 3).await;
        running.handle.pause();
        sleep(secs(60)).await;
        running.handle.resume();
        rig.emptied(&running).await;
        running.drain().await;
        assert_eq!(rig.log.done(), 10);
    });
}

#[tokio::test(start_paused = true)]
async fn rate_and_concurrency_of_a_running_worker_can_be_set() {
    let rig = Rig::new();
    rig.send_many(400).await;
    let running = start(rig.worker().concurrency(2).handler(rig.takes(secs(1))).build().unwrap());
    sleep(secs(5)).await;
    assert_eq!(rig.log.peak(), 2);
    running.handle.set_concurrency(20).unwrap();
    sleep(secs(5)).await;
    assert_eq!((rig.log.peak(), running.status().concurrency), (20, 20));
    running.handle.set_concurrency(1).unwrap();
    sleep(secs(3)).await;
    assert_eq!(rig.log.running(), 1);
    running.handle.set_concurrency(50).unwrap();
    running.handle.set_rate(Some(limit(1.0, 1)));
    sleep(secs(2)).await;
    let before = rig.log.len();
    sleep(secs(10)).await;
    let started = rig.log.len() - before;
    assert!((9..=11).contains(&started), "{started} in 10 s at 1 per second");
    running.handle.set_rate(None);
    let before = rig.log.len();
    sleep(secs(3)).await;
    assert!(rig.log.len() - before > 60);
    let refused = running.handle.set_concurrency(0).unwrap_err().to_string();
    assert!(
        refused.contains("concurrency") && refused.contains("1 to 100,000"),
        "{refused}"
    );
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn inv11_a_batch_handlers_outcomes_are_settled_each_by_itself() {
    let rig = Rig::new();
    rig.send_many(30).await;
    let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
    let noted = sizes.clone();
    let handler = batch(10, ms(200), move |bodies: Vec<Text>| {
        noted.lock().unwrap().push(bodies.len());
        async move {
            let outcome = |body: &Text| match body.parse::<u32>().reject()? % 3 {
                0 => Err(Failure::reject("a multiple of three")),
                _ => Ok(()),
            };
            bodies.iter().map(outcome).collect::<Vec<Result<(), Failure>>>()
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    let totals = running.drain().await.totals;
    assert_eq!((totals.completed, totals.dead_letters()), (20, 10));
    let sizes = sizes.lock().unwrap();
    assert_eq!(sizes.iter().sum::<usize>(), 30);
    assert!(sizes.iter().all(|size| *size <= 10) && sizes.contains(&10), "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_not_full_starts_after_its_linger() {
    let rig = Rig::new();
    rig.send_many(3).await;
    let began = now();
    let at: Arc<Mutex<Vec<(Duration, usize)>>> = Arc::default();
    let noted = at.clone();
    let handler = batch(10, secs(2), move |bodies: Vec<Text>| {
        noted.lock().unwrap().push((now() - began, bodies.len()));
        async move { bodies.iter().map(|_| Ok(())).collect::<Vec<Result<(), Failure>>>() }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    let at = at.lock().unwrap();
    assert_eq!((at.len(), at[0].1), (1, 3));
    assert!(at[0].0 >= secs(2) && at[0].0 < ms(2_100), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_panics_times_out_or_fails_whole_is_an_attempt_of_each() {
    for how in ["panics", "hangs", "fails"] {
        let rig = Rig::new();
        rig.send_many(4).await;
        let handler = batch(4, ms(100), move |_: Vec<Text>| async move {
            match how {
                "panics" => panic!("a bug"),
                "hangs" => sleep(secs(600)).await,
                _ => {}
            }
            Err::<Vec<Result<(), Failure>>, _>(Failure::retry("the database is down"))
        });
        let worker = rig
            .worker()
            .without_breaker()
            .handler_timeout(secs(5))
            .max_attempts(2)
            .handler(handler);
        let running = start(worker.build().unwrap());
        rig.emptied(&running).await;
        running.drain().await;
        assert_eq!(rig.reasons(), ["attempts_exhausted"; 4], "{how}");
        assert!(rig.letters().iter().all(|letter| letter.attempts == 2), "{how}");
    }
}

#[test]
fn a_batch_waits_for_tokens_without_spinning() {
    never_spins(|| async {
        let rig = Rig::new();
        rig.send_many(20).await;
        let handler = batch(5, ms(100), move |bodies: Vec<Text>| async move {
            bodies.iter().map(|_| Ok(())).collect::<Vec<Result<(), Failure>>>()
        });
        let began = now();
        let running = start(rig.worker().rate(limit(1.0, 1)).handler(handler).build().unwrap());
        rig.emptied(&running).await;
        running.drain().await;
        assert!(now() - began >= secs(19));
    });
}

#[tokio::test(start_paused = true)]
async fn one_slot_one_message_at_a_time_still_asks_for_more_than_one() {
    let rig = Rig::new();
    rig.send_many(50).await;
    let running = start(rig.worker().concurrency(1).handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!((rig.log.peak(), rig.log.done()), (1, 50));
    assert!(rig.queue.calls().receive < 25, "{:?}", rig.queue.calls());
    assert!(rig.fates.all().iter().all(|(_, fate, _)| *fate == Fate::Completed));
}
