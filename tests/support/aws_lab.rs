//! Queues and tables on the servers of `localstack/up`, each test's own, and workers that run beside a test.

// Each test binary uses its own part of it.
#![allow(dead_code, reason = "test binaries share this module")]

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::types::QueueAttributeName;
use redrive::clock::Clock;
use redrive::message::Delivery;
use redrive::queue::{Queue, Receive};
use redrive::{DynamoInbox, SqsQueue};
use serde_json::json;

use crate::aws::config;
use crate::localstack::{self, Servers};

/// How long anything that a test waits for may take: far longer than it does, so that a busy machine fails none.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    pub(crate) servers: Servers,
    pub(crate) sqs: SdkConfig,
    pub(crate) dynamodb: SdkConfig,
}

/// A source queue and its dead-letter queue.
pub(crate) struct Queues {
    pub(crate) source: SqsQueue,
    pub(crate) dead: SqsQueue,
}

/// How a source queue is made.
pub(crate) struct Setup {
    pub(crate) visibility_secs: u32,
    pub(crate) max_receive_count: u32,
    pub(crate) source_retention_secs: u32,
    pub(crate) dead_retention_secs: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            visibility_secs: 2,
            max_receive_count: 100,
            source_retention_secs: 4 * 24 * 3600,
            dead_retention_secs: 14 * 24 * 3600,
        }
    }
}

impl Lab {
    /// None where these tests are left out, which `servers` says loudly.
    pub(crate) fn open() -> Option<Self> {
        let servers = localstack::servers()?;
        Some(Self {
            sqs: config(&servers.sqs_url),
            dynamodb: config(&servers.dynamodb_url),
            servers,
        })
    }

    /// A name that no other test and no earlier run has used; `.fifo` stays at its end.
    pub(crate) fn unique(what: &str) -> String {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let stamp = Clock::system().epoch_ms();
        let (stem, suffix) = what.strip_suffix(".fifo").map_or((what, ""), |stem| (stem, ".fifo"));
        format!("{stem}-{stamp}-{}-{number}{suffix}", std::process::id())
    }

    /// Makes a queue and its dead-letter queue and opens both.
    pub(crate) async fn queues(&self, what: &str, setup: &Setup) -> Queues {
        let name = Self::unique(what);
        let dead_name = match name.strip_suffix(".fifo") {
            Some(stem) => format!("{stem}-dlq.fifo"),
            None => format!("{name}-dlq"),
        };
        let retention = setup.dead_retention_secs.to_string();
        let dead_url = self
            .create_queue(&dead_name, &[(QueueAttributeName::MessageRetentionPeriod, retention)])
            .await;
        let dead = self.connect(&dead_url).await;
        let policy = json!({"deadLetterTargetArn": dead.attributes().arn, "maxReceiveCount": setup.max_receive_count});
        self.create_queue(
            &name,
            &[
                (QueueAttributeName::VisibilityTimeout, setup.visibility_secs.to_string()),
                (
                    QueueAttributeName::MessageRetentionPeriod,
                    setup.source_retention_secs.to_string(),
                ),
                (QueueAttributeName::RedrivePolicy, policy.to_string()),
            ],
        )
        .await;
        let source = self.connect(&name).await;
        Queues { source, dead }
    }

    /// Makes a queue and returns its URL.
    pub(crate) async fn create_queue(&self, name: &str, attributes: &[(QueueAttributeName, String)]) -> String {
        let mut call = aws_sdk_sqs::Client::new(&self.sqs).create_queue().queue_name(name);
        if name.ends_with(".fifo") {
            call = call.attributes(QueueAttributeName::FifoQueue, "true");
        }
        for (attribute, value) in attributes {
            call = call.attributes(attribute.clone(), value);
        }
        let created = patiently("the queue is made", async || call.clone().send().await).await;
        created.queue_url.expect("it has a URL")
    }

    pub(crate) async fn connect(&self, queue: &str) -> SqsQueue {
        patiently("the queue opens", async || SqsQueue::connect(&self.sqs, queue).await).await
    }

    /// Makes the table if it is not there, and opens it.
    pub(crate) async fn inbox(&self, table: &str) -> DynamoInbox {
        patiently("the table is made", async || {
            DynamoInbox::create_table(&self.dynamodb, table).await
        })
        .await;
        patiently("the table opens", async || {
            DynamoInbox::connect(&self.dynamodb, table).await
        })
        .await
    }
}

/// Calls a server again and again until it answers: a busy one may take longer than a call waits.
async fn patiently<T, E: std::fmt::Debug>(what: &str, mut call: impl AsyncFnMut() -> Result<T, E>) -> T {
    let clock = Clock::system();
    let began = clock.now();
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => {
                let waited = clock.now().saturating_duration_since(began);
                assert!(waited < PATIENCE, "{what}: {error:?} after {waited:?}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Waits until `holds`, looking again and again.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "waited {PATIENCE:?} in vain: {what}");
}

/// Whether nothing is in the queue, visible, in flight or delayed. The local server counts exactly, but for the moment in
/// which it hands messages out: they are no longer visible then, and not yet in flight. So what looks empty is looked at twice.
pub(crate) async fn is_empty(queue: &SqsQueue) -> bool {
    let seems_empty = async || {
        let now = patiently("the queue is described", async || queue.describe().await).await;
        now.visible + now.in_flight + now.delayed == 0
    };
    if !seems_empty().await {
        return false;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    seems_empty().await
}

/// Takes all messages out of a queue, once there are at least `count`.
pub(crate) async fn take_all(queue: &SqsQueue, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    until(
        &format!("{count} messages in {}", queue.attributes().name),
        async || {
            let receive = Receive::new(10, Duration::from_millis(500));
            let deliveries = patiently("the queue is received from", async || queue.receive(receive).await).await;
            if !deliveries.is_empty() {
                let receipts: Vec<_> = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
                for deleted in patiently("they are deleted", async || queue.delete(receipts.clone()).await).await {
                    deleted.expect("it is deleted");
                }
                taken.extend(deliveries);
            }
            taken.len() >= count && is_empty(queue).await
        },
    )
    .await;
    taken
}
