//! What a message costs whose key was there before. A conditional write that fails is billed like one that is made.

use redrive::message::{Attribute, KEY_ATTRIBUTE, Outgoing};
use redrive::queue::Queue;
use redrive_stand_in::Setup;

use crate::rig::{Rig, Spent, ms, secs, takes};

/// 90 messages and ten that repeat the key of the one before, received together with it: a duplicate of what is in hand is
/// known without asking the inbox. It is put off, comes again, and is then a single write that fails. So a duplicate costs one
/// write unit, the half of a message, and beside its delete two receives and a visibility change.
#[tokio::test]
async fn one_write_unit_for_a_duplicate_that_comes_while_the_first_is_in_hand() {
    let rig = Rig::new(Setup {
        messages: Some(100),
        duplicates: 0.1,
        ..Setup::default()
    })
    .await;
    // Long enough for all to be received before the first comes again.
    let worker = rig.with_inbox().in_flight_delay(secs(2)).handler(takes(ms(0)));
    let running = rig.start(worker.build().unwrap()).await;
    let start = rig.stand_in.counts();
    rig.stand_in.open();
    let end = rig.until("all deleted", |counts| counts.deleted == 100).await;
    let spent = Spent::between(&start, &end);
    assert_eq!(running.status().totals.completed, 90);
    assert_eq!(
        (spent.write_units(), spent.failed_conditions()),
        (2.0 * 90.0 + 10.0, 10),
        "{spent:#?}"
    );
    assert_eq!(spent.read_units(), 0.0, "{spent:#?}");
    let put_off = spent.of("ChangeMessageVisibilityBatch");
    assert_eq!(put_off.entries, 10, "{spent:#?}");
    assert_eq!(spent.of("ReceiveMessage").entries, 110, "{spent:#?}");
    running.stop().await;
}

/// One that comes when the first is done: its claim fails within the batch of claims, and once more by itself, which brings
/// the record that tells that it is done. So it costs two write units, as a message does, and a call of its own beside a tenth
/// of the batch's.
#[tokio::test]
async fn two_write_units_for_a_duplicate_that_comes_when_the_first_is_done() {
    let rig = Rig::new(Setup::default()).await;
    let running = rig.start(rig.with_inbox().handler(takes(ms(0))).build().unwrap()).await;
    let mut before = rig.stand_in.counts();
    for (deleted, failed) in [(50, 0), (100, 2 * 50)] {
        for ten in 0..5 {
            let keys = (0..10).map(|n| Attribute::string(format!("k{ten}-{n}")));
            let messages = keys.map(|key| Outgoing::new("x").attribute(KEY_ATTRIBUTE, key));
            rig.queue.send(messages.collect()).await.unwrap();
        }
        let after = rig.until("all deleted", |counts| counts.deleted == deleted).await;
        let spent = Spent::between(&before, &after);
        assert_eq!(
            (spent.write_units(), spent.failed_conditions()),
            (2.0 * 50.0, failed),
            "{spent:#?}"
        );
        assert_eq!(
            (spent.read_units(), spent.of("ReceiveMessage").entries),
            (0.0, 50),
            "{spent:#?}"
        );
        before = after;
    }
    let totals = running.status().totals;
    assert_eq!((totals.completed, totals.duplicates), (50, 50));
    running.stop().await;
}
