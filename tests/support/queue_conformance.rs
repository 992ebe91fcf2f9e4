//! What every queue must do, whatever its engine.
//!
//! A test file for an engine implements [`QueueLab`], defines a macro that makes a test of each case name, and hands it to
//! [`for_each_case`]; `tests/embedded_queue.rs` shows how. Where an engine is known to differ, [`DEVIATIONS`] says so, and
//! the case asserts the difference, so that the table stays true. Times are a few seconds, to run on real time too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use redrive::clock::{Clock, Instant};
use redrive::message::{Attribute, Delivery, Outgoing, Receipt};
use redrive::queue::{EntryError, Queue, QueueError, Receive};

/// Calls a macro with the name of every case, separated by commas.
macro_rules! for_each_case {
    ($make:ident) => {
        $make! {
            attributes_are_those_the_queue_was_made_with,
            what_is_sent_is_received_with_all_its_parts,
            a_received_message_stays_invisible_then_comes_back_with_a_higher_count,
            a_receive_can_set_its_own_visibility,
            a_long_poll_ends_when_a_message_arrives,
            a_long_poll_ends_when_a_message_becomes_visible,
            an_empty_receive_lasts_as_long_as_it_was_told,
            a_receive_hands_out_no_more_than_asked_for,
            a_deleted_message_does_not_come_back,
            deleting_twice_is_no_error,
            a_stale_handle_deletes_nothing_and_is_no_error_on_a_standard_queue,
            a_handle_is_good_until_the_next_receive_on_a_standard_queue,
            an_expired_handle_is_an_error_on_a_fifo_queue,
            inv11_an_unknown_handle_fails_alone,
            a_heartbeat_extends_visibility,
            visibility_zero_gives_a_message_back_at_once,
            the_visibility_of_what_is_not_in_flight_cannot_be_changed,
            the_visibility_of_a_deleted_message_cannot_be_changed,
            a_delayed_message_stays_hidden,
            a_queue_can_delay_every_message,
            inv11_one_bad_message_leaves_the_others_in_its_batch,
            what_sqs_does_not_take_is_the_senders_fault,
            ten_attributes_are_the_most,
            a_message_has_a_mebibyte_at_most,
            a_batch_has_ten_entries_and_a_mebibyte_at_most,
            counts_follow_what_waits_and_what_is_in_flight,
            a_message_received_too_often_moves_to_the_dead_letter_queue,
            inv07_a_group_is_in_order_and_locked_while_in_flight,
            inv07_a_group_given_back_comes_again_in_order,
            inv07_a_group_stays_locked_until_the_last_of_it_is_back,
            a_delayed_head_holds_back_its_group_only,
            a_deduplication_id_is_swallowed_even_after_deletion,
            bodies_deduplicate_where_the_queue_says_so,
            deduplication_by_group_leaves_other_groups_alone,
            a_fifo_queue_needs_group_and_deduplication_id_and_takes_no_delay,
            a_fifo_head_received_too_often_moves_and_its_group_goes_on,
        }
    };
}
pub(crate) use for_each_case;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "a test file has one engine")]
pub(crate) enum Engine {
    /// [`redrive::queue::MemoryQueue`].
    Embedded,
    /// `SqsQueue` on LocalStack.
    LocalStack,
    /// `SqsQueue` on Amazon SQS.
    Sqs,
}

/// How an engine differs from what SQS documents, or a client from the bare API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deviation {
    /// A receipt handle deletes its message although the message was received again since.
    StaleHandleDeletes,
    /// A visibility change of a message that is visible again succeeds and does nothing.
    ChangeOfVisibleSucceeds,
    /// More than ten message attributes are taken.
    ElevenAttributesPass,
    /// An entry that is wrong by itself is not always marked as the sender's fault.
    SenderFaultUnset,
    /// Visibility 0 on a group's head opens the group although more of it is in flight.
    ReleasedHeadOpensGroup,
    /// Batches over the limits, and empty ones, are made into calls within the limits.
    BatchesAreCut,
}

/// Which engine differs how, and where that is known from.
pub(crate) const DEVIATIONS: &[(Engine, Deviation, &str)] = &[
    (
        Engine::LocalStack,
        Deviation::StaleHandleDeletes,
        "measured; it keeps every handle until the message is deleted",
    ),
    (
        Engine::LocalStack,
        Deviation::ChangeOfVisibleSucceeds,
        "4.14.0: a message that is not in flight is passed over",
    ),
    (
        Engine::LocalStack,
        Deviation::ElevenAttributesPass,
        "4.14.0: attributes are not counted",
    ),
    (
        Engine::LocalStack,
        Deviation::SenderFaultUnset,
        "4.14.0: InvalidMessageContents has it false",
    ),
    (
        Engine::LocalStack,
        Deviation::ReleasedHeadOpensGroup,
        "4.14.0: an older message that returns opens its group",
    ),
    (
        Engine::LocalStack,
        Deviation::BatchesAreCut,
        "SqsQueue cuts and joins batches itself",
    ),
    (
        Engine::Sqs,
        Deviation::BatchesAreCut,
        "SqsQueue cuts and joins batches itself",
    ),
];

