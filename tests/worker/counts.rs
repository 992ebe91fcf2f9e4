//! What the work costs in calls, with the default lingers: counted under virtual time, so the same on any machine.
//! `tests/counts.rs` counts on the server's side of the real queue and inbox.

use redrive::Failure;
use redrive::extract::Text;
use redrive::faults::{Operation, Rates};
use redrive::flow::BreakerState;
use redrive::handler::batch;

use crate::support::{Rig, ms, secs, sleep, start};

const MESSAGES: usize = 5_000;

/// Of the least there can be, 0.2 (ten messages a receive, ten a delete), with what the beginning and the end are more.
const SQS_CALLS_A_MESSAGE: f64 = 0.205;

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
    calls.total() as f64 / MESSAGES as f64
}

/// Lets every call take between 3 and 12 ms.
fn take_time(rig: &Rig) {
    for faults in [rig.queue.faults(), rig.inbox.faults()] {
        faults.set_all(Rates::new().latency(ms(3), ms(12)));
    }
    rig.queue.faults().set(Operation::Send, Rates::new());
}

fn inbox_calls_per_message(rig: &Rig) -> f64 {
    let inbox = rig.inbox.calls();
    assert_eq!(inbox.write_units as usize, 2 * MESSAGES, "one claim and one completion");
    (inbox.claims.calls + inbox.writes.calls) as f64 / MESSAGES as f64
}

#[tokio::test(start_paused = true)]
async fn at_most_0_205_sqs_calls_a_message_with_an_inbox() {
    let rig = Rig::new();
    let worker = rig
        .worker()
        .long_poll(secs(20))
        .handler(rig.succeeds())
        .build()
        .unwrap();
    let calls = calls_per_message(&rig, worker).await;
    assert!(calls <= SQS_CALLS_A_MESSAGE, "{calls} calls a message");
    // A claim for each ten, a write for each 25.
    let calls = inbox_calls_per_message(&rig);
    assert!(calls <= 0.145, "{calls} inbox calls a message");
}

#[tokio::test(start_paused = true)]
async fn at_most_0_205_sqs_calls_a_message_without_an_inbox() {
    let rig = Rig::new();
    let worker = rig.bare().long_poll(secs(20)).handler(rig.succeeds()).build().unwrap();
    let calls = calls_per_message(&rig, worker).await;
    assert!(calls <= SQS_CALLS_A_MESSAGE, "{calls} calls a message");
}

/// With the default lingers, too: under a backlog a delete's 20 ms always gather ten. The 5 ms of an inbox write gather 25
/// with many slots, so that the inbox is called 0.14 times a message; with four slots, of 4 ms, they gather six.
#[tokio::test(start_paused = true)]
async fn at_most_0_205_sqs_calls_a_message_when_calls_and_handlers_take_time() {
    for (concurrency, handler, inbox_calls) in [(4, 4, 0.265), (64, 4, 0.15), (64, 20, 0.17), (256, 50, 0.155)] {
        for inbox in [false, true] {
            let rig = Rig::new();
            take_time(&rig);
            let worker = if inbox { rig.worker() } else { rig.bare() };
            let worker = worker
                .long_poll(secs(20))
                .concurrency(concurrency)
                .handler(rig.takes(ms(handler)))
                .build()
                .unwrap();
            let calls = calls_per_message(&rig, worker).await;
            assert!(
                calls <= SQS_CALLS_A_MESSAGE,
                "{calls} calls a message with {concurrency} slots of {handler} ms"
            );
            if inbox {
                let calls = inbox_calls_per_message(&rig);
                assert!(
                    calls <= inbox_calls,
                    "{calls} inbox calls a message with {concurrency} slots of {handler} ms"
                );
            }
        }
    }
}

/// In a FIFO queue the next of a group waits for the outcome of the one before to be durable: without an inbox for the
/// delete, with one for the record. With one group that is a call for each message; with many groups those that end
/// together share it. Deletes that nobody waits for gather as on a standard queue. Receives are full but for the last of a
/// group, and up to 16 wait for another group.
#[tokio::test(start_paused = true)]
async fn a_fifo_queue_costs_a_call_for_each_message_of_a_single_group_and_fewer_the_more_groups_there_are() {
    const SENT: usize = 2_000;
    // Groups, whether with an inbox, and calls per 1,000 messages at most: deletes, claims and writes.
    let cases = [
        (1, false, 1_000, 0),
        (10, false, 440, 0),
        (1_000, false, 125, 0),
        (1, true, 605, 1_100),
        (10, true, 107, 620),
        (1_000, true, 105, 185),
    ];
    for (groups, inbox, deletes, inbox_calls) in cases {
        let rig = Rig::fifo();
        take_time(&rig);
        for n in 0..SENT {
            let group = format!("g{}", n % groups);
            rig.send_in(&group, &format!("k{n}"), &n.to_string()).await;
        }
        rig.queue.reset_calls();
        let worker = if inbox { rig.worker() } else { rig.bare() };
        let worker = worker.long_poll(secs(20)).concurrency(64).handler(rig.takes(ms(4)));
        let running = start(worker.build().unwrap());
        rig.emptied(&running).await;
        let (calls, of_inbox) = (rig.queue.calls(), rig.inbox.calls());
        let most = |per_thousand: u64| per_thousand * SENT as u64 / 1_000;
        assert!(calls.receive <= most(105) + 16, "{groups} groups: {calls:?}");
        assert!(calls.delete <= most(deletes), "{groups} groups: {calls:?}");
        let of_inbox_calls = of_inbox.claims.calls + of_inbox.writes.calls;
        assert!(of_inbox_calls <= most(inbox_calls), "{groups} groups: {of_inbox:?}");
        let units = if inbox { 2 * SENT } else { 0 };
        assert_eq!(of_inbox.write_units as usize, units, "{groups} groups");
        running.drain().await;
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
    assert!(calls.delete <= 104 && calls.change_visibility <= 104, "{calls:?}");
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
    assert!(calls.total() <= 410, "{calls:?}");
    running.drain().await;
}
