//! On a real SQS API: LocalStack, started or reused by `localstack/up`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use redrive::SqsQueue;
use redrive::message::{Attribute, Delivery, Outgoing, Receipt};
use redrive::queue::{EntryError, Queue, QueueError, Receive};
use serde_json::json;

use crate::config;
use crate::localstack::servers;

/// A server, on which every test makes queues of its own.
pub(crate) struct Lab {
    pub(crate) endpoint: String,
    pub(crate) client: Client,
}

impl Lab {
    /// Nothing where these tests are left out, which `servers` says loudly.
    pub(crate) fn open() -> Option<Self> {
        let endpoint = servers()?.sqs_url;
        let client = Client::new(&config(&endpoint));
        Some(Self { endpoint, client })
    }

    /// A name that no other test and no earlier run has used; FIFO if `what` ends so.
    pub(crate) fn name(what: &str) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let stamp = redrive::clock::Clock::system().epoch_ms();
        let (stem, suffix) = what.strip_suffix(".fifo").map_or((what, ""), |stem| (stem, ".fifo"));
        format!("{stem}-{stamp}-{}-{number}{suffix}", std::process::id())
    }

    /// Creates a queue and returns its name and URL.
    pub(crate) async fn create(&self, what: &str, attributes: &[(QueueAttributeName, &str)]) -> (String, String) {
        let name = Self::name(what);
        let mut call = self.client.create_queue().queue_name(&name);
        if name.ends_with(".fifo") {
            call = call.attributes(QueueAttributeName::FifoQueue, "true");
        }
        for (attribute, value) in attributes {
            call = call.attributes(attribute.clone(), *value);
        }
        let created = call.send().await.unwrap();
        (name, created.queue_url.unwrap())
    }

    pub(crate) async fn connect(&self, queue: &str) -> Result<SqsQueue, QueueError> {
        SqsQueue::from_client(self.client.clone(), queue).await
    }

    /// Creates a queue and opens it.
    pub(crate) async fn queue_of(&self, what: &str, attributes: &[(QueueAttributeName, &str)]) -> SqsQueue {
        let (name, _) = self.create(what, attributes).await;
        self.connect(&name).await.unwrap()
    }
}

pub(crate) fn redrive_policy(arn: &str, count: u32) -> String {
    json!({"deadLetterTargetArn": arn, "maxReceiveCount": count}).to_string()
}

fn arn(name: &str) -> String {
    format!("arn:aws:sqs:us-east-1:000000000000:{name}")
}

/// One message, waited for.
async fn one(queue: &SqsQueue) -> Delivery {
    for _ in 0..5 {
        let mut received = queue.receive(Receive::new(1, Duration::from_secs(5))).await.unwrap();
        if let Some(delivery) = received.pop() {
            return delivery;
        }
    }
    panic!("nothing came in {queue:?}");
}

fn failure<T: std::fmt::Debug>(answer: &Result<T, EntryError>) -> &EntryError {
    answer.as_ref().expect_err("the entry should have failed")
}

#[tokio::test]
async fn a_queue_is_found_by_name_url_and_arn_and_its_attributes_are_read() {
    let Some(lab) = Lab::open() else { return };
    let (dead_name, _) = lab
        .create("dead", &[(QueueAttributeName::MessageRetentionPeriod, "1209600")])
        .await;
    let policy = redrive_policy(&arn(&dead_name), 7);
    let (name, url) = lab
        .create(
            "found",
            &[
                (QueueAttributeName::VisibilityTimeout, "45"),
                (QueueAttributeName::RedrivePolicy, &policy),
            ],
        )
        .await;
    for given in [name.clone(), url, arn(&name)] {
        let queue = lab.connect(&given).await.unwrap();
        let read = queue.attributes();
        assert_eq!(
            (read.name.as_str(), read.arn.as_str()),
            (name.as_str(), arn(&name).as_str())
        );
        assert_eq!(read.visibility_timeout, Duration::from_secs(45));
        assert_eq!(read.retention, Duration::from_secs(4 * 24 * 3600));
        assert!(!read.fifo);
        let policy = read.redrive.clone().unwrap();
        assert_eq!((policy.dead_letter_arn, policy.max_receive_count), (arn(&dead_name), 7));
        let dead = queue.dead_letter_queue().unwrap();
        assert_eq!(dead.attributes().name, dead_name);
        assert_eq!(dead.attributes().retention, Duration::from_secs(14 * 24 * 3600));
    }
}

