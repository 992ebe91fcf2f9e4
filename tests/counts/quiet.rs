//! With little or nothing to do.

use std::time::Instant;

use redrive::flow::BreakerState;
use redrive::worker::Status;
use redrive::{Context, Failure};
use redrive_stand_in::Setup;

use crate::rig::{Rig, Spent, ms, secs, takes};

/// One long poll after the other, never two at once, and nothing else: as many calls as the time has long polls, and the one
/// that waits. `tests/worker/counts.rs` has an hour of it, with the default 20 s.
#[tokio::test]
async fn an_idle_worker_has_one_long_poll_at_a_time_and_makes_no_other_call() {
    let rig = Rig::new(Setup::default()).await;
    let running = rig.start(rig.with_inbox().handler(takes(ms(0))).build().unwrap()).await;
    let (before, began) = (rig.stand_in.counts(), Instant::now());
    let mut after = before.clone();
    while began.elapsed() < ms(3_300) {
        after = rig.stand_in.counts();
        let receives = Spent::between(&Default::default(), &after).of("ReceiveMessage");
        // One that found nothing is counted as empty when it is answered.
        assert!(receives.calls - receives.empty <= 1, "{receives:?}");
        tokio::time::sleep(ms(1)).await;
    }
    let spent = Spent::between(&before, &after);
    assert_eq!(spent.operations(), ["ReceiveMessage"], "{spent:#?}");
    let polls = began.elapsed().as_secs() + 1;
    assert!((1..=polls).contains(&spent.of("ReceiveMessage").calls), "{spent:#?}");
    running.drain().await;
}

/// While the breaker is open and nothing is held, the servers hear nothing at all, however much waits in the queue.
#[tokio::test]
async fn no_call_is_made_while_the_breaker_is_open_and_nothing_is_held() {
    for inbox in [false, true] {
        let rig = Rig::new(Setup::default()).await;
        let worker = if inbox { rig.with_inbox() } else { rig.bare() };
        let fails = |_: Context| async { Err::<(), _>(Failure::retry("no luck")) };
        let worker = worker.keep_while_open(ms(1)).handler(fails).build().unwrap();
        let running = rig.start(worker).await;
        rig.stand_in.open();
        let quiet = |status: &Status| {
            matches!(status.breaker, Some(BreakerState::Open { .. }))
                && status.running + status.waiting + status.ending == 0
        };
        running.until("open, nothing held", quiet).await;
        let before = rig.stand_in.counts();
        let Some(BreakerState::Open { until }) = running.status().breaker else {
            panic!("{:#?}", running.status());
        };
        tokio::time::sleep(secs(2)).await;
        let after = rig.stand_in.counts();
        // The same opening, which lasts 24 s at least: no probe in between.
        assert_eq!(running.status().breaker, Some(BreakerState::Open { until }));
        assert_eq!(Spent::between(&before, &after), Spent::default());
        assert!(after.left.is_none() && after.received >= 5, "{after:#?}");
        running.stop().await;
    }
}

/// Messages that come one by one cost a receive and a delete each, with an inbox a claim and a completion more, and no
/// other call; where a slow machine lets several come together, fewer. Beyond that there is the one receive that waits.
#[tokio::test]
async fn a_trickle_costs_one_receive_and_one_delete_a_message() {
    for inbox in [false, true] {
        let rig = Rig::new(Setup {
            rate: Some(20.0),
            ..Setup::default()
        })
        .await;
        let worker = if inbox { rig.with_inbox() } else { rig.bare() };
        let running = rig
            .start(worker.long_poll(secs(5)).handler(takes(ms(0))).build().unwrap())
            .await;
        let start = rig.stand_in.counts();
        rig.stand_in.open();
        rig.until("30 messages", |counts| counts.deleted >= 30).await;
        rig.stand_in.close();
        let end = rig
            .until("all deleted", |counts| counts.in_flight == 0 && counts.left == Some(0))
            .await;
        let spent = Spent::between(&start, &end);
        let (receives, deletes) = (spent.of("ReceiveMessage"), spent.of("DeleteMessageBatch"));
        assert_eq!(
            (receives.entries, deletes.entries, receives.empty),
            (spent.deleted, spent.deleted, 0)
        );
        // The long poll of before the opening brought the first.
        assert!(
            receives.calls <= spent.deleted && deletes.calls <= spent.deleted,
            "{spent:#?}"
        );
        assert_eq!(spent.sqs.len(), 2, "nothing else: {spent:#?}");
        let dynamodb = if inbox { 2 * spent.deleted } else { 0 };
        assert!(spent.dynamodb_calls() <= dynamodb, "{spent:#?}");
        assert_eq!(spent.write_units(), dynamodb as f64, "{spent:#?}");
        running.stop().await;
    }
}
