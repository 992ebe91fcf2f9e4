//! What users of other frameworks suffer from, by the numbers of the list of complaints; others stand where their subject is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redrive::Failure;
use redrive::faults::{Operation, Rates};
use redrive::inbox::Status;
use redrive::worker::Fate;

use crate::support::{Rig, RunEnd, Spy, ms, now, secs, sleep, start};

#[tokio::test(start_paused = true)]
async fn complaint_01_the_next_poll_does_not_wait_for_the_slowest_of_ten() {
    let rig = Rig::new();
    rig.send("slow", "slow").await;
    rig.send_many(99).await;
    let handler = rig.runs(|context: redrive::Context| async move {
        let slow = context.message().body == "slow";
        sleep(if slow { secs(3_600) } else { ms(100) }).await;
        Ok(())
    });
    let began = now();
    let running = start(rig.worker().concurrency(10).handler(handler).build().unwrap());
    running.until("the others are done", |_| rig.log.done() == 99).await;
    assert!(now() - began < secs(3), "{:?}", now() - began);
    assert_eq!(rig.log.running(), 1);
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_02_a_concurrency_of_100_really_runs_100() {
    let rig = Rig::new();
    rig.send_many(300).await;
    let began = now();
    let running = start(
        rig.worker()
            .concurrency(100)
            .handler(rig.takes(secs(10)))
            .build()
            .unwrap(),
    );
    running.until("a hundred run", |status| status.running == 100).await;
    assert!(now() - began < secs(2), "{:?}", now() - began);
    rig.emptied(&running).await;
    assert!(now() - began < secs(35), "{:?} for three rounds of 10 s", now() - began);
    assert_eq!(rig.log.peak(), 100);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_03_a_stall_shows_in_the_health_and_heals() {
    let rig = Rig::new();
    let running = start(
        rig.worker()
            .stall_after(secs(90))
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    sleep(secs(300)).await;
    assert!(running.status().is_healthy(), "an idle worker is healthy");
    rig.queue.faults().set(Operation::Receive, Rates::new().before(1.0));
    sleep(secs(60)).await;
    assert!(!running.status().stalled);
    sleep(secs(60)).await;
    let status = running.status();
    assert!(
        status.stalled && !status.is_healthy() && status.last_receive.unwrap() >= secs(90),
        "{status:?}"
    );
    rig.queue.faults().heal();
    rig.send("k", "1").await;
    rig.emptied(&running).await;
    assert!(running.status().is_healthy());
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_03_a_receive_that_hangs_for_ever_is_given_up_and_repeated() {
    let rig = Rig::new();
    rig.queue.faults().slow_next(Operation::Receive, 1, secs(1_000_000));
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.send("k", "1").await;
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 1);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_03_receives_go_on_after_an_outage_of_the_queue() {
    let rig = Rig::new();
    rig.send_many(10).await;
    rig.queue.faults().set_unreachable(true);
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    sleep(secs(600)).await;
    let calls = rig.queue.calls().receive;
    assert!(
        (100..=700).contains(&calls),
        "{calls} receives in 10 min of outage: backed off, not given up"
    );
    rig.queue.faults().heal();
    let began = now();
    rig.emptied(&running).await;
    assert!(now() - began < secs(10));
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_05_long_polls_in_flight_are_few_while_idle() {
    let rig = Rig::new();
    rig.send_many(500).await;
    let spy = Spy::on(&rig.queue);
    let worker = rig
        .on(spy.clone())
        .inbox(rig.inbox.clone())
        .concurrency(100)
        .handler(rig.takes(ms(50)));
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    assert!(spy.at_once(Operation::Receive) > 1, "more while they come back full");
    assert!(spy.at_once(Operation::Receive) <= 16);
    sleep(secs(10)).await;
    let from = now();
    sleep(secs(60)).await;
    let calls = spy.calls(Operation::Receive);
    let idle: Vec<_> = calls.iter().filter(|call| call.began > from).collect();
    for pair in idle.windows(2) {
        assert!(
            pair[0].ended.unwrap() <= pair[1].began,
            "one is enough for an idle queue"
        );
    }
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_06_duplicates_in_a_batch_do_not_fail_the_batch() {
    let rig = Rig::new();
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(rig.send(&format!("k{n}"), &n.to_string()).await);
    }
    for id in &ids {
        rig.queue.duplicate(id).unwrap();
    }
    let running = start(rig.worker().handler(rig.takes(ms(50))).build().unwrap());
    rig.emptied(&running).await;
    let totals = running.drain().await.totals;
    assert_eq!((rig.log.len(), totals.completed), (10, 10));
    assert!(totals.in_flight_duplicates + totals.duplicates >= 1, "{totals:?}");
}

#[tokio::test(start_paused = true)]
async fn complaint_09_settling_keeps_up_with_the_intake() {
    let rig = Rig::new();
    rig.send_many(3_000).await;
    rig.queue
        .faults()
        .set(Operation::Delete, Rates::new().latency(ms(20), ms(60)));
    let running = start(rig.worker().concurrency(32).handler(rig.succeeds()).build().unwrap());
    let mut most = 0;
    while !rig.queue.is_empty() {
        most = most.max(running.status().ending);
        sleep(ms(2)).await;
    }
    assert!(most <= 1_100, "{most} wait to be settled");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv05_what_cannot_be_recorded_stops_the_intake_before_memory_grows() {
    let rig = Rig::new();
    rig.send_many(3_000).await;
    rig.inbox.faults().set(Operation::Write, Rates::new().before(1.0));
    let running = start(rig.worker().concurrency(8).handler(rig.succeeds()).build().unwrap());
    let mut most = 0;
    for _ in 0..200 {
        let status = running.status();
        most = most.max(status.ending + status.waiting + status.running);
        sleep(ms(50)).await;
    }
    assert!(most <= 1_100, "{most} held");
    rig.inbox.faults().heal();
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 3_000, "none ran twice");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_19_a_message_told_to_be_a_twin_becomes_visible_again() {
    let rig = Rig::new();
    rig.send("k", "same").await;
    let handler = rig.runs(|_| async {
        sleep(secs(5)).await;
        Err::<(), _>(Failure::reject("the first is refused"))
    });
    let running = start(rig.worker().without_fingerprint().handler(handler).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    let twin = rig.send("k", "twin").await;
    running
        .until("the twin is told apart", |status| {
            status.totals.in_flight_duplicates == 1
        })
        .await;
    assert!(rig.queue.contains(&twin));
    rig.emptied(&running).await;
    assert_eq!(rig.fates.of("twin"), [Fate::InFlightDuplicate, Fate::Duplicate]);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_23_a_key_in_progress_is_free_again_once_its_holder_died() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let first = start(rig.worker().handler(rig.takes(secs(3_600))).build().unwrap());
    first.until("it runs", |status| status.running == 1).await;
    // Its last heartbeat extends both: the visibility timeout ends while a little is left of the lease.
    rig.inbox
        .faults()
        .set(Operation::Write, Rates::new().latency(ms(1_500), ms(1_500)));
    sleep(secs(20)).await;
    first.crash().await;
    let died = now();
    let second = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&second).await;
    assert!(now() - died < secs(40), "{:?}", now() - died);
    assert_eq!(rig.record("k").unwrap().status, Status::Completed);
    second.drain().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_23_a_twin_in_flight_is_delayed_ever_longer_and_is_no_attempt() {
    let rig = Rig::new();
    rig.send("k", "same").await;
    let running = start(rig.worker().handler(rig.takes(secs(1_800))).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    let twin = rig.send("k", "same").await;
    sleep(secs(1_790)).await;
    let receives = rig.queue.peek(&twin).unwrap().receive_count;
    assert!(
        (4..=7).contains(&receives),
        "30, 60, 120, … s: {receives} receives in half an hour"
    );
    rig.emptied(&running).await;
    let status = running.drain().await;
    assert_eq!((rig.log.len(), status.totals.duplicates, rig.dead.len()), (1, 1, 0));
    assert_eq!(rig.record("k").unwrap().attempts, 0);
}

#[tokio::test(start_paused = true)]
async fn complaint_23_the_payload_check_is_never_skipped() {
    let rig = Rig::new();
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    for body in ["a", "b", "a", "c"] {
        rig.send("k", body).await;
        rig.emptied(&running).await;
    }
    assert_eq!(rig.log.bodies(), ["a"]);
    assert_eq!(rig.reasons(), ["fingerprint_mismatch"; 2]);
    assert_eq!(running.drain().await.totals.duplicates, 1);
}

#[tokio::test(start_paused = true)]
async fn complaint_23_a_delay_longer_than_the_visibility_timeout_repeats_nothing() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let handler = rig.runs(|context: redrive::Context| async move {
        if context.attempt() == 1 {
            Err(Failure::retry_after("tomorrow", secs(11 * 3_600)))
        } else {
            Ok(())
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    running
        .until("it is delayed", |status| status.totals.retried == 1)
        .await;
    sleep(secs(10 * 3_600)).await;
    assert_eq!(rig.log.len(), 1);
    sleep(secs(2 * 3_600)).await;
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 2);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_25_a_test_can_ask_what_every_message_came_to() {
    let rig = Rig::new();
    for body in ["ok", "reject", "retry"] {
        rig.send(body, body).await;
    }
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let handler = rig.runs(move |context: redrive::Context| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match (context.message().body.as_str(), context.attempt()) {
                ("reject", _) => Err(Failure::reject("no")),
                ("retry", 1) => Err(Failure::retry("once")),
                _ => Ok(()),
            }
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(rig.fates.of("ok"), [Fate::Completed]);
    assert_eq!(rig.fates.of("reject"), [Fate::DeadLettered("rejected".into())]);
    assert_eq!(rig.fates.of("retry"), [Fate::Retried, Fate::Completed]);
    assert_eq!(count.load(Ordering::SeqCst), 4);
    assert!(rig.log.runs().iter().all(|run| run.end != RunEnd::Dropped));
}
