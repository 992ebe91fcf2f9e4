//! A drain ends in time: the running finish, the waiting are given back, what is done is settled.

use redrive::Context;
use redrive::faults::{Fault, Operation, Rates};
use redrive::inbox::Status;
use redrive::worker::Fate;

use crate::support::{Rig, RunEnd, Spy, ms, now, secs, sleep, start};

#[tokio::test(start_paused = true)]
async fn inv08_the_running_finish_and_the_waiting_are_visible_at_once() {
    let rig = Rig::new();
    rig.send_many(20).await;
    let running = start(
        rig.worker()
            .concurrency(2)
            .handler(rig.takes(secs(20)))
            .build()
            .unwrap(),
    );
    running
        .until("two run, others wait", |status| {
            status.running == 2 && status.waiting > 0
        })
        .await;
    sleep(secs(5)).await;
    running.handle.drain();
    sleep(ms(100)).await;
    assert_eq!(rig.queue.in_flight(), 2, "what did not start is given back at once");
    assert_eq!(rig.queue.visible(), 18);
    for record in rig.inbox.records() {
        assert!(matches!(record.status, Status::Processing | Status::Released));
    }
    let status = running.ended().await.unwrap();
    assert_eq!((status.totals.completed, rig.log.done(), rig.queue.len()), (2, 2, 18));
    assert!(status.draining && status.ended && !status.is_healthy());
}

#[tokio::test(start_paused = true)]
async fn inv08_a_released_message_is_free_for_another_worker_at_once() {
    let rig = Rig::new();
    rig.send_many(12).await;
    let one = start(
        rig.worker()
            .concurrency(1)
            .handler(rig.takes(secs(60)))
            .build()
            .unwrap(),
    );
    one.until("others wait", |status| status.waiting > 0).await;
    let began = now();
    one.handle.drain();
    let two = start(rig.worker().concurrency(16).handler(rig.succeeds()).build().unwrap());
    two.until("the rest is done", |_| rig.log.done() == 11).await;
    assert!(now() - began < secs(2), "{:?}", now() - began);
    assert_eq!(
        two.status().totals.in_flight_duplicates,
        0,
        "the claim is freed before the message is visible"
    );
    one.ended().await.unwrap();
    two.drain().await;
}

#[tokio::test(start_paused = true)]
async fn inv08_the_deadline_cancels_and_releases_what_still_runs() {
    let rig = Rig::new();
    rig.send_many(5).await;
    let running = start(
        rig.worker()
            .drain_deadline(secs(20))
            .handler(rig.takes(secs(3_600)))
            .build()
            .unwrap(),
    );
    running.until("all run", |status| status.running == 5).await;
    let began = now();
    let status = running.drain().await;
    assert!(now() - began <= secs(20), "{:?}", now() - began);
    assert!(now() - began >= secs(10), "they were given time");
    assert_eq!(
        (rig.queue.visible(), rig.log.running(), status.totals.released),
        (5, 0, 5)
    );
    assert!(
        rig.inbox
            .records()
            .iter()
            .all(|record| record.status == Status::Released && record.attempts == 0)
    );
    assert!(rig.log.runs().iter().all(|run| run.end == RunEnd::Dropped));
}

