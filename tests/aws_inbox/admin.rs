//! What operators do: looking, scanning, releasing, forgetting.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use redrive::flow::RateLimit;
use redrive::inbox::{
    Attempted, Change, Claim, ClaimAnswer, InboxEntry, InboxError, InboxScan, InboxScanEnd, Intervention, Leases,
    Status, Write,
};
use redrive::permission::Verdict;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::stub::Reply;
use super::wire::{DATE_MS, condition_failed, connect, item, operations};
use super::*;

async fn claimed(inbox: &DynamoInbox, key: &RecordKey, claim_id: &str) -> Arc<Claim> {
    match inbox.claim(vec![request(key, claim_id)]).await.remove(0) {
        Ok(ClaimAnswer::Claimed(claim)) => claim,
        other => panic!("{other:?}"),
    }
}

async fn look(inbox: &DynamoInbox, key: &RecordKey) -> InboxEntry {
    inbox.look(key).await.unwrap().expect("it is there")
}

/// A claim whose lease ran out some time ago.
async fn stuck(inbox: &DynamoInbox, client: &Client, key: &RecordKey, ago_ms: u64) -> Record {
    claimed(inbox, key, "w-1").await;
    let mut record = look(inbox, key).await.record.unwrap();
    record.lease_until = inbox.time().lo - ago_ms;
    put(client, item_of(&record)).await;
    record
}

fn changes() -> Vec<Change> {
    vec![
        Change::Renew {
            lease: Duration::from_secs(30),
        },
        Change::Complete {
            result: StoredResult::Nothing,
        },
        Change::Release { failure: None },
        Change::Release {
            failure: Some(Attempted {
                attempts: 1,
                error: "no".into(),
            }),
        },
    ]
}

#[tokio::test]
async fn a_stuck_claim_is_released_and_the_next_delivery_runs() {
    let Some(config) = server() else { return };
    let (inbox, client) = inbox(&config).await;
    let key = &keys(1)[0];
    assert!(inbox.look(key).await.unwrap().is_none());
    let before = stuck(&inbox, &client, key, 60_000).await;
    let entry = look(&inbox, key).await;
    assert!(entry.is_stuck(inbox.time()));
    assert_eq!(
        inbox.free(&entry, "operator-1", Leases::Respect).await.unwrap(),
        Intervention::Done
    );
    // A lost answer: the same call finds itself made.
    assert_eq!(
        inbox.free(&entry, "operator-1", Leases::Respect).await.unwrap(),
        Intervention::Done
    );
    let after = look(&inbox, key).await;
    let record = after.record.clone().unwrap();
    assert_eq!((record.status, &*record.claim_id), (Status::Released, "operator-1"));
    assert!(record.fencing_token > before.fencing_token);
    assert_eq!(record.message_id, before.message_id);
    assert_eq!(
        inbox.free(&after, "operator-2", Leases::Respect).await.unwrap(),
        Intervention::NotClaimed(Status::Released)
    );
    assert!(claimed(&inbox, key, "w-2").await.fencing_token > record.fencing_token);
}

#[tokio::test]
async fn inv03_a_live_lease_is_refused_and_a_forced_release_fences_its_holder_out() {
    let Some(config) = server() else { return };
    let (inbox, _) = inbox(&config).await;
    for forget in [false, true] {
        let key = &keys(1)[0];
        let claim = claimed(&inbox, key, "w-1").await;
        let entry = look(&inbox, key).await;
        let refused = [
            inbox.free(&entry, "operator-1", Leases::Respect).await.unwrap(),
            inbox.forget(&entry, Leases::Respect).await.unwrap(),
        ];
        for refused in refused {
            let Intervention::Held { lease_left: Some(left) } = refused else {
                panic!("{refused:?}")
            };
            assert!(left > Duration::from_secs(500), "{left:?}");
        }
        // Its heartbeat in between is no reason to fail.
        inbox
            .renew(vec![claim.clone()], Duration::from_secs(700))
            .await
            .remove(0)
            .unwrap();
        let done = if forget {
            inbox.forget(&entry, Leases::Override).await.unwrap()
        } else {
            inbox.free(&entry, "operator-1", Leases::Override).await.unwrap()
        };
        assert_eq!(done, Intervention::Done);
        for change in changes() {
            let written = inbox
                .write(vec![Write::new(claim.clone(), change.clone())])
                .await
                .remove(0);
            assert!(
                matches!(written, Err(InboxError::LeaseLost { .. })),
                "{change:?}: {written:?}"
            );
        }
        let again = claimed(&inbox, key, "w-2").await;
        assert!(again.fencing_token > claim.fencing_token);
        for change in changes() {
            let written = inbox
                .write(vec![Write::new(claim.clone(), change.clone())])
                .await
                .remove(0);
            assert!(
                matches!(written, Err(InboxError::LeaseLost { .. })),
                "{change:?}: {written:?}"
            );
        }
    }
}

