//! Nothing is lost: a message is deleted only after its outcome is durable, whatever fails on the way.

use std::sync::atomic::{AtomicBool, Ordering};

use redrive::Context;
use redrive::faults::{Fault, Operation, Rates};
use redrive::inbox::Status;
use redrive::worker::Fate;

use crate::support::{Rig, RunEnd, ms, secs, sleep, start};

#[tokio::test(start_paused = true)]
async fn inv01_a_thousand_messages_with_duplicates_are_processed_once() {
    let rig = Rig::new();
    for n in 0..1_000 {
        rig.send(&format!("k{}", n / 2), "same").await;
    }
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    let totals = running.drain().await.totals;
    assert_eq!(rig.log.len(), 500);
    assert_eq!((totals.completed, totals.duplicates), (500, 500));
    assert!(rig.dead.is_empty());
}

#[tokio::test(start_paused = true)]
async fn inv01_the_delete_comes_after_the_record() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    // The record takes half a second to be written; until it is, the message must be there.
    rig.inbox
        .faults()
        .set(Operation::Write, Rates::new().latency(ms(500), ms(500)));
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    running.until("it ran", |_| rig.log.done() == 1).await;
    while rig.record("k").unwrap().status != Status::Completed {
        assert_eq!((rig.queue.len(), rig.queue.calls().delete), (1, 0));
        sleep(ms(5)).await;
    }
    rig.emptied(&running).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_an_unwritable_record_keeps_the_lease_and_is_written_later_without_a_second_run() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let faults = rig.inbox.faults().clone();
    let handler = rig.runs(move |_| {
        // Fails the completion and what follows it for a while, but every fourth renewal gets through.
        faults.fail_next(Operation::Write, 3, Fault::Throttled);
        async { Ok(()) }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 1);
    assert_eq!(rig.record("k").unwrap().status, Status::Completed);
    let totals = running.drain().await.totals;
    assert_eq!((totals.completed, totals.lost), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn inv01_a_result_that_outlives_its_lease_unrecorded_is_recorded_by_this_worker_without_a_second_run() {
    let rig = Rig::new();
    let running = rig.loses_what_is_done_and_unrecorded().await;
    assert_eq!(rig.queue.len(), 1, "what is not recorded is not deleted");
    // Only once it has claimed the message anew, so that the first claim's last word comes too late.
    running
        .until("it is received again", |status| status.totals.received == 2)
        .await;
    sleep(secs(1)).await;
    rig.inbox.faults().heal();
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 1, "the handler never runs twice in this worker");
    assert_eq!(rig.record("k").unwrap().status, Status::Completed);
    assert_eq!(running.drain().await.totals.completed, 1);
}

#[tokio::test(start_paused = true)]
async fn inv01_an_unrecorded_result_is_not_recorded_for_new_work_under_its_key() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let faults = rig.inbox.faults().clone();
    let handler = rig.runs(move |context: Context| {
        if context.message().body == "1" && context.attempt() == 1 {
            faults.set(Operation::Write, Rates::new().before(1.0));
        }
        async { Ok("a receipt") }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    running
        .until("the lease is lost", |status| status.totals.lost == 1)
        .await;
    running.handle.pause();
    sleep(secs(2)).await;
    // Another worker completes it, and the operator has the inbox forget the key, so that it runs again.
    rig.queue.purge();
    rig.inbox
        .remove(&redrive::key::RecordKey::new("orders", &redrive::key::Key::new("k")));
    rig.inbox.faults().heal();
    rig.send("k", "1").await;
    running.handle.resume();
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 2, "new work was taken for what was done before");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_lost_replies_on_every_call_lose_and_repeat_nothing() {
    for operation in [
        Operation::Receive,
        Operation::Delete,
        Operation::ChangeVisibility,
        Operation::Claim,
        Operation::Write,
    ] {
        let rig = Rig::new();
        rig.send_many(40).await;
        for faults in [rig.queue.faults(), rig.inbox.faults()] {
            faults.set(operation, Rates::new().after(0.3));
        }
        let handler = rig.runs(|context| async move {
            sleep(ms(20)).await;
            if context.attempt() == 1 {
                Err(redrive::Failure::retry("once"))
            } else {
                Ok(())
            }
        });
        let worker = rig.worker().without_breaker().handler(handler).build().unwrap();
        let running = start(worker);
        rig.emptied(&running).await;
        running.drain().await;
        let done = (0..40).map(|n| rig.log.of(&format!("k{n}")));
        for runs in done {
            let ok = runs.iter().filter(|run| run.end == RunEnd::Ok).count();
            assert_eq!(ok, 1, "{operation:?}: {runs:?}");
        }
        assert!(rig.dead.is_empty(), "{operation:?}");
        let injected = rig.queue.faults().injected() + rig.inbox.faults().injected();
        assert!(injected > 0, "{operation:?} was never faulty");
    }
}

#[tokio::test(start_paused = true)]
async fn inv01_requests_lost_on_every_call_lose_and_repeat_nothing() {
    let rig = Rig::new();
    rig.send_many(60).await;
    for faults in [rig.queue.faults(), rig.inbox.faults(), rig.dead.faults()] {
        faults.set_all(Rates::new().before(0.1).throttled(0.1).after(0.1).entries(0.1));
    }
    let handler = rig.runs(|context| async move {
        if context.message().body.parse::<u32>().unwrap() % 10 == 0 {
            return Err(redrive::Failure::reject("a multiple of ten"));
        }
        Ok(())
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    for n in 0..60 {
        let record = rig.record(&format!("k{n}")).unwrap();
        let expected = if n % 10 == 0 {
            Status::Rejected
        } else {
            Status::Completed
        };
        assert_eq!(record.status, expected, "{record:?}");
        let ok = rig
            .log
            .of(&format!("k{n}"))
            .iter()
            .filter(|run| run.end != RunEnd::Dropped)
            .count();
        assert_eq!(ok, 1, "k{n} ran to its end {ok} times");
    }
    let mut keys: Vec<_> = rig.letters().into_iter().map(|letter| letter.key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys, ["k0", "k10", "k20", "k30", "k40", "k50"]);
}

#[tokio::test(start_paused = true)]
async fn inv01_an_unreachable_inbox_delays_messages_unrun_and_undeleted() {
    let rig = Rig::new();
    rig.send_many(10).await;
    rig.inbox.faults().set_unreachable(true);
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    sleep(secs(20 * 60)).await;
    assert_eq!((rig.log.len(), rig.queue.len()), (0, 10));
    assert!(rig.dead.is_empty(), "an outage of the inbox fills no dead-letter queue");
    let status = running.status();
    assert!(
        status.totals.delayed >= 10 && status.totals.breaker_opened >= 1,
        "{status:?}"
    );
    rig.inbox.faults().heal();
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 10);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_the_inboxs_breaker_spares_receives_during_its_outage() {
    let rig = Rig::new();
    rig.send_many(10).await;
    rig.inbox.faults().set_unreachable(true);
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    running
        .until("its breaker is open", |status| {
            status.inbox_breaker.is_some_and(|breaker| !breaker.is_closed())
        })
        .await;
    // What a receive in flight brings is still taken in.
    sleep(secs(2)).await;
    let received = rig.queue.calls().received;
    sleep(secs(20 * 60)).await;
    let more = rig.queue.calls().received - received;
    assert!(more <= 8, "{more} deliveries were spent on an inbox that is down");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_a_ghost_and_a_duplicate_of_a_completed_message_are_deleted_unrun() {
    let rig = Rig::new();
    let id = rig.send("k", "1").await;
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    rig.queue.ghost(&id).unwrap();
    rig.emptied(&running).await;
    rig.send("k", "1").await;
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 1);
    assert_eq!(rig.fates.of("1"), [Fate::Completed, Fate::Duplicate, Fate::Duplicate]);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv01_a_message_that_would_expire_while_delayed_is_dead_lettered() {
    let rig = Rig::with(|queue| queue.retention(secs(300)));
    rig.send("k", "1").await;
    sleep(secs(200)).await;
    let handler = rig.runs(|_| async { Err::<(), _>(redrive::Failure::retry_after("closed today", secs(600))) });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    let letter = rig.letters().pop().unwrap();
    assert_eq!((letter.reason.as_str(), letter.attempts), ("expiring", 1));
    assert!(letter.error.contains("closed today"), "{}", letter.error);
}

#[tokio::test(start_paused = true)]
async fn inv01_what_the_inbox_cannot_answer_for_is_dead_lettered_before_it_expires() {
    let rig = Rig::with(|queue| queue.retention(secs(300)));
    rig.send("k", "1").await;
    rig.inbox.faults().set_unreachable(true);
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(rig.log.len(), 0);
    assert_eq!(rig.reasons(), ["expiring"]);
}

#[tokio::test(start_paused = true)]
async fn inv01_a_crash_at_any_moment_loses_nothing() {
    // The worker is killed after 1, 2, … ms of a life of failing, rejecting and succeeding handlers, and started again.
    for after in (0..60).step_by(2) {
        let rig = Rig::new();
        rig.send_many(12).await;
        for faults in [rig.queue.faults(), rig.inbox.faults(), rig.dead.faults()] {
            faults.set_all(Rates::new().latency(ms(2), ms(6)));
        }
        let handler = || {
            rig.runs(|context| async move {
                sleep(ms(3)).await;
                match context.message().body.parse::<u32>().unwrap() % 3 {
                    0 => Err(redrive::Failure::reject("never")),
                    1 if context.attempt() == 1 => Err(redrive::Failure::retry("once")),
                    _ => Ok(()),
                }
            })
        };
        let first = start(rig.worker().handler(handler()).build().unwrap());
        sleep(ms(after)).await;
        first.crash().await;
        let second = start(rig.worker().handler(handler()).build().unwrap());
        rig.emptied(&second).await;
        second.drain().await;
        let mut letters: Vec<_> = rig.letters().into_iter().map(|letter| letter.key).collect();
        letters.sort();
        letters.dedup();
        assert_eq!(letters, ["k0", "k3", "k6", "k9"], "killed after {after} ms");
        for n in 0..12 {
            let record = rig.record(&format!("k{n}")).unwrap();
            let expected = if n % 3 == 0 {
                Status::Rejected
            } else {
                Status::Completed
            };
            assert_eq!(record.status, expected, "killed after {after} ms: {record:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn inv01_a_delete_that_fails_for_long_brings_the_message_back_as_a_duplicate() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    rig.queue.faults().set(Operation::Delete, Rates::new().before(1.0));
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    running
        .until("it is recorded", |status| status.totals.completed == 1)
        .await;
    sleep(secs(120)).await;
    assert_eq!(rig.queue.len(), 1);
    rig.queue.faults().heal();
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 1);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv11_one_bad_entry_fails_only_itself() {
    let rig = Rig::new();
    rig.send_many(10).await;
    rig.queue.faults().fail_next_entries(Operation::Delete, [3]);
    rig.inbox.faults().fail_next_entries(Operation::Claim, [0]);
    rig.inbox.faults().fail_next_entries(Operation::Write, [5]);
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    sleep(ms(100)).await;
    assert!(
        rig.queue.len() <= 3,
        "the other entries were settled at once: {}",
        rig.queue.len()
    );
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 10);
    assert_eq!(running.drain().await.totals.completed, 10);
}

#[tokio::test(start_paused = true)]
async fn inv01_a_stopped_worker_leaves_its_messages_to_the_next() {
    let rig = Rig::new();
    rig.send_many(5).await;
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let handler = rig.runs(move |_| {
        let seen = seen.clone();
        async move {
            while !seen.load(Ordering::SeqCst) {
                sleep(secs(1)).await;
            }
            Ok(())
        }
    });
    let first = start(rig.worker().handler(handler).build().unwrap());
    first.until("all run", |status| status.running == 5).await;
    first.handle.stop();
    assert!(first.ended().await.unwrap().ended);
    assert_eq!(
        (rig.log.running(), rig.queue.len()),
        (0, 5),
        "handlers die with their worker"
    );
    let second = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&second).await;
    second.drain().await;
    assert_eq!(rig.log.done(), 5);
    assert!(rig.dead.is_empty());
}

#[tokio::test(start_paused = true)]
async fn inv01_waiting_for_a_dead_holders_lease_does_not_outlast_the_queues_retention() {
    let rig = Rig::with(|queue| queue.retention(secs(300)).visibility_timeout(secs(30)));
    rig.send("k", "1").await;
    sleep(secs(200)).await;
    // A holder that died left a lease of fifteen minutes behind.
    let first = start(
        rig.worker()
            .lease(secs(900))
            .handler(rig.takes(secs(60)))
            .build()
            .unwrap(),
    );
    first.until("it runs", |status| status.running == 1).await;
    first.crash().await;
    let second = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    sleep(secs(1_200)).await;
    second.drain().await;
    let done = rig.log.done() == 1 || rig.dead.len() == 1;
    assert!(done, "the message vanished: neither run nor dead-lettered");
}
