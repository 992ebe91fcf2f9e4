//! An AWS account of a test's own on the local servers, so that every test may call its queue `orders`.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use redrive::clock::Clock;
use redrive::dlq::{ENVELOPE_ATTRIBUTE, Envelope};
use redrive::message::{Attribute, Outgoing};
use redrive::queue::Queue as _;
use redrive::{DynamoInbox, SqsQueue};
use serde_json::json;

use crate::localstack::{self, Servers};
use crate::tool::Tool;

pub(crate) struct World {
    /// LocalStack takes an access key of twelve digits for the account's number. DynamoDB Local shares its tables among
    /// accounts, so the inbox table's name has it too.
    account: String,
    pub(crate) servers: Servers,
    pub(crate) sqs: SdkConfig,
    pub(crate) dynamodb: SdkConfig,
}

/// A dead letter to be planted.
pub(crate) struct Letter {
    pub(crate) outgoing: Outgoing,
    pub(crate) envelope: Option<Envelope>,
}

impl World {
    /// None where tests on the servers are left out, which `servers` says loudly.
    pub(crate) fn open() -> Option<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let servers = localstack::servers()?;
        // Unique among all runs on these servers: seconds of some weeks, the process, the test.
        let seconds = Clock::system().epoch_ms() / 1_000 % 1_000_000;
        let process = std::process::id() % 1_000;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) % 1_000;
        let account = format!("{seconds:06}{process:03}{number:03}");
        Some(Self {
            sqs: config(&servers.sqs_url, &account),
            dynamodb: config(&servers.dynamodb_url, &account),
            servers,
            account,
        })
    }

    /// The account's number, which no other test has.
    pub(crate) fn account(&self) -> &str {
        &self.account
    }

    /// The tool in this account.
    pub(crate) fn tool(&self) -> Tool {
        Tool::new(&self.servers, &self.account)
    }

    /// Makes `name` and its dead-letter queue (`-dlq`, before any `.fifo`), and opens it. The visibility timeout is 30 s and
    /// `maxReceiveCount` 15.
    pub(crate) async fn queue(&self, name: &str) -> SqsQueue {
        let dead = match name.strip_suffix(".fifo") {
            Some(stem) => format!("{stem}-dlq.fifo"),
            None => format!("{name}-dlq"),
        };
        let dead = self.plain_queue(&dead, &[("MessageRetentionPeriod", "1209600")]).await;
        let policy = json!({"deadLetterTargetArn": dead.attributes().arn, "maxReceiveCount": 15}).to_string();
        self.plain_queue(name, &[("RedrivePolicy", &policy)]).await
    }

    /// Makes one queue with these attributes, and opens it.
    pub(crate) async fn plain_queue(&self, name: &str, attributes: &[(&str, &str)]) -> SqsQueue {
        let mut call = aws_sdk_sqs::Client::new(&self.sqs).create_queue().queue_name(name);
        if name.ends_with(".fifo") {
            call = call.attributes("FifoQueue".into(), "true");
        }
        for (attribute, value) in attributes {
            call = call.attributes((*attribute).into(), *value);
        }
        call.send().await.expect("the queue is made");
        self.open_queue(name).await
    }

    pub(crate) async fn open_queue(&self, name: &str) -> SqsQueue {
        SqsQueue::connect(&self.sqs, name).await.expect("the queue opens")
    }

    /// The name of this world's inbox table.
    pub(crate) fn table(&self) -> String {
        format!("redrive-inbox-{}", self.account)
    }

    /// Makes the inbox table, and opens it.
    pub(crate) async fn inbox(&self) -> DynamoInbox {
        let table = self.table();
        DynamoInbox::create_table(&self.dynamodb, &table)
            .await
            .expect("the table is made");
        DynamoInbox::connect(&self.dynamodb, &table)
            .await
            .expect("the table opens")
    }

    /// Sends messages, ten at a time, in order.
    pub(crate) async fn send(&self, queue: &SqsQueue, messages: impl IntoIterator<Item = Outgoing>) {
        let messages: Vec<Outgoing> = messages.into_iter().collect();
        for batch in messages.chunks(10) {
            for answer in queue.send(batch.to_vec()).await.expect("the batch is sent") {
                answer.expect("the message is sent");
            }
        }
    }

    /// Waits until as many messages of the queue are held by somebody.
    pub(crate) async fn until_in_flight(&self, queue: &SqsQueue, messages: u64) {
        let held = async {
            while queue.describe().await.expect("it answers").in_flight < messages {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), held)
            .await
            .expect("messages are held");
    }

    /// Puts dead letters into a queue, as a worker would have.
    pub(crate) async fn plant(&self, dead: &SqsQueue, letters: impl IntoIterator<Item = Letter>) {
        self.send(dead, letters.into_iter().map(Letter::into_outgoing)).await;
    }
}

impl Letter {
    /// One that a worker dead-lettered: its key, why, and the last error.
    pub(crate) fn new(key: &str, reason: &str, error: &str, body: &str) -> Self {
        let mut envelope = Envelope::default();
        envelope.key = key.to_owned();
        envelope.reason = reason.to_owned();
        envelope.error = error.to_owned();
        envelope.attempts = 5;
        envelope.message_id = format!("original-{key}");
        envelope.dead_at_ms = Clock::system().epoch_ms();
        Self {
            outgoing: Outgoing::new(body),
            envelope: Some(envelope),
        }
    }

    /// One that SQS moved by itself.
    pub(crate) fn moved_by_sqs(body: &str) -> Self {
        Self {
            outgoing: Outgoing::new(body),
            envelope: None,
        }
    }

    /// With a message type.
    pub(crate) fn of_type(self, message_type: &str) -> Self {
        self.attribute("type", message_type)
    }

    pub(crate) fn attribute(mut self, name: &str, value: &str) -> Self {
        self.outgoing
            .attributes
            .insert(name.to_owned(), Attribute::string(value));
        self
    }

    /// In a FIFO group; the deduplication id is the body's.
    pub(crate) fn in_group(mut self, group: &str) -> Self {
        self.outgoing.deduplication_id = Some(
            format!("{group}-{}", self.outgoing.body.len())
                + &self.outgoing.body.replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
        );
        self.outgoing.group_id = Some(group.to_owned());
        self
    }

    pub(crate) fn into_outgoing(mut self) -> Outgoing {
        if let Some(envelope) = &self.envelope {
            let text = serde_json::to_string(envelope).expect("an envelope is JSON");
            self.outgoing
                .attributes
                .insert(ENVELOPE_ATTRIBUTE.to_owned(), Attribute::string(text));
        }
        self.outgoing
    }
}

fn config(endpoint: &str, account: &str) -> SdkConfig {
    let credentials = Credentials::new(account, "test", None, None, "tests");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}