#[tokio::test]
async fn inv02_what_changed_since_it_was_read_is_left_alone() {
    let Some(config) = server() else { return };
    let (inbox, client) = inbox(&config).await;
    let keys = keys(3);
    // Taken over by another worker.
    stuck(&inbox, &client, &keys[0], 60_000).await;
    let read = look(&inbox, &keys[0]).await;
    claimed(&inbox, &keys[0], "w-2").await;
    // Renewed at the last moment.
    let late = stuck(&inbox, &client, &keys[1], 5).await;
    let read_late = look(&inbox, &keys[1]).await;
    let mut renewed = late.clone();
    renewed.lease_until += 600_000;
    put(&client, item_of(&renewed)).await;
    for entry in [read, read_late] {
        let key = &entry.key;
        assert_eq!(
            inbox.free(&entry, "operator-1", Leases::Respect).await.unwrap(),
            Intervention::Changed
        );
        assert_eq!(
            inbox.forget(&entry, Leases::Respect).await.unwrap(),
            Intervention::Changed
        );
        assert_eq!(look(&inbox, key).await.status(), Some(Status::Processing));
    }
    // Forgotten twice is forgotten.
    stuck(&inbox, &client, &keys[2], 60_000).await;
    let entry = look(&inbox, &keys[2]).await;
    for _ in 0..2 {
        assert_eq!(inbox.forget(&entry, Leases::Respect).await.unwrap(), Intervention::Done);
    }
    assert!(inbox.look(&keys[2]).await.unwrap().is_none());
    assert_eq!(
        inbox.free(&entry, "operator-1", Leases::Respect).await.unwrap(),
        Intervention::Changed
    );
}

#[tokio::test]
async fn inv03_tokens_grow_over_a_key_that_is_forgotten_at_once() {
    let Some(config) = server() else { return };
    let (inbox, client) = inbox(&config).await;
    let keys = keys(6);
    for key in &keys[..5] {
        let claim = claimed(&inbox, key, "w-1").await;
        let entry = look(&inbox, key).await;
        assert_eq!(
            inbox.forget(&entry, Leases::Override).await.unwrap(),
            Intervention::Done
        );
        assert!(claimed(&inbox, key, "w-2").await.fencing_token > claim.fencing_token);
    }
    // One that no wait can pass, because somebody wrote it.
    let mut record = stuck(&inbox, &client, &keys[5], 60_000).await;
    record.fencing_token += 3_600_000;
    put(&client, item_of(&record)).await;
    let entry = look(&inbox, &keys[5]).await;
    let error = inbox.forget(&entry, Leases::Respect).await.unwrap_err().to_string();
    assert!(error.contains("fencing token") && error.contains("ahead"), "{error}");
    assert_eq!(
        inbox.forget(&entry, Leases::Override).await.unwrap(),
        Intervention::Done
    );
}

#[tokio::test]
async fn a_completed_key_that_is_forgotten_runs_again() {
    let Some(config) = server() else { return };
    let (inbox, _) = inbox(&config).await;
    let key = &keys(1)[0];
    let claim = claimed(&inbox, key, "w-1").await;
    inbox
        .complete(vec![(claim, StoredResult::Nothing)])
        .await
        .remove(0)
        .unwrap();
    let entry = look(&inbox, key).await;
    assert_eq!(
        inbox.free(&entry, "operator-1", Leases::Override).await.unwrap(),
        Intervention::NotClaimed(Status::Completed)
    );
    assert_eq!(inbox.forget(&entry, Leases::Respect).await.unwrap(), Intervention::Done);
    claimed(&inbox, key, "w-2").await;
}

#[tokio::test]
async fn inv12_a_record_edited_by_hand_is_reported_and_can_be_forgotten() {
    let Some(config) = server() else { return };
    let (inbox, client) = inbox(&config).await;
    let key = &keys(1)[0];
    claimed(&inbox, key, "w-1").await;
    let mut item = item_of(&look(&inbox, key).await.record.unwrap());
    item.insert("status".into(), AttributeValue::S("Processing!".into()));
    item.insert("lease_until".into(), AttributeValue::S("soon".into()));
    put(&client, item).await;
    let entry = look(&inbox, key).await;
    assert!(entry.record.as_ref().unwrap_err().contains("`status`"), "{entry:?}");
    assert_eq!(entry.damaged_attributes()["lease_until"], "\"soon\"");
    let error = inbox.free(&entry, "operator-1", Leases::Override).await.unwrap_err();
    assert!(matches!(error, InboxError::Corrupt { .. }), "{error}");
    // Nobody can tell whether it is held.
    assert_eq!(
        inbox.forget(&entry, Leases::Respect).await.unwrap(),
        Intervention::Held { lease_left: None }
    );
    let scanned = scan(&inbox, InboxScan::new().consumer(key.consumer())).await;
    assert_eq!(scanned.len(), 1);
    assert!(scanned[0].record.is_err());
    assert_eq!(
        inbox.forget(&entry, Leases::Override).await.unwrap(),
        Intervention::Done
    );
    assert!(inbox.look(key).await.unwrap().is_none());
}

