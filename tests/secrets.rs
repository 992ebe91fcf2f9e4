//! No credentials are seen: not by `Debug` of what holds them, not in errors, not in logs.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/log.rs"]
mod log;
#[path = "support/stub.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod stub;

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use log::Log;
use redrive::queue::{Queue, QueueError, Receive};
use redrive::worker::WithoutDeadLetters;
use redrive::{DynamoInbox, Failure, Producer, SqsQueue, Worker, Workers};
use serde_json::json;
use stub::{Reply, Stub};

const KEY: &str = "5ecret-access-key-5ecret-access-key";
const TOKEN: &str = "5ecret-session-token-IQoJb3JpZ2luX2VjE";

fn config(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new("AKIDEXAMPLE", KEY, Some(TOKEN.to_owned()), None, "tests");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

fn unseen(what: &str, shown: &str) {
    for secret in [KEY, TOKEN] {
        // Not even the part that a bound leaves of it.
        let begins = shown.contains(&secret[..20]);
        assert!(!begins, "{what} shows a secret: {shown}");
    }
}

const URL: &str = "http://localhost:1/000000000000/orders";

fn queue_attributes() -> Reply {
    Reply::ok(json!({"Attributes": {
        "QueueArn": "arn:aws:sqs:us-east-1:000000000000:orders", "VisibilityTimeout": "30",
        "MessageRetentionPeriod": "345600",
    }}))
}

fn table() -> [Reply; 2] {
    let date = "Sat, 01 Aug 2026 12:00:00 GMT";
    let table = json!({"Table": {
        "TableName": "inbox", "TableStatus": "ACTIVE",
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
    }});
    let ttl = json!({"TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}});
    [
        Reply::ok(table).header("date", date),
        Reply::ok(ttl).header("date", date),
    ]
}

async fn nothing() -> Result<(), Failure> {
    Ok(())
}

#[tokio::test]
async fn debug_of_whatever_holds_a_client_shows_no_credentials() {
    let sqs = Stub::start([queue_attributes()]).await.unwrap();
    let dynamodb = Stub::start(table()).await.unwrap();
    let aws = config(&sqs.url());
    let client = aws_sdk_sqs::Client::new(&aws);
    unseen("SqsQueueBuilder", &format!("{:?}", SqsQueue::builder(client, URL)));
    unseen("DynamoInboxBuilder", &format!("{:?}", DynamoInbox::builder("inbox")));
    let queue = SqsQueue::connect(&aws, URL).await.unwrap();
    let inbox = DynamoInbox::connect(&config(&dynamodb.url()), "inbox").await.unwrap();
    unseen("SqsQueue", &format!("{queue:#?}"));
    unseen("DynamoInbox", &format!("{inbox:#?}"));
    let worker = Worker::builder(queue.clone())
        .inbox(inbox)
        .without_dead_letters(WithoutDeadLetters::Keep)
        .handler(nothing)
        .build()
        .unwrap();
    unseen("Worker", &format!("{worker:#?}"));
    unseen("WorkerHandle", &format!("{:#?}", worker.handle()));
    unseen("Workers", &format!("{:#?}", Workers::new().with(worker)));
    let producer = Producer::builder(queue);
    unseen("ProducerBuilder", &format!("{producer:#?}"));
    unseen("Producer", &format!("{:#?}", producer.build().unwrap()));
}

/// A service that refuses a signature tells what it should have been made of, the session token included.
#[tokio::test]
async fn neither_errors_nor_the_log_show_credentials_although_the_service_says_them() {
    let log = Log::default();
    let capturing = log.capture("redrive=trace", false);
    let said = format!(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and \
         signing method. Consult the service documentation for details.\n\nThe Canonical String for this request should have \
         been\n'POST\n/\n\nhost:sqs\nx-amz-security-token:{TOKEN}\n\nhost;x-amz-security-token\nabc'\n"
    );
    let refused = move || Reply::error(403, "InvalidSignatureException", &said);
    let stub = Stub::start([queue_attributes(), refused(), refused()]).await.unwrap();
    let queue = SqsQueue::connect(&config(&stub.url()), URL).await.unwrap();
    let error: QueueError = queue.receive(Receive::new(1, Duration::ZERO)).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("does not match"), "{shown}");
    unseen("QueueError", &shown);

    let stub = Stub::start([refused(), refused()]).await.unwrap();
    let error = DynamoInbox::connect(&config(&stub.url()), "inbox").await.unwrap_err();
    unseen("InboxError", &format!("{error} {error:?}"));

    let worker = Worker::builder(queue)
        .without_dead_letters(WithoutDeadLetters::Keep)
        .handler(nothing)
        .build()
        .unwrap();
    let handle = worker.handle();
    let ended = tokio::join!(worker.run_until_drained(), async {
        while log.text().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        handle.drain();
    });
    drop(capturing);
    unseen("the worker's end", &format!("{ended:?}"));
    let text = log.text();
    assert!(!text.is_empty());
    unseen("the log", &text);
}
