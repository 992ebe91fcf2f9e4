//! Outages are not failures: nothing is received while a breaker is open, and no attempt is spent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use redrive::clock::Random;
use redrive::flow::{Advice, BreakerConfig, BreakerState, Classify, Downstream};
use redrive::inbox::Status;
use redrive::{Context, Failure, MemoryQueue};

use crate::support::{Rig, never_spins, secs, sleep, start};

/// Fails every message while it is down.
#[derive(Clone, Default)]
struct Service(Arc<AtomicBool>);

impl Service {
    fn down() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    fn set(&self, down: bool) {
        self.0.store(down, Ordering::SeqCst);
    }

    fn call(&self) -> Result<(), Failure> {
        if self.0.load(Ordering::SeqCst) {
            Err(Failure::retry("connection refused"))
        } else {
            Ok(())
        }
    }
}

fn is_open(state: Option<BreakerState>) -> bool {
    matches!(state, Some(BreakerState::Open { .. }))
}

fn calls(
    rig: &Rig,
    service: &Service,
) -> impl Fn(Context) -> futures::future::BoxFuture<'static, Result<(), Failure>> + Send + Sync + 'static + use<> {
    let service = service.clone();
    rig.runs(move |_| {
        let service = service.clone();
        async move {
            sleep(secs(1)).await;
            service.call()
        }
    })
}

#[tokio::test(start_paused = true)]
async fn inv04_twenty_minutes_of_outage_fill_no_dead_letter_queue_and_spend_no_attempts() {
    let rig = Rig::new();
    rig.send_many(200).await;
    let service = Service::down();
    let running = start(rig.worker().handler(calls(&rig, &service)).build().unwrap());
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
    sleep(secs(20 * 60)).await;
    assert!(rig.dead.is_empty());
    assert_eq!(rig.queue.len(), 200);
    let status = running.status();
    assert_eq!(
        status.totals.retried, 4,
        "only what failed before the breaker opened is an attempt"
    );
    let most = rig.inbox.records().iter().map(|record| record.attempts).max();
    assert_eq!(most, Some(1));
    service.set(false);
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!((rig.log.done(), rig.dead.len()), (200, 0));
    assert!(
        rig.inbox
            .records()
            .iter()
            .all(|record| record.status == Status::Completed)
    );
}

