//! The embedded inbox: the suite of all inboxes, then what only it does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/inbox_conformance.rs"]
mod inbox_conformance;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use redrive::clock::Clock;
use redrive::faults::{Fault, FaultPlan, Operation, Rates};
use redrive::inbox::{
    Change, Claim, ClaimAnswer, ClaimRequest, Inbox, InboxError, MAX_RESULT, MemoryInbox, Record, Status, Write,
};
use redrive::key::{Key, RecordKey};
use redrive::outcome::StoredResult;

use inbox_conformance::InboxLab;

struct MemoryLab(MemoryInbox);

impl InboxLab for MemoryLab {
    fn engine(&self) -> &'static str {
        "memory"
    }

    fn inbox(&self) -> Arc<dyn Inbox> {
        Arc::new(self.0.clone())
    }

    fn consumer(&self) -> String {
        "orders".into()
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn plant(&self, record: Record) -> BoxFuture<'_, ()> {
        self.0.insert(record);
        Box::pin(async {})
    }

    fn remove<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, ()> {
        self.0.remove(key);
        Box::pin(async {})
    }
}

async fn memory() -> Option<MemoryLab> {
    Some(MemoryLab(MemoryInbox::new()))
}

inbox_conformance!(memory, tokio::test(start_paused = true));

fn key(name: &str) -> RecordKey {
    RecordKey::new("orders", &Key::new(name))
}

fn request(name: &str, claim_id: &str) -> ClaimRequest {
    ClaimRequest {
        key: key(name),
        claim_id: claim_id.into(),
        message_id: "m".into(),
        fingerprint: None,
        lease: Duration::from_secs(30),
        retention: Duration::from_secs(3600),
        receive_count: 1,
        replayed: false,
    }
}

async fn claim(inbox: &MemoryInbox, name: &str, claim_id: &str) -> Result<ClaimAnswer, InboxError> {
    inbox.claim(vec![request(name, claim_id)]).await.pop().unwrap()
}

async fn win(inbox: &MemoryInbox, name: &str, claim_id: &str) -> Arc<Claim> {
    match claim(inbox, name, claim_id).await {
        Ok(ClaimAnswer::Claimed(claim)) => claim,
        other => panic!("not claimed: {other:?}"),
    }
}

async fn complete(inbox: &MemoryInbox, claim: &Arc<Claim>) -> Result<(), InboxError> {
    let completions = vec![(claim.clone(), StoredResult::Nothing)];
    inbox.complete(completions).await.pop().unwrap().map(|_| ())
}

fn inbox(faults: &FaultPlan) -> MemoryInbox {
    MemoryInbox::builder().faults(faults.clone()).build()
}

