//! What the inbox makes of answers that a real server gives too rarely.

use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use redrive::inbox::{ClaimAnswer, Inbox, InboxError};
use serde_json::{Value, json};

use super::stub::{Reply, Stub};
use super::*;

const NAME: &str = "orders-inbox";
const DATE: &str = "Sat, 01 Aug 2026 12:00:00 GMT";
pub(super) const DATE_MS: u64 = 1_785_585_600_000;

/// What connecting asks for: the table, then its time to live.
fn welcome() -> [Reply; 2] {
    let table = json!({"Table": {
        "TableName": NAME,
        "TableStatus": "ACTIVE",
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
    }});
    let ttl = json!({"TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}});
    [
        Reply::ok(table).header("date", DATE),
        Reply::ok(ttl).header("date", DATE),
    ]
}

/// An inbox on a stub, through a client that waits shortly and tries as often as said.
pub(super) async fn connect(attempts: u32, replies: impl IntoIterator<Item = Reply>) -> (DynamoInbox, Stub) {
    let stub = Stub::start(welcome()).await.unwrap();
    stub.then(replies);
    let settings = aws_sdk_dynamodb::config::Builder::from(&config(&stub.url()))
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(Duration::from_millis(500))
                .build(),
        )
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(attempts)
                .with_initial_backoff(Duration::from_millis(1)),
        )
        .build();
    let inbox = DynamoInbox::from_client(Client::from_conf(settings), NAME)
        .await
        .unwrap();
    stub.take_requests();
    (inbox, stub)
}

fn statements(errors: &[Option<(&str, &str)>]) -> Reply {
    let response = |error: &Option<(&str, &str)>| match error {
        None => json!({"TableName": NAME}),
        Some((code, message)) => json!({"Error": {"Code": code, "Message": message}}),
    };
    Reply::ok(json!({"Responses": errors.iter().map(response).collect::<Vec<_>>()}))
}

/// A failed condition, with the record it failed on.
pub(super) fn condition_failed(item: &Value) -> Reply {
    let code = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
    Reply::raw(
        400,
        json!({"__type": code, "Message": "The conditional request failed", "Item": item}).to_string(),
    )
}

/// A record as the wire has it.
pub(super) fn item(key: &RecordKey, claim_id: &str, status: &str, fencing_token: u64) -> Value {
    json!({
        "pk": {"S": key.as_str()},
        "status": {"S": status},
        "claim_id": {"S": claim_id},
        "fencing_token": {"N": fencing_token.to_string()},
        "lease_until": {"N": (DATE_MS + 600_000).to_string()},
        "message_id": {"S": "m-1"},
        "first_seen": {"N": fencing_token.to_string()},
        "expires_at": {"N": (DATE_MS / 1000 + 86_400).to_string()},
    })
}

pub(super) fn operations(stub: &Stub) -> Vec<String> {
    stub.take_requests()
        .into_iter()
        .map(|request| request.operation)
        .collect()
}

async fn claim_all(inbox: &DynamoInbox, keys: &[RecordKey]) -> Vec<Result<ClaimAnswer, InboxError>> {
    inbox.claim(keys.iter().map(|key| request(key, "mine")).collect()).await
}

#[tokio::test]
async fn inv03_a_claim_whose_reply_was_lost_is_recognised_as_ours() {
    let keys = keys(1);
    let (inbox, stub) = connect(
        2,
        [
            Reply::HangUp,
            condition_failed(&item(&keys[0], "mine", "processing", DATE_MS)),
        ],
    )
    .await;
    match &claim_all(&inbox, &keys).await[0] {
        Ok(ClaimAnswer::Claimed(claim)) => assert_eq!((&*claim.claim_id, claim.fencing_token), ("mine", DATE_MS)),
        other => panic!("{other:?}"),
    }
    assert_eq!(operations(&stub), ["PutItem", "PutItem"]);
}

#[tokio::test]
async fn inv03_a_write_whose_reply_was_lost_finds_itself_made() {
    let keys = keys(1);
    let (inbox, stub) = connect(
        2,
        [
            condition_failed(&item(&keys[0], "mine", "processing", DATE_MS)),
            Reply::HangUp,
            condition_failed(&item(&keys[0], "mine", "completed", DATE_MS)),
        ],
    )
    .await;
    let Ok(ClaimAnswer::Claimed(claim)) = claim_all(&inbox, &keys).await.remove(0) else {
        panic!("not claimed");
    };
    let answer = inbox.complete(vec![(claim, StoredResult::Nothing)]).await.remove(0);
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(operations(&stub), ["PutItem", "UpdateItem", "UpdateItem"]);
}

