//! What the inbox does on a real API beyond the suite: which calls it makes, and what stands in the table.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use redrive::inbox::{Change, Claim, ClaimAnswer, Inbox, InboxError, Status, Write};
use redrive::outcome::StoredResult;

use super::*;

fn won(answer: &Result<ClaimAnswer, InboxError>) -> Arc<Claim> {
    match answer {
        Ok(ClaimAnswer::Claimed(claim)) => claim.clone(),
        other => panic!("not claimed: {other:?}"),
    }
}

/// How many calls `work` makes of the service.
async fn calls<T>(work: impl Future<Output = T>) -> (u64, T) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let answer = {
        // These tests run on one thread, which a recorder can be set for.
        let _recording = metrics::set_default_local_recorder(&recorder);
        work.await
    };
    let calls = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .filter_map(|(key, _, _, value)| match (key.key().name(), value) {
            ("redrive.inbox.operation.duration", DebugValue::Histogram(times)) => Some(times.len() as u64),
            _ => None,
        });
    (calls.sum(), answer)
}

#[tokio::test]
async fn first_claims_and_writes_share_calls_by_25_and_one_alone_is_a_call() {
    let Some(config) = server() else { return };
    let (inbox, _) = inbox(&config).await;
    for (count, expected) in [(1, 1), (2, 1), (10, 1), (25, 1), (26, 2), (60, 3)] {
        let requests: Vec<_> = keys(count)
            .iter()
            .enumerate()
            .map(|(n, key)| request(key, &unique(&format!("c{n}"))))
            .collect();
        let (made, answers) = calls(inbox.claim(requests)).await;
        assert_eq!(made, expected, "claiming {count}");
        let claims: Vec<_> = answers.iter().map(won).collect();
        let completions = claims
            .iter()
            .map(|claim| (claim.clone(), StoredResult::Json(Bytes::from_static(b"1"))))
            .collect();
        let (made, answers) = calls(inbox.complete(completions)).await;
        assert_eq!(made, expected, "completing {count}");
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        for claim in claims {
            let record = inbox.get(&claim.key).await.unwrap().unwrap();
            assert_eq!(record.status, Status::Completed);
        }
    }
}

#[tokio::test]
async fn redeliveries_take_the_single_write_and_join_no_batch() {
    let Some(config) = server() else { return };
    let (inbox, _) = inbox(&config).await;
    let requests = keys(6)
        .iter()
        .enumerate()
        .map(|(n, key)| ClaimRequest {
            receive_count: if n < 2 { 3 } else { 1 },
            ..request(key, &format!("c{n}"))
        })
        .collect();
    let (made, answers) = calls(inbox.claim(requests)).await;
    assert_eq!(made, 2 + 1);
    answers.iter().for_each(|answer| drop(won(answer)));
}

#[tokio::test]
async fn inv11_what_fails_in_a_batch_fails_alone() {
    let Some(config) = server() else { return };
    let (inbox, _) = inbox(&config).await;
    let keys = keys(5);
    let first = won(&inbox.claim(vec![request(&keys[1], "first")]).await[0]);
    let again = keys.iter().map(|key| request(key, "again")).collect();
    let (made, answers) = calls(inbox.claim(again)).await;
    assert_eq!(made, 2, "one batch, and the single write of the one that was there");
    let mut claims = Vec::new();
    for (n, answer) in answers.iter().enumerate() {
        match n {
            1 => assert!(matches!(answer, Ok(ClaimAnswer::Running { .. })), "{answer:?}"),
            _ => claims.push(won(answer)),
        }
    }
    inbox.release(vec![first.clone()]).await.pop().unwrap().unwrap();
    won(&inbox.claim(vec![request(&keys[1], "taken over")]).await[0]);
    claims.insert(1, first);
    let (made, answers) = calls(inbox.renew(claims, Duration::from_secs(900))).await;
    assert_eq!(made, 1, "the failed statement brings the record that says why");
    for (n, answer) in answers.iter().enumerate() {
        match n {
            1 => assert!(matches!(answer, Err(InboxError::LeaseLost { .. })), "{answer:?}"),
            _ => assert!(answer.is_ok(), "{answer:?}"),
        }
    }
}