#[tokio::test(start_paused = true)]
async fn inv08_handlers_are_asked_to_stop_before_they_are_stopped() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let handler = rig.runs(|context: Context| async move {
        context.cancellation().cancelled().await;
        // Half a second to leave things in order.
        sleep(ms(500)).await;
        Ok(())
    });
    let running = start(rig.worker().drain_deadline(secs(60)).handler(handler).build().unwrap());
    running.until("it runs", |status| status.running == 1).await;
    let status = running.drain().await;
    assert_eq!((status.totals.completed, rig.log.runs()[0].end), (1, RunEnd::Ok));
    assert!(rig.queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn inv08_what_receives_in_flight_bring_is_given_back_unrun() {
    let rig = Rig::new();
    let running = start(
        rig.worker()
            .long_poll(secs(20))
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    sleep(secs(5)).await;
    running.handle.drain();
    sleep(secs(1)).await;
    let id = rig.send("k", "1").await;
    running.ended().await.unwrap();
    assert_eq!((rig.log.len(), rig.queue.visible()), (0, 1));
    assert_eq!(rig.queue.peek(&id).unwrap().receive_count, 1);
    assert_eq!(rig.fates.of("1"), [Fate::Released]);
}

#[tokio::test(start_paused = true)]
async fn inv08_no_receive_starts_once_the_drain_has_begun() {
    let rig = Rig::new();
    rig.send_many(200).await;
    let running = start(rig.worker().concurrency(2).handler(rig.takes(secs(5))).build().unwrap());
    running.until("it works", |status| status.running == 2).await;
    running.handle.drain();
    sleep(ms(10)).await;
    let receives = rig.queue.calls().receive;
    running.ended().await.unwrap();
    assert_eq!(rig.queue.calls().receive, receives);
}

#[tokio::test(start_paused = true)]
async fn complaint_07_buffered_deletes_are_flushed_at_shutdown() {
    let rig = Rig::new();
    rig.send_many(5).await;
    let running = start(rig.worker().linger(secs(1)).handler(rig.succeeds()).build().unwrap());
    running.until("all ran", |_| rig.log.done() == 5).await;
    assert_eq!(rig.queue.len(), 5, "still buffered");
    let status = running.drain().await;
    assert_eq!((rig.queue.len(), status.totals.completed), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn inv08_flushing_survives_failing_calls() {
    let rig = Rig::new();
    rig.send_many(5).await;
    let running = start(rig.worker().handler(rig.takes(secs(1))).build().unwrap());
    running.until("all run", |status| status.running == 5).await;
    rig.queue.faults().set(Operation::Delete, Rates::new().before(0.5));
    rig.inbox.faults().set(Operation::Write, Rates::new().before(0.5));
    let status = running.drain().await;
    assert_eq!((rig.queue.len(), status.totals.completed), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn complaint_20_a_hung_handler_blocks_no_stop_and_stops_may_be_repeated() {
    let rig = Rig::new();
    rig.send_many(3).await;
    let handler = rig.runs(|_| async {
        std::future::pending::<()>().await;
        Ok(())
    });
    let running = start(rig.worker().drain_deadline(secs(30)).handler(handler).build().unwrap());
    running.until("all hang", |status| status.running == 3).await;
    let began = now();
    for _ in 0..5 {
        running.handle.drain();
        sleep(ms(100)).await;
    }
    running.ended().await.unwrap();
    assert!(now() - began <= secs(30));
}

#[tokio::test(start_paused = true)]
async fn complaint_20_a_second_stop_is_immediate() {
    let rig = Rig::new();
    rig.send_many(3).await;
    let running = start(rig.worker().handler(rig.takes(secs(3_600))).build().unwrap());
    running.until("all run", |status| status.running == 3).await;
    running.handle.drain();
    sleep(secs(1)).await;
    let began = now();
    running.handle.stop();
    running.ended().await.unwrap();
    assert_eq!(now(), began);
    assert_eq!(rig.log.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn complaint_20_no_message_is_taken_in_flight_after_the_stop() {
    let rig = Rig::new();
    let spy = Spy::on(&rig.queue);
    let running = start(
        rig.on(spy.clone())
            .inbox(rig.inbox.clone())
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    sleep(secs(3)).await;
    running.drain().await;
    let ended = now();
    rig.send_many(3).await;
    sleep(secs(60)).await;
    assert!(
        spy.calls(Operation::Receive)
            .iter()
            .all(|call| call.ended.is_some_and(|at| at <= ended))
    );
    assert_eq!(rig.queue.visible(), 3);
}

#[tokio::test(start_paused = true)]
async fn inv08_a_claim_that_was_answered_too_late_is_freed_before_the_drain_ends() {
    let rig = Rig::with(|queue| queue.visibility_timeout(secs(10)));
    rig.send("k", "1").await;
    rig.inbox.faults().slow_next(Operation::Claim, 1, secs(14));
    rig.inbox.faults().fail_next(Operation::Write, 3, Fault::Throttled);
    let running = start(rig.worker().lease(secs(60)).handler(rig.succeeds()).build().unwrap());
    running
        .until("it is received", |status| status.totals.received == 1)
        .await;
    rig.queue.faults().set_unreachable(true);
    running
        .until("its visibility is lost", |status| status.totals.lost == 1)
        .await;
    let status = running.drain().await;
    assert_eq!((status.totals.received, rig.log.len()), (1, 0));
    assert_eq!(rig.record("k").unwrap().status, Status::Released);
}

#[tokio::test(start_paused = true)]
async fn inv08_a_drain_ends_in_time_although_nothing_answers() {
    let rig = Rig::new();
    rig.send_many(20).await;
    let running = start(
        rig.worker()
            .drain_deadline(secs(40))
            .handler(rig.takes(secs(5)))
            .build()
            .unwrap(),
    );
    running.until("they run", |status| status.running == 16).await;
    rig.queue
        .faults()
        .set_all(Rates::new().latency(secs(3_600), secs(3_600)));
    rig.inbox
        .faults()
        .set_all(Rates::new().latency(secs(3_600), secs(3_600)));
    let began = now();
    running.drain().await;
    assert!(now() - began <= secs(40), "{:?}", now() - began);
}

#[tokio::test(start_paused = true)]
async fn inv08_a_drain_without_time_ends_at_once() {
    let rig = Rig::new();
    rig.send_many(3).await;
    let running = start(
        rig.worker()
            .drain_deadline(secs(0))
            .handler(rig.takes(secs(60)))
            .build()
            .unwrap(),
    );
    running.until("all run", |status| status.running == 3).await;
    let began = now();
    running.drain().await;
    assert!(now() - began <= ms(1));
}

#[tokio::test(start_paused = true)]
async fn inv08_an_idle_worker_drains_cleanly_and_so_does_one_that_never_worked() {
    let rig = Rig::new();
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    sleep(secs(300)).await;
    running.drain().await;
    let worker = rig.worker().handler(rig.succeeds()).build().unwrap();
    worker.handle().drain();
    start(worker).ended().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn inv08_a_drain_ends_a_pause() {
    let rig = Rig::new();
    rig.send_many(10).await;
    let running = start(rig.worker().concurrency(1).handler(rig.takes(secs(2))).build().unwrap());
    running.until("others wait", |status| status.waiting > 0).await;
    running.handle.pause();
    sleep(secs(10)).await;
    running.drain().await;
    assert_eq!(rig.queue.visible(), 9);
}

#[tokio::test(start_paused = true)]
async fn inv08_a_dead_letter_under_way_is_finished_by_the_drain() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    rig.dead.faults().set_all(Rates::new().latency(secs(2), secs(2)));
    let handler = rig.runs(|_| async { Err::<(), _>(redrive::Failure::reject("never")) });
    let running = start(rig.worker().handler(handler).build().unwrap());
    running.until("it is given up", |_| rig.log.len() == 1).await;
    running.drain().await;
    assert_eq!((rig.queue.len(), rig.dead.len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn inv08_a_worker_dropped_in_mid_drain_loses_nothing() {
    let rig = Rig::new();
    rig.send_many(10).await;
    let running = start(rig.worker().handler(rig.takes(secs(30))).build().unwrap());
    running.until("all run", |status| status.running == 10).await;
    running.handle.drain();
    sleep(secs(1)).await;
    running.crash().await;
    assert_eq!(rig.queue.len(), 10);
    let next = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&next).await;
    next.drain().await;
    assert_eq!(rig.log.done(), 10);
}

#[tokio::test(start_paused = true)]
async fn handles_of_an_ended_worker_do_nothing() {
    let rig = Rig::new();
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    sleep(secs(1)).await;
    let handle = running.handle.clone();
    running.drain().await;
    handle.pause();
    handle.resume();
    handle.drain();
    handle.stop();
    assert!(handle.status().ended);
}
