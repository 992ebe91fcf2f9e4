//! `DynamoInbox`: on a server that is told what to answer, and on a real DynamoDB API.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/aws.rs"]
mod aws;
#[path = "support/inbox_conformance.rs"]
mod inbox_conformance;
#[path = "support/localstack.rs"]
mod localstack;
#[path = "support/stub.rs"]
mod stub;

#[path = "aws_inbox/admin.rs"]
mod admin;
#[path = "aws_inbox/engine.rs"]
mod engine;
#[path = "aws_inbox/table.rs"]
mod table;
#[path = "aws_inbox/wire.rs"]
mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::BoxFuture;
use redrive::DynamoInbox;
use redrive::clock::Clock;
use redrive::inbox::{ClaimRequest, Inbox, Record};
use redrive::key::{Key, RecordKey};
use redrive::outcome::StoredResult;
use tokio::sync::OnceCell;

use aws::config;
use inbox_conformance::InboxLab;

/// The table of these tests; each case uses a consumer of its own.
const TABLE: &str = "redrive-inbox-tests";

/// The configuration for the real API; none where these tests are left out.
fn server() -> Option<SdkConfig> {
    localstack::servers().map(|servers| config(&servers.dynamodb_url))
}

/// A name nothing has used before, here or in an earlier run.
fn unique(what: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{}-{count}", Clock::system().epoch_ms(), std::process::id())
}

/// The inbox on the real API, and a plain client for what no worker would do.
async fn inbox(config: &SdkConfig) -> (DynamoInbox, Client) {
    static CREATED: OnceCell<()> = OnceCell::const_new();
    CREATED
        .get_or_init(async || {
            DynamoInbox::create_table(config, TABLE)
                .await
                .expect("the table is created")
        })
        .await;
    let inbox = DynamoInbox::connect(config, TABLE)
        .await
        .expect("the table is an inbox");
    (inbox, Client::new(config))
}

fn request(key: &RecordKey, claim_id: &str) -> ClaimRequest {
    ClaimRequest {
        key: key.clone(),
        claim_id: claim_id.into(),
        message_id: "m-1".into(),
        fingerprint: None,
        lease: Duration::from_secs(600),
        retention: Duration::from_secs(24 * 3600),
        receive_count: 1,
        replayed: false,
    }
}

fn keys(count: usize) -> Vec<RecordKey> {
    let consumer = unique("orders");
    let key = |n| RecordKey::new(&consumer, &Key::new(format!("k{n}")));
    (0..count).map(key).collect()
}

async fn put(client: &Client, item: HashMap<String, AttributeValue>) {
    let call = client.put_item().table_name(TABLE).set_item(Some(item));
    call.send().await.expect("the item is stored");
}

/// The record as an item, by the names and types the design gives, and not by the inbox's own code.
fn item_of(record: &Record) -> HashMap<String, AttributeValue> {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let number = |number: u64| AttributeValue::N(number.to_string());
    let binary = |bytes: &[u8]| AttributeValue::B(Blob::new(bytes));
    let mut item = HashMap::from([
        ("pk".to_owned(), text(record.key.as_str())),
        ("status".to_owned(), text(record.status.as_str())),
        ("claim_id".to_owned(), text(&record.claim_id)),
        ("fencing_token".to_owned(), number(record.fencing_token)),
        ("lease_until".to_owned(), number(record.lease_until)),
        ("attempts".to_owned(), number(record.attempts.into())),
        ("dlq_sent".to_owned(), AttributeValue::Bool(record.dead_letter_sent)),
        ("started".to_owned(), AttributeValue::Bool(record.started)),
        ("deaths".to_owned(), number(record.deaths.into())),
        ("checkpoint_serial".to_owned(), number(record.checkpoint_serial)),
        ("message_id".to_owned(), text(&record.message_id)),
        ("first_seen".to_owned(), number(record.first_seen)),
        ("expires_at".to_owned(), number(record.expires_at)),
    ]);
    let mut some = |name: &str, value: Option<AttributeValue>| {
        item.insert(name.to_owned(), value.unwrap_or(AttributeValue::Null(true)));
    };
    some("last_error", record.last_error.as_deref().map(text));
    some("reason", record.reason.as_deref().map(text));
    some("fingerprint", record.fingerprint.map(|print| binary(&print.0)));
    some("checkpoint", record.checkpoint.as_deref().map(binary));
    match &record.result {
        StoredResult::Json(json) => some("result", Some(binary(json))),
        StoredResult::Omitted => some("result", Some(text("omitted"))),
        StoredResult::Nothing => {}
    }
    item
}

/// The suite's lab on DynamoDB Local.
struct Lab(Arc<DynamoInbox>, Client);

/// None where the tests on servers are left out, which [`localstack::servers`] says aloud.
async fn lab() -> Option<Lab> {
    let (inbox, client) = inbox(&server()?).await;
    Some(Lab(Arc::new(inbox), client))
}

impl InboxLab for Lab {
    fn engine(&self) -> &'static str {
        "dynamodb-local"
    }

    fn inbox(&self) -> Arc<dyn Inbox> {
        self.0.clone()
    }

    fn consumer(&self) -> String {
        unique("suite")
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn plant(&self, record: Record) -> BoxFuture<'_, ()> {
        Box::pin(async move { put(&self.1, item_of(&record)).await })
    }

    fn remove<'a>(&'a self, key: &'a RecordKey) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let key = AttributeValue::S(key.as_str().to_owned());
            let call = self.1.delete_item().table_name(TABLE).key("pk", key);
            call.send().await.expect("the item is deleted");
        })
    }
}

inbox_conformance!(lab, tokio::test);
