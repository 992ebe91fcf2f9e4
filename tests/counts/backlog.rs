//! Under a backlog: calls are full, and nothing is paid for twice.

use std::time::{Duration, Instant};

use redrive::worker::Builder;
use redrive_stand_in::Setup;

use crate::rig::{Rig, Spent, ms, per_thousand, secs, takes};

/// Messages that are deleted before the counting begins: by then it receives as it will go on to.
const WARM_UP: u64 = 500;

/// Messages that are counted at least.
const COUNTED: u64 = 2_000;

/// How long the handlers take: nothing, and what lets 64 of them do 3,200 messages/s.
const HANDLERS: [Duration; 2] = [Duration::ZERO, ms(20)];

/// So long that every call is full, however slow the machine: then what is counted is the engine's doing alone.
const LONG_LINGER: Duration = secs(1);

/// What a run under an endless backlog spent.
struct Run {
    /// While there was more to do.
    steady: Spent,
    /// From the first receive to the last delete.
    whole: Spent,
    took: Duration,
}

async fn run(rig: &Rig, worker: Builder, handler: Duration) -> Run {
    let running = rig.start(worker.handler(takes(handler)).build().unwrap()).await;
    let (start, began) = (rig.stand_in.counts(), Instant::now());
    rig.stand_in.open();
    let before = rig.until("the warm-up", |counts| counts.deleted >= WARM_UP).await;
    let after = rig
        .until("the run", |counts| counts.deleted >= before.deleted + COUNTED)
        .await;
    rig.stand_in.close();
    running.all_handled().await;
    let status = running.drain().await;
    let end = rig.stand_in.counts();
    assert_eq!((end.in_flight, end.left, end.redelivered), (0, Some(0), 0));
    assert_eq!((status.totals.completed, status.totals.released), (end.deleted, 0));
    Run {
        steady: Spent::between(&before, &after),
        whole: Spent::between(&start, &end),
        took: began.elapsed(),
    }
}

/// 200 calls per 1,000 messages are the least there can be: ten messages a receive, ten a delete. The target is 205.
fn assert_sqs_calls_are_the_fewest(spent: &Spent) {
    let (receives, deletes) = (spent.of("ReceiveMessage"), spent.of("DeleteMessageBatch"));
    let receives_per_thousand = per_thousand(receives.calls, receives.entries);
    let deletes_per_thousand = per_thousand(deletes.calls, deletes.entries);
    assert!(receives_per_thousand <= 101.0, "{receives_per_thousand}: {spent:#?}");
    assert!(deletes_per_thousand <= 104.0, "{deletes_per_thousand}: {spent:#?}");
    // Of 200 B each, so that no call is billed as two.
    assert_eq!((receives.billed, deletes.billed), (receives.calls, deletes.calls));
    assert_eq!(spent.sqs.len(), 2, "nothing else: {spent:#?}");
}

/// At most 101 receives and 104 deletes per 1,000 messages, and no other call. Whatever the timing, as the linger is long
/// here; that the default one is long enough is shown in `tests/worker/counts.rs`, under virtual time.
#[tokio::test]
async fn without_an_inbox_at_most_205_sqs_calls_per_1_000_messages_and_nothing_else() {
    for handler in HANDLERS {
        let rig = Rig::new(Setup::default()).await;
        let run = run(&rig, rig.bare().linger(LONG_LINGER), handler).await;
        assert_sqs_calls_are_the_fewest(&run.steady);
        assert_eq!(run.whole.dynamodb_calls(), 0);
    }
}

/// As many calls of SQS; of DynamoDB, a claim for each receive's ten and a completion for each 25: 140 calls per 1,000
/// messages, and up to 145 as the window cuts through what belongs together. The target is 250. Over the whole run a claim
/// and a completion of every message, of one write unit each, and none that fails.
#[tokio::test]
async fn with_an_inbox_at_most_145_dynamodb_calls_and_exactly_2_000_write_units_per_1_000_messages() {
    for handler in HANDLERS {
        let rig = Rig::new(Setup::default()).await;
        let Run { steady, whole, .. } = run(&rig, rig.with_inbox().linger(LONG_LINGER), handler).await;
        assert_sqs_calls_are_the_fewest(&steady);
        let calls = per_thousand(steady.dynamodb_calls(), steady.deleted);
        assert!(calls <= 145.0, "{calls}: {steady:#?}");
        assert_eq!(whole.write_units(), 2.0 * whole.deleted as f64, "{whole:#?}");
        assert_eq!((whole.failed_conditions(), whole.read_units()), (0, 0.0), "{whole:#?}");
    }
}

/// With the default linger a call that is not full has waited for it: 20 ms a delete, 5 ms an inbox write. So such calls are
/// no more than the run has such spans, on whatever machine.
#[tokio::test]
async fn a_call_that_is_not_full_has_waited_for_its_linger() {
    let rig = Rig::new(Setup::default()).await;
    let Run { whole, took, .. } = run(&rig, rig.with_inbox(), ms(20)).await;
    let spans = |linger: Duration| (took.as_millis() / linger.as_millis()) as u64 + 1;
    let deletes = whole.of("DeleteMessageBatch").calls + whole.of("DeleteMessage").calls;
    let deletes_at_most = whole.deleted / 10 + spans(ms(20));
    assert!(deletes <= deletes_at_most, "over {deletes_at_most}: {whole:#?}");
    let claims = whole.of("ReceiveMessage").calls;
    let writes_at_most = whole.deleted / 25 + spans(ms(5));
    assert!(
        whole.dynamodb_calls() <= claims + writes_at_most,
        "over {claims} and {writes_at_most}: {whole:#?}"
    );
}
