//! Heartbeats keep what is held, stop before it is settled, and never run past SQS's 12 hours.

use redrive::clock::Instant;
use redrive::faults::{Operation, Rates};
use redrive::message::Receipt;
use redrive::queue::memory::HeldState;
use redrive::worker::Fate;
use redrive::{Context, Failure};

use crate::support::{Rig, RunEnd, Spy, ms, secs, sleep, start};

#[tokio::test(start_paused = true)]
async fn complaint_10_a_handler_longer_than_the_visibility_timeout_keeps_its_message() {
    let rig = Rig::new();
    let id = rig.send("k", "1").await;
    let running = start(rig.worker().handler(rig.takes(secs(600))).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    while rig.log.running() == 1 {
        let held = rig.queue.peek(&id).unwrap();
        assert_eq!(held.receive_count, 1);
        assert!(matches!(held.state, HeldState::InFlight { .. }));
        sleep(secs(1)).await;
    }
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 1);
    assert_eq!(running.drain().await.totals.lost, 0);
}

#[tokio::test(start_paused = true)]
async fn complaint_16_heartbeats_are_no_more_frequent_than_needed_and_share_calls() {
    let rig = Rig::new();
    rig.send_many(10).await;
    let running = start(rig.worker().handler(rig.takes(secs(600))).build().unwrap());
    running.until("all run", |status| status.running == 10).await;
    rig.queue.reset_calls();
    rig.emptied(&running).await;
    let calls = rig.queue.calls();
    // Every 12 to 15 s, ten at a time.
    assert!((40..=60).contains(&(calls.change_visibility_entries / 10)), "{calls:?}");
    assert!(calls.change_visibility <= 110, "{calls:?}");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_11_a_run_of_more_than_twelve_hours_neither_spams_errors_nor_ends_in_the_dead_letter_queue() {
    let rig = Rig::with(|queue| queue.visibility_timeout(secs(300)));
    rig.send("k", "1").await;
    let running = start(rig.worker().handler(rig.takes(secs(15 * 60 * 60))).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    sleep(secs(14 * 60 * 60)).await;
    let status = running.status();
    assert_eq!((rig.log.running(), status.totals.lost), (1, 0), "the lease holds");
    assert!(rig.dead.is_empty(), "{status:?}");
    let message = rig.queue.messages().pop().unwrap();
    assert!(
        rig.queue.peek(&message.id).unwrap().receive_count <= 3,
        "received again once, and kept by that receive"
    );
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), rig.log.runs()[0].end), (1, RunEnd::Ok));
    running.drain().await;
}

