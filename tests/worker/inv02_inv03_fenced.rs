//! One handler at a time for a key, and none whose lease is lost may settle anything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use redrive::clock::Random;
use redrive::extract::CancellationToken;
use redrive::faults::{Operation, Rates};
use redrive::inbox::Status;
use redrive::worker::Fate;
use redrive::{Context, Failure};

use crate::support::{Rig, RunEnd, ms, secs, sleep, start};

#[tokio::test(start_paused = true)]
async fn inv02_two_workers_never_run_a_key_at_once_and_each_message_once() {
    let rig = Rig::with(|queue| queue.reorder(0.3).short_receives(0.3));
    let mut ids = Vec::new();
    for n in 0..200 {
        ids.push(rig.send(&format!("k{}", n % 50), "same").await);
    }
    let worker = |seed| {
        let builder = rig.worker().random(Random::seeded(seed)).concurrency(8);
        builder.handler(rig.takes(ms(700))).build().unwrap()
    };
    let (one, two) = (start(worker(1)), start(worker(2)));
    for id in ids.iter().step_by(7) {
        sleep(ms(50)).await;
        let _ = rig.queue.duplicate(id);
    }
    rig.emptied(&one).await;
    rig.emptied(&two).await;
    one.drain().await;
    two.drain().await;
    for n in 0..50 {
        assert_eq!(rig.log.count(&format!("k{n}")), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn inv02_a_twin_that_runs_elsewhere_is_waited_for_and_then_a_duplicate() {
    let rig = Rig::new();
    rig.send("k", "first").await;
    let one = start(rig.worker().handler(rig.takes(secs(100))).build().unwrap());
    one.until("the first runs", |status| status.running == 1).await;
    one.handle.pause();
    // Its receive in flight comes back empty first.
    sleep(secs(2)).await;
    let twin = rig.send("k", "first").await;
    let two = start(
        rig.worker()
            .random(Random::seeded(2))
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    two.until("it is told apart", |status| status.totals.in_flight_duplicates == 1)
        .await;
    assert_eq!(rig.queue.peek(&twin).unwrap().receive_count, 1);
    one.handle.resume();
    rig.emptied(&two).await;
    assert_eq!(rig.log.len(), 1);
    assert_eq!(rig.record("k").unwrap().attempts, 0, "waiting for a twin is no attempt");
    assert!(rig.dead.is_empty());
    one.drain().await;
    two.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv03_a_handler_whose_lease_was_taken_over_is_cancelled_and_settles_nothing() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let first = start(rig.worker().handler(rig.takes(secs(600))).build().unwrap());
    first.until("it runs", |status| status.running == 1).await;
    // Another worker's claim, as after a partition from the inbox that outlasted the lease.
    let mut stolen = rig.record("k").unwrap();
    stolen.claim_id = "somebody-else".to_owned();
    stolen.fencing_token += 1;
    stolen.lease_until = rig.clock.epoch_ms() + 900_000;
    rig.inbox.insert(stolen.clone());
    first
        .until("the loss is noticed", |status| status.totals.lost == 1)
        .await;
    assert_eq!(rig.log.runs()[0].end, RunEnd::Dropped);
    let calls = rig.queue.calls();
    assert_eq!((calls.delete, rig.queue.len()), (0, 1));
    assert_eq!(rig.record("k").unwrap(), stolen, "the zombie changed nothing");
    assert_eq!(rig.fates.of("1"), [Fate::Lost]);
    first.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv03_no_late_write_of_a_zombie_gets_through() {
    // The claim passes on while the record of each kind of outcome is on its way.
    for outcome in ["done", "retry", "reject"] {
        let rig = Rig::new();
        rig.send("k", "1").await;
        rig.inbox
            .faults()
            .set(Operation::Write, Rates::new().latency(secs(4), secs(4)));
        let handler = rig.runs(move |_| async move {
            match outcome {
                "done" => Ok(()),
                "retry" => Err(Failure::retry("no luck")),
                _ => Err(Failure::reject("never")),
            }
        });
        let running = start(rig.worker().handler(handler).build().unwrap());
        running.until("it ran", |_| rig.log.len() == 1).await;
        sleep(secs(1)).await;
        let mut stolen = rig.record("k").unwrap();
        stolen.claim_id = "somebody-else".to_owned();
        stolen.fencing_token += 1;
        rig.inbox.insert(stolen.clone());
        running.until("it gives up", |status| status.totals.lost == 1).await;
        sleep(secs(5)).await;
        assert_eq!(rig.record("k").unwrap(), stolen, "{outcome}");
        assert_eq!((rig.queue.calls().delete, rig.dead.len()), (0, 0), "{outcome}");
        running.crash().await;
    }
}

#[tokio::test(start_paused = true)]
async fn inv03_a_worker_cut_off_from_the_inbox_stops_its_handlers_before_another_may_run_them() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let first = start(rig.worker().handler(rig.takes(secs(3_600))).build().unwrap());
    first.until("it runs", |status| status.running == 1).await;
    rig.inbox.faults().set(Operation::Write, Rates::new().before(1.0));
    first.until("it lost its lease", |status| status.totals.lost == 1).await;
    let cancelled_at = rig.clock.epoch_ms();
    assert_eq!(rig.log.runs()[0].end, RunEnd::Dropped);
    let lease_until = rig.record("k").unwrap().lease_until;
    assert!(
        cancelled_at <= lease_until + 10,
        "{cancelled_at} is after {lease_until}"
    );
    first.crash().await;
    rig.inbox.faults().heal();
    let second = start(
        rig.worker()
            .random(Random::seeded(2))
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    rig.emptied(&second).await;
    let runs = rig.log.runs();
    assert!(runs[1].token > runs[0].token, "tokens grow: {runs:?}");
    second.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv03_a_lost_lease_fires_the_runs_cancellation_token() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let kept: Arc<Mutex<Option<CancellationToken>>> = Arc::default();
    let keep = kept.clone();
    let handler = rig.runs(move |context: Context| {
        *keep.lock().unwrap() = Some(context.cancellation().clone());
        async {
            sleep(secs(600)).await;
            Ok(())
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    let token = kept.lock().unwrap().clone().unwrap();
    assert!(!token.is_cancelled());
    rig.inbox.faults().set(Operation::Write, Rates::new().before(1.0));
    running
        .until("it lost its lease", |status| status.totals.lost == 1)
        .await;
    assert!(token.is_cancelled());
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn inv03_a_checkpoint_survives_failures_and_deaths_and_is_fenced() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let seen: Arc<Mutex<Vec<Option<u32>>>> = Arc::default();
    let die = Arc::new(AtomicBool::new(false));
    let handler = {
        let (seen, die) = (seen.clone(), die.clone());
        move |checkpoint: redrive::extract::Checkpoint| {
            let (seen, die) = (seen.clone(), die.clone());
            async move {
                let step = checkpoint.load::<u32>().await?;
                seen.lock().unwrap().push(step);
                checkpoint.save(&(step.unwrap_or(0) + 1)).await?;
                match step {
                    None => Err(Failure::retry("after the first step")),
                    Some(1) => {
                        die.store(true, Ordering::SeqCst);
                        sleep(secs(600)).await;
                        Ok(())
                    }
                    Some(_) => Ok(()),
                }
            }
        }
    };
    let first = start(rig.worker().handler(handler.clone()).build().unwrap());
    first.until("the second step", |_| die.load(Ordering::SeqCst)).await;
    first.crash().await;
    let second = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&second).await;
    second.drain().await;
    assert_eq!(*seen.lock().unwrap(), [None, Some(1), Some(2)]);
    assert_eq!(rig.record("k").unwrap().status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn inv03_lost_visibility_does_not_stop_a_handler_whose_lease_holds() {
    let rig = Rig::new();
    let id = rig.send("k", "1").await;
    rig.queue
        .faults()
        .set(Operation::ChangeVisibility, Rates::new().before(1.0));
    let running = start(rig.worker().handler(rig.takes(secs(100))).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 1);
    assert_eq!(rig.log.runs()[0].end, RunEnd::Ok);
    assert!(!rig.queue.contains(&id));
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv02_two_deliveries_of_one_key_in_one_receive_run_once() {
    let rig = Rig::new();
    for _ in 0..10 {
        rig.send("k", "same").await;
    }
    let running = start(rig.worker().handler(rig.takes(ms(100))).build().unwrap());
    rig.emptied(&running).await;
    let totals = running.drain().await.totals;
    assert_eq!((rig.log.len(), totals.completed, totals.duplicates), (1, 1, 9));
    assert!(rig.inbox.calls().claims.entries < 40, "{:?}", rig.inbox.calls());
}