/// Makes queues of one engine.
pub(crate) trait QueueLab: Send + Sync {
    /// Which engine it is.
    fn engine(&self) -> Engine;

    /// Makes a fresh queue under a name of its own, with a dead-letter queue where the spec has a receive count.
    fn queue(&self, spec: Spec) -> BoxFuture<'_, Arc<dyn Queue>>;
}

impl dyn QueueLab + '_ {
    fn deviates(&self, deviation: Deviation) -> bool {
        DEVIATIONS
            .iter()
            .any(|(engine, how, _)| *engine == self.engine() && *how == deviation)
    }

    /// How late the engine may bring a message back.
    fn late(&self) -> Duration {
        match self.engine() {
            Engine::Embedded => Duration::ZERO,
            Engine::LocalStack => ms(2_000),
            Engine::Sqs => ms(3_000),
        }
    }

    /// How early: SQS counts in whole seconds.
    fn early(&self) -> Duration {
        match self.engine() {
            Engine::Embedded => Duration::ZERO,
            Engine::LocalStack => ms(100),
            Engine::Sqs => ms(1_000),
        }
    }
}

/// What queue a case wants. What is not said is the engine's default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    pub(crate) fifo: bool,
    pub(crate) visibility: Option<Duration>,
    pub(crate) delay: Option<Duration>,
    pub(crate) max_message_bytes: Option<usize>,
    pub(crate) max_receive_count: Option<u32>,
    pub(crate) content_based_deduplication: bool,
    pub(crate) deduplication_by_group: bool,
}

impl Spec {
    fn standard() -> Self {
        Self::default()
    }

    fn fifo() -> Self {
        Self {
            fifo: true,
            ..Self::default()
        }
    }

    fn visibility(mut self, seconds: u64) -> Self {
        self.visibility = Some(secs(seconds));
        self
    }

    fn dead_letter_after(mut self, receives: u32) -> Self {
        self.max_receive_count = Some(receives);
        self
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn now() -> Instant {
    Clock::system().now()
}

async fn send_one(queue: &dyn Queue, message: Outgoing) -> String {
    let mut answers = queue.send(vec![message]).await.unwrap();
    assert_eq!(answers.len(), 1);
    answers.remove(0).unwrap()
}

async fn send_bodies<const N: usize>(queue: &dyn Queue, bodies: [&str; N]) -> Vec<String> {
    let answers = queue.send(bodies.map(Outgoing::new).into()).await.unwrap();
    answers.into_iter().map(Result::unwrap).collect()
}

/// A message for a FIFO queue, deduplicated by group and body.
fn grouped(group: &str, body: &str) -> Outgoing {
    Outgoing::new(body)
        .group(group)
        .deduplication_id(format!("{group}.{body}"))
}

async fn receive(queue: &dyn Queue, max: usize, wait: Duration) -> Vec<Delivery> {
    queue.receive(Receive::new(max, wait)).await.unwrap()
}

/// Receives until it has as many as are expected.
async fn receive_all(queue: &dyn Queue, expected: usize) -> Vec<Delivery> {
    let deadline = now() + secs(20);
    let mut all = Vec::new();
    while all.len() < expected {
        assert!(
            now() < deadline,
            "{} of {expected} messages came in 20 s: {:?}",
            all.len(),
            bodies(&all)
        );
        all.extend(receive(queue, (expected - all.len()).min(10), secs(5)).await);
    }
    all
}

async fn receive_one(queue: &dyn Queue) -> Delivery {
    receive_all(queue, 1).await.remove(0)
}

async fn assert_nothing_comes(queue: &dyn Queue, wait: Duration, why: &str) {
    let received = receive(queue, 10, wait).await;
    assert!(received.is_empty(), "{why}: {:?}", bodies(&received));
}

async fn delete(queue: &dyn Queue, deliveries: &[&Delivery]) -> Vec<Result<(), EntryError>> {
    let receipts: Vec<Receipt> = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
    let answers = queue.delete(receipts).await.unwrap();
    assert_eq!(answers.len(), deliveries.len(), "every entry has its answer");
    answers
}

async fn delete_surely(queue: &dyn Queue, deliveries: &[&Delivery]) {
    for answer in delete(queue, deliveries).await {
        answer.unwrap();
    }
}

async fn change(queue: &dyn Queue, delivery: &Delivery, timeout: Duration) -> Result<(), EntryError> {
    queue
        .change_visibility(vec![(delivery.receipt.clone(), timeout)])
        .await
        .unwrap()
        .remove(0)
}

/// Waits until a condition holds, at most 10 s.
async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = now() + secs(10);
    while !condition().await {
        assert!(now() < deadline, "after 10 s it is still not so that {what}");
        tokio::time::sleep(ms(100)).await;
    }
}

fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries
        .iter()
        .map(|delivery| delivery.message.body.as_str())
        .collect()
}