#[tokio::test(start_paused = true)]
async fn a_lost_request_has_no_effect_and_a_lost_reply_has_its_effect() {
    let faults = FaultPlan::none();
    let inbox = inbox(&faults);
    faults.fail_next(Operation::Claim, 1, Fault::Before);
    let error = claim(&inbox, "k", "c1").await.unwrap_err();
    assert!(matches!(error, InboxError::Unavailable { .. }) && error.is_transient());
    assert!(inbox.is_empty());

    faults.fail_next(Operation::Claim, 1, Fault::After);
    assert!(claim(&inbox, "k", "c1").await.is_err());
    assert_eq!(inbox.record(&key("k")).unwrap().claim_id, "c1");
    let ours = win(&inbox, "k", "c1").await;

    faults.fail_next(Operation::Write, 1, Fault::After);
    assert!(complete(&inbox, &ours).await.unwrap_err().is_transient());
    assert_eq!(inbox.record(&key("k")).unwrap().status, Status::Completed);
    complete(&inbox, &ours).await.unwrap();

    faults.fail_next(Operation::Get, 1, Fault::Throttled);
    let throttled = inbox.get(&key("k")).await.unwrap_err();
    assert!(matches!(throttled, InboxError::Throttled { .. }));
    faults.fail_next(Operation::Describe, 1, Fault::Before);
    assert!(inbox.check().await.is_err());
    assert!(inbox.check().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn inv11_entries_fail_one_by_one() {
    let faults = FaultPlan::none();
    let inbox = inbox(&faults);
    faults.fail_next_entries(Operation::Claim, [1]);
    let batch = vec![
        request("a", "c1"),
        request("b", "c2"),
        request("b", "c3"),
        request("c", "c4"),
    ];
    let answers = inbox.claim(batch).await;
    assert!(matches!(answers[0], Ok(ClaimAnswer::Claimed(_))), "{answers:?}");
    assert!(matches!(answers[1], Err(InboxError::Throttled { .. })), "{answers:?}");
    assert!(matches!(answers[2], Ok(ClaimAnswer::Running { .. })), "{answers:?}");
    assert!(matches!(answers[3], Ok(ClaimAnswer::Claimed(_))), "{answers:?}");
    assert_eq!(inbox.record(&key("b")), None);

    let claims: Vec<_> = answers
        .into_iter()
        .filter_map(|answer| match answer {
            Ok(ClaimAnswer::Claimed(claim)) => Some(claim),
            _ => None,
        })
        .collect();
    faults.fail_next_entries(Operation::Write, [0]);
    let answers = inbox.release(claims).await;
    assert!(answers[0].is_err() && answers[1].is_ok(), "{answers:?}");
    assert_eq!(inbox.record(&key("a")).unwrap().status, Status::Processing);
    assert_eq!(inbox.record(&key("c")).unwrap().status, Status::Released);
}

#[tokio::test(start_paused = true)]
async fn unreachable_means_unreachable_for_every_call_until_it_heals() {
    let faults = FaultPlan::none();
    let inbox = inbox(&faults);
    let claim = win(&inbox, "k", "c1").await;
    faults.set_unreachable(true);
    assert!(self::claim(&inbox, "other", "c2").await.is_err());
    assert!(complete(&inbox, &claim).await.is_err());
    assert!(inbox.get(&key("k")).await.is_err());
    assert_eq!((inbox.len(), inbox.records()[0].status), (1, Status::Processing));
    faults.heal();
    complete(&inbox, &claim).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_counted_from_the_effect_and_slow_answers_take_their_time() {
    let faults = FaultPlan::none().on(
        Operation::Claim,
        Rates::new().latency(Duration::from_secs(4), Duration::from_secs(4)),
    );
    let clock = Clock::starting_at(1_000_000);
    let inbox = MemoryInbox::builder().clock(clock.clone()).faults(faults).build();
    let claim = win(&inbox, "k", "c1").await;
    assert_eq!(claim.lease_until, 1_000_000 + 2_000 + 30_000);
    assert_eq!(clock.epoch_ms(), 1_004_000);
    assert_eq!(inbox.time().lo, 1_004_000);
}

#[tokio::test(start_paused = true)]
async fn calls_entries_and_failed_conditions_are_counted() {
    let faults = FaultPlan::none();
    let inbox = inbox(&faults);
    let first = win(&inbox, "k", "c1").await;
    claim(&inbox, "k", "c2").await.unwrap();
    inbox.claim(vec![request("a", "c3"), request("b", "c4")]).await;
    complete(&inbox, &first).await.unwrap();
    complete(&inbox, &first).await.unwrap();
    inbox.get(&key("k")).await.unwrap();
    faults.fail_next(Operation::Write, 1, Fault::Before);
    complete(&inbox, &first).await.unwrap_err();
    let counts = inbox.calls();
    let claims = counts.claims;
    assert_eq!((claims.calls, claims.entries, claims.failed_conditions), (3, 4, 1));
    let writes = counts.writes;
    assert_eq!((writes.calls, writes.entries, writes.failed_conditions), (3, 3, 1));
    assert_eq!((counts.gets.calls, counts.gets.failed_conditions), (1, 0));
    assert_eq!(counts.write_units, 4 + 2, "what never reached the inbox costs nothing");

    let large = MemoryInbox::builder().max_result(8 * 1024).unwrap().build();
    let claim = win(&large, "k", "c1").await;
    let checkpoint = Change::Checkpoint {
        serial: 1,
        data: Bytes::from(vec![0; 5 * 1024]),
    };
    large
        .write(vec![Write::new(claim.clone(), checkpoint)])
        .await
        .pop()
        .unwrap()
        .unwrap();
    large
        .renew(vec![claim], Duration::from_secs(60))
        .await
        .pop()
        .unwrap()
        .unwrap();
    assert_eq!(
        large.calls().write_units,
        1 + 6 + 6,
        "every later write bills the whole item"
    );
}

#[tokio::test(start_paused = true)]
async fn inv05_expired_records_are_deleted_so_that_memory_stays_flat() {
    let inbox = MemoryInbox::new();
    let mut most = 0;
    for n in 0..20_000 {
        let claim = win(&inbox, &format!("k{n}"), &format!("c{n}")).await;
        complete(&inbox, &claim).await.unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        most = most.max(inbox.len());
    }
    // An hour's retention and a minute's lag, at one record in ten seconds.
    assert!((360..=370).contains(&most), "{most} records");
}

#[tokio::test]
async fn bounds_over_the_largest_are_refused() {
    assert!(MemoryInbox::builder().max_result(MAX_RESULT).is_ok());
    let error = MemoryInbox::builder().max_result(MAX_RESULT + 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a bound on results and checkpoints of 262145 bytes is over the 262144 bytes allowed"
    );
    let none = MemoryInbox::builder().max_result(0).unwrap().build();
    let claim = win(&none, "k", "c1").await;
    let error = none.checkpoint(claim, 1, Bytes::from_static(b"1")).await.unwrap_err();
    assert!(matches!(error, InboxError::TooLarge { limit: 0, .. }));
}

#[tokio::test]
async fn clones_share_their_records() {
    let inbox = MemoryInbox::new();
    let clone = inbox.clone();
    win(&inbox, "k", "c1").await;
    assert!(matches!(
        claim(&clone, "k", "c2").await,
        Ok(ClaimAnswer::Running { .. })
    ));
    assert_eq!(clone.remove(&key("k")).unwrap().claim_id, "c1");
    assert_eq!((inbox.len(), inbox.is_empty()), (0, true));
}
