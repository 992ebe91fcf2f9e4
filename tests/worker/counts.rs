//! What the work costs in calls, counted under steady backlog with instant handlers.

use redrive::Failure;
use redrive::extract::Text;
use redrive::flow::BreakerState;
use redrive::handler::batch;

use crate::support::{Rig, ms, secs, sleep, start};

const MESSAGES: usize = 10_000;

async fn calls_per_message(rig: &Rig, worker: redrive::Worker) -> f64 {
    rig.send_many(MESSAGES).await;
    rig.queue.reset_calls();
    let running = start(worker);
    while !rig.queue.is_empty() {
        sleep(ms(1)).await;
    }
    let calls = rig.queue.calls();
    running.drain().await;
    assert_eq!(rig.log.done(), MESSAGES);
    println!("{calls:?}");
    calls.total() as f64 / MESSAGES as f64
}

#[tokio::test(start_paused = true)]
async fn at_most_0_22_sqs_calls_a_message_with_an_inbox() {
    let rig = Rig::new();
    let worker = rig
        .worker()
        .long_poll(secs(20))
        .handler(rig.succeeds())
        .build()
        .unwrap();
    let calls = calls_per_message(&rig, worker).await;
    assert!(calls <= 0.22, "{calls} calls a message");
    let inbox = rig.inbox.calls();
    let per_message = (inbox.claims.calls + inbox.writes.calls) as f64 / MESSAGES as f64;
    assert!(per_message <= 0.22, "{per_message} inbox calls a message: {inbox:?}");
    assert_eq!(inbox.write_units as usize, 2 * MESSAGES, "one claim and one completion");
}

#[tokio::test(start_paused = true)]
async fn at_most_0_22_sqs_calls_a_message_without_an_inbox() {
    let rig = Rig::new();
    let worker = rig.bare().long_poll(secs(20)).handler(rig.succeeds()).build().unwrap();
    let calls = calls_per_message(&rig, worker).await;
    assert!(calls <= 0.22, "{calls} calls a message");
}

#[tokio::test(start_paused = true)]
async fn at_most_0_22_sqs_calls_a_message_when_calls_and_handlers_take_time() {
    for concurrency in [4, 64] {
        let rig = Rig::new();
        for faults in [rig.queue.faults(), rig.inbox.faults()] {
            faults.set_all(redrive::faults::Rates::new().latency(ms(3), ms(12)));
        }
        rig.queue
            .faults()
            .set(redrive::faults::Operation::Send, redrive::faults::Rates::new());
        let worker = rig.worker().long_poll(secs(20)).concurrency(concurrency);
        let calls = calls_per_message(&rig, worker.handler(rig.takes(ms(4))).build().unwrap()).await;
        println!("{concurrency} {calls}");
        assert!(calls <= 0.25, "{calls} calls a message with {concurrency} slots");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_makes_three_calls_a_minute() {
    let rig = Rig::new();
    let running = start(
        rig.worker()
            .long_poll(secs(20))
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    sleep(secs(60)).await;
    rig.queue.reset_calls();
    sleep(secs(3_600)).await;
    assert_eq!(rig.queue.calls().total(), 180);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn no_call_at_all_is_made_while_the_breaker_is_open_and_nothing_is_held() {
    let rig = Rig::new();
    rig.send_many(300).await;
    let worker = rig.worker().keep_while_open(ms(1)).handler(rig.fails());
    let running = start(worker.build().unwrap());
    let open = |status: &redrive::worker::Status| {
        matches!(status.breaker, Some(BreakerState::Open { .. }))
            && status.running + status.waiting + status.ending == 0
    };
    running.until("open, nothing held", open).await;
    sleep(secs(2)).await;
    let mut looked = 0;
    let mut before = rig.queue.calls();
    for _ in 0..2_000 {
        let was = running.status();
        sleep(ms(100)).await;
        let after = rig.queue.calls();
        // The same opening: no probe in between.
        if open(&was) && was.breaker == running.status().breaker {
            assert_eq!(after, before);
            looked += 1;
        }
        before = after;
    }
    assert!(looked > 1_000, "{looked}");
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn deletes_and_visibility_changes_go_out_in_tens() {
    let rig = Rig::new();
    rig.send_many(1_000).await;
    let handler = rig.runs(|context: redrive::Context| async move {
        if context.attempt() == 1 {
            Err(Failure::retry_after("later", secs(60)))
        } else {
            Ok(())
        }
    });
    let running = start(
        rig.worker()
            .without_breaker()
            .concurrency(32)
            .handler(handler)
            .build()
            .unwrap(),
    );
    rig.emptied(&running).await;
    let calls = rig.queue.calls();
    assert_eq!((calls.delete_entries, calls.change_visibility_entries), (1_000, 1_000));
    assert!(calls.delete <= 125 && calls.change_visibility <= 125, "{calls:?}");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_handler_costs_no_more_calls() {
    let rig = Rig::new();
    rig.send_many(2_000).await;
    rig.queue.reset_calls();
    let handler = batch(50, ms(20), |bodies: Vec<Text>| async move {
        bodies.iter().map(|_| Ok(())).collect::<Vec<Result<(), Failure>>>()
    });
    let running = start(
        rig.worker()
            .long_poll(secs(20))
            .concurrency(4)
            .handler(handler)
            .build()
            .unwrap(),
    );
    while !rig.queue.is_empty() {
        sleep(ms(1)).await;
    }
    let calls = rig.queue.calls();
    assert!(calls.total() <= 450, "{calls:?}");
    running.drain().await;
}