fn sorted(deliveries: &[Delivery]) -> Vec<&str> {
    let mut bodies = bodies(deliveries);
    bodies.sort_unstable();
    bodies
}

fn of_group<'a>(deliveries: &'a [Delivery], group: &str) -> Vec<&'a str> {
    let of_group = deliveries
        .iter()
        .filter(|delivery| delivery.message.group_id.as_deref() == Some(group));
    of_group.map(|delivery| delivery.message.body.as_str()).collect()
}

/// The one entry's error, whether the service refused the entry or the call that it was alone in.
fn refusal(answer: Result<Vec<Result<String, EntryError>>, QueueError>) -> Option<EntryError> {
    match answer {
        Ok(mut answers) => answers.remove(0).err(),
        Err(QueueError::Refused { code, detail, .. }) => Some(EntryError::new(code, detail, true)),
        Err(other) => panic!("neither taken nor refused: {other}"),
    }
}

pub(crate) async fn attributes_are_those_the_queue_was_made_with(lab: &dyn QueueLab) {
    let spec = Spec {
        content_based_deduplication: true,
        max_message_bytes: Some(2_048),
        ..Spec::fifo().visibility(7).dead_letter_after(3)
    };
    let queue = lab.queue(spec).await;
    let attributes = queue.attributes();
    assert!(attributes.fifo && attributes.name.ends_with(".fifo"));
    assert!(attributes.content_based_deduplication && !attributes.deduplication_by_group);
    assert_eq!(
        (attributes.visibility_timeout, attributes.max_message_bytes),
        (secs(7), 2_048)
    );
    assert_eq!(attributes.retention, secs(4 * 24 * 60 * 60));
    let dead = queue.dead_letter_queue().expect("it has a dead-letter queue");
    let policy = attributes.redrive.as_ref().expect("it has a redrive policy");
    assert_eq!(
        (policy.dead_letter_arn.as_str(), policy.max_receive_count),
        (dead.attributes().arn.as_str(), 3)
    );
    let plain = lab.queue(Spec::standard()).await;
    assert!(!plain.attributes().fifo && plain.attributes().redrive.is_none());
    assert!(plain.dead_letter_queue().is_none());
    assert_eq!(plain.attributes().visibility_timeout, secs(30));
}

pub(crate) async fn what_is_sent_is_received_with_all_its_parts(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let mut sent = Outgoing::new("{\"name\":\"Grüße 🦀\",\"lines\":\"a\\nb\"}\n\t<&>")
        .attribute("type", Attribute::string("order.created"))
        .attribute("count", Attribute::number(7))
        .attribute("raw", Attribute::binary(vec![0, 159, 255]));
    sent.trace_header = Some("Root=1-5759e988-bd862e3fe1be46a994272793".to_owned());
    let asked = now();
    let id = send_one(&*queue, sent.clone()).await;
    let delivery = receive_one(&*queue).await;
    let message = &delivery.message;
    assert_eq!(
        (&message.id, &message.body, &message.attributes),
        (&id, &sent.body, &sent.attributes)
    );
    assert_eq!(message.trace_header, sent.trace_header);
    assert!(message.sent_at_ms.is_some());
    assert_eq!(delivery.receive_count, 1);
    assert!(delivery.received_at >= asked && delivery.received_at <= now());

    let fifo = lab.queue(Spec::fifo()).await;
    send_one(&*fifo, grouped("g", "a")).await;
    let message = receive_one(&*fifo).await.message;
    assert_eq!(
        (message.group_id.as_deref(), message.deduplication_id.as_deref()),
        (Some("g"), Some("g.a"))
    );
}

pub(crate) async fn a_received_message_stays_invisible_then_comes_back_with_a_higher_count(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(2)).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let asked = now();
    let first = receive_one(&*queue).await;
    let answered = now();
    let second = receive_one(&*queue).await;
    assert!(
        now() - asked >= secs(2) - lab.early(),
        "{:?} is too soon",
        now() - asked
    );
    assert!(
        now() - answered <= secs(2) + lab.late(),
        "{:?} is too late",
        now() - answered
    );
    assert_eq!((first.receive_count, second.receive_count), (1, 2));
    assert_eq!(first.message.id, second.message.id);
    assert_ne!(first.receipt, second.receipt);
}