#[tokio::test]
async fn the_table_holds_what_the_design_says() {
    let Some(config) = server() else { return };
    let (inbox, client) = inbox(&config).await;
    let key = &keys(1)[0];
    let stored = async || {
        let call = client.get_item().table_name(TABLE).consistent_read(true);
        let output = call
            .key("pk", AttributeValue::S(key.as_str().into()))
            .send()
            .await
            .unwrap();
        let item: BTreeMap<_, _> = output
            .item
            .unwrap()
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect();
        item
    };
    let claim = won(&inbox.claim(vec![request(key, "c1")]).await[0]);
    let names: Vec<_> = stored().await.into_keys().collect();
    assert_eq!(
        names,
        [
            "checkpoint_serial",
            "claim_id",
            "expires_at",
            "fencing_token",
            "first_seen",
            "lease_until",
            "message_id",
            "pk",
            "status"
        ]
    );
    let checkpoint = Change::Checkpoint {
        serial: 1,
        data: Bytes::from_static(b"half"),
    };
    inbox
        .write(vec![Write::new(claim.clone(), checkpoint)])
        .await
        .pop()
        .unwrap()
        .unwrap();
    let item = stored().await;
    assert_eq!(item["checkpoint"].as_b().unwrap().as_ref(), b"half");
    assert_eq!(item["lease_until"].as_n().unwrap(), &claim.lease_until.to_string());

    inbox
        .complete(vec![(claim, StoredResult::Json(Bytes::from_static(b"7")))])
        .await
        .pop()
        .unwrap()
        .unwrap();
    let item = stored().await;
    assert_eq!(item["status"].as_s().unwrap(), "completed");
    assert_eq!(item["result"].as_b().unwrap().as_ref(), b"7");
    assert!(!item.contains_key("checkpoint"), "{item:?}");
    let seconds: u64 = item["expires_at"].as_n().unwrap().parse().unwrap();
    assert!(seconds.abs_diff(inbox.time().hi / 1000 + 24 * 3600) <= 5);
}

