//! What goes over the wire, and what is made of answers that a real server gives too rarely to wait for.

use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use redrive::SqsQueue;
use redrive::clock::Clock;
use redrive::message::{Outgoing, Receipt};
use redrive::queue::{Queue, QueueError, Receive};
use serde_json::{Value, json};

use crate::config;
use crate::stub::{Reply, Request, Stub};

const ARN: &str = "arn:aws:sqs:us-east-1:000000000000:orders";

fn attributes(more: Value) -> Reply {
    let mut all = json!({"QueueArn": ARN, "VisibilityTimeout": "30", "MessageRetentionPeriod": "345600"});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    Reply::ok(json!({ "Attributes": all }))
}

/// Where a queue's URL says it is does not matter: the SDK calls the endpoint of its configuration.
fn url(name: &str) -> String {
    format!("http://localhost:1/000000000000/{name}")
}

/// A queue on a server that has been read, and the server with an empty record.
async fn open(name: &str) -> (SqsQueue, Stub) {
    let stub = Stub::start([attributes(json!({}))]).await.unwrap();
    let queue = SqsQueue::connect(&config(&stub.url()), url(name)).await.unwrap();
    stub.take_requests();
    (queue, stub)
}

/// The error of a receive that meets this answer, tried once so that a script is one answer long.
async fn error_of(reply: Reply) -> QueueError {
    let stub = Stub::start([attributes(json!({})), reply]).await.unwrap();
    let queue = SqsQueue::builder(aws_sdk_sqs::Client::new(&config(&stub.url())), url("orders"))
        .max_attempts(1)
        .call_timeout(Duration::from_millis(600))
        .connect()
        .await
        .unwrap();
    queue.receive(Receive::new(1, Duration::ZERO)).await.unwrap_err()
}

fn receipts(count: usize) -> Vec<Receipt> {
    (0..count).map(|n| Receipt::new(format!("r-{n}"))).collect()
}