pub(crate) async fn a_receive_can_set_its_own_visibility(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let mut request = Receive::new(1, secs(5));
    request.visibility = Some(secs(1));
    assert_eq!(queue.receive(request).await.unwrap().len(), 1);
    let answered = now();
    receive_one(&*queue).await;
    assert!(now() - answered <= secs(1) + lab.late());
}

pub(crate) async fn a_long_poll_ends_when_a_message_arrives(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let started = now();
    let sender = async {
        tokio::time::sleep(secs(1)).await;
        send_one(&*queue, Outgoing::new("a")).await;
    };
    let ((), received) = tokio::join!(sender, receive(&*queue, 10, secs(20)));
    assert_eq!(bodies(&received), ["a"]);
    assert!(
        now() - started <= secs(2) + lab.late(),
        "{:?} is too late",
        now() - started
    );
}

pub(crate) async fn a_long_poll_ends_when_a_message_becomes_visible(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(2)).await;
    send_one(&*queue, Outgoing::new("a")).await;
    receive_one(&*queue).await;
    let started = now();
    assert_eq!(receive(&*queue, 10, secs(20)).await.len(), 1);
    assert!(
        now() - started <= secs(2) + lab.late(),
        "{:?} is too late",
        now() - started
    );
}

pub(crate) async fn an_empty_receive_lasts_as_long_as_it_was_told(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let started = now();
    assert!(receive(&*queue, 10, Duration::ZERO).await.is_empty());
    assert!(now() - started < secs(1));
    let started = now();
    assert!(receive(&*queue, 10, secs(2)).await.is_empty());
    assert!(
        now() - started >= secs(2) - lab.early(),
        "{:?} is too short",
        now() - started
    );
    assert!(
        now() - started <= secs(2) + lab.late(),
        "{:?} is too long",
        now() - started
    );
}

pub(crate) async fn a_receive_hands_out_no_more_than_asked_for(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let mut ids = send_bodies(&*queue, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]).await;
    let mut seen = Vec::new();
    let deadline = now() + secs(20);
    while seen.len() < 10 {
        assert!(now() < deadline, "only {} of 10 came", seen.len());
        let received = receive(&*queue, 3, secs(2)).await;
        assert!(received.len() <= 3);
        seen.extend(received.into_iter().map(|delivery| delivery.message.id));
    }
    ids.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, ids, "each once");
    assert_nothing_comes(&*queue, Duration::ZERO, "all are in flight").await;
}

pub(crate) async fn a_deleted_message_does_not_come_back(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(1)).await;
    send_bodies(&*queue, ["a", "b"]).await;
    let received = receive_all(&*queue, 2).await;
    delete_surely(&*queue, &received.iter().collect::<Vec<_>>()).await;
    assert_nothing_comes(&*queue, secs(1) + lab.late().max(secs(1)), "both are deleted").await;
}

pub(crate) async fn deleting_twice_is_no_error(lab: &dyn QueueLab) {
    for spec in [Spec::standard(), Spec::fifo()] {
        let queue = lab.queue(spec.clone()).await;
        let message = if spec.fifo {
            grouped("g", "a")
        } else {
            Outgoing::new("a")
        };
        send_one(&*queue, message).await;
        let delivery = receive_one(&*queue).await;
        delete_surely(&*queue, &[&delivery, &delivery]).await;
        delete_surely(&*queue, &[&delivery]).await;
    }
}

pub(crate) async fn a_stale_handle_deletes_nothing_and_is_no_error_on_a_standard_queue(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(1)).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let stale = receive_one(&*queue).await;
    let mut request = Receive::new(1, secs(10));
    request.visibility = Some(secs(3));
    let fresh = queue.receive(request).await.unwrap().remove(0);
    delete_surely(&*queue, &[&stale]).await;
    if lab.deviates(Deviation::StaleHandleDeletes) {
        assert_nothing_comes(&*queue, secs(3) + lab.late(), "the stale handle deleted it").await;
    } else {
        let again = receive_one(&*queue).await;
        assert_eq!((again.message.id, again.receive_count), (fresh.message.id, 3));
    }
}

pub(crate) async fn a_handle_is_good_until_the_next_receive_on_a_standard_queue(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(1)).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let delivery = receive_one(&*queue).await;
    eventually("the message is visible again", async || {
        queue.describe().await.unwrap().visible == 1
    })
    .await;
    delete_surely(&*queue, &[&delivery]).await;
    assert_nothing_comes(&*queue, secs(2), "it was deleted while it was visible").await;
}

pub(crate) async fn an_expired_handle_is_an_error_on_a_fifo_queue(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo().visibility(1)).await;
    send_one(&*queue, grouped("g", "a")).await;
    let expired = receive_one(&*queue).await;
    eventually("the message is visible again", async || {
        queue.describe().await.unwrap().visible == 1
    })
    .await;
    let error = delete(&*queue, &[&expired]).await.remove(0).unwrap_err();
    assert!(error.is_stale_receipt(), "{error}");
    let again = receive_one(&*queue).await;
    assert_eq!(again.receive_count, 2, "it is still there");
}