#[tokio::test(start_paused = true)]
async fn inv04_nothing_is_received_while_the_breaker_is_open() {
    let rig = Rig::new();
    rig.send_many(200).await;
    let running = start(rig.worker().handler(calls(&rig, &Service::down())).build().unwrap());
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
    let (receives, received) = (rig.queue.calls().receive, running.status().totals.received);
    // Probes are those that are held already, for as long as they are kept.
    sleep(secs(14 * 60)).await;
    assert_eq!(rig.queue.calls().receive, receives);
    assert!(
        running.status().totals.received <= received + 10,
        "what was in flight may come in"
    );
    for message in rig.queue.messages() {
        assert!(rig.queue.peek(&message.id).unwrap().receive_count <= 2);
    }
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn inv04_held_messages_are_given_back_after_a_quarter_of_an_hour_and_nothing_is_received_while_open() {
    let rig = Rig::new();
    rig.send_many(50).await;
    let running = start(rig.worker().handler(calls(&rig, &Service::down())).build().unwrap());
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
    sleep(secs(16 * 60)).await;
    let mut quiet = 0;
    for _ in 0..20 {
        running
            .until("open, and nothing held but the last probes", |status| {
                is_open(status.breaker) && status.running + status.ending == 0 && status.waiting <= 4
            })
            .await;
        let before = rig.queue.calls().receive;
        sleep(secs(10)).await;
        if is_open(running.status().breaker) {
            assert_eq!(rig.queue.calls().receive, before, "a receive while the breaker is open");
            quiet += 1;
        }
    }
    assert!(quiet >= 5, "{quiet}");
    assert!(rig.queue.visible() >= 44, "{} of 50 visible", rig.queue.visible());
    let most = rig
        .queue
        .messages()
        .iter()
        .map(|message| rig.queue.peek(&message.id).unwrap().receive_count)
        .max();
    assert!(most < Some(6), "{most:?}");
    running.crash().await;
}

/// The redrive policy counts receives, whatever they were for: what is about to be received once too often stays held.
#[tokio::test(start_paused = true)]
async fn inv04_a_day_of_outage_moves_nothing_of_a_queue_that_holds_but_a_few_messages() {
    let dead = MemoryQueue::new("moved").unwrap();
    let rig = Rig::with(|queue| queue.dead_letter(&dead, 15));
    rig.send_many(4).await;
    let service = Service::down();
    let running = start(rig.worker().handler(calls(&rig, &service)).build().unwrap());
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
    for hour in 1..=24 {
        sleep(secs(3600)).await;
        assert_eq!(dead.len(), 0, "moved by SQS after {hour} hours");
    }
    service.set(false);
    rig.emptied(&running).await;
    let status = running.drain().await;
    assert_eq!((status.totals.completed, dead.len()), (4, 0));
}

/// Whoever has no messages left to judge by lets go of what it holds: another worker may be well.
#[tokio::test(start_paused = true)]
async fn inv04_what_has_receives_left_is_given_back_while_the_breaker_is_open() {
    let rig = Rig::new();
    rig.send_many(4).await;
    let running = start(rig.worker().handler(calls(&rig, &Service::down())).build().unwrap());
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
    let receives = |count| {
        rig.queue
            .messages()
            .iter()
            .all(|message| rig.queue.peek(&message.id).unwrap().receive_count >= count)
    };
    sleep(secs(2 * 3600)).await;
    assert!(receives(3), "each was given back and received again");
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn inv04_a_worker_that_keeps_nothing_while_open_still_probes_and_spends_few_receives() {
    let rig = Rig::new();
    rig.send_many(20).await;
    let service = Service::down();
    let worker = rig.worker().keep_while_open(secs(0)).concurrency(4);
    let running = start(worker.handler(calls(&rig, &service)).build().unwrap());
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
    service.set(false);
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!((rig.log.done(), rig.dead.len()), (20, 0));
    assert!(rig.queue.calls().received < 100, "{:?}", rig.queue.calls());
}

#[tokio::test(start_paused = true)]
async fn inv04_probes_are_held_messages_first_and_a_different_one_each_time() {
    let rig = Rig::new();
    rig.send_many(40).await;
    let running = start(rig.worker().handler(calls(&rig, &Service::down())).build().unwrap());
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
    running.until("all runs ended", |status| status.running == 0).await;
    let before = rig.log.len();
    let receives = rig.queue.calls().receive;
    sleep(secs(14 * 60)).await;
    let mut probes = rig.log.bodies().split_off(before);
    assert!(probes.len() >= 4, "{probes:?}");
    let all = probes.len();
    probes.sort();
    probes.dedup();
    assert_eq!(probes.len(), all, "one message was probed twice");
    assert_eq!(rig.queue.calls().receive, receives);
    assert_eq!(running.status().totals.retried, 4, "failed probes are no attempts");
    let runs = rig.log.runs().split_off(before);
    for pair in runs.windows(2) {
        assert!(
            pair[1].began - pair[0].began >= secs(24),
            "one probe at a time, and ever rarer"
        );
    }
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn inv04_a_poison_pill_alone_opens_no_breaker() {
    let rig = Rig::new();
    rig.send("poison", "poison").await;
    let worker = rig.worker().max_attempts(30).handler(rig.fails());
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    let status = running.drain().await;
    assert_eq!((status.totals.breaker_opened, rig.log.len()), (0, 30));
    assert_eq!(rig.letters()[0].attempts, 30);
}

#[tokio::test(start_paused = true)]
async fn inv04_rejects_never_count_for_the_breaker() {
    let rig = Rig::new();
    rig.send_many(100).await;
    let handler = rig.runs(|_| async { Err::<(), _>(Failure::reject("never")) });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    let status = running.drain().await;
    assert_eq!((status.totals.breaker_opened, rig.dead.len()), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn inv04_which_failures_the_breaker_counts_can_be_said() {
    let rig = Rig::new();
    rig.send_many(30).await;
    let worker = rig
        .worker()
        .max_attempts(2)
        .breaker_counts(|failure| failure.error().contains("refused"));
    let running = start(worker.handler(rig.fails()).build().unwrap());
    rig.emptied(&running).await;
    let status = running.drain().await;
    assert_eq!((status.totals.breaker_opened, rig.dead.len()), (0, 30));
}

#[tokio::test(start_paused = true)]
async fn inv04_without_a_breaker_failures_are_attempts_only() {
    let rig = Rig::new();
    rig.send_many(30).await;
    let running = start(
        rig.worker()
            .without_breaker()
            .max_attempts(2)
            .handler(rig.fails())
            .build()
            .unwrap(),
    );
    rig.emptied(&running).await;
    let status = running.drain().await;
    assert_eq!((status.breaker, rig.dead.len()), (None, 30));
}

#[tokio::test(start_paused = true)]
async fn inv04_a_breaker_closes_after_successes_and_work_goes_on_at_full_width() {
    let rig = Rig::new();
    rig.send_many(60).await;
    let service = Service::down();
    let config = BreakerConfig::default()
        .open_for(secs(5), secs(20))
        .unwrap()
        .probe_successes(2)
        .unwrap();
    let running = start(
        rig.worker()
            .breaker(config)
            .handler(calls(&rig, &service))
            .build()
            .unwrap(),
    );
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
    service.set(false);
    running
        .until("it is closed", |status| status.breaker == Some(BreakerState::Closed))
        .await;
    let healed = rig.clock.epoch_ms();
    rig.emptied(&running).await;
    assert!(rig.clock.epoch_ms() - healed < 40_000, "60 messages of 1 s on 16 slots");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv04_without_an_inbox_an_outage_spends_no_receives_either() {
    let rig = Rig::new();
    rig.send_many(20).await;
    let service = Service::down();
    let running = start(rig.bare().handler(calls(&rig, &service)).build().unwrap());
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
    sleep(secs(13 * 60)).await;
    service.set(false);
    rig.emptied(&running).await;
    running.drain().await;
    assert!(rig.dead.is_empty());
    assert!(rig.log.runs().iter().all(|run| run.attempt <= 2));
}

#[derive(Debug)]
struct Refused;

impl Classify for Refused {
    fn advice(&self) -> Advice {
        Advice::Retry
    }
}

fn gateway(rig: &Rig) -> Downstream {
    Downstream::builder("gateway")
        .retries(0)
        .clock(rig.clock.clone())
        .random(Random::seeded(5))
        .build()
        .unwrap()
}

fn through(
    rig: &Rig,
    gateway: &Downstream,
    service: &Service,
    calls: &Arc<AtomicU32>,
) -> impl Fn(Context) -> futures::future::BoxFuture<'static, Result<(), Failure>> + Send + Sync + 'static + use<> {
    let (gateway, service, calls) = (gateway.clone(), service.clone(), calls.clone());
    rig.runs(move |context: Context| {
        let (gateway, service, calls) = (gateway.keyed(context.key().as_str()), service.clone(), calls.clone());
        async move {
            sleep(secs(1)).await;
            let called = gateway
                .call(|| async {
                    calls.fetch_add(1, Ordering::SeqCst);
                    service.call().map_err(|_| Refused)
                })
                .await;
            called.map_err(|_| Failure::retry("the gateway is down"))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn inv04_a_watched_downstreams_outage_pauses_the_worker_and_spends_no_attempts() {
    let rig = Rig::new();
    rig.send_many(100).await;
    let (gateway, service, made) = (gateway(&rig), Service::down(), Arc::default());
    let worker = rig.worker().without_breaker().watch(&gateway);
    let running = start(
        worker
            .handler(through(&rig, &gateway, &service, &made))
            .build()
            .unwrap(),
    );
    let watch = gateway.breaker();
    running
        .until("it is open", |_| !watch.state(rig.clock.now()).is_closed())
        .await;
    sleep(secs(2)).await;
    let receives = rig.queue.calls().receive;
    sleep(secs(14 * 60)).await;
    assert_eq!(rig.queue.calls().receive, receives, "no receive while it is open");
    assert!(rig.dead.is_empty());
    assert!(
        made.load(Ordering::SeqCst) <= 16 + 10,
        "calls are probes only: {made:?}"
    );
    assert!(running.status().totals.retried <= 4, "{:?}", running.status().totals);
    sleep(secs(6 * 60)).await;
    service.set(false);
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!((rig.log.done(), rig.dead.len()), (100, 0));
}

#[test]
fn inv04_a_worker_of_batches_waits_for_its_breaker_without_spinning() {
    never_spins(|| async {
        let rig = Rig::new();
        rig.send_many(40).await;
        let service = Service::down();
        let kept = service.clone();
        let handler = redrive::handler::batch(5, secs(1), move |bodies: Vec<redrive::extract::Text>| {
            let service = kept.clone();
            async move {
                sleep(secs(1)).await;
                bodies.iter().map(|_| service.call()).collect::<Vec<_>>()
            }
        });
        let running = start(rig.worker().handler(handler).build().unwrap());
        running
            .until("the breaker is open", |status| is_open(status.breaker))
            .await;
        sleep(secs(300)).await;
        service.set(false);
        rig.emptied(&running).await;
        assert_eq!(running.drain().await.totals.completed, 40);
        assert!(rig.dead.is_empty());
    });
}

#[tokio::test(start_paused = true)]
async fn inv04_a_drain_during_an_outage_gives_everything_back_unspent() {
    let rig = Rig::new();
    rig.send_many(40).await;
    let running = start(rig.worker().handler(calls(&rig, &Service::down())).build().unwrap());
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
    running.until("all runs ended", |status| status.running == 0).await;
    let status = running.drain().await;
    assert!(status.totals.released > 0);
    sleep(secs(31)).await;
    assert_eq!(rig.queue.visible(), 40);
    assert!(
        rig.inbox
            .records()
            .iter()
            .all(|record| record.status == Status::Released && record.attempts <= 1)
    );
}

#[tokio::test(start_paused = true)]
async fn inv04_a_handful_of_poison_pills_stops_no_healthy_traffic_for_long() {
    let rig = Rig::new();
    for n in 0..5 {
        rig.send(&format!("poison{n}"), "poison").await;
    }
    let handler = rig.runs(|context: Context| async move {
        match context.message().body.as_str() {
            "poison" => Err(Failure::retry("a bug that it alone meets")),
            _ => Ok(()),
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    for n in 0..3_600 {
        rig.send(&format!("k{n}"), "healthy").await;
        sleep(secs(1)).await;
    }
    let healthy = || rig.log.runs().iter().filter(|run| run.body == "healthy").count();
    running.until("the healthy are done", |_| healthy() == 3_600).await;
    running.drain().await;
    assert!(rig.letters().iter().all(|letter| letter.key.starts_with("poison")));
    let healthy: Vec<_> = rig.log.runs().into_iter().filter(|run| run.body == "healthy").collect();
    let longest = healthy
        .windows(2)
        .map(|pair| pair[1].began - pair[0].began)
        .max()
        .unwrap();
    assert!(longest <= secs(20 * 60), "nothing healthy ran for {longest:?}");
}

#[tokio::test(start_paused = true)]
async fn inv04_outages_of_the_inbox_longer_than_a_lease_are_no_deaths_of_what_they_cut_off() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let first = start(rig.worker().handler(rig.takes(secs(3_600))).build().unwrap());
    first.until("it runs", |status| status.running == 1).await;
    first.crash().await;
    // What it held is a suspect now.
    let second = start(rig.worker().handler(rig.takes(secs(100))).build().unwrap());
    for outage in 1..=4 {
        second.until("it runs", |status| status.running == 1).await;
        let suspect = rig.record("k").unwrap().started;
        assert_eq!(suspect, outage == 1, "released by its last word, it is none any more");
        rig.inbox.faults().set_unreachable(true);
        second
            .until("the lease is lost", |status| status.totals.lost == outage)
            .await;
        rig.inbox.faults().set_unreachable(false);
    }
    rig.emptied(&second).await;
    assert!(rig.dead.is_empty(), "{:?}", rig.reasons());
    let record = rig.record("k").unwrap();
    assert_eq!(
        (record.status, record.attempts, record.deaths),
        (Status::Completed, 0, 0)
    );
    second.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv04_what_was_done_in_an_outage_longer_than_its_lease_is_recorded_after_it_and_done_by_nobody_else() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let first = start(rig.worker().handler(rig.takes(secs(5))).build().unwrap());
    first.until("it runs", |status| status.running == 1).await;
    rig.inbox.faults().set_unreachable(true);
    first.until("the lease is lost", |status| status.totals.lost == 1).await;
    rig.inbox.faults().set_unreachable(false);
    sleep(secs(6)).await;
    assert_eq!(rig.record("k").unwrap().status, Status::Completed);
    let second = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&second).await;
    assert_eq!((rig.log.len(), second.drain().await.totals.completed), (1, 0));
    first.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv04_a_probe_whose_failure_says_nothing_is_not_run_again_at_once() {
    let rig = Rig::new();
    rig.send_many(3).await;
    let service = Service::down();
    let down = service.clone();
    let handler = rig.runs(move |_| {
        let service = down.clone();
        async move {
            sleep(secs(1)).await;
            service.call()?;
            Err::<(), _>(Failure::retry("this order is nonsense"))
        }
    });
    let worker = rig
        .worker()
        .max_attempts(1_000)
        .breaker(BreakerConfig::default().failures_in_a_row(3).unwrap())
        .breaker_counts(|failure| failure.error().contains("refused"));
    let running = start(worker.handler(handler).build().unwrap());
    running
        .until("the breaker is open", |status| is_open(status.breaker))
        .await;
    service.set(false);
    running
        .until("it is half open", |status| {
            status.breaker == Some(BreakerState::HalfOpen)
        })
        .await;
    let before = rig.log.len();
    sleep(secs(600)).await;
    let probes = rig.log.len() - before;
    assert!(
        (3..=150).contains(&probes),
        "{probes} probes of three messages in ten minutes"
    );
    assert!(rig.log.runs().iter().all(|run| run.attempt <= 2), "none is an attempt");
    running.drain().await;
}