#[tokio::test]
async fn a_fifo_queues_deduplication_settings_are_read() {
    let Some(lab) = Lab::open() else { return };
    let by_group = lab
        .queue_of(
            "groups.fifo",
            &[
                (QueueAttributeName::ContentBasedDeduplication, "true"),
                (QueueAttributeName::DeduplicationScope, "messageGroup"),
                (QueueAttributeName::FifoThroughputLimit, "perMessageGroupId"),
            ],
        )
        .await;
    let read = by_group.attributes();
    assert!(read.fifo && read.content_based_deduplication && read.deduplication_by_group);
    let plain = lab.queue_of("plain.fifo", &[]).await;
    let read = plain.attributes();
    assert!(read.fifo && !read.content_based_deduplication && !read.deduplication_by_group);
}

#[tokio::test]
async fn a_message_arrives_as_it_was_sent() {
    let Some(lab) = Lab::open() else { return };
    let queue = lab.queue_of("whole.fifo", &[]).await;
    let mut sent = Outgoing::new("{\"größe\": \"\u{1F980}\"}")
        .attribute("type", Attribute::string("order"))
        .attribute("n", Attribute::number(7))
        .attribute("raw", Attribute::binary(vec![0_u8, 255, 10]))
        .group("g-1")
        .deduplication_id("d-1");
    sent.trace_header = Some("Root=1-5759e988-bd862e3fe1be46a994272793".to_owned());
    let ids = queue.send(vec![sent.clone()]).await.unwrap();

    let delivery = one(&queue).await;
    let message = &delivery.message;
    assert_eq!(ids, [Ok(message.id.clone())]);
    assert_eq!((&message.body, &message.attributes), (&sent.body, &sent.attributes));
    assert_eq!(
        (&message.group_id, &message.deduplication_id),
        (&sent.group_id, &sent.deduplication_id)
    );
    assert_eq!(message.trace_header, sent.trace_header);
    assert!(message.sent_at_ms.is_some());
    assert_eq!(delivery.receive_count, 1);

    assert_eq!(queue.delete(vec![delivery.receipt]).await.unwrap(), [Ok(())]);
    let now = queue.describe().await.unwrap();
    assert_eq!((now.visible, now.in_flight, now.delayed), (0, 0, 0));
}