pub(crate) async fn inv11_an_unknown_handle_fails_alone(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(2)).await;
    send_bodies(&*queue, ["a", "b"]).await;
    let mut received = receive_all(&*queue, 2).await;
    received[1].receipt = Receipt::new("no-such-handle");
    let good = received.remove(0);
    let bad = received.remove(0);
    let answers = delete(&*queue, &[&bad, &good]).await;
    assert!(answers[1].is_ok());
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!(error.code.rsplit('.').next(), Some("ReceiptHandleIsInvalid"));
    assert!(error.is_stale_receipt());
    assert!(change(&*queue, &bad, secs(5)).await.unwrap_err().is_stale_receipt());
    assert_eq!(
        receive_one(&*queue).await.message.body,
        bad.message.body,
        "only that one is left"
    );
}

pub(crate) async fn a_heartbeat_extends_visibility(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(2)).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let delivery = receive_one(&*queue).await;
    tokio::time::sleep(secs(1)).await;
    let asked = now();
    // Half a second counts as a whole one.
    change(&*queue, &delivery, ms(3_500)).await.unwrap();
    let answered = now();
    let again = receive_one(&*queue).await;
    assert!(
        now() - asked >= secs(4) - lab.early(),
        "{:?} is too soon",
        now() - asked
    );
    assert!(
        now() - answered <= secs(4) + lab.late(),
        "{:?} is too late",
        now() - answered
    );
    delete_surely(&*queue, &[&again]).await;
}

pub(crate) async fn visibility_zero_gives_a_message_back_at_once(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let delivery = receive_one(&*queue).await;
    let started = now();
    change(&*queue, &delivery, Duration::ZERO).await.unwrap();
    assert_eq!(receive_one(&*queue).await.receive_count, 2);
    assert!(now() - started <= secs(1) + lab.late());
}

pub(crate) async fn the_visibility_of_what_is_not_in_flight_cannot_be_changed(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let delivery = receive_one(&*queue).await;
    change(&*queue, &delivery, Duration::ZERO).await.unwrap();
    let changed = change(&*queue, &delivery, secs(30)).await;
    if lab.deviates(Deviation::ChangeOfVisibleSucceeds) {
        changed.unwrap();
    } else {
        let error = changed.unwrap_err();
        assert!(error.is_stale_receipt(), "{error}");
    }
    assert_eq!(receive_one(&*queue).await.receive_count, 2, "it stayed visible");
}

pub(crate) async fn the_visibility_of_a_deleted_message_cannot_be_changed(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let delivery = receive_one(&*queue).await;
    delete_surely(&*queue, &[&delivery]).await;
    let error = change(&*queue, &delivery, Duration::ZERO).await.unwrap_err();
    assert!(error.is_stale_receipt(), "{error}");
    assert_nothing_comes(&*queue, secs(1), "it is deleted").await;
}

pub(crate) async fn a_delayed_message_stays_hidden(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let asked = now();
    send_one(&*queue, Outgoing::new("late").delay(secs(3))).await;
    let answered = now();
    send_one(&*queue, Outgoing::new("soon")).await;
    let first = receive_one(&*queue).await;
    assert_eq!(first.message.body, "soon");
    let second = receive_one(&*queue).await;
    assert_eq!((second.message.body.as_str(), second.receive_count), ("late", 1));
    assert!(now() - asked >= secs(3) - lab.early());
    assert!(now() - answered <= secs(3) + lab.late());
}

pub(crate) async fn a_queue_can_delay_every_message(lab: &dyn QueueLab) {
    for spec in [Spec::standard(), Spec::fifo()] {
        let fifo = spec.fifo;
        let queue = lab
            .queue(Spec {
                delay: Some(secs(2)),
                ..spec
            })
            .await;
        let asked = now();
        send_one(&*queue, if fifo { grouped("g", "a") } else { Outgoing::new("a") }).await;
        receive_one(&*queue).await;
        assert!(now() - asked >= secs(2) - lab.early());
    }
}

pub(crate) async fn inv11_one_bad_message_leaves_the_others_in_its_batch(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let batch = ["a", "bad \u{1} char", "b"].map(Outgoing::new);
    let answers = queue.send(batch.into()).await.unwrap();
    assert_eq!(answers.len(), 3);
    let error = answers[1].as_ref().unwrap_err();
    assert_eq!(error.code.rsplit('.').next(), Some("InvalidMessageContents"));
    assert!(error.sender_fault || lab.deviates(Deviation::SenderFaultUnset));
    let received = receive_all(&*queue, 2).await;
    assert_eq!(sorted(&received), ["a", "b"]);
    for delivery in &received {
        let position = if delivery.message.body == "a" { 0 } else { 2 };
        assert_eq!(
            answers[position].as_ref().unwrap(),
            &delivery.message.id,
            "answers are by position"
        );
    }
}