async fn scan(inbox: &DynamoInbox, scan: InboxScan) -> Vec<InboxEntry> {
    let mut entries = Vec::new();
    let report = inbox
        .scan(&scan, |page| {
            entries.extend(page.entries);
            ControlFlow::Continue(())
        })
        .await
        .unwrap();
    assert_eq!(report.end, InboxScanEnd::Exhausted);
    assert_eq!(report.matched, entries.len() as u64);
    entries
}

fn names(entries: &[InboxEntry]) -> BTreeSet<String> {
    entries.iter().map(|entry| entry.key.to_string()).collect()
}

#[tokio::test]
async fn a_scan_finds_every_record_once_and_only_what_it_looks_for() {
    let Some(config) = server() else { return };
    let table = unique("scanned");
    DynamoInbox::create_table(&config, &table).await.unwrap();
    let inbox = DynamoInbox::connect(&config, &table).await.unwrap();
    let client = Client::new(&config);
    let put = async |record: &Record| {
        let call = client.put_item().table_name(&table).set_item(Some(item_of(record)));
        call.send().await.expect("the item is stored");
    };
    let now = inbox.time().lo;
    let key = |consumer: &str, n: usize| RecordKey::new(consumer, &Key::new(format!("k{n}")));
    for n in 0..120 {
        let mut record = Record::new(key("orders", n));
        record.status = [
            Status::Processing,
            Status::Completed,
            Status::Rejected,
            Status::Released,
        ][n % 4];
        record.first_seen = now - n as u64 * 60_000;
        // Minutes apart, so that a slow machine finds the same ones.
        record.lease_until = now + (60 * 60_000) - n as u64 * 60_000;
        record.expires_at = now / 1_000 + 3_600;
        record.checkpoint = Some(vec![7; 2_000].into());
        put(&record).await;
    }
    let mut other = Record::new(key("orders-eu", 1));
    // Time to live leaves alone what ended more than five years ago.
    other.expires_at = now / 1_000 - 6 * 366 * 86_400;
    put(&other).await;

    let every = scan(&inbox, InboxScan::new().with_expired().segments(7)).await;
    assert_eq!((every.len(), names(&every).len()), (121, 121));
    assert_eq!(
        scan(&inbox, InboxScan::new()).await.len(),
        120,
        "the expired one counts as absent"
    );
    assert_eq!(
        scan(&inbox, InboxScan::new().consumer("orders-eu").with_expired())
            .await
            .len(),
        1
    );
    let checkpoints = async |wanted: InboxScan| {
        let entries = scan(&inbox, wanted).await;
        entries
            .iter()
            .filter(|entry| entry.record.as_ref().unwrap().checkpoint.is_some())
            .count()
    };
    assert_eq!(checkpoints(InboxScan::new()).await, 0);
    assert_eq!(checkpoints(InboxScan::new().with_payloads()).await, 120);
    let rejected = scan(&inbox, InboxScan::new().statuses([Status::Rejected, Status::Released])).await;
    assert_eq!(rejected.len(), 60);
    // Of the claims k0, k4, …, k116, those from k60 on have a lease that has run out.
    let stuck = scan(&inbox, InboxScan::new().stuck()).await;
    assert_eq!(stuck.len(), 15, "{:?}", names(&stuck));
    let long_stuck = scan(&inbox, InboxScan::new().stuck_for(Duration::from_secs(39 * 60))).await;
    assert_eq!(long_stuck.len(), 5, "{:?}", names(&long_stuck));
    let old = scan(&inbox, InboxScan::new().older_than(Duration::from_secs(100 * 60))).await;
    assert_eq!(old.len(), 20);

    // Under a limit it takes the time that its units take, and tells the units.
    let limit = RateLimit::per_second(40.0).unwrap();
    let started = Clock::system().now();
    let mut largest = 0;
    let report = inbox
        .scan(&InboxScan::new().with_expired().read_capacity(limit), |page| {
            largest = largest.max(page.scanned);
            ControlFlow::Continue(())
        })
        .await
        .unwrap();
    let took = Clock::system().now() - started;
    assert_eq!((report.scanned, report.matched), (121, 121));
    assert!(report.read_units > 30.0, "{report:?}");
    assert!(largest <= 100, "{largest}");
    // All but the burst of one second is paid for; the last page of each segment is not waited for.
    assert!(took < Duration::from_secs(20), "{took:?}");

    // Whoever has seen enough stops, and so does a cancelled scan.
    let stopped = inbox.scan(&InboxScan::new(), |_| ControlFlow::Break(())).await.unwrap();
    assert_eq!(stopped.end, InboxScanEnd::Stopped);
    let token = CancellationToken::new();
    token.cancel();
    let cancelled = inbox
        .scan(&InboxScan::new().cancel(token), |_| ControlFlow::Continue(()))
        .await
        .unwrap();
    assert_eq!((cancelled.end, cancelled.scanned), (InboxScanEnd::Cancelled, 0));
    client.delete_table().table_name(&table).send().await.unwrap();
}