#[tokio::test]
async fn inv11_every_statement_of_a_batch_is_read_and_answered_by_itself() {
    let keys = keys(8);
    let (inbox, stub) = connect(
        1,
        [
            statements(&[
                None,
                Some(("ThrottlingError", "slow down")),
                Some(("ProvisionedThroughputExceeded", "too much")),
                Some(("InternalServerError", "oops")),
                Some(("AccessDenied", "no")),
                Some(("DuplicateItemException", "there is one")),
                Some(("TransactionConflict", "busy")),
                // And nothing for the eighth.
            ]),
            // The single writes of what is undecided.
            Reply::ok(json!({})),
            Reply::ok(json!({})),
            Reply::ok(json!({})),
        ],
    )
    .await;
    let answers = claim_all(&inbox, &keys).await;
    assert!(matches!(answers[0], Ok(ClaimAnswer::Claimed(_))), "{answers:?}");
    for throttled in &answers[1..3] {
        assert!(matches!(throttled, Err(InboxError::Throttled { .. })), "{throttled:?}");
    }
    assert!(matches!(answers[3], Err(InboxError::Unavailable { .. })), "{answers:?}");
    match &answers[4] {
        Err(error @ InboxError::AccessDenied { .. }) => {
            assert!(error.to_string().contains("dynamodb:PartiQLInsert"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    for claimed in &answers[5..8] {
        assert!(matches!(claimed, Ok(ClaimAnswer::Claimed(_))), "{claimed:?}");
    }
    assert_eq!(
        operations(&stub),
        ["BatchExecuteStatement", "PutItem", "PutItem", "PutItem"]
    );
}

#[tokio::test]
async fn inv11_a_batch_refused_whole_is_made_one_by_one() {
    let keys = keys(3);
    let (inbox, stub) = connect(
        1,
        [
            Reply::error(
                400,
                "com.amazon.coral.validate#ValidationException",
                "one of them is wrong",
            ),
            Reply::ok(json!({})),
            Reply::error(400, "com.amazon.coral.validate#ValidationException", "this one is"),
            Reply::ok(json!({})),
        ],
    )
    .await;
    let answers = claim_all(&inbox, &keys).await;
    let claimed = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(ClaimAnswer::Claimed(_))))
        .count();
    let refused = answers
        .iter()
        .filter(|answer| matches!(answer, Err(InboxError::Refused { .. })))
        .count();
    assert_eq!((claimed, refused), (2, 1), "{answers:?}");
    assert_eq!(
        operations(&stub),
        ["BatchExecuteStatement", "PutItem", "PutItem", "PutItem"]
    );
}

#[tokio::test]
async fn inv12_a_call_that_fails_fails_every_entry_and_says_why() {
    type IsExpected = fn(&InboxError) -> bool;
    let cases: [(Reply, IsExpected, &[&str]); 6] = [
        (
            Reply::error(400, "com.amazon.coral.service#AccessDeniedException", "not authorized")
                .header("x-amzn-requestid", "R7"),
            |error| matches!(error, InboxError::AccessDenied { .. }),
            &["dynamodb:PartiQLInsert", "R7", NAME],
        ),
        (
            Reply::error(
                400,
                "com.amazon.coral.service#ExpiredTokenException",
                "the token is expired",
            ),
            |error| matches!(error, InboxError::Credentials { .. }),
            &["credentials", "expired", "renew"],
        ),
        (
            Reply::error(
                400,
                "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",
                "spent",
            ),
            |error| matches!(error, InboxError::Throttled { .. }),
            &["throttled", "capacity"],
        ),
        (
            Reply::raw(503, "busy"),
            |error| matches!(error, InboxError::Unavailable { .. }),
            &["503", "may have had its effect"],
        ),
        (
            Reply::HangUp,
            |error| matches!(error, InboxError::Unavailable { .. }),
            &["may have had its effect"],
        ),
        (
            Reply::Silence,
            |error| matches!(error, InboxError::Unavailable { .. }),
            &["in time"],
        ),
    ];
    for (reply, is_expected, said) in cases {
        let shown = format!("{reply:?}");
        let keys = keys(2);
        let (inbox, stub) = connect(1, [reply]).await;
        let answers = claim_all(&inbox, &keys).await;
        assert_eq!(operations(&stub), ["BatchExecuteStatement"], "{shown}");
        for answer in answers {
            let error = answer.unwrap_err();
            assert!(is_expected(&error), "{shown}: {error:?}");
            let error = error.to_string();
            for part in said {
                assert!(error.contains(part), "{error} does not say {part}");
            }
        }
    }
}

#[tokio::test]
async fn inv12_a_service_that_is_not_there_is_unavailable_and_named() {
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for endpoint in [closed.as_str(), "https://no-such-host.invalid:8000"] {
        let error = DynamoInbox::connect(&config(endpoint), NAME).await.unwrap_err();
        assert!(matches!(error, InboxError::Unavailable { .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains(NAME) && error.contains(endpoint), "{error}");
    }
}

#[tokio::test]
async fn inv12_a_name_that_no_table_has_is_refused_without_a_call() {
    let stub = Stub::start([]).await.unwrap();
    for name in ["", "in\"box", "arn:aws:dynamodb:eu-west-1:123456789012:table/inbox"] {
        let error = DynamoInbox::connect(&config(&stub.url()), name).await.unwrap_err();
        assert!(matches!(error, InboxError::Schema { .. }), "{error}");
    }
    assert_eq!(stub.take_requests(), []);
}

#[tokio::test]
async fn inv02_a_claim_that_keeps_losing_is_told_that_others_are_at_work() {
    let keys = keys(1);
    let released = |n: u64| condition_failed(&item(&keys[0], &format!("other-{n}"), "released", DATE_MS + n));
    let (inbox, stub) = connect(1, (0..20).map(released)).await;
    match &claim_all(&inbox, &keys).await[0] {
        // Nothing is known of the others' lease: it is taken to be as long as the one that was asked for.
        Ok(ClaimAnswer::Running { lease_left }) => assert_eq!(*lease_left, request(&keys[0], "mine").lease),
        other => panic!("{other:?}"),
    }
    let puts = stub.take_requests();
    assert_eq!(puts.len(), 5, "bounded");
    for (n, put) in puts.iter().enumerate().skip(1) {
        let seen = &put.body["ExpressionAttributeValues"];
        assert_eq!(
            seen[":claim_id"]["S"],
            format!("other-{}", n - 1),
            "the condition is on the record last seen"
        );
        let condition = put.body["ConditionExpression"].as_str().unwrap();
        for name in [
            "claim_id",
            "fencing_token",
            "status",
            "lease_until",
            "dlq_sent",
            "started",
            "checkpoint",
        ] {
            assert!(condition.contains(&format!("#{name}")), "{condition} leaves {name} out");
        }
    }
}

#[tokio::test]
async fn inv02_a_key_comes_once_in_a_batch_of_writes() {
    let keys = keys(2);
    let (inbox, stub) = connect(
        1,
        [
            statements(&[None, None]),
            statements(&[None, None]),
            Reply::ok(json!({})),
        ],
    )
    .await;
    let claims: Vec<_> = claim_all(&inbox, &keys)
        .await
        .into_iter()
        .map(|answer| match answer {
            Ok(ClaimAnswer::Claimed(claim)) => claim,
            other => panic!("{other:?}"),
        })
        .collect();
    let [a, b] = [claims[0].clone(), claims[1].clone()];
    let answers = inbox.renew(vec![a.clone(), b, a], Duration::from_secs(900)).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(
        operations(&stub),
        ["BatchExecuteStatement", "BatchExecuteStatement", "UpdateItem"]
    );
}

#[tokio::test]
async fn inv03_an_answer_with_nothing_in_it_is_no_claim_and_no_write() {
    // What a proxy or a load balancer says where the service has said nothing: DynamoDB's own is at least `{}`.
    let keys = keys(1);
    let lie = || Reply::raw(200, "");
    let taken = || condition_failed(&item(&keys[0], "another", "processing", DATE_MS));
    let (inbox, _stub) = connect(1, [lie()]).await;
    match claim_all(&inbox, &keys).await.remove(0) {
        Err(error @ InboxError::Unavailable { .. }) => assert!(error.to_string().contains("PutItem"), "{error}"),
        other => panic!("{other:?}"),
    }
    let (inbox, stub) = connect(2, [Reply::ok(json!({})), lie(), taken()]).await;
    let Ok(ClaimAnswer::Claimed(claim)) = claim_all(&inbox, &keys).await.remove(0) else {
        panic!("it was free");
    };
    let complete = async || {
        let completion = (claim.clone(), StoredResult::Nothing);
        inbox.complete(vec![completion]).await.remove(0)
    };
    let unknown = complete().await;
    assert!(matches!(unknown, Err(InboxError::Unavailable { .. })), "{unknown:?}");
    let lost = complete().await;
    assert!(matches!(lost, Err(InboxError::LeaseLost { .. })), "{lost:?}");
    assert_eq!(operations(&stub), ["PutItem", "UpdateItem", "UpdateItem"]);
}

#[tokio::test]
async fn inv08_a_client_without_time_limits_does_not_let_a_silent_service_hang_the_inbox() {
    let stub = Stub::start((0..10).map(|_| Reply::Silence)).await.unwrap();
    let plain = Client::new(&config(&stub.url()));
    let opening = DynamoInbox::from_client(plain, NAME);
    let opened = tokio::time::timeout(Duration::from_secs(30), opening).await;
    let error = opened.expect("it does not hang").unwrap_err();
    assert!(matches!(error, InboxError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("in time"), "{error}");
}