pub(crate) async fn what_sqs_does_not_take_is_the_senders_fault(lab: &dyn QueueLab) {
    let queue = lab
        .queue(Spec {
            max_message_bytes: Some(1_024),
            ..Spec::standard()
        })
        .await;
    let with = |name: &str, attribute| Outgoing::new("a").attribute(name, attribute);
    let mut odd_type = Attribute::string("x");
    odd_type.data_type = "Text".to_owned();
    let cases = [
        ("an empty body", Outgoing::new("")),
        ("a NUL", Outgoing::new("\u{0}")),
        ("no character at all", Outgoing::new("\u{FFFF}")),
        ("more bytes than the queue takes", Outgoing::new("x".repeat(1_025))),
        (
            "more bytes with attributes",
            Outgoing::new("x".repeat(1_000)).attribute("a", Attribute::string("x".repeat(24))),
        ),
        ("a reserved attribute name", with("AWS.x", Attribute::string("x"))),
        ("an attribute name with a space", with("a b", Attribute::string("x"))),
        ("an empty attribute", with("a", Attribute::string(""))),
        ("an unknown data type", with("a", odd_type)),
        (
            "a deduplication id on a standard queue",
            Outgoing::new("a").deduplication_id("d"),
        ),
        (
            "a group id of 129 characters",
            Outgoing::new("a").group("g".repeat(129)),
        ),
    ];
    for (what, message) in cases {
        let error = refusal(queue.send(vec![message]).await).unwrap_or_else(|| panic!("{what} was taken"));
        assert!(
            error.sender_fault || lab.deviates(Deviation::SenderFaultUnset),
            "{what}: {error}"
        );
    }
    assert_nothing_comes(&*queue, secs(1), "all were refused").await;
    send_one(&*queue, Outgoing::new("x".repeat(1_024))).await;
}

pub(crate) async fn ten_attributes_are_the_most(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let with = |count: usize| {
        (0..count).fold(Outgoing::new(count.to_string()), |message, n| {
            message.attribute(format!("a{n}"), Attribute::string("x"))
        })
    };
    send_one(&*queue, with(10)).await;
    let eleven = refusal(queue.send(vec![with(11)]).await);
    assert_eq!(eleven.is_none(), lab.deviates(Deviation::ElevenAttributesPass));
    assert!(eleven.is_none_or(|error| error.sender_fault));
    let received = receive_all(&*queue, 1).await;
    assert!(received.iter().any(|delivery| delivery.message.attributes.len() >= 10));
}

pub(crate) async fn a_message_has_a_mebibyte_at_most(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let body = "x".repeat(1_024 * 1_024);
    send_one(&*queue, Outgoing::new(body.clone())).await;
    assert_eq!(receive_one(&*queue).await.message.body.len(), body.len());
    let one_more = Outgoing::new(body).attribute("a", Attribute::string("x"));
    assert!(refusal(queue.send(vec![one_more]).await).is_some());
    assert_nothing_comes(&*queue, secs(1), "it was too large").await;
}

pub(crate) async fn a_batch_has_ten_entries_and_a_mebibyte_at_most(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let eleven: Vec<Outgoing> = (0..11).map(|n| Outgoing::new(n.to_string())).collect();
    let large = vec![Outgoing::new("x".repeat(700_000)), Outgoing::new("y".repeat(700_000))];
    if lab.deviates(Deviation::BatchesAreCut) {
        for batch in [eleven, large] {
            let expected = batch.len();
            assert!(queue.send(batch).await.unwrap().iter().all(Result::is_ok));
            let received = receive_all(&*queue, expected).await;
            delete_surely(&*queue, &received.iter().collect::<Vec<_>>()).await;
        }
        assert_eq!(queue.delete(Vec::new()).await.unwrap(), []);
        return;
    }
    let code = |error| match error {
        QueueError::Refused { code, .. } => code,
        other => panic!("not refused: {other}"),
    };
    let receipts = vec![Receipt::new("r"); 11];
    let changes: Vec<_> = receipts.iter().map(|receipt| (receipt.clone(), secs(1))).collect();
    assert_eq!(
        code(queue.send(eleven).await.unwrap_err()),
        "TooManyEntriesInBatchRequest"
    );
    assert_eq!(
        code(queue.delete(receipts).await.unwrap_err()),
        "TooManyEntriesInBatchRequest"
    );
    assert_eq!(
        code(queue.change_visibility(changes).await.unwrap_err()),
        "TooManyEntriesInBatchRequest"
    );
    assert_eq!(code(queue.send(Vec::new()).await.unwrap_err()), "EmptyBatchRequest");
    assert_eq!(code(queue.delete(Vec::new()).await.unwrap_err()), "EmptyBatchRequest");
    assert_eq!(
        code(queue.change_visibility(Vec::new()).await.unwrap_err()),
        "EmptyBatchRequest"
    );
    assert_eq!(code(queue.send(large).await.unwrap_err()), "BatchRequestTooLong");
    assert_nothing_comes(&*queue, secs(1), "all were refused").await;
}