#[tokio::test]
async fn inv12_a_record_edited_by_hand_is_named_and_spares_the_batch() {
    let Some(config) = server() else { return };
    let (inbox, client) = inbox(&config).await;
    let keys = keys(4);
    let broken = |key: &RecordKey, name: &str, value: AttributeValue| {
        let mut record = Record::new(key.clone());
        record.expires_at = inbox.time().hi / 1000 + 3600;
        let mut item = item_of(&record);
        item.insert(name.to_owned(), value);
        item
    };
    put(
        &client,
        broken(&keys[0], "fencing_token", AttributeValue::N("-7".into())),
    )
    .await;
    put(&client, broken(&keys[1], "status", AttributeValue::S("paid".into()))).await;
    put(&client, broken(&keys[2], "expires_at", AttributeValue::Null(true))).await;
    for (key, said) in keys
        .iter()
        .zip(["`fencing_token` is -7", "`status` is `paid`", "`expires_at` is missing"])
    {
        match inbox.get(key).await {
            Err(error @ InboxError::Corrupt { .. }) => {
                let error = error.to_string();
                for part in [said, key.as_str(), inbox.table_name()] {
                    assert!(error.contains(part), "{error}");
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let answers = inbox.claim(keys.iter().map(|key| request(key, "c")).collect()).await;
    for (n, answer) in answers.iter().enumerate() {
        match n {
            3 => drop(won(answer)),
            _ => assert!(matches!(answer, Err(InboxError::Corrupt { .. })), "{answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_late_renewal_leaves_the_longer_lease_alone() {
    let Some(config) = server() else { return };
    let (inbox, _) = inbox(&config).await;
    let key = &keys(1)[0];
    let claim = won(&inbox.claim(vec![request(key, "c")]).await[0]);
    let shorter = inbox.renew(vec![claim.clone()], Duration::from_secs(10)).await;
    assert_eq!(shorter[0].as_ref().unwrap().lease_until, Some(claim.lease_until));
    assert_eq!(inbox.get(key).await.unwrap().unwrap().lease_until, claim.lease_until);
}

#[tokio::test]
async fn results_to_256_kib_are_kept_where_that_is_set() {
    let Some(config) = server() else { return };
    inbox(&config).await;
    let most = 256 * 1024;
    let builder = DynamoInbox::builder(TABLE).max_result(most).unwrap();
    let inbox = builder.connect(&config).await.unwrap();
    let json = Bytes::from(vec![b'7'; most]);
    let claims: Vec<_> = inbox
        .claim(keys(6).iter().map(|key| request(key, "c")).collect())
        .await
        .iter()
        .map(won)
        .collect();
    let result = StoredResult::Json(json);
    let completions = claims.iter().map(|claim| (claim.clone(), result.clone())).collect();
    let (made, answers) = calls(inbox.complete(completions)).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(
        made, 3,
        "batches are bounded in bytes: two results of this size in each"
    );
    for claim in claims {
        assert_eq!(inbox.get(&claim.key).await.unwrap().unwrap().result, result);
    }
    assert!(DynamoInbox::builder(TABLE).max_result(most + 1).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn inv02_of_batches_that_race_for_the_same_keys_one_wins_each() {
    const RACERS: usize = 8;
    let Some(config) = server() else { return };
    let (inbox, _) = inbox(&config).await;
    let inbox = Arc::new(inbox);
    for round in 0..10 {
        let keys = Arc::new(keys(10));
        let start = Arc::new(tokio::sync::Barrier::new(RACERS));
        let mut racers = tokio::task::JoinSet::new();
        for racer in 0..RACERS {
            let (inbox, keys, start) = (inbox.clone(), keys.clone(), start.clone());
            racers.spawn(async move {
                let claim_id = format!("{racer}");
                let requests = keys.iter().map(|key| request(key, &claim_id)).collect();
                start.wait().await;
                inbox.claim(requests).await
            });
        }
        let mut winners = vec![0; keys.len()];
        for answers in racers.join_all().await {
            for (winners, answer) in winners.iter_mut().zip(answers) {
                match answer.unwrap() {
                    ClaimAnswer::Claimed(_) => *winners += 1,
                    ClaimAnswer::Running { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(winners, vec![1; keys.len()], "round {round}");
    }
}

#[tokio::test]
async fn a_renewal_while_its_dead_letter_is_unsent_extends_the_lease_singly_and_in_a_batch() {
    let Some(config) = server() else { return };
    let (inbox, _) = inbox(&config).await;
    let requests = keys(3).iter().map(|key| request(key, "c")).collect();
    let claims: Vec<_> = inbox.claim(requests).await.iter().map(won).collect();
    let rejection = redrive::inbox::Rejection {
        reason: redrive::Reason::Rejected,
        error: "declined".into(),
        attempts: 1,
    };
    for claim in &claims[..2] {
        inbox
            .reject(vec![(claim.clone(), rejection.clone())])
            .await
            .pop()
            .unwrap()
            .unwrap();
    }
    let (made, answers) = calls(inbox.renew(claims[1..].to_vec(), Duration::from_secs(900))).await;
    assert_eq!(made, 2, "the batch, and once more what was rejected");
    let (made, single) = calls(inbox.renew(vec![claims[0].clone()], Duration::from_secs(900))).await;
    assert_eq!(made, 2);
    for (claim, answer) in [
        (&claims[1], &answers[0]),
        (&claims[2], &answers[1]),
        (&claims[0], &single[0]),
    ] {
        let lease_until = answer.as_ref().unwrap().lease_until.unwrap();
        assert!(lease_until > claim.lease_until);
        assert_eq!(inbox.get(&claim.key).await.unwrap().unwrap().lease_until, lease_until);
    }
}