/// Whether a settle of a receipt began while a heartbeat of it was under way, or a heartbeat after a settle.
fn races(spy: &Spy) -> Vec<String> {
    let mut found = Vec::new();
    let changes = spy.calls(Operation::ChangeVisibility);
    let mut ends: Vec<(Receipt, usize, Instant)> = Vec::new();
    for call in spy.calls(Operation::Delete) {
        ends.extend(
            call.receipts
                .iter()
                .map(|receipt| (receipt.clone(), call.order, call.began)),
        );
    }
    for (receipt, order, began) in ends {
        for change in changes.iter().filter(|change| change.receipts.contains(&receipt)) {
            if change.order > order {
                found.push(format!("{receipt:?}: a heartbeat after its delete"));
            } else if change.ended_order > order && change.ended != Some(began) {
                found.push(format!("{receipt:?}: deleted during a heartbeat"));
            }
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn complaint_12_no_heartbeat_races_a_delete() {
    // Handlers end at every moment around heartbeats that take 4 s.
    let rig = Rig::new();
    rig.send_many(80).await;
    let spy = Spy::on(&rig.queue);
    rig.queue
        .faults()
        .set(Operation::ChangeVisibility, Rates::new().latency(secs(4), secs(4)));
    let handler = rig.runs(|context: Context| async move {
        let n: u64 = context.message().body.parse().unwrap();
        sleep(ms(10_000 + n * 100)).await;
        Ok(())
    });
    let worker = rig
        .on(spy.clone())
        .inbox(rig.inbox.clone())
        .concurrency(80)
        .handler(handler);
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(races(&spy), [""; 0]);
    assert_eq!(rig.log.len(), 80);
    assert_eq!(rig.queue.calls().stale_deletes, 0);
}

#[tokio::test(start_paused = true)]
async fn complaint_12_no_heartbeat_clobbers_a_backoff() {
    let rig = Rig::new();
    rig.queue
        .faults()
        .set(Operation::ChangeVisibility, Rates::new().latency(secs(4), secs(4)));
    for n in 0..40 {
        rig.send(&format!("k{n}"), &n.to_string()).await;
    }
    let handler = rig.runs(|context: Context| async move {
        let n: u64 = context.message().body.parse().unwrap();
        sleep(ms(11_000 + n * 100)).await;
        if context.attempt() == 1 {
            Err(Failure::retry_after("later", secs(300)))
        } else {
            Ok(())
        }
    });
    let worker = rig.worker().without_breaker().concurrency(40).handler(handler);
    let running = start(worker.build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    for n in 0..40 {
        let runs = rig.log.of(&format!("k{n}"));
        let waited = runs[1].began - runs[0].ended.unwrap();
        assert!(
            waited >= secs(300) && waited < secs(312),
            "k{n} came back after {waited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn complaint_13_prefetched_messages_never_expire_unseen() {
    let rig = Rig::new();
    rig.send_many(30).await;
    let running = start(
        rig.worker()
            .concurrency(2)
            .handler(rig.takes(secs(25)))
            .build()
            .unwrap(),
    );
    while !rig.queue.is_empty() {
        for message in rig.queue.messages() {
            let held = rig.queue.peek(&message.id);
            assert!(held.is_none_or(|held| held.receive_count <= 1), "expired unseen");
        }
        sleep(secs(1)).await;
    }
    let totals = running.drain().await.totals;
    assert_eq!((totals.received, totals.completed, totals.lost), (30, 30, 0));
}

#[tokio::test(start_paused = true)]
async fn complaint_14_the_queues_own_visibility_timeout_counts() {
    let rig = Rig::with(|queue| queue.visibility_timeout(secs(600)));
    let id = rig.send("k", "1").await;
    // The spy asserts that receives name none of their own.
    let spy = Spy::on(&rig.queue);
    let running = start(
        rig.on(spy)
            .inbox(rig.inbox.clone())
            .handler(rig.takes(secs(60)))
            .build()
            .unwrap(),
    );
    running.until("it runs", |status| status.running == 1).await;
    sleep(secs(40)).await;
    let HeldState::InFlight { until } = rig.queue.peek(&id).unwrap().state else {
        panic!("not in flight")
    };
    assert!(until - rig.log.runs()[0].began >= secs(599));
    assert_eq!(
        rig.queue.calls().change_visibility,
        0,
        "a minute needs no heartbeat of ten"
    );
    let lease = rig.record("k").unwrap().lease_until - rig.clock.epoch_ms();
    assert!(
        (500_000..=600_000).contains(&lease),
        "the lease is the visibility timeout: {lease}"
    );
    rig.emptied(&running).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv06_failing_heartbeats_are_repeated_before_the_lease_is_lost() {
    let rig = Rig::new();
    rig.send_many(5).await;
    rig.queue
        .faults()
        .set(Operation::ChangeVisibility, Rates::new().before(0.5).entries(0.2));
    rig.inbox
        .faults()
        .set(Operation::Write, Rates::new().before(0.4).after(0.1).entries(0.2));
    let running = start(rig.worker().handler(rig.takes(secs(600))).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), running.drain().await.totals.lost), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn inv06_what_is_received_again_and_again_while_it_runs_is_renewed_all_the_same() {
    let rig = Rig::new();
    let id = rig.send("k", "1").await;
    let running = start(rig.worker().handler(rig.takes(secs(60))).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    // Sooner than half of a lease after the one before, each time.
    for _ in 0..5 {
        sleep(secs(9)).await;
        rig.queue.duplicate(&id).unwrap();
    }
    rig.emptied(&running).await;
    let totals = running.drain().await.totals;
    assert!(totals.in_flight_duplicates >= 5, "{totals:?}");
    assert_eq!((rig.log.len(), totals.lost), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn inv06_without_heartbeats_a_long_run_loses_its_lease() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let running = start(
        rig.worker()
            .without_heartbeat()
            .handler(rig.takes(secs(45)))
            .build()
            .unwrap(),
    );
    running.until("it is lost", |status| status.totals.lost == 1).await;
    assert_eq!(rig.queue.calls().change_visibility, 0);
    let run = &rig.log.runs()[0];
    assert_eq!(run.end, RunEnd::Dropped);
    assert!(run.ended.unwrap() - run.began <= secs(30));
    assert_eq!(rig.fates.of("1"), [Fate::Lost]);
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn inv06_an_idle_worker_beats_for_nothing() {
    let rig = Rig::new();
    rig.send_many(20).await;
    let running = start(rig.worker().handler(rig.takes(secs(40))).build().unwrap());
    rig.emptied(&running).await;
    rig.queue.reset_calls();
    let writes = rig.inbox.calls().writes.calls;
    sleep(secs(3_600)).await;
    assert_eq!(
        (rig.queue.calls().change_visibility, rig.inbox.calls().writes.calls),
        (0, writes)
    );
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn complaint_15_a_run_over_the_visibility_timeout_reaches_its_end_also_when_it_fails() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let handler = rig.runs(|_| async {
        sleep(secs(90)).await;
        Err::<(), _>(Failure::retry("no luck"))
    });
    let running = start(rig.worker().max_attempts(3).handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(
        (rig.log.len(), rig.reasons()),
        (3, vec!["attempts_exhausted".to_owned()])
    );
}
