//! A FIFO queue under a backlog: the order of a group has its price.

use std::time::{Duration, Instant};

use redrive::worker::Builder;
use redrive_stand_in::Setup;

use crate::rig::{Rig, Spent, ms, secs, takes};

/// How many messages are counted.
const COUNTED: u64 = 300;

/// The receives that may wait for more at once, with 64 slots.
const WAITING: u64 = 16;

const LONG_POLL: Duration = secs(20);

/// What so many messages cost, of so many groups.
async fn run(groups: u64, worker: impl Fn(&Rig) -> Builder) -> Spent {
    let rig = Rig::new(Setup {
        fifo_groups: groups,
        ..Setup::default()
    })
    .await;
    let worker = worker(&rig).long_poll(LONG_POLL).handler(takes(ms(0)));
    let running = rig.start(worker.build().unwrap()).await;
    let (start, began) = (rig.stand_in.counts(), Instant::now());
    rig.stand_in.open();
    let end = rig.until("the run", |counts| counts.deleted >= COUNTED).await;
    let spent = Spent::between(&start, &end);
    running.stop().await;
    // A group that is in hand gives nothing more: receives wait for another, or for its end. They are full when they end.
    let receives = spent.of("ReceiveMessage");
    let polls = 1 + (began.elapsed().as_secs() / LONG_POLL.as_secs());
    let most = receives.entries.div_ceil(10) + WAITING * polls;
    assert!(receives.calls <= most, "over {most} with {groups} groups: {spent:#?}");
    assert_eq!(spent.sqs.len(), 2, "nothing else with {groups} groups: {spent:#?}");
    spent
}

/// Without an inbox the delete is what makes an outcome durable, and the next of a group waits for it: with one group it is
/// a call of its own for every message, so 1,100 calls per 1,000. With more groups those that end together share theirs: how
/// many do is a matter of timing, and none ever takes more than one.
#[tokio::test]
async fn without_an_inbox_a_group_pays_one_delete_for_each_message_and_groups_share_them() {
    for groups in [1, 10, 1_000] {
        let spent = run(groups, Rig::bare).await;
        let deletes = spent.of("DeleteMessageBatch");
        assert_eq!(deletes.entries, spent.deleted, "{spent:#?}");
        if groups == 1 {
            assert_eq!(deletes.calls, spent.deleted, "{spent:#?}");
        } else {
            assert!(deletes.calls <= spent.deleted, "{groups} groups: {spent:#?}");
        }
        assert_eq!(spent.dynamodb_calls(), 0);
    }
}

/// With an inbox the next of a group waits for the record of the one before, at most one write a message, beside one claim a
/// receive: 1,100 calls of DynamoDB per 1,000 with one group, and fewer with more. Nobody waits for the deletes: they
/// are full, of whatever groups, so that SQS costs 200 calls per 1,000, if the linger is long enough for it. Two write
/// units a message, as ever.
#[tokio::test]
async fn with_an_inbox_a_group_pays_one_write_for_each_message_and_its_deletes_are_full() {
    for groups in [1, 10, 1_000] {
        let spent = run(groups, |rig| rig.with_inbox().linger(secs(1))).await;
        let deletes = spent.of("DeleteMessageBatch");
        assert_eq!(
            deletes.calls,
            deletes.entries.div_ceil(10),
            "{groups} groups: {spent:#?}"
        );
        let (batches, singles) = (
            spent.dynamodb["BatchExecuteStatement"],
            spent.dynamodb.get("UpdateItem"),
        );
        let receives = spent.of("ReceiveMessage");
        let claimed = receives.entries.div_ceil(10);
        let singles = singles.map_or(0, |singles| singles.calls);
        assert!(
            batches.calls + singles <= claimed + receives.entries,
            "{groups} groups: {spent:#?}"
        );
        if groups == 1 {
            assert!(singles >= spent.deleted && batches.calls <= claimed, "{spent:#?}");
        }
        // A claim of each that was received, a completion of each that was handled.
        let units = spent.write_units();
        let entries = (batches.entries + singles) as f64;
        assert_eq!(
            (units, spent.failed_conditions()),
            (entries, 0),
            "{groups} groups: {spent:#?}"
        );
        assert!(
            units >= 2.0 * spent.deleted as f64 && units <= 2.0 * receives.entries as f64,
            "{spent:#?}"
        );
    }
}
