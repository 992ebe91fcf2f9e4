//! Dead letters that wait for their turn to be sent are held like everything else.

use redrive::Failure;
use redrive::faults::{Operation, Rates};
use redrive::inbox::Status;

use crate::support::{Rig, ms, secs, sleep, start};

/// Two workers, and a dead-letter queue that takes 20 s to answer: letters wait longer than a lease for their turn.
#[tokio::test(start_paused = true)]
async fn inv03_letters_that_wait_keep_their_lease_and_are_sent_once() {
    let rig = Rig::new();
    rig.send_many(400).await;
    rig.dead
        .faults()
        .set(Operation::Send, Rates::new().latency(secs(20), secs(20)));
    let handler = || rig.runs(|_| async { Err::<(), _>(Failure::reject("never")) });
    let first = start(rig.worker().concurrency(200).handler(handler()).build().unwrap());
    let second = start(rig.worker().concurrency(200).handler(handler()).build().unwrap());
    rig.emptied(&first).await;
    rig.emptied(&second).await;
    let lost = first.status().totals.lost + second.status().totals.lost;
    assert_eq!((rig.dead.len(), lost), (400, 0));
    first.drain().await;
    second.drain().await;
}

/// A letter that was queued under a lease that is lost by now is another's to send.
#[tokio::test(start_paused = true)]
async fn inv03_a_letter_whose_lease_was_lost_while_it_waited_is_not_sent() {
    let rig = Rig::new();
    rig.send_many(200).await;
    rig.dead
        .faults()
        .set(Operation::Send, Rates::new().latency(secs(25), secs(25)));
    let handler = rig.runs(|_| async { Err::<(), _>(Failure::reject("never")) });
    let running = start(rig.worker().concurrency(200).handler(handler).build().unwrap());
    let rejected = || {
        rig.inbox
            .records()
            .iter()
            .filter(|record| record.status == Status::Rejected)
            .count()
    };
    running.until("all are rejected", |_| rejected() == 200).await;
    sleep(ms(100)).await;
    // Somebody else takes them all over.
    for mut record in rig.inbox.records() {
        record.claim_id = "another's".to_owned();
        record.fencing_token += 1_000_000;
        record.lease_until += 3_600_000;
        rig.inbox.insert(record);
    }
    sleep(secs(60)).await;
    assert_eq!(rig.dead.len(), 160, "only what was under way already");
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn inv06_a_letter_under_a_claim_that_was_freed_is_sent_without_a_heartbeat_for_the_lease() {
    let rig = Rig::new();
    let running = rig.loses_what_is_done_and_unrecorded().await;
    // Another payload comes under the key that was done here and could not be recorded: it is claimed, freed and dead-lettered.
    rig.queue.purge();
    rig.inbox.faults().heal();
    rig.dead
        .faults()
        .set(Operation::Send, Rates::new().latency(secs(20), secs(20)));
    rig.send("k", "2").await;
    rig.emptied(&running).await;
    assert_eq!(rig.reasons(), ["fingerprint_mismatch"]);
    assert_eq!(rig.log.len(), 1);
    let status = running.drain().await;
    assert_eq!(
        status.totals.lost, 1,
        "what it had freed was renewed, and taken for lost"
    );
}