#[tokio::test]
async fn inv03_a_release_whose_reply_was_lost_finds_itself_made() {
    let key = &keys(1)[0];
    let mut held = item(key, "w-1", "processing", DATE_MS - 90_000);
    held["lease_until"] = json!({"N": (DATE_MS - 60_000).to_string()});
    let (inbox, stub) = connect(
        2,
        [
            Reply::ok(json!({"Item": held})),
            Reply::HangUp,
            condition_failed(&item(key, "operator-1", "released", DATE_MS)),
            condition_failed(&item(key, "w-2", "processing", DATE_MS)),
        ],
    )
    .await;
    let entry = look(&inbox, key).await;
    assert_eq!(
        inbox.free(&entry, "operator-1", Leases::Respect).await.unwrap(),
        Intervention::Done
    );
    assert_eq!(
        inbox.free(&entry, "operator-2", Leases::Respect).await.unwrap(),
        Intervention::Changed
    );
    assert_eq!(operations(&stub), ["GetItem", "UpdateItem", "UpdateItem", "UpdateItem"]);
}

#[tokio::test]
async fn a_scan_asks_again_for_a_page_that_the_service_was_too_busy_for() {
    let keys = keys(2);
    let page = |key: &RecordKey, next: Option<&RecordKey>| {
        let mut page = json!({"Items": [item(key, "w-1", "processing", DATE_MS)], "Count": 1, "ScannedCount": 1});
        if let Some(next) = next {
            page["LastEvaluatedKey"] = json!({"pk": {"S": next.as_str()}});
        }
        Reply::ok(page)
    };
    let busy = || Reply::error(400, "ProvisionedThroughputExceededException", "too fast");
    let replies = [busy(), page(&keys[0], Some(&keys[0])), busy(), page(&keys[1], None)];
    let (inbox, stub) = connect(1, replies).await;
    let found = scan(&inbox, InboxScan::new().segments(1)).await;
    assert_eq!(names(&found).len(), 2);
    let requests = stub.take_requests();
    assert_eq!(requests.len(), 4);
    assert_eq!(requests[2].body["ExclusiveStartKey"]["pk"]["S"], keys[0].as_str());
    assert_eq!(requests[0].body["ReturnConsumedCapacity"], "TOTAL");
}

#[tokio::test]
async fn a_denied_statement_is_a_denied_action() {
    let described = json!({"Table": {"TableArn": "arn:aws:dynamodb:eu-west-1:123456789012:table/orders-inbox"}});
    let denied = |message: &str| json!({"Responses": [{"Error": {"Code": "AccessDenied", "Message": message}}]});
    let failed = || {
        let code = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
        Reply::error(400, code, "The conditional request failed")
    };
    let (inbox, _stub) = connect(
        1,
        [
            Reply::ok(described),
            Reply::ok(json!({})),
            failed(),
            Reply::error(
                400,
                "com.amazon.coral.service#AccessDeniedException",
                "no policy allows it",
            ),
            Reply::ok(denied("not you")),
            Reply::error(500, "InternalServerError", "again"),
        ],
    )
    .await;
    let permissions = inbox.permissions("probe").await.unwrap();
    let verdict = |action: &str| {
        let found = permissions.iter().find(|permission| permission.action == action);
        let found = found.unwrap_or_else(|| panic!("{action} is not told of"));
        assert!(found.resource.ends_with(":table/orders-inbox"), "{found}");
        found.verdict.clone()
    };
    assert_eq!(verdict("dynamodb:GetItem"), Verdict::Allowed);
    assert_eq!(verdict("dynamodb:PutItem"), Verdict::Allowed);
    assert_eq!(
        verdict("dynamodb:UpdateItem"),
        Verdict::Denied("no policy allows it".into())
    );
    assert_eq!(verdict("dynamodb:PartiQLInsert"), Verdict::Denied("not you".into()));
    assert!(matches!(verdict("dynamodb:PartiQLUpdate"), Verdict::Unknown(_)));
}