pub(crate) async fn counts_follow_what_waits_and_what_is_in_flight(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let counts = async || {
        let attributes = queue.describe().await.unwrap();
        (attributes.visible, attributes.in_flight, attributes.delayed)
    };
    send_bodies(&*queue, ["a", "b", "c"]).await;
    send_one(&*queue, Outgoing::new("d").delay(secs(60))).await;
    eventually("three are visible and one is delayed", async || {
        counts().await == (3, 0, 1)
    })
    .await;
    let received = receive_all(&*queue, 2).await;
    eventually("two are in flight", async || counts().await == (1, 2, 1)).await;
    delete_surely(&*queue, &[&received[0]]).await;
    change(&*queue, &received[1], Duration::ZERO).await.unwrap();
    eventually("one is deleted and one is back", async || counts().await == (2, 0, 1)).await;
}

pub(crate) async fn a_message_received_too_often_moves_to_the_dead_letter_queue(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().dead_letter_after(2)).await;
    let dead = queue.dead_letter_queue().unwrap();
    send_one(
        &*queue,
        Outgoing::new("poison").attribute("type", Attribute::string("t")),
    )
    .await;
    for count in 1..=2 {
        let delivery = receive_one(&*queue).await;
        assert_eq!(delivery.receive_count, count);
        change(&*queue, &delivery, Duration::ZERO).await.unwrap();
    }
    assert_nothing_comes(&*queue, secs(1), "the third receive moves it").await;
    let moved = receive_one(&*dead).await;
    assert_eq!(
        (moved.message.body.as_str(), moved.message.attribute("type")),
        ("poison", Some("t"))
    );
    eventually("the source is empty", async || {
        let attributes = queue.describe().await.unwrap();
        attributes.visible + attributes.in_flight == 0
    })
    .await;
}

pub(crate) async fn inv07_a_group_is_in_order_and_locked_while_in_flight(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    for (group, body) in [("a", "1"), ("a", "2"), ("b", "1"), ("a", "3"), ("b", "2"), ("a", "4")] {
        send_one(&*queue, grouped(group, body)).await;
    }
    let mut seen: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut several = false;
    let deadline = now() + secs(30);
    while seen.values().map(Vec::len).sum::<usize>() < 6 {
        assert!(now() < deadline, "only {seen:?} came");
        let first = receive(&*queue, 2, secs(5)).await;
        let second = receive(&*queue, 2, Duration::ZERO).await;
        for group in ["a", "b"] {
            let (one, other) = (of_group(&first, group), of_group(&second, group));
            assert!(
                one.is_empty() || other.is_empty(),
                "{group} was handed out while it was in flight"
            );
            several |= one.len() > 1 || other.len() > 1;
            seen.entry(group)
                .or_default()
                .extend(one.iter().chain(&other).map(ToString::to_string));
        }
        let all: Vec<&Delivery> = first.iter().chain(&second).collect();
        if !all.is_empty() {
            delete_surely(&*queue, &all).await;
        }
    }
    assert_eq!(
        (seen["a"].concat(), seen["b"].concat()),
        ("1234".to_owned(), "12".to_owned())
    );
    assert!(several, "one receive can bring several of a group");
}