#[tokio::test]
async fn inv12_a_queue_that_does_not_exist_is_named_with_where_it_was_looked_for() {
    let Some(lab) = Lab::open() else { return };
    let name = Lab::name("missing");
    for given in [
        name.clone(),
        format!("{}/000000000000/{name}", lab.endpoint),
        arn(&name),
    ] {
        let error = lab.connect(&given).await.unwrap_err();
        assert!(matches!(error, QueueError::NotFound { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&name) && text.contains(&lab.endpoint), "{text}");
    }
}

#[tokio::test]
async fn a_queue_that_goes_away_is_told_from_an_outage() {
    let Some(lab) = Lab::open() else { return };
    let (name, url) = lab.create("going", &[]).await;
    let queue = lab.connect(&name).await.unwrap();
    lab.client.delete_queue().queue_url(&url).send().await.unwrap();
    let gone = |error: QueueError| assert!(matches!(error, QueueError::NotFound { .. }), "{error:?}");
    gone(queue.receive(Receive::new(1, Duration::ZERO)).await.unwrap_err());
    gone(
        queue
            .send(vec![Outgoing::new("x"), Outgoing::new("y")])
            .await
            .unwrap_err(),
    );
    gone(queue.delete(vec![Receipt::new("x")]).await.unwrap_err());
    gone(queue.describe().await.unwrap_err());
}

#[tokio::test]
async fn inv12_a_dead_letter_queue_that_went_away_is_a_problem_that_says_so() {
    let Some(lab) = Lab::open() else { return };
    let (dead, dead_url) = lab.create("dead", &[]).await;
    let policy = redrive_policy(&arn(&dead), 3);
    let (name, _) = lab
        .create("source", &[(QueueAttributeName::RedrivePolicy, &policy)])
        .await;
    assert!(lab.connect(&name).await.unwrap().dead_letter_problem().is_none());
    lab.client.delete_queue().queue_url(dead_url).send().await.unwrap();
    let queue = lab.connect(&name).await.unwrap();
    assert!(queue.dead_letter_queue().is_none());
    let problem = queue.dead_letter_problem().unwrap();
    assert!(
        problem.contains(&dead) && problem.contains("does not exist"),
        "{problem}"
    );
}

#[tokio::test]
async fn inv11_one_bad_message_does_not_keep_the_others_from_being_sent() {
    let Some(lab) = Lab::open() else { return };
    let queue = lab.queue_of("bad", &[]).await;
    let messages = vec![
        Outgoing::new("first"),
        Outgoing::new(""),
        Outgoing::new("not a character of SQS: \u{1}"),
        Outgoing::new("x".repeat(1024 * 1024 + 1)),
        Outgoing::new("odd").attribute("a b", Attribute::string("x")),
        Outgoing::new("last"),
    ];
    let answers = queue.send(messages).await.unwrap();
    assert!(answers[0].is_ok() && answers[5].is_ok(), "{answers:?}");
    for (position, answer) in answers.iter().enumerate().take(5).skip(1) {
        let error = failure(answer);
        assert!(error.sender_fault, "{position}: {error}");
    }
    assert_eq!(queue.describe().await.unwrap().visible, 2);
}

#[tokio::test]
async fn more_than_ten_are_sent_and_deleted() {
    let Some(lab) = Lab::open() else { return };
    let queue = lab.queue_of("many", &[]).await;
    let messages: Vec<Outgoing> = (0..23).map(|n| Outgoing::new(format!("{n}"))).collect();
    let answers = queue.send(messages).await.unwrap();
    assert!(answers.len() == 23 && answers.iter().all(Result::is_ok), "{answers:?}");
    let mut receipts = Vec::new();
    while receipts.len() < 23 {
        let received = queue.receive(Receive::new(10, Duration::from_secs(5))).await.unwrap();
        assert!(!received.is_empty(), "{} came", receipts.len());
        receipts.extend(received.into_iter().map(|delivery| delivery.receipt));
    }
    let answers = queue.delete(receipts).await.unwrap();
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(queue.describe().await.unwrap().in_flight, 0);
}

#[tokio::test]
async fn a_stale_receipt_fails_alone_and_is_known_as_one() {
    let Some(lab) = Lab::open() else { return };
    let queue = lab.queue_of("stale", &[]).await;
    queue.send(vec![Outgoing::new("x")]).await.unwrap();
    let good = one(&queue).await.receipt;
    let answers = queue
        .change_visibility(vec![
            (Receipt::new("no receipt handle"), Duration::from_secs(60)),
            (good.clone(), Duration::from_secs(60)),
        ])
        .await
        .unwrap();
    assert!(failure(&answers[0]).is_stale_receipt(), "{answers:?}");
    assert_eq!(answers[1], Ok(()));
    let answers = queue
        .delete(vec![Receipt::new("no receipt handle"), good.clone()])
        .await
        .unwrap();
    assert!(failure(&answers[0]).is_stale_receipt(), "{answers:?}");
    assert_eq!(answers[1], Ok(()));
    let answers = queue
        .change_visibility(vec![(good, Duration::from_secs(60))])
        .await
        .unwrap();
    assert!(failure(&answers[0]).is_stale_receipt(), "{answers:?}");
}

#[tokio::test]
async fn inv12_a_dead_letter_queue_that_is_the_source_itself_is_found_out() {
    let Some(lab) = Lab::open() else { return };
    let name = Lab::name("own");
    // SQS refuses to make such a queue, LocalStack does not.
    lab.client
        .create_queue()
        .queue_name(&name)
        .attributes(QueueAttributeName::RedrivePolicy, redrive_policy(&arn(&name), 3))
        .send()
        .await
        .unwrap();
    let queue = lab.connect(&name).await.unwrap();
    assert!(queue.dead_letter_queue().is_none());
    let problem = queue.dead_letter_problem().unwrap();
    assert!(
        problem.contains("the queue itself") && problem.contains(&name),
        "{problem}"
    );
}