fn ids(request: &Request) -> Vec<&str> {
    let entries = request.body["Entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["Id"].as_str().unwrap()).collect()
}

fn done(ids: &[&str]) -> Reply {
    let successful: Vec<Value> = ids.iter().map(|id| json!({ "Id": id })).collect();
    Reply::ok(json!({ "Successful": successful, "Failed": [] }))
}

#[tokio::test]
async fn a_receive_asks_only_for_what_is_used_and_keeps_to_the_bounds() {
    let (queue, stub) = open("orders").await;
    stub.then([Reply::ok(json!({})), Reply::ok(json!({}))]);
    let mut request = Receive::new(99, Duration::from_secs(60));
    request.visibility = Some(Duration::from_secs(100 * 3600));
    assert_eq!(queue.receive(request).await.unwrap(), []);
    queue
        .receive(Receive::new(0, Duration::from_millis(1_200)))
        .await
        .unwrap();
    let requests = stub.take_requests();
    assert_eq!(
        requests[0].body,
        json!({
            "QueueUrl": url("orders"),
            "MaxNumberOfMessages": 10,
            "WaitTimeSeconds": 20,
            "VisibilityTimeout": 43_200,
            "MessageSystemAttributeNames": [
                "ApproximateReceiveCount", "SentTimestamp", "MessageGroupId", "AWSTraceHeader",
                "DeadLetterQueueSourceArn"
            ],
            "MessageAttributeNames": ["All"],
        })
    );
    assert_eq!(requests[1].body["MaxNumberOfMessages"], 1);
    assert_eq!(requests[1].body["WaitTimeSeconds"], 2);
    assert_eq!(
        requests[1].body["VisibilityTimeout"],
        Value::Null,
        "the queue's own stands"
    );
}

#[tokio::test]
async fn a_retried_receive_of_a_fifo_queue_is_told_from_a_new_one() {
    let (queue, stub) = open("orders.fifo").await;
    stub.then([Reply::HangUp, Reply::ok(json!({})), Reply::ok(json!({}))]);
    for _ in 0..2 {
        queue.receive(Receive::new(1, Duration::ZERO)).await.unwrap();
    }
    let requests = stub.take_requests();
    let attempt = |n: usize| requests[n].body["ReceiveRequestAttemptId"].as_str().unwrap();
    assert_eq!(attempt(0), attempt(1));
    assert_ne!(attempt(1), attempt(2));
    assert!(
        requests[0].body["MessageSystemAttributeNames"]
            .as_array()
            .unwrap()
            .contains(&json!("MessageDeduplicationId"))
    );
}

#[tokio::test]
async fn inv12_a_message_that_can_hardly_be_read_is_delivered_all_the_same() {
    let (queue, stub) = open("orders").await;
    stub.then([Reply::ok(json!({"Messages": [
        {"ReceiptHandle": "r-1", "Attributes": {"ApproximateReceiveCount": "x", "FutureAttribute": "?"},
         "MessageAttributes": {"odd": {"DataType": "Colour"}}, "MD5OfBody": "not the checksum of this body",
         "MessageId": "m-1", "Body": "{", "Surprise": [1, {}]},
        {"MessageId": "m-2", "Body": "no receipt handle"},
        {"ReceiptHandle": "r-3"},
    ]}))]);
    let before = Clock::system().now();
    let received = queue.receive(Receive::new(10, Duration::ZERO)).await.unwrap();
    let seen: Vec<_> = received
        .iter()
        .map(|d| {
            (
                d.message.id.as_str(),
                d.message.body.as_str(),
                d.receipt.as_str(),
                d.receive_count,
            )
        })
        .collect();
    assert_eq!(seen, [("m-1", "{", "r-1", 1), ("", "", "r-3", 1)]);
    assert!(received[0].received_at >= before && received[0].received_at <= Clock::system().now());
}

#[tokio::test]
async fn inv11_entries_are_paired_by_position_whatever_the_order_of_the_answer() {
    let (queue, stub) = open("orders").await;
    stub.then([Reply::ok(json!({
        "Successful": [{"Id": "3"}, {"Id": "0"}],
        "Failed": [
            {"Id": "1", "Code": "ReceiptHandleIsInvalid", "Message": "The receipt handle has expired.", "SenderFault": true},
            {"Id": "17", "Code": "Nobody", "SenderFault": true},
        ],
    }))]);
    let answers = queue.delete(receipts(4)).await.unwrap();
    let requests = stub.take_requests();
    assert_eq!(requests[0].operation, "DeleteMessageBatch");
    assert_eq!(ids(&requests[0]), ["0", "1", "2", "3"]);
    assert_eq!(requests[0].body["Entries"][2]["ReceiptHandle"], "r-2");
    assert_eq!((&answers[0], &answers[3]), (&Ok(()), &Ok(())));
    let stale = answers[1].as_ref().unwrap_err();
    assert!(stale.is_stale_receipt() && stale.sender_fault);
    let unanswered = answers[2].as_ref().unwrap_err();
    assert_eq!((unanswered.code.as_str(), unanswered.sender_fault), ("NoAnswer", false));
}

#[tokio::test]
async fn inv11_a_batch_refused_whole_is_settled_one_by_one() {
    let (queue, stub) = open("orders").await;
    stub.then([
        Reply::error(400, "com.amazonaws.sqs#InvalidBatchEntryId", "refused whole").header(
            "x-amzn-query-error",
            "AWS.SimpleQueueService.InvalidBatchEntryId;Sender",
        ),
        done(&["0"]),
        Reply::error(400, "com.amazonaws.sqs#ReceiptHandleIsInvalid", "not a handle"),
        done(&["0"]),
    ]);
    let answers = queue.delete(receipts(3)).await.unwrap();
    let requests = stub.take_requests();
    let sizes: Vec<usize> = requests.iter().map(|request| ids(request).len()).collect();
    assert_eq!(sizes, [3, 1, 1, 1]);
    assert_eq!(requests[2].body["Entries"][0]["ReceiptHandle"], "r-1");
    assert_eq!((&answers[0], &answers[2]), (&Ok(()), &Ok(())));
    assert!(answers[1].as_ref().unwrap_err().is_stale_receipt());
}

#[tokio::test]
async fn inv11_a_throttled_batch_is_not_multiplied() {
    let stub = Stub::start([attributes(json!({}))]).await.unwrap();
    stub.then((0..2).map(|_| Reply::error(400, "com.amazonaws.sqs#RequestThrottled", "slow down")));
    let queue = SqsQueue::builder(aws_sdk_sqs::Client::new(&config(&stub.url())), url("orders"))
        .max_attempts(2)
        .connect()
        .await
        .unwrap();
    stub.take_requests();
    let error = queue.delete(receipts(3)).await.unwrap_err();
    assert!(matches!(error, QueueError::Throttled { .. }), "{error:?}");
    let sizes: Vec<usize> = stub.take_requests().iter().map(|request| ids(request).len()).collect();
    assert_eq!(sizes, [3, 3], "tried twice, as set");
}

#[tokio::test]
async fn a_receipt_that_comes_twice_is_sent_once_and_answered_twice() {
    let (queue, stub) = open("orders").await;
    stub.then([
        Reply::ok(json!({
            "Successful": [{"Id": "0"}],
            "Failed": [{"Id": "1", "Code": "MessageNotInflight", "SenderFault": true}],
        })),
        done(&["0", "1"]),
    ]);
    let (a, b) = (Receipt::new("a"), Receipt::new("b"));
    let answers = queue
        .delete(vec![a.clone(), b.clone(), a.clone(), b.clone()])
        .await
        .unwrap();
    assert_eq!((&answers[0], &answers[2]), (&Ok(()), &Ok(())));
    assert!(answers[1].is_err() && answers[3] == answers[1]);

    let seconds = Duration::from_secs;
    let changes = vec![
        (a.clone(), seconds(10)),
        (b, Duration::from_millis(1)),
        (a, seconds(90_000)),
    ];
    assert_eq!(
        queue.change_visibility(changes).await.unwrap(),
        [Ok(()), Ok(()), Ok(())]
    );
    let requests = stub.take_requests();
    assert_eq!(ids(&requests[0]), ["0", "1"]);
    assert_eq!(requests[1].operation, "ChangeMessageVisibilityBatch");
    assert_eq!(
        requests[1].body["Entries"],
        json!([
            {"Id": "0", "ReceiptHandle": "a", "VisibilityTimeout": 43_200},
            {"Id": "1", "ReceiptHandle": "b", "VisibilityTimeout": 1},
        ])
    );
}

#[tokio::test]
async fn more_than_a_batch_holds_becomes_several_and_a_later_failure_is_its_entries_own() {
    let (queue, stub) = open("orders").await;
    let sent = |count: usize| {
        let successful: Vec<Value> = (0..count)
            .map(|n| json!({"Id": n.to_string(), "MessageId": format!("m-{n}"), "MD5OfMessageBody": ""}))
            .collect();
        Reply::ok(json!({ "Successful": successful }))
    };
    stub.then([sent(10), sent(2)]);
    let messages = (0..12).map(|n| Outgoing::new(format!("body {n}"))).collect();
    let answers = queue.send(messages).await.unwrap();
    let requests = stub.take_requests();
    assert_eq!((ids(&requests[0]).len(), ids(&requests[1]).len()), (10, 2));
    assert_eq!(requests[1].body["Entries"][1]["MessageBody"], "body 11");
    assert_eq!(
        (&answers[9], &answers[11]),
        (&Ok("m-9".to_owned()), &Ok("m-1".to_owned()))
    );

    let half = "x".repeat(600 * 1024);
    stub.then([sent(1), Reply::error(403, "com.amazonaws.sqs#AccessDenied", "no more")]);
    let answers = queue
        .send(vec![
            Outgoing::new(half.clone()),
            Outgoing::new(half.clone()),
            Outgoing::new(half),
        ])
        .await
        .unwrap();
    assert_eq!(
        stub.take_requests().len(),
        2,
        "1 MiB holds one of them, and the rest is not tried"
    );
    assert!(answers[0].is_ok());
    for answer in &answers[1..] {
        let error = answer.as_ref().unwrap_err();
        assert_eq!((error.code.as_str(), error.sender_fault), ("AccessDenied", false));
    }
    assert_eq!(queue.send(Vec::new()).await.unwrap(), []);
    assert_eq!(stub.take_requests(), []);
}

#[tokio::test]
async fn failures_are_told_apart_and_name_queue_operation_and_request() {
    type Check = fn(&QueueError) -> bool;
    let cases: [(Reply, Check, &[&str]); 14] = [
        (
            Reply::error(400, "com.amazonaws.sqs#QueueDoesNotExist", "gone")
                .header("x-amzn-query-error", "AWS.SimpleQueueService.NonExistentQueue;Sender"),
            |e| matches!(e, QueueError::NotFound { .. }),
            &["does not exist", "gone", "http://127.0.0.1:"],
        ),
        (
            Reply::error(400, "com.amazonaws.sqs#QueueDoesNotExist", "gone"),
            |e| matches!(e, QueueError::NotFound { .. }),
            &["does not exist"],
        ),
        (
            Reply::error(403, "com.amazon.coral.service#AccessDeniedException", "not authorized"),
            |e| matches!(e, QueueError::AccessDenied { .. }),
            &["sqs:ReceiveMessage", "not authorized"],
        ),
        (
            Reply::error(400, "com.amazonaws.sqs#RequestThrottled", "too fast"),
            |e| matches!(e, QueueError::Throttled { .. }),
            &["RequestThrottled", "too fast"],
        ),
        (
            Reply::error(
                400,
                "com.amazon.coral.availability#ThrottlingException",
                "Rate exceeded",
            ),
            |e| matches!(e, QueueError::Throttled { .. }),
            &["Rate exceeded"],
        ),
        (
            Reply::error(400, "com.amazonaws.sqs#OverLimit", "too many"),
            |e| matches!(e, QueueError::InFlightLimit { .. }) && e.is_transient(),
            &["in flight"],
        ),
        (
            Reply::error(400, "com.amazonaws.sqs#KmsAccessDenied", "key says no")
                .header("x-amzn-query-error", "KMS.AccessDeniedException;Sender"),
            |e| matches!(e, QueueError::Refused { .. }),
            &["kms:Decrypt", "key says no"],
        ),
        (
            Reply::error(400, "com.amazonaws.sqs#KmsDisabled", "key is off")
                .header("x-amzn-query-error", "KMS.DisabledException;Sender"),
            |e| matches!(e, QueueError::Refused { .. }),
            &["enable the queue's key"],
        ),
        (
            Reply::error(400, "com.amazonaws.sqs#KmsThrottled", "key is busy")
                .header("x-amzn-query-error", "KMS.ThrottlingException;Sender"),
            |e| matches!(e, QueueError::Throttled { .. }),
            &["key is busy"],
        ),
        (
            Reply::error(
                403,
                "com.amazon.coral.service#ExpiredTokenException",
                "The security token has expired",
            ),
            |e| matches!(e, QueueError::Credentials { .. }) && e.is_transient(),
            &["credentials", "expired", "renew"],
        ),
        (
            Reply::error(
                403,
                "com.amazon.coral.service#UnrecognizedClientException",
                "invalid token",
            ),
            |e| matches!(e, QueueError::Refused { .. }),
            &["credentials", "not accepted"],
        ),
        (
            Reply::error(500, "com.amazonaws.sqs#InternalError", "sorry"),
            |e| matches!(e, QueueError::Unavailable { .. }),
            &["HTTP 500", "sorry", "http://127.0.0.1:"],
        ),
        (
            Reply::raw(502, "<html>Bad Gateway</html>"),
            |e| matches!(e, QueueError::Unavailable { .. }),
            &["502", "Bad Gateway"],
        ),
        (
            Reply::raw(200, "<html>Welcome</html>"),
            |e| matches!(e, QueueError::Unavailable { .. }),
            &["200", "Welcome"],
        ),
    ];
    for (reply, is_right, says) in cases {
        let error = error_of(reply.clone().header("x-amzn-requestid", "req-42")).await;
        assert!(is_right(&error), "{reply:?} became {error:?}");
        let text = error.to_string();
        for part in says.iter().chain(&["orders", "ReceiveMessage", "req-42"]) {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
}

#[tokio::test]
async fn silence_and_broken_connections_are_transient_and_name_the_endpoint() {
    for reply in [Reply::Silence, Reply::HangUp] {
        let started = Clock::system().now();
        let error = error_of(reply).await;
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(error.is_transient(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("http://127.0.0.1:") && text.contains("orders"), "{text}");
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_named() {
    // A port that was free a moment ago.
    let url = Stub::start([]).await.unwrap().url();
    let error = SqsQueue::connect(&config(&url), "orders").await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable { .. }), "{error:?}");
    let text = error.to_string();
    for part in [url.as_str(), "orders", "GetQueueUrl", "check the endpoint"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    let error = SqsQueue::connect(&config("https://no-such-host.invalid:4566"), "orders")
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("https://no-such-host.invalid:4566"),
        "{error}"
    );
}

#[tokio::test]
async fn the_futures_that_callers_carry_are_small() {
    let (queue, stub) = open("orders").await;
    let aws = config(&stub.url());
    assert!(size_of_val(&SqsQueue::connect(&aws, "orders")) < 1_024);
    assert!(size_of_val(&queue.receive(Receive::new(1, Duration::ZERO))) <= 16);
}

#[tokio::test]
async fn a_url_of_another_host_than_calls_go_to_is_found_out() {
    let gone = Reply::error(400, "com.amazonaws.sqs#QueueDoesNotExist", "gone");
    let stub = Stub::start([gone]).await.unwrap();
    let error = SqsQueue::connect(&config(&stub.url()), url("orders"))
        .await
        .unwrap_err()
        .to_string();
    for part in ["http://localhost:1,", stub.url().as_str(), "AWS_ENDPOINT_URL_SQS"] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_with_what_to_set() {
    let whole = config("http://localhost:1");
    let mut no_region = whole.to_builder();
    no_region.set_region(None);
    let no_region = no_region.build();
    let error = SqsQueue::connect(&no_region, "orders").await.unwrap_err().to_string();
    assert!(error.contains("AWS_REGION") && error.contains("orders"), "{error}");

    let mut no_credentials = whole.to_builder();
    no_credentials.set_credentials_provider(None);
    let no_credentials = no_credentials.build();
    let error = SqsQueue::connect(&no_credentials, "orders")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no AWS credentials") && error.contains("AWS_ACCESS_KEY_ID"),
        "{error}"
    );

    let client = aws_sdk_sqs::Client::new(&whole);
    let error = SqsQueue::builder(client.clone(), "orders")
        .call_timeout(Duration::ZERO)
        .connect()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("call timeout"), "{error}");
    let error = SqsQueue::builder(client, "orders")
        .max_attempts(0)
        .connect()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("max attempts"), "{error}");
}

#[tokio::test]
async fn a_queue_of_another_region_is_refused_without_a_call() {
    let stub = Stub::start([]).await.unwrap();
    for elsewhere in [
        "arn:aws:sqs:eu-west-1:123456789012:orders",
        "https://sqs.eu-west-1.amazonaws.com/123456789012/orders",
    ] {
        let error = SqsQueue::connect(&config(&stub.url()), elsewhere)
            .await
            .unwrap_err()
            .to_string();
        for part in [elsewhere, "eu-west-1", "us-east-1", "AWS_REGION"] {
            assert!(error.contains(part), "{error}");
        }
    }
    assert_eq!(stub.take_requests(), []);
}

#[tokio::test]
async fn a_queue_is_found_by_name_url_or_arn_of_its_account() {
    let found = || Reply::ok(json!({ "QueueUrl": url("orders") }));
    let stub = Stub::start([
        found(),
        attributes(json!({})),
        attributes(json!({})),
        found(),
        attributes(json!({})),
    ])
    .await
    .unwrap();
    let by_url = url("orders");
    for given in ["orders", by_url.as_str(), "arn:aws:sqs:us-east-1:123456789012:orders"] {
        let queue = SqsQueue::connect(&config(&stub.url()), given).await.unwrap();
        assert_eq!(queue.attributes().url, url("orders"));
        assert_eq!(queue.attributes().visibility_timeout, Duration::from_secs(30));
    }
    let requests = stub.take_requests();
    let operations: Vec<&str> = requests.iter().map(|request| request.operation.as_str()).collect();
    let (url, attributes) = ("GetQueueUrl", "GetQueueAttributes");
    assert_eq!(operations, [url, attributes, attributes, url, attributes]);
    assert_eq!(requests[0].body, json!({ "QueueName": "orders" }));
    assert_eq!(
        requests[3].body,
        json!({ "QueueName": "orders", "QueueOwnerAWSAccountId": "123456789012" })
    );
}

fn redriving_to(arn: &str) -> Reply {
    attributes(json!({ "RedrivePolicy": json!({"deadLetterTargetArn": arn, "maxReceiveCount": 5}).to_string() }))
}

#[tokio::test]
async fn the_dead_letter_queue_is_opened_with_its_own_attributes() {
    let dead = "arn:aws:sqs:us-east-1:000000000000:orders-dead";
    let stub = Stub::start([
        redriving_to(dead),
        Reply::ok(json!({ "QueueUrl": url("orders-dead") })),
        attributes(json!({ "QueueArn": dead, "MessageRetentionPeriod": "1209600" })),
    ])
    .await
    .unwrap();
    let queue = SqsQueue::connect(&config(&stub.url()), url("orders")).await.unwrap();
    let opened = queue.dead_letter_queue().unwrap();
    assert_eq!(opened.attributes().arn, dead);
    assert_eq!(opened.attributes().retention, Duration::from_secs(1_209_600));
    assert_eq!(queue.dead_letter_problem(), None);
    assert_eq!(queue.attributes().redrive.as_ref().unwrap().max_receive_count, 5);
}

#[tokio::test]
async fn inv12_a_dead_letter_queue_that_cannot_be_opened_is_a_problem_that_says_why() {
    let missing = Reply::error(400, "com.amazonaws.sqs#QueueDoesNotExist", "gone");
    let denied = Reply::error(403, "com.amazonaws.sqs#AccessDenied", "not authorized");
    let dead = "arn:aws:sqs:us-east-1:000000000000:orders-dead";
    for (arn, replies, says) in [
        (ARN, vec![], "the queue itself"),
        (dead, vec![missing], "does not exist"),
        (dead, vec![denied], "is not allowed"),
        ("arn:aws:sqs:eu-west-1:000000000000:dead", vec![], "eu-west-1"),
        ("nonsense", vec![], "six parts"),
    ] {
        let stub = Stub::start([redriving_to(arn)].into_iter().chain(replies))
            .await
            .unwrap();
        let queue = SqsQueue::connect(&config(&stub.url()), url("orders")).await.unwrap();
        assert!(queue.dead_letter_queue().is_none());
        let problem = queue.dead_letter_problem().unwrap();
        assert!(problem.contains(says) && problem.contains(arn), "{problem}");
    }
    // What may be over in a moment is no reason to work without a dead-letter queue.
    let down = (0..3).map(|_| Reply::raw(503, "down"));
    let stub = Stub::start([redriving_to(dead)].into_iter().chain(down)).await.unwrap();
    let error = SqsQueue::connect(&config(&stub.url()), url("orders"))
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn every_call_is_timed_by_operation_and_kind_of_error() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    {
        // These tests run on one thread, which a recorder can be set for.
        let _recording = metrics::set_default_local_recorder(&recorder);
        let (queue, stub) = open("orders").await;
        stub.then([done(&["0"])]);
        assert_eq!(queue.delete(receipts(1)).await.unwrap(), [Ok(())]);
        error_of(Reply::error(
            403,
            "com.amazon.coral.service#AccessDeniedException",
            "no",
        ))
        .await;
    }
    let mut timed = Vec::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        let label = |name| {
            key.labels()
                .find(|label| label.key() == name)
                .map(|label| label.value().to_owned())
        };
        if let ("messaging.client.operation.duration", DebugValue::Histogram(times)) = (key.name(), value) {
            assert_eq!(label("messaging.destination.name").as_deref(), Some("orders"));
            let operation = label("messaging.operation.name").unwrap();
            timed.push((operation, label("error.type").unwrap_or_default(), times.len()));
        }
    }
    timed.sort();
    let row = |operation: &str, error: &str, times| (operation.to_owned(), error.to_owned(), times);
    assert_eq!(
        timed,
        [
            row("delete", "", 1),
            row("describe", "", 2),
            row("receive", "AccessDenied", 1)
        ]
    );
}

#[tokio::test]
async fn plain_http_to_another_host_is_refused_before_anything_is_sent_unless_it_is_allowed() {
    let stub = Stub::start([attributes(json!({}))]).await.unwrap();
    // It leads to this host, and its name is not one that must.
    let elsewhere = stub.url().replace("127.0.0.1", "0.0.0.0");
    let error = SqsQueue::connect(&config(&elsewhere), url("orders")).await.unwrap_err();
    for part in ["REDRIVE_ALLOW_HTTP=1", "`0.0.0.0`", "https"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(!error.is_transient(), "time does not heal it: {error:?}");
    assert!(stub.take_requests().is_empty());

    let client = aws_sdk_sqs::Client::new(&config(&elsewhere));
    let queue = SqsQueue::builder(client, url("orders"))
        .allow_http(true)
        .connect()
        .await
        .unwrap();
    assert_eq!(queue.attributes().name, "orders");
    assert_eq!(stub.take_requests().len(), 1);
}