pub(crate) async fn inv07_a_group_given_back_comes_again_in_order(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    for body in ["1", "2", "3"] {
        send_one(&*queue, grouped("g", body)).await;
    }
    let received = receive(&*queue, 10, secs(5)).await;
    assert_eq!(bodies(&received), ["1", "2", "3"]);
    let changes = received
        .iter()
        .map(|delivery| (delivery.receipt.clone(), Duration::ZERO))
        .collect();
    assert!(
        queue
            .change_visibility(changes)
            .await
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
    let again = receive(&*queue, 10, secs(5)).await;
    assert_eq!(bodies(&again), ["1", "2", "3"]);
    assert!(again.iter().all(|delivery| delivery.receive_count == 2));
}

pub(crate) async fn inv07_a_group_stays_locked_until_the_last_of_it_is_back(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    for body in ["1", "2"] {
        send_one(&*queue, grouped("g", body)).await;
    }
    let received = receive(&*queue, 10, secs(5)).await;
    assert_eq!(bodies(&received), ["1", "2"]);
    change(&*queue, &received[0], Duration::ZERO).await.unwrap();
    let meanwhile = receive(&*queue, 10, secs(1)).await;
    if lab.deviates(Deviation::ReleasedHeadOpensGroup) {
        assert_eq!(bodies(&meanwhile), ["1"]);
        return;
    }
    assert!(meanwhile.is_empty(), "the second is still in flight");
    change(&*queue, &received[1], Duration::ZERO).await.unwrap();
    assert_eq!(bodies(&receive(&*queue, 10, secs(5)).await), ["1", "2"]);
}

pub(crate) async fn a_delayed_head_holds_back_its_group_only(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    send_one(&*queue, grouped("a", "1")).await;
    let head = receive_one(&*queue).await;
    send_one(&*queue, grouped("a", "2")).await;
    send_one(&*queue, grouped("b", "1")).await;
    let asked = now();
    change(&*queue, &head, secs(3)).await.unwrap();
    let other = receive_one(&*queue).await;
    assert_eq!(other.message.group_id.as_deref(), Some("b"));
    delete_surely(&*queue, &[&other]).await;
    let again = receive_all(&*queue, 2).await;
    assert!(
        now() - asked >= secs(3) - lab.early(),
        "{:?} is too soon",
        now() - asked
    );
    assert_eq!(of_group(&again, "a"), ["1", "2"]);
}

pub(crate) async fn a_deduplication_id_is_swallowed_even_after_deletion(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    let original = send_one(&*queue, Outgoing::new("first").group("g").deduplication_id("d")).await;
    let repeat = || Outgoing::new("repeat").group("h").deduplication_id("d");
    assert_eq!(send_one(&*queue, repeat()).await, original);
    let delivery = receive_one(&*queue).await;
    assert_eq!(delivery.message.body, "first");
    delete_surely(&*queue, &[&delivery]).await;
    assert_eq!(
        send_one(&*queue, repeat()).await,
        original,
        "it answers with the deleted message's id"
    );
    assert_nothing_comes(&*queue, secs(2), "both repeats were swallowed").await;
}

pub(crate) async fn bodies_deduplicate_where_the_queue_says_so(lab: &dyn QueueLab) {
    let queue = lab
        .queue(Spec {
            content_based_deduplication: true,
            ..Spec::fifo()
        })
        .await;
    let message = |body: &str| Outgoing::new(body).group("g");
    let original = send_one(&*queue, message("a")).await;
    assert_eq!(
        send_one(&*queue, message("a").attribute("n", Attribute::number(1))).await,
        original
    );
    send_one(&*queue, message("b")).await;
    send_one(
        &*queue,
        message("a").deduplication_id("an id of its own".replace(' ', "-")),
    )
    .await;
    assert_eq!(bodies(&receive(&*queue, 10, secs(5)).await), ["a", "b", "a"]);
}

pub(crate) async fn deduplication_by_group_leaves_other_groups_alone(lab: &dyn QueueLab) {
    let queue = lab
        .queue(Spec {
            deduplication_by_group: true,
            ..Spec::fifo()
        })
        .await;
    assert!(queue.attributes().deduplication_by_group);
    let message = |group: &str| Outgoing::new("x").group(group).deduplication_id("d");
    let original = send_one(&*queue, message("a")).await;
    assert_eq!(send_one(&*queue, message("a")).await, original);
    assert_ne!(send_one(&*queue, message("b")).await, original);
    let received = receive_all(&*queue, 2).await;
    assert_eq!((of_group(&received, "a").len(), of_group(&received, "b").len()), (1, 1));
}

pub(crate) async fn a_fifo_queue_needs_group_and_deduplication_id_and_takes_no_delay(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    let batch = vec![
        grouped("g", "good"),
        Outgoing::new("no group").deduplication_id("1"),
        Outgoing::new("no deduplication id").group("g"),
        grouped("g", "delayed").delay(secs(1)),
        grouped("a group", "bad-group"),
    ];
    let answers = queue.send(batch).await.unwrap();
    assert!(answers[0].is_ok());
    for answer in &answers[1..] {
        assert!(answer.as_ref().unwrap_err().sender_fault);
    }
    assert_eq!(receive_one(&*queue).await.message.body, "good");
    assert_nothing_comes(&*queue, secs(1), "the others were refused").await;
}

pub(crate) async fn a_fifo_head_received_too_often_moves_and_its_group_goes_on(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo().dead_letter_after(1)).await;
    let dead = queue.dead_letter_queue().unwrap();
    for body in ["poison", "next"] {
        send_one(&*queue, grouped("g", body)).await;
    }
    let head = receive(&*queue, 1, secs(5)).await.remove(0);
    assert_eq!(head.message.body, "poison");
    change(&*queue, &head, Duration::ZERO).await.unwrap();
    assert_eq!(receive_one(&*queue).await.message.body, "next");
    let moved = receive_one(&*dead).await.message;
    assert_eq!((moved.body.as_str(), moved.group_id.as_deref()), ("poison", Some("g")));
}
